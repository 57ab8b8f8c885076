"""Rebuild a model in a training map: relax, mend what the map speaks against, anneal; many seeds, resumable.

Nothing here sees the validation map (`select` does).
"""

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scipy.ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from ..io.formats import replacing
from ..types import Volume
from .density import prepare_map
from .fragments import fragment_library, residue_codes
from .minimise import RAMA_CELLS, SLOTS, Field, hold_weight, map_weight, ramachandran_energy
from .moves import Move, close_disulfides, fit_rotamers, flip_peptides, replace_fragment, shift_registers
from .noise import weigh_signal
from .residues import CA, main_chain_angles
from .rotamers import seen_level, side_chain_support
from .surroundings import require_inside

__all__ = ["Protocol", "Rebuilt", "keep_supported", "map_support", "rebuild", "settle", "suspicion", "training_map"]

MARGIN, NEAR = 8.0, 4.0  # Å around the model: of the box that is cut out, of the voxels that set the unit of density
SUPPORTED = 5.0  # standard deviations above random placements that a model's density must be
PLACEMENTS = 60
CUTS = (-0.5, -0.3, -0.1, 0.0)  # of the suspicion, round by round (Wang et al., eLife 5:e17219 (2016))
WEIGHTS = (0.45, 0.05, 0.15, 0.35)  # density, density against the neighbourhood, strain, φ and ψ (the same)
NEIGHBOURHOOD = 10.0  # Å
LENGTHS = (7, 8, 9)  # residues of a fragment
TEMPERATURE = 4.0  # kJ/mol of the Metropolis choice among fragments
STANDING = 12.0  # Å from the chains within which what stays where it is keeps them out
LAST = 0.5  # of the map's weight in the last minimisation; set on 1HE1 at 3 and 4 Å, where 1 only fitted more noise
EVIDENCE, WINDOW = 0.05, 5  # density that a main chain gains where it is moved; residues over which it is averaged
SEAM = 3  # residues on each side of where a stretch that was kept joins the rest
LARGE = 1200  # residues above which chains are rebuilt one after another, the rest standing still


@dataclass(frozen=True)
class Protocol:
    """What a rebuild does; the switches are for ablations.

    Parameters
    ----------
    models : int
        Seeds.
    rounds : int
        Of fragments, annealing and directed moves, after directed moves that all models share.
    fragments : int
        Suspect places tried in each round.
    picoseconds : float
        Of annealing in each round.
    register, flips, rotamers, ramachandran, anneal : bool
    """

    models: int = 10
    rounds: int = 2
    fragments: int = 6
    picoseconds: float = 1.5
    register: bool = True
    flips: bool = True
    rotamers: bool = True
    ramachandran: bool = True
    anneal: bool = True

    def __post_init__(self):
        if self.models < 1 or self.rounds < 1:
            raise ValueError(f"a protocol has at least one model and one round, got {self.models} and {self.rounds}")


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """One seed's result.

    Parameters
    ----------
    xyz : ndarray (n, 14, 3)
        Å, of the protein's heavy atoms.
    moves : tuple of Move
        In the order in which they were made.
    seed : int
    supported : bool
        Whether the map speaks for the model at all; where not, only geometry was mended and no move was made.
    """

    xyz: np.ndarray
    moves: tuple
    seed: int
    supported: bool


