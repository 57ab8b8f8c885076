"""Gold-standard refinement: two independent halves, sampling that gets finer by itself, poses and maps at the end."""

import time
import warnings
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from cryonb import parallel, projection, rotations
from cryonb.types import Poses, Volume

from . import maximisation
from .contrast import Contrast
from .expectation import Model, expectation
from .fine import KEPT
from .inputs import fit_references
from .local_prior import noise_power, weighted_locally
from .model import check_input, fingerprint, initial_noise, low_pass, on_grey_scale, split_halves
from .polar import PolarGrid
from .records import Iteration, Refinement, TopPoses, iterations_from_table, iterations_to_table
from .search import Sampling, coarse_shell
from .views import CELLS, view_density

__all__ = ["refine"]

ORDER = {"global": 3, "local": 4, "last": 5}  # HEALPix order of the coarse views
LOCAL_SIGMA = {"local": 3.75, "last": 1.9}  # degrees
MOST_GLOBAL, MOST_LOCAL = 6, 6
FIRST_SUBSETS = (1000, 2000)
SHIFT_RANGE_PX = 5.0
BEYOND = 2.5  # shells past the start: noise gets up to 2.1 by the start's soft low-pass and the mask


@parallel.with_one_blas_thread
def refine(
    particles, reference, *, rng, initial_resolution=60.0, highest_resolution=None, symmetry="C1", mask_diameter=None,
    correct_contrast=True, learn_views=True, local_prior=False, workers="threads", progress=True, checkpoint=None,
    monitor=None,
):  # fmt: skip
    """Refine orientations, shifts and a volume from a rough reference.

    Parameters
    ----------
    particles : Particles
        n images with CTF; poses, where there are any, are not used.
    reference : Volume
        Any grey scale; brought to the particles' box and pixel size, with a warning, where it has others.
    rng : seed or Generator
    initial_resolution : float
        Å; the reference is low-passed there, so that it cannot bring its details along.
    highest_resolution : float, optional
        Å; nothing finer enters the likelihood.
    symmetry : str
        Point group of the reference and of the volume, as `cryonb.rotations.point_group` names and orients it.
    mask_diameter : float, optional
        Diameter in Å of the soft sphere that holds the particle; nine tenths of the box by default. A tight one
        is faster and sharper.
    correct_contrast : bool
        Fit how bright each image is (its norm) and how strong the signal of each micrograph or group (its scale), as
        RELION does; norms start from rlnNormCorrection where the metadata have it.
    learn_views : bool
        In global searches, expect viewing directions as often as the last search found them.
    local_prior : bool
        Trust each part of the volume by its own signal-to-noise ratio, made from either half alone
        (`cryonb.bayes.local_prior`), once the search is local; for volumes whose parts are resolved unevenly.
    workers
        As in `parallel.map_reduce`.
    progress : bool
    checkpoint : path, optional
        Saved after each iteration; the same call resumes from it to the same result.
    monitor : callable, optional
        Called after each iteration with its `Iteration` and the volumes of the two halves.

    Returns
    -------
    Refinement
        With a warning where the halves agree hardly beyond the initial resolution.

    Raises
    ------
    ValueError
        Before any long work: no CTF, mixed pixel sizes, images that are not finite, constant or all the same, a
        reference that is constant or larger than the mask, an unknown symmetry.

    Notes
    -----
    Scheres, J Struct Biol 180:519 (2012). Global searches over 7.5° with children of 3.75°, at first with a
    part of the particles, until resolution or assignments improve no more; local ones with 1.9° then, and a last one
    with 0.9°. Each half has its own reference; they share only what is coarser than the initial resolution, which
    both had from the start: from pure noise no better resolution than that is reported. It misleads where the
    reference is not of the particle, or is its own mirror image, as high symmetry is when low-passed far (start finer
    then, at 30 Å): see that the FSC of independent halves, not the fit to the reference, says the resolution. Halves
    are those of rlnRandomSubset where the particles' metadata have it.
    """
    group = rotations.point_group(symmetry)
    (reference,) = fit_references(particles, [reference])
    diameter = check_input(particles, [reference], mask_diameter)
    if len(particles) < 2:
        raise ValueError("gold-standard refinement needs at least 2 particles, one for each half; got 1")
    seed = int(np.random.default_rng(rng).integers(2**62))
    fit = _Fit(initial_resolution, bool(correct_contrast), bool(learn_views), bool(local_prior), highest_resolution)
    job = _Job(particles, diameter, seed, fit, group, workers)
    key = {"question": "refine", "n": len(particles), "box": particles.size_px, "pixel": particles.pixel_size,
           "seed": seed, "mask": diameter, "symmetry": symmetry, **asdict(fit),
           "data": checkpoint and fingerprint(particles, [reference])}  # fmt: skip
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    state = job.start(reference) if saved is None else _State.restored(saved)
    bar = tqdm(initial=len(state.iterations), desc="refine", unit="iteration", disable=not progress)
    while not state.finished:
        job.iterate(state)
        if monitor is not None:
            monitor(state.iterations[-1], [Volume(half, particles.pixel_size) for half in state.maps])
        if checkpoint is not None:
            parallel.save_checkpoint(checkpoint, state.values(), key=key)
        bar.update()
        bar.set_postfix_str(f"{state.iterations[-1].resolution:.1f} Å, {state.iterations[-1].step:.2g}°")
    bar.close()
    found = job.result(state)
    if particles.box_size / found.resolution <= particles.box_size / initial_resolution + BEYOND:
        warnings.warn(
            f"the halves agree to {found.resolution:.1f} Å, hardly beyond the {initial_resolution:g} Å that both had "
            "from the reference: nothing may have been found; try another start, or more particles",
            stacklevel=3,
        )
    return found


