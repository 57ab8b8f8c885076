"""Second pass: the posterior over the children of the candidates, and its adjoint, the sums that make the next maps."""

from dataclasses import dataclass

import numpy as np

from cryonb import projection

from . import _kernels
from .coarse import angle_table, shifted_images, turn_in_plane
from .search import psi_towards
from .slices import fill_bank, insert_bank

__all__ = ["fine_pass"]

BLOCK = 32  # particles
THRESHOLD = 1e-3  # posterior weights below this fraction of a particle's best are dropped


def fine_pass(task, observations, candidates, index):
    """Posterior, sufficient statistics and best poses of a chunk.

    Parameters
    ----------
    task : expectation.Task
    observations : Observations
    candidates : Candidates
    index : ndarray (n,) int
        The particles' places among all.

    Returns
    -------
    sums, posterior : dict of ndarray
        See `expectation.Statistics` and `expectation.Posterior`.
    """
    views = np.unique(4 * candidates.view[:, None] + np.arange(4))
    matrices = task.sampling.views(fine=True)[views]
    bank = fill_bank(task.references, matrices, task.grid, task.n_harmonics)
    _, shifts = task.sampling.shifts_px()
    fine = _FinePass(task, observations, bank, views, matrices, shifts.reshape(-1, 2), index)
    starts = np.searchsorted(candidates.particle, np.arange(len(index) + 1))
    posterior = [
        fine.block(candidates, start, min(start + BLOCK, len(index)), starts) for start in range(0, len(index), BLOCK)
    ]
    return fine.sums(), {name: np.concatenate([part[name] for part in posterior]) for name in posterior[0]}


