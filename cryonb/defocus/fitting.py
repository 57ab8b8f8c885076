"""From a micrograph to its CTF, with an error bar, a verdict, and the reason where there is none."""

from dataclasses import dataclass, replace

import numpy as np

from ..types import CTF, Micrograph
from .likelihood import fit_rings
from .profile import EquiphaseAverage, equiphase_average
from .search import PHASE_STEP, lens, search
from .spectrum import Spectrum, defects, estimate_spectrum

__all__ = ["DefocusFit", "at_defocus", "fit_defocus"]

BOOTSTRAP = 400
# Of the log-likelihood, by rings. Chosen after a test: 60 simulated micrographs without rings reached 46, and with
# amorphous ice a fiftieth of the noise (1024², 1.3 Å/pixel) the gain is 170 or more.
LEAST_GAIN = 60.0
COARSEST = 12.0  # Å: rings that end before are no measurement
ICE = 1.35  # power at 3.55–3.95 Å over that beside it, in any direction


@dataclass(frozen=True, eq=False, repr=False)
class DefocusFit:
    """The CTF of a micrograph, and how well it is known.

    Parameters
    ----------
    ctf : CTF, or None
        None where nothing could be fitted.
    draws : ndarray (b, 4)
        Bootstrap over tiles: defocus U, V in Å, angle and phase shift in degrees.
    average : EquiphaseAverage, or None
    spectrum : Spectrum, or None
    reason : str
        Why not to trust it: "nan", "black", "saturated", "no rings", "ice", "edge", with figures; "" for a good fit.
    """

    ctf: CTF | None
    draws: np.ndarray
    average: EquiphaseAverage | None
    spectrum: Spectrum | None
    reason: str = ""

    @property
    def failed(self):
        """Whether the fit is not to be trusted."""
        return bool(self.reason)

    @property
    def resolution(self):
        """Å to which rings and fit agree; inf where there is no fit."""
        return np.inf if self.average is None else self.average.resolution

    @property
    def score(self):
        """CTFFIND's figure of merit from 30 to 5 Å; 0 where there is no fit."""
        return 0.0 if self.average is None else self.average.score()

    @property
    def error(self):
        """Standard deviations of defocus U, V (Å), angle and phase shift (degrees), (4,); NaN without a fit."""
        if not len(self.draws):
            return np.full(4, np.nan)
        return np.sqrt((self._away() ** 2).mean(axis=0))

    def interval(self, credibility=0.9):
        """Lower and upper bounds of defocus U, V, angle and phase shift, (4, 2), symmetric about the estimate.

        Parameters
        ----------
        credibility : float
            Probability inside, of each for itself.
        """
        from scipy.stats import t as student

        values = np.array([self.ctf.defocus_u, self.ctf.defocus_v, self.ctf.defocus_angle, self.ctf.phase_shift])
        # Overlapping tiles count as fewer, and the spread of a few is itself uncertain.
        freedom = max(1.0, len(self.spectrum.tiles) / self.spectrum.inflation - 1)
        reach = student.ppf(0.5 + credibility / 2, freedom) * self.error
        return np.column_stack([values - reach, values + reach])

    def _away(self):
        centre = [self.ctf.defocus_u, self.ctf.defocus_v, self.ctf.defocus_angle, self.ctf.phase_shift]
        away = self.draws - centre
        away[:, 2] = (away[:, 2] + 90) % 180 - 90  # an axis has no direction
        return away

    def __repr__(self):
        if self.ctf is None:
            return f"DefocusFit(failed: {self.reason})"
        u, v, angle, _ = self.error
        return (
            f"DefocusFit(U {self.ctf.defocus_u:.0f} ± {u:.0f} Å, V {self.ctf.defocus_v:.0f} ± {v:.0f} Å, "
            f"angle {self.ctf.defocus_angle:.1f} ± {angle:.1f}°, rings to {self.resolution:.2g} Å"
            + (f", failed: {self.reason})" if self.reason else ")")
        )


