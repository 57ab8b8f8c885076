"""2D classification: sort images by what they show, whatever their in-plane angle and shift, and average them."""

import time
from dataclasses import asdict, dataclass

import numpy as np
from tqdm.auto import tqdm

from cryonb import filters, parallel

from . import maximisation
from .averages import AverageTask, average_expectation, count_angles, random_averages, solve_averages
from .fine import KEPT
from .model import check_input, fingerprint, initial_noise
from .observations import count_harmonics
from .polar import PolarGrid
from .records import Classification2D, Iteration, TopPoses, iterations_from_table, iterations_to_table

__all__ = ["classify_2d"]

FOLDS = 10
COARSE_SHELL = 12.0  # frequency limit of the coarse pass over shifts
SHIFT_RANGE_PX, SHIFT_STEP_PX = 5.0, 2.0
START_RESOLUTION = 40.0  # Å, of the first averages
BEYOND = 10  # shells searched beyond those that the averages hold
BALANCED = 8  # iterations that give every class an even share of the particles
START_CORRELATION = 0.5  # believed at first of the shells up to START_RESOLUTION; fades with BALANCED
SETTLED = 0.02  # share of particles that still change class when the iterations stop


@parallel.with_one_blas_thread
def classify_2d(
    particles, *, n_classes, rng, n_iterations=25, mask_diameter=None, highest_resolution=None, tau_fudge=1.0,
    cross_fit=True, workers="threads", progress=True, checkpoint=None, monitor=None,
):  # fmt: skip
    """Sort particles by what they show, and average each class; no reference is needed.

    Parameters
    ----------
    particles : Particles
        n images with CTF; poses, where there are any, are not used.
    n_classes : int
        K.
    rng : seed or Generator
    n_iterations : int
        At most; fewer when the classes have settled.
    mask_diameter : float, optional
        Diameter in Å of the soft circle that holds the particle; nine tenths of the box by default. A tight one is
        faster and sharper. Whether it cuts the particle is not checked: no volume says how large that is.
    highest_resolution : float, optional
        Å; nothing finer enters the likelihood or the averages.
    tau_fudge : float
        T, a factor on the signal-to-noise ratio that the averages are given.
    cross_fit : bool
        Score each particle against averages made without it, and without the rest of its fold (a tenth of the
        particles), so that its own noise in its class's average cannot keep it there.
    workers, progress, checkpoint
        As in `refine`.
    monitor : callable, optional
        Called after each iteration with its `Iteration` and the averages (K, d, d).

    Returns
    -------
    Classification2D

    Raises
    ------
    ValueError
        No CTF, more classes than particles, images that are not finite or constant, an impossible mask or limit.

    Notes
    -----
    Scheres, J Mol Biol 415:406 (2012): A_k = Σ Γ CTF X/σ² / (Σ Γ CTF²/σ² + 1/(T τ_k²)), with three changes. τ_k² is
    not the power of the last average but what recurs between halves of the particles, SSNR = 2f/(1 − f): the former
    shrinks an average whose SSNR is below 1 to nothing. Particles are cross-fitted. And for the first iterations the
    classes' weights are chosen so that every class gets an even share: else the class that is first to show
    anything draws all particles, and few of the K classes are left. After that weights are mean posteriors.

    It misleads where K is so large that classes hold few particles; look at the occupancies. And images of pure
    noise give averages that show something, at a resolution: all particles are aligned to the same references, so
    that what is common to the halves need not be in the images. Believe a class by what it shows, not by its
    resolution. Neither the contrast nor the norm of single images is fitted.
    """
    settings = _Settings.checked(
        particles, n_classes, n_iterations, mask_diameter, highest_resolution, tau_fudge, cross_fit, rng
    )
    key = asdict(settings) | {
        "question": "classify_2d",
        "n": len(particles),
        "box": particles.size_px,
        "pixel": particles.pixel_size,
        "iterations": n_iterations,
        "data": checkpoint and fingerprint(particles, []),
    }
    job = _Job(particles, settings, workers)
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    state = job.start() if saved is None else _State.restored(saved)
    bar = tqdm(
        total=n_iterations, initial=len(state.iterations), desc="classify 2D", unit="iteration", disable=not progress
    )
    while len(state.iterations) < n_iterations and not job.settled(state):
        job.iterate(state)
        if monitor is not None:
            monitor(state.iterations[-1], state.averages)
        if checkpoint is not None:
            parallel.save_checkpoint(checkpoint, state.values(), key=key)
        bar.update()
        bar.set_postfix_str(state.iterations[-1].news)
    bar.close()
    return job.result(state)


