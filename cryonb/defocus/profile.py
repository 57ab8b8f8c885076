"""The spectrum along the radius, averaged where the CTF is the same, and how far its rings are seen."""

from dataclasses import dataclass

import numpy as np

from .. import ctf as ctf_room
from ..types import CTF

__all__ = ["EquiphaseAverage", "equiphase_average"]

TRUSTED = 0.5  # correlation of spectrum and fit down to which rings count as seen (Rohou & Grigorieff 2015)
WINDOW_RINGS = 2.0  # width of the window in rings of CTF²
LEAST_WINDOW = 9  # points


@dataclass(frozen=True, eq=False, repr=False)
class EquiphaseAverage:
    """A spectrum along the radius, averaged along lines of equal CTF.

    Parameters
    ----------
    frequency : ndarray (m,)
        Å⁻¹: where the CTF of the mean defocus has the phase of the line.
    power : ndarray (m,)
        Average of the spectrum.
    background : ndarray (m,)
        Local mean of ``power`` where rings and background are fitted in a moving window.
    fit : ndarray (m,)
        CTF² along the radius.
    correlation : ndarray (m,)
        Of spectrum and fit in a moving window about two rings wide.
    """

    frequency: np.ndarray
    power: np.ndarray
    background: np.ndarray
    fit: np.ndarray
    correlation: np.ndarray

    @property
    def resolution(self):
        """Å: the finest at which the correlation has not yet fallen below 0.5; inf where it never reached it."""
        good = self.correlation >= TRUSTED
        if not good.any():
            return np.inf
        first = int(np.argmax(good))
        if self.frequency[first] > 3 * self.frequency[0] and not good[: first + 1].mean() > 0.5:
            return np.inf
        beyond = np.flatnonzero(~good[first:])
        last = len(good) - 1 if not len(beyond) else first + beyond[0] - 1
        return float(1 / self.frequency[last])

    def score(self, finest=5.0):
        """CTFFIND's figure of merit: Σ A|CTF| / √(ΣA² ΣCTF²), A the amplitudes above the background.

        Parameters
        ----------
        finest : float
            Å: up to here.
        """
        inside = self.frequency <= 1 / finest
        amplitude = (np.sqrt(self.power) - np.sqrt(np.maximum(self.background, 0)))[inside]
        norm = np.sqrt((amplitude**2).sum() * self.fit[inside].sum())
        return float(amplitude @ np.sqrt(self.fit[inside]) / norm) if norm > 0 else 0.0

    def __repr__(self):
        return f"EquiphaseAverage({len(self.frequency)} frequencies, rings to {self.resolution:.3g} Å)"


def equiphase_average(spectrum, ctf, *, resolution=30.0):
    """Average a spectrum along the lines on which its CTF is constant.

    Parameters
    ----------
    spectrum : Spectrum
    ctf : CTF
        Of one image.
    resolution : float
        Å: the coarsest frequency.

    Returns
    -------
    EquiphaseAverage
        From ``resolution`` to 95 % of Nyquist.

    Notes
    -----
    A frequency (k, θ) goes to the radius at which the CTF of the mean defocus has the same phase: a plain rotational
    average would blur the rings of an astigmatic image. The correlation is the partial one, a straight line taken
    out of spectrum and CTF² in each window. Rohou & Grigorieff, J Struct Biol 192:216 (2015), section 2.4.

    Examples
    --------
    >>> from cryonb import simulate
    >>> from cryonb.defocus import estimate_spectrum
    >>> lens = CTF(16_000, 14_000, 20, b_factor=60)
    >>> field = simulate.Field(lens, (1024, 1024), 1.5, amorphous=0.3)
    >>> average = equiphase_average(estimate_spectrum(simulate.micrograph([], field, rng=0)[0]), lens)
    >>> bool(average.resolution < 6)
    True
    """
    size, pixel_size = spectrum.tile_px, spectrum.pixel_size
    kx, ky = np.fft.rfftfreq(size, pixel_size)[None, :], np.fft.fftfreq(size, pixel_size)[:, None]
    kx, ky = np.broadcast_arrays(kx, ky)
    radius = np.hypot(kx, ky)
    step = 1 / (size * pixel_size)
    kept = (radius >= 1 / resolution) & (radius <= 0.95 * spectrum.nyquist)
    kept &= (np.abs(kx) > 1.5 * step) & (np.abs(ky) > 1.5 * step)
    place = _equivalent_radius(ctf, kx[kept], ky[kept])
    frequency = np.arange(1 / resolution, 0.95 * spectrum.nyquist, step)
    index = np.rint((place - frequency[0]) / step).astype(int)
    inside = (index >= 0) & (index < len(frequency))
    count = np.bincount(index[inside], minlength=len(frequency))
    total = np.bincount(index[inside], weights=spectrum.power[kept][inside], minlength=len(frequency))
    filled = count > 0
    power = np.interp(frequency, frequency[filled], total[filled] / count[filled])
    mean = 0.5 * (ctf.defocus_u + ctf.defocus_v)
    fit = ctf_room.evaluate(_round(ctf, mean), frequency, np.zeros_like(frequency)) ** 2
    background, correlation = _windowed(frequency, power, fit, ctf, mean)
    return EquiphaseAverage(frequency, power, background, fit, correlation)


