"""3D classification: K volumes from one set of particles, with a probability of each class for every particle."""

import time
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from cryonb import parallel, projection, rotations
from cryonb.types import Poses, Volume

from . import maximisation
from .expectation import Model, expectation
from .model import check_input, initial_noise, low_pass, on_grey_scale
from .polar import PolarGrid
from .records import Classification, Iteration, iterations_from_table, iterations_to_table
from .search import Sampling

__all__ = ["classify_3d"]

GLOBAL_ORDER, LOCAL_ORDER = 3, 4
SHIFT_RANGE_PX = 5.0
LOCAL_SIGMA = 2.5  # degrees, of the prior around given poses
SETTLED = 0.005  # share of particles that still change class when the iterations stop


def classify_3d(
    particles, references, *, rng, n_classes=None, n_iterations=25, tau_fudge=4.0, initial_resolution=60.0,
    highest_resolution=None, mask_diameter=None, cross_fit=True, workers="threads", progress=True, checkpoint=None,
):  # fmt: skip
    """Sort particles into classes, each with its own volume.

    Parameters
    ----------
    particles : Particles
        n images with CTF. With poses, only their neighbourhood is searched; without, all orientations are.
    references : Volume or sequence of Volume
        One, from which the classes are split at random, or one for each class.
    rng : seed or Generator
    n_classes : int, optional
        K; needed with a single reference.
    n_iterations : int
        At most; fewer when the classes have settled.
    tau_fudge : float
        T: how much more than its own power a class may vary.
    initial_resolution : float
        Å; the references are low-passed there.
    highest_resolution : float, optional
        Å; nothing finer enters the likelihood. Motions of large parts show at 20–30 Å.
    mask_diameter : float, optional
        As in `refine`.
    cross_fit : bool
        Score each particle against volumes made from the other half of the particles, so that its own noise in its
        class cannot keep it there.
    workers, progress, checkpoint
        As in `refine`.

    Returns
    -------
    Classification

    Notes
    -----
    Scheres, J Mol Biol 415:406 (2012), with τ² = ½⟨|V|²⟩ of the masked volume. Cross-fitted, an iteration makes
    the second half's volumes from the first half's, and then the first half's from those: one chain, so that
    classes keep their names. It misleads when K is larger than the data can tell apart: look at occupancies and at
    whether classes of two seeds agree.
    """
    volumes = [references] if isinstance(references, Volume) else list(references)
    n_classes = len(volumes) if n_classes is None else int(n_classes)
    diameter = check_input(particles, volumes, mask_diameter)
    if len(volumes) not in (1, n_classes):
        raise ValueError(f"give one reference, or one for each of the {n_classes} classes; got {len(volumes)}")
    if not 1 <= n_classes <= len(particles):
        raise ValueError(f"n_classes must be between 1 and the {len(particles)} particles, got {n_classes}")
    seed = int(np.random.default_rng(rng).integers(2**62))
    limit = particles.size_px if highest_resolution is None else particles.box_size / highest_resolution
    job = _Job(particles, diameter, seed, n_classes, tau_fudge, limit, cross_fit and len(particles) > 1, workers)
    key = {"question": "classify_3d", "n": len(particles), "box": particles.size_px, "pixel": particles.pixel_size,
           "seed": seed, "mask": diameter, "start": initial_resolution, "classes": n_classes, "fudge": tau_fudge,
           "limit": limit, "cross": cross_fit, "local": particles.poses is not None}  # fmt: skip
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    state = job.start(volumes, initial_resolution) if saved is None else _State.restored(saved)
    from tqdm.auto import tqdm

    bar = tqdm(total=n_iterations, initial=len(state.iterations), desc="classify 3D", unit="iteration", disable=not progress)
    while len(state.iterations) < n_iterations and not job.settled(state):
        job.iterate(state)
        if checkpoint is not None:
            parallel.save_checkpoint(checkpoint, state.values(), key=key)
        bar.update()
        bar.set_postfix_str(f"{state.iterations[-1].resolution:.1f} Å, {state.iterations[-1].class_change:.1%} change class")
    bar.close()
    return job.result(state)


@dataclass
class _State:
    """All that one iteration hands to the next."""

    maps: np.ndarray  # (2, K, d, d, d): references made from either half (from all, twice, without cross-fitting)
    half_maps: np.ndarray  # the same, before the mask
    joined: np.ndarray  # (K, d, d, d)
    noise: np.ndarray
    weights: np.ndarray
    matrices: np.ndarray
    shift: np.ndarray
    probability: np.ndarray
    pmax: np.ndarray
    sigma_offset: float
    shell: float
    iterations: list

    def values(self):
        plain = {name: value for name, value in vars(self).items() if name != "iterations"}
        return plain | {"iterations": iterations_to_table(self.iterations)}

    @classmethod
    def restored(cls, values):
        return cls(**{**values, "iterations": iterations_from_table(values["iterations"])})


