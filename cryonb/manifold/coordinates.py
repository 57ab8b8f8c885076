"""Which diffusion coordinates describe new directions, and a one-dimensional coordinate along a curve of them."""

import numpy as np

__all__ = ["curve_coordinate", "local_linear_residuals", "select_coordinates"]


def local_linear_residuals(eigenvectors, *, n_points=1000):
    """How badly each eigenvector is predicted by those before it: near 0 for a harmonic, near 1 for a new direction.

    Parameters
    ----------
    eigenvectors : ndarray (n, k)
        Diffusion coordinates by decreasing eigenvalue.
    n_points : int
        At most this many, evenly spread over the first coordinate, enter (the cost is quadratic).

    Returns
    -------
    ndarray (k,), the first entry 1

    Notes
    -----
    Leave-one-out local linear regression with a Gaussian kernel a third of the median distance wide:
    Dsilva, Talmon, Coifman & Kevrekidis, Appl. Comput. Harmon. Anal. 44:759 (2018), eq. 12.

    Examples
    --------
    On a line the second eigenvector is a function of the first:

    >>> x = np.linspace(0, np.pi, 300)
    >>> residual = local_linear_residuals(np.column_stack([np.cos(x), np.cos(2 * x)]))
    >>> bool(residual[1] < 0.1)
    True
    """
    eigenvectors = np.asarray(eigenvectors, dtype=float)
    order = np.argsort(eigenvectors[:, 0], kind="stable")
    points = eigenvectors[order[np.linspace(0, len(order) - 1, min(n_points, len(order))).astype(int)]]
    points = points / np.maximum(points.std(axis=0), 1e-12)
    n, k = points.shape
    residuals = np.ones(k)
    for column in range(1, k):
        known, target = points[:, :column], points[:, column]
        squared = ((known[:, None] - known[None]) ** 2).sum(axis=2)
        width = np.median(np.sqrt(squared[np.triu_indices(n, 1)])) / 3
        weight = np.exp(-squared / max(width, 1e-12) ** 2)
        np.fill_diagonal(weight, 0)
        design = np.column_stack([np.ones(n), known])
        normal = np.einsum("ij,jk,jl->ikl", weight, design, design, optimize=True)
        # a point with no neighbour within reach has no weights at all, and is predicted as 0
        ridge = 1e-9 * np.trace(normal, axis1=1, axis2=2) + 1e-200
        normal += ridge[:, None, None] * np.eye(column + 1)
        fitted = np.linalg.solve(normal, np.einsum("ij,jk,j->ik", weight, design, target, optimize=True)[..., None])
        predicted = np.einsum("ik,ik->i", design, fitted[..., 0])
        residuals[column] = np.sqrt(((target - predicted) ** 2).sum() / (target**2).sum())
    return residuals


def select_coordinates(eigenvectors, *, n_coordinates=1, threshold=0.35):
    """Indices of the first coordinates that are new directions, harmonics left out.

    Parameters
    ----------
    eigenvectors : ndarray (n, k)
    n_coordinates : int
        At most this many.
    threshold : float
        A coordinate whose `local_linear_residuals` lies below is a harmonic of those before it.

    Returns
    -------
    list of int
    """
    if n_coordinates == 1:
        return [0]
    residuals = local_linear_residuals(eigenvectors)
    return [int(k) for k in np.flatnonzero(residuals >= threshold)[:n_coordinates]]


def curve_coordinate(latents, information, start, *, n_nodes=40, n_functions=6, n_iterations=25):
    """Coordinate along the curve that runs through noisy latent coordinates, by arclength, as a posterior per point.

    Maximum likelihood, by expectation–maximisation, of z_i = c(x) + noise, x ~ a density on the nodes, c(x) a
    polynomial (a generative topographic map with the noise of every point known).

    Parameters
    ----------
    latents : ndarray (n, q)
        Unshrunk estimates, or any centre of a Gaussian likelihood.
    information : ndarray (n, q, q)
        Inverse covariance of each point's noise.
    start : ndarray (n,)
        A first ordering, such as a diffusion coordinate.
    n_nodes, n_functions, n_iterations : int

    Returns
    -------
    weights : ndarray (n, n_nodes)
        Posterior of every point over the nodes.
    curve : ndarray (n_nodes, q)
        Equally spaced by arclength.

    Notes
    -----
    Bishop, Svensén & Williams, Neural Comput. 10:215 (1998).
    """
    from cryonb.manifold.spectral import legendre_basis

    nodes = np.linspace(0, 1, n_nodes)
    rank = np.argsort(np.argsort(start, kind="stable")) / (len(start) - 1)
    weights = np.exp(-0.5 * ((rank[:, None] - nodes) / 0.05) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    q = latents.shape[1]
    pull = np.einsum("nij,nj->ni", information, latents)
    for iteration in range(n_iterations):
        basis = legendre_basis(nodes, n_functions, (0.0, 1.0))
        strength = np.einsum("nm,nij->mij", weights, information, optimize=True)
        normal = np.einsum("ml,mk,mij->likj", basis, basis, strength, optimize=True).reshape(n_functions * q, -1)
        # the higher the polynomial, the smaller we expect it to be
        roughness = np.repeat(np.arange(n_functions) ** 4.0, q) * 1e-4 * np.trace(normal) / len(normal)
        target = np.einsum("ml,mn,ni->li", basis, weights.T, pull, optimize=True).ravel()
        amplitude = np.linalg.solve(normal + np.diag(roughness + 1e-12), target).reshape(n_functions, q)
        curve = legendre_basis(np.linspace(0, 1, 400), n_functions, (0.0, 1.0)) @ amplitude
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
        even = np.linspace(0, length[-1], n_nodes)
        curve = np.stack([np.interp(even, length, column) for column in curve.T], axis=1)
        density = np.full(n_nodes, 1 / n_nodes) if iteration == 0 else _smooth(weights.mean(axis=0))
        gap = latents[:, None] - curve
        exponent = -0.5 * np.einsum("nmi,nij,nmj->nm", gap, information, gap, optimize=True) + np.log(density)
        weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
    return weights, curve


def _smooth(density):
    """A density on nodes, smoothed a little and kept away from zero."""
    from scipy.ndimage import gaussian_filter1d

    density = gaussian_filter1d(density, 1.5, mode="nearest") + 1e-3 / len(density)
    return density / density.sum()
