"""The density of atoms on a grid, and its exact derivatives: a forward kernel and its adjoint.

Electron scattering factors are sums of Gaussians (Peng, Ren, Dudarev & Whelan, Acta Cryst. A 52:257 (1996), as
tabulated in gemmi), so that a neutral atom with isotropic B has the density
ρ(r) = occ Σ aᵢ (4π / (bᵢ + B))^{3/2} exp(−4π² r² / (bᵢ + B)).
"""

import numba
import numpy as np

from .. import fourier
from ..types import Volume

__all__ = ["atoms_to_density", "density_gradients", "inside_box", "low_pass", "model_density", "scattering_factors"]

REACH = 11.5  # the exponent where an atom is cut off: e^-11.5 is 1e-5 of its top
SAMPLED = 79.0  # 8π²: with B of 79 voxel² the Gaussians are one voxel wide, and aliasing is below 0.1 % at 3 voxels


def scattering_factors(elements):
    """Coefficients of the electron scattering factors, five Gaussians an atom.

    Parameters
    ----------
    elements : sequence of str
        Element symbols; deuterium counts as hydrogen, an unknown element as carbon.

    Returns
    -------
    tuple of ndarray (n, 5): a in Å, b in Å².

    Examples
    --------
    >>> a, b = scattering_factors(["C"])
    >>> round(float(a.sum()), 2)
    2.51
    """
    import gemmi

    table = {}
    for symbol in set(elements):
        element = gemmi.Element("H" if symbol == "D" else str(symbol))
        factor = (element if element.atomic_number and element.c4322 else gemmi.Element("C")).c4322
        table[symbol] = (np.array(factor.a), np.array(factor.b))
    return tuple(np.array([table[symbol][part] for symbol in elements], dtype=np.float64) for part in (0, 1))


def model_density(model, like, *, resolution=None, b_factors=None):
    """Electrostatic density of an atomic model on the grid of a volume.

    Parameters
    ----------
    model : AtomicModel
        Every atom counts, hydrogens and alternate locations with their occupancy.
    like : Volume
        Gives box, voxel size and origin.
    resolution : float, optional
        Å; frequencies beyond 1/resolution are removed. Without it, to the grid's Nyquist frequency.
    b_factors : float or ndarray (n,), optional
        Å², in place of the model's.

    Returns
    -------
    Volume. Atoms outside the box are left out.

    Raises
    ------
    ValueError
        No atom inside the box; a resolution beyond the grid's Nyquist frequency.

    Notes
    -----
    Atoms are drawn with B raised by 8π² voxel² at least, so that the grid holds them, and the addition is taken off
    again in Fourier space: the result is the band-limited density, not a sampled peak.
    """
    limit = 2 * like.voxel_size
    if resolution is not None and resolution < limit * 0.999:
        raise ValueError(f"resolution {resolution:g} Å is beyond the grid's {limit:g} Å ({like!r})")
    coordinates = model.coordinates
    inside = inside_box(coordinates, like)
    b = np.broadcast_to(np.asarray(model.b_factors if b_factors is None else b_factors, float), (len(model),))[inside]
    blur = max(0.0, SAMPLED * like.voxel_size**2 - float(b.min()))
    a, widths = scattering_factors(model.elements[inside])
    drawn = atoms_to_density(coordinates[inside], a * model.occupancies[inside, None], widths, b + blur, like)
    spectrum = np.fft.rfftn(drawn.data)
    size = like.size_px
    axis = np.fft.fftfreq(size, like.voxel_size)
    square = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + np.fft.rfftfreq(size, like.voxel_size) ** 2
    cut = 1 / (limit if resolution is None else resolution)
    spectrum *= np.where(square <= cut**2, np.exp(blur * np.minimum(square, cut**2) / 4), 0)
    return Volume(np.fft.irfftn(spectrum, s=like.data.shape, axes=(0, 1, 2)), like.voxel_size, like.origin)


