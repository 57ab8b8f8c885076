"""Two known rigid-body motions at once, and where their volumes lie on a recovered surface of volumes.

As with one motion, only the recovered volumes and the model enter, never the state of any particle.
"""

from dataclasses import dataclass

import numpy as np

from cryonb.manifold.gauge import RigidModels, moved, principal_directions

__all__ = ["PreparedSurfaceGauge", "SmoothMap", "SurfaceGauge", "grid_points"]

N_DIRECTIONS = 12  # principal changes of the model: all that particles are judged by, and that a reading uses
N_ITERATIONS = 4  # of the reading and the shares of the particles that it needs
DEGREE = 3  # of the polynomial through the places of the model's volumes
FINER = 4  # steps between two of the model's values at which it is looked for
FEWEST = 16  # places: that polynomial has ten coefficients
LINEAR = 10.0  # of either unit, or two steps of its values: where the model's path is taken as straight at the start
ALIKE = 20.0  # condition of the changes that both motions make, above which they cannot be told apart
LEAST = 0.1  # of the mean share of particles: weight of a place where hardly any are
SHIFTS = 3  # steps of the model's values by which its zero may lie off


@dataclass(frozen=True, eq=False)
class SurfaceGauge:
    """A model of two motions: the volume expected at each pair of values.

    Parameters
    ----------
    model : callable
        Two values of the coordinates → `Volume` on the particles' grid.
    values : two ndarray (a,), (b,)
        Equally spaced values that span what may occur, for instance −14 … 14 degrees in nine steps. The model is
        drawn at all a × b pairs.
    names : two str
        Name and unit of each.
    """

    model: object
    values: tuple
    names: tuple = ("first angle (°)", "second angle (°)")

    def __post_init__(self):
        values = tuple(np.asarray(each, dtype=float) for each in self.values)
        if len(values) != 2 or len(self.names) != 2 or isinstance(self.names, str):
            raise ValueError(f"a surface has two coordinates, got {len(values)} of values and {len(self.names)} names")
        for name, each in zip(self.names, values):
            if (
                each.ndim != 1
                or len(each) < 5
                or not np.allclose(np.diff(each), each[1] - each[0])
                or each[1] <= each[0]
            ):
                raise ValueError(f"gauge values of {name} must be at least 5 equally spaced, rising numbers")
        object.__setattr__(self, "values", values)


