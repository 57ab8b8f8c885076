"""What a coordinate measures: the angle or length of a known rigid-body motion, read off recovered volumes.

Only the recovered volumes and the model of the moving body enter, never the state of any particle.
"""

import copy
from dataclasses import dataclass

import numpy as np

from cryonb.fourier import inverse_transform, shell_index, transform
from cryonb.manifold.volume_sets import VolumeSet, crop_or_pad

__all__ = ["RigidBodyGauge", "arclength", "measure_volumes"]

_MOTION_DIRECTIONS = 5  # principal changes of the model: all that particles are judged by, and that a reading uses
_EMPTY = 0.005  # share of the particles at either end of the nodes between which a curve is read
_TURNS = 1  # times the turning of the whole is estimated; twice costs as much again and gives the same


@dataclass(frozen=True, eq=False)
class RigidBodyGauge:
    """A model of the motion: the volume expected at each value of the coordinate.

    Parameters
    ----------
    model : callable
        Value of the coordinate → `Volume` on the particles' grid.
    values : ndarray (a,)
        Equally spaced values that span what may occur, for instance −14 … 14 degrees.
    name : str
        Name and unit, ``"ratchet (°)"``.
    """

    model: object
    values: np.ndarray
    name: str = "angle (°)"

    def __post_init__(self):
        values = np.asarray(self.values, dtype=float)
        if values.ndim != 1 or len(values) < 5 or not np.allclose(np.diff(values), values[1] - values[0]):
            raise ValueError("gauge values must be at least 5 equally spaced numbers")
        object.__setattr__(self, "values", values)


class RigidModels:
    """A model's volumes on the cropped grid, filtered like the recovered ones, with the rigid motions of the whole."""

    def __init__(self, volumes, reference, *, middle):
        """Filter the model's volumes.

        ``reference`` is a `VolumeSet` whose first volume, the mean, sets the filter; ``middle`` is the model at rest.
        All Fourier shells count alike; `with_weights` changes that.
        """
        size_px = reference.data.shape[-1]
        models = []
        for volume in volumes:
            if volume.size_px != reference.size_px:
                raise ValueError(
                    f"the gauge's model gives {volume}, but the particles have box {reference.size_px} px of "
                    f"{reference.pixel_size:g} Å"
                )
            models.append(crop_or_pad(volume.data, size_px))
        self.mask, self.middle, self.shell_weights = reference.mask, middle, None
        self.plain = _match_shells(np.stack(models), reference.data[0]) * self.mask
        self._draw(self.plain)

    def _draw(self, models):
        self.models = models
        self.motions = self._rigid_derivatives(models[self.middle])
        self.flat_models, self._bases = self._weighted(models), None

    def with_weights(self, shell_weights):
        """The same model with other weights of the Fourier shells, (shells,)."""
        other = copy.copy(self)
        other.shell_weights = shell_weights
        other._draw(other.models)
        return other

    def _with_models(self, models):
        """The same with the model's volumes moved."""
        other = copy.copy(self)
        other._draw(models)
        return other

    def _weighted(self, volumes):
        """Volumes as rows whose inner product weighs the Fourier shells."""
        volumes = volumes * self.mask
        if self.shell_weights is not None:
            shell = shell_index(volumes.shape[-1], ndim=3)
            weights = np.zeros(shell.max() + 1)
            weights[: len(self.shell_weights)] = np.sqrt(self.shell_weights)
            volumes = inverse_transform(transform(volumes, ndim=3) * weights[shell], ndim=3).real
        return volumes.reshape(len(volumes), -1).astype(np.float64)

    def changes(self, n_directions=_MOTION_DIRECTIONS):
        """What the model can change, (k, c, c, c) of unit norm: its principal changes, three shifts, three rotations.

        Without what volumes do elsewhere: that is mostly noise, which all particles share, and says nothing about
        the coordinate.
        """
        rows = principal_directions(self.plain.reshape(len(self.plain), -1), n_directions)
        motions = self._rigid_derivatives(self.plain[self.middle])[:6]
        changes = np.concatenate([rows.reshape(-1, *motions.shape[1:]), motions])
        return changes / np.sqrt((changes**2).sum(axis=(1, 2, 3), keepdims=True))

    @property
    def basis(self):
        """Orthonormal rows that span shifts, rotations and a constant."""
        return np.linalg.qr(self._weighted(self.motions).T)[0]

    def _without_whole(self, rows):
        """Rows without what shifts, rotations and a constant explain."""
        basis = self.basis
        return rows - (rows @ basis) @ basis.T

    def _rigid_derivatives(self, volume):
        """Derivatives of a volume by three shifts and three rotations, and a constant, (7, voxels)."""
        size_px = volume.shape[0]
        gradient = np.stack(np.gradient(volume)[::-1])  # x, y, z
        axis = np.arange(size_px) - size_px // 2
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        turns = np.cross(np.stack([x, y, z]), gradient, axis=0)
        return np.concatenate([gradient, turns, self.mask[None]])


