"""The residues of an atomic model as arrays: which atoms each has, what is bonded to what, and its torsions.

`types.AtomicModel` is one row per atom; here is one row per amino acid. Alternate locations are resolved (highest
occupancy, the first of equals), insertion codes kept, missing atoms marked by −1: nothing below fails on a real file.
"""

from dataclasses import dataclass

import numpy as np

from .types import AtomicModel

__all__ = ["CHI_ATOMS", "Residues", "backbone_torsions", "dihedral", "residues", "rotate_about", "with_atoms"]

BOND_LIMIT = 2.5  # Å between C and the next N: a peptide bond is 1.33 Å, a chain break 3 Å and more

CHI_ATOMS = {
    "ARG": ("N CA CB CG", "CA CB CG CD", "CB CG CD NE", "CG CD NE CZ"),
    "ASN": ("N CA CB CG", "CA CB CG OD1"),
    "ASP": ("N CA CB CG", "CA CB CG OD1"),
    "CYS": ("N CA CB SG",),
    "GLN": ("N CA CB CG", "CA CB CG CD", "CB CG CD OE1"),
    "GLU": ("N CA CB CG", "CA CB CG CD", "CB CG CD OE1"),
    "HIS": ("N CA CB CG", "CA CB CG ND1"),
    "ILE": ("N CA CB CG1", "CA CB CG1 CD1"),
    "LEU": ("N CA CB CG", "CA CB CG CD1"),
    "LYS": ("N CA CB CG", "CA CB CG CD", "CB CG CD CE", "CG CD CE NZ"),
    "MET": ("N CA CB CG", "CA CB CG SD", "CB CG SD CE"),
    "MSE": ("N CA CB CG", "CA CB CG SE", "CB CG SE CE"),
    "PHE": ("N CA CB CG", "CA CB CG CD1"),
    "PRO": ("N CA CB CG", "CA CB CG CD"),
    "SER": ("N CA CB OG",),
    "THR": ("N CA CB OG1",),
    "TRP": ("N CA CB CG", "CA CB CG CD1"),
    "TYR": ("N CA CB CG", "CA CB CG CD1"),
    "VAL": ("N CA CB CG1",),
}
BACKBONE = ("N", "CA", "C", "O", "OXT")


@dataclass(frozen=True, eq=False, repr=False)
class Residues:
    """The amino acids of a model, n of them, in the file's order.

    Parameters
    ----------
    chains, names, insertions : ndarray (n,) of str
    numbers : ndarray (n,) int
    linked : ndarray (n,) bool
        Bonded to the row before.
    atoms : list of dict
        Atom name to index into the model's atoms; hydrogens included, one location per name.
    """

    chains: np.ndarray
    numbers: np.ndarray
    insertions: np.ndarray
    names: np.ndarray
    linked: np.ndarray
    atoms: list

    def __len__(self):
        return len(self.names)

    def __repr__(self):
        return f"Residues({len(self)}, {len(set(self.chains))} chains, {int((~self.linked).sum())} stretches)"

    def index(self, name):
        """Atom index of ``name`` in each residue, −1 where it is missing; ndarray (n,) int."""
        return np.array([atoms.get(name, -1) for atoms in self.atoms], dtype=np.int64)

    def positions(self, name, coordinates):
        """Position of atom ``name`` in each residue, NaN where it is missing; ndarray (n, 3)."""
        index = self.index(name)
        return np.where(index[:, None] >= 0, coordinates[index], np.nan)

    def part(self, chosen):
        """Those rows for which ``chosen``, (n,) bool, holds."""
        linked = self.linked & np.append(False, chosen[:-1])
        atoms = [atoms for atoms, wanted in zip(self.atoms, chosen) if wanted]
        columns = (self.chains, self.numbers, self.insertions, self.names, linked)
        return Residues(*(column[chosen] for column in columns), atoms)

    def labels(self):
        """``"A 12B"``: chain, number and insertion code of each residue; list of str."""
        return [f"{c} {n}{i}".strip() for c, n, i in zip(self.chains, self.numbers, self.insertions)]

    def heavy(self, row, elements, *, side_chain=None):
        """Indices of a residue's atoms but hydrogens; with ``side_chain`` True or False only those (CB is backbone)."""
        chosen = []
        for name, index in self.atoms[row].items():
            if elements[index] in ("H", "D"):
                continue
            is_side = name not in BACKBONE and name != "CB"
            if side_chain is None or side_chain == is_side:
                chosen.append(index)
        return np.array(chosen, dtype=np.int64)

    def phi_psi_omega(self, coordinates):
        """Backbone torsions in degrees, NaN at chain ends, breaks and missing atoms.

        Parameters
        ----------
        coordinates : ndarray (atoms, 3)

        Returns
        -------
        ndarray (n, 3): φ (C₋₁ N CA C), ψ (N CA C N₊₁) and the ω of the bond before (CA₋₁ C₋₁ N CA).
        """
        return backbone_torsions(*(self.positions(name, coordinates) for name in ("N", "CA", "C")), self.linked)

    def chi(self, coordinates):
        """Side-chain torsions χ1 to χ4 in degrees; ndarray (n, 4), NaN where there is none."""
        angles = np.full((len(self), 4), np.nan)
        for row, (name, atoms) in enumerate(zip(self.names, self.atoms)):
            for order, quartet in enumerate(CHI_ATOMS.get(name, ())):
                four = [atoms.get(atom, -1) for atom in quartet.split()]
                if min(four) < 0:
                    break
                angles[row, order] = dihedral(*coordinates[four])
        return angles