@dataclass(frozen=True)
class _Settings:
    """What the user chose."""

    n_classes: int
    diameter: float
    tau_fudge: float
    cross_fit: bool
    highest_resolution: float
    seed: int

    @classmethod
    def checked(
        cls, particles, n_classes, n_iterations, mask_diameter, highest_resolution, tau_fudge, cross_fit, rng
    ):  # fmt: skip
        """Settings, or one clear error."""
        n, box = len(particles), particles.box_size
        diameter = check_input(particles, (), mask_diameter)
        if not 1 <= n_classes <= n:
            raise ValueError(f"n_classes must be between 1 and the {n} particles, got {n_classes}")
        if n_iterations < 1:
            raise ValueError(f"n_iterations must be at least 1, got {n_iterations}")
        if not (np.isfinite(tau_fudge) and tau_fudge > 0):
            raise ValueError(f"tau_fudge must be positive, got {tau_fudge:g}")
        finest = 2 * particles.pixel_size if highest_resolution is None else float(highest_resolution)
        if not 0 < finest <= box / 4:
            raise ValueError(
                f"highest_resolution must be finer than a quarter of the box, {box / 4:.1f} Å; got {finest:g} Å"
            )
        seed = int(np.random.default_rng(rng).integers(2**62))
        return cls(int(n_classes), diameter, float(tau_fudge), bool(cross_fit and n > 1), finest, seed)


