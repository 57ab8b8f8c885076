"""choose_classes: how many classes there are, by particles that were held out."""

import dataclasses

import numpy as np
import pytest

from cryonb import bayes, ctf, parallel, plot, projection, rotations, samples, simulate
from cryonb.types import CTF, Particles, Poses, Volume

SIZE, PIXEL, DIAMETER = 32, 8.0, 190.0
QUICK = {
    "mask_diameter": DIAMETER,
    "workers": 1,
    "progress": False,
    "most": 4,
    "tau_fudges": (0.25, 1.0, 4.0),
    "rng": 2,
}


def drawn(n_species, n, *, rng):
    """Particles of bodies that share 24 of 30 blobs, which of them each is, and the mean body."""
    rng = np.random.default_rng(rng)
    model = samples.blobs(42, radius=80.0, sigma=9.0, rng=5)
    bodies = [np.r_[0:24, 24 + 6 * k : 30 + 6 * k] for k in range(n_species)]
    bodies = [(model.coordinates[part], model.weights[part]) for part in bodies]
    label = rng.integers(n_species, size=n)
    poses = Poses(rotations.random_rotations(n, rng=rng), rng.normal(0, 5, (n, 2)))
    images = np.empty((n, SIZE, SIZE), np.float32)
    for k, body in enumerate(bodies):
        images[label == k] = projection.project_atoms(body, 9.0, poses[np.flatnonzero(label == k)], SIZE, PIXEL)
    lens = CTF(rng.uniform(1e4, 2.5e4, n), rng.uniform(1e4, 2.5e4, n))
    images = ctf.apply(images, lens, PIXEL)
    images += rng.normal(0, images.std(), images.shape).astype(np.float32)
    rough = simulate.disturb_poses(poses, angle=1.0, shift=1.0, rng=rng)
    mean = np.mean([projection.atoms_to_volume(body, 9.0, SIZE, PIXEL).data for body in bodies], 0)
    return Particles(images, PIXEL, ctf=lens, poses=rough), label, Volume(mean, PIXEL)


@pytest.fixture(scope="module")
def three():
    return drawn(3, 360, rng=11)


@pytest.fixture(scope="module")
def watched(three):
    """A choice, and how many particles and classes each of its iterations had."""
    particles, _, mean = three
    seen = []
    choice = bayes.choose_classes(
        particles, mean, monitor=lambda record, volumes: seen.append((record.n_particles, len(volumes))), **QUICK
    )
    return choice, seen


@pytest.fixture(scope="module")
def choice(watched):
    return watched[0]


def test_three_species_are_three_classes(choice, three):
    _, label, _ = three
    assert choice.n_classes == 3 and "K = 3" in repr(choice)
    counts = np.zeros((3, 3))
    np.add.at(counts, (choice.classification.label, label), 1)
    assert counts.max(0).sum() > 0.9 * len(label)  # each species is a class
    assert sorted(counts.argmax(0).tolist()) == [0, 1, 2]


def test_the_curves_show_why(choice):
    mean, error = choice.against_chosen()
    assert mean.shape == error.shape == (4,) and mean[2] == error[2] == 0
    assert mean[0] < mean[1] < -2 * error[1] and mean[3] < error[3]
    mean, error = choice.against_chosen(choice.tau_evidence)
    assert mean.shape == (3,) and mean.max() <= error.max()
    left, right = plot.class_choice(choice)
    assert "K" in left.get_xlabel() and [tick.get_text() for tick in right.get_xticklabels()] == ["0.25", "1", "4"]


def test_held_out_particles_make_no_volume_before_k_is_chosen(watched):
    choice, seen = watched
    assert len(choice.held_out) == 90 and len(set(choice.held_out.tolist())) == 90
    assert {count for count, k in seen if k == 4} == {270}  # too many classes: a quarter looks on
    assert seen[-1] == (360, 3) and len(choice.classification.iterations) == sum(count == 360 for count, _ in seen)
    assert np.allclose(choice.classification.probability.sum(1), 1)


def test_one_species_is_one_class():
    particles, _, mean = drawn(1, 240, rng=13)
    choice = bayes.choose_classes(particles, mean, **QUICK)
    assert choice.n_classes == 1 and choice.classification.probability.shape == (240, 1)


def test_a_stopped_choice_goes_on_to_the_same_end(choice, three, tmp_path, monkeypatch):
    particles, _, mean = three
    save, left = parallel.save_checkpoint, [0]

    def save_some(*args, **options):
        save(*args, **options)
        left[0] += 1
        if left[0] in (3, 9, 12):  # in the spread, in the merging, in the search for T
            raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "save_checkpoint", save_some)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            bayes.choose_classes(particles, mean, checkpoint=tmp_path / "choice.npz", **QUICK)
    again = bayes.choose_classes(particles, mean, checkpoint=tmp_path / "choice.npz", **QUICK)
    assert np.array_equal(again.class_evidence, choice.class_evidence)
    assert np.array_equal(again.classification.probability, choice.classification.probability)


def test_what_cannot_be_chosen(three):
    particles, _, mean = three
    with pytest.raises(ValueError, match="20 particles for each class; got 4 classes, 60 particles"):
        bayes.choose_classes(particles[:60], mean, **QUICK)
    with pytest.raises(ValueError, match="with 1 among them"):
        bayes.choose_classes(particles, mean, **(QUICK | {"tau_fudges": (2.0, 4.0)}))
    with pytest.raises(ValueError, match="no CTF"):
        bayes.choose_classes(dataclasses.replace(particles, ctf=None), mean, **QUICK)
