"""Some chains of a file are refined, the rest stays as it is: as atoms, as density, and in the file that is written."""

import importlib.util
import sys
from dataclasses import replace

import gemmi
import numpy as np
import pytest

from cryonb import io, simulate
from cryonb.__main__ import main
from cryonb.atomic import Chains, Field, FragmentLibrary, Protocol, fragment_library, refine_model
from cryonb.atomic.clashes import clashes
from cryonb.atomic.density import sample
from cryonb.atomic.surroundings import isolated_map
from cryonb.types import AtomicModel

QUICK = Protocol(models=1, rounds=1, fragments=0, register=False, anneal=False)


def fragment(name, first, count, offset=0.0):
    """A chain from the shipped library, with built side chains."""
    library, part = fragment_library(), slice(first, first + count)
    columns = (library.main_chain[part], library.sequence[part], np.zeros(count, int), library.chi[part])
    chain = FragmentLibrary(*columns, ("made",)).model("made", b_factor=20.0).structure[0][0].clone()
    chain.name = name
    for residue in chain:
        for atom in residue:
            atom.pos.x += offset
    return chain


def hetero(name, number, atoms):
    """A residue that is not protein, of (atom, element, position)."""
    residue = gemmi.Residue()
    residue.name, residue.seqid, residue.het_flag = name, gemmi.SeqId(str(number)), "H"
    for label, element, position in atoms:
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos = label, gemmi.Element(element), gemmi.Position(*position)
        atom.b_iso, atom.occ = 31.5, 0.75
        residue.add_atom(atom)
    return residue


@pytest.fixture(scope="module")
def crowd():
    """Chain A beside chain B (with hydrogens and two conformers), a nucleotide and zinc, within 3 to 4 Å of it."""
    structure = FragmentLibrary(
        fragment_library().main_chain[:3], fragment_library().sequence[:3], np.zeros(3, int),
        fragment_library().chi[:3], ("made",),
    ).model("made").structure.clone()  # fmt: skip
    structure[0].remove_chain(structure[0][0].name)
    first, second = fragment("A", 0, 24), fragment("B", 40, 16)
    own = np.array([atom.pos.tolist() for residue in first for atom in residue])
    other = np.array([atom.pos.tolist() for residue in second for atom in residue])
    step = own.mean(axis=0) - other.mean(axis=0)
    while np.linalg.norm((other + step)[:, None] - own[None], axis=2).min() < 3.2:
        step[0] += 0.5
    for residue in second:
        for atom in residue:
            atom.pos = gemmi.Position(*(np.array(atom.pos.tolist()) + step))
    for chain in (first, second):
        atom = gemmi.Atom()
        atom.name, atom.element = "HA", gemmi.Element("H")
        atom.pos = gemmi.Position(*(np.array(chain[3]["CA"][0].pos.tolist()) + [0, 0, 1.0]))
        chain[3].add_atom(atom)
    for letter, share in (("A", 0.6), ("B", 0.4)):
        atom = second[5]["CB"][0].clone() if letter == "B" else second[5]["CB"][0]
        atom.altloc, atom.occ = letter, share
        if letter == "B":
            second[5].add_atom(atom)
    left, front = (own[own[:, axis].argmin()] - 3.5 * np.eye(3)[axis] for axis in (0, 1))
    first.add_residue(hetero("ZN", 900, [("ZN", "Zn", left)]))
    first.add_residue(hetero("U", 901, [("P", "P", front), ("OP1", "O", front - [0, 1.5, 0])]))
    structure[0].add_chain(first)
    structure[0].add_chain(second)
    return AtomicModel(structure)


def rows(model, chain):
    """Every atom that is not protein of this chain, as the file has it."""
    return [
        (c.name, str(r.seqid), r.name, a.name, a.altloc, a.element.name, tuple(a.pos.tolist()), a.b_iso, a.occ)
        for c in model.structure[0] for r in c if c.name != chain or r.name in ("ZN", "U") for a in r
    ]  # fmt: skip


@pytest.fixture(scope="module")
def halves(crowd):
    return simulate.half_maps(crowd, 3.0, rng=0)


@pytest.fixture(scope="module")
def shaken(crowd):
    """The crowd with chain A shaken by half an Å."""
    part = Chains.of(crowd).named(["A"])
    xyz = part.xyz + np.random.default_rng(1).normal(0, 0.5 / np.sqrt(3), part.xyz.shape)
    model = part.moved(xyz).to_model()
    assert rows(model, "A") == rows(crowd, "A")
    return model


