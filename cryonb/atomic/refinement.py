"""`refine_model`: from two half maps and a model to a better model, with the evidence for every change."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ..protein import with_atoms
from ..types import AtomicModel, Volume
from .dock import dock
from .errors import probability_wrong
from .finish import refine_b_factors
from .minimise import METALS, Field
from .rebuild import LARGE, STANDING, Protocol, map_support, rebuild, settle, training_map
from .residues import CA, Chains
from .select import ModelScore, choose, score_models, spread
from .surroundings import isolated_map, require_inside

__all__ = ["Refinement", "refine_model"]

AGREE = 1.0  # Å: models that agree on a residue have its Cα within this of the chosen one's
# standard deviations (`map_support`) below which the mirrored map is tried. Set after looking at five entries of the
# library: 8.6 to 32 with planted errors at 3.0 to 4.5 Å; 4.1 to 6.5 for three of them docked into maps of wrong hand
DOUBTFUL = 8.0
ROOMY = 1.6  # times the model's own box: a larger map is cut before anything is docked in it
TOUCHING = 2.6  # Å between heavy atoms: nearer than hydrogen bonds are


@dataclass(frozen=True, eq=False, repr=False)
class Refinement:
    """A refined model and what speaks for it.

    Parameters
    ----------
    model : AtomicModel
        The whole file with the chosen one in it, its coordinates and B factors (one per residue) at the end against
        the mean of the half maps; above 1,200 residues B factors stay, and the end is without the full force field.
    models : tuple of AtomicModel
        One for each seed, as they were rebuilt in the first half map; whole files too.
    chosen : int
        Position in ``models``.
    scores : tuple of ModelScore
        Of ``models``.
    start : ModelScore
        Of the model that came, completed.
    moves : tuple of Move
        Of the chosen model, in order.
    sites : tuple of (chain, residue number)
        Of the n refined residues, in the order of ``spread`` and ``confidence``.
    spread : ndarray (n,)
        Å (`cryonb.atomic.select.spread`).
    confidence : ndarray (n,)
        Share of the models whose Cα lies within 1 Å of the chosen one's.
    probability_wrong : ndarray (n,)
        That the residue's main chain is wrong by over 1 Å (`cryonb.atomic.errors.probability_wrong`), of ``model``
        against the mean of the half maps.
    probability_wrong_before : ndarray (n,)
        Of the completed model that came, against the training map.
    supported : bool
        Whether the training map speaks for the model at all.
    notes : tuple of str
        What was found in the input and what was done about it.
    """

    model: AtomicModel
    models: tuple
    chosen: int
    scores: tuple
    start: ModelScore
    moves: tuple
    sites: tuple
    spread: np.ndarray
    confidence: np.ndarray
    probability_wrong: np.ndarray
    probability_wrong_before: np.ndarray
    supported: bool
    notes: tuple

    def __repr__(self):
        score = self.scores[self.chosen]
        said = "" if self.supported else ", not supported by the map"
        return (
            f"Refinement({len(self.models)} models, {len(self.moves)} moves, iFSC {score.ifsc_work:.3f} work "
            f"{score.ifsc_free:.3f} free, MolProbity {score.molprobity:.2f}{said})"
        )


def refine_model(
    half_map_1, half_map_2, model, resolution, *, rng, chains=None, protocol=None, library=None, workers=1,
    folder=None, progress=False,
):  # fmt: skip
    """Find what is wrong in a model, rebuild it in one half map, choose by the other, finish in both.

    Parameters
    ----------
    half_map_1, half_map_2 : Volume
        Training and validation map, unfiltered, on one grid, their ``origin`` in the model's frame.
    model : AtomicModel
    resolution : float
        Å, where the FSC of the half maps is 0.143.
    rng : int
        Seed of the first model.
    chains : sequence of str, optional
        Names of the protein chains that are refined; all by default. The rest of the file is fixed: it keeps them out,
        its density is taken out of the maps, and it is written back as it came, hydrogens and alternate conformers
        included.
    protocol : Protocol, optional
        Ten models in two rounds by default.
    library : FragmentLibrary, optional
        The shipped one by default.
    workers : int
        Processes.
    folder : path-like, optional
        Where models are kept as they are made; the same call goes on from there.
    progress : bool

    Returns
    -------
    Refinement

    Raises
    ------
    ValueError
        Half maps of different grids, a model outside the map or without a main chain, a chain that is not there, a
        resolution beyond Nyquist.

    Notes
    -----
    The voxel size is taken as it is; `cryonb.atomic.finish.calibrate_map` mends it beforehand. The protocol is that of
    Wang et al., eLife 5:e17219 (2016), with directed moves before fragments. The second half map is read only after
    the last model is made. What is not refined stays where it is and keeps the rest out. Its density is subtracted from
    each half map, scaled to it shell by shell (`cryonb.atomic.surroundings.isolated_map`), and all scores but clashes
    are those of the refined residues in what is left. A ribosomal protein shaken by 2 Å ends 0.27 Å from the truth at
    3 Å, 0.33 Å with its neighbours' density left in; shaken by 1 Å at 4 Å, 0.59 and 0.64 Å (docs/atoms_rebuild.md).
    """
    _same_grid(half_map_1, half_map_2)
    chains, notes = _complete(model, chains)
    require_inside(half_map_2, chains)
    half_map_1 = isolated_map(half_map_1, chains)
    alone, near = chains.cut_out(), chains.cut_out(STANDING)
    training = training_map(half_map_1, chains, resolution)
    made = rebuild(
        alone, training, resolution, rng=rng, last=training_map(half_map_1, chains, resolution, weighted=True),
        protocol=protocol, library=library, workers=workers, folder=folder, progress=progress,
    )  # fmt: skip
    supported = all(result.supported for result in made)
    if not supported:
        notes.append(
            "nothing is supported: the model's main chain has no more density than random placements of it have; "
            "only its geometry was mended. Is it in the map's frame?"
        )
    notes += _hand(alone, half_map_1, training, resolution)
    half_map_2 = isolated_map(half_map_2, chains)
    models = [chains.moved(result.xyz).to_model() for result in made]
    scored = [near.moved(result.xyz).to_model() for result in made]
    start = near.to_model()
    scores = score_models(
        scored, half_map_1, half_map_2, resolution, seeds=[result.seed for result in made], among=near.owns(start)
    )
    best = choose(scores)
    xyz = made[best].xyz
    full = half_map_1.with_data((half_map_1.data + half_map_2.data) / 2)
    if supported:
        xyz = _finish(chains.moved(xyz), full, resolution, Protocol() if protocol is None else protocol, library)
    alpha = np.array([result.xyz[:, CA] for result in made])
    agree = np.linalg.norm(alpha - made[best].xyz[:, CA], axis=2) < AGREE
    final, own = chains.moved(xyz).to_model(), alone.moved(xyz).to_model()
    if supported and len(chains) <= LARGE:
        own = refine_b_factors(own, full, resolution, steps=40)
        b_factors = final.b_factors
        b_factors[chains.owns(final)] = own.b_factors
        final = with_atoms(final, b_factors=b_factors)
    notes += _contacts(chains, xyz)
    return Refinement(
        model=final, models=tuple(models), chosen=best, scores=tuple(scores),
        start=score_models([start], half_map_1, half_map_2, resolution, seeds=[-1], among=near.owns(start))[0],
        moves=made[best].moves, sites=chains.sites, spread=spread([result.xyz for result in made]),
        confidence=agree.mean(axis=0), probability_wrong=_wrong(own, chains, full, resolution),
        probability_wrong_before=_wrong(alone.to_model(), chains, half_map_1, resolution),
        supported=supported, notes=tuple(notes),
    )  # fmt: skip


def _contacts(chains, xyz):
    """A note of how many atoms are in each other's way at what stays where it is, before and after."""
    kept = chains.others[~np.isin(chains.other_elements, METALS)]  # which are coordinated at 2 Å
    for link in chains.links:
        kept = kept[np.linalg.norm(kept - link.point, axis=1) > TOUCHING]
    if not len(kept):
        return []
    tree = cKDTree(kept)
    before, after = (int((tree.query(x[chains.present])[0] < TOUCHING).sum()) for x in (chains.xyz, xyz))
    return [
        f"atoms within {TOUCHING:g} Å of what stays where it is, metals and bonds aside: {before} before, {after} after"
    ]