def inside_box(coordinates, like):
    """Which of the ``coordinates`` lie inside the box of the volume ``like``; ndarray (n,) bool.

    Raises
    ------
    ValueError
        None does; the message says where box and model are.
    """
    inside = ((coordinates >= like.origin) & (coordinates <= like.origin + like.box_size)).all(axis=1)
    if not inside.any():
        low, high = coordinates.min(axis=0).round(1).tolist(), coordinates.max(axis=0).round(1).tolist()
        ends = like.origin.round(1).tolist(), (like.origin + like.box_size).round(1).tolist()
        raise ValueError(
            f"no atom lies inside the box, which reaches from {ends[0]} to {ends[1]} Å; "
            f"the model reaches from {low} to {high} Å"
        )
    return inside


def atoms_to_density(coordinates, a, b, b_factors, like):
    """Sum of Gaussian atoms at the voxels of a grid, as they are (no filter).

    Parameters
    ----------
    coordinates : ndarray (n, 3)
        Å.
    a, b : ndarray (n, g)
        Scattering factors (`scattering_factors`); ``a`` times the occupancy.
    b_factors : ndarray (n,)
        Å².
    like : Volume
        Gives box, voxel size and origin.

    Returns
    -------
    Volume
    """
    data = np.zeros(like.data.shape)
    xyz = np.ascontiguousarray(coordinates, dtype=np.float64)
    total = np.ascontiguousarray(b + np.asarray(b_factors, float)[:, None])
    _draw(xyz, np.ascontiguousarray(a), total, np.asarray(like.origin, float), like.voxel_size, data)
    return Volume(data, like.voxel_size, like.origin)


def density_gradients(weights, coordinates, a, b, b_factors, like):
    """The adjoint of `atoms_to_density`: derivatives of Σ weights · density.

    Parameters
    ----------
    weights : ndarray (d, d, d)
        Derivative of some target with respect to the density at each voxel.
    coordinates, a, b, b_factors, like
        As in `atoms_to_density`.

    Returns
    -------
    tuple: with respect to coordinates (n, 3) in 1/Å, B (n,) in 1/Å², voxel size (float) in 1/Å with the origin held,
    origin (3,) in 1/Å.
    """
    xyz = np.ascontiguousarray(coordinates, dtype=np.float64)
    total = np.ascontiguousarray(b + np.asarray(b_factors, float)[:, None])
    by_position, by_b, by_voxel = np.zeros_like(xyz), np.zeros(len(xyz)), np.zeros(len(xyz))
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    origin = np.asarray(like.origin, float)
    _adjoint(weights, xyz, np.ascontiguousarray(a), total, origin, like.voxel_size, by_position, by_b, by_voxel)
    return by_position, by_b, float(by_voxel.sum()), -by_position.sum(axis=0)


def low_pass(volume, resolution, *, b_factor=0.0):
    """Cut a volume off at a resolution, sharpened or dampened.

    Parameters
    ----------
    volume : Volume
    resolution : float
        Å; frequencies beyond 1/resolution become zero.
    b_factor : float
        Å²; amplitudes are multiplied by exp(−b_factor k² / 4), so a negative one sharpens.

    Returns
    -------
    Volume
    """
    square = fourier.radius_px(volume.size_px, ndim=3) ** 2 / volume.box_size**2
    kept = np.where(square <= 1 / resolution**2, np.exp(-b_factor * np.minimum(square, resolution**-2.0) / 4), 0)
    return volume.with_data(fourier.inverse_transform(fourier.transform(volume.data) * kept).real)


@numba.njit(cache=True, nogil=True)
def _extent(position, total, origin, voxel, size):
    reach = np.sqrt(REACH * total) / (2 * np.pi)
    first = max(0, int(np.ceil((position - reach - origin) / voxel)))
    last = min(size - 1, int(np.floor((position + reach - origin) / voxel)))
    return first, last


