"""Draw atomic models in their map around one residue: what the 3D view shows, on paper."""

import numpy as np
import scipy.ndimage
from scipy.spatial import cKDTree

from .. import protein
from .style import new_axes, styled

__all__ = ["model_in_map"]

BOND = 2.0  # Å: heavy atoms nearer than this are bonded
SLAB = 2.5  # Å to each side of the plane, of the atoms that are drawn
STEP = 0.25  # Å between points of the plane
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")


@styled
def model_in_map(models, volume, row, *, labels=None, level=None, radius=8.0, colors=COLORS, ax=None):
    """Models as sticks over the map, in the plane of the main chain around one residue.

    Parameters
    ----------
    models : sequence of AtomicModel
        Drawn in order, the last on top; the plane is that of the last.
    volume : Volume
        In the models' frame.
    row : int
        The residue among those of the last model (`cryonb.protein.residues`).
    labels : sequence of str, optional
        For the legend.
    level : float, optional
        Density of the outermost line; 3 σ of the map by default.
    radius : float
        Å from the residue's Cα to the frame.
    colors : sequence of str
        Of the models.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=3.4, height=3.4)
    rows = protein.residues(models[-1])
    centre, axes = _plane(rows, models[-1].coordinates, row, radius)
    grid = np.arange(-radius, radius + STEP / 2, STEP)
    points = centre + grid[None, :, None] * axes[0] + grid[:, None, None] * axes[1]
    depths = np.arange(-SLAB / 2, SLAB / 2 + 0.1, 0.5)
    places = (points + depths[:, None, None, None] * axes[2] - volume.origin) / volume.voxel_size
    density = scipy.ndimage.map_coordinates(volume.data, np.moveaxis(places[..., ::-1], -1, 0), order=1).max(axis=0)
    level = 3 * float(volume.data.std()) if level is None else level
    top = max(float(density.max()), 1.01 * level)
    ax.contourf(grid, grid, density, levels=[level, top], colors=["#E4E8EC"])
    ax.contour(grid, grid, density, levels=np.linspace(level, top, 5)[:-1], colors="#9aa3ab", linewidths=0.6)
    for number, model in enumerate(models):
        label = None if labels is None else labels[number]
        line, color = _sticks(model, centre, axes, radius), colors[number % len(colors)]
        ax.plot(*line, color=color, lw=1.6, solid_capstyle="round", label=label)
    ax.set(xlim=(-radius, radius), ylim=(-radius, radius), xlabel="Å", ylabel="Å")
    ax.set_aspect("equal")
    ax.set_title(f"{rows.names[row].title()} {rows.labels()[row]}", fontsize=9)
    if labels is not None:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(models), frameon=False)
    return ax


def _plane(rows, xyz, row, radius):
    """The residue's CA, and the axes along and across the main chain around it, the third one normal to them."""
    alpha = rows.positions("CA", xyz)
    main = np.concatenate([rows.positions(name, xyz)[max(0, row - 3) : row + 4] for name in ("N", "CA", "C")])
    main = main[np.isfinite(main).all(axis=1)]
    near = main[np.linalg.norm(main - alpha[row], axis=1) < radius]
    _, _, axes = np.linalg.svd(near - near.mean(axis=0))
    axes[2] = np.cross(axes[0], axes[1])
    return alpha[row], axes


def _sticks(model, centre, axes, radius):
    """Bonds of heavy atoms inside the slab, as one broken line in the plane."""
    heavy = ~np.isin(model.elements, ("H", "D"))
    place = (model.coordinates[heavy] - centre) @ axes.T
    place = place[(abs(place[:, 2]) < SLAB) & (abs(place[:, :2]) < radius + BOND).all(axis=1)]
    pairs = cKDTree(place).query_pairs(BOND, output_type="ndarray") if len(place) else np.empty((0, 2), int)
    ends = place[pairs][..., :2]
    return np.concatenate([ends, np.full((len(ends), 1, 2), np.nan)], axis=1).reshape(-1, 2).T
