"""The old method, beside the Bayesian one: projection matching, a constant Wiener term, a low-pass filter set by hand.

Each image goes to the one projection that it correlates with best, with no weights, no noise spectrum and no doubt.
The resolution comes from halves of particles that were all aligned to the same reference, so that noise which
was aligned once is found again in both (Scheres 2012 compares with refinements of this kind).
"""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from cryonb import ctf as lens
from cryonb import parallel, projection, rotations
from cryonb.types import Poses, Volume

from . import _kernels, inputs, maximisation, model
from .coarse import full_turn_tables, global_scores, turned_slices
from .observations import count_harmonics, observe
from .polar import PolarGrid
from .scores import AngleTables, angle_table, image_columns, products, shifted_images
from .search import Sampling, coarse_shell, local_views, psi_towards, shift_grid, turn_in_plane
from .slices import fill_bank, view_matrices

__all__ = ["Matching", "Tuning", "match", "refine", "tune"]

GLOBAL_ORDER = 3  # coarse views of global searches: 7.5°, children 3.75°
LOCAL = (5, 5.0)  # order of the views of local searches (1.9°) and how far they reach, degrees
LAST = (6, 2.5)  # of the last one (0.9°)
LOCAL_SHIFTS = (1.0, 0.5)  # radius and step, pixels
KEEP_VIEWS, KEEP_SHIFTS = 8, 3
SHIFT_RANGE_PX = 5.0
CHUNK_GLOBAL, CHUNK_LOCAL = 1000, 250  # particles
GROUP = 12  # particles whose coarse correlations are held at once


@dataclass(frozen=True, eq=False, repr=False)
class Matching:
    """What projection matching says it found.

    Parameters
    ----------
    volume : Volume
        Low-passed by hand, within the mask.
    half_maps : tuple of two Volume
        Of random halves of particles that had one reference: not independent. Unfiltered, unmasked.
    correlation : ndarray (d // 2 + 1,)
        FSC of the half maps within the solvent mask.
    resolution : float
        Å, where that FSC falls below 0.5: too good.
    poses : Poses
    score : ndarray (n,)
        Best normalised correlation of each particle, −1 … 1.
    resolutions, seconds : list of float
        Of each iteration.
    """

    volume: Volume
    half_maps: tuple[Volume, Volume]
    correlation: np.ndarray
    resolution: float
    poses: Poses
    score: np.ndarray
    resolutions: list[float]
    seconds: list[float]

    def __repr__(self):
        return f"Matching({len(self.poses)} particles, {self.resolution:.1f} Å by its own account)"


@dataclass(frozen=True, eq=False, repr=False)
class Tuning:
    """The constants with which projection matching does best, known only because the truth is.

    Parameters
    ----------
    wiener, low_pass : float
        The best pair.
    wieners, low_passes : ndarray (a,), (b,)
        The grid.
    agreement : ndarray (a, b)
        Mean FSC of each result, before the low-pass filter, with the truth, over all shells.
    """

    wiener: float
    low_pass: float
    wieners: np.ndarray
    low_passes: np.ndarray
    agreement: np.ndarray

    def __repr__(self):
        return f"Tuning(wiener {self.wiener:g}, low_pass {self.low_pass:g}, agreement {self.agreement.max():.3f})"