@dataclass(frozen=True)
class _Fit:
    """What the user chose."""

    initial_resolution: float
    correct_contrast: bool
    learn_views: bool
    local_prior: bool
    highest_resolution: float | None

    def __post_init__(self):
        for name in ("initial_resolution", "highest_resolution"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value:g}")


@dataclass
class _State:
    """All that one iteration hands to the next."""

    maps: np.ndarray  # (2, d, d, d), the references of the halves
    half_maps: np.ndarray  # (2, d, d, d), unfiltered
    final: np.ndarray  # (d, d, d)
    noise: np.ndarray
    matrices: np.ndarray
    shift: np.ndarray
    pmax: np.ndarray
    norm: np.ndarray  # (n,)
    group_scale: np.ndarray
    strong_shell: float  # last one that the scale is read from
    views: np.ndarray  # (2, CELLS), histograms of viewing directions, of either half
    sigma_offset: float
    shell: float  # last shell with SSNR ≥ 1
    extra: float  # shells beyond it to work with
    stage: str  # "global", "local", "last" or "done"
    in_stage: int
    best_shell: float
    stalled: int
    iterations: list
    top: TopPoses

    @property
    def finished(self):
        return self.stage == "done"

    def values(self):
        plain = {name: value for name, value in vars(self).items() if name not in ("iterations", "top")}
        return plain | {"iterations": iterations_to_table(self.iterations)} | self.top.arrays()

    @classmethod
    def restored(cls, values):
        values = dict(values)
        top = TopPoses.from_arrays(values)
        return cls(**values | {"iterations": iterations_from_table(values["iterations"]), "top": top})


