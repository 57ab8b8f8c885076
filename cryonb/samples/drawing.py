"""Pseudo-atoms to volumes and images without aliasing; rigid bodies to images by cubic slices.

Gaussians narrower than a pixel alias when sampled. So they are drawn on a grid twice as fine with some extra
blur, cut to the wanted frequencies, and the blur and the pixel's sinc are divided out: the fast Gaussian
gridding of Greengard & Lee, SIAM Rev 46:443 (2004). What is left of aliasing is below 1e-3 at Nyquist.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft

from .. import projection
from ..types import Volume

__all__ = ["Body", "add_slices", "draw_image", "draw_volume", "empty_transforms", "prepare_body", "to_images"]

SPREAD = 0.75  # extra blur in fine pixels
PADDING = 2


@dataclass(frozen=True, eq=False)
class Body:
    """Transform of a rigid body, ready for cubic slices (`prepare_body`).

    Parameters
    ----------
    data : ndarray (2m + 1, 2m + 1, m + 3) complex64
        ``[kz, ky, kx]`` on a grid twice finer than Fourier pixels: kz and ky 0 … m, −m … −1, and kx −2 … m.
    box_size : float
        Å, of the unpadded box.
    """

    data: np.ndarray
    box_size: float


def draw_volume(atoms, sigma, size_px, voxel_size):
    """Density of pseudo-atoms, band-limited to |k| below Nyquist.

    Parameters
    ----------
    atoms : tuple of ndarray (a, 3) and (a,)
        Coordinates in Å from the centre of the box, and weights; atoms of weight 0 are skipped.
    sigma : ndarray (a,)
        Å.
    size_px : int
    voxel_size : float
        Å.

    Returns
    -------
    Volume
    """
    drawn, blur = _draw_finely(atoms, sigma, size_px, voxel_size)
    fine, rows, columns = len(drawn), _frequencies(size_px), np.arange(size_px // 2 + 1)
    transform = scipy.fft.rfftn(scipy.fft.ifftshift(drawn))[np.ix_(rows % fine, rows % fine, columns)]
    kz, ky, kx = np.meshgrid(rows, rows, columns, indexing="ij", sparse=True)
    for k in (kx, ky, kz):
        transform *= _undo_drawing(k, size_px, fine, blur)
    transform[kx**2 + ky**2 + kz**2 >= (size_px / 2) ** 2] = 0
    return Volume(scipy.fft.fftshift(scipy.fft.irfftn(transform, s=(size_px,) * 3)), voxel_size)


def draw_image(atoms, sigma, pose, size_px, pixel_size):
    """Projection of pseudo-atoms, atom by atom, band-limited to |k| below Nyquist.

    Parameters
    ----------
    atoms, sigma
        As in `draw_volume`.
    pose : Poses of length 1
    size_px : int
    pixel_size : float
        Å.

    Returns
    -------
    ndarray (d, d) float32
    """
    present, width, fine, blur = _fine_atoms(atoms, sigma, size_px, pixel_size)
    drawn = projection.project_atoms(present, width, pose, fine, pixel_size * size_px / fine)[0]
    rows, columns = _frequencies(size_px), np.arange(size_px // 2 + 1)
    transform = scipy.fft.rfft2(scipy.fft.ifftshift(drawn))[np.ix_(rows % fine, columns)]
    for k in (rows[:, None], columns):
        transform *= _undo_drawing(k, size_px, fine, blur)
    return to_images((transform * _inside(size_px))[None], size_px)[0]


def prepare_body(atoms, sigma, size_px, pixel_size):
    """Transform of pseudo-atoms for cubic slices: draw, divide by the spline's sinc⁴, pad, transform.

    Parameters
    ----------
    atoms, sigma, size_px, pixel_size
        As in `draw_volume`.

    Returns
    -------
    Body

    Notes
    -----
    Sampling the transform on a padded grid repeats the body at every period P; a cubic B-spline suppresses
    the copies of what lies x from the centre by (x / (P − x))⁴, 4e-4 at a quarter of the box, where the trilinear
    interpolation of `cryonb.projection` suppresses them by the square root of that.
    """
    drawn, blur = _draw_finely(atoms, sigma, size_px, pixel_size)
    fine, top = len(drawn), size_px + 2  # slices reach d / 2 Fourier pixels, the spline one grid point more
    period = PADDING * fine
    along = np.arange(fine) - fine // 2
    envelope = (1 / np.sinc(along / period) ** 4).astype(np.float32)
    rows = np.concatenate([np.arange(top + 1), np.arange(-top, 0)])
    data = drawn
    for axis, kept in ((2, np.arange(-2, top + 1)), (1, rows), (0, rows)):
        shape = [-1 if i == axis else 1 for i in range(3)]
        data = scipy.fft.fft(data * envelope.reshape(shape), n=period, axis=axis).take(kept, axis=axis)
        centred = np.exp(2j * np.pi * kept * (fine // 2) / period)
        data *= (centred * _undo_drawing(kept / PADDING, size_px, fine, blur)).astype(np.complex64).reshape(shape)
    return Body(data, size_px * pixel_size)


def empty_transforms(n, size_px):
    """Zeroed ``rfft2`` transforms of n images: ndarray (n, d, d // 2 + 1) complex64.

    Parameters
    ----------
    n, size_px : int
    """
    return np.zeros((n, size_px, size_px // 2 + 1), dtype=np.complex64)


def add_slices(transforms, rows, body, matrices, shift):
    """Add a body's central slices, moved, to some of the transforms.

    Parameters
    ----------
    transforms : ndarray (n, d, d // 2 + 1)
        Changed in place.
    rows : ndarray (m,) int
        Which transforms.
    body : Body
    matrices : ndarray (m, 3, 3)
        Image frame to the body's frame at rest.
    shift : ndarray (m, 2)
        Å, as in `Poses`.
    """
    size_px = transforms.shape[1]
    inside = _inside(size_px)
    ky, kx = np.meshgrid(_frequencies(size_px), np.arange(size_px // 2 + 1), indexing="ij")
    points = np.stack([kx[inside], ky[inside]], axis=1)
    axes = np.ascontiguousarray(matrices[:, :, :2] * PADDING)
    slices = np.empty((len(rows), len(points)), dtype=np.complex64)
    _gather_cubic(body.data, axes, points.astype(np.float64), slices)
    slices *= projection.shift_phases(points, shift, body.box_size)
    block = transforms[rows]
    block[:, inside] += slices
    transforms[rows] = block


def to_images(transforms, size_px):
    """Centred images (n, d, d) float32 of ``rfft2`` transforms.

    Parameters
    ----------
    transforms : ndarray (n, d, d // 2 + 1)
    size_px : int
        d.
    """
    images = scipy.fft.irfft2(transforms, s=(size_px, size_px))
    return scipy.fft.fftshift(images, axes=(-2, -1)).astype(np.float32)


def _fine_atoms(atoms, sigma, size_px, pixel_size):
    """Atoms of some weight, their blurred sigma, the size of the grid to draw on, and the blur in pixels."""
    (coordinates, weights), here = atoms, atoms[1] != 0
    fine, blur = (size_px, 0.0) if np.min(sigma) >= 0.9 * pixel_size else (2 * size_px, SPREAD / 2)
    return (coordinates[here], weights[here]), np.hypot(sigma[here], blur * pixel_size), fine, blur


def _draw_finely(atoms, sigma, size_px, voxel_size):
    present, width, fine, blur = _fine_atoms(atoms, sigma, size_px, voxel_size)
    return projection.atoms_to_volume(present, width, fine, voxel_size * size_px / fine).data, blur


def _undo_drawing(k, size_px, fine, blur_px):
    """One over what drawing multiplied the transform by along one axis: the fine pixel's sinc, the extra blur."""
    return (np.exp(2 * (np.pi * blur_px * k / size_px) ** 2) / np.sinc(k / fine)).astype(np.float32)


def _frequencies(size_px):
    """Fourier pixels in the order of ``fft``."""
    return scipy.fft.ifftshift(np.arange(size_px) - size_px // 2)


def _inside(size_px):
    """Where |k| < d/2 in the ``rfft2`` of an image."""
    return _frequencies(size_px)[:, None] ** 2 + np.arange(size_px // 2 + 1) ** 2 < (size_px / 2) ** 2


@numba.njit(cache=True, nogil=True, fastmath=True)
def _spline_weights(fraction, out):
    rest = 1.0 - fraction
    out[0] = rest**3 / 6
    out[1] = (4 - 6 * fraction**2 + 3 * fraction**3) / 6
    out[2] = (4 - 6 * rest**2 + 3 * rest**3) / 6
    out[3] = fraction**3 / 6


@numba.njit(cache=True, nogil=True, fastmath=True)
def _gather_cubic(data, axes, points, slices):
    rows = data.shape[0]
    wx, wy, wz = np.empty(4, np.float32), np.empty(4, np.float32), np.empty(4, np.float32)
    row_y = np.empty(4, np.int64)
    for n in range(len(axes)):
        for m in range(len(points)):
            kx, ky = points[m, 0], points[m, 1]
            x = axes[n, 0, 0] * kx + axes[n, 0, 1] * ky
            y = axes[n, 1, 0] * kx + axes[n, 1, 1] * ky
            z = axes[n, 2, 0] * kx + axes[n, 2, 1] * ky
            mirrored = x < 0
            if mirrored:
                x, y, z = -x, -y, -z
            x0, y0, z0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
            _spline_weights(x - x0, wx)
            _spline_weights(y - y0, wy)
            _spline_weights(z - z0, wz)
            for i in range(4):
                row_y[i] = (y0 - 1 + i) % rows
            total = np.complex64(0)
            for i in range(4):
                zi = (z0 - 1 + i) % rows
                plane = np.complex64(0)
                for j in range(4):
                    line = data[zi, row_y[j]]
                    part = wx[0] * line[x0 + 1] + wx[1] * line[x0 + 2] + wx[2] * line[x0 + 3] + wx[3] * line[x0 + 4]
                    plane += wy[j] * part
                total += wz[i] * plane
            slices[n, m] = np.conj(total) if mirrored else total
