"""The distribution of viewing directions that a search has found, as the prior p(φ) of the next one (Scheres 2012)."""

from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from cryonb import rotations

__all__ = ["CELLS", "cells_of", "view_density"]

ORDER = 3  # HEALPix cells 7.3° wide, fixed in the volume's frame
CELLS = 12 * 4**ORDER
WIDTH = 10.0  # degrees, standard deviation of the smoothing
FLOOR = 0.1  # of the density: no direction is ruled out


@lru_cache(maxsize=1)
def _tree():
    return cKDTree(rotations.healpix_directions(ORDER))


def cells_of(directions):
    """Cell that each direction lies in.

    Parameters
    ----------
    directions : ndarray (n, 3)
        Unit vectors in the volume's frame.

    Returns
    -------
    ndarray (n,) int, below `CELLS`
    """
    return _tree().query(directions)[1]


def view_density(histogram, symmetry=None, *, halves=False):
    """Density of directions relative to an even one, smooth and nowhere 0.

    Parameters
    ----------
    histogram : ndarray (K, CELLS)
        Posterior mass of each cell (`expectation.Statistics.views`).
    symmetry : Rotation, optional
        Of a point group; equivalent directions get the same density.
    halves : bool
        The two rows are of independent halves of the particles: of what they differ from an even density, believe
        the share that recurs, cov / var. Sampling alone then leaves views even.

    Returns
    -------
    ndarray (K, CELLS), mean 1 in each row

    Examples
    --------
    >>> bool(np.allclose(view_density(np.ones((1, CELLS))), 1, atol=0.02))
    True
    """
    cells = rotations.healpix_directions(ORDER)
    turns = np.eye(3)[None] if symmetry is None else symmetry.as_matrix()
    sharpness = 1 / np.radians(WIDTH) ** 2
    kernel = sum(np.exp(sharpness * (cells @ (cells @ turn.T).T - 1)) for turn in turns)
    density = np.asarray(histogram, dtype=np.float64) @ (kernel / kernel.sum(0)).T
    mean = density.mean(1, keepdims=True)
    excess = np.divide(density, mean, out=np.ones_like(density), where=mean > 0) - 1
    if halves:
        spread = np.maximum((excess**2).mean(1, keepdims=True), 1e-30)
        excess = np.clip((excess[0] * excess[1]).mean() / spread, 0, 1) * excess
    return FLOOR + (1 - FLOOR) * (1 + excess)