def _wrong(model, chains, volume, resolution):
    """P(wrong) of the chains' residues; NaN where the detector does not know a residue."""
    found = probability_wrong(model, volume, resolution)
    rows = found.residues
    columns = zip(rows.chains, rows.numbers, rows.insertions, found.backbone)
    sites = {(str(c), f"{n}{str(i).strip()}"): p for c, n, i, p in columns}
    return np.array([sites.get((chain, number), np.nan) for chain, number in chains.sites])


def _same_grid(first, second):
    for volume in (first, second):
        if not isinstance(volume, Volume):
            raise TypeError(f"half maps must be Volumes, got {type(volume).__name__}")
    if first.size_px != second.size_px or abs(first.voxel_size / second.voxel_size - 1) > 1e-3:
        raise ValueError(f"half maps must lie on one grid, got {first!r} and {second!r}")
    if np.abs(first.origin - second.origin).max() > 0.1 * first.voxel_size:
        origins = [volume.origin.round(2).tolist() for volume in (first, second)]
        raise ValueError(f"half maps must have one origin, got {origins[0]} and {origins[1]} Å")


def _hand(chains, half_map, training, resolution):
    """A note where a model that the map hardly supports fits its mirror image better; tried for those only."""
    if len(chains) > LARGE:
        return []
    support = map_support(Field(chains, training, ramachandran=False), chains.xyz, rng=0)
    if support > DOUBTFUL:
        return []
    whole = half_map if half_map.box_size < ROOMY * training.box_size else training
    try:
        found = dock(chains.to_model(), whole, max(resolution, 4.0), order=1)
    except ValueError:  # fits neither
        return []
    if found.hand != "mirrored":
        return []
    return [
        f"wrong hand: docked into the mirror image of the map the model correlates {found.mirrored:.2f}, into the map "
        f"as it is {found.correlation:.2f}; mirror both half maps"
    ]


