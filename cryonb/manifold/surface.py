"""Two motions at once: each particle's place on a surface of two known rigid-body motions, and the energy over both.

The stages are those of `embed`, with a surface where that has a curve: principal volumes, volumes as polynomials of
two coordinates, the gauge put onto them, the likelihood of every particle at every pair of values under volumes that
were made without it, and a landscape deconvolved from these.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from cryonb.manifold.embedding import (
    ENOUGH,
    EXTENSION,
    REACH,
    SLOPE,
    TAIL,
    check_particles,
    check_settings,
    evidence_per_shell,
    shared_out,
)
from cryonb.manifold.gauge_surface import N_DIRECTIONS, PreparedSurfaceGauge, SurfaceGauge, grid_points
from cryonb.manifold.gram import noise_spectrum
from cryonb.manifold.known_changes import KnownChanges
from cryonb.manifold.landscape import FINEST, counting_landscape, deconvolve_landscape
from cryonb.manifold.likelihood import node_log_likelihood
from cryonb.manifold.masks import automatic_mask, grid_mask
from cryonb.manifold.memory import remember, remembered
from cryonb.manifold.observations import observe
from cryonb.manifold.paths import Path, minimum_energy_path
from cryonb.manifold.principal import PrincipalVolumes, principal_volumes
from cryonb.manifold.spectral import (
    SpectralVolumes,
    cross_fitted_overlaps,
    fit_spectral,
    posterior_moments,
    reliability,
    volume_noise_penalty,
)
from cryonb.manifold.volume_sets import VolumeSet
from cryonb.parallel import fingerprint, with_one_blas_thread
from cryonb.types import EnergyLandscape

__all__ = ["ConformationalSurface", "embed_surface"]

# degrees of the products of Legendre polynomials in both coordinates; the mean and what is linear come first
TERMS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
LINEAR_TERMS = 3
FINE = 24  # nodes along either side on which the volumes are made
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class ConformationalSurface:
    """All that `embed_surface` found.

    Parameters
    ----------
    principal : PrincipalVolumes
        Mean, components and latent coordinates.
    coordinate : ndarray (n, 2)
        Posterior mean of each particle's two coordinates, in the gauge's units.
    deviation : ndarray (n, 2)
        Posterior standard deviations.
    flat_coordinate : ndarray (n, 2)
        Posterior means under a flat prior: what counting counts.
    nodes : ndarray (m, 2)
        All pairs of the bin centres, the second coordinate running fastest.
    log_likelihood : ndarray (n, m)
        Cross-fitted: no particle is judged by volumes that it helped to make.
    landscape, counting : EnergyLandscape
        Over both coordinates.
    path : Path, or None where unobserved bins separate the wells
    effective_particles : ndarray (m,)
        Expected number of particles per node.
    warnings : tuple of str
        What to print on the figure.
    """

    principal: PrincipalVolumes
    coordinate: np.ndarray
    deviation: np.ndarray
    flat_coordinate: np.ndarray
    nodes: np.ndarray
    log_likelihood: np.ndarray
    landscape: EnergyLandscape
    counting: EnergyLandscape
    path: Path | None
    effective_particles: np.ndarray
    warnings: tuple = ()
    _volumes: VolumeSet = field(default=None, repr=False)
    _coefficients: np.ndarray = field(default=None, repr=False)

    def volumes_at(self, points):
        """Volumes at pairs of values of the two coordinates, for instance along a path.

        Parameters
        ----------
        points : ndarray (p, 2)
            In the gauge's units, inside the landscape.

        Returns
        -------
        list of p Volume

        Raises
        ------
        ValueError
            A point outside the landscape.

        Notes
        -----
        Linear in the volumes at the four nodes around; those that hardly any particle visits are carried on along the
        surface's slope. ``effective_particles`` and the landscape's NaN say where.
        """
        from scipy.interpolate import RegularGridInterpolator

        points = np.atleast_2d(np.asarray(points, dtype=float))
        edges, centers = self.landscape.edges, self.landscape.centers
        outside = [(column < edge[0]) | (column > edge[-1]) for column, edge in zip(points.T, edges)]
        if points.shape[1] != 2 or not np.isfinite(points).all() or np.any(outside):
            ranges = " and ".join(f"{edge[0]:.3g} to {edge[-1]:.3g}" for edge in edges)
            raise ValueError(f"points must be pairs inside the landscape, {ranges}, got {points.tolist()}")
        table = self._coefficients.reshape(*map(len, centers), -1)
        inside = np.clip(points, *zip(*[(each[0], each[-1]) for each in centers]))
        return self._volumes.combine(RegularGridInterpolator(centers, table)(inside)).volumes()

    def __repr__(self):
        return f"ConformationalSurface({len(self.coordinate)} particles, {len(self.nodes)} nodes, {self.landscape})"


@with_one_blas_thread
def embed_surface(
    particles, *, gauge, rng, n_components=6, resolution=None, mask=None, n_nodes=None, n_rounds=3, n_folds=4,
    workers=1, progress=True, checkpoint=None,
):  # fmt: skip
    """Two conformational coordinates of every particle, volumes over both, and their free-energy landscape.

    For particles in which two known bodies move, such as the ratchet of the small subunit and the swivel of its head.
    What `embed` does along a curve is done on a surface: V(x, y) = Σ_ab s_ab φ_a(x) φ_b(y) with products of
    Legendre polynomials of total degree three at most. Particles are compared with volumes that change only as the
    model and the whole can; those of the result are free.

    Parameters
    ----------
    particles : Particles
        With poses and CTF; below 200 a warning, below 20 an error.
    gauge : SurfaceGauge
        Measures both coordinates, and picks the directions in the latents that the two motions take.
    rng : int or numpy.random.Generator
    n_components : int
        Principal volumes.
    resolution, mask
        As in `embed`.
    n_nodes : int, optional
        Bins along either side of the landscape: √(n/16) by default, but 10 to 16.
    n_rounds : int
        Of volumes and likelihoods.
    n_folds, workers, progress, checkpoint
        As in `embed`.

    Returns
    -------
    ConformationalSurface

    Raises
    ------
    ValueError
        As `embed`; a model whose two motions look alike, or that does not describe the recovered ones.
    TypeError
        Another kind of gauge.

    Notes
    -----
    The weaker motion needs particles: with a head's swivel beside the ratchet, SNR 0.2 and 64 px, 4,000 particles rank
    it at 0.88 of what an oracle does, and the landscape is called unresolvable. The coordinates are relative, as those
    of `embed`: a rigid motion of the whole is left free. Nothing tests whether the second motion is there at all:
    without it, its coordinate is noise over a small range.
    """
    if not isinstance(gauge, SurfaceGauge):
        raise TypeError(f"gauge must be a SurfaceGauge, a model of two motions, got {type(gauge).__name__}")
    rng = np.random.default_rng(rng)
    notes = check_particles(particles)
    check_settings(len(particles), n_components, n_nodes, n_folds, n_rounds)
    seed = int(rng.integers(2**62))
    n_nodes = int(np.clip(np.sqrt(len(particles) / 16), 10, 16)) if n_nodes is None else n_nodes
    key = {"question": "embed_surface, within the gauge", "n": len(particles), "box": particles.size_px,
           "pixel": particles.pixel_size, "seed": seed,
           "settings": [n_components, resolution, n_nodes, n_rounds, n_folds, mask is None],
           "gauge": [[name, *map(float, values)] for name, values in zip(gauge.names, gauge.values)],
           "model": fingerprint(*(gauge.model(*map(float, ends)).data for ends in zip(*gauge.values))),
           "data": fingerprint(particles.images, particles.ctf, particles.poses)}  # fmt: skip
    values = None if checkpoint is None else remembered(checkpoint, key)
    if values is None:
        if resolution is None:
            resolution = max(particles.box_size / 20, 2.2 * particles.pixel_size)
        observations = observe(particles, resolution=resolution, workers=workers)
        principal = principal_volumes(
            observations, rng=np.random.default_rng([seed, 0]), n_components=n_components, mask=mask, workers=workers,
            progress=progress, checkpoint=None if checkpoint is None else f"{checkpoint}.principal",
        )  # fmt: skip
        shape = automatic_mask(principal.volumes) if mask is None else grid_mask(mask, observations)
        order = np.random.default_rng([seed, 1]).permutation(len(particles))
        groups = [np.sort(group) for group in np.array_split(order, n_folds)]
        prepared = PreparedSurfaceGauge(gauge, principal.volumes)
        observations = replace(observations, noise=principal.noise)
        values = _follow(observations, shape, groups, prepared, principal, n_nodes, n_rounds, workers, progress)
        if checkpoint is not None:
            remember(checkpoint, key, values)
    return _result(values, gauge.names, np.random.default_rng([seed, 2]), notes)


@dataclass
class _State:
    """Each particle's posterior on a grid of nodes, in the gauge's units."""

    weights: np.ndarray  # (n, FINE²) float32
    axes: tuple

    @property
    def nodes(self):
        return grid_points(self.axes)

    def basis(self, points):
        return surface_basis(points, [(axis[0], axis[-1]) for axis in self.axes])

    def deviation(self):
        """Median over particles of the posterior standard deviation, (2,)."""
        return np.median(_moments(self.weights, self.nodes)[1], axis=0)


def surface_basis(points, limits):
    """Products of Legendre polynomials, scaled to unit mean square over the rectangle; clipped outside it.

    Parameters
    ----------
    points : ndarray (n, 2)
    limits : two (float, float)

    Returns
    -------
    ndarray (n, terms), the constant and the two linear ones first

    Examples
    --------
    >>> surface_basis(np.array([[1.0, 0.0]]), [(-1, 1), (-1, 1)])[0, :4].round(3).tolist()
    [1.0, 1.732, 0.0, 2.236]
    """
    order = np.arange(max(map(max, TERMS)) + 1)
    tables = []
    for column, (low, high) in zip(points.T, limits):
        unit = np.clip(2 * (column - low) / (high - low) - 1, -1, 1)
        tables.append(np.polynomial.legendre.legvander(unit, order[-1]) * np.sqrt(2 * order + 1))
    return np.stack([tables[0][:, a] * tables[1][:, b] for a, b in TERMS], axis=1)


def _follow(observations, mask, groups, gauge, principal, n_nodes, n_rounds, workers, progress):
    """Rounds of volumes, gauge and likelihoods; everything of the result that costs time, as arrays."""
    from tqdm.auto import tqdm

    state = _start(principal, gauge)
    # particles are judged by volumes that change only as the model and the whole can
    changes = gauge.changes(N_DIRECTIONS)
    known = KnownChanges(observations, changes, mask=mask, groups=groups, workers=workers)
    for _ in tqdm(range(n_rounds), desc="volumes over both coordinates", disable=not progress):
        basis = state.basis(state.nodes)
        first, second = posterior_moments(state.weights, basis.astype(np.float32))
        whole, without = known.fit(first, second, unshrunk=LINEAR_TERMS)
        observations = replace(observations, noise=noise_spectrum(observations, whole, first))
        # what the volumes cannot show reliably must not be counted as evidence
        without = [SpectralVolumes(each, None) for each in without]
        share = reliability(without, observations.noise.size)
        weighted = replace(observations, noise=observations.noise / share)
        gauge = gauge.with_weights(evidence_per_shell(observations, share))
        density = state.weights.mean(axis=0, dtype=float)
        places, reading = gauge.place([fit.volumes for fit in without], basis, state.axes, density)
        edges = _edges(state, reading, density, n_nodes)
        centres = grid_points([(edge[1:] + edge[:-1]) / 2 for edge in edges])
        covered = _Covered(reading, density)
        tables = [_coefficients_at(centres, [place], state, covered) for place in places]
        curve = _coefficients_at(centres, places, state, covered)
        log_likelihood = np.empty((len(observations), len(centres)))
        for fit, group, table in zip(without, groups, tables):
            overlaps = cross_fitted_overlaps(weighted, [fit], [group], workers=workers)
            log_likelihood[group] = node_log_likelihood(overlaps, table)
        log_likelihood += volume_noise_penalty(weighted, without, curve, workers=workers)
        state = _posterior_state(edges, log_likelihood)
    # those of the result are free to change as the images say
    shown, _ = fit_spectral(
        observations, first, second, len(TERMS), None, mask=mask, groups=groups, unshrunk=LINEAR_TERMS, workers=workers
    )
    return {
        "first_edges": edges[0], "second_edges": edges[1], "log_likelihood": log_likelihood, "coefficients": curve,
        "volumes": shown.volumes, "principal": principal,
    }  # fmt: skip


def _coefficients_at(centres, places, state, covered):
    """Coefficients of the volumes at values of the gauge, (m, terms), by the mean of some placings."""

    def at(points):
        return state.basis(np.mean([place(points) for place in places], axis=0))

    return covered.continued(at, centres)


def _start(principal, gauge):
    """Gaussian posteriors about the linear reading of the latents."""
    embedding, (direction, origin) = principal.embedding, gauge.direction(principal.volumes)
    coordinate = origin + embedding.coordinates @ direction
    covariance = np.einsum("ki,nkl,lj->nij", direction, embedding.covariance, direction)
    axes = []
    for k in range(2):
        low, high = np.quantile(coordinate[:, k], [0.005, 0.995])
        room = 2 * np.sqrt(covariance[:, k, k]).mean()
        axes.append(np.linspace(low - room, high + room, FINE))
    steps = np.array([axis[1] - axis[0] for axis in axes])
    precision = np.linalg.inv(covariance + np.diag((steps / 2) ** 2))
    nodes, weights = grid_points(axes), np.empty((len(coordinate), FINE**2), dtype=np.float32)
    for start in range(0, len(coordinate), CHUNK):
        some = slice(start, start + CHUNK)
        away = nodes - coordinate[some, None]
        exponent = -0.5 * np.einsum("nmi,nij,nmj->nm", away, precision[some], away, optimize=True)
        part = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        weights[some] = part / part.sum(axis=1, keepdims=True)
    return _State(weights, tuple(axes))


def _edges(state, reading, density, n_nodes):
    """Bins of either coordinate, two of a particle's standard deviations beyond 98 % of the particles."""
    edges = []
    for k, deviation in enumerate(state.deviation()):
        low, high = _quantiles(reading[:, k], density)
        own_low, own_high = _quantiles(state.nodes[:, k], density)
        if not high > low:
            raise ValueError(f"nothing moves along coordinate {k + 1}: the gauge reads {low:.3g} at both ends")
        reach = REACH * deviation * (high - low) / (own_high - own_low)
        edges.append(np.linspace(low - reach, high + reach, n_nodes + 1))
    return tuple(edges)


