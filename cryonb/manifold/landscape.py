"""Free energy over a conformational coordinate: deconvolution of per-particle likelihoods, and counting beside it.

Counting particles per bin blurs the landscape by the error of each particle's coordinate, whatever the number of
particles. Deconvolution asks for the density that explains all the particles' likelihoods at once.
"""

from dataclasses import dataclass, replace

import numpy as np

from cryonb.types import EnergyLandscape

__all__ = ["change_gauge", "counting_landscape", "deconvolve_landscape", "landscape_rms"]

# λ is marginalised over this grid, log-uniformly; energies in kT over a coordinate scaled to unit range.
_SMOOTHNESS = np.geomspace(1e-9, 1e-1, 22)
# A bin with fewer expected particles than this is unobserved: its energy is NaN.
_MINIMUM_COUNT = 1.0
# kT by which the share beyond an end may differ from the outermost bin's (standard deviation).
_OVERFLOW_SPREAD = 3.0


def deconvolve_landscape(
    log_likelihood, edges, *, rng, gauge=None, credibility=0.9, n_bootstrap=48, weights=None, overflow=False
):
    """Free-energy landscape that explains every particle's likelihood along the coordinate.

    Maximises Σ_i log Σ_m L_im w_m e^(−F_m)/Z − (λ/2) ∫ F‴² dx, Z = Σ_m w_m e^(−F_m), w_m the bin widths. The third
    derivative is penalised, so that the smoothest landscape is a harmonic well (Silverman 1982). λ is marginalised
    over a log-uniform grid by Laplace's approximation. The band is that of the Laplace covariance, mixed over λ, or of
    a Bayesian bootstrap of the particles, whichever is wider.

    Parameters
    ----------
    log_likelihood : ndarray (n, m) or (n, m1, m2)
        log p(image i | coordinate in bin m), up to a constant per particle; nodes at the bin centres.
    edges : ndarray (m + 1,), or a sequence of one per axis
        Bin edges, in the unit of ``gauge``.
    rng : int or numpy.random.Generator
        For the bootstrap.
    gauge : str or sequence of str, optional
        Name and unit of each coordinate, ``"ratchet (°)"``.
    credibility : float
        Probability inside the band.
    n_bootstrap : int
        Bootstrap replicates.
    weights : ndarray (n,), optional
        Weight of each particle; 1 by default.
    overflow : bool
        One coordinate only: particles that look like the outermost node may lie beyond it. Each end gets a share of
        its own for them, outside the landscape, so that they do not pile up in the last bin.

    Returns
    -------
    EnergyLandscape
        ``counts`` are the expected particles per bin. Bins with fewer than one are NaN (unobserved). ``verdict`` is
        "resolved", or "unresolvable: …" where the band's median half-width exceeds 1 kT or where a single particle's
        likelihood covers more than 0.25 of the range (standard deviation under a flat prior, median over particles).

    Raises
    ------
    ValueError
        Shapes that do not match, a particle without any finite likelihood, or NaN likelihoods.

    Notes
    -----
    The support is the range of ``edges``: without ``overflow``, particles beyond it pile up in the outermost bins. The
    likelihood must be honest: a noise variance that is too small sharpens wells that are not there. Silverman, Ann.
    Statist. 10:795 (1982), for the penalty; Giraldo-Barreto et al., Sci. Rep. 11:13657 (2021), for landscapes from
    likelihoods.

    Examples
    --------
    Two sharp wells seen through a blur as wide as half their distance:

    >>> rng = np.random.default_rng(0)
    >>> truth = np.where(rng.random(2000) < 0.75, 0.3, 0.7)
    >>> seen = truth + 0.2 * rng.standard_normal(2000)
    >>> edges = np.linspace(0, 1, 21)
    >>> centers = (edges[1:] + edges[:-1]) / 2
    >>> landscape = deconvolve_landscape(-0.5 * ((seen[:, None] - centers) / 0.2) ** 2, edges, rng=1)
    >>> populations = landscape.probability[:10].sum()
    >>> bool(abs(populations - 0.75) < 0.05)
    True
    """
    edges = _edges(edges)
    problem = _Problem.build(log_likelihood, edges, weights, overflow=overflow)
    grid, energies = _solve_path(problem)
    log_evidence = np.array([_log_evidence(problem, energy, smoothness) for energy, smoothness in zip(energies, grid)])
    posterior = np.exp(log_evidence - log_evidence.max())
    posterior /= posterior.sum()
    # −ln density, the quantity with a meaning of its own: its constant is fixed by normalisation
    densities = np.array([problem.minus_log_density(energy) for energy in energies])
    energy = posterior @ densities
    variance = posterior @ (densities - energy) ** 2
    for share, single, smoothness in zip(posterior, energies, grid):
        if share > 1e-3:
            variance = variance + share * problem.laplace_variance(single, smoothness)
    best = int(np.argmax(posterior))
    spread = _bootstrap_spread(problem, energies[best], grid[best], n_bootstrap, rng)
    deviation = np.sqrt(np.maximum(variance, spread**2))
    counts = problem.expected_counts(energies[best])
    return _landscape(problem, energy, deviation, counts, gauge=gauge, credibility=credibility)


