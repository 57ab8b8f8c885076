"""Scores of what `embed` found against a known truth, all in one call."""

from dataclasses import dataclass, fields

import numpy as np

from cryonb import fourier
from cryonb.manifold.landscape import landscape_rms
from cryonb.manifold.paths import find_basins
from cryonb.types import EnergyLandscape

__all__ = ["Scores", "band_coverage", "information_imbalance", "neighbourhood_similarity", "score", "volume_agreement"]

MOST_POINTS = 2000  # particles in the scores that are quadratic in their number


@dataclass(frozen=True, eq=False)
class Scores:
    """How near a landscape and its particles come to the truth; NaN where the truth needed was not given.

    Parameters
    ----------
    spearman : float, or ndarray (2,) of a surface
        Rank correlation of the particles' coordinates with the true ones, whatever its sign.
    spearman_fraction_of_oracle : float, or ndarray (2,)
        Divided by that of an oracle, which knows the volumes and not the coordinate.
    landscape_rms_kt, counting_rms_kt : float
        `landscape_rms` of the deconvolved landscape and of the counted one.
    wasserstein : float
        Distance between the found and the true density, in parts of the coordinate's range.
    barrier_error_kt : float
        Barrier between the two most populated true wells, found less true, from the deeper one.
    population_error : float
        Largest error of a true well's population, as a share of all particles.
    coverage : float
        `band_coverage`.
    amplitude_ratio : float, or ndarray (2,)
        Slope of the found coordinate on the true one, both in the gauge's unit: 1 where motions have their full size.
    cross_talk : float
        Of a surface: how much either coordinate follows the other motion, beyond what its own explains; the larger of
        the two partial rank correlations.
    fsc_auc : float
        `volume_agreement`, mean over the nodes weighted by their particles.
    neighbourhood_similarity : float
    information_imbalance : tuple of two floats
        From found to true, and from true to found.
    """

    spearman: object
    spearman_fraction_of_oracle: object
    landscape_rms_kt: float
    counting_rms_kt: float
    wasserstein: float
    barrier_error_kt: float
    population_error: float
    coverage: float
    amplitude_ratio: object
    cross_talk: float
    fsc_auc: float
    neighbourhood_similarity: float
    information_imbalance: tuple

    def as_dict(self):
        """Names and values rounded to four places, for a table or JSON."""
        values = {field.name: np.round(getattr(self, field.name), 4).tolist() for field in fields(self)}
        return values

    def __repr__(self):
        ranks = " and ".join(f"{each:.2f}" for each in np.atleast_1d(self.spearman))
        return (
            f"Scores(Spearman {ranks}, landscape {self.landscape_rms_kt:.2f} kT rms, "
            f"counting {self.counting_rms_kt:.2f}, populations ± {100 * self.population_error:.1f} points)"
        )


