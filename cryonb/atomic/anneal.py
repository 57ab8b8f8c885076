"""Simulated annealing in the map with a full force field: OpenMM, ff14SB in vacuum with a reaction field, on the CPU.

What is not protein stays where it is and only keeps others out; so do chains that are told to. OpenMM comes with the
extra ``atoms``.
"""

import contextlib
import random

import numpy as np
from scipy.spatial import cKDTree

from . import _kernels
from .fragments import FragmentLibrary
from .links import angle_length, fixed_bonds
from .minimise import METALS, RAMA_KT, REFERENCE, SIDE_WEIGHT, _rama_kind, hold_weight, ramachandran_energy
from .residues import SLOTS, Chains, atom_names, place_atom

__all__ = ["Annealer"]

CUTOFF_NM, DIELECTRIC = 0.9, 78.3
HYDROGEN_DALTON = 3.0  # taken from the heavy atom, so that 2 fs are stable
STEP_PS, FRICTION_PER_PS = 0.002, 5.0
REACH = 8.0  # Å from the protein within which the rest keeps it out
# Lennard-Jones of an atom that stays, σ in nm and ε in kJ/mol: Cornell et al., J Am Chem Soc 117:5179 (1995); hydrogens
# as those on carbon
FIXED = {
    "C": (0.340, 0.360), "N": (0.325, 0.711), "O": (0.296, 0.879), "S": (0.356, 1.046), "P": (0.374, 0.837),
    "H": (0.247, 0.066),
}  # fmt: skip
FIXED_METAL, FIXED_OTHER = (0.15, 0.05), (0.34, 0.36)  # a metal without charge only keeps others out
WARM = 400.0  # K
# of each charge, as in a medium of dielectric constant 4; set on EMD-30342, where 0 does as well
CHARGE = 0.5
ANNEAL_WEIGHT, FADE = 10.0, 2  # kJ/mol at 3 Å; falls as (3 Å / resolution)²; set as `minimise.FADE` was
LINK_BOND_KJ, LINK_ANGLE_KJ = 200000.0, 50000.0  # per nm²: of bonds to what stays, and between ends of their angles
BRIDGED = 2.6  # Å between sulphurs that are bonded


