"""Two conditions on one coordinate: does the landscape differ, where, and could chance have done it?

The particles of both are embedded together, so that the coordinate and the volumes are the same for both; only then
are their landscapes made apart.
"""

from dataclasses import dataclass

import numpy as np

from cryonb.manifold.dependence import score_test
from cryonb.manifold.landscape import FINEST, deconvolve_landscape
from cryonb.types import EnergyLandscape

__all__ = ["ConditionDifference", "compare_conditions"]

FEWEST = 100  # particles of a condition: below, a landscape of its own says nothing


@dataclass(frozen=True, eq=False)
class ConditionDifference:
    """How the landscape changes from one condition to the other.

    Parameters
    ----------
    names : tuple of two str
    landscapes : tuple of two EnergyLandscape
        Of either condition, on the same bins.
    difference_kt : ndarray (m,)
        Second less first, of −ln density: positive where the second has fewer particles. NaN where either observed
        nothing.
    lower_kt, upper_kt : ndarray (m,)
        Credible band of the difference.
    p_value : float
        Share of permutations of the labels that differ as much.
    counts : tuple of two int
    """

    names: tuple
    landscapes: tuple
    difference_kt: np.ndarray
    lower_kt: np.ndarray
    upper_kt: np.ndarray
    p_value: float
    counts: tuple

    @property
    def centers(self):
        """Bin centres, ndarray (m,)."""
        return self.landscapes[0].centers[0]

    def __repr__(self):
        return (
            f"ConditionDifference({self.names[1]} less {self.names[0]}, {self.counts[1]} and {self.counts[0]} "
            f"particles, up to {np.nanmax(np.abs(self.difference_kt)):.2f} kT, p = {self.p_value:.3g})"
        )


def compare_conditions(found, condition, *, rng, n_permutations=999):
    """Landscapes of two conditions on one coordinate, ΔF(x) with its band, and a permutation test.

    Parameters
    ----------
    found : ConformationalLandscape
        Of the particles of both conditions, embedded together.
    condition : sequence of n labels
        Two different ones; the difference is the second (in sorted order) less the first.
    rng : seed or Generator
    n_permutations : int

    Returns
    -------
    ConditionDifference

    Raises
    ------
    ValueError
        Labels of another length, not two of them, fewer than 100 particles with one.

    Notes
    -----
    The test is Rao's: at the landscape of all particles together, each particle pulls at the energies of the bins; the
    pull of one condition's particles is compared with that of as many drawn at random. It needs no second
    deconvolution, and asks whether the *densities* differ, not whether the images do. It misleads where the conditions
    were not imaged alike: particles that can be placed less well pull less. Particles of one micrograph are not
    independent of each other; where conditions are whole micrographs p is too small.
    """
    if found.landscape.energy_kt.ndim != 1:
        raise ValueError("conditions are compared along one coordinate, this is a surface over two")
    condition = np.asarray(condition)
    n = len(found.coordinate)
    if condition.shape != (n,):
        raise ValueError(f"condition must have a label for each of the {n} particles, got shape {condition.shape}")
    names = np.unique(condition)
    if len(names) != 2:
        raise ValueError(f"condition must have two different labels, got {len(names)}: {names[:5].tolist()}")
    member = [condition == name for name in names]
    counts = tuple(int(some.sum()) for some in member)
    if min(counts) < FEWEST:
        raise ValueError(f"each condition needs at least {FEWEST} particles, got {counts}")
    rng = np.random.default_rng(rng)
    edges, gauge = found.landscape.edges[0], found.landscape.gauge
    landscapes = tuple(
        deconvolve_landscape(found.log_likelihood[some], edges, rng=rng, gauge=gauge, finest=FINEST) for some in member
    )
    level = [_minus_log_density(landscape) for landscape in landscapes]
    half = [(landscape.upper_kt - landscape.lower_kt) / 2 for landscape in landscapes]
    difference, half = level[1] - level[0], np.hypot(*half)
    covariates = member[1].astype(float)[:, None]
    p_value = score_test(found.log_likelihood, edges, covariates, rng=rng, n_permutations=n_permutations)[1]
    return ConditionDifference(
        tuple(map(str, names)), landscapes, difference, difference - half, difference + half, p_value, counts
    )


def _minus_log_density(landscape: EnergyLandscape):
    """−ln of the probability per unit of the coordinate; energies alone are counted from their own minimum."""
    with np.errstate(divide="ignore"):
        density = -np.log(landscape.probability / np.diff(landscape.edges[0]))
    return np.where(np.isfinite(landscape.energy_kt), density, np.nan)
