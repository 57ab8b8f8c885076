"""Voxel size, B factors, coordinates, docking, and the error detector, each against a planted truth."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import fourier, protein, simulate
from cryonb.atomic import (
    Chains,
    Field,
    Protocol,
    density,
    dock,
    errors,
    finish,
    map_weight,
    noise,
    score_models,
    training_map,
)  # fmt: skip
from cryonb.atomic.rebuild import settle
from cryonb.io import read_model
from cryonb.projection import model_density
from cryonb.types import AtomicModel, Volume


@pytest.fixture(scope="module")
def part(root):
    """The first 60 residues of 1A2K chain B."""
    path = root.parent / "shared" / "data" / "models" / "bm5" / "1A2K_l_bound.pdb.gz"
    if not path.exists():
        pytest.skip("../shared/data/models is not there")
    structure = read_model(path).structure
    structure.remove_ligands_and_waters()
    del structure[0][0][60:]
    return AtomicModel(structure)


@pytest.fixture(scope="module")
def maps(part):
    return simulate.half_maps(part, 3.0, rng=0)


def rms(model, truth):
    return float(np.sqrt(((model.coordinates - truth.coordinates) ** 2).sum(1).mean()))


def test_voxel_size_and_origin_come_back(part, maps):
    wrong = Volume(maps.mean.data, maps.mean.voxel_size * 1.012, maps.mean.origin + [0.3, -0.4, 0.2])
    found = finish.refine_voxel_size(wrong, part, 3.0)
    assert found.voxel_size == pytest.approx(1.0, abs=0.002)
    assert np.abs(found.origin - maps.mean.origin).max() < 0.1
    assert found.correlation > found.correlation_before
    assert finish.calibrate_map(wrong, found).voxel_size == found.voxel_size
    with pytest.raises(ValueError, match="limit|correlate"):
        finish.refine_voxel_size(Volume(wrong.data, 1.25, wrong.origin), part, 3.0)


def test_a_model_that_is_off_everywhere_does_not_swell_the_map(part):
    """Atoms 1 Å off at random look like a larger molecule: a real-space correlation takes it for a scale of 1.006."""
    clean = model_density(part, simulate.box_around(part, 1.0), resolution=3.0)
    found = [finish.refine_voxel_size(clean, simulate.shake(part, 1.0, rng=seed), 3.0).voxel_size for seed in range(2)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.004)


def test_likelihood_slope_equals_finite_differences(part, maps):
    shells = finish._Shells(maps.half_1, noise.noise_power(maps.half_1, part.coordinates)[0], 3.0)
    like, step = maps.clean, 1e-4
    shells.error, shells._reference = 12.0, like.voxel_size
    rng = np.random.default_rng(0)
    drawn, turn = like.data.astype(float) + 0.01 * rng.normal(size=like.data.shape), rng.normal(size=like.data.shape)
    _, slope, own = shells.likelihood(drawn, 1.01)
    ends = [shells.likelihood(drawn + sign * step * turn, 1.01)[0] for sign in (1, -1)]
    assert (slope * turn).sum() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)
    ends = [shells.likelihood(drawn, 1.01 + sign * step)[0] for sign in (1, -1)]
    assert own == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


def test_one_half_map_says_how_much_of_it_is_signal(part, maps):
    """The share from what lies beside the model is the correlation of the halves, which it never sees."""
    share = noise.signal_share(maps.half_1, part.coordinates)
    one, two = (fourier.transform((half.data - half.data.mean()) * maps.mask) for half in (maps.half_1, maps.half_2))
    cross, first, second = (
        fourier.shell_mean(p, ndim=3) for p in ((one * two.conj()).real, np.abs(one) ** 2, np.abs(two) ** 2)
    )
    within = np.arange(2, int(maps.half_1.box_size / 3.0))
    agreed = np.clip(cross / np.sqrt(first * second), noise.LEAST, 1)
    assert np.abs(share - agreed)[within].mean() < 0.06 and share.min() >= noise.LEAST
    # where nothing is left around the model, every shell is kept
    masked = maps.half_1.with_data(np.where(maps.mask > 0, maps.half_1.data, 0))
    assert (noise.signal_share(masked, part.coordinates) == 1).all()
    chains = Chains.of(part).completed()
    plain = training_map(masked, chains, 3.0)
    assert np.array_equal(training_map(masked, chains, 3.0, weighted=True).data, plain.data)


def test_what_the_model_has_not_is_no_noise(part, maps):
    """A strong neighbour that nobody modelled does not make the shells look noisy."""
    lone = noise.signal_share(maps.half_1, part.coordinates)
    size = maps.half_1.size_px
    blob = np.zeros((size,) * 3)
    blob[2:9, 2:9, 2:9] = 3 * maps.half_1.data.max()
    beside = noise.signal_share(maps.half_1.with_data(maps.half_1.data + blob), part.coordinates)
    assert np.abs(beside - lone).mean() < 0.1


def test_weighted_shells_bring_the_training_map_nearer_to_the_truth(part):
    maps = simulate.half_maps(part, 4.0, rng=3)
    chains = Chains.of(part).completed()
    true = training_map(maps.clean, chains, 4.0).data.ravel()
    plain, weighted = (training_map(maps.half_1, chains, 4.0, weighted=w).data.ravel() for w in (False, True))
    assert np.corrcoef(weighted, true)[0, 1] > np.corrcoef(plain, true)[0, 1] + 0.1


def test_the_last_minimisation_fits_less_noise_and_is_no_farther_off(part):
    maps, chains = simulate.half_maps(part, 4.0, rng=3), Chains.of(part).completed()
    field = Field(chains, training_map(maps.half_1, chains, 4.0), map_weight=map_weight(4.0))
    fitted, _ = field.window(range(len(chains)), chains.xyz).minimise(chains.xyz, steps=100)
    last = training_map(maps.half_1, chains, 4.0, weighted=True)
    ended = settle(chains.moved(fitted), last, 4.0, protocol=Protocol(anneal=False))
    models = [chains.moved(xyz).to_model() for xyz in (fitted, ended)]
    before, after = score_models(models, maps.half_1, maps.half_2, 4.0)
    assert after.gap < before.gap - 0.01 and after.ifsc_free > before.ifsc_free
    truth = chains.to_model()
    assert rms(models[1], truth) < rms(models[0], truth)


def test_b_factors_follow_the_map(part):
    groups = finish._residue_of_each_atom(part)
    planted = 20 + 40 * (1 + np.sin(np.arange(groups.max() + 1) / 6))
    truth = protein.with_atoms(part, b_factors=planted[groups])
    seen = density.prepare_map(simulate.half_maps(truth, 3.0, rng=1).mean, 3.0, b_factor=-80)
    flat = protein.with_atoms(part, b_factors=np.full(len(part), 60.0))
    found = finish.refine_b_factors(flat, seen, 3.0).b_factors
    each = np.array([found[groups == g].mean() for g in range(len(planted))])
    assert np.corrcoef(each, planted)[0, 1] > 0.9
    assert len(np.unique(found[groups == 3])) == 1 and found.min() >= 5 and found.max() <= 300


def test_free_half_map_chooses_the_weight(part, maps):
    """A shaken model comes nearer; the chosen weight has the best U; a heavier one fits the noise."""
    start = simulate.shake(part, 0.7, rng=0, correlation=4.0)
    found = finish.refine_coordinates(start, maps.half_1, maps.half_2, 3.0, weights=(0.3, 3.0, 30.0), steps=60)
    assert rms(found.model, part) < 0.85 * rms(start, part)
    assert found.weight == found.weights[np.argmax(found.free - finish.PENALTY * found.energy)]
    assert found.work[-1] - found.free[-1] > found.gap  # the largest weight overfits more
    with pytest.raises(ValueError, match="must share box"):
        finish.refine_coordinates(start, maps.half_1, Volume(np.zeros((8, 8, 8)), 1.0), 3.0)


def test_docking_finds_place_and_hand(part, maps):
    moved = protein.with_atoms(
        part, coordinates=Rotation.random(rng=1).apply(part.coordinates) + np.array([30.0, -50.0, 70.0])
    )
    found = dock.dock(moved, maps.mean, 4.0, order=1)
    assert rms(found.model, part) < 0.3 and found.hand == "as given" and found.correlation > found.mirrored + 0.03
    other = dock.dock(moved, dock._mirror(maps.mean), 4.0, order=1)
    assert other.hand == "mirrored" and "hand mirrored" in repr(other)


def test_docking_says_what_is_wrong(part, maps):
    with pytest.raises(ValueError, match="the box only"):
        dock.dock(part, Volume(np.ones((8, 8, 8)), 1.0), 3.0)


def test_detector_finds_planted_errors(part, maps):
    """Not a measurement (benchmarks/atomic_errors.py): wrong residues stand out, and the parts say why."""
    clean = errors.probability_wrong(part, maps.half_1, 3.0)
    assert clean.backbone.shape == (60,) and (clean.backbone > 0.5).mean() < 0.1
    planted = simulate.plant_errors(part, rng=2, register_shifts=1)
    found = errors.probability_wrong(planted.model, maps.half_1, 3.0)
    wrong = planted.deviation()[:, 0] > 1
    assert found.backbone[wrong].mean() > 0.5 > 0.25 > found.backbone[~wrong].mean()
    assert (found.residue[planted.rotamer] > clean.residue[planted.rotamer]).mean() > 0.7
    peptide = found.evidence["peptide here"]
    assert peptide[planted.flipped].mean() < 0 < np.median(peptide[~planted.flipped])
    assert np.isfinite(found.evidence.values).all() and found.evidence.values.shape[1] == len(errors.FEATURES)
    assert "wrong backbone" in repr(found)


def test_detector_needs_protein_and_a_map(part, maps):
    import gemmi

    water = gemmi.read_pdb_string("HETATM    1  O   HOH A   1       8.0     8.0     8.0    1.00 20.00           O")
    with pytest.raises(ValueError, match="no amino acids"):
        errors.probability_wrong(AtomicModel(water), maps.half_1, 3.0)
    with pytest.raises(ValueError, match="constant"):
        errors.probability_wrong(part, maps.half_1.with_data(np.ones_like(maps.half_1.data)), 3.0)
