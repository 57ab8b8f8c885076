"""Draw conformations: the embedding, the energy landscape with its band and the truth, and the path through it."""

import numpy as np

from .style import new_axes, styled

__all__ = ["eigenvalues", "embedding", "landscape"]

ENERGY_MAP = "viridis_r"  # wells bright, so that dark contours and the path show on them
TRUTH = "#222222"


@styled
def landscape(result, *, ax=None, truth=None, label=None, path=None):
    """Free energy in kT over one or two coordinates; its credible band, and the planted truth where it is known.

    Parameters
    ----------
    result : EnergyLandscape
        Unobserved bins stay empty.
    ax : Axes, optional
    truth : EnergyLandscape, or ndarray like ``result.energy_kt``, optional
        Drawn as a dashed line (one coordinate) or as dashed contours (two).
    label : str, optional
        Name in the legend.
    path : ndarray (m, 2), optional
        Drawn over a landscape of two coordinates.

    Returns
    -------
    Axes
    """
    truth = getattr(truth, "energy_kt", truth)
    if result.energy_kt.ndim == 1:
        return _curve(result, ax, truth, label)
    return _map(result, ax, truth, path)


def _curve(result, ax, truth, label):
    ax = new_axes(ax)
    (centers,) = result.centers
    (line,) = ax.plot(centers, result.energy_kt, label=label or "estimate")
    if result.lower_kt is not None:
        says = f"{100 * result.credibility:.0f} % band"
        ax.fill_between(
            centers, result.lower_kt, result.upper_kt, color=line.get_color(), alpha=0.2, lw=0, label=says
        )  # fmt: skip
    if truth is not None:
        ax.plot(centers, truth - np.nanmin(truth), color=TRUTH, ls="--", lw=1.4, label="truth")
    ax.set(xlabel=result.gauge[0], ylabel="free energy (kT)")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.legend()
    if result.verdict != "resolved":
        ax.set_title(result.verdict, color="#D55E00")
    return ax


def _map(result, ax, truth, path):
    ax = new_axes(ax, width=4.6, height=3.6)
    x, y = result.centers
    shown = ax.pcolormesh(result.edges[0], result.edges[1], result.energy_kt.T, cmap=ENERGY_MAP, shading="flat")
    ax.figure.colorbar(shown, ax=ax, label="free energy (kT)")
    levels = np.arange(1, max(2, np.ceil(np.nanmax(result.energy_kt))))
    ax.contour(x, y, np.ma.masked_invalid(result.energy_kt.T), levels=levels, colors="white", linewidths=0.6)
    if truth is not None:
        contours = ax.contour(
            x, y, np.asarray(truth).T - np.nanmin(truth), levels=levels, colors=TRUTH, linewidths=0.9, linestyles="--"
        )  # fmt: skip
        ax.plot([], [], color=TRUTH, ls="--", lw=0.9, label=f"truth, contours at {contours.levels[0]:g}, 2, … kT")
    if path is not None:
        ax.plot(*np.asarray(path).T, color="#D55E00", lw=2, label="path")
    if truth is not None or path is not None:
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2)
    ax.set(xlabel=result.gauge[0], ylabel=result.gauge[1])
    return ax


@styled
def embedding(result, *, ax=None, color=None, label="", axes=(0, 1)):
    """Particles in two conformational coordinates, coloured by anything known of them.

    Parameters
    ----------
    result : Embedding
    ax : Axes, optional
    color : ndarray (n,), optional
        A value per particle; with only one coordinate it becomes the second axis.
    label : str
        What ``color`` is, with its unit.
    axes : (int, int)
        Which two coordinates.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.4, height=3.4)
    points = result.coordinates
    if points.shape[1] == 1:
        if color is None:
            raise ValueError("an embedding with one coordinate needs a colour to be drawn against")
        ax.plot(points[:, 0], color, ".", ms=2.5, alpha=0.4, rasterized=True)
        ax.set(xlabel="coordinate 1", ylabel=label)
        return ax
    x, y = points[:, axes[0]], points[:, axes[1]]
    shown = ax.scatter(x, y, c=color, s=6, alpha=0.6, lw=0, cmap="viridis", rasterized=True)
    if color is not None:
        bar = ax.figure.colorbar(shown, ax=ax, label=label)
        bar.solids.set_alpha(1)
    ax.set(xlabel=f"coordinate {axes[0] + 1}", ylabel=f"coordinate {axes[1] + 1}")
    return ax


@styled
def eigenvalues(result, *, ax=None, null=None):
    """Eigenvalues of an embedding, largest first, beside those of data without a motion where given.

    Parameters
    ----------
    result : Embedding
    ax : Axes, optional
    null : ndarray (k,), optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=3.8, height=2.8)
    rank = np.arange(1, len(result.eigenvalues) + 1)
    ax.plot(rank, result.eigenvalues, "o-", label=result.method)
    if null is not None:
        ax.plot(np.arange(1, len(null) + 1), null, "s--", color="#999999", label="null")
    ax.set(xlabel="coordinate", ylabel="eigenvalue", xticks=rank)
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax
