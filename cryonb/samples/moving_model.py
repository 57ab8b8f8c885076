"""Models made of Gaussian pseudo-atoms in parts that turn about axes and come and go."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from . import drawing

__all__ = ["Motion", "MovingModel"]


@dataclass(frozen=True, eq=False)
class Motion:
    """A rotation of some parts about an axis.

    Parameters
    ----------
    name : str
        The conformational coordinate, in degrees.
    axis : ndarray (3,)
        Unit vector; positive angles turn by the right-hand rule.
    point : ndarray (3,)
        Å, a point on the axis.
    parts : tuple of str
        The parts that turn.
    """

    name: str
    axis: np.ndarray
    point: np.ndarray
    parts: tuple

    def __post_init__(self):
        axis = np.asarray(self.axis, dtype=np.float64)
        if axis.shape != (3,) or not np.isclose(np.linalg.norm(axis), 1, atol=1e-6):
            raise ValueError(f"axis of {self.name!r} must be a unit vector (3,), got {self.axis}")
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "point", np.asarray(self.point, dtype=np.float64))

    def rotation(self, degrees):
        """``scipy`` Rotation(s) by an angle, or by n of them."""
        return Rotation.from_rotvec(np.multiply.outer(np.radians(degrees), self.axis))


@dataclass(frozen=True, eq=False, repr=False)
class MovingModel:
    """Gaussian pseudo-atoms in parts, some of which turn and some of which come and go.

    Parameters
    ----------
    coordinates : ndarray (a, 3)
        Å from the centre of the box, at rest (every angle zero).
    weights : ndarray (a,)
        Integral of each Gaussian, electrons.
    sigma : ndarray (a,)
        Standard deviation of each Gaussian, Å.
    part : ndarray (a,) int
        Index into ``part_names``.
    part_names : tuple of str
    motions : tuple of Motion
        Applied in this order, each in the frame at rest: a head turns on its body before the body carries it away.
    optional : tuple of str
        Parts that a state can leave out by name: ``factor=False``.
    """

    coordinates: np.ndarray
    weights: np.ndarray
    sigma: np.ndarray
    part: np.ndarray
    part_names: tuple
    motions: tuple = ()
    optional: tuple = ()

    def __len__(self):
        return len(self.coordinates)

    @property
    def coordinate_names(self):
        """Names of the conformational coordinates."""
        return tuple(motion.name for motion in self.motions)

    def in_parts(self, parts):
        """Which pseudo-atoms belong to parts whose names begin with a given word or words; ndarray (a,) bool.

        Parameters
        ----------
        parts : str, sequence of str, or None for all
            "40S" stands for "40S body" and "40S head".
        """
        if parts is None:
            return np.ones(len(self), dtype=bool)
        words = (parts,) if isinstance(parts, str) else tuple(parts)
        chosen = np.zeros(len(self.part_names), dtype=bool)
        for word in words:
            matching = [name.startswith(word) for name in self.part_names]
            if not any(matching):
                raise ValueError(f"no part is called {word!r}; there are {', '.join(self.part_names)}")
            chosen |= matching
        return chosen[self.part]

    def state(self, *, parts=None, **values):
        """Pseudo-atoms of one state.

        Parameters
        ----------
        parts : str or sequence of str, optional
            Keep only these (`in_parts`).
        **values
            An angle in degrees for each coordinate (default 0), a truth value for each optional part (default True).

        Returns
        -------
        coordinates : ndarray (a, 3), Å
        weights : ndarray (a,)
            Zero where a part is absent, so that ``sigma`` and ``part`` keep their order.
        """
        angles, present = self._values(values)
        moved = self.coordinates.copy()
        for motion, angle in zip(self.motions, angles):
            if angle == 0:
                continue
            turning = np.isin(self.part, [self.part_names.index(name) for name in motion.parts])
            moved[turning] = motion.rotation(float(angle)).apply(moved[turning] - motion.point) + motion.point
        weights = np.where(self.in_parts(parts), self.weights, 0.0)
        for name, here in zip(self.optional, present):
            weights[self.part == self.part_names.index(name)] *= bool(here)
        return moved, weights

    def volume(self, size_px, voxel_size, *, parts=None, **values):
        """Density of one state on a grid, band-limited (no aliasing at any voxel size).

        Parameters
        ----------
        size_px : int
        voxel_size : float
            Å.
        parts, **values
            As in `state`.

        Returns
        -------
        Volume whose voxels sum to the weights.
        """
        return drawing.draw_volume(self.state(parts=parts, **values), self.sigma, size_px, voxel_size)

    def project(self, poses, size_px, pixel_size, *, exact=False, parts=None, **values):
        """Noise-free projections, a state for each: what `cryonb.projection.project` gives of that state's volume.

        Parameters
        ----------
        poses : Poses
            n of them.
        size_px : int
        pixel_size : float
            Å.
        exact : bool
            Draw every pseudo-atom of every image (`cryonb.projection.project_atoms`, some 10 ms an image) instead of
            one slice per rigid body. The two differ by less than 0.1 % of the image's standard deviation.
        parts : str or sequence of str, optional
            As in `state`.
        **values
            As in `state`; scalars or arrays (n,).

        Returns
        -------
        ndarray (n, d, d) float32, band-limited to |k| below Nyquist; each sums to its state's weights.
        """
        n = len(poses)
        angles, present = (
            np.array([np.broadcast_to(value, n) for value in group]).reshape(-1, n) for group in self._values(values)
        )
        render = self._render_atoms if exact else self._render_bodies
        return render(poses, (size_px, pixel_size), parts, angles.astype(float), present.astype(bool))

    def _values(self, values):
        unknown = set(values) - set(self.coordinate_names) - set(self.optional)
        if unknown:
            known = ", ".join([*self.coordinate_names, *self.optional])
            raise TypeError(f"unknown coordinate {sorted(unknown)[0]!r}; this model has {known or 'none'}")
        angles = [values.get(name, 0.0) for name in self.coordinate_names]
        return angles, [values.get(name, True) for name in self.optional]

    def _render_atoms(self, poses, box, parts, angles, present):
        images = np.empty((len(poses), box[0], box[0]), dtype=np.float32)
        for i in range(len(poses)):
            values = dict(zip((*self.coordinate_names, *self.optional), (*angles[:, i], *present[:, i])))
            images[i] = drawing.draw_image(self.state(parts=parts, **values), self.sigma, poses[i], *box)
        return images

    def _render_bodies(self, poses, box, parts, angles, present):
        matrices = poses.rotation.as_matrix()
        transforms = drawing.empty_transforms(len(poses), box[0])
        selection = None if parts is None else tuple([parts] if isinstance(parts, str) else parts)
        for moving, option, body in _bodies(self, *box, selection):
            here = np.arange(len(poses)) if option is None else np.flatnonzero(present[option])
            turn, moved = np.broadcast_to(np.eye(3), (len(here), 3, 3)), np.zeros((len(here), 3))
            for index in moving:
                motion = self.motions[index]
                rotation = motion.rotation(angles[index, here]).as_matrix()
                turn = rotation @ turn
                moved = np.einsum("nij,nj->ni", rotation, moved - motion.point) + motion.point
            into_body = np.einsum("nji,njk->nik", turn, matrices[here])  # Qᵀ R: from the image into the body at rest
            carried = np.einsum("nji,nj->ni", matrices[here], moved)[:, :2]
            drawing.add_slices(transforms, here, body, into_body, poses.shift[here] - carried)
        return drawing.to_images(transforms, box[0])

    def __repr__(self):
        extent = 2 * np.linalg.norm(self.coordinates, axis=1).max()
        moves = ", ".join(self.coordinate_names) or "still"
        kind = type(self).__name__
        return f"{kind}({len(self)} pseudo-atoms, {len(self.part_names)} parts, {extent:.0f} Å across, {moves})"


@functools.lru_cache(maxsize=4)
def _bodies(model, size_px, pixel_size, parts):
    """Rigid bodies: (indices of the motions that turn it, index of its option or None, its transform)."""
    kept, groups = model.in_parts(parts), {}
    for index, name in enumerate(model.part_names):
        moving = tuple(i for i, motion in enumerate(model.motions) if name in motion.parts)
        option = model.optional.index(name) if name in model.optional else None
        groups.setdefault((moving, option), []).append(index)
    bodies = []
    for (moving, option), indices in groups.items():
        weights = np.where(kept & np.isin(model.part, indices), model.weights, 0.0)
        if weights.any():
            body = drawing.prepare_body((model.coordinates, weights), model.sigma, size_px, pixel_size)
            bodies.append((moving, option, body))
    return bodies
