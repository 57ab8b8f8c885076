"""What every widget is: controls above pictures, a result, and one `_refresh` that turns one into the other."""

import ipywidgets

from cryonb import plot

__all__ = ["Panel", "checkbox", "picture", "slider"]


def slider(label, value, low, high, step, *, unit=""):
    """A labelled slider, whole numbers if all of ``value``, ``low``, ``high`` and ``step`` are."""
    whole = all(isinstance(number, int) for number in (value, low, high, step))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    digits = max(0, -int(f"{step:e}".split("e")[1])) + (f"{step:e}"[2] != "0")
    options = {} if whole else {"readout_format": f".{digits}f"}
    return kind(
        value=value, min=low, max=high, step=step, description=f"{label} ({unit})" if unit else label,
        style={"description_width": "150px"}, layout={"width": "440px"}, **options,
    )  # fmt: skip


def checkbox(label, value):
    """A labelled box to tick, aligned with the sliders."""
    return ipywidgets.Checkbox(value, description=label, style={"description_width": "150px"}, indent=True)


def picture(width_px):
    """An empty image on the page, ``width_px`` wide; `Panel.draw` fills it."""
    return ipywidgets.Image(format="png", layout={"width": f"{width_px}px", "object_fit": "contain"})


class Panel(ipywidgets.VBox):
    """A thin view of a pure function: set a control, read ``result``.

    Parameters
    ----------
    controls : sequence of widgets
        Each has a ``value``; a change of any calls `_refresh`.
    views : sequence of widgets
        Shown beneath.

    Attributes
    ----------
    result
        What the function behind the panel returns for the controls as they stand.
    """

    def __init__(self, controls, views):
        self.result = None
        super().__init__([ipywidgets.VBox(list(controls)), *views])
        self.add_class("cryonb-panel")
        for control in controls:
            control.observe(lambda change: self._refresh(), "value")
        self._refresh()

    def _refresh(self):
        """Compute ``result`` from the controls and draw it; each panel says how."""
        raise TypeError(f"{type(self).__name__} must say in _refresh how its controls make its result")

    @staticmethod
    def draw(target, draw_figure, *, width, height):
        """Draw ``draw_figure(figure)`` into a `picture`; ``width`` and ``height`` in inches."""
        target.value = plot.png(draw_figure, width=width, height=height, dpi=110)
