"""Rebuilding atomic models: ideal geometry, fragments, local minimiser, moves, annealing, selection."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage

from cryonb import io, samples, simulate
from cryonb.__main__ import main
from cryonb.atomic import (
    Chains,
    Field,
    FragmentLibrary,
    Protocol,
    build_side_chain,
    chi_angles,
    dock,
    fragment_library,
    main_chain_angles,
    map_weight,
    moves,
    rebuild,
    refine_model,
    training_map,
)
from cryonb.atomic.fragments import BLOSUM62, THREE, residue_codes
from cryonb.atomic.kinds import kind_log_odds
from cryonb.atomic.minimise import hold_weight
from cryonb.atomic.rebuild import EVIDENCE, keep_supported
from cryonb.atomic.register import _largest_sums, register_scan
from cryonb.types import Volume

TESTED = "models/bm5/1FSK_l_bound.pdb.gz"


@pytest.fixture(scope="module")
def chains(shared_data):
    return Chains.of(io.read_model(shared_data / TESTED)).completed()


def made_of_fragments(first=0, count=24):
    """A chain from the shipped library with built side chains, for machines without the real data."""
    library, part = fragment_library(), slice(first, first + count)
    columns = (library.main_chain[part], library.sequence[part], np.zeros(count, int), library.chi[part])
    return FragmentLibrary(*columns, ("made",)).model("made", b_factor=20.0)


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


def test_an_entry_of_the_library_is_a_model():
    library = fragment_library()
    model = library.model("1ubi", b_factor=12.0)
    own = np.array([library.names[number] == "1ubi" for number in library.chain])
    made = Chains.of(model)
    assert [THREE[code] for code in library.sequence[own]] == made.names.tolist()
    assert np.allclose(made.xyz[:, :4], library.main_chain[own], atol=1e-3) and set(model.b_factors) == {12.0}
    for row, i in enumerate(np.flatnonzero(own)):
        chi = chi_angles(made.names[row], made.xyz[row])
        assert np.allclose((chi - library.chi[i, : len(chi)] + 180) % 360, 180, atol=0.2)
    with pytest.raises(KeyError, match="no entry 'none'"):
        library.model("none")


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


def test_density_pulls(short, in_map):
    shaken = short.xyz + 0.4 * np.random.default_rng(3).normal(size=short.xyz.shape)
    found, _ = in_map.window(range(len(short)), shaken).minimise(shaken, steps=200)
    rms = [np.sqrt(np.nanmean(((x - short.xyz) ** 2).sum(-1))) for x in (shaken, found)]
    assert rms[1] < 0.6 * rms[0]


def test_incomplete_chains_are_refused(short):
    xyz = short.xyz.copy()
    xyz[3, 4] = np.nan
    with pytest.raises(ValueError, match="lacks 1 atoms"):
        Field(short.moved(xyz))


def planted(short, seed=0, shown=slice(None)):
    """A noisy map of the short chain, or of some residues of it."""
    volume = noise_map(short.xyz, seed)
    data = np.zeros(volume.data.shape)
    place = np.rint((short.xyz[shown][short.present[shown]] - volume.origin) / 1.2).astype(int)
    np.add.at(data, tuple(place[:, ::-1].T), 1.0)
    data = scipy.ndimage.gaussian_filter(data, 0.9)
    return Volume(data + 0.1 * data.std() * volume.data, 1.2, volume.origin)


@pytest.fixture(scope="module")
def in_map(short):
    return Field(short, training_map(planted(short), short, 3.0))


def test_training_map_has_its_own_unit_and_refuses_what_lies_outside(short):
    volume = planted(short)
    prepared = training_map(volume, short, 3.0)
    again = training_map(volume.with_data(7 * volume.data + 3), short, 3.0)
    assert np.allclose(prepared.data, again.data, atol=1e-4)
    with pytest.raises(ValueError, match="lie outside the map, which reaches from"):
        training_map(volume, short.moved(short.xyz + 500), 3.0)
    with pytest.raises(ValueError, match="NaN"):
        training_map(volume.with_data(np.full_like(volume.data, np.nan)), short, 3.0)


def test_a_turned_peptide_is_turned_back(short, in_map):
    wrong = short.xyz.copy()
    i = 9
    wrong[i, 2], wrong[i, 3], wrong[i + 1, 0] = moves._turned_planes(wrong, i, np.array([180.0]))[0]
    wrong, _ = in_map.window(range(i - 1, i + 3), wrong).minimise(wrong)
    direction = short.xyz[i, 3] - short.xyz[i, 2]
    assert (wrong[i, 3] - wrong[i, 2]) @ direction < 0
    found, made = moves.flip_peptides(in_map, wrong, residues=[i])
    assert (found[i, 3] - found[i, 2]) @ direction > 1.0
    assert [m.kind for m in made] == ["flip"] and made[0].evidence["energy_after"] < made[0].evidence["energy_before"]


def test_a_right_model_keeps_its_peptides_and_register(short, in_map):
    relaxed, _ = in_map.window(range(len(short)), short.xyz).minimise(short.xyz, steps=100)
    assert moves.flip_peptides(in_map, relaxed)[1] == []
    assert moves.shift_registers(in_map, relaxed, rng=0)[1] == []


def test_a_wrong_rotamer_is_mended(short, in_map):
    long = [i for i, name in enumerate(short.names) if name in ("LEU", "ILE", "PHE", "TYR", "MET", "GLN", "ASN", "HIS")]
    i = long[1]
    wrong = short.xyz.copy()
    chi = chi_angles(short.names[i], wrong[i])
    side = build_side_chain(short.names[i], wrong[i, :3], chi + np.r_[120.0, np.zeros(len(chi) - 1)])
    wrong[i, 4 : 4 + len(side)] = side
    found, made = moves.fit_rotamers(in_map, wrong, residues=[i])
    assert abs((chi_angles(short.names[i], found[i])[0] - chi[0] + 180) % 360 - 180) < 25
    assert made[0].residues == (i,) and "rotamer" in str(made[0])


def test_a_fragment_mends_a_broken_stretch(short, in_map):
    library = fragment_library()
    wrong = short.xyz.copy()
    wrong[8:13] += np.random.default_rng(4).normal(0, 1.2, wrong[8:13].shape)
    before = np.sqrt(np.nanmean(((wrong[8:13, :4] - short.xyz[8:13, :4]) ** 2).sum(-1)))
    found, move = moves.replace_fragment(in_map, wrong, 6, 14, library=library)
    after = np.sqrt(np.nanmean(((found[8:13, :4] - short.xyz[8:13, :4]) ** 2).sum(-1)))
    assert move is not None and after < 0.4 * before
    outside = np.r_[0:6, 15 : len(short)]
    assert np.array_equal(found[outside], wrong[outside], equal_nan=True)


@pytest.fixture(scope="module")
def half_shown(short):
    """The field of a map in which of the second twelve residues there is noise only."""
    return Field(short, training_map(planted(short, shown=slice(12)), short, 3.0))


def test_a_stretch_is_moved_only_where_the_map_speaks_for_it(short, half_shown):
    bent = short.xyz + np.array([0.0, 1.0, 0.0])
    found = keep_supported(half_shown, bent, short.xyz)
    off = np.sqrt(((found - short.xyz)[:, :4] ** 2).sum(-1).mean(1))
    assert off[:8].max() < 0.1  # seen to be wrong, moved
    assert np.array_equal(found[19:], bent[19:], equal_nan=True)  # not seen: as likely as the true place, it stays
    bond = np.linalg.norm(found[1:, 0] - found[:-1, 2], axis=1)
    assert np.abs(bond - 1.33).max() < 0.15  # one chain still
    assert np.array_equal(keep_supported(half_shown, short.xyz, bent), short.xyz, equal_nan=True)


def test_going_downhill_leaves_what_the_map_does_not_show(short, half_shown):
    """Relaxed at length, a main chain drifts along whatever costs nothing; held, it goes only where density pulls."""
    bent = short.xyz + np.random.default_rng(8).normal(0, 0.4, short.xyz.shape)
    window, off = half_shown.window(range(24), bent), []
    for hold in (0.0, hold_weight(map_weight(3.0))):
        found, _ = window.minimise(bent, steps=200, hold=hold)
        off += [np.sqrt(((found - xyz)[:, :4] ** 2).sum(-1).mean(1)) for xyz in (bent, short.xyz)]
    assert off[2][14:].mean() < 0.6 * off[0][14:].mean()  # not seen: less far from where it came
    assert off[3][:10].mean() < min(0.4, 1.1 * off[1][:10].mean())  # seen: where it belongs, held or not


def test_a_fragment_is_taken_only_where_the_map_speaks_for_it(short, half_shown):
    """The same wrong stretch where it is seen and where it is not; for its geometry it is mended in both places."""
    wrong = short.xyz.copy()
    for part in (slice(4, 9), slice(16, 21)):
        wrong[part] += np.random.default_rng(4).normal(0, 1.2, wrong[part].shape)
    for first, last, seen in ((2, 10, True), (14, 22, False)):
        _, asked = moves.replace_fragment(half_shown, wrong, first, last, evidence=EVIDENCE)
        _, free = moves.replace_fragment(half_shown, wrong, first, last)
        assert (asked is not None) == seen and free is not None


def test_annealing_and_fragments_leave_what_the_map_does_not_show(short, half_shown, monkeypatch):
    pytest.importorskip("openmm")
    volume = training_map(planted(short, shown=slice(12)), short, 3.0)
    off = dict(register=False, flips=False, rotamers=False, models=1, rounds=1)

    def moved(**switches):
        made = rebuild(short, volume, 3.0, rng=0, protocol=Protocol(**(off | switches)))[0].xyz
        return np.sqrt(((made - relaxed)[:, :4] ** 2).sum(-1).mean(1))[16:]

    relaxed = rebuild(short, volume, 3.0, rng=0, protocol=Protocol(**off, anneal=False, fragments=0))[0].xyz
    kept = moved(fragments=2)
    module = importlib.import_module("cryonb.atomic.rebuild")
    monkeypatch.setattr(module, "keep_supported", lambda _, before, after: after)
    free = moved(fragments=0)
    assert kept.mean() < 0.4 and kept.mean() < 0.6 * free.mean()


def slid(chains, first, last, resolution):
    """A field, and the chains with residues first … last slid by one in it, relaxed."""
    half = simulate.half_maps(chains.to_model(), resolution, rng=0).half_1
    field = Field(chains, training_map(half, chains, resolution), map_weight=map_weight(resolution))
    wrong = chains.xyz.copy()
    wrong[first : last + 1, :4] = chains.xyz[first + 1 : last + 2, :4]
    for i in (first - 1, last + 1):
        wrong[i, :4] = (wrong[i - 1, :4] + wrong[i + 1, :4]) / 2
    for i in range(first - 1, last + 2):
        side = build_side_chain(chains.names[i], wrong[i, :3], chi_angles(chains.names[i], chains.xyz[i]))
        wrong[i, 4:] = np.nan
        wrong[i, 4 : 4 + len(side)] = side
    return field, field.window(range(first - 10, last + 11), wrong).minimise(wrong, steps=150)[0]


def test_a_shifted_register_is_found_and_mended(chains):
    """Residues 30 … 45 of a crystal structure slid by one, in a simulated half map at 3 Å."""
    field, wrong = slid(chains, 30, 45, 3.0)
    assert np.median(np.linalg.norm(wrong[31:45, 1] - chains.xyz[31:45, 1], axis=1)) > 2.5
    found, made = moves.shift_registers(field, wrong, rng=0)
    assert np.median(np.linalg.norm(found[31:45, 1] - chains.xyz[31:45, 1], axis=1)) < 0.6
    assert [m.kind for m in made] == ["register"]
    assert made[0].evidence["gain"] > made[0].evidence["threshold"]


def test_a_shift_is_recognised_at_4_angstrom(chains):
    """Twelve residues; the support of single side chains proposed shifts by −1, −2 and 2 here, never the right one."""
    field, wrong = slid(chains, 30, 41, 4.0)
    first, *others = register_scan(field, wrong, rng=0)
    assert first.shift == 1 and first.sure and abs(first.first - 30) <= 3 and abs(first.last - 41) <= 3
    assert all(first.gain > 1.5 * other.gain for other in others)


def test_right_residues_between_two_shifts_part_them():
    gain = np.concatenate([np.full(10, 2.0), np.full(6, -2.0), np.full(9, 2.0), np.full(20, -2.0)])
    assert sorted(_largest_sums(gain)) == [(0, 9, 20.0), (16, 24, 18.0)]
    gain[10:16] = -1.0  # too little to be sure of
    assert _largest_sums(gain)[0] == (0, 24, 32.0)


@pytest.mark.parametrize("resolution", (3.0, 4.0, 4.5))
def test_no_shift_is_sure_in_a_right_model(chains, resolution):
    half = simulate.half_maps(chains.to_model(), resolution, rng=1).half_1
    field = Field(chains, training_map(half, chains, resolution), map_weight=map_weight(resolution))
    relaxed, _ = field.window(range(len(chains)), chains.xyz).minimise(chains.xyz, steps=200)
    assert [shift for shift in register_scan(field, relaxed, rng=0) if shift.sure] == []
    own = kind_log_odds(field, relaxed)[np.arange(len(chains)), residue_codes(chains.names)]
    assert own.mean() > {3.0: 1.0, 4.0: 0.5, 4.5: 0.2}[resolution]


def test_log_odds_of_residues_need_no_unit_and_no_side_chain(short, in_map):
    odds = kind_log_odds(in_map, short.xyz)
    assert odds.shape == (len(short), 20) and np.isfinite(odds).all()
    brighter = Field(short, map_weight=1.0)
    brighter.coefficients, brighter.scale, brighter.origin = 3 * in_map.coefficients, in_map.scale, in_map.origin
    assert np.allclose(kind_log_odds(brighter, short.xyz), odds, atol=1e-3)
    elsewhere = short.xyz.copy()
    elsewhere[8, 5:] += 2.0
    changed = np.abs(kind_log_odds(in_map, elsewhere) - odds).max(axis=1)
    assert changed[5:12].max() == 0 and changed.max() > 0


def test_an_open_disulfide_is_closed_and_named(shared_data):
    chains = Chains.of(io.read_model(shared_data / "models/bm5/1BVK_l_bound.pdb.gz")).completed()  # lysozyme
    half = simulate.half_maps(chains.to_model(), 3.0, rng=0).half_1
    field = Field(chains, training_map(half, chains, 3.0))
    cysteines = np.flatnonzero(chains.names == "CYS")
    gap = np.linalg.norm(chains.xyz[cysteines, None, 5] - chains.xyz[None, cysteines, 5], axis=-1)
    i, j = cysteines[np.argwhere((gap > 0) & (gap < 2.2))[0]]
    opened = chains.xyz.copy()
    for k in (i, j):
        chi = chi_angles("CYS", opened[k]) + 120.0
        opened[k, 4:6] = build_side_chain("CYS", opened[k, :3], chi)
    assert np.linalg.norm(opened[i, 5] - opened[j, 5]) > 4.5
    found, made = moves.close_disulfides(field, opened)
    assert np.linalg.norm(found[i, 5] - found[j, 5]) == pytest.approx(2.05, abs=0.2)
    assert (i, j) in [m.residues for m in made] and "CYS" in made[0].label


def test_annealing_keeps_a_right_model_and_mends_its_geometry(short, in_map):
    pytest.importorskip("openmm")
    from cryonb.atomic.anneal import Annealer

    shaken = short.xyz + 0.1 * np.random.default_rng(5).normal(size=short.xyz.shape)
    annealer = Annealer(short, fixed=(0, 1))
    found, energy = annealer.run(shaken, in_map, 3.0, rng=0, picoseconds=0.2)
    assert np.isfinite(energy) and np.array_equal(np.isfinite(found), np.isfinite(shaken))
    assert np.sqrt(np.nanmean(((found - short.xyz)[2:, :4] ** 2).sum(-1))) < 0.8
    assert np.allclose(found[:2], shaken[:2], atol=1e-3, equal_nan=True)
    again, _ = annealer.run(shaken, in_map, 3.0, rng=0, picoseconds=0.2)
    assert np.array_equal(found, again, equal_nan=True)


def test_annealing_leaves_a_residue_that_is_linked_to_none_where_it_is(short, in_map):
    """ff14SB has no form for it; a chain that begins with one was refused."""
    pytest.importorskip("openmm")
    from cryonb.atomic.anneal import Annealer

    broken = replace(short, segment=np.append(-1, short.segment[1:]))
    annealer = Annealer(broken)
    found, energy = annealer.run(short.xyz, in_map, 3.0, rng=0, picoseconds=0.05)
    assert np.isfinite(energy) and np.array_equal(found[0], short.xyz[0], equal_nan=True)
    assert not np.allclose(found[1:], short.xyz[1:], atol=1e-3, equal_nan=True)
    with pytest.raises(ValueError, match="linked"):
        Annealer(replace(short, segment=np.arange(len(short))))


QUICK = Protocol(models=2, rounds=1, fragments=2, picoseconds=0.05)


def test_rebuild_resumes_and_refuses_another_folder(short, tmp_path):
    volume = training_map(planted(short), short, 3.0)
    quick = Protocol(models=2, rounds=1, fragments=1, anneal=False)
    first = rebuild(short, volume, 3.0, rng=0, protocol=quick, folder=tmp_path)
    (tmp_path / "model_001.npz").unlink()
    again = rebuild(short, volume, 3.0, rng=0, protocol=quick, folder=tmp_path)
    assert all(np.array_equal(a.xyz, b.xyz, equal_nan=True) for a, b in zip(first, again))
    assert [str(m) for m in again[0].moves] == [str(m) for m in first[0].moves]
    with pytest.raises(ValueError, match="from another model, map or protocol"):
        rebuild(short, volume, 3.0, rng=1, protocol=quick, folder=tmp_path)


def test_noise_supports_nothing_and_moves_nothing_away(short):
    halves = [noise_map(short.xyz, seed) for seed in (7, 8)]
    found = refine_model(*halves, short.to_model(), 3.0, rng=0, protocol=QUICK)
    assert not found.supported and found.moves == ()
    assert any("nothing is supported" in note for note in found.notes)
    moved = np.linalg.norm(Chains.of(found.model).xyz[:, 1] - short.xyz[:, 1], axis=1)
    assert moved.max() < 1.5
    assert found.scores[0].molprobity <= found.start.molprobity + 0.2


def test_a_wrong_hand_is_said():
    """Of the model as it lies, and of one docked into the mirrored map; of the right map nothing is said."""
    from cryonb.atomic.refinement import _hand

    library = fragment_library()
    truth = library.model("1ubi")
    half = simulate.half_maps(truth, 3.5, rng=1).half_1
    mirrored = dock._mirror(half)
    quick = Protocol(models=1, rounds=1, fragments=0, anneal=False)
    found = refine_model(mirrored, mirrored, truth, 3.5, rng=0, protocol=quick)
    assert any("wrong hand" in note and "mirror both half maps" in note for note in found.notes)
    laid = Chains.of(dock.dock(truth, mirrored, 4.0, order=1, both_hands=False).model)
    assert "wrong hand" in _hand(laid, mirrored, training_map(mirrored, laid, 3.5), 3.5)[0]
    right = Chains.of(truth)
    assert _hand(right, half, training_map(half, right, 3.5), 3.5) == []


def test_the_validation_map_is_not_seen_before_selection(short):
    half, other = planted(short, 0), planted(short, 1)
    quick = Protocol(models=2, rounds=1, fragments=1, anneal=False)
    poisoned = other.with_data(np.random.default_rng(9).normal(size=other.data.shape))
    clean, spoilt = (
        refine_model(half, second, short.to_model(), 3.0, rng=0, protocol=quick) for second in (other, poisoned)
    )
    for a, b in zip(clean.models, spoilt.models):
        assert np.array_equal(a.coordinates, b.coordinates)
    assert clean.scores[0].ifsc_work == spoilt.scores[0].ifsc_work
    assert clean.scores[0].ifsc_free > spoilt.scores[0].ifsc_free + 0.1
    assert clean.supported and len(clean.confidence) == len(short)
    assert ((clean.probability_wrong >= 0) & (clean.probability_wrong <= 1)).all()


def test_bad_input_is_named(short):
    half = planted(short)
    small = Volume(half.data[:-2, :-2, :-2], half.voxel_size, half.origin)
    with pytest.raises(ValueError, match="one grid"):
        refine_model(half, small, short.to_model(), 3.0, rng=0)
    with pytest.raises(ValueError, match="one origin"):
        refine_model(half, Volume(half.data, half.voxel_size, half.origin + 5), short.to_model(), 3.0, rng=0)
    with pytest.raises(ValueError, match="Nyquist"):
        refine_model(half, half, short.to_model(), 1.0, rng=0)
    with pytest.raises(ValueError, match="at least one model"):
        Protocol(models=0)


def test_annealing_is_the_same_for_the_same_seed(short):
    """Hydrogens, forces and velocities: each of the three was once different from run to run."""
    pytest.importorskip("openmm")
    from cryonb.atomic.anneal import Annealer

    field = Field(short, training_map(planted(short, 1), short, 3.0))
    first, second, other = (
        Annealer(short).run(short.xyz, field, 3.0, rng=seed, picoseconds=0.1)[0] for seed in (3, 3, 4)
    )
    assert np.array_equal(first, second, equal_nan=True)
    assert not np.array_equal(first, other, equal_nan=True)


def test_large_models_go_chain_by_chain(short, monkeypatch):
    both = made_of_fragments()
    other = made_of_fragments(40).structure[0][0].clone()
    other.name = "B"
    for residue in other:
        for atom in residue:
            atom.pos.x += 60
    both.structure[0].add_chain(other)
    chains = Chains.of(both)
    monkeypatch.setattr(importlib.import_module("cryonb.atomic.rebuild"), "LARGE", 30)
    groups = importlib.import_module("cryonb.atomic.rebuild")._groups(chains)
    assert [len(rows) for rows in groups] == [24, 24]
    assert len(chains.part(groups[0]).others) == chains.present[24:].sum()


def test_command_writes_model_moves_and_report(short, tmp_path, capsys):
    for number in (1, 2):
        io.write_volume(planted(short, number), tmp_path / f"half{number}.mrc")
    io.write_model(short.to_model(), tmp_path / "start.cif")
    halves = ["--half1", str(tmp_path / "half1.mrc"), "--half2", str(tmp_path / "half2.mrc")]
    rest = ["--model", str(tmp_path / "start.cif"), "--resolution", "3.0", "--models", "1", "--rounds", "1", "--quiet"]
    pytest.importorskip("openmm")
    assert main(["refine-model", *halves, *rest, "--out", str(tmp_path / "out")]) == 0
    assert "supported: True" in capsys.readouterr().out
    found = io.read_model(tmp_path / "out" / "model.cif")
    assert len(Chains.of(found)) == len(short)
    rows = (tmp_path / "out" / "residues.csv").read_text().splitlines()
    assert rows[0] == "chain,residue,spread_angstrom,confidence,probability_wrong" and len(rows) == len(short) + 1
    assert "| MolProbity score |" in (tmp_path / "out" / "report.md").read_text()
    assert main(["refine-model", *halves, *rest[:2], "--resolution", "1.0", "--out", str(tmp_path / "bad")]) == 1
    assert "Nyquist" in capsys.readouterr().err


def test_neighbours_keep_their_coordinates_and_b_factors(short):
    """Water and ligands are fixed: nothing of theirs is refined."""
    import gemmi

    model = short.to_model()
    structure = model.structure.clone()
    water = gemmi.Residue()
    water.name, water.seqid = "HOH", gemmi.SeqId("900")
    atom = gemmi.Atom()
    atom.name, atom.element, atom.b_iso = "O", gemmi.Element("O"), 33.0
    atom.pos = gemmi.Position(*(np.nanmax(short.xyz, axis=(0, 1)) + 3.0))
    water.add_atom(atom)
    structure[0][0].add_residue(water)
    with_water = type(model)(structure)
    halves = simulate.half_maps(with_water, 3.0, rng=0)
    found = refine_model(halves.half_1, halves.half_2, with_water, 3.0, rng=0, protocol=replace(QUICK, models=1)).model
    last = np.flatnonzero(found.residue_names == "HOH")
    assert len(last) == 1 and found.b_factors[last[0]] == 33.0
    assert np.allclose(found.coordinates[last[0]], atom.pos.tolist(), atol=1e-3)
    assert not np.allclose(found.b_factors[:-1], found.b_factors[0])
