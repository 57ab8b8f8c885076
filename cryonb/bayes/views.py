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


def view_density(histogram, symmetry=None):
    """Density of directions relative to an even one, smooth and nowhere 0; even as far as sampling explains it.

    Parameters
    ----------
    histogram : ndarray (K, CELLS)
        Posterior mass of each cell (`expectation.Statistics.views`).
    symmetry : Rotation, optional
        Of a point group; equivalent directions get the same density.

    Returns
    -------
    ndarray (K, CELLS), mean 1 in each row

    Notes
    -----
    N particles that lie evenly have a smoothed density with a variance v₀ = (CELLS · Σ w² − 1) / N, where w are the
    weights of the smoothing. Of the density's excess over 1 the share max(0, 1 − v₀ / variance) is believed.

    Examples
    --------
    >>> bool(np.allclose(view_density(np.ones((1, CELLS))), 1, atol=0.02))
    True
    """
    cells = rotations.healpix_directions(ORDER)
    turns = np.eye(3)[None] if symmetry is None else symmetry.as_matrix()
    sharpness = 1 / np.radians(WIDTH) ** 2
    kernel = sum(np.exp(sharpness * (cells @ (cells @ turn.T).T - 1)) for turn in turns)
    weights = (kernel / kernel.sum(0)).T
    density = np.asarray(histogram, dtype=np.float64) @ weights
    mean = density.mean(1, keepdims=True)
    excess = np.divide(density, mean, out=np.ones_like(density), where=mean > 0) - 1
    sampling = (CELLS * (weights**2).sum(0).mean() - 1) / np.maximum(CELLS * mean, 1e-30)
    believed = np.maximum(0, 1 - sampling / np.maximum(excess.var(1, keepdims=True), 1e-30))
    return FLOOR + (1 - FLOOR) * (1 + believed * excess)
