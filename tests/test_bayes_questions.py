"""refine and classify_3d on planted truth; checkpoints, threads, and input that cannot be used."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from cryonb import bayes, ctf, parallel, projection, rotations, samples, simulate
from cryonb.bayes import maximisation
from cryonb.bayes.records import iterations_from_table, iterations_to_table
from cryonb.types import CTF, Particles, Poses, Volume

SIZE, PIXEL, DIAMETER = 32, 8.0, 190.0


def pictures(model, n, *, rng, states=None, snr=0.5):
    species = simulate.Species("all") if states is None else states
    population = simulate.populate(model, None if states is None else species, n, rng=rng)
    imaging = simulate.Imaging(SIZE, PIXEL, snr=snr, diameter=DIAMETER, shift_sigma=6.0)
    return simulate.particles(population, imaging, rng=rng + 1, progress=False)


@pytest.fixture(scope="module")
def model():
    return samples.blobs(30, radius=80.0, sigma=9.0, rng=5)


@pytest.fixture(scope="module")
def planted(model):
    return pictures(model, 200, rng=7)


@pytest.fixture(scope="module")
def refinement(model, planted):
    particles, _ = planted
    reference = model.volume(SIZE, PIXEL)
    reference = reference.with_data(300 * reference.data)  # not on the images' grey scale
    return bayes.refine(particles, reference, rng=1, mask_diameter=DIAMETER, workers=1, progress=False)


def test_refine_finds_planted_poses(refinement, planted, model):
    _, truth = planted
    error = rotations.angular_distance(truth.poses.rotation, refinement.poses.rotation)
    assert np.median(error) < 4.0  # the last grid is 0.9°, pixels are 8 Å
    assert (error > 30).mean() < 0.05
    assert np.median(np.hypot(*(refinement.poses.shift - truth.poses.shift).T)) < 0.5 * PIXEL
    expected = truth.scale * model.volume(SIZE, PIXEL).data
    recovered = refinement.volume.data
    assert np.corrcoef(recovered.ravel(), expected.ravel())[0, 1] > 0.93
    scale = (recovered * expected).sum() / (expected**2).sum()
    assert scale == pytest.approx(1.0, abs=0.15)  # the absolute grey scale, found from a reference 300 times off


def test_refine_reports_what_it_did(refinement):
    records = refinement.iterations
    assert not records[0].local and records[-1].local
    assert records[-2].step == pytest.approx(1.875) and records[-1].step == pytest.approx(0.9375)
    assert refinement.correlation[1] > 0.9 and 16 <= refinement.resolution < 60
    assert np.bincount(refinement.half).tolist() == [100, 100]
    assert all(0 <= record.pmax <= 1 and record.entropy >= 0 for record in records)
    f = records[-1].correlation[8]
    assert records[-1].ssnr.shape == (1, SIZE // 2 + 1) and records[-1].ssnr[0, 8] == pytest.approx(f / (1 - f))
    assert "200 particles" in repr(refinement) and "local" in repr(records[-1])
    again = iterations_from_table(iterations_to_table(records))
    assert np.array_equal(again[-1].noise, records[-1].noise) and again[-1].resolution == records[-1].resolution


def test_posteriors_are_kept(refinement, planted):
    """The most probable single poses with their weights, best first; the first lies where the mean of its peak does."""
    top = refinement.top
    assert (np.diff(top.weight, axis=1) <= 0).all() and (top.weight.sum(1) <= 1 + 1e-5).all()
    assert np.allclose(top.weight[:, 0], refinement.pmax, rtol=0.02)  # pmax counts the tail that was dropped
    found = Rotation.from_matrix(top.matrix[:, 0])
    step = refinement.iterations[-1].step
    assert np.median(rotations.angular_distance(found, refinement.poses.rotation)) < step
    assert np.median(np.hypot(*(top.shift[:, 0] - refinement.poses.shift).T)) < 0.5 * PIXEL


def test_halves_are_those_of_the_file(planted):
    import pandas as pd

    from cryonb.bayes.model import split_halves

    particles, _ = planted
    subset = np.where(np.arange(200) < 80, "1", "2")
    named = dataclasses.replace(particles, metadata=pd.DataFrame({"rlnRandomSubset": subset}))
    assert np.bincount(split_halves(named, rng=0)).tolist() == [80, 120]
    assert np.bincount(split_halves(particles, rng=0)).tolist() == [100, 100]
    with pytest.raises(ValueError, match="rlnRandomSubset must be 1 and 2"):
        split_halves(dataclasses.replace(particles, metadata=pd.DataFrame({"rlnRandomSubset": ["1"] * 200})), rng=0)


def test_the_checkpoint_of_other_images_is_refused(planted, model, tmp_path):
    particles, _ = planted
    options = {"n_classes": 1, "rng": 1, "n_iterations": 1, "workers": 1, "progress": False}
    volume = model.volume(SIZE, PIXEL)
    path = tmp_path / "job.npz"
    bayes.classify_3d(particles[:20], volume, checkpoint=path, **options)
    with pytest.raises(ValueError, match="another job"):
        bayes.classify_3d(particles[20:40], volume, checkpoint=path, **options)


def test_a_monitor_sees_every_iteration(two_classes):
    particles, _, reference = two_classes
    seen = []
    options = {"n_classes": 2, "rng": 5, "mask_diameter": DIAMETER, "progress": False, "n_iterations": 2, "workers": 1}
    found = bayes.classify_3d(
        particles[:60], reference, monitor=lambda record, volumes: seen.append((record, volumes)), **options
    )
    assert [record.number for record, _ in seen] == [1, 2] and len(seen[-1][1]) == 2
    assert np.allclose(seen[-1][1][0].data, found.volumes[0].data)


@pytest.mark.slow
def test_pure_noise_is_given_no_better_resolution_than_the_start():
    """Gold standard: halves share only what the low-passed reference brought. One FSC of noise is itself noisy."""
    reference = samples.blobs(30, radius=80.0, sigma=9.0, rng=5).volume(SIZE, PIXEL)
    lens, curves = CTF(np.full(60, 1.5e4), np.full(60, 1.5e4)), []
    for seed in range(3):
        images = np.random.default_rng(seed).standard_normal((60, SIZE, SIZE)).astype(np.float32)
        noise = Particles(images, PIXEL, ctf=lens)
        with pytest.warns(UserWarning, match="hardly beyond the 60 Å that both had"):
            found = bayes.refine(noise, reference, rng=1, mask_diameter=DIAMETER, workers=1, progress=False)
        curves.append(found.correlation)
    start = noise.box_size / 60.0  # shells; the soft low-pass ends one further on, and the mask blurs by one more
    assert maximisation.last_shell_above(np.mean(curves, 0), 0.143) < start + 2


def test_noise_of_unit_variance_is_found(refinement):
    white = SIZE**2 / 2  # the images' noise has variance 1; σ² is of the real part of its transform
    assert np.allclose(refinement.noise[0, 5:], white, rtol=0.1)


def two_groups(particles):
    """The second half of the particles with three times the noise of the first, as an optics group of its own."""
    n = len(particles)
    images = np.array(particles.images)
    images[n // 2 :] += np.random.default_rng(3).normal(0, np.sqrt(8), images[n // 2 :].shape)
    group = np.where(np.arange(n) < n // 2, "7", "9")
    return dataclasses.replace(particles, images=images, metadata=pd.DataFrame({"rlnOpticsGroup": group}))


@pytest.mark.parametrize("question", ["refine", "classify_3d"])
def test_each_optics_group_has_its_noise(question, planted, model):
    particles, truth = planted
    known = {"poses": truth.poses} if question == "classify_3d" else {}
    particles = two_groups(dataclasses.replace(particles, **known))
    more = {"n_classes": 2, "n_iterations": 3} if question == "classify_3d" else {}
    found = getattr(bayes, question)(
        particles, model.volume(SIZE, PIXEL), rng=1, mask_diameter=DIAMETER, workers=1, progress=False, **more
    )
    white = SIZE**2 / 2  # as in test_noise_of_unit_variance_is_found
    assert found.noise.shape == (2, SIZE // 2 + 1)
    assert np.allclose(found.noise[:, 5:].mean(1), [white, 9 * white], rtol=0.1)
    if question == "refine":
        error = rotations.angular_distance(truth.poses.rotation, found.poses.rotation)
        assert np.median(error[:100]) < 6  # alone they have 3.9°; with one noise for all, 8.2°
    else:  # the noisy ones say less
        assert found.pmax[:100].mean() > found.pmax[100:].mean() + 0.05


def test_refine_resumes_to_the_same_result(model, planted, refinement, tmp_path, monkeypatch):
    particles, _ = planted
    reference = model.volume(SIZE, PIXEL)
    reference = reference.with_data(300 * reference.data)
    options = {"rng": 1, "mask_diameter": DIAMETER, "workers": 1, "progress": False, "checkpoint": tmp_path / "job.npz"}
    save, calls = parallel.save_checkpoint, []

    def killed(*args, **kwargs):
        save(*args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        bayes.refine(particles, reference, **options)
    monkeypatch.undo()
    resumed = bayes.refine(particles, reference, **options)
    assert len(resumed.iterations) == len(refinement.iterations)
    assert np.array_equal(resumed.volume.data, refinement.volume.data)
    assert np.array_equal(resumed.poses.shift, refinement.poses.shift)


@pytest.fixture(scope="module")
def two_classes(model):
    """A body with and without a tenth of its mass; poses known to 3°."""
    extra = np.array([[60.0, 40.0, 0.0]]) + np.random.default_rng(0).normal(0, 8, (6, 3))
    weights = np.concatenate([model.weights, np.full(6, model.weights.mean())])
    atoms = [(model.coordinates, model.weights), (np.concatenate([model.coordinates, extra]), weights)]
    rng = np.random.default_rng(11)
    n = 240
    label = rng.integers(2, size=n)
    poses = Poses(rotations.random_rotations(n, rng=rng), rng.normal(0, 5, (n, 2)))
    images = np.empty((n, SIZE, SIZE), np.float32)
    for k in range(2):
        mine = np.flatnonzero(label == k)
        images[mine] = projection.project_atoms(atoms[k], 9.0, poses[mine], SIZE, PIXEL)
    lens = CTF(rng.uniform(1e4, 2.5e4, n), rng.uniform(1e4, 2.5e4, n))
    images = ctf.apply(images, lens, PIXEL)
    images /= images.std()
    images += rng.normal(0, 1.0, images.shape).astype(np.float32)
    rough = simulate.disturb_poses(poses, angle=2.0, shift=2.0, rng=rng)
    particles = Particles(images, PIXEL, ctf=lens, poses=rough)
    reference = Volume(np.mean([projection.atoms_to_volume(a, 9.0, SIZE, PIXEL).data for a in atoms], 0), PIXEL)
    return particles, label, reference


def agreement(classification, label):
    share = (classification.label == label).mean()
    return max(share, 1 - share)


def test_two_classes_are_sorted(two_classes):
    particles, label, reference = two_classes
    result = bayes.classify_3d(
        particles, reference, n_classes=2, rng=3, mask_diameter=DIAMETER, workers=1, progress=False
    )
    assert agreement(result, label) > 0.9
    assert "change" not in result.iterations[0].news and result.iterations[-1].news.endswith("% change class")
    assert np.allclose(result.probability.sum(1), 1)
    assert result.occupancy.min() > 0.3
    heavier = int(np.bincount(label, result.probability[:, 1]).argmax() == 1)
    mass = [volume.data.sum() for volume in result.volumes]
    assert mass[heavier] > mass[1 - heavier]
    assert len(result.half_maps) == 2 and "240 particles" in repr(result)
    # the search stops at 30 Å, the last iteration and the volumes at Nyquist
    *search, last = (record.max_shell for record in result.iterations)
    assert max(search) < SIZE // 2 - 3 and last >= SIZE // 2 - 1


def test_images_of_uneven_brightness_are_sorted_as_well(two_classes):
    """A factor on each image says nothing of its class."""
    particles, label, reference = two_classes
    factor = np.exp(np.random.default_rng(4).normal(0, 0.4, len(label)))
    uneven = dataclasses.replace(particles, images=particles.images * factor[:, None, None].astype(np.float32))
    result = bayes.classify_3d(uneven, reference, n_classes=2, rng=3, mask_diameter=DIAMETER, workers=1, progress=False)
    assert agreement(result, label) > 0.9


def die_at_each_save(monkeypatch):
    save = parallel.save_checkpoint

    def killed(*args, **kwargs):
        save(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "save_checkpoint", killed)


def test_classes_do_not_depend_on_threads_and_resume(two_classes, tmp_path, monkeypatch):
    particles, _, reference = two_classes
    particles = particles[:60]
    options = {"n_classes": 2, "rng": 5, "mask_diameter": DIAMETER, "progress": False, "n_iterations": 2}
    alone = bayes.classify_3d(particles, reference, workers=1, **options)
    threads = bayes.classify_3d(particles, reference, workers=2, **options)
    assert np.allclose(alone.probability, threads.probability, atol=1e-6)
    assert np.allclose(alone.volumes[0].data, threads.volumes[0].data, atol=1e-5)
    path = tmp_path / "classes.npz"
    die_at_each_save(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        bayes.classify_3d(particles, reference, workers=1, checkpoint=path, **options)
    monkeypatch.undo()
    resumed = bayes.classify_3d(particles, reference, workers=1, checkpoint=path, **options)
    assert np.array_equal(resumed.probability, alone.probability)
    other = {"rlnRandomSubset": [str(1 + i % 2) for i in range(60)]}
    for change in ({"rng": 6}, {"n_iterations": 3}):
        with pytest.raises(ValueError, match="another job"):
            bayes.classify_3d(particles, reference, workers=1, checkpoint=path, **(options | change))
    images = particles.images.copy()
    images[1] += 1  # any image that changed, and the halves that a file gives
    for changed in ({"images": images}, {"metadata": pd.DataFrame(other)}):
        with pytest.raises(ValueError, match="another job"):
            some = dataclasses.replace(particles, **changed)
            bayes.classify_3d(some, reference, workers=1, checkpoint=path, **options)


def test_twice_as_many_classes_are_merged_and_a_killed_run_goes_on(two_classes, tmp_path, monkeypatch):
    particles, _, reference = two_classes
    particles, seen = particles[:80], []
    options = {"n_classes": 2, "rng": 5, "mask_diameter": DIAMETER, "progress": False, "n_iterations": 7, "workers": 1}

    def watch(record, volumes):
        seen.append((record.number, len(record.occupancy), len(volumes)))

    whole = bayes.classify_3d(particles, reference, monitor=watch, **options)
    assert [made for _, made, _ in seen] == [4, 4, 4, 3, 2, 2, 2] and [left for _, _, left in seen[:4]] == [4, 4, 3, 2]
    path = tmp_path / "classes.npz"
    die_at_each_save(monkeypatch)
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            bayes.classify_3d(particles, reference, checkpoint=path, **options)
    monkeypatch.undo()
    resumed = bayes.classify_3d(particles, reference, checkpoint=path, **options)
    assert np.array_equal(resumed.probability, whole.probability) and len(resumed.volumes) == 2


def test_global_classification_with_given_references(model):
    """Without poses: two different phantoms and their blurred selves as references, orientations unknown."""
    other = samples.blobs(30, radius=80.0, sigma=9.0, rng=77)
    sets = [pictures(one, 40, rng=20 + k, snr=1.0) for k, one in enumerate((model, other))]
    images = np.concatenate([particles.images for particles, _ in sets])
    lens = CTF(*[np.concatenate([getattr(p.ctf, f.name) for p, _ in sets]) for f in dataclasses.fields(CTF)])
    particles = Particles(images, PIXEL, ctf=lens)
    references = [one.volume(SIZE, PIXEL) for one in (model, other)]
    result = bayes.classify_3d(
        particles, references, rng=0, n_iterations=2, mask_diameter=DIAMETER, workers=1, progress=False
    )
    assert (result.label == np.repeat([0, 1], 40)).mean() > 0.9


def test_classes_are_found_without_poses(two_classes, tmp_path):
    """One reference, no poses: those of the consensus first, then classes around them; resumed in either part."""
    particles, label, reference = two_classes
    blind = dataclasses.replace(particles, poses=None)
    path = tmp_path / "classes.npz"
    options = {"n_classes": 2, "rng": 3, "mask_diameter": DIAMETER, "workers": 1, "progress": False}
    seen = []

    def watch(record, halves):
        seen.append((record.number, len(halves)))

    result = bayes.classify_3d(blind, reference, checkpoint=path, consensus_monitor=watch, **options)
    assert agreement(result, label) > 0.85
    assert seen == [(number, 2) for number in range(1, len(seen) + 1)] and len(seen) >= 3
    apart = result.poses.rotation * particles.poses.rotation.inv()
    assert np.median(np.degrees(apart.magnitude())) < 6  # the planted poses themselves are 2° off
    again = bayes.classify_3d(blind, reference, checkpoint=path, **options)
    assert np.array_equal(again.probability, result.probability)


def test_one_class_one_particle_odd_box():
    volume = samples.blobs(20, radius=60.0, sigma=9.0, rng=2).volume(25, 8.0)
    poses = Poses(rotations.random_rotations(4, rng=1))
    lens = CTF(np.full(4, 1.5e4), np.full(4, 1.5e4))
    images = ctf.apply(projection.project(volume, poses), lens, 8.0)
    images += np.random.default_rng(0).normal(0, images.std(), images.shape).astype(np.float32)
    particles = Particles(images, 8.0, ctf=lens, poses=poses)
    options = {"rng": 0, "n_iterations": 1, "workers": 1, "progress": False}
    one = bayes.classify_3d(particles[:1], volume, n_classes=1, **options)
    assert one.probability.tolist() == [[1.0]] and np.isfinite(one.volumes[0].data).all()
    four = bayes.classify_3d(particles, volume, n_classes=1, **options)
    assert four.probability.shape == (4, 1) and four.volumes[0].size_px == 25


def test_arguments_that_cannot_be_used(model, planted):
    particles, volume = planted[0][:8], model.volume(SIZE, PIXEL)
    with pytest.raises(ValueError, match="mask_diameter must be between"):
        bayes.refine(particles, volume, rng=0, mask_diameter=900, progress=False)
    with pytest.raises(ValueError, match="at least 2 particles"):
        bayes.refine(particles[:1], volume, rng=0, progress=False)
    with pytest.raises(ValueError, match="n_classes must be between 1 and the 8 particles, got 9"):
        bayes.classify_3d(particles, volume, n_classes=9, rng=0, progress=False)
    with pytest.raises(ValueError, match="one for each of the 3 classes; got 2"):
        bayes.classify_3d(particles, [volume, volume], n_classes=3, rng=0, progress=False)
