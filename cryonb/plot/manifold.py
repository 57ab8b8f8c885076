"""Draw conformations: the embedding, the energy landscape with its band and the truth, and the path through it."""

import textwrap

import numpy as np

from .style import new_axes, styled

__all__ = [
    "eigenvalues",
    "embedding",
    "evidence",
    "frame_evidence",
    "landscape",
    "path",
    "recovered",
    "smoothness_evidence",
]

ENERGY_MAP = "viridis_r"  # wells bright, so that dark contours and the path show on them
TRUTH = "#222222"
WRAP = 80  # characters of a warning


@styled
def landscape(result, *, ax=None, truth=None, label=None, path=None, band=True):
    """Free energy in kT over one or two coordinates; its credible band, and the planted truth where it is known.

    Parameters
    ----------
    result : EnergyLandscape, or manifold.ConformationalLandscape
        Unobserved bins stay empty. Of the latter the warnings are printed, too.
    ax : Axes, optional
    truth : EnergyLandscape, or ndarray like ``result.energy_kt``, optional
        Drawn as a dashed line (one coordinate, any bins) or as dashed contours (two, the same bins).
    label : str, optional
        Name in the legend.
    path : ndarray (m, 2), optional
        Drawn over a landscape of two coordinates.
    band : bool
        Draw the credible band.

    Returns
    -------
    Axes
    """
    if hasattr(result, "warnings"):
        ax = landscape(result.landscape, ax=ax, truth=truth, label=label, path=path, band=band)
        return _warned(ax, result.warnings)
    if hasattr(truth, "energy_kt"):
        truth = (truth.centers[0], truth.energy_kt) if truth.energy_kt.ndim == 1 else truth.energy_kt
    if result.energy_kt.ndim == 1:
        return _curve(result, ax, truth, label, band)
    return _map(result, ax, truth, path)


def _warned(ax, warnings):
    """Everything that speaks against a landscape, above it."""
    if warnings:
        lines = [line for each in warnings for line in textwrap.wrap(each, WRAP)]
        ax.set_title("\n".join(lines), color="#D55E00", fontsize=8)
    return ax


def _curve(result, ax, truth, label, band):
    ax = new_axes(ax)
    (centers,) = result.centers
    (line,) = ax.plot(centers, result.energy_kt, label=label or "estimate", zorder=3)
    if band and result.lower_kt is not None:
        says = f"{100 * result.credibility:.0f} % band"
        ax.fill_between(
            centers, result.lower_kt, result.upper_kt, color=line.get_color(), alpha=0.2, lw=0, label=says
        )  # fmt: skip
    if truth is not None:
        x, energy = (centers, truth) if np.shape(truth) == centers.shape else truth
        ax.plot(x, energy - np.nanmin(energy), color=TRUTH, ls="--", lw=1.4, label="truth", zorder=4)
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
        Limited to where 99 % of the particles lie along each coordinate; how many lie outside is written in.
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
    (left, right), (low, high) = _span_of_most(x), _span_of_most(y)
    outside = int(((x < left) | (x > right) | (y < low) | (y > high)).sum())
    if outside:
        ax.set(xlim=(left, right), ylim=(low, high))
        ax.set_title(f"{outside:,} of {len(x):,} particles lie outside", fontsize=8, color="#666666")
    return ax


def _span_of_most(values):
    """Where 99 % of the values lie, with some room; all of them where that costs little."""
    low, high = np.quantile(values, [0.005, 0.995])
    room = 0.15 * (high - low)
    return (
        (low - room, high + room) if np.ptp(values) > 2 * (high - low) else (values.min() - room, values.max() + room)
    )


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


@styled
def path(result, *, ax=None):
    """Energy along a path, with the basins it connects and how many particles live in each.

    Parameters
    ----------
    result : Path
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.8)
    points = np.asarray(result.points)
    along = points[:, 0] if points.shape[1] == 1 else result.arclength
    ax.plot(along, result.energy_kt, color="#D55E00", lw=2, label=f"barrier {result.barrier_kt:.1f} kT")
    for basin in result.basins:
        nearest = np.argmin(
            np.linalg.norm((points - basin.position) / np.maximum(np.ptp(points, axis=0), 1e-9), axis=1)
        )
        ax.plot(along[nearest], result.energy_kt[nearest], "o", color=TRUTH)
        ax.annotate(
            f"{100 * basin.population:.0f} %", (along[nearest], result.energy_kt[nearest]), (0, 7),
            textcoords="offset points", ha="center",
        )  # fmt: skip
    ax.set(xlabel=result.gauge[0] if points.shape[1] == 1 else "way along the path", ylabel="free energy (kT)")
    ax.margins(y=0.15)
    ax.legend()
    return ax


@styled
def recovered(truth, found, *, deviation=None, ax=None, gauge="coordinate"):
    """What was found for each particle against what is true of it.

    Parameters
    ----------
    truth, found : ndarray (n,)
    deviation : ndarray (n,), optional
        Posterior standard deviation of ``found``.
    ax : Axes, optional
    gauge : str
        What both measure, with its unit.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=3.8, height=3.6)
    if deviation is not None:
        ax.errorbar(truth, found, deviation, fmt="none", ecolor="#0072B2", alpha=0.08, lw=0.8, rasterized=True)
    ax.plot(truth, found, ".", ms=3, alpha=0.4, mew=0, rasterized=True)
    limits = min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])
    ax.plot(limits, limits, color=TRUTH, ls="--", lw=1)
    ax.set(xlabel=f"true {gauge}", ylabel=f"found {gauge}", xlim=limits, ylim=limits, aspect="equal")
    return ax


