"""First pass of a search: score a coarse grid of poses and say which views and shifts deserve the fine one.

Globally, every view is scored against every particle and shift, blocks of both at a time. Locally, only the views
near a particle's last pose are.
"""

from dataclasses import dataclass

import numpy as np

from . import _kernels
from .scores import AngleTables, image_columns, products, shifted_images
from .search import local_views, psi_towards, turn_in_plane
from .slices import fill_bank

__all__ = ["Candidates", "coarse_pass", "global_scores"]

BLOCK_ROWS = 64  # slices per product: with BLOCK_COLUMNS it keeps the products in the processor's cache
BLOCK_COLUMNS = 256
BLOCK_LOCAL = 64  # particles
DEPTH = 40.0  # in units of log-likelihood: what lies deeper below the best coarse score is dropped


@dataclass(frozen=True, eq=False)
class Candidates:
    """What the fine pass looks into: for each of n particles some coarse views and some coarse shifts.

    Parameters
    ----------
    count : ndarray (n,) int
        How many (class, view) each particle has.
    k, view : ndarray (n, m) int
        The first ``count`` of each row are meant.
    shift : ndarray (n, s) int
    towards : ndarray (n, m, 3, 3) or None
        The best pose with each view, which centres the fine in-plane angles; None after a global pass (all angles).
    """

    count: np.ndarray
    k: np.ndarray
    view: np.ndarray
    shift: np.ndarray
    towards: np.ndarray | None


def coarse_pass(task, observations, index):
    """Candidates of a chunk of particles.

    Parameters
    ----------
    task : expectation.Task
    observations : Observations
        n of them.
    index : ndarray (n,) int
        Their places among all particles.

    Returns
    -------
    Candidates
    """
    grid = task.grid.inner(task.grid.rings_within(task.sampling.coarse_radius))
    if task.sampling.local_sigma is None:
        return _global_pass(task, observations, grid)
    return _local_pass(task, observations, index, grid)