def score(found, coordinate, energy=None, *, oracle=None, volumes=None, energy_limit=5.0):
    """Everything that can be said of a landscape when the truth is known.

    Parameters
    ----------
    found : ConformationalLandscape or ConformationalSurface
        Of n particles, m nodes.
    coordinate : ndarray (n,), or (n, 2) for a surface
        True coordinate of each particle, in the unit of the gauge (in any unit where only ranks are to be compared).
    energy : callable or EnergyLandscape, optional
        True landscape, in kT, over the gauge's coordinate; a landscape on the bins of the found one.
    oracle : ndarray like ``coordinate``, optional
        Coordinates that were found with the true volumes and poses.
    volumes : sequence of Volume, m of them, optional
        Of a curve: true volumes at the nodes, in the frame and on the grid of the found ones.
    energy_limit : float
        As in `landscape_rms`.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        Lengths that do not match, coordinates that are not finite.

    Notes
    -----
    Measures of Jeon et al., CryoBench, NeurIPS (2024), for heterogeneity: area under the FSC, neighbourhood
    similarity, information imbalance.
    """
    landscape = found.landscape
    coordinate = _checked("coordinate", coordinate, found.coordinate.shape)
    ranks = _correlations(_ranks(found.coordinate), _ranks(coordinate))
    fraction = np.nan * ranks
    if oracle is not None:
        fraction = ranks / _correlations(_ranks(_checked("oracle", oracle, coordinate.shape)), _ranks(coordinate))
    slope = np.nan * ranks
    if (np.ptp(coordinate, axis=0) > 0).all():
        slope = _slopes(found.flat_coordinate, coordinate)
    crossing = np.nan if coordinate.ndim == 1 else _cross_talk(_ranks(found.coordinate), _ranks(coordinate))
    values = dict.fromkeys(("rms", "counted", "moved", "barrier", "populations", "coverage"), np.nan)
    if energy is not None:
        truth = _on_bins(energy, landscape)
        values["rms"] = landscape_rms(landscape, truth, energy_limit=energy_limit)
        values["counted"] = landscape_rms(found.counting, truth, energy_limit=energy_limit)
        values["moved"] = _moved(landscape, truth)
        values["barrier"], values["populations"] = _wells(landscape, truth)
        values["coverage"] = band_coverage(landscape, truth, energy_limit=energy_limit)
    agreement = np.nan
    if volumes is not None:
        if coordinate.ndim != 1:
            raise ValueError("volumes are compared along one coordinate, this is a surface over two")
        if len(volumes) != len(found.volumes):
            raise ValueError(f"volumes must be one for each of the {len(found.volumes)} nodes, got {len(volumes)}")
        each = [volume_agreement(one, other) for one, other in zip(found.volumes, volumes)]
        agreement = float(np.average(each, weights=found.effective_particles))
    n = len(coordinate)
    some = np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).astype(int))
    a, b = found.coordinate[some], coordinate[some]
    return Scores(
        _plain(ranks), _plain(fraction), values["rms"], values["counted"], values["moved"], values["barrier"],
        values["populations"], values["coverage"], _plain(slope), crossing, agreement, neighbourhood_similarity(a, b),
        (information_imbalance(a, b), information_imbalance(b, a)),
    )  # fmt: skip


def band_coverage(landscape, truth, *, energy_limit=5.0):
    """Share of the observed bins where the credible band holds the truth, after the best additive constant.

    Parameters
    ----------
    landscape : EnergyLandscape
    truth : callable or EnergyLandscape on the same bins
    energy_limit : float
        Bins where the truth lies higher, in kT, are left out.

    Returns
    -------
    float
    """
    expected = _on_bins(truth, landscape).energy_kt
    gap = landscape.energy_kt - expected
    counted = np.isfinite(gap) & (np.nan_to_num(expected, nan=np.inf) <= energy_limit)
    if not counted.any() or landscape.lower_kt is None:
        raise ValueError("no observed bin with a band to compare with the truth")
    offset = gap[counted].mean()
    inside = (landscape.lower_kt - offset <= expected) & (expected <= landscape.upper_kt - offset)
    return float(inside[counted].mean())


def volume_agreement(volume, truth):
    """Area under the FSC of two volumes, from shell 1 to Nyquist, 1 where they are the same.

    Parameters
    ----------
    volume, truth : Volume
        On one grid.

    Returns
    -------
    float

    Examples
    --------
    >>> from cryonb.types import Volume
    >>> one = Volume(np.random.default_rng(0).standard_normal((16, 16, 16)), 4.0)
    >>> round(volume_agreement(one, one), 6)
    1.0
    """
    if volume.size_px != truth.size_px or not np.isclose(volume.voxel_size, truth.voxel_size):
        raise ValueError(f"volumes must be on one grid, got {volume} and {truth}")
    a, b = (fourier.transform(one.data) for one in (volume, truth))
    cross, *power = (
        fourier.shell_mean(part, ndim=3)[1 : volume.size_px // 2]
        for part in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    )
    return float((cross / np.sqrt(np.maximum(power[0] * power[1], 1e-30))).mean())


def neighbourhood_similarity(one, other, *, share=0.05):
    """Share of each point's nearest neighbours that are its neighbours in the other coordinates too, mean over points.

    Parameters
    ----------
    one, other : ndarray (n,) or (n, k)
        Coordinates of the same points.
    share : float
        Neighbours as a share of the points.

    Returns
    -------
    float
        1 where neighbourhoods are the same, about ``share`` by chance.

    Examples
    --------
    >>> x = np.random.default_rng(0).random(200)
    >>> neighbourhood_similarity(x, -x)
    1.0
    """
    k = max(1, int(round(share * len(one))))
    first, second = (_ranked(points)[:, 1 : k + 1] for points in (one, other))
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(first, second)]) / k)


