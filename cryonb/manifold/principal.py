"""Principal volumes: probabilistic principal component analysis of a set of images over volumes.

y_i = C_i P_i (μ + Σ_k z_ik U_k) + noise with z ~ N(0, 1), fitted by expectation–maximisation with poses and CTF known,
from coarse to fine. Every particle's z comes with its posterior covariance.
"""

from dataclasses import dataclass

import numpy as np

from cryonb.manifold.gram import gram_matrices, noise_spectrum
from cryonb.manifold.masks import grid_mask, sphere_mask
from cryonb.manifold.normal_equations import normal_equations
from cryonb.manifold.observations import Observations, observe
from cryonb.manifold.volume_sets import VolumeSet, grid_size
from cryonb.parallel import load_checkpoint, save_checkpoint, with_one_blas_thread
from cryonb.types import Embedding, Volume

__all__ = ["PrincipalVolumes", "principal_volumes"]

_POWER_FLOOR = 3e-3  # of the mean's power, shell by shell


@dataclass(frozen=True, eq=False)
class PrincipalVolumes:
    """Result of `principal_volumes`.

    Parameters
    ----------
    mean : Volume
    components : list of Volume
        Orthonormal (the sum over voxels of the product of two is 0 or 1), by decreasing variance.
    eigenvalues : ndarray (q,)
        Variance of the particles along each component, squared density summed over voxels.
    embedding : Embedding
        ``coordinates`` z (n, q) in units of the components, so that the particle's volume is
        mean + Σ_k z_k components_k; with posterior covariance.
    noise : ndarray (shells,)
        Variance of a complex Fourier coefficient of the images' noise, per shell.
    resolution : float
        Å; finest that was used.
    volumes : VolumeSet
        Mean and components on the cropped grid, for the stages that follow.
    """

    mean: Volume
    components: list
    eigenvalues: np.ndarray
    embedding: Embedding
    noise: np.ndarray
    resolution: float
    volumes: VolumeSet

    def __repr__(self):
        n, q = self.embedding.coordinates.shape
        return f"PrincipalVolumes({q} components of {n} particles, {self.resolution:.1f} Å)"


@with_one_blas_thread
def principal_volumes(
    particles, *, rng, n_components=5, mask=None, resolution=None, n_iterations=6, workers=1, progress=True,
    checkpoint=None,
):  # fmt: skip
    """Mean volume, principal components of the variation, and each particle's coordinates with their error.

    Parameters
    ----------
    particles : Particles or Observations
        With poses and CTF, at least 20.
    rng : int or numpy.random.Generator
        For the start; the result depends on it only through the components' signs, which are fixed by their skewness.
    n_components : int
        q.
    mask : Volume, optional
        Where density may vary, 0 to 1, on the particles' grid; a soft sphere by default.
    resolution : float, optional
        Å; the finest detail used. Default: a twentieth of the box.
    n_iterations : int
        Expectation–maximisation steps at each of three resolutions.
    workers
        As in `cryonb.parallel.map_reduce`.
    progress : bool
    checkpoint : path, optional
        Saved after each resolution, and resumed from.

    Returns
    -------
    PrincipalVolumes

    Raises
    ------
    ValueError
        Poses or CTF missing, too few particles, NaN pixels, a mask of another box.

    Notes
    -----
    Tipping & Bishop, J. R. Stat. Soc. B 61:611 (1999), with the posterior of z whitened at each step
    (parameter-expanded EM, Liu, Rubin & Wu, Biometrika 85:755 (1998)); for volumes: Tagare et al., J. Struct. Biol.
    191:245 (2015). The chart is linear: a rotation by a large angle needs several components and lies on a curve.
    """
    from tqdm.auto import tqdm

    observations = particles
    if not isinstance(particles, Observations):
        resolution = particles.box_size / 20 if resolution is None else resolution
        observations = observe(particles, resolution=resolution, workers=workers)
    n = len(observations)
    if not 1 <= n_components < n:
        raise ValueError(f"n_components must lie between 1 and the number of particles {n}, got {n_components}")
    rng = np.random.default_rng(rng)
    latents = rng.standard_normal((n, n_components))
    finest = observations.radius
    radii = sorted({max(3, int(round(finest * share))) for share in (0.4, 0.65, 1.0)})
    key = ["principal", n, n_components, finest, n_iterations]
    state = None if checkpoint is None else load_checkpoint(checkpoint, key=key)
    state = {"stage": 0, "latents": latents, "noise": observations.noise} if state is None else state
    first, second = _prior_moments(np.asarray(state["latents"]))
    second = state.get("second", second)
    fit = None
    with tqdm(total=len(radii) * n_iterations, disable=not progress, desc="principal volumes") as bar:
        for stage, radius in enumerate(radii):
            if stage < state["stage"]:
                bar.update(n_iterations)
                continue
            part = _with_noise(observations, state["noise"]).to_radius(radius)
            shape = _stage_mask(mask, observations, radius)
            fit = _fit_stage(part, first, second, shape, n_iterations, workers, bar)
            first, second = _whitened(fit.mean, fit.covariance)
            state = {"stage": stage + 1, "latents": first[:, 1:], "second": second}
            state["noise"] = _extend(fit.noise, observations.noise)
            if checkpoint is not None and stage + 1 < len(radii):
                save_checkpoint(checkpoint, state, key=key)
    return _ordered(fit, observations)