def grid_points(axes):
    """All pairs of two axes, (a · b, 2), the second running fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


class SmoothMap:
    """A polynomial from the plane to the plane, weighted least squares; straight on beyond the points it is made of."""

    def __init__(self, points, values, weights):
        self._centre, self._scale = points.mean(axis=0), points.std(axis=0)
        self._range = points.min(axis=0), points.max(axis=0)
        root = np.sqrt(weights)[:, None]
        self._coefficients = np.linalg.lstsq(self._design(points) * root, values * root, rcond=None)[0]

    def _design(self, points):
        x, y = ((points - self._centre) / self._scale).T
        return np.stack([x**i * y**j for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)], axis=1)

    def __call__(self, points):
        inside = np.clip(points, *self._range)
        result = self._design(inside) @ self._coefficients
        for axis, step in enumerate(1e-4 * self._scale):
            side = step * np.eye(2)[axis]
            slope = (self._design(inside + side) - self._design(inside - side)) @ self._coefficients / (2 * step)
            result += slope * (points - inside)[:, axis : axis + 1]
        return result


class PreparedSurfaceGauge(RigidModels):
    """The model of two motions, and where on a recovered surface its volumes lie."""

    def __init__(self, gauge, reference):
        """Draw and filter the model at all pairs of values, as `RigidModels` does."""
        self.axes, self.names, self.grid = gauge.values, gauge.names, grid_points(gauge.values)
        # a motion may cover few of the model's values: the model between them is a spline
        self.fine_axes = [np.linspace(axis[0], axis[-1], FINER * (len(axis) - 1) + 1) for axis in self.axes]
        self.fine_grid = grid_points(self.fine_axes)
        rest = self.grid - [each[len(each) // 2] for each in gauge.values]
        volumes = (gauge.model(*map(float, pair)) for pair in self.grid)
        super().__init__(volumes, reference, middle=int(np.argmin((rest**2).sum(axis=1))))

    def direction(self, volumes):
        """A linear reading of latents: change of either coordinate per unit of each component, (q, 2), and the mean's.

        ``volumes`` holds the mean, then the orthonormal components. The model's own plane through the span of the
        components, fitted about the pair of values that looks most like the mean, is inverted. Noise turns components
        away from the motion, so that the model seems shorter there than the particles' latents are: it is given its
        own length.
        """
        mean, *components = self._without_whole(self._weighted(volumes.data))
        components, everywhere = np.stack(components), self._without_whole(self.flat_models)
        origin = self.grid[np.argmax((everywhere @ mean) ** 2 / (everywhere**2).sum(axis=1))]
        reach = [max(LINEAR, 2 * (axis[1] - axis[0])) for axis in self.axes]
        near = (np.abs(self.grid - origin) <= reach).all(axis=1)
        models = everywhere[near]
        metric = components @ components.T
        inside = np.linalg.solve(metric, components @ models.T).T
        design = np.column_stack([np.ones(near.sum()), self.grid[near]])
        slopes, whole = (np.linalg.lstsq(design, each, rcond=None)[0][1:] for each in (inside, models))
        lengths = np.linalg.norm(whole, axis=1)
        if not (lengths > 0).all() or not np.linalg.cond(whole / lengths[:, None]) < ALIKE:
            raise ValueError(
                f"the model's {self.names[0]} and {self.names[1]} change the volume alike (or not at all): they cannot "
                "be told apart"
            )
        seen = np.sqrt(np.einsum("kq,qr,kr->k", slopes, metric, slopes))
        return np.linalg.pinv(slopes * (lengths / np.maximum(seen, 1e-12 * lengths))[:, None]), origin

    def place(self, fits, basis, axes, density):
        """Where on each surface a particle of given values is found, and what the nodes read.

        As `PreparedGauge.place` does it: the model is put onto the recovered volumes, what all particles share is
        taken from these, and the rigid motion of the whole along either coordinate is found and given to the model.

        Parameters
        ----------
        fits : list of VolumeSet
            The l volumes that make each surface, solved without one group of particles each.
        basis : ndarray (m, l)
            The surface's volume at node j is Σ_l basis_jl V_l.
        axes : two ndarray
            The nodes are their `grid_points`.
        density : ndarray (m,)
            Share of the particles at each node.

        Returns
        -------
        places : list of `SmoothMap`, one for each surface
            From the gauge's values to the nodes' coordinates.
        reading : ndarray (m, 2)
            The gauge's values at the nodes.
        """
        reading = self._place(fits, basis, axes, density)[1]
        return self._turned_like(fits, basis, reading, density)._place(fits, basis, axes, density)

    def _place(self, fits, basis, axes, density):
        models, nodes = self._without_whole(self.flat_models), grid_points(axes)
        directions = principal_directions(models, N_DIRECTIONS)
        flat = [self._without_whole(self._weighted(fit.data)) for fit in fits]
        mean = density @ basis @ np.mean(flat, axis=0)
        surfaces = [basis @ (rows @ directions.T) - mean @ directions.T for rows in flat]
        average = np.mean(surfaces, axis=0)
        noise = sum(((rows - average) ** 2).sum(axis=1) for rows in surfaces) if len(flat) > 1 else 0.0
        match, gram, short = models @ mean, models @ models.T, models @ directions.T
        reading = nodes
        for _ in range(N_ITERATIONS):
            share = self._spread(reading, density)
            share = self._spread(reading + self._zero(match, gram, share), density)
            scale = (match @ share) / (share @ gram @ share)
            particles = self._refined(scale * (short - share @ short), degree=3)
            found = [_found(rows, noise, axes, particles) for rows in surfaces]
            weights = self._refined(share[:, None], degree=1)[:, 0] + LEAST / len(share)
            reading = np.mean([self._map(each, weights, inverse=True)(nodes) for each in found], axis=0)
        return [self._map(each, weights) for each in found], reading

    def _refined(self, rows, *, degree):
        """Rows at the model's values, carried over to the finer grid by splines."""
        from scipy.interpolate import RectBivariateSpline

        tables = rows.T.reshape(-1, *map(len, self.axes))
        splines = [RectBivariateSpline(*self.axes, table, kx=degree, ky=degree)(*self.fine_axes) for table in tables]
        return np.reshape(splines, (len(splines), -1)).T

    def _map(self, found, weights, *, inverse=False):
        """From the gauge's values to where they were found, or back."""
        known = np.isfinite(found).all(axis=1)
        if known.sum() < FEWEST:
            raise ValueError(
                f"the model of {self.names[0]} and {self.names[1]} does not describe the recovered motions: only "
                f"{known.sum()} of {len(known)} pairs of values fall on the surface found, {FEWEST} are needed"
            )
        pair = (self.fine_grid[known], found[known])
        return SmoothMap(*(pair[::-1] if inverse else pair), weights[known])

    def _spread(self, reading, density):
        """Share of the particles at each pair of the model's values, from the readings of the nodes."""
        share = np.zeros([len(axis) for axis in self.axes])
        low, above = [], []
        for column, axis in zip(reading.T, self.axes):
            position = np.clip((column - axis[0]) / (axis[1] - axis[0]), 0, len(axis) - 1 - 1e-9)
            low.append(position.astype(int))
            above.append(position - low[-1])
        for i in (0, 1):
            for j in (0, 1):
                part = (above[0] if i else 1 - above[0]) * (above[1] if j else 1 - above[1])
                np.add.at(share, (low[0] + i, low[1] + j), density * part)
        return share.ravel() / share.sum()

    def _zero(self, match, gram, share):
        """Shift of the values at which the model's average over ``share`` fits the recovered mean best, (2,)."""
        shape = tuple(len(axis) for axis in self.axes)
        padded, steps = np.pad(share.reshape(shape), SHIFTS), np.arange(-SHIFTS, SHIFTS + 1)
        fits = np.empty((len(steps), len(steps)))
        for i, j in np.ndindex(fits.shape):
            row, column = 2 * SHIFTS - i, 2 * SHIFTS - j
            there = padded[row : row + shape[0], column : column + shape[1]].ravel()
            fits[i, j] = (match @ there) ** 2 / max(there @ gram @ there, 1e-300)
        return _peak(fits, [steps * (axis[1] - axis[0]) for axis in self.axes])

    def _turned_like(self, fits, basis, reading, density):
        """The same model, whose whole turns and shifts with either coordinate as that of the recovered volumes does."""
        share = self._spread(reading, density)
        volumes = np.mean([fit.data for fit in fits], axis=0, dtype=np.float64)
        change = np.tensordot(_slopes(reading, density) @ basis, volumes, 1)
        own = np.tensordot(_slopes(self.grid, share), self.plain, 1)
        motions = self._rigid_derivatives(np.tensordot(share, self.plain, 1))
        orthonormal, triangle = np.linalg.qr(self._weighted(np.concatenate([own, motions])).T)
        found = np.linalg.solve(triangle, orthonormal.T @ self._weighted(change).T)
        if not np.linalg.cond(found[:2]) < ALIKE:
            raise ValueError(
                f"along {self.names[0]} and {self.names[1]} the recovered volumes change alike: the particles show one "
                "motion, not two"
            )
        rate = found[2:8] @ np.linalg.inv(found[:2])
        away = self.grid - share @ self.grid
        return self._with_models(np.stack([moved(model, rate @ each) for model, each in zip(self.plain, away)]))


