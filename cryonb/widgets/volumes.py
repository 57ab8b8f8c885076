"""Look at a volume, or at the frames of a density movie, in three dimensions."""

import ipywidgets

from .ngl import density_scene, show_frame, view
from .panel import Panel, slider

__all__ = ["DensityMovie"]


class DensityMovie(Panel):
    """Volumes along a path, one at a time, to turn with the mouse and to step through with a slider.

    Parameters
    ----------
    volumes : sequence of Volume
        The frames.
    level : float
        Density of the surface, the same in every frame.
    captions : sequence of str, optional
        A line under each frame.
    color : str or sequence of str, optional
        Hexadecimal.

    Attributes
    ----------
    frame : IntSlider
    ngl_view : NGLWidget
    scene : dict
        What was handed to nglview.
    result : Volume
        The frame that is shown.
    """

    def __init__(self, volumes, *, level, captions=None, color="#7aa6c2"):
        self.volumes = list(volumes)
        self.captions = [""] * len(self.volumes) if captions is None else list(captions)
        if len(self.captions) != len(self.volumes):
            raise ValueError(f"expected {len(self.volumes)} captions, one for each volume, got {len(self.captions)}")
        self.frame = slider("frame", 0, 0, len(self.volumes) - 1, 1)
        self.caption = ipywidgets.HTML()
        self.scene = density_scene(self.volumes, level=level, color=color)
        self.ngl_view = view(self.scene)
        super().__init__([self.frame], [self.caption, self.ngl_view])

    def _refresh(self):
        self.result = self.volumes[self.frame.value]
        self.caption.value = self.captions[self.frame.value]
        show_frame(self.ngl_view, self.frame.value)
