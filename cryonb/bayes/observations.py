"""A chunk of particles as the polar engine sees it: CTF · X / σ² and CTF² / σ² on the grid, weighted by area."""

from dataclasses import dataclass

import numpy as np

from cryonb import ctf as lens
from cryonb import projection

from .slices import ring_power

__all__ = ["Observations", "count_harmonics", "observe", "rim_mask"]

RIM_PX = 4  # width of the soft edge by which images end in a circle
HARMONIC_TOLERANCE = 3e-3
MAX_HARMONICS = 8


@dataclass(frozen=True, eq=False)
class Observations:
    """Weighted transforms of n particles on a polar grid.

    Parameters
    ----------
    weighted : ndarray (n, n_r, n_angles) complex64
        area · CTF · X / σ², moved so that the expected particle centre is the box's centre.
    lens : ndarray (n, 2, n_r, n_m) float32
        Even harmonics of area · CTF² / σ².
    power : ndarray (n, n_r) float32
        ⟨|X|²⟩ of each ring.
    precision : ndarray (n, n_r) float32
        area / σ² of each ring.
    """

    weighted: np.ndarray
    lens: np.ndarray
    power: np.ndarray
    precision: np.ndarray

    def __len__(self):
        return len(self.weighted)


def observe(particles, grid, noise, centre, n_harmonics, *, norm=None, scale=None):
    """Read and transform particles.

    Parameters
    ----------
    particles : Particles
        n of them, with CTF; the images are read here.
    grid : PolarGrid
    noise : ndarray (n, d // 2 + 1)
        σ² of each particle's shells: variance of the real part of the noise's transform.
    centre : ndarray (n, 2)
        Expected shift in Å, taken out of the images.
    n_harmonics : int
        Even harmonics of CTF² to keep (`count_harmonics`).
    norm : ndarray (n,), optional
        Images are divided by it.
    scale : ndarray (n,), optional
        The CTF is multiplied by it.

    Returns
    -------
    Observations

    Raises
    ------
    ValueError
        Pixels that are not finite.
    """
    images = np.asarray(particles.images, dtype=np.float32)
    finite = np.isfinite(images).all((1, 2))
    if not finite.all():
        raise ValueError(f"particle images must be finite; image {int(np.argmin(finite))} of this chunk is not")
    if norm is not None:
        images = images / np.asarray(norm, dtype=np.float32)[:, None, None]
    samples = grid.transform(images * rim_mask(grid.size_px))
    power = (samples.real**2 + samples.imag**2).mean(-1)
    frequency = grid.points / particles.box_size
    factor = lens.evaluate(particles.ctf, frequency[:, 0], frequency[:, 1]).astype(np.float32)
    factor = factor.reshape(samples.shape)
    if scale is not None:
        factor *= np.asarray(scale, dtype=np.float32)[:, None, None]
    shells = np.arange(noise.shape[1])
    sigma2 = np.stack([np.interp(grid.radii, shells[1:], row[1:]) for row in noise])
    precision = (grid.areas / sigma2).astype(np.float32)
    weighted = samples * (factor * precision[..., None])
    if np.any(centre):
        phases = projection.shift_phases(grid.points, centre, particles.box_size)
        weighted *= phases.conj().reshape(samples.shape)
    lens_harmonics = ring_power(factor**2, grid, n_harmonics) * precision[:, None, :, None]
    return Observations(weighted, lens_harmonics, power, precision)


def count_harmonics(particles, grid):
    """How many even harmonics of CTF² are worth keeping: 1 without astigmatism, a few with it.

    Parameters
    ----------
    particles : Particles
        With CTF; at most a hundred are looked at.
    grid : PolarGrid

    Returns
    -------
    int, 1 to 8
    """
    some = particles.ctf[np.linspace(0, len(particles) - 1, min(len(particles), 100)).astype(int)]
    frequency = grid.points / particles.box_size
    squares = lens.evaluate(some, frequency[:, 0], frequency[:, 1]).reshape(-1, grid.n_radii, grid.n_angles) ** 2
    harmonics = ring_power(squares, grid, MAX_HARMONICS)
    size = np.sqrt((harmonics**2).sum(1)).max(0)  # (n_r, n_m), the worst particle
    needed = (size > HARMONIC_TOLERANCE).any(0)
    return int(np.flatnonzero(needed).max()) + 1


def rim_mask(size_px):
    """Soft circle that ends an image inside its box: corners would alias on coarse rings.

    Parameters
    ----------
    size_px : int
        Box size d.

    Returns
    -------
    ndarray (d, d) float32
    """
    axis = np.arange(size_px) - size_px // 2
    radius = np.hypot(axis[:, None], axis)
    position = np.clip((radius - (size_px / 2 - RIM_PX)) / RIM_PX, 0, 1)
    return (0.5 + 0.5 * np.cos(np.pi * position)).astype(np.float32)
