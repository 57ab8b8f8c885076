"""3D classification: K volumes from one set of particles, with a probability of each class for every particle."""

import time
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from cryonb import parallel, rotations
from cryonb.types import Poses, Volume

from . import maximisation
from .expectation import Model, expectation
from .fine import KEPT
from .maximisation import sum_statistics
from .model import check_input, fingerprint, initial_noise, low_pass, on_grey_scale, split_halves
from .polar import PolarGrid
from .records import Classification, Iteration, TopPoses, iterations_from_table, iterations_to_table
from .search import Sampling, coarse_shell

__all__ = ["classify_3d"]

ORDER = 3  # of the coarse views; one more where details ask for it
SHIFT_RANGE_PX = 5.0
LOCAL_SIGMA = 2.0  # degrees, of the prior around given poses
SEED_RESOLUTION = 30.0  # Å, of the differences that are let through before it is known which of them recur
SEEDING = 4  # iterations over which that fades
SETTLED = 0.02  # share of particles that still change class when the iterations stop


def classify_3d(
    particles, references, *, rng, n_classes=None, n_iterations=25, tau_fudge=1.0, initial_resolution=None,
    highest_resolution=None, symmetry="C1", mask_diameter=None, cross_fit=True, workers="threads", progress=True,
    checkpoint=None, monitor=None,
):  # fmt: skip
    """Sort particles into classes, each with its own volume.

    Parameters
    ----------
    particles : Particles
        n images with CTF. With poses, only their neighbourhood is searched; without, all orientations are: from one
        reference the poses of the consensus are found first and classes are split around them, with a reference for
        each class poses and classes are found together.
    references : Volume or sequence of Volume
        One, from which the classes are split at random, or one for each class.
    rng : seed or Generator
    n_classes : int, optional
        K; needed with a single reference.
    n_iterations : int
        At most; fewer when the classes have settled.
    tau_fudge : float
        T, a factor on the signal-to-noise ratio that the differences between classes are given.
    initial_resolution : float, optional
        Å; the references are low-passed there: 60 without poses, 25 with poses by default.
    highest_resolution : float, optional
        Å; nothing finer enters the likelihood.
    symmetry : str
        Of all classes; as in `refine`.
    mask_diameter : float, optional
        As in `refine`.
    cross_fit : bool
        Score each particle against volumes made from the other half of the particles, so that its own noise in its
        class cannot keep it there.
    workers, progress, checkpoint
        As in `refine`.
    monitor : callable, optional
        Called after each iteration with its `Iteration` and the volumes of the classes.

    Returns
    -------
    Classification

    Notes
    -----
    Scheres, J Mol Biol 415:406 (2012), with another prior: classes are Gaussian around their consensus, not around
    zero, and the variance of each shell is what recurs between the halves of the particles. So a small class
    shrinks to the consensus, where it costs nothing, and differences beyond what the data show do not enter.
    Cross-fitted, an iteration makes the second half's volumes from the first half's, and then the first half's from
    those: one chain, so that classes keep their names. It misleads when K is larger than the data can tell apart:
    look at occupancies and at whether classes of two seeds agree.
    """
    volumes = [references] if isinstance(references, Volume) else list(references)
    n_classes = len(volumes) if n_classes is None else int(n_classes)
    diameter = check_input(particles, volumes, mask_diameter)
    if len(volumes) not in (1, n_classes):
        raise ValueError(f"give one reference, or one for each of the {n_classes} classes; got {len(volumes)}")
    if not 1 <= n_classes <= len(particles):
        raise ValueError(f"n_classes must be between 1 and the {len(particles)} particles, got {n_classes}")
    seed = int(np.random.default_rng(rng).integers(2**62))
    if particles.poses is None and len(volumes) == 1 and n_classes > 1:
        # split in the first iterations of a global search, classes would differ by less than the poses' errors do
        consensus = classify_3d(
            particles, volumes[0], n_classes=1, rng=seed, initial_resolution=initial_resolution,
            highest_resolution=highest_resolution, symmetry=symmetry, mask_diameter=mask_diameter, cross_fit=cross_fit,
            workers=workers, progress=progress, checkpoint=None if checkpoint is None else f"{checkpoint}.consensus",
            monitor=monitor,
        )  # fmt: skip
        particles, volumes, initial_resolution = replace(particles, poses=consensus.poses), consensus.volumes, None
    settings = _Settings(
        n_classes, diameter, float(tau_fudge), particles.poses is not None, bool(cross_fit and len(particles) > 1),
        initial_resolution or (60.0 if particles.poses is None else 25.0),
        2 * particles.pixel_size if highest_resolution is None else float(highest_resolution), seed, symmetry,
    )  # fmt: skip
    key = asdict(settings) | {
        "question": "classify_3d", "n": len(particles), "box": particles.size_px, "pixel": particles.pixel_size,
        "data": fingerprint(particles, volumes),
    }  # fmt: skip
    job = _Job(particles, settings, workers)
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    state = job.start(volumes) if saved is None else _State.restored(saved)
    bar = tqdm(
        total=n_iterations, initial=len(state.iterations), desc="classify 3D", unit="iteration", disable=not progress
    )
    while len(state.iterations) < n_iterations and not job.settled(state):
        job.iterate(state)
        if checkpoint is not None:
            parallel.save_checkpoint(checkpoint, state.values(), key=key)
        if monitor is not None:
            monitor(state.iterations[-1], [job.volume(data * job.mask) for data in state.joined])
        bar.update()
        bar.set_postfix_str(
            f"{state.iterations[-1].resolution:.1f} Å, {state.iterations[-1].class_change:.1%} change class"
        )
    bar.close()
    return job.result(state)


