"""Bonds from what is refined to what stays where it is: modified residues, caps, glycans, cysteines of other chains."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["Link", "angle_length", "cut_links", "file_links", "fixed_bonds"]

PEPTIDE, DISULFIDE = 1.33, 2.05  # Å
LINK_BOND = 2.5  # Å: C and N of amino acids that follow each other in a file are bonded up to here, sulphurs too
LINK_FILE = 4.0  # Å: farther apart a bond that the file lists is not believed
BOND_TOLERANCE = 0.4  # Å beyond the sum of covalent radii: atoms that stay are bonded so far


@dataclass(frozen=True)
class Link:
    """A bond from an atom of a residue to one that stays where it is.

    Parameters
    ----------
    residue, slot : int
        As in `Chains`.
    point : tuple of 3 float
        Å, the other atom.
    length : float
        Å, that the bond should have.
    """

    residue: int
    slot: int
    point: tuple
    length: float

    def moved_to(self, residue):
        """The same of another number of the residue."""
        return Link(residue, self.slot, self.point, self.length)


def file_links(structure, places, xyz, slot_of):
    """Bonds of a file's protein to what is not protein in it.

    Parameters
    ----------
    structure : gemmi.Structure
    places : dict of (chain name, position of the residue in it) to int
        Which residues are protein, and their numbers; −1 for one that is left out.
    xyz : ndarray (n, 14, 3)
        Å.
    slot_of : callable (residue, atom name) to int
        −1 where a residue has no such atom.

    Returns
    -------
    tuple of Link: peptide bonds to neighbours in the chain (modified residues, caps), by distance, and covalent bonds
    and disulfides that the file lists (mmCIF ``struct_conn``, PDB ``LINK`` and ``SSBOND``).
    """
    model, links, sites = structure[0], [], {}
    for chain in model:
        for number, residue in enumerate(chain):
            own = places.get((chain.name, number))
            if own is not None:
                if own >= 0:
                    sites[chain.name, str(residue.seqid)] = own
                continue
            for step, name, slot in ((-1, "N", 2), (1, "C", 0)):
                own = places.get((chain.name, number + step), -1)
                point = _position(residue, name) if own >= 0 else None
                if point and np.linalg.norm(xyz[own, slot] - point) < LINK_BOND:
                    links.append(Link(own, slot, point, PEPTIDE))
    for bond in structure.connections:
        if bond.type.name not in ("Covale", "Disulf"):
            continue
        for mine, other in ((bond.partner1, bond.partner2), (bond.partner2, bond.partner1)):
            own = sites.get((mine.chain_name, str(mine.res_id.seqid)))
            there = model.find_cra(other)
            if own is None or there.atom is None or (other.chain_name, str(other.res_id.seqid)) in sites:
                continue
            slot, point = slot_of(own, mine.atom_name), tuple(there.atom.pos.tolist())
            if slot < 0 or not np.linalg.norm(xyz[own, slot] - point) < LINK_FILE:
                continue
            if any((link.residue, link.slot) == (own, slot) for link in links):
                continue
            links.append(Link(own, slot, point, _length(mine.atom_name[0], there.atom.element.name)))
    return tuple(links)


def cut_links(names, xyz, segment, kept, sulphur):
    """Bonds between residues that are kept and those that are not: peptides that are cut, disulfides.

    Parameters
    ----------
    names : ndarray (n,) of str
    xyz : ndarray (n, 14, 3)
        Å.
    segment : ndarray (n,) int
    kept : ndarray (n,) bool
    sulphur : int
        Slot of a cysteine's.

    Returns
    -------
    tuple of Link, residues numbered as they are before the cut.
    """
    links = []
    for i in np.flatnonzero((segment[1:] == segment[:-1]) & (kept[1:] != kept[:-1])):
        own, slot, other, there = (i, 2, i + 1, 0) if kept[i] else (i + 1, 0, i, 2)
        links.append(Link(int(own), slot, tuple(xyz[other, there].tolist()), PEPTIDE))
    cysteines = np.flatnonzero((names == "CYS") & np.isfinite(xyz[:, sulphur, 0]))
    mine, rest = cysteines[kept[cysteines]], cysteines[~kept[cysteines]]
    if len(mine) and len(rest):
        near, which = cKDTree(xyz[rest, sulphur]).query(xyz[mine, sulphur], distance_upper_bound=LINK_BOND)
        for i, j in zip(mine[np.isfinite(near)], which[np.isfinite(near)]):
            links.append(Link(int(i), sulphur, tuple(xyz[rest[j], sulphur].tolist()), DISULFIDE))
    return tuple(links)


def fixed_bonds(points, elements, first):
    """Atoms that stay and are up to two bonds from one of them.

    Parameters
    ----------
    points : ndarray (m, 3)
        Å.
    elements : ndarray (m,) of str
    first : int

    Returns
    -------
    list of (int, int): bonds, each from the end nearer to ``first``.
    """
    near = np.flatnonzero(np.linalg.norm(points - points[first], axis=1) < 5.0)
    bonds, edge, seen = [], [first], {first}
    for _ in range(2):
        ahead = []
        for i in edge:
            for j in near.tolist():
                limit = _length(elements[i], elements[j]) + BOND_TOLERANCE
                if j not in seen and np.linalg.norm(points[i] - points[j]) < limit:
                    bonds.append((i, j))
                    seen.add(j)
                    ahead.append(j)
        edge = ahead
    return bonds


def angle_length(one, two, element):
    """Å between the ends of two bonds that meet in an atom: 104° at sulphur, 120° elsewhere.

    Parameters
    ----------
    one, two : float
        Å, the bonds.
    element : str
        Of the atom in which they meet.

    Returns
    -------
    float

    Examples
    --------
    >>> round(angle_length(1.525, 1.33, "C"), 2)
    2.47
    """
    return float(np.sqrt(one**2 + two**2 - 2 * one * two * np.cos(np.radians(104.0 if element == "S" else 120.0))))


def _length(one, two):
    """Å, the sum of covalent radii."""
    import gemmi

    return float(gemmi.Element(str(one)).covalent_r + gemmi.Element(str(two)).covalent_r)


def _position(residue, name):
    found = [atom for atom in residue if atom.name == name]
    return tuple(max(found, key=lambda atom: atom.occ).pos.tolist()) if found else None
