"""Who is in the tube: a species and a state for each particle, drawn from known landscapes."""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from .. import projection
from .species import Species, coordinate_name

__all__ = ["Langevin", "Population", "Species", "VolumeSet", "langevin", "populate", "sample_landscape"]

STEP_OF_SPAN = 1 / 50  # longest root-mean-square length of an inner Langevin step, in spans of the coordinate
DRIFT_OF_STEP = 0.25  # largest product of an inner step's D·dt and the landscape's curvature
INNER_STEPS = 20  # at least, between stored points: increments are short of variance by one part in twice that


@dataclass(frozen=True)
class Langevin:
    """Time order for a population: overdamped Langevin trajectories, one picture a time step.

    Parameters
    ----------
    diffusion : float
        D, degrees² per unit of time; two values for two coordinates that differ.
    time_step : float
        Between successive particles of a trajectory.
    trajectories : int
        Of the whole population, shared out by the species' fractions.
    periodic : bool
        The ends of every coordinate are one point; otherwise they reflect.
    """

    diffusion: float | tuple = 1.0
    time_step: float = 1.0
    trajectories: int = 10
    periodic: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Population:
    """Species and state of n particles (`populate`).

    Parameters
    ----------
    model : object with ``project(poses, size_px, pixel_size, **state)``
        Noise-free images of states, as `cryonb.samples.MovingModel` or `VolumeSet` make them.
    species : tuple of Species
    label : ndarray (n,) int
        Index into ``species``.
    state : ndarray (n, k)
        Conformational coordinates; NaN where the particle's species has no such coordinate.
    gauge : tuple of str, k of them
        What they measure, with the unit.
    trajectory : ndarray (n,) int
        Which trajectory; −1 where particles are independent.
    time : ndarray (n,)
        In the units of `Langevin`; NaN where particles are independent.
    """

    model: Any
    species: tuple
    label: np.ndarray
    state: np.ndarray
    gauge: tuple
    trajectory: np.ndarray
    time: np.ndarray

    def __len__(self):
        return len(self.label)

    @property
    def coordinate_names(self):
        """Names of the columns of ``state``."""
        return tuple(coordinate_name(gauge) for gauge in self.gauge)

    def values(self, rows, label):
        """Keyword arguments for ``model.project`` of particles of one species.

        Parameters
        ----------
        rows : ndarray of int
        label : int
        """
        species = self.species[label]
        drawn = {name: self.state[rows, self.coordinate_names.index(name)] for name in species.coordinates}
        return {**species.state, **drawn}

    def __repr__(self):
        counts = ", ".join(f"{(self.label == i).sum()} {kind.name}" for i, kind in enumerate(self.species))
        return f"Population({len(self)} particles: {counts}; over {', '.join(self.gauge) or 'one state'})"


class VolumeSet:
    """Discrete states: a few volumes as a model, with the state ``volume`` = 0, 1, ….

    Parameters
    ----------
    volumes : sequence of Volume
        Of one box and one voxel size.
    """

    def __init__(self, volumes):
        self.volumes = tuple(volumes)
        if not self.volumes:
            raise ValueError("expected at least one volume, got none")
        self.size_px, self.voxel_size = self.volumes[0].size_px, self.volumes[0].voxel_size
        for index, volume in enumerate(self.volumes):
            if volume.size_px != self.size_px or not np.isclose(volume.voxel_size, self.voxel_size):
                raise ValueError(
                    f"volumes must share one grid, but volume 0 is {self.volumes[0]} and {index} is {volume}"
                )
        self._prepared = [projection.prepare(volume) for volume in self.volumes]

    def project(self, poses, size_px, pixel_size, *, volume=0):
        """Projections by `cryonb.projection.project`, each of the volume of its index.

        Parameters
        ----------
        poses : Poses
        size_px, pixel_size : int, float
            Must be those of the volumes.
        volume : int or ndarray (n,) int
        """
        if size_px != self.size_px or not np.isclose(pixel_size, self.voxel_size, rtol=1e-3):
            raise ValueError(
                f"the volumes have {self.size_px} px of {self.voxel_size:g} Å, the images should have {size_px} px of "
                f"{pixel_size:g} Å: resample the volumes first (cryonb.filters.resample)"
            )
        which = np.broadcast_to(volume, len(poses))
        images = np.empty((len(poses), size_px, size_px), dtype=np.float32)
        for index in np.unique(which):
            rows = np.flatnonzero(which == index)
            images[rows] = projection.project(self._prepared[int(index)], poses[rows])
        return images


