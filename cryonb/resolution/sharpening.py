"""The Guinier plot, the B factor that it shows, and sharpening by it."""

from dataclasses import dataclass

import numpy as np

from .. import filters, fourier
from .shells import FSC, check_finite

__all__ = ["BFactor", "Guinier", "b_factor", "guinier", "map_quality", "sharpen"]

WILSON_LIMIT = 10.0  # Å: coarser than this the particle's shape rules the amplitudes, not its atoms
FEWEST_SHELLS = 3


@dataclass(frozen=True, eq=False, repr=False)
class Guinier:
    """Logarithm of the amplitude over 1/d².

    Parameters
    ----------
    inverse_square : ndarray (m,)
        1/d² in Å⁻², one entry per shell.
    log_amplitude : ndarray (m,)
        ln of the mean amplitude.
    log_weighted : ndarray (m,)
        ln of the amplitude times C_ref, that of the signal alone; NaN where FSC ≤ 0. The same as ``log_amplitude``
        where no FSC was given.
    resolution : float
        Å, the finest that may be fitted.
    """

    inverse_square: np.ndarray
    log_amplitude: np.ndarray
    log_weighted: np.ndarray
    resolution: float

    def __repr__(self):
        return f"Guinier({len(self.inverse_square)} shells, to be fitted to {self.resolution:.3g} Å)"


@dataclass(frozen=True)
class BFactor:
    """Straight line through a Guinier plot; ``float`` gives the B factor.

    Parameters
    ----------
    value : float
        Å²: amplitudes fall as exp(−B / 4d²). RELION and others print −B.
    error : float
        Å², standard error of the fit.
    intercept : float
        ln amplitude at 1/d² = 0.
    low, high : float
        Å, the range fitted.
    """

    value: float
    error: float
    intercept: float
    low: float
    high: float

    def __float__(self):
        return self.value

    def line(self, inverse_square):
        """ln amplitude on the line at 1/d² in Å⁻², given as ``inverse_square``."""
        return self.intercept - self.value / 4 * np.asarray(inverse_square)


def map_quality(fsc):
    """C_ref = √(2 FSC / (1 + FSC)): correlation of the joined map with the perfect one, shell by shell.

    Parameters
    ----------
    fsc : FSC, or ndarray
        Between half maps.

    Returns
    -------
    ndarray (m,), 0 where FSC ≤ 0

    Notes
    -----
    Rosenthal & Henderson, J Mol Biol 333:721 (2003).

    Examples
    --------
    >>> map_quality(np.array([1.0, 1 / 7, -0.1])).round(6).tolist()
    [1.0, 0.5, 0.0]
    """
    correlation = np.clip(fsc.correlation if isinstance(fsc, FSC) else np.asarray(fsc, dtype=float), 0, None)
    return np.sqrt(2 * correlation / (1 + correlation))


def guinier(volume, *, fsc=None):
    """Guinier plot of a volume: ln of the mean amplitude in each shell over 1/d².

    Parameters
    ----------
    volume : Volume
        The mean of the half maps, masked as the curve was, unfiltered.
    fsc : FSC, optional
        Between the half maps, corrected for the mask. It weights the amplitudes by `map_quality` and ends the fit
        where it falls below 0.143; without it noise counts as signal and makes B too small.

    Returns
    -------
    Guinier

    Examples
    --------
    A point is flat in Fourier space:

    >>> data = np.zeros((16, 16, 16)); data[8, 8, 8] = 1
    >>> from cryonb.types import Volume
    >>> bool(np.allclose(guinier(Volume(data, 2.0)).log_amplitude, 0))
    True
    """
    check_finite(volume.data)
    amplitude = fourier.shell_mean(np.abs(fourier.transform(volume.data.astype(np.float64))), ndim=3)
    frequency = np.arange(len(amplitude)) / volume.box_size
    if fsc is None:
        quality, resolution = np.ones(len(amplitude)), 1 / frequency[-1]
    else:
        _check_curve(fsc, volume)
        quality, resolution = map_quality(fsc), fsc.at()
    return Guinier(frequency**2, _log(amplitude), _log(amplitude * quality), float(resolution))