@parallel.with_one_blas_thread
def refine(
    particles, reference, *, rng, wiener=10.0, low_pass=2.0, n_iterations=10, n_local=4, initial_resolution=60.0,
    symmetry="C1", mask_diameter=None, workers="threads", progress=True, checkpoint=None,
):  # fmt: skip
    """Refine by projection matching.

    Parameters
    ----------
    particles : Particles
        n images with CTF; poses, where there are any, are not used.
    reference : Volume
        As in `cryonb.bayes.refine`.
    rng : seed or Generator
    wiener : float
        The constant of the Wiener filter: V = Σ Pᵀ[CTF X] / (Σ Pᵀ[CTF²] + wiener), in images per Fourier voxel.
    low_pass : float
        Fourier shells by which the low-pass filter of references and of the result lies beyond FSC 0.5.
    n_iterations, n_local : int
        Iterations, of which the last few search only around the last poses.
    initial_resolution : float
        Å; the reference is low-passed there.
    symmetry : str
        As in `cryonb.bayes.refine`.
    mask_diameter : float, optional
        Å; nine tenths of the box by default.
    workers, progress, checkpoint
        As in `cryonb.bayes.refine`.

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        As `cryonb.bayes.refine`; constants that are negative.

    Notes
    -----
    Global searches over 7.5° with children of 3.75°, local ones with 1.9°, the last with 0.9°: the grids of
    `cryonb.bayes.refine`, so that only the method differs. Scheres, J Mol Biol 415:406 (2012), describes the kind and
    says that its two constants were not tuned there: see `tune`. Why its resolution is too good: Scheres & Chen, Nat
    Methods 9:853 (2012).
    """
    group = rotations.point_group(symmetry)
    (reference,) = inputs.fit_references(particles, [reference])
    diameter = model.check_input(particles, [reference], mask_diameter)
    if len(particles) < 2:
        raise ValueError("projection matching splits the particles to find a resolution: it needs 2 or more, got 1")
    if not (wiener >= 0 and low_pass >= 0 and n_iterations >= 1 and n_local >= 0):
        raise ValueError(
            "wiener, low_pass and n_local must be 0 or more, and n_iterations 1 or more; "
            f"got {wiener}, {low_pass}, {n_local} and {n_iterations}"
        )
    seed = int(np.random.default_rng(rng).integers(2**62))
    key = {
        "question": "projection matching", "n": len(particles), "box": particles.size_px,
        "pixel": particles.pixel_size, "seed": seed, "mask": diameter, "start": initial_resolution, "wiener": wiener,
        "low_pass": low_pass, "iterations": n_iterations, "local": n_local, "symmetry": symmetry,
    }  # fmt: skip
    job = _Job(particles, diameter, seed, float(wiener), float(low_pass), group, workers)
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    state = job.start(reference, initial_resolution) if saved is None else _State(**saved)
    bar = tqdm(total=n_iterations, initial=len(state.resolutions), desc="projection matching", disable=not progress)
    while len(state.resolutions) < n_iterations:
        done = len(state.resolutions)
        job.iterate(state, _stage(done, n_iterations, n_local))
        if checkpoint is not None:
            parallel.save_checkpoint(checkpoint, vars(state), key=key)
        bar.update()
        bar.set_postfix_str(f"{state.resolutions[-1]:.1f} Å")
    bar.close()
    return job.result(state)


def tune(particles, reference, truth, *, rng, wiener=(1.0, 10.0, 100.0), low_pass=(0.0, 2.0, 5.0), **options):
    """The two constants of `refine` that bring it nearest to a known truth.

    Parameters
    ----------
    particles, reference
        As in `refine`.
    truth : Volume
        In the frame of the reference.
    rng : seed or Generator
        All pairs start from the same.
    wiener, low_pass : sequence of float
        The grid.
    **options
        As in `refine`.

    Returns
    -------
    Tuning
    """
    wieners, low_passes = np.asarray(wiener, dtype=float), np.asarray(low_pass, dtype=float)
    if wieners.ndim != 1 or low_passes.ndim != 1 or not wieners.size or not low_passes.size:
        raise ValueError("wiener and low_pass must be sequences of one or more numbers")
    reference, truth = inputs.fit_references(particles, [reference, truth])
    diameter = model.check_input(particles, [reference, truth], options.get("mask_diameter"))
    mask = maximisation.sphere(particles.size_px, diameter / particles.pixel_size)
    seed = int(np.random.default_rng(rng).integers(2**62))
    agreement = np.empty((len(wieners), len(low_passes)))
    for i, a in enumerate(wieners):
        for j, b in enumerate(low_passes):
            found = refine(particles, reference, rng=seed, wiener=a, low_pass=b, **options)
            unfiltered = (found.half_maps[0].data + found.half_maps[1].data) * mask
            agreement[i, j] = maximisation.correlation(unfiltered, truth.data * mask)[1:].mean()
    i, j = np.unravel_index(agreement.argmax(), agreement.shape)
    return Tuning(float(wieners[i]), float(low_passes[j]), wieners, low_passes, agreement)


def _stage(done, n_iterations, n_local):
    """Where an iteration searches, after as many others: everywhere, or as LOCAL and LAST say."""
    if done < max(n_iterations - n_local, 1):
        return None
    return LAST if done == n_iterations - 1 else LOCAL


