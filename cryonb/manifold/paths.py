"""Basins, barriers and minimum-energy paths on a landscape. Unobserved cells are impassable, not high."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Basin", "Path", "find_basins", "minimum_energy_path"]


@dataclass(frozen=True, eq=False)
class Basin:
    """One well of a landscape.

    Parameters
    ----------
    position : ndarray (k,)
        Coordinates of its minimum.
    energy_kt : float
        At the minimum.
    population : float
        Probability of all cells that belong to it; independent of the gauge.
    barrier_kt : float
        Height, above its own minimum, of the lowest pass to a deeper basin; inf for the deepest of its region.
    cells : ndarray like the landscape, bool
    """

    position: np.ndarray
    energy_kt: float
    population: float
    barrier_kt: float
    cells: np.ndarray

    def __repr__(self):
        where = ", ".join(f"{x:.3g}" for x in self.position)
        share = 100 * self.population
        return f"Basin(at {where}: {self.energy_kt:.2f} kT, {share:.0f} %, barrier {self.barrier_kt:.2f} kT)"


@dataclass(frozen=True, eq=False)
class Path:
    """A path on a landscape, from one well to another.

    Parameters
    ----------
    points : ndarray (s, k)
        Coordinates along the path.
    energy_kt : ndarray (s,)
    arclength : ndarray (s,)
        From 0, in units of the range of each coordinate.
    barrier_kt : float
        Highest energy on the way above the start.
    gauge : tuple of str
    basins : tuple of Basin
        All basins of the landscape, deepest first.
    """

    points: np.ndarray
    energy_kt: np.ndarray
    arclength: np.ndarray
    barrier_kt: float
    gauge: tuple
    basins: tuple

    def __repr__(self):
        return f"Path({len(self.points)} points over {', '.join(self.gauge)}, barrier {self.barrier_kt:.2f} kT)"


def find_basins(landscape, *, minimum_depth=0.5):
    """Wells of a landscape, deepest first, with their populations and the passes between them.

    Cells flood from the lowest up; where two basins meet, the shallower one is merged if its depth below the pass is
    less than ``minimum_depth``, otherwise the pass becomes its barrier.

    Parameters
    ----------
    landscape : EnergyLandscape
        One or two coordinates.
    minimum_depth : float
        kT.

    Returns
    -------
    list of Basin

    Examples
    --------
    >>> from cryonb.types import EnergyLandscape
    >>> x = (np.arange(40) - 19.5) / 20
    >>> wells = EnergyLandscape(3 * (1 - (x / 0.525) ** 2) ** 2, [np.linspace(-1, 1, 41)])
    >>> [round(float(basin.population), 2) for basin in find_basins(wells)]
    [0.5, 0.5]
    """
    energy = landscape.energy_kt
    flat = energy.ravel()
    order = np.argsort(flat)
    order = order[np.isfinite(flat[order])]
    neighbors = _neighbors(energy.shape)
    owner = np.full(flat.size, -1)
    merged_into, bottom, barrier = {}, {}, {}

    def root(name):
        while name in merged_into:
            name = merged_into[name]
        return name

    for cell in order:
        around = sorted({root(owner[c]) for c in neighbors(cell) if owner[c] >= 0}, key=lambda name: flat[bottom[name]])
        if not around:
            owner[cell] = bottom[cell] = cell
            barrier[cell] = np.inf
            continue
        owner[cell] = around[0]
        for shallower in around[1:]:
            depth = flat[cell] - flat[bottom[shallower]]
            if depth < minimum_depth:
                merged_into[shallower] = around[0]
            elif not np.isfinite(barrier[shallower]):
                barrier[shallower] = depth
    owner = np.array([root(name) if name >= 0 else -1 for name in owner])
    centers = landscape.centers
    probability = landscape.probability.ravel()
    basins = []
    for name in sorted({*owner[owner >= 0].tolist()}, key=lambda name: flat[name]):
        cells = owner == name
        position = np.array([axis[i] for axis, i in zip(centers, np.unravel_index(name, energy.shape))])
        population = float(probability[cells].sum())
        basins.append(Basin(position, float(flat[name]), population, float(barrier[name]), cells.reshape(energy.shape)))
    return basins


def minimum_energy_path(landscape, *, start=None, end=None, n_points=50, n_iterations=400):
    """Path of least resistance between two wells.

    Parameters
    ----------
    landscape : EnergyLandscape
        One coordinate: the straight way. Two: the zero-temperature string method on the interpolated landscape,
        started from the path over observed cells whose highest point is lowest.
    start, end : array_like (k,), optional
        By default the two most populated basins; where there is only one, the whole observed range (one coordinate)
        or from it to the farthest observed cell below 3 kT.
    n_points : int
    n_iterations : int

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        No way from start to end over observed cells.

    Notes
    -----
    E, Ren & Vanden-Eijnden, J. Chem. Phys. 126:164103 (2007).

    Examples
    --------
    >>> from cryonb.types import EnergyLandscape
    >>> x = (np.arange(40) - 19.5) / 20
    >>> wells = EnergyLandscape(3 * (1 - (x / 0.525) ** 2) ** 2, [np.linspace(-1, 1, 41)])
    >>> round(minimum_energy_path(wells).barrier_kt, 1)
    3.0
    """
    basins = tuple(find_basins(landscape))
    ends = _ends(landscape, basins, start, end)
    if landscape.energy_kt.ndim == 1:
        points, energy = _straight_path(landscape, ends, n_points)
    else:
        points, energy = _string_path(landscape, ends, n_points, n_iterations)
    ranges = np.array([edge[-1] - edge[0] for edge in landscape.edges])
    steps = np.linalg.norm(np.diff(points / ranges, axis=0), axis=1)
    arclength = np.concatenate([[0], np.cumsum(steps)])
    return Path(points, energy, arclength, float(np.max(energy) - energy[0]), tuple(landscape.gauge), basins)


def _ends(landscape, basins, start, end):
    """Cells (tuples) where the path starts and ends."""
    energy = landscape.energy_kt
    if start is None or end is None:
        populous = sorted(basins, key=lambda basin: -basin.population)[:2]
        if len(populous) == 2:
            chosen = sorted((basin.position for basin in populous), key=lambda position: position[0])
        else:
            observed = np.argwhere(energy <= max(3.0, np.nanmin(energy)) if energy.ndim == 2 else np.isfinite(energy))
            first = observed[0] if energy.ndim == 1 else np.argwhere(energy == np.nanmin(energy))[0]
            last = observed[np.argmax(((observed - first) ** 2).sum(axis=1))]
            chosen = [[axis[i] for axis, i in zip(landscape.centers, cell)] for cell in (first, last)]
        start, end = (chosen[0] if start is None else start), (chosen[1] if end is None else end)
    cells = []
    for point in (start, end):
        point = np.atleast_1d(np.asarray(point, dtype=float))
        cell = tuple(int(np.argmin(np.abs(axis - x))) for axis, x in zip(landscape.centers, point))
        if not np.isfinite(energy[cell]):
            raise ValueError(f"the path's end at {point.tolist()} was not observed (its energy is NaN)")
        cells.append(cell)
    return cells


def _straight_path(landscape, ends, n_points):
    (first,), (last,) = ends
    low, high = min(first, last), max(first, last)
    centers, energy = landscape.centers[0][low : high + 1], landscape.energy_kt[low : high + 1]
    if not np.isfinite(energy).all():
        gap = centers[int(np.argmin(np.isfinite(energy)))]
        raise ValueError(f"no way over observed cells: {landscape.gauge[0]} = {gap:.3g} was not observed")
    x = np.linspace(centers[0], centers[-1], n_points)
    values = np.interp(x, centers, energy)
    if first > last:
        x, values = x[::-1], values[::-1]
    return x[:, None], values


def _string_path(landscape, ends, n_points, n_iterations):
    from scipy.interpolate import RegularGridInterpolator
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    energy = landscape.energy_kt
    cells = np.array(_lowest_pass(energy, *ends), dtype=float)
    string = _evenly(cells, n_points)
    unseen = ~np.isfinite(energy)
    # outside the observed cells the surface rises steeply away from them: a wall, whatever energy is asked there
    nearest = distance_transform_edt(unseen, return_distances=True, return_indices=True)
    wall = energy[tuple(nearest[1])] + np.where(unseen, 5.0 + 5.0 * nearest[0], 0.0)
    smooth = gaussian_filter(wall, 0.7, mode="nearest")
    axes = [np.arange(size) for size in energy.shape]
    slopes = [
        RegularGridInterpolator(axes, slope, bounds_error=False, fill_value=None) for slope in np.gradient(smooth)
    ]
    top = np.array(energy.shape) - 1.0
    for _ in range(n_iterations):
        force = np.stack([slope(string) for slope in slopes], axis=1)
        size = np.linalg.norm(force, axis=1, keepdims=True)
        force *= np.minimum(1, 1 / np.maximum(size, 1e-12))
        force[[0, -1]] = 0
        moved = _evenly(np.clip(string - 0.1 * force, 0, top), n_points)
        if np.abs(moved - string).max() < 1e-4:
            break
        string = moved
    values = _observed_mean(energy, string)
    centers = landscape.centers
    points = np.stack(
        [np.interp(column, axis, center) for column, axis, center in zip(string.T, axes, centers)], axis=1
    )
    return points, values


def _observed_mean(energy, string):
    """Energy of the observed cells around each point of a string, by distance-weighted mean (unobserved left out)."""
    values = []
    for point in string:
        low = np.clip(np.floor(point).astype(int), 0, np.array(energy.shape) - 2)
        block = energy[low[0] : low[0] + 2, low[1] : low[1] + 2]
        fraction = point - low
        weight = np.outer([1 - fraction[0], fraction[0]], [1 - fraction[1], fraction[1]]) + 1e-9
        seen = np.isfinite(block)
        values.append((weight * np.where(seen, block, 0))[seen].sum() / weight[seen].sum() if seen.any() else np.inf)
    return np.array(values)


def _lowest_pass(energy, first, last):
    """Cells of a path whose highest energy is lowest, and shortest in ∫ (energy + 0.05) among neighbours (Dijkstra)."""
    import heapq

    neighbors = _neighbors(energy.shape)
    flat = np.where(np.isfinite(energy), energy, np.inf).ravel()
    start, goal = (int(np.ravel_multi_index(cell, energy.shape)) for cell in (first, last))
    best = {start: (flat[start], 0.0)}
    before = {}
    queue = [(flat[start], 0.0, start)]
    while queue:
        top, cost, cell = heapq.heappop(queue)
        if cell == goal:
            break
        if (top, cost) > best[cell]:
            continue
        for other in neighbors(cell):
            if not np.isfinite(flat[other]):
                continue
            reached = (max(top, flat[other]), cost + flat[other] + 0.05)
            if other not in best or reached < best[other]:
                best[other], before[other] = reached, cell
                heapq.heappush(queue, (*reached, other))
    if goal not in best:
        raise ValueError(f"no way over observed cells from cell {first} to cell {last}: unobserved cells part them")
    path = [goal]
    while path[-1] != start:
        path.append(before[path[-1]])
    return [np.unravel_index(cell, energy.shape) for cell in path[::-1]]


def _neighbors(shape):
    """Function from a flat cell number to those of its neighbours (diagonal ones too in two dimensions)."""

    def around(cell):
        place = np.unravel_index(cell, shape)
        ranges = [range(max(i - 1, 0), min(i + 2, size)) for i, size in zip(place, shape)]
        grid = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(shape))
        cells = np.ravel_multi_index(tuple(grid.T), shape)
        return [int(c) for c in cells if c != cell]

    return around


def _evenly(string, n_points):
    """The same polyline with its points at equal distances."""
    steps = np.linalg.norm(np.diff(string, axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)])
    if length[-1] == 0:
        return np.repeat(string[:1], n_points, axis=0)
    even = np.linspace(0, length[-1], n_points)
    return np.stack([np.interp(even, length, column) for column in string.T], axis=1)