def _quantiles(values, density):
    order = np.argsort(values, kind="stable")
    return np.interp([TAIL, 1 - TAIL], np.cumsum(density[order]), values[order])


class _Covered:
    """The ellipse that holds 98 % of the particles; beyond it volumes go on along their slope."""

    def __init__(self, reading, density):
        self.mean = density @ reading
        away = reading - self.mean
        self._precision = np.linalg.inv((density[:, None] * away).T @ away)
        radius = self.radius(reading)
        order = np.argsort(radius)
        beyond = np.searchsorted(np.cumsum(density[order]), 1 - 2 * TAIL)
        self.limit = radius[order][min(beyond, len(order) - 1)]

    def radius(self, points):
        away = points - self.mean
        return np.sqrt(np.einsum("mi,ij,mj->m", away, self._precision, away))

    def continued(self, function, points):
        """A function of points, (m, l), carried on along the rays from the mean outside the ellipse."""
        radius, result = self.radius(points), function(points)
        out = radius > self.limit
        if out.any():
            ray = (points[out] - self.mean) / radius[out, None]
            rim = function(self.mean + ray * self.limit)
            inner = function(self.mean + ray * self.limit * (1 - 2 * SLOPE))
            steps = (radius[out, None] - self.limit) / (2 * SLOPE * self.limit)
            result[out] = rim + steps * (rim - inner)
        return result


