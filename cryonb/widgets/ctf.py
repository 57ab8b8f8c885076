"""Turn the knobs of the microscope and watch its contrast transfer function."""

from cryonb import CTF, plot

from .panel import Panel, picture, slider

__all__ = ["ContrastTransfer"]


class ContrastTransfer(Panel):
    """The CTF of one image, along a radius and in the plane.

    Parameters
    ----------
    pixel_size : float
        Å; the curves end at twice this.
    size_px : int, optional
        Box size of the rings drawn.

    Attributes
    ----------
    defocus, astigmatism, angle, amplitude_contrast : sliders
        µm, µm, degrees, and a fraction.
    voltage : slider
        kV.
    result : CTF
    """

    def __init__(self, *, pixel_size, size_px=128):
        self.pixel_size, self.size_px = pixel_size, size_px
        self.defocus = slider("defocus", 1.5, 0.0, 4.0, 0.1, unit="µm")
        self.astigmatism = slider("astigmatism", 0.3, 0.0, 1.0, 0.05, unit="µm")
        self.angle = slider("axis of astigmatism", 30, 0, 180, 5, unit="°")
        self.amplitude_contrast = slider("amplitude contrast", 0.1, 0.0, 0.3, 0.01)
        self.voltage = slider("voltage", 300, 100, 300, 20, unit="kV")
        self.view = picture(860)
        controls = [self.defocus, self.astigmatism, self.angle, self.amplitude_contrast, self.voltage]
        super().__init__(controls, [self.view])

    def _refresh(self):
        mean, half = 1e4 * self.defocus.value, 0.5e4 * self.astigmatism.value
        self.result = CTF(
            mean + half, mean - half, self.angle.value, voltage_kv=self.voltage.value,
            amplitude_contrast=self.amplitude_contrast.value,
        )  # fmt: skip
        self.draw(self.view, self._figure, width=8.6, height=2.9)

    def _figure(self, figure):
        curve, rings = figure.subplots(1, 2, width_ratios=[2.2, 1])
        plot.contrast_transfer(self.result, pixel_size=self.pixel_size, ax=curve)
        plot.thon_rings(self.result, size_px=self.size_px, pixel_size=self.pixel_size, ax=rings)
