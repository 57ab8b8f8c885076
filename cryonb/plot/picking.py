"""Draw where particles were found, and how well that agrees with known centres."""

import numpy as np

from .micrographs import micrograph
from .style import new_axes, styled

__all__ = ["picks", "precision_recall"]


@styled
def picks(picture, found, *, score=None, ax=None):
    """A micrograph with a circle round every pick.

    Parameters
    ----------
    picture : Micrograph
    found : Picks
    score : Score, optional
        Of ``found``: picks that are wrong are then drawn in another colour.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    from matplotlib.lines import Line2D

    if score is None:
        ax = micrograph(picture, centres=found.centres if len(found) else None, diameter=found.diameter, ax=ax)
        ax.set_title(f"{len(found)} picks", fontsize=9)
        return ax
    centres = found.centres[np.argsort(-found.score, kind="stable")]
    ax = new_axes(ax, width=4.2, height=4.2)
    micrograph(picture, centres=centres[score.hit] if score.hit.any() else None, diameter=found.diameter, ax=ax)
    factor = max(1, int(np.ceil(max(picture.data.shape) / 512)))
    wrong = (centres[~score.hit] - (factor - 1) / 2) / factor
    ax.plot(*wrong.T, "x", color="C3", ms=6, mew=1.5)
    ax.legend(
        handles=[
            Line2D([], [], marker="o", mfc="none", mec="C1", ls="none", label=f"right: {score.hit.sum()}"),
            Line2D([], [], marker="x", mec="C3", ls="none", label=f"wrong: {(~score.hit).sum()}"),
        ],
        loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, frameon=False, fontsize=8,
    )  # fmt: skip
    return ax


@styled
def precision_recall(scores, *, ax=None):
    """Precision over recall as picks are added, best first; a dot where each picker stopped.

    Parameters
    ----------
    scores : dict of str to Score
        By the name in the legend.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.6, height=3.6)
    for number, (name, score) in enumerate(scores.items()):
        color = f"C{number}"
        ax.plot(score.curve[:, 1], score.curve[:, 0], color=color, label=f"{name} (F1 {score.f1:.2f})")
        ax.plot(score.recall, score.precision, "o", color=color)
    ax.set(xlim=(0, 1.03), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
    ax.legend(loc="lower left")
    return ax
