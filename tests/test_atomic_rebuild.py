"""Rebuilding atomic models: ideal geometry, fragments, local minimiser, moves, annealing, selection."""

import numpy as np
import pytest
import scipy.ndimage

from cryonb import io, samples
from cryonb.atomic import Chains, Field, build_side_chain, chi_angles, fragment_library, main_chain_angles
from cryonb.atomic.fragments import BLOSUM62, THREE
from cryonb.types import Volume

TESTED = "models/bm5/1FSK_l_bound.pdb.gz"


@pytest.fixture(scope="module")
def chains(shared_data):
    return Chains.of(io.read_model(shared_data / TESTED)).completed()


def made_of_fragments(first=0, count=24):
    """A chain from the shipped library with built side chains, for machines without the real data."""
    import gemmi

    from cryonb.types import AtomicModel

    library = fragment_library()
    structure = gemmi.Structure()
    chain = structure.add_model(gemmi.Model(1)).add_chain("A")
    for i in range(first, first + count):
        residue = gemmi.Residue()
        residue.name, residue.seqid = THREE[library.sequence[i]], gemmi.SeqId(i - first + 1, " ")
        main = library.main_chain[i]
        side = build_side_chain(residue.name, main, np.nan_to_num(library.chi[i], nan=180.0))
        from cryonb.atomic.residues import atom_names

        for name, position in zip(atom_names(residue.name), np.concatenate([main, side])):
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = name, gemmi.Element(name[0]), gemmi.Position(*position)
            residue.add_atom(atom)
        chain.add_residue(residue)
    return AtomicModel(structure)


@pytest.fixture(scope="module")
def short():
    return Chains.of(made_of_fragments()).completed()


def test_model_and_chains_are_inverse(chains):
    again = Chains.of(chains.to_model())
    assert np.array_equal(again.names, chains.names) and np.allclose(again.xyz, chains.xyz, equal_nan=True)
    assert len(again.others) == len(chains.others)


def test_side_chains_are_rebuilt_from_their_angles(chains):
    off = []
    for i, name in enumerate(chains.names):
        if name not in ("GLY", "ALA", "PRO"):
            built = build_side_chain(name, chains.xyz[i], chi_angles(name, chains.xyz[i]))
            off.append(np.sqrt(((built - chains.xyz[i, 4 : 4 + len(built)]) ** 2).sum(-1).mean()))
    assert np.median(off) < 0.25


def test_missing_atoms_are_built(short):
    xyz = short.xyz.copy()
    xyz[5, 3:] = np.nan
    whole = short.moved(xyz).completed()
    assert np.array_equal(whole.present, short.expected)
    assert np.linalg.norm(whole.xyz[5, 3] - short.xyz[5, 3]) < 0.4


def test_a_library_fragment_is_found_where_it_came_from():
    library = fragment_library()
    names = [THREE[code] for code in library.sequence[500:509]]
    found = library.search(
        library.main_chain[500], library.main_chain[508], names, structure=library.structure[500:509]
    )
    assert found.start[0] == 500 and found.end_rms[0] < 1e-6
    assert np.allclose(found.main_chain[0], library.main_chain[500:509], atol=1e-6)
    assert np.array_equal(BLOSUM62, BLOSUM62.T)


def test_homologues_leave_the_library():
    library = fragment_library()
    own = library.chain == 3
    rest = library.without([[THREE[code] for code in library.sequence[own]]])
    assert library.names[3] not in {rest.names[number] for number in np.unique(rest.chain)}
    assert len(rest) > 0.8 * len(library)


def test_library_survives_a_file(tmp_path):
    library = fragment_library()
    library.save(tmp_path / "copy.npz")
    again = type(library).load(tmp_path / "copy.npz")
    assert np.array_equal(again.sequence, library.sequence)
    assert np.nanmax(np.abs(again.angles - library.angles)) < 3.0


def test_library_of_a_folder(tmp_path, short):
    io.write_model(short.to_model(), tmp_path / "one.cif")
    (tmp_path / "note.txt").write_text("no structure")
    library = type(fragment_library()).from_structures(tmp_path)
    assert len(library) == len(short)
    with pytest.raises(ValueError, match="expected PDB or mmCIF files"):
        type(library).from_structures(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")


def test_shipped_library_is_the_registered_one():
    assert samples.sample_path("fragments.npz").stat().st_size < 3_000_000


def noise_map(xyz, seed=0):
    low = np.nanmin(xyz, axis=(0, 1)) - 8
    size = int(np.ceil((np.nanmax(xyz, axis=(0, 1)) + 8 - low).max() / 1.2))
    data = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(size,) * 3), 1.5)
    return Volume(data / data.std(), 1.2, low)


def test_gradient_equals_finite_differences(short):
    rng = np.random.default_rng(1)
    field = Field(short, noise_map(short.xyz))
    xyz = short.xyz + 0.2 * rng.normal(size=short.xyz.shape)
    window = field.window(range(6, 14), xyz)
    gradient, atoms = window.gradient(xyz)
    for row in range(0, len(atoms), 9):
        for axis in range(3):
            ends = []
            for step in (1e-5, -1e-5):
                moved = xyz.copy()
                moved.reshape(-1, 3)[atoms[row], axis] += step
                ends.append(window.energy(moved))
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(gradient[row, axis], rel=1e-4, abs=0.05)


def test_minimiser_restores_geometry_and_holds_the_rest(short):
    rng = np.random.default_rng(2)
    field = Field(short)
    shaken = short.xyz.copy()
    shaken[8:12] += 0.3 * rng.normal(size=shaken[8:12].shape)
    window = field.window(range(8, 12), shaken)
    found, energy = window.minimise(shaken, steps=200)
    assert energy < 0.05 * window.energy(shaken)
    same = np.r_[0:8, 12 : len(short)]
    assert np.array_equal(found[same], shaken[same], equal_nan=True)
    omega = main_chain_angles(short.moved(found))[8:12, 2]
    assert (np.abs(omega) > 160).all()


def test_density_pulls(short):
    """A Gaussian map of the true atoms draws shaken side chains back."""
    volume = noise_map(short.xyz)
    data = np.zeros(volume.data.shape)
    place = np.rint((short.xyz[short.present] - volume.origin) / 1.2).astype(int)
    np.add.at(data, tuple(place[:, ::-1].T), 1.0)
    data = scipy.ndimage.gaussian_filter(data, 0.9)
    field = Field(short, volume.with_data(data / data.std()))
    shaken = short.xyz + 0.4 * np.random.default_rng(3).normal(size=short.xyz.shape)
    found, _ = field.window(range(len(short)), shaken).minimise(shaken, steps=200)
    rms = [np.sqrt(np.nanmean(((x - short.xyz) ** 2).sum(-1))) for x in (shaken, found)]
    assert rms[1] < 0.6 * rms[0]


def test_incomplete_chains_are_refused(short):
    xyz = short.xyz.copy()
    xyz[3, 4] = np.nan
    with pytest.raises(ValueError, match="lacks 1 atoms"):
        Field(short.moved(xyz))
