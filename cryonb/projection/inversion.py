"""From inserted slices to the volume that explains them."""

import numpy as np

from .. import fourier
from ..types import Volume
from .slices import complete_plane, cropped_inverse, interpolation_envelope

__all__ = ["FREE_SHELLS", "solve", "weight_spectrum"]

FREE_SHELLS = 5  # shells without a prior: too few points to know their variance, and too strong to need one
CORNER_EDGE = 3  # voxels
WEIGHT_FLOOR = 1e-3  # of the shell's mean weight


def solve(accumulator, voxel_size, *, prior=None):
    """The volume that explains the inserted slices: V = A / (W + 1/τ²), back in real space.

    Parameters
    ----------
    accumulator : Accumulator
        ``values`` A = Σ Pᵀ[CTF X / σ²] and ``weights`` W = Σ Pᵀ[CTF² / σ²], with recorded images centred first.
        Left as it is.
    voxel_size : float
        Å.
    prior : ndarray (d // 2 + 1,), optional
        τ² of each shell: variance of the real part of the volume's transform, in the units in which σ² is the
        variance of the real part of an image's. Times T where a fudge factor is wanted. Not used below shell 5.

    Returns
    -------
    Volume (d, d, d) on the absolute scale: its projections explain the images. Nothing from Nyquist on; beyond the
    sphere that fits the box, which the views do not see whole, constant.

    Notes
    -----
    Scheres, J Mol Biol 415:406 (2012), eq. 8. The padded grid has padding³ more points to share W among, so the
    prior is shared likewise. W + 1/τ² is floored at a thousandth of its shell mean, and what trilinear insertion
    did in real space is divided out, which is right where points are dense and even. Below shell 5 whole Fourier pixels
    are neither: insert half pixels weighted by |k| there, as `cryonb.reconstruction.accumulate` does, or the mean
    density comes out a third too low.
    """
    size_px, padding = accumulator.size_px, accumulator.padding
    shell, inside = _half_grid_shells(size_px, padding)
    values = complete_plane(accumulator.values)
    weights = complete_plane(accumulator.weights)
    if prior is not None:
        prior = np.asarray(prior, dtype=np.float64)
        if prior.shape != (size_px // 2 + 1,) or not (prior[FREE_SHELLS:] >= 0).all():
            raise ValueError(f"prior must be {size_px // 2 + 1} variances ≥ 0, one per shell, got shape {prior.shape}")
        precision = np.zeros(len(prior))
        precision[FREE_SHELLS:] = 1 / np.maximum(prior[FREE_SHELLS:] * padding**3, 1e-30)
        weights += precision.astype(np.float32)[shell]
    mean = _mean_over_shells(weights, shell, inside, size_px)
    np.maximum(weights, (mean * WEIGHT_FLOOR).astype(np.float32)[shell], out=weights)
    known = inside & (weights > 0)
    values = np.divide(values, weights, out=np.zeros_like(values), where=known)
    data = cropped_inverse(values, size_px, padding)
    data /= interpolation_envelope(size_px, padding)
    return Volume(_without_corners(data), voxel_size)


def weight_spectrum(accumulator):
    """How well each shell is known: the mean W that an unpadded grid would have, 1/σ² of the reconstruction.

    Parameters
    ----------
    accumulator : Accumulator

    Returns
    -------
    ndarray (d // 2 + 1,)
    """
    shell, inside = _half_grid_shells(accumulator.size_px, accumulator.padding)
    weights = complete_plane(accumulator.weights)
    return _mean_over_shells(weights, shell, inside, accumulator.size_px) * accumulator.padding**3


def _without_corners(data):
    """Their mean beyond the inscribed sphere, after a soft edge: errors there are noise in every shell."""
    size_px = data.shape[0]
    beyond = fourier.radius_px(size_px, ndim=3) - size_px / 2
    mean = data[beyond > 0].mean()
    kept = 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond / CORNER_EDGE, 0, 1))
    return mean + (data - mean) * kept.astype(np.float32)


def _half_grid_shells(size_px, padding):
    """Shell of the unpadded box of every point of the padded half-grid, and which lie below Nyquist."""
    padded = size_px * padding
    centred = (np.arange(padded, dtype=np.float32) - padded // 2) ** 2
    radius = np.sqrt(centred[:, None, None] + centred[:, None] + np.arange(padded // 2 + 1, dtype=np.float32) ** 2)
    radius /= padding
    return np.minimum(np.rint(radius).astype(np.int32), size_px // 2), radius < size_px / 2


def _mean_over_shells(weights, shell, inside, size_px):
    n_shells = size_px // 2 + 1
    total = np.bincount(shell[inside], weights[inside], minlength=n_shells)
    return total / np.maximum(np.bincount(shell[inside], minlength=n_shells), 1)
