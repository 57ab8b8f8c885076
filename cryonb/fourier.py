"""Centred Fourier transforms, their frequency grids and their resolution shells.

The convention of the whole package: ``ft = fftshift ∘ fftn ∘ ifftshift``, so that the centre is
element ``d // 2`` on every axis in both spaces, odd or even; forward unscaled, inverse 1/N.
"""

import numpy as np
import scipy.fft

__all__ = ["frequency_grid", "inverse_transform", "radius_px", "shell_index", "shell_mean", "transform"]


def transform(array, *, ndim=None):
    """Centred discrete Fourier transform over the last ``ndim`` axes.

    Parameters
    ----------
    array : ndarray (..., d, d) or (..., d, d, d)
        Real or complex; float32 stays in single precision.
    ndim : int, optional
        How many trailing axes to transform; all of them by default.

    Returns
    -------
    ndarray, complex, same shape; zero frequency at ``d // 2``.

    Examples
    --------
    A point at the centre has a flat transform:

    >>> point = np.zeros((5, 5)); point[2, 2] = 1
    >>> bool(np.allclose(transform(point), 1))
    True
    """
    axes = _axes(array, ndim)
    return scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(array, axes=axes), axes=axes), axes=axes)


def inverse_transform(array, *, ndim=None):
    """Inverse of `transform` (complex; take ``.real`` where the image is known to be real).

    Parameters and shapes as in `transform`; scaled by 1/N.

    Examples
    --------
    >>> image = np.arange(9.0).reshape(3, 3)
    >>> bool(np.allclose(inverse_transform(transform(image)).real, image))
    True
    """
    axes = _axes(array, ndim)
    return scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(array, axes=axes), axes=axes), axes=axes)


def frequency_grid(size_px, pixel_size=1.0, *, ndim=2):
    """Frequencies in Å⁻¹ of a centred transform, one array per coordinate in the order x, y(, z).

    Parameters
    ----------
    size_px : int
        Box size d.
    pixel_size : float
        Å per pixel; 1 gives cycles per pixel.
    ndim : {2, 3}

    Returns
    -------
    tuple of ndarray (d,)*ndim, float64: ``(kx, ky)`` or ``(kx, ky, kz)``.

    Examples
    --------
    >>> kx, ky = frequency_grid(4)
    >>> kx[0].tolist(), ky[:, 0].tolist()
    ([-0.5, -0.25, 0.0, 0.25], [-0.5, -0.25, 0.0, 0.25])
    """
    axis = (np.arange(size_px) - size_px // 2) / (size_px * pixel_size)
    return tuple(np.meshgrid(*[axis] * ndim, indexing="ij"))[::-1]


def radius_px(size_px, *, ndim=2):
    """Distance of every pixel from the centre ``d // 2``, in pixels (real space or Fourier space).

    Parameters
    ----------
    size_px : int
    ndim : {2, 3}

    Returns
    -------
    ndarray (d,)*ndim, float64

    Examples
    --------
    >>> radius_px(3)[1].tolist()
    [1.0, 0.0, 1.0]
    """
    axis = (np.arange(size_px) - size_px // 2).astype(float) ** 2
    return np.sqrt(sum(np.meshgrid(*[axis] * ndim, indexing="ij")))


def shell_index(size_px, *, ndim=2):
    """Resolution shell of every Fourier pixel: the rounded distance from the centre.

    Shells 0 … ``size_px // 2`` are whole (up to Nyquist); higher ones are the corners.
    Shell s lies at s / (size_px · pixel_size) Å⁻¹.

    Returns
    -------
    ndarray (d,)*ndim, int64

    Examples
    --------
    >>> shell_index(4)[2].tolist()
    [2, 1, 0, 1]
    """
    return np.rint(radius_px(size_px, ndim=ndim)).astype(np.int64)


def shell_mean(values, *, ndim=2):
    """Average of ``values`` over the shells 0 … ``d // 2``.

    Parameters
    ----------
    values : ndarray (..., d, d) or (..., d, d, d)
        Real or complex, centred.
    ndim : {2, 3}

    Returns
    -------
    ndarray (..., d // 2 + 1)

    Examples
    --------
    >>> shell_mean(np.full((6, 6), 3.0)).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    values = np.asarray(values)
    size_px = values.shape[-1]
    index = shell_index(size_px, ndim=ndim).ravel()
    n_shells = size_px // 2 + 1
    inside = index < n_shells
    flat = values.reshape(-1, index.size)[:, inside]
    index = index[inside]
    counts = np.bincount(index, minlength=n_shells)

    def total(rows):
        return np.stack([np.bincount(index, weights=row, minlength=n_shells) for row in rows])

    sums = total(flat.real) + 1j * total(flat.imag) if np.iscomplexobj(flat) else total(flat)
    return (sums / counts).reshape(*values.shape[:-ndim], n_shells)


def _axes(array, ndim):
    array_ndim = np.ndim(array)
    ndim = array_ndim if ndim is None else ndim
    if not 1 <= ndim <= array_ndim:
        raise ValueError(f"ndim must be between 1 and the array's {array_ndim} axes, got {ndim}")
    return tuple(range(-ndim, 0))
