"""Draw the view-by-view embedding: how its bandwidth was found, one view's coordinates, the senses of the views."""

import numpy as np

from .style import new_axes, styled

__all__ = ["kernel_bandwidth", "sense_graph", "view_coordinates"]

AGREES, DIFFERS = "#0072B2", "#D55E00"


@styled
def kernel_bandwidth(result, *, ax=None, sigma=None):
    """Sum of kernels over their width ε, its fit by a tanh, and the bandwidth.

    Parameters
    ----------
    result : Bandwidth
    ax : Axes, optional
    sigma : float, optional
        Another bandwidth to mark, in the unit of the distances.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.4, height=3.0)
    ax.plot(result.log_epsilon, result.log_sum, ".", ms=4, label="ln S(ε)")
    ax.plot(result.log_epsilon, result.fitted, color="#222222", lw=1.2, label=f"tanh, dimension {result.dimension:.1f}")
    ax.axvline(np.log(result.sigma**2 / 2), color=AGREES, ls="--", lw=1.2, label=f"fitted σ = {result.sigma:.3g}")
    if sigma is not None:
        ax.axvline(np.log(sigma**2 / 2), color=DIFFERS, lw=1.2, label=f"σ = {sigma:.3g}")
    ax.set(xlabel="ln ε (squared distance units)", ylabel="ln Σ exp(−D²/2ε)")
    ax.legend()
    return ax


@styled
def view_coordinates(coordinates, *, ax=None, color=None, label=""):
    """The first two diffusion coordinates of one view's images.

    Parameters
    ----------
    coordinates : ndarray (n, k), k ≥ 2
    ax : Axes, optional
    color : ndarray (n,), optional
        A value per image.
    label : str
        What ``color`` is, with its unit.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.0, height=3.2)
    shown = ax.scatter(*coordinates[:, :2].T, c=color, s=7, lw=0, cmap="viridis", rasterized=True)
    if color is not None:
        ax.figure.colorbar(shown, ax=ax, label=label)
    ax.set(xlabel="ψ₁", ylabel="ψ₂")
    return ax


@styled
def sense_graph(result, *, ax=None):
    """Views over half the sphere, turned around or not, and which compared pairs contradict that.

    Parameters
    ----------
    result : ClassicLandscape
    ax : Axes, optional

    Returns
    -------
    Axes
        Azimuthal equal-area projection around +z. Lines join compared views, wider where their movies agree more.
    """
    ax = new_axes(ax, width=4.0, height=4.0)
    x, y, z = result.bins.directions.T
    stretch = np.sqrt(2 / (1 + z))
    place = np.column_stack([x * stretch, y * stretch]) / np.sqrt(2)
    strongest = max(np.abs(result.agreement).max(), 1e-12)
    for i, j in zip(*np.nonzero(np.triu(result.agreement, 1)), strict=True):
        kept = result.agreement[i, j] * result.sense[i] * result.sense[j] >= 0
        width = 0.4 + 2.6 * abs(result.agreement[i, j]) / strongest
        ax.plot(*place[[i, j]].T, color="#bbbbbb" if kept else DIFFERS, lw=width, zorder=1)
    size = 20 + 180 * result.bins.populations / result.bins.populations.max()
    for sign, color, says in ((1, AGREES, "as found"), (-1, "#E69F00", "turned around"), (0, "#999999", "unknown")):
        chosen = result.sense == sign
        if chosen.any():
            ax.scatter(*place[chosen].T, s=size[chosen], color=color, edgecolor="white", label=says, zorder=2)
    ax.plot([], [], color=DIFFERS, lw=2, label=f"contradicts ({100 * result.violated:.0f} %)")
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(turn), np.sin(turn), color="#666666", lw=0.8)
    ax.set(aspect="equal", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), xticks=[], yticks=[])
    ax.set_xlabel("viewing direction, equal-area, +z in the middle")
    ax.spines[:].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.08), ncols=2)
    return ax