@dataclass(frozen=True)
class _Settings:
    """What the user chose."""

    n_classes: int
    diameter: float
    tau_fudge: float
    local: bool
    cross_fit: bool
    initial_resolution: float
    highest_resolution: float
    seed: int
    symmetry: str


@dataclass
class _State:
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
    sigma_offset: float
    shell: float  # what the search needs to see
    iterations: list
    top: TopPoses

    def values(self):
        plain = {name: value for name, value in vars(self).items() if name not in ("iterations", "top")}
        return plain | {"iterations": iterations_to_table(self.iterations)} | self.top.arrays()

    @classmethod
    def restored(cls, values):
        values = dict(values)
        top = TopPoses.from_arrays(values)
        return cls(**values | {"iterations": iterations_from_table(values["iterations"]), "top": top})


class _Job:
    """What stays the same through a classification."""

    def __init__(self, particles, settings, workers):
        self.particles, self.settings, self.workers = particles, settings, workers
        self.group = rotations.point_group(settings.symmetry)
        size_px, pixel = particles.size_px, particles.pixel_size
        self.mask = maximisation.sphere(size_px, settings.diameter / pixel)
        self.last_shell = min((size_px - 1) // 2, particles.box_size / settings.highest_resolution)
        shells = np.arange(size_px // 2 + 1)
        self.seed_gain = np.clip((particles.box_size / SEED_RESOLUTION - shells) / 2 + 0.5, 0, 1)
        self.start_gain = np.clip((particles.box_size / settings.initial_resolution - shells) / 2 + 0.5, 0, 1)
        self.half = split_halves(particles, rng=[settings.seed, 0])
        self.sides = (1, 0) if len(particles) > 1 else (0,)

    def start(self, volumes):
        """Low-passed references on the grey scale; from one, classes that random parts of the particles make."""
        particles, n_k, n = self.particles, self.settings.n_classes, len(self.particles)
        rng = np.random.default_rng([self.settings.seed, 1])
        noise = initial_noise(particles, rng=rng)
        shell = max(particles.box_size / self.settings.initial_resolution, 2.0)
        everywhere = self.sampling(10.0, Rotation.random(rng=rng), local=False)
        prepared = []
        for volume in volumes:
            volume = low_pass(volume, shell)
            volume = volume.with_data(volume.data * self.mask)
            prepared.append(
                on_grey_scale(particles, volume, noise, self.grid(min(shell, 20)), everywhere, rng=rng).data
            )
        maps = np.stack([np.stack(prepared if len(prepared) == n_k else prepared * n_k)] * 2)
        poses = Poses(Rotation.identity(n)) if particles.poses is None else particles.poses
        state = _State(
            maps, np.zeros((2, *maps.shape[2:]), np.float32), np.zeros_like(maps), maps[0].copy(), noise,
            np.full(n_k, 1 / n_k), poses.rotation.as_matrix(), np.array(poses.shift), np.full((n, n_k), 1 / n_k),
            np.zeros(n), 10.0, shell, [], TopPoses.empty(n, KEPT),
        )  # fmt: skip
        if len(volumes) == 1 and n_k > 1:
            self.split(state, rng)
        return state

    def split(self, state, rng):
        """Seed the classes with random parts of the particles: of the half that is scored last, or of both."""
        grid = self.grid(min(state.shell + 4, self.particles.box_size / SEED_RESOLUTION + 4))
        turn = Rotation.random(rng=rng)
        sampling = self.sampling(state.sigma_offset, turn, local=self.settings.local, max_shell=grid.radii[-1])
        sums = []
        for side in self.sides[-1:] if self.settings.cross_fit else self.sides:
            members = rng.permutation(np.flatnonzero(self.half == side))
            parts = []
            for k in range(self.settings.n_classes):
                model = Model((self.volume(state.maps[0, k]),), state.noise, np.ones(1), state.sigma_offset)
                statistics, _ = expectation(
                    self.particles, model, grid, sampling, index=np.sort(members[k :: self.settings.n_classes]),
                    poses=self.poses(state), workers=self.workers,
                )  # fmt: skip
                parts.append(statistics)
            sums.append(maximisation.stack_classes(parts))
            self.renew(state, side, sums[-1])
        self.finish(state, sum_statistics(sums), grid)

    def volume(self, data):
        return Volume(data, self.particles.pixel_size)

    def poses(self, state):
        return Poses(Rotation.from_matrix(state.matrices), state.shift)

    def grid(self, max_shell):
        extent = self.settings.diameter / 2 / self.particles.pixel_size
        return PolarGrid.covering(self.particles.size_px, min(np.ceil(max_shell), self.last_shell), extent)

    def sampling(self, sigma_offset, turn, *, local, max_shell=0):
        pixel, n_k = self.particles.pixel_size, self.settings.n_classes
        extent_px = self.settings.diameter / 2 / pixel
        order = ORDER + int(local and max_shell > coarse_shell(ORDER + 1, self.particles.size_px, extent_px))
        limit = coarse_shell(order, self.particles.size_px, extent_px)
        if local:
            return Sampling(
                order,
                1.0,
                1.0,
                turn=turn,
                coarse_radius=limit,
                local_sigma=LOCAL_SIGMA,
                keep_views=4 * n_k,
                symmetry=self.group,
            )
        reach = np.clip(3 * sigma_offset / pixel, 2.0, SHIFT_RANGE_PX)
        return Sampling(order, reach, 2.0, turn=turn, coarse_radius=limit, keep_views=12 * n_k, symmetry=self.group)

    def iterate(self, state):
        began = time.perf_counter()
        number = len(state.iterations) + 1
        rng = np.random.default_rng([self.settings.seed, 1 + number])
        grid = self.grid(state.shell + (2 if self.settings.local else 10))
        sampling = self.sampling(
            state.sigma_offset, Rotation.random(rng=rng), local=self.settings.local, max_shell=grid.radii[-1]
        )
        before, label = state.matrices.copy(), state.probability.argmax(1)
        poses = self.poses(state) if self.particles.poses is None else self.particles.poses
        entropy, sums = np.zeros(len(self.particles)), [None, None]
        for side in self.sides:
            index = np.flatnonzero(self.half == side)
            volumes = state.maps[1 - side] if self.settings.cross_fit else state.joined
            model = Model(
                tuple(self.volume(data * self.mask) for data in volumes), state.noise, state.weights, state.sigma_offset
            )
            sums[side], posterior = expectation(
                self.particles, model, grid, sampling, index=index, poses=poses, workers=self.workers
            )
            state.matrices[index], state.shift[index] = posterior.matrix, posterior.shift
            state.probability[index], state.pmax[index] = posterior.class_probability, posterior.pmax
            entropy[index] = posterior.entropy
            state.top.put(index, posterior.top)
            self.renew(state, side, sums[side])
        correlation, prior = self.finish(state, sum_statistics([sums[side] for side in self.sides]), grid)
        change = rotations.angular_distance(Rotation.from_matrix(before), Rotation.from_matrix(state.matrices))
        record = Iteration(
            number, len(self.particles), sampling.step, self.settings.local, int(grid.radii[-1]),
            float(self.particles.box_size / max(state.shell, 1)), correlation, state.noise.copy(), prior,
            state.weights.copy(), float(state.pmax.mean()), float(entropy.mean()), state.sigma_offset,
            float(np.median(change)) if number > 1 else np.nan,
            float((label != state.probability.argmax(1)).mean()) if number > 1 else np.nan, time.perf_counter() - began,
        )  # fmt: skip
        state.iterations.append(record)

    def renew(self, state, side, statistics):
        """The volumes that one half's particles make: their consensus, plus of each class's difference what recurs."""
        consensus, difference = self.parts(statistics)
        state.consensus[side], state.difference[side] = consensus, difference
        believed, gain = self.gains(state)
        base = maximisation.filtered(consensus, believed)
        for k in range(self.settings.n_classes):
            state.maps[side, k] = (base + maximisation.filtered(difference[k], gain[k])) * self.mask

    def parts(self, statistics):
        """Consensus (d, d, d) and differences (K, d, d, d), unfiltered."""
        pixel = self.particles.pixel_size
        consensus = maximisation.solve_class(maximisation.merge_classes(statistics), 0, pixel).data
        solved = [maximisation.solve_class(statistics, k, pixel).data for k in range(self.settings.n_classes)]
        return consensus, np.stack(solved) - consensus

    def gains(self, state, *, halves=1):
        """How much to believe of the consensus (d // 2 + 1,) and of the classes' differences (K, d // 2 + 1).

        With f the correlation between the halves, SSNR = f / (1 − f) for one of them; the Wiener factor is
        SSNR / (1 + SSNR) = f, or 2f / (1 + f) for both. At first, when nothing is known to recur, coarse shells of the
        differences are let through.
        """
        if not state.consensus.any((1, 2, 3)).all():
            return self.start_gain, np.stack([self.seed_gain] * self.settings.n_classes)
        believed = maximisation.correlation(*(state.consensus * self.mask))
        floor = self.seed_gain * max(0.0, 1 - len(state.iterations) / SEEDING)
        gain = [maximisation.correlation(*(state.difference[:, k] * self.mask)) for k in range(self.settings.n_classes)]
        gain = np.array([np.convolve(np.pad(f, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid") for f in gain])
        factors = []
        for f, fudge in ((believed, 1.0), (gain, self.settings.tau_fudge)):
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
        for k in range(self.settings.n_classes):
            state.joined[k] = base + maximisation.filtered(difference[k], gain[k])
        state.shell = float(self.reach(believed, gain))
        return np.stack([maximisation.correlation(*(state.maps[:, k])) for k in range(len(gain))]), gain

    def reach(self, believed, gain):
        """Last shell that the next search is to see: of the consensus, or where poses are known, of the differences."""
        if not self.settings.local:
            return np.clip(maximisation.last_shell_above(believed, 0.5), 2, self.last_shell)
        differences = max(maximisation.last_shell_above(row, 0.5) for row in gain)
        return np.clip(differences, self.particles.box_size / SEED_RESOLUTION, self.last_shell)

    def settled(self, state):
        last = [record.class_change for record in state.iterations[-2:]]
        return len(state.iterations) > SEEDING and max(last) < SETTLED

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
