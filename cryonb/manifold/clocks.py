"""In which order, and how long, a movie shows the states of a landscape: three clocks, and what none of them can know.

Snapshots say which states are alike and how often each is seen. A movie needs an order and a pace besides, and those
are chosen, not measured: hence every sequence of frames carries a label that says how.
"""

from dataclasses import dataclass

import numba
import numpy as np

from cryonb.manifold.kinetics import rate_matrix
from cryonb.manifold.paths import minimum_energy_path

__all__ = ["CLOCKS", "FrameSequence", "brownian_walk", "frame_sequence"]

CLOCKS = ("closeness", "occupancy", "Brownian")
LABELS = {
    "closeness": "closeness: equal steps along {gauge}, not time",
    "occupancy": "occupancy: frames last as long as states are common, not in their order in time",
    "Brownian": "Brownian: one random walk on the energies, clock in L²/D",
}
UNKNOWN = {
    "closeness": "Snapshots do not tell times, direction, or that any particle passes from one frame to the next.",
    "occupancy": "How common a state is says nothing of how fast it is left, of direction, or of what comes next.",
    "Brownian": "D is unknown and taken as one constant; equilibrium is assumed, where neither direction is "
    "preferred: a cycle that fuel drives looks the same in snapshots.",
}


@dataclass(frozen=True, eq=False, repr=False)
class FrameSequence:
    """States in the order in which a movie shows them.

    Parameters
    ----------
    clock : {"closeness", "occupancy", "Brownian"}
    positions : ndarray (f, k)
        Of the frames, in the unit of each coordinate.
    cells : ndarray (f,) int
        Their places in the flattened landscape.
    clock_reading : ndarray (f,)
        Closeness: share of the way, 0 to 1. Occupancy: probability of the states before this frame. Brownian: time in
        L²/D, L the range of each coordinate.
    label : str
        What the movie is, to print on it.
    unknown : str
        What snapshots cannot say about it.
    """

    clock: str
    positions: np.ndarray
    cells: np.ndarray
    clock_reading: np.ndarray
    label: str
    unknown: str

    def __len__(self):
        return len(self.cells)

    def __repr__(self):
        return f"FrameSequence({len(self)} frames, {self.label})"


def frame_sequence(landscape, clock, *, n_frames=None, path=None, interval=0.005, start=None, rng=None):
    """The order and pace of a movie on a landscape, by one of three clocks.

    Parameters
    ----------
    landscape : EnergyLandscape
        One or two coordinates.
    clock : {"closeness", "occupancy", "Brownian"}
        *Closeness:* equal steps of arclength along the way. *Occupancy:* along the way, each state for a number of
        frames in proportion to its probability. *Brownian:* a random walk of the particle on the energies.
    n_frames : int, optional
        16 by closeness, 100 by occupancy, 200 Brownian.
    path : Path, optional
        The way, for the first two; by default all observed bins of one coordinate, `minimum_energy_path` of two.
    interval : float
        L²/D between frames of the Brownian clock; the walk goes on exactly in between.
    start : array_like (k,), optional
        Where the Brownian walk begins; a draw from equilibrium by default.
    rng : seed or Generator
        Required by the Brownian clock, not used by others.

    Returns
    -------
    FrameSequence

    Raises
    ------
    ValueError
        An unknown clock, fewer than two frames, no rng or a start that was not observed; for a walk, bins of unequal
        width.

    Notes
    -----
    A path need not be straight: its arclength is measured with each coordinate in units of its range. Numbers of
    frames are rounded so that they add up and none is off by one or more (largest remainders). The walk is the jump
    process of `rate_matrix` (Gillespie, J. Phys. Chem. 81:2340 (1977)), not a discretised Langevin equation: its
    occupancy is exactly the landscape's, and its passage times are those of `passage_times`.

    Examples
    --------
    >>> from cryonb.types import EnergyLandscape
    >>> two_to_one = EnergyLandscape([0.0, np.log(2)], [[0.0, 1.0, 2.0]], gauge="angle (°)")
    >>> frame_sequence(two_to_one, "occupancy", n_frames=9).cells.tolist()
    [0, 0, 0, 0, 0, 0, 1, 1, 1]
    >>> print(frame_sequence(two_to_one, "closeness").label)
    closeness: equal steps along angle (°), not time
    """
    if clock not in CLOCKS:
        raise ValueError(f"clock must be one of {CLOCKS}, got {clock!r}")
    n_frames = dict(zip(CLOCKS, (16, 100, 200)))[clock] if n_frames is None else int(n_frames)
    if n_frames < 2:
        raise ValueError(f"a movie needs at least two frames, got {n_frames}")
    if clock == "Brownian":
        if rng is None:
            raise ValueError("the Brownian clock needs an rng: its walk is random")
        if not interval > 0:
            raise ValueError(f"interval must be positive (L²/D), got {interval:g}")
        times, visited = brownian_walk(landscape, interval * (n_frames - 1), start=start, rng=rng)
        reading = interval * np.arange(n_frames)
        cells = visited[np.searchsorted(times, reading, side="right") - 1]
        positions = _places(landscape, cells)
    else:
        along, way = _way(landscape, path)
        if clock == "closeness":
            reading = np.linspace(0, 1, n_frames)
            positions = np.stack([np.interp(reading * way[-1], way, column) for column in along.T], axis=1)
            cells = _cells(landscape, positions)
        else:
            cells = _distinct(_cells(landscape, along))
            dwell = _apportioned(landscape.probability.ravel()[cells], n_frames)
            cells = np.repeat(cells, dwell)
            positions = _places(landscape, cells)
            reading = np.arange(n_frames) / n_frames
    gauge = " and ".join(landscape.gauge) if path is None else "the path"
    return FrameSequence(clock, positions, cells, reading, LABELS[clock].format(gauge=gauge), UNKNOWN[clock])


