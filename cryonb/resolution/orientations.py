"""Where the particles were looked at from, and what that does to the volume."""

from dataclasses import dataclass

import numpy as np

from .. import rotations

__all__ = ["OrientationDistribution", "orientation_distribution"]

HALF_MAXIMUM = np.sqrt(2 * np.log(2))  # of a Gaussian, in its standard deviations
BISECTIONS = 20  # of the spread: to a millionth of the reach
FINE_ORDER = 5  # of the grid on which views are counted for the sampling and the spread: 1.9°


@dataclass(frozen=True, eq=False, repr=False)
class OrientationDistribution:
    """Viewing directions on an equal-area grid, and how they sample and smear the volume.

    Parameters
    ----------
    directions : ndarray (n, 3)
        HEALPix directions (x, y, z), nested order.
    density : ndarray (n,)
        Views per area over their mean: 1 everywhere is uniform.
    sampling : ndarray (n,)
        How often each direction of Fourier space was seen, over the mean: a view samples the plane across it.
    spread : ndarray (n,)
        Half width of the point-spread function along each direction, over that of a single view across its beam.
    count : int
        Particles.
    """

    directions: np.ndarray
    density: np.ndarray
    sampling: np.ndarray
    spread: np.ndarray
    count: int

    @property
    def efficiency(self):
        """E_od = 1 − 2 σ / mean of the spread over all directions: 1 for uniform views, 0.71 for side views only."""
        return float(1 - 2 * self.spread.std() / self.spread.mean())

    @property
    def scf(self):
        """Sampling compensation factor 1 / ⟨1 / sampling⟩: 1 uniform, 0.81 side views, 0 with a missing cone."""
        return float(1 / np.mean(1 / self.sampling)) if self.sampling.min() > 0 else 0.0

    def __repr__(self):
        return (
            f"OrientationDistribution({self.count} particles, {len(self.directions)} directions, "
            f"E_od {self.efficiency:.2f}, SCF {self.scf:.2f})"
        )


def orientation_distribution(poses, *, order=3, symmetry="C1", weights=None, reach=20.0):
    """Density of viewing directions, Fourier sampling, and the efficiency E_od of the distribution.

    Parameters
    ----------
    poses : Poses of length n
    order : int
        HEALPix order of the grid: 12·4^order directions, 7.5° apart at 3. Take it coarse enough for tens of particles
        a direction.
    symmetry : str
        Point group, as `cryonb.rotations.point_group` names it: every view counts at all its equivalents.
    weights : ndarray (n,), optional
        Weight of each particle.
    reach : float
        Particle diameter over resolution: a point is smeared along the beam no farther than the particle goes.

    Returns
    -------
    OrientationDistribution

    Raises
    ------
    ValueError
        No particles, weights that are negative, all zero or of another length, an unknown symmetry.

    Notes
    -----
    Each view smears a point into a rod along the beam, a Gaussian of deviation s across it; the views v with
    probability p(v) make of it

    PSF(r u) = Σ_v p(v) exp(−r² (1 − (u·v)²) / 2s²),

    and R(u) is where that has fallen to one half. E_od = 1 − 2 σ(R) / mean(R), after Naydenova & Russo, Nat Commun
    8:629 (2017), who take R from a numerical PSF with a B factor: expect the same trend, not the same
    digits. Uniform side views give 0.71, top views alone less than 0 (the more, the finer the grid and the longer the
    ``reach``). The Fourier view of the same thing is the sampling compensation factor of Baldwin &
    Lyumkis, Prog Biophys Mol Biol 150:160 (2020). Both know only the angles: junk counts as much as particles, and
    wrong angles as much as right ones (`cryonb.resolution.directional_fsc` sees the signal).

    Examples
    --------
    >>> from cryonb.types import Poses
    >>> views = orientation_distribution(Poses(rotations.random_rotations(20000, rng=0)))
    >>> bool(views.efficiency > 0.97), bool(views.scf > 0.99)
    (True, True)
    """
    weights = _checked_weights(weights, len(poses))
    if not reach > 1:
        raise ValueError(f"reach, the particle's diameter over the resolution, must be more than 1, got {reach:g}")
    views = rotations.viewing_direction(poses.rotation)
    group = rotations.point_group(symmetry)
    views = np.concatenate([turn.apply(views) for turn in group])
    weights = np.tile(weights / len(group), len(group))
    directions = rotations.healpix_directions(order)
    density = _share_per_pixel(directions, views, weights) / pixel_areas(directions)
    fine, share = _half_sphere(max(order, FINE_ORDER), views, weights)
    sampling = _fourier_sampling(directions, fine, share, rotations.healpix_step(order))
    return OrientationDistribution(directions, density, sampling, _spread(directions, fine, share, reach), len(poses))


def pixel_areas(directions):
    """Share of the sphere that lies nearest to each of ``directions`` (n, 3)."""
    from scipy.spatial import SphericalVoronoi

    return SphericalVoronoi(directions).calculate_areas() / (4 * np.pi)


def _share_per_pixel(directions, views, weights):
    from scipy.spatial import cKDTree

    nearest = cKDTree(directions).query(views)[1]
    return np.bincount(nearest, weights=weights, minlength=len(directions))


def _half_sphere(order, views, weights):
    """Directions of a fine grid with z ≥ 0 and the views' share in each; opposite views see the same plane."""
    fine = rotations.healpix_directions(order)
    fine = fine[fine[:, 2] >= -1e-9]
    return fine, _share_per_pixel(fine, np.where(views[:, 2:] < 0, -views, views), weights)


def _fourier_sampling(directions, fine, share, step):
    """Views whose central plane passes within ``step`` degrees of each direction, over what uniform views give."""
    reach = np.sin(np.radians(step))
    near = [np.clip(1 - np.abs(fine @ axis) / reach, 0, None) for axis in directions]
    return np.array([weight @ share / weight.mean() for weight in near])


def _spread(directions, fine, share, reach):
    """R(u) / R of one view across its beam; the opposite direction has the same, so that half are computed."""
    half = directions[:, 2] >= -1e-9
    across = 1 - np.minimum(np.square(directions[half] @ fine.T), 1)
    low, high = np.full(half.sum(), 1.0), np.full(half.sum(), float(reach))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = np.exp(-np.square(middle * HALF_MAXIMUM)[:, None] / 2 * across) @ share > 0.5
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    spread = np.empty(len(directions))
    spread[half] = (low + high) / 2
    opposite = np.argmax(-directions[~half] @ directions[half].T, axis=1)
    spread[~half] = spread[half][opposite]
    return spread


def _checked_weights(weights, n):
    if n == 0:
        raise ValueError("there are no particles; expected one or more")
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() == 0:
        raise ValueError(f"weights must be {n} numbers of 0 or more, not all 0; got shape {weights.shape}")
    return weights / weights.sum()
