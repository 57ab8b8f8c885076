"""A model's local energy in a map, and its minimum: bonds, angles, planes, chirality, φ and ψ, repulsion, density.

Heavy atoms only; kJ/mol and Å. It is meant for thousands of small moves: 100 atoms take about 15 µs per energy and
gradient. `anneal` has the full force field.
"""

import functools

import numpy as np
import scipy.ndimage
import scipy.sparse
from scipy.spatial import cKDTree

from ..protein import dihedral
from ..types import Volume
from . import _kernels
from .density import spline_coefficients
from .fragments import FragmentLibrary, fragment_library
from .geometry import CLOSURES, MAIN_CHAIN, PLANAR_CHI, SIDE_CHAINS
from .links import angle_length, fixed_bonds
from .residues import SLOTS, C, Chains, atom_names, build_side_chain

__all__ = ["Field", "Window", "hold_weight", "map_weight", "ramachandran_energy"]

BOND, ANGLE = 800.0, 200.0  # kJ/mol/Å²; angles act through the distance of their ends
PLANE, CHIRAL, STAGGER, REPEL = 60.0, 120.0, 6.0, 60.0  # kJ/mol, the last per Å²
MAP_WEIGHT = 8.0  # kJ/mol for a carbon at density 1, which is the rms density near the model; at 3 Å
REFERENCE, FADE = (
    3.0,
    4,
)  # the weight falls as (3 Å / resolution)⁴: set on two chains of benchmarks/atomic.py, by iFSC(free)
HOLD = 1.0  # per Å²; set on EMD-30342 with nothing planted
RAMA_KT = 2.5  # kJ/mol for each unit of −ln P(φ, ψ)
RAMA_CELLS, RAMA_BLUR, RAMA_CAP = 36, 1.4, 8.0  # cells of 10°, blurred by 14°, −ln P at most
DISULFIDE = 2.05  # Å
SIDE_WEIGHT = {
    **dict.fromkeys(("ARG", "LYS", "GLU", "MET", "ASP"), 0.66),
    **dict.fromkeys(("CYS", "GLN", "HIS", "ASN", "THR", "SER"), 0.71),
}  # Wang et al., eLife 5:e17219 (2016); the rest 0.78
RADIUS = {"C": 1.72, "N": 1.5, "O": 1.42, "S": 1.75, "P": 1.8, "H": 1.1, "Cl": 1.75, "Br": 1.85, "I": 1.98}
OTHER_RADIUS = 1.7  # Å, of united atoms as all in the table; metals and what is not in it
POLAR = 2.75  # Å between nitrogen and oxygen that may share a hydrogen
COORDINATED = 2.0  # Å between a metal and nitrogen, oxygen or sulphur
METALS = ("Li", "Na", "Mg", "K", "Ca", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Mo", "Cd", "Hg")


def map_weight(resolution):
    """What the density weighs against the local geometry at a resolution: more, and atoms follow the noise.

    Parameters
    ----------
    resolution : float
        Å.

    Returns
    -------
    float: kJ/mol for a carbon at density 1.

    Examples
    --------
    >>> map_weight(3.0), round(map_weight(4.0), 2)
    (8.0, 2.53)
    """
    return MAP_WEIGHT * (REFERENCE / resolution) ** FADE


def hold_weight(weight):
    """How firmly a main chain is held where the map does not pull.

    Parameters
    ----------
    weight : float
        kJ/mol for a carbon at density 1 (`map_weight`).

    Returns
    -------
    float: kJ/mol/Å², as much. Density is curved by about its height for each Å², which is 2 on a main chain that is
    seen: it goes where the density has it, and one that is not seen stays where it came.
    """
    return HOLD * weight


@functools.cache
def ramachandran_energy(library=None):
    """−ln P(φ, ψ) relative to an even distribution, of four kinds of residue, from a fragment library.

    Parameters
    ----------
    library : FragmentLibrary, optional
        The shipped one by default.

    Returns
    -------
    ndarray (4, 36, 36): general, glycine, proline, before proline; cell [i, j] is centred at φ = 10 i − 180°,
    ψ = 10 j − 180°; at most 8.
    """
    library = fragment_library() if library is None else library
    angles = library.angles
    kinds = _rama_kind(library.sequence == 7, library.sequence == 14, library.chain)
    tables = []
    for kind in range(4):
        chosen = (kinds == kind) & np.isfinite(angles).all(axis=1)
        cell = np.rint((angles[chosen] + 180) / 360 * RAMA_CELLS).astype(int) % RAMA_CELLS
        count = np.zeros((RAMA_CELLS, RAMA_CELLS))
        np.add.at(count, (cell[:, 0], cell[:, 1]), 1.0)
        share = scipy.ndimage.gaussian_filter(count, RAMA_BLUR, mode="wrap") + 1e-9
        tables.append(np.minimum(-np.log(share / share.mean()), RAMA_CAP))
    return np.array(tables)


def _rama_kind(glycine, proline, chain):
    before = np.append(proline[1:] & (chain[1:] == chain[:-1]), False)
    return np.where(glycine, 1, np.where(proline, 2, np.where(before, 3, 0)))


@functools.cache
def _inner_terms(name):
    """Of one kind of residue: pairs of slots with length and stiffness, torsions with angle, stiffness, fold."""
    slot = {atom: index for index, atom in enumerate(atom_names(name))}
    main = np.array(
        [[1.459, 0, 0], [0, 0, 0], [1.525 * np.cos(np.radians(111.1)), 1.525 * np.sin(np.radians(111.1)), 0]]
    )
    side = build_side_chain(name, main, np.full(4, 180.0) if name != "PRO" else np.array([28.0, -35.0]))
    ideal = np.concatenate([main, [[np.nan] * 3], side])
    bonds = {(0, 1): 1.459, (1, 2): 1.525, (2, 3): 1.232}
    torsions = []
    for atom, (a, b, c), number, bond, _, _ in SIDE_CHAINS[name]:
        bonds[slot[c], slot[atom]] = bond
        corners = (slot[a], slot[b], slot[c], slot[atom])
        if atom == "CB":
            torsions.append((corners, np.radians(dihedral(*ideal[list(corners)])), CHIRAL, 1))
        elif number == 0:
            torsions.append((corners, np.radians(dihedral(*ideal[list(corners)])), PLANE, 1))
        elif not any(row[0] == corners for row in torsions) and PLANAR_CHI.get(name) != number and name != "PRO":
            torsions.append((corners, np.pi / 3, STAGGER, 3))
    branches = {"THR": ("OG1", "CG2", "CB"), "VAL": ("CG1", "CG2", "CB"), "ILE": ("CG1", "CG2", "CB"),
                "LEU": ("CD1", "CD2", "CG")}  # fmt: skip
    flats = {"PHE": ("CD1", "CD2", "CG"), "TYR": ("CD1", "CD2", "CG"), "TRP": ("CD1", "CD2", "CG"),
             "HIS": ("ND1", "CD2", "CG"), "ASP": ("OD1", "OD2", "CG"), "ASN": ("OD1", "ND2", "CG"),
             "GLU": ("OE1", "OE2", "CD"), "GLN": ("OE1", "NE2", "CD")}  # fmt: skip
    for first, second, centre in [table[name] for table in (branches, flats) if name in table]:
        before = next(row[1][2] for row in SIDE_CHAINS[name] if row[0] == centre)
        corners = tuple(slot[atom] for atom in (before, first, second, centre))  # improper about the centre
        torsions.append((corners, np.radians(dihedral(*ideal[list(corners)])), CHIRAL, 1))
    for first, second, bond in CLOSURES.get(name, ()):
        bonds[slot[first], slot[second]] = bond
    neighbours = {}
    for i, j in bonds:
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
    angles = {}
    for around in neighbours.values():
        for p, i in enumerate(around):
            for j in around[p + 1 :]:
                if 3 in (i, j):  # the carbonyl oxygen, not in the ideal frame
                    a, b = 1.525, 1.232
                    angles[i, j] = np.sqrt(a * a + b * b - 2 * a * b * np.cos(np.radians(120.4)))
                elif (i, j) not in bonds and (j, i) not in bonds:
                    angles[i, j] = float(np.linalg.norm(ideal[i] - ideal[j]))
    pairs = [(pair, value, BOND) for pair, value in bonds.items()]
    pairs += [(pair, value, ANGLE) for pair, value in angles.items()]
    return pairs, torsions, neighbours


def _across(bond, angle):
    """Length of an angle's open side from its two bonds."""
    a, b = bond
    return float(np.sqrt(a * a + b * b - 2 * a * b * np.cos(np.radians(angle))))


class Field:
    """The energy of chains in a map, with every term that their residues' names call for.

    Parameters
    ----------
    chains : Chains
        Complete (`Chains.completed`).
    volume : Volume, optional
        Density in units of its rms near the model (`rebuild.training_map`); none leaves geometry only.
    map_weight : float
        kJ/mol for a carbon atom at density 1; other atoms by atomic number, side chains by Wang's weights.
    ramachandran : bool or FragmentLibrary
        Whether (and from which library) −ln P(φ, ψ) counts.

    Raises
    ------
    ValueError
        Atoms missing.
    """

    def __init__(self, chains: Chains, volume: Volume | None = None, *, map_weight=MAP_WEIGHT, ramachandran=True):
        missing = chains.expected & ~chains.present
        if missing.any():
            i = int(np.argmax(missing.any(axis=1)))
            raise ValueError(f"{chains.label(i)} lacks {int(missing[i].sum())} atoms; complete the chains first")
        self.chains, n = chains, len(chains)
        self.size = n * SLOTS + len(chains.others)
        self.there = np.concatenate(
            [np.flatnonzero(chains.expected.ravel()), n * SLOTS + np.arange(len(chains.others))]
        )
        self._collect()
        names = [atom_names(name) for name in chains.names]
        element = np.full(self.size, "C", dtype="<U2")
        element[n * SLOTS :] = chains.other_elements
        weight = np.zeros(self.size)
        charge = {"C": 6, "N": 7, "O": 8, "S": 16}
        for i, atoms in enumerate(names):
            side = SIDE_WEIGHT.get(chains.names[i], 0.78)
            for slot, atom in enumerate(atoms):
                element[i * SLOTS + slot] = atom[0]
                weight[i * SLOTS + slot] = charge[atom[0]] / 6 * (1.0 if slot < 4 else side)
        self.element, self.weight = element, weight * map_weight
        self.sulphur = np.array([i * SLOTS + 5 for i in np.flatnonzero(chains.names == "CYS")], dtype=np.int64)
        if ramachandran is False:
            self.tables = np.zeros((4, RAMA_CELLS, RAMA_CELLS))
        else:
            energy = ramachandran_energy(ramachandran if isinstance(ramachandran, FragmentLibrary) else None)
            self.tables = np.array([scipy.ndimage.spline_filter(RAMA_KT * table, mode="grid-wrap") for table in energy])
        self.set_map(volume)

    def set_map(self, volume):
        """Put another map in the field; None for none.

        Parameters
        ----------
        volume : Volume or None
        """
        if volume is None:
            volume = Volume(np.zeros((4, 4, 4)), 1.0)
        self.coefficients = spline_coefficients(volume).astype(np.float32)
        self.scale, self.origin = float(volume.voxel_size), np.asarray(volume.origin, dtype=np.float64)

    def density(self, points):
        """The map at points (…, 3), interpolated by cubic splines; 0 outside, and NaN where a point is NaN."""
        points = np.asarray(points, dtype=np.float64)
        flat = np.ascontiguousarray((points.reshape(-1, 3) - self.origin) / self.scale)
        values, gradient = np.zeros(len(flat)), np.zeros((len(flat), 3))
        known = np.isfinite(flat).all(axis=1)
        found, slope = np.zeros(known.sum()), np.zeros((known.sum(), 3))
        _kernels.map_values(self.coefficients, flat[known], found, slope)
        values[known], gradient[known] = found, slope
        values[~known] = np.nan
        return values.reshape(points.shape[:-1])

    def _collect(self):
        """All terms over flat atom numbers, residue × 14 + slot."""
        chains = self.chains
        pairs, torsions, bonds = [], [], []
        for i, name in enumerate(chains.names):
            inner, turned, _ = _inner_terms(str(name))
            base = i * SLOTS
            pairs += [(base + a, base + b, value, stiff) for (a, b), value, stiff in inner]
            bonds += [(base + a, base + b) for (a, b), _, stiff in inner if stiff == BOND]
            torsions += [(*(base + c for c in corners), value, hard, fold) for corners, value, hard, fold in turned]
        linked = np.flatnonzero(chains.segment[1:] == chains.segment[:-1])
        m = MAIN_CHAIN
        sides = {
            (1, 0): _across((1.525, 1.330), m["CA", "C", "+N"]), (3, 0): _across((1.232, 1.330), m["O", "C", "+N"]),
            (2, 1): _across((1.330, 1.459), m["C", "+N", "+CA"]),
        }  # fmt: skip
        cis = self._cis(linked)
        for i, bent in zip(linked, cis):
            here, ahead = i * SLOTS, (i + 1) * SLOTS
            pairs.append((here + 2, ahead, m["C", "+N"], BOND))
            bonds.append((here + 2, ahead))
            pairs += [(here + a, ahead + b, value, ANGLE) for (a, b), value in sides.items()]
            torsions.append((here + 1, here + 2, ahead, ahead + 1, 0.0 if bent else np.pi, PLANE, 1))
            torsions.append((here + 3, here + 2, ahead, ahead + 1, np.pi if bent else 0.0, PLANE, 1))
            if chains.names[i + 1] == "PRO":  # its ring lies in the peptide plane
                torsions.append((here + 1, here + 2, ahead, ahead + 6, np.pi if bent else 0.0, PLANE / 2, 1))
        self._link(pairs, bonds)
        pairs = np.array(pairs)
        self.pairs, self.length, self.stiff = pairs[:, :2].astype(np.int64), pairs[:, 2].copy(), pairs[:, 3].copy()
        torsions = np.array(torsions, dtype=np.float64).reshape(-1, 7)
        self.torsions = torsions[:, :4].astype(np.int64)
        self.angle, self.hard, self.fold = (torsions[:, k].copy() for k in (4, 5, 6))
        inner = np.flatnonzero(np.isin(np.arange(len(chains)), linked) & np.isin(np.arange(len(chains)), linked + 1))
        self.rama = np.stack(
            [(inner - 1) * SLOTS + C, inner * SLOTS, inner * SLOTS + 1, inner * SLOTS + 2, (inner + 1) * SLOTS], axis=1
        ).reshape(-1, 5)
        self.kind = _rama_kind(chains.names == "GLY", chains.names == "PRO", chains.segment)[inner]
        bonds = np.array(bonds)
        graph = scipy.sparse.coo_matrix((np.ones(len(bonds)), bonds.T), shape=(self.size, self.size))
        graph = ((graph + graph.T) > 0).astype(np.int64).tocsr()
        near = (graph + graph @ graph + graph @ graph @ graph).tocsr()
        self.bonded_start, self.bonded = near.indptr.astype(np.int64), near.indices.astype(np.int64)

    def _link(self, pairs, bonds):
        """Terms of bonds to what stays where it is, appended."""
        chains, behind = self.chains, len(self.chains) * SLOTS
        if not chains.links:
            return
        length = {(a, b): value for a, b, value, stiff in pairs if stiff == BOND}
        length |= {(b, a): value for (a, b), value in length.items()}
        _, which = cKDTree(chains.others).query([link.point for link in chains.links])
        elements = chains.other_elements
        for link, first in zip(chains.links, which.tolist()):
            own, own_element = link.residue * SLOTS + link.slot, atom_names(chains.names[link.residue])[link.slot][0]
            pairs.append((own, behind + first, link.length, BOND))
            bonds.append((own, behind + first))
            for (a, b), value in length.items():
                if a == own:
                    pairs.append((b, behind + first, angle_length(value, link.length, own_element), ANGLE))
            for one, two in fixed_bonds(chains.others, elements, first):
                bonds.append((behind + one, behind + two))
                if one == first:
                    apart = float(np.linalg.norm(chains.others[one] - chains.others[two]))
                    pairs.append((own, behind + two, angle_length(apart, link.length, elements[first]), ANGLE))

    def _cis(self, linked):
        """Which linked peptides before proline are cis; every other is taken for trans."""
        x = self.chains.xyz
        omega = dihedral(x[linked, 1], x[linked, 2], x[linked + 1, 0], x[linked + 1, 1])
        return (np.abs(omega) < 60) & (self.chains.names[linked + 1] == "PRO")

    def flat(self, xyz):
        """Coordinates (n, 14, 3) as flat atoms, what stays put behind them."""
        return np.ascontiguousarray(
            np.concatenate([np.asarray(xyz, dtype=np.float64).reshape(-1, 3), self.chains.others])
        )

    def window(self, residues, xyz, *, hold_main=(), side_only=False, cutoff=5.0):
        """The part of the field that the atoms of some residues feel.

        Parameters
        ----------
        residues : sequence of int
            Free to move.
        xyz : ndarray (n, 14, 3)
            For the list of contacts.
        hold_main : sequence of int
            Of these residues only the side chain is free.
        side_only : bool
            Of all of them.
        cutoff : float
            Å, of the list of contacts.

        Returns
        -------
        Window
        """
        residues = np.asarray(list(residues), dtype=np.int64)
        free = self.chains.expected[residues].copy()
        free[np.isin(residues, list(hold_main)) | side_only, :4] = False
        atoms = (residues[:, None] * SLOTS + np.arange(SLOTS))[free]
        return Window(self, np.sort(atoms), self.flat(xyz), cutoff)


class Window:
    """Terms of a `Field` that touch some free atoms (`Field.window`)."""

    def __init__(self, field, free, flat, cutoff):
        self.field, self.free = field, free
        is_free = np.zeros(field.size, dtype=bool)
        is_free[free] = True
        bonds = is_free[field.pairs].any(axis=1)
        turns = is_free[field.torsions].any(axis=1)
        folds = is_free[field.rama].any(axis=1)
        pairs, length, stiff = field.pairs[bonds], field.length[bonds], field.stiff[bonds]
        contacts = _kernels.close_pairs(
            flat, free, is_free, field.there, field.bonded_start, field.bonded, float(cutoff)
        )
        bridged = np.isin(contacts, field.sulphur).all(axis=1) & (
            np.linalg.norm(flat[contacts[:, 0]] - flat[contacts[:, 1]], axis=1) < 3.0
        )
        if bridged.any():
            pairs = np.concatenate([pairs, contacts[bridged]])
            length = np.append(length, np.full(bridged.sum(), DISULFIDE))
            stiff = np.append(stiff, np.full(bridged.sum(), BOND))
            contacts = contacts[~bridged]
        reach = _reach(field.element, contacts)
        self.terms = (
            pairs, length, stiff, field.torsions[turns], field.angle[turns], field.hard[turns], field.fold[turns],
            field.rama[folds], field.kind[folds], field.tables, contacts, reach, REPEL, free, field.weight[free],
        )  # fmt: skip

    def energy(self, xyz):
        """kJ/mol at coordinates (n, 14, 3)."""
        flat = self.field.flat(xyz)
        field = self.field
        return _kernels.energy_gradient(
            flat, np.zeros_like(flat), self.terms, field.coefficients, field.scale, field.origin
        )

    def gradient(self, xyz):
        """kJ/mol/Å, ndarray (free atoms, 3), and the atoms' flat numbers."""
        flat, field = self.field.flat(xyz), self.field
        gradient = np.zeros_like(flat)
        _kernels.energy_gradient(flat, gradient, self.terms, field.coefficients, field.scale, field.origin)
        return gradient[self.free], self.free

    def minimise(self, xyz, *, steps=60, hold=0.0):
        """Lower the energy by L-BFGS.

        Parameters
        ----------
        xyz : ndarray (n, 14, 3)
        steps : int
        hold : float
            kJ/mol/Å² by which free N, CA, C and O are held where they start (`hold_weight`).

        Returns
        -------
        xyz : ndarray (n, 14, 3)
            Moved free atoms, a copy.
        energy : float
            kJ/mol, what holds included.
        """
        flat, field, terms = self.field.flat(xyz), self.field, self.terms
        if hold > 0:  # by springs of no length to points behind all atoms
            main = self.free[self.free % SLOTS < 4]
            springs = np.stack([main, len(flat) + np.arange(len(main))], axis=1)
            flat = np.concatenate([flat, flat[main]])
            more = (springs, np.zeros(len(main)), np.full(len(main), float(hold)))
            terms = (*(np.concatenate(pair) for pair in zip(terms[:3], more)), *terms[3:])
        energy = _kernels.lbfgs(flat, self.free, terms, field.coefficients, field.scale, field.origin, steps)
        return flat[: np.size(xyz) // 3].reshape(np.shape(xyz)), energy


def _reach(element, contacts):
    """Distance in Å below which two atoms repel each other."""
    kinds, kind = np.unique(element, return_inverse=True)
    radius = np.array([RADIUS.get(name, OTHER_RADIUS) for name in kinds.tolist()] or [0.0])[kind]
    first, second = element[contacts[:, 0]], element[contacts[:, 1]]
    one, two = np.isin(first, ["N", "O", "S"]), np.isin(second, ["N", "O", "S"])
    polar = one & two & ((first != "S") | (second != "S"))
    metal = (one & np.isin(second, METALS)) | (two & np.isin(first, METALS))
    apart = np.where(polar, POLAR, radius[contacts[:, 0]] + radius[contacts[:, 1]] - 0.1)
    return np.where(metal, COORDINATED, apart)