def counting_landscape(coordinates, edges, *, gauge=None, credibility=0.9):
    """Landscape by counting particles per bin: −ln(count / width), for comparison; blurred by each particle's error.

    Parameters
    ----------
    coordinates : ndarray (n,) or (n, 2)
        One value per particle; those outside ``edges`` are left out.
    edges : ndarray (m + 1,), or a sequence of one per axis
    gauge, credibility
        As in `deconvolve_landscape`; the band is that of Poisson counts alone.

    Returns
    -------
    EnergyLandscape
        Empty bins are NaN.

    Examples
    --------
    >>> counting_landscape(np.array([0.1, 0.2, 0.3, 0.7]), np.array([0, 0.5, 1.0])).energy_kt.round(3).tolist()
    [0.0, 1.099]
    """
    from scipy.stats import gamma

    edges = _edges(edges)
    coordinates = np.asarray(coordinates, dtype=float)
    coordinates = coordinates[:, None] if coordinates.ndim == 1 else coordinates
    if coordinates.shape[1] != len(edges):
        raise ValueError(f"coordinates have {coordinates.shape[1]} columns, but edges describe {len(edges)} axes")
    if not np.isfinite(coordinates).all():
        row = int(np.argmin(np.isfinite(coordinates).all(1)))
        raise ValueError(f"coordinates must be finite, particle {row} is not")
    counts = np.histogramdd(coordinates, bins=edges)[0]
    width = _widths(edges).reshape(counts.shape)
    tail = (1 - credibility) / 2
    with np.errstate(divide="ignore"):
        energy = np.where(counts > 0, -np.log(counts / width), np.nan)
        lower, upper = (-np.log(gamma.ppf(q, np.maximum(counts, 1) + 0.5) / width) for q in (1 - tail, tail))
    unseen = counts == 0
    return EnergyLandscape(
        energy, edges, np.where(unseen, np.nan, lower), np.where(unseen, np.nan, upper), counts,
        gauge=_gauge(gauge, len(edges)), credibility=credibility,
    )  # fmt: skip


def change_gauge(landscape, edges, *, gauge=None):
    """The same landscape over another coordinate y(x): F_y = F_x + kT ln|dy/dx|, probabilities per bin unchanged.

    Parameters
    ----------
    landscape : EnergyLandscape
        One coordinate.
    edges : ndarray (m + 1,)
        The new coordinate at each of the landscape's edges; increasing or decreasing.
    gauge : str, optional
        Name and unit of the new coordinate.

    Returns
    -------
    EnergyLandscape, in increasing order of y.

    Examples
    --------
    A flat landscape on x is not flat on x²:

    >>> flat = EnergyLandscape(np.zeros(2), [np.array([0.0, 1.0, 2.0])])
    >>> change_gauge(flat, np.array([0.0, 1.0, 4.0])).energy_kt.round(3).tolist()
    [0.0, 1.099]
    """
    if landscape.energy_kt.ndim != 1:
        raise ValueError(f"only a landscape of one coordinate can change gauge, this has {landscape.energy_kt.ndim}")
    edges = np.asarray(edges, dtype=float)
    steps = np.diff(edges)
    if edges.shape != landscape.edges[0].shape or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"edges must be monotone with {landscape.edges[0].size} entries, got {edges.shape}")
    order = slice(None) if steps[0] > 0 else slice(None, None, -1)
    jacobian = np.log(np.abs(steps) / np.diff(landscape.edges[0]))

    def moved(values):
        return None if values is None else (values + jacobian)[order]

    return replace(
        landscape,
        energy_kt=moved(landscape.energy_kt), lower_kt=moved(landscape.lower_kt), upper_kt=moved(landscape.upper_kt),
        edges=[edges[order]], counts=None if landscape.counts is None else landscape.counts[order],
        gauge=landscape.gauge if gauge is None else gauge,
    )  # fmt: skip


