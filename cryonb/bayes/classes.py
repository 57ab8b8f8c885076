"""Classes in the making: what one iteration of a 3D classification hands to the next, and how it is made."""

import time
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from cryonb import rotations
from cryonb.types import Poses, Volume

from . import maximisation
from .contrast import Contrast
from .expectation import Model, expectation
from .fine import KEPT
from .maximisation import sum_statistics
from .model import initial_noise, low_pass, on_grey_scale, split_halves
from .polar import PolarGrid
from .records import Classification, Iteration, TopPoses, iterations_from_table, iterations_to_table
from .search import Sampling, coarse_shell

__all__ = ["Job", "Settings", "State"]

ORDER = 3  # of the coarse views; one more where details ask for it
SHIFT_RANGE_PX = 5.0
LOCAL_SIGMA = 2.0  # degrees, of the prior around given poses
SEED_RESOLUTION = 30.0  # Å, of the differences that are let through before it is known which of them recur
SEEDING = 4  # iterations over which that fades
SETTLED = 0.02  # share of particles that still change class when the iterations stop
FEW, PATIENCE = 0.15, 3  # or a share below the first that has not fallen by a tenth in so many iterations


@dataclass(frozen=True)
class Settings:
    """What the user chose."""

    n_classes: int
    diameter: float
    local: bool
    cross_fit: bool
    initial_resolution: float
    highest_resolution: float
    seed: int
    symmetry: str
    tau_fudge: float = 1.0

    def __post_init__(self):
        for name in ("initial_resolution", "highest_resolution", "tau_fudge"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, got {value:g}")


@dataclass
class State:
    """All that one iteration hands to the next."""

    maps: np.ndarray  # (2, K, d, d, d): references made from either half (of both, twice, without cross-fitting)
    consensus: np.ndarray  # (2, d, d, d), of either half, unfiltered
    difference: np.ndarray  # (2, K, d, d, d), class less consensus of either half, unfiltered
    joined: np.ndarray  # (K, d, d, d), from all particles
    noise: np.ndarray
    weights: np.ndarray
    matrices: np.ndarray
    shift: np.ndarray
    probability: np.ndarray
    pmax: np.ndarray
    norm: np.ndarray  # (n,), of each image
    group_scale: np.ndarray  # of the signal, of each group
    tau_fudge: float
    sigma_offset: float
    shell: float  # what the search needs to see
    iterations: list
    top: TopPoses
    complete: bool = False  # the last iteration is done

    def values(self):
        plain = {name: value for name, value in vars(self).items() if name not in ("iterations", "top")}
        return plain | {"iterations": iterations_to_table(self.iterations)} | self.top.arrays()

    @classmethod
    def restored(cls, values):
        values = dict(values)
        top = TopPoses.from_arrays(values)
        complete = bool(values.pop("complete"))
        iterations = iterations_from_table(values["iterations"])
        return cls(**values | {"iterations": iterations, "top": top, "complete": complete})


class Job:
    """What stays the same through a classification."""

    def __init__(self, particles, settings, workers, *, half=None, contrast=None):
        self.particles, self.settings, self.workers = particles, settings, workers
        self.group = rotations.point_group(settings.symmetry)
        size_px, pixel = particles.size_px, particles.pixel_size
        self.mask = maximisation.sphere(size_px, settings.diameter / pixel)
        self.last_shell = min((size_px - 1) / 2, particles.box_size / settings.highest_resolution)
        shells = np.arange(size_px // 2 + 1)
        self.seed_gain = np.clip((particles.box_size / SEED_RESOLUTION - shells) / 2 + 0.5, 0, 1)
        self.start_gain = np.clip((particles.box_size / settings.initial_resolution - shells) / 2 + 0.5, 0, 1)
        self.half = split_halves(particles, rng=[settings.seed, 0]) if half is None else half
        self.sides = (1, 0) if len(particles) > 1 else (0,)
        self.contrast_known = contrast is not None
        self.contrast = Contrast.of(particles) if contrast is None else contrast
        self.used = np.ones(len(particles), dtype=bool)  # the others neither make volumes nor are looked at

    def start(self, volumes, n_classes=None):
        """Low-passed references on the grey scale; from one, classes that random parts of the particles make."""
        particles, n_k = self.particles, n_classes or self.settings.n_classes
        rng = np.random.default_rng([self.settings.seed, 1])
        noise = initial_noise(particles, rng=rng)
        shell = max(particles.box_size / self.settings.initial_resolution, 2.0)
        everywhere = Sampling(
            ORDER, SHIFT_RANGE_PX, 2.0, turn=Rotation.random(rng=rng), coarse_radius=self.limit(ORDER)
        )
        prepared = []
        for volume in volumes:
            volume = low_pass(volume, shell)
            volume = volume.with_data(volume.data * self.mask)
            prepared.append(
                on_grey_scale(particles, volume, noise, self.grid(min(shell, 20)), everywhere, rng=rng).data
            )
        state = self.fresh([prepared[0]] * 2, noise, n_k, shell)
        if self.settings.local and not self.contrast_known:
            self.measure_contrast(state, np.mean(prepared, axis=0), rng)
        if len(prepared) == n_k:
            state.maps[:], state.joined[:] = prepared, prepared
        if len(volumes) == 1 and n_k > 1:
            self.split(state, rng)
        return state

    def fresh(self, halves, noise, n_k, shell):
        """A state in which n_k classes do not differ yet, from a reference for either half (d, d, d)."""
        n = len(self.particles)
        poses = Poses(Rotation.identity(n)) if self.particles.poses is None else self.particles.poses
        maps = np.stack([np.stack([half] * n_k) for half in halves])
        return State(
            maps, np.zeros((2, *maps.shape[2:]), np.float32), np.zeros_like(maps), maps[0].copy(), noise,
            np.full(n_k, 1 / n_k), poses.rotation.as_matrix(), np.array(poses.shift), np.full((n, n_k), 1 / n_k),
            np.zeros(n), self.contrast.norm, self.contrast.group_scale, self.settings.tau_fudge, 10.0, shell, [],
            TopPoses.empty(n, KEPT),
        )  # fmt: skip

    def measure_contrast(self, state, reference, rng):
        """Norm and scale of every image, from what their consensus explains of them; once, before classes differ."""
        n, grid = len(self.particles), self.grid(state.shell + 2)
        sampling = self.sampling(state, Rotation.random(rng=rng), local=True, max_shell=grid.radii[-1])
        contrast = replace(self.contrast, strong_shell=state.shell)
        model = Model((self.volume(reference),), state.noise, np.ones(1), state.sigma_offset, contrast)
        _, found = expectation(self.particles, model, grid, sampling, poses=self.poses(state), workers=self.workers)
        misfit = (found.misfit, found.cross, found.explained)
        contrast = contrast.updated(np.arange(n), self.particles.optics_group, misfit, grid)
        state.norm, state.group_scale = contrast.norm, contrast.group_scale

    def model(self, state, volumes, noise=None):
        """What an expectation assumes: volumes (K, d, d, d) within the mask, with the state's shares and contrast."""
        contrast = replace(self.contrast, norm=state.norm, group_scale=state.group_scale)
        volumes = tuple(self.volume(data * self.mask) for data in volumes)
        return Model(volumes, state.noise if noise is None else noise, state.weights, state.sigma_offset, contrast)

    def split(self, state, rng):
        """Seed the classes with random parts of the particles: of the half that is scored last, or of both."""
        grid = self.grid(min(state.shell + 4, self.particles.box_size / SEED_RESOLUTION + 4))
        turn = Rotation.random(rng=rng)
        sampling = self.sampling(state, turn, local=self.settings.local, max_shell=grid.radii[-1])
        sums = []
        for side in self.sides[-1:] if self.settings.cross_fit else self.sides:
            members = rng.permutation(self.members(side))
            parts = []
            for k in range(len(state.weights)):
                model = replace(self.model(state, state.maps[0, k : k + 1]), class_weights=np.ones(1))
                statistics, _ = expectation(
                    self.particles, model, grid, sampling, index=np.sort(members[k :: len(state.weights)]),
                    poses=self.poses(state), workers=self.workers,
                )  # fmt: skip
                parts.append(statistics)
            sums.append(maximisation.stack_classes(parts))
            self.renew(state, side, sums[-1])
        self.finish(state, sum_statistics(sums), grid)

    def members(self, side):
        return np.flatnonzero((self.half == side) & self.used)

    def volume(self, data):
        return Volume(data, self.particles.pixel_size)

    def poses(self, state):
        return Poses(Rotation.from_matrix(state.matrices), state.shift)

    def grid(self, max_shell):
        extent = self.settings.diameter / 2 / self.particles.pixel_size
        return PolarGrid.covering(self.particles.size_px, min(np.ceil(max_shell), self.last_shell), extent)

    def limit(self, order):
        return coarse_shell(order, self.particles.size_px, self.settings.diameter / 2 / self.particles.pixel_size)

    def sampling(self, state, turn, *, local, max_shell=0):
        n_k = len(state.weights)
        order = ORDER + int(local and max_shell > self.limit(ORDER + 1))
        common = {"turn": turn, "coarse_radius": self.limit(order), "symmetry": self.group}
        if local:
            return Sampling(order, 1.0, 1.0, local_sigma=LOCAL_SIGMA, keep_views=4 * n_k, **common)
        reach = np.clip(3 * state.sigma_offset / self.particles.pixel_size, 2.0, SHIFT_RANGE_PX)
        return Sampling(order, reach, 2.0, keep_views=12 * n_k, **common)

    def iterate(self, state, *, last=False):
        """One iteration; the last one looks around the poses, at all frequencies, so that the volumes have them all."""
        began = time.perf_counter()
        number = len(state.iterations) + 1
        rng = np.random.default_rng([self.settings.seed, 1 + number])
        local = last or self.settings.local
        grid = self.grid(self.last_shell if last else state.shell + (2 if local else 10))
        sampling = self.sampling(state, Rotation.random(rng=rng), local=local, max_shell=grid.radii[-1])
        before, label = state.matrices.copy(), state.probability.argmax(1)
        poses = self.poses(state) if self.particles.poses is None else self.particles.poses
        entropy, sums = np.zeros(len(self.particles)), [None, None]
        for side in self.sides:
            index = self.members(side)
            volumes = state.maps[1 - side] if self.settings.cross_fit else state.joined
            model = self.model(state, volumes)
            sums[side], posterior = expectation(
                self.particles, model, grid, sampling, index=index, poses=poses, workers=self.workers
            )
            state.matrices[index], state.shift[index] = posterior.matrix, posterior.shift
            state.probability[index], state.pmax[index] = posterior.class_probability, posterior.pmax
            entropy[index] = posterior.entropy
            state.top.put(index, posterior.top)
            self.renew(state, side, sums[side])
        correlation, prior = self.finish(state, sum_statistics([sums[side] for side in self.sides]), grid)
        old, new = Rotation.from_matrix(before), Rotation.from_matrix(state.matrices)
        change = np.min([rotations.angular_distance(turn * old, new) for turn in self.group], axis=0)
        record = Iteration(
            number, int(self.used.sum()), sampling.step, local, int(grid.radii[-1]),
            float(self.particles.box_size / max(state.shell, 1)), correlation, state.noise.copy(), prior,
            state.weights.copy(), float(state.pmax[self.used].mean()), float(entropy[self.used].mean()),
            state.sigma_offset, float(np.median(change[self.used])) if number > 1 else np.nan,
            float((label != state.probability.argmax(1))[self.used].mean()) if number > 1 else np.nan,
            time.perf_counter() - began,
        )  # fmt: skip
        state.iterations.append(record)
        state.complete = last

    def renew(self, state, side, statistics):
        """The volumes that one half's particles make: their consensus, plus of each class's difference what recurs."""
        consensus, difference = self.parts(statistics)
        state.consensus[side], state.difference[side] = consensus, difference
        self.refilter(state, side)

    def refilter(self, state, side):
        """What a half's volumes are worth as references."""
        believed, gain = self.gains(state)
        base = maximisation.filtered(state.consensus[side], believed)
        for k, difference in enumerate(state.difference[side]):
            state.maps[side, k] = (base + maximisation.filtered(difference, gain[k])) * self.mask

    def parts(self, statistics):
        """Consensus (d, d, d) and differences (K, d, d, d), unfiltered.

        To each class's sums one particle's worth of the consensus is added: where a class has seen nothing it does not
        differ. (Solved alone it would be 0 there, less by the consensus in either half, and that would recur.)
        """
        pixel = self.particles.pixel_size
        merged = maximisation.merge_classes(statistics)
        consensus = maximisation.solve_class(merged, 0, pixel).data
        share = 1 / max(float(statistics.class_count.sum()), 1.0)
        filled = replace(
            statistics, values=statistics.values + share * merged.values,
            weights=statistics.weights + share * merged.weights,
        )  # fmt: skip
        n_k = len(statistics.class_count)
        solved = [maximisation.solve_class(filled, k, pixel).data for k in range(n_k)]
        return consensus, np.stack(solved) - consensus

    def gains(self, state, *, halves=1):
        """How much to believe of the consensus (d // 2 + 1,) and of the classes' differences (K, d // 2 + 1).

        With f the correlation between the halves, SSNR = f / (1 − f) for one of them; the Wiener factor is
        SSNR / (1 + SSNR) = f, or 2f / (1 + f) for both. At first, when nothing is known to recur, coarse shells of the
        differences are let through.
        """
        if not state.consensus.any((1, 2, 3)).all():
            return self.start_gain, np.stack([self.seed_gain] * len(state.weights))
        believed = maximisation.correlation(*(state.consensus * self.mask))
        floor = self.seed_gain * max(0.0, 1 - len(state.iterations) / SEEDING)
        gain = [maximisation.correlation(*(pair * self.mask)) for pair in state.difference.swapaxes(0, 1)]
        gain = np.array([np.convolve(np.pad(f, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid") for f in gain])
        factors = []
        for f, fudge in ((believed, 1.0), (gain, state.tau_fudge)):
            ratio = halves * fudge * maximisation.signal_to_noise(f)
            factors.append(ratio / (1 + ratio))
        believed, gain = factors
        believed[0], gain[:, 0] = believed[1], gain[:, 1]
        return believed, np.maximum(gain, floor)

    def finish(self, state, both, grid):
        """Noise, class weights, search resolution and the joined volumes, from all particles."""
        state.noise = maximisation.noise_spectrum(both, grid, state.noise)
        state.weights = maximisation.class_weights(both)
        if not self.settings.local:
            state.sigma_offset = maximisation.offset_deviation(both, self.particles.pixel_size)
        believed, gain = self.gains(state, halves=2)
        consensus, difference = self.parts(both)
        base = maximisation.filtered(consensus, believed)
        for k, part in enumerate(difference):
            state.joined[k] = base + maximisation.filtered(part, gain[k])
        state.shell = float(self.reach(believed, gain))
        return np.stack([maximisation.correlation(*(state.maps[:, k])) for k in range(len(gain))]), gain

    def reach(self, believed, gain):
        """Last shell that the next search is to see: of the consensus, or where poses are known, of the differences."""
        if not self.settings.local:
            return np.clip(maximisation.last_shell_above(believed, 0.5), 2, self.last_shell)
        differences = max(maximisation.last_shell_above(row, 0.5) for row in gain)
        return np.clip(differences, self.particles.box_size / SEED_RESOLUTION, self.last_shell)

    def settled(self, state, *, since=0):
        """Hardly a particle changes class, or few do and no fewer than some iterations (after ``since``) ago."""
        change = [record.class_change for record in state.iterations[since + 1 :]]
        if len(change) < max(SEEDING, PATIENCE + 1):
            return False
        before, recent = change[:-PATIENCE], change[-PATIENCE:]
        return max(recent[-2:]) < SETTLED or (max(recent) < FEW and min(recent) > 0.9 * min(before))

    def result(self, state):
        believed, gain = self.gains(state)
        halves = [
            tuple(
                self.volume(
                    maximisation.filtered(state.consensus[side], believed) + maximisation.filtered(difference, row)
                )
                for side, difference in enumerate(state.difference[:, k])
            )
            for k, row in enumerate(gain)
        ]
        return Classification(
            tuple(self.volume(data * self.mask) for data in state.joined), tuple(halves), state.probability,
            self.poses(state) if self.particles.poses is None else self.particles.poses,
            state.pmax, self.half, state.noise, state.iterations, state.top,
        )  # fmt: skip