class PreparedGauge(RigidModels):
    """The model of one motion, and where on recovered curves its volumes lie."""

    def __init__(self, gauge, reference):
        """Draw and filter the model at each of the gauge's values, as `RigidModels` does."""
        self.values, self.name = gauge.values, gauge.name
        super().__init__(map(gauge.model, gauge.values), reference, middle=len(gauge.values) // 2)

    def measure(self, volumes):
        """Value of the coordinate that explains each volume best, (m,): scale and rigid motion of the whole are free.

        Volumes beyond the model's values are clipped there.
        """
        flat = self._weighted(volumes.data)
        explained = []
        for model, motions in zip(self.flat_models, self._motions_of_models()):
            left = flat - (flat @ motions) @ motions.T
            model = model - (model @ motions) @ motions.T
            explained.append((left @ model) ** 2 / (model @ model) + ((flat @ motions) ** 2).sum(axis=1))
        return np.array([_peak(self.values, row) for row in np.transpose(explained)])

    def _motions_of_models(self):
        """An orthonormal basis of the whole's rigid motions for every model: each moves in its own shape.

        With one basis for all, a whole that turns back by a fifth of the motion, as poses refined against a consensus
        make it do, reads 15 % short; so, 3 %.
        """
        if self._bases is None:
            self._bases = [np.linalg.qr(self._weighted(self._rigid_derivatives(m)).T)[0] for m in self.models]
        return self._bases

    def place(self, curves, nodes, density, *, n_iterations=4):
        """Where on each curve a particle of every model value would be found, (curves, a): position among ``nodes``.

        A curve is read by putting the model on it, not it on the model: volumes solved from noisy coordinates show a
        damped motion, and a particle at value y lands where ⟨V(x), M(y)⟩ − ½ ‖V(x)‖² is largest, which may not be
        the volume that looks most like M(y). What all particles share is taken from the recovered volumes, the model
        gives the change, and only changes in directions that the motion takes are looked at; the zero is where the
        model's average over the particles fits the recovered mean best.

        Parameters
        ----------
        curves : list of VolumeSet
            Volumes at the nodes, solved without one group of particles each; the expected norm of their noise is
            taken off.
        nodes : ndarray (m,)
        density : ndarray (m,)
            Share of the particles at each node.

        Returns
        -------
        ndarray (curves, a), NaN beyond a curve's ends
        """
        placed, reading = self._place(curves, nodes, density, n_iterations)
        for _ in range(_TURNS):
            turned = self._turned_like(curves, reading, density)
            placed, reading = turned._place(curves, nodes, density, n_iterations)
        return placed

    def _place(self, curves, nodes, density, n_iterations):
        """`place` with the whole of the model as it stands; and the reading of the nodes."""
        models = self._without_whole(self.flat_models)
        directions = principal_directions(models, _MOTION_DIRECTIONS)
        flat = [self._without_whole(self._weighted(curve.data)) for curve in curves]
        mean = density @ np.mean(flat, axis=0)
        centred = [(rows - mean) @ directions.T for rows in flat]
        average = np.mean(centred, axis=0)
        noise = sum(((rows - average) ** 2).sum(axis=1) for rows in centred) if len(flat) > 1 else 0.0
        reading = np.interp(nodes, [nodes[0], nodes[-1]], [self.values[3], self.values[-4]])
        # where nobody is, a curve is a cubic's own affair, and may come by the same volumes again
        low, high = np.searchsorted(np.cumsum(density), [_EMPTY, 1 - _EMPTY])
        centred, seen = [rows[low : high + 1] for rows in centred], nodes[low : high + 1]
        noise = noise[low : high + 1] if len(flat) > 1 else 0.0
        for _ in range(n_iterations):
            share = self._spread(reading, density)
            share = self._spread(reading + self._zero(mean, models, share), density)
            scale = mean @ (share @ models) / np.sum((share @ models) ** 2)
            placed = self._positions(centred, noise, seen, scale * (models - share @ models) @ directions.T)
            centre = placed.mean(axis=0)
            known = _rising(centre)
            if known.sum() < 4:
                break
            reading = _follow(nodes, centre[known], self.values[known])
        return placed, reading

    def _turned_like(self, curves, reading, density):
        """The same model, whose whole turns and shifts with the coordinate as that of the recovered volumes does.

        Poses refined against a consensus turn each particle back by a share of its motion: to first order the
        change of the volumes along the coordinate is the model's and a rigid motion.
        """
        share = self._spread(reading, density)
        zero = self.values @ share
        lever = density * (reading - density @ reading)
        volumes = np.mean([curve.data for curve in curves], axis=0, dtype=np.float64)
        change = np.tensordot(lever / (lever @ reading), volumes, 1)
        lever = share * (self.values - zero)
        own = np.tensordot(lever / (lever @ self.values), self.plain, 1)
        motions = self._rigid_derivatives(np.tensordot(share, self.plain, 1))
        found = np.linalg.lstsq(
            self._weighted(np.concatenate([own[None], motions])).T, self._weighted(change[None])[0]
        )[0]
        rate = found[1:7] / found[0]
        return self._with_models(
            np.stack([moved(model, (value - zero) * rate) for model, value in zip(self.plain, self.values)])
        )

    def read(self, curves, nodes, density):
        """Value of the coordinate at every node of every curve, (curves, m), by `place`."""
        readings = []
        for placed in self.place(curves, nodes, density):
            known = _rising(placed)
            if known.sum() < 4:
                raise ValueError(
                    f"the model of {self.name} does not describe the recovered motion, or the particles are too few to "
                    f"show it: fewer than four of its values, {self.values[0]:g} to {self.values[-1]:g}, fall on the "
                    "volumes found"
                )
            readings.append(_follow(nodes, placed[known], self.values[known]))
        return np.array(readings)

    def _positions(self, curves, noise, nodes, particles):
        placed = np.full((len(curves), len(particles)), np.nan)
        for row, rows in zip(placed, curves):
            score = rows @ particles.T - 0.5 * ((rows**2).sum(axis=1) - noise)[:, None]
            best = np.argmax(score, axis=0)
            inside = (best > 0) & (best < len(nodes) - 1)
            row[inside] = [_peak(nodes, score[:, k]) for k in np.flatnonzero(inside)]
        return placed

    def _spread(self, reading, density):
        """Share of the particles at each model value, from the readings of the nodes."""
        step = self.values[1] - self.values[0]
        position = np.clip((reading - self.values[0]) / step, 0, len(self.values) - 1 - 1e-9)
        low = position.astype(int)
        share = np.bincount(low, density * (1 - position + low), minlength=len(self.values))
        share += np.bincount(low + 1, density * (position - low), minlength=len(self.values))
        return share / share.sum()

    def _zero(self, mean, models, share):
        """Shift of the values at which the model's average over ``share`` fits the recovered mean best."""
        step = self.values[1] - self.values[0]
        shifts = np.arange(-12, 13)
        padded = np.pad(share, 12)
        fits = []
        for shift in shifts:
            moved = models.T @ padded[12 - shift : 12 - shift + len(share)]
            fits.append((mean @ moved) ** 2 / max(np.sum(moved**2), 1e-300))
        return _peak(shifts * step, np.array(fits))

    def direction(self, volumes, *, reach=10.0):
        """Change of the coordinate per unit of each orthonormal component, (q,): a linear reading of latents.

        ``volumes`` holds the mean, then the components. The model's own path through the span of the components, a
        straight line fitted over its central values (at most ``reach`` from the middle), is inverted.
        """
        centre = self.values.mean()
        near = np.abs(self.values - centre) <= reach
        free = self._without_whole(self._weighted(volumes.data[1:]))
        # coordinates of the model in the span, the motion of the whole left free
        along = np.linalg.solve(free @ free.T, free @ self.flat_models[near].T)
        slope = np.polynomial.polynomial.polyfit(self.values[near] - centre, along.T, 1)[1]
        return slope / (slope @ slope)


def measure_volumes(volumes, gauge, *, mask=None):
    """Angle or length of a known rigid-body motion in each of a list of volumes.

    Parameters
    ----------
    volumes : list of Volume, or VolumeSet
    gauge : RigidBodyGauge
    mask : Volume, optional
        Where to compare; everywhere by default.

    Returns
    -------
    ndarray (m,), in the unit of the gauge

    Notes
    -----
    Least squares of each volume on the model at every value, with scale, a constant, and to first order a rotation and
    shift of the whole (which poses refined against a consensus bring in) left free; the optimum between values by a
    parabola. The model is first filtered, shell by shell, like the mean of the volumes.
    """
    if not isinstance(volumes, VolumeSet):
        data = np.stack([volume.data for volume in volumes])
        shape = np.ones_like(data[0]) if mask is None else mask.data
        volumes = VolumeSet(data, shape, volumes[0].size_px, volumes[0].voxel_size)
    mean = volumes.combine(np.full((1, len(volumes)), 1 / len(volumes)))
    return PreparedGauge(gauge, mean).measure(volumes)


def arclength(volumes):
    """Cumulative distance in volume space along a series of volumes, scaled to end at 1.

    Parameters
    ----------
    volumes : VolumeSet or list of Volume, m of them

    Returns
    -------
    ndarray (m,), from 0 to 1

    Examples
    --------
    >>> from cryonb.types import Volume
    >>> steps = [Volume(np.full((2, 2, 2), x), 1.0) for x in (0, 1, 4)]
    >>> arclength(steps).tolist()
    [0.0, 0.25, 1.0]
    """
    data = volumes.data if isinstance(volumes, VolumeSet) else np.stack([volume.data for volume in volumes])
    steps = np.linalg.norm(np.diff(data, axis=0).reshape(len(data) - 1, -1), axis=1)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    if total[-1] == 0:
        raise ValueError("the volumes are all the same: there is no arclength along them")
    return total / total[-1]


def moved(volume, motion):
    """A volume read at positions shifted by motion[:3] (x, y, z; voxels) and turned by motion[3:] (radians)."""
    from scipy.ndimage import affine_transform
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(motion[3:]).as_matrix()[::-1, ::-1]
    centre = np.array(volume.shape) // 2
    return affine_transform(volume, turn, offset=centre - turn @ centre + motion[2::-1], order=3, mode="constant")


def principal_directions(rows, count):
    """Orthonormal directions in which rows differ most, at most ``count``, from their few products."""
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    kept = np.flatnonzero(values > 1e-9 * values[-1])[-count:]
    return (vectors[:, kept] / np.sqrt(values[kept])).T @ centred


def _match_shells(models, reference):
    """Scale every shell of the models as the reference has it: the slope of the reference on the models' mean."""
    target, source = transform(reference), transform(models.mean(axis=0))
    shell = shell_index(reference.shape[0], ndim=3).ravel()
    overlap = np.bincount(shell, (target * source.conj()).real.ravel())
    power = np.bincount(shell, (np.abs(source) ** 2).ravel())
    factor = np.maximum(overlap / np.maximum(power, 1e-12 * power.max()), 0)
    filtered = transform(models, ndim=3) * factor[shell].reshape(reference.shape)
    return inverse_transform(filtered, ndim=3).real


def _peak(values, height):
    """Position of the maximum, refined by a parabola through three points."""
    best = int(np.argmax(height))
    if best in (0, len(values) - 1):
        return values[best]
    left, middle, right = height[best - 1 : best + 2]
    return values[best] + 0.5 * (left - right) / (left - 2 * middle + right) * (values[1] - values[0])


def _rising(positions):
    """The stretch around the middle where positions rise steadily, bool like ``positions``.

    Beyond what the recovered volumes show, positions slow down and turn back: they say nothing there.
    """
    steps = np.diff(positions)
    middle = len(positions) // 2
    known = steps[max(middle - 3, 0) : middle + 3]
    known = known[np.isfinite(known)]
    kept = np.zeros(len(positions), dtype=bool)
    if not np.isfinite(positions[middle]) or not len(known) or not np.median(known) > 0:
        return kept
    usual = np.median(known)
    kept[middle] = True
    for side in (1, -1):
        k = middle
        while 0 <= k + side < len(positions):
            step = steps[k] if side == 1 else steps[k - 1]
            if not step > 0.35 * usual:
                break
            k += side
            kept[k] = True
    return kept


def _follow(nodes, positions, values):
    """Value at every node from positions where values are known; straight on beyond them, at the mean slope."""
    result = np.interp(nodes, positions, values)
    slope = (values[-1] - values[0]) / (positions[-1] - positions[0])
    for end, outside in ((0, nodes < positions[0]), (-1, nodes > positions[-1])):
        result[outside] = values[end] + slope * (nodes[outside] - positions[end])
    return result
