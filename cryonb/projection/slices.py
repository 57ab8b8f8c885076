"""Central slices: a volume to its images and back, as an adjoint pair.

The projection-slice theorem, F_image(k) = F_volume(R·(kx, ky, 0)), on a volume that is zero-padded (twice
by default) and read by trilinear interpolation. What that interpolation does in real space, a product of
sinc² along the axes, is divided out before. Points are in Fourier pixels of the unpadded box, so that the
same two kernels serve the Cartesian half-plane here and the polar grids of the `bayes` room.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from ..types import Volume

__all__ = [
    "Accumulator", "FourierVolume", "HalfPlane", "back_project", "from_half_plane", "half_plane",
    "insert_slices", "prepare", "project", "sample_slices", "shift_phases", "to_half_plane",
]  # fmt: skip

BATCH = 256  # images whose slices are held at once


@dataclass(frozen=True, eq=False)
class FourierVolume:
    """Transform of a padded volume, ready to be sliced (`prepare`).

    Parameters
    ----------
    data : ndarray (p, p, p // 2 + 1) complex64
        ``[kz, ky, kx]``, kz and ky centred, kx ≥ 0; p = padding · size_px, even.
    size_px : int
        Box size of the unpadded volume.
    padding : int
    voxel_size : float
        Å.
    """

    data: np.ndarray
    size_px: int
    padding: int
    voxel_size: float


class Accumulator:
    """Where slices are inserted: the numerator and the weight of a reconstruction, on the padded half-grid.

    Parameters
    ----------
    size_px : int
        Box size of the volume to come.
    padding : int

    Attributes
    ----------
    values : ndarray (p, p, p // 2 + 1) complex64
    weights : ndarray (p, p, p // 2 + 1) float32
    """

    def __init__(self, size_px, *, padding=2):
        self.size_px, self.padding = int(size_px), int(padding)
        padded = self.size_px * self.padding
        if padded % 2:
            raise ValueError(f"padding · size_px must be even, got {padding} · {size_px}")
        self.values = np.zeros((padded, padded, padded // 2 + 1), dtype=np.complex64)
        self.weights = np.zeros(self.values.shape, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class HalfPlane:
    """One of each Friedel pair of an image's Fourier pixels with |k| < d/2 (`half_plane`).

    Parameters
    ----------
    points : ndarray (m, 2) float32
        (kx, ky) in Fourier pixels.
    rows, columns : ndarray (m,) int
        Their place in ``rfft2`` of the ifftshifted image.
    multiplicity : ndarray (m,) float32
        2, or 1 at zero frequency: how many pixels of the whole plane each stands for.
    """

    points: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    multiplicity: np.ndarray

    def __len__(self):
        return len(self.points)


def half_plane(size_px, *, max_radius=None):
    """The unique half of an image's Fourier pixels.

    Parameters
    ----------
    size_px : int
        Box size d.
    max_radius : float, optional
        In Fourier pixels; below d/2 always (Nyquist has no partner).

    Returns
    -------
    HalfPlane

    Examples
    --------
    Every pixel of the disc is counted once, with its partner:

    >>> half = half_plane(5)
    >>> len(half), float(half.multiplicity.sum())
    (11, 21.0)
    """
    limit = size_px / 2 if max_radius is None else min(size_px / 2, max_radius)
    ky = np.fft.fftfreq(size_px, 1 / size_px).round().astype(int)
    rows, columns = np.meshgrid(np.arange(size_px), np.arange(size_px // 2 + 1), indexing="ij")
    kx, ky = columns, ky[rows]
    keep = (kx**2 + ky**2 < limit**2) & ((kx > 0) | (ky >= 0))
    points = np.stack([kx[keep], ky[keep]], axis=1).astype(np.float32)
    multiplicity = np.where((points == 0).all(1), 1, 2).astype(np.float32)
    return HalfPlane(points, rows[keep], columns[keep], multiplicity)


def prepare(volume, *, padding=2):
    """Transform a volume for slicing: divide by the interpolation's sinc², pad, transform.

    Parameters
    ----------
    volume : Volume
    padding : int
        With 2, projections of a ribosome that fills three quarters of its box correlate 0.9996 or better with exact
        ones in every ring to 0.8 Nyquist; with 3, 0.9999. padding · size_px must be even.

    Returns
    -------
    FourierVolume
    """
    size_px = volume.size_px
    data = padded_transform(volume.data / interpolation_envelope(size_px, padding), padding)
    # every slice reads this voxel as it is: nothing is interpolated that the envelope would have to undo
    data[_zero_frequency(data)] = volume.data.sum(dtype=np.float64)
    return FourierVolume(data, size_px, padding, volume.voxel_size)


def sample_slices(fourier_volume, matrices, points):
    """Values of a transform on rotated planes.

    Parameters
    ----------
    fourier_volume : FourierVolume
    matrices : ndarray (n, 3, 3)
        Rotation matrices R, image frame to volume frame.
    points : ndarray (m, 2)
        (kx, ky) in Fourier pixels of the unpadded box; Cartesian, polar, any.

    Returns
    -------
    ndarray (n, m) complex64: F_volume(R·(kx, ky, 0)); 0 beyond the transform's edge.
    """
    axes = plane_axes(matrices, fourier_volume.padding)
    points = np.ascontiguousarray(points, dtype=np.float32)
    slices = np.empty((len(axes), len(points)), dtype=np.complex64)
    _gather(fourier_volume.data, axes, points, slices)
    return slices


def insert_slices(accumulator, values, weights, matrices, points):
    """Add slices to an accumulator: the adjoint of `sample_slices`, for values and weights alike.

    Each point is inserted together with its Friedel partner at −k, so give one of each pair
    (`half_plane`; the zero-frequency point is its own partner and counts twice).

    Parameters
    ----------
    accumulator : Accumulator
        Changed in place.
    values : ndarray (n, m) complex
    weights : ndarray (n, m) real, or None to leave the weights as they are
    matrices, points
        As in `sample_slices`.
    """
    axes = plane_axes(matrices, accumulator.padding)
    points = np.ascontiguousarray(points, dtype=np.float32)
    values = np.ascontiguousarray(values, dtype=np.complex64)
    with_weights = weights is not None
    weights = np.ascontiguousarray(weights, dtype=np.float32) if with_weights else np.zeros((1, 1), np.float32)
    _scatter(accumulator.values, accumulator.weights, axes, points, values, weights, with_weights)


def shift_phases(points, shift, box_size):
    """exp(+2πi k·s), which carries a centred projection to where the particle was recorded (centre − s).

    Parameters
    ----------
    points : ndarray (m, 2)
        Fourier pixels.
    shift : ndarray (n, 2)
        Å; RELION's origin.
    box_size : float
        Å.

    Returns
    -------
    ndarray (n, m) complex64. Its conjugate centres a recorded image.
    """
    cycles = np.asarray(shift) @ np.asarray(points, dtype=np.float64).T / box_size
    return np.exp(2j * np.pi * cycles).astype(np.complex64)


def project(volume, poses):
    """Projections of a volume: image(x, y) = Σ_z V(R·(x, y, z)), each moved to centre − shift.

    Parameters
    ----------
    volume : Volume or FourierVolume
        A `FourierVolume` saves the transform where many calls share it.
    poses : Poses
        n of them.

    Returns
    -------
    ndarray (n, d, d) float32

    Notes
    -----
    Frequencies from d/2 (Nyquist) on are zero. `back_project` is the exact adjoint.

    Examples
    --------
    A projection keeps the total density:

    >>> from cryonb.types import Poses, Volume
    >>> from scipy.spatial.transform import Rotation
    >>> blob = np.zeros((16, 16, 16)); blob[8, 8, 8] = 5
    >>> image = project(Volume(blob, 2.0), Poses(Rotation.random(1, rng=0)))
    >>> image.shape, round(float(image.sum()), 3)
    ((1, 16, 16), 5.0)
    """
    prepared = volume if isinstance(volume, FourierVolume) else prepare(volume)
    size_px, box_size = prepared.size_px, prepared.size_px * prepared.voxel_size
    half = half_plane(size_px)
    images = np.empty((len(poses), size_px, size_px), dtype=np.float32)
    matrices = poses.rotation.as_matrix()
    for start in range(0, len(poses), BATCH):
        batch = slice(start, start + BATCH)
        slices = sample_slices(prepared, matrices[batch], half.points)
        if poses.shift[batch].any():
            slices *= shift_phases(half.points, poses.shift[batch], box_size)
        images[batch] = from_half_plane(slices, half, size_px)
    return images


def back_project(images, poses, voxel_size, *, padding=2):
    """The adjoint of `project`: ⟨project(V), Y⟩ = ⟨V, back_project(Y)⟩. It is not a reconstruction.

    Parameters
    ----------
    images : ndarray (n, d, d)
    poses : Poses
        n of them.
    voxel_size : float
        Å.
    padding : int

    Returns
    -------
    Volume (d, d, d): smeared images, summed; `cryonb.reconstruction.reconstruct` undoes the smearing.
    """
    images = np.asarray(images, dtype=np.float32)
    size_px = images.shape[-1]
    if images.shape != (len(poses), size_px, size_px):
        raise ValueError(f"images must have shape ({len(poses)}, d, d) to match the poses, got {images.shape}")
    half = half_plane(size_px)
    accumulator = Accumulator(size_px, padding=padding)
    matrices = poses.rotation.as_matrix()
    for start in range(0, len(poses), BATCH):
        batch = slice(start, start + BATCH)
        slices = to_half_plane(images[batch], half)
        slices *= shift_phases(half.points, -poses.shift[batch], size_px * voxel_size)
        # each point brings its partner; zero frequency has none
        insert_slices(accumulator, slices * (half.multiplicity / 2), None, matrices[batch], half.points)
    # the transform is unscaled: the adjoint of its inverse is the inverse of its adjoint, times (padded d)³ / d²
    values = complete_plane(accumulator.values)
    mean = values[_zero_frequency(values)].real / size_px**2
    values[_zero_frequency(values)] = 0
    data = cropped_inverse(values, size_px, padding)
    data *= (size_px * padding) ** 3 / size_px**2
    return Volume(data / interpolation_envelope(size_px, padding) + mean, voxel_size)


def to_half_plane(images, half):
    """Centred transform of ``images`` (n, d, d) at the m points of ``half``, a `HalfPlane`: (n, m) complex64."""
    transforms = scipy.fft.rfft2(scipy.fft.ifftshift(np.asarray(images, dtype=np.float32), axes=(-2, -1)))
    return transforms[:, half.rows, half.columns]


def from_half_plane(slices, half, size_px):
    """Images from their transforms at the points of a `HalfPlane`: undoes `to_half_plane`.

    Parameters
    ----------
    slices : ndarray (n, m) complex
    half : HalfPlane
    size_px : int
        Box size d.

    Returns
    -------
    ndarray (n, d, d) float32
    """
    transforms = np.zeros((len(slices), size_px, size_px // 2 + 1), dtype=np.complex64)
    transforms[:, half.rows, half.columns] = slices
    on_axis = half.columns == 0  # the partners of these lie in the same half of the transform
    transforms[:, -half.rows[on_axis] % size_px, 0] = slices[:, on_axis].conj()
    return scipy.fft.fftshift(scipy.fft.irfft2(transforms, s=(size_px, size_px)), axes=(-2, -1))


def interpolation_envelope(size_px, padding):
    """Real-space envelope of trilinear interpolation on a grid padded ``padding`` times."""
    axis = np.sinc((np.arange(size_px) - size_px // 2) / (size_px * padding)) ** 2
    return (axis[:, None, None] * axis[:, None] * axis).astype(np.float32)


def _zero_frequency(half_grid):
    return half_grid.shape[0] // 2, half_grid.shape[1] // 2, 0


def padded_transform(data, padding):
    """Transform of a volume zero-padded to ``padding`` times its box, kx ≥ 0, ky and kz centred."""
    size_px = data.shape[0]
    padded = size_px * padding
    if padded % 2:
        raise ValueError(f"padding · size_px must be even, got {padding} · {size_px}")
    start = padded // 2 - size_px // 2
    box = np.zeros((padded,) * 3, dtype=np.float32)
    box[(slice(start, start + size_px),) * 3] = data
    return scipy.fft.fftshift(scipy.fft.rfftn(scipy.fft.ifftshift(box)), axes=(0, 1))


def cropped_inverse(values, size_px, padding):
    """Inverse transform of the padded half-grid, cut to the box."""
    padded = size_px * padding
    box = scipy.fft.fftshift(scipy.fft.irfftn(scipy.fft.ifftshift(values, axes=(0, 1)), s=(padded,) * 3))
    start = padded // 2 - size_px // 2
    return box[(slice(start, start + size_px),) * 3]


def complete_plane(values):
    """Give the planes kx = 0 and kx = Nyquist what the Friedel partners of their points bring."""
    values = values.copy()
    for plane in (0, -1):
        partner = np.roll(values[::-1, ::-1, plane], 1, axis=(0, 1)).conj()
        values[:, :, plane] += partner
    return values


def plane_axes(matrices, padding):
    """Where each image's kx and ky axes point in the padded transform, (n, 3, 2)."""
    matrices = np.asarray(matrices)
    if matrices.ndim != 3 or matrices.shape[1:] != (3, 3):
        raise ValueError(f"matrices must have shape (n, 3, 3), got {matrices.shape}")
    return np.ascontiguousarray(matrices[:, :, :2] * padding, dtype=np.float32)


@numba.njit(cache=True, fastmath=True, nogil=True)
def _gather(data, axes, points, slices):
    # unsigned places: signed ones are tested for being counted from the end, which costs as much as the rest
    centre, end, one = np.float32(data.shape[0] // 2), np.float32(data.shape[0]), np.float32(1)
    size, step, origin = np.uint64(data.shape[0]), np.uint64(1), np.uint64(0)
    for n in range(len(axes)):
        xx, xy = axes[n, 0, 0], axes[n, 0, 1]
        yx, yy = axes[n, 1, 0], axes[n, 1, 1]
        zx, zy = axes[n, 2, 0], axes[n, 2, 1]
        for m in range(len(points)):
            kx, ky = points[m, 0], points[m, 1]
            x = xx * kx + xy * ky
            y = yx * kx + yy * ky
            z = zx * kx + zy * ky
            sign = -one if x < 0 else one
            x, y, z = sign * x, sign * y + centre, sign * z + centre
            if x >= centre or y < 0 or y >= end or z < 0 or z >= end:
                slices[n, m] = 0
                continue
            x0, y0, z0 = np.uint64(np.int32(x)), np.uint64(np.int32(y)), np.uint64(np.int32(z))
            y1 = y0 + step if y0 + step < size else origin  # +Nyquist is −Nyquist
            z1 = z0 + step if z0 + step < size else origin
            fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
            gx, gy, gz = one - fx, one - fy, one - fz
            low, high, a, b = gz * gy, gz * fy, fz * gy, fz * fy
            near = low * data[z0, y0, x0] + high * data[z0, y1, x0] + a * data[z1, y0, x0] + b * data[z1, y1, x0]
            x0 += step
            far = low * data[z0, y0, x0] + high * data[z0, y1, x0] + a * data[z1, y0, x0] + b * data[z1, y1, x0]
            value = gx * near + fx * far
            slices[n, m] = complex(value.real, sign * value.imag)


@numba.njit(cache=True, fastmath=True, nogil=True)
def _scatter(values, weights, axes, points, slices, slice_weights, with_weights):
    centre, end, one = np.float32(values.shape[0] // 2), np.float32(values.shape[0]), np.float32(1)
    size, step, origin = np.uint64(values.shape[0]), np.uint64(1), np.uint64(0)
    for n in range(len(axes)):
        xx, xy = axes[n, 0, 0], axes[n, 0, 1]
        yx, yy = axes[n, 1, 0], axes[n, 1, 1]
        zx, zy = axes[n, 2, 0], axes[n, 2, 1]
        for m in range(len(points)):
            kx, ky = points[m, 0], points[m, 1]
            x = xx * kx + xy * ky
            y = yx * kx + yy * ky
            z = zx * kx + zy * ky
            value = slices[n, m]
            if x < 0:
                x, y, z = -x, -y, -z
                value = np.conj(value)
            y += centre
            z += centre
            if x >= centre or y < 0 or y >= end or z < 0 or z >= end:
                continue
            x0, y0, z0 = np.uint64(np.int32(x)), np.uint64(np.int32(y)), np.uint64(np.int32(z))
            fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
            weight = slice_weights[n, m] if with_weights else np.float32(0)
            for dz in range(2):
                wz = fz if dz else one - fz
                zi = z0 if dz == 0 else (z0 + step if z0 + step < size else origin)  # +Nyquist is −Nyquist
                for dy in range(2):
                    wzy = wz * (fy if dy else one - fy)
                    yi = y0 if dy == 0 else (y0 + step if y0 + step < size else origin)
                    for dx in range(2):
                        w = wzy * (fx if dx else one - fx)
                        xi = x0 if dx == 0 else x0 + step
                        values[zi, yi, xi] += w * value
                        if with_weights:
                            weights[zi, yi, xi] += w * weight
