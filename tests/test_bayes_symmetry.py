"""Point groups: poses right up to the group, volumes that have it, from a reference, from nothing, and the old way."""

from dataclasses import replace

import numpy as np
import pytest

from cryonb import bayes, ctf, projection, rotations
from cryonb.alignment import align_volumes
from cryonb.bayes import baseline
from cryonb.bayes.search import Sampling
from cryonb.resolution import fourier_shell_correlation
from cryonb.types import CTF, Particles, Poses

SIZE, PIXEL, DIAMETER = 32, 8.0, 230.0
START = 30.0  # Å: at 60 Å the phantoms with O and I are their own mirror images, and particles go to both
QUIET = {"mask_diameter": DIAMETER, "workers": 1, "progress": False}
UNIT = {"C3": 5, "D2": 5, "T": 3, "O": 2, "I": 1}  # blobs of an asymmetric unit: few enough to be seen apart


def symmetric_particles(group, n, *, rng, snr=1.0):
    """Noisy views of a phantom with a point group, their poses, and its volume."""
    rng = np.random.default_rng(rng)
    part = rng.normal(0, 1, (UNIT[group], 3)) + [1.2, 0.3, 0.6]
    part *= (rng.uniform(65, 85, UNIT[group]) / np.linalg.norm(part, axis=1))[:, None]
    atoms = np.concatenate([turn.apply(part) for turn in rotations.point_group(group)])
    atoms = atoms, np.ones(len(atoms))
    poses = Poses(rotations.random_rotations(n, rng=rng), rng.normal(0, 4, (n, 2)))
    defocus = rng.uniform(1e4, 2e4, n)
    lens = CTF(defocus, defocus)
    images = ctf.apply(projection.project_atoms(atoms, 8.0, poses, SIZE, PIXEL), lens, PIXEL)
    images = np.sqrt(snr) * images / images.std() + rng.normal(0, 1.0, images.shape)
    truth = projection.atoms_to_volume(atoms, 8.0, SIZE, PIXEL)
    return Particles(images.astype(np.float32), PIXEL, ctf=lens), poses, truth


def error_up_to(group, poses, found):
    turns = rotations.point_group(group)
    return np.min([rotations.angular_distance(turn * poses.rotation, found.rotation) for turn in turns], axis=0)


def unlike_itself(volume, group):
    """Largest loss of correlation of a volume when turned by an element of the group."""
    from scipy.ndimage import affine_transform

    data, centre, worst = volume.data, volume.size_px // 2, 0.0
    for turn in rotations.point_group(group)[1:4]:
        matrix = turn.as_matrix()[::-1, ::-1]
        turned = affine_transform(data, matrix, centre - matrix @ np.full(3, centre), order=3)
        worst = max(worst, 1 - np.corrcoef(data.ravel(), turned.ravel())[0, 1])
    return worst


