"""Volumes from nothing, and the old method: planted truth, checkpoints, input that cannot be used."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import bayes, ctf, parallel, projection, rotations, samples, simulate
from cryonb.alignment import align_volumes
from cryonb.bayes import baseline, maximisation
from cryonb.bayes.initial_model import _ReducedImages
from cryonb.bayes.polar import PolarGrid
from cryonb.bayes.slices import view_matrices
from cryonb.filters import resample
from cryonb.resolution import fourier_shell_correlation
from cryonb.types import Particles, Poses

SIZE, PIXEL, DIAMETER = 32, 8.0, 190.0
QUIET = {"mask_diameter": DIAMETER, "progress": False, "workers": 1}
SHORT = QUIET | {"rng": 4, "n_batches": 11, "batch_size": 20}


@pytest.fixture(scope="module")
def body():
    return samples.blobs(30, radius=80.0, sigma=9.0, rng=5)


@pytest.fixture(scope="module")
def planted(body):
    population = simulate.populate(body, simulate.Species("all"), 160, rng=7)
    imaging = simulate.Imaging(SIZE, PIXEL, snr=1.0, diameter=DIAMETER, shift_sigma=5.0)
    return simulate.particles(population, imaging, rng=8, progress=False)


@pytest.fixture(scope="module")
def found(planted):
    return bayes.initial_model(planted[0], rng=0, n_batches=30, batch_size=40, final_resolution=20.0, **QUIET)


@pytest.fixture(scope="module")
def short(planted):
    return bayes.initial_model(planted[0], **SHORT)


def test_the_structure_is_found_from_blobs_up_to_hand(found, body):
    truth = body.volume(SIZE, PIXEL)
    aligned = align_volumes(found.volumes[0], truth)
    assert fourier_shell_correlation(aligned.volume, truth).at(0.5) < 25.0
    assert aligned.agreement > aligned.other_hand + 0.2


def test_the_structure_is_on_the_grey_scale_and_the_shifts_are_right(found, planted, body):
    particles, truth = planted
    expected = truth.scale * body.volume(SIZE, PIXEL).data
    scale = [fraction.std() for fraction in (found.volumes[0].data, expected)]
    assert scale[0] == pytest.approx(scale[1], rel=0.3)  # low-passed, and with some poses wrong
    assert np.median(np.hypot(*(found.poses.shift - truth.poses.shift).T)) < PIXEL
    assert found.volumes[0].size_px == SIZE and found.volumes[0].voxel_size == PIXEL


def test_batches_are_recorded(found):
    records = found.iterations
    assert len(records) == 31 and records[0].n_particles == 40 and records[-1].n_particles == 160
    assert records[0].resolution > 30 > records[-1].resolution == pytest.approx(found.resolution)
    assert records[-1].entropy < records[0].entropy
    assert np.allclose(found.probability, 1) and found.label.max() == 0
    assert "160 particles, 100 %" in repr(found)


def test_same_seed_same_volumes_whatever_the_threads(planted):
    options = SHORT | {"n_batches": 3}
    alone, threads, other = (
        bayes.initial_model(planted[0][:40], **(options | change)) for change in ({}, {"workers": 2}, {"rng": 5})
    )
    assert np.array_equal(alone.volumes[0].data, threads.volumes[0].data)
    assert not np.array_equal(alone.volumes[0].data, other.volumes[0].data)


def killed_after(count, monkeypatch):
    """Make the process die after so many checkpoints."""
    save, calls = parallel.save_checkpoint, []

    def save_and_die(*args, **kwargs):
        save(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "save_checkpoint", save_and_die)


def test_initial_model_resumes_to_the_same_result(planted, short, tmp_path, monkeypatch):
    options = SHORT | {"checkpoint": tmp_path / "start.npz"}
    killed_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        bayes.initial_model(planted[0], **options)
    monkeypatch.undo()
    resumed = bayes.initial_model(planted[0], **options)
    assert np.array_equal(resumed.volumes[0].data, short.volumes[0].data)
    assert np.array_equal(resumed.poses.shift, short.poses.shift)
    assert len(resumed.iterations) == 12
    with pytest.raises(ValueError, match="another job"):
        bayes.initial_model(planted[0], **(options | {"rng": 9}))


def test_two_classes_share_the_particles(planted):
    result = bayes.initial_model(planted[0][:40], **(SHORT | {"n_classes": 2, "n_batches": 3}))
    assert result.probability.shape == (40, 2) and np.allclose(result.probability.sum(1), 1)
    assert len(result.volumes) == 2 and result.occupancy.sum() == pytest.approx(1)


def test_a_monitor_sees_every_batch(planted):
    seen = []
    options = SHORT | {"n_batches": 3, "monitor": lambda record, volumes: seen.append((record, volumes))}
    result = bayes.initial_model(planted[0][:40], **options)
    assert [record.number for record, _ in seen] == [1, 2, 3, 4]
    assert seen[0][1][0].size_px == SIZE and np.array_equal(seen[-1][1][0].data, result.volumes[0].data)


def test_images_are_reduced_when_read(planted):
    images = planted[0].images
    reduced = _ReducedImages(images, 20)
    assert reduced.shape == (160, 20, 20)
    assert np.allclose(reduced[np.array([3, 5])], resample(np.asarray(images)[[3, 5]], 20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 30}, "a batch of 30 needs at least as many particles, got 20: set batch_size"),
        ({"n_classes": 15, "batch_size": 10}, "15 classes need batches"),
        ({"n_batches": 0}, "must be 1 or more"),
        ({"final_resolution": 100.0, "initial_resolution": 60.0}, "final_resolution ≤ initial_resolution"),
        ({"final_resolution": 10.0}, "16 Å < final_resolution"),
        ({"mask_diameter": 900.0}, "mask_diameter must be between"),
    ],
)
def test_settings_that_cannot_be_used(planted, options, message):
    with pytest.raises(ValueError, match=message):
        bayes.initial_model(planted[0][:20], **(SHORT | options))


@pytest.fixture(scope="module")
def matched(planted, body):
    reference = body.volume(SIZE, PIXEL)
    return baseline.refine(planted[0], reference.with_data(1000 * reference.data), rng=1, n_iterations=4, **QUIET)


def test_projection_matching_finds_planted_poses(matched, planted, body):
    error = rotations.angular_distance(planted[1].poses.rotation, matched.poses.rotation)
    assert np.median(error) < 4.0 and (error > 30).mean() < 0.05
    assert np.median(np.hypot(*(matched.poses.shift - planted[1].poses.shift).T)) < 0.5 * PIXEL
    assert np.corrcoef(matched.volume.data.ravel(), body.volume(SIZE, PIXEL).data.ravel())[0, 1] > 0.9
    assert 0.5 < matched.score.mean() < 1.0 and len(matched.seconds) == 4
    assert matched.resolution == matched.resolutions[-1] and "by its own account" in repr(matched)


def test_projection_matching_scores_are_normalised_correlations(planted, body):
    """An image that is a projection, seen from a view and with a shift of the grid, correlates 1 with it."""
    volume, lens = body.volume(SIZE, PIXEL), planted[0].ctf[:4]
    poses = Poses(
        Rotation.from_matrix(view_matrices(4, Rotation.identity())[[5, 800, 1700, 3000]]), np.full((4, 2), 0.5 * PIXEL)
    )
    images = ctf.apply(projection.project(volume, poses), lens, PIXEL)
    particles = Particles(images, PIXEL, ctf=lens)
    grid = PolarGrid.covering(SIZE, 12, 12)
    found, score = baseline.match(particles, volume, grid, turn=Rotation.identity(), extent_px=12)
    assert np.allclose(score, 1, atol=0.02)
    assert rotations.angular_distance(found.rotation, poses.rotation).max() < 1.0
    assert np.allclose(found.shift, poses.shift)


def test_projection_matching_resumes(matched, planted, body, tmp_path, monkeypatch):
    options = QUIET | {"rng": 1, "n_iterations": 4, "checkpoint": tmp_path / "old.npz"}
    reference = body.volume(SIZE, PIXEL)
    reference = reference.with_data(1000 * reference.data)
    killed_after(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        baseline.refine(planted[0], reference, **options)
    monkeypatch.undo()
    resumed = baseline.refine(planted[0], reference, **options)
    assert np.array_equal(resumed.volume.data, matched.volume.data)
    assert resumed.resolutions == matched.resolutions


def test_tuning_takes_the_pair_nearest_to_the_truth(planted, body):
    truth = body.volume(SIZE, PIXEL)
    tuning = baseline.tune(
        planted[0][:60], truth, truth, rng=0, wiener=(1.0, 1e6), low_pass=(0.0, 3.0), n_iterations=2, **QUIET
    )
    i, j = np.unravel_index(tuning.agreement.argmax(), (2, 2))
    assert (tuning.wiener, tuning.low_pass) == ((1.0, 1e6)[i], (0.0, 3.0)[j])
    assert tuning.agreement.min() > 0.1 and "agreement" in repr(tuning)


def test_noise_aligned_to_a_reference_shows_it(body):
    """Images of nothing: projection matching finds its reference in them."""
    rng = np.random.default_rng(3)
    population = simulate.populate(body, simulate.Species("all"), 120, rng=7)
    imaging = simulate.Imaging(SIZE, PIXEL, snr=1.0, diameter=DIAMETER)
    particles, _ = simulate.particles(population, imaging, rng=8, progress=False)
    empty = dataclasses.replace(particles, images=rng.standard_normal((120, SIZE, SIZE)).astype(np.float32))
    reference = body.volume(SIZE, PIXEL)
    result = baseline.refine(empty, reference, rng=0, n_iterations=1, initial_resolution=32.0, **QUIET)
    curve = maximisation.correlation(result.volume.data, reference.data)
    assert curve[2:6].mean() > 0.5


def test_projection_matching_settings_that_cannot_be_used(planted, body):
    particles, volume = planted[0][:8], body.volume(SIZE, PIXEL)
    with pytest.raises(ValueError, match="0 or more"):
        baseline.refine(particles, volume, rng=0, wiener=-1.0, **QUIET)
    with pytest.raises(ValueError, match="2 or more, got 1"):
        baseline.refine(particles[:1], volume, rng=0, **QUIET)
    with pytest.raises(ValueError, match="sequences"):
        baseline.tune(particles, volume, volume, rng=0, wiener=1.0, **QUIET)
