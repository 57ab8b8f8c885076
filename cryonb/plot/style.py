"""The look of every figure, and the Axes that a plot draws into."""

import functools
from pathlib import Path

import matplotlib.pyplot as plt

__all__ = ["STYLE", "new_axes", "png", "scale_bar", "styled"]

STYLE = Path(__file__).with_name("cryonb.mplstyle")


def styled(draw):
    """Run a drawing function under `STYLE`, whatever the reader's own settings are."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with plt.style.context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def new_axes(ax, *, width=5.6, height=3.4):
    """``ax`` itself, or the Axes of a new figure of ``width`` × ``height`` inches."""
    return plt.subplots(figsize=(width, height))[1] if ax is None else ax


def scale_bar(ax, length, pixels, *, color="white"):
    """Draw a bar of ``length`` Å, which is ``pixels`` long, in the lower left corner of an image without ticks."""
    left, top = sorted(ax.get_xlim())[0], sorted(ax.get_ylim())[1]
    height = abs(ax.get_ylim()[1] - ax.get_ylim()[0])
    upwards = ax.get_ylim()[1] > ax.get_ylim()[0]
    y = sorted(ax.get_ylim())[0] + 0.05 * height if upwards else top - 0.05 * height
    x = left + 0.03 * abs(ax.get_xlim()[1] - ax.get_xlim()[0])
    outline = "black" if color == "white" else "white"
    ax.plot([x, x + pixels], [y, y], color=outline, lw=4.5, solid_capstyle="butt")
    ax.plot([x, x + pixels], [y, y], color=color, lw=2.5, solid_capstyle="butt")
    text = ax.text(x + pixels / 2, y, f"{length:g} Å", color=color, ha="center", va="bottom", fontsize=8)
    _outline(text, outline)


def png(draw, *, width=5.6, height=3.4, dpi=100):
    """PNG bytes of what ``draw(figure)`` draws, with no window and no notebook output; how widgets show a plot.

    Parameters
    ----------
    draw : callable
        Takes a new matplotlib ``Figure`` and draws into it.
    width, height : float
        Inches.
    dpi : int
        Pixels per inch.

    Examples
    --------
    >>> png(lambda figure: figure.add_subplot().plot([0, 1]))[1:4]
    b'PNG'
    """
    import io

    from matplotlib.figure import Figure

    with plt.style.context(STYLE):
        figure = Figure(figsize=(width, height))
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _outline(text, color):
    from matplotlib import patheffects

    text.set_path_effects([patheffects.withStroke(linewidth=2, foreground=color, alpha=0.7)])
