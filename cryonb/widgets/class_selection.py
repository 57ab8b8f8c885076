"""Choose classes by their averages: tick what is a particle."""

import ipywidgets
import numpy as np

from cryonb import plot

from .panel import Panel, checkbox, picture

__all__ = ["ClassSelection"]


class ClassSelection(Panel):
    """Class averages with a box to tick for each, and the particles of the ticked classes.

    Parameters
    ----------
    classes : Classification2D
    chosen : sequence of int, optional
        Classes ticked at first, counted from 0; none by default.

    Attributes
    ----------
    boxes : list of K checkboxes
        Of class 1, 2, …, K.
    result : ndarray (m,) int
        Particles, from 0, whose most probable class is ticked; for `cryonb.io.write_selection`.
    """

    def __init__(self, classes, *, chosen=()):
        n_classes, chosen = len(classes.averages), [int(k) for k in chosen]
        if not all(0 <= k < n_classes for k in chosen):
            raise ValueError(f"chosen must be classes from 0 to {n_classes - 1}, got {chosen}")
        self.classes = classes
        self.boxes = [checkbox(f"class {k + 1}", k in chosen) for k in range(n_classes)]
        self.view, self.caption = picture(880), ipywidgets.HTML()
        super().__init__(self.boxes, [self.caption, self.view])
        rows = [ipywidgets.HBox(self.boxes[k : k + 3]) for k in range(0, n_classes, 3)]
        self.children = [ipywidgets.VBox(rows), self.caption, self.view]

    @property
    def chosen(self):
        """Ticked classes, counted from 0: ndarray of int."""
        return np.flatnonzero([box.value for box in self.boxes])

    def _refresh(self):
        self.result = np.flatnonzero(np.isin(self.classes.label, self.chosen))
        n = len(self.classes.label)
        self.caption.value = f"<b>{len(self.result)}</b> of {n} particles in {len(self.chosen)} classes"
        self.draw(self.view, self._figure, width=9.2, height=1.5 * -(-len(self.boxes) // 8) + 0.2)

    def _figure(self, figure):
        plot.class_averages(self.classes, ax=figure.subplots())
