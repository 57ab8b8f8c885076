"""Register: is a stretch of sequence one or more residues off along its main chain?

Every position is asked how well its density fits each of the twenty side chains; a shift is proposed where the shifted
sequence fits better than the present one by more than shuffled sequences do. The energy then says whether it is made
(`moves.shift_register`).
"""

from dataclasses import dataclass

import numpy as np

from .fragments import THREE, residue_codes
from .rotamers import side_chain_support

__all__ = ["RegisterShift", "register_scan", "shuffled_threshold"]

SHIFTS = (1, -1, 2, -2, 3, -3)
SHORTEST = 6  # residues
SHUFFLED = 0.5  # of shuffled sequences stay below the threshold
LEAST = 0.5  # gain below which nothing is proposed: about one atom in density


@dataclass(frozen=True)
class RegisterShift:
    """Residues ``first`` … ``last`` should each stand ``shift`` places earlier in the chain.

    Parameters
    ----------
    first, last : int
        Positions whose main chain now bears these residues and should bear ``first + shift`` … ``last + shift``.
    shift : int
    gain : float
        Sum over positions of the support for the shifted residue less that for the present one.
    threshold : float
        Gain that half of the shuffled sequences reach somewhere (`shuffled_threshold`).
    """

    first: int
    last: int
    shift: int
    gain: float
    threshold: float


def shuffled_threshold(support, codes, segment, *, rng, shuffles=60, quantile=SHUFFLED):
    """Gain that a shuffled sequence reaches against the present one, somewhere in the chain, in a given share of scans.

    Parameters
    ----------
    support : ndarray (n, 20)
        As `register_scan` uses it.
    codes : ndarray (n,) int
        Index into `cryonb.atomic.fragments.CODES`.
    segment : ndarray (n,) int
    rng : seed or Generator
    shuffles : int
    quantile : float
        Share of shuffled sequences that stay below.

    Returns
    -------
    float: 0 where no shuffled sequence does better than the present one anywhere.
    """
    rng = np.random.default_rng(rng)
    largest = []
    for _ in range(shuffles):
        found = _best_stretches(support, codes, rng.permutation(codes), segment)
        largest.append(max((gain for _, _, _, gain in found), default=0.0))
    return float(np.quantile(largest, quantile))


def register_scan(field, xyz, *, rng, library=None, count=12):
    """Stretches whose sequence fits better when shifted along the main chain.

    Parameters
    ----------
    field : Field
    xyz : ndarray (n, 14, 3)
        Å.
    rng : seed or Generator
        Of the shuffles.
    library : FragmentLibrary, optional
        Of the rotamers.
    count : int
        Proposals at most.

    Returns
    -------
    list of RegisterShift, largest gain first; they may overlap, and the gain may lie below the threshold.

    Notes
    -----
    The support for each kind of residue is taken relative to its mean over the chain, which takes out how much density
    large side chains find anywhere. Where the model is wrong, a shuffled sequence does as well as the present one; so
    the threshold rises with how much is wrong, and is near 0 in a right model at 3 Å.
    """
    chains = field.chains
    support, _ = side_chain_support(field, xyz, names=THREE, library=library)
    support = support - support.mean(axis=0)
    codes = residue_codes(chains.names)
    found = sorted(_best_stretches(support, codes, codes, chains.segment), key=lambda row: -row[3])[:count]
    if not found or found[0][3] <= LEAST:
        return []
    threshold = shuffled_threshold(support, codes, chains.segment, rng=rng)
    return [
        RegisterShift(int(first), int(last), shift, float(gain), threshold)
        for first, last, shift, gain in found
        if gain > LEAST
    ]


def _best_stretches(support, codes, sequence, segment):
    """For each segment and shift the stretches where `sequence`, shifted, gains most over `codes`, unshifted."""
    found = []
    own = support[np.arange(len(codes)), codes]
    for number in np.unique(segment):
        place = np.flatnonzero(segment == number)
        for shift in SHIFTS:
            inside = place[(place + shift >= place[0]) & (place + shift <= place[-1])]
            if len(inside) >= SHORTEST:
                gain = support[inside, sequence[inside + shift]] - own[inside]
                found += [(inside[0] + a, inside[0] + b, shift, value) for a, b, value in _largest_sums(gain)]
    return found


def _largest_sums(gain, count=3):
    """Up to three disjoint stretches of largest sum (Kadane), each at least `SHORTEST` long."""
    found, pieces = [], [(0, len(gain))]
    while pieces and len(found) < count:
        best = None
        for low, high in pieces:
            total, start = 0.0, low
            for i in range(low, high):
                if total <= 0:
                    total, start = 0.0, i
                total += gain[i]
                if i - start + 1 >= SHORTEST and (best is None or total > best[2]):
                    best = (start, i, float(total), (low, high))
        if best is None or best[2] <= 0:
            break
        found.append(best[:3])
        low, high = best[3]
        pieces.remove(best[3])
        pieces += [(a, b) for a, b in ((low, best[0]), (best[1] + 1, high)) if b - a >= SHORTEST]
    return found