def information_imbalance(one, other):
    """How little the distances in some coordinates say about those in others: 0 everything, 1 nothing.

    Parameters
    ----------
    one, other : ndarray (n,) or (n, k)
        Coordinates of the same points.

    Returns
    -------
    float
        2/n times the mean rank, in ``other``, of each point's nearest neighbour in ``one``.

    Notes
    -----
    Glielmo, Zeni, Cheng, Csányi & Laio, PNAS Nexus 1:pgac039 (2022), eq. 2.

    Examples
    --------
    >>> x = np.random.default_rng(0).random(500)
    >>> information_imbalance(x, x) < 0.01, information_imbalance(x, x[::-1] ** 2) > 0.9
    (True, True)
    """
    nearest = _ranked(one)[:, 1]
    rank = np.argsort(_ranked(other), axis=1)
    return float(2 * rank[np.arange(len(nearest)), nearest].mean() / len(nearest))


def _ranked(points):
    """For each point all points by distance, itself first: ndarray (n, n) int."""
    from scipy.spatial.distance import cdist

    points = np.asarray(points, dtype=float).reshape(len(points), -1)
    distance = cdist(points, points)
    np.fill_diagonal(distance, -1)
    return np.argsort(distance, axis=1, kind="stable")


def _ranks(values):
    from scipy.stats import rankdata

    return rankdata(values, axis=0)


def _correlations(one, other):
    """Correlation of each column with its partner, whatever its sign."""
    one, other = (each - each.mean(axis=0) for each in (one, other))
    return np.abs((one * other).sum(axis=0)) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))


def _slopes(found, true):
    found, true = (each - each.mean(axis=0) for each in (found, true))
    return (found * true).sum(axis=0) / (true**2).sum(axis=0)


def _cross_talk(found, true):
    """Partial correlation of either coordinate's ranks with the other motion's, the larger."""
    found, true = (each - each.mean(axis=0) for each in (found, true))
    partial = []
    for k in (0, 1):
        own, left = true[:, k], (found[:, k], true[:, 1 - k])
        partial.append(_correlations(*(each - own * (each @ own) / (own @ own) for each in left)))
    return float(max(partial))


def _plain(value):
    return float(value) if np.ndim(value) == 0 else value


def _checked(name, values, shape):
    values = np.asarray(values, dtype=float)
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers of shape {shape}, a row per particle, got {values.shape}")
    return values


def _on_bins(energy, landscape):
    """The truth on the bins of a landscape."""
    if callable(energy):
        centers = np.meshgrid(*landscape.centers, indexing="ij")
        values = np.asarray(energy(*centers), dtype=float)
        return EnergyLandscape(values, landscape.edges, gauge=landscape.gauge)
    if energy.energy_kt.shape != landscape.energy_kt.shape:
        raise ValueError(f"truth has {energy.energy_kt.shape} bins, the landscape {landscape.energy_kt.shape}")
    return energy


def _moved(landscape, truth):
    """Wasserstein's distance of two densities over one coordinate, in parts of its range; NaN over two."""
    if landscape.energy_kt.ndim != 1:
        return np.nan
    gap = np.abs(np.cumsum(landscape.probability - truth.probability))
    width = np.diff(landscape.edges[0])
    return float((gap * width).sum() / width.sum())


def _wells(landscape, truth):
    """Error of the barrier between the true wells, and the largest error of their populations."""
    wells = sorted(find_basins(truth), key=lambda basin: -basin.population)
    populations = max(abs(float(landscape.probability[well.cells].sum()) - well.population) for well in wells)
    if len(wells) < 2 or landscape.energy_kt.ndim != 1:
        return np.nan, populations
    ends = sorted(int(np.flatnonzero(well.cells)[truth.energy_kt[well.cells].argmin()]) for well in wells[:2])
    between = slice(ends[0], ends[1] + 1)
    if not np.isfinite(landscape.energy_kt[between]).all():
        return np.nan, populations
    height = [
        float(one.energy_kt[between].max() - min(np.nanmin(one.energy_kt[well.cells]) for well in wells[:2]))
        for one in (landscape, truth)
    ]
    return height[0] - height[1], populations