def test_named_chains_and_their_surroundings(crowd):
    everything = Chains.of(crowd)
    part = everything.named(["A"])
    assert len(everything) == 40 and len(part) == 24 and {chain for chain, _ in part.sites} == {"A"}
    assert set(part.other_elements) == {"C", "N", "O", "P", "Zn", *(["S"] if "S" in part.other_elements else [])}
    assert len(part.others) == len(everything.others) + everything.present[24:].sum()
    assert 0 < len(part.near(8.0).others) < len(part.others)
    assert part.owns(crowd).sum() == part.present.sum() + 1  # a hydrogen
    assert part.cut_out().owns(part.cut_out().model).all()
    assert "ZN" in part.cut_out(8.0).model.residue_names and "ZN" not in part.cut_out(2.0).model.residue_names
    for wanted in (["C"], ["A", "C"], []):
        with pytest.raises(ValueError, match="model's protein chains are A, B"):
            everything.named(wanted)


def test_only_the_neighbours_density_is_taken_out(crowd, shaken):
    """Also where the chain is badly placed, the map on another scale, and atoms are blurred."""
    clean = simulate.half_maps(crowd, 3.0, rng=0).clean
    part = Chains.of(shaken).named(["A"])
    left = isolated_map(clean.with_data(7 * clean.data + 2), part)
    assert left.size_px < clean.size_px and left.voxel_size == clean.voxel_size
    own, true = part.present, Chains.of(crowd).xyz[:24]
    at_own, at_rest = (sample(left, points) for points in (true[own], part.others))
    was = [7 * sample(clean, points) for points in (true[own], part.others)]
    assert abs(at_rest).mean() < 0.12 * was[1].mean()
    assert at_own.mean() > 0.85 * was[0].mean()
    assert isolated_map(clean, Chains.of(crowd).named(["A"]).cut_out()) is clean  # nothing there to take out


def test_what_is_not_named_stays_as_it_is(crowd, shaken, halves):
    found = refine_model(halves.half_1, halves.half_2, shaken, 3.0, rng=0, chains=["A"], protocol=QUICK)
    assert rows(found.model, "A") == rows(crowd, "A") == rows(found.models[0], "A")
    assert {chain for chain, _ in found.sites} == {"A"} and len(found.probability_wrong) == 24
    assert np.isfinite(found.probability_wrong).all()
    true, start, end = (Chains.of(model).xyz[:24] for model in (crowd, shaken, found.model))
    off = [np.sqrt((((xyz - true)[:, :4]) ** 2).sum(-1).mean()) for xyz in (start, end)]
    assert off[1] < 0.3 < 0.4 < off[0]
    assert "H" not in {atom.element.name for residue in found.model.structure[0][0] for atom in residue}
    assert any("stay where they are, and their density was taken out" in note for note in found.notes)
    assert any("of what stays where it is" in note for note in found.notes)
    both = refine_model(halves.half_1, halves.half_2, shaken, 3.0, rng=0, protocol=QUICK)
    assert {chain for chain, _ in both.sites} == {"A", "B"}
    with pytest.raises(ValueError, match="got 'X'; the model's protein chains are A, B"):
        refine_model(halves.half_1, halves.half_2, shaken, 3.0, rng=0, chains="X", protocol=QUICK)


@pytest.mark.parametrize("first", [1, 3])  # glycine, which has no torsions of its own, and tyrosine
def test_a_chain_of_one_residue(crowd, first):
    pytest.importorskip("openmm")
    structure = crowd.structure.clone()
    structure[0].add_chain(fragment("Z", first, 1, offset=-14.0))
    model = AtomicModel(structure)
    halves = simulate.half_maps(model, 3.0, rng=0)
    protocol = replace(QUICK, anneal=True)
    found = refine_model(halves.half_1, halves.half_2, model, 3.0, rng=0, chains=["Z"], protocol=protocol)
    assert len(found.sites) == 1 and rows(found.model, "Z") == rows(model, "Z")


def test_contacts_are_by_element(crowd):
    """A zinc may come as near to oxygen as it does in crystals, a phosphorus may not."""
    part = Chains.of(crowd).named(["A"]).completed()
    oxygen = part.xyz[10, 3]
    energies = {}
    for element in ("Zn", "P", "Xx"):
        alone = replace(part, others=oxygen[None] + [[0, 0, 2.1]], other_elements=np.array([element]))
        bare = replace(part, others=np.zeros((0, 3)), other_elements=np.zeros(0, str))
        pair = [Field(chains).window([10], part.xyz) for chains in (alone, bare)]
        energies[element] = pair[0].energy(part.xyz) - pair[1].energy(part.xyz)
    assert energies["Zn"] < energies["P"] - 20 and energies["Xx"] < energies["P"]


