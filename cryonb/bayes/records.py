"""What the engine's questions return, and the record that every iteration leaves behind."""

from dataclasses import asdict, dataclass, fields

import numpy as np

from cryonb.types import Poses, Volume

__all__ = [
    "Classification", "Classification2D", "Iteration", "Refinement", "TopPoses", "iterations_from_table",
    "iterations_to_table",
]  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Iteration:
    """One iteration, looked into.

    Parameters
    ----------
    number : int
        From 1.
    n_particles : int
        Particles scored.
    step : float
        Finest angular step in degrees.
    local : bool
        Whether the search was around the last poses.
    max_shell : int
        Last shell used.
    resolution : float
        Å; of a 3D classification around known poses, the finest detail in which classes are seen to differ.
    correlation : ndarray (d // 2 + 1,) or (K, d // 2 + 1)
        FSC of the half maps (of each class).
    noise : ndarray (g, d // 2 + 1)
        σ² per optics group and shell.
    prior : ndarray (K, d // 2 + 1)
        Of a refinement, τ² per shell; of a 3D classification, the Wiener factor of each class's difference.
    occupancy : ndarray (K,)
        Share of each class.
    pmax, entropy : float
        Means over particles; entropy in nats.
    sigma_offset : float
        Å.
    angular_change, class_change : float
        Median change of orientation in degrees, and share of particles that changed class; NaN at first.
    seconds : float
    """

    number: int
    n_particles: int
    step: float
    local: bool
    max_shell: int
    resolution: float
    correlation: np.ndarray
    noise: np.ndarray
    prior: np.ndarray
    occupancy: np.ndarray
    pmax: float
    entropy: float
    sigma_offset: float
    angular_change: float
    class_change: float
    seconds: float

    @property
    def ssnr(self):
        """Signal over noise f / (1 − f) of the map of one half, by ``correlation`` f; ndarray (K, d // 2 + 1)."""
        correlation = np.clip(np.atleast_2d(self.correlation), 1e-3, 0.999)
        return correlation / (1 - correlation)

    @property
    def news(self):
        """What a progress bar says of it: resolution (of 3D classes the search's limit), share that changed class."""
        changed = "" if np.isnan(self.class_change) else f", {self.class_change:.1%} change class"
        return f"{self.resolution:.1f} Å{changed}"

    def __repr__(self):
        where = "local" if self.local else "global"
        return (
            f"Iteration({self.number}: {self.resolution:.1f} Å, {where} {self.step:.3g}°, "
            f"{self.n_particles} particles, Pmax {self.pmax:.2f}, {self.seconds:.1f} s)"
        )


