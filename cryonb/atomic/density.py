"""An atomic model against a map: densities, the real-space correlation with its gradients, and the map between voxels.

The derivatives are analytic, by the adjoint of the kernel that draws the atoms (`projection.density_gradients`), so
that one pass over the voxels gives the slope in every coordinate, every B, the voxel size and the origin.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.ndimage

from ..projection import atoms_to_density, density_gradients, low_pass, model_density, scattering_factors
from ..types import Volume
from ._kernels import map_values

__all__ = ["Correlation", "map_correlation", "model_density", "prepare_map", "sample", "width_at"]

SHARPEN = -100.0  # Å²: Wang et al., eLife 5:e17219 (2016), for the map that a model is built in


@dataclass(frozen=True, eq=False)
class Correlation:
    """Real-space correlation of a model's density with a map, and its derivatives.

    Parameters
    ----------
    value : float
        In [−1, 1].
    coordinates : ndarray (n, 3)
        1/Å.
    b_factors : ndarray (n,)
        1/Å².
    voxel_size : float
        1/Å, the origin held.
    origin : ndarray (3,)
        1/Å.
    """

    value: float
    coordinates: np.ndarray
    b_factors: np.ndarray
    voxel_size: float
    origin: np.ndarray


def width_at(resolution):
    """B in Å² to add to every atom, so that its Gaussian resembles an atom seen at this resolution.

    Parameters
    ----------
    resolution : float
        Å.

    Returns
    -------
    float: 8π² (0.225 d)², the usual width of atoms in a simulated map.

    Examples
    --------
    >>> round(width_at(3.0), 1)
    36.0
    """
    return 8 * np.pi**2 * (0.225 * resolution) ** 2


def prepare_map(volume, resolution, *, b_factor=SHARPEN):
    """The map that a model is compared with: sharpened, cut off at the resolution, mean 0 and deviation 1.

    Parameters
    ----------
    volume : Volume
        A half map or the mean of two, as reconstructed.
    resolution : float
        Å.
    b_factor : float
        Å²; −100 is the paper's (Wang et al. 2016). 0 leaves a map that is already sharp as it is.

    Returns
    -------
    Volume

    Raises
    ------
    ValueError
        A constant map, or a resolution beyond Nyquist.
    """
    if resolution < 1.999 * volume.voxel_size:
        raise ValueError(f"resolution {resolution:g} Å is beyond Nyquist of {volume!r}")
    filtered = low_pass(volume, resolution, b_factor=b_factor)
    deviation = float(filtered.data.std())
    if not deviation > 0:
        raise ValueError(f"{volume!r} is constant: there is nothing to compare a model with")
    return filtered.with_data((filtered.data - filtered.data.mean()) / deviation)


def map_correlation(
    volume, coordinates, elements, *, b_factors, resolution, occupancies=None, voxel_size=None, origin=None, mask=None
):
    """Correlation over voxels between a map and the density of atoms, with every derivative.

    Parameters
    ----------
    volume : Volume
    coordinates : ndarray (n, 3)
        Å.
    elements : ndarray (n,) of str
    b_factors : float or ndarray (n,)
        Å².
    resolution : float
        Å; widens the atoms by `width_at`.
    occupancies : ndarray (n,), optional
    voxel_size, origin : float and (3,), optional
        In place of the volume's: what `finish.refine_voxel_size` varies.
    mask : ndarray (d, d, d) of bool, optional
        The voxels that count; all by default.

    Returns
    -------
    Correlation

    Raises
    ------
    ValueError
        No atom near the box.
    """
    grid = Volume(
        volume.data,
        volume.voxel_size if voxel_size is None else voxel_size,
        volume.origin if origin is None else origin,
    )
    a, b = scattering_factors(elements)
    a = a if occupancies is None else a * np.asarray(occupancies)[:, None]
    total = np.broadcast_to(np.asarray(b_factors, float), (len(a),)) + width_at(resolution)
    drawn = atoms_to_density(coordinates, a, b, total, grid).data.astype(np.float64)
    observed = volume.data.astype(np.float64)
    if mask is not None:
        drawn, observed = np.where(mask, drawn, 0), np.where(mask, observed, 0)
    count = drawn.size if mask is None else int(mask.sum())
    model_part, map_part = drawn - drawn.sum() / count, observed - observed.sum() / count
    if mask is not None:
        model_part, map_part = np.where(mask, model_part, 0), np.where(mask, map_part, 0)
    model_norm, map_norm = np.sqrt((model_part**2).sum()), np.sqrt((map_part**2).sum())
    if not (model_norm > 0 and map_norm > 0):
        raise ValueError(f"no correlation: {'no atom near the box' if map_norm > 0 else 'a constant map'} ({volume!r})")
    value = float((model_part * map_part).sum() / (model_norm * map_norm))
    slope = map_part / (model_norm * map_norm) - value * model_part / model_norm**2
    return Correlation(value, *density_gradients(slope, coordinates, a, b, total, grid))


def sample(volume, points, *, order=1, gradient=False):
    """Values of a map at any points.

    Parameters
    ----------
    volume : Volume
    points : ndarray (..., 3)
        x, y, z in Å, in the frame of the volume's origin.
    order : {1, 3}
        1 is linear between the eight voxels around (what EMRinger uses); 3 a cubic spline, smooth in its gradient.
    gradient : bool
        Also return the derivative.

    Returns
    -------
    ndarray (...), 0 outside the box; with ``gradient`` also ndarray (..., 3) in 1/Å.

    Raises
    ------
    ValueError
        Another order.

    Examples
    --------
    >>> ramp = Volume(np.broadcast_to(np.arange(8.0), (8, 8, 8)), 2.0)
    >>> value, slope = sample(ramp, np.array([[5.0, 6.0, 6.0]]), gradient=True)
    >>> value.tolist(), slope.round(6).tolist()
    ([2.5], [[0.5, 0.0, 0.0]])
    """
    if order not in (1, 3):
        raise ValueError(f"order must be 1 (linear) or 3 (cubic spline), got {order}")
    points = np.asarray(points, dtype=np.float64)
    voxels = np.ascontiguousarray((points.reshape(-1, 3) - volume.origin) / volume.voxel_size)
    data = volume.data if order == 1 else _spline(volume)
    values, slopes = np.zeros(len(voxels)), np.zeros((len(voxels), 3))
    (_linear if order == 1 else map_values)(data, voxels, values, slopes)
    values = values.reshape(points.shape[:-1])
    return (values, (slopes / volume.voxel_size).reshape(points.shape)) if gradient else values


def spline_coefficients(volume):
    """Coefficients of the cubic B-spline through the voxels; for callers that sample the same map many times."""
    return scipy.ndimage.spline_filter(volume.data.astype(np.float64), order=3, mode="mirror")


_splines = {}


def _spline(volume):
    """The coefficients of the last map asked for: sampling is called in loops."""
    key = id(volume.data)
    if key not in _splines or _splines[key][0] is not volume.data:
        _splines.clear()
        _splines[key] = (volume.data, spline_coefficients(volume))
    return _splines[key][1]


@numba.njit(cache=True, nogil=True)
def _linear(data, voxels, values, slopes):
    size = data.shape[0]
    for n in range(len(voxels)):
        x, y, z = voxels[n]
        i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        # the last voxel itself is inside
        i, j, k = i - (x == size - 1), j - (y == size - 1), k - (z == size - 1)
        if min(i, j, k) < 0 or max(i, j, k) >= size - 1:
            continue
        u, v, w = x - i, y - j, z - k
        for dk in range(2):
            fz, gz = (w, 1.0) if dk else (1 - w, -1.0)
            for dj in range(2):
                fy, gy = (v, 1.0) if dj else (1 - v, -1.0)
                for di in range(2):
                    fx, gx = (u, 1.0) if di else (1 - u, -1.0)
                    value = data[k + dk, j + dj, i + di]
                    values[n] += value * fx * fy * fz
                    slopes[n, 0] += value * gx * fy * fz
                    slopes[n, 1] += value * fx * gy * fz
                    slopes[n, 2] += value * fx * fy * gz
