"""What `refine_model` makes of files as they come: conformers, ligands, gaps, missing side chains, open disulfides."""

from dataclasses import replace

import gemmi
import numpy as np
import pytest

from cryonb import simulate
from cryonb.atomic import Chains, Protocol, build_side_chain, fragment_library, refine_model
from cryonb.types import AtomicModel, Volume

QUICK = Protocol(models=1, rounds=1, fragments=0, register=False, anneal=False)


@pytest.fixture(scope="module")
def crambin():
    """46 residues and three disulfides (PDB 1EJG), as the shipped library has them."""
    return fragment_library().model("1ejg", b_factor=20.0)


@pytest.fixture(scope="module")
def halves(crambin):
    return simulate.half_maps(crambin, 3.0, rng=0)


def refined(halves, model, *, annealed=False):
    protocol = replace(QUICK, anneal=annealed, picoseconds=0.2)
    return refine_model(halves.half_1, halves.half_2, model, 3.0, rng=0, protocol=protocol)


def changed(model, change):
    """A copy of the model in which ``change`` has worked on the chain."""
    structure = model.structure.clone()
    change(structure[0][0])
    return AtomicModel(structure)


def main_chain_rms(model, truth):
    off = Chains.of(model).xyz[:, :4] - Chains.of(truth).xyz[:, :4]
    return np.sqrt((off**2).sum(-1).mean())


def test_alternate_conformers(crambin, halves):
    """Of two places of an atom the likelier is kept, of two kinds of residue at one place too, and it is said."""

    def split(chain):
        residue = chain[12]
        for atom in list(residue):
            second = atom.clone()
            atom.altloc, atom.occ, second.altloc, second.occ = "A", 0.4, "B", 0.6
            atom.pos = gemmi.Position(*(np.array(atom.pos.tolist()) + [0.0, 0.8, 0.0]))
            residue.add_atom(second)
        for atom in chain[20]:
            atom.altloc, atom.occ = "A", 0.7
        other = chain[20].clone()
        other.name = "GLY"
        for name in ("CB", "CG", "OG1", "CG2"):
            for atom in [atom for atom in other if atom.name == name]:
                other.remove_atom(atom.name, atom.altloc, atom.element)
        for atom in other:
            atom.altloc, atom.occ = "B", 0.3
        chain.add_residue(other, 21)

    model = changed(crambin, split)
    assert len(model.structure[0][0]) == 47
    chains = Chains.of(model)
    assert chains.names.tolist() == Chains.of(crambin).names.tolist() and len(set(chains.segment)) == 1
    assert np.allclose(chains.xyz[12], Chains.of(crambin).xyz[12], equal_nan=True)
    found = refined(halves, model)
    assert any("alternate conformers" in note for note in found.notes)
    assert len(found.model.structure[0][0]) == 46 and len(found.sites) == 46
    assert {site.atom.altloc for site in found.model.structure[0].all()} == {"\0"}
    assert main_chain_rms(found.model, crambin) < 0.3


@pytest.mark.parametrize("annealed", [False, True])
def test_unknown_ligands_and_modified_residues_are_rigid(crambin, halves, annealed):
    """A ligand that no table knows, and an amino acid that is not one of the twenty, stay where they are."""

    if annealed:
        pytest.importorskip("openmm")

    def add(chain):
        chain[10].name = "XAA"
        ligand = gemmi.Residue()
        ligand.name, ligand.seqid, ligand.het_flag = "Q0Q", gemmi.SeqId("500"), "H"
        corner = np.array([atom.pos.tolist() for residue in chain for atom in residue]).max(axis=0)
        for number, element in enumerate(("C", "Xe", "Zn", "P", "F", "C")):
            atom = gemmi.Atom()
            atom.name, atom.element, atom.b_iso = f"{element.upper()}{number}", gemmi.Element(element), 44.0
            atom.pos = gemmi.Position(*(corner + [1.4 * number - 6.0, 0.0, -6.0]))
            ligand.add_atom(atom)
        chain.add_residue(ligand)

    model = changed(crambin, add)
    found = refined(halves, model, annealed=annealed)
    assert len(found.sites) == 45 and any("stay where they are" in note for note in found.notes)
    assert "bonds to what stays where it is were kept: A/ARG 10, A/ASN 12" in found.notes
    for name in ("XAA", "Q0Q"):
        before, after = (
            [(a.name, tuple(a.pos.tolist()), a.b_iso) for r in m.structure[0][0] if r.name == name for a in r]
            for m in (model, found.model)
        )
        assert len(before) > 3 and before == after
    linked = found.model.structure[0][0]
    assert linked[9]["C"][0].pos.dist(linked[10]["N"][0].pos) < 1.6  # still bonded to what stayed
    assert linked[10]["C"][0].pos.dist(linked[11]["N"][0].pos) < 1.6


