"""Volumes from particles alone: mini-batches, sums whose memory fades, and frequencies that enter one after another."""

import time
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from cryonb import filters, parallel, rotations
from cryonb.types import Poses, Volume

from . import maximisation
from .expectation import Model, expectation
from .model import check_input, fingerprint, initial_noise, low_pass, on_grey_scale
from .polar import PolarGrid
from .records import Iteration, iterations_from_table, iterations_to_table
from .search import Sampling, coarse_shell

__all__ = ["InitialModel", "initial_model"]

ORDER = 2  # of the coarse views, 15° apart; the fine ones, 7.5°, serve to a 13th of the diameter
KEEP_VIEWS = 8  # for each class
SHIFT_RANGE_PX = 5.0
N_BLOBS, BLOB_SIGMA, BLOB_REACH = 40, 0.15, 0.6  # in units of the mask's radius
MEMORY = (0.9, 0.2)  # weight of a batch in the running sums, at the start and at the end
ANNEALED = 0.7  # of the batches; from there on the noise is what the residuals say
MARCH = (0.2, 0.9)  # of the batches; between them the frequency limit grows
STARTING, ENDING = 6, 13  # default resolutions: the mask's diameter over these
SAMPLES_PER_WAVE = 3  # pixels for the finest wave
SAVE_EVERY = 10  # batches


@dataclass(frozen=True, eq=False, repr=False)
class InitialModel:
    """First volumes, whose hand is not known, with the poses that belong to them.

    Parameters
    ----------
    volumes : tuple of K Volume
        On the grey scale and in the box of the particles, low-passed at ``resolution``.
    poses : Poses
        Of all particles, in their most probable class.
    probability : ndarray (n, K)
        Posterior of each class.
    pmax, log_evidence : ndarray (n,)
        Probability of each particle's best pose, and log Σ Γ up to a constant of the image.
    resolution : float
        Å, at which the frequencies ended; it was set, not measured.
    iterations : list of Iteration
        One for each batch and one for the last pass over all particles. Their ``resolution`` is the frequency limit,
        and their ``correlation`` is between references before and after.
    """

    volumes: tuple[Volume, ...]
    poses: Poses
    probability: np.ndarray
    pmax: np.ndarray
    log_evidence: np.ndarray
    resolution: float
    iterations: list[Iteration]

    @property
    def label(self):
        """Most probable class of each particle, ndarray (n,) int."""
        return self.probability.argmax(1)

    @property
    def occupancy(self):
        """Mean posterior of each class, ndarray (K,)."""
        return self.probability.mean(0)

    def __repr__(self):
        shares = " / ".join(f"{100 * share:.0f} %" for share in self.occupancy)
        return f"InitialModel({len(self.poses)} particles, {shares}, to {self.resolution:.0f} Å)"


