"""Second pass: the posterior over the children of the candidates, and its adjoint, the sums that make the next maps."""

import numpy as np

from cryonb import projection

from . import _kernels
from .coarse import full_turn_tables, turned_slices
from .contrast import FIRST_RING
from .observations import rim_mask
from .scores import AngleTables, angle_table, image_columns, products, shifted_images
from .search import psi_towards, turn_in_plane
from .slices import fill_bank, insert_bank
from .views import CELLS, cells_of

__all__ = ["fine_pass"]

BLOCK = 64  # particles whose shifted images are held at once
THRESHOLD = 1e-3  # posterior weights below this fraction of a particle's best are dropped
KEPT = 8  # poses of each particle that are kept with their weights
NEAR = 2.5  # fine steps from the best pose within which poses are averaged


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
    fine = _FinePass(task, observations, candidates, index)
    n, n_k = len(index), len(task.class_weights)
    posterior = {
        "class_probability": np.zeros((n, n_k)), "matrix": np.zeros((n, 3, 3)), "shift_px": np.zeros((n, 2)),
        "best_class": np.zeros(n, dtype=np.int64), "pmax": np.zeros(n), "entropy": np.zeros(n),
        "log_evidence": np.zeros(n), "misfit": np.zeros(n), "cross": np.zeros(n), "explained": np.zeros(n),
        "top_weight": np.zeros((n, KEPT), dtype=np.float32), "top_class": np.zeros((n, KEPT), dtype=np.int16),
        "top_matrix": np.zeros((n, KEPT, 3, 3), dtype=np.float32), "top_shift_px": np.zeros((n, KEPT, 2), np.float32),
    }  # fmt: skip
    for start in range(0, n, BLOCK):
        some = np.arange(start, min(start + BLOCK, n))
        shifts = (4 * candidates.shift[some][:, :, None] + np.arange(4)).reshape(len(some), -1)
        owner = np.repeat(some, shifts.shape[1])
        images = shifted_images(observations, owner, shifts.ravel(), fine.phases, task.grid)
        for i, own in zip(some, shifts):
            fine.particle(i, own, images[(i - start) * len(own) : (i - start + 1) * len(own)], posterior)
    posterior["matrix"] = _nearest_rotation(posterior["matrix"])
    return fine.sums(), posterior


