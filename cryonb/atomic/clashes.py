"""Riding hydrogens and the clashscore: how many atoms per thousand overlap by 0.4 Å or more.

Hydrogens are placed from the heavy atoms by geometry alone, at the lengths of electron clouds; those of hydroxyls,
thiols and ammonium turn to where they clash least. Contacts are counted as the program Probe does (Word et al., J Mol
Biol 285:1711 (1999)): with dots on the surface of each atom, each given to the one atom it lies deepest in.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .. import protein
from .bonds import HYDROGENS, SIDE_BONDS
from .residues import place_atom

__all__ = ["Clashes", "clashes", "hydrogens"]

OVERLAP = 0.4  # Å
HBOND = 0.6  # Å of overlap that a hydrogen bond may have
RADII = {"C": 1.70, "N": 1.55, "O": 1.40, "S": 1.80, "SE": 1.90, "P": 1.80, "H": 1.22}
CARBONYL, POLAR_H, AROMATIC_H = 1.65, 1.05, 1.05
OTHER_RADIUS = 1.70  # Å: elements that the table has not
LENGTH = {"C": 0.97, "N": 0.86, "O": 0.84, "S": 1.20}  # Å, X–H to the electron cloud
AROMATIC_LENGTH = 0.93
DOTS = 120  # per atom
TURNS = 18  # positions of a hydroxyl that are tried
BONDS_APART = 4  # atoms joined by so many bonds or fewer do not clash (hydrogens; 3 between heavy atoms)
# on an atom with one bond: element of the parent, angle, torsions to start from
_TURNING = {
    "CH3": ("C", 109.5, (60, 180, 300)),
    "NH3": ("N", 109.5, (60, 180, 300)),
    "NH2p": ("N", 120.0, (0, 180)),
    "OH": ("O", 109.5, (180,)),
    "SH": ("S", 96.0, (180,)),
}


@dataclass(frozen=True, eq=False)
class Clashes:
    """All-atom contacts of a model with riding hydrogens.

    Parameters
    ----------
    score : float
        Clashes per thousand atoms, hydrogens counted.
    pairs : ndarray (m, 2) int
        The heavy atoms, indices into the model, that clash themselves or through a hydrogen.
    overlap : ndarray (m,)
        Å, of the worst contact of the pair.
    n_atoms : int
        Heavy atoms and hydrogens.
    """

    score: float
    pairs: np.ndarray
    overlap: np.ndarray
    n_atoms: int


def hydrogens(model, *, coordinates=None, residues=None):
    """Riding hydrogens of the amino acids.

    Parameters
    ----------
    model : AtomicModel
        Hydrogens it has already are not looked at.
    coordinates : ndarray (atoms, 3), optional
    residues : Residues, optional

    Returns
    -------
    tuple: positions (h, 3); parents (h,) int, the heavy atom each rides on; polar (h,) bool; aromatic (h,) bool;
    free (h,) int: −1, or a number that hydrogens of one rotor share.
    """
    rows = protein.residues(model) if residues is None else residues
    xyz = model.coordinates if coordinates is None else coordinates
    bonded = _neighbours(rows, xyz)
    found = []
    rotor = 0
    for row, name in enumerate(rows.names):
        atoms = rows.atoms[row]
        rules = {
            "N": "amide" if name != "PRO" else "",
            "CA": "CH2" if name == "GLY" else "CH",
            **HYDROGENS.get(name, {}),
        }
        if not rows.linked[row]:
            rules["N"] = "NH2" if name == "PRO" else "NH3"
        for atom, rule in rules.items():
            parent = atoms.get(atom, -1)
            if parent < 0 or not rule:
                continue
            around = bonded.get(parent, [])
            positions = _ride(rule, parent, around, bonded, xyz, rows.names[row])
            turns = rule in ("OH", "SH", "NH3")
            for position in positions:
                polar = rule in ("amide", "NH", "NH2p", "OH", "NH3", "NH2")
                found.append((position, parent, polar, rule == "arom", rotor if turns else -1))
            rotor += turns
    if not found:
        return np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, int)
    columns = list(zip(*found))
    return (
        np.array(columns[0]), np.array(columns[1], dtype=np.int64), np.array(columns[2], dtype=bool),
        np.array(columns[3], dtype=bool), np.array(columns[4], dtype=np.int64),
    )  # fmt: skip


def _neighbours(rows, xyz):
    """Heavy atoms bonded to each: from the residues' chemistry and the links, never from distances but for S–S."""
    bonded = {}

    def join(a, b):
        if a >= 0 and b >= 0:
            bonded.setdefault(a, []).append(b)
            bonded.setdefault(b, []).append(a)

    for row, name in enumerate(rows.names):
        atoms = rows.atoms[row]
        for pair in ("N CA", "CA C", "C O", "C OXT", "CA CB", *SIDE_BONDS.get(name, ())):
            a, b = pair.split()
            join(atoms.get(a, -1), atoms.get(b, -1))
        if rows.linked[row]:
            join(rows.atoms[row - 1].get("C", -1), atoms.get("N", -1))
    sulphur = [atoms["SG"] for name, atoms in zip(rows.names, rows.atoms) if name == "CYS" and "SG" in atoms]
    for a, b in cKDTree(xyz[sulphur]).query_pairs(2.5) if len(sulphur) > 1 else ():
        join(sulphur[a], sulphur[b])
    return bonded


