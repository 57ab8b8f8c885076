"""Which of the twenty residues stands here? Log odds for each, from the density around a main chain and its folding.

A register shift at 4 Å cannot be seen in one side chain: blobs differ by less than their noise. But each position says
a little, and over ten positions the little adds up if it is calibrated. What a position says is learnt from simulated
maps (`benchmarks/atomic_kinds.py`); the present side chain has no part in it.
"""

import functools
from importlib import resources

import numpy as np
from scipy.spatial import cKDTree

from .residues import CA, CB, OXYGEN, C, N, main_chain_angles
from .rotamers import main_chain_level, side_chain_support

__all__ = ["kind_features", "kind_log_odds"]

OCCUPIED, TAIL = 3.0, 1.1  # Å: how far an atom of another residue is seen at a place, deviation of its Gaussian
BESIDE = 3  # residues whose side chains do not count as others': they may be as wrong as this one
SPHERES = (8.0, 13.0)  # Å, half-sphere exposure (Hamelryck, Proteins 59:38 (2005))
REACH = 5  # residues to each side in means along the chain
SHELLS = (2.6, 4.0)  # Å from Cα between the groups of places


def frames(xyz):
    """Axes at each Cα: z towards Cβ, x in the plane of it and N.

    Parameters
    ----------
    xyz : ndarray (n, 14, 3)
        Å.

    Returns
    -------
    ndarray (n, 3, 3): rows are x, y, z. Cβ is placed from N, Cα, C, so that glycine has them too.
    """
    n, ca, c = xyz[:, N], xyz[:, CA], xyz[:, C]
    b, d = n - ca, c - ca
    middle = -(_unit(b) + _unit(d))
    normal = np.cross(b, d)
    z = _unit(0.5774 * _unit(middle) + 0.8165 * _unit(normal))
    x = _unit(b - (b * z).sum(axis=1, keepdims=True) * z)
    return np.stack([x, np.cross(z, x), z], axis=1)


def kind_features(field, xyz, places, *, library=None):
    """What is seen around each main chain.

    Parameters
    ----------
    field : Field
    xyz : ndarray (n, 14, 3)
        Å.
    places : ndarray (k, 3)
        Å, in the axes of `frames` about Cα.
    library : FragmentLibrary, optional
        Of the rotamers.

    Returns
    -------
    ndarray (n, 2k + 51): density at the places and how far other residues' atoms occupy them; density at the main
    chain; support for each kind of side chain; φ and ψ; half-sphere exposure; distances and means along the chain.
    Densities are relative to the main chain's median over eleven residues, so that no unit of the map matters.
    """
    chains, count = field.chains, len(xyz)
    level = main_chain_level(field, xyz)
    axes = frames(xyz)
    points = xyz[:, CA, None] + np.einsum("ka,nab->nkb", places, axes)
    seen = field.density(points) / level[:, None]
    main = field.density(xyz[:, :4]) / level[:, None]
    beta = field.density(xyz[:, CA] + 1.53 * axes[:, 2]) / level
    linked = np.append(False, chains.segment[1:] == chains.segment[:-1])
    ahead = np.append(linked[1:], False)
    angles = np.radians(main_chain_angles(chains.moved(xyz))[:, :2])
    turns = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(count, 4)
    support, _ = side_chain_support(field, xyz, library=library)
    away = np.linalg.norm(places, axis=1)
    group = np.digitize(away, SHELLS)
    shells = np.stack([seen[:, group == g].mean(axis=1) for g in range(len(SHELLS) + 1)], axis=1)
    quality = np.log(level / np.percentile(level, 75))
    columns = [
        seen, _occupied(field, xyz, points), main, beta[:, None],
        _beside(main[:, [C, OXYGEN]], linked, 1), _beside(main[:, [N, CA]], ahead, -1), support, turns,
        _beside(turns[:, [1, 3]], linked, 1), _beside(turns[:, [0, 2]], ahead, -1),
        _exposure(xyz, axes), _spans(chains, xyz), _along(chains, np.column_stack([shells, main.std(axis=1), quality])),
    ]  # fmt: skip
    return np.nan_to_num(np.concatenate(columns, axis=1))


def kind_log_odds(field, xyz, *, library=None):
    """ln P(kind | what is seen) − ln P(kind) for each position.

    Parameters
    ----------
    field : Field
    xyz : ndarray (n, 14, 3)
        Å.
    library : FragmentLibrary, optional
        Of the rotamers.

    Returns
    -------
    ndarray (n, 20), in the order of `cryonb.atomic.fragments.CODES`; 0 says nothing.

    Notes
    -----
    To align a sequence by the probability of each residue at each position is Terwilliger's idea, with templates of
    density (Acta Cryst. D 59:45 (2003)); networks in their place are Chojnowski's (findMySequence, IUCrJ 9:86 (2022)).
    The small ones here read the density at 96 places where side chains have atoms, relative to the main chain's.
    """
    learnt = weights()
    return log_odds(kind_features(field, xyz, learnt["places"], library=library), learnt)


