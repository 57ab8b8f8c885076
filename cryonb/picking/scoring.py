"""Picks against known centres."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["Score", "score_picks"]


@dataclass(frozen=True, eq=False)
class Score:
    """How well picks match known centres.

    Parameters
    ----------
    hit : ndarray (n,) of bool
        Whether each pick, best first, has a centre of its own.
    distance : ndarray (n,)
        Å from it; NaN without.
    n_true : int
    score : ndarray (n,)
        Of the picks, falling.
    """

    hit: np.ndarray
    distance: np.ndarray
    n_true: int
    score: np.ndarray

    @property
    def precision(self):
        """Share of the picks that are right; 0 where there are none."""
        return float(self.hit.mean()) if len(self.hit) else 0.0

    @property
    def recall(self):
        """Share of the centres that were found."""
        return float(self.hit.sum() / self.n_true)

    @property
    def f1(self):
        """Harmonic mean of precision and recall."""
        return float(2 * self.hit.sum() / (len(self.hit) + self.n_true))

    @property
    def curve(self):
        """Precision and recall as picks are added, best first: ndarray (n, 2)."""
        found = np.cumsum(self.hit)
        return np.column_stack([found / np.arange(1, len(found) + 1), found / self.n_true])

    @property
    def average_precision(self):
        """Σ precision over the hits / number of centres: the area under the curve."""
        return float(self.curve[self.hit, 0].sum() / self.n_true)

    @property
    def centring_error(self):
        """Root mean square distance of the hits in Å; NaN without hits."""
        return float(np.sqrt(np.mean(self.distance[self.hit] ** 2))) if self.hit.any() else float("nan")


def score_picks(picks, centres, *, radius=None):
    """Match picks with centres, best pick first, each centre once, within ``radius``.

    Parameters
    ----------
    picks : Picks
    centres : ndarray (m, 2)
        True centres x, y in pixels.
    radius : float, optional
        Å; half a particle's radius by default.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        No centres.

    Examples
    --------
    >>> from cryonb.picking import Picks
    >>> picks = Picks(np.array([[10.0, 10], [11, 10], [90, 90]]), np.array([3.0, 2, 1]), 1.0, 20.0)
    >>> found = score_picks(picks, [[12, 10], [50, 50]])
    >>> found.hit.tolist(), round(found.f1, 2), found.recall
    ([True, False, False], 0.4, 0.5)
    """
    centres = np.asarray(centres, dtype=float)
    if centres.ndim != 2 or centres.shape[1:] != (2,) or len(centres) == 0:
        raise ValueError(f"true centres are (m, 2) with m > 0, got {centres.shape}")
    radius_px = (picks.diameter / 4 if radius is None else radius) / picks.pixel_size
    order = np.argsort(-picks.score, kind="stable")
    tree, free = cKDTree(centres), np.ones(len(centres), dtype=bool)
    hit, distance = np.zeros(len(picks), dtype=bool), np.full(len(picks), np.nan)
    for row, index in enumerate(order):
        near = [number for number in tree.query_ball_point(picks.centres[index], radius_px) if free[number]]
        if near:
            away = np.hypot(*(centres[near] - picks.centres[index]).T)
            free[near[int(np.argmin(away))]] = False
            hit[row], distance[row] = True, away.min() * picks.pixel_size
    return Score(hit, distance, len(centres), picks.score[order])
