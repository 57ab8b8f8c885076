"""Draw how much of a volume to believe: curves."""

import numpy as np

from .ctf import resolution_axis
from .style import new_axes, styled

__all__ = [
    "corrected_fsc", "directional_fsc", "fourier_shell_correlation", "guinier", "noise_substitution", "reslog",
    "spectrum",
]  # fmt: skip

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"


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


@styled
def corrected_fsc(result, *, ax=None):
    """The four curves of a mask correction, where phases were randomised, and the resolution of the corrected one.

    Parameters
    ----------
    result : CorrectedFSC
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _correlation_axes(ax, result.corrected)
    names = {"unmasked": (GREY, "-"), "masked": (ORANGE, "-"), "randomised": (ORANGE, ":")}
    for name, (color, style) in names.items():
        curve = getattr(result, name)
        says = f"{name}: {curve.at():.3g} Å" if name != "randomised" else "masked, phases randomised"
        ax.plot(curve.frequency, curve.correlation, color=color, ls=style, lw=1.3, label=says)
    _curve_with_crossing(ax, result.corrected, BLUE, "corrected")
    _randomised_from(ax, result.randomise_from)
    ax.legend(loc="best")
    return ax


@styled
def noise_substitution(result, *, ax=None):
    """FSC of a procedure on the data, on data whose fine detail is noise, and what is left of the first.

    Parameters
    ----------
    result : NoiseSubstitution
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _correlation_axes(ax, result.original)
    for name, color, curve in (("data", ORANGE, result.original), ("fine detail replaced", GREY, result.substituted)):
        ax.plot(curve.frequency, curve.correlation, color=color, lw=1.3, label=f"{name}: {curve.at():.3g} Å")
    _curve_with_crossing(ax, result.corrected, BLUE, "corrected")
    _randomised_from(ax, result.randomise_from)
    ax.legend(loc="best")
    return ax


@styled
def directional_fsc(result, *, ax=None):
    """FSC of every cone, the best, the worst and the whole, with cFAR.

    Parameters
    ----------
    result : DirectionalFSC
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = _correlation_axes(ax, result.overall, result.threshold)
    for curve in result.correlation:
        ax.plot(result.frequency, curve, color="#bbbbbb", lw=0.5, alpha=0.6)
    for name, color, index in (("best", GREEN, result.area.argmax()), ("worst", ORANGE, result.area.argmin())):
        says = f"{name} direction: {result.resolution[index]:.3g} Å"
        ax.plot(result.frequency, result.correlation[index], color=color, label=says)
    _curve_with_crossing(ax, result.overall, BLUE, "all directions", result.threshold)
    ax.legend(loc="best", title=f"cFAR {result.cfar:.2f}", title_fontsize=9, alignment="left")
    return ax


@styled
def guinier(plot, *, fit=None, ax=None):
    """ln amplitude over 1/d², as measured and weighted by the FSC, with the line whose slope is −B/4.

    Parameters
    ----------
    plot : Guinier
    fit : BFactor, optional
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.9)
    ax.plot(plot.inverse_square[1:], plot.log_amplitude[1:], color=GREY, lw=1.3, label="measured")
    ax.plot(plot.inverse_square[1:], plot.log_weighted[1:], color=BLUE, label="weighted by C$_{ref}$")
    if fit is not None:
        ends = np.array([1 / fit.low**2, 1 / fit.high**2])
        says = f"B = {fit.value:.0f} ± {fit.error:.0f} Å²"
        ax.plot(ends, fit.line(ends), "o-", color=ORANGE, label=says)
    ax.set(xlabel="1/d² (Å⁻²)", ylabel="ln amplitude", xlim=(0, plot.inverse_square[-1]))
    ax.legend(loc="best")
    return ax


@styled
def reslog(result, *, ax=None):
    """1/d² over the number of particles, labelled in Å, with the line of the B factor.

    Parameters
    ----------
    result : ResLog
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.6, height=2.9)
    reach = np.array([result.n_particles.min() / 1.5, result.n_particles.max() * 4])
    ax.plot(reach, result.at(reach) ** -2.0, color=ORANGE, label=f"B = {result.b_factor:.0f} Å²")
    known = np.isfinite(result.resolution)
    ax.plot(result.n_particles[known], result.resolution[known] ** -2.0, "o", color=BLUE, label="subsets")
    ax.set_xscale("log")
    low, high = ax.get_ylim()
    steps = np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
    finest, coarsest = high**-0.5, max(low, high / 100) ** -0.5
    step = steps[np.argmin(np.abs((coarsest - finest) / steps - 5))]
    ticks = np.arange(np.ceil(finest / step), np.floor(coarsest / step) + 1) * step
    ax.set_yticks(ticks**-2.0, [f"{tick:.3g}" for tick in ticks])
    ax.set(xlabel="particles", ylabel="resolution (Å), over 1/d²", ylim=(low, high))
    ax.legend(loc="best")
    return ax


def _correlation_axes(ax, curve, threshold=0.143):
    ax = new_axes(ax, height=2.9)
    ax.axhline(0, color="#999999", lw=0.8)
    ax.axhline(threshold, color="#999999", lw=0.8, ls="--")
    nyquist = float(curve.frequency[-1])
    ax.text(0.005 * nyquist, threshold + 0.02, f"{threshold:g}", color="#666666", fontsize=8)
    resolution_axis(ax, nyquist)
    ax.set(ylim=(-0.12, 1.04), ylabel="Fourier shell correlation")
    return ax


def _curve_with_crossing(ax, curve, color, name, threshold=0.143):
    resolution = curve.at(threshold)
    ax.plot(curve.frequency, curve.correlation, color=color, lw=2, label=f"{name}: {resolution:.3g} Å")
    if np.isfinite(resolution) and np.min(curve.correlation) < threshold:
        ax.plot(1 / resolution, threshold, "o", color=color)


def _randomised_from(ax, resolution):
    ax.axvline(1 / resolution, color="#999999", lw=0.8, ls=":")
    ax.annotate(
        f"random from {resolution:.3g} Å",
        (1 / resolution, -0.11),
        xytext=(3, 1),
        textcoords="offset points",
        color="#666666",
        fontsize=8,
        va="bottom",
    )
