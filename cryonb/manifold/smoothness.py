"""What the smoothness λ does to a landscape: the evidence of every λ, and the landscape that goes with it."""

from dataclasses import dataclass

import numpy as np

from cryonb.manifold.deconvolution import Problem, log_evidence, solve_path
from cryonb.parallel import with_one_blas_thread
from cryonb.types import EnergyLandscape

__all__ = ["SmoothnessScan", "scan_smoothness"]


@dataclass(frozen=True, eq=False)
class SmoothnessScan:
    """Landscapes of one set of likelihoods, from rough to smooth.

    Parameters
    ----------
    smoothness : ndarray (s,)
        λ, increasing.
    log_evidence : ndarray (s,)
        log p(images | λ) by Laplace's approximation, 0 at its maximum, nats.
    landscapes : tuple of s EnergyLandscape
        Most probable one for each λ; its band is Laplace's at that λ alone.
    """

    smoothness: np.ndarray
    log_evidence: np.ndarray
    landscapes: tuple

    @property
    def weight(self):
        """Posterior probability of each λ, with which `deconvolve_landscape` mixes the landscapes: ndarray (s,)."""
        weight = np.exp(self.log_evidence)
        return weight / weight.sum()

    @property
    def best(self):
        """Index of the most probable λ."""
        return int(np.argmax(self.log_evidence))

    def __repr__(self):
        return f"SmoothnessScan({len(self.smoothness)} values, best λ = {self.smoothness[self.best]:.1e})"


@with_one_blas_thread
def scan_smoothness(log_likelihood, edges, *, gauge="coordinate", credibility=0.9):
    """The landscape for every λ that `deconvolve_landscape` marginalises over, and the evidence of each.

    Parameters
    ----------
    log_likelihood : ndarray (n, m)
        Of each particle at each bin of one coordinate.
    edges : ndarray (m + 1,)
    gauge : str
    credibility : float
        Probability inside the band of each landscape.

    Returns
    -------
    SmoothnessScan

    Raises
    ------
    ValueError
        As `deconvolve_landscape`.

    Notes
    -----
    A smooth landscape (large λ) is nearly harmonic: wells merge. A rough one (small λ) fits the noise: narrow wells,
    and a band of several kT. Neither end is to be believed, and nor is one λ picked by eye.

    Examples
    --------
    One harmonic well needs no roughness:

    >>> rng = np.random.default_rng(0)
    >>> seen = 0.5 + 0.12 * rng.standard_normal(500) + 0.1 * rng.standard_normal(500)
    >>> edges = np.linspace(0, 1, 21)
    >>> scan = scan_smoothness(-0.5 * ((seen[:, None] - (edges[1:] + edges[:-1]) / 2) / 0.1) ** 2, edges)
    >>> bool(scan.log_evidence[-1] > scan.log_evidence[0] + 2)
    True
    """
    from scipy.stats import norm

    edges = np.asarray(edges, dtype=float)
    problem = Problem.build(log_likelihood, (edges,), None)
    grid, energies = solve_path(problem)
    evidence = np.array([log_evidence(problem, energy, smoothness) for energy, smoothness in zip(energies, grid)])
    landscapes = []
    for energy, smoothness in zip(energies, grid):
        density, counts = problem.minus_log_density(energy), problem.expected_counts(energy)
        half = norm.ppf(0.5 + credibility / 2) * np.sqrt(np.maximum(problem.laplace_variance(energy, smoothness), 0))
        seen = counts >= min(1.0, counts.max())  # as in `deconvolve_landscape`
        density, lower, upper = (np.where(seen, one, np.nan) for one in (density, density - half, density + half))
        landscapes.append(EnergyLandscape(density, [edges], lower, upper, counts, gauge=gauge, credibility=credibility))
    return SmoothnessScan(grid, evidence - evidence.max(), tuple(landscapes))
