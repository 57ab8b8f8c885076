"""Do particles differ at all? A test of one structure, on images that the components were not made of."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.stats import norm

from cryonb.manifold.gram import POSE_STEP, turned_matrices
from cryonb.manifold.observations import Observations, concatenated, observe
from cryonb.manifold.principal import principal_volumes
from cryonb.manifold.volume_sets import PADDING
from cryonb.parallel import with_one_blas_thread
from cryonb.projection.slices import FourierVolume, sample_slices

__all__ = ["Heterogeneity", "heterogeneity_test"]

N_COMPONENTS, N_ITERATIONS = 3, 4  # by power and time on four ratchets of 1,000 particles, seeds 0 to 3, SNR 0.15–0.2
SMALLEST = 1e-16  # p that is given; no sum is normal so far out
MOST = 10_000  # particles that are asked; more only cost time
N_SECTORS = 8  # 4, 8 and 12 were tried on 28 nulls, seeds 100 to 115: none was biased, 4 had less power
CONTRAST, TURN, SHIFT = 0.5, 5.0, 10.0  # standard deviations that one structure may have; degrees, Å


@dataclass(frozen=True, eq=False)
class Heterogeneity:
    """Result of `heterogeneity_test`.

    Parameters
    ----------
    p_value : float
        Chance of as large a surplus with one structure; at least 1e-16.
    surplus : float
        How well the components fit images that they were not made of, in standard deviations of chance.
    halves : tuple of two float
        The same for either half, judged by the components of the other.
    """

    p_value: float
    surplus: float
    halves: tuple

    def __repr__(self):
        return f"Heterogeneity(p = {self.p_value:.2g}, {self.surplus:.1f} standard deviations)"


@with_one_blas_thread
def heterogeneity_test(particles, *, rng, n_components=N_COMPONENTS, resolution=None, mask=None, workers=1):
    """Whether one structure explains the particles; contrast, small errors of the poses and noise apart.

    Principal volumes are made of either half of the particles. In the other half, what the mean leaves over of each
    image is compared with the components' projections, in eight sectors of Fourier space by themselves. Where a
    component is really there, the sectors of an image agree on how much of it there is.

    Parameters
    ----------
    particles : Particles or Observations
        With poses and CTF.
    rng : seed or Generator
        Halves, of 10,000 particles at most.
    n_components : int
        Principal volumes of either half. More find weak motions less often: each brings its own noise.
    resolution : float, optional
        Å; default a twentieth of the box. Not read with `Observations`, which have theirs.
    mask : Volume, optional
        Where density may vary; a soft sphere by default.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    Heterogeneity

    Raises
    ------
    ValueError
        What `observe` and `principal_volumes` refuse.

    Notes
    -----
    b_ikp is the whitened overlap, in sector p, of residual i with component k's projection, less what a change of
    contrast, of the view and of the shift can make of the mean's (to first order). T = Σ_i Σ_k λ_k Σ_{p≠q} b_ikp b_ikq
    leaves out the squares, so that the level of the noise, its spectrum and uneven noise do not matter: if there is one
    structure, the sign of each sector's noise may be turned at random. Over such turns T has mean zero and variance
    2 Σ_i Σ_{p≠q} (Σ_k λ_k b_ikp b_ikq)², and as a sum over many particles it is normal. The mean is that of both
    halves: the error of one half's is in its components too, and with uneven contrast would be found in both.

    It asks whether *something* differs: a conformation, but also junk, aberrations, poses that are far off. Not
    significant does not mean rigid, but too few particles or too much noise to tell.
    """
    observations = particles
    if not isinstance(particles, Observations):
        resolution = particles.box_size / 20 if resolution is None else resolution
        observations = observe(particles, resolution=resolution, workers=workers)
    rng = np.random.default_rng(rng)
    order = rng.permutation(len(observations))[:MOST]
    halves, surplus = (np.sort(order[::2]), np.sort(order[1::2])), []
    found = [
        principal_volumes(
            observations[half], rng=rng, n_components=min(n_components, len(half) - 1), mask=mask,
            n_iterations=N_ITERATIONS, workers=workers, progress=False,
        )
        for half in halves
    ]  # fmt: skip
    mean = (found[0].volumes.data[0] + found[1].volumes.data[0]) / 2
    for principal, judged in zip(found, halves[::-1]):
        fit = _Fit.of(principal, mean)
        some = replace(observations[judged], noise=principal.noise)
        (overlaps,) = concatenated(partial(_sector_overlaps, some, fit), len(some), workers=workers)
        surplus.append(_agreement(overlaps, principal.eigenvalues))
    total = sum(surplus) / np.sqrt(2)
    return Heterogeneity(max(float(norm.sf(total)), SMALLEST), float(total), tuple(surplus))


@dataclass
class _Fit:
    """Mean and components, ready to be sliced."""

    volumes: list  # of FourierVolume

    @classmethod
    def of(cls, principal, mean):
        volumes = principal.volumes
        size_px, pixel_size = volumes.size_px, volumes.pixel_size
        parts = replace(volumes, data=np.concatenate([mean[None], volumes.data[1:]])).transforms()
        parts = parts.transpose(4, 3, 0, 1, 2)
        complete = (np.ascontiguousarray(real + 1j * imaginary, dtype=np.complex64) for real, imaginary in parts)
        return cls([FourierVolume(data, size_px, PADDING, pixel_size) for data in complete])

    def slices(self, observations):
        """Whitened slices (n, …, m): of the mean (1), its derivatives by the pose (5), and the components."""
        matrices, points = observations.matrices, observations.points
        lens = (observations.ctf * observations.scale)[:, None]
        mean, *others = (sample_slices(volume, matrices, points) for volume in self.volumes)
        turned = turned_matrices(matrices, POSE_STEP)
        turned = sample_slices(self.volumes[0], turned.reshape(-1, 3, 3), points).reshape(len(matrices), 6, -1)
        by_turn = (turned[:, ::2] - turned[:, 1::2]) / (2 * POSE_STEP)
        waves = 2j * np.pi / (observations.size_px * observations.pixel_size) * points.T
        by_pose = np.concatenate([by_turn, mean[:, None] * waves.astype(np.complex64)], axis=1)
        return mean[:, None] * lens, by_pose * lens, np.stack(others, axis=1) * lens


def _sector_overlaps(observations, fit, chunk):
    """Overlaps of what the mean leaves over with the components, by particle, component and sector: one (n, k, p)."""
    observations = observations[chunk]
    mean, by_pose, components = fit.slices(observations)
    residual = observations.values * observations.scale - mean[:, 0]
    known = np.concatenate([mean, by_pose], axis=1)
    gram = (known.conj() @ known.swapaxes(1, 2)).real.astype(np.float64)
    gram += np.diag(1 / np.square([CONTRAST, TURN, TURN, TURN, SHIFT, SHIFT]))
    shares = np.linalg.solve(gram, (known.conj() @ components.swapaxes(1, 2)).real)
    components = components - shares.swapaxes(1, 2).astype(np.float32) @ known
    products = (components.conj() * residual[:, None]).real
    angle = np.mod(np.arctan2(observations.points[:, 1], observations.points[:, 0]), np.pi)
    sector = np.minimum((angle / np.pi * N_SECTORS).astype(int), N_SECTORS - 1)
    return (products @ np.eye(N_SECTORS, dtype=np.float32)[sector],)


def _agreement(overlaps, eigenvalues):
    """Σ_i Σ_k λ_k Σ_{p≠q} b_ikp b_ikq in standard deviations of what random signs of the sectors give."""
    pairs = np.einsum("nkp,k,nkq->npq", overlaps, eigenvalues, overlaps, optimize=True)
    pairs *= 1 - np.eye(pairs.shape[1])
    return float(pairs.sum() / max(np.sqrt(2 * (pairs**2).sum()), 1e-300))