def b_factor(plot, *, low=WILSON_LIMIT, high=None):
    """B factor from a straight line through the weighted Guinier plot: slope −B/4.

    Parameters
    ----------
    plot : Guinier
    low, high : float, optional
        Å, coarse and fine end of the fit: 10 Å, and the plot's own ``resolution``.

    Returns
    -------
    BFactor

    Raises
    ------
    ValueError
        Fewer than three shells between the ends: the volume does not reach where amplitudes follow Wilson's statistics.

    Notes
    -----
    Rosenthal & Henderson (2003); least squares, every shell alike. Between 10 and 5 Å the secondary structure's own
    bumps lie on the line; under 5 Å of reach expect an error of tens of Å² on real maps.

    Examples
    --------
    >>> squares = np.linspace(0, 0.1, 30)
    >>> fit = b_factor(Guinier(squares, 3 - 20 * squares, 3 - 20 * squares, 3.2))
    >>> round(float(fit), 6), round(fit.intercept, 6)
    (80.0, 3.0)
    """
    high = plot.resolution if high is None else high
    if not 0 < high < low:
        raise ValueError(
            f"a B factor is fitted from {low:.3g} Å to something finer, got {high:.3g} Å: "
            "this volume does not reach there"
        )
    square = plot.inverse_square
    fitted = (square >= 1 / low**2 - 1e-9) & (square <= 1 / high**2 + 1e-9) & np.isfinite(plot.log_weighted)
    if fitted.sum() < FEWEST_SHELLS:
        raise ValueError(f"{fitted.sum()} shells lie between {low:.3g} and {high:.3g} Å; a line needs {FEWEST_SHELLS}")
    x, y = square[fitted], plot.log_weighted[fitted]
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - (intercept + slope * x)
    error = np.sqrt((residual**2).sum() / max(len(x) - 2, 1) / ((x - x.mean()) ** 2).sum())
    return BFactor(float(-4 * slope), float(4 * error), float(intercept), float(low), float(high))


def sharpen(volume, b_factor, *, fsc=None, resolution=None):
    """Undo the fall of the amplitudes: multiply by exp(+B / 4d²), by C_ref, and cut off beyond the resolution.

    Parameters
    ----------
    volume : Volume
        The mean of the half maps.
    b_factor : float or BFactor
        Å², positive to sharpen, negative to blur.
    fsc : FSC, optional
        Between the half maps: shells are weighted by `map_quality`, the best filter against a perfect map.
    resolution : float, optional
        Å, of the low-pass filter; by default where ``fsc`` falls below 0.143, none without.

    Returns
    -------
    Volume

    Raises
    ------
    ValueError
        A curve with another number of shells than the volume, B that is not finite.

    Notes
    -----
    Rosenthal & Henderson (2003). Frequencies beyond Nyquist's sphere (the corners) are weighted as its last shell.

    Examples
    --------
    >>> from cryonb.types import Volume
    >>> volume = Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), 2.0)
    >>> there_and_back = sharpen(sharpen(volume, 50.0), -50.0)
    >>> bool(np.allclose(there_and_back.data, volume.data, atol=1e-5))
    True
    """
    check_finite(volume.data)
    b_factor = float(b_factor)
    if not np.isfinite(b_factor):
        raise ValueError(f"b_factor must be finite in Å², got {b_factor}")
    radius = fourier.radius_px(volume.size_px, ndim=3)
    factor = np.exp(b_factor / 4 * np.square(radius / volume.box_size))
    if fsc is not None:
        _check_curve(fsc, volume)
        factor *= np.interp(radius, np.arange(fsc.n_shells), map_quality(fsc))
        resolution = fsc.at() if resolution is None else resolution
    data = fourier.inverse_transform(fourier.transform(volume.data.astype(np.float64)) * factor).real
    sharp = volume.with_data(data)
    return sharp if resolution is None or not np.isfinite(resolution) else filters.low_pass(sharp, resolution)


def _log(amplitude):
    return np.log(amplitude, out=np.full(len(amplitude), np.nan), where=amplitude > 0)


def _check_curve(fsc, volume):
    if fsc.n_shells != volume.size_px // 2 + 1:
        raise ValueError(f"fsc must have {volume.size_px // 2 + 1} shells as the volume has, got {fsc.n_shells}")
