"""Free energy over a conformational coordinate: deconvolution of per-particle likelihoods, and counting beside it.

Counting particles per bin blurs the landscape by the error of each particle's coordinate, whatever the number of
particles. Deconvolution asks for the density that explains all the particles' likelihoods at once.
"""

from dataclasses import replace

import numpy as np

from cryonb.manifold.deconvolution import (
    SMOOTHNESS,
    Problem,
    bin_widths,
    bootstrap_spread,
    log_evidence,
    maximise,
    solve_path,
)
from cryonb.parallel import with_one_blas_thread
from cryonb.types import EnergyLandscape

__all__ = ["FINEST", "change_gauge", "counting_landscape", "deconvolve_landscape", "landscape_rms"]

# A bin with fewer expected particles than this is unobserved: its energy is NaN.
_MINIMUM_COUNT = 1.0
# For likelihoods of estimated volumes, in a particle's standard deviations: detail that is finer is not believed.
FINEST = 4.5
# How far that limit may be off, in steps along the grid of λ: a factor of 5.8, in length about a fifth.
DOUBT_STEPS = 2
# How far likelihoods may be off, as a power: widths that are 15 to 18 % too large or too small.
DOUBT_POWER = 1.4


@with_one_blas_thread
def deconvolve_landscape(
    log_likelihood, edges, *, rng, gauge=None, credibility=0.9, n_bootstrap=48, weights=None, overflow=False,
    periodic=False, finest=0.0,
):  # fmt: skip
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
    periodic : bool
        One coordinate with equal bins only: its end is its beginning.
    finest : float
        Detail finer than this many of a particle's standard deviations (the median's, under a flat prior) is left to
        the smoothness; 0 for likelihoods that are right, `FINEST` for those of volumes that were themselves estimated
        from the images.

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
    Errors of estimated volumes are the same for all particles that are seen alike, and more particles do not make them
    smaller: they look like detail, and the evidence, which knows of no such errors, is for a rough landscape. A wave of
    length Λ reaches the likelihoods attenuated by a = exp(−2π²σ²/Λ²); with ``finest`` λ is at least N a² (Λ/2π)⁶,
    where the prior on that wave weighs as much as N particles do, Λ = finest · σ. The band then also holds half of what
    a fifth more or less of Λ and likelihoods 15 to 18 % wider or narrower change. Over two coordinates λ is the
    geometric mean of what either would ask for.

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
    if periodic and finest > 0:
        raise ValueError("finest is for coordinates with two ends: a periodic one has no range to measure it by")
    problem = Problem.build(log_likelihood, edges, weights, overflow=overflow, periodic=periodic)
    least = min(_least_smoothness(problem, finest), SMOOTHNESS[-1])
    grid, energies = solve_path(problem, first=max(int(np.searchsorted(SMOOTHNESS, least)) - DOUBT_STEPS, 0))
    evidence = np.array([log_evidence(problem, energy, smoothness) for energy, smoothness in zip(energies, grid)])
    believed = grid >= least
    posterior = np.where(believed, np.exp(evidence - evidence[believed].max()), 0.0)
    posterior /= posterior.sum()
    # −ln density, the quantity with a meaning of its own: its constant is fixed by normalisation
    densities = np.array([problem.minus_log_density(energy) for energy in energies])
    energy = posterior @ densities
    variance = posterior @ (densities - energy) ** 2
    for share, single, smoothness in zip(posterior, energies, grid):
        if share > 1e-3:
            variance = variance + share * problem.laplace_variance(single, smoothness)
    best = int(np.argmax(posterior))
    spread = bootstrap_spread(problem, energies[best], grid[best], n_bootstrap, rng)
    variance = np.maximum(variance, spread**2)
    if finest > 0:
        variance = variance + _doubts(problem, energies[best], grid[best], densities, best)
    deviation = np.sqrt(variance)
    counts = problem.expected_counts(energies[best])
    return _landscape(problem, energy, deviation, counts, gauge=gauge, credibility=credibility)


def _least_smoothness(problem, finest):
    """λ at which the prior weighs as much as the particles do on a wave of so many standard deviations."""
    if finest == 0:
        return 0.0
    if not finest > 0:
        raise ValueError(f"finest must be at least 0 standard deviations, got {finest:g}")
    passed = np.exp(-2 * (np.pi / finest) ** 2)
    waves = finest * np.array(_shares_of_range(problem)) / (2 * np.pi)
    return problem.weights.sum() * passed**2 * np.prod(waves) ** (6 / len(waves))


def _doubts(problem, energy, smoothness, densities, best):
    """Variance of −ln density through the limit of detail and the width of likelihoods, neither known exactly."""
    rough, smooth = densities[max(best - DOUBT_STEPS, 0)], densities[min(best + DOUBT_STEPS, len(densities) - 1)]
    sides = []
    for power in (DOUBT_POWER, 1 / DOUBT_POWER):
        other = replace(problem, likelihood=problem.likelihood**power)
        sides.append(other.minus_log_density(maximise(other, energy, smoothness)))
    return ((rough - smooth) ** 2 + (sides[0] - sides[1]) ** 2) / 4


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
    width = bin_widths(edges).reshape(counts.shape)
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
    weight = bin_widths(estimate.edges).reshape(expected.shape)[compared]
    if weighting == "probability":
        weight = weight * np.exp(-expected[compared])
    weight = weight / weight.sum()
    difference = estimate.energy_kt[compared] - expected[compared]
    return float(np.sqrt(weight @ (difference - weight @ difference) ** 2))


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
    share = max(_shares_of_range(problem))
    # a flat likelihood gives 1/√12 = 0.289 of the range
    if share > 0.25:
        return f"unresolvable: one particle's likelihood covers {share:.2f} of the range (limit 0.25)"
    return "resolved"


def _shares_of_range(problem):
    """Standard deviation of a particle's likelihood (the median's) along each coordinate, in parts of its range."""
    posterior = (problem.likelihood * problem.widths)[:, : problem.n_bins]
    posterior = posterior / posterior.sum(axis=1, keepdims=True)
    shape, shares = tuple(len(edge) - 1 for edge in problem.edges), []
    for axis, edge in enumerate(problem.edges):
        other = tuple(1 + k for k in range(len(shape)) if k != axis)
        marginal = posterior.reshape(-1, *shape).sum(axis=other)
        centers = (edge[1:] + edge[:-1]) / 2
        mean = marginal @ centers
        deviation = np.sqrt(np.maximum(marginal @ centers**2 - mean**2, 0))
        shares.append(float(np.median(deviation) / (edge[-1] - edge[0])))
    return shares


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