def _slopes(points, weights):
    """Matrix (2, m) that takes m values at points to their slopes by weighted least squares."""
    centred = weights[:, None] * (points - weights @ points)
    return np.linalg.solve(centred.T @ points, centred.T)


def _found(surface, noise, axes, particles):
    """Place of every particle on a surface where it is most likely, (a, 2); NaN on the surface's rim."""
    shape = tuple(len(axis) for axis in axes)
    score = surface @ particles.T - 0.5 * ((surface**2).sum(axis=1) - noise)[:, None]
    found = np.full((len(particles), 2), np.nan)
    for row, column in zip(found, score.T):
        best = np.unravel_index(np.argmax(column), shape)
        if all(0 < k < n - 1 for k, n in zip(best, shape)):
            row[:] = _peak(column.reshape(shape), axes)
    return found


def _peak(height, axes):
    """Position of the maximum of a table, refined by a parabola along either axis."""
    best = np.unravel_index(np.argmax(height), height.shape)
    position = []
    for k, axis in enumerate(axes):
        line, at = (height[:, best[1]], best[0]) if k == 0 else (height[best[0]], best[1])
        offset = 0.0
        if 0 < at < len(axis) - 1:
            left, middle, right = line[at - 1 : at + 2]
            offset = 0.5 * (left - right) / (left - 2 * middle + right)
        position.append(axis[at] + offset * (axis[1] - axis[0]))
    return np.array(position)
