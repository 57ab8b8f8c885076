"""The likelihood of a landscape, its smoothness, and the landscapes that are most probable for every smoothness."""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "SMOOTHNESS", "Problem", "bin_widths", "bootstrap_spread", "log_evidence", "maximise", "ridge", "roughness_penalty",
    "solve_path",
]  # fmt: skip

# λ is marginalised over this grid, log-uniformly; energies in kT over a coordinate scaled to unit range.
SMOOTHNESS = np.geomspace(1e-9, 1e-1, 22)
# kT by which the share beyond an end may differ from the outermost bin's (standard deviation).
OVERFLOW_SPREAD = 3.0


@dataclass
class Problem:
    """Likelihoods scaled to a maximum of one per particle, and the penalty matrix on the unit range."""

    likelihood: np.ndarray  # (n, m)
    weights: np.ndarray  # (n,)
    widths: np.ndarray  # (m,)
    penalty: np.ndarray  # (m, m)
    rank: int
    edges: tuple
    n_bins: int
    anchor: np.ndarray  # (m, m), holds the shares beyond the ends

    @classmethod
    def build(cls, log_likelihood, edges, weights, *, overflow=False, periodic=False):
        log_likelihood = np.asarray(log_likelihood, dtype=float)
        shape = tuple(len(edge) - 1 for edge in edges)
        n = log_likelihood.shape[0]
        if log_likelihood.shape not in ((n, *shape), (n, int(np.prod(shape)))):
            raise ValueError(
                f"log_likelihood must have shape (n, {', '.join(map(str, shape))}), got {log_likelihood.shape}"
            )
        log_likelihood = log_likelihood.reshape(n, -1)
        highest = log_likelihood.max(axis=1, keepdims=True)
        if not np.isfinite(highest).all():
            row = int(np.argmin(np.isfinite(highest[:, 0])))
            raise ValueError(f"particle {row} has no finite likelihood at any node")
        weights = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
        if weights.shape != (n,) or not (weights >= 0).all() or weights.sum() == 0:
            raise ValueError(f"weights must be {n} numbers of at least 0, got shape {weights.shape}")
        if overflow and periodic:
            raise ValueError("a periodic coordinate has no ends: overflow does not apply")
        penalty, rank = roughness_penalty(edges, periodic=periodic)
        likelihood, widths, n_bins = np.exp(log_likelihood - highest), bin_widths(edges), len(penalty)
        anchor = np.zeros_like(penalty)
        if overflow:
            if len(edges) != 1:
                raise ValueError("overflow needs a landscape of one coordinate")
            likelihood = np.concatenate([likelihood, likelihood[:, [0, -1]]], axis=1)
            widths = np.append(widths, widths[[0, -1]])
            penalty = np.pad(penalty, (0, 2))
            beyond = np.zeros((2, n_bins + 2))
            beyond[0, [0, n_bins]], beyond[1, [n_bins - 1, n_bins + 1]] = (1, -1), (1, -1)
            anchor = beyond.T @ beyond / OVERFLOW_SPREAD**2
        return cls(likelihood, weights, widths, penalty, rank, edges, n_bins, anchor)

    def probability(self, energy):
        weight = self.widths * np.exp(-(energy - energy.min()))
        return weight / weight.sum()

    def minus_log_density(self, energy):
        """Of the bins inside the landscape, normalised there."""
        energy = energy[: self.n_bins] - energy[: self.n_bins].min()
        return energy + np.log((self.widths[: self.n_bins] * np.exp(-energy)).sum())

    def stiffness(self, smoothness):
        """Matrix of the quadratic penalty."""
        return smoothness * self.penalty + self.anchor

    def responsibilities(self, energy):
        """p(bin | particle), and each particle's log marginal likelihood."""
        joint = self.likelihood * self.probability(energy)
        marginal = joint.sum(axis=1)
        return joint / np.maximum(marginal, 1e-300)[:, None], np.log(np.maximum(marginal, 1e-300))

    def expected_counts(self, energy):
        return (self.weights @ self.responsibilities(energy)[0])[: self.n_bins]

    def scores(self, energy):
        """Gradient of each particle's log marginal likelihood, (n, m), and the log marginals."""
        posterior, log_marginal = self.responsibilities(energy)
        return self.probability(energy) - posterior, log_marginal

    def laplace_variance(self, energy, smoothness):
        scores, _ = self.scores(energy)
        precision = (scores * self.weights[:, None]).T @ scores + self.stiffness(smoothness)
        m = len(energy)
        covariance = np.linalg.inv(precision + ridge(precision) + np.full((m, m), np.trace(precision) / m**2))
        inside = np.zeros(m)
        inside[: self.n_bins] = self.probability(energy)[: self.n_bins]
        to_density = (np.eye(m) - inside / inside.sum())[: self.n_bins]
        return np.einsum("ij,jk,ik->i", to_density, covariance, to_density)


