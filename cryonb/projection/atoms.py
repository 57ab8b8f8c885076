"""Exact projections of Gaussian pseudo-atoms: no grid, no interpolation, an independent check on the slices."""

from math import erf

import numba
import numpy as np

from ..types import Volume

__all__ = ["atoms_to_volume", "project_atoms"]


def project_atoms(atoms, sigma, poses, size_px, pixel_size):
    """Exact projections of Gaussian pseudo-atoms, integrated over each pixel.

    Parameters
    ----------
    atoms : tuple of ndarray (a, 3) and (a,)
        Coordinates in Å from the centre of the box, and weights (the integral of each Gaussian).
    sigma : float or ndarray (a,)
        Standard deviation in Å.
    poses : Poses
        n of them.
    size_px : int
    pixel_size : float
        Å.

    Returns
    -------
    ndarray (n, size_px, size_px) float32: the density integrated along the beam and averaged over each
    pixel's area, times ``pixel_size²``, so that an image sums to the weights inside it; the scale of
    ``project(atoms_to_volume(…))``.

    Notes
    -----
    A Gaussian projects to a Gaussian, whose integral over a pixel is a product of two differences of
    error functions: no grid, no interpolation, hence an independent check on `project`.

    Examples
    --------
    >>> from cryonb.types import Poses
    >>> from scipy.spatial.transform import Rotation
    >>> point = (np.zeros((1, 3)), np.ones(1))
    >>> image = project_atoms(point, 2.0, Poses(Rotation.random(2, rng=0)), 16, 2.0)
    >>> image.sum((1, 2)).round(5).tolist()
    [1.0, 1.0]
    """
    coordinates, weights, sigma = _check_atoms(atoms, sigma)
    images = np.zeros((len(poses), size_px, size_px), dtype=np.float32)
    axes = poses.rotation.as_matrix()[:, :, :2]  # columns of R: the image's x and y in the volume's frame
    shift = poses.shift
    _draw_atoms(coordinates / pixel_size, weights, sigma / pixel_size, axes, -shift / pixel_size, images)
    return images


def atoms_to_volume(atoms, sigma, size_px, voxel_size):
    """Density of Gaussian pseudo-atoms on a grid, integrated over each voxel.

    Parameters
    ----------
    atoms, sigma
        As in `project_atoms`.
    size_px : int
    voxel_size : float
        Å.

    Returns
    -------
    Volume whose voxels sum to the weights inside it.
    """
    coordinates, weights, sigma = _check_atoms(atoms, sigma)
    data = np.zeros((size_px,) * 3, dtype=np.float32)
    _fill_atoms(coordinates / voxel_size, weights, sigma / voxel_size, data)
    return Volume(data, voxel_size)


def _check_atoms(atoms, sigma):
    coordinates, weights = (np.ascontiguousarray(part, dtype=np.float64) for part in atoms)
    if coordinates.ndim != 2 or coordinates.shape[1] != 3 or weights.shape != coordinates.shape[:1]:
        raise ValueError(f"atoms are coordinates (a, 3) and weights (a,), got {coordinates.shape} and {weights.shape}")
    sigma = np.broadcast_to(np.asarray(sigma, dtype=np.float64), weights.shape)
    if not (sigma > 0).all():
        raise ValueError(f"sigma must be positive in Å, got {sigma.min():g}")
    return coordinates, weights, np.ascontiguousarray(sigma)


@numba.njit(cache=True, nogil=True)
def _pixel_integrals(position, sigma, size_px, out):
    """Integrals of a unit Gaussian over the pixels it reaches; returns the first and one past the last."""
    reach = 5.0 * sigma + 0.5
    centre = size_px // 2
    first = max(0, int(np.floor(position + centre - reach)))
    last = min(size_px, int(np.ceil(position + centre + reach)) + 1)
    if last <= first:
        return 0, 0
    scale = 1.0 / (np.sqrt(2.0) * sigma)
    below = erf((first - 0.5 - centre - position) * scale)
    for pixel in range(first, last):
        above = erf((pixel + 0.5 - centre - position) * scale)
        out[pixel] = 0.5 * (above - below)
        below = above
    return first, last


@numba.njit(cache=True, nogil=True)
def _draw_atoms(coordinates, weights, sigma, axes, offset, images):
    size_px = images.shape[-1]
    along_x, along_y = np.zeros(size_px), np.zeros(size_px)
    for n in range(len(images)):
        for a in range(len(coordinates)):
            px, py = offset[n, 0], offset[n, 1]
            for axis in range(3):
                px += axes[n, axis, 0] * coordinates[a, axis]
                py += axes[n, axis, 1] * coordinates[a, axis]
            x0, x1 = _pixel_integrals(px, sigma[a], size_px, along_x)
            y0, y1 = _pixel_integrals(py, sigma[a], size_px, along_y)
            for y in range(y0, y1):
                row = weights[a] * along_y[y]
                for x in range(x0, x1):
                    images[n, y, x] += row * along_x[x]


@numba.njit(cache=True, nogil=True)
def _fill_atoms(coordinates, weights, sigma, data):
    size_px = data.shape[-1]
    along_x, along_y, along_z = np.zeros(size_px), np.zeros(size_px), np.zeros(size_px)
    for a in range(len(coordinates)):
        x0, x1 = _pixel_integrals(coordinates[a, 0], sigma[a], size_px, along_x)
        y0, y1 = _pixel_integrals(coordinates[a, 1], sigma[a], size_px, along_y)
        z0, z1 = _pixel_integrals(coordinates[a, 2], sigma[a], size_px, along_z)
        for z in range(z0, z1):
            for y in range(y0, y1):
                row = weights[a] * along_z[z] * along_y[y]
                for x in range(x0, x1):
                    data[z, y, x] += row * along_x[x]