def residues(model):
    """The amino acids of a model.

    Parameters
    ----------
    model : AtomicModel

    Returns
    -------
    Residues: every residue with N, CA or C that gemmi's tables or the peptide atoms call an amino acid; water, ligands
    and nucleotides are left out.

    Raises
    ------
    TypeError
        Not an `AtomicModel`.
    """
    import gemmi

    if not isinstance(model, AtomicModel):
        raise TypeError(f"model must be an AtomicModel, got {type(model).__name__}")
    rows, start = [], 0
    for chain in model.structure[0]:
        for residue in chain:
            atoms, weight = {}, {}
            for offset, atom in enumerate(residue):
                if atom.name not in atoms or atom.occ > weight[atom.name]:
                    atoms[atom.name], weight[atom.name] = start + offset, atom.occ
            start += len(residue)
            known = gemmi.find_tabulated_residue(residue.name)
            if known.is_amino_acid() or (known.kind == gemmi.ResidueKind.UNKNOWN and {"N", "CA", "C"} <= set(atoms)):
                insertion = residue.seqid.icode.strip()
                rows.append((chain.name, residue.seqid.num, insertion, residue.name, atoms))
    coordinates = model.coordinates
    linked = np.zeros(len(rows), dtype=bool)
    for row in range(1, len(rows)):
        c, n = rows[row - 1][4].get("C", -1), rows[row][4].get("N", -1)
        same = rows[row - 1][0] == rows[row][0]
        linked[row] = same and c >= 0 and n >= 0 and np.linalg.norm(coordinates[c] - coordinates[n]) < BOND_LIMIT
    columns = list(zip(*rows)) if rows else [[], [], [], [], []]
    chains, insertions, names = (np.array(columns[i], dtype=str) for i in (0, 2, 3))
    return Residues(chains, np.array(columns[1], dtype=np.int64), insertions, names, linked, list(columns[4]))


def backbone_torsions(n, ca, c, linked):
    """φ (C₋₁ N CA C), ψ (N CA C N₊₁) and the ω of the bond before (CA₋₁ C₋₁ N CA) of main chains.

    Parameters
    ----------
    n, ca, c : ndarray (n, 3)
        Å; NaN gives NaN.
    linked : ndarray (n,) bool
        Bonded to the row before.

    Returns
    -------
    ndarray (n, 3): degrees, NaN at chain ends and breaks.
    """
    torsions, joined = np.full((len(n), 3), np.nan), np.asarray(linked)[1:]
    torsions[1:, 0] = np.where(joined, dihedral(c[:-1], n[1:], ca[1:], c[1:]), np.nan)
    torsions[:-1, 1] = np.where(joined, dihedral(n[:-1], ca[:-1], c[:-1], n[1:]), np.nan)
    torsions[1:, 2] = np.where(joined, dihedral(ca[:-1], c[:-1], n[1:], ca[1:]), np.nan)
    return torsions


def dihedral(a, b, c, d):
    """Torsion angle a–b–c–d in degrees, IUPAC sign.

    Parameters
    ----------
    a, b, c, d : ndarray (..., 3)
        Å; NaN gives NaN.

    Returns
    -------
    ndarray (...) in (−180, 180].

    Examples
    --------
    >>> corner = [np.array(p, float) for p in ([1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1])]
    >>> float(dihedral(*corner))
    90.0
    """
    first, axis, last = b - a, c - b, d - c
    normal_1, normal_2 = np.cross(first, axis), np.cross(axis, last)
    sine = np.linalg.norm(axis, axis=-1) * (first * normal_2).sum(-1)
    return np.degrees(np.arctan2(sine, (normal_1 * normal_2).sum(-1)))


def rotate_about(points, start, end, angle):
    """Turn points about the axis from ``start`` to ``end``; a torsion about that bond grows by ``angle``.

    Parameters
    ----------
    points : ndarray (..., 3)
    start, end : ndarray (3,)
    angle : float or ndarray (...)
        Degrees, right-handed.

    Returns
    -------
    ndarray (..., 3)

    Examples
    --------
    >>> rotate_about(np.array([1.0, 0, 0]), np.zeros(3), np.array([0, 0, 2.0]), 90).round(6).tolist()
    [0.0, 1.0, 0.0]
    """
    axis = (end - start) / np.linalg.norm(end - start)
    turn = np.radians(np.asarray(angle, dtype=float))[..., None]
    arm = points - start
    along = (arm @ axis)[..., None] * axis
    return start + along + (arm - along) * np.cos(turn) + np.cross(axis, arm) * np.sin(turn)


def with_atoms(model, *, coordinates=None, b_factors=None, occupancies=None):
    """The same model with other coordinates, B factors or occupancies; the given model is not touched.

    Parameters
    ----------
    model : AtomicModel
        n atoms.
    coordinates : ndarray (n, 3), optional
        Å.
    b_factors : ndarray (n,), optional
        Å².
    occupancies : ndarray (n,), optional

    Returns
    -------
    AtomicModel

    Raises
    ------
    ValueError
        Wrong shapes, or values that are not finite.
    """
    import gemmi

    structure = model.structure.clone()
    count = len(model)
    given = {"coordinates": coordinates, "b_factors": b_factors, "occupancies": occupancies}
    for name, values in given.items():
        shape = (count, 3) if name == "coordinates" else (count,)
        if values is not None and (np.shape(values) != shape or not np.isfinite(values).all()):
            raise ValueError(f"{name} must be finite and have shape {shape}, got {np.shape(values)}")
    for row, site in enumerate(structure[0].all()):
        if coordinates is not None:
            site.atom.pos = gemmi.Position(*map(float, coordinates[row]))
        if b_factors is not None:
            site.atom.b_iso = float(b_factors[row])
        if occupancies is not None:
            site.atom.occ = float(occupancies[row])
    return AtomicModel(structure)
