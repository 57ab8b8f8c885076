"""Particles to conformational coordinate to free-energy landscape, in one call."""

from dataclasses import dataclass, replace

import numpy as np

from cryonb.manifold.coordinates import local_linear_residuals
from cryonb.manifold.diffusion import DiffusionMap
from cryonb.manifold.gauge import PreparedGauge, arclength
from cryonb.manifold.gram import noise_spectrum
from cryonb.manifold.known_changes import KnownChanges
from cryonb.manifold.landscape import FINEST, counting_landscape, deconvolve_landscape
from cryonb.manifold.likelihood import node_log_likelihood
from cryonb.manifold.masks import automatic_mask, grid_mask
from cryonb.manifold.memory import remember, remembered
from cryonb.manifold.observations import observe
from cryonb.manifold.paths import Path, minimum_energy_path
from cryonb.manifold.principal import PrincipalVolumes, principal_volumes
from cryonb.manifold.shapes import choose_shape, fit_shape
from cryonb.manifold.spectral import (
    SpectralVolumes,
    coordinate_weights,
    cross_fitted_overlaps,
    fit_spectral,
    legendre_basis,
    posterior_moments,
    reliability,
    volume_noise_penalty,
)
from cryonb.parallel import fingerprint, with_one_blas_thread
from cryonb.types import Embedding, EnergyLandscape

__all__ = ["ConformationalLandscape", "embed"]

FEW, TOO_FEW = 200, 20  # particles
ENOUGH = 1000  # particles; a round number: tours of 500, 600 and 800 (32 px) were all worse than counting
N_SPECTRAL = 4  # volumes: a cubic in the coordinate
FINE = 60  # nodes on which the volumes are made
TAIL = 0.01  # share of particles beyond which the volumes are extrapolated along their slope
REACH = 2.0  # a particle's median standard deviations: how far the landscape reaches beyond the covered range
SLOPE = 0.14  # of the covered range: over which that slope is taken
EXTENSION = 0.1  # of the covered range: room on either side for the next round
N_DIFFUSION = 5
SHAPE_WARNINGS = {  # with the evidence against a line
    "point": "Particles that did not make it do not see any motion: the latents are as well explained by one point.",
    "circle": "The latents lie on a closed line ({0:.3f} nats per particle): a landscape along an open one cuts it.",
    "surface": "The latents fill a surface ({0:.3f} nats per particle against a line): this is one direction of it.",
}


@dataclass(frozen=True, eq=False)
class ConformationalLandscape:
    """All that `embed` found.

    Parameters
    ----------
    principal : PrincipalVolumes
        Mean, components and latent coordinates.
    diffusion : Embedding
        Diffusion coordinates of the latents.
    harmonic_residuals : ndarray (k,)
        `local_linear_residuals` of the diffusion coordinates.
    coordinate : ndarray (n,)
        Posterior mean of each particle's conformational coordinate, in the gauge's unit.
    deviation : ndarray (n,)
        Posterior standard deviation.
    flat_coordinate : ndarray (n,)
        Posterior mean under a flat prior: what counting counts.
    nodes : ndarray (m,)
        Values of the coordinate, equally spaced.
    volumes : list of Volume, m of them
    log_likelihood : ndarray (n, m)
        Cross-fitted: no particle is judged by volumes that it helped to make.
    landscape, counting : EnergyLandscape
    path : Path, or None where unobserved bins separate the wells
    effective_particles : ndarray (m,)
        Expected number of particles per node.
    shape : {"point", "line", "circle", "surface"}
        What the latents lie on, as held-out particles say (`choose_shape`); this landscape is along a line.
    shape_evidence : dict of str to (float, float)
        Of every shape: nats per particle against the chosen one, and standard error.
    warnings : tuple of str
        What to print on the figure.
    """

    principal: PrincipalVolumes
    diffusion: Embedding
    harmonic_residuals: np.ndarray
    coordinate: np.ndarray
    deviation: np.ndarray
    flat_coordinate: np.ndarray
    nodes: np.ndarray
    volumes: list
    log_likelihood: np.ndarray
    landscape: EnergyLandscape
    counting: EnergyLandscape
    path: Path | None
    effective_particles: np.ndarray
    shape: str
    shape_evidence: dict
    warnings: tuple = ()

    def __repr__(self):
        return f"ConformationalLandscape({len(self.coordinate)} particles, {len(self.nodes)} nodes, {self.landscape})"


