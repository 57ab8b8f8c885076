"""Expectation and maximisation with images as references: what a view is in 3D, a class average is here.

X_i = CTF_i · R_ψ A_k, moved by t, + N_i. All in-plane angles of an average come from one product, as for a slice;
its adjoint gives the next average, CTF-corrected, on the polar grid, and from there in the box.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from cryonb import parallel, projection

from . import _kernels
from .coarse import BLOCK_COLUMNS, DEPTH, global_scores
from .fine import KEPT, THRESHOLD
from .observations import observe
from .polar import PolarGrid
from .records import TopPoses
from .scores import AngleTables, angle_table, image_columns, products, shifted_images, turned_images
from .search import shift_grid
from .slices import SliceBank, ring_power, weight_samples

__all__ = [
    "AverageSums", "AverageTask", "PlanarPosterior", "average_bank", "average_expectation", "random_averages",
    "solve_averages",
]  # fmt: skip

CHUNK = 500  # particles
ANGLES = 0.625  # in-plane angles on half a turn over angular coefficients
NEAR_DEGREES = 15.0  # in-plane angles this near the best one belong to its peak
WEIGHT_FLOOR = 1e-3  # of a ring's mean


def count_angles(grid):
    """In-plane angles on half a turn: at most about a third of the shortest wavelength is missed at the rim."""
    return int(ANGLES * grid.bands[-1])


@dataclass(frozen=True, eq=False)
class AverageTask:
    """All that a chunk of particles needs.

    Parameters
    ----------
    particles : Particles
    grid : PolarGrid
    coarse : PolarGrid
        Its inner part, for the first pass.
    images : ndarray (f, K, d, d)
        References of each fold: the particles of a fold are scored against its own.
    noise : ndarray (g, d // 2 + 1)
    class_weights : ndarray (K,)
    sigma_offset_px : float
    shift_range_px, shift_step_px : float
        Of the coarse shifts; the fine step is half.
    offset_px : ndarray (2,)
        Moves the grid of shifts.
    turn : float
        Radians; turns the grid of in-plane angles.
    n_harmonics : int
    keep_shifts : int
        Coarse shifts that go on to the fine pass.
    """

    particles: object
    grid: PolarGrid
    coarse: PolarGrid
    images: np.ndarray
    noise: np.ndarray
    class_weights: np.ndarray
    sigma_offset_px: float
    shift_range_px: float
    shift_step_px: float
    offset_px: np.ndarray
    turn: float
    n_harmonics: int
    keep_shifts: int = 3

    def phases(self, shifts, grid):
        """exp(2πi k·s) of shifts (t, 2) in pixels, (t, n_r, n_angles)."""
        return projection.shift_phases(grid.points, shifts, grid.size_px).reshape(-1, grid.n_radii, grid.n_angles)

    def log_shift_prior(self, shifts):
        """Log prior (t,) of shifts in pixels."""
        return (-(shifts**2).sum(-1) / (2 * self.sigma_offset_px**2)).astype(np.float32)

    def tables(self, grid):
        """A full turn of in-plane angles."""
        half = count_angles(grid)
        return AngleTables(int(grid.bands[-1]), self.turn + np.pi * np.arange(half) / half, full_turn=True)

    def chunk(self, part):
        """Sums and posteriors of some particles of one fold: ``part`` is (fold, index)."""
        fold, index = part
        group = self.particles.optics_group[index]
        observations = observe(
            self.particles[index], self.grid, self.noise[group], np.zeros((len(index), 2)), self.n_harmonics
        )
        found = _Pass(self, fold, observations, group)
        found.run()
        rest = {"residual": found.residual, "count": np.bincount(group, minlength=len(self.noise))}
        return {
            "folds": {fold: {"values": found.values, "weights": found.weights}},
            "rest": rest | {"offset2": found.offset2}, "posterior": [found.posterior | {"index": index}],
        }  # fmt: skip


class _Pass:
    """Both passes over one chunk, and the sums that they fill."""

    def __init__(self, task, fold, observations, group):
        self.task, self.observations, self.group, self.grid = task, observations, group, task.grid
        self.bank, self.coarse_bank = average_bank(task.images[fold], task.grid, task.n_harmonics, inner=task.coarse)
        self.coarse_shifts = shift_grid(task.shift_range_px, task.shift_step_px) + task.offset_px
        quarter = task.shift_step_px / 4
        children = quarter * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
        self.shifts = (self.coarse_shifts[:, None] + children).reshape(-1, 2)
        self.phases, self.shift_prior = task.phases(self.shifts, task.grid), task.log_shift_prior(self.shifts)
        self.log_class = np.log(task.class_weights).astype(np.float32)
        self.tables = task.tables(task.grid)
        harmonics = angle_table(2 * np.arange(task.n_harmonics), self.tables.angles)
        self.norm_table = np.ascontiguousarray(0.5 * harmonics.swapaxes(0, 1).reshape(-1, len(self.tables.angles)).T)
        n, n_k = len(observations), len(self.bank)
        self.values, self.weights = np.zeros_like(self.bank.packed), np.zeros_like(self.bank.power)
        self.residual, self.offset2 = np.zeros((len(task.noise), task.grid.n_radii)), 0.0
        self.posterior = {
            "probability": np.zeros((n, n_k)), "psi": np.zeros(n), "shift_px": np.zeros((n, 2)), "pmax": np.zeros(n),
            "entropy": np.zeros(n), "log_evidence": np.zeros(n),
            "class_evidence": np.zeros((n, n_k)), "top_weight": np.zeros((n, KEPT), dtype=np.float32),
            "top_class": np.zeros((n, KEPT), dtype=np.int16), "top_psi": np.zeros((n, KEPT)),
            "top_shift_px": np.zeros((n, KEPT, 2), dtype=np.float32),
        }  # fmt: skip
        self.buffer = None

    def run(self):
        per_block = max(1, BLOCK_COLUMNS // len(self.coarse_shifts))
        coarse_phases = self.task.phases(self.coarse_shifts, self.task.coarse)
        coarse_tables = self.task.tables(self.task.coarse)
        prior = self.log_class[:, None] + self.task.log_shift_prior(self.coarse_shifts)
        for start in range(0, len(self.observations), per_block):
            block = slice(start, min(start + per_block, len(self.observations)))
            score = prior + global_scores(
                self.coarse_bank, self.observations, block, coarse_phases, self.task.coarse, coarse_tables
            )
            self.posterior["class_evidence"][block] = score.max(2) - self.log_class
            self.fine(np.arange(block.start, block.stop), score)

    def fine(self, some, score):
        """Posterior of a block of particles over the classes and shifts that the coarse scores leave."""
        n, n_k, n_t = score.shape
        rows, count = np.zeros((n, n_k), dtype=np.int64), np.zeros(n, dtype=np.int64)
        kept = np.zeros((n, min(self.task.keep_shifts, n_t)), dtype=np.int64)
        _kernels.select_candidates(score, DEPTH, rows, kept, count)
        shifts = (4 * kept[:, :, None] + np.arange(4)).reshape(n, -1)
        owner = np.repeat(some, shifts.shape[1])
        images = shifted_images(self.observations, owner, shifts.ravel(), self.phases, self.grid)
        for j, i in enumerate(some):
            own = images[j * shifts.shape[1] : (j + 1) * shifts.shape[1]]
            self.particle(i, rows[j, : count[j]], shifts[j], own)

    def particle(self, i, rows, shifts, images):
        grid, lens, posterior = self.grid, self.observations.lens[i], self.posterior
        self.buffer = image_columns(images, grid, self.buffer)
        columns = self.buffer[: 2 * images.size]
        score = self.tables.scores(*products(self.bank.packed[rows], columns, len(images), grid))
        score = score.reshape(-1, len(rows), len(images))
        norms, still = np.empty((2 * self.task.n_harmonics, len(rows)), dtype=np.float32), np.zeros(len(rows))
        _kernels.norm_harmonics(self.bank.power, rows, still, lens, norms)
        score += (self.log_class[rows] - self.norm_table @ norms)[:, :, None] + self.shift_prior[shifts]
        summary = np.empty(3)
        _kernels.normalise_score(score.reshape(-1), np.float32(THRESHOLD), summary)
        posterior["log_evidence"][i], posterior["entropy"][i], posterior["pmax"][i] = summary
        mass = score.sum(0)  # of class and shift
        self.summarise(i, score, mass, rows, shifts)
        self.accumulate(i, score, mass, rows, columns)

    def accumulate(self, i, score, mass, rows, columns):
        """The adjoint: the particle's images, turned and weighted, into the sums of its classes."""
        grid, lens = self.grid, self.observations.lens[i]
        meant = mass.any(1)
        rows, score = rows[meant], np.compress(meant, score, axis=1)
        even, odd = (
            part.reshape(-1, 2, *score.shape[1:])
            for part in self.tables.coefficients(score.reshape(len(score), -1))
        )  # fmt: skip
        turned = turned_images(even, odd, columns, grid)
        cross, norm = np.zeros((2, grid.n_radii), dtype=np.float32)
        _kernels.add_turned(
            turned, even[: self.task.n_harmonics].sum(3), rows, grid.lowest, grid.starts, self.bank.packed,
            self.bank.power, lens, self.values, self.weights, cross, norm,
        )  # fmt: skip
        self.residual[self.group[i]] += self.observations.power[i] + (norm - 2 * cross) / self.observations.precision[i]

    def summarise(self, i, score, mass, rows, shifts):
        """Class probabilities, and the mean in-plane angle and shift of the best peak."""
        posterior, angles, offset = self.posterior, self.tables.angles, self.shifts[shifts]
        posterior["probability"][i, rows] = mass.sum(1) / mass.sum()
        self.offset2 += float(mass.sum(0) @ (offset**2).sum(1))
        psi, row, _ = np.unravel_index(score.argmax(), score.shape)
        near = np.cos(angles - angles[psi]) > np.cos(np.radians(NEAR_DEGREES))
        peak = score[near, row].astype(np.float64)
        posterior["psi"][i] = np.degrees(np.angle(peak.sum(1) @ np.exp(1j * angles[near])))
        posterior["shift_px"][i] = peak.sum(0) @ offset / peak.sum()
        flat = score.ravel()
        meant = np.flatnonzero(flat)
        top = meant[np.argsort(-flat[meant], kind="stable")[:KEPT]]
        psi, row, shift = np.unravel_index(top, score.shape)
        kept = i, slice(len(top))
        posterior["top_weight"][kept], posterior["top_class"][kept] = flat[top], rows[row]
        posterior["top_psi"][kept], posterior["top_shift_px"][kept] = angles[psi], offset[shift]


@dataclass(frozen=True, eq=False)
class AverageSums:
    """Sufficient statistics of all particles, fold by fold.

    Parameters
    ----------
    values : ndarray (f, K, n_packed)
        Σ Γ · area · CTF X / σ², turned and moved onto the class.
    weights : ndarray (f, K, 2, n_r, n_m)
        Even harmonics of Σ Γ · area · CTF² / σ².
    residual : ndarray (g, n_r)
        Σ Γ ⟨|X − CTF A|²⟩ on the rings.
    count : ndarray (g,)
        Particles of each optics group.
    class_count : ndarray (K,)
    offset2 : float
        Σ Γ |t|² in pixels².
    """

    values: np.ndarray
    weights: np.ndarray
    residual: np.ndarray
    count: np.ndarray
    class_count: np.ndarray
    offset2: float


@dataclass(frozen=True, eq=False)
class PlanarPosterior:
    """What is kept of each of n particles.

    Parameters
    ----------
    probability : ndarray (n, K)
    psi : ndarray (n,)
        Degrees, mean of the best peak.
    shift : ndarray (n, 2)
        Å, mean of the best peak.
    pmax, entropy, log_evidence : ndarray (n,)
        As in `expectation.Posterior`.
    class_evidence : ndarray (n, K)
        Log evidence of each class, of the coarse pass.
    top : TopPoses
        With rot and tilt 0.
    """

    probability: np.ndarray
    psi: np.ndarray
    shift: np.ndarray
    pmax: np.ndarray
    entropy: np.ndarray
    log_evidence: np.ndarray
    class_evidence: np.ndarray
    top: TopPoses


def average_expectation(task, fold, *, index=None, workers=1):
    """Posterior of particles given class averages, and the sums for the next averages.

    Parameters
    ----------
    task : AverageTask
    fold : ndarray (n,) int
        Of every particle.
    index : ndarray of int, optional
        Which particles; all by default.
    workers
        As in `parallel.map_reduce`.

    Returns
    -------
    AverageSums, PlanarPosterior
        The posterior in the order of ``index``.
    """
    index = np.arange(len(fold)) if index is None else np.asarray(index)
    chunks = []
    for number in range(len(task.images)):
        members = index[fold[index] == number]
        chunks += [(number, members[part]) for part in parallel.chunk_slices(len(members), CHUNK)]
    found = parallel.map_reduce(partial(AverageTask.chunk, task), chunks, combine=_merge, workers=workers)
    values, weights = _empty_sums(task)
    for number, sums in found["folds"].items():
        values[number], weights[number] = sums["values"], sums["weights"]
    rows = {name: np.concatenate([part[name] for part in found["posterior"]]) for name in found["posterior"][0]}
    place = np.empty(len(fold), dtype=np.int64)
    place[rows.pop("index")] = np.arange(len(index))
    rows = {name: value[place[index]] for name, value in rows.items()}
    pixel = task.particles.pixel_size
    shift, turned = rows.pop("shift_px") * pixel, np.zeros((*rows["top_psi"].shape, 3, 3), np.float32)
    c, s = np.cos(rows["top_psi"]), np.sin(rows.pop("top_psi"))
    turned[..., 0, 0], turned[..., 0, 1], turned[..., 1, 0], turned[..., 1, 1], turned[..., 2, 2] = c, -s, s, c, 1
    turned[rows["top_weight"] == 0] = 0
    top = TopPoses(rows.pop("top_weight"), rows.pop("top_class"), turned, rows.pop("top_shift_px") * pixel)
    sums = AverageSums(values, weights, class_count=rows["probability"].sum(0), **found["rest"])
    return sums, PlanarPosterior(shift=shift, top=top, **rows)


def _merge(total, item):
    folds = dict(total["folds"])
    for number, sums in item["folds"].items():
        folds[number] = parallel.add_trees(folds.get(number), sums)
    rest = parallel.add_trees(total["rest"], item["rest"])
    return {"folds": folds, "rest": rest, "posterior": total["posterior"] + item["posterior"]}


def _empty_sums(task):
    shape = (len(task.images), task.images.shape[1])
    return np.zeros((*shape, task.grid.n_packed)), np.zeros((*shape, 2, task.grid.n_radii, task.n_harmonics))


def average_bank(images, grid, n_harmonics, *, inner=None):
    """Images as rows of a bank, without shell 0.

    Parameters
    ----------
    images : ndarray (m, d, d)
    grid : PolarGrid
    n_harmonics : int
    inner : PolarGrid, optional
        Inner part of the grid: a second bank on it.

    Returns
    -------
    SliceBank, or two with ``inner``
    """
    samples = grid.transform(images)
    samples[:, grid.radii < 0.5] = 0
    squares = samples.real**2 + samples.imag**2
    bank = SliceBank(grid.analyse(samples), ring_power(squares, grid, n_harmonics))
    if inner is None:
        return bank
    rings = slice(0, inner.n_radii)
    return bank, SliceBank(inner.analyse(samples[:, rings]), ring_power(squares[:, rings], inner, 1))


def solve_averages(values, weights, grid, prior=None):
    """MAP averages in the box: A / (W + 1/(T τ²)) on the polar grid.

    Parameters
    ----------
    values : ndarray (m, n_packed)
    weights : ndarray (m, 2, n_r, n_m)
    grid : PolarGrid
    prior : ndarray (m, n_r), optional
        T · τ² on the rings.

    Returns
    -------
    ndarray (m, d, d) float32, not masked; 0 where there is no weight.
    """
    samples = grid.synthesise(np.asarray(values, dtype=np.float32))
    weight = weight_samples(np.asarray(weights, dtype=np.float32), grid)
    weight = np.maximum(weight, WEIGHT_FLOOR * weight.mean(-1, keepdims=True))
    if prior is not None:
        weight = weight + (grid.areas / np.maximum(prior, 1e-30))[:, :, None]
    return grid.invert(np.divide(samples, weight, out=np.zeros_like(samples), where=weight > 0))


def random_averages(task, fold, label, rng):
    """Sums of particles as they lie, each in a given class and turned at random.

    Parameters
    ----------
    task : AverageTask
        Its images are not looked at.
    fold, label : ndarray (n,) int
        Of every particle.
    rng : Generator

    Returns
    -------
    AverageSums, without residuals
    """
    grid, n_k = task.grid, task.images.shape[1]
    values, weights = _empty_sums(task)
    for part in parallel.chunk_slices(len(fold), CHUNK):
        index = np.arange(len(fold))[part]
        group, angle = task.particles.optics_group[index], rng.uniform(0, 2 * np.pi, len(index))
        observed = observe(task.particles[index], grid, task.noise[group], np.zeros((len(index), 2)), task.n_harmonics)
        packed = grid.analyse(observed.weighted)
        turned, rows = np.empty_like(packed), np.arange(len(index))
        _kernels.gather_turned(packed, rows, angle, grid.n_radii, grid.lowest, grid.starts, turned)
        phase = np.exp(2j * np.arange(task.n_harmonics) * angle[:, None])[:, None]
        lens = (observed.lens[:, 0] + 1j * observed.lens[:, 1]) * phase
        np.add.at(values, (fold[index], label[index]), turned)
        np.add.at(weights, (fold[index], label[index]), np.stack([lens.real, lens.imag], axis=1))
    nothing = {"residual": np.zeros((len(task.noise), grid.n_radii)), "count": np.zeros(len(task.noise), dtype=int)}
    return AverageSums(values, weights, class_count=np.bincount(label, minlength=n_k), offset2=0.0, **nothing)
