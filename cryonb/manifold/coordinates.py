"""Which diffusion coordinates describe new directions, which are harmonics or products of others."""

import numpy as np

__all__ = ["local_linear_residuals", "product_harmonics", "select_coordinates"]


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


def product_harmonics(eigenvectors, eigenvalues, *, threshold=0.75):
    """Which diffusion coordinates are products of two others, as those of two independent motions are.

    Parameters
    ----------
    eigenvectors : ndarray (n, k)
        By decreasing eigenvalue, unit variance.
    eigenvalues : ndarray (k,)
        Of the diffusion operator: λ of a product is the product of both λ.
    threshold : float
        Least correlation with the product.

    Returns
    -------
    dict of int to (int, int, float, float)
        For each product its two factors (i < j), the correlation with their product, and λ over the product of theirs.

    Notes
    -----
    Zhang, Moscovich & Singer, J. Mach. Learn. Res. 22:1 (2021): on a product of manifolds the eigenfunctions are all
    products φ_i φ_j with eigenvalues of the generator λ_i + λ_j.

    Examples
    --------
    On a rectangle the product of the first functions of either side is one more:

    >>> x, y = (values.ravel() for values in np.meshgrid(*2 * [(np.arange(40) + 0.5) / 40], indexing="ij"))
    >>> first, second = np.sqrt(2) * np.cos(np.pi * x), np.sqrt(2) * np.cos(np.pi * y)
    >>> found = product_harmonics(np.column_stack([first, second, first * second]), np.array([0.9, 0.8, 0.72]))
    >>> {k: (i, j, round(r, 3), round(ratio, 3)) for k, (i, j, r, ratio) in found.items()}
    {2: (0, 1, 1.0, 1.0)}
    """
    vectors = np.asarray(eigenvectors, dtype=float)
    vectors = (vectors - vectors.mean(axis=0)) / np.maximum(vectors.std(axis=0), 1e-12)
    found = {}
    for k in range(2, vectors.shape[1]):
        best = (0, 0, 0.0, np.nan)
        for i in range(k):
            for j in range(i + 1, k):
                product = vectors[:, i] * vectors[:, j]
                correlation = abs(float(np.corrcoef(vectors[:, k], product)[0, 1])) if product.std() > 0 else 0.0
                if correlation > best[2]:
                    best = (i, j, correlation, float(eigenvalues[k] / (eigenvalues[i] * eigenvalues[j])))
        if best[2] >= threshold:
            found[k] = best
    return found