def landscape_rms(estimate, truth, *, energy_limit=5.0, weighting="uniform"):
    """Root-mean-square error of a landscape in kT, after the best additive constant.

    Parameters
    ----------
    estimate : EnergyLandscape
    truth : EnergyLandscape on the same bins, or a callable
        A callable gets the bin centres (one array per coordinate) and returns kT.
    energy_limit : float
        Bins where the truth lies higher than this above its minimum, in kT, are left out: hardly any particle is
        there. So are bins that either landscape did not observe.
    weighting : {"uniform", "probability"}
        Equal weight per unit of the coordinate, or by the true probability.

    Returns
    -------
    float, kT

    Examples
    --------
    >>> edges = [np.linspace(0, 1, 4)]
    >>> a = EnergyLandscape(np.array([0.0, 1.0, 2.0]), edges)
    >>> landscape_rms(a, a), round(landscape_rms(a, lambda x: 0 * x), 4)
    (0.0, 0.8165)
    """
    if weighting not in ("uniform", "probability"):
        raise ValueError(f"weighting must be 'uniform' or 'probability', got {weighting!r}")
    if callable(truth):
        expected = np.asarray(truth(*np.meshgrid(*estimate.centers, indexing="ij")), dtype=float)
    else:
        expected = truth.energy_kt
    if expected.shape != estimate.energy_kt.shape:
        raise ValueError(f"truth has {expected.shape} bins, the estimate {estimate.energy_kt.shape}")
    compared = np.isfinite(expected) & np.isfinite(estimate.energy_kt)
    if compared.any():
        expected = expected - np.nanmin(expected)
        compared[compared] = expected[compared] <= energy_limit
    if compared.sum() < 2:
        raise ValueError(f"only {int(compared.sum())} bins were observed in both landscapes: nothing to compare")
    weight = _widths(estimate.edges).reshape(expected.shape)[compared]
    if weighting == "probability":
        weight = weight * np.exp(-expected[compared])
    weight = weight / weight.sum()
    difference = estimate.energy_kt[compared] - expected[compared]
    return float(np.sqrt(weight @ (difference - weight @ difference) ** 2))


@dataclass
class _Problem:
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
    def build(cls, log_likelihood, edges, weights, *, overflow=False):
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
        penalty, rank = _roughness_penalty(edges)
        likelihood, widths, n_bins = np.exp(log_likelihood - highest), _widths(edges), len(penalty)
        anchor = np.zeros_like(penalty)
        if overflow:
            if len(edges) != 1:
                raise ValueError("overflow needs a landscape of one coordinate")
            likelihood = np.concatenate([likelihood, likelihood[:, [0, -1]]], axis=1)
            widths = np.append(widths, widths[[0, -1]])
            penalty = np.pad(penalty, (0, 2))
            beyond = np.zeros((2, n_bins + 2))
            beyond[0, [0, n_bins]], beyond[1, [n_bins - 1, n_bins + 1]] = (1, -1), (1, -1)
            anchor = beyond.T @ beyond / _OVERFLOW_SPREAD**2
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
        covariance = np.linalg.inv(precision + _ridge(precision) + np.full((m, m), np.trace(precision) / m**2))
        inside = np.zeros(m)
        inside[: self.n_bins] = self.probability(energy)[: self.n_bins]
        to_density = (np.eye(m) - inside / inside.sum())[: self.n_bins]
        return np.einsum("ij,jk,ik->i", to_density, covariance, to_density)


def _solve_path(problem):
    """Maximum of the penalised likelihood for every λ, from smooth to rough, each started from the one before."""
    energies = []
    energy = np.zeros(problem.likelihood.shape[1])
    for smoothness in _SMOOTHNESS[::-1]:
        energy = _maximise(problem, energy, smoothness)
        energies.append(energy)
    return _SMOOTHNESS, energies[::-1]


def _maximise(problem, energy, smoothness, *, n_steps=40, tolerance=1e-4):
    """Newton's method with the outer product of the scores for a Hessian, and step halving."""
    m = len(energy)
    stiffness = problem.stiffness(smoothness)
    scores, log_marginal = problem.scores(energy)
    value = problem.weights @ log_marginal - energy @ stiffness @ energy / 2
    for _ in range(n_steps):
        gradient = problem.weights @ scores - stiffness @ energy
        precision = (scores * problem.weights[:, None]).T @ scores + stiffness
        constant = np.full((m, m), np.trace(precision) / m**2)
        step = np.linalg.solve(precision + _ridge(precision) + constant, gradient)
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


