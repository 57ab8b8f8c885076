"""Particles as the manifold reads them: transformed once, centred, up to a resolution.

All of it happens on the half-plane of Fourier pixels, with poses and shifts known.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cryonb import ctf, projection
from cryonb.parallel import chunk_slices, map_reduce

__all__ = ["Observations", "concatenated", "observe"]

CHUNK = 512
MINIMUM_PARTICLES = 20


@dataclass(frozen=True, eq=False)
class Observations:
    """Centred Fourier half-planes of particles up to a radius, sorted by radius.

    Parameters
    ----------
    values : ndarray (n, m) complex64
    ctf : ndarray (n, m) float32
    matrices : ndarray (n, 3, 3) float32
    points : ndarray (m, 2) float32
        Fourier pixels.
    multiplicity : ndarray (m,) float32
        How many Fourier pixels each point stands for: 2, at zero frequency 1.
    noise : ndarray (shells,)
        Variance of a complex coefficient of the noise, per shell.
    size_px : int
    pixel_size : float
        Å.
    """

    values: np.ndarray
    ctf: np.ndarray
    matrices: np.ndarray
    points: np.ndarray
    multiplicity: np.ndarray
    noise: np.ndarray
    size_px: int
    pixel_size: float

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return replace(self, values=self.values[index], ctf=self.ctf[index], matrices=self.matrices[index])

    def to_radius(self, radius):
        """The same particles, cut at a Fourier radius in pixels."""
        m = int((self.radii <= radius + 1e-6).sum())
        return replace(
            self, values=self.values[:, :m], ctf=self.ctf[:, :m], points=self.points[:m],
            multiplicity=self.multiplicity[:m],
        )  # fmt: skip

    @property
    def radii(self):
        """Distance of each point from zero frequency, ndarray (m,), Fourier pixels."""
        return np.hypot(self.points[:, 0], self.points[:, 1])

    @property
    def shell(self):
        """Shell of each point, ndarray (m,) int."""
        return np.rint(self.radii).astype(np.int64)

    @property
    def radius(self):
        """Largest Fourier radius in whole pixels."""
        return int(np.ceil(self.radii.max()))

    @property
    def scale(self):
        """Factor that whitens each point: the log-likelihood is −½ Σ |scale · residual|²."""
        return np.sqrt(self.multiplicity / self.noise[self.shell]).astype(np.float32)


def observe(particles, *, resolution=None, workers=1):
    """Transform particles once, centred by their shifts, up to a resolution.

    Parameters
    ----------
    particles : Particles
        With poses and CTF.
    resolution : float, optional
        Å; by default, and at finest, just below Nyquist.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    Observations; ``noise`` is, to begin with, the mean power of the images.

    Raises
    ------
    ValueError
        Poses or CTF missing, fewer than 20 particles, images that are not finite or constant, shifts beyond half the
        box.
    """
    for name, hint in (("poses", "refine orientations first"), ("ctf", "estimate or read defocus first")):
        if getattr(particles, name) is None:
            raise ValueError(f"particles have no {name}: {hint}")
    if len(particles) < MINIMUM_PARTICLES:
        raise ValueError(f"expected at least {MINIMUM_PARTICLES} particles, got {len(particles)}")
    _check_shifts(particles)
    finest = particles.size_px // 2 - 2
    radius = finest if resolution is None else min(finest, int(round(particles.box_size / resolution)))
    if radius < 3:
        raise ValueError(f"resolution {resolution:g} Å is too coarse for a box of {particles.box_size:.0f} Å")
    half = projection.half_plane(particles.size_px, max_radius=radius + 1e-3)
    order = np.argsort(np.hypot(*half.points.T), kind="stable")
    function = partial(_observe_chunk, particles, half, order)
    values, contrast = concatenated(function, len(particles), workers=workers)
    points = np.ascontiguousarray(half.points[order])
    shell = np.rint(np.hypot(*points.T)).astype(int)
    power = (np.abs(values) ** 2).mean(axis=0, dtype=np.float64)
    noise = np.bincount(shell, power) / np.bincount(shell)
    matrices = particles.poses.rotation.as_matrix().astype(np.float32)
    multiplicity = half.multiplicity[order]
    return Observations(
        values, contrast, matrices, points, multiplicity, noise, particles.size_px, particles.pixel_size
    )


def concatenated(function, n, *, workers=1):
    """Arrays of all particles, computed chunk by chunk.

    Parameters
    ----------
    function : callable
        Slice → tuple of arrays, a row per particle of the slice.
    n : int
        Number of particles.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    tuple of ndarray, n rows each

    Examples
    --------
    >>> data = np.arange(5.0)
    >>> concatenated(lambda chunk: (data[chunk], -data[chunk]), 5)[1].tolist()
    [-0.0, -1.0, -2.0, -3.0, -4.0]
    """
    parts = map_reduce(partial(_as_list, function), chunk_slices(n, CHUNK), combine=_extended, workers=workers)
    return tuple(np.concatenate(arrays) for arrays in zip(*parts))


def _check_shifts(particles):
    """A particle's centre must lie in its own image."""
    furthest, half = np.abs(particles.poses.shift).max(axis=1), particles.box_size / 2
    if (furthest > half).any():
        worst = int(furthest.argmax())
        raise ValueError(
            f"particle {worst} is shifted by {furthest[worst]:.0f} Å, its box is {2 * half:.0f} Å wide, so that its "
            f"centre lies outside ({int((furthest > half).sum())} such particles): poses of another box or pixel size?"
        )


def _observe_chunk(particles, half, order, chunk):
    first, chunk = chunk.start, particles[chunk]
    images = np.asarray(chunk.images, dtype=np.float32)
    finite = np.isfinite(images).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"particle {first + int(np.argmin(finite))} has pixels that are not finite")
    constant = np.ptp(images, axis=(1, 2)) == 0
    if constant.any():
        raise ValueError(
            f"particle {first + int(np.argmax(constant))} is constant: all its pixels are {images[constant][0, 0, 0]:g}"
        )
    points = half.points[order]
    values = projection.to_half_plane(images, half)[:, order]
    values *= projection.shift_phases(points, -chunk.poses.shift, chunk.box_size)
    kx, ky = points.T / chunk.box_size
    return values.astype(np.complex64), ctf.evaluate(chunk.ctf, kx, ky).astype(np.float32)


def _as_list(function, chunk):
    return [function(chunk)]


def _extended(total, item):
    return total + item
