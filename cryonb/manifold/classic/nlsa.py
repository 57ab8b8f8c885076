"""Dense diffusion map, and nonlinear Laplacian spectral analysis (NLSA) along one of its coordinates."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from .distances import fit_bandwidth

__all__ = ["NonlinearSpectrum", "dense_diffusion_map", "fit_cosines", "nonlinear_spectrum", "trimmed_diffusion_map"]

_RADIUS = 5.0  # published: points farther out in the leading three coordinates are trimmed
_ROUNDS = 5
_WINDOWS = 50  # published: a window of n // 50 images
_COORDINATES = 7  # published: ψ₁ … ψ₇ beside the constant
_MODES = 2
_HARMONICS = 3
_STATES = np.linspace(0, 1, 401)  # where τ is looked for


@dataclass(frozen=True, eq=False)
class NonlinearSpectrum:
    """One coordinate of one view after NLSA.

    Parameters
    ----------
    tau : ndarray (n,)
        In [0, 1], min–max scaled.
    images : ndarray (n, p)
        Noise-reduced images.
    singular_values : ndarray (8,)
    residual : float
        Share of variance that the cosines leave unexplained.
    """

    tau: np.ndarray
    images: np.ndarray
    singular_values: np.ndarray
    residual: float


def dense_diffusion_map(squared, sigma, n_components):
    """Diffusion map with α = 1 on all pairs, kernel exp(−D²/σ²).

    Parameters
    ----------
    squared : ndarray (n, n)
    sigma : float
    n_components : int

    Returns
    -------
    eigenvalues : ndarray (n_components,)
        Decreasing, without the trivial 1.
    coordinates : ndarray (n, n_components)
        Unit variance under ``measure``; signs fixed by the largest entry.
    measure : ndarray (n,)
        Stationary distribution μ, summing to one.

    Notes
    -----
    Coifman & Lafon, Appl. Comput. Harmon. Anal. 21:5 (2006).
    """
    n = len(squared)
    kernel = np.exp(-squared / sigma**2)
    density = kernel.sum(axis=1)
    kernel /= density[:, None] * density
    total = kernel.sum(axis=1)
    kernel /= np.sqrt(total[:, None] * total)
    n_components = min(n_components, n - 1)
    values, vectors = eigh(kernel, subset_by_index=[n - n_components - 1, n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    measure = total / total.sum()
    coordinates = vectors[:, 1:] / np.sqrt(measure)[:, None]
    sign = np.sign(coordinates[np.abs(coordinates).argmax(axis=0), np.arange(n_components)])
    return values[1:], coordinates * sign, measure


def trimmed_diffusion_map(squared, n_components):
    """`dense_diffusion_map`, embedded again without its outliers until none is left (at most five rounds).

    Parameters
    ----------
    squared : ndarray (n, n)
    n_components : int

    Returns
    -------
    kept : ndarray of int
    eigenvalues, coordinates, measure
        Of the kept.
    bandwidth : Bandwidth
    """
    kept = np.arange(len(squared))
    for remaining in reversed(range(_ROUNDS)):
        own = squared[np.ix_(kept, kept)]
        bandwidth = fit_bandwidth(own)
        values, coordinates, measure = dense_diffusion_map(own, bandwidth.sigma, n_components)
        near = np.linalg.norm(coordinates[:, :3], axis=1) <= _RADIUS
        if near.all() or near.sum() < len(squared) // 2 or not remaining:
            break
        kept = kept[near]
    return kept, values, coordinates, measure, bandwidth


def fit_cosines(coordinates, *, n_harmonics=_HARMONICS, n_rounds=30):
    """Position τ of points on an open curve x_j = a_j cos(jπτ) + b_j.

    Parameters
    ----------
    coordinates : ndarray (n, k)
        Leading diffusion coordinates.
    n_harmonics : int
        How many are fitted.
    n_rounds : int
        Of fitting the curve and then the positions, at most.

    Returns
    -------
    tau : ndarray (n,)
        In [0, 1], min–max scaled.
    residual : float
        Share of variance left.

    Examples
    --------
    >>> truth = np.linspace(0, 1, 200)
    >>> tau, residual = fit_cosines(np.cos(np.pi * np.outer(truth, [1, 2, 3])))
    >>> bool(np.abs(tau - truth).max() < 0.01), residual < 1e-3
    (True, True)
    """
    points = coordinates[:, :n_harmonics]
    harmonic = np.arange(1, points.shape[1] + 1)
    half = (points[:, 0].max() - points[:, 0].min()) / 2
    tau = np.arccos(np.clip((points[:, 0] - points[:, 0].min()) / half - 1, -1, 1)) / np.pi
    for _ in range(n_rounds):
        waves = np.cos(np.pi * np.outer(tau, harmonic))
        centred = waves - waves.mean(axis=0)
        amplitude = (centred * points).sum(axis=0) / np.maximum((centred**2).sum(axis=0), 1e-12)
        offset = points.mean(axis=0) - amplitude * waves.mean(axis=0)
        curve = amplitude * np.cos(np.pi * np.outer(_STATES, harmonic)) + offset
        apart = (points**2).sum(axis=1)[:, None] - 2 * points @ curve.T + (curve**2).sum(axis=1)
        found = _STATES[apart.argmin(axis=1)]
        moved = np.abs(found - tau).max()
        tau = found
        if moved == 0:
            break
    residual = float(np.maximum(apart.min(axis=1), 0).sum() / ((points - points.mean(axis=0)) ** 2).sum())
    span = np.ptp(tau)
    return (tau - tau.min()) / span if span > 0 else tau, residual


def nonlinear_spectrum(squared, images, order):
    """NLSA of images in a given order, for instance along one diffusion coordinate.

    Windows of c = n // 50 consecutive images are points; their squared distances are sums of c of the images'. Images
    projected on the windows' diffusion coordinates, X(μ∘[1, ψ₁ … ψ₇]), are decomposed by singular values; the two
    leading modes, unwound and averaged over the windows that hold an image, are embedded again, and their position
    is fitted by `fit_cosines`.

    Parameters
    ----------
    squared : ndarray (n, n)
        Squared distances.
    images : ndarray (n, p)
    order : ndarray (n,)
        Permutation of the images.

    Returns
    -------
    NonlinearSpectrum

    Notes
    -----
    Giannakis & Majda, PNAS 109:2222 (2012); for single particles Dashti et al., PNAS 111:17492 (2014).
    """
    n = len(images)
    window = max(1, n // _WINDOWS)
    points = n - window + 1
    ordered, sorted_images = squared[np.ix_(order, order)], images[order].astype(np.float64)
    joined = np.zeros((points, points))
    for lag in range(window):
        joined += ordered[lag : lag + points, lag : lag + points]
    _, coordinates, measure = dense_diffusion_map(joined, fit_bandwidth(joined).sigma, _COORDINATES)
    basis = np.column_stack([np.ones(points), coordinates])
    weighted = measure[:, None] * basis
    parts = np.stack([sorted_images[lag : lag + points].T @ weighted for lag in range(window)])  # (c, p, 8)
    values, vectors = np.linalg.eigh(np.einsum("cpk,cpl->kl", parts, parts))
    leading = vectors[:, ::-1][:, :_MODES]
    parts = parts @ (leading @ leading.T)
    total, copies = np.zeros_like(sorted_images), np.zeros((n, 1))
    for lag in range(window):
        total[lag : lag + points] += basis @ parts[lag].T
        copies[lag : lag + points] += 1
    smooth = total / copies
    norm = (smooth**2).sum(axis=1)
    between = np.maximum(norm[:, None] + norm - 2 * smooth @ smooth.T, 0)
    np.fill_diagonal(between, 0)
    _, again, _ = dense_diffusion_map(between, fit_bandwidth(between).sigma, _HARMONICS)
    tau, residual = fit_cosines(again)
    back = np.empty(n, dtype=int)
    back[order] = np.arange(n)
    return NonlinearSpectrum(tau[back], smooth[back], np.sqrt(np.maximum(values[::-1], 0)), residual)