def _global_pass(task, observations, grid):
    distinct = task.sampling.distinct_views()
    matrices = task.sampling.views()[distinct]
    bank = fill_bank(task.references, matrices, grid, 1)
    shifts, _ = task.sampling.shifts_px()
    phases = task.phases(shifts, grid)
    tables = full_turn_tables(grid, 2 * task.sampling.step)
    log_view = np.log(task.class_weights)[:, None] + task.log_view_prior(matrices[:, :, 2])
    log_prior = log_view.reshape(-1, 1) + task.log_shift_prior(shifts)
    log_prior = log_prior.astype(np.float32)
    parts = []
    per_block = max(1, BLOCK_COLUMNS // len(shifts))
    for start in range(0, len(observations), per_block):
        block = slice(start, min(start + per_block, len(observations)))
        score = global_scores(bank, observations, block, phases, grid, tables)
        parts.append(_select(task.sampling, score + log_prior))
    count, row, shift = (np.concatenate(part) for part in zip(*parts))
    return Candidates(count, row // len(matrices), distinct[row % len(matrices)], shift, None)


def full_turn_tables(grid, step):
    """`AngleTables` for all in-plane angles, ``step`` degrees apart."""
    half = max(1, round(180 / step))
    return AngleTables(int(grid.bands[-1]), np.pi * np.arange(half) / half, full_turn=True)


def global_scores(bank, observations, block, phases, grid, tables):
    """Log-likelihood, up to a constant, of every view and shift at its best in-plane angle.

    Parameters
    ----------
    bank : SliceBank
        m rows.
    observations : Observations
    block : slice
        Which particles.
    phases : ndarray (t, n_r, n_angles) complex64
    grid : PolarGrid
    tables : AngleTables
        Of a full turn.

    Returns
    -------
    ndarray (n, m, t) float32. The norm takes the radial mean of CTF².
    """
    particles = np.arange(block.start, block.stop)
    n, t = len(particles), len(phases)
    images = shifted_images(observations, np.repeat(particles, t), np.tile(np.arange(t), n), phases, grid)
    columns = image_columns(images, grid)
    score = np.empty((n, len(bank), t), dtype=np.float32)
    norm = bank.power[:, 0, :, 0] @ observations.lens[block, 0, : grid.n_radii, 0].T
    for start in range(0, len(bank), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(bank)))
        even, odd = tables.parts(*products(bank.packed[rows], columns, n * t, grid))
        best = np.empty(even.shape[1], dtype=np.float32)
        _kernels.best_angle(even, odd, best)
        score[:, rows] = best.reshape(-1, n, t).swapaxes(0, 1) - 0.5 * norm[rows].T[:, :, None]
    return score


def _local_pass(task, observations, index, grid):
    sampling = task.sampling
    matrices, centres = sampling.views(), task.prior_matrices[index]
    particle, view, distance = local_views(matrices, centres, 3 * sampling.local_sigma)
    used, place = np.unique(view, return_inverse=True)
    bank = fill_bank(task.references, matrices[used], grid, 1)
    shifts, _ = sampling.shifts_px()
    phases = task.phases(shifts, grid)
    reach = int(3 * sampling.local_sigma // (2 * sampling.step))
    psi = np.radians(2 * sampling.step) * np.arange(-reach, reach + 1)
    tables = AngleTables(int(grid.bands[-1]), psi)
    psi_prior = (-0.5 * (np.degrees(psi) / sampling.local_sigma) ** 2).astype(np.float32)[:, None, None]
    towards = psi_towards(matrices[view], centres[particle])
    starts = np.searchsorted(particle, np.arange(len(index) + 1))
    n_k, t, widest = len(task.class_weights), len(shifts), int(np.diff(starts).max())
    score = np.full((len(index), n_k, widest, t), -np.inf, dtype=np.float32)
    best = np.zeros((len(index), n_k, widest), dtype=np.int64)
    log_class = np.log(task.class_weights)
    images = buffer = None
    for i in range(len(index)):
        if i % BLOCK_LOCAL == 0:
            some = np.arange(i, min(i + BLOCK_LOCAL, len(index)))
            images = shifted_images(observations, np.repeat(some, t), np.tile(np.arange(t), len(some)), phases, grid)
        mine = slice(starts[i], starts[i + 1])
        rows = (np.arange(n_k)[:, None] * len(used) + place[mine]).ravel()
        slices = turned_slices(bank, rows, np.tile(towards[mine], n_k), grid)
        offset = (i % BLOCK_LOCAL) * t
        buffer = image_columns(images[offset : offset + t], grid, buffer)
        values = tables.scores(*products(slices, buffer[: 2 * t * grid.n_packed], t, grid))
        values = values.reshape(len(psi), len(rows), t) + psi_prior
        constant = -0.5 * (bank.power[rows, 0, :, 0] @ observations.lens[i, 0, : grid.n_radii, 0])
        constant += log_class.repeat(len(rows) // n_k) - 0.5 * np.tile(
            (distance[mine] / sampling.local_sigma) ** 2, n_k
        )
        top = values.max(0) + constant.astype(np.float32)[:, None]
        count = starts[i + 1] - starts[i]
        score[i, :, :count] = top.reshape(n_k, count, t)
        best[i, :, :count] = values.max(2).argmax(0).reshape(n_k, count)
    score = score.reshape(len(index), n_k * widest, t) + task.log_shift_prior(shifts).astype(np.float32)
    count, slot, shift = _select(sampling, score)
    k, member = slot // widest, slot % widest
    pair = np.minimum(starts[:-1, None] + member, len(view) - 1)
    angle = towards[pair] + psi[best.reshape(len(index), -1)[np.arange(len(index))[:, None], slot]]
    pose = turn_in_plane(matrices[view[pair]].reshape(-1, 3, 3), angle.ravel())
    return Candidates(count, k, view[pair], shift, pose.reshape(*pair.shape, 3, 3))


def turned_slices(bank, rows, angle, grid):
    """Rows of a bank, each turned in plane by its angle (radians), (m, n_packed)."""
    slices = np.empty((len(rows), bank.packed.shape[1]), dtype=np.float32)
    _kernels.gather_turned(bank.packed, rows, angle, grid.n_radii, grid.lowest, grid.starts, slices)
    return slices


def _select(sampling, score):
    rows = np.zeros((len(score), min(sampling.keep_views, score.shape[1])), dtype=np.int64)
    shifts = np.zeros((len(score), min(sampling.keep_shifts, score.shape[2])), dtype=np.int64)
    count = np.zeros(len(score), dtype=np.int64)
    _kernels.select_candidates(score, DEPTH, rows, shifts, count)
    return count, rows, shifts
