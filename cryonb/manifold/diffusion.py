"""Diffusion map on a doubly stochastic nearest-neighbour graph, as a scikit-learn estimator."""

import warnings

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["DiffusionMap", "kernel_bandwidth", "sinkhorn_scaling"]

_DIVERGED = 1e100  # largest scaling over smallest: beyond it the iteration only grows
_LOOSE = 0.1  # largest departure of a row sum from one that still counts as scaled


class DiffusionMap(TransformerMixin, BaseEstimator):
    """Diffusion coordinates of points with uneven noise.

    A Gaussian kernel K_ij = exp(−D²_ij / 2ε) between nearest neighbours, zero on the diagonal, scaled to a doubly
    stochastic W = diag(u) K diag(u); its leading eigenvectors (the constant one left out) are the coordinates.

    Parameters
    ----------
    n_components : int
        Coordinates to keep; n points have no more than n − 2 (with a warning).
    n_neighbors : int
        Neighbours per point; at most n − 1 are used.
    bandwidth : float or None
        ε, in squared units of the points; None takes the ε where d ln S / d ln ε is largest, S = Σ exp(−D²/2ε).

    Attributes
    ----------
    eigenvalues_ : ndarray (n_components,)
        Of W, decreasing, without the trivial 1.
    embedding_ : ndarray (n, n_components)
        Coordinates of the training points, unit variance each.
    bandwidth_ : float
    scaling_ : ndarray (n,)
        u.
    n_connected_ : int
        Connected parts of the graph; more than one means that leading coordinates only tell the parts apart.

    Notes
    -----
    Coifman & Lafon, Appl. Comput. Harmon. Anal. 21:5 (2006); doubly stochastic scaling and the zero diagonal make
    it robust to noise that differs from point to point: Landa, Coifman & Kluger, SIAM J. Math. Data Sci. 3:388 (2021).

    Examples
    --------
    Points on an arc: the first coordinate follows the arc.

    >>> angle = np.linspace(0, np.pi, 200)
    >>> arc = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> first = DiffusionMap(n_components=1, n_neighbors=20).fit_transform(arc)[:, 0]
    >>> bool(np.all(np.diff(first) > 0) or np.all(np.diff(first) < 0))
    True
    """

    def __init__(self, n_components=2, *, n_neighbors=64, bandwidth=None):
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.bandwidth = bandwidth

    def fit(self, X, y=None, *, covariance=None):
        """Find the coordinates of points X (n, p).

        Parameters
        ----------
        X : ndarray (n, p)
        y : ignored
        covariance : ndarray (n, p, p), optional
            Covariance of each point's error. Squared distances are then freed of its expected share,
            D²_ij − tr C_i − tr C_j, and floored at zero.

        Returns
        -------
        self
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=3)
        n = len(X)
        if self.n_components < 1:
            raise ValueError(f"n_components must be at least 1, got {self.n_components}")
        if self.n_components > n - 2:
            warnings.warn(f"{n} points have {n - 2} coordinates, not {self.n_components}", stacklevel=2)
        self._noise = _noise_share(covariance, X)
        self._points = X
        n_neighbors = min(self.n_neighbors, n - 1)
        distance, neighbor = self._search(X, n_neighbors + 1)
        distance, neighbor = _without_self(distance, neighbor)
        distance = np.maximum(distance - self._noise[:, None] - self._noise[neighbor], 0)
        self.bandwidth_ = kernel_bandwidth(distance) if self.bandwidth is None else float(self.bandwidth)
        kernel = _graph(np.exp(-distance / (2 * self.bandwidth_)), neighbor)
        self.n_connected_ = int(scipy.sparse.csgraph.connected_components(kernel, directed=False)[0])
        self.scaling_ = sinkhorn_scaling(kernel)
        self.kernel_ = scipy.sparse.diags(self.scaling_) @ kernel @ scipy.sparse.diags(self.scaling_)
        self.eigenvalues_, self.embedding_ = _leading_eigenvectors(self.kernel_, min(self.n_components, n - 2))
        return self

    def fit_transform(self, X, y=None, *, covariance=None):
        """`fit`, then the coordinates of the training points, (n, n_components)."""
        return self.fit(X, y, covariance=covariance).embedding_.copy()

    def transform(self, X):
        """Coordinates of points by Nyström's formula, ψ(x) = Σ_j w_j(x) ψ_j / λ; training points keep their own.

        Parameters
        ----------
        X : ndarray (n, p)

        Returns
        -------
        ndarray (n, n_components)
        """
        check_is_fitted(self, "embedding_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        distance, neighbor = self._search(X, min(self.n_neighbors, len(self._points)))
        known = distance[:, 0] <= 1e-14 * (1 + (X**2).sum(axis=1))
        clean = np.maximum(distance - self._noise[neighbor], 0)
        # relative to the nearest: far-away points keep a direction instead of 0/0
        weight = np.exp(-(clean - clean[:, :1]) / (2 * self.bandwidth_)) * self.scaling_[neighbor]
        weight /= weight.sum(axis=1, keepdims=True)
        usable = np.where(np.abs(self.eigenvalues_) > 1e-6, self.eigenvalues_, np.inf)
        coordinates = np.einsum("nk,nkc->nc", weight, self.embedding_[neighbor]) / usable
        coordinates[known] = self.embedding_[neighbor[known, 0]]
        return coordinates

    def _search(self, X, n_neighbors):
        """Squared distances and indices of the nearest training points."""
        from sklearn.neighbors import NearestNeighbors

        distance, neighbor = NearestNeighbors(n_neighbors=n_neighbors).fit(self._points).kneighbors(X)
        return distance**2, neighbor


def kernel_bandwidth(squared_distances, *, n_steps=121):
    """The ε at which d ln S / d ln ε is largest, S(ε) = Σ exp(−D²/2ε): the kernel's linear region.

    Parameters
    ----------
    squared_distances : ndarray
        Of neighbours; zeros are left out. Binned in ln D² once, so that the scan costs nothing.
    n_steps : int
        Bandwidths tried.

    Returns
    -------
    float, in the unit of ``squared_distances``

    Examples
    --------
    One distance only: the slope D²/2ε · S/S is steepest far below it, the scan is bounded by the data:

    >>> kernel_bandwidth(np.full(10, 4.0)) > 0
    True
    """
    squared = np.asarray(squared_distances, dtype=float)
    squared = squared[squared > 0]
    if squared.size == 0:
        return 1.0
    logs = np.log(squared)
    counts, edges = np.histogram(logs, bins=512, range=(logs.min() - 1e-6, logs.max() + 1e-6))
    squared = np.exp((edges[1:] + edges[:-1]) / 2)
    # below the median neighbour distance the graph falls apart; above the largest every weight is one
    grid = np.geomspace(np.median(np.repeat(squared, np.minimum(counts, 1000))) / 8, squared[-1], n_steps)
    exponent = squared / (2 * grid[:, None])
    weight = counts * np.exp(-exponent)
    slope = (weight * exponent).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-300)
    local = np.maximum(slope[1:-1] >= slope[:-2], False) & (slope[1:-1] >= slope[2:])
    best = 1 + int(np.argmax(np.where(local, slope[1:-1], -1))) if local.any() else int(np.argmax(slope))
    return float(grid[best])


def sinkhorn_scaling(kernel, *, tolerance=1e-8, max_iterations=2000):
    """Vector u with diag(u) K diag(u) doubly stochastic, K symmetric and non-negative.

    Parameters
    ----------
    kernel : sparse or dense matrix (n, n)
    tolerance : float
        Largest departure of a row sum from one.
    max_iterations : int

    Returns
    -------
    ndarray (n,)

    Raises
    ------
    ValueError
        A row is empty, or no scaling exists: points whose only neighbour is one that they share.

    Notes
    -----
    The damped symmetric iteration u ← √(u / Ku), Knight, Ruiz & Uçar, SIAM J. Matrix Anal. Appl. 35:931 (2014).
    Where a row has no other support (a chain of single neighbours) sums approach one only slowly; within a few per
    cent they are taken as they are.

    Examples
    --------
    >>> kernel = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])
    >>> u = sinkhorn_scaling(kernel)
    >>> (u * (kernel @ u)).round(6).tolist()
    [1.0, 1.0, 1.0]
    """
    total = np.asarray(kernel.sum(axis=1)).ravel()
    if not (total > 0).all():
        raise ValueError(f"point {int(np.argmin(total > 0))} has no neighbour: its row of the kernel is empty")
    scaling = 1 / np.sqrt(total)
    for _ in range(max_iterations):
        row = kernel @ scaling
        departure = np.abs(scaling * row - 1).max()
        if departure < tolerance or scaling.max() > _DIVERGED * scaling.min():
            break
        scaling = np.sqrt(scaling / row)
    if departure > _LOOSE:
        raise ValueError(
            f"the kernel has no doubly stochastic scaling (row sums depart from one by {departure:.2g}): some points "
            f"have only one neighbour, and share it; take more neighbours"
        )
    return scaling


def _noise_share(covariance, X):
    if covariance is None:
        return np.zeros(len(X))
    covariance = np.asarray(covariance, dtype=float)
    if covariance.shape != (*X.shape, X.shape[1]):
        raise ValueError(f"covariance must have shape {(*X.shape, X.shape[1])}, got {covariance.shape}")
    return np.trace(covariance, axis1=1, axis2=2)


def _without_self(distance, neighbor):
    """Drop each point from its own neighbours (it need not come first where points coincide)."""
    own = neighbor == np.arange(len(neighbor))[:, None]
    own[~own.any(axis=1), -1] = True
    n = len(neighbor)
    return distance[~own].reshape(n, -1), neighbor[~own].reshape(n, -1)


def _graph(weight, neighbor):
    """Symmetric sparse matrix: the larger of the two directions of each edge; floored so that no row is empty."""
    n, k = neighbor.shape
    rows = np.repeat(np.arange(n), k)
    weight = np.maximum(weight, 1e-8)
    kernel = scipy.sparse.csr_matrix((weight.ravel(), (rows, neighbor.ravel())), shape=(n, n))
    return kernel.maximum(kernel.T)


def _leading_eigenvectors(kernel, n_components):
    """Eigenvalues and unit-variance eigenvectors below the constant one, signs fixed by the largest entry."""
    n = kernel.shape[0]
    symmetric = (kernel + kernel.T) / 2
    if n < 50 or n_components + 1 >= n // 2:
        values, vectors = np.linalg.eigh(symmetric.toarray())
    else:
        # a fixed start, so that two runs agree; perturbed because the constant vector is an eigenvector itself
        start = 1 + 0.1 * np.cos(np.arange(n))
        values, vectors = scipy.sparse.linalg.eigsh(symmetric, k=n_components + 1, which="LA", v0=start)
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    trivial = int(np.argmax(np.abs(vectors[:, : n_components + 1].sum(axis=0))))
    keep = [c for c in range(n_components + 1) if c != trivial]
    vectors = vectors[:, keep] * np.sqrt(n)
    sign = np.sign(vectors[np.argmax(np.abs(vectors), axis=0), np.arange(len(keep))])
    return values[keep], vectors * sign
