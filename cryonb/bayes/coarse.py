"""First pass of a search: score a coarse grid of poses and say which (class, view, shift) deserve the fine one.

Globally, every view is scored against every particle and shift by one matrix product per angular coefficient,
and all in-plane angles come from one more product. Locally, only the views near a particle's last pose are.
"""

from dataclasses import dataclass

import numpy as np

from . import _kernels
from .search import local_views, psi_towards
from .slices import fill_bank

__all__ = ["Candidates", "angle_table", "coarse_pass", "global_scores"]

BLOCK_ROWS = 64  # slices per product: with BLOCK_COLUMNS it keeps the products in the processor's cache
BLOCK_COLUMNS = 256
BLOCK_LOCAL = 32  # particles
DEPTH = 40.0  # in units of log-likelihood: what lies deeper below the best coarse score is dropped


@dataclass(frozen=True, eq=False)
class Candidates:
    """What the fine pass looks into, ordered by particle.

    Parameters
    ----------
    particle, k, view, shift : ndarray (m,) int
        Particle of the chunk, class, coarse view, coarse shift.
    towards : ndarray (m, 3, 3) or None
        The best pose of each, which centres the fine in-plane angles; None after a global pass (all angles).
    """

    particle: np.ndarray
    k: np.ndarray
    view: np.ndarray
    shift: np.ndarray
    towards: np.ndarray | None


def angle_table(n_coefficients, angles, *, stride=1):
    """Matrix (2 n_q, n_ψ) that takes [Re S | Im S] to Re Σ_q S_q exp(−iqψ) over all q, negative ones included."""
    q = stride * np.arange(n_coefficients)[:, None]
    twice = np.where(q == 0, 1, 2)
    return np.concatenate([twice * np.cos(q * angles), twice * np.sin(q * angles)]).astype(np.float32)


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
        return _global_pass(task, observations, index, grid)
    return _local_pass(task, observations, index, grid)