def _ride(rule, parent, around, bonded, xyz, name):
    """Positions of one atom's hydrogens; none where the geometry is not complete."""
    centre = xyz[parent]
    arms = [_unit(xyz[i] - centre) for i in around]
    if rule == "CH" and len(arms) == 3:
        return [centre - LENGTH["C"] * _unit(sum(arms))]
    if rule in ("amide", "NH", "arom") and len(arms) == 2:
        return [centre - (AROMATIC_LENGTH if rule == "arom" else LENGTH["N"]) * _unit(sum(arms))]
    if rule in ("CH2", "NH2") and len(arms) == 2:
        along, across = -_unit(sum(arms)), _unit(np.cross(arms[0], arms[1]))
        half = np.radians(109.5 / 2)
        length = LENGTH["C" if rule == "CH2" else "N"]
        return [centre + length * (np.cos(half) * along + s * np.sin(half) * across) for s in (1, -1)]
    turning = _TURNING.get(rule)
    beyond = [i for i in bonded.get(around[0], []) if i != parent] if turning and len(around) == 1 else []
    if not beyond:
        return []
    element, angle, torsions = turning
    torsions = (0,) if name == "TYR" else torsions  # in the ring's plane
    return [place_atom(xyz[beyond[0]], xyz[around[0]], centre, LENGTH[element], angle, torsion) for torsion in torsions]


def _unit(vector):
    return vector / max(np.linalg.norm(vector), 1e-9)


