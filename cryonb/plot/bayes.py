"""Draw what a refinement or a classification went through: its iterations, its classes, its errors."""

import matplotlib.pyplot as plt
import numpy as np

from .ctf import resolution_axis
from .style import new_axes, styled
from .volumes import images

__all__ = [
    "angular_error", "class_averages", "class_choice", "confusion", "iterations", "occupancy", "responsibilities",
    "responsibility", "shell_spectra",
]  # fmt: skip

FIRST, SECOND = "#0072B2", "#D55E00"


@styled
def iterations(records, *, ax=None):
    """Resolution after each iteration, and how sure the particles were of their pose.

    Parameters
    ----------
    records : sequence of Iteration
        ``Refinement.iterations`` or ``Classification.iterations``.
    ax : Axes, optional
        Of the resolution; the probability gets an axis on the right.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.8)
    number = [record.number for record in records]
    (left,) = ax.plot(number, [record.resolution for record in records], "o-", color=FIRST, label="resolution")
    local = [record.number for record in records if record.local]
    if local:
        ax.axvspan(min(local) - 0.5, max(local) + 0.5, color="#f0f0f0", lw=0, zorder=-1, label="local search")
    ax.set(xlabel="iteration", ylabel="resolution (Å)")
    ax.set_ylim(0, 1.08 * max(record.resolution for record in records))
    ax.xaxis.get_major_locator().set_params(integer=True)
    twin = ax.twinx()
    twin.plot(
        number, [record.pmax for record in records], "s--", color=SECOND, label="mean probability of the best pose"
    )
    twin.set(ylim=(0, 1.02), ylabel="probability of the best pose")
    twin.spines["right"].set_visible(True)
    twin.yaxis.label.set_color(SECOND)
    ax.yaxis.label.set_color(FIRST)
    handles = [part for one in (ax, twin) for part in one.get_legend_handles_labels()[0]]
    ax.legend(
        handles, [handle.get_label() for handle in handles], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3
    )
    return ax


@styled
def occupancy(records, *, ax=None, names=None):
    """Share of each class after each iteration, stacked to one.

    Parameters
    ----------
    records : sequence of Iteration
    ax : Axes, optional
    names : sequence of str, optional
        One per class.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.6)
    most = max(len(record.occupancy) for record in records)  # more than at the end where classes were merged
    shares = np.array([np.pad(record.occupancy, (0, most - len(record.occupancy))) for record in records])
    names = [f"class {k + 1}" for k in range(shares.shape[1])] if names is None else names
    number = [record.number for record in records]
    ax.stackplot(number, 100 * shares.T, labels=names, alpha=0.85)
    ax.set(
        xlabel="iteration", ylabel="particles (%)", xlim=(min(number), max(max(number), min(number) + 1)), ylim=(0, 100)
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
    return ax


@styled
def class_averages(result, *, ax=None, columns=None):
    """The averages of a 2D classification, the most populous class first, with its number and share.

    Parameters
    ----------
    result : Classification2D
    ax : Axes, optional
    columns : int, optional
        Averages in a row; up to eight by default.

    Returns
    -------
    Axes

    Notes
    -----
    Each average is stretched by itself: grey values cannot be compared between them.
    """
    order = np.argsort(-result.occupancy, kind="stable")
    titles = [f"{k + 1}: {100 * result.occupancy[k]:.1f} %" for k in order]
    return images(
        result.averages[order], pixel_size=result.pixel_size, ax=ax, titles=titles, columns=columns, limits="each"
    )


@styled
def class_choice(choice, *, axes=None):
    """What held-out particles say of each number of classes and of each T: evidence less that of the chosen ones.

    Parameters
    ----------
    choice : ClassChoice
    axes : sequence of two Axes, optional

    Returns
    -------
    ndarray of two Axes
        Nats per particle with bars of one standard error; linear near 0, logarithmic beyond 1. Without T where there
        is one class only.
    """
    axes = plt.subplots(1, 2, figsize=(8.0, 3.0), layout="constrained")[1] if axes is None else np.asarray(axes)
    most, values = len(choice.class_evidence), choice.tau_fudges
    panels = (
        (axes[0], np.arange(1, most + 1), choice.against_chosen(), choice.n_classes - 1, "number of classes K"),
        (axes[1], np.arange(len(values)), choice.against_chosen(choice.tau_evidence), None, "T"),
    )
    for ax, place, (mean, error), chosen, name in panels:
        chosen = values.index(choice.tau_fudge) if chosen is None else chosen
        ax.errorbar(place, mean, error, fmt="o-", color=FIRST, capsize=3, ms=4)
        says = f"chosen: {name[-1]} = {choice.tau_fudge:g}" if name == "T" else f"chosen: K = {choice.n_classes}"
        ax.plot(place[chosen], mean[chosen], "o", ms=11, mfc="none", color=SECOND, label=says)
        ax.axhline(0, color="#999999", lw=0.8, zorder=-1)
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_ylim(top=0.6)
        marks = [-100, -30, -10, -3, -1, -0.5, 0]
        ax.set_yticks([mark for mark in marks if mark >= min(ax.get_ylim()[0], -1)], minor=False)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set(xlabel=name, ylabel="nats per held-out particle,\nagainst the chosen")
        ax.legend(loc="upper right")
    axes[0].set_xticks(panels[0][1])
    axes[1].set_xticks(panels[1][1], [f"{value:g}" for value in values])
    axes[1].set_visible(choice.n_classes > 1)  # one class does not differ from anything
    return axes


@styled
def confusion(counts, *, ax=None, true_names=None, found_names=None):
    """Particles of each true species (rows) in each class found (columns), with the counts written in.

    Parameters
    ----------
    counts : ndarray (a, b)
    ax : Axes, optional
    true_names, found_names : sequence of str, optional

    Returns
    -------
    Axes
    """
    counts = np.asarray(counts)
    rows, columns = counts.shape
    true_names = [f"species {i + 1}" for i in range(rows)] if true_names is None else true_names
    found_names = [f"class {k + 1}" for k in range(columns)] if found_names is None else found_names
    ax = new_axes(ax, width=1.6 + 0.85 * columns, height=1.1 + 0.6 * rows)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1, origin="upper", aspect="auto")
    for row in range(rows):
        for column in range(columns):
            ink = "white" if share[row, column] > 0.6 else "black"
            text = f"{counts[row, column]:,.0f}\n{100 * share[row, column]:.0f} %"
            ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=8.5)
    ax.set_xticks(range(columns), found_names)
    ax.set_yticks(range(rows), true_names)
    ax.set(xlabel="found", ylabel="true")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