def solve_path(problem, *, first=0):
    """Maximum of the penalised likelihood for every λ, from smooth to rough, each started from the one before.

    Parameters
    ----------
    problem : Problem
    first : int
        Number of the roughest in `SMOOTHNESS`.

    Returns
    -------
    smoothness : ndarray (s,)
        Increasing.
    energies : list of s ndarray (m,), kT
    """
    energies = []
    energy = np.zeros(problem.likelihood.shape[1])
    for smoothness in SMOOTHNESS[first:][::-1]:
        energy = maximise(problem, energy, smoothness)
        energies.append(energy)
    return SMOOTHNESS[first:], energies[::-1]


def maximise(problem, energy, smoothness, *, n_steps=40, tolerance=1e-4):
    """Maximum of the penalised likelihood for one λ, by Newton's method with the scores' outer product for a Hessian.

    Parameters
    ----------
    problem : Problem
    energy : ndarray (m,)
        To start from, kT.
    smoothness : float
        λ.
    n_steps : int
        At most; each is halved until the likelihood rises.
    tolerance : float
        Gain in nats at which to stop.

    Returns
    -------
    ndarray (m,), kT
    """
    m = len(energy)
    stiffness = problem.stiffness(smoothness)
    scores, log_marginal = problem.scores(energy)
    value = problem.weights @ log_marginal - energy @ stiffness @ energy / 2
    for _ in range(n_steps):
        gradient = problem.weights @ scores - stiffness @ energy
        precision = (scores * problem.weights[:, None]).T @ scores + stiffness
        constant = np.full((m, m), np.trace(precision) / m**2)
        step = np.linalg.solve(precision + ridge(precision) + constant, gradient)
        step *= min(1.0, 3.0 / max(np.abs(step).max(), 1e-12))
        for _ in range(12):
            trial = energy + step
            scores, log_marginal = problem.scores(trial)
            new = problem.weights @ log_marginal - trial @ stiffness @ trial / 2
            if new >= value:
                break
            step /= 2
        else:
            return energy
        energy, gain, value = trial - trial.mean(), new - value, new
        if gain < tolerance:
            break
    return energy


def log_evidence(problem, energy, smoothness):
    """Laplace's approximation of log p(images | λ), up to a constant that does not depend on λ.

    Parameters
    ----------
    problem : Problem
    energy : ndarray (m,)
        The maximum for this λ, kT.
    smoothness : float
        λ.

    Returns
    -------
    float
    """
    scores, log_marginal = problem.scores(energy)
    stiffness = problem.stiffness(smoothness)
    precision = (scores * problem.weights[:, None]).T @ scores + stiffness
    m = len(energy)
    _, log_determinant = np.linalg.slogdet(precision + ridge(precision) + np.full((m, m), 1.0 / m))
    fit = problem.weights @ log_marginal - energy @ stiffness @ energy / 2
    return fit + problem.rank / 2 * np.log(smoothness) - log_determinant / 2


