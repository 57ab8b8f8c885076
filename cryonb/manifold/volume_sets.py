"""A few volumes on one small Fourier-cropped grid, the same physical box as the particles'."""

from dataclasses import dataclass, replace

import numpy as np

from cryonb import fourier
from cryonb.projection.slices import interpolation_envelope, padded_transform
from cryonb.types import Volume

__all__ = ["PADDING", "VolumeSet", "crop_or_pad", "grid_size", "shell_power"]

PADDING = 2  # of the transforms that are sliced or filled


@dataclass(frozen=True, eq=False)
class VolumeSet:
    """Volumes on a Fourier-cropped grid of the same physical box.

    Parameters
    ----------
    data : ndarray (l, c, c, c) float32
    mask : ndarray (c, c, c) float32
    size_px : int
        Box of the particles.
    pixel_size : float
        Å, of the particles.
    """

    data: np.ndarray
    mask: np.ndarray
    size_px: int
    pixel_size: float

    def __len__(self):
        return len(self.data)

    def combine(self, coefficients):
        """Linear combinations, (r, l) coefficients: a set of r volumes."""
        data = np.tensordot(np.asarray(coefficients, dtype=np.float32), self.data, axes=1)
        return replace(self, data=data)

    def volumes(self):
        """The volumes at the particles' own box and pixel size, as a list of `Volume`."""
        return [Volume(crop_or_pad(volume, self.size_px), self.pixel_size) for volume in self.data]

    def transforms(self):
        """Padded half-transforms for slicing, (p, p, h, 2, l) float32: kx ≥ 0, real and imaginary."""
        size_px = self.data.shape[-1]
        envelope = interpolation_envelope(size_px, PADDING)
        stacked = [padded_transform(volume / envelope, PADDING) for volume in self.data]
        return (
            np.stack([[t.real, t.imag] for t in stacked], axis=-1)
            .transpose(1, 2, 3, 0, 4)
            .astype(np.float32, order="C")
        )


def grid_size(radius):
    """Edge of the cropped grid that holds a Fourier radius, with room for interpolation.

    Parameters
    ----------
    radius : float
        Fourier pixels.

    Returns
    -------
    int
    """
    return 2 * (int(radius) + 2)


def crop_or_pad(data, size_px):
    """A cube at another edge, the same physical box, by cropping or padding its transform.

    Unlike `cryonb.filters.resample` it keeps the sum over voxels, as projections do, and leaves out the Nyquist plane
    of an even box, which has no partner.

    Parameters
    ----------
    data : ndarray (d, d, d)
    size_px : int

    Returns
    -------
    ndarray (size_px, size_px, size_px) float32

    Examples
    --------
    >>> crop_or_pad(np.ones((8, 8, 8)), 4).sum().round(3).item()
    512.0
    """
    old = data.shape[-1]
    if old == size_px:
        return np.array(data, dtype=np.float32)
    source = fourier.transform(data)
    keep = min(old, size_px)
    result = np.zeros((size_px,) * 3, dtype=source.dtype)
    to, source_from = size_px // 2 - keep // 2, old // 2 - keep // 2
    inner = slice(1, keep) if keep % 2 == 0 else slice(0, keep)  # without the unpaired Nyquist plane
    into = tuple(slice(to + inner.start, to + inner.stop) for _ in range(3))
    out_of = tuple(slice(source_from + inner.start, source_from + inner.stop) for _ in range(3))
    result[into] = source[out_of]
    return fourier.inverse_transform(result).real.astype(np.float32)


def shell_power(volumes, n_shells):
    """Mean |V(k)|² per shell of each volume.

    Parameters
    ----------
    volumes : VolumeSet
        l of them.
    n_shells : int
        Shells beyond the grid are zero.

    Returns
    -------
    ndarray (n_shells, l)
    """
    spectra = [fourier.shell_mean(np.abs(fourier.transform(volume)) ** 2, ndim=3) for volume in volumes.data]
    power = np.stack(spectra, axis=1)
    result = np.zeros((n_shells, len(volumes)))
    keep = min(n_shells, len(power))
    result[:keep] = power[:keep]
    return result
