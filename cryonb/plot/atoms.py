"""Draw how good an atomic model is: strips along the chain, and the Ramachandran plot."""

import numpy as np

from .style import new_axes, styled

__all__ = ["q_strip", "ramachandran", "suspicion_strip"]

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
    from ..atomic.torsions import ALLOWED, FAVOURED, KINDS, ramachandran_table

    ax = new_axes(ax, width=4.2, height=4.2)
    shown = kind or 0
    table = ramachandran_table()[shown]
    axis = np.arange(180) * 2 - 179
    levels = [ALLOWED[shown], FAVOURED, 1.01]
    ax.contourf(axis, axis, table.T, levels=levels, colors=["#DCE9F5", "#A9CCE8"])
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
    ticks = [-180, -90, 0, 90, 180]
    ax.set(xlim=(-180, 180), ylim=(-180, 180), xticks=ticks, yticks=ticks, xlabel="φ (°)", ylabel="ψ (°)")
    ax.set_aspect("equal")
    ax.set_title("all residues over the general regions" if kind is None else KINDS[kind], fontsize=9)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, handletextpad=0.1)
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