@functools.cache
def weights():
    """What `benchmarks/atomic_kinds.py` learnt: dict of ndarray."""
    with resources.files(__package__).joinpath("kinds.npz").open("rb") as file:
        kept = np.load(file)
        return {name: kept[name].astype(np.float32) for name in kept.files}


def log_odds(features, learnt):
    """Two layers of rectified units and a softmax, averaged over the networks, less the prior.

    Parameters
    ----------
    features : ndarray (n, f)
    learnt : dict of ndarray
        As `weights` gives it.

    Returns
    -------
    ndarray (n, 20)
    """
    x = np.clip((features - learnt["middle"]) / learnt["width"], -6, 6).astype(np.float32)
    total, nets = 0.0, sorted(name[:-1] for name in learnt if name.startswith("net") and name.endswith("_0"))
    for net in nets:
        hidden = np.maximum(x @ learnt[f"{net}0"] + learnt[f"{net}1"], 0)
        hidden = np.maximum(hidden @ learnt[f"{net}2"] + learnt[f"{net}3"], 0)
        total = total + (hidden @ learnt[f"{net}4"] + learnt[f"{net}5"]) / len(nets)
    total = total.astype(float)
    top = total.max(axis=1, keepdims=True)
    return total - top - np.log(np.exp(total - top).sum(axis=1, keepdims=True)) - learnt["log_prior"]


def _unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _beside(values, there, step):
    """Values of the residue before (1) or after (−1), 0 where there is none."""
    return np.where(there[:, None], np.roll(values, step, axis=0), 0.0)


def _occupied(field, xyz, points):
    """How much of each place other residues' atoms take: Gaussians of main chains, and of side chains further on."""
    count, slots = xyz.shape[:2]
    owner = np.repeat(np.arange(count), slots)
    slot = np.tile(np.arange(slots), count)
    flat = xyz.reshape(-1, 3)
    known = np.isfinite(flat).all(axis=1)
    others = field.chains.others
    atoms = np.concatenate([flat[known], others])
    owner = np.concatenate([owner[known], np.full(len(others), -1000)])
    slot = np.concatenate([slot[known], np.zeros(len(others), dtype=int)])
    distance, which = cKDTree(atoms).query(points, k=16, distance_upper_bound=OCCUPIED)
    none = which == len(atoms)
    which = np.where(none, 0, which)
    gap = np.abs(owner[which] - np.arange(count)[:, None, None])
    counts = ~none & (gap > 0) & ((slot[which] <= CB) | (gap > BESIDE))
    return (counts * np.exp(-0.5 * (np.where(none, 9.0, distance) / TAIL) ** 2)).sum(axis=-1)


def _exposure(xyz, axes):
    """ln(1 + number of Cα) above and below each position within two distances."""
    apart = xyz[None, :, CA] - xyz[:, None, CA]
    away, above = np.linalg.norm(apart, axis=-1), np.einsum("nmb,nb->nm", apart, axes[:, 2]) > 0
    near = [(away < reach) & (away > 0) for reach in SPHERES]
    return np.log1p(np.stack([(n & side).sum(axis=1) for n in near for side in (above, ~above)], axis=1))


def _spans(chains, xyz):
    """Cα to Cα distances across −1…1, −2…2, −3…0, 0…3 and 0…4; 0 across ends."""
    count, found = len(xyz), []
    for before, after in ((1, 1), (2, 2), (3, 0), (0, 3), (0, 4)):
        first, last = np.arange(count) - before, np.arange(count) + after
        there = (first >= 0) & (last < count)
        there &= chains.segment[np.clip(first, 0, count - 1)] == chains.segment[np.clip(last, 0, count - 1)]
        length = np.linalg.norm(xyz[np.clip(last, 0, count - 1), CA] - xyz[np.clip(first, 0, count - 1), CA], axis=1)
        found.append(np.where(there, length, 0.0))
    return np.stack(found, axis=1)


def _along(chains, values):
    """Means over eleven residues in a row, inside each segment."""
    result = np.empty_like(values)
    for i in range(len(values)):
        around = np.arange(max(0, i - REACH), min(len(values), i + REACH + 1))
        result[i] = values[around[chains.segment[around] == chains.segment[i]]].mean(axis=0)
    return result
