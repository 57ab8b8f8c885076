"""Volumes along a conformational coordinate: V(x) = Σ_l s_l φ_l(x), from raw images.

The functions φ_l are normalised Legendre polynomials on the coordinate's range; the spectral volumes s_l are the
weighted least-squares solution over all images, CTF and all (Moscovich et al., Inverse Problems 36:024003 (2020)).
"""

from dataclasses import dataclass, replace

import numpy as np

from cryonb.manifold.gram import gram_matrices
from cryonb.manifold.likelihood import Overlaps, node_log_likelihood
from cryonb.manifold.masks import grid_mask
from cryonb.manifold.normal_equations import normal_equations
from cryonb.manifold.observations import Observations, observe
from cryonb.manifold.volume_sets import VolumeSet, shell_power
from cryonb.parallel import with_one_blas_thread

__all__ = ["SpectralVolumes", "fit_spectral", "legendre_basis", "posterior_moments", "volumes_along"]


@dataclass(frozen=True, eq=False)
class SpectralVolumes:
    """Volumes as a smooth function of a coordinate.

    Parameters
    ----------
    volumes : VolumeSet
        l spectral volumes.
    limits : (float, float)
        Range of the coordinate.
    """

    volumes: VolumeSet
    limits: tuple

    def at(self, coordinate):
        """V(x) as a `VolumeSet`, one per coordinate."""
        return self.volumes.combine(legendre_basis(np.atleast_1d(coordinate), len(self.volumes), self.limits))


def legendre_basis(coordinate, n_functions, limits):
    """Legendre polynomials P_0 … on a range, scaled to unit mean square; clipped outside it.

    Parameters
    ----------
    coordinate : ndarray (n,)
    n_functions : int
    limits : (float, float)

    Returns
    -------
    ndarray (n, n_functions)

    Examples
    --------
    >>> legendre_basis(np.array([0.0, 1.0]), 2, (0.0, 1.0)).round(4).tolist()
    [[1.0, -1.7321], [1.0, 1.7321]]
    """
    low, high = limits
    unit = np.clip(2 * (np.asarray(coordinate, dtype=float) - low) / (high - low) - 1, -1, 1)
    order = np.arange(n_functions)
    return np.polynomial.legendre.legvander(unit, n_functions - 1) * np.sqrt(2 * order + 1)


@with_one_blas_thread
def volumes_along(
    particles, coordinate, n_nodes=20, *, deviation=None, n_spectral=6, mask=None, resolution=None, workers=1
):
    """Volumes along a coordinate that is known for every particle.

    Parameters
    ----------
    particles : Particles
        n of them, with poses and CTF.
    coordinate : ndarray (n,)
    n_nodes : int
        Equally spaced over the range from the 0.5th to the 99.5th percentile.
    deviation : ndarray (n,), optional
        Standard deviation of each coordinate; without it a noisy coordinate damps the motion.
    n_spectral : int
        Functions of the coordinate.
    mask : Volume, optional
        Where there is density.
    resolution : float, optional
        Å; default: a twentieth of the box.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    nodes : ndarray (n_nodes,)
    volumes : list of Volume
        On the particles' grid and the absolute scale.
    spectral : SpectralVolumes
        For any other coordinate.

    Raises
    ------
    ValueError
        A coordinate that is not finite or does not vary; what `observe` refuses.
    """
    coordinate = np.asarray(coordinate, dtype=float)
    if coordinate.shape != (len(particles),) or not np.isfinite(coordinate).all():
        raise ValueError(f"coordinate must be {len(particles)} finite numbers, got shape {coordinate.shape}")
    limits = tuple(np.quantile(coordinate, [0.005, 0.995]))
    if not limits[1] > limits[0]:
        raise ValueError(f"the coordinate does not vary: it is {limits[0]:g} for nearly all particles")
    observations = particles
    if not isinstance(particles, Observations):
        resolution = particles.box_size / 20 if resolution is None else resolution
        observations = observe(particles, resolution=resolution, workers=workers)
    weights, nodes = coordinate_weights(coordinate, deviation, limits)
    first, second = posterior_moments(weights, legendre_basis(nodes, n_spectral, limits))
    shape = grid_mask(mask, observations)
    groups = [np.arange(start, len(observations), 2) for start in (0, 1)]
    spectral = fit_spectral(
        observations, first, second, n_spectral, limits, mask=shape, groups=groups, unshrunk=4, workers=workers
    )[0]
    centers = np.linspace(*limits, n_nodes)
    return centers, spectral.at(centers).volumes(), spectral


def coordinate_weights(coordinate, deviation, limits, *, n_nodes=64):
    """Weights of each particle over a fine grid of nodes: a Gaussian about its coordinate."""
    nodes = np.linspace(*limits, n_nodes)
    step = nodes[1] - nodes[0]
    deviation = np.zeros(len(coordinate)) if deviation is None else np.asarray(deviation, dtype=float)
    deviation = np.maximum(deviation, step / 2)
    exponent = -0.5 * ((np.clip(coordinate, *limits)[:, None] - nodes) / deviation[:, None]) ** 2
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True), nodes


