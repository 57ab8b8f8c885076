"""Masks, filters, resampling, normalisation, noise."""

import numpy as np
import pytest

from cryonb import filters, fourier
from cryonb.projection import atoms_to_volume, project, project_atoms
from cryonb.rotations import random_rotations
from cryonb.types import Particles, Poses, Volume

BOX = 128.0  # Å


def atoms(n=30, reach=35.0):
    rng = np.random.default_rng(5)
    return rng.uniform(-reach / 3**0.5, reach / 3**0.5, size=(n, 3)), rng.uniform(1, 2, size=n)


def particles(size_px, n=5):
    poses = Poses(random_rotations(n, rng=2), np.random.default_rng(3).normal(size=(n, 2)) * 3)
    pixel_size = BOX / size_px
    return Particles(project_atoms(atoms(), 6.0, poses, size_px, pixel_size), pixel_size, poses=poses)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.mark.parametrize("size_px", [31, 32])
def test_sphere_is_centred_and_falls_by_half_a_cosine(size_px):
    mask = filters.soft_sphere(size_px, 8, edge_px=4)
    distance = fourier.radius_px(size_px, ndim=3)
    assert (mask[distance <= 8] == 1).all() and (mask[distance >= 12] == 0).all()
    assert mask[size_px // 2, size_px // 2, size_px // 2 + 10] == pytest.approx(0.5)
    assert filters.soft_sphere(size_px, 8, edge_px=0, ndim=2).sum() == (fourier.radius_px(size_px) <= 8).sum()


def test_soft_mask_holds_the_density_and_drops_specks():
    volume = atoms_to_volume(atoms(), 6.0, 48, 4.0)
    data = volume.data.copy()
    data[2:4, 2:4, 2:4] = data.max()  # dust far from the particle
    mask = filters.soft_mask(volume.with_data(data))
    assert mask.min() == 0 and mask.max() == 1 and mask[3, 3, 3] == 0
    assert (volume.data * mask).sum() > 0.97 * volume.data.sum()
    assert 0.02 < mask.mean() < 0.3
    with pytest.raises(ValueError, match="no voxel is above the threshold"):
        filters.soft_mask(volume, threshold=10 * data.max())


@pytest.mark.parametrize("size_px", [33, 40])
def test_filters_pass_and_stop_single_shells(size_px):
    rng = np.random.default_rng(0)
    volume = Volume(rng.normal(size=(size_px,) * 3), 2.5)
    power = fourier.shell_mean(np.abs(fourier.transform(volume.data)) ** 2, ndim=3)
    resolution = volume.box_size / 8  # shell 8
    low = filters.low_pass(volume, resolution)
    high = filters.high_pass(volume, resolution)
    kept = fourier.shell_mean(np.abs(fourier.transform(low.data)) ** 2, ndim=3) / power
    np.testing.assert_allclose(kept[:7], 1, atol=1e-4)
    np.testing.assert_allclose(kept[10:], 0, atol=1e-6)
    np.testing.assert_allclose(low.data + high.data, volume.data, atol=1e-5)
    images = low.data[:3]
    np.testing.assert_allclose(
        filters.low_pass(images, resolution, 2.5)[1], filters.low_pass(images[1], resolution, 2.5), atol=1e-6
    )


def test_filters_ask_for_a_pixel_size_once():
    images = np.zeros((2, 8, 8))
    with pytest.raises(ValueError, match="pixel_size"):
        filters.low_pass(images, 10.0)
    with pytest.raises(ValueError, match="brings its own pixel_size"):
        filters.low_pass(Particles(images, 2.0), 10.0, 2.0)
    with pytest.raises(ValueError, match="resolution must be positive"):
        filters.butterworth(images, -1.0, 2.0)
    with pytest.raises(ValueError, match=r"got \(4, 5\)"):
        filters.high_pass(np.zeros((4, 5)), 10.0, 2.0)


@pytest.mark.parametrize(("old", "new"), [(64, 48), (64, 47), (63, 48), (63, 45), (48, 64), (47, 64), (48, 63)])
def test_resampled_images_equal_exact_ones(old, new):
    # the same atoms drawn at the other sampling; a pixel sums its area, so grey values differ by the area
    source, truth = particles(old), particles(new)
    found = filters.resample(source, new)
    assert found.pixel_size == pytest.approx(truth.pixel_size) and found.images.shape == truth.images.shape
    area = (truth.pixel_size / source.pixel_size) ** 2
    error = np.abs(found.images * area - truth.images).max() / truth.images.max()
    assert error < 0.02  # the integral over a coarser pixel is itself a filter: sinc(0.3 px) at σ = 6 Å
    assert correlation(found.images, truth.images) > 0.9995


@pytest.mark.parametrize(("old", "new"), [(48, 32), (47, 32), (48, 33), (32, 47)])
def test_resampled_volume_keeps_its_place_and_its_projections(old, new):
    volume = atoms_to_volume(atoms(), 8.0, old, BOX / old)
    volume = Volume(volume.data, volume.voxel_size, origin=[10.0, -4.0, 0.0])
    found = filters.resample(volume, new)
    assert found.box_size == pytest.approx(volume.box_size)
    for size_px, one in ((old, volume), (new, found)):
        np.testing.assert_allclose(
            one.origin + size_px // 2 * one.voxel_size, volume.origin + old // 2 * volume.voxel_size
        )
    if found.size_px % 2 == 0 and volume.size_px % 2 == 0:
        poses = Poses(random_rotations(3, rng=0))
        expected = filters.resample(project(volume, poses), new) * new / old
        assert correlation(project(found, poses), expected) > 0.999
    again = filters.resample(found, old)
    assert correlation(again.data, volume.data) > 0.9999


def test_resample_of_lazy_images_reads_slices(monkeypatch):
    monkeypatch.setattr(filters, "BATCH", 2)
    whole = particles(32)
    seen = []

    class Lazy:
        shape = whole.images.shape

        def __getitem__(self, index):
            seen.append(index)
            return whole.images[index]

    lazy = Particles(Lazy(), whole.pixel_size)
    np.testing.assert_allclose(filters.resample(lazy, 24).images, filters.resample(whole, 24).images, atol=1e-6)
    assert [index.stop - index.start for index in seen] == [2, 2, 1]


def test_normalise_and_ramp():
    rng = np.random.default_rng(0)
    y, x = np.indices((32, 32)) - 16
    images = 5 + 2 * rng.normal(size=(4, 32, 32)) + 0.5 * x - 0.2 * y
    outside = fourier.radius_px(32) > 13
    for ramp in (False, True):
        flat = filters.normalise(images, 13, ramp=ramp)
        np.testing.assert_allclose(flat[:, outside].mean(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(flat[:, outside].std(axis=1), 1, atol=1e-6)
        tilt = (flat * x)[:, outside].sum(axis=1) / (x**2)[outside].sum()
        assert (np.abs(tilt) < 1e-6).all() if ramp else (tilt > 0.05).all()
    with pytest.raises(ValueError, match="leaves no background"):
        filters.normalise(images, 30)
    images[2] = 1.0
    with pytest.raises(ValueError, match="image 2"):
        filters.normalise(images, 13)


def test_noise_spectrum_ignores_the_particle():
    rng = np.random.default_rng(1)
    noise = filters.butterworth(rng.normal(size=(400, 32, 32)), 6.0, 1.0, order=1)
    expected = fourier.shell_mean((np.abs(fourier.transform(noise, ndim=2)) ** 2).mean(axis=0)) / 2
    signal = 50 * filters.soft_sphere(32, 6, edge_px=2, ndim=2)
    found = filters.noise_spectrum(noise + signal, 9)
    np.testing.assert_allclose(found[3:], expected[3:], rtol=0.1)
    one = filters.noise_spectrum(Particles(noise[:1], 1.0), 9)
    assert one.shape == (17,)


def test_whitened_noise_is_white():
    noise = filters.butterworth(np.random.default_rng(1).normal(size=(300, 32, 32)), 6.0, 1.0, order=1)
    white = filters.whiten(noise, filters.noise_spectrum(noise, 8))
    spectrum = filters.noise_spectrum(white, 8)
    np.testing.assert_allclose(spectrum[3:], 32**2 / 2, rtol=0.1)
    with pytest.raises(ValueError, match="17 positive variances"):
        filters.whiten(noise, np.ones(5))