@styled
def evidence(coordinate, effective_particles, *, ax=None, gauge="coordinate", enough=50):
    """The strip under a movie: how many particles stand behind each frame, and which frames are interpolated.

    Parameters
    ----------
    coordinate : ndarray (m,)
        Of the frames.
    effective_particles : ndarray (m,)
        Expected number of particles per frame.
    ax : Axes, optional
    gauge : str
        What ``coordinate`` measures, with its unit.
    enough : float
        Frames with fewer particles are drawn pale: they are interpolated rather than observed.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=1.6)
    coordinate, count = np.asarray(coordinate, dtype=float), np.asarray(effective_particles, dtype=float)
    width = np.diff(coordinate).min() * 0.9 if len(coordinate) > 1 else 1.0
    colors = np.where(count >= enough, "#0072B2", "#b8d4e6")
    ax.bar(coordinate, np.maximum(count, 0.1), width=width, color=colors)
    ax.axhline(enough, color="#999999", lw=0.8, ls="--")
    ax.set_yscale("log")
    ax.set(xlabel=gauge, ylabel="particles", ylim=(1, max(2 * count.max(), 2 * enough)))
    return ax


@styled
def frame_evidence(result, *, frame=None, ax=None):
    """The strip under a movie: particles behind each frame, how finely its half maps agree, what is interpolated.

    Parameters
    ----------
    result : manifold.FrameEvidence
    frame : int, optional
        The frame that is shown: marked, and its evidence written below.
    ax : Axes, optional

    Returns
    -------
    Axes
        Bars: the smaller of expected and effective particles, pale where the frame is interpolated. Dots, on an axis at
        the right: Å where the FSC of the half maps falls to 0.143.
    """
    ax = new_axes(ax, height=1.6)
    x, count = result.positions, np.minimum(result.expected, result.effective)
    width = np.diff(x).min() * 0.9 if len(x) > 1 else 1.0
    ax.bar(x, np.maximum(count, 0.1), width=width, color=np.where(result.observed, "#0072B2", "#b8d4e6"))
    ax.axhline(result.enough, color="#999999", lw=0.8, ls="--")
    ax.set_yscale("log")
    ax.set(ylabel="particles", ylim=(1, max(2 * count.max(), 2 * result.enough)), xlabel=result.gauge)
    if np.isfinite(result.resolution).any():
        fineness = ax.twinx()
        fineness.plot(x, result.resolution, "o", ms=3.5, mfc="white", mec=TRUTH, mew=1.0)
        reach = np.nanmin(result.resolution), np.nanmax(result.resolution)
        fineness.set(ylabel="FSC (Å)", ylim=(1.1 * reach[1], 0.9 * reach[0]))  # finer is higher
        fineness.grid(False)
    if frame is not None:
        ax.axvline(x[frame], color="#D55E00", lw=2)
        ax.set_xlabel(f"{result.gauge} = {x[frame]:.3g}, {result.sentence(frame)}", fontsize=8)
    return ax


@styled
def smoothness_evidence(scan, *, ax=None, shown=None):
    """Evidence of each smoothness λ, below its maximum, and the share of each λ in the landscape.

    Parameters
    ----------
    scan : manifold.SmoothnessScan
    ax : Axes, optional
    shown : int, optional
        Index of a λ to mark.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.4, height=2.8)
    size = 12 + 150 * scan.weight
    ax.plot(scan.smoothness, scan.log_evidence, color="#0072B2", lw=1)
    ax.scatter(scan.smoothness, scan.log_evidence, s=size, color="#0072B2", label="λ, larger where its share is")
    if shown is not None:
        where = scan.smoothness[shown], max(scan.log_evidence[shown], -20)
        ax.plot(*where, "o", ms=12, mfc="none", mec="#D55E00", mew=2, label=f"λ = {scan.smoothness[shown]:.1e}")
    ax.set(xscale="log", xlabel="smoothness λ", ylabel="log evidence (nats)", ylim=(-21, 2))
    ax.legend(loc="lower left")
    return ax
