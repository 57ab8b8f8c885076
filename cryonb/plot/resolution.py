"""Draw how much of a volume to believe."""

import numpy as np

from .ctf import resolution_axis
from .style import new_axes, styled

__all__ = ["fourier_shell_correlation", "spectrum"]


@styled
def fourier_shell_correlation(curves, *, ax=None, threshold=0.143, labels=None):
    """FSC curves over Å⁻¹, labelled in Å, with the threshold and where each curve crosses it.

    Parameters
    ----------
    curves : FSC, or a sequence of FSC
    ax : Axes, optional
    threshold : float
        0.143 between half maps, 0.5 between map and model.
    labels : sequence of str, optional
        One per curve; the resolution is added.

    Returns
    -------
    Axes
    """
    curves = list(curves) if isinstance(curves, (list, tuple)) else [curves]
    labels = [""] * len(curves) if labels is None else list(labels)
    ax = new_axes(ax, height=2.9)
    ax.axhline(0, color="#999999", lw=0.8)
    ax.axhline(threshold, color="#999999", lw=0.8, ls="--")
    nyquist = max(float(np.max(curve.frequency)) for curve in curves)
    ax.text(0.005 * nyquist, threshold + 0.02, f"{threshold:g}", color="#666666", fontsize=8)
    for curve, label in zip(curves, labels, strict=True):
        resolution = curve.at(threshold)
        says = f"{label}: {resolution:.3g} Å" if label else f"{resolution:.3g} Å"
        (line,) = ax.plot(curve.frequency, curve.correlation, label=says)
        if np.min(curve.correlation) < threshold and np.isfinite(resolution):
            ax.plot(1 / resolution, threshold, "o", color=line.get_color())
    resolution_axis(ax, nyquist)
    ax.set(ylim=(-0.12, 1.04), ylabel="Fourier shell correlation")
    ax.legend(loc="best")
    return ax


@styled
def spectrum(frequency, power, *, ax=None, label=None):
    """Power per shell on a logarithmic axis, drawn over Å⁻¹ and labelled in Å.

    Parameters
    ----------
    frequency : ndarray (m,)
        Å⁻¹.
    power : ndarray (m,)
        Any power, or ratio of powers.
    ax : Axes, optional
    label : str, optional
        What is drawn: the axis's label when it is the first curve, and its name in the legend.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.6)
    first = not ax.lines
    ax.semilogy(frequency, power, label=label)
    resolution_axis(ax, float(np.max(frequency)))
    if first:
        ax.set_ylabel(label or "power")
    elif label:
        ax.legend()
    return ax