def training_map(half_map, chains, resolution, *, weighted=False):
    """The map that a rebuild works in: sharpened, cut off at the resolution, cut out around the model, in its own unit.

    Parameters
    ----------
    half_map : Volume
    chains : Chains
    resolution : float
        Å.

    weighted : bool
        Each shell first by its share of signal, read from this half map alone (`cryonb.atomic.noise.signal_share`), for
        the last minimisation; the search does better with every shell as sharp as can be.

    Returns
    -------
    Volume: a cube with 8 Å around the model where the map is that large; 1 is the rms density within 4 Å of atoms.

    Raises
    ------
    ValueError
        Atoms outside the map, a constant or non-finite map, a resolution beyond Nyquist.
    """
    require_inside(half_map, chains)
    xyz = chains.xyz[chains.present]
    voxels = (xyz - half_map.origin) / half_map.voxel_size
    whole = prepare_map(weigh_signal(half_map, chains) if weighted else half_map, resolution)
    first = np.floor(voxels.min(axis=0) - MARGIN / half_map.voxel_size).astype(int)
    size = int(np.ceil((voxels.max(axis=0) + MARGIN / half_map.voxel_size - first).max())) + 1
    size = min(size, half_map.size_px)
    first = np.clip(first, 0, half_map.size_px - size)
    cut = tuple(slice(start, start + size) for start in first[::-1])
    part = Volume(whole.data[cut], whole.voxel_size, whole.origin + first * whole.voxel_size)
    near, tree = np.zeros(part.data.shape, dtype=bool), cKDTree(xyz - part.origin)
    y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    for z in range(size):  # plane by plane: of a whole ribosome's box all points at once take 2 GB
        plane = np.stack([x, y, np.full_like(x, z)], axis=-1) * part.voxel_size
        near[z] = tree.query(plane, distance_upper_bound=NEAR)[0] < np.inf
    unit = float(np.sqrt((part.data[near].astype(np.float64) ** 2).mean()))
    return part.with_data(part.data / unit)


def map_support(field, xyz, *, rng):
    """By how much a main chain's mean density exceeds that of random placements of it in the same map.

    Parameters
    ----------
    field : Field
    xyz : ndarray (n, 14, 3)
        Å.
    rng : seed or Generator

    Returns
    -------
    float: standard deviations over 60 placements, turned at random and moved by up to 6 Å; about 0 in noise.
    """
    rng = np.random.default_rng(rng)
    main = xyz[:, :4].reshape(-1, 3)
    middle = main.mean(axis=0)
    random = []
    for turn, step in zip(Rotation.random(PLACEMENTS, rng=rng), rng.uniform(-6, 6, (PLACEMENTS, 3))):
        random.append(field.density(turn.apply(main - middle) + middle + step).mean())
    return float((field.density(main).mean() - np.mean(random)) / np.std(random))