@parallel.with_one_blas_thread
def initial_model(
    particles, *, rng, n_classes=1, n_batches=200, batch_size=100, symmetry="C1", mask_diameter=None,
    initial_resolution=None, final_resolution=None, workers="threads", progress=True, checkpoint=None, monitor=None,
):  # fmt: skip
    """Volumes from particles alone, from a start that knows nothing of them.

    Parameters
    ----------
    particles : Particles
        n images with CTF; poses, where there are any, are not used.
    rng : seed or Generator
    n_classes : int
        K.
    n_batches : int
    batch_size : int
        Particles of a batch, at most n. More for images with less signal.
    symmetry : str
        Point group of the volumes, as in `refine`; also the first, random ones have it. Where in doubt, leave it out
        and look at what comes.
    mask_diameter : float, optional
        Diameter in Å of the soft sphere that holds the particle; nine tenths of the box by default. It also sets how
        fine the search must be: give it. Whether it cuts the particle is not checked: no volume says how large that is.
    initial_resolution, final_resolution : float, optional
        Å; finer detail is not looked at in the first fifth of the batches, and at the end. The mask's diameter over
        6 and over 13 by default: 55 and 25 Å for a ribosome.
    workers, progress
        As in `refine`.
    checkpoint : path, optional
        Saved every ten batches; the same call resumes from it to the same result.
    monitor : callable, optional
        Called after each batch with its `Iteration` and the volumes of the classes.

    Returns
    -------
    InitialModel

    Raises
    ------
    ValueError
        No CTF, images that are constant or not finite, fewer particles than a batch, resolutions that do not fit.

    Notes
    -----
    Expectation maximisation in mini-batches with a memory that fades: A and W, the sums of the M-step, are averaged as
    A ← (1 − η)A + ηA_batch with η from 0.9 down to 0.2 (Cappé & Moulines, J R Stat Soc B 71:593 (2009)), which with
    W as the preconditioner is a gradient step with momentum (cryoSPARC: Punjani et al., Nat Methods 14:290 (2017);
    RELION's VDAM: Kimanius et al., Biochem J 478:4169 (2021)). Three things keep the first, arbitrary references from
    lasting: all orientations are searched in each batch; the noise is at first what the images would have without any
    signal, so that posteriors are wide, and turns into that of the residuals; frequencies enter when coarser ones
    are settled. The images are reduced to what the finest of these needs.

    The hand is arbitrary: projections cannot tell. It misleads where particles have views from one side only, or a
    symmetry that is nearly one: look at two seeds, aligned by `cryonb.alignment.align_volumes`.
    """
    group = rotations.point_group(symmetry)
    diameter = check_input(particles, [], mask_diameter)
    _check_counts(len(particles), n_classes, n_batches, batch_size)
    last = float(final_resolution or max(diameter / ENDING, 2.1 * particles.pixel_size))
    first = float(initial_resolution or max(diameter / STARTING, last))
    if not 2 * particles.pixel_size < last <= first <= diameter:
        raise ValueError(
            f"expected {2 * particles.pixel_size:g} Å < final_resolution ≤ initial_resolution ≤ the mask's diameter, "
            f"{diameter:g} Å; got {last:g} and {first:g} Å"
        )
    seed = int(np.random.default_rng(rng).integers(2**62))
    settings = _Settings(int(n_classes), int(n_batches), int(batch_size), diameter, first, last, seed, symmetry)
    key = asdict(settings) | {
        "question": "initial_model", "n": len(particles), "box": particles.size_px, "pixel": particles.pixel_size,
        "data": checkpoint and fingerprint(particles, []),
    }  # fmt: skip
    job = _Job(particles, settings, group, workers)
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    state = job.start() if saved is None else _State.restored(saved)
    bar = tqdm(
        total=n_batches + 1, initial=len(state.iterations), desc="initial model", unit="batch", disable=not progress
    )
    while len(state.iterations) <= n_batches:
        job.iterate(state)
        done = len(state.iterations)
        if monitor is not None:
            monitor(state.iterations[-1], job.volumes(state))
        if checkpoint is not None and (done % SAVE_EVERY == 0 or done > n_batches):
            parallel.save_checkpoint(checkpoint, state.saved(), key=key)
        bar.update()
        bar.set_postfix_str(f"{state.iterations[-1].resolution:.0f} Å, Pmax {state.iterations[-1].pmax:.2f}")
    bar.close()
    return job.result(state)


def _check_counts(n, n_classes, n_batches, batch_size):
    if n_batches < 1 or batch_size < 1 or n_classes < 1:
        raise ValueError(
            f"n_classes, n_batches and batch_size must be 1 or more, got {n_classes}, {n_batches} and {batch_size}"
        )
    if n_classes > n:
        raise ValueError(f"n_classes must be between 1 and the {n} particles, got {n_classes}")
    if batch_size > n:
        raise ValueError(f"a batch of {batch_size} needs at least as many particles, got {n}: set batch_size")
    if n_classes > batch_size:
        raise ValueError(f"{n_classes} classes need batches of at least as many particles, got {batch_size}")


@dataclass(frozen=True)
class _Settings:
    """What the user chose."""

    n_classes: int
    n_batches: int
    batch_size: int
    diameter: float
    first_resolution: float
    last_resolution: float
    seed: int
    symmetry: str


@dataclass
class _State:
    """All that one batch hands to the next. Volumes are on the reduced grid."""

    maps: np.ndarray  # (K, d, d, d)
    values: np.ndarray  # (K, p, p, p // 2 + 1) complex64, running A for all particles
    weights: np.ndarray  # (K, p, p, p // 2 + 1) float32, running W
    class_count: np.ndarray  # (K,), running
    offset2: float  # running, pixels² for all particles
    first_noise: np.ndarray
    noise: np.ndarray  # running, of the residuals
    matrices: np.ndarray
    shift: np.ndarray
    probability: np.ndarray
    pmax: np.ndarray
    log_evidence: np.ndarray
    iterations: list

    def saved(self):
        plain = {name: value for name, value in vars(self).items() if name != "iterations"}
        return plain | {"iterations": iterations_to_table(self.iterations)}

    @classmethod
    def restored(cls, values):
        return cls(**{**values, "iterations": iterations_from_table(values["iterations"])})


