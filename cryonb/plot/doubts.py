"""Draw what is to be believed of a landscape: the card of its checks, and how it differs between two conditions."""

import textwrap

import numpy as np

from .style import new_axes, styled

__all__ = ["checks", "condition_difference"]

LIGHT = {"green": "#009E73", "amber": "#E69F00", "red": "#D55E00"}
SYMBOL = {"green": "o", "amber": "^", "red": "X"}  # told apart without colours too
WRAP = 88  # characters of a meaning


@styled
def checks(result, *, ax=None):
    """One traffic light, doubt, number and sentence in a row for each check.

    Parameters
    ----------
    result : manifold.Checks
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    rows = result.answers
    ax = new_axes(ax, width=8.0, height=0.62 * len(rows) + 0.2)
    for row, answer in enumerate(rows):
        ax.plot(0.02, row, marker=SYMBOL[answer.light], ms=11, color=LIGHT[answer.light], mec="white")
        ax.text(0.05, row - 0.05, answer.doubt, va="bottom", fontweight="bold", fontsize=9)
        ax.text(0.99, row - 0.05, answer.figure, va="bottom", ha="right", fontsize=9)
        meaning = textwrap.shorten(answer.meaning, 3 * WRAP)
        ax.text(0.05, row + 0.08, textwrap.fill(meaning, WRAP + 32), va="top", fontsize=7.5, color="#555555")
    ax.set(xlim=(0, 1), ylim=(len(rows) - 0.35, -0.55))
    ax.axis("off")
    return ax


@styled
def condition_difference(result, *, ax=None):
    """How much higher the second condition's landscape lies, with its band and the permutation test's p.

    Parameters
    ----------
    result : manifold.ConditionDifference
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax)
    (line,) = ax.plot(result.centers, result.difference_kt, label=f"{result.names[1]} − {result.names[0]}")
    ax.fill_between(
        result.centers, result.lower_kt, result.upper_kt, color=line.get_color(), alpha=0.2, lw=0,
        label=f"{100 * result.landscapes[0].credibility:.0f} % band",
    )  # fmt: skip
    ax.axhline(0, color="#222222", lw=0.8)
    counts = " and ".join(f"{count:,}" for count in result.counts)
    ax.set(
        xlabel=result.landscapes[0].gauge[0], ylabel="ΔF (kT)", title=f"p = {result.p_value:.2g}, {counts} particles"
    )
    ax.set_ylim(*np.array([-1, 1]) * max(1.0, 1.1 * np.nanmax(np.abs([result.lower_kt, result.upper_kt]))))
    ax.legend()
    return ax