@dataclass(frozen=True, eq=False)
class TopPoses:
    """The posterior of n particles, kept sparsely: their m most probable single poses, best first.

    Parameters
    ----------
    weight : ndarray (n, m) float32
        Probability of each pose; a row sums to less than 1 by what was not kept, and is 0 where there are fewer.
    label : ndarray (n, m) int
        Class.
    matrix : ndarray (n, m, 3, 3) float32
        Image frame to volume frame.
    shift : ndarray (n, m, 2) float32
        Å.
    """

    weight: np.ndarray
    label: np.ndarray
    matrix: np.ndarray
    shift: np.ndarray

    @classmethod
    def empty(cls, n, m):
        """No pose known of any of n particles."""
        return cls(
            np.zeros((n, m), np.float32), np.zeros((n, m), np.int16), np.zeros((n, m, 3, 3), np.float32),
            np.zeros((n, m, 2), np.float32),
        )  # fmt: skip

    def put(self, index, other):
        """Take the rows ``index`` from another one, in place."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[index] = getattr(other, name)

    def arrays(self):
        """As arrays by name, for a checkpoint."""
        return {f"top_{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, values):
        """Takes what `arrays` gave out of a dict."""
        return cls(*(values.pop(f"top_{name}") for name in cls.__dataclass_fields__))


@dataclass(frozen=True, eq=False, repr=False)
class Refinement:
    """A refined volume, with the evidence for it.

    Parameters
    ----------
    volume : Volume
        From both halves, Wiener-filtered by their FSC, within the mask.
    half_maps : tuple of two Volume
        Unfiltered, unmasked.
    correlation : ndarray (d // 2 + 1,)
        FSC of the half maps within the solvent mask.
    resolution : float
        Å, FSC 0.143.
    poses : Poses
    half : ndarray (n,) int
        Which half each particle belongs to, 0 or 1.
    pmax : ndarray (n,)
        Probability of each particle's best pose: of the last grid's, and the finer the grid the smaller.
    noise : ndarray (g, d // 2 + 1)
        σ² per optics group and shell.
    iterations : list of Iteration
    top : TopPoses
        What else each particle's pose might be.
    norm, scale : ndarray (n,)
        Factor on each image, and on the signal of each particle's group (`contrast.Contrast`); 1 where not fitted.
    """

    volume: Volume
    half_maps: tuple[Volume, Volume]
    correlation: np.ndarray
    resolution: float
    poses: Poses
    half: np.ndarray
    pmax: np.ndarray
    noise: np.ndarray
    iterations: list[Iteration]
    top: TopPoses
    norm: np.ndarray
    scale: np.ndarray

    def __repr__(self):
        return f"Refinement({len(self.poses)} particles, {self.resolution:.1f} Å, {len(self.iterations)} iterations)"


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """Classes of particles, with a probability for each.

    Parameters
    ----------
    volumes : tuple of K Volume
        From all particles, regularised, within the mask.
    half_maps : tuple of K pairs of Volume
        From either half of the particles, filtered by what recurs in the other, unmasked.
    probability : ndarray (n, K)
        Posterior of each class.
    poses : Poses
        Those given with the particles, which a search at the classes' resolution would not better; or those found.
    pmax : ndarray (n,)
    half : ndarray (n,) int
        Which half each particle belongs to.
    noise : ndarray (g, d // 2 + 1)
    iterations : list of Iteration
    top : TopPoses
        The most probable (class, pose) of each particle.
    """

    volumes: tuple[Volume, ...]
    half_maps: tuple[tuple[Volume, Volume], ...]
    probability: np.ndarray
    poses: Poses
    pmax: np.ndarray
    half: np.ndarray
    noise: np.ndarray
    iterations: list[Iteration]
    top: TopPoses

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
        return f"Classification({len(self.poses)} particles, {shares}, {len(self.iterations)} iterations)"


@dataclass(frozen=True, eq=False, repr=False)
class Classification2D:
    """Classes of images, with their averages.

    Parameters
    ----------
    averages : ndarray (K, d, d)
        From all particles, CTF-corrected, regularised, within the mask.
    pixel_size : float
        Å.
    probability : ndarray (n, K)
        Posterior of each class.
    psi : ndarray (n,)
        In-plane angle in degrees that turns the average of a particle's class to the particle.
    shift : ndarray (n, 2)
        Å, as in `Poses`: the particle sits at centre − shift.
    pmax : ndarray (n,)
        Probability of each particle's best pose.
    fold : ndarray (n,) int
        Particles of a fold were scored against averages of the others.
    correlation : ndarray (K, d // 2 + 1)
        FRC of each class between averages of the even and of the odd folds. They were aligned to the same
        references: pure noise has a correlation too.
    noise : ndarray (g, d // 2 + 1)
        σ² per optics group and shell.
    iterations : list of Iteration
    top : TopPoses
        What else each particle's class, angle and shift might be; rot and tilt are 0.
    """

    averages: np.ndarray
    pixel_size: float
    probability: np.ndarray
    psi: np.ndarray
    shift: np.ndarray
    pmax: np.ndarray
    fold: np.ndarray
    correlation: np.ndarray
    noise: np.ndarray
    iterations: list[Iteration]
    top: TopPoses

    @property
    def label(self):
        """Most probable class of each particle, ndarray (n,) int."""
        return self.probability.argmax(1)

    @property
    def occupancy(self):
        """Mean posterior of each class, ndarray (K,)."""
        return self.probability.mean(0)

    @property
    def resolution(self):
        """Å at which the FRC of each class's halves falls below 0.143, ndarray (K,); the halves share references."""
        box = self.averages.shape[1] * self.pixel_size
        last = [np.append(np.flatnonzero(row[1:] < 0.143), len(row) - 1)[0] for row in self.correlation]
        return box / np.maximum(last, 1)

    @property
    def poses(self):
        """In-plane angle and shift of the particles as `Poses` with rot and tilt 0."""
        from scipy.spatial.transform import Rotation

        return Poses(Rotation.from_euler("z", self.psi[:, None], degrees=True), self.shift)

    def __repr__(self):
        return (
            f"Classification2D({len(self.psi)} particles, {len(self.averages)} classes, "
            f"best {self.resolution.min():.1f} Å, {len(self.iterations)} iterations)"
        )


def iterations_to_table(iterations):
    """Records as lists and numbers that JSON can hold, for a checkpoint.

    Parameters
    ----------
    iterations : sequence of Iteration

    Returns
    -------
    list of dict
    """
    return [{name: np.asarray(value).tolist() for name, value in asdict(item).items()} for item in iterations]


def iterations_from_table(table):
    """The inverse of `iterations_to_table`.

    Parameters
    ----------
    table : list of dict

    Returns
    -------
    list of Iteration
    """
    arrays = {item.name for item in fields(Iteration) if item.type is np.ndarray}
    return [Iteration(**{k: np.array(v) if k in arrays else v for k, v in row.items()}) for row in table]