def posterior_moments(weights, coefficients):
    """E[φ] and E[φ φᵀ] of each particle, from its posterior over nodes.

    Parameters
    ----------
    weights : ndarray (n, m)
        p(node | image), rows summing to one.
    coefficients : ndarray (m, l)
        φ at the nodes.

    Returns
    -------
    first : ndarray (n, l)
    second : ndarray (n, l, l)
    """
    m, n_spectral = coefficients.shape
    pairs = (coefficients[:, :, None] * coefficients[:, None, :]).reshape(m, -1)
    return weights @ coefficients, (weights @ pairs).reshape(-1, n_spectral, n_spectral)


def fit_spectral(observations, first, second, n_spectral, limits, *, mask, groups, unshrunk=2, workers=1):
    """Spectral volumes from the moments of each particle's coefficients, cross-fitted.

    The mean and the term linear in the coordinate are not shrunk: a shrunken motion would be matched by too large
    coordinates. Higher terms have a Wiener prior, from the power that the groups agree on.

    Parameters
    ----------
    observations : Observations
    first, second : ndarray (n, l), (n, l, l)
        From `posterior_moments`.
    n_spectral : int
        l.
    limits : (float, float)
    mask : ndarray (c, c, c)
    groups : sequence of at least two index arrays
    unshrunk : int
        Terms without a prior. More of them show large turns at their full size, at the price of noisier ends.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    whole : SpectralVolumes
        From all particles.
    without : list of SpectralVolumes
        Without each group in turn.
    """
    equations = normal_equations(observations, first, second, mask=mask, groups=groups, workers=workers)
    n_shells = observations.noise.size
    prior = None
    for _ in range(2):
        without = [equations.solve(prior, without=group)[0] for group in range(len(groups))]
        total, noise = _jackknife_power(without, n_shells)
        signal = np.maximum(total - noise, 1e-3 * total)
        signal[:, : min(unshrunk, n_spectral)] = np.inf
        prior = signal[: observations.radius + 2]
    fits = [SpectralVolumes(volumes, limits) for volumes in (equations.solve(prior)[0], *without)]
    return fits[0], fits[1:]


def reliability(without, n_shells):
    """Share of signal in the power of the volumes' changes in each Fourier shell, (n_shells,), 0.02 to 1.

    ``without`` are the volumes solved without each group, as `fit_spectral` gives them.
    """
    total, noise = (power[:, 1:].sum(axis=1) for power in _jackknife_power([f.volumes for f in without], n_shells))
    return np.clip(1 - noise / np.maximum(total, 1e-30), 0.02, 1)


def _jackknife_power(without, n_shells):
    """Mean power of volumes solved without each group, and the part of it that is noise, (shells, l) each."""
    average = np.mean([volumes.data for volumes in without], axis=0)
    total = np.mean([shell_power(volumes, n_shells) for volumes in without], axis=0)
    noise = sum(shell_power(replace(volumes, data=volumes.data - average), n_shells) for volumes in without)
    return total, noise


def cross_fitted_overlaps(observations, without, groups, *, workers=1):
    """Overlaps of each particle with the volumes that were solved without its group.

    Returns `Overlaps` of all particles in their own order.
    """
    parts = [
        gram_matrices(observations[group], fit.volumes, workers=workers) for fit, group in zip(without, groups)
    ]  # fmt: skip
    order = np.argsort(np.concatenate(groups))
    return Overlaps(*(np.concatenate(arrays)[order] for arrays in zip(*parts)))


def volume_noise_penalty(observations, without, coefficients, *, n_particles=200, workers=1):
    """Expected loss of log-likelihood of each particle at each node through the noise of the volumes, (n, m).

    The volumes solved without each of K groups differ by their noise. By the jackknife, noise of variance ν costs
    ½ ν with ν = Σ_g ‖C P (V_g − mean of V_g)‖²/σ²: more at nodes that few particles visited, and in images that are
    defocused so that more of it passes. ν is measured on some particles; to the others it is carried over by the power
    that their CTF lets through.
    """
    index = np.unique(np.linspace(0, len(observations) - 1, n_particles).astype(int))
    average = np.mean([fit.volumes.data for fit in without], axis=0)
    penalty, n_shells = np.zeros(len(coefficients)), observations.noise.size
    power = np.zeros(n_shells)
    for fit in without:
        volumes = replace(fit.volumes, data=fit.volumes.data - average)
        gram, overlap = gram_matrices(observations[index], volumes, workers=workers)
        penalty -= node_log_likelihood(Overlaps(gram, np.zeros_like(overlap)), coefficients).mean(axis=0)
        power += shell_power(volumes, n_shells).sum(axis=1)
    passed = observations.ctf**2 @ ((power / observations.noise)[observations.shell] * observations.multiplicity)
    return np.outer(passed / passed[index].mean(), penalty)
