"""Walk along a protein: where it is wrong, what was done about it, how sure that is, and the atoms in the map there."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cryonb import plot, protein
from cryonb.atomic.torsions import ramachandran

from .canvas import clickable_canvas
from .ngl import look_at, model_scene, set_level, show_frame, view
from .panel import Panel, slider

__all__ = ["EnsembleExplorer", "ResidueExplorer"]

BEFORE, AFTER, OTHERS = "#D55E00", "#0072B2", "#b8b8b8"
ASIDE = 1  # residues to each side that the camera takes in
REACH = 25.0  # degrees from a click to the residue that it means


class _ChainExplorer(Panel):
    """A strip along the chain and a slider, both of which choose a residue; models in the map there."""

    def __init__(self, residues, volume, models, colors, *, level, controls=(), beside=()):
        self.residues, self.volume, self._labels = residues, volume, residues.labels()
        for name, model in models.items():
            own = protein.residues(model).labels()
            if own != self._labels:
                raise ValueError(
                    f"the {name} model must have the {len(residues)} residues of the strip, got {len(own)}"
                )
        sigma = float(volume.data.std())
        self.residue = slider("residue, from the first", self._start() + 1, 1, len(residues), 1)
        self.level = slider("level", 3.0 if level is None else round(level / sigma, 1), 0.5, 8.0, 0.1, unit="σ")
        self.level.continuous_update = False
        self._sigma, self._models = sigma, list(models)
        self.scene = model_scene(
            volume, list(models.values()), level=self.level.value * sigma, colors=colors, size_px=(400, 340)
        )
        self.ngl_view = view(self.scene)
        self.caption = ipywidgets.HTML()
        with plt.style.context(plot.STYLE):
            figure = Figure(figsize=(7.4, 1.9), layout="constrained")
            self.strip = clickable_canvas(figure, self._on_strip)
            ax = figure.subplots()
            self._draw_strip(ax)
            self._marker = ax.axvline(self._start(), color="black", lw=1.2, zorder=5)
        below = ipywidgets.HBox([self.ngl_view, *beside])
        super().__init__([self.residue, self.level, *controls], [self.caption, self.strip, below])

    def _start(self):
        raise TypeError(f"{type(self).__name__} must say in _start which row is shown first")

    def _draw_strip(self, ax):
        raise TypeError(f"{type(self).__name__} must say in _draw_strip what stands along the chain")

    def select(self, row):
        """Show a residue, counted from 0; what is beyond the ends is the end."""
        self.residue.value = int(np.clip(row, 0, len(self.residues) - 1)) + 1

    def _on_strip(self, event):
        if event.xdata is not None:
            self.select(round(event.xdata))

    def _refresh(self):
        row = self.residue.value - 1
        self._marker.set_xdata([row, row])
        self.strip.draw_idle()
        set_level(self.ngl_view, self.scene, self.level.value * self._sigma)
        chain = self.residues.chains[row]
        same = np.flatnonzero(self.residues.chains == chain)
        near = self.residues.numbers[same[abs(same - row) <= ASIDE]]
        look_at(self.ngl_view, 1, f"{near.min()}-{near.max()}" + (f":{chain}" if chain else ""))
        show_frame(self.ngl_view, {0} | self._shown())
        return row

    def _shown(self):
        """Numbers of the components, from 1, of the models that are seen."""
        return set(range(1, len(self._models) + 1))


class ResidueExplorer(_ChainExplorer):
    """P(wrong) along the chain, the Ramachandran plot, and the model in the map at the chosen residue.

    A click on the strip or on a point of the Ramachandran plot chooses the residue, and so does the slider.

    Parameters
    ----------
    suspicion : cryonb.atomic.errors.Suspicion
        Of ``before``; the first residue shown is the worst.
    volume : Volume
        The map, in the models' frame.
    before : AtomicModel
    after : AtomicModel, optional
        The same residues, rebuilt: arrows lead from before to after.
    level : float, optional
        Density of the mesh at first; 3 σ of the map by default.
    planted : ndarray (n,) of bool, optional
        Marked on the strip.

    Attributes
    ----------
    residue, level : sliders
        The residue, counted from 1 along the strip; σ of the map.
    shown : Dropdown
        ``before``, ``after`` or ``both``.
    strip, torsions : ipympl canvases
    ngl_view : NGLWidget
    result : tuple (str, float)
        The residue's label and its P(wrong) before.
    """

    def __init__(self, suspicion, volume, before, after=None, *, level=None, planted=None):
        self.suspicion, self._planted = suspicion, planted
        models = {"before": before} if after is None else {"before": before, "after": after}
        _same_residues(models, suspicion.residues)
        names = ["before"] if after is None else ["both", "before", "after"]
        self.shown = ipywidgets.Dropdown(options=names, description="model", style={"description_width": "150px"})
        self._scores = [ramachandran(model) for model in models.values()]
        with plt.style.context(plot.STYLE):
            figure = Figure(figsize=(3.4, 3.4), layout="constrained")
            self.torsions = clickable_canvas(figure, self._on_torsions)
            ax = figure.subplots()
            if after is None:
                plot.ramachandran(self._scores[0], ax=ax)
            else:
                plot.ramachandran_moves(*self._scores, ax=ax)
            (self._ring,) = ax.plot([], [], "o", ms=11, mfc="none", mec="black", mew=1.5, zorder=6)
        super().__init__(
            suspicion.residues, volume, models, [BEFORE, AFTER][: len(models)], level=level, controls=[self.shown],
            beside=[self.torsions],
        )  # fmt: skip

    def _start(self):
        return int(np.argmax(self.suspicion.backbone))

    def _draw_strip(self, ax):
        plot.suspicion_strip(self.suspicion, ax=ax, planted=self._planted)

    def _on_torsions(self, event):
        if event.xdata is None:
            return
        off = np.concatenate([scores.torsions[:, :2] for scores in self._scores]) - [event.xdata, event.ydata]
        distance = np.linalg.norm((off + 180) % 360 - 180, axis=1)
        if np.nanmin(distance) < REACH:
            self.select(int(np.nanargmin(distance)) % len(self.residues))

    def _shown(self):
        return {"before": {1}, "after": {2}, "both": {1, 2}}[self.shown.value]

    def _refresh(self):
        row = super()._refresh()
        self.result = self._labels[row], float(self.suspicion.backbone[row])
        points = np.array([scores.torsions[row, :2] for scores in self._scores])
        self._ring.set_data(*points.T)
        self.torsions.draw_idle()
        angles = " → ".join(f"{phi:.0f}°, {psi:.0f}°" for phi, psi in points)
        name = self.residues.names[row].title()
        self.caption.value = f"<b>{name} {self.result[0]}</b>: P(wrong) {self.result[1]:.2f} before; φ, ψ {angles}"


class EnsembleExplorer(_ChainExplorer):
    """Several models of one protein: how far they spread along the chain, and all of them at the chosen residue.

    Parameters
    ----------
    models : sequence of AtomicModel
        With the same residues.
    chosen : int
        Position of the one that is believed, drawn in blue.
    spread : ndarray (n,)
        Å, of each residue's Cα (`cryonb.atomic.select.spread`); the first residue shown has the largest.
    volume : Volume
    level : float, optional
        As in `ResidueExplorer`.

    Attributes
    ----------
    residue, level : sliders
    only : Checkbox
        Only the chosen model.
    result : tuple (str, float)
        The residue's label and its spread.
    """

    def __init__(self, models, chosen, spread, volume, *, level=None):
        self.spread, self.chosen = np.asarray(spread, dtype=float), int(chosen)
        residues = protein.residues(models[0])
        if len(self.spread) != len(residues):
            raise ValueError(f"expected a spread for each of {len(residues)} residues, got {len(self.spread)}")
        self._strip_residues = residues
        self.only = ipywidgets.Checkbox(False, description="only the chosen", style={"description_width": "150px"})
        colors = [AFTER if number == self.chosen else OTHERS for number in range(len(models))]
        named = {f"number {number}": model for number, model in enumerate(models)}
        _same_residues(named, residues)
        super().__init__(residues, volume, named, colors, level=level, controls=[self.only])

    def _start(self):
        return int(np.argmax(self.spread))

    def _draw_strip(self, ax):
        plot.spread_strip(self.spread, self._strip_residues, ax=ax)

    def _shown(self):
        return {self.chosen + 1} if self.only.value else super()._shown()

    def _refresh(self):
        row = super()._refresh()
        self.result = self._labels[row], float(self.spread[row])
        self.caption.value = f"<b>{self.result[0]}</b>: the models' Cα spread by {self.result[1]:.2f} Å"


def _same_residues(models, residues):
    for name, model in models.items():
        own = protein.residues(model).labels()
        if own != residues.labels():
            raise ValueError(f"the {name} model must have the {len(residues)} residues of the strip, got {len(own)}")