def clashes(model, *, coordinates=None, residues=None, among=None):
    """Clashscore of a model.

    Parameters
    ----------
    model : AtomicModel
        Ligands and nucleotides count with their heavy atoms; of alternate locations the first.
    coordinates, residues
        As in `hydrogens`.
    among : ndarray (atoms,) of bool, optional
        Only contacts that touch these atoms or their hydrogens count, per thousand of these; all by default.

    Returns
    -------
    Clashes
    """
    rows = protein.residues(model) if residues is None else residues
    xyz = model.coordinates if coordinates is None else coordinates
    elements = np.char.upper(model.elements)
    main = _main_location(model) & ~np.isin(elements, ("H", "D")) & (model.occupancies > 0)
    h_xyz, parent, polar, aromatic, rotor = hydrogens(model, coordinates=xyz, residues=rows)
    graph = _graph(rows, xyz, model, main)
    heavy = np.flatnonzero(main)
    kept = np.isin(parent, heavy)
    h_xyz, parent, polar, aromatic, rotor = (v[kept] for v in (h_xyz, parent, polar, aromatic, rotor))
    owner = np.concatenate([heavy, parent])  # the heavy atom each row is, or rides on
    is_h = np.arange(len(owner)) >= len(heavy)
    radius = np.array([RADII.get(e, OTHER_RADIUS) for e in elements[heavy]])
    names = model.atom_names[heavy]
    radius[(elements[heavy] == "C") & (names == "C")] = CARBONYL
    radius = np.concatenate([radius, np.where(polar, POLAR_H, np.where(aromatic, AROMATIC_H, RADII["H"]))])
    acceptor = np.concatenate([np.isin(elements[heavy], ("O", "N", "S")), np.zeros(len(parent), bool)])
    donor = np.concatenate([np.zeros(len(heavy), bool), polar])
    points = np.concatenate([xyz[heavy], h_xyz])
    points = _turn_rotors(points, len(heavy), xyz, parent, rotor, rows, radius, acceptor, graph, owner)
    counted = np.ones(len(owner), dtype=bool) if among is None else np.asarray(among)[owner]
    pairs, depth = _contacts(points, radius, donor, acceptor, owner, is_h, graph, counted)
    # one clash per pair of atoms, but a hydrogen and its parent against the same atom are one
    worst = {}
    for (a, b), overlap in zip(pairs, depth):
        key = tuple(sorted((int(owner[a]), int(owner[b]))))
        worst[key] = max(worst.get(key, 0.0), float(overlap))
    count = len({tuple(sorted(pair)) for pair in map(tuple, pairs.tolist())})
    keys = np.array(list(worst), dtype=np.int64).reshape(-1, 2)
    atoms = int(counted.sum())
    return Clashes(1000 * count / max(atoms, 1), keys, np.array(list(worst.values())), atoms)


def _main_location(model):
    """Atoms of the first alternate location of each residue."""
    kept = []
    for chain in model.structure[0]:
        for residue in chain:
            seen = set()
            for atom in residue:
                kept.append(atom.name not in seen)
                seen.add(atom.name)
    return np.array(kept)


def _graph(rows, xyz, model, main):
    """Heavy atoms within three bonds of each: dict of index to dict of index to number of bonds."""
    bonded = _neighbours(rows, xyz)
    known = {i for atoms in rows.atoms for i in atoms.values()}
    other = np.array([i for i in np.flatnonzero(main) if i not in known], dtype=np.int64)
    if len(other):  # ligands, nucleotides, glycans: whatever is close enough is bonded
        tree = cKDTree(xyz[np.flatnonzero(main)])
        everyone = np.flatnonzero(main)
        for i, close in zip(other, tree.query_ball_point(xyz[other], 1.95)):
            for j in everyone[close]:
                if j != i and j not in bonded.get(i, []):
                    bonded.setdefault(i, []).append(j)
                    bonded.setdefault(j, []).append(i)
    near = {}
    for start in np.flatnonzero(main):
        reached, edge = {start: 0}, [start]
        for step in range(1, BONDS_APART):
            edge = [j for i in edge for j in bonded.get(i, ()) if j not in reached and not reached.update({j: step})]
        near[int(start)] = reached
    return near


def _apart(owner, is_h, a, b, graph):
    """Whether two rows are too near in bonds to clash: three between heavy atoms, four with a hydrogen."""
    bonds = graph[int(owner[a])].get(int(owner[b]), 99) + int(is_h[a]) + int(is_h[b])
    return bonds <= (BONDS_APART if is_h[a] or is_h[b] else BONDS_APART - 1)