@dataclass
class _State:
    """All that one iteration hands to the next."""

    images: np.ndarray  # (f, K, d, d): references of each fold, made without it
    averages: np.ndarray  # (K, d, d), from all particles
    correlation: np.ndarray  # (K, d // 2 + 1), of the halves
    prior: np.ndarray  # (K, d // 2 + 1), T · τ²
    noise: np.ndarray
    weights: np.ndarray
    probability: np.ndarray
    psi: np.ndarray
    shift: np.ndarray
    pmax: np.ndarray
    sigma_offset: float
    shell: float  # last one that the averages hold
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
        self.size_px, pixel = particles.size_px, particles.pixel_size
        self.radius_px = settings.diameter / 2 / pixel
        edge = maximisation.EDGE_PX
        self.mask = filters.soft_sphere(self.size_px, self.radius_px - edge / 2, edge_px=edge, ndim=2)
        self.start_shell = max(min(particles.box_size / START_RESOLUTION, (self.size_px - 1) / 4), 2.0)
        self.last_shell = min((self.size_px - 1) // 2, particles.box_size / settings.highest_resolution)
        n = len(particles)
        order = np.random.default_rng([settings.seed, 0]).permutation(n)
        self.n_folds = min(FOLDS, n) if settings.cross_fit else 2
        self.fold = np.empty(n, dtype=np.int64)
        self.fold[order] = np.arange(n) % self.n_folds

    def grid(self, max_shell):
        return PolarGrid.covering(self.size_px, min(np.ceil(max_shell), self.last_shell), self.radius_px)

    def task(self, state, grid, rng):
        pixel = self.particles.pixel_size
        reach = np.clip(3 * state.sigma_offset / pixel, 2.0, SHIFT_RANGE_PX)
        coarse = grid.inner(grid.rings_within(COARSE_SHELL))
        return AverageTask(
            self.particles, grid, coarse, state.images, state.noise, state.weights, state.sigma_offset / pixel,
            float(reach), SHIFT_STEP_PX, rng.uniform(-0.5, 0.5, 2), float(rng.uniform(0, np.pi)),
            count_harmonics(self.particles, grid),
        )  # fmt: skip

    def start(self):
        """References from random parts of the particles, turned at random."""
        n, n_k, d = len(self.particles), self.settings.n_classes, self.size_px
        rng = np.random.default_rng([self.settings.seed, 1])
        noise = initial_noise(self.particles, rng=rng)
        grid = self.grid(self.start_shell)
        empty = np.zeros((n_k, d, d), np.float32)
        shells = np.zeros((n_k, d // 2 + 1))
        state = _State(
            np.stack([empty] * self.n_folds), empty.copy(), shells, shells.copy(), noise, np.full(n_k, 1 / n_k),
            np.full((n, n_k), 1 / n_k), np.zeros(n), np.zeros((n, 2)), np.zeros(n), 10.0,
            self.start_shell, [], TopPoses.empty(n, KEPT),
        )  # fmt: skip
        label = rng.permutation(np.arange(n) % n_k)
        sums = random_averages(self.task(state, grid, rng), self.fold, label, rng)
        self.renew(state, sums, grid)
        state.shell = self.start_shell
        return state

    def iterate(self, state):
        began = time.perf_counter()
        number = len(state.iterations) + 1
        rng = np.random.default_rng([self.settings.seed, 1 + number])
        grid = self.grid(state.shell + BEYOND)
        label, psi = state.probability.argmax(1), state.psi
        sums, posterior = average_expectation(self.task(state, grid, rng), self.fold, workers=self.workers)
        state.probability, state.psi, state.shift = posterior.probability, posterior.psi, posterior.shift
        state.pmax, state.top = posterior.pmax, posterior.top
        state.noise = maximisation.noise_spectrum(sums, grid, state.noise)
        state.weights = self.class_weights(sums, posterior.class_evidence, number)
        state.sigma_offset = maximisation.offset_deviation(sums, self.particles.pixel_size)
        self.renew(state, sums, grid)
        turned = np.abs((state.psi - psi + 180) % 360 - 180)
        change = [float(np.median(turned)), float((label != state.probability.argmax(1)).mean())]
        record = Iteration(
            number, len(self.particles), 180 / count_angles(grid), False, int(grid.radii[-1]),
            float(self.particles.box_size / max(state.shell, 1)), state.correlation.copy(), state.noise.copy(),
            state.prior.copy(), state.probability.mean(0), float(state.pmax.mean()), float(posterior.entropy.mean()),
            state.sigma_offset, *(change if number > 1 else [np.nan, np.nan]), time.perf_counter() - began,
        )  # fmt: skip
        state.iterations.append(record)

    def class_weights(self, sums, evidence, number):
        return balanced_weights(evidence) if number <= BALANCED else maximisation.class_weights(sums)

    def renew(self, state, sums, grid):
        """Averages of all particles, references of each fold, correlation of the halves."""
        values, weights = sums.values.sum(0), sums.weights.sum(0)
        even = np.arange(self.n_folds) % 2 == 0
        halves = [
            solve_averages(sums.values[part].sum(0), sums.weights[part].sum(0), grid) * self.mask
            for part in (even, ~even)
        ]
        correlation = ring_correlation(*halves, grid)
        ratio = self.settings.tau_fudge * self.signal_to_noise(correlation, grid, len(state.iterations))
        total = np.maximum(weights[:, 0, :, 0], 1e-30)
        prior = ratio * grid.areas / total
        state.averages = solve_averages(values, weights, grid, prior) * self.mask
        for fold in range(self.n_folds):
            state.images[fold] = state.averages
            if self.settings.cross_fit:
                others = values - sums.values[fold], weights - sums.weights[fold]
                state.images[fold] = solve_averages(*others, grid, prior) * self.mask
        state.correlation, state.prior, ratio = (self.on_shells(rows, grid) for rows in (correlation, prior, ratio))
        held = max(maximisation.last_shell_above(row, self.settings.tau_fudge) for row in ratio)
        state.shell = float(np.clip(held, self.start_shell, self.last_shell))

    def signal_to_noise(self, correlation, grid, number):
        """SSNR (K, n_r) of averages of all particles, from the correlation of their halves."""
        padded = np.pad(correlation, ((0, 0), (1, 1)), mode="edge")
        smooth = 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]
        floor = START_CORRELATION * max(0.0, 1 - number / BALANCED) * (grid.radii <= self.start_shell)
        return 2 * maximisation.signal_to_noise(np.maximum(smooth, floor))

    def on_shells(self, rows, grid):
        """Values on the rings (K, n_r) as values on shells (K, d // 2 + 1), 0 beyond the grid."""
        shells = np.arange(self.size_px // 2 + 1)
        inside = shells <= grid.radii[-1] + 0.5
        return np.stack([np.where(inside, np.interp(shells, grid.radii, row), 0) for row in rows])

    def settled(self, state):
        last = [record.class_change for record in state.iterations[-2:]]
        return len(state.iterations) > BALANCED + 1 and max(last) < SETTLED

    def result(self, state):
        return Classification2D(
            state.averages, self.particles.pixel_size, state.probability, state.psi, state.shift, state.pmax,
            self.fold, state.correlation, state.noise, state.iterations, state.top,
        )  # fmt: skip


def balanced_weights(evidence):
    """Weights of classes that give each an even share of the particles.

    Parameters
    ----------
    evidence : ndarray (n, K)
        Log-evidence of each class for each particle.

    Returns
    -------
    ndarray (K,) summing to 1

    Examples
    --------
    >>> balanced_weights(np.log([[0.8, 0.2], [0.8, 0.2]])).round(3).tolist()
    [0.2, 0.8]
    """
    logarithm = np.zeros(evidence.shape[1])
    for _ in range(30):  # Sinkhorn's alternation
        share = np.exp(evidence + logarithm - (evidence + logarithm).max(1, keepdims=True))
        share = (share / share.sum(1, keepdims=True)).mean(0)
        logarithm -= np.log(np.maximum(share * len(share), 1e-6))
    weights = np.maximum(np.exp(logarithm - logarithm.max()), 1e-12)
    return weights / weights.sum()


def ring_correlation(a, b, grid):
    """Fourier ring correlation of images (K, d, d) on the rings of a grid, (K, n_r); 0 where one is empty."""
    a, b = grid.transform(a), grid.transform(b)
    cross = (a * b.conj()).real.mean(-1)
    power = (np.abs(a) ** 2).mean(-1) * (np.abs(b) ** 2).mean(-1)
    return np.divide(cross, np.sqrt(power), out=np.zeros_like(cross), where=power > 0)