class _Job:
    """What stays the same through a classification."""

    def __init__(self, particles, diameter, seed, n_classes, tau_fudge, limit, cross_fit, workers):
        self.particles, self.diameter, self.seed = particles, diameter, seed
        self.n_classes, self.tau_fudge, self.cross_fit, self.workers = n_classes, tau_fudge, cross_fit, workers
        self.mask = maximisation.sphere(particles.size_px, diameter / particles.pixel_size)
        self.last_shell = min((particles.size_px - 1) // 2, limit)
        order = np.random.default_rng([seed, 0]).permutation(len(particles))
        self.half = np.empty(len(particles), dtype=np.int64)
        self.half[order] = np.arange(len(particles)) % 2
        self.halves = [np.flatnonzero(self.half == h) for h in range(2)] if cross_fit else [np.arange(len(particles))]

    def start(self, volumes, initial_resolution):
        """Low-passed references on the grey scale; from one, classes that random parts of the particles make."""
        particles, n_k = self.particles, self.n_classes
        rng = np.random.default_rng([self.seed, 1])
        noise = initial_noise(particles, rng=rng)
        shell = max(particles.box_size / initial_resolution, 2.0)
        scale_sampling = self.sampling(10.0, Rotation.random(rng=rng), everywhere=True)
        prepared = []
        for volume in volumes:
            volume = low_pass(volume, shell)
            volume = volume.with_data(volume.data * self.mask)
            prepared.append(on_grey_scale(particles, volume, noise, self.grid(shell), scale_sampling, rng=rng).data)
        maps = np.stack([np.stack(prepared if len(prepared) == n_k else prepared * n_k)] * 2)
        n = len(particles)
        poses = particles.poses
        state = _State(
            maps, maps.copy(), maps[0].copy(), noise, np.full(n_k, 1 / n_k),
            np.stack([np.eye(3)] * n) if poses is None else poses.rotation.as_matrix(),
            np.zeros((n, 2)) if poses is None else np.array(poses.shift),
            np.full((n, n_k), 1 / n_k), np.zeros(n), 10.0, shell, [],
        )  # fmt: skip
        if len(volumes) == 1 and n_k > 1:
            self.split(state, rng)
        return state

    def split(self, state, rng):
        """Seed the classes with random parts of the particles that are to be scored last."""
        members = rng.permutation(self.halves[0])
        sampling = self.sampling(state.sigma_offset, Rotation.random(rng=rng))
        grid = self.grid(state.shell + 10)
        for k in range(self.n_classes):
            model = Model((self.volume(state.maps[0, k]),), state.noise, np.ones(1), state.sigma_offset)
            statistics, _ = expectation(
                self.particles, model, grid, sampling, index=np.sort(members[k :: self.n_classes]),
                poses=self.poses(state), workers=self.workers,
            )  # fmt: skip
            state.noise = maximisation.noise_spectrum(statistics, grid, state.noise)
            prior = self.tau_fudge * maximisation.power_prior(self.volume(state.maps[0, k]))
            solved = maximisation.solve_class(statistics, 0, self.particles.pixel_size, prior=prior)
            state.maps[:, k] = low_pass(solved, state.shell + 4).data * self.mask

    def volume(self, data):
        return Volume(data, self.particles.pixel_size)

    def poses(self, state):
        return Poses(Rotation.from_matrix(state.matrices), state.shift)

    def grid(self, max_shell):
        extent = self.diameter / 2 / self.particles.pixel_size
        return PolarGrid.covering(self.particles.size_px, min(np.ceil(max_shell), self.last_shell), extent)

    def sampling(self, sigma_offset, turn, *, everywhere=False):
        pixel = self.particles.pixel_size
        local = self.particles.poses is not None and not everywhere
        order = LOCAL_ORDER if local else GLOBAL_ORDER
        step = np.radians(rotations.healpix_step(order))
        coarse_radius = self.particles.size_px / (1.5 * step * 0.75 * self.diameter / 2 / pixel)
        if local:
            return Sampling(
                order, 1.0, 1.0, turn=turn, coarse_radius=coarse_radius, local_sigma=LOCAL_SIGMA,
                keep_views=6 * self.n_classes,
            )  # fmt: skip
        reach = np.clip(3 * sigma_offset / pixel, 2.0, SHIFT_RANGE_PX)
        return Sampling(order, reach, 2.0, turn=turn, coarse_radius=coarse_radius, keep_views=16 * self.n_classes)

    def iterate(self, state):
        began = time.perf_counter()
        number = len(state.iterations) + 1
        rng = np.random.default_rng([self.seed, 1 + number])
        grid = self.grid(state.shell + 10)
        sampling = self.sampling(state.sigma_offset, Rotation.random(rng=rng))
        before, label = state.matrices.copy(), state.probability.argmax(1)
        poses, entropy, sums, prior = self.poses(state), np.zeros(len(self.particles)), [], None
        start_poses = self.particles.poses if self.particles.poses is not None else poses
        for side in reversed(range(len(self.halves))):
            index = self.halves[side]
            source = 1 - side if self.cross_fit else 0
            model = Model(
                tuple(self.volume(data) for data in state.maps[source]), state.noise, state.weights, state.sigma_offset
            )
            statistics, posterior = expectation(
                self.particles, model, grid, sampling, index=index, poses=start_poses, workers=self.workers
            )
            sums.append(statistics)
            state.matrices[index], state.shift[index] = posterior.matrix, posterior.shift
            state.probability[index], state.pmax[index] = posterior.class_probability, posterior.pmax
            entropy[index] = posterior.entropy
            prior = self.renew(state, statistics, side)
        correlation = self.finish(state, sums, grid)
        change = rotations.angular_distance(Rotation.from_matrix(before), Rotation.from_matrix(state.matrices))
        record = Iteration(
            number, len(self.particles), sampling.step, sampling.local_sigma is not None, int(grid.radii[-1]),
            float(self.particles.box_size / max(state.shell, 1)), correlation, state.noise.copy(), prior, state.weights.copy(),
            float(state.pmax.mean()), float(entropy.mean()), state.sigma_offset,
            float(np.median(change)) if number > 1 else np.nan,
            float((label != state.probability.argmax(1)).mean()) if number > 1 else np.nan, time.perf_counter() - began,
        )  # fmt: skip
        state.iterations.append(record)

    def renew(self, state, statistics, side):
        """The volumes that this half's particles make, regularised by the power of those they replace."""
        prior = np.stack([self.tau_fudge * maximisation.power_prior(self.volume(data)) for data in state.maps[side]])
        for k in range(self.n_classes):
            solved = maximisation.solve_class(statistics, k, self.particles.pixel_size, prior=prior[k])
            state.half_maps[side, k], state.maps[side, k] = solved.data, solved.data * self.mask
        if not self.cross_fit:
            state.half_maps[1], state.maps[1] = state.half_maps[0], state.maps[0]
        return prior

    def finish(self, state, sums, grid):
        """Noise, class weights, resolution and the joined volumes, from all particles."""
        both = sums[0] if len(sums) == 1 else maximisation.add_statistics(*sums)
        state.noise = maximisation.noise_spectrum(both, grid, state.noise)
        state.weights = maximisation.class_weights(both)
        if self.particles.poses is None:
            state.sigma_offset = maximisation.offset_deviation(both, self.particles.pixel_size)
        reach, correlation = 0, []
        for k in range(self.n_classes):
            power = maximisation.power_prior(self.volume(state.maps[:, k].mean(0)))
            prior = self.tau_fudge * power
            state.joined[k] = maximisation.solve_class(both, k, self.particles.pixel_size, prior=prior).data * self.mask
            correlation.append(maximisation.correlation(*state.maps[:, k]))
            ratio = power * projection.weight_spectrum(both.accumulator(k))
            if self.cross_fit:
                ratio = maximisation.signal_to_noise(correlation[-1])
            reach = max(reach, maximisation.last_shell_above(ratio, 1.0))
        state.shell = float(np.clip(reach, 2, self.last_shell))
        return np.stack(correlation)

    def settled(self, state):
        last = [record.class_change for record in state.iterations[-2:]]
        return len(state.iterations) >= 5 and max(last) < SETTLED

    def result(self, state):
        pairs = tuple(
            tuple(self.volume(state.half_maps[side, k]) for side in range(2)) for k in range(self.n_classes)
        )
        return Classification(
            tuple(self.volume(data) for data in state.joined), pairs, state.probability, self.poses(state), state.pmax,
            self.half, state.noise, state.iterations,
        )  # fmt: skip