def fit_defocus(micrograph, optics, *, defocus=(3000.0, 50000.0), resolution=(30.0, 5.0), phase_shift=None, rng):
    """Defocus, astigmatism and, if asked, phase shift of a micrograph.

    Parameters
    ----------
    micrograph : Micrograph, or Spectrum
        A spectrum, to choose its tiles.
    optics : CTF
        Voltage, aberration, amplitude contrast and phase shift of the microscope; its defocus is not read.
    defocus : (float, float)
        Å, range of the mean defocus that is searched.
    resolution : (float, float)
        Å, coarsest and finest that are fitted; the finest is 95 % of Nyquist where that is coarser.
    phase_shift : (float, float), optional
        Degrees, range to search; by default that of ``optics`` is taken.
    rng : int or numpy.random.Generator
        Of the bootstrap.

    Returns
    -------
    DefocusFit
        A micrograph that cannot be fitted gives a `DefocusFit` whose ``reason`` says why; nothing is raised.

    Raises
    ------
    ValueError
        Ranges that are empty, or a micrograph whose pixels are too coarse for any ring.

    Notes
    -----
    After CTFFIND4 (Rohou & Grigorieff, J Struct Biol 192:216, 2015): spectrum of tiles, search, refinement in the
    plane, resolution of the fit. Two steps differ. The search looks at sectors, so that a strong
    astigmatism does not blur its rings; and the last step is a maximum of the likelihood with a background that is
    fitted along, instead of a box filter. Error bars come from a bootstrap over tiles, to first order in the tiles'
    deviations. They hold the statistics of the spectrum, not a wrong
    voltage, pixel size or amplitude contrast.

    Examples
    --------
    >>> from cryonb import simulate
    >>> field = simulate.Field(CTF(16_000, 14_500, 60, b_factor=60), (1024, 1024), 1.5, amorphous=0.3)
    >>> fit = fit_defocus(simulate.micrograph([], field, rng=0)[0], field.ctf, rng=1)
    >>> bool(abs(fit.ctf.defocus_u - 16_000) < 50), bool(abs(fit.ctf.defocus_angle - 60) < 2), fit.failed
    (True, True, False)
    """
    check_ranges(defocus, resolution, phase_shift)
    spectrum = micrograph
    if isinstance(micrograph, Micrograph):
        reason = defects(micrograph)
        if reason:
            return DefocusFit(None, np.zeros((0, 4)), None, None, reason)
        spectrum = estimate_spectrum(micrograph, limit=resolution[1])
    reach = float(np.hypot(spectrum.kx, spectrum.ky).max())
    if reach < 1.5 / resolution[0]:
        raise ValueError(
            f"pixels of {spectrum.pixel_size:g} Å show nothing finer than {1 / reach:.3g} Å, too little beyond the "
            f"coarsest resolution asked for, {resolution[0]:g} Å"
        )
    resolution = (resolution[0], max(resolution[1], 1 / reach))
    fit_phase = phase_shift is not None
    phases = np.arange(phase_shift[0], phase_shift[1] + PHASE_STEP, PHASE_STEP) if fit_phase else [optics.phase_shift]
    start = search(spectrum, optics, defocus, resolution, phases)[:4]
    rings = fit_rings(spectrum, optics, start, resolution, fit_phase=fit_phase)
    phase = float(rings.parameters[3]) if fit_phase else float(start[3])
    ctf = lens(optics, *rings.parameters[:3], phase)
    average = equiphase_average(spectrum, ctf, resolution=resolution[0])
    fit = DefocusFit(ctf, _draw(rings, spectrum, phase, np.random.default_rng(rng)), average, spectrum)
    return replace(fit, reason=_doubt(fit, rings, defocus))


