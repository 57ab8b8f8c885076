"""Proteins as arrays: which heavy atoms a residue has, their ideal geometry, and chains as one block of coordinates."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from ..protein import backbone_torsions, dihedral
from ..types import AtomicModel
from .geometry import CHAIN_ATOMS, SIDE_CHAINS, SYNONYMS
from .links import cut_links, file_links

__all__ = ["Chains", "atom_names", "build_side_chain", "chi_angles", "main_chain_angles", "place_atom"]

N, CA, C, OXYGEN, CB = range(5)
SLOTS = 14
LINK_CA = 8.0  # Å: neighbours by number are linked unless their Cα lie farther apart
SAME_PLACE = 3.0  # Å between Cα of two kinds of residue that share a place
LINK_BOND = 2.0  # Å: residues whose numbers jump are linked if C and N are bonded


def atom_names(residue_name):
    """Heavy atoms of a residue in the order of the slots of `Chains`: N, CA, C, O, then the side chain.

    Parameters
    ----------
    residue_name : str
        One of the twenty, three letters.

    Examples
    --------
    >>> atom_names("SER")
    ('N', 'CA', 'C', 'O', 'CB', 'OG')
    """
    return CHAIN_ATOMS + tuple(row[0] for row in SIDE_CHAINS[residue_name])


def place_atom(a, b, c, bond, angle, torsion):
    """The atom bonded to c with given bond (Å), angle b–c–atom and dihedral a–b–c–atom (degrees).

    Parameters
    ----------
    a, b, c : ndarray (..., 3)
        Å.
    bond, angle, torsion : float or ndarray (...)

    Returns
    -------
    ndarray (..., 3)

    Examples
    --------
    >>> a, b, c = np.eye(3)
    >>> d = place_atom(a, b, c, 1.5, 110.0, 65.0)
    >>> round(float(dihedral(a, b, c, d)), 6), round(float(np.linalg.norm(d - c)), 6)
    (65.0, 1.5)
    """
    a, b, c = (np.asarray(x, dtype=np.float64) for x in (a, b, c))
    angle, torsion = np.radians(np.asarray(angle, dtype=float)), np.radians(np.asarray(torsion, dtype=float))
    along = _unit(c - b)
    normal = _unit(np.cross(b - a, along))
    across = np.cross(normal, along)
    direction = (
        -np.cos(angle)[..., None] * along
        + (np.sin(angle) * np.cos(torsion))[..., None] * across
        + (np.sin(angle) * np.sin(torsion))[..., None] * normal
    )
    return c + np.asarray(bond)[..., None] * direction


def build_side_chain(residue_name, main_chain, chi):
    """Side chains of ideal geometry on main chains.

    Parameters
    ----------
    residue_name : str
    main_chain : ndarray (..., 3 or more, 3)
        N, CA, C, Å.
    chi : ndarray (..., k)
        Degrees; at least as many as the residue has.

    Returns
    -------
    ndarray (..., s, 3): the side-chain atoms in the order of `atom_names`.

    Examples
    --------
    >>> main = np.array([[1.46, 0, 0], [0, 0, 0], [-0.55, 1.42, 0]])
    >>> bool(np.allclose(chi_angles("LEU", np.vstack([main, [[0, 2, 1]], build_side_chain("LEU", main, [-65, 175])])),
    ...                  [-65, 175]))
    True
    """
    main_chain, chi = np.asarray(main_chain, dtype=np.float64), np.asarray(chi, dtype=np.float64)
    names = atom_names(residue_name)
    placed = {name: main_chain[..., slot, :] for slot, name in enumerate(CHAIN_ATOMS[: main_chain.shape[-2]])}
    for name, references, number, bond, angle, torsion in SIDE_CHAINS[residue_name]:
        turned = torsion + (chi[..., number - 1] if number else 0.0)
        placed[name] = place_atom(*(placed[atom] for atom in references), bond, angle, turned)
    shape = np.broadcast_shapes(main_chain.shape[:-2], chi.shape[:-1])
    side = [np.broadcast_to(placed[name], shape + (3,)) for name in names[4:]]
    return np.stack(side, axis=-2) if side else np.zeros(shape + (0, 3))


def chi_angles(residue_name, atoms):
    """χ angles of one residue or of several of one kind.

    Parameters
    ----------
    residue_name : str
    atoms : ndarray (..., 14 or fewer, 3)
        In the order of `atom_names`.

    Returns
    -------
    ndarray (..., k): degrees, NaN where an atom is missing.
    """
    slot = {name: index for index, name in enumerate(atom_names(residue_name))}
    found = {}
    for name, references, number, _, _, torsion in SIDE_CHAINS[residue_name]:
        if number and number not in found:
            corners = [atoms[..., slot[atom], :] for atom in (*references, name)]
            found[number] = _wrap(dihedral(*corners) - torsion)
    return np.stack([found[k] for k in sorted(found)], axis=-1) if found else np.zeros(np.shape(atoms)[:-2] + (0,))


@dataclass(frozen=True, eq=False, repr=False)
class Chains:
    """The protein of a model, heavy atoms only, residue by residue in the order of the file.

    Parameters
    ----------
    names : ndarray (n,) of str
        Residue names among the twenty (MSE is MET here, and MSE again when written).
    xyz : ndarray (n, 14, 3)
        Å; slots as `atom_names`, NaN where there is no such atom.
    segment : ndarray (n,) int
        Residues with one number are linked in a row.
    sites : tuple of n (chain name, residue number with insertion code)
    others : ndarray (m, 3)
        Heavy atoms of everything else: nucleic acids, ligands, incomplete residues, chains that are not asked for;
        they stay where they are.
    other_elements : ndarray (m,) of str
    links : tuple of Link
        Bonds to such atoms.
    model : AtomicModel
        Where it came from.
    """

    names: np.ndarray
    xyz: np.ndarray
    segment: np.ndarray
    sites: tuple
    others: np.ndarray
    other_elements: np.ndarray
    links: tuple
    model: AtomicModel

    @classmethod
    def of(cls, model):
        """The protein of an `AtomicModel`: conformer of highest occupancy, hydrogens left out, missing atoms NaN.

        Parameters
        ----------
        model : AtomicModel

        Raises
        ------
        ValueError
            No residue with N, CA and C.
        """
        names, blocks, sites, others, elements, places = [], [], [], [], [], {}
        for chain in model.structure[0]:
            unlikely = _unlikely(chain)
            for number, residue in enumerate(chain):
                if number in unlikely:
                    places[chain.name, number] = -1
                    continue
                name = SYNONYMS.get(residue.name, residue.name)
                best = _best_conformer(residue)
                if name not in SIDE_CHAINS or not {"N", "CA", "C"} <= set(best):
                    others += [position for position, _, _ in best.values()]
                    elements += [element for _, _, element in best.values()]
                    continue
                block = np.full((SLOTS, 3), np.nan)
                for slot, atom in enumerate(atom_names(name)):
                    found = best.get(atom) or (best.get("SE") if atom == "SD" else None)
                    if found:
                        block[slot] = found[0]
                places[chain.name, number] = len(names)
                names.append(name)
                blocks.append(block)
                sites.append((chain.name, str(residue.seqid), residue.seqid.num))
        if not names:
            raise ValueError(f"{model!r}: expected protein with N, CA and C, found none; a Cα trace is not enough")
        xyz = np.array(blocks)
        return cls(
            np.array(names), xyz, _segments(xyz, sites), tuple(site[:2] for site in sites),
            np.array(others, dtype=np.float64).reshape(-1, 3), np.array(elements, dtype=str),
            file_links(model.structure, places, xyz, lambda i, atom: _slot(names[i], atom)), model,
        )  # fmt: skip

    def __len__(self):
        return len(self.names)

    def __repr__(self):
        return f"Chains({len(self)} residues in {len(set(self.segment))} segments, {len(self.others)} other atoms)"

    @property
    def present(self):
        """Which slots hold an atom, ndarray (n, 14) bool."""
        return np.isfinite(self.xyz[..., 0])

    @property
    def expected(self):
        """Which slots the residue's name calls for, ndarray (n, 14) bool."""
        count = np.array([len(atom_names(name)) for name in self.names])
        return np.arange(SLOTS)[None, :] < count[:, None]

    @property
    def linked(self):
        """Whether any residue is linked to another: ff14SB has no form for one that is not."""
        return len(set(self.segment.tolist())) < len(self)

    def moved(self, xyz):
        """The same chains with other coordinates (n, 14, 3)."""
        return replace(self, xyz=np.asarray(xyz, dtype=np.float64))

    def part(self, residues):
        """Some of the residues; the rest of the protein joins what stays where it is.

        Parameters
        ----------
        residues : ndarray (k,) int
            In order.
        """
        kept = np.isin(np.arange(len(self)), residues)
        rest = np.flatnonzero(~kept)
        number = {int(old): new for new, old in enumerate(residues)}
        links = self.links + cut_links(self.names, self.xyz, self.segment, kept, CB + 1)
        there = self.present[rest]
        elements = [atom[0] for i, row in zip(rest, there) for atom, has in zip(atom_names(self.names[i]), row) if has]
        return replace(
            self, names=self.names[residues], xyz=self.xyz[residues], segment=self.segment[residues],
            sites=tuple(self.sites[i] for i in residues), others=np.concatenate([self.others, self.xyz[rest][there]]),
            other_elements=np.concatenate([self.other_elements, np.array(elements, dtype=str)]),
            links=tuple(link.moved_to(number[link.residue]) for link in links if link.residue in number),
        )  # fmt: skip

    def named(self, chains):
        """The residues of some chains; the rest of the protein joins what stays where it is.

        Parameters
        ----------
        chains : sequence of str
            Names of chains as in the file.

        Raises
        ------
        ValueError
            No name, or one that no protein chain of the file has.
        """
        wanted, known = list(dict.fromkeys(chains)), list(dict.fromkeys(chain for chain, _ in self.sites))
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise ValueError(
                f"expected names of protein chains, got {', '.join(map(repr, unknown)) or 'none'}; "
                f"the model's protein chains are {', '.join(known)}"
            )
        return self.part(np.flatnonzero([chain in wanted for chain, _ in self.sites]))

    def near(self, distance):
        """The same with only those other atoms that lie within a distance in Å of the protein's.

        Parameters
        ----------
        distance : float
        """
        if not len(self.others):
            return self
        close = cKDTree(self.xyz[self.present]).query(self.others, distance_upper_bound=distance)[0] < np.inf
        return replace(self, others=self.others[close], other_elements=self.other_elements[close])

    def cut_out(self, distance=0.0):
        """The same with a `model` of these residues and of whole residues that have an atom near them.

        Parameters
        ----------
        distance : float
            Å from an atom of these residues; 0 leaves them alone.
        """
        structure, own = self.model.structure.clone(), set(self.sites)
        while len(structure) > 1:
            del structure[1]
        tree = cKDTree(self.xyz[self.present])
        for chain in structure[0]:
            for number in reversed(range(len(chain))):
                residue = chain[number]
                if (chain.name, str(residue.seqid)) in own and _is_protein(residue):
                    continue
                if distance and len(residue):
                    points = np.array([atom.pos.tolist() for atom in residue])
                    if tree.query(points, distance_upper_bound=distance)[0].min() < np.inf:
                        continue
                del chain[number]
        structure.remove_empty_chains()
        return replace(self, model=AtomicModel(structure))

    def owns(self, model):
        """Which atoms of a model are these residues', (atoms,) bool: ligands and waters of their chains are not.

        Parameters
        ----------
        model : AtomicModel
            `model`, or one made from it.
        """
        own = set(self.sites)
        return np.array([
            mine for chain in model.structure[0] for residue in chain
            for mine in [(chain.name, str(residue.seqid)) in own and _is_protein(residue)] * len(residue)
        ], dtype=bool)  # fmt: skip

    def label(self, residue):
        """Such as ``A/SER 25``."""
        chain, number = self.sites[residue]
        return f"{chain}/{self.names[residue]} {number}"

    def completed(self):
        """The same with every atom that the names call for: ideal geometry, χ1 = −65°, other χ = 180°.

        Returns
        -------
        Chains
        """
        xyz = self.xyz.copy()
        following = np.append(self.segment[1:] == self.segment[:-1], False)
        for i in np.flatnonzero(~np.isfinite(xyz[:, OXYGEN, 0])):
            ahead = xyz[i + 1, N] if following[i] else place_atom(*xyz[i, [N, CA, C]], 1.33, 116.6, 140.0)
            xyz[i, OXYGEN] = place_atom(ahead, xyz[i, CA], xyz[i, C], 1.231, 120.1, 180.0)
        for i in np.flatnonzero((self.expected & ~self.present)[:, CB:].any(axis=1)):
            chi = np.array([-65.0, 180.0, 180.0, 180.0])
            own = chi_angles(self.names[i], xyz[i])
            chi[: len(own)] = np.where(np.isfinite(own), own, chi[: len(own)])
            built = build_side_chain(self.names[i], xyz[i], chi)
            keep = np.isfinite(xyz[i, 4 : 4 + len(built)])
            xyz[i, 4 : 4 + len(built)] = np.where(keep, xyz[i, 4 : 4 + len(built)], built)
        return self.moved(xyz)

    def to_model(self, *, b_factors=None):
        """An `AtomicModel` with these coordinates, without hydrogens; all else is copied from `model` as it was.

        Parameters
        ----------
        b_factors : ndarray (n,) or (n, 14), optional
            Å²; kept (new atoms: that of Cα) by default.

        Returns
        -------
        AtomicModel
        """
        import gemmi

        structure = self.model.structure.clone()
        while len(structure) > 1:
            del structure[1]
        index = {site: i for i, site in enumerate(self.sites)}
        own = {chain for chain, _ in self.sites}
        for chain in structure[0]:
            if chain.name not in own:
                continue
            unlikely = _unlikely(chain)
            for number, residue in enumerate(chain):
                i = index.get((chain.name, str(residue.seqid)))
                name = SYNONYMS.get(residue.name, residue.name)
                if i is None or number in unlikely or name != self.names[i]:
                    continue
                old = {atom.name: (atom.b_iso, atom.occ) for atom in residue}
                selenium = residue.name == "MSE"
                while len(residue):
                    del residue[0]
                for slot, atom_name in enumerate(atom_names(name)):
                    if not np.isfinite(self.xyz[i, slot, 0]):
                        continue
                    atom = gemmi.Atom()
                    atom.name = "SE" if selenium and atom_name == "SD" else atom_name
                    atom.element = gemmi.Element("Se" if atom.name == "SE" else atom_name[0])
                    atom.pos = gemmi.Position(*self.xyz[i, slot])
                    atom.occ = 1.0
                    atom.b_iso = old.get(atom.name, old["CA"])[0]
                    if b_factors is not None:
                        atom.b_iso = float(b_factors[i] if np.ndim(b_factors) == 1 else b_factors[i, slot])
                    residue.add_atom(atom)
            for number in sorted(unlikely, reverse=True):
                if (chain.name, str(chain[number].seqid)) in index:
                    del chain[number]
        structure.assign_serial_numbers()
        return AtomicModel(structure)


