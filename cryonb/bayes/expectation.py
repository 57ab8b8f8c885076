"""The expectation: posterior over class, orientation and shift of every particle, and its sufficient statistics.

Γ_i(k, φ, t) ∝ p(k) p(φ) exp(−|t|²/2σ_off²) exp(−Σ_half-plane |CTF_i P_φ V_k − X_i^t|² / 2σ²), Scheres 2012, eq. 3–5.
Particles come in chunks; a chunk gives sums (A, W, residuals, counts) that add up, in this process, in threads
or on a cluster. σ² is the noise of the whole image: no factor for a mask, so that posteriors keep their width.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from cryonb import parallel, projection
from cryonb.types import Volume

from .coarse import coarse_pass
from .contrast import Contrast
from .fine import fine_pass
from .observations import count_harmonics, observe
from .polar import PolarGrid
from .records import TopPoses
from .search import Sampling
from .views import cells_of

__all__ = ["Model", "Posterior", "Statistics", "Task", "expectation"]

CHUNK = 1000  # particles: enough that the references' slices cost little beside them


@dataclass(frozen=True, eq=False)
class Model:
    """What one iteration assumes.

    Parameters
    ----------
    volumes : tuple of Volume
        K references on the absolute grey scale (a projection times the CTF explains an image).
    noise : ndarray (g, d // 2 + 1)
        σ² per optics group and shell: variance of the real part of the noise's transform.
    class_weights : ndarray (K,)
        Prior of each class, summing to 1.
    sigma_offset : float
        Standard deviation in Å of the shifts along each axis.
    contrast : Contrast, optional
        Norm and scale of all particles; 1 by default.
    view_density : ndarray (K, views.CELLS), optional
        Prior density of viewing directions in each class, relative to an even one (`views.view_density`); even by
        default. Only a global search heeds it.
    """

    volumes: tuple[Volume, ...]
    noise: np.ndarray
    class_weights: np.ndarray
    sigma_offset: float
    contrast: Contrast | None = None
    view_density: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is kept of each of n particles.

    Parameters
    ----------
    class_probability : ndarray (n, K)
    matrix : ndarray (n, 3, 3)
        Mean orientation of the best peak, image frame to volume frame.
    shift : ndarray (n, 2)
        Mean shift of the best peak in Å.
    best_class : ndarray (n,) int
        Class of the best single pose.
    pmax : ndarray (n,)
        Probability of the best single pose.
    entropy : ndarray (n,)
        Of the posterior over the poses looked at, in nats.
    log_evidence : ndarray (n,)
        log Σ Γ, up to a constant of the image.
    top : TopPoses
        The most probable single poses.
    misfit : ndarray (n,)
        Power of the residual over that of the noise: 1 where σ² is right.
    cross, explained : ndarray (n,)
        ⟨X, CTF P V⟩ and |CTF P V|² over σ², summed over the shells up to ``Contrast.strong_shell``; what the scale is
        made of.
    """

    class_probability: np.ndarray
    matrix: np.ndarray
    shift: np.ndarray
    best_class: np.ndarray
    pmax: np.ndarray
    entropy: np.ndarray
    log_evidence: np.ndarray
    top: TopPoses
    misfit: np.ndarray
    cross: np.ndarray
    explained: np.ndarray

    def __len__(self):
        return len(self.matrix)


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over particles; those of two sets of particles add up to those of both.

    Parameters
    ----------
    values, weights : ndarray (K, p, p, p // 2 + 1)
        A = Σ Γ Pᵀ[CTF X / σ²] and W = Σ Γ Pᵀ[CTF² / σ²] on the padded half-grid.
    residual : ndarray (g, n_r)
        Σ Γ ⟨|X − CTF P V|²⟩ on the rings of the polar grid.
    count : ndarray (g,)
        Particles of each optics group.
    class_count : ndarray (K,)
    offset2 : float
        Σ Γ |t|² in pixels².
    views : ndarray (K, views.CELLS)
        Σ Γ by viewing direction.
    """

    values: np.ndarray
    weights: np.ndarray
    residual: np.ndarray
    count: np.ndarray
    class_count: np.ndarray
    offset2: float
    views: np.ndarray | float = 0.0

    def accumulator(self, k):
        """The sums of one class as a `projection.Accumulator`."""
        accumulator = projection.Accumulator(self.values.shape[1] // 2)
        accumulator.values[:], accumulator.weights[:] = self.values[k], self.weights[k]
        return accumulator


@dataclass(frozen=True, eq=False)
class Task:
    """All that a chunk needs, so that it can be computed anywhere (see `expectation` for the meanings)."""

    particles: object
    references: tuple
    grid: PolarGrid
    sampling: Sampling
    noise: np.ndarray
    class_weights: np.ndarray
    sigma_offset_px: float
    group: np.ndarray
    centre_px: np.ndarray
    prior_matrices: np.ndarray | None
    n_harmonics: int
    contrast: Contrast | None = None
    log_view_density: np.ndarray | None = None

    @property
    def n_groups(self):
        return len(self.noise)

    def phases(self, shifts, grid):
        """exp(2πi k·s) of shifts (t, 2) in pixels, (t, n_r, n_angles)."""
        return projection.shift_phases(grid.points, shifts, grid.size_px).reshape(-1, grid.n_radii, grid.n_angles)

    def log_shift_prior(self, shifts):
        """Log prior (t,) of shifts in pixels around the expected one."""
        return -(np.asarray(shifts) ** 2).sum(-1) / (2 * self.sigma_offset_px**2)

    def log_view_prior(self, directions):
        """Log prior (K, v) of viewing directions (v, 3) relative to even views; 0 in a local search."""
        if self.log_view_density is None or self.sampling.local_sigma is not None:
            return np.zeros((len(self.class_weights), len(directions)))
        return self.log_view_density[:, cells_of(directions)]

    def chunk(self, index):
        """Sums and posteriors of the particles ``index``."""
        contrast = {}
        if self.contrast is not None:
            contrast = {"norm": self.contrast.norm[index], "scale": self.contrast.scale[index]}
        observations = observe(
            self.particles[index], self.grid, self.noise[self.group[index]],
            self.centre_px[index] * self.particles.pixel_size, self.n_harmonics, **contrast,
        )  # fmt: skip
        candidates = coarse_pass(self, observations, index)
        sums, posterior = fine_pass(self, observations, candidates, index)
        sums["class_count"] = posterior["class_probability"].sum(0)
        return {"sums": sums, "posterior": posterior | {"index": index}}


def expectation(particles, model, grid, sampling, *, index=None, poses=None, workers=1, progress=False):
    """Posterior of particles given references, and the sums for the next references.

    Parameters
    ----------
    particles : Particles
        With CTF.
    model : Model
    grid : PolarGrid
    sampling : Sampling
    index : ndarray of int, optional
        Which particles; all by default.
    poses : Poses of all particles, optional
        Last poses: the centre of a local search (needed there); ignored in a global one.
    workers
        As in `parallel.map_reduce`.
    progress : bool or str

    Returns
    -------
    statistics : Statistics
    posterior : Posterior
        In the order of ``index``.
    """
    index = np.arange(len(particles)) if index is None else np.asarray(index)
    if len(index) == 0:
        raise ValueError("expectation needs at least one particle, got none")
    local = sampling.local_sigma is not None
    if local and poses is None:
        raise ValueError("a local search needs poses to search around; got none")
    matrices = poses.rotation.as_matrix() if local else None
    task = Task(
        particles=particles,
        references=tuple(projection.prepare(volume) for volume in model.volumes),
        grid=grid,
        sampling=sampling,
        noise=np.asarray(model.noise, dtype=np.float64),
        class_weights=np.asarray(model.class_weights, dtype=np.float64),
        sigma_offset_px=model.sigma_offset / particles.pixel_size,
        group=particles.optics_group,
        centre_px=poses.shift / particles.pixel_size if local else np.zeros((len(particles), 2)),
        prior_matrices=matrices,
        n_harmonics=count_harmonics(particles, grid),
        contrast=model.contrast,
        log_view_density=None if model.view_density is None else np.log(model.view_density),
    )
    order = _by_direction(index, matrices) if local else index
    chunks = [order[part] for part in parallel.chunk_slices(len(order), _chunk_size(len(order)))]
    total = parallel.map_reduce(partial(Task.chunk, task), chunks, combine=_merge, workers=workers, progress=progress)
    return Statistics(**total["sums"]), _in_order(total["posterior"], index, particles.pixel_size)


def _chunk_size(n):
    """Chunks of nearly equal size, an even number of them where there are enough particles."""
    return int(np.ceil(n / (2 * np.ceil(n / (2 * CHUNK)))))


def _by_direction(index, matrices):
    """Particles in the order of the HEALPix cell of their view, so that a chunk needs few of the slices."""
    from scipy.spatial import cKDTree

    from cryonb import rotations

    cells = cKDTree(rotations.healpix_directions(2))
    return index[np.argsort(cells.query(matrices[index, :, 2])[1], kind="stable")]


def _merge(total, item):
    sums = parallel.add_trees(total["sums"], item["sums"])
    joined = {name: np.concatenate([value, item["posterior"][name]]) for name, value in total["posterior"].items()}
    return {"sums": sums, "posterior": joined}


def _in_order(posterior, index, pixel_size):
    place = np.empty(index.max() + 1, dtype=np.int64)
    place[posterior["index"]] = np.arange(len(index))
    rows = {name: value[place[index]] for name, value in posterior.items() if name != "index"}
    top = TopPoses(
        rows.pop("top_weight"), rows.pop("top_class"), rows.pop("top_matrix"), rows.pop("top_shift_px") * pixel_size
    )
    return Posterior(shift=rows.pop("shift_px") * pixel_size, top=top, **rows)