def test_annealing_gives_neighbours_the_size_of_their_element(crowd):
    openmm = pytest.importorskip("openmm")
    from cryonb.atomic.anneal import FIXED, FIXED_METAL, REACH, Annealer

    part = Chains.of(crowd).named(["A"]).completed()
    annealer = Annealer(part)
    near = part.near(REACH)
    assert np.allclose(annealer._neighbours, near.others)
    force = next(f for f in annealer.context.getSystem().getForces() if isinstance(f, openmm.NonbondedForce))
    sizes = [force.getParticleParameters(annealer._count + row)[1]._value for row in range(len(near.others))]
    expected = [FIXED.get(element, FIXED_METAL)[0] for element in near.other_elements]
    assert np.allclose(sizes, expected) and len(set(expected)) > 2


def test_clashes_of_some_atoms(crowd):
    every = clashes(crowd)
    ours = clashes(crowd, among=crowd.chains == "A")
    theirs = clashes(crowd, among=crowd.chains == "B")
    assert ours.n_atoms + theirs.n_atoms == every.n_atoms
    assert set(map(tuple, ours.pairs)) | set(map(tuple, theirs.pairs)) == set(map(tuple, every.pairs))


def test_a_ribosomal_protein_among_rna(shared_data):
    """Residues 2 to 31 of L37 of 6ZU5 with what lies within 6 Å, shaken by 1 Å."""
    whole = io.read_model(shared_data / "ribosome" / "6zu5.cif.gz")
    everything = Chains.of(whole)
    chosen = np.flatnonzero([chain == "LJJ" for chain, _ in everything.sites])[:30]
    truth = everything.part(chosen).near(6.0).cut_out(6.0)
    halves = simulate.half_maps(truth.model, 3.0, rng=0)
    part = Chains.of(truth.model).named(["LJJ"])
    points = part.xyz[part.present]
    near = np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 18) + 1e-6 * np.eye(len(points))
    shake = np.linalg.cholesky(near) @ np.random.default_rng(1).normal(size=points.shape)
    xyz = part.xyz.copy()
    xyz[part.present] += shake / np.sqrt((shake**2).sum(axis=1).mean())
    start = part.moved(xyz).to_model()
    found = refine_model(halves.half_1, halves.half_2, start, 3.0, rng=0, chains=["LJJ"], protocol=QUICK)
    mine = part.owns(start)
    assert (~mine).sum() > 500 and np.array_equal(found.model.coordinates[~mine], truth.model.coordinates[~mine])
    end = Chains.of(found.model).named(["LJJ"]).xyz
    off = [np.sqrt(((x - part.xyz)[:, 1] ** 2).sum(-1).mean()) for x in (xyz, end)]
    assert off[1] < 0.6 < 0.9 < off[0]


def test_command_refines_a_chain(shaken, halves, tmp_path, capsys):
    pytest.importorskip("openmm")
    io.write_volume(halves.half_1, tmp_path / "1.mrc")
    io.write_volume(halves.half_2, tmp_path / "2.mrc")
    io.write_model(shaken, tmp_path / "start.cif")
    given = ["--half1", str(tmp_path / "1.mrc"), "--half2", str(tmp_path / "2.mrc"), "--resolution", "3.0", "--quiet"]
    rest = ["--model", str(tmp_path / "start.cif"), "--models", "1", "--rounds", "1", "--workers", "1"]
    call = ["refine-model", *given, *rest, "--out", str(tmp_path / "out"), "--chain"]
    assert main([*call, "Q"]) == 1
    assert "protein chains are A, B" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*call, "A"]) == 0
    table = (tmp_path / "out" / "residues.csv").read_text().splitlines()
    assert len(table) == 25 and {line.split(",")[0] for line in table[1:]} == {"A"}
    start = io.read_model(tmp_path / "start.cif")
    assert rows(io.read_model(tmp_path / "out" / "model.cif"), "A") == rows(start, "A")


def test_an_unbound_form_is_laid_over_the_bound_one(shared_data, root, monkeypatch):
    """The start of ``benchmarks/atomic.py --start unbound``: the same residues, no ligands, apart but not far."""
    where = importlib.util.spec_from_file_location("atomic_benchmark", root / "benchmarks" / "atomic.py")
    benchmark = importlib.util.module_from_spec(where)
    monkeypatch.setitem(sys.modules, "atomic_benchmark", benchmark)  # its dataclass looks itself up there
    where.loader.exec_module(benchmark)
    case = benchmark.unbound_case("1A2K_l_bound", 3.0, 1)
    assert case.truth.names.tolist() == case.start.names.tolist() and case.truth.sites == case.start.sites
    assert len(case.truth) == 195 and len(case.start.others) == 0
    off, _ = benchmark.deviations(case.truth, case.start.xyz)
    assert 0.3 < np.median(off) < 0.7 and 1.0 < np.sqrt((off**2).mean()) < 1.3
    assert np.array_equal(case.flipped, benchmark.flipped(case.truth, case.start.xyz)) and not case.register.any()