def main_chain_angles(chains):
    """φ, ψ and ω of every residue; ω belongs to the peptide before it.

    Parameters
    ----------
    chains : Chains

    Returns
    -------
    ndarray (n, 3): degrees, NaN at the ends of segments.
    """
    linked = np.append(False, chains.segment[1:] == chains.segment[:-1])
    return backbone_torsions(chains.xyz[:, N], chains.xyz[:, CA], chains.xyz[:, C], linked)


def _slot(name, atom):
    names = atom_names(name)
    return names.index(atom) if atom in names else -1


def _is_protein(residue):
    return SYNONYMS.get(residue.name, residue.name) in SIDE_CHAINS


def _unlikely(chain):
    """Of amino acids of one number at one place, the positions in the chain of all but that of highest occupancy."""
    share = {}
    for position, residue in enumerate(chain):
        alpha = [(-atom.occ, position, atom.pos) for atom in residue if atom.name == "CA"]
        if alpha and _is_protein(residue):
            share.setdefault(str(residue.seqid), []).append(min(alpha, key=lambda row: row[0]))
    unlikely = set()
    for rivals in share.values():
        first, *rest = sorted(rivals, key=lambda row: row[:2])
        unlikely |= {position for _, position, point in rest if point.dist(first[2]) < SAME_PLACE}
    return unlikely


def _best_conformer(residue):
    """Atom name to (position, occupancy, element): of each name the site of highest occupancy, hydrogens left out."""
    best = {}
    for atom in residue:
        if atom.is_hydrogen():
            continue
        if atom.name not in best or atom.occ > best[atom.name][1]:
            best[atom.name] = (atom.pos.tolist(), atom.occ, atom.element.name)
    return best


def _segments(xyz, sites):
    number = np.zeros(len(sites), dtype=np.int64)
    for i in range(1, len(sites)):
        same = sites[i][0] == sites[i - 1][0]
        next_number = 0 <= sites[i][2] - sites[i - 1][2] <= 1
        near = np.linalg.norm(xyz[i, CA] - xyz[i - 1, CA]) < LINK_CA
        bonded = np.linalg.norm(xyz[i, N] - xyz[i - 1, C]) < LINK_BOND
        number[i] = number[i - 1] + (0 if same and (bonded or (next_number and near)) else 1)
    return number


def _unit(vector):
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _wrap(degrees):
    return (degrees + 180.0) % 360.0 - 180.0
