"""Pick particles by hand and by machine: threshold, size and clicks on a micrograph that pans and zooms."""

import ipywidgets
import numpy as np

from cryonb import picking, plot
from cryonb.picking.learning import propose

from .canvas import clickable_canvas
from .panel import Panel, slider

__all__ = ["PickingView"]


class PickingView(Panel):
    """A micrograph with picks that follow a threshold, a size and clicks.

    A left click says "a particle", a right click "none"; from the first click of each kind on the picker learns from
    them. The wheel zooms where the pointer is, and the toolbar pans.

    Parameters
    ----------
    micrograph : Micrograph
        Protein dark.
    diameter : float
        Å, of the particle at first.

    Attributes
    ----------
    size, threshold : sliders
        Diameter in Å; log odds from which a place is a particle.
    picker : ClickPicker
    clicks : list of (x, y, is_particle)
        In pixels of the micrograph.
    result : Picks
    """

    def __init__(self, micrograph, diameter):
        from matplotlib.figure import Figure

        self.micrograph, self.clicks, self._candidates = micrograph, [], {}
        self.size = slider("diameter", float(diameter), round(diameter / 2, 1), round(2 * diameter, 1), 1.0, unit="Å")
        self.size.continuous_update = False
        self.threshold = slider("threshold", 0.0, -5.0, 5.0, 0.1, unit="log odds")
        self.again = ipywidgets.Button(description="forget clicks")
        self.again.on_click(lambda button: self.forget())
        self.caption = ipywidgets.HTML()
        self.figure = Figure(figsize=(6.4, 6.4), layout="tight")
        self.axes = self.figure.subplots()
        self.canvas = clickable_canvas(self.figure, self._on_click)
        self.canvas.toolbar_visible = True
        self.canvas.mpl_connect("scroll_event", self._on_scroll)
        super().__init__([self.size, self.threshold], [self.again, self.caption, self.canvas])

    def click(self, x, y, is_particle):
        """Say that pixel (x, y) of the micrograph is, or is not, a particle."""
        height, width = self.micrograph.data.shape
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"a click at ({x:g}, {y:g}) lies outside the micrograph of {width} × {height} pixels")
        self.clicks.append((float(x), float(y), bool(is_particle)))
        self._refresh()

    def forget(self):
        """Forget every click."""
        self.clicks.clear()
        self._refresh()

    def _refresh(self):
        diameter = float(self.size.value)
        if diameter not in self._candidates:
            self._candidates = {diameter: propose(self.micrograph, diameter)}
        candidates = self._candidates[diameter]
        self.picker = picking.ClickPicker(diameter)
        if self.clicks:
            clicked = np.array(self.clicks)
            self.picker.click(candidates, clicked[:, :2], clicked[:, 2].astype(bool))
        self.result = self.picker.pick(candidates, threshold=self.threshold.value)
        kinds = {is_particle for *_, is_particle in self.clicks}
        state = "learnt from them" if len(kinds) == 2 else "learning starts with one click of each kind"
        self.caption.value = f"<b>{len(self.result)}</b> picks · {len(self.clicks)} clicks ({state})"
        self._draw()

    def _draw(self):
        limits = (self.axes.get_xlim(), self.axes.get_ylim()) if self.axes.images else None
        self.axes.clear()
        plot.picks(self.micrograph, self.result, ax=self.axes)
        factor = self._factor
        for is_particle, mark, color in ((True, "+", "C2"), (False, "x", "C3")):
            places = [((x - (factor - 1) / 2) / factor, (y - (factor - 1) / 2) / factor)
                      for x, y, kind in self.clicks if kind == is_particle]  # fmt: skip
            if places:
                self.axes.plot(*np.transpose(places), mark, color=color, ms=9, mew=2)
        if limits is not None:
            self.axes.set(xlim=limits[0], ylim=limits[1])
        self.canvas.draw_idle()

    @property
    def _factor(self):
        """Pixels of the micrograph along each side of one that `plot.micrograph` draws."""
        return max(1, int(np.ceil(max(self.micrograph.data.shape) / 512)))

    def _on_click(self, event):
        if event.inaxes is not self.axes or event.button not in (1, 3):
            return
        toolbar = getattr(self.canvas, "toolbar", None)
        if toolbar is not None and str(getattr(toolbar, "mode", "")):
            return  # the reader pans or zooms
        height, width = self.micrograph.data.shape
        x, y = (value * self._factor + (self._factor - 1) / 2 for value in (event.xdata, event.ydata))
        self.click(np.clip(x, 0, width - 1), np.clip(y, 0, height - 1), event.button == 1)

    def _on_scroll(self, event):
        if event.inaxes is not self.axes:
            return
        scale = 0.8 if event.button == "up" else 1.25
        for centre, get, put in (
            (event.xdata, self.axes.get_xlim, self.axes.set_xlim),
            (event.ydata, self.axes.get_ylim, self.axes.set_ylim),
        ):
            put([centre + scale * (limit - centre) for limit in get()])
        self.canvas.draw_idle()
