"""Reconstructions of planted volumes: absolute scale, CTF, prior, symmetry, weights; chunks and workers."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import ctf as ctf_room
from cryonb import fourier
from cryonb.parallel import Checkpoint
from cryonb.projection import atoms_to_volume, project, project_atoms
from cryonb.reconstruction import (
    filtered_back_projection,
    half_maps,
    reconstruct,
    sinogram,
    weighted_back_projection,
)
from cryonb.resolution import fourier_shell_correlation
from cryonb.rotations import point_group, random_rotations
from cryonb.types import CTF, Particles, Poses

BOX = 160.0  # Å


def atoms(n=60, seed=0, reach=BOX / 4):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, size=(n, 3)) * reach / 3**0.5 * 1.5, rng.uniform(1, 2, size=n)


def lenses(n, seed=0):
    rng = np.random.default_rng(seed)
    defocus = rng.uniform(8000, 25000, n)
    return CTF(defocus, defocus - rng.uniform(0, 1000, n), rng.uniform(0, 180, n))


def simulate(n, size_px=32, *, snr=None, with_ctf=True, sample=None, seed=0):
    """Exact projections of the atoms, through the CTF, with white noise."""
    pixel_size = BOX / size_px
    rng = np.random.default_rng(seed)
    poses = Poses(random_rotations(n, rng=rng), rng.normal(size=(n, 2)) * 5)
    images = project_atoms(atoms() if sample is None else sample, pixel_size, poses, size_px, pixel_size)
    ctf = lenses(n) if with_ctf else None
    if with_ctf:
        images = ctf_room.apply(images, ctf, pixel_size)
    if snr is not None:
        images += rng.normal(size=images.shape) * images.std() / np.sqrt(snr)
    return Particles(images, pixel_size, ctf, poses)


def truth(size_px=32, sample=None):
    return atoms_to_volume(atoms() if sample is None else sample, BOX / size_px, size_px, BOX / size_px)


def spectrum(data):
    return fourier.shell_mean(np.abs(fourier.transform(data)) ** 2, ndim=3)


@pytest.mark.parametrize(("size_px", "with_ctf"), [(32, False), (32, True), (33, True)])
def test_noiseless_particles_give_the_volume_on_its_own_scale(size_px, with_ctf):
    particles = simulate(1000, size_px, with_ctf=with_ctf)
    found, expected = reconstruct(particles, progress=False), truth(size_px)
    fsc = fourier_shell_correlation(found, expected).correlation
    assert fsc[: round(0.9 * size_px / 2)].min() > 0.99
    scale = np.sqrt(spectrum(found.data) / spectrum(expected.data))
    np.testing.assert_allclose(scale[3 : size_px // 3], 1, atol=0.02)
    # zero frequency is seen through CTF(0) = 0.1 alone, and in shells 1 and 2 CTF² triples within one voxel's reach,
    # so that each voxel leans towards its outer neighbours
    np.testing.assert_allclose(scale[:3], 1, atol=0.1 if with_ctf else 0.02)
    # its projections explain the images
    seen = project(found, particles.poses[:50])
    if with_ctf:
        seen = ctf_room.apply(seen, particles.ctf[:50], particles.pixel_size)
    images = particles.images[:50]
    assert np.vdot(seen, images) / np.vdot(seen, seen) == pytest.approx(1, abs=0.02)
    assert np.sum((seen - images) ** 2) < 0.01 * np.sum(images**2)


def test_chunks_threads_and_lazy_images_give_the_same_volume(monkeypatch, tmp_path):
    from cryonb import reconstruction

    particles = simulate(300)
    whole = reconstruct(particles, progress=False)
    monkeypatch.setattr(reconstruction, "CHUNK_BYTES", 4 * 32**2 * 50)
    largest = 0

    class Lazy:
        shape = particles.images.shape

        def __init__(self, rows):
            self.rows, self.shape = rows, (len(rows), 32, 32)

        def __getitem__(self, index):
            return Lazy(self.rows[index])

        def __array__(self, dtype=None, copy=None):
            nonlocal largest
            largest = max(largest, len(self.rows))
            return particles.images[self.rows]

    lazy = Particles(Lazy(np.arange(300)), particles.pixel_size, particles.ctf, particles.poses)
    checkpoint = Checkpoint(tmp_path / "sum.npz", key="the sums", every=0)
    for options in ({}, {"workers": 2}, {"checkpoint": checkpoint}):
        found = reconstruct(lazy, progress=False, **options)
        np.testing.assert_allclose(found.data, whole.data, atol=1e-5 * whole.data.max())
    assert 0 < largest <= 50 and not checkpoint.path.exists()


def test_prior_brings_a_noisy_volume_closer():
    particles = simulate(500, snr=0.05)
    expected = truth()
    plain = reconstruct(particles, progress=False)
    size_px = 32
    noise_variance = size_px**2 * particles.images.var() / 2  # of the real part of a Fourier coefficient
    prior = spectrum(expected.data) / 2 / noise_variance
    filtered = reconstruct(particles, prior=prior, progress=False)

    def error(volume):
        return np.sum((volume.data - expected.data) ** 2) / np.sum(expected.data**2)

    assert error(filtered) < 0.5 * error(plain)
    # a scalar is the same in every shell; a strong prior leaves only the free shells
    tiny = reconstruct(particles, prior=1e-9, progress=False)
    power = spectrum(tiny.data)
    assert power[7:].max() < 1e-3 * power[1:4].max()


@pytest.mark.parametrize("symmetry", ["C3", "D2"])
def test_symmetry_multiplies_the_particles(symmetry):
    coordinates, weights = atoms(12, reach=BOX / 5)
    operators = point_group(symmetry)
    sample = np.concatenate([turn.apply(coordinates) for turn in operators]), np.tile(weights, len(operators))
    particles = simulate(60, with_ctf=False, sample=sample)
    expected = truth(sample=sample)
    plain = fourier_shell_correlation(reconstruct(particles, progress=False), expected)
    found = reconstruct(particles, symmetry=symmetry, progress=False)
    assert fourier_shell_correlation(found, expected).auc > max(0.97, plain.auc + 0.02)
    where = Poses(random_rotations(2, rng=0))
    turned = Poses(operators[1] * where.rotation)
    one, other = project(found, where), project(found, turned)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


def test_weights_select():
    good, bad = simulate(200), simulate(200, sample=atoms(seed=9), seed=3)
    ctf = CTF(*(np.concatenate([getattr(p.ctf, n) for p in (good, bad)]) for n in good.ctf.__dataclass_fields__))
    rotation = Rotation.concatenate([good.poses.rotation, bad.poses.rotation])
    poses = Poses(rotation, np.concatenate([good.poses.shift, bad.poses.shift]))
    mixed = Particles(np.concatenate([good.images, bad.images]), good.pixel_size, ctf, poses)
    weights = np.repeat([0.7, 0.0], 200)
    found = reconstruct(mixed, weights=weights, progress=False)
    np.testing.assert_allclose(found.data, reconstruct(good, progress=False).data, atol=1e-4 * found.data.max())


def test_half_maps_are_independent_and_respect_known_halves():
    import pandas

    particles = simulate(400, snr=0.5)
    first, second = half_maps(particles, rng=1, progress=False)
    fsc = fourier_shell_correlation(first, second)
    assert fsc.correlation[2:8].min() > 0.8 and not np.array_equal(first.data, second.data)
    again = half_maps(particles, rng=1, progress=False)
    np.testing.assert_array_equal(first.data, again[0].data)
    subset = pandas.DataFrame({"rlnRandomSubset": np.tile([1, 2], 200)})
    known = Particles(particles.images, particles.pixel_size, particles.ctf, particles.poses, subset)
    halves = half_maps(known, rng=1, progress=False)
    np.testing.assert_array_equal(halves[1].data, reconstruct(particles[1::2], progress=False).data)
    subset["rlnRandomSubset"] = 1
    with pytest.raises(ValueError, match="rlnRandomSubset"):
        half_maps(known, rng=1)


def test_wrong_input():
    particles = simulate(40)
    without = Particles(particles.images, particles.pixel_size)
    with pytest.raises(ValueError, match="needs poses"):
        reconstruct(without)
    for weights in (np.ones(3), -np.ones(40), np.zeros(40)):
        with pytest.raises(ValueError, match="weights must"):
            reconstruct(particles, weights=weights)
    with pytest.raises(ValueError, match="symmetry must be"):
        reconstruct(particles, symmetry="Q2")
    with pytest.raises(ValueError, match="at least two particles"):
        half_maps(particles[:1], rng=0)
    images = particles.images.copy()
    images[37, 3, 4] = np.nan
    with pytest.raises(ValueError, match="particle 37 has pixels that are NaN"):
        reconstruct(Particles(images, particles.pixel_size, particles.ctf, particles.poses), progress=False)


def test_one_particle_gives_its_slice():
    particles = simulate(1, with_ctf=False)
    found = reconstruct(particles, progress=False)
    seen = project(found, particles.poses)
    assert np.corrcoef(seen.ravel(), particles.images.ravel())[0, 1] > 0.98


def phantom(size_px):
    """Discs of known density."""
    y, x = np.indices((size_px, size_px)) - size_px // 2
    radius = size_px * 0.35
    image = 1.0 * (x**2 + y**2 < radius**2)
    image[(x - 0.4 * radius) ** 2 + y**2 < (0.25 * radius) ** 2] = 2.0
    image[x**2 + (y + 0.5 * radius) ** 2 < (0.2 * radius) ** 2] = 0.0
    return image


@pytest.mark.parametrize("size_px", [64, 65])
def test_filtered_back_projection_of_an_image(size_px):
    image = phantom(size_px)
    angles = np.arange(0, 180, 1.5)
    rows = sinogram(image, angles)
    found = filtered_back_projection(rows, angles)
    blurred = filtered_back_projection(rows, angles, ramp=False)
    middle = fourier.radius_px(size_px) < size_px * 0.45
    assert np.corrcoef(found[middle], image[middle])[0, 1] > 0.97
    assert np.corrcoef(blurred[middle], image[middle])[0, 1] < 0.95
    assert found[middle].sum() == pytest.approx(image.sum(), rel=0.02)
    assert np.median(found[image == 2]) == pytest.approx(2, abs=0.05)
    with pytest.raises(ValueError, match="one angle per row"):
        filtered_back_projection(rows, angles[1:])


def test_sinogram_is_the_projection_in_two_dimensions():
    # a rod along z, seen at tilt = 90 with its axis on the image's y: the image's x axis is (cos θ, sin θ, 0)
    size_px = 32
    coordinates = np.array([[40.0, 0, 0], [0, 20.0, 0]])
    rod = np.concatenate([coordinates + [0, 0, z] for z in range(-40, 41, 10)]), np.ones(18)
    volume = atoms_to_volume(rod, 8.0, size_px, 5.0)
    image = volume.data.sum(axis=0)
    for theta in (0, 30, 90, 200):
        along = np.array([np.cos(np.radians(theta)), np.sin(np.radians(theta)), 0])
        axes = np.stack([along, [0, 0, 1], np.cross(along, [0, 0, 1])], axis=1)  # columns: image x, image y, beam
        side = project(volume, Poses(Rotation.from_matrix(axes)))[0].sum(axis=0)
        assert np.corrcoef(sinogram(image, [theta])[0], side)[0, 1] > 0.998


def test_weighted_back_projection():
    particles = simulate(150, with_ctf=False)
    centred = simulate(150, with_ctf=False)
    volume = weighted_back_projection(particles.images, particles.poses, particles.pixel_size)
    expected = truth()
    fsc = fourier_shell_correlation(volume, expected)
    assert fsc.correlation[1:10].min() > 0.9
    smeared = weighted_back_projection(centred.images, centred.poses, particles.pixel_size, weighted=False)

    def slope(data):
        # of the amplitude's excess from low to high frequency: plain back-projection loses as 1/k
        ratio = np.sqrt(spectrum(data) / spectrum(expected.data))
        return ratio[9] / ratio[2]

    assert slope(volume.data) == pytest.approx(1, abs=0.15)
    assert slope(smeared.data) < 0.4
    amplitude = np.sqrt(spectrum(volume.data) / spectrum(expected.data))
    np.testing.assert_allclose(amplitude[2:9], 1, atol=0.15)
