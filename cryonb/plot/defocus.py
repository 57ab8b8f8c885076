"""Draw the rings of a micrograph's spectrum beside the CTF that was fitted to them."""

import numpy as np

from cryonb import ctf as _ctf

from .ctf import resolution_axis
from .style import new_axes, styled

__all__ = ["ctf_fit", "equiphase_average"]


@styled
def ctf_fit(fit, *, limit=None, ax=None):
    """Spectrum of a micrograph on the left, CTF² as fitted on the right: rings must pass from one into the other.

    Parameters
    ----------
    fit : cryonb.defocus.DefocusFit
        With a CTF.
    limit : float, optional
        Å: the finest resolution drawn; 4 Å, or Nyquist.
    ax : Axes, optional

    Returns
    -------
    Axes
        Over Å⁻¹; grey levels of the spectrum are standard deviations from the mean at the same radius.
    """
    ax = new_axes(ax, width=3.6, height=3.4)
    spectrum, ctf = _drawable(fit)
    reach = min(spectrum.nyquist, 0.25 if limit is None else 1 / limit)
    step = 1 / (spectrum.tile_px * spectrum.pixel_size)
    half = int(reach / step)
    middle = spectrum.tile_px // 2
    window = slice(middle - half, middle + half)
    axis = np.arange(-half, half) * step
    kx, ky = np.meshgrid(axis, axis)
    shown = _even(spectrum.centred()[window, window], np.rint(np.hypot(kx, ky) / step).astype(int))
    rings = _ctf.evaluate(ctf, kx, ky) ** 2
    right = kx >= 0
    shown[right] = 3.2 * rings[right] - 1.6
    edges = (-half - 0.5) * step, (half - 0.5) * step  # zero frequency in the middle of its pixel
    ax.imshow(shown, cmap="gray", vmin=-1.6, vmax=1.6, origin="lower", extent=[*edges, *edges])
    finest = fit.resolution
    if np.isfinite(finest) and 1 / finest < reach:
        angle = np.linspace(0, 2 * np.pi, 200)
        ax.plot(np.cos(angle) / finest, np.sin(angle) / finest, color="C1", lw=1.0)
    ax.set(xlabel="$k_x$ (Å⁻¹)", ylabel="$k_y$ (Å⁻¹)")
    return ax


@styled
def equiphase_average(fit, *, limit=None, ax=None):
    """Spectrum above its background along the radius, CTF² as fitted, and how well the two correlate.

    Parameters
    ----------
    fit : cryonb.defocus.DefocusFit
        With a CTF.
    limit : float, optional
        Å: the finest resolution drawn; 3 Å, or Nyquist.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.8)
    spectrum, _ = _drawable(fit)
    average = fit.average
    reach = min(0.95 * spectrum.nyquist, 1 / 3 if limit is None else 1 / limit)
    inside = average.frequency <= reach
    k = average.frequency[inside]
    above = (average.power - average.background)[inside]
    height = np.maximum(_envelope(above), 1e-12)
    ax.plot(k, average.fit[inside], color="#bbbbbb", lw=3, label="CTF²")
    ax.plot(k, np.clip(above / height, -0.5, 1.5), color="C0", lw=1.0, label="spectrum")
    ax.plot(k, average.correlation[inside], color="C1", lw=1.0, ls="--", label="correlation")
    ax.axhline(0.5, color="#999999", lw=0.6)
    if np.isfinite(fit.resolution):
        ax.axvline(1 / fit.resolution, color="C1", lw=0.8)
    resolution_axis(ax, reach)
    ax.set(ylim=(-0.5, 1.5), ylabel="height of the rings (their envelope is 1)")
    ax.legend(loc="upper right", ncols=3)
    return ax


def _drawable(fit):
    if fit.ctf is None:
        raise ValueError(f"there is no fit to draw: {fit.reason}")
    return fit.spectrum, fit.ctf


def _even(power, shell):
    """Standard deviations from the mean of the same shell, smoothed over 3 × 3 pixels."""
    from scipy.ndimage import uniform_filter

    n = shell.max() + 1
    count = np.maximum(np.bincount(shell.ravel(), minlength=n), 1)
    level = np.bincount(shell.ravel(), weights=power.ravel(), minlength=n) / count
    width = np.ones(max(3, n // 12))
    smooth = np.convolve(np.pad(level, len(width) // 2, mode="edge"), width / len(width), mode="same")
    smooth = smooth[len(width) // 2 :][:n]
    even = uniform_filter(power / smooth[shell] - 1, 3)
    spread = np.sqrt(np.bincount(shell.ravel(), weights=even.ravel() ** 2, minlength=n) / count)
    return even / np.maximum(spread, 1e-12)[shell]


def _envelope(above):
    """Height of the rings: the 90th percentile of a moving window."""
    from scipy.ndimage import percentile_filter, uniform_filter1d

    size = max(9, len(above) // 10)
    return uniform_filter1d(percentile_filter(above, 90, size), size)