def _global_pass(task, observations, index, grid):
    matrices = task.sampling.views()
    bank = fill_bank(task.references, matrices, grid, 1)
    stacked = stack_bank(bank, grid)
    shifts, _ = task.sampling.shifts_px()
    phases = task.phases(shifts, grid)
    log_prior = np.repeat(np.log(task.class_weights), len(matrices))[:, None] + task.log_shift_prior(shifts)
    n_psi = 2 * round(180 / (2 * task.sampling.step))
    parts = []
    per_block = max(1, BLOCK_COLUMNS // len(shifts))
    for start in range(0, len(index), per_block):
        block = slice(start, min(start + per_block, len(index)))
        score = global_scores(stacked, bank, observations, block, phases, grid, n_psi)
        parts.append(_select(task, score + log_prior, start))
    particle, row, shift = (np.concatenate(part) for part in zip(*parts))
    return Candidates(particle, row // len(matrices), row % len(matrices), shift, None)


def stack_bank(bank, grid):
    """A bank as left-hand sides of real products: per q and block of rows, [[Re, Im], [−Im, Re]] over its rings."""
    starts, lowest = grid.starts, _lowest_ring(grid)
    blocks = []
    for first in range(0, len(bank), BLOCK_ROWS):
        packed = bank.packed[first : first + BLOCK_ROWS]
        sides = []
        for q in range(grid.bands[-1]):
            columns = starts[lowest[q] : -1] + q
            re, im = packed[:, 0, columns], packed[:, 1, columns]
            sides.append(np.block([[re, im], [-im, re]]))
        blocks.append(sides)
    return blocks


def global_scores(stacked, bank, observations, block, phases, grid, n_psi):
    """Log-likelihood, up to a constant, of every view and shift at its best in-plane angle.

    Parameters
    ----------
    stacked : list
        `stack_bank` of ``bank``.
    bank : SliceBank
        m rows.
    observations : Observations
    block : slice
        Which particles.
    phases : ndarray (t, n_r, n_angles) complex64
    grid : PolarGrid
    n_psi : int
        In-plane angles on a whole turn, even.

    Returns
    -------
    ndarray (n, m, t) float32. The norm takes the radial mean of CTF².
    """
    particles = np.arange(block.start, block.stop)
    n, t, n_q = len(particles), len(phases), int(grid.bands[-1])
    images = shifted_images(observations, np.repeat(particles, t), np.tile(np.arange(t), n), phases, grid)
    lowest = _lowest_ring(grid)
    heights = 2 * (grid.n_radii - lowest)
    place = np.concatenate([[0], np.cumsum(heights)])[:-1] * n * t
    columns = np.empty(int(heights.sum()) * n * t, dtype=np.float32)
    _kernels.stack_columns(images, lowest, grid.bands, grid.starts, columns, place)
    half_turn = np.arange(n_psi // 2) * 2 * np.pi / n_psi
    even, odd = _split_table(angle_table(n_q, half_turn), n_q)
    score = np.empty((n, len(bank), t), dtype=np.float32)
    norm = bank.power[:, 0, :, 0] @ observations.lens[block, 0, : grid.n_radii, 0].T
    order = np.concatenate([np.arange(0, n_q, 2), np.arange(1, n_q, 2)])
    n_even = (n_q + 1) // 2
    for b, sides in enumerate(stacked):
        n_rows = len(sides[0]) // 2
        rows = slice(b * BLOCK_ROWS, b * BLOCK_ROWS + n_rows)
        products = np.empty((n_q, 2 * n_rows, n * t), dtype=np.float32)
        for position, q in enumerate(order):
            right = columns[place[q] : place[q] + heights[q] * n * t].reshape(heights[q], n * t)
            np.matmul(sides[q], right, out=products[position])
        sum_even = even @ products[:n_even].reshape(2 * n_even, -1)
        sum_odd = odd @ products[n_even:].reshape(2 * (n_q - n_even), -1)
        best = np.empty(n_rows * n * t, dtype=np.float32)
        _kernels.best_angle(sum_even, sum_odd, best)
        score[:, rows] = best.reshape(n_rows, n, t).swapaxes(0, 1) - 0.5 * norm[rows].T[:, :, None]
    return score


def shifted_images(observations, particle, shift, phases, grid):
    """Packed coefficients (m, 2, n_packed) of particles moved by shifts."""
    shape = (len(particle), grid.n_radii, grid.n_angles)
    real, imaginary = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    _kernels.shifted_parts(observations.weighted[:, : grid.n_radii], particle, phases, shift, real, imaginary)
    return grid.analyse_parts(real, imaginary)


def _local_pass(task, observations, index, grid):
    sampling = task.sampling
    matrices, centres = sampling.views(), task.prior_matrices[index]
    width = 3 * sampling.local_sigma
    particle, view, distance = local_views(matrices, centres, width)
    used, place = np.unique(view, return_inverse=True)
    bank = fill_bank(task.references, matrices[used], grid, 1)
    shifts, _ = sampling.shifts_px()
    phases = task.phases(shifts, grid)
    psi_step = 2 * sampling.step
    count = int(width // psi_step)
    psi = np.radians(psi_step * np.arange(-count, count + 1))
    psi_prior = -0.5 * (np.degrees(psi) / sampling.local_sigma) ** 2
    towards = psi_towards(matrices[view], centres[particle])
    table = angle_table(int(grid.bands[-1]), psi)
    starts = np.searchsorted(particle, np.arange(len(index) + 1))
    parts = []
    for start in range(0, len(index), BLOCK_LOCAL):
        stop = min(start + BLOCK_LOCAL, len(index))
        some = slice(starts[start], starts[stop])
        pairs = _LocalPairs(particle[some], place[some], towards[some], distance[some], starts[start : stop + 1] - starts[start])
        score, best = pairs.scores(task, observations, bank, phases, grid, table, psi_prior, len(used))
        score += task.log_shift_prior(shifts)
        chosen, slot, shift = _select(task, score, start)
        member, k = slot % best.shape[1], slot // best.shape[1]  # slots: class by class, the views of a particle
        pair = starts[chosen] + member
        angle = towards[pair] + psi[best[chosen - start, member, k, shift]]
        parts.append((chosen, k, view[pair], shift, turn_in_plane(matrices[view[pair]], angle)))
    return Candidates(*(np.concatenate(part) for part in zip(*parts)))


@dataclass(frozen=True, eq=False)
class _LocalPairs:
    """(particle, view) pairs of one block of particles."""

    particle: np.ndarray
    place: np.ndarray
    towards: np.ndarray
    distance: np.ndarray
    starts: np.ndarray

    def scores(self, task, observations, bank, phases, grid, table, psi_prior, n_views):
        """Best score over ψ, (n, K · slots, t) with −inf where a particle has fewer views, and the ψ, (n, slots, K, t)."""
        first, n, t, n_k = self.particle[0], len(self.starts) - 1, len(phases), len(task.class_weights)
        images = shifted_images(
            observations, first + np.repeat(np.arange(n), t), np.tile(np.arange(t), n), phases, grid
        )
        slots = int(np.diff(self.starts).max())
        score = np.full((n, n_k, slots, t), -np.inf, dtype=np.float32)
        best = np.zeros((n, slots, n_k, t), dtype=np.int64)
        member = np.arange(len(self.particle)) - self.starts[self.particle - first]
        norm = bank.power[:, 0, :, 0] @ observations.lens[first : first + n, 0, : grid.n_radii, 0].T
        column = ((self.particle - first)[:, None] * t + np.arange(t)).ravel()
        products = np.empty((len(column), 2, int(grid.bands[-1])), dtype=np.float32)
        for k in range(n_k):
            row = k * n_views + self.place
            _kernels.pair_products(
                bank.packed, images, np.repeat(row, t), column, grid.bands, grid.starts, grid.n_radii, products
            )
            _kernels.turn_products(products, np.repeat(self.towards, t))
            values = products.reshape(len(column), -1) @ table + psi_prior.astype(np.float32)
            angle = values.argmax(1)
            constant = -0.5 * norm[row, self.particle - first] - 0.5 * (self.distance / task.sampling.local_sigma) ** 2
            constant += np.log(task.class_weights[k])
            top = np.take_along_axis(values, angle[:, None], 1)[:, 0].reshape(-1, t) + constant[:, None]
            score[self.particle - first, k, member] = top
            best[self.particle - first, member, k] = angle.reshape(-1, t)
        return score.reshape(n, n_k * slots, t), best


def turn_in_plane(matrices, psi):
    """Poses R_view · R_z(ψ), (m, 3, 3); ψ in radians."""
    c, s = np.cos(psi)[:, None], np.sin(psi)[:, None]
    x, y = matrices[:, :, 0], matrices[:, :, 1]
    return np.stack([c * x + s * y, c * y - s * x, matrices[:, :, 2]], axis=2)


def _select(task, score, start):
    keep_views, keep_shifts = min(task.sampling.keep_views, score.shape[1]), min(task.sampling.keep_shifts, score.shape[2])
    rows = np.zeros((len(score), keep_views * keep_shifts), dtype=np.int64)
    shifts, counts = np.zeros_like(rows), np.zeros(len(score), dtype=np.int64)
    _kernels.select_pairs(score.astype(np.float32), keep_views, keep_shifts, DEPTH, rows, shifts, counts)
    taken = np.arange(rows.shape[1]) < counts[:, None]
    return start + np.repeat(np.arange(len(score)), counts), rows[taken], shifts[taken]


def _lowest_ring(grid):
    """First ring on which each q is kept."""
    return np.searchsorted(grid.bands, np.arange(grid.bands[-1]), side="right").astype(np.int64)


def _split_table(table, n_q):
    """The table's rows for even and for odd q, its columns of products ordered (q, part)."""
    rows = table.reshape(2, n_q, -1).swapaxes(0, 1)
    even, odd = rows[::2].reshape(-1, table.shape[1]), rows[1::2].reshape(-1, table.shape[1])
    return np.ascontiguousarray(even.T), np.ascontiguousarray(odd.T)