def _log_evidence(problem, energy, smoothness):
    """Laplace's approximation of log p(images | λ), up to a constant that does not depend on λ."""
    scores, log_marginal = problem.scores(energy)
    stiffness = problem.stiffness(smoothness)
    precision = (scores * problem.weights[:, None]).T @ scores + stiffness
    m = len(energy)
    _, log_determinant = np.linalg.slogdet(precision + _ridge(precision) + np.full((m, m), 1.0 / m))
    fit = problem.weights @ log_marginal - energy @ stiffness @ energy / 2
    return fit + problem.rank / 2 * np.log(smoothness) - log_determinant / 2


def _bootstrap_spread(problem, energy, smoothness, n_bootstrap, rng):
    """Standard deviation of −ln density over Bayesian bootstrap replicates (Rubin 1981), one Newton step each."""
    if n_bootstrap < 2:
        return np.zeros_like(energy)
    rng = np.random.default_rng(rng)
    scores, _ = problem.scores(energy)
    stiffness = problem.stiffness(smoothness)
    m = len(energy)
    precision = (scores * problem.weights[:, None]).T @ scores + stiffness
    covariance = np.linalg.inv(precision + _ridge(precision) + np.full((m, m), np.trace(precision) / m**2))
    multipliers = rng.standard_exponential((n_bootstrap, len(scores)))
    multipliers *= problem.weights / multipliers.mean(axis=1, keepdims=True)
    gradients = multipliers @ scores - stiffness @ energy
    replicates = energy + np.clip(gradients @ covariance, -3, 3)
    return np.std([problem.minus_log_density(replicate) for replicate in replicates], axis=0)


def _landscape(problem, energy, deviation, counts, *, gauge, credibility):
    from scipy.stats import norm

    shape = tuple(len(edge) - 1 for edge in problem.edges)
    observed = counts >= min(_MINIMUM_COUNT, counts.max())
    half = norm.ppf(0.5 + credibility / 2) * deviation
    verdict = _verdict(problem, half[observed])
    energy, lower, upper = (
        np.where(observed, v, np.nan).reshape(shape) for v in (energy, energy - half, energy + half)
    )
    return EnergyLandscape(
        energy, problem.edges, lower, upper, counts.reshape(shape),
        gauge=_gauge(gauge, len(shape)), credibility=credibility, verdict=verdict,
    )  # fmt: skip


def _verdict(problem, half_widths):
    """Say "resolved", or the reason why not: a wide band, or particles whose likelihood covers the whole range."""
    if np.median(half_widths) > 1:
        return f"unresolvable: the band is ±{np.median(half_widths):.1f} kT wide (limit 1 kT)"
    posterior = (problem.likelihood * problem.widths)[:, : problem.n_bins]
    posterior = posterior / posterior.sum(axis=1, keepdims=True)
    shape = tuple(len(edge) - 1 for edge in problem.edges)
    for axis, edge in enumerate(problem.edges):
        other = tuple(1 + k for k in range(len(shape)) if k != axis)
        marginal = posterior.reshape(-1, *shape).sum(axis=other)
        centers = (edge[1:] + edge[:-1]) / 2
        mean = marginal @ centers
        deviation = np.sqrt(np.maximum(marginal @ centers**2 - mean**2, 0))
        share = np.median(deviation) / (edge[-1] - edge[0])
        # a flat likelihood gives 1/√12 = 0.289 of the range
        if share > 0.25:
            return f"unresolvable: one particle's likelihood covers {share:.2f} of the range (limit 0.25)"
    return "resolved"


def _roughness_penalty(edges):
    """Matrix P with Fᵀ P F = ∫ F‴² over the unit range (two coordinates: the sum over all third derivatives).

    Returns P and its rank: polynomials of degree two are free.
    """
    derivatives = []
    for edge in edges:
        if len(edge) < 5:
            raise ValueError(f"a landscape needs at least 4 bins per coordinate, got {len(edge) - 1}")
        unit = ((edge[1:] + edge[:-1]) / 2 - edge[0]) / (edge[-1] - edge[0])
        derivatives.append(_derivatives(unit))
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


def _ridge(precision):
    return 1e-10 * np.trace(precision) / len(precision) * np.eye(len(precision))


def _widths(edges):
    width = np.diff(edges[0])
    return width if len(edges) == 1 else np.outer(width, np.diff(edges[1])).ravel()


def _edges(edges):
    if np.ndim(edges[0]) == 0:
        edges = (edges,)
    edges = tuple(np.asarray(edge, dtype=float) for edge in edges)
    if len(edges) not in (1, 2) or any(edge.ndim != 1 or (np.diff(edge) <= 0).any() for edge in edges):
        raise ValueError("edges must be one or two increasing arrays of bin edges")
    return edges


def _gauge(gauge, n_axes):
    if gauge is not None:
        return gauge
    return ("coordinate",) if n_axes == 1 else ("coordinate 1", "coordinate 2")
