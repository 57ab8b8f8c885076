"""Volumes along coordinates whose changes are known but for a few numbers: a model's own, and the whole's motions.

Where a model shows how the density moves, volumes along the coordinate are the mean and a combination of a dozen known
volumes, V(x) = V̄ + Σ_k a_k(x) U_k. The functions a_k come from the images by least squares; that they are few keeps the
noise of the images out of the volumes that these images are compared with.
"""

from dataclasses import replace

import numpy as np

from cryonb.manifold.gram import gram_matrices
from cryonb.manifold.normal_equations import normal_equations

__all__ = ["KnownChanges"]

CHUNK = 2048
RIDGE = 1e-8  # of the largest diagonal element: what no image determines stays zero


class KnownChanges:
    """Overlaps of images with the known changes, and of these with the means of all and without each group."""

    def __init__(self, observations, changes, *, mask, groups, workers=1):
        """Compare all images with all changes.

        Parameters
        ----------
        observations : Observations
        changes : ndarray (k, c, c, c)
            On the cropped grid.
        mask : ndarray (c, c, c)
        groups : sequence of at least two index arrays
        workers
            As in `cryonb.parallel.map_reduce`.
        """
        ones = np.ones((len(observations), 1))
        equations = normal_equations(observations, ones, ones[:, :, None], mask=mask, groups=groups, workers=workers)
        self._changes = changes.astype(np.float32)
        self._groups = [np.asarray(group) for group in groups]
        # of all particles, and without each group in turn
        self._means = [equations.solve(None, without=group)[0] for group in (None, *range(len(groups)))]
        compared = np.concatenate([*(mean.data for mean in self._means), self._changes])
        gram, overlap = gram_matrices(observations, replace(self._means[0], data=compared), workers=workers)
        own = slice(len(self._means), None)
        self._gram = gram[:, own, own].astype(np.float32)
        self._overlap = overlap[:, own].astype(np.float32)
        self._with_means = gram[:, own, : len(self._means)].astype(np.float32)

    def fit(self, first, second, *, unshrunk=2):
        """Volumes of each term of a_k(x) = Σ_t c_kt φ_t(x), from the moments of the particles' φ, cross-fitted.

        Parameters
        ----------
        first, second : ndarray (n, t), (n, t, t)
            From `posterior_moments`; the first term is the constant.
        unshrunk : int
            Terms without a prior; the others have a Wiener prior from what the groups agree on.

        Returns
        -------
        whole : VolumeSet, t volumes
        without : list of VolumeSet
            Without each group in turn.
        """
        sums = [self._sums(group, first, second) for group in self._groups]
        matrix, right = (sum(each[k] for each in sums) for k in (0, 1))
        n_terms, precision = first.shape[1], None
        for _ in range(2):
            fits = [
                _solve(matrix - own, right[number] - its[number], precision)
                for number, (own, its) in enumerate(sums, start=1)
            ]
            total = np.mean([(fit**2).sum(axis=0) for fit in fits], axis=0)
            noise = sum(((fit - np.mean(fits, axis=0)) ** 2).sum(axis=0) for fit in fits)
            signal = np.maximum(total - noise, 1e-3 * total)
            precision = len(self._changes) / np.maximum(signal, 1e-300)
            precision[: min(unshrunk, n_terms)] = 0
        fits = [_solve(matrix, right[0], precision), *fits]
        whole, *without = (self._volumes(mean, fit) for mean, fit in zip(self._means, fits))
        return whole, without

    def _sums(self, group, first, second):
        """Normal equations of one group, (k, k, t, t), and right-hand sides beside each of the means, (means, k, t)."""
        k, t = self._overlap.shape[1], first.shape[1]
        matrix = np.zeros((k * k, t * t))
        for start in range(0, len(group), CHUNK):
            some = group[start : start + CHUNK]
            matrix += self._gram[some].reshape(-1, k * k).T.astype(float) @ second[some].reshape(-1, t * t)
        left_over = self._overlap[group][:, :, None] - self._with_means[group]
        right = np.tensordot(left_over.astype(float), first[group], axes=(0, 0)).transpose(1, 0, 2)
        return matrix.reshape(k, k, t, t), right

    def _volumes(self, mean, found):
        """The volumes of the terms, the mean in the first."""
        terms = np.tensordot(found.T.astype(np.float32), self._changes, 1)
        terms[0] += mean.data[0]
        return replace(mean, data=terms)


def _solve(matrix, right, precision):
    """Coefficients (k, t) of normal equations, with a precision for each term."""
    k, t = right.shape
    square = matrix.transpose(0, 2, 1, 3).reshape(k * t, k * t).copy()
    diagonal = np.full(k * t, RIDGE * np.trace(square) / len(square))
    if precision is not None:
        diagonal += np.tile(precision, k)
    square[np.diag_indices(k * t)] += diagonal
    return np.linalg.solve(square, right.ravel()).reshape(k, t)
