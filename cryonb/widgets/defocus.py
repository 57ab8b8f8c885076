"""Lay the rings of a CTF over those of a micrograph by hand, and see how well they agree."""

from dataclasses import replace

from cryonb import defocus as defocus_room
from cryonb import plot

from .panel import Panel, picture, slider

__all__ = ["ThonRings"]


class ThonRings(Panel):
    """Rings of a micrograph's spectrum beside those of a CTF that the sliders set.

    Parameters
    ----------
    spectrum : cryonb.defocus.Spectrum
    optics : CTF
        Voltage, aberration and amplitude contrast.
    limit : float, optional
        Å: the finest resolution drawn.

    Attributes
    ----------
    defocus, astigmatism, angle : sliders
        µm, µm, degrees.
    result : cryonb.defocus.DefocusFit
        The CTF of the sliders with its equiphase average; ``score`` and ``resolution`` say how well it fits.
    """

    def __init__(self, spectrum, optics, *, limit=5.0):
        self.spectrum, self.optics, self.limit = spectrum, optics, limit
        self.defocus = slider("defocus", 1.0, 0.3, 4.0, 0.02, unit="µm")
        self.astigmatism = slider("astigmatism", 0.0, 0.0, 0.4, 0.02, unit="µm")
        self.angle = slider("axis of astigmatism", 30, 0, 180, 5, unit="°")
        self.view = picture(900)
        super().__init__([self.defocus, self.astigmatism, self.angle], [self.view])

    def _refresh(self):
        mean, half = 1e4 * self.defocus.value, 0.5e4 * self.astigmatism.value
        ctf = replace(self.optics, defocus_u=mean + half, defocus_v=mean - half, defocus_angle=self.angle.value)
        self.result = defocus_room.at_defocus(self.spectrum, ctf)
        self.draw(self.view, self._figure, width=9.0, height=3.2)

    def _figure(self, figure):
        rings, curve = figure.subplots(1, 2, width_ratios=[1, 1.9])
        plot.ctf_fit(self.result, limit=self.limit, ax=rings)
        plot.equiphase_average(self.result, limit=self.limit, ax=curve)
        curve.set_title(f"score {self.result.score:.2f}, rings agree to {self.result.resolution:.3g} Å")
