"""Picking: planted truth, identities of the score, edges; extraction."""

import numpy as np
import pytest

from cryonb import io, picking, samples, simulate
from cryonb.picking.blobs import blob_response
from cryonb.picking.centring import recentred
from cryonb.picking.learning import propose
from cryonb.picking.templates import correlation_map
from cryonb.simulate import Field, Specimen
from cryonb.types import CTF, Micrograph


@pytest.fixture(scope="module")
def ribosomes():
    """A simulated field of 80S ribosomes, 4 Å pixels, and its truth."""
    field = Field(CTF(18500, 17500, 30, b_factor=80), (1024, 1024), 4.0, snr=0.05)
    return simulate.micrograph(Specimen(samples.ribosome(), 40, name="80S"), field, rng=1)


@pytest.fixture(scope="module")
def candidates(ribosomes):
    return propose(ribosomes[0], 300.0)


def discs(places, shape=(240, 300), radius=10, noise=1.0, depth=4.0, seed=0):
    """Dark blobs, σ half their radius, in noise; pixels of 5 Å."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    data = np.random.default_rng(seed).normal(scale=noise, size=shape)
    for px, py in places:
        data -= depth * np.exp(-2 * ((x - px) ** 2 + (y - py) ** 2) / radius**2)
    return Micrograph(data, 5.0)


PLACES = [(60, 60), (150, 100.0), (230, 180), (70, 190)]


def test_blobs_find_planted_discs_on_a_micrograph_that_is_not_square():
    picks = picking.pick_blobs(discs(PLACES), 100.0, threshold=6)
    found = picking.score_picks(picks, PLACES)
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert found.centring_error < 0.05 * picks.diameter
    np.testing.assert_allclose(picks.centres_angstrom, picks.centres * 5.0)


def test_a_range_of_sizes_finds_small_and_large():
    micrograph = Micrograph(discs([(60, 60)], radius=8).data + discs([(180, 120)], radius=16, noise=0).data, 5.0)
    picks = picking.pick_blobs(micrograph, (70.0, 170.0), threshold=6)
    assert picking.score_picks(picks, [(60, 60), (180, 120)], radius=40).f1 == 1.0


def test_every_picker_finds_ribosomes(ribosomes, candidates):
    micrograph, truth = ribosomes
    references = picking.reference_images(samples.ribosome().volume(96, 4.0))
    picked = {
        "blobs": picking.pick_blobs(candidates.prepared, 300.0),
        "own": picking.pick_without_model(candidates, 300.0),
        "templates": picking.pick_templates(candidates.prepared, references, 300.0, pixel_size=4.0, angle_step=15),
    }
    for name, picks in picked.items():
        found = picking.score_picks(picks, truth.centres)
        assert found.f1 >= 0.95, (name, found.f1)
        assert found.centring_error < 0.06 * 300, (name, found.centring_error)


def test_clicks_change_the_verdict_and_suggestions_are_uncertain(ribosomes, candidates):
    micrograph, truth = ribosomes
    picker = picking.ClickPicker(300.0)
    before = picker.score(candidates)
    places = candidates.prepared.to_micrograph(candidates.places)
    away = np.min(np.hypot(*(places[:, None] - truth.centres).transpose(2, 0, 1)), axis=1)
    for wanted in (True, False):
        chosen = np.flatnonzero((away < 15) == wanted)[:15]
        picker.click(candidates, places[chosen], wanted)
    assert picker.n_clicks == 30
    after = picker.score(candidates)
    assert np.corrcoef(before, after)[0, 1] > 0.5 and not np.allclose(before, after)
    assert picking.score_picks(picker.pick(candidates), truth.centres).f1 >= 0.95
    suggested = picker.suggest(candidates, 5)
    nearest = np.argmin(np.hypot(*(suggested[:, None] - places).transpose(2, 0, 1)), axis=1)
    assert np.abs(after[nearest]).max() <= np.sort(np.abs(after))[4] + 1e-12
    assert len(picker.suggest(candidates, 5, exclude=suggested[:2])) == 5
    assert not (picker.suggest(candidates, 5, exclude=suggested[:2]) == suggested[0]).all(1).any()
    with pytest.raises(ValueError, match="outside the micrograph"):
        picker.click(candidates, [[5000.0, 3.0]], True)


def test_normalised_correlation_is_one_with_itself_and_does_not_see_scale():
    y, x = np.mgrid[-20:21, -20:21]
    shape = np.exp(-((x - 4) ** 2 + y**2) / 30) + np.exp(-((x + 5) ** 2 + (y - 3) ** 2) / 20)
    data = np.random.default_rng(0).normal(scale=0.2, size=(160, 200))
    data[60:101, 80:121] -= shape
    prepared = picking.prepare(Micrograph(data, 5.0), 150.0)
    assert prepared.binning == 1
    best = correlation_map(prepared, shape, pixel_size=5.0, angle_step=90)
    assert np.unravel_index(best.argmax(), best.shape) == (80, 100)
    assert 0.8 < best.max() <= 1.001
    np.testing.assert_allclose(correlation_map(prepared, 7 * shape + 3, pixel_size=5.0, angle_step=90), best, atol=1e-4)


def test_templates_make_themselves_out_of_noise():
    """Einstein from noise: the average of what was picked on noise looks like the template."""
    y, x = np.mgrid[-16:16, -16:16]
    template = (np.hypot(x - 5, y) < 4) + 1.0 * (np.hypot(x + 5, y - 4) < 5) - 1.0 * (np.hypot(x, y + 7) < 3)
    micrograph = Micrograph(np.random.default_rng(3).normal(size=(700, 700)), 5.0)
    picks = picking.pick_templates(micrograph, template, 130.0, pixel_size=5.0, angle_step=360, threshold=2.0)
    particles, kept = picking.extract(micrograph, picks, 32, ramp=False)
    assert len(kept) > 100
    assert np.corrcoef(particles.images.mean(0).ravel(), template.ravel())[0, 1] > 0.7


def test_score_against_counts_by_hand():
    picks = picking.Picks([[10, 10], [12, 10], [50, 50], [90, 90]], [4, 3, 2, 1], 2.0, 40.0)
    found = picking.score_picks(picks, [[11, 10], [90, 91], [200, 200]])
    assert found.hit.tolist() == [True, False, False, True]
    assert (found.precision, found.recall, round(found.f1, 6)) == (0.5, 2 / 3, round(4 / 7, 6))
    assert found.average_precision == pytest.approx((1 + 0.5) / 3)
    assert found.centring_error == pytest.approx(2.0)
    assert picking.score_picks(picks[[]], [[1, 1]]).f1 == 0
    with pytest.raises(ValueError, match="m > 0"):
        picking.score_picks(picks, np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.full((200, 200), np.nan), "not numbers"),
        (np.zeros((200, 200)), "constant"),
        (np.where(np.arange(40000).reshape(200, 200) % 3 == 0, 5.0, 255.0), "saturated"),
        (np.random.default_rng(0).normal(size=(40, 200)), "at most a third"),
    ],
)
def test_micrographs_that_show_nothing_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        picking.pick_blobs(Micrograph(data, 5.0), 100.0)


def test_repeated_margins_and_dirt_are_not_picked():
    micrograph = discs(PLACES)
    data = micrograph.data.copy()
    data[:, :25] = data[:, 25:26]
    data[180:240, 240:300] -= 40
    picks = picking.pick_blobs(Micrograph(data, 5.0), 100.0, threshold=4)
    assert (picks.centres[:, 0] > 25).all()
    assert not ((picks.centres[:, 0] > 240) & (picks.centres[:, 1] > 180)).any()


def test_particles_beside_carbon_are_kept_and_none_on_it():
    """Carbon darkens the background beside it; no ice is lost for that (the truth keeps particles off carbon)."""
    lens = CTF(18500, 17500, 30, b_factor=80)
    field = Field(lens, (1024, 1024), 4.0, snr=0.05, ice_gradient=0.6, carbon=0.15, contaminants=4)
    micrograph, truth = simulate.micrograph(Specimen(samples.ribosome(), 40, name="80S"), field, rng=5)
    prepared = picking.prepare(micrograph, 300.0)
    column, row = np.rint(prepared.from_micrograph(truth.centres)).astype(int).T
    assert prepared.usable[row, column].mean() > 0.95
    carbon = truth.thickness[2::4, 2::4] > 2.5
    assert carbon.mean() > 0.04 and prepared.usable[carbon].mean() < 0.1
    found = picking.score_picks(picking.pick_without_model(prepared, 300.0), truth.centres)
    assert found.precision > 0.95 and found.recall > 0.9


def test_recentring_brings_picks_nearer_to_the_truth(ribosomes, candidates):
    truth = ribosomes[1].centres
    as_found, moved = (
        picking.score_picks(picking.pick_without_model(candidates, 300.0, recentre=how), truth) for how in (False, True)
    )
    assert moved.f1 >= as_found.f1 and moved.centring_error < 0.93 * as_found.centring_error
    few = candidates.places[:5]
    np.testing.assert_array_equal(recentred(candidates.prepared, few), few)


def test_templates_of_close_views_place_picks_to_a_fraction_of_the_searched_pixels(ribosomes, candidates):
    micrograph, truth = ribosomes
    references = picking.reference_images(samples.ribosome().volume(96, 4.0), order=2)
    searched, fine = (
        picking.score_picks(
            picking.pick_templates(image, references, 300.0, pixel_size=4.0, ctf=truth.ctf, angle_step=10),
            truth.centres,
        )
        for image in (candidates.prepared, micrograph)
    )
    assert fine.f1 >= searched.f1 >= 0.95
    assert fine.centring_error < 0.02 * 300 < searched.centring_error


def test_template_picks_at_the_edge_and_beside_dead_pixels_are_placed_too():
    places = [(20, 22), (280, 60), (150, 222), (100, 100)]
    data = discs(places, depth=6).data.copy()
    data[80:84, 80:84] = np.nan
    y, x = np.mgrid[-20:21, -20:21]
    shape = np.exp(-2 * (x**2 + y**2) / 100)
    picks = picking.pick_templates(Micrograph(data, 5.0), shape, 130.0, pixel_size=5.0, angle_step=360, threshold=5)
    found = picking.score_picks(picks, places)
    assert found.f1 == 1.0 and found.centring_error < 0.5 * 5.0


def test_some_nan_pixels_are_masked():
    data = discs(PLACES).data.copy()
    data[0:20, 0:20] = np.nan
    found = picking.score_picks(picking.pick_blobs(Micrograph(data, 5.0), 100.0, threshold=6), PLACES)
    assert found.f1 == 1.0


def test_extract_inverts_normalises_and_drops_boxes_over_the_edge(tmp_path):
    micrograph = Micrograph(discs(PLACES).data * 7 + 100, 5.0, CTF(15000, 14000, 10))
    picks = picking.Picks([*PLACES, (5, 100), (400, 400)], [6.0, 5, 4, 3, 2, 1], 5.0, 100.0)
    particles, kept = picking.extract(micrograph, picks, 40, name="a.mrc")
    assert kept.tolist() == [0, 1, 2, 3]
    radius = np.hypot(*np.mgrid[-20:20, -20:20])
    images = particles.images
    assert (images[:, radius < 5].mean(1) > 1.5).all()
    np.testing.assert_allclose(images[:, radius > 15].mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(images[:, radius > 15].std(1), 1, atol=1e-3)
    assert len(particles.ctf) == 4 and particles.ctf.defocus_u[0] == 15000
    io.write_particles(particles, tmp_path / "p.star")
    again = io.read_particles(tmp_path / "p.star")
    np.testing.assert_allclose(np.asarray(again.images[:]), images)
    assert again.metadata["rlnCoordinateX"].astype(float).tolist() == [60, 150, 230, 70]
    io.write_selection(tmp_path / "p.star", [2, 0], tmp_path / "chosen.star")
    rows = [line for line in (tmp_path / "p.star").read_text().splitlines() if "@" in line]
    assert [line for line in (tmp_path / "chosen.star").read_text().splitlines() if "@" in line] == [rows[2], rows[0]]


def test_extract_puts_the_pick_on_the_centre_pixel():
    data = np.random.default_rng(0).normal(scale=0.01, size=(64, 80))
    data[31, 47] -= 100
    for size_px in (15, 16):
        box = picking.extract(Micrograph(data, 2.0), picking.Picks([[47.3, 30.8]], [1], 2.0, 10.0), size_px)[0].images[
            0
        ]
        assert np.unravel_index(box.argmax(), box.shape) == (size_px // 2, size_px // 2)


def test_extract_says_what_is_wrong():
    micrograph = discs(PLACES)
    picks = picking.Picks(PLACES, np.ones(4), 5.0, 100.0)
    with pytest.raises(ValueError, match="none of 1 picks"):
        picking.extract(micrograph, picking.Picks([[3, 3]], [1], 5.0, 100.0), 40)
    with pytest.raises(ValueError, match="a box of 500 pixels"):
        picking.extract(micrograph, picks, 500)
    with pytest.raises(ValueError, match="leaves no background"):
        picking.extract(micrograph, picks, 40, background_radius=400)
    with pytest.raises(ValueError, match="5 Å"):
        picking.extract(Micrograph(micrograph.data, 2.0), picks, 40)
    with pytest.raises(TypeError, match="Micrograph"):
        picking.prepare(micrograph.data, 100.0)


def test_one_setting_serves_a_real_micrograph(shared_data):
    folder = shared_data / "micrographs" / "bgal_10017"
    name = "Falcon_2012_06_12-14_33_35_0"
    micrograph = io.read_micrograph(folder / f"{name}.jpg", pixel_size=1.77)
    centres = np.loadtxt(folder / f"{name}.csv", delimiter=",")
    assert picking.score_picks(picking.pick_without_model(micrograph, 108 * 1.77), centres).f1 > 0.8


def test_the_blob_response_does_not_see_scale():
    micrograph = discs(PLACES)
    scaled = Micrograph(40 * micrograph.data + 1000, 5.0)
    one, two = (blob_response(picking.prepare(m, 100.0)) for m in (micrograph, scaled))
    np.testing.assert_allclose(one, two, atol=2e-3)


def test_the_automatic_threshold_finds_next_to_nothing_in_noise():
    picks = picking.pick_blobs(Micrograph(np.random.default_rng(0).normal(size=(800, 800)), 4.0), 200.0)
    assert len(picks) <= 2
