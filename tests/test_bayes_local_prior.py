"""The local prior: noise stays uncorrelated between the halves, and an unevenly resolved map gets nearer the truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryonb import bayes, ctf, fourier, projection, rotations, samples, simulate
from cryonb.bayes import maximisation
from cryonb.bayes.local_prior import bands, local_weights, noise_power, weighted_locally
from cryonb.filters import raised_cosine
from cryonb.reconstruction import reconstruct
from cryonb.types import CTF, Particles, Poses

SIZE = 32
FLAT, EVERYWHERE = np.ones(SIZE // 2 + 1), np.ones((SIZE,) * 3, np.float32)
SHELL = np.minimum(np.rint(fourier.radius_px(SIZE, ndim=3)), SIZE // 2).astype(int)


def own_weights(a, b):
    noise = noise_power(a, b, EVERYWHERE)
    return [weighted_locally(half, half, noise, EVERYWHERE, FLAT) for half in (a, b)]


def shared_weights(a, b):
    """What must not be done: weights from both halves, S = ⟨a b⟩ over P, where noise agrees by chance it is kept."""
    sums = np.zeros((2, *a.shape))
    for centre, window in zip(*bands(SIZE // 2 + 1)):
        parts = [fourier.inverse_transform(fourier.transform(half) * window[SHELL]).real for half in (a, b)]
        sigma = SIZE / max(centre, 2.0)
        common = np.maximum(gaussian_filter(parts[0] * parts[1], sigma), 0)
        sums += common / gaussian_filter(0.5 * (parts[0] ** 2 + parts[1] ** 2), sigma) * np.stack(parts)
    return sums


def mean_correlation(make, weights, n=5):
    return np.mean(
        [maximisation.correlation(*weights(*make(np.random.default_rng(seed)))) for seed in range(n)], axis=0
    )


def noise_maps(rng):
    return rng.normal(size=(2, SIZE, SIZE, SIZE))


def randomised_maps(rng, first=8):
    """Halves of one structure with noise, each with its own random phases from a shell on: amplitudes agree there."""
    structure = samples.blobs(40, radius=85.0, sigma=7.0, rng=1).volume(SIZE, 8.0).data
    structure = structure / structure.std()
    halves = []
    for _ in range(2):
        transform = fourier.transform(structure + rng.normal(0, 0.5, structure.shape))
        other = fourier.transform(rng.normal(size=structure.shape))
        mixed = np.where(SHELL >= first, np.abs(transform) * other / np.abs(other), transform)
        halves.append(fourier.inverse_transform(mixed).real)
    return halves


@pytest.mark.parametrize(("make", "first"), [(noise_maps, 3), (randomised_maps, 10)])
def test_noise_of_one_half_does_not_reach_the_other(make, first):
    """FSC 0 where nothing is common (bands reach two shells over); weights from both halves find noise in noise."""
    own, shared = mean_correlation(make, own_weights), mean_correlation(make, shared_weights)
    assert abs(own[first:].mean()) < 0.02 and np.abs(own[first:]).max() < 0.12
    assert shared[first:].mean() > 0.15


def test_weights_are_where_the_signal_is():
    """Signal in one part of a box of noise: kept there, not elsewhere; nearer to the truth than one factor a shell."""
    rng = np.random.default_rng(0)
    where = np.zeros((SIZE,) * 3)
    where[10:22, 10:22, 2:14] = 1
    signal = gaussian_filter(rng.normal(size=where.shape), 0.8) * gaussian_filter(where, 1.5)
    signal *= 0.5 / signal.std()
    a, b = signal + rng.normal(size=(2, *where.shape))
    centre, window = bands(SIZE // 2 + 1)
    band = int(np.argmax(centre >= 7))
    weights = local_weights(a, noise_power(a, b, EVERYWHERE), EVERYWHERE, centre[band], window[band])
    assert weights[13:19, 13:19, 5:11].min() > 0.8 and np.median(weights[:, :, 26:30]) < 0.3
    gain = np.clip(maximisation.correlation(a, b), 1e-3, 1)
    better, plain = own_weights(a, b)[0], maximisation.filtered(a, gain)
    assert ((better - signal) ** 2).sum() < 0.8 * ((plain - signal) ** 2).sum()


def test_noise_power_is_that_of_a_half():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 2, (2, SIZE, SIZE, SIZE)) + rng.normal(size=(SIZE,) * 3)
    ball = maximisation.sphere(SIZE, 20.0)
    assert np.allclose(noise_power(a, b, ball)[4:], 4 * SIZE**3, rtol=0.15)


BOX, PIXEL, DIAMETER = 40, 6.5, 200.0


def uneven_particles(n, *, rng):
    """Particles with an arm that sways by 14 Å, their poses, the mean volume, and a soft mask of the arm."""
    rng = np.random.default_rng(rng)
    core, arm = (rng.normal(size=(count, 3)) for count in (60, 20))
    core *= (50 * np.cbrt(rng.random(60)) / np.linalg.norm(core, axis=1))[:, None]
    arm *= (20 * np.cbrt(rng.random(20)) / np.linalg.norm(arm, axis=1))[:, None]
    core, arm, weight = core - [15, 0, 0], arm + [60, 0, 0], np.ones(80)
    poses = Poses(rotations.random_rotations(n, rng=rng), rng.normal(0, 4, (n, 2)))
    moved = [np.concatenate([core, arm + by]) for by in rng.normal(0, 14, (n, 3))]
    images = [
        projection.project_atoms((atoms, weight), 6.0, poses[i : i + 1], BOX, PIXEL)[0] for i, atoms in enumerate(moved)
    ]
    lens = CTF(rng.uniform(1e4, 2e4, n), rng.uniform(1e4, 2e4, n))
    images = ctf.apply(np.stack(images), lens, PIXEL)
    images = images / images.std() + rng.normal(0, 1.5, images.shape)
    truth = np.mean(
        [projection.atoms_to_volume((atoms, weight), 6.0, BOX, PIXEL).data for atoms in moved[:100]], axis=0
    )
    z, y, x = (np.indices((BOX,) * 3) - BOX // 2) * PIXEL
    distance = np.sqrt((x - 60) ** 2 + y**2 + z**2)
    return Particles(images.astype(np.float32), PIXEL, ctf=lens), poses, truth, raised_cosine(distance, 40.0, 25.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_unevenly_resolved_map_gets_nearer_to_the_truth(seed):
    """Poses 3° off: Wiener filters of the shells, and of the voxels, against the truth, in all and in the arm."""
    particles, poses, truth, arm = uneven_particles(200, rng=seed)
    particles = replace(particles, poses=simulate.disturb_poses(poses, angle=3.0, shift=2.0, rng=seed))
    halves = [reconstruct(particles[side::2], progress=False).data for side in (0, 1)]
    mask, mean = maximisation.sphere(BOX, DIAMETER / PIXEL), 0.5 * (halves[0] + halves[1])
    ratio = 2 * maximisation.signal_to_noise(maximisation.correlation(*(half * mask for half in halves)))
    gain = np.where(np.arange(len(ratio)) < 5, 1, ratio / (1 + ratio))
    by_shell = maximisation.filtered(mean, gain)
    by_voxel = weighted_locally(by_shell, mean, noise_power(*halves, mask) / 2, mask, gain)
    for part, better_by in ((mask, 0.03), (arm, 0.0), (mask * (1 - arm), 0.03)):
        plain, local = (maximisation.correlation(data * part, truth * part)[1:].mean() for data in (by_shell, by_voxel))
        assert local > plain + better_by


@pytest.mark.slow
def test_pure_noise_is_given_no_better_resolution_with_local_weights():
    """As without them (test_bayes_questions): one FSC of noise is itself noisy, so a mean of three."""
    reference = samples.blobs(30, radius=80.0, sigma=9.0, rng=5).volume(SIZE, 8.0)
    lens, curves = CTF(np.full(60, 1.5e4), np.full(60, 1.5e4)), []
    for seed in range(3):
        images = np.random.default_rng(seed).standard_normal((60, SIZE, SIZE)).astype(np.float32)
        noise = Particles(images, 8.0, ctf=lens)
        found = bayes.refine(noise, reference, rng=1, mask_diameter=190.0, local_prior=True, workers=1, progress=False)
        curves.append(found.correlation)
    assert maximisation.last_shell_above(np.mean(curves, 0), 0.143) < noise.box_size / 60.0 + 2
