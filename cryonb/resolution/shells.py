"""Fourier shell and ring correlation: the curve, and where it is read.

0.143 between half maps, 0.5 between a map and a model; frequencies in Å⁻¹, resolutions in Å.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft

from .. import filters, fourier
from ..types import Volume

__all__ = [
    "FSC", "HALF_MAP_THRESHOLD", "MODEL_THRESHOLD", "fourier_ring_correlation", "fourier_shell_correlation",
    "shell_correlation",
]  # fmt: skip

HALF_MAP_THRESHOLD = 0.143
"""Between half maps: there the joined map correlates 0.5 with the perfect one (Rosenthal & Henderson,
J Mol Biol 333:721 (2003), eq. 16: 0.5 = √(2 FSC / (1 + FSC)))."""

MODEL_THRESHOLD = 0.5
"""Between a map of all particles and a perfect reference (Rosenthal & Henderson 2003)."""


@dataclass(frozen=True, eq=False, repr=False)
class FSC:
    """Correlation of two transforms, shell by shell.

    Parameters
    ----------
    frequency : ndarray (d // 2 + 1,)
        Å⁻¹; shell s lies at s / box size.
    correlation : ndarray (d // 2 + 1,)
        −1 … 1; shell 0 is 1 by definition.
    n_pixels : ndarray (d // 2 + 1,)
        Fourier pixels per shell, of which half are independent.
    pixel_size : float
        Å.

    Examples
    --------
    >>> curve = FSC(np.array([0, 0.1, 0.2]), np.array([1.0, 0.643, -0.357]), np.array([1, 6, 18]), 2.5)
    >>> curve.at(0.143)
    6.666666666666666
    >>> curve
    FSC(3 shells to 5 Å, 0.143 at 6.67 Å)
    """

    frequency: np.ndarray
    correlation: np.ndarray
    n_pixels: np.ndarray
    pixel_size: float

    @property
    def n_shells(self):
        """Number of shells, the one at zero frequency included."""
        return len(self.frequency)

    @property
    def auc(self):
        """Area under the curve from shell 1 to Nyquist, divided by its width: the mean correlation."""
        width = self.frequency[-1] - self.frequency[1]
        return float(np.trapezoid(self.correlation[1:], self.frequency[1:]) / width)

    def at(self, threshold=HALF_MAP_THRESHOLD):
        """Resolution in Å where the curve first falls below ``threshold``, interpolated linearly in frequency.

        Returns
        -------
        float: the finest shell's resolution where the curve never falls; infinity where it is below from shell 1 on.
        """
        below = np.flatnonzero(self.correlation[1:] < threshold) + 1
        if len(below) == 0:
            return float(1 / self.frequency[-1])
        after = below[0]
        if after == 1:
            return float("inf")
        crossing = np.interp(
            -threshold, -self.correlation[[after - 1, after]], self.frequency[[after - 1, after]]
        )  # np.interp wants rising abscissae
        return float(1 / crossing)

    def __repr__(self):
        return f"FSC({self.n_shells} shells to {1 / self.frequency[-1]:.3g} Å, 0.143 at {self.at():.3g} Å)"


def fourier_shell_correlation(a, b, *, mask=None):
    """FSC of two volumes: Re Σ F_a F_b* / √(Σ|F_a|² Σ|F_b|²) over each shell.

    Parameters
    ----------
    a, b : Volume
        Same box and voxel size.
    mask : ndarray (d, d, d), Volume, "sphere" or "auto", optional
        Multiplies both. ``"sphere"``: soft sphere that fills the box; ``"auto"``: `cryonb.filters.soft_mask` around
        the mean of the two.

    Returns
    -------
    FSC

    Raises
    ------
    ValueError
        Boxes or voxel sizes that differ, values that are not finite.

    Notes
    -----
    Harauz & van Heel, Optik 73:146 (1986). A mask correlates what it multiplies: the sharper and tighter it is, the
    more the curve is raised beyond the truth.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b = (Volume(rng.normal(size=(24, 24, 24)), 2.0) for _ in range(2))
    >>> bool(np.allclose(fourier_shell_correlation(a, a).correlation, 1))
    True
    >>> bool(np.abs(fourier_shell_correlation(a, b).correlation[6:]).max() < 0.2)
    True
    """
    check_same_grid(a, b)
    factor = mask_values(mask, a, b)
    return volume_correlation(half_transform(a.data * factor), half_transform(b.data * factor), a.voxel_size)


def fourier_ring_correlation(a, b, pixel_size, *, mask=None):
    """The same for images; for two stacks one curve, summed over the pairs.

    Parameters
    ----------
    a, b : ndarray (d, d) or (n, d, d)
    pixel_size : float
        Å.
    mask : ndarray (d, d), optional

    Returns
    -------
    FSC

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(2, 16, 16))
    >>> round(fourier_ring_correlation(image, -image, 1.0).auc, 6)
    -1.0
    """
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    if a.shape != b.shape or a.ndim not in (2, 3) or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"images must have one shape, (d, d) or (n, d, d), got {a.shape} and {b.shape}")
    if mask is not None:
        if np.shape(mask) != a.shape[-2:]:
            raise ValueError(f"mask must have shape {a.shape[-2:]}, got {np.shape(mask)}")
        a, b = a * mask, b * mask
    return shell_correlation(_finite_transform(a), _finite_transform(b), pixel_size, ndim=2)


def shell_correlation(transform_a, transform_b, pixel_size, *, ndim):
    """FSC of two centred transforms, summed over leading axes; a shell without power gives 0.

    Parameters
    ----------
    transform_a, transform_b : ndarray (..., d, d) or (..., d, d, d) complex
    pixel_size : float
        Å.
    ndim : {2, 3}

    Returns
    -------
    FSC

    Examples
    --------
    >>> shell_correlation(np.ones((6, 6)), 2 * np.ones((6, 6)), 1.0, ndim=2).correlation.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    size_px = transform_a.shape[-1]
    axes = tuple(range(transform_a.ndim - ndim))
    cross = (transform_a * np.conj(transform_b)).real.sum(axis=axes, dtype=np.float64)
    power_a = (np.abs(transform_a) ** 2).sum(axis=axes, dtype=np.float64)
    power_b = (np.abs(transform_b) ** 2).sum(axis=axes, dtype=np.float64)
    cross, power_a, power_b = fourier.shell_mean(np.stack([cross, power_a, power_b]), ndim=ndim)
    norm = np.sqrt(power_a * power_b)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    correlation[0] = 1.0
    shell = fourier.shell_index(size_px, ndim=ndim).ravel()
    n_shells = size_px // 2 + 1
    n_pixels = np.bincount(shell, minlength=n_shells)[:n_shells]
    return FSC(np.arange(n_shells) / (size_px * pixel_size), correlation, n_pixels, float(pixel_size))


def check_same_grid(a, b):
    """Refuse two volumes whose boxes or voxel sizes differ."""
    if a.size_px != b.size_px:
        raise ValueError(f"volumes must have the same box, got {a.size_px} and {b.size_px} voxels")
    if abs(a.voxel_size / b.voxel_size - 1) > 1e-3:
        raise ValueError(f"volumes must have the same voxel size, got {a.voxel_size:g} and {b.voxel_size:g} Å")


def half_transform(data):
    """Transform of a volume (d, d, d) → (d, d, d // 2 + 1), not centred, of values that must all be finite.

    In double precision: an unsharpened volume spans more powers of ten than single precision holds.
    """
    check_finite(data)
    return scipy.fft.rfftn(data.astype(np.float64))


def half_frequencies(size_px):
    """Frequencies (kz, ky, kx) of a `half_transform` in Fourier pixels, to be broadcast."""
    full, half = np.fft.fftfreq(size_px, 1 / size_px), np.fft.rfftfreq(size_px, 1 / size_px)
    return full[:, None, None], full[None, :, None], half[None, None, :]


def volume_correlation(transform_a, transform_b, pixel_size):
    """FSC of two `half_transform`s, as `shell_correlation` of the whole ones gives it."""
    size_px = transform_a.shape[0]
    n_shells = size_px // 2 + 1
    kz, ky, kx = half_frequencies(size_px)
    twice = np.broadcast_to(np.where((kx == 0) | (2 * kx == size_px), 1.0, 2.0), (1, size_px, n_shells)).ravel()
    sums = np.zeros((4, n_shells))
    for plane, height in enumerate(kz.ravel()):
        shell = np.rint(np.sqrt(height**2 + ky**2 + kx**2)).astype(np.int64).ravel()
        a, b = transform_a[plane].ravel(), transform_b[plane].ravel()
        values = (a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2, np.ones(len(a))
        for total, value in zip(sums, values, strict=True):
            total += np.bincount(shell, value * twice, minlength=n_shells)[:n_shells]
    cross, power_a, power_b, n_pixels = sums
    norm = np.sqrt(power_a * power_b)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    correlation[0] = 1.0
    frequency = np.arange(n_shells) / (size_px * pixel_size)
    return FSC(frequency, correlation, n_pixels.astype(np.int64), float(pixel_size))


def _finite_transform(images):
    check_finite(images)
    return fourier.transform(images, ndim=2)


def check_finite(array):
    """Refuse NaN and infinite values."""
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} values are NaN or infinite; expected none")


def mask_values(mask, a, b):
    """What multiplies two volumes, as an array, from any of the forms that a ``mask`` may have."""
    if mask is None:
        return np.float32(1)
    if isinstance(mask, str):
        if mask == "sphere":
            edge_px = max(3, a.size_px // 10)
            return filters.soft_sphere(a.size_px, a.size_px / 2 - edge_px, edge_px=edge_px)
        if mask == "auto":
            return filters.soft_mask(a.with_data((a.data + b.data) / 2))
        raise ValueError(f'mask must be an array, a Volume, "sphere" or "auto", got {mask!r}')
    values = mask.data if isinstance(mask, Volume) else np.asarray(mask, dtype=np.float32)
    if values.shape != a.data.shape:
        raise ValueError(f"mask must have the volumes' shape {a.data.shape}, got {values.shape}")
    if isinstance(mask, Volume) and abs(mask.voxel_size / a.voxel_size - 1) > 1e-3:
        raise ValueError(f"mask must have the volumes' voxels of {a.voxel_size:g} Å, got {mask.voxel_size:g} Å")
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN is refused, too
        raise ValueError(f"mask must lie between 0 and 1, got {low:.3g} to {high:.3g}")
    if high <= 0:
        raise ValueError("mask is empty: it is 0 everywhere")
    return values