def _posterior(log_likelihood, shape, *, smooth=1.0, n_iterations=15):
    """Posterior over nodes with a smooth prior found from all particles (empirical Bayes), (n, m)."""
    from scipy.ndimage import gaussian_filter

    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    prior = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(n_iterations):
        share = prior * (likelihood.T @ (1 / (likelihood @ prior))) / len(likelihood)
        prior = gaussian_filter(share.reshape(shape), smooth, mode="nearest").ravel() + 1e-4 / share.size
        prior /= prior.sum()
    likelihood *= prior
    return likelihood / likelihood.sum(axis=1, keepdims=True)


def _posterior_state(edges, log_likelihood):
    """Posteriors on a fine grid over the nodes that particles occupy, with some room."""
    centres = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    shape = tuple(map(len, centres))
    posterior = _posterior(log_likelihood, shape).astype(np.float32).reshape(-1, *shape)
    axes, hats = [], []
    for k, centre in enumerate(centres):
        occupied = np.flatnonzero(posterior.sum(axis=(0, 2 - k), dtype=float) > 3)
        low, high = centre[occupied[[0, -1]]] if len(occupied) > 1 else centre[[0, -1]]
        room = EXTENSION * (high - low)
        axes.append(np.linspace(low - room, high + room, FINE))
        hats.append(np.stack([np.interp(axes[-1], centre, row, left=0, right=0) for row in np.eye(len(centre))]))
    first, second = (hat.astype(np.float32) for hat in hats)
    weights = np.matmul(first.T, posterior) @ second
    weights = weights.reshape(len(weights), -1)
    return _State(shared_out(weights), tuple(axes))


