"""Draw how much of a volume to believe: place by place, and over the sphere."""

import numpy as np

from .style import new_axes, scale_bar, styled

__all__ = ["directional_resolution", "local_resolution", "local_resolution_slices", "orientation_distribution"]

BLUE, ORANGE = "#0072B2", "#D55E00"
RESOLUTION_MAP = "viridis_r"  # fine is bright


@styled
def local_resolution(result, *, ax=None):
    """Histogram of a local-resolution volume, with its median.

    Parameters
    ----------
    result : Volume
        Å, NaN outside the mask.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.2, height=2.6)
    values = result.data[np.isfinite(result.data)]
    low, high, median = np.percentile(values, [0.5, 98, 50])
    edges = np.linspace(low, max(high, low * 1.01), 41)
    ax.hist(np.clip(values, low, high), edges, weights=np.full(len(values), 100 / len(values)), color=BLUE)
    ax.axvline(median, color=ORANGE, lw=1.3, label=f"median {median:.3g} Å")
    ax.set(xlabel="local resolution (Å)", ylabel="voxels (%)", xlim=(edges[0], edges[-1]))
    ax.legend(loc="best")
    return ax


@styled
def local_resolution_slices(result, *, ax=None, limits=None):
    """Central slices across z, y and x, coloured by resolution; white outside the mask.

    Parameters
    ----------
    result : Volume
        Å, NaN outside the mask.
    ax : Axes, optional
    limits : (fine, coarse), optional
        Å at the ends of the colours; by default what 1 % and 95 % of the voxels have.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=6.4, height=2.4)
    size_px = result.size_px
    middle, gap = size_px // 2, max(1, size_px // 16)
    fine, coarse = np.nanpercentile(result.data, [1, 95]) if limits is None else limits
    slices = (result.data[middle], result.data[:, middle], result.data[:, :, middle])
    for number, (picture, name) in enumerate(zip(slices, ("xy", "xz", "yz"), strict=True)):
        left = number * (size_px + gap)
        shown = ax.imshow(
            picture,
            cmap=RESOLUTION_MAP,
            vmin=fine,
            vmax=max(coarse, fine * 1.001),
            extent=(left, left + size_px, 0, size_px),
            origin="lower",
        )
        ax.text(left + size_px / 2, size_px + gap, name, ha="center", va="bottom", fontsize=9)
    ax.set(xlim=(0, 3 * size_px + 2 * gap), ylim=(-0.16 * size_px, size_px))  # below: the bar
    ax.set_axis_off()
    ax.figure.colorbar(shown, ax=ax, label="local resolution (Å)", shrink=0.85)
    length = max((bar for bar in (10, 20, 50, 100, 200) if bar < 0.4 * result.box_size), default=10)
    scale_bar(ax, length, length / result.voxel_size, color="black")
    return ax


@styled
def directional_resolution(result, *, ax=None):
    """Resolution along every direction of Fourier space, over rot and tilt (equal areas stay equal).

    Parameters
    ----------
    result : DirectionalFSC
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    both = np.concatenate([result.directions, -result.directions])
    values = np.tile(result.resolution, 2)
    finite = values[np.isfinite(values)]
    values = np.where(np.isfinite(values), values, finite.max() if len(finite) else np.nan)
    return _sphere(both, values, ax, cmap=RESOLUTION_MAP, label="resolution (Å)")


@styled
def orientation_distribution(result, *, ax=None):
    """Density of viewing directions over rot and tilt (equal areas stay equal), with E_od and SCF.

    Parameters
    ----------
    result : OrientationDistribution
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    label = "views, uniform = 1"
    ax = _sphere(result.directions, result.density, ax, cmap="viridis", label=label, low=0)
    ax.set_title(f"{result.count:,} particles, E_od {result.efficiency:.2f}, SCF {result.scf:.2f}")
    return ax


def _sphere(directions, values, ax, *, cmap, label, low=None):
    """Values on directions, drawn over rot and cos tilt: each direction's nearest pixels, the poles as edges."""
    from scipy.spatial import cKDTree

    ax = new_axes(ax, width=5.2, height=2.9)
    rot, height = np.meshgrid(np.radians(np.arange(-179.5, 180)), np.linspace(-0.995, 0.995, 200))
    across = np.sqrt(1 - height**2)
    points = np.stack([across * np.cos(rot), across * np.sin(rot), height], axis=-1)
    picture = values[cKDTree(directions).query(points)[1]]
    shown = ax.imshow(picture, cmap=cmap, vmin=low, extent=(-180, 180, -1, 1), aspect="auto", origin="lower")
    ax.figure.colorbar(shown, ax=ax, label=label)
    tilts = np.array([0, 30, 60, 90, 120, 150, 180])
    ax.set_yticks(np.cos(np.radians(tilts)), [f"{tilt}" for tilt in tilts])
    ax.set_xticks(np.arange(-180, 181, 60))
    ax.set(xlabel="rot (°)", ylabel="tilt (°)")
    return ax