def populate(model, species, n, *, dynamics=None, rng):
    """Draw a species and a state for each of n particles.

    Parameters
    ----------
    model : MovingModel, or sequence of Volume
        What is projected: anything with ``project(poses, size_px, pixel_size, **state)``.
    species : sequence of Species, a Species, an EnergyLandscape, or None
        None is one species per volume in equal parts, or one particle at rest; a landscape is one species over it.
    n : int
        Particles.
    dynamics : Langevin, optional
        Keep a time order; otherwise particles are independent and in random order.
    rng : int or numpy.random.Generator

    Returns
    -------
    Population

    Examples
    --------
    >>> from cryonb.samples import rotor
    >>> from cryonb.simulate import circular
    >>> populate(rotor(), circular(), 100, rng=0)
    Population(100 particles: 100 particle; over angle (°))
    """
    rng = np.random.default_rng(rng)
    if not hasattr(model, "project"):
        model = VolumeSet(model)
    species = _as_species(model, species)
    gauge = tuple(dict.fromkeys(g for kind in species if kind.landscape is not None for g in kind.landscape.gauge))
    fractions = np.array([kind.fraction for kind in species])
    if fractions.sum() <= 0:
        raise ValueError("the species' fractions are all zero")
    fractions = fractions / fractions.sum()
    label, trajectory, step = _shares(n, fractions, dynamics, rng)
    state = np.full((n, len(gauge)), np.nan)
    for index, kind in enumerate(species):
        rows = np.flatnonzero(label == index)
        if kind.landscape is None or not len(rows):
            continue
        columns = [gauge.index(g) for g in kind.landscape.gauge]
        if dynamics is None:
            state[np.ix_(rows, columns)] = sample_landscape(kind.landscape, len(rows), rng=rng)
        else:
            number = np.unique(trajectory[rows], return_inverse=True)[1]
            paths = langevin(kind.landscape, step[rows].max() + 1, dynamics, n=number.max() + 1, rng=rng)
            state[np.ix_(rows, columns)] = paths[number, step[rows]]
    time = np.full(n, np.nan) if dynamics is None else step * dynamics.time_step
    return Population(model, species, label, state, gauge, trajectory, time)


def sample_landscape(landscape, n, *, rng):
    """Independent draws from e^(−F): a bin by its probability, then anywhere in it.

    Parameters
    ----------
    landscape : EnergyLandscape
    n : int
    rng : int or numpy.random.Generator

    Returns
    -------
    ndarray (n, k)
    """
    rng = np.random.default_rng(rng)
    cumulative = np.cumsum(landscape.probability.ravel())
    chosen = np.searchsorted(cumulative / cumulative[-1], rng.random(n), side="right")
    bins = np.unravel_index(chosen, landscape.energy_kt.shape)
    columns = [edge[i] + rng.random(n) * (edge[i + 1] - edge[i]) for edge, i in zip(landscape.edges, bins)]
    return np.stack(columns, axis=1)


def langevin(landscape, steps, dynamics, *, n=1, rng):
    """Overdamped Langevin trajectories dx = −D F'(x) dt + √(2D) dW, started in equilibrium.

    Parameters
    ----------
    landscape : EnergyLandscape
        Without unobserved bins.
    steps : int
        Stored points of each trajectory.
    dynamics : Langevin
        D, the time between stored points, and what the ends do.
    n : int
        Trajectories.
    rng : int or numpy.random.Generator

    Returns
    -------
    ndarray (n, steps, k)

    Notes
    -----
    The integrator of Leimkuhler & Matthews, Appl. Math. Res. Express 2013:34, eq. 2, whose stationary distribution is
    exact to second order in the inner step, which is chosen for the landscape. F' is interpolated linearly between bin
    centres.

    Examples
    --------
    >>> from cryonb.simulate import double_well
    >>> langevin(double_well(), 50, Langevin(diffusion=2.0), n=3, rng=0).shape
    (3, 50, 1)
    """
    if not np.isfinite(landscape.energy_kt).all():
        raise ValueError(
            "Langevin dynamics needs a landscape without unobserved bins (NaN); draw independently instead"
        )
    rng = np.random.default_rng(rng)
    k = landscape.energy_kt.ndim
    force, low, width = _force_grid(landscape, dynamics.periodic)
    span = width * np.array(landscape.energy_kt.shape)
    diffusion = np.broadcast_to(np.asarray(dynamics.diffusion, dtype=float), (k,))
    steepest = max(np.abs(np.diff(force[axis], axis=axis)).max() / width[axis] * diffusion[axis] for axis in range(k))
    longest = min((STEP_OF_SPAN * span).min() ** 2 / (2 * diffusion.max()), DRIFT_OF_STEP / max(steepest, 1e-12))
    inner = max(INNER_STEPS, int(np.ceil(dynamics.time_step / longest)))
    inner_step = dynamics.time_step / inner
    position = sample_landscape(landscape, n, rng=rng)
    paths = np.empty((n, steps, k))
    paths[:, 0] = position
    before = rng.standard_normal((n, k))
    for step in range(1, steps):
        noise = rng.standard_normal((inner, n, k))
        _advance(position, before, noise, force, (low, width), (diffusion, inner_step, dynamics.periodic))
        paths[:, step] = position
    return paths


