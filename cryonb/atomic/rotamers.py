"""Side chains in a map: which rotamers there are, and how well each kind of residue fits at each position."""

import functools

import numpy as np

from .fragments import THREE, fragment_library
from .geometry import PLANAR_CHI
from .residues import build_side_chain

__all__ = ["library_rotamers", "seen_level", "side_chain_support"]

FEWEST = 2  # times that a rotamer must occur in the library
STEPS = (-12.0, 0.0, 12.0)  # degrees about each rotamer's χ1
VOID, FULL = 0.35, 1.3  # of the main chain's density: where an atom counts for nothing, and most that it counts
WORST = -0.5
SYMMETRIC = ("PHE", "TYR", "ASP", "GLU", "ARG")  # the last χ repeats after 180°, or the planar group's does
SEEN = 0.4  # of the upper quartile of the main chain's density: less may be noise


@functools.cache
def library_rotamers(residue_name, library=None):
    """Rotamers of a residue: means over bins of 120° (30° for planar groups) in a fragment library.

    Parameters
    ----------
    residue_name : str
    library : FragmentLibrary, optional
        The shipped one by default.

    Returns
    -------
    chi : ndarray (r, k)
        Degrees, most frequent first.
    log_share : ndarray (r,)
        Natural logarithm of each one's share.

    Examples
    --------
    >>> chi, log_share = library_rotamers("VAL")
    >>> chi.round(-1).ravel().tolist()
    [180.0, -60.0, 60.0]
    """
    library = fragment_library() if library is None else library
    chi = library.chi[library.sequence == THREE.index(residue_name)]
    count = np.isfinite(chi).sum(axis=1).max(initial=0)
    chi = chi[:, :count]
    chi = chi[np.isfinite(chi).all(axis=1)]
    if count == 0 or len(chi) == 0:
        return np.zeros((1, 0)), np.zeros(1)
    chi = chi % 360.0
    planar = PLANAR_CHI.get(residue_name)
    bins = (chi // 120).astype(int)
    if planar is not None and planar <= count:
        if residue_name in SYMMETRIC:
            chi[:, planar - 1] %= 180.0
        bins[:, planar - 1] = (((chi[:, planar - 1] + 15) % 360) // 30).astype(int)
    if residue_name == "PRO":
        bins = (chi > 180).astype(int)
    keys, member, number = np.unique(bins, axis=0, return_inverse=True, return_counts=True)
    member = member.ravel()
    found, share = [], []
    for row in range(len(keys)):
        if number[row] >= FEWEST:
            own = np.radians(chi[member == row])
            period = np.ones(count)
            if planar is not None and residue_name in SYMMETRIC:
                period[planar - 1] = 2
            mean = np.degrees(np.angle(np.exp(1j * own * period).mean(axis=0))) / period
            found.append(mean)
            share.append(number[row])
    order = np.argsort(-np.array(share), kind="stable")
    share = np.array(share, dtype=float)[order]
    return np.array(found)[order], np.log(share / len(chi))


@functools.cache
def _spread(residue_name, library):
    """Rotamers with χ1 turned by `STEPS`."""
    chi, log_share = library_rotamers(residue_name, library)
    if chi.shape[1] == 0:
        return chi, log_share
    turned = np.repeat(chi, len(STEPS), axis=0)
    turned[:, 0] += np.tile(STEPS, len(chi))
    return turned, np.repeat(log_share, len(STEPS))


def side_chain_support(field, xyz, *, names=THREE, library=None):
    """How well the map fits each kind of side chain on each main chain: of the best rotamer, summed over atoms.

    Parameters
    ----------
    field : Field
    xyz : ndarray (n, 14, 3)
        Main chains, Å.
    names : sequence of str
    library : FragmentLibrary, optional
        Of the rotamers.

    Returns
    -------
    support : ndarray (n, len(names))
        Each atom counts (ρ/ρ_main − 0.35), between −0.5 and 0.95, where ρ_main is the median density of the main
        chain of eleven residues; glycine counts 0. The logarithm of the rotamer's share is added at a tenth.
    best : list of ndarray (n, k)
        χ of the best rotamer for each name.
    """
    level = main_chain_level(field, xyz)
    support, best = np.zeros((len(xyz), len(names))), []
    for column, name in enumerate(names):
        chi, log_share = _spread(name, library)
        side = build_side_chain(name, xyz[:, None, :3], np.broadcast_to(chi, (len(xyz), *chi.shape)))
        if side.shape[-2] == 0:
            best.append(np.zeros((len(xyz), 0)))
            continue
        share = field.density(side) / level[:, None, None] - VOID
        value = np.clip(share, WORST, FULL - VOID).sum(axis=-1) + 0.1 * log_share
        chosen = value.argmax(axis=1)
        support[:, column] = value[np.arange(len(xyz)), chosen]
        best.append(chi[chosen])
    return support, best


def main_chain_level(field, xyz, reach=5):
    """Median density of N, CA, C, O over eleven residues, at least a tenth of the whole chain's 90th percentile."""
    density = field.density(xyz[:, :4])
    floor = max(0.1 * float(np.nanpercentile(density, 90)), 1e-6)
    level = [np.nanmedian(density[max(0, i - reach) : i + reach + 1]) for i in range(len(xyz))]
    return np.maximum(np.array(level), floor)


def seen_level(field, xyz):
    """Density that a main chain must have to be more than noise: 0.4 of the upper quartile over the chains' residues.

    Parameters
    ----------
    field : Field
    xyz : ndarray (n, 14, 3)
        Å.

    Returns
    -------
    float: in the unit of the map.
    """
    return SEEN * float(np.percentile(field.density(xyz[:, :4]).mean(axis=1), 75))