@dataclass
class _Fit:
    volumes: VolumeSet
    mean: np.ndarray  # (n, q)
    covariance: np.ndarray  # (n, q, q)
    noise: np.ndarray


def _fit_stage(observations, first, second, mask, n_iterations, workers, bar):
    """Expectation–maximisation at one resolution, from moments of z to volumes and back."""
    prior = None
    for _ in range(n_iterations):
        equations = normal_equations(observations, first, second, mask=mask, workers=workers)
        volumes, power = equations.solve(prior)
        # components may not fall far below the mean's power while they are still being found
        prior = np.maximum(power, _POWER_FLOOR * power[:, :1])
        gram, overlap = gram_matrices(observations, volumes, workers=workers)
        mean, covariance = _posterior(gram, overlap)
        noise = noise_spectrum(observations, volumes, np.column_stack([np.ones(len(mean)), mean]))
        observations = _with_noise(observations, noise)
        first, second = _whitened(mean, covariance)
        bar.update()
    return _Fit(volumes, mean, covariance, observations.noise)


def _prior_moments(latents):
    """Moments of (1, z) for given z."""
    first = np.column_stack([np.ones(len(latents)), latents])
    return first, first[:, :, None] * first[:, None, :]


def _posterior(gram, overlap):
    """Gaussian posterior of z given the volumes: mean (n, q) and covariance (n, q, q)."""
    covariance = np.linalg.inv(np.eye(gram.shape[1] - 1) + gram[:, 1:, 1:])
    mean = np.einsum("nij,nj->ni", covariance, overlap[:, 1:] - gram[:, 1:, 0])
    return mean, covariance


def _whitened(mean, covariance):
    """Moments of (1, z) after z is given zero mean and unit covariance over the particles."""
    centred = mean - mean.mean(axis=0)
    spread = covariance.mean(axis=0) + centred.T @ centred / len(centred)
    values, vectors = np.linalg.eigh(spread)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-12)) @ vectors.T
    first, second = _prior_moments(centred @ whiten)
    second[:, 1:, 1:] += whiten @ covariance @ whiten
    return first, second


def _ordered(fit, observations):
    """Orthonormal components by decreasing variance, and the particles' coordinates along them."""
    flat = fit.volumes.data[1:].reshape(fit.mean.shape[1], -1).astype(np.float64)
    # the sum over voxels of a product, on the particles' own grid
    cell = (fit.volumes.data.shape[-1] / observations.size_px) ** 3
    gram = flat @ flat.T * cell
    centred = fit.mean - fit.mean.mean(axis=0)
    spread = fit.covariance.mean(axis=0) + centred.T @ centred / len(centred)
    # z → coordinates in an orthonormal basis of the span, then the principal axes there
    root = np.linalg.cholesky(gram + 1e-12 * np.trace(gram) * np.eye(len(gram)))
    eigenvalues, axes = np.linalg.eigh(root.T @ spread @ root)
    eigenvalues, axes = eigenvalues[::-1], axes[:, ::-1]
    to_coordinates = root @ axes
    coordinates = centred @ to_coordinates
    skew = (coordinates**3).mean(axis=0)
    to_coordinates = to_coordinates * np.where(skew < 0, -1.0, 1.0)
    coordinates = centred @ to_coordinates
    covariance = to_coordinates.T @ fit.covariance @ to_coordinates
    combination = np.zeros((len(gram) + 1, len(gram) + 1))
    combination[0, 0], combination[0, 1:] = 1, fit.mean.mean(axis=0)
    combination[1:, 1:] = np.linalg.inv(to_coordinates)
    volumes = fit.volumes.combine(combination)
    full = volumes.volumes()
    embedding = Embedding(coordinates, eigenvalues, "probabilistic PCA over volumes", covariance)
    resolution = observations.size_px * observations.pixel_size / observations.radius
    noise = _extend(fit.noise, observations.noise)
    return PrincipalVolumes(full[0], full[1:], eigenvalues, embedding, noise, resolution, volumes)


def _with_noise(observations, noise):
    from dataclasses import replace

    return replace(observations, noise=noise)


def _extend(noise, full):
    """Shells that a coarse stage has not seen keep the level they had."""
    result = full.copy()
    result[: len(noise)] = noise
    return result


def _stage_mask(mask, observations, radius):
    if mask is None:
        return sphere_mask(grid_size(radius))
    return grid_mask(mask, observations.to_radius(radius))
