"""The errors a hand-builder makes, planted in a true model and written down residue by residue."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from .. import protein
from ..types import AtomicModel

__all__ = ["PlantedErrors", "plant_errors", "residue_deviation", "shake"]

RAMP = (0.25, 0.5, 0.75)  # of the way into a register shift: the residues that are stretched or crowded
SHIFTED = (8, 16)  # residues of a register shift
CA_LIMIT = 4.5  # Å between neighbouring CA where a shift may run
WAVES = 64  # of a random displacement field
TWINS = {  # side chains that look the same after half a turn
    "PHE": (("CD1", "CD2"), ("CE1", "CE2")),
    "TYR": (("CD1", "CD2"), ("CE1", "CE2")),
    "ASP": (("OD1", "OD2"),),
    "GLU": (("OE1", "OE2"),),
    "ARG": (("NH1", "NH2"),),
}


@dataclass(frozen=True, eq=False)
class PlantedErrors:
    """A model with errors, the true one, and what was done to each residue.

    Parameters
    ----------
    model, truth : AtomicModel
        The same atoms in the same order.
    residues : Residues
        n of them, of both.
    flipped : ndarray (n,) bool
        The peptide plane after this residue was turned by 180°.
    rotamer : ndarray (n,) bool
        The side chain was put into a wrong rotamer.
    register : ndarray (n,) int
        By how many residues the sequence was slid here, in the sign of the chain; 0 elsewhere.
    strained : ndarray (n,) bool
        The residue leads into or out of a register shift.
    """

    model: AtomicModel
    truth: AtomicModel
    residues: protein.Residues
    flipped: np.ndarray
    rotamer: np.ndarray
    register: np.ndarray
    strained: np.ndarray

    def kinds(self):
        """In words, per residue: list of str such as ``"flip"``, ``"register +1"``, ``"rotamer, flip"``, ``""``."""
        words = []
        for row in range(len(self.residues)):
            found = ["flip"] if self.flipped[row] else []
            found += ["rotamer"] if self.rotamer[row] else []
            found += [f"register {self.register[row]:+d}"] if self.register[row] else []
            words.append(", ".join(found + (["strained"] if self.strained[row] else [])))
        return words

    def deviation(self, model=None):
        """`residue_deviation` of the planted model, or of what became of it, from the truth."""
        return residue_deviation(self.model if model is None else model, self.truth)

    def __repr__(self):
        counts = (
            f"{self.flipped.sum()} flips, {self.rotamer.sum()} rotamers, {(self.register != 0).sum()} out of register"
        )
        return f"PlantedErrors({len(self.residues)} residues: {counts})"


def residue_deviation(model, truth):
    """How far each residue is from where it should be; nothing is superposed.

    Parameters
    ----------
    model, truth : AtomicModel
        The same atoms in the same order.

    Returns
    -------
    ndarray (n, 2) in Å: rms over N, CA, C, O, and over the side chain from CB (NaN for glycine). Phe, Tyr, Asp, Glu
    and Arg count the better of their two equal labellings.

    Raises
    ------
    ValueError
        Different atoms.
    """
    if len(model) != len(truth) or (model.atom_names != truth.atom_names).any():
        raise ValueError(f"the models must have the same atoms in the same order, got {model!r} and {truth!r}")
    rows = protein.residues(truth)
    moved, true, elements = model.coordinates, truth.coordinates, truth.elements
    result = np.full((len(rows), 2), np.nan)
    for row, atoms in enumerate(rows.atoms):
        back = [atoms[name] for name in ("N", "CA", "C", "O") if name in atoms]
        side = {n: i for n, i in atoms.items() if n not in protein.BACKBONE and elements[i] not in ("H", "D")}
        if back:
            result[row, 0] = np.sqrt(((moved[back] - true[back]) ** 2).sum(1).mean())
        if side:
            swap = {a: b for pair in TWINS.get(rows.names[row], ()) for a, b in (pair, pair[::-1])}
            plain = list(side.values())
            other = [side.get(swap.get(name, name), index) for name, index in side.items()]
            result[row, 1] = min(np.sqrt(((moved[i] - true[plain]) ** 2).sum(1).mean()) for i in (plain, other))
    return result


def shake(model, rms, *, rng, correlation=0.0):
    """Displace atoms at random.

    Parameters
    ----------
    model : AtomicModel
    rms : float
        Å, of the displacement (its length, not per axis).
    rng : int or numpy.random.Generator
    correlation : float
        Å; 0 moves every atom on its own, otherwise neighbours move together, with the correlation
        exp(−r² / 2 correlation²), so that bonds stay nearly whole.

    Returns
    -------
    AtomicModel
    """
    rng, coordinates = np.random.default_rng(rng), model.coordinates
    if correlation > 0:
        waves = rng.normal(0, 1 / correlation, (WAVES, 3))
        moved = np.cos(coordinates @ waves.T + rng.uniform(0, 2 * np.pi, WAVES)) @ rng.normal(size=(WAVES, 3))
    else:
        moved = rng.normal(size=coordinates.shape)
    scale = rms / max(np.sqrt((moved**2).sum(1).mean()), 1e-12)
    return protein.with_atoms(model, coordinates=coordinates + scale * moved)


def plant_errors(
    model, *, rng, flips=0.06, rotamers=0.12, register_shifts=2, shake_rms=0.0, correlation=0.0, hinge=0.0
):
    """Plant a hand-builder's errors in a true model.

    Parameters
    ----------
    model : AtomicModel
        The truth; not touched.
    rng : int or numpy.random.Generator
    flips, rotamers : float
        Shares of the residues whose peptide plane is turned, and of the side chains put into a wrong rotamer.
    register_shifts : int
        Stretches of 8 to 16 residues slid by one along the chain; fewer where the chains have no room.
    shake_rms, correlation : float
        Å; `shake` on top of the errors.
    hinge : float
        Degrees by which everything behind a residue in the middle third of the longest chain is turned about it.

    Returns
    -------
    PlantedErrors. Flips and rotamers keep out of the slid stretches and of each other.

    Raises
    ------
    ValueError
        No amino acids, or a share outside [0, 1].

    Notes
    -----
    The errors leave bad geometry where they join the rest: relax the model into the map before judging it, as a
    builder's program would have done.
    """
    for name, share in (("flips", flips), ("rotamers", rotamers)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be a share in [0, 1], got {share}")
    rng, rows, true = np.random.default_rng(rng), protein.residues(model), model.coordinates
    if len(rows) == 0:
        raise ValueError(f"{model!r} has no amino acids to plant errors in")
    xyz, n = true.copy(), len(rows)
    register, strained = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    for _ in range(register_shifts):
        _shift_register(rows, true, xyz, register, strained, rng)
    free = (register == 0) & ~strained
    flipped = _choose(_can_flip(rows) & free, flips, n, rng)
    for row in np.flatnonzero(flipped):
        _flip(rows, xyz, row)
    turnable = np.array([len(protein.CHI_ATOMS.get(name, ())) > 0 and name != "PRO" for name in rows.names])
    turnable &= np.isfinite(rows.chi(true)[:, 0]) & free & ~flipped
    wrong = _choose(turnable, rotamers, int(turnable.sum()) if rotamers == 1 else n, rng)
    for row in np.flatnonzero(wrong):
        _turn_side_chain(rows, xyz, row, rng)
    if hinge:
        _bend(rows, model, xyz, hinge, rng)
    changed = protein.with_atoms(model, coordinates=xyz)
    if shake_rms:
        changed = shake(changed, shake_rms, rng=rng, correlation=correlation)
    return PlantedErrors(changed, model, rows, flipped, wrong, register, strained)


def _choose(allowed, share, n, rng):
    """A random share of n among the allowed rows."""
    rows = np.flatnonzero(allowed)
    chosen = np.zeros(len(allowed), dtype=bool)
    chosen[rng.permutation(rows)[: round(share * n)]] = True
    return chosen


def _can_flip(rows):
    """The peptide plane after a row: C and O here, N there, bonded."""
    whole = np.array([{"CA", "C", "O"} <= set(atoms) for atoms in rows.atoms])
    after = np.append(rows.linked[1:], False)
    return whole & after & np.append(np.array([{"N", "CA"} <= set(atoms) for atoms in rows.atoms])[1:], False)


def _flip(rows, xyz, row):
    here, there = rows.atoms[row], rows.atoms[row + 1]
    plane = [here["C"], here["O"], there["N"], *([there["H"]] if "H" in there else [])]
    xyz[plane] = protein.rotate_about(xyz[plane], xyz[here["CA"]], xyz[there["CA"]], 180.0)


def _turn_side_chain(rows, xyz, row, rng):
    """Another well of χ1, ±120° with a spread of 10°."""
    atoms = rows.atoms[row]
    keep = (*protein.BACKBONE, "CB", "H", "HA", "HA2", "HA3", "H1", "H2", "H3")
    moving = [index for name, index in atoms.items() if name not in keep]
    angle = rng.choice([-120.0, 120.0]) + rng.normal(0, 10)
    xyz[moving] = protein.rotate_about(xyz[moving], xyz[atoms["CA"]], xyz[atoms["CB"]], angle)


def _shift_register(rows, true, xyz, register, strained, rng):
    """Slide a stretch by one residue; leaves all as it is where the chains have no room left."""
    backbone = np.stack([rows.positions(name, true) for name in ("N", "CA", "C", "O")], axis=1)
    step = np.append(np.linalg.norm(np.diff(backbone[:, 1], axis=0), axis=1), np.inf)
    good = np.isfinite(backbone).all(axis=(1, 2)) & (register == 0) & ~strained
    length, pad = int(rng.integers(*SHIFTED, endpoint=True)), len(RAMP) + 1
    starts = []
    for start in range(pad, len(rows) - length - pad):
        span = slice(start - pad, start + length + pad)
        if good[span].all() and (step[span][:-1] < CA_LIMIT).all() and rows.linked[span][1:].all():
            starts.append(start)
    if not starts:
        return
    start, sign = int(rng.choice(starts)), int(rng.choice([-1, 1]))
    first, last = start - pad, start + length + pad  # one past
    spline = CubicSpline(np.arange(first, last), backbone[first:last])
    weights = np.concatenate([RAMP, np.ones(length), RAMP[::-1]])
    for row, weight in zip(range(start - len(RAMP), start + length + len(RAMP)), weights):
        target = spline(row + sign * weight) if weight < 1 else backbone[row + sign]
        rotation, offset = _superpose(backbone[row, :3], target[:3])
        index = list(rows.atoms[row].values())
        xyz[index] = true[index] @ rotation.T + offset
        for name, position in zip(("N", "CA", "C", "O"), target):
            xyz[rows.atoms[row][name]] = position
        if weight < 1:
            strained[row] = True
        else:
            register[row] = sign


def _superpose(points, targets):
    """Rotation and offset that take points (n, 3) onto targets: Kabsch, Acta Cryst. A 32:922 (1976)."""
    middle, aim = points.mean(0), targets.mean(0)
    u, _, vt = np.linalg.svd((targets - aim).T @ (points - middle))
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return rotation, aim - rotation @ middle


def _bend(rows, model, xyz, angle, rng):
    """Turn what follows a residue in the middle third of the longest chain about it, ligands of no chain included."""
    names, counts = np.unique(rows.chains, return_counts=True)
    chain = names[counts.argmax()]
    inside = np.flatnonzero(rows.chains == chain)
    row = int(rng.choice(inside[len(inside) // 3 : max(2 * len(inside) // 3, len(inside) // 3 + 1)]))
    behind = [i for later in inside[inside > row] for i in rows.atoms[later].values()]
    axis, centre = rng.normal(size=3), xyz[rows.atoms[row].get("CA", next(iter(rows.atoms[row].values())))]
    xyz[behind] = protein.rotate_about(xyz[behind], centre, centre + axis, angle)
