"""How the microscope sees a population: views, shifts, defocus, noise."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ..rotations import directions_to_angles, from_relion_angles
from ..types import CTF, Poses

__all__ = ["Imaging", "VonMisesFisher", "disturb_poses", "draw_ctf", "draw_poses"]


@dataclass(frozen=True, eq=False)
class VonMisesFisher:
    """Uneven views: a mixture of von Mises–Fisher clusters of directions over an even background.

    Parameters
    ----------
    directions : ndarray (m, 3)
        Preferred viewing directions; of any length.
    concentration : float
        κ ≥ 0; a cluster is about 81°/√κ wide (radius holding two thirds of it), and all round at κ = 0.
    uniform : float
        Fraction of particles seen from anywhere, in [0, 1].
    weights : ndarray (m,), optional
        Relative sizes of the clusters.

    Raises
    ------
    ValueError
        A direction of no length, or a number outside its range.

    Examples
    --------
    >>> views = VonMisesFisher([[0, 0, 1]], concentration=0, uniform=0).draw(20_000, np.random.default_rng(0))
    >>> bool(np.abs(views.mean(axis=0)).max() < 0.02)
    True
    """

    directions: np.ndarray
    concentration: float = 10.0
    uniform: float = 0.2
    weights: np.ndarray | None = None

    def __post_init__(self):
        preferred = np.atleast_2d(np.asarray(self.directions, dtype=float))
        length = np.linalg.norm(preferred, axis=-1)
        if preferred.shape[1:] != (3,) or not len(preferred) or not (np.isfinite(length) & (length > 0)).all():
            raise ValueError(f"directions must be finite vectors (m, 3) of some length, got {self.directions!r}")
        if not (np.isfinite(self.concentration) and self.concentration >= 0):
            raise ValueError(f"concentration must be a number ≥ 0, got {self.concentration}")
        if not 0 <= self.uniform <= 1:
            raise ValueError(f"uniform is a fraction in [0, 1], got {self.uniform}")
        if self.weights is not None:
            weights = np.asarray(self.weights, dtype=float)
            good = weights.shape == (len(preferred),) and np.isfinite(weights).all() and (weights >= 0).all()
            if not good or weights.sum() == 0:
                raise ValueError(
                    f"weights must be {len(preferred)} numbers ≥ 0, one for each direction, not all 0, "
                    f"got {self.weights!r}"
                )

    def draw(self, n, rng):
        """Viewing directions (n, 3). ``rng`` is a Generator."""
        preferred = np.atleast_2d(np.asarray(self.directions, dtype=float))
        preferred = preferred / np.linalg.norm(preferred, axis=1, keepdims=True)
        weights = np.ones(len(preferred)) if self.weights is None else np.asarray(self.weights, dtype=float)
        axis = preferred[rng.choice(len(preferred), size=n, p=weights / weights.sum())]
        # inverse distribution function of cos(angle) on the sphere (Ulrich 1984, in closed form in three dimensions)
        uniform = rng.random(n)
        kappa = self.concentration
        if kappa > 0:
            # log1p and expm1, so that a tiny κ tends to the even distribution
            with np.errstate(divide="ignore"):
                cosine = np.clip(1 + np.log1p((1 - uniform) * np.expm1(-2 * kappa)) / kappa, -1, 1)
        else:
            cosine = 2 * uniform - 1
        across = rng.standard_normal((n, 3))
        across -= (across * axis).sum(1, keepdims=True) * axis
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        drawn = cosine[:, None] * axis + np.sqrt(1 - cosine**2)[:, None] * across
        anywhere = rng.standard_normal((n, 3))
        anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
        return np.where((rng.random(n) < self.uniform)[:, None], anywhere, drawn)


@dataclass(frozen=True, eq=False)
class Imaging:
    """One data collection, down to the particles' box.

    Parameters
    ----------
    size_px : int
        Box size.
    pixel_size : float
        Å.
    snr : float
        Variance of the signal after the CTF over variance of the noise, per pixel inside the particle's circle;
        ``inf`` is no noise.
    noise : "white" or ndarray (m,)
        Relative variance of the noise at m frequencies evenly spaced from 0 to Nyquist.
    diameter : float, optional
        Of the particle's circle, Å; 85 % of the box by default.
    shift_sigma : float
        Å, standard deviation of the shift along x and along y.
    views : None, VonMisesFisher, ndarray (m, 3), Rotation, or callable
        None is uniform. From a table of directions or rotations particles draw theirs (directions get any in-plane
        angle, rotations are kept whole). A callable takes the states (n, k) and a Generator and returns directions
        (n, 3): views that depend on the conformation.
    defocus : (float, float), CTF, or None
        Å, range of the micrographs' mean defocus. From a table of measured CTFs, (m,), each micrograph draws a row, and
        ``astigmatism`` and ``optics`` are not read. None is no CTF at all.
    astigmatism : float
        Å, standard deviation of (U − V).
    optics : CTF, optional
        Voltage, aberration, amplitude contrast, phase shift and B factor of the microscope (scalars; its defocus is not
        read). 300 kV, 2.7 mm, 0.1, 0°, 0 Å² by default.
    per_micrograph : int
        Particles that share a micrograph and its defocus.
    group_noise : tuple of float
        Standard deviation of the noise of each optics group, relative; ``snr`` holds where it is 1. Micrographs take
        turns among the groups.
    """

    size_px: int = 64
    pixel_size: float = 6.3
    snr: float = 0.2
    noise: Any = "white"
    diameter: float | None = None
    shift_sigma: float = 5.0
    views: Any = None
    defocus: Any = (10_000.0, 25_000.0)
    astigmatism: float = 200.0
    optics: CTF | None = None
    per_micrograph: int = 50
    group_noise: tuple = (1.0,)

    def __post_init__(self):
        if not (self.snr > 0):
            raise ValueError(f"snr must be positive (inf for no noise), got {self.snr}")
        if not isinstance(self.noise, str):
            noise = np.asarray(self.noise, dtype=float)
            if noise.ndim != 1 or len(noise) < 2 or not (noise >= 0).all() or noise.sum() == 0:
                raise ValueError(f"noise is 'white' or relative variances (m,) from 0 to Nyquist, got {self.noise!r}")
            object.__setattr__(self, "noise", noise)
        elif self.noise != "white":
            raise ValueError(f"noise is 'white' or relative variances (m,) from 0 to Nyquist, got {self.noise!r}")
        if not 0 < self.circle_px <= self.size_px / 2:
            raise ValueError(
                f"a diameter of {self.diameter} Å does not fit a box of {self.size_px * self.pixel_size:g} Å"
            )

    @property
    def circle_px(self):
        """Radius of the particle's circle in pixels."""
        return 0.5 * (0.85 * self.size_px if self.diameter is None else self.diameter / self.pixel_size)


