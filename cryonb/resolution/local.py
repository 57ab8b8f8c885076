"""Local resolution: the Fourier shell correlation inside a window around every voxel."""

import numpy as np
import scipy.fft

from .. import filters, fourier
from ..types import Volume
from .shells import HALF_MAP_THRESHOLD, check_finite, check_same_grid, fourier_shell_correlation, mask_values

__all__ = ["local_resolution"]

WINDOW_IN_RESOLUTIONS = 5.0  # width of the window, in units of the global resolution
SMALLEST_WINDOW_PX = 9.0


def local_resolution(half1, half2, *, mask=None, window=None, threshold=HALF_MAP_THRESHOLD, bands=None, progress=False):
    """Resolution in Å around every voxel of a volume, from its half maps.

    Each half is filtered to one narrow band after another; in each band the correlation of the two,

    CC_k(r) = Σ w(r − s) a_k(s) b_k(s) / √(Σ w a_k² · Σ w b_k²),

    under a raised-cosine window w is the Fourier shell correlation of the surroundings of r. The resolution is where it
    first falls below ``threshold``.

    Parameters
    ----------
    half1, half2 : Volume
        Same box and voxel size.
    mask : ndarray (d, d, d), Volume, "sphere" or "auto", optional
        Where to look: it weights the window, so that solvent beside the particle does not count.
    window : float, optional
        Full width at half maximum in Å; by default 5 times the global resolution, and 9 voxels or more.
    threshold : float
        0.143, or 0.5 for a stricter and less noisy reading.
    bands : int, optional
        Number of bands from the first shell to Nyquist; by default as many as the window can tell apart, at most one
        per shell.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Volume: Å; NaN where the mask is below one half. Voxels whose correlation never falls get the last band's
    resolution, those below from the start the box size.

    Raises
    ------
    ValueError
        Boxes or voxel sizes that differ, values that are not finite, an empty mask, a window wider than the box.

    Notes
    -----
    The windowed FSC of Cardone, Heymann & Steven, J Struct Biol 184:226 (2013), with the order of window and transform
    exchanged (Penczek, IUCrJ 7:995 (2020)): filters come first, windows after, so the window's edge correlates
    nothing and needs no correction; and the cost is eight Fourier transforms a band instead of two a voxel. About
    eight volumes are in memory at once. A window of width w cannot see detail in the resolution finer than w, and its
    correlation in a band has an error of about 1 / √(Fourier pixels of the band inside the window): values scatter by
    a band or two, more in small windows. Near a border the better side reaches into the worse one, by up to a window.
    Half maps must not have been masked or filtered.

    Examples
    --------
    >>> from cryonb.filters import low_pass
    >>> rng = np.random.default_rng(0)
    >>> signal = low_pass(Volume(rng.normal(size=(32, 32, 32)), 2.0), 8.0).data
    >>> a, b = (Volume(signal + 0.3 * rng.normal(size=signal.shape), 2.0) for _ in range(2))
    >>> shell = 64 / np.median(local_resolution(a, b).data)
    >>> bool(abs(shell - 64 / 8) < 1)
    True
    """
    check_same_grid(half1, half2)
    for half in (half1, half2):
        check_finite(half.data)
    weight = np.broadcast_to(np.asarray(mask_values(mask, half1, half2), np.float32), half1.data.shape)
    if not (weight >= 0.5).any():
        raise ValueError(f"the mask is empty: its largest value is {weight.max():g}, expected 0.5 or more")
    window = _window(half1, half2, mask, window)
    centres, width = _bands(half1, window, bands)
    smooth = _HannWindow(half1.size_px, window / half1.voxel_size)
    spectra = [scipy.fft.rfftn(half.data - half.data.mean()) for half in (half1, half2)]
    radius = _radius(half1)
    reader = _Crossing(half1.data.shape, half1.box_size, threshold)
    if progress:
        from tqdm.auto import tqdm

        centres = tqdm(centres, desc="local resolution", unit="band")
    for centre in centres:
        band = np.clip(1 - np.abs(radius - centre) / width, 0, None).astype(np.float32)
        a, b = (scipy.fft.irfftn(spectrum * band, s=half1.data.shape) for spectrum in spectra)
        power = smooth(a * a * weight) * smooth(b * b * weight)
        cross = smooth(a * b * weight)
        correlation = np.divide(cross, np.sqrt(np.maximum(power, 0)), out=np.zeros_like(cross), where=power > 0)
        reader.add(centre, correlation)
    resolution = np.where(weight >= 0.5, 1 / reader.frequency(), np.nan)
    return Volume(resolution, half1.voxel_size, half1.origin)


class _Crossing:
    """Where a curve per voxel first falls below a threshold, read band by band without keeping the bands."""

    def __init__(self, shape, box_size, threshold):
        self.threshold = threshold
        self.before = np.ones(shape, np.float32)
        self.crossing = np.zeros(shape, np.float32)
        self.open = np.ones(shape, bool)
        self.last = self.first = 1 / box_size

    def add(self, centre, correlation):
        falls = self.open & (correlation < self.threshold)
        drop = self.before[falls] - correlation[falls]
        share = (self.before[falls] - self.threshold) / np.maximum(drop, 1e-6)
        self.crossing[falls] = self.last + np.clip(share, 0, 1) * (centre - self.last)
        self.open &= ~falls
        self.before, self.last = correlation, centre

    def frequency(self):
        return np.maximum(np.where(self.open, self.last, self.crossing), self.first)


class _HannWindow:
    """Sum over a ball with a raised-cosine weight, which is zero from one ``width_px`` on; by its transform."""

    def __init__(self, size_px, width_px):
        kernel = filters.raised_cosine(fourier.radius_px(size_px, ndim=3), 0, width_px)
        self.transfer = scipy.fft.rfftn(scipy.fft.ifftshift(kernel / kernel.sum()))

    def __call__(self, values):
        return scipy.fft.irfftn(scipy.fft.rfftn(values) * self.transfer, s=values.shape)


def _window(half1, half2, mask, window):
    if window is None:
        overall = fourier_shell_correlation(half1, half2, mask=mask).at()
        overall = overall if np.isfinite(overall) else half1.box_size
        window = max(WINDOW_IN_RESOLUTIONS * overall, SMALLEST_WINDOW_PX * half1.voxel_size)
        window = min(window, half1.box_size / 2)
    if not 3 * half1.voxel_size <= window <= half1.box_size:
        raise ValueError(
            f"window must be between three voxels, {3 * half1.voxel_size:g} Å, and the box, {half1.box_size:g} Å; "
            f"got {window:g} Å"
        )
    return window


def _bands(volume, window, bands):
    """Centres of the bands in Å⁻¹, and the half-width of their triangles: neighbours sum to one."""
    first, last = 1 / volume.box_size, 0.5 / volume.voxel_size
    if bands is None:
        bands = min(volume.size_px // 2, round(2 * (last - first) * window) + 2)
    if bands < 3:
        raise ValueError(f"bands must be 3 or more, got {bands}")
    centres = np.linspace(first, last, bands)
    return centres, centres[1] - centres[0]


def _radius(volume):
    axes = [np.fft.fftfreq(volume.size_px, volume.voxel_size)] * 2
    axes.append(np.fft.rfftfreq(volume.size_px, volume.voxel_size))
    squares = [np.square(axis).astype(np.float32) for axis in axes]
    return np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
