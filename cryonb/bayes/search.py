"""Where poses are looked for: a turned HEALPix grid of views and a grid of shifts, coarse then fine."""

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryonb import rotations

from .slices import view_matrices

__all__ = ["Sampling", "coarse_shell", "local_views", "psi_towards", "shift_grid", "turn_in_plane"]


RIM = 1.5  # steps: what lies half a diagonal of a cell beyond a border is up to 1.4 steps farther than its equivalent


@dataclass(frozen=True, eq=False)
class Sampling:
    """One iteration's search grids.

    Parameters
    ----------
    order : int
        HEALPix order of the coarse views; the fine ones are their children, one order on.
    shift_range_px, shift_step_px : float
        Radius and step of the coarse grid of shifts in pixels; the fine step is half.
    turn : Rotation
        Turns the whole grid of views, drawn anew each iteration.
    local_sigma : float or None
        Standard deviation in degrees of the prior around each particle's last pose, cut at 3σ; None searches
        globally.
    coarse_radius : float
        Frequency limit of the coarse pass in Fourier pixels.
    keep_views, keep_shifts : int
        How many coarse views go on to the fine pass, and how many shifts of each at most.
    symmetry : Rotation, optional
        Of a point group: a global search looks at one of each set of equivalent views.
    """

    order: int
    shift_range_px: float
    shift_step_px: float
    turn: Rotation = field(default_factory=Rotation.identity)
    local_sigma: float | None = None
    coarse_radius: float = np.inf
    keep_views: int = 24
    keep_shifts: int = 3
    symmetry: Rotation | None = None

    @property
    def step(self):
        """Fine angular step in degrees."""
        return rotations.healpix_step(self.order + 1)

    def views(self, *, fine=False):
        """Matrices (v, 3, 3) of the views at ψ = 0."""
        return view_matrices(self.order + int(fine), self.turn)

    def distinct_views(self):
        """Which coarse views (m,) to look at: of equivalent ones, the nearest to an arbitrary direction.

        With a rim of a step: a particle within the unit may have the nearest view of the grid outside.
        """
        directions = self.views()[:, :, 2]
        if self.symmetry is None or len(self.symmetry) == 1:
            return np.arange(len(directions))
        equivalent = np.einsum("gij,vj->gvi", self.symmetry.as_matrix(), directions)
        middle = np.array([0.48, 0.36, 0.8])
        nearest = np.arccos(np.clip((equivalent @ middle).max(0), -1, 1))
        own = np.arccos(np.clip(directions @ middle, -1, 1))
        return np.flatnonzero(own - nearest <= np.radians(RIM * rotations.healpix_step(self.order)))

    def shifts_px(self):
        """Coarse shifts (t, 2) in pixels, and their fine children (t, 4, 2)."""
        coarse = shift_grid(self.shift_range_px, self.shift_step_px)
        quarter = self.shift_step_px / 4
        children = quarter * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
        return coarse, coarse[:, None] + children


def coarse_shell(order, size_px, extent_px):
    """Fourier shell up to which views of a HEALPix order are close enough.

    A feature of wavelength λ survives when half a step moves the particle's outer parts, at three quarters of its
    radius, by less than a third of λ.

    Parameters
    ----------
    order : int
    size_px : int
        Box size.
    extent_px : float
        The particle's radius in pixels.

    Returns
    -------
    float

    Examples
    --------
    >>> round(coarse_shell(3, 64, 26), 1), round(coarse_shell(4, 64, 26), 1)
    (16.7, 33.4)
    """
    step = np.radians(rotations.healpix_step(order))
    return float(size_px / (1.5 * step * 0.75 * extent_px))


def shift_grid(radius, step):
    """Square grid of shifts within a radius, the middle one first.

    Parameters
    ----------
    radius, step : float
        Pixels.

    Returns
    -------
    ndarray (t, 2)

    Examples
    --------
    >>> shift_grid(2, 2).tolist()
    [[0.0, 0.0], [-2.0, 0.0], [0.0, -2.0], [0.0, 2.0], [2.0, 0.0]]
    """
    count = int(np.floor(radius / step + 1e-9))
    axis = step * np.arange(-count, count + 1.0)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    length = np.hypot(*grid.T)
    grid, length = grid[length <= radius + 1e-9], length[length <= radius + 1e-9]
    return grid[np.argsort(length, kind="stable")] + 0.0


def local_views(matrices, centres, width):
    """Views within an angle of each particle's viewing direction.

    Parameters
    ----------
    matrices : ndarray (v, 3, 3)
    centres : ndarray (n, 3, 3)
        The particles' expected poses.
    width : float
        Degrees.

    Returns
    -------
    particle, view : ndarray (m,) int
        All pairs, ordered by particle; the nearest view at least.
    distance : ndarray (m,)
        Angle in degrees between the directions.
    """
    tree = cKDTree(matrices[:, :, 2])
    direction = centres[:, :, 2]
    found = tree.query_ball_point(direction, 2 * np.sin(np.radians(min(width, 180.0)) / 2), return_sorted=True)
    nearest = tree.query(direction)[1]
    found = [near if near else [one] for near, one in zip(found, nearest)]
    particle = np.repeat(np.arange(len(centres)), [len(near) for near in found])
    view = np.concatenate([np.asarray(near) for near in found]).astype(np.int64)
    chord = np.linalg.norm(matrices[view, :, 2] - direction[particle], axis=1)
    return particle, view, np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def psi_towards(matrices, centres):
    """In-plane angle that brings each view nearest to a pose.

    Parameters
    ----------
    matrices : ndarray (m, 3, 3)
        Views at ψ = 0.
    centres : ndarray (m, 3, 3)
        Poses.

    Returns
    -------
    ndarray (m,), radians
    """
    between = np.einsum("mji,mjk->mik", matrices, centres)
    return np.arctan2(between[:, 1, 0] - between[:, 0, 1], between[:, 0, 0] + between[:, 1, 1])


def turn_in_plane(matrices, psi):
    """Poses R_view · R_z(ψ).

    Parameters
    ----------
    matrices : ndarray (m, 3, 3)
    psi : ndarray (m,)
        Radians.

    Returns
    -------
    ndarray (m, 3, 3)
    """
    c, s = np.cos(psi)[:, None], np.sin(psi)[:, None]
    x, y = matrices[:, :, 0], matrices[:, :, 1]
    return np.stack([c * x + s * y, c * y - s * x, matrices[:, :, 2]], axis=2)
