"""Distances between images with different CTFs, and the kernel bandwidth that suits them."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit

__all__ = ["Bandwidth", "double_filtered_distances", "fit_bandwidth", "kernel_sum"]

_BINS = 2048
_TUNE = 3.0  # published: the kernel three times as wide as the inflection says


@dataclass(frozen=True, eq=False)
class Bandwidth:
    """Kernel bandwidth from the fit of ln S = d + c·tanh(a ln ε + b).

    Parameters
    ----------
    sigma : float
        Of exp(−D²/σ²), in the unit of the distances.
    dimension : float
        2·a·c, twice the slope at the inflection.
    log_epsilon, log_sum : ndarray (m,)
        The scan.
    parameters : tuple
        a, b, c, d.
    """

    sigma: float
    dimension: float
    log_epsilon: np.ndarray
    log_sum: np.ndarray
    parameters: tuple

    @property
    def fitted(self):
        """The fit over ``log_epsilon``."""
        return _sigmoid(self.log_epsilon, *self.parameters)


def double_filtered_distances(transforms, contrast):
    """Squared distances D²_ij = Σ_k |C_i F_j − C_j F_i|² / d², three matrix products.

    Parameters
    ----------
    transforms : ndarray (n, d, d) complex
    contrast : ndarray (n, d, d)
        CTF of each image.

    Returns
    -------
    ndarray (n, n), float64, in squared image units summed over pixels; symmetric, zero on the diagonal

    Notes
    -----
    Two images of one structure, C_i V and C_j V, have distance zero: each is filtered by the other's CTF
    (Dashti et al., PNAS 111:17492 (2014), supporting text).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> structure, lens = rng.normal(size=(8, 8)), rng.uniform(-1, 1, (3, 8, 8))
    >>> bool(np.allclose(double_filtered_distances(lens * structure, lens), 0, atol=1e-5))
    True
    """
    n, pixels = len(transforms), transforms[0].size
    values = transforms.reshape(n, -1)
    lens = contrast.reshape(n, -1).astype(np.float32)
    power = (values.real**2 + values.imag**2).astype(np.float32)
    crossed = (lens**2) @ power.T
    real, imaginary = (lens * values.real).astype(np.float32), (lens * values.imag).astype(np.float32)
    squared = crossed.astype(np.float64) + crossed.T - 2 * (real @ real.T + imaginary @ imaginary.T)
    squared = np.maximum((squared + squared.T) / (2 * pixels), 0)
    np.fill_diagonal(squared, 0)
    return squared


def kernel_sum(squared, log_epsilon):
    """ln Σ_ij exp(−D²_ij / 2ε) for each ε, from one histogram of ln D² (2048 bins).

    Parameters
    ----------
    squared : ndarray (n, n)
        Squared distances, zeros on the diagonal.
    log_epsilon : ndarray (m,)

    Returns
    -------
    ndarray (m,)
    """
    positive = squared[squared > 0]
    if positive.size == 0:
        raise ValueError("all distances are zero: the images are the same, there is nothing to embed")
    counts, edges = np.histogram(np.log(positive), bins=_BINS)
    middle = np.exp((edges[1:] + edges[:-1]) / 2)
    kernel = np.exp(-middle / (2 * np.exp(log_epsilon)[:, None]))
    return np.log(squared.size - positive.size + kernel @ counts)


def fit_bandwidth(squared, *, n_steps=201):
    """Bandwidth σ = 3·√(2 e^(−b/a)) from ln S(ε) = d + c·tanh(a ln ε + b).

    Parameters
    ----------
    squared : ndarray (n, n)
        Squared distances, zeros on the diagonal.
    n_steps : int
        Values of ε.

    Returns
    -------
    Bandwidth

    Raises
    ------
    ValueError
        Distances not finite, all zero, or without a transition that the fit finds.
    """
    if not np.isfinite(squared).all():
        raise ValueError("distances must be finite; an image holds NaN or infinity")
    positive = squared[squared > 0]
    if positive.size == 0:
        raise ValueError("all distances are zero: the images are the same, there is nothing to embed")
    low, middle, high = np.log(np.quantile(positive, [0.0, 0.5, 1.0]))
    log_epsilon = np.linspace(max(low, middle - 10) - 6, high + 5, n_steps)
    log_sum = kernel_sum(squared, log_epsilon)
    rise = np.gradient(log_sum, log_epsilon)
    bottom, top = log_sum[[0, -1]]
    height = (top - bottom) / 2
    slope = max(rise.max() / height, 1e-3)
    start = (slope, -slope * log_epsilon[rise.argmax()], height, (top + bottom) / 2)
    try:
        (a, b, c, d), _ = curve_fit(_sigmoid, log_epsilon, log_sum, p0=start, maxfev=20_000)
    except RuntimeError as error:
        raise ValueError(f"no bandwidth fits the {len(squared)} distances: {error}") from error
    sigma = _TUNE * np.sqrt(2 * np.exp(-b / a))
    return Bandwidth(float(sigma), float(2 * a * c), log_epsilon, log_sum, (a, b, c, d))


def _sigmoid(x, a, b, c, d):
    return d + c * np.tanh(a * x + b)