def test_side_chains_and_missing_atoms_are_built(crambin, halves):
    def strip(chain):
        for residue in chain:
            for name in [atom.name for atom in residue if atom.name not in ("N", "CA", "C", "O")]:
                residue.remove_atom(name, "\0")

    bare = changed(crambin, strip)
    assert len(bare) == 4 * 46
    found = refined(halves, bare)
    assert any("all were built" in note for note in found.notes)
    chains = Chains.of(found.model)
    assert np.array_equal(chains.present, chains.expected)
    true, built = (Chains.of(model).xyz[:, 4:] for model in (crambin, found.model))
    long = chains.expected[:, 5]
    off = np.sqrt(np.nanmean(((built - true) ** 2).sum(-1)[long], axis=1))
    assert np.median(off) < 0.8

    def lose(chain):
        for i, name in ((4, "O"), (9, "CB"), (20, "CG2")):
            chain[i].remove_atom(name, "\0")

    found = refined(halves, changed(crambin, lose))
    assert any("3 missing atoms were built" in note for note in found.notes)
    assert len(found.model) == len(crambin) and main_chain_rms(found.model, crambin) < 0.3


def test_a_trace_and_what_is_no_protein_are_refused(crambin, halves):
    def trace(chain):
        for residue in chain:
            for name in [atom.name for atom in residue if atom.name != "CA"]:
                residue.remove_atom(name, "\0")

    with pytest.raises(ValueError, match="a Cα trace is not enough"):
        refined(halves, changed(crambin, trace))

    def double(chain):
        for residue in [residue.clone() for residue in chain][:10]:
            for atom in residue:
                atom.pos.x += 40
            chain.add_residue(residue)

    with pytest.raises(ValueError, match="A/THR 1 is there twice, at two places"):
        refined(halves, changed(crambin, double))
    with pytest.raises(TypeError, match="model must be an AtomicModel"):
        refined(halves, crambin.structure)


def test_maps_that_do_not_belong_to_the_model(crambin, halves):
    first, second = halves.half_1, halves.half_2
    far = Volume(first.data, first.voxel_size, first.origin + 300.0)
    with pytest.raises(ValueError, match=r"326 of 326 atoms lie outside the map, which reaches from"):
        refine_model(far, Volume(second.data, second.voxel_size, far.origin), crambin, 3.0, rng=0)
    with pytest.raises(ValueError, match="one grid"):
        refine_model(first, Volume(second.data[2:, 2:, 2:], second.voxel_size, second.origin), crambin, 3.0, rng=0)
    with pytest.raises(ValueError, match="one grid"):
        refine_model(first, Volume(second.data, 1.1 * second.voxel_size, second.origin), crambin, 3.0, rng=0)
    holed = second.data.copy()
    holed[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        refine_model(first, second.with_data(holed), crambin, 3.0, rng=0)
    with pytest.raises(TypeError, match="must be Volumes"):
        refine_model(first.data, second.data, crambin, 3.0, rng=0)


def test_a_disulfide_that_is_open_by_3_angstrom_is_closed_and_named(crambin, halves):
    """Cysteines 16 and 26 with their sulphurs turned away, the map showing the bond."""
    chains = Chains.of(crambin)
    i, j = 15, 25
    assert np.linalg.norm(chains.xyz[i, 5] - chains.xyz[j, 5]) < 2.3
    turns = np.arange(-180.0, 180.0, 10.0)[:, None]
    places = [build_side_chain("CYS", chains.xyz[k, :3], turns)[:, 1] for k in (i, j)]
    gap = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1)
    a, b = np.unravel_index(np.abs(gap - 5.05).argmin(), gap.shape)
    opened = chains.xyz.copy()
    opened[i, 5], opened[j, 5] = places[0][a], places[1][b]
    assert np.linalg.norm(opened[i, 5] - opened[j, 5]) == pytest.approx(5.05, abs=0.1)
    found = refined(halves, chains.moved(opened).to_model())
    end = Chains.of(found.model).xyz
    assert np.linalg.norm(end[i, 5] - end[j, 5]) == pytest.approx(2.05, abs=0.15)
    bridges = [str(move) for move in found.moves if move.kind == "disulfide"]
    assert len(bridges) == 1 and "/CYS 16" in bridges[0] and "/CYS 26" in bridges[0]


def test_bonds_to_what_stays_are_known(crambin):
    """A sugar that the file links to asparagine 12, the cut ends of a part, and its disulfides to the rest."""
    structure = crambin.structure.clone()
    chain = structure[0][0]
    assert chain[11].name == "ASN"
    sugar = gemmi.Residue()
    sugar.name, sugar.seqid, sugar.het_flag = "NAG", gemmi.SeqId("900"), "H"
    atom = gemmi.Atom()
    atom.name, atom.element = "C1", gemmi.Element("C")
    atom.pos = gemmi.Position(*(np.array(chain[11]["ND2"][0].pos.tolist()) + [0.0, 1.2, 0.8]))
    sugar.add_atom(atom)
    chain.add_residue(sugar)
    bond = gemmi.Connection()
    bond.type = gemmi.ConnectionType.Covale
    bond.partner1 = gemmi.make_address(chain, chain[11], chain[11]["ND2"][0])
    bond.partner2 = gemmi.make_address(chain, chain[-1], chain[-1]["C1"][0])
    structure.connections.append(bond)
    chains = Chains.of(AtomicModel(structure))
    (link,) = chains.links
    assert (link.residue, link.slot, link.point) == (11, 7, tuple(atom.pos.tolist()))
    assert link.length == pytest.approx(1.45, abs=0.05)
    part = chains.part(np.arange(10, 20))
    assert sorted((link.residue, link.slot) for link in part.links) == [(0, 0), (1, 7), (5, 5), (9, 2)]
    whole = Chains.of(crambin)
    assert whole.links == () and len(whole.part(np.arange(46)).links) == 0
