"""Directed moves: each mends one kind of a builder's error, keeps it where the energy in the map falls, and says why.

They are deterministic but for the shuffled sequences of the register scan, and take seconds for 200 residues.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial.transform import Rotation

from ..protein import dihedral
from .fragments import fragment_library
from .minimise import RAMA_CELLS, SLOTS, Field, ramachandran_energy
from .register import SHORTEST, SURE, RegisterShift, register_scan
from .residues import CA, CB, OXYGEN, C, N, build_side_chain, chi_angles, place_atom
from .rotamers import library_rotamers, seen_level, side_chain_support

__all__ = [
    "Move", "close_disulfides", "fit_rotamers", "flip_peptides", "replace_fragment", "shift_register",
    "shift_registers",
]  # fmt: skip

MARGIN = 4.0  # kJ/mol that a move has to gain
FLIP_STEP, FLIP_LEAST = 15.0, 60.0  # degrees
CANDIDATES = 3  # rotamers or planes that are minimised of those that are tried
JUNCTION = 3  # residues on each side of where a shifted stretch joins the rest
STRETCHED = (0, 2, 4, -2)  # residues by which either end of a proposed stretch is tried further out
MOST_STRETCHED = 8  # proposals of which that is tried: each costs some seconds
EVIDENCE = 2.5  # kJ/mol for each unit of log odds: RT, as for φ and ψ
BRIDGE_CA = 8.0  # Å between Cα of cysteines that a disulfide might join
BRIDGE_CHI1 = 15.0  # degrees between the χ1 that are tried


@dataclass(frozen=True)
class Move:
    """A change to a model, and what speaks for it.

    Parameters
    ----------
    kind : {"register", "flip", "rotamer", "fragment", "disulfide"}
    residues : tuple of int
        Whose coordinates it set.
    label : str
        The residues, in words.
    reason : str
        Why it was tried.
    evidence : dict of str to float
        ``energy_before`` and ``energy_after`` in kJ/mol, and what the kind of move adds.
    """

    kind: str
    residues: tuple
    label: str
    reason: str
    evidence: dict = field(default_factory=dict)

    def __str__(self):
        numbers = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.evidence.items())
        return f"{self.kind} {self.label}: {self.reason} ({numbers})"


def fit_rotamers(state: Field, xyz, *, residues=None, library=None):
    """Set side chains to the rotamer of lowest energy in the map.

    Parameters
    ----------
    state : Field
    xyz : ndarray (n, 14, 3)
        Å.
    residues : sequence of int, optional
        All by default.
    library : FragmentLibrary, optional
        Of the rotamers.

    Returns
    -------
    xyz : ndarray (n, 14, 3)
    moves : list of Move
        Those where some χ1 or χ2 turned by 30° or more.
    """
    names = state.chains.names
    residues = np.arange(len(names)) if residues is None else np.asarray(residues)
    xyz, moves = np.array(xyz), []
    for i in residues:
        name = str(names[i])
        chi, log_share = library_rotamers(name, library)
        if chi.shape[1] == 0 or name == "PRO":
            continue
        window = state.window([i], xyz, side_only=True)
        old_chi = chi_angles(name, xyz[i])
        now, before = window.minimise(xyz, steps=30)
        side = build_side_chain(name, xyz[i, :3], chi)
        weight = state.weight[i * SLOTS + 4 : i * SLOTS + 4 + side.shape[1]]
        rough = -(state.density(side) * weight).sum(axis=1) - 2.5 * log_share
        best, energy, share = now, before + _share_energy(name, now[i], chi, log_share), None
        start_energy = energy
        for row in np.argsort(rough)[:CANDIDATES]:
            trial = xyz.copy()
            trial[i, 4 : 4 + side.shape[1]] = side[row]
            trial, value = window.minimise(trial, steps=40)
            value += -2.5 * log_share[row]
            if value < energy - MARGIN:
                best, energy, share = trial, value, float(np.exp(log_share[row]))
        turned = np.abs((chi_angles(name, best[i])[:2] - old_chi[:2] + 180) % 360 - 180).max()
        xyz = best
        if share is not None and turned >= 30:
            evidence = {"energy_before": start_energy, "energy_after": energy, "rotamer_share": share}
            reason = f"another rotamer fits the density (χ turned by {turned:.0f}°)"
            moves.append(Move("rotamer", (int(i),), state.chains.label(i), reason, evidence))
    return xyz, moves


def _share_energy(name, atoms, chi, log_share):
    """−RT ln share of the rotamer nearest to the present side chain."""
    own = chi_angles(name, atoms)
    off = np.abs((chi - own + 180) % 360 - 180).max(axis=1)
    nearest = off.argmin()
    return -2.5 * (log_share[nearest] if off[nearest] < 45 else log_share.min() - 1.0)


def flip_peptides(state: Field, xyz, *, residues=None):
    """Turn peptide planes about Cα–Cα where the density and φ, ψ of both residues ask for it.

    Parameters
    ----------
    state : Field
    xyz : ndarray (n, 14, 3)
        Å.
    residues : sequence of int, optional
        Whose plane with the following residue is tried; all by default.

    Returns
    -------
    xyz : ndarray (n, 14, 3)
    moves : list of Move
    """
    chains = state.chains
    linked = np.flatnonzero((chains.segment[1:] == chains.segment[:-1]) & (chains.names[1:] != "PRO"))
    if residues is not None:
        linked = np.intersect1d(linked, residues)
    xyz, moves, tables = np.array(xyz), [], ramachandran_energy()
    angles = np.arange(0.0, 360.0, FLIP_STEP)
    for i in linked:
        around = [j for j in range(i - 1, i + 3) if 0 <= j < len(chains) and chains.segment[j] == chains.segment[i]]
        planes = _turned_planes(xyz, i, angles)
        weight = state.weight[[i * SLOTS + C, i * SLOTS + OXYGEN, (i + 1) * SLOTS + N]]
        rough = -(state.density(planes) * weight).sum(axis=1)
        rough += 2.5 * _rama_of_planes(state, xyz, i, planes, tables)
        lowest = (rough <= np.roll(rough, 1)) & (rough <= np.roll(rough, -1))
        away = np.minimum(angles, 360 - angles) >= FLIP_LEAST
        tried = [a for a in np.argsort(rough) if lowest[a] and away[a] and rough[a] < rough[0] + 20]
        if not tried:
            continue
        window = state.window(around, xyz)
        now, before = window.minimise(xyz, steps=40)
        best, energy, turn = None, before, 0.0
        for a in tried[: CANDIDATES - 1]:
            trial = xyz.copy()
            trial[i, C], trial[i, OXYGEN], trial[i + 1, N] = planes[a]
            trial = _carry_side_chains(xyz, trial, (i, i + 1), chains.names)
            trial, value = window.minimise(trial, steps=80)
            if value < energy - MARGIN and _plane_turn(xyz, trial, i) >= FLIP_LEAST:
                best, energy, turn = trial, value, _plane_turn(xyz, trial, i)
        if best is not None:
            xyz = best
            label = f"{chains.label(i)}–{chains.label(i + 1)}"
            reason = f"carbonyl density and φ, ψ ask for a plane turned by {turn:.0f}°"
            evidence = {"energy_before": before, "energy_after": energy}
            moves.append(Move("flip", (int(i), int(i) + 1), label, reason, evidence))
    return xyz, moves


def _turned_planes(xyz, i, angles):
    """C and O of residue i and N of the next, turned about their Cα–Cα: (angles, 3, 3)."""
    axis = xyz[i + 1, CA] - xyz[i, CA]
    turns = Rotation.from_rotvec(np.radians(angles)[:, None] * axis / np.linalg.norm(axis))
    atoms = np.stack([xyz[i, C], xyz[i, OXYGEN], xyz[i + 1, N]]) - xyz[i, CA]
    return np.einsum("aij,nj->ani", turns.as_matrix(), atoms) + xyz[i, CA]


def _rama_of_planes(state, xyz, i, planes, tables):
    """−ln P of residues i and i + 1 for each plane."""
    total = np.zeros(len(planes))
    kinds = dict(zip(state.rama[:, 2] // SLOTS, state.kind))
    if i in kinds:
        phi = dihedral(xyz[i - 1, C], xyz[i, N], xyz[i, CA], planes[:, 0])
        psi = dihedral(xyz[i, N], xyz[i, CA], planes[:, 0], planes[:, 2])
        total += _table_value(tables[kinds[i]], phi, psi)
    if i + 1 in kinds:
        phi = dihedral(planes[:, 0], planes[:, 2], xyz[i + 1, CA], xyz[i + 1, C])
        psi = dihedral(planes[:, 2], xyz[i + 1, CA], xyz[i + 1, C], xyz[i + 2, N])
        total += _table_value(tables[kinds[i + 1]], phi, psi)
    return total


def _table_value(table, phi, psi):
    cell = [np.rint((angle + 180) / 360 * RAMA_CELLS).astype(int) % RAMA_CELLS for angle in (phi, psi)]
    return table[cell[0], cell[1]]


def _plane_turn(before, after, i):
    """Degrees between the directions of a carbonyl bond seen along Cα–Cα, before and after."""
    angle = dihedral(
        before[i, OXYGEN], before[i, CA], before[i + 1, CA], after[i, OXYGEN] - after[i, CA] + before[i, CA]
    )
    return float(abs(angle))


def _carry_side_chains(old, new, residues, names):
    """Side chains rebuilt with their χ on main chains that moved."""
    for i in residues:
        chi = chi_angles(str(names[i]), old[i])
        side = build_side_chain(str(names[i]), new[i, :3], chi)
        new[i, 4 : 4 + len(side)] = side
    return new


def replace_fragment(
    state: Field, xyz, first, last, *, library=None, count=25, rng=None, temperature=0.0, evidence=None
):
    """Rebuild residues between two that stay, from fragments that fit their ends.

    Parameters
    ----------
    state : Field
    xyz : ndarray (n, 14, 3)
        Å.
    first, last : int
        The anchors; residues between them are replaced.
    library : FragmentLibrary, optional
        The shipped one by default.
    count : int
        Fragments that are tried.
    rng : seed or Generator, optional
        For the Metropolis choice; needed above temperature 0.
    temperature : float
        kJ/mol; at 0 only what gains `MARGIN` is taken.
    evidence : float, optional
        By how much the mean density at the replaced main chain has to exceed that of the present one, both minimised;
        it must then be more than noise too (`cryonb.atomic.rotamers.seen_level`). Without, better geometry is enough.

    Returns
    -------
    xyz : ndarray (n, 14, 3)
    move : Move or None
        None where nothing was taken.
    """
    chains = state.chains
    if chains.segment[first] != chains.segment[last] or last - first < 3:
        return np.array(xyz), None
    library = fragment_library() if library is None else library
    names = [str(name) for name in chains.names[first : last + 1]]
    found = library.search(xyz[first], xyz[last], names, count=count)
    window = state.window(range(first, last + 1), xyz, hold_main=(first, last))
    now, before = window.minimise(xyz, steps=60)
    inner = slice(first + 1, last)
    seen = float(state.density(now[inner, :4]).mean())
    asked = -np.inf if evidence is None else max(seen + evidence, seen_level(state, xyz))
    best, energy, rms = None, np.inf, 0.0
    for main, end_rms in zip(found.main_chain, found.end_rms):
        trial = np.array(xyz)
        trial[first + 1 : last, :4] = main[1:-1]
        trial = _with_side_chains(state, trial, range(first + 1, last), library)
        trial, value = window.minimise(trial, steps=60)
        if value < energy and state.density(trial[inner, :4]).mean() > asked:
            best, energy, rms = trial, value, float(end_rms)
    if best is not None:  # as the present one was, so that both have had the same number of steps
        best, energy = window.minimise(best, steps=60)
    taken = energy < before - MARGIN
    if not taken and temperature > 0:
        taken = np.random.default_rng(rng).random() < np.exp(min(0.0, (before - energy) / temperature))
    if best is None or not taken:
        return now if np.isfinite(before) else np.array(xyz), None
    moved = float(np.sqrt(((best[first + 1 : last, CA] - xyz[first + 1 : last, CA]) ** 2).sum(1).mean()))
    label = f"{chains.label(first + 1)}–{chains.label(last - 1)}"
    found = {"energy_before": before, "energy_after": energy, "end_rms": rms, "ca_moved": moved}
    found |= {"density_before": seen, "density_after": float(state.density(best[inner, :4]).mean())}
    return best, Move("fragment", tuple(range(first + 1, last)), label, "suspect; a known main chain fits", found)


def _with_side_chains(state, xyz, residues, library):
    """Side chains of the rotamers that fit best, on the main chains as they are."""
    for i in residues:
        name = str(state.chains.names[i])
        _, (chi,) = side_chain_support(state, xyz[i : i + 1], names=[name], library=library)
        side = build_side_chain(name, xyz[i, :3], chi[0])
        xyz[i, 4:] = np.nan
        xyz[i, 4 : 4 + len(side)] = side
    return xyz


def shift_registers(state: Field, xyz, *, rng, library=None, thorough=True):
    """Make the register shifts that the scan proposes (`register_scan`) and that lower the energy.

    Parameters
    ----------
    state : Field
    xyz : ndarray (n, 14, 3)
        Å.
    rng : seed or Generator
        Of the shuffled sequences.
    library : FragmentLibrary, optional
    thorough : bool
        Whether proposals that are not sure (`RegisterShift.sure`) are tried as well; they have to gain ten times as
        much energy.

    Returns
    -------
    xyz : ndarray (n, 14, 3)
    moves : list of Move
    """
    xyz, moves, taken = np.array(xyz), [], np.zeros(len(state.chains), dtype=bool)
    stretches = MOST_STRETCHED
    for shift in register_scan(state, xyz, rng=rng, library=library):
        reach = slice(min(shift.first, shift.first + shift.shift), max(shift.last, shift.last + shift.shift) + 1)
        if taken[reach].any() or not (shift.sure or thorough):
            continue
        if shift.sure and stretches:
            stretches -= 1
            found, move = _best_ends(state, xyz, shift, library)
        else:
            found, move = shift_register(
                state, xyz, shift, library=library, margin=MARGIN if shift.sure else 10 * MARGIN
            )
        if move is not None:
            xyz = found
            moves.append(move)
            taken[reach] = True
    return xyz, moves


def _best_ends(state, xyz, shift, library):
    """The same shift with either end further out or in, the start first: the scan finds ends to two residues or so."""
    own = np.flatnonzero(state.chains.segment == state.chains.segment[shift.first])
    best, chosen, done = (xyz, None), (0, 0), set()
    for side in range(2):
        for further in STRETCHED:
            ends = (further, 0) if side == 0 else (chosen[0], further)
            first, last = shift.first - ends[0], shift.last + ends[1]
            inside = min(first, first + shift.shift) >= own[0] and max(last, last + shift.shift) <= own[-1]
            if ends in done or not inside or last - first < SHORTEST - 1:
                continue
            done.add(ends)
            trial = _shifted(state, xyz, replace(shift, first=first, last=last), library)
            if best[1] is None or _gain(trial[1]) > _gain(best[1]):
                best, chosen = trial, ends
    return best if best[1] is not None and _gain(best[1]) > MARGIN else (xyz, None)


def _gain(move):
    """kJ/mol that a shift gains: by energy, and RT for each unit of log odds beyond what one needs to be sure."""
    found = move.evidence
    return found["energy_before"] - found["energy_after"] + EVIDENCE * (found["gain"] - SURE)


def shift_register(state: Field, xyz, shift: RegisterShift, *, library=None, margin=MARGIN):
    """Move a stretch of sequence along its main chain and rebuild where it joins the rest.

    Parameters
    ----------
    state : Field
    xyz : ndarray (n, 14, 3)
        Å.
    shift : RegisterShift
    library : FragmentLibrary, optional
    margin : float
        kJ/mol by which the energy has to fall, less RT for each unit of the shift's log odds beyond `SURE`.

    Returns
    -------
    xyz : ndarray (n, 14, 3)
    move : Move or None
        None where the energy did not fall by so much.
    """
    found, move = _shifted(state, xyz, shift, library)
    return (found, move) if _gain(move) > margin else (np.array(xyz), None)


def _shifted(state, xyz, shift, library):
    """A stretch moved, its ends rebuilt, all minimised; and the move with the energies of both."""
    chains, k = state.chains, shift.shift
    own = np.flatnonzero(chains.segment == chains.segment[shift.first])
    low, high = own[0], own[-1]
    trial = np.array(xyz)
    positions = np.arange(shift.first, shift.last + 1)
    trial[positions + k, :4] = xyz[positions, :4]
    first, last = positions[0] + k, positions[-1] + k  # residues that now have their new places
    trial = _close(state, trial, min(first, shift.first), max(first, shift.first), low, high, library)
    trial = _close(state, trial, min(last, shift.last), max(last, shift.last), low, high, library)
    reach = range(max(low, min(first, shift.first) - JUNCTION - 1), min(high, max(last, shift.last) + JUNCTION + 1) + 1)
    trial = _with_side_chains(state, trial, reach, library)
    energies, results = [], []
    for start in (np.array(xyz), trial):
        moved, _ = state.window(reach, start).minimise(start, steps=150)
        moved, _ = fit_rotamers(state, moved, residues=reach, library=library)
        window = state.window(reach, moved, cutoff=6.0)
        moved, energy = window.minimise(moved, steps=150)
        energies.append(energy)
        results.append(moved)
    label = f"{chains.label(first)}–{chains.label(last)}"
    evidence = {
        "energy_before": energies[0], "energy_after": energies[1], "gain": shift.gain, "threshold": shift.threshold,
    }  # fmt: skip
    reason = f"side chains fit {abs(k)} place{'s' * (abs(k) > 1)} {'back' if k > 0 else 'on'} along the main chain"
    return results[1], Move("register", tuple(int(r) for r in reach), label, reason, evidence)


def _close(state, xyz, low_end, high_end, low, high, library):
    """Join a shifted stretch to what precedes or follows it, by a fragment or, at a terminus, by extension."""
    first, last = low_end - JUNCTION, high_end + JUNCTION
    if first < low:
        return _extend(xyz, range(high_end - 1, low - 1, -1), -1)
    if last > high:
        return _extend(xyz, range(low_end + 1, high + 1), 1)
    library = fragment_library() if library is None else library
    names = [str(name) for name in state.chains.names[first : last + 1]]
    found = library.search(xyz[first], xyz[last], names, count=25)
    window, best, lowest = None, xyz, np.inf
    for main in found.main_chain:
        trial = xyz.copy()
        trial[first + 1 : last, :4] = main[1:-1]
        trial = _with_side_chains(state, trial, range(first + 1, last), library)
        window = window or state.window(range(first, last + 1), trial, hold_main=(first, last))
        trial, energy = window.minimise(trial, steps=60)
        if energy < lowest:
            best, lowest = trial, energy
    return best


def _extend(xyz, residues, step):
    """Main chain of terminal residues, extended (φ −120°, ψ 130°) from the residue before them."""
    for i in residues:
        if step > 0:
            n = place_atom(*xyz[i - 1, [N, CA, C]], 1.33, 116.6, 130.0)
            ca = place_atom(xyz[i - 1, CA], xyz[i - 1, C], n, 1.459, 121.6, 180.0)
            c = place_atom(xyz[i - 1, C], n, ca, 1.525, 111.1, -120.0)
            o = place_atom(n, ca, c, 1.232, 120.4, -50.0)
        else:
            c = place_atom(*xyz[i + 1, [C, CA, N]], 1.33, 121.6, -120.0)
            ca = place_atom(xyz[i + 1, CA], xyz[i + 1, N], c, 1.525, 116.6, 180.0)
            n = place_atom(xyz[i + 1, N], c, ca, 1.459, 111.1, 130.0)
            o = place_atom(xyz[i + 1, CA], xyz[i + 1, N], c, 1.232, 122.9, 0.0)
        xyz[i, :4] = n, ca, c, o
    return xyz


def close_disulfides(state: Field, xyz):
    """Close disulfides that are within reach: both χ1 are searched for sulphurs 2.05 Å apart.

    Parameters
    ----------
    state : Field
    xyz : ndarray (n, 14, 3)
        Å.

    Returns
    -------
    xyz : ndarray (n, 14, 3)
    moves : list of Move
    """
    chains = state.chains
    cysteines = np.flatnonzero(chains.names == "CYS")
    xyz, moves = np.array(xyz), []
    sulphur = CB + 1
    pairs = [
        (float(np.linalg.norm(xyz[i, CA] - xyz[j, CA])), i, j)
        for a, i in enumerate(cysteines) for j in cysteines[a + 1 :]
    ]  # fmt: skip
    bridged = {
        i for _, a, b in pairs if np.linalg.norm(xyz[a, sulphur] - xyz[b, sulphur]) < 2.5 for i in (a, b)
    }  # fmt: skip
    chi = np.arange(-180.0, 180.0, BRIDGE_CHI1)[:, None]
    for distance, i, j in sorted(pairs):
        if distance > BRIDGE_CA or i in bridged or j in bridged:
            continue
        first, second = (build_side_chain("CYS", xyz[k, :3], chi)[:, 1] for k in (i, j))
        gap = np.linalg.norm(first[:, None] - second[None], axis=-1)
        rough = 20 * (gap - 2.05) ** 2 - state.weight[i * SLOTS + sulphur] * (
            state.density(first)[:, None] + state.density(second)[None]
        )
        a, b = np.unravel_index(rough.argmin(), rough.shape)
        if gap[a, b] > 3.2:
            continue
        around = sorted({k for c in (i, j) for k in (c - 1, c, c + 1)
                         if 0 <= k < len(chains) and chains.segment[k] == chains.segment[c]})  # fmt: skip
        open_xyz, before = state.window(around, xyz).minimise(xyz, steps=60)
        trial = xyz.copy()
        middle = (first[a] + second[b]) / 2
        apart = (second[b] - first[a]) / gap[a, b]
        trial[i, sulphur], trial[j, sulphur] = middle - apart * 1.025, middle + apart * 1.025
        closed, after = state.window(around, trial).minimise(trial, steps=120)
        length = float(np.linalg.norm(closed[i, sulphur] - closed[j, sulphur]))
        if after < before + MARGIN and abs(length - 2.05) < 0.25:
            evidence = {
                "energy_before": before, "energy_after": after,
                "gap_before": float(np.linalg.norm(xyz[i, sulphur] - xyz[j, sulphur])), "gap_after": length,
            }  # fmt: skip
            xyz = closed
            bridged |= {i, j}
            label = f"{chains.label(i)}–{chains.label(j)}"
            moves.append(Move("disulfide", (int(i), int(j)), label, "two cysteines within reach of a bond", evidence))
    return xyz, moves