@with_one_blas_thread
def embed(
    particles, *, rng, gauge=None, n_components=4, resolution=None, mask=None, n_nodes=None, n_rounds=None, n_folds=4,
    workers=1, progress=True, checkpoint=None,
):  # fmt: skip
    """Conformational coordinate, volumes along it, and free-energy landscape, from particles with poses and CTF.

    Principal volumes give latent coordinates with errors; volumes along them are solved from the images; each particle
    is compared with the volumes that were made without it, and its posterior along the coordinate makes better
    volumes, ``n_rounds`` times; the landscape is deconvolved from the last likelihoods.

    Parameters
    ----------
    particles : Particles
        With poses and CTF; below 200 a warning, below 20 an error.
    rng : int or numpy.random.Generator
    gauge : RigidBodyGauge, optional
        Measures the coordinate in degrees or Å by a model of the moving body, and picks the direction in the latents
        that this motion takes. Otherwise the curve through the latents that the first diffusion coordinate orders is
        followed, by arclength in volume space, scaled so that 98 % of the particles lie between 0 and 1.
    n_components : int
        Principal volumes.
    resolution : float, optional
        Å, finest detail used; default a twentieth of the box, or 2.2 pixels where that is coarser.
    mask : Volume, optional
        Where density may be; by default around the mean volume.
    n_nodes : int, optional
        Bins of the landscape; one for every 40 particles by default, but 12 to 40.
    n_rounds : int, optional
        Of volumes and likelihoods: 3 with a gauge. Without one, 1: nothing holds the coordinate's scale, and on a
        planted rotor three rounds lowered the rank correlation with the truth from 0.96 to 0.66.
    n_folds : int
        Groups for cross-fitting.
    workers
        As in `cryonb.parallel.map_reduce`.
    progress : bool
    checkpoint : path, optional
        The principal volumes are saved beside this name as they come, and the result under it; the same call then
        resumes, or returns at once.

    Returns
    -------
    ConformationalLandscape

    Raises
    ------
    ValueError
        Poses or CTF missing, too few particles, NaN pixels or constant images, shifts beyond half the box, more
        components or folds than particles, a gauge on another grid.

    Notes
    -----
    The landscape reaches two of a particle's standard deviations (the median's) beyond 98 % of the particles.
    With a gauge particles are compared with volumes whose changes along the coordinate are a combination of the model's
    own principal changes and rigid motions of the whole (`KnownChanges`): what else changes has no say in the
    coordinate, and little noise comes in. The volumes returned are free to change anywhere. Without a gauge one kind
    serves for both. Likelihoods lose what the volumes' own noise costs at each node (`volume_noise_penalty`). Poses
    refined against a consensus turn back with the motion; the gauge leaves rigid motions of the whole free, so that the
    coordinate is relative. It misleads where a second motion is as strong as the first, and where the views depend on
    the state.
    """
    rng = np.random.default_rng(rng)
    notes = check_particles(particles)
    check_settings(len(particles), n_components, n_nodes, n_folds, n_rounds)
    seed = int(rng.integers(2**62))
    n_rounds = (1 if gauge is None else 3) if n_rounds is None else n_rounds
    n_nodes = int(np.clip(len(particles) // 40, 12, 40)) if n_nodes is None else n_nodes
    key = {"question": "embed, within the gauge", "n": len(particles), "box": particles.size_px,
           "pixel": particles.pixel_size, "seed": seed,
           "settings": [n_components, resolution, n_nodes, n_rounds, n_folds, mask is None],
           "gauge": None if gauge is None else [gauge.name, *map(float, gauge.values)],
           "model": gauge and fingerprint(*(gauge.model(float(end)).data for end in gauge.values[[0, -1]])),
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
        job = _Job(replace(observations, noise=principal.noise), shape, groups, _reader(gauge, principal), workers)
        values = _follow(job, principal, n_nodes, n_rounds, progress)
        if checkpoint is not None:
            remember(checkpoint, key, values)
    return _result(values, np.random.default_rng([seed, 2]), notes)


@dataclass
class _Job:
    """What stays the same through the rounds, but for the noise."""

    observations: object
    mask: np.ndarray
    groups: list
    reader: object
    workers: object


@dataclass
class _State:
    """Each particle's posterior on a fine grid of nodes, in the unit of the coordinate."""

    weights: np.ndarray  # (n, FINE)
    nodes: np.ndarray  # (FINE,)

    @property
    def limits(self):
        return float(self.nodes[0]), float(self.nodes[-1])


class _Angle:
    """The coordinate as a known rigid body's motion."""

    def __init__(self, gauge, principal):
        self.name, self._gauge, self._known = gauge.name, PreparedGauge(gauge, principal.volumes), None

    def start(self, principal, diffusion):
        embedding = principal.embedding
        direction = self._gauge.direction(principal.volumes)
        origin = self._gauge.measure(principal.volumes.combine(np.eye(len(principal.volumes))[:1]))[0]
        coordinate = origin + embedding.coordinates @ direction
        deviation = np.sqrt(np.einsum("i,nij,j->n", direction, embedding.covariance, direction))
        low, high = np.quantile(coordinate, [0.005, 0.995])
        room = 2 * deviation.mean()
        return _State(*coordinate_weights(coordinate, deviation, (low - room, high + room)))

    def weigh_shells(self, shell_weights):
        self._gauge = self._gauge.with_weights(shell_weights)

    def fit(self, job, first, second, state):
        """Volumes that change only as the model and the whole can: particles are judged by what they know."""
        if self._known is None:
            self._known = KnownChanges(
                job.observations, self._gauge.changes(), mask=job.mask, groups=job.groups, workers=job.workers
            )
        whole, without = self._known.fit(first, second)
        return SpectralVolumes(whole, state.limits), [SpectralVolumes(each, state.limits) for each in without]

    def shown(self, job, first, second, state, whole):
        """Volumes that are free to change as the images say: those of the result."""
        return _fit_free(job, first, second, state)[0]

    def read(self, curves, nodes, density):
        return self._gauge.read(curves, nodes, density)


class _Arclength:
    """The coordinate as the distance covered in volume space; 98 % of the particles lie between 0 and 1."""

    name = "arclength (98 % of particles: 0–1)"

    def start(self, principal, diffusion):
        line = fit_shape(principal.embedding, "line", diffusion=diffusion)
        return _State(line.posterior, np.linspace(0, 1, len(line.nodes)))

    def weigh_shells(self, shell_weights):
        pass

    def fit(self, job, first, second, state):
        return _fit_free(job, first, second, state)

    def shown(self, job, first, second, state, whole):
        return whole

    def read(self, curves, nodes, density):
        mean = replace(curves[0], data=np.mean([curve.data for curve in curves], axis=0))
        distance = arclength(mean)
        low, high = np.interp([TAIL, 1 - TAIL], np.cumsum(density), distance)
        return np.repeat((distance - low)[None] / (high - low), len(curves), axis=0)


def _reader(gauge, principal):
    return _Arclength() if gauge is None else _Angle(gauge, principal)


def check_particles(particles):
    """Errors for what cannot be embedded, warnings for what should not be believed."""
    if particles.poses is None or particles.ctf is None:
        missing = [name for name in ("poses", "ctf") if getattr(particles, name) is None]
        raise ValueError(f"embedding needs poses and CTF of every particle; these have no {' and no '.join(missing)}")
    n = len(particles)
    if n < TOO_FEW:
        raise ValueError(f"embedding needs at least {TOO_FEW} particles (200 to mean anything), got {n}")
    notes = [] if n >= FEW else [f"Only {n} particles: below {FEW} no landscape should be believed."]
    axes = particles.poses.rotation.as_matrix()[:, :, 2]
    # opposite views show the same; the second moment of evenly spread axes has eigenvalues of 1/3
    widest = np.linalg.eigvalsh(axes.T @ axes / n)
    if widest[-1] > 0.97:
        raise ValueError(
            f"all particles are seen from one side ({widest[-1]:.0%} of their views lie on one axis): "
            "volumes cannot be made of them"
        )
    if widest[0] < 0.03:
        notes.append("The views lie on one great circle or fewer: parts of the volumes are not determined.")
    return notes


def check_settings(n, n_components, n_nodes, n_folds, n_rounds):
    """Settings that these particles cannot have, before the work."""
    limits = {  # least, most
        "n_components": (n_components, 1, n - 1), "n_folds": (n_folds, 2, n), "n_nodes": (n_nodes, 4, np.inf),
        "n_rounds": (n_rounds, 1, np.inf),
    }  # fmt: skip
    for name, (value, least, most) in limits.items():
        if value is not None and not least <= value <= most:
            above = f" and at most {most}, fewer than the {n} particles" if name == "n_components" else ""
            above = f" and at most the number of particles, {n}" if name == "n_folds" else above
            raise ValueError(f"{name} must be at least {least}{above}, got {value}")


def _follow(job, principal, n_nodes, n_rounds, progress):
    """Rounds of volumes, gauge and likelihoods; everything of the result that costs time, as arrays."""
    from tqdm.auto import tqdm

    diffusion = DiffusionMap(min(N_DIFFUSION, len(job.observations) - 2))
    embedding = principal.embedding
    coordinates = diffusion.fit_transform(embedding.coordinates, covariance=embedding.covariance)
    shape = choose_shape(embedding, rng=0, diffusion=coordinates)
    state = job.reader.start(principal, coordinates)
    for number in tqdm(range(n_rounds), desc="volumes along the coordinate", disable=not progress):
        edges, log_likelihood, volumes = _round(job, state, n_nodes, last=number == n_rounds - 1)
        state = _posterior_state(edges, log_likelihood)
    return {
        "edges": edges, "log_likelihood": log_likelihood, "volumes": volumes, "gauge_name": job.reader.name,
        "diffusion": coordinates, "diffusion_eigenvalues": diffusion.eigenvalues_,
        "n_connected": diffusion.n_connected_, "principal": principal, "shape": shape.name,
        "shapes": list(shape.evidence), "shape_evidence": np.array(list(shape.evidence.values())),
    }  # fmt: skip


def _fit_free(job, first, second, state):
    """Volumes along the coordinate, every voxel by itself."""
    return fit_spectral(
        job.observations, first, second, N_SPECTRAL, state.limits, mask=job.mask, groups=job.groups,
        workers=job.workers,
    )  # fmt: skip


def _round(job, state, n_nodes, *, last):
    """Volumes from the posteriors, their gauge, and every particle's likelihood under volumes made without it."""
    basis = legendre_basis(state.nodes, N_SPECTRAL, state.limits)
    first, second = posterior_moments(state.weights, basis)
    whole, without = job.reader.fit(job, first, second, state)
    noise = noise_spectrum(job.observations, whole.volumes, first)
    job.observations = replace(job.observations, noise=noise)
    # what the volumes cannot show reliably must not be counted as evidence
    share = reliability(without, noise.size)
    weighted = replace(job.observations, noise=noise / share)
    job.reader.weigh_shells(evidence_per_shell(job.observations, share))
    readings = job.reader.read([fit.at(state.nodes) for fit in without], state.nodes, state.weights.mean(axis=0))
    readings = np.maximum.accumulate(np.vstack([readings.mean(axis=0), readings]), axis=1)
    readings = readings + 1e-9 * np.arange(readings.shape[1])
    ends = np.searchsorted(np.cumsum(state.weights.mean(axis=0)), [TAIL, 1 - TAIL])
    ends[1] = min(ends[1], len(state.nodes) - 1)
    low, high = readings[0][ends]
    if not high > low:
        raise ValueError(
            f"nothing moves along the coordinate: {job.reader.name} reads {low:.3g} at both ends of its range"
        )
    # where a landscape ends, all that look as if they lay beyond pile up
    reach = REACH * _median_deviation(state) * (high - low) / np.ptp(state.nodes[ends])
    edges = np.linspace(low - reach, high + reach, n_nodes + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    curves = [_coefficients_at(centres, reading, basis, state, ends) for reading in readings]
    log_likelihood = np.empty((len(state.weights), n_nodes))
    for fit, group, curve in zip(without, job.groups, curves[1:]):
        overlaps = cross_fitted_overlaps(weighted, [fit], [group], workers=job.workers)
        log_likelihood[group] = node_log_likelihood(overlaps, curve)
    log_likelihood += volume_noise_penalty(weighted, without, curves[0], workers=job.workers)
    if not last:
        return edges, log_likelihood, None
    return edges, log_likelihood, job.reader.shown(job, first, second, state, whole).volumes.combine(curves[0])


def _median_deviation(state):
    """Standard deviation of a particle's posterior, in the unit of the state's nodes."""
    mean = state.weights @ state.nodes
    return np.median(np.sqrt(np.maximum(state.weights @ state.nodes**2 - mean**2, 0)))


def evidence_per_shell(observations, share):
    """CTF² over noise per shell, by the `reliability` of the volumes' changes, and per voxel of the shell."""
    shell = observations.shell
    contrast = np.bincount(shell, (observations.ctf**2).mean(axis=0)) / np.bincount(shell)
    m = len(contrast)
    weights = contrast * share[:m] / observations.noise[:m] / np.maximum(np.arange(m), 1)
    weights[0] = 0
    return weights


def _coefficients_at(centres, reading, basis, state, ends):
    """Spectral coefficients where the gauge reads ``centres``; along the end's slope where few particles have been."""
    coefficients = legendre_basis(np.interp(centres, reading, state.nodes), N_SPECTRAL, state.limits)
    length = SLOPE * (reading[ends[1]] - reading[ends[0]])
    for end, sign in zip(ends, (1, -1)):
        inner = int(np.argmin(np.abs(reading - (reading[end] + sign * length))))
        inner = end + sign * max(1, abs(inner - end))
        slope = (basis[end] - basis[inner]) / (reading[end] - reading[inner])
        beyond = (centres - reading[end]) * sign < 0
        coefficients[beyond] = basis[end] + (centres[beyond] - reading[end])[:, None] * slope
    return coefficients


def _posterior(log_likelihood, *, smooth=1.0, n_iterations=15):
    """Posterior over nodes with a smooth prior found from all particles (empirical Bayes), (n, m)."""
    from scipy.ndimage import gaussian_filter1d

    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    prior = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(n_iterations):
        posterior = likelihood * prior
        posterior /= posterior.sum(axis=1, keepdims=True)
        prior = gaussian_filter1d(posterior.mean(axis=0), smooth, mode="nearest") + 1e-5
        prior /= prior.sum()
    posterior = likelihood * prior
    return posterior / posterior.sum(axis=1, keepdims=True)


def _posterior_state(edges, log_likelihood):
    """Posteriors on a fine grid over the nodes that particles occupy, with some room."""
    posterior, centres = _posterior(log_likelihood), (edges[1:] + edges[:-1]) / 2
    occupied = np.flatnonzero(posterior.sum(axis=0) > 3)
    low, high = centres[occupied[[0, -1]]] if len(occupied) > 1 else centres[[0, -1]]
    room = EXTENSION * (high - low)
    nodes = np.linspace(low - room, high + room, FINE)
    weights = np.stack([np.interp(nodes, centres, row, left=0, right=0) for row in posterior])
    return _State(shared_out(weights), nodes)


def shared_out(weights):
    """Rows that add up to one; a particle that lies beyond all nodes says nothing of where it is.

    Parameters
    ----------
    weights : ndarray (n, m)

    Returns
    -------
    ndarray (n, m)

    Examples
    --------
    >>> shared_out(np.array([[1.0, 3.0], [0.0, 0.0]])).tolist()
    [[0.25, 0.75], [0.5, 0.5]]
    """
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), weights.dtype.type(1 / weights.shape[1]))


def _result(values, rng, notes):
    log_likelihood, edges, principal = values["log_likelihood"], values["edges"], values["principal"]
    centres = (edges[1:] + edges[:-1]) / 2
    gauge = values["gauge_name"]
    landscape = deconvolve_landscape(log_likelihood, edges, rng=rng, gauge=gauge, finest=FINEST)
    why = None
    if values["shape"] == "point":
        why = "the latents are as well explained by one point"
    elif len(log_likelihood) < ENOUGH:
        why = f"{len(log_likelihood)} particles, at least {ENOUGH} are needed"
    if why is not None and (values["shape"] == "point" or landscape.verdict == "resolved"):
        landscape = replace(landscape, verdict=f"unresolvable: {why}")
    posterior = _posterior(log_likelihood)
    flat = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    flat /= flat.sum(axis=1, keepdims=True)
    coordinate = posterior @ centres
    deviation = np.sqrt(np.maximum(posterior @ centres**2 - coordinate**2, 0))
    if values["n_connected"] > 1:
        notes = [*notes, f"The neighbour graph falls into {values['n_connected']} parts: perhaps different molecules."]
    if landscape.verdict != "resolved":
        notes = [*notes, f"The landscape is {landscape.verdict}."]
    evidence = {name: tuple(map(float, row)) for name, row in zip(values["shapes"], values["shape_evidence"])}
    if values["shape"] != "line":
        notes = [*notes, SHAPE_WARNINGS[values["shape"]].format(-evidence["line"][0])]
    path = None
    try:
        path = minimum_energy_path(landscape)
    except ValueError as error:
        notes = [*notes, f"There is no path: {error}."]
    diffusion = Embedding(values["diffusion"], values["diffusion_eigenvalues"], "diffusion map of principal volumes")
    return ConformationalLandscape(
        principal=principal,
        diffusion=diffusion,
        harmonic_residuals=local_linear_residuals(diffusion.coordinates),
        coordinate=coordinate,
        deviation=deviation,
        flat_coordinate=flat @ centres,
        nodes=centres,
        volumes=values["volumes"].volumes(),
        log_likelihood=log_likelihood,
        landscape=landscape,
        counting=counting_landscape(flat @ centres, edges, gauge=gauge),
        path=path,
        effective_particles=posterior.sum(axis=0),
        shape=values["shape"],
        shape_evidence=evidence,
        warnings=tuple(notes),
    )