@dataclass
class _State:
    """All that one iteration hands to the next."""

    reference: np.ndarray  # (d, d, d), low-passed and masked
    half_maps: np.ndarray  # (2, d, d, d)
    correlation: np.ndarray
    shell: float  # of the low-pass filter
    matrices: np.ndarray
    shift: np.ndarray
    score: np.ndarray
    resolutions: list
    seconds: list


class _Job:
    """What stays the same through a refinement."""

    def __init__(self, particles, diameter, seed, wiener, low_pass, group, workers):
        self.particles, self.diameter, self.seed, self.workers = particles, diameter, seed, workers
        self.wiener, self.low_pass, self.group = wiener, low_pass, group
        self.extent_px = diameter / 2 / particles.pixel_size
        self.mask = maximisation.sphere(particles.size_px, diameter / particles.pixel_size)
        self.last_shell = (particles.size_px - 1) / 2

    def start(self, reference, initial_resolution):
        particles, n = self.particles, len(self.particles)
        shell = max(particles.box_size / initial_resolution, 2.0)
        data = model.low_pass(reference, shell).data * self.mask
        return _State(
            data / data.std(), np.zeros((2, *data.shape), np.float32), np.zeros(particles.size_px // 2 + 1), shell,
            np.stack([np.eye(3)] * n), np.zeros((n, 2)), np.zeros(n), [], [],
        )  # fmt: skip

    def iterate(self, state, local):
        began = time.perf_counter()
        number = len(state.resolutions)
        rng = np.random.default_rng([self.seed, number])
        max_shell = min(np.ceil(state.shell + 1), self.last_shell)
        grid = PolarGrid.covering(self.particles.size_px, max_shell, self.extent_px)
        poses = None if local is None else Poses(Rotation.from_matrix(state.matrices), state.shift)
        found, state.score = match(
            self.particles, self.volume(state.reference), grid, turn=Rotation.random(rng=rng), around=poses,
            local=local or LOCAL, extent_px=self.extent_px, symmetry=self.group, workers=self.workers,
        )  # fmt: skip
        state.matrices, state.shift = found.rotation.as_matrix(), np.array(found.shift)
        self.reconstruct(state, found, rng)
        state.resolutions.append(self.particles.box_size / max(self.half_shell(state), 1))
        state.seconds.append(time.perf_counter() - began)

    def reconstruct(self, state, poses, rng):
        """Both halves, their FSC, and from their sum the next reference."""
        particles, size_px = self.particles, self.particles.size_px
        half = rng.permutation(len(particles)) % 2
        sums = [self.insert(np.flatnonzero(half == side), poses) for side in range(2)]
        prior = None if self.wiener == 0 else np.full(size_px // 2 + 1, 1 / self.wiener)
        solved = [projection.solve(part, particles.pixel_size, prior=prior) for part in sums]
        state.half_maps = np.stack([volume.data for volume in solved])
        state.correlation = maximisation.correlation(*(state.half_maps * self.mask))
        sums[0].values += sums[1].values
        sums[0].weights += sums[1].weights
        joined = projection.solve(sums[0], particles.pixel_size, prior=prior)
        state.shell = float(min(max(self.half_shell(state), 2) + self.low_pass, self.last_shell))
        state.reference = model.low_pass(joined, state.shell).data * self.mask

    def half_shell(self, state):
        return maximisation.last_shell_above(state.correlation, 0.5)

    def insert(self, index, poses):
        """Σ Pᵀ[CTF X] and Σ Pᵀ[CTF²] of some particles at their poses."""
        size_px, box_size = self.particles.size_px, self.particles.box_size
        accumulator, half = projection.Accumulator(size_px), projection.half_plane(size_px)
        for part in parallel.chunk_slices(len(index), 256):
            some = index[part]
            particles, pose = self.particles[some], poses[some]
            factor = lens.evaluate(particles.ctf, *(half.points / box_size).T).astype(np.float32)
            slices = projection.to_half_plane(np.asarray(particles.images), half) * factor
            slices *= projection.shift_phases(half.points, -pose.shift, box_size)
            for turn in self.group:
                projection.insert_slices(
                    accumulator, slices, factor**2, (turn * pose.rotation).as_matrix(), half.points
                )
        return accumulator

    def volume(self, data):
        return Volume(data, self.particles.pixel_size)

    def result(self, state):
        return Matching(
            self.volume(state.reference), tuple(self.volume(half) for half in state.half_maps), state.correlation,
            state.resolutions[-1], Poses(Rotation.from_matrix(state.matrices), state.shift), state.score,
            list(state.resolutions), list(state.seconds),
        )  # fmt: skip


def match(particles, reference, grid, *, turn, around=None, local=LOCAL, extent_px, symmetry=None, workers=1):
    """The projection that each image correlates with best.

    Parameters
    ----------
    particles : Particles
        With CTF.
    reference : Volume
    grid : PolarGrid
        Frequencies that count, all alike.
    turn : Rotation
        Turns the grid of views.
    around : Poses, optional
        Search only near these.
    local : (int, float)
        HEALPix order of the views of such a search, and how far it reaches in degrees.
    extent_px : float
        The particle's radius in pixels.
    symmetry : Rotation, optional
        Of a point group: a global search looks at one of each set of equivalent views.
    workers
        As in `parallel.map_reduce`.

    Returns
    -------
    Poses, and the normalised correlations ndarray (n,)

    Notes
    -----
    The largest Σ X · CTF P V / √(Σ|X|² Σ|CTF P V|²), the sums being over the rings of the grid.
    """
    n = len(particles)
    if around is None:
        order, size = np.arange(n), CHUNK_GLOBAL
    else:
        cells = cKDTree(rotations.healpix_directions(2))
        direction = rotations.viewing_direction(around.rotation)
        order, size = np.argsort(cells.query(direction)[1], kind="stable"), CHUNK_LOCAL
    chunks = [order[part] for part in parallel.chunk_slices(n, size)]
    task = _Task(particles, projection.prepare(reference), grid, turn, around, local, extent_px, symmetry)
    found = parallel.map_reduce(partial(_Task.chunk, task), chunks, combine=_join, workers=workers)
    matrices, shift, score = np.empty((n, 3, 3)), np.empty((n, 2)), np.empty(n)
    matrices[order], shift[order], score[order] = found["matrix"], found["shift"], found["score"]
    return Poses(Rotation.from_matrix(matrices), shift), score


def _join(total, item):
    return {name: np.concatenate([value, item[name]]) for name, value in total.items()}


@dataclass(frozen=True, eq=False)
class _Task:
    """All that a chunk needs, so that it can be computed anywhere."""

    particles: object
    reference: object
    grid: PolarGrid
    turn: Rotation
    around: Poses | None
    local: tuple
    extent_px: float
    symmetry: Rotation | None

    def chunk(self, index):
        """Best pose and correlation of the particles ``index``."""
        some, grid = self.particles[index], self.grid
        n_harmonics = count_harmonics(self.particles, grid)
        flat = np.ones((len(index), grid.size_px // 2 + 1))
        centre = np.zeros((len(index), 2)) if self.around is None else self.around.shift[index]
        observed = observe(some, grid, flat, centre, n_harmonics)
        search = self.globally if self.around is None else self.locally
        views, rows, angles, shifts, offsets, tables = search(observed, index)
        bank = fill_bank([self.reference], views, grid, n_harmonics)
        phases = self.phases(shifts, grid)
        norms = _NormTable(n_harmonics, tables)
        strength = np.sqrt(observed.power @ grid.areas)
        matrix, shift, score = np.empty((len(index), 3, 3)), np.empty((len(index), 2)), np.empty(len(index))
        for i in range(len(index)):
            mine = offsets[i]
            images = shifted_images(observed, np.full(len(mine), i), mine, phases, grid)
            slices = turned_slices(bank, rows[i], angles[i], grid)
            values = tables.scores(*products(slices, image_columns(images, grid), len(mine), grid))
            values = values.reshape(-1, len(rows[i]), len(mine))
            values /= np.sqrt(norms.of(bank, rows[i], angles[i], observed.lens[i]))[:, :, None]
            psi, row, t = np.unravel_index(values.argmax(), values.shape)
            turned = angles[i][row : row + 1] + tables.angles[psi]
            matrix[i] = turn_in_plane(views[rows[i][row : row + 1]], turned)[0]
            shift[i] = centre[i] + shifts[mine[t]] * self.particles.pixel_size
            score[i] = values[psi, row, t] / strength[i]
        return {"matrix": matrix, "shift": shift, "score": score}

    def phases(self, shifts, grid):
        return projection.shift_phases(grid.points, shifts, grid.size_px).reshape(-1, grid.n_radii, grid.n_angles)

    def globally(self, observed, index):
        """The children of each particle's best coarse views and shifts."""
        limit = coarse_shell(GLOBAL_ORDER, self.grid.size_px, self.extent_px)
        sampling = Sampling(GLOBAL_ORDER, SHIFT_RANGE_PX, 2.0, turn=self.turn, symmetry=self.symmetry)
        distinct = sampling.distinct_views()
        inner = self.grid.inner(self.grid.rings_within(limit))
        bank = fill_bank([self.reference], sampling.views()[distinct], inner, 1)
        coarse, children = sampling.shifts_px()
        norm = np.maximum(observed.lens[:, 0, : inner.n_radii, 0] @ bank.power[:, 0, :, 0].T, 1e-30)
        phases, tables = self.phases(coarse, inner), full_turn_tables(inner, 2 * sampling.step)
        n, rows, offsets = len(index), [], []
        for block in parallel.chunk_slices(n, GROUP):
            cross = global_scores(bank, observed, block, phases, inner, tables) + 0.5 * norm[block][:, :, None]
            cross /= np.sqrt(norm[block])[:, :, None]
            view, shift, count = self.select(cross)
            rows += [(4 * distinct[v[:c], None] + np.arange(4)).ravel() for v, c in zip(view, count)]
            offsets += [(4 * t[:, None] + np.arange(4)).ravel() for t in shift]
        used = np.unique(np.concatenate(rows))
        rows = [np.searchsorted(used, mine) for mine in rows]
        angles = [np.zeros(len(mine)) for mine in rows]
        views = sampling.views(fine=True)[used]
        tables = full_turn_tables(self.grid, sampling.step)
        return views, rows, angles, children.reshape(-1, 2), offsets, tables

    @staticmethod
    def select(correlation):
        n, n_views, n_shifts = correlation.shape
        view = np.zeros((n, min(KEEP_VIEWS, n_views)), dtype=np.int64)
        shift = np.zeros((n, min(KEEP_SHIFTS, n_shifts)), dtype=np.int64)
        count = np.zeros(n, dtype=np.int64)
        _kernels.select_candidates(correlation, np.inf, view, shift, count)
        return view, shift, count

    def locally(self, observed, index):
        """The views, angles and shifts near each particle's last pose."""
        (order, width), centres = self.local, self.around.rotation[index].as_matrix()
        everywhere = view_matrices(order, self.turn)
        particle, view, _ = local_views(everywhere, centres, width)
        used, place = np.unique(view, return_inverse=True)
        towards = psi_towards(everywhere[view], centres[particle])
        starts = np.searchsorted(particle, np.arange(1, len(index)))
        step = rotations.healpix_step(order)
        reach = int(width // step) + 1
        tables = AngleTables(int(self.grid.bands[-1]), np.radians(step) * np.arange(-reach, reach + 1))
        shifts = shift_grid(*LOCAL_SHIFTS)
        offsets = [np.arange(len(shifts))] * len(index)
        return everywhere[used], np.split(place, starts), np.split(towards, starts), shifts, offsets, tables


class _NormTable:
    """Σ |CTF P V|² at all in-plane angles."""

    def __init__(self, n_harmonics, tables):
        self.n_harmonics = n_harmonics
        harmonics = angle_table(2 * np.arange(n_harmonics), tables.angles)
        self.table = np.ascontiguousarray(harmonics.swapaxes(0, 1).reshape(-1, len(tables.angles)).T)

    def of(self, bank, rows, angles, lens_harmonics):
        """(n_ψ, rows)."""
        norms = np.empty((2 * self.n_harmonics, len(rows)), dtype=np.float32)
        _kernels.norm_harmonics(bank.power, rows, angles, lens_harmonics, norms)
        return np.maximum(self.table @ norms, 1e-30)