class _FinePass:
    """What the blocks of a chunk share, and the sums that they fill."""

    def __init__(self, task, observations, bank, views, matrices, shifts, index):
        self.task, self.observations, self.bank = task, observations, bank
        self.views, self.matrices, self.shifts, self.index = views, matrices, shifts, index
        self.phases = task.phases(shifts, task.grid)
        self.slice_sums = np.zeros_like(bank.packed)
        self.slice_weights = np.zeros_like(bank.power)
        self.residual = np.zeros((task.n_groups, task.grid.n_radii))
        self.offset2 = 0.0
        sampling = task.sampling
        if sampling.local_sigma is None:
            self.psi = np.radians(sampling.step) * np.arange(round(360 / sampling.step))
        else:
            self.psi = np.radians(sampling.step) * np.arange(-3, 4)

    def block(self, candidates, start, stop, starts):
        pairs = _expand(candidates, slice(starts[start], starts[stop]), self.views, len(self.matrices), self.matrices)
        particle, row, shift, angle = pairs
        key, column = np.unique(particle * len(self.shifts) + shift, return_inverse=True)
        images = shifted_images(
            self.observations, key // len(self.shifts), key % len(self.shifts), self.phases, self.task.grid
        )
        score = self.scores(images, particle, row, column, angle) + self.log_prior(particle, row, shift, angle)
        first = np.searchsorted(particle, np.arange(start, stop + 1))
        n = stop - start
        evidence, entropy, counts = np.zeros(n), np.zeros(n), np.zeros(n, dtype=np.int64)
        score = np.ascontiguousarray(score, dtype=np.float32)
        _kernels.normalise_scores(score, first, THRESHOLD, evidence, entropy, counts)
        self.accumulate(score, images, particle, row, column, angle, start, stop)
        posterior = {"log_evidence": evidence, "entropy": entropy, "significant": counts}
        return posterior | self.summary(score, particle, row, shift, angle, start, n)

    def scores(self, images, particle, row, column, angle):
        grid, n_harmonics = self.task.grid, self.task.n_harmonics
        n_q = int(grid.bands[-1])
        products = np.empty((len(row), 2, n_q), dtype=np.float32)
        norms = np.empty((len(row), 2, n_harmonics), dtype=np.float32)
        _kernels.pair_products(self.bank.packed, images, row, column, grid.bands, grid.starts, grid.n_radii, products)
        _kernels.norm_harmonics(self.bank.power, self.observations.lens, row, particle, grid.n_radii, norms)
        if angle.any():
            _kernels.turn_products(products, angle)
            _kernels.turn_products(norms, 2 * angle)
        score = products.reshape(len(row), -1) @ angle_table(n_q, self.psi)
        score -= norms.reshape(len(row), -1) @ (0.5 * angle_table(n_harmonics, self.psi, stride=2))
        return score

    def log_prior(self, particle, row, shift, angle):
        task = self.task
        k, view = row // len(self.matrices), row % len(self.matrices)
        prior = np.log(task.class_weights)[k] + task.log_shift_prior(self.shifts)[shift]
        if task.sampling.local_sigma is None:
            return prior[:, None].astype(np.float32)
        centres = task.prior_matrices[self.index[particle]]
        cosine = (self.matrices[view, :, 2] * centres[:, :, 2]).sum(1)
        tilt = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        turn = angle - psi_towards(self.matrices[view], centres)
        turn = np.degrees((turn[:, None] + self.psi + np.pi) % (2 * np.pi) - np.pi)
        return (prior[:, None] - (tilt[:, None] ** 2 + turn**2) / (2 * task.sampling.local_sigma**2)).astype(np.float32)

    def accumulate(self, posterior, images, particle, row, column, angle, start, stop):
        grid, observations = self.task.grid, self.observations
        cross, norm = np.zeros((2, stop - start, grid.n_radii), dtype=np.float32)
        lens = observations.lens[start:stop]
        _kernels.accumulate(
            posterior, angle, self.psi, row, column, particle - start, grid.bands, grid.starts,
            self.bank.packed, images, self.bank.power, lens, self.slice_sums, self.slice_weights, cross, norm,
        )  # fmt: skip
        residual = observations.power[start:stop] + (norm - 2 * cross) / observations.precision[start:stop]
        np.add.at(self.residual, self.task.group[self.index[start:stop]], residual)

    def summary(self, posterior, particle, row, shift, angle, start, n):
        """Class probabilities and the mean pose of the best peak."""
        task, n_views = self.task, len(self.matrices)
        pair, psi = np.nonzero(posterior)
        weight = posterior[pair, psi].astype(np.float64)
        owner, k = particle[pair] - start, row[pair] // n_views
        probability = np.zeros((n, len(task.class_weights)))
        np.add.at(probability, (owner, k), weight)
        order = np.lexsort((weight, owner))
        best = order[np.searchsorted(owner[order], np.arange(n), side="right") - 1]
        pose = turn_in_plane(self.matrices[row[pair] % n_views], angle[pair] + self.psi[psi])
        near = (pose * pose[best][owner]).sum((1, 2)) > 1 + 2 * np.cos(np.radians(2.5 * task.sampling.step))
        offset = self.shifts[shift[pair]]
        mean_pose, mean_offset, total = np.zeros((n, 3, 3)), np.zeros((n, 2)), np.zeros(n)
        np.add.at(mean_pose, owner[near], weight[near, None, None] * pose[near])
        np.add.at(mean_offset, owner[near], weight[near, None] * offset[near])
        np.add.at(total, owner[near], weight[near])
        centre = task.centre_px[self.index[start : start + n]]
        self.offset2 += float((weight * (offset**2).sum(1)).sum())
        return {
            "class_probability": probability,
            "matrix": _nearest_rotation(mean_pose),
            "shift_px": mean_offset / total[:, None] + centre,
            "best_class": k[best],
            "pmax": weight[best],
        }

    def sums(self):
        """Sufficient statistics of the chunk."""
        task = self.task
        values, weights = [], []
        n_views = len(self.matrices)
        for k in range(len(task.class_weights)):
            accumulator = projection.Accumulator(task.grid.size_px)
            rows = slice(k * n_views, (k + 1) * n_views)
            filled = np.flatnonzero(self.slice_weights[rows, 0, :, 0].any(1))
            insert_bank(
                accumulator, self.slice_sums[rows][filled], self.slice_weights[rows][filled], self.matrices[filled], task.grid
            )
            values.append(accumulator.values)
            weights.append(accumulator.weights)
        count = np.bincount(task.group[self.index], minlength=task.n_groups)
        return {
            "values": np.stack(values), "weights": np.stack(weights), "residual": self.residual,
            "count": count, "offset2": self.offset2,
        }  # fmt: skip


def _expand(candidates, some, views, n_views, matrices):
    """The 4 views × 4 shifts below each candidate: particle, row of the bank, fine shift, in-plane centre."""
    particle = np.repeat(candidates.particle[some], 16)
    child = 4 * candidates.view[some][:, None] + np.arange(4)
    local = np.searchsorted(views, child)
    row = np.repeat((candidates.k[some][:, None] * n_views + local)[:, :, None], 4, axis=2).reshape(-1)
    shift = (4 * candidates.shift[some][:, None] + np.arange(4))[:, None, :]
    shift = np.repeat(shift, 4, axis=1).reshape(-1)
    if candidates.towards is None:
        return particle, row, shift, np.zeros(len(row))
    towards = np.repeat(candidates.towards[some], 4, axis=0)
    angle = psi_towards(matrices[local.ravel()], towards)
    return particle, row, shift, np.repeat(angle, 4)


def _nearest_rotation(matrices):
    """Rotation matrices nearest to sums of rotation matrices."""
    u, _, vt = np.linalg.svd(matrices)
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, -1] *= sign[:, None]
    return u @ vt