def _complete(model, names):
    """The protein to refine with every atom, and what was found on the way."""
    if not isinstance(model, AtomicModel):
        raise TypeError(f"model must be an AtomicModel, got {type(model).__name__}")
    found, notes = Chains.of(model), []
    if names is not None:
        found = found.named([names] if isinstance(names, str) else names)
    seen = set()
    for i, site in enumerate(found.sites):
        if site in seen:
            raise ValueError(
                f"{found.label(i)} is there twice, at two places; expected one residue of each number in a chain: give "
                "each chain a name of its own"
            )
        seen.add(site)
    missing = int((found.expected & ~found.present).sum())
    side = found.expected[:, 5:].sum()
    if side and (found.expected & ~found.present)[:, 5:].sum() > 0.5 * side:
        notes.append("more than half of the side-chain atoms were missing: all were built, then fitted to the map")
    elif missing:
        notes.append(f"{missing} missing atoms were built")
    own = found.owns(model)
    if any(mine and site.atom.altloc != "\0" for mine, site in zip(own, model.structure[0].all())):
        notes.append("alternate conformers: the one of highest occupancy was kept")
    if len(found.others):
        notes.append(
            f"{len(found.others)} atoms that are not refined stay where they are, and their density was taken out of "
            "the maps"
        )
    if found.links:
        labels = ", ".join(dict.fromkeys(found.label(link.residue) for link in found.links))
        notes.append(f"bonds to what stays where it is were kept: {labels}")
    return found.completed().near(STANDING), notes


def _finish(chains, full, resolution, protocol, library):
    """Coordinates against the mean of the half maps, downhill only."""
    volume = training_map(full, chains, resolution, weighted=True)
    return settle(chains, volume, resolution, protocol=protocol, library=library)