def _moments(weights, nodes):
    """Mean and standard deviation of both coordinates, (n, 2) each."""
    nodes = nodes.astype(weights.dtype)
    mean = weights @ nodes
    return mean, np.sqrt(np.maximum(weights @ nodes**2 - mean**2, 0))


def _result(values, names, rng, notes):
    edges, log_likelihood = (values["first_edges"], values["second_edges"]), values["log_likelihood"]
    nodes, shape = grid_points([(edge[1:] + edge[:-1]) / 2 for edge in edges]), tuple(len(edge) - 1 for edge in edges)
    landscape = deconvolve_landscape(log_likelihood, edges, rng=rng, gauge=names, finest=FINEST)
    if len(log_likelihood) < ENOUGH and landscape.verdict == "resolved":
        why = f"unresolvable: {len(log_likelihood)} particles, at least {ENOUGH} are needed"
        landscape = replace(landscape, verdict=why)
    flat = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    flat = (flat @ nodes) / flat.sum(axis=1, keepdims=True)
    posterior = _posterior(log_likelihood, shape)
    coordinate, deviation = _moments(posterior, nodes)
    if landscape.verdict != "resolved":
        notes = [*notes, f"The landscape is {landscape.verdict}."]
    path = None
    try:
        path = minimum_energy_path(landscape)
    except ValueError as error:
        notes = [*notes, f"There is no path: {error}."]
    return ConformationalSurface(
        principal=values["principal"],
        coordinate=coordinate,
        deviation=deviation,
        flat_coordinate=flat,
        nodes=nodes,
        log_likelihood=log_likelihood,
        landscape=landscape,
        counting=counting_landscape(flat, edges, gauge=names),
        path=path,
        effective_particles=posterior.sum(axis=0),
        warnings=tuple(notes),
        _volumes=values["volumes"],
        _coefficients=values["coefficients"],
    )