def _turn_rotors(points, n_heavy, xyz, parent, rotor, rows, radius, acceptor, graph, owner):
    """Each hydroxyl, thiol and ammonium in turn to the angle where its hydrogens overlap least and bond best."""
    points = points.copy()
    tree = cKDTree(points)
    bonded = _neighbours(rows, xyz)
    for number in range(rotor.max() + 1 if len(rotor) else 0):
        own = np.flatnonzero(rotor == number)
        if len(own) == 0 or len(bonded.get(int(parent[own[0]]), ())) != 1:
            continue
        centre = xyz[parent[own[0]]]
        root = xyz[bonded[int(parent[own[0]])][0]]
        members = own + n_heavy
        close = np.setdiff1d(tree.query_ball_point(centre, 4.5), members)
        close = np.array([j for j in close if graph[int(parent[own[0]])].get(int(owner[j]), 99) > 2], dtype=np.int64)
        if len(close) == 0:
            continue
        best = None
        for angle in np.arange(TURNS) * 360 / TURNS:
            trial = protein.rotate_about(points[members], root, centre, angle)
            distance = np.linalg.norm(trial[:, None] - points[close][None], axis=2)
            overlap = radius[members][:, None] + radius[close] - distance
            bonding = acceptor[close] & (overlap < HBOND + 0.2)
            cost = (np.clip(overlap, 0, None) ** 2 * ~bonding).sum() - 0.5 * np.clip(overlap * bonding, 0, None).sum()
            if best is None or cost < best[0] - 1e-9:
                best = (cost, trial)
        points[members] = best[1]
    return points


def _contacts(points, radius, donor, acceptor, owner, is_h, graph, counted):
    """Pairs whose dots overlap by 0.4 Å or more, one of them counted, and the depth."""
    tree = cKDTree(points)
    close = tree.query_pairs(2 * radius.max() - OVERLAP, output_type="ndarray")
    close = close[counted[close].any(axis=1)]
    length = np.linalg.norm(points[close[:, 0]] - points[close[:, 1]], axis=1)
    overlap = radius[close].sum(axis=1) - length - _allowance(close, donor, acceptor)
    candidates = [
        (a, b) for (a, b), depth in zip(close, overlap) if depth >= OVERLAP and not _apart(owner, is_h, a, b, graph)
    ]
    index = np.arange(DOTS) + 0.5
    height, turn = 1 - 2 * index / DOTS, np.pi * (1 + np.sqrt(5)) * index
    ring = np.sqrt(1 - height**2)
    sphere = np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)
    found = {}
    for atom in sorted({int(i) for pair in candidates for i in pair}):
        near = np.array([j for j in tree.query_ball_point(points[atom], radius[atom] + radius.max()) if j != atom])
        toward = [b if a == atom else a for a, b in candidates if atom in (a, b)]
        lines = np.array([_unit(points[j] - points[atom]) for j in toward])
        dots = points[atom] + radius[atom] * np.concatenate([sphere, lines])
        depth = radius[near] - np.linalg.norm(dots[:, None] - points[near], axis=2)
        joined = np.array([_apart(owner, is_h, atom, j, graph) for j in near])
        covered = (depth[:, joined] > 0).any(axis=1) if joined.any() else np.zeros(len(dots), bool)
        near, depth = near[~joined], depth[:, ~joined]
        depth = depth - _allowance(np.stack([np.full(len(near), atom), near], axis=1), donor, acceptor)
        if depth.shape[1] == 0:
            continue
        deepest = depth.argmax(axis=1)
        value = depth[np.arange(len(dots)), deepest]
        for dot in np.flatnonzero(~covered & (value >= OVERLAP)):
            key = tuple(sorted((atom, int(near[deepest[dot]]))))
            if not (counted[key[0]] or counted[key[1]]):
                continue
            found[key] = max(found.get(key, 0.0), value[dot])
    return np.array(list(found), dtype=np.int64).reshape(-1, 2), np.array(list(found.values()))


def _allowance(pairs, donor, acceptor):
    """Å of overlap that a hydrogen bond excuses."""
    bond = (donor[pairs[:, 0]] & acceptor[pairs[:, 1]]) | (donor[pairs[:, 1]] & acceptor[pairs[:, 0]])
    return np.where(bond, HBOND, 0.0)