@pytest.mark.parametrize(("group", "n"), [("C3", 100), ("D2", 100), ("T", 100), ("O", 80), ("I", 60)])
def test_a_symmetric_particle_is_refined(group, n):
    particles, poses, truth = symmetric_particles(group, n, rng=2)
    found = bayes.refine(particles, truth, rng=0, symmetry=group, initial_resolution=START, **QUIET)
    error = error_up_to(group, poses, found.poses)
    assert np.median(error) < 5 and (error > 15).mean() < 0.05
    assert unlike_itself(found.volume, group) < 0.01
    assert np.corrcoef(found.volume.data.ravel(), truth.data.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("group", ["D2", "T", "O", "I"])
def test_distinct_views_leave_no_gap_at_their_borders(group):
    """Every direction has an equivalent as near to a view as an unrestricted grid would have."""
    turns, directions = rotations.point_group(group), rotations.random_rotations(1000, rng=1).as_matrix()[:, :, 2]
    everywhere = Sampling(3, 5.0, 2.0, turn=rotations.random_rotations(1, rng=0)[0])
    chosen = replace(everywhere, symmetry=turns)
    views, some = everywhere.views()[:, :, 2], chosen.views()[chosen.distinct_views()][:, :, 2]
    cosine = np.max([(directions @ turn.as_matrix().T @ some.T).max(1) for turn in turns], axis=0)
    farthest = np.degrees(np.arccos([cosine.min(), (directions @ views.T).max(1).min()]))
    assert farthest[0] < 1.1 * farthest[1] and len(some) < 2.5 * len(views) / len(turns)


def test_symmetry_is_information():
    """Forty particles seen in 24 ways make a better map than seen in one."""
    particles, _, truth = symmetric_particles("O", 40, rng=2, snr=0.5)
    curves = [
        fourier_shell_correlation(
            bayes.refine(particles, truth, rng=0, symmetry=name, initial_resolution=START, **QUIET).volume, truth
        )
        for name in ("O", "C1")
    ]
    assert curves[0].at(0.5) < curves[1].at(0.5)


@pytest.fixture(scope="module")
def two_states():
    """A body with C3 in two states (one blob in three moved); particles, the state of each, mean volume."""
    rng = np.random.default_rng(4)
    part = np.array([[60.0, 0, 30], [45, 40, -20], [75, 20, 0]])
    moved = part + [[0, 0, 0], [0, 0, 0], [-25, 10, 40]]
    bodies = [np.concatenate([turn.apply(one) for turn in rotations.point_group("C3")]) for one in (part, moved)]
    bodies = [(atoms, np.ones(len(atoms))) for atoms in bodies]
    label, poses = rng.integers(2, size=160), Poses(rotations.random_rotations(160, rng=rng))
    images = np.empty((160, SIZE, SIZE), np.float32)
    for k, body in enumerate(bodies):
        images[label == k] = projection.project_atoms(body, 8.0, poses[np.flatnonzero(label == k)], SIZE, PIXEL)
    lens = CTF(rng.uniform(1e4, 2e4, 160), rng.uniform(1e4, 2e4, 160))
    images = ctf.apply(images, lens, PIXEL)
    images = images / images.std() + rng.normal(0, 1.0, images.shape)
    volumes = [projection.atoms_to_volume(body, 8.0, SIZE, PIXEL) for body in bodies]
    particles = Particles(images.astype(np.float32), PIXEL, ctf=lens, poses=poses)
    return particles, label, volumes[0].with_data((volumes[0].data + volumes[1].data) / 2)


def sorted_right(found, label):
    share = (found.label == label).mean()
    return max(share, 1 - share)


def test_classes_of_a_symmetric_particle(two_states):
    particles, label, mean = two_states
    found = bayes.classify_3d(particles, mean, n_classes=2, rng=1, n_iterations=8, symmetry="C3", **QUIET)
    assert sorted_right(found, label) > 0.9
    assert max(unlike_itself(volume, "C3") for volume in found.volumes) < 0.01


def test_the_number_of_classes_of_a_symmetric_particle(two_states):
    particles, label, mean = two_states
    choice = bayes.choose_classes(particles, mean, most=3, tau_fudges=(1.0,), rng=1, symmetry="C3", **QUIET)
    assert choice.n_classes == 2 and sorted_right(choice.classification, label) > 0.9
    assert max(unlike_itself(volume, "C3") for volume in choice.classification.volumes) < 0.01


def test_a_symmetric_structure_is_found_from_blobs():
    particles, _, truth = symmetric_particles("D2", 120, rng=2)
    found = bayes.initial_model(
        particles, rng=0, n_batches=25, batch_size=30, symmetry="D2", final_resolution=24.0, **QUIET
    )
    assert unlike_itself(found.volumes[0], "D2") < 0.01
    assert fourier_shell_correlation(align_volumes(found.volumes[0], truth).volume, truth).at(0.5) < 30


def test_projection_matching_with_symmetry():
    particles, poses, truth = symmetric_particles("O", 60, rng=2)
    found = baseline.refine(
        particles, truth, rng=0, symmetry="O", n_iterations=2, n_local=1, initial_resolution=START, **QUIET
    )
    error = error_up_to("O", poses, found.poses)
    assert np.median(error) < 5 and (error > 15).mean() < 0.1
    assert unlike_itself(found.volume, "O") < 0.01