def _equivalent_radius(ctf, kx, ky):
    """Radius at which the mean defocus gives the phase of (kx, ky); by the smaller root of the quadratic in k²."""
    mean = 0.5 * (ctf.defocus_u + ctf.defocus_v)
    k_squared = kx**2 + ky**2
    angle = np.radians(ctf.defocus_angle)
    cosine = ((kx**2 - ky**2) * np.cos(2 * angle) + 2 * kx * ky * np.sin(2 * angle)) / k_squared
    local = mean + 0.5 * (ctf.defocus_u - ctf.defocus_v) * cosine
    spherical = 0.5 * ctf.cs_mm * 1e7 * ctf.wavelength**2
    phase = local * k_squared - spherical * k_squared**2  # χ / πλ without its constants
    if spherical == 0:
        return np.sqrt(np.maximum(phase / mean, 0))
    root = np.sqrt(np.maximum(mean**2 - 4 * spherical * phase, 0))
    return np.sqrt(np.maximum(2 * phase / (mean + root), 0))


def _round(ctf, mean):
    return CTF(
        mean, mean, 0.0, voltage_kv=ctf.voltage_kv, cs_mm=ctf.cs_mm, amplitude_contrast=ctf.amplitude_contrast,
        phase_shift=ctf.phase_shift,
    )  # fmt: skip


def _windowed(k, power, fit, ctf, mean):
    """Background and partial correlation of power and fit in windows as wide as two rings."""
    # A ring of CTF² is π of phase; the phase's slope is 2πλk (Δf − C_s λ² k²).
    slope = np.abs(2 * ctf.wavelength * k * (mean - ctf.cs_mm * 1e7 * ctf.wavelength**2 * k**2))
    width = WINDOW_RINGS / np.maximum(slope, 1e-12) / (k[1] - k[0])
    half = np.clip(np.rint(width / 2), LEAST_WINDOW // 2, len(k) // 4).astype(int)
    background, correlation = np.empty(len(k)), np.empty(len(k))
    for i in range(len(k)):
        window = slice(max(0, i - half[i]), min(len(k), i + half[i] + 1))
        x = k[window] - k[i]
        line = np.stack([np.ones_like(x), x], axis=1)
        both = np.stack([power[window], fit[window]], axis=1)
        rest = both - line @ np.linalg.lstsq(line, both, rcond=None)[0]
        norm = np.sqrt((rest**2).sum(axis=0))
        correlation[i] = rest[:, 0] @ rest[:, 1] / (norm[0] * norm[1]) if norm.min() > 0 else 0.0
        height = max(0.0, rest[:, 0] @ rest[:, 1] / max(norm[1] ** 2, 1e-30))
        background[i] = np.mean(power[window]) - height * np.mean(fit[window])
    return background, correlation
