"""Diffusion on a landscape: which well comes next, and how long it takes, in units of L²/D.

Snapshots say how often a state is seen, not how fast it moves. With one diffusion constant D for all of the
landscape, and L the range of each coordinate, times in L²/D follow from the energies alone; the constant itself, and
that it is one, do not.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["PassageTimes", "committor", "passage_times", "rate_matrix"]


@dataclass(frozen=True, eq=False)
class PassageTimes:
    """Mean first-passage times between the basins of a landscape.

    Parameters
    ----------
    basins : tuple of Basin
    times : ndarray (b, b)
        From the row's minimum to that of the column, in L²/D; inf where unobserved cells part them.
    gauge : tuple of str
    """

    basins: tuple
    times: np.ndarray
    gauge: tuple

    def __repr__(self):
        return f"PassageTimes({len(self.basins)} basins over {', '.join(self.gauge)}, in L²/D)"


def rate_matrix(landscape):
    """Generator of diffusion over the observed cells, by the square-root approximation.

    Parameters
    ----------
    landscape : EnergyLandscape
        One or two coordinates, with bins of equal width.

    Returns
    -------
    rates : scipy.sparse.csr_matrix (c, c)
        Between the c observed cells, per L²/D; rows sum to zero. Q_ij = √(p_j / p_i) / h² between neighbours a step
        of h apart, h in units of the coordinate's range.
    cells : ndarray (c,) int
        Their places in the flattened landscape.

    Raises
    ------
    ValueError
        Uneven bins, nothing observed.

    Notes
    -----
    Lie, Fackeldey & Weber, SIAM J. Matrix Anal. Appl. 34:738 (2013). Unobserved cells cannot be entered. It misleads
    where an energy falls by more than about 2 kT from one bin to the next.

    Examples
    --------
    >>> from cryonb.types import EnergyLandscape
    >>> rates, cells = rate_matrix(EnergyLandscape(np.zeros(4), [np.linspace(0, 1, 5)]))
    >>> rates.toarray()[0].tolist()
    [-16.0, 16.0, 0.0, 0.0]
    """
    from scipy.sparse import coo_matrix

    for edge in landscape.edges:
        steps = np.diff(edge)
        if not np.allclose(steps, steps[0], rtol=1e-6):
            raise ValueError(f"rates need bins of equal width, got widths from {steps.min():g} to {steps.max():g}")
    energy = landscape.energy_kt
    cells = np.flatnonzero(np.isfinite(energy))
    if not len(cells):
        raise ValueError("no cell of the landscape was observed")
    place = np.full(energy.size, -1)
    place[cells] = np.arange(len(cells))
    place, flat = place.reshape(energy.shape), energy.ravel()[cells]
    rows, columns, values = [], [], []
    for axis, size in enumerate(energy.shape):
        one, other = (np.delete(place, end, axis=axis).ravel() for end in (-1, 0))
        both = (one >= 0) & (other >= 0)
        one, other = one[both], other[both]
        half = np.exp(0.5 * (flat[one] - flat[other])) * size**2
        rows += [one, other]
        columns += [other, one]
        values += [half, size**4 / half]
    rows, columns, values = (np.concatenate(part) for part in (rows, columns, values))
    rates = coo_matrix((values, (rows, columns)), shape=(len(cells),) * 2).tocsr()
    rates.setdiag(-np.asarray(rates.sum(axis=1)).ravel())
    return rates.tocsr(), cells


def committor(landscape, start, end):
    """Probability of reaching one set of cells before another, from every cell.

    Parameters
    ----------
    landscape : EnergyLandscape
    start, end : ndarray of bool, like the landscape
        Such as `Basin.cells`, or parts of them: 0 in ``start``, 1 in ``end``.

    Returns
    -------
    ndarray like the landscape
        NaN where unobserved, and where neither set can be reached.

    Raises
    ------
    ValueError
        Sets of another shape, that overlap, or without an observed cell.

    Notes
    -----
    The cells where it is ½ are the transition state, whichever way a path goes: E & Vanden-Eijnden, J. Stat. Phys.
    123:503 (2006).

    Examples
    --------
    On flat ground it is the distance covered:

    >>> from cryonb.types import EnergyLandscape
    >>> flat = EnergyLandscape(np.zeros(5), [np.linspace(0, 1, 6)])
    >>> committor(flat, np.arange(5) == 0, np.arange(5) == 4).round(2).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    start, end = (np.asarray(part, dtype=bool) for part in (start, end))
    shape = landscape.energy_kt.shape
    if start.shape != shape or end.shape != shape:
        raise ValueError(f"start and end must have the landscape's shape {shape}, got {start.shape} and {end.shape}")
    rates, cells = rate_matrix(landscape)
    start, end = start.ravel()[cells], end.ravel()[cells]
    if (start & end).any() or not start.any() or not end.any():
        raise ValueError("start and end must be apart, and each hold an observed cell")
    known = np.where(end, 1.0, np.where(start, 0.0, np.nan))
    result = np.full(landscape.energy_kt.size, np.nan)
    result[cells] = _solve(rates, known, 0.0)
    return result.reshape(shape)


def passage_times(landscape, basins=None):
    """Mean first-passage times between wells.

    Parameters
    ----------
    landscape : EnergyLandscape
    basins : sequence of Basin, optional
        `find_basins` of the landscape by default.

    Returns
    -------
    PassageTimes
        Ratios of times between wells follow from the energies; seconds do not.

    Examples
    --------
    Across flat ground from wall to wall it takes L²/2D:

    >>> from cryonb.types import EnergyLandscape
    >>> from cryonb.manifold.paths import Basin
    >>> flat = EnergyLandscape(np.zeros(200), [np.linspace(0, 1, 201)])
    >>> ends = [Basin(np.array([x]), 0.0, 0.5, 0.0, None) for x in (0.0, 1.0)]
    >>> float(passage_times(flat, ends).times[0, 1].round(2))
    0.5
    """
    from .paths import find_basins

    basins = tuple(find_basins(landscape) if basins is None else basins)
    rates, cells = rate_matrix(landscape)
    shape = landscape.energy_kt.shape
    places = []
    for basin in basins:
        cell = tuple(int(np.argmin(np.abs(axis - x))) for axis, x in zip(landscape.centers, basin.position))
        here = np.flatnonzero(cells == np.ravel_multi_index(cell, shape))
        if not len(here):
            raise ValueError(f"the minimum at {np.round(basin.position, 3).tolist()} lies in an unobserved cell")
        places.append(int(here[0]))
    times = np.zeros((len(basins),) * 2)
    for column, target in enumerate(places):
        known = np.full(len(cells), np.nan)
        known[target] = 0.0
        times[:, column] = np.nan_to_num(_solve(rates, known, -1.0)[places], nan=np.inf)
    return PassageTimes(basins, times, tuple(landscape.gauge))


def _solve(rates, known, right):
    """u with u = known where that is finite, and Q u = right elsewhere; NaN in parts without a known cell."""
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import spsolve

    _, part = connected_components(rates, directed=False)
    reached = np.isin(part, part[np.isfinite(known)])
    result = np.where(np.isfinite(known), known, np.nan)
    free = np.flatnonzero(np.isnan(known) & reached)
    fixed = np.flatnonzero(np.isfinite(known))
    if len(free):
        target = np.full(len(free), right) - rates[free][:, fixed] @ known[fixed]
        result[free] = spsolve(rates[free][:, free].tocsc(), target)
    return result
