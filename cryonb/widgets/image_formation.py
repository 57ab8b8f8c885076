"""From a density to a noisy image, one slider per step."""

import ipywidgets
import numpy as np

from cryonb import CTF, Poses, plot, projection, rotations, simulate

from .panel import Panel, picture, slider

__all__ = ["ImageFormation"]


class ImageFormation(Panel):
    """Projection, lens and noise of one view of a volume.

    Parameters
    ----------
    volume : Volume
    radius : float
        Radius of the particle in Å, inside which the signal-to-noise ratio holds.
    rng : seed
        Of the noise: the same grains whatever the sliders say.

    Attributes
    ----------
    rot, tilt : sliders
        Viewing direction in degrees.
    defocus : slider
        µm.
    snr : slider
        Logarithmic.
    result : FormedImage
        As `cryonb.simulate.form_image` gives it.
    """

    def __init__(self, volume, *, radius, rng):
        self.volume, self.radius, self.rng = volume, radius, rng
        self._transform = projection.prepare(volume)
        self.rot = slider("rot", 20, 0, 360, 10, unit="°")
        self.tilt = slider("tilt", 70, 0, 180, 5, unit="°")
        self.defocus = slider("defocus", 1.5, 0.0, 4.0, 0.1, unit="µm")
        self.snr = ipywidgets.FloatLogSlider(
            value=0.1, base=10, min=-2.0, max=1.0, step=0.1, description="signal-to-noise ratio",
            style={"description_width": "150px"}, layout={"width": "440px"}, readout_format=".2g",
        )  # fmt: skip
        self.view = picture(820)
        super().__init__([self.rot, self.tilt, self.defocus, self.snr], [self.view])

    def _refresh(self):
        pose = Poses(rotations.from_relion_angles([[self.rot.value, self.tilt.value, 0.0]]))
        defocus = 1e4 * self.defocus.value
        self.result = simulate.form_image(
            projection.project(self._transform, pose)[0], CTF(defocus, defocus), self.volume.voxel_size,
            snr=self.snr.value, radius_px=self.radius / self.volume.voxel_size, rng=self.rng,
        )  # fmt: skip
        self.draw(self.view, self._figure, width=8.2, height=3.1)

    def _figure(self, figure):
        made, lens = self.result, f"through the lens, {self.defocus.value:g} µm"
        plot.images(
            np.stack([made.projection, made.seen, made.noisy]),
            pixel_size=self.volume.voxel_size,
            ax=figure.subplots(),
            titles=["projection", lens, f"with noise, SNR {made.snr:.2g}"],
            limits="each",
        )