@numba.njit(cache=True, nogil=True, fastmath=True)
def _draw(xyz, a, total, origin, voxel, data):
    size = data.shape[0]
    ex, ey, ez = np.empty(size), np.empty(size), np.empty(size)
    for n in range(len(xyz)):
        for g in range(a.shape[1]):
            c = 4 * np.pi**2 / total[n, g]
            top = a[n, g] * (4 * np.pi / total[n, g]) ** 1.5
            x0, x1 = _extent(xyz[n, 0], total[n, g], origin[0], voxel, size)
            y0, y1 = _extent(xyz[n, 1], total[n, g], origin[1], voxel, size)
            z0, z1 = _extent(xyz[n, 2], total[n, g], origin[2], voxel, size)
            for i in range(x0, x1 + 1):
                ex[i] = np.exp(-c * (origin[0] + voxel * i - xyz[n, 0]) ** 2)
            for i in range(y0, y1 + 1):
                ey[i] = np.exp(-c * (origin[1] + voxel * i - xyz[n, 1]) ** 2)
            for i in range(z0, z1 + 1):
                ez[i] = top * np.exp(-c * (origin[2] + voxel * i - xyz[n, 2]) ** 2)
            for k in range(z0, z1 + 1):
                for j in range(y0, y1 + 1):
                    row = ez[k] * ey[j]
                    for i in range(x0, x1 + 1):
                        data[k, j, i] += row * ex[i]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _adjoint(weights, xyz, a, total, origin, voxel, by_position, by_b, by_voxel):
    size = weights.shape[0]
    ex, ey, ez = np.empty(size), np.empty(size), np.empty(size)
    for n in range(len(xyz)):
        for g in range(a.shape[1]):
            c = 4 * np.pi**2 / total[n, g]
            top = a[n, g] * (4 * np.pi / total[n, g]) ** 1.5
            x0, x1 = _extent(xyz[n, 0], total[n, g], origin[0], voxel, size)
            y0, y1 = _extent(xyz[n, 1], total[n, g], origin[1], voxel, size)
            z0, z1 = _extent(xyz[n, 2], total[n, g], origin[2], voxel, size)
            for i in range(x0, x1 + 1):
                ex[i] = np.exp(-c * (origin[0] + voxel * i - xyz[n, 0]) ** 2)
            for i in range(y0, y1 + 1):
                ey[i] = np.exp(-c * (origin[1] + voxel * i - xyz[n, 1]) ** 2)
            for i in range(z0, z1 + 1):
                ez[i] = top * np.exp(-c * (origin[2] + voxel * i - xyz[n, 2]) ** 2)
            # moments of weight · density: over the offset d = r - x, over d², and over d · index
            s0, sx, sy, sz, square, by_index = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for k in range(z0, z1 + 1):
                dz = origin[2] + voxel * k - xyz[n, 2]
                for j in range(y0, y1 + 1):
                    dy = origin[1] + voxel * j - xyz[n, 1]
                    row = ez[k] * ey[j]
                    r0, r1, r2, ri = 0.0, 0.0, 0.0, 0.0
                    for i in range(x0, x1 + 1):
                        dx = origin[0] + voxel * i - xyz[n, 0]
                        value = weights[k, j, i] * ex[i]
                        r0 += value
                        r1 += value * dx
                        r2 += value * dx * dx
                        ri += value * dx * i
                    s0 += row * r0
                    sx += row * r1
                    sy += row * r0 * dy
                    sz += row * r0 * dz
                    square += row * (r2 + r0 * (dy * dy + dz * dz))
                    by_index += row * (ri + r0 * (dy * j + dz * k))
            by_position[n, 0] += 2 * c * sx
            by_position[n, 1] += 2 * c * sy
            by_position[n, 2] += 2 * c * sz
            by_b[n] += (-1.5 * s0 + c * square) / total[n, g]
            by_voxel[n] -= 2 * c * by_index
