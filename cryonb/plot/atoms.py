"""Draw how good an atomic model is: strips along the chain, and the Ramachandran plot."""

import numpy as np

from .style import new_axes, styled

__all__ = ["q_strip", "ramachandran", "ramachandran_moves", "spread_strip", "suspicion_strip"]

WRONG, DOUBTED, GOOD = "#D55E00", "#E69F00", "#0072B2"
DOUBT, WRONG_ABOVE = 0.2, 0.5  # probabilities where the colour changes
# expected Q-score of a residue at a resolution: a line through the EMDB's protein chains, Pintilie et al. 2020 as the
# reports of EMD-30342 print it
Q_SLOPE, Q_OFFSET = -0.1775, 1.1192


@styled
def suspicion_strip(suspicion, *, ax=None, planted=None):
    """Probability that each residue is wrong, along the chain.

    Parameters
    ----------
    suspicion : cryonb.atomic.errors.Suspicion
        Bars are of the backbone; a line is of the whole residue.
    ax : Axes, optional
    planted : ndarray (n,) of bool, optional
        Residues that are known to be wrong, marked below.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=8.0, height=2.2)
    place = np.arange(len(suspicion.residues))
    backbone = suspicion.backbone
    colours = np.where(backbone > WRONG_ABOVE, WRONG, np.where(backbone > DOUBT, DOUBTED, GOOD))
    ax.bar(place, backbone, width=1.0, color=colours)
    ax.step(place, suspicion.residue, where="mid", color="#555555", lw=0.7, label="side chain included")
    ax.axhline(WRONG_ABOVE, color="#999999", lw=0.8, ls="--")
    if planted is not None:
        rows = np.flatnonzero(planted)
        ax.plot(rows, np.full(len(rows), -0.07), "|", color="black", ms=6, label="planted")
    _residue_axis(ax, suspicion.residues)
    ax.set(ylim=(-0.14, 1.04), yticks=[0, 0.5, 1], ylabel="P(wrong)")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    return ax


@styled
def q_strip(scores, residues, *, resolution=None, ax=None):
    """Q-score of each residue along the chain.

    Parameters
    ----------
    scores : ndarray (n,)
        As `cryonb.atomic.maps.residue_mean` gives them.
    residues : Residues
    resolution : float, optional
        Å; draws the Q-score to expect there.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=8.0, height=2.2)
    place = np.arange(len(residues))
    ax.fill_between(place, np.nan_to_num(scores), step="mid", color=GOOD, alpha=0.25, lw=0)
    ax.step(place, scores, where="mid", color=GOOD, lw=0.9)
    if resolution is not None:
        expected = Q_SLOPE * resolution + Q_OFFSET
        ax.axhline(expected, color=WRONG, lw=0.9, ls="--")
        ax.text(len(place) * 1.005, expected, f"expected\nat {resolution:g} Å", color=WRONG, fontsize=7, va="center")
    ax.axhline(0, color="#999999", lw=0.8)
    _residue_axis(ax, residues)
    ax.set(ylim=(min(-0.05, np.nanmin(scores) - 0.03), 1.0), ylabel="Q-score")
    return ax


@styled
def ramachandran(scores, *, ax=None, kind=None):
    """φ and ψ of every residue over the favoured and allowed regions.

    Parameters
    ----------
    scores : cryonb.atomic.torsions.BackboneScores
    ax : Axes, optional
    kind : int, optional
        Only residues of one kind (`cryonb.atomic.torsions.KINDS`), over its own regions. All of them by default, over
        those of the general kind; a point's colour is always by its own kind.

    Returns
    -------
    Axes
    """
    from ..atomic.torsions import KINDS

    ax = _regions(new_axes(ax, width=4.2, height=4.2), kind or 0)
    chosen = scores.scored & (True if kind is None else scores.kind == kind)
    phi, psi = scores.torsions[:, 0], scores.torsions[:, 1]
    allowed = chosen & ~scores.favoured & ~scores.outlier
    for rows, colour, label, size in (
        (chosen & scores.favoured, GOOD, "favoured", 7),
        (allowed, DOUBTED, "allowed", 12),
        (chosen & scores.outlier, WRONG, "outliers", 16),
    ):
        ax.scatter(phi[rows], psi[rows], s=size, color=colour, label=f"{rows.sum()} {label}", lw=0, zorder=3)
    labels = scores.residues.labels()
    for row in np.flatnonzero(chosen & scores.outlier)[:12]:
        ax.annotate(labels[row], (phi[row], psi[row]), xytext=(3, 3), textcoords="offset points", fontsize=6)
    ax.set_title("all residues over the general regions" if kind is None else KINDS[kind], fontsize=9)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, handletextpad=0.1)
    return ax