def bootstrap_spread(problem, energy, smoothness, n_bootstrap, rng):
    """Standard deviation of −ln density over Bayesian bootstrap replicates (Rubin 1981), one Newton step each.

    Parameters
    ----------
    problem : Problem
    energy : ndarray (m,)
        The maximum, kT.
    smoothness : float
    n_bootstrap : int
    rng : seed or Generator

    Returns
    -------
    ndarray (bins,), kT
    """
    if n_bootstrap < 2:
        return np.zeros(problem.n_bins)
    rng = np.random.default_rng(rng)
    scores, _ = problem.scores(energy)
    stiffness = problem.stiffness(smoothness)
    m = len(energy)
    precision = (scores * problem.weights[:, None]).T @ scores + stiffness
    covariance = np.linalg.inv(precision + ridge(precision) + np.full((m, m), np.trace(precision) / m**2))
    multipliers = rng.standard_exponential((n_bootstrap, len(scores)))
    multipliers *= problem.weights / multipliers.mean(axis=1, keepdims=True)
    gradients = multipliers @ scores - stiffness @ energy
    replicates = energy + np.clip(gradients @ covariance, -3, 3)
    return np.std([problem.minus_log_density(replicate) for replicate in replicates], axis=0)


def roughness_penalty(edges, *, periodic=False):
    """Matrix P with Fᵀ P F = ∫ F‴² over the unit range (two coordinates: the sum over all third derivatives).

    Parameters
    ----------
    edges : sequence of one or two ndarray
        At least 4 bins each.
    periodic : bool
        One coordinate with equal bins, whose end is its beginning.

    Returns
    -------
    penalty : ndarray (m, m)
    rank : int
        Polynomials of degree two are free; of a periodic coordinate, constants.
    """
    if periodic and (len(edges) != 1 or np.ptp(np.diff(edges[0])) > 1e-6 * np.diff(edges[0]).mean()):
        raise ValueError("a periodic landscape needs one coordinate with equal bins")
    derivatives = []
    for edge in edges:
        if len(edge) < 5:
            raise ValueError(f"a landscape needs at least 4 bins per coordinate, got {len(edge) - 1}")
        unit = ((edge[1:] + edge[:-1]) / 2 - edge[0]) / (edge[-1] - edge[0])
        derivatives.append(_derivatives(unit))
    if periodic:
        m = len(edges[0]) - 1
        third = np.linalg.matrix_power(np.roll(np.eye(m), 1, axis=1) - np.eye(m), 3) * m**3
        return third.T @ third / m, m - 1
    if len(edges) == 1:
        third = derivatives[0][3]
        return third.T @ third / third.shape[1], third.shape[0]
    along_x, along_y = derivatives
    penalty = sum(
        multiplicity * np.kron(_square(along_x[3 - order]), _square(along_y[order]))
        for order, multiplicity in enumerate((1, 3, 3, 1))
    )
    return penalty / len(penalty), len(penalty) - 6


def _derivatives(x):
    """Divided differences of order 0 to 3 on a grid that may be uneven."""
    result = [np.eye(len(x))]
    for _ in range(3):
        result.append(np.diff(result[-1], axis=0) / np.diff(x)[:, None])
        x = (x[1:] + x[:-1]) / 2
    return result


def _square(operator):
    return operator.T @ operator


def ridge(precision):
    """A diagonal that keeps a matrix invertible and changes nothing else.

    Parameters
    ----------
    precision : ndarray (m, m)

    Returns
    -------
    ndarray (m, m)
    """
    return 1e-10 * np.trace(precision) / len(precision) * np.eye(len(precision))


def bin_widths(edges):
    """Widths of all bins, flattened; areas where there are two coordinates.

    Parameters
    ----------
    edges : sequence of one or two ndarray

    Returns
    -------
    ndarray (m,)
    """
    width = np.diff(edges[0])
    return width if len(edges) == 1 else np.outer(width, np.diff(edges[1])).ravel()