def disturb_poses(poses, *, angle=3.0, shift=0.0, rng):
    """Poses with errors, to stand for an imperfect alignment.

    Parameters
    ----------
    poses : Poses
    angle : float
        Degrees: standard deviation of the turn about each of the three axes.
    shift : float
        Å: standard deviation along x and along y.
    rng : int or numpy.random.Generator

    Returns
    -------
    Poses

    Examples
    --------
    >>> from cryonb.rotations import angular_distance
    >>> true = Poses(Rotation.random(2000, rng=0))
    >>> off = disturb_poses(true, angle=2.0, rng=1)
    >>> bool(abs(np.sqrt((angular_distance(true.rotation, off.rotation) ** 2).mean() / 3) - 2.0) < 0.1)
    True
    """
    rng = np.random.default_rng(rng)
    turn = Rotation.from_rotvec(np.radians(angle) * rng.standard_normal((len(poses), 3)))
    return Poses(poses.rotation * turn, poses.shift + shift * rng.standard_normal((len(poses), 2)))


def draw_poses(imaging, state, rng):
    """Orientations and shifts of n particles.

    Parameters
    ----------
    imaging : Imaging
    state : ndarray (n, k)
    rng : numpy.random.Generator

    Returns
    -------
    Poses
    """
    n, views = len(state), imaging.views
    shift = imaging.shift_sigma * rng.standard_normal((n, 2))
    if views is None:
        return Poses(Rotation.random(n, rng=rng), shift)
    if isinstance(views, Rotation):
        return Poses(views[rng.integers(0, len(views), n)], shift)
    if isinstance(views, VonMisesFisher):
        directions = views.draw(n, rng)
    elif callable(views):
        directions = np.asarray(views(state, rng), dtype=float)
    else:
        table = np.atleast_2d(np.asarray(views, dtype=float))
        directions = table[rng.integers(0, len(table), n)]
    if directions.shape != (n, 3):
        raise ValueError(f"views must give directions of shape ({n}, 3), got {directions.shape}")
    angles = np.column_stack([directions_to_angles(directions), rng.uniform(0, 360, n)])
    return Poses(from_relion_angles(angles), shift)


def draw_ctf(imaging, n, rng):
    """CTF and micrograph of n particles.

    Parameters
    ----------
    imaging : Imaging
    n : int
    rng : numpy.random.Generator

    Returns
    -------
    ctf : CTF of length n, or None
    micrograph : ndarray (n,) int
    """
    micrograph = np.arange(n) // imaging.per_micrograph
    count = int(micrograph.max()) + 1 if n else 0
    micrograph = rng.permutation(micrograph)  # so that neighbours in a stack, or in time, do not share a defocus
    if imaging.defocus is None:
        return None, micrograph
    if isinstance(imaging.defocus, CTF):
        return imaging.defocus[rng.integers(0, len(imaging.defocus), count)[micrograph]], micrograph
    mean = rng.uniform(*imaging.defocus, count)
    difference = np.abs(imaging.astigmatism * rng.standard_normal(count))
    angle = rng.uniform(0, 180, count)
    optics = CTF(0.0, 0.0) if imaging.optics is None else imaging.optics
    constants = {
        name: getattr(optics, name) for name in ("voltage_kv", "cs_mm", "amplitude_contrast", "phase_shift", "b_factor")
    }  # fmt: skip
    u, v = mean + difference / 2, mean - difference / 2
    return CTF(u[micrograph], v[micrograph], angle[micrograph], **constants), micrograph