class _Job:
    """What stays the same through a refinement."""

    def __init__(self, particles, diameter, seed, fit, group, workers):
        self.particles, self.diameter, self.seed = particles, diameter, seed
        self.fit, self.group, self.workers = fit, group, workers
        self.contrast = Contrast.of(particles)
        size_px = particles.size_px
        self.mask = maximisation.sphere(size_px, diameter / particles.pixel_size)
        finest = fit.highest_resolution or 2 * particles.pixel_size
        self.last_shell = min((size_px - 1) / 2, particles.box_size / finest)
        self.half = split_halves(particles, rng=[seed, 0])
        # first come first served: subsets of this are random, and balanced between the halves
        members = [
            np.random.default_rng([seed, 0, half]).permutation(np.flatnonzero(self.half == half)) for half in (0, 1)
        ]
        place = np.concatenate([np.arange(len(some)) / len(some) for some in members])
        self.order = np.concatenate(members)[np.argsort(place, kind="stable")]

    def start(self, reference):
        particles, rng = self.particles, np.random.default_rng([self.seed, 1])
        noise = initial_noise(particles, rng=rng)
        shell = max(particles.box_size / self.fit.initial_resolution, 2.0)
        reference = low_pass(reference, shell)
        reference = reference.with_data(reference.data * self.mask)
        sampling = self.sampling("global", 10.0, Rotation.random(rng=rng))
        grid = self.grid(shell)
        reference = on_grey_scale(particles, reference, noise, grid, sampling, rng=rng)
        n, empty = len(particles), np.zeros_like(reference.data)
        return _State(
            np.stack([reference.data] * 2), np.stack([empty] * 2), empty, noise, np.stack([np.eye(3)] * n),
            np.zeros((n, 2)), np.zeros(n), self.contrast.norm, self.contrast.group_scale, 0.0,
            np.ones((2, CELLS)), 10.0, shell, 10.0, "global", 0, 0.0, 0, [], TopPoses.empty(n, KEPT),
        )  # fmt: skip

    def grid(self, max_shell):
        extent = self.diameter / 2 / self.particles.pixel_size
        return PolarGrid.covering(self.particles.size_px, min(np.ceil(max_shell), self.last_shell), extent)

    def sampling(self, stage, sigma_offset, turn):
        order = ORDER[stage]
        coarse_radius = coarse_shell(order, self.particles.size_px, self.diameter / 2 / self.particles.pixel_size)
        if stage == "global":
            reach = np.clip(3 * sigma_offset / self.particles.pixel_size, 2.0, SHIFT_RANGE_PX)
            return Sampling(order, reach, 2.0, turn=turn, coarse_radius=coarse_radius, symmetry=self.group)
        return Sampling(
            order, 1.5, 1.0, turn=turn, coarse_radius=coarse_radius, local_sigma=LOCAL_SIGMA[stage], keep_views=8,
            symmetry=self.group,
        )  # fmt: skip

    def iterate(self, state):
        began = time.perf_counter()
        number = len(state.iterations) + 1
        rng = np.random.default_rng([self.seed, 1 + number])
        n = len(self.particles)
        count = FIRST_SUBSETS[number - 1] if number <= len(FIRST_SUBSETS) else n
        used = np.sort(self.order[: min(n, count)])
        reach = min(state.shell + state.extra, np.floor(self.last_shell))
        grid = self.grid(self.last_shell if state.stage == "last" else reach)
        sampling = self.sampling(state.stage, state.sigma_offset, Rotation.random(rng=rng))
        poses = Poses(Rotation.from_matrix(state.matrices), state.shift)
        contrast = (
            replace(self.contrast, norm=state.norm, group_scale=state.group_scale, strong_shell=state.strong_shell)
            if self.fit.correct_contrast
            else None
        )
        again, before = used[state.pmax[used] > 0], state.matrices.copy()
        density = view_density(state.views, self.group, halves=True) if self.fit.learn_views else None
        sums, entropy, misfit = [], [], []
        for half in range(2):
            index = used[self.half[used] == half]
            model = Model(
                (Volume(state.maps[half], self.particles.pixel_size),), state.noise, np.ones(1), state.sigma_offset,
                contrast, None if density is None else density[half : half + 1],
            )  # fmt: skip
            statistics, posterior = expectation(
                self.particles, model, grid, sampling, index=index, poses=poses, workers=self.workers
            )
            sums.append(statistics)
            state.matrices[index], state.shift[index] = posterior.matrix, posterior.shift
            state.pmax[index] = posterior.pmax
            state.top.put(index, posterior.top)
            entropy.append(posterior.entropy)
            misfit.append((index, posterior.misfit, posterior.cross, posterior.explained))
        change = np.nan
        if len(again):
            old, new = (Rotation.from_matrix(matrices[again]) for matrices in (before, state.matrices))
            turned = np.min([rotations.angular_distance(turn * old, new) for turn in self.group], axis=0)
            change = float(np.median(turned))
        correlation, prior = self.maximise(state, sums, grid)
        if contrast is not None:
            index, *found = (np.concatenate(part) for part in zip(*misfit))
            contrast = contrast.updated(index, self.particles.optics_group, found, grid).sure_of(correlation)
            state.norm, state.group_scale = contrast.norm, contrast.group_scale
            state.strong_shell = contrast.strong_shell
        record = Iteration(
            number, len(used), sampling.step, sampling.local_sigma is not None, int(grid.radii[-1]),
            self.resolution(correlation), correlation, state.noise.copy(), prior[None], np.ones(1),
            float(state.pmax[used].mean()), float(np.concatenate(entropy).mean()), state.sigma_offset,
            change, np.nan, time.perf_counter() - began,
        )  # fmt: skip
        state.iterations.append(record)
        self.advance(state, len(used) == n, record)

    def maximise(self, state, sums, grid):
        pixel = self.particles.pixel_size
        both = maximisation.sum_statistics(sums)
        state.noise = maximisation.noise_spectrum(both, grid, state.noise)
        if state.stage == "global":
            state.sigma_offset = maximisation.offset_deviation(both, pixel)
            state.views = np.concatenate([part.views for part in sums])
        halves = [maximisation.solve_class(part, 0, pixel) for part in sums]
        correlation = maximisation.correlation(*(half.data * self.mask for half in halves))
        correlation[round(grid.radii[-1]) + 1 :] = 0
        state.half_maps = np.stack([half.data for half in halves])
        joined = maximisation.join_low_shells(*sums, self.particles.box_size / self.fit.initial_resolution)
        weight = 0.5 * projection.weight_spectrum(both.accumulator(0))
        known = correlation.copy()
        if known[-1] > 0:  # images reach only the inner half of the shell at Nyquist: the empty half speaks for nothing
            known[-1] = known[-2]
        prior = maximisation.wiener_prior(known, weight)
        maps = [maximisation.solve_class(part, 0, pixel, prior=prior).data for part in joined]
        final = maximisation.solve_class(both, 0, pixel, prior=prior).data
        if self.fit.local_prior and state.stage != "global":  # weights of maps with many wrong poses would keep them
            maps, final = self.trust_locally(maps, final, state.half_maps, correlation)
        state.maps, state.final = np.stack(maps) * self.mask, final * self.mask
        return correlation, prior

    def trust_locally(self, maps, final, half_maps, correlation):
        """Local weights instead of those of the shells: of each half from itself, of the final map from both."""
        noise = noise_power(*half_maps, self.mask)
        ratio = maximisation.signal_to_noise(correlation)
        one, two = (n * ratio / (1 + n * ratio) for n in (1, 2))
        one[: projection.FREE_SHELLS], two[: projection.FREE_SHELLS] = 1, 1
        maps = [weighted_locally(data, half, noise, self.mask, one) for data, half in zip(maps, half_maps)]
        return maps, weighted_locally(final, half_maps.mean(0), noise / 2, self.mask, two)

    def resolution(self, correlation):
        shell = maximisation.last_shell_above(correlation, 0.143)
        return float(self.particles.box_size / max(shell, 1))

    def advance(self, state, complete, record):
        half, seventh = (maximisation.last_shell_above(record.correlation, level) for level in (0.5, 0.143))
        state.shell, state.extra = float(max(half, 2)), float(max(10, seventh - half + 5))
        if not complete:
            return
        state.in_stage += 1
        better = seventh > state.best_shell
        state.best_shell = max(state.best_shell, seventh)
        state.stalled = 0 if better else state.stalled + 1
        found = record.angular_change < 0.75 * record.step  # assignments no longer move by more than the grid does
        if state.stage == "last":
            state.stage = "done"
        elif state.stage == "global" and (state.stalled or found or state.in_stage >= MOST_GLOBAL):
            state.stage, state.in_stage, state.stalled = "local", 0, 0
        elif state.stage == "local" and (state.stalled >= 1 or state.in_stage >= MOST_LOCAL):
            state.stage = "last"

    def fitted_contrast(self, state):
        """Norm and scale of each particle; 1 where they are not fitted."""
        if not self.fit.correct_contrast:
            return np.ones(len(self.particles)), np.ones(len(self.particles))
        return state.norm, state.group_scale[self.contrast.group]

    def result(self, state):
        pixel = self.particles.pixel_size
        record = state.iterations[-1]
        return Refinement(
            Volume(state.final, pixel), tuple(Volume(half, pixel) for half in state.half_maps), record.correlation,
            record.resolution, Poses(Rotation.from_matrix(state.matrices), state.shift), self.half, state.pmax,
            state.noise, state.iterations, state.top, *self.fitted_contrast(state),
        )  # fmt: skip
