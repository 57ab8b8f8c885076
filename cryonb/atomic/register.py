"""Register: is a stretch of sequence one or more residues off along its main chain?

Every position is asked which of the twenty residues stands there (`kinds`); a shift is proposed where the shifted
sequence is likelier than the present one, and sure where shuffled sequences do worse. The energy then says where it
ends and whether it is made (`moves.shift_registers`).
"""

from dataclasses import dataclass

import numpy as np

from .fragments import residue_codes
from .kinds import kind_log_odds

__all__ = ["RegisterShift", "register_scan", "shuffled_threshold"]

SHIFTS = (1, -1, 2, -2, 3, -3)
SHORTEST = 6  # residues
SHUFFLED = 0.5  # of shuffled sequences stay below the threshold
LEAST = 3.0  # gain below which nothing is proposed
SURE = 6.5  # gain: above all that 24 right models, and right parts of wrong ones, showed at 4.0 Å (5.4)
ELSEWHERE = 0.02  # of positions bear none of the residues that they seem to: a floor under the log odds


@dataclass(frozen=True)
class RegisterShift:
    """Residues ``first`` … ``last`` should each stand ``shift`` places earlier in the chain.

    Parameters
    ----------
    first, last : int
        Positions whose main chain now bears these residues and should bear ``first + shift`` … ``last + shift``.
    shift : int
    gain : float
        Sum over positions of the log odds of the shifted residue less those of the present one.
    threshold : float
        Gain that half of the shuffled sequences reach somewhere (`shuffled_threshold`).
    """

    first: int
    last: int
    shift: int
    gain: float
    threshold: float

    @property
    def sure(self):
        """Whether the gain exceeds what shuffled sequences reach, and what right models showed."""
        return self.gain > max(self.threshold, SURE)


def shuffled_threshold(odds, codes, segment, *, rng, shuffles=60, quantile=SHUFFLED):
    """Gain that a shuffled sequence reaches against the present one, somewhere in the chain, in a given share of scans.

    Parameters
    ----------
    odds : ndarray (n, 20)
        As `register_scan` uses them.
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
        found = _best_stretches(odds, codes, rng.permutation(codes), segment)
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
    Log odds (`cryonb.atomic.kinds.kind_log_odds`) have a floor, since some positions lie at no residue's place. Where
    the model is wrong, a shuffled sequence does as well as the present one; so the threshold rises with how much is
    wrong, and is 0 or near it in a right model.
    """
    chains = field.chains
    odds = np.log((1 - ELSEWHERE) * np.exp(kind_log_odds(field, xyz, library=library)) + ELSEWHERE)
    codes = residue_codes(chains.names)
    found = sorted(_best_stretches(odds, codes, codes, chains.segment), key=lambda row: -row[3])[:count]
    if not found or found[0][3] <= LEAST:
        return []
    threshold = shuffled_threshold(odds, codes, chains.segment, rng=rng)
    return [
        RegisterShift(int(first), int(last), shift, float(gain), threshold)
        for first, last, shift, gain in found
        if gain > LEAST
    ]


def _best_stretches(odds, codes, sequence, segment):
    """For each segment and shift the stretches where `sequence`, shifted, gains most over `codes`, unshifted."""
    found = []
    own = odds[np.arange(len(codes)), codes]
    for number in np.unique(segment):
        place = np.flatnonzero(segment == number)
        for shift in SHIFTS:
            inside = place[(place + shift >= place[0]) & (place + shift <= place[-1])]
            if len(inside) >= SHORTEST:
                gain = odds[inside, sequence[inside + shift]] - own[inside]
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
        low, high = best[3]
        pieces.remove(best[3])
        gap = _deepest(gain, *best[:2])
        if gap[2] < -SURE:  # two stretches, and right residues between them
            pieces += [(a, b) for a, b in ((low, gap[0]), (gap[1] + 1, high)) if b - a >= SHORTEST]
            continue
        found.append(best[:3])
        pieces += [(a, b) for a, b in ((low, best[0]), (best[1] + 1, high)) if b - a >= SHORTEST]
    return found


def _deepest(gain, first, last):
    """The stretch inside first … last of smallest sum, and its sum."""
    best, total, start = (first, first, 0.0), 0.0, first
    for i in range(first, last + 1):
        if total >= 0:
            total, start = 0.0, i
        total += gain[i]
        if total < best[2]:
            best = (start, i, float(total))
    return best
