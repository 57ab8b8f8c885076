"""The movie of a landscape in three dimensions: play it, stop it, turn it, and read what stands behind each frame."""

import ipywidgets
import numpy as np

from cryonb import plot
from cryonb.manifold import frame_sequence, volumes_at
from cryonb.plot.movies import FRAME_MS, distinct_states, draw_strip

from .ngl import density_scene, show_frame, view
from .panel import Panel, picture, slider

__all__ = ["LandscapeMovie"]

FASTEST_MS = 150  # per frame; a page does not draw faster than about this


class LandscapeMovie(Panel):
    """Volumes of a landscape in the order and at the pace of one of three clocks, in nglview.

    Parameters
    ----------
    found : manifold.ConformationalLandscape
    sequence : manifold.FrameSequence, optional
        Of ``found.landscape``, along one coordinate; by closeness by default.
    evidence : manifold.FrameEvidence, optional
        Drawn under each frame; without it, the expected number of particles per node.
    level : float, optional
        Density of the surface, the same in every frame.

    Attributes
    ----------
    frame : IntSlider
        Counted from 0.
    play : Play
        Moves ``frame``.
    ngl_view : NGLWidget
        Holds each state once, however often the movie comes back to it.
    result : tuple (float, Volume)
        The coordinate that is shown, and its volume.

    Raises
    ------
    ValueError
        A sequence of two coordinates.
    """

    def __init__(self, found, *, sequence=None, evidence=None, level=None):
        self.found, self.evidence = found, evidence
        self.sequence = frame_sequence(found.landscape, "closeness") if sequence is None else sequence
        self._positions, self._state = distinct_states(self.sequence)
        self.volumes = volumes_at(found, self._positions)
        level = plot.default_level(found.volumes[len(found.volumes) // 2]) if level is None else level
        last = len(self.sequence) - 1
        self.frame = slider("frame", 0, 0, last, 1)
        pace = max(FASTEST_MS, FRAME_MS[self.sequence.clock])
        self.play = ipywidgets.Play(value=0, min=0, max=last, interval=pace, repeat=True)
        ipywidgets.link((self.play, "value"), (self.frame, "value"))
        self.caption, self.strip = ipywidgets.HTML(), picture(440)
        self.scene = density_scene(self.volumes, level=level, shown=int(self._state[0]), size_px=(440, 360))
        self.ngl_view = view(self.scene)
        super().__init__([self.frame], [self.play, self.caption, self.ngl_view, self.strip])

    def _refresh(self):
        state, reading = int(self._state[self.frame.value]), self.sequence.clock_reading[self.frame.value]
        x = float(self._positions[state])
        self.result = x, self.volumes[state]
        clock = f", {reading:.2f} L²/D" if self.sequence.clock == "Brownian" else ""
        says = "" if self.evidence is None else f"<br>{self.evidence.sentence(self._nearest(x))}"
        self.caption.value = (
            f"{self.found.landscape.gauge[0]}: <b>{x:.1f}</b>{clock}{says}<br>{self.sequence.label}<br>"
            f'<span style="color:#666">{self.sequence.unknown}</span>'
        )
        show_frame(self.ngl_view, state)
        self.draw(self.strip, self._draw_strip, width=4.6, height=1.6)

    def _nearest(self, x):
        return int(np.argmin(np.abs(self.evidence.positions - x)))

    def _draw_strip(self, figure):
        draw_strip(figure.subplots(), self.found, self.evidence, self.result[0])