def _as_species(model, species):
    if species is None:
        count = len(model.volumes) if isinstance(model, VolumeSet) else 0
        return tuple(Species(f"volume {i}", 1.0, state={"volume": i}) for i in range(count)) or (Species("particle"),)
    if hasattr(species, "energy_kt"):
        return (Species("particle", landscape=species),)
    return (species,) if isinstance(species, Species) else tuple(species)


def _shares(n, fractions, dynamics, rng):
    """Label, trajectory and step of each particle; trajectories of one length, as equal as can be."""
    if dynamics is None:
        return rng.choice(len(fractions), size=n, p=fractions), np.full(n, -1), np.zeros(n, dtype=np.int64)
    trajectory = np.arange(n) * dynamics.trajectories // n
    quota = np.floor(np.cumsum(fractions) * dynamics.trajectories + 0.5)
    label_of_trajectory = rng.permutation(np.searchsorted(quota, np.arange(dynamics.trajectories), side="right"))
    first = np.searchsorted(trajectory, np.arange(dynamics.trajectories))
    return label_of_trajectory[trajectory], trajectory, np.arange(n) - first[trajectory]


def _force_grid(landscape, periodic):
    """−dF/dx at the bin centres (k, …), the first centre, and the bin width of each coordinate."""
    energy = landscape.energy_kt
    low = np.array([centre[0] for centre in landscape.centers])
    width = np.array([edge[1] - edge[0] for edge in landscape.edges])
    force = []
    for axis in range(energy.ndim):
        if not np.allclose(np.diff(landscape.edges[axis]), width[axis]):
            raise ValueError(f"Langevin dynamics needs bins of one width, those of {landscape.gauge[axis]} differ")
        if periodic:
            slope = (np.roll(energy, -1, axis) - np.roll(energy, 1, axis)) / (2 * width[axis])
        else:
            slope = np.gradient(energy, width[axis], axis=axis)
        force.append(-slope)
    return np.array(force).reshape(energy.ndim, energy.shape[0], -1), low, width


@numba.njit(cache=True, nogil=True)
def _interpolate(grid, position, periodic):
    """Bilinear value of grid (m1, m2) at a position in bins; one column means one coordinate."""
    rows, columns = grid.shape
    at = np.empty(2)
    for axis in range(2):
        size = rows if axis == 0 else columns
        at[axis] = position[axis] % size if periodic else min(max(position[axis], 0.0), size - 1.0)
    i, j = int(at[0]), int(at[1])
    fi, fj = at[0] - i, at[1] - j
    if periodic:
        i1, j1 = (i + 1) % rows, (j + 1) % columns
    else:
        i1, j1 = min(i + 1, rows - 1), min(j + 1, columns - 1)
    low = (1 - fj) * grid[i, j] + fj * grid[i, j1]
    high = (1 - fj) * grid[i1, j] + fj * grid[i1, j1]
    return (1 - fi) * low + fi * high


@numba.njit(cache=True, nogil=True)
def _advance(position, before, noise, force, grid, motion):
    """Inner steps of all trajectories, in place; ``before`` holds each one's last random number."""
    low, width = grid
    diffusion, step, periodic = motion
    n, k = position.shape
    place, drift = np.zeros(2), np.zeros(2)
    for inner in range(len(noise)):
        for i in range(n):
            for axis in range(k):
                place[axis] = (position[i, axis] - low[axis]) / width[axis]
            for axis in range(k):
                drift[axis] = _interpolate(force[axis], place, periodic)
            for axis in range(k):
                size = force.shape[1] if axis == 0 else force.shape[2]
                kick = (noise[inner, i, axis] + before[i, axis]) / 2
                before[i, axis] = noise[inner, i, axis]
                moved = (
                    position[i, axis]
                    + diffusion[axis] * step * drift[axis]
                    + np.sqrt(2 * diffusion[axis] * step) * kick
                )
                start, length = low[axis] - width[axis] / 2, width[axis] * size
                moved = (moved - start) % (length if periodic else 2 * length)
                if moved > length:  # a wall reflects
                    moved = 2 * length - moved
                position[i, axis] = start + moved