class _FinePass:
    """What the particles of a chunk share, and the sums that they fill."""

    def __init__(self, task, observations, candidates, index):
        self.task, self.observations, self.candidates, self.index = task, observations, candidates, index
        grid, sampling = task.grid, task.sampling
        meant = np.arange(candidates.view.shape[1]) < candidates.count[:, None]
        self.views = np.unique(4 * np.unique(candidates.view[meant])[:, None] + np.arange(4))
        self.matrices = sampling.views(fine=True)[self.views]
        self.bank = fill_bank(task.references, self.matrices, grid, task.n_harmonics)
        self.shifts = sampling.shifts_px()[1].reshape(-1, 2)
        self.phases = task.phases(self.shifts, grid)
        self.shift_prior = task.log_shift_prior(self.shifts)
        self.log_class = np.log(task.class_weights)
        self.log_view = self.log_class[:, None] + task.log_view_prior(self.matrices[:, :, 2])
        self.view_mass = np.zeros(len(self.log_class) * len(self.views))
        strong = 0.0 if task.contrast is None else task.contrast.strong_shell
        self.strong = grid.radii <= strong + 0.5
        self.counted = grid.radii >= FIRST_RING
        self.expected = 2 * float((rim_mask(grid.size_px) ** 2).mean()) * float(grid.areas[self.counted].sum())
        self.slice_sums = np.zeros_like(self.bank.packed)
        self.slice_weights = np.zeros_like(self.bank.power)
        self.residual = np.zeros((task.n_groups, grid.n_radii))
        self.offset2 = 0.0
        n_q = int(grid.bands[-1])
        if sampling.local_sigma is None:
            self.tables = full_turn_tables(grid, sampling.step)
        else:
            self.tables = AngleTables(n_q, np.radians(sampling.step) * np.arange(-3, 4))
        harmonics = angle_table(2 * np.arange(task.n_harmonics), self.tables.angles)
        self.norm_table = np.ascontiguousarray(0.5 * harmonics.swapaxes(0, 1).reshape(-1, len(self.tables.angles)).T)
        self.buffer = None

    def particle(self, i, shifts, images, posterior):
        """Posterior of one particle over its candidates' children; adds to the sums."""
        rows, angle = self.rows(i)
        score = self.score(i, rows, angle, images) + self.log_prior(i, rows, angle, shifts)
        summary = np.empty(3)
        _kernels.normalise_score(score.reshape(-1), np.float32(THRESHOLD), summary)
        posterior["log_evidence"][i], posterior["entropy"][i], posterior["pmax"][i] = summary
        self.accumulate(i, score, rows, angle, images, posterior)
        self.view_mass[rows] += score.sum((0, 2))
        self.summarise(i, score, rows, angle, shifts, posterior)

    def rows(self, i):
        """Rows of the bank for a particle, and the in-plane angles on which the fine ones are centred."""
        candidates, count = self.candidates, self.candidates.count[i]
        children = np.searchsorted(self.views, (4 * candidates.view[i, :count, None] + np.arange(4)).ravel())
        rows = np.repeat(candidates.k[i, :count], 4) * len(self.views) + children
        if candidates.towards is None:
            return rows, np.zeros(len(rows))
        return rows, psi_towards(self.matrices[children], np.repeat(candidates.towards[i, :count], 4, axis=0))

    def score(self, i, rows, angle, images):
        grid, n_t = self.task.grid, len(images)
        slices = turned_slices(self.bank, rows, angle, grid)
        self.buffer = image_columns(images, grid, self.buffer)
        columns = self.buffer[: 2 * images.size]
        values = self.tables.scores(*products(slices, columns, n_t, grid)).reshape(-1, len(rows), n_t)
        norms = np.empty((2 * self.task.n_harmonics, len(rows)), dtype=np.float32)
        _kernels.norm_harmonics(self.bank.power, rows, angle, self.observations.lens[i], norms)
        values -= (self.norm_table @ norms)[:, :, None]
        return values

    def log_prior(self, i, rows, angle, shifts):
        """Of (ψ, row, shift)."""
        k, view = rows // len(self.views), rows % len(self.views)
        prior = (self.log_view[k, view][:, None] + self.shift_prior[shifts])[None]
        sigma = self.task.sampling.local_sigma
        if sigma is not None:
            centre = self.task.prior_matrices[self.index[i]]
            tilt = np.degrees(np.arccos(np.clip(self.matrices[view, :, 2] @ centre[:, 2], -1, 1)))
            turn = angle - psi_towards(self.matrices[view], np.broadcast_to(centre, (len(view), 3, 3)))
            turn = np.degrees((turn + self.tables.angles[:, None] + np.pi) % (2 * np.pi) - np.pi)
            prior = prior - ((tilt**2 + turn**2) / (2 * sigma**2))[:, :, None]
        return prior.astype(np.float32)

    def accumulate(self, i, score, rows, angle, images, posterior):
        grid, observations = self.task.grid, self.observations
        cross, norm = np.zeros((2, grid.n_radii), dtype=np.float32)
        _kernels.accumulate(
            score, angle, self.tables.angles, rows, grid.n_radii, grid.lowest, grid.starts, self.bank.packed, images,
            self.bank.power, observations.lens[i], self.slice_sums, self.slice_weights, cross, norm,
        )  # fmt: skip
        residual = observations.power[i] + (norm - 2 * cross) / observations.precision[i]
        self.residual[self.task.group[self.index[i]]] += residual
        posterior["misfit"][i] = (residual * observations.precision[i])[self.counted].sum() / self.expected
        posterior["cross"][i], posterior["explained"][i] = cross[self.strong].sum(), norm[self.strong].sum()

    def summarise(self, i, score, rows, angle, shifts, posterior):
        """Class probabilities and the mean pose of the best peak."""
        psi, row, shift = np.nonzero(score)
        weight = score[psi, row, shift].astype(np.float64)
        n_views = len(self.views)
        share = np.bincount(rows[row] // n_views, weight, len(self.log_class))
        posterior["class_probability"][i] = share / share.sum()
        best = weight.argmax()
        posterior["best_class"][i] = rows[row[best]] // n_views
        pose = turn_in_plane(self.matrices[rows[row] % n_views], angle[row] + self.tables.angles[psi])
        cosine = np.cos(np.radians(NEAR * self.task.sampling.step))
        near = np.einsum("nij,ij->n", pose, pose[best]) > 1 + 2 * cosine
        offset = self.shifts[shifts[shift]]
        top = np.argsort(-weight, kind="stable")[:KEPT]
        kept = i, slice(len(top))
        posterior["top_weight"][kept], posterior["top_class"][kept] = weight[top], rows[row[top]] // n_views
        posterior["top_matrix"][kept] = pose[top]
        posterior["top_shift_px"][kept] = offset[top] + self.task.centre_px[self.index[i]]
        posterior["matrix"][i] = np.tensordot(weight[near], pose[near], 1)
        centre = self.task.centre_px[self.index[i]]
        posterior["shift_px"][i] = weight[near] @ offset[near] / weight[near].sum() + centre
        self.offset2 += float(weight @ (offset**2).sum(1))

    def histogram(self):
        """Posterior mass (K, CELLS) by viewing direction."""
        cells, mass = cells_of(self.matrices[:, :, 2]), self.view_mass.reshape(-1, len(self.views))
        return np.stack([np.bincount(cells, row, CELLS) for row in mass])

    def sums(self):
        """Sufficient statistics of the chunk."""
        task, n_views = self.task, len(self.views)
        values, weights = [], []
        for k in range(len(task.class_weights)):
            accumulator = projection.Accumulator(task.grid.size_px)
            rows = slice(k * n_views, (k + 1) * n_views)
            filled = np.flatnonzero(self.slice_weights[rows, 0, :, 0].any(1))
            insert_bank(
                accumulator, self.slice_sums[rows][filled], self.slice_weights[rows][filled], self.matrices[filled],
                task.grid, symmetry=task.sampling.symmetry,
            )  # fmt: skip
            values.append(accumulator.values)
            weights.append(accumulator.weights)
        count = np.bincount(task.group[self.index], minlength=task.n_groups)
        return {
            "values": np.stack(values), "weights": np.stack(weights), "residual": self.residual, "count": count,
            "offset2": self.offset2, "views": self.histogram(),
        }  # fmt: skip


def _nearest_rotation(matrices):
    """Rotation matrices nearest to sums of rotation matrices."""
    u, _, vt = np.linalg.svd(matrices)
    u[:, :, -1] *= np.sign(np.linalg.det(u @ vt))[:, None]
    return u @ vt