def at_defocus(spectrum, ctf):
    """A given CTF against a spectrum, nothing fitted: for a value from elsewhere, or set by hand.

    Parameters
    ----------
    spectrum : Spectrum
    ctf : CTF
        Of one image.

    Returns
    -------
    DefocusFit
        Without error bars.

    Examples
    --------
    >>> from cryonb import simulate
    >>> lens = CTF(15_000, 15_000, b_factor=60)
    >>> picture = simulate.micrograph([], simulate.Field(lens, (1024, 1024), 1.5, amorphous=0.3), rng=0)[0]
    >>> spectrum = estimate_spectrum(picture)
    >>> at_defocus(spectrum, lens).score > 0.7 > at_defocus(spectrum, CTF(12_000, 12_000)).score
    True
    """
    return DefocusFit(ctf, np.zeros((0, 4)), equiphase_average(spectrum, ctf), spectrum)


def _draw(rings, spectrum, phase, rng):
    """Bootstrap: the sum of the influences of tiles drawn anew, widened for their overlap."""
    n = len(rings.influence)
    chosen = rng.multinomial(n, np.full(n, 1 / n), BOOTSTRAP)
    change = (chosen - 1) @ rings.influence * np.sqrt(spectrum.inflation)
    values = rings.parameters + change
    half = 0.5 * np.hypot(values[:, 1], values[:, 2])
    angle = np.degrees(0.5 * np.arctan2(values[:, 2], values[:, 1])) % 180
    phases = values[:, 3] if values.shape[1] > 3 else np.full(BOOTSTRAP, phase)
    return np.column_stack([values[:, 0] + half, values[:, 0] - half, angle, phases])


def _doubt(fit, rings, defocus):
    """Why not to trust a fit, or ""."""
    mean = 0.5 * (fit.ctf.defocus_u + fit.ctf.defocus_v)
    if not rings.gain > LEAST_GAIN:
        return f"no rings: they raise the log-likelihood by {rings.gain:.0f}, expected {LEAST_GAIN:g} or more"
    if not fit.resolution <= max(COARSEST, 2.5 / (2 * fit.spectrum.nyquist)):
        return f"no rings beyond {fit.resolution:.3g} Å"
    if not defocus[0] <= mean <= defocus[1]:
        return f"edge: {mean:.0f} Å lies outside the range of {defocus[0]:g} to {defocus[1]:g} Å"
    ice = ice_ring(fit.spectrum)
    if ice > ICE:
        return f"ice: {ice:.2f} times the power at 3.55–3.95 Å that is beside it"
    return ""


def ice_ring(spectrum):
    """Power at the strong reflections of ice over that beside them, in the direction in which it is highest.

    Parameters
    ----------
    spectrum : Spectrum

    Returns
    -------
    float; 0 where Nyquist does not reach 3.4 Å.

    Notes
    -----
    Hexagonal ice reflects at 3.90, 3.67 and 3.44 Å, cubic ice at 3.66 Å (Dowell & Rinfret, Nature 188:1144, 1960).
    """
    if spectrum.nyquist < 1 / 3.4:
        return 0.0
    size, pixel_size = spectrum.tile_px, spectrum.pixel_size
    kx, ky = np.fft.rfftfreq(size, pixel_size)[None, :], np.fft.fftfreq(size, pixel_size)[:, None]
    length = 1 / np.maximum(np.hypot(kx, ky), 1e-9)
    sector = ((np.degrees(np.arctan2(ky, kx)) % 180) // 15).astype(int)
    ring = (length >= 3.55) & (length <= 3.95)
    beside = ((length > 3.4) & (length < 3.5)) | ((length > 4.1) & (length < 4.4))
    return max(
        float(spectrum.power[ring & (sector == s)].mean() / spectrum.power[beside & (sector == s)].mean())
        for s in range(12)
    )


def check_ranges(defocus, resolution, phase_shift):
    """Refuse ranges that are empty, before any work; parameters as in `fit_defocus`."""
    if not 0 < defocus[0] < defocus[1] < np.inf:
        raise ValueError(f"defocus must be a range (low, high) of positive Å, got {tuple(defocus)}")
    if not resolution[0] > resolution[1] > 0:
        raise ValueError(f"resolution must be (coarsest, finest) in Å, got {tuple(resolution)}")
    if phase_shift is not None and not phase_shift[0] < phase_shift[1]:
        raise ValueError(f"phase_shift must be a range (low, high) in degrees, got {tuple(phase_shift)}")