class Annealer:
    """A force field for some chains, made once and used for any coordinates of theirs.

    Parameters
    ----------
    chains : Chains
        Complete; sulphurs nearer than 2.6 Å are bonded. A residue that is linked to no other, for which the force
        field has no form, stays where it is as neighbours do.
    ramachandran : bool or FragmentLibrary
        Whether −ln P(φ, ψ) is added, as in `cryonb.atomic.Field`.
    fixed : sequence of int
        Residues that stay where they are, as neighbours do.
    threads : int

    Raises
    ------
    ModuleNotFoundError
        Without OpenMM.
    ValueError
        Incomplete chains, or residues that the force field refuses.
    """

    def __init__(self, chains: Chains, *, ramachandran=True, fixed=(), threads=1):
        try:
            import openmm
            from openmm import app, unit
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("annealing needs OpenMM: pip install cryonb[atoms]") from error
        if (chains.expected & ~chains.present).any():
            raise ValueError("chains must be complete to be annealed; use Chains.completed")
        if _alone(chains).all():
            raise ValueError(f"annealing needs residues that are linked; none of these {len(chains)} is to another")
        self.chains, self._mm, self._unit = chains, openmm, unit
        topology, positions, self.slots = _topology(chains, app)
        modeller = app.Modeller(topology, positions * unit.angstrom)
        field = app.ForceField("amber14/protein.ff14SB.xml")
        try:
            with _same_every_time():
                modeller.addHydrogens(
                    field, variants=_variants(topology), platform=openmm.Platform.getPlatformByName("Reference")
                )
            system = field.createSystem(
                modeller.topology,
                nonbondedMethod=app.CutoffNonPeriodic,
                nonbondedCutoff=CUTOFF_NM,
                constraints=app.HBonds,
            )
        except ValueError as error:
            raise ValueError(f"ff14SB refuses the model: {error}") from None
        atoms = list(modeller.topology.atoms())
        heavy = np.array([atom.index for atom in atoms if atom.element.symbol != "H"])
        self.heavy = heavy  # in the order of `slots`, C-terminal oxygens included as −1
        start = np.array(modeller.positions.value_in_unit(unit.angstrom))
        self._hydrogens(modeller.topology, start)
        self._count = len(atoms)
        self._start = start
        _screen(system, openmm)
        self._stay(system, modeller.topology, fixed)
        self._map_force(system)
        if ramachandran is not False:
            self._cmap(system, ramachandran)
        integrator = openmm.LangevinMiddleIntegrator(WARM, FRICTION_PER_PS, STEP_PS)
        platform = openmm.Platform.getPlatformByName("CPU")
        properties = {"Threads": str(threads), "DeterministicForces": "true"}
        self.context = openmm.Context(system, integrator, platform, properties)
        self._terms = self._held = None

    def _hydrogens(self, topology, xyz):
        """How each hydrogen sits on the heavy atoms near it: parent, two references, bond, angle, dihedral."""
        around = {}
        for first, second in topology.bonds():
            around.setdefault(first.index, []).append(second)
            around.setdefault(second.index, []).append(first)
        rows = []
        for atom in topology.atoms():
            if atom.element.symbol != "H":
                continue
            parent = around[atom.index][0].index
            near = [other.index for other in around[parent] if other.element.symbol != "H"]
            if len(near) == 1:
                near += [o.index for o in around[near[0]] if o.element.symbol != "H" and o.index != parent]
            rows.append((atom.index, parent, near[0], near[1]))
        self._hydrogen_rows = np.array(rows)
        h, p, a, b = (xyz[self._hydrogen_rows[:, k]] for k in range(4))
        bond = np.linalg.norm(h - p, axis=1)
        cosine = ((h - p) * (a - p)).sum(1) / bond / np.linalg.norm(a - p, axis=1)
        from ..protein import dihedral

        self._hydrogen_form = bond, np.degrees(np.arccos(cosine)), dihedral(b, a, p, h)

    def _stay(self, system, topology, fixed):
        """Particles without mass for what is not protein, and no mass for fixed residues."""
        residue = np.full(self._count, -1)
        residue[self.heavy] = np.where(self.slots >= 0, self.slots // SLOTS, -1)
        residue[self._hydrogen_rows[:, 0]] = residue[self._hydrogen_rows[:, 1]]
        for atom in np.flatnonzero(np.isin(residue, list(fixed))):
            system.setParticleMass(int(atom), 0.0)
        for index in reversed(range(system.getNumConstraints())):  # OpenMM refuses a bond to an atom without mass
            first, second, _ = system.getConstraintParameters(index)
            if residue[first] in fixed:
                system.removeConstraint(index)
        alone, present = _alone(self.chains)[:, None], self.chains.present
        own = [atom_names(str(name)) for name in self.chains.names]
        elements = [own[i][slot][0] for i, slot in np.argwhere(present & alone)]
        points = np.concatenate([self.chains.others, self.chains.xyz[present & alone]])
        elements = np.concatenate([self.chains.other_elements, np.array(elements, dtype=str)])
        near = cKDTree(self.chains.xyz[present & ~alone]).query(points, distance_upper_bound=REACH)[0] < np.inf
        self._neighbours = points[near]
        self._link(system, topology, elements[near])
        for force in system.getForces():
            if isinstance(force, self._mm.NonbondedForce):
                force.setReactionFieldDielectric(DIELECTRIC)
                for element in elements[near].tolist():
                    system.addParticle(0.0)
                    force.addParticle(0.0, *FIXED.get(element, FIXED_METAL if element in METALS else FIXED_OTHER))

    def _link(self, system, topology, elements):
        """Bonds to what stays where it is; atoms within two bonds of them do not push each other."""
        place = {int(slot): int(index) for slot, index in zip(self.slots, self.heavy) if slot >= 0}
        ours = [link for link in self.chains.links if link.residue * SLOTS + link.slot in place]
        if not ours:
            return
        around = {}
        for first, second in topology.bonds():
            around.setdefault(first.index, []).append(second)
            around.setdefault(second.index, []).append(first)
        springs, apart, positions = self._mm.HarmonicBondForce(), set(), self._start
        _, nearest = cKDTree(self._neighbours).query([link.point for link in ours])
        for link, first in zip(ours, nearest.tolist()):
            own = place[link.residue * SLOTS + link.slot]
            element = atom_names(str(self.chains.names[link.residue]))[link.slot][0]
            springs.addBond(own, self._count + first, link.length / 10, LINK_BOND_KJ)
            beyond = {own}
            for atom in around[own]:
                beyond |= {atom.index, *(other.index for other in around[atom.index])}
                if atom.element.symbol != "H" and atom.name != "OXT":
                    bond = float(np.linalg.norm(positions[atom.index] - positions[own]))
                    open_side = angle_length(bond, link.length, element)
                    springs.addBond(atom.index, self._count + first, open_side / 10, LINK_ANGLE_KJ)
            bonds = fixed_bonds(self._neighbours, elements, first)
            for one, two in bonds:
                if one == first:
                    bond = float(np.linalg.norm(self._neighbours[one] - self._neighbours[two]))
                    open_side = angle_length(bond, link.length, elements[first])
                    springs.addBond(own, self._count + two, open_side / 10, LINK_ANGLE_KJ)
            apart |= {(i, self._count + j) for i in beyond for j in (first, *(two for _, two in bonds))}
        system.addForce(springs)
        for force in system.getForces():
            if isinstance(force, self._mm.NonbondedForce):
                for i, j in sorted(apart):
                    force.addException(i, j, 0.0, 0.1, 0.0)

    def _map_force(self, system):
        names = [atom_names(str(name)) for name in self.chains.names]
        charge = {"C": 6, "N": 7, "O": 8, "S": 16}
        weight = np.zeros(len(self.slots))
        for row, number in enumerate(self.slots):
            if number >= 0:
                residue, slot = divmod(int(number), SLOTS)
                name = str(self.chains.names[residue])
                weight[row] = charge[names[residue][slot][0]] / 6 * (1 if slot < 4 else SIDE_WEIGHT.get(name, 0.78))
        self._weight, self._main = weight, (self.slots >= 0) & (self.slots % SLOTS < 4)
        force = self._mm.PythonForce(self._density_force, {"map_weight": 0.0})
        force.setParticles([int(index) for index in self.heavy])
        system.addForce(force)

    def _density_force(self, state):
        if self._terms is None:
            return 0.0, np.zeros((len(self.heavy), 3))
        coefficients, scale, origin = self._terms
        factor = state.getParameters()["map_weight"] * self._weight
        points = 10.0 * state.getPositions(asNumpy=True)._value
        values, gradient = np.empty(len(points)), np.empty((len(points), 3))
        _kernels.map_values(coefficients, (points - origin) / scale, values, gradient)
        energy, pull = float(-(factor * values).sum()), 10.0 / scale * factor[:, None] * gradient
        if self._held is not None:
            stiff, places = self._held
            off = np.where(self._main[:, None], points - places, 0.0)
            energy += 0.5 * stiff * float((off**2).sum())
            pull -= 10.0 * stiff * off
        return energy, pull

    def _cmap(self, system, ramachandran):
        library = ramachandran if isinstance(ramachandran, FragmentLibrary) else None
        force, chains = self._mm.CMAPTorsionForce(), self.chains
        for table in RAMA_KT * ramachandran_energy(library):
            size = len(table)  # OpenMM counts angles from 0°, φ fastest
            force.addMap(size, np.roll(table, (-(size // 2), -(size // 2)), (0, 1)).ravel(order="F").tolist())
        place = {int(slot): int(index) for slot, index in zip(self.slots, self.heavy) if slot >= 0}
        kinds = _rama_kind(chains.names == "GLY", chains.names == "PRO", chains.segment)
        for i in range(1, len(chains) - 1):
            if chains.segment[i - 1] == chains.segment[i + 1]:
                here = [place[i * SLOTS + k] for k in range(3)]
                before, after = place[(i - 1) * SLOTS + 2], place[(i + 1) * SLOTS]
                force.addTorsion(int(kinds[i]), before, *here, *here, after)
        system.addForce(force)

    def run(self, xyz, field, resolution, *, rng, picoseconds=3.0, warm=WARM, minimise=100, hold=False):
        """Warm the chains in the map, cool them to nothing, and go downhill.

        Parameters
        ----------
        xyz : ndarray (n, 14, 3)
            Å.
        field : Field
            Its map is used.
        resolution : float
            Å; sets the weight of the map.
        rng : seed or Generator
            Of the velocities.
        picoseconds : float
            Of molecular dynamics, 500 steps each; 0 minimises only.
        warm : float
            K at the start.
        minimise : int
            Steps of minimisation before and after.
        hold : bool
            Whether N, CA, C and O are held where they start (`cryonb.atomic.minimise.hold_weight`).

        Returns
        -------
        xyz : ndarray (n, 14, 3)
        energy : float
            kJ/mol, the map's share included.

        Raises
        ------
        ValueError
            The dynamics failed (an energy that is not finite).
        """
        self._terms = field.coefficients, field.scale, field.origin
        context, unit = self.context, self._unit
        seed = int(np.random.default_rng(rng).integers(1, 2**31 - 1))
        context.getIntegrator().setRandomNumberSeed(seed)
        context.reinitialize()  # a seed counts from here on only
        weight = ANNEAL_WEIGHT * (REFERENCE / resolution) ** FADE
        context.setParameter("map_weight", weight)
        start = self._all_atoms(xyz) / 10.0
        self._held = (hold_weight(weight), 10.0 * start[self.heavy]) if hold else None
        for picoseconds_now, downhill in ((picoseconds, minimise), (0.0, 5 * minimise)):
            context.setPositions(start)
            try:
                self._anneal(seed, int(round(picoseconds_now / STEP_PS)), warm, downhill)
                break
            except self._mm.OpenMMException as error:  # atoms on top of each other: go downhill only
                if "NaN" not in str(error) or picoseconds_now == 0:
                    raise ValueError(f"annealing failed: {error}") from error
        state = context.getState(getPositions=True, getEnergy=True)
        found = 10.0 * state.getPositions(asNumpy=True)._value
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        if not np.isfinite(found).all() or not np.isfinite(energy):
            raise ValueError("annealing failed: coordinates are not finite; are atoms on top of each other?")
        moved = np.array(xyz, dtype=np.float64)
        inside = self.slots >= 0
        moved.reshape(-1, 3)[self.slots[inside]] = found[self.heavy[inside]]
        return moved, float(energy)

    def _anneal(self, seed, steps, warm, minimise):
        context = self.context
        self._mm.LocalEnergyMinimizer.minimize(context, 10.0, minimise)
        if steps:
            integrator = context.getIntegrator()
            context.setVelocitiesToTemperature(warm, seed)
            for part in range(20):
                integrator.setTemperature(warm * (1 - part / 20))
                integrator.step(max(1, steps // 20))
            self._mm.LocalEnergyMinimizer.minimize(context, 5.0, minimise)

    def _all_atoms(self, xyz):
        """Heavy atoms, C-terminal oxygens, hydrogens and what stays, in OpenMM's order, Å."""
        whole = np.zeros((self._count, 3))
        flat, inside = np.asarray(xyz).reshape(-1, 3), self.slots >= 0
        whole[self.heavy[inside]] = flat[self.slots[inside]]
        ends = np.flatnonzero(~inside)
        residues = -self.slots[ends] - 1
        whole[self.heavy[ends]] = _terminal_oxygen(np.asarray(xyz)[residues])
        _, parent, a, b = self._hydrogen_rows.T
        bond, angle, torsion = self._hydrogen_form
        whole[self._hydrogen_rows[:, 0]] = place_atom(whole[b], whole[a], whole[parent], bond, angle, torsion)
        return np.concatenate([whole, self._neighbours])


@contextlib.contextmanager
def _same_every_time():
    """OpenMM places hydrogens with Python's own random numbers; here they are always the same."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def _screen(system, openmm):
    """Charges as if in a medium: in vacuum those of side chains pull main chains out of their density."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for index in range(force.getNumParticles()):
                charge, sigma, depth = force.getParticleParameters(index)
                force.setParticleParameters(index, CHARGE * charge, sigma, depth)
            for index in range(force.getNumExceptions()):
                first, second, product, sigma, depth = force.getExceptionParameters(index)
                force.setExceptionParameters(index, first, second, CHARGE**2 * product, sigma, depth)


def _terminal_oxygen(blocks):
    """OXT of residues (k, 14, 3)."""
    n, ca, c, o = (blocks[..., slot, :] for slot in range(4))
    from ..protein import dihedral

    return place_atom(n, ca, c, 1.25, 117.0, dihedral(n, ca, c, o) + 180.0)


def _alone(chains):
    """Residues that are a segment by themselves, (n,) bool."""
    _, segment, count = np.unique(chains.segment, return_inverse=True, return_counts=True)
    return count[segment] == 1


def _topology(chains, app):
    """OpenMM's topology of heavy atoms, their positions, and each one's slot (−1 − residue for an added OXT)."""
    topology, slots, positions, sulphur = app.Topology(), [], [], {}
    last = np.append(chains.segment[1:] != chains.segment[:-1], True)
    current = None
    for i in np.flatnonzero(~_alone(chains)):
        name = chains.names[i]
        if i == 0 or chains.segment[i] != chains.segment[i - 1]:
            current = topology.addChain()
        residue = topology.addResidue(str(name), current)
        for slot, atom in enumerate(atom_names(str(name))):
            made = topology.addAtom(atom, app.Element.getBySymbol(atom[0]), residue)
            slots.append(i * SLOTS + slot)
            positions.append(chains.xyz[i, slot])
            if atom == "SG":
                sulphur[i] = made
        if last[i]:
            topology.addAtom("OXT", app.Element.getBySymbol("O"), residue)
            slots.append(-i - 1)
            positions.append(_terminal_oxygen(chains.xyz[i]))
    topology.createStandardBonds()
    free = set(sulphur)
    pairs = sorted(
        (float(np.linalg.norm(chains.xyz[i, 5] - chains.xyz[j, 5])), i, j) for i in sulphur for j in sulphur if i < j
    )
    for distance, i, j in pairs:
        if distance < BRIDGED and {i, j} <= free:
            topology.addBond(sulphur[i], sulphur[j])
            free -= {i, j}
    return topology, np.array(positions), np.array(slots)


def _variants(topology):
    """Histidines as HIE; everything else as OpenMM chooses at pH 7."""
    return ["HIE" if residue.name == "HIS" else None for residue in topology.residues()]
