"""Volumes from images: normal equations y_i = C_i P_i Σ_k f_ik V_k + noise, and their solution voxel by voxel.

The volumes are shared by all particles; the coefficients f_i (latent coordinates, or functions of a conformational
coordinate) are each particle's own, and enter by their first and second moments.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from cryonb.manifold import _kernels
from cryonb.manifold.volume_sets import PADDING, VolumeSet, grid_size, shell_power
from cryonb.parallel import map_reduce
from cryonb.projection.slices import cropped_inverse, interpolation_envelope, plane_axes

__all__ = ["NormalEquations", "normal_equations"]


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums over particles that determine volumes, in groups: every voxel's right-hand side and matrix.

    Parameters
    ----------
    totals : list of ndarray
        One per group of particles.
    n_volumes : int
    radius : int
        Fourier pixels.
    mask : ndarray (c, c, c)
        Applied to the solutions; c = `grid_size` of the radius.
    size_px, pixel_size
        Of the particles.
    """

    totals: list
    n_volumes: int
    radius: int
    mask: np.ndarray
    size_px: int
    pixel_size: float

    def solve(self, prior=None, *, without=None):
        """Volumes from all groups, or from all but the one numbered ``without``.

        Parameters
        ----------
        prior : ndarray (shells, l), optional
            τ² of each shell and volume, E|V(k)|²; inf for none.
        without : int, optional

        Returns
        -------
        volumes : VolumeSet
        power : ndarray (shells, l)
            E|V(k)|², from the solution and its posterior variance: the next prior.
        """
        total = self._total if without is None else self._total - self.totals[without]
        return _solve(self, total, prior)

    @cached_property
    def _total(self):
        return self.totals[0] if len(self.totals) == 1 else np.sum(self.totals, axis=0)


def normal_equations(observations, first, second, *, mask, groups=None, workers=1):
    """Sum up what determines volumes, given the moments of each particle's coefficients.

    The volumes minimise Σ_i E‖y_i − C_i P_i Σ_k f_ik V_k‖²/σ² + Σ_k ‖V_k‖²/τ²_k, voxel by voxel.

    Parameters
    ----------
    observations : Observations
    first : ndarray (n, l)
        E[f_i].
    second : ndarray (n, l, l)
        E[f_i f_iᵀ].
    mask : ndarray (c, c, c)
    groups : sequence of index arrays, optional
        Keep the sums of these particles apart (cross-fitting); by default all are one group.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    NormalEquations
    """
    lower = np.tril_indices(first.shape[1])
    packed = np.ascontiguousarray(second[:, lower[0], lower[1]], dtype=np.float32)
    function = partial(_insert_chunk, observations, observations.scale, first.astype(np.float32), packed)
    totals = []
    for indices in _group_chunks(len(observations), groups):
        total = map_reduce(function, indices, combine=_add, workers=workers)
        _complete_plane(total, first.shape[1])
        totals.append(total)
    return NormalEquations(
        totals, first.shape[1], observations.radius, mask, observations.size_px, observations.pixel_size
    )


def _group_chunks(n, groups):
    groups = [np.arange(n)] if groups is None else [np.asarray(group) for group in groups]
    # at least two parts, for two workers; each part needs an accumulator of its own
    return [np.array_split(group, max(2, -(-len(group) // 8000))) for group in groups]


def _insert_chunk(observations, scale, first, second, index):
    radius = observations.radius
    edge = PADDING * grid_size(radius)
    total = np.zeros((edge, edge, edge // 2 + 1, 2 * first.shape[1] + second.shape[1]), dtype=np.float32)
    axes = plane_axes(observations.matrices[index], PADDING)
    values, ctf = observations.values[index], observations.ctf[index]
    _kernels.insert(total, axes, observations.points, values, ctf, scale, first[index], second[index])
    return total


def _add(total, item):
    total += item
    return total


def _solve(equations, total, prior):
    n_volumes, edge = equations.n_volumes, total.shape[0]
    n_shells = equations.radius + 2
    spread = PADDING**3  # the padded grid has that many more voxels to share the data among
    prior = np.full((n_shells, n_volumes), np.inf) if prior is None else np.asarray(prior)
    # the prior is the power inside the mask; the noise of a voxel comes from the whole box
    inside = float(np.mean(equations.mask**2))
    precision = inside / (spread * np.maximum(prior, 1e-30))
    # a floor, so that voxels that no image reached stay zero
    precision = np.maximum(precision, 1e-6 * float(total[..., 2 * n_volumes].max()))
    solution = np.zeros((edge, edge, edge // 2 + 1, 2, n_volumes), dtype=np.float32)
    variance, counts = np.zeros((n_shells, n_volumes)), np.zeros(n_shells)
    _kernels.solve(total, n_volumes, precision, PADDING * equations.radius + 1.0, solution, variance, counts)
    variance /= np.maximum(counts, 1)[:, None] * spread
    size_px = edge // PADDING
    shape = equations.mask / interpolation_envelope(size_px, PADDING)
    transforms = (solution[..., 0, k] + 1j * solution[..., 1, k] for k in range(n_volumes))
    data = np.stack([cropped_inverse(values, size_px, PADDING) * shape for values in transforms]).astype(np.float32)
    volumes = VolumeSet(data, equations.mask, equations.size_px, equations.pixel_size)
    return volumes, shell_power(volumes, n_shells) + variance * inside


def _complete_plane(total, n_volumes):
    """Give the plane kx = 0 what the Friedel partners of its points bring."""
    plane = total[:, :, 0]
    partner = np.roll(plane[::-1, ::-1], 1, axis=(0, 1)).copy()
    partner[..., n_volumes : 2 * n_volumes] *= -1
    plane += partner