@styled
def ramachandran_moves(before, after, *, ax=None, least=25.0):
    """Where rebuilding took φ and ψ: an arrow for each residue that turned, over the regions of the general kind.

    Parameters
    ----------
    before, after : cryonb.atomic.torsions.BackboneScores
        Of the same residues.
    ax : Axes, optional
    least : float
        Degrees; residues that turned by less are points.

    Returns
    -------
    Axes
    """
    if before.residues.labels() != after.residues.labels():
        raise ValueError(
            f"before and after must have the same residues, got {len(before.residues)} and {len(after.residues)}"
        )
    ax = _regions(new_axes(ax, width=4.2, height=4.2), 0)
    here, there = before.torsions[:, :2], after.torsions[:, :2]
    step = (there - here + 180) % 360 - 180  # the short way round
    turned = np.linalg.norm(step, axis=1) > least
    for row in np.flatnonzero(turned):
        # an arrow that leaves the plot on one side comes in again on the other
        for start in (here[row], there[row] - step[row]):
            arrow = ax.annotate(
                "", start + step[row], start, annotation_clip=False,
                arrowprops={"arrowstyle": "->", "color": "#777777", "lw": 0.7, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            arrow.arrow_patch.set_clip_path(ax.patch)
    ax.scatter(*here[turned].T, s=10, color=WRONG, lw=0, zorder=3, label="before")
    ax.scatter(*there.T, s=8, color=GOOD, lw=0, zorder=3, label="after")
    ax.set_title(f"{turned.sum()} residues turned by over {least:g}°", fontsize=9)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, handletextpad=0.1)
    return ax


@styled
def spread_strip(spread, residues, *, error=None, ax=None):
    """How far several models of one protein disagree along the chain.

    Parameters
    ----------
    spread : ndarray (n,)
        Å (`cryonb.atomic.select.spread`).
    residues : Residues
    error : ndarray (n,), optional
        Å from the truth, where it is known; a line.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=8.0, height=2.2)
    place = np.arange(len(residues))
    ax.bar(place, spread, width=1.0, color=GOOD, alpha=0.6, label="spread of the models")
    if error is not None:
        ax.step(place, error, where="mid", color=WRONG, lw=0.9, label="from the truth")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    _residue_axis(ax, residues)
    ax.set(ylim=(0, None), ylabel="Cα (Å)")
    return ax


def _regions(ax, kind):
    """Axes of φ and ψ with the favoured and allowed regions of a kind of residue."""
    from ..atomic.torsions import ALLOWED, FAVOURED, ramachandran_table

    axis = np.arange(180) * 2 - 179
    levels = [ALLOWED[kind], FAVOURED, 1.01]
    ax.contourf(axis, axis, ramachandran_table()[kind].T, levels=levels, colors=["#DCE9F5", "#A9CCE8"])
    ticks = [-180, -90, 0, 90, 180]
    ax.set(xlim=(-180, 180), ylim=(-180, 180), xticks=ticks, yticks=ticks, xlabel="φ (°)", ylabel="ψ (°)")
    ax.set_aspect("equal")
    return ax


def _residue_axis(ax, residues):
    """Residue numbers below, chain borders as lines."""
    count = len(residues)
    ax.set_xlim(-0.5, count - 0.5)
    step = max(1, int(np.ceil(count / 12 / 10)) * 10)
    ticks = [i for i in range(count) if residues.numbers[i] % step == 0]
    ax.set_xticks(ticks, [str(residues.numbers[i]) for i in ticks])
    borders = np.flatnonzero(residues.chains[1:] != residues.chains[:-1]) + 1
    for border in borders:
        ax.axvline(border - 0.5, color="#999999", lw=0.8)
    names = ", ".join(dict.fromkeys(residues.chains)) if count else ""
    ax.set_xlabel(f"residue (chain {names})" if len(borders) == 0 else f"residue (chains {names})")