def suspicion(field, xyz):
    """How wrong each residue looks: Wang's score over three residues, and how well nine side chains fit in a row.

    Parameters
    ----------
    field : Field
    xyz : ndarray (n, 14, 3)
        Å.

    Returns
    -------
    ndarray (n,): low is bad; the mean is 0.

    Notes
    -----
    Wang et al., eLife 5:e17219 (2016): 0.45 Z_dens + 0.05 Z_lcldens + 0.15 Z_bonded + 0.35 Z_rama, with the mean
    density at the residue's atoms in place of a real-space correlation. Added to it, with equal weight, is the support
    of the map for the residue's own side chain (`cryonb.atomic.rotamers.side_chain_support`), which speaks against a
    slid register. The 3 and 9 residues were set on three chains of ``benchmarks/atomic.py``.
    """
    chains = field.chains
    density = np.nanmean(field.density(xyz), axis=1)
    near = cKDTree(xyz[:, CA]).query_ball_point(xyz[:, CA], NEIGHBOURHOOD)
    local = density - np.array([density[around].mean() for around in near])
    flat = field.flat(xyz)
    off = np.linalg.norm(flat[field.pairs[:, 0]] - flat[field.pairs[:, 1]], axis=1) - field.length
    strain = np.bincount(field.pairs[:, 0] // SLOTS, field.stiff * off**2, minlength=len(chains))[: len(chains)]
    angles = main_chain_angles(chains.moved(xyz))[:, :2]
    cell = np.rint((np.nan_to_num(angles) + 180) / 360 * RAMA_CELLS).astype(int) % RAMA_CELLS
    kind = np.zeros(len(chains), dtype=int)
    kind[field.rama[:, 2] // SLOTS] = field.kind
    rama = np.where(np.isfinite(angles).all(axis=1), ramachandran_energy()[kind, cell[:, 0], cell[:, 1]], np.nan)
    parts = [_standard(density), _standard(local), _standard(-np.log1p(strain)), np.nan_to_num(_standard(-rama))]
    wang = sum(weight * part for weight, part in zip(WEIGHTS, parts))
    support, _ = side_chain_support(field, xyz)
    own = (support - support.mean(axis=0))[np.arange(len(chains)), residue_codes(chains.names)]
    smooth = [scipy.ndimage.uniform_filter1d(values, width, mode="nearest") for values, width in ((wang, 3), (own, 9))]
    return (_standard(smooth[0]) + _standard(smooth[1])) / 2


def _standard(values):
    if np.isnan(values).all():
        return np.zeros(len(values))
    deviation = np.nanstd(values)
    return (values - np.nanmean(values)) / (deviation if deviation > 0 else 1.0)


def rebuild(
    chains, volume, resolution, *, rng, last=None, protocol=None, library=None, workers=1, folder=None, progress=False
):
    """Rebuild a model in a training map, from several seeds.

    Parameters
    ----------
    chains : Chains
        Complete.
    volume : Volume
        From `training_map`.
    resolution : float
        Å.
    rng : int
        Seed of the first model; those of the others follow from it.
    last : Volume, optional
        The same half map with its shells weighted (`training_map`), in which each model is minimised at the end
        (`settle`); without, that is left out.
    protocol : Protocol, optional
    library : FragmentLibrary, optional
        The shipped one by default.
    workers : int
        Processes.
    folder : path-like, optional
        Each model is kept there as soon as it is made, and not made again by the same call.
    progress : bool

    Returns
    -------
    list of Rebuilt, in the order of their seeds.

    Raises
    ------
    ValueError
        The folder holds models of another call.
    """
    from tqdm.auto import tqdm

    protocol = Protocol() if protocol is None else protocol
    library = fragment_library() if library is None else library
    key = _key(chains, volume, last, resolution, protocol, library, rng)
    done = {} if folder is None else _kept(Path(folder), key)
    waiting = [seed for seed in range(protocol.models) if seed not in done]
    with tqdm(total=protocol.models, initial=len(done), desc="models", disable=not progress) as bar:
        begun = _begin(chains, volume, resolution, protocol, library) if waiting else None
        jobs = [(chains, volume, last, resolution, protocol, library, begun, int(rng), seed) for seed in waiting]
        for result in _each(workers, jobs):
            done[result.seed] = result
            if folder is not None:
                _keep(Path(folder), key, result)
            bar.update()
    return [done[seed] for seed in range(protocol.models)]


def _each(workers, jobs):
    if workers <= 1 or len(jobs) <= 1:
        yield from (_one_seed(job) for job in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_one_seed, jobs)


def _begin(chains, volume, resolution, protocol, library):
    """What all seeds share: for each group of residues its rows, relaxed and mended, the moves, and whether the map
    speaks for it."""
    begun, xyz = [], chains.xyz.copy()
    for rows in _groups(chains):
        field = _field(chains.moved(xyz).part(rows), volume, resolution, protocol, library)
        everything, found, moves = range(len(rows)), xyz[rows], []
        supported = map_support(field, found, rng=0) > SUPPORTED
        if supported:
            hold = hold_weight(map_weight(resolution))
            found, _ = field.window(everything, found).minimise(found, steps=200, hold=hold)
            found, moves = _directed(field, found, protocol, library, thorough=True)
        else:
            field.set_map(None)
            found, _ = field.window(everything, found).minimise(found, steps=100)
        xyz[rows] = found
        begun.append((rows, found, moves, supported))
    return begun


def _field(chains, volume, resolution, protocol, library, share=1.0):
    weight = share * map_weight(resolution)
    return Field(chains.near(STANDING), volume, map_weight=weight, ramachandran=protocol.ramachandran and library)


def _one_seed(job):
    chains, volume, last, resolution, protocol, library, begun, rng, seed = job
    own, moves, xyz = np.random.default_rng([rng, seed]), [], chains.xyz.copy()
    for rows, found, _, _ in begun:
        xyz[rows] = found
    for rows, found, made, supported in begun:
        if supported:
            field = _field(chains.moved(xyz).part(rows), volume, resolution, protocol, library)
            found, more = _rebuild_part(field, found, last, resolution, protocol, library, own)
            made = made + more
        xyz[rows] = found
        moves += [Move(m.kind, tuple(int(rows[i]) for i in m.residues), m.label, m.reason, m.evidence) for m in made]
    return Rebuilt(xyz, tuple(moves), seed, all(supported for *_, supported in begun))


def _groups(chains):
    """All residues together, or chain by chain in a large model."""
    if len(chains) <= LARGE:
        return [np.arange(len(chains))]
    label = np.array([site[0] for site in chains.sites])
    return [np.flatnonzero(label == name) for name in dict.fromkeys(label)]


def _rebuild_part(field, xyz, last, resolution, protocol, library, rng):
    """Rounds of fragments, annealing and directed moves."""
    moves, annealer, bridges, chains = [], None, None, field.chains
    for round_ in range(protocol.rounds):
        xyz, made = _fragments(field, xyz, protocol, library, rng, CUTS[min(round_, len(CUTS) - 1)])
        moves += made
        if protocol.anneal and chains.linked:
            closed = [m.residues for m in moves if m.kind == "disulfide"]
            if annealer is None or closed != bridges:
                from .anneal import Annealer

                annealer = Annealer(chains.moved(xyz), ramachandran=protocol.ramachandran and library)
                bridges = closed
            still, _ = annealer.run(xyz, field, resolution, rng=rng, picoseconds=0.0, hold=True)
            warmed, _ = annealer.run(still, field, resolution, rng=rng, picoseconds=protocol.picoseconds)
            xyz = keep_supported(field, still, warmed)
        xyz, made = _directed(field, xyz, protocol, library, thorough=False)
        moves += made
    if moves and annealer is not None:
        xyz, _ = annealer.run(xyz, field, resolution, rng=rng, picoseconds=0.0, hold=True)
    if last is not None and len(chains) <= LARGE:
        xyz = settle(chains.moved(xyz), last, resolution, protocol=protocol, library=library, annealer=annealer)
    return xyz, moves


def keep_supported(field, before, after):
    """Of two models of the same chains the second one where its main chain lies in more density, else the first.

    Parameters
    ----------
    field : Field
    before, after : ndarray (n, 14, 3)
        Å.

    Returns
    -------
    ndarray (n, 14, 3): where one joins the other, three residues to each side are minimised.

    Notes
    -----
    Compared is the mean density at N, CA, C and O over five residues. The second must exceed the first by 0.05 of the
    rms density near the model, and have 0.4 of the first's upper quartile over the chains: what has less may be noise.
    So nothing is moved without the map's word for it.
    """
    before, chains = np.asarray(before, dtype=np.float64), field.chains
    old, new = (field.density(xyz[:, :4]).mean(axis=1) for xyz in (before, after))
    level, kept = seen_level(field, before), np.zeros(len(chains), dtype=bool)
    for number in np.unique(chains.segment):
        own = chains.segment == number
        near, far = (scipy.ndimage.uniform_filter1d(x[own], WINDOW, mode="nearest") for x in (old, new))
        kept[own] = (far - near > EVIDENCE) & (far > level)
    joined = np.where(kept[:, None, None], after, before)
    edges = np.flatnonzero(kept[1:] != kept[:-1])
    near = np.unique((edges[:, None] + np.arange(1 - SEAM, SEAM + 1)).ravel())
    near = near[(near >= 0) & (near < len(chains))]
    if len(near):
        joined, _ = field.window(near, joined).minimise(joined, steps=60)
    return joined


def settle(chains, volume, resolution, *, protocol=None, library=None, annealer=None):
    """Go downhill for the last time: first by local energy at half the map's weight, then by the full force field.

    Parameters
    ----------
    chains : Chains
        Complete.
    volume : Volume
        From `training_map`, its shells weighted.
    resolution : float
        Å.
    protocol : Protocol, optional
        Whether φ and ψ count, and the force field.
    library : FragmentLibrary, optional
        The shipped one by default.
    annealer : Annealer, optional
        Of these chains, where there is one already.

    Returns
    -------
    ndarray (n, 14, 3): Å.
    """
    protocol = Protocol() if protocol is None else protocol
    library = fragment_library() if library is None else library
    field = _field(chains, volume, resolution, protocol, library, LAST)
    hold = hold_weight(LAST * map_weight(resolution))
    xyz, _ = field.window(range(len(chains)), chains.xyz).minimise(chains.xyz, steps=60, hold=hold)
    if protocol.anneal and chains.linked and len(chains) <= LARGE:
        if annealer is None:
            from .anneal import Annealer

            annealer = Annealer(chains.moved(xyz), ramachandran=protocol.ramachandran and library)
        xyz, _ = annealer.run(xyz, field, resolution, rng=0, picoseconds=0.0, hold=True)
    return xyz


def _directed(field, xyz, protocol, library, *, thorough):
    """Register, planes, rotamers, disulfides, in this order: each needs what the one before it mended."""
    moves = []
    steps = [
        (protocol.register, lambda x: shift_registers(field, x, rng=0, library=library, thorough=thorough)),
        (protocol.flips, lambda x: flip_peptides(field, x)),
        (protocol.rotamers, lambda x: fit_rotamers(field, x, library=library)),
        (True, lambda x: close_disulfides(field, x)),
    ]
    for wanted, step in steps:
        if wanted:
            xyz, made = step(xyz)
            moves += made
    return xyz, moves


def _fragments(field, xyz, protocol, library, rng, cut):
    """Fragments in the most suspect places, each in a window of random length and offset."""
    chains, moves = field.chains, []
    score = suspicion(field, xyz)
    covered = np.zeros(len(chains), dtype=bool)
    for i in np.argsort(score):
        if score[i] > cut or len(moves) + covered.sum() // max(LENGTHS) >= protocol.fragments:
            break
        length = int(rng.choice(LENGTHS))
        own = np.flatnonzero(chains.segment == chains.segment[i])
        first = int(np.clip(i - rng.integers(2, length - 2), own[0], max(own[0], own[-1] - length + 1)))
        last = first + length - 1
        if covered[i] or last > own[-1]:
            continue
        covered[first : last + 1] = True
        xyz, move = replace_fragment(
            field, xyz, first, last, library=library, count=15, rng=rng, temperature=TEMPERATURE, evidence=EVIDENCE
        )
        if move is not None:
            moves.append(move)
    return xyz, moves


def _key(chains, volume, last, resolution, protocol, library, rng):
    """What makes two calls the same."""
    digest = hashlib.sha256(repr((protocol, float(resolution), int(rng), len(library))).encode())
    more = () if last is None else (last.data,)
    for array in (chains.xyz, volume.data, volume.origin, chains.others, library.sequence, *more):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _keep(folder, key, result):
    folder.mkdir(parents=True, exist_ok=True)
    moves = json.dumps([(m.kind, m.residues, m.label, m.reason, m.evidence) for m in result.moves])
    with replacing(folder / f"model_{result.seed:03d}.npz") as beside, open(beside, "wb") as file:
        np.savez_compressed(file, key=key, xyz=result.xyz, seed=result.seed, supported=result.supported, moves=moves)


def _kept(folder, key):
    done = {}
    for path in sorted(folder.glob("model_*.npz")):
        with np.load(path) as stored:
            if str(stored["key"]) != key:
                raise ValueError(f"{path}: from another model, map or protocol; give another folder or empty this one")
            moves = tuple(
                Move(kind, tuple(residues), label, reason, evidence)
                for kind, residues, label, reason, evidence in json.loads(str(stored["moves"]))
            )
            seed = int(stored["seed"])
            done[seed] = Rebuilt(stored["xyz"], moves, seed, bool(stored["supported"]))
    return done