class _ReducedImages:
    """Images in fewer, larger pixels, read and reduced when asked for."""

    def __init__(self, images, size_px):
        self.images, self.size_px = images, size_px
        self.shape = (images.shape[0], size_px, size_px)

    def __getitem__(self, index):
        return filters.resample(np.asarray(self.images[index], dtype=np.float32), self.size_px)


class _Job:
    """What stays the same from batch to batch."""

    def __init__(self, particles, settings, group, workers):
        self.settings, self.group, self.workers = settings, group, workers
        self.full = particles
        finest = particles.box_size / settings.last_resolution
        size_px = min(particles.size_px, 2 * int(np.ceil(SAMPLES_PER_WAVE * finest / 2)))
        if size_px < particles.size_px:
            images = _ReducedImages(particles.images, size_px)
            particles = replace(particles, images=images, pixel_size=particles.box_size / size_px)
        self.particles = particles
        self.extent_px = settings.diameter / 2 / particles.pixel_size
        self.mask = maximisation.sphere(size_px, settings.diameter / particles.pixel_size)

    def start(self):
        """Blobs at random places, low-passed and on the grey scale of the images."""
        particles, n_k, n = self.particles, self.settings.n_classes, len(self.particles)
        rng = np.random.default_rng([self.settings.seed, 0])
        noise = initial_noise(particles, rng=rng)
        shell, _, _ = self.schedule(0)
        sampling = self.sampling(10.0, Rotation.random(rng=rng))
        maps = []
        for _ in range(n_k):
            volume = low_pass(Volume(self.blobs(rng), particles.pixel_size), shell)
            maps.append(on_grey_scale(particles, volume, noise, self.grid(shell), sampling, rng=rng).data)
        half_grid = (n_k, 2 * particles.size_px, 2 * particles.size_px, particles.size_px + 1)
        return _State(
            np.stack(maps), np.zeros(half_grid, np.complex64), np.zeros(half_grid, np.float32), np.full(n_k, n / n_k),
            2 * n * (10.0 / particles.pixel_size) ** 2, noise, noise.copy(), np.stack([np.eye(3)] * n),
            np.zeros((n, 2)), np.full((n, n_k), 1 / n_k), np.zeros(n), np.zeros(n), [],
        )  # fmt: skip

    def blobs(self, rng):
        size_px, radius = self.particles.size_px, self.extent_px
        z, y, x = np.indices((size_px,) * 3) - size_px // 2
        count = -(-N_BLOBS // len(self.group))  # of an asymmetric unit
        place = rng.standard_normal((count, 3))
        length = BLOB_REACH * radius * np.cbrt(rng.random(count))
        place *= (length / np.linalg.norm(place, axis=1))[:, None]
        place = np.concatenate([turn.apply(place) for turn in self.group])
        total = np.zeros((size_px,) * 3)
        for a, b, c in place:
            total += np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * (BLOB_SIGMA * radius) ** 2))
        return total * self.mask

    def schedule(self, number):
        """Frequency limit in Fourier pixels, weight of the batch, and how far the noise is that of the residuals."""
        time_ = min(number / max(self.settings.n_batches - 1, 1), 1.0)
        shells = self.particles.box_size / np.array([self.settings.first_resolution, self.settings.last_resolution])
        shell = np.interp(time_, MARCH, shells)
        weight = MEMORY[0] * (MEMORY[1] / MEMORY[0]) ** time_
        return max(float(shell), 2.0), weight, min(time_ / ANNEALED, 1.0)

    def batch(self, number):
        """Particles of a batch: a part of a random order, which is drawn anew when all have been seen."""
        size = self.settings.batch_size
        epoch, part = divmod(number, len(self.particles) // size)
        order = np.random.default_rng([self.settings.seed, 1, epoch]).permutation(len(self.particles))
        return np.sort(order[part * size : (part + 1) * size])

    def grid(self, shell):
        return PolarGrid.covering(
            self.particles.size_px, min(np.ceil(shell), (self.particles.size_px - 1) // 2), self.extent_px
        )

    def sampling(self, sigma_offset, turn):
        limit = coarse_shell(ORDER, self.particles.size_px, self.extent_px)
        reach = np.clip(3 * sigma_offset / self.particles.pixel_size, 2.0, SHIFT_RANGE_PX)
        return Sampling(
            ORDER,
            reach,
            2.0,
            turn=turn,
            coarse_radius=limit,
            keep_views=KEEP_VIEWS * self.settings.n_classes,
            symmetry=self.group,
        )

    def iterate(self, state):
        """One batch; or, after the last, all particles."""
        began = time.perf_counter()
        number, settings, pixel = len(state.iterations), self.settings, self.particles.pixel_size
        complete = number == settings.n_batches
        shell, weight, annealed = self.schedule(number)
        index = np.arange(len(self.particles)) if complete else self.batch(number)
        rng = np.random.default_rng([settings.seed, 2, number])
        sigma_offset = max(np.sqrt(state.offset2 / (2 * len(self.particles))), 0.5) * pixel
        shares = np.maximum(state.class_count / state.class_count.sum(), 0.1 / settings.n_classes)
        noise = (1 - annealed) * state.first_noise + annealed * np.minimum(state.noise, state.first_noise)
        model = Model(tuple(Volume(data, pixel) for data in state.maps), noise, shares / shares.sum(), sigma_offset)
        grid, sampling = self.grid(shell), self.sampling(sigma_offset, Rotation.random(rng=rng))
        statistics, posterior = expectation(self.particles, model, grid, sampling, index=index, workers=self.workers)
        before, matrices = state.maps, state.matrices[index]
        self.remember(state, statistics, grid, 1.0 if complete or number == 0 else weight)
        prior = self.maximise(state, statistics, shell)
        state.matrices[index], state.shift[index] = posterior.matrix, posterior.shift
        state.probability[index], state.pmax[index] = posterior.class_probability, posterior.pmax
        state.log_evidence[index] = posterior.log_evidence
        change = rotations.angular_distance(Rotation.from_matrix(matrices), Rotation.from_matrix(posterior.matrix))
        correlation = np.stack([maximisation.correlation(a, b) for a, b in zip(before, state.maps)])
        record = Iteration(
            number + 1, len(index), sampling.step, False, int(grid.radii[-1]), float(self.particles.box_size / shell),
            correlation, noise, prior, state.class_count / state.class_count.sum(), float(posterior.pmax.mean()),
            float(posterior.entropy.mean()), float(sigma_offset), float(np.median(change)), np.nan,
            time.perf_counter() - began,
        )  # fmt: skip
        state.iterations.append(record)

    def remember(self, state, statistics, grid, weight):
        """Blend the batch into the running sums, as if all particles were like it."""
        share = weight * len(self.particles) / statistics.count.sum()
        for name in ("values", "weights", "class_count", "offset2"):
            old = getattr(state, name)
            new = (1 - weight) * old + share * getattr(statistics, name)
            setattr(state, name, new.astype(old.dtype) if isinstance(old, np.ndarray) else float(new))
        residual = maximisation.noise_spectrum(statistics, grid, state.noise)
        state.noise = (1 - weight) * state.noise + weight * residual

    def maximise(self, state, statistics, shell):
        """References of the next batch; returns their priors."""
        pixel = self.particles.pixel_size
        running = replace(statistics, values=state.values, weights=state.weights)
        maps, priors = [], []
        for k in range(self.settings.n_classes):
            free = maximisation.solve_class(running, k, pixel)
            prior = maximisation.power_prior(free.with_data(free.data * self.mask))
            volume = low_pass(maximisation.solve_class(running, k, pixel, prior=prior), shell)
            maps.append(volume.data * self.mask)
            priors.append(prior)
        state.maps = np.stack(maps)
        return np.stack(priors)

    def volumes(self, state):
        """In the box of the particles."""
        size_px = self.full.size_px
        factor = self.particles.size_px / size_px  # a projection sums more, smaller voxels
        return tuple(
            Volume(filters.resample(Volume(data, 1.0), size_px).data * factor, self.full.pixel_size)
            for data in state.maps
        )

    def result(self, state):
        return InitialModel(
            self.volumes(state), Poses(Rotation.from_matrix(state.matrices), state.shift), state.probability,
            state.pmax, state.log_evidence, self.settings.last_resolution, state.iterations,
        )  # fmt: skip