def brownian_walk(landscape, duration, *, rng, start=None):
    """Every jump of a random walk on a landscape.

    Parameters
    ----------
    landscape : EnergyLandscape
        One or two coordinates with bins of equal width.
    duration : float
        L²/D.
    rng : seed or Generator
    start : array_like (k,), optional
        A draw from equilibrium by default.

    Returns
    -------
    times : ndarray (j + 1,)
        0, and when each jump happened, L²/D.
    cells : ndarray (j + 1,) int
        Cell of the flattened landscape from then on. Unobserved cells are never entered.

    Raises
    ------
    ValueError
        A start that was not observed; what `rate_matrix` refuses.

    Examples
    --------
    >>> from cryonb.types import EnergyLandscape
    >>> flat = EnergyLandscape(np.zeros(10), [np.linspace(0, 1, 11)])
    >>> times, cells = brownian_walk(flat, 0.1, rng=0)
    >>> bool((np.abs(np.diff(cells)) == 1).all()), bool(times[-1] <= 0.1)
    (True, True)
    """
    rng = np.random.default_rng(rng)
    rates, cells = rate_matrix(landscape)
    if start is None:
        share = np.cumsum(landscape.probability.ravel()[cells])
        first = int(np.searchsorted(share / share[-1], rng.random(), side="right"))
    else:
        start = np.atleast_1d(np.asarray(start, dtype=float))
        here = np.flatnonzero(cells == _cells(landscape, start[None])[0])
        if not len(here):
            raise ValueError(f"the walk's start at {start.tolist()} was not observed (its energy is NaN)")
        first = int(here[0])
    leaving = -rates.diagonal()
    jumps = rates - _diagonal(rates)
    jumps.eliminate_zeros()
    times, visited, now, cell = [np.zeros(1)], [np.array([first])], 0.0, first
    while now < duration and leaving[cell] > 0:
        # as many random numbers as jumps are expected, in blocks
        n = int(np.clip(1.2 * (duration - now) * leaving.mean(), 1000, 1_000_000))
        block, at = _walk(jumps.indptr, jumps.indices, jumps.data, leaving, cell, rng.random((n, 2)))
        block = now + block
        keep = block <= duration
        times.append(block[keep])
        visited.append(at[keep])
        now, cell = block[-1], int(at[-1])
    return np.concatenate(times), cells[np.concatenate(visited)]


@numba.njit(cache=True, nogil=True)
def _walk(starts, columns, rates, leaving, cell, random):
    times, visited = np.empty(len(random)), np.empty(len(random), dtype=np.int64)
    now = 0.0
    for jump in range(len(random)):
        now -= np.log(1 - random[jump, 0]) / leaving[cell]
        left = random[jump, 1] * leaving[cell]
        last = starts[cell + 1] - 1
        for entry in range(starts[cell], last + 1):
            left -= rates[entry]
            if left < 0 or entry == last:
                cell = columns[entry]
                break
        times[jump], visited[jump] = now, cell
    return times, visited


def _diagonal(rates):
    from scipy.sparse import diags_array

    return diags_array(rates.diagonal(), format="csr")


def _way(landscape, path):
    """Points along the way (p, k), and the arclength up to each, coordinates in units of their range."""
    if path is None and landscape.energy_kt.ndim == 1:
        centres = landscape.centers[0]
        observed = np.flatnonzero(np.isfinite(landscape.energy_kt))
        points = centres[observed[0] : observed[-1] + 1, None]
    else:
        path = minimum_energy_path(landscape) if path is None else path
        points = np.asarray(path.points, dtype=float)
        if points.shape[1] != len(landscape.edges):
            raise ValueError(f"the path has {points.shape[1]} coordinates, the landscape {len(landscape.edges)}")
    ranges = np.array([edge[-1] - edge[0] for edge in landscape.edges])
    steps = np.linalg.norm(np.diff(points / ranges, axis=0), axis=1)
    return points, np.concatenate([[0.0], np.cumsum(steps)])


def _cells(landscape, positions):
    """Flat cell that holds each position (f, k)."""
    index = [
        np.clip(np.searchsorted(edge, column, side="right") - 1, 0, len(edge) - 2)
        for edge, column in zip(landscape.edges, positions.T)
    ]
    return np.ravel_multi_index(tuple(index), landscape.energy_kt.shape)


def _places(landscape, cells):
    index = np.unravel_index(cells, landscape.energy_kt.shape)
    return np.stack([centre[i] for centre, i in zip(landscape.centers, index)], axis=1)


def _distinct(cells):
    """Each cell once, in the order of its first visit."""
    _, first = np.unique(cells, return_index=True)
    return cells[np.sort(first)]


def _apportioned(probability, n):
    """Whole numbers that add up to n, in proportion; each less than 1 from its quota (largest remainders)."""
    quota = n * probability / probability.sum()
    whole = np.floor(quota).astype(int)
    most = np.argsort(whole - quota, kind="stable")[: n - whole.sum()]
    whole[most] += 1
    return whole