@styled
def angular_error(errors, *, ax=None, label=None):
    """Share of particles whose orientation is off by no more than an angle.

    Parameters
    ----------
    errors : ndarray (n,)
        Degrees, as `cryonb.rotations.angular_distance` gives them.
    ax : Axes, optional
    label : str, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.2, height=2.8)
    errors = np.sort(np.asarray(errors, dtype=float))
    median = np.median(errors)
    says = f"{label}: median {median:.1f}°" if label else f"median {median:.1f}°"
    (line,) = ax.step(
        np.maximum(errors, 0.1), 100 * np.arange(1, len(errors) + 1) / len(errors), label=says, where="post"
    )
    ax.plot(max(median, 0.1), 50, "o", color=line.get_color())
    ax.set_xscale("log")
    ticks = [0.3, 1, 3, 10, 30, 90, 180]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="error of the orientation (°)", ylabel="particles (%)", xlim=(0.3, 180), ylim=(0, 102))
    ax.legend(loc="best")
    return ax


@styled
def responsibilities(weights, angles, *, truth=None, ax=None):
    """How probable each in-plane angle of each image is: one row an image, darker is more probable.

    Parameters
    ----------
    weights : ndarray (n, a)
        Rows sum to 1.
    angles : ndarray (a,)
        Degrees, increasing evenly.
    truth : ndarray (n,), optional
        True angles in degrees; the rows are sorted by them.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.4, height=3.1)
    weights, angles = np.asarray(weights), np.asarray(angles)
    order = np.arange(len(weights)) if truth is None else np.argsort(truth, kind="stable")
    edge = (angles[1] - angles[0]) / 2
    extent = (angles[0] - edge, angles[-1] + edge, len(weights), 0)
    shown = ax.imshow(
        weights[order], cmap="magma_r", vmin=0, vmax=1, extent=extent, origin="upper", aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    ax.figure.colorbar(shown, ax=ax, label="responsibility")
    ax.set(xlabel="in-plane angle (°)", ylabel="image" if truth is None else "image, by true angle")
    return ax


@styled
def responsibility(weights, angles, *, truth=None, ax=None):
    """How probable each in-plane angle of one image is.

    Parameters
    ----------
    weights : ndarray (a,)
        Sums to 1.
    angles : ndarray (a,)
        Degrees.
    truth : float, optional
        Degrees; a dotted line.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.4, height=2.4)
    ax.step(angles, weights, where="mid", color=FIRST)
    ax.fill_between(angles, weights, step="mid", color=FIRST, alpha=0.25, lw=0)
    if truth is not None:
        ax.axvline(truth, color="#222222", lw=0.8, ls=":", label="truth")
        ax.legend(loc="best")
    ax.set(xlabel="in-plane angle (°)", ylabel="responsibility", ylim=(0, 1.02))
    return ax


@styled
def shell_spectra(record, *, pixel_size, ax=None):
    """Power of the noise, and the prior (of `refine` the power τ² of the signal, of classes a Wiener factor), by shell.

    Parameters
    ----------
    record : Iteration
    pixel_size : float
        Å.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.8)
    noise, prior = np.atleast_2d(record.noise), np.atleast_2d(record.prior)
    frequency = np.arange(noise.shape[1]) / (2 * (noise.shape[1] - 1) * pixel_size)
    for group, values in enumerate(noise):
        name = "noise σ²" if len(noise) == 1 else f"noise σ², optics group {group + 1}"
        ax.semilogy(frequency[1:], values[1:], color="#777777", ls=["-", "--", ":", "-."][group % 4], label=name)
    for k, values in enumerate(prior):
        name = "prior" if len(prior) == 1 else f"prior, class {k + 1}"
        ax.semilogy(frequency[1:], np.where(values[1:] > 0, values[1:], np.nan), label=name)
    resolution_axis(ax, float(frequency[-1]))
    ax.set_ylabel("power")
    ax.legend(loc="best")
    return ax
