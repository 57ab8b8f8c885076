"""Back-projection under the reader's hand: how many shadows, over which range, with or without the ramp."""

import numpy as np

from cryonb import plot, reconstruction

from .panel import Panel, checkbox, picture, slider

__all__ = ["BackProjection"]


class BackProjection(Panel):
    """A flat object, its shadows, and what back-projection makes of them.

    Parameters
    ----------
    image : ndarray (d, d)
        The object.
    pixel_size : float
        Å.

    Attributes
    ----------
    views : slider
        Number of shadows.
    span : slider
        Degrees over which they are spread; 180 is complete.
    ramp : checkbox
    result : ndarray (d, d)
        As `cryonb.reconstruction.filtered_back_projection` gives it.
    """

    def __init__(self, image, *, pixel_size):
        self.image, self.pixel_size = image, pixel_size
        self.views = slider("number of shadows", 12, 1, 120, 1)
        self.span = slider("range of angles", 180, 20, 180, 10, unit="°")
        self.ramp = checkbox("ramp filter", True)
        self.view = picture(720)
        super().__init__([self.views, self.span, self.ramp], [self.view])

    @property
    def angles(self):
        """Degrees, as the sliders say: ndarray (n,)."""
        return np.arange(self.views.value) * self.span.value / self.views.value

    def _refresh(self):
        self.shadows = reconstruction.sinogram(self.image, self.angles)
        self.result = reconstruction.filtered_back_projection(self.shadows, self.angles, ramp=self.ramp.value)
        self.draw(self.view, self._figure, width=7.2, height=2.7)

    def _figure(self, figure):
        rows = np.linspace(0, len(self.shadows) - 1, self.image.shape[0]).round().astype(int)
        plot.images(
            np.stack([self.image, self.shadows[rows], self.result]),
            pixel_size=self.pixel_size,
            ax=figure.subplots(),
            titles=["object", f"{len(self.shadows)} shadows, one a row", "back-projection"],
            limits="each",
        )
