"""How much of a volume to believe, place by place and direction by direction, against what was planted."""

import gemmi
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation
from scipy.special import ive

from cryonb import fourier, projection, rotations
from cryonb.filters import low_pass
from cryonb.reconstruction import half_maps
from cryonb.resolution import (
    FSC,
    MODEL_THRESHOLD,
    automatic_mask,
    b_factor,
    corrected_fsc,
    directional_fsc,
    fourier_ring_correlation,
    fourier_shell_correlation,
    guinier,
    local_resolution,
    map_model_fsc,
    map_quality,
    noise_substitution_test,
    orientation_distribution,
    reslog,
    sharpen,
    subset_resolutions,
    substitute_noise,
)
from cryonb.types import AtomicModel, Particles, Poses, Volume


def white(rng, size_px):
    return rng.normal(size=(size_px,) * 3)


def falling(data, decay, voxel_size):
    return sharpen(Volume(data, voxel_size), -decay).data.astype(float)


def decay_for(resolution, noise, threshold=0.143):
    """B at which white signal of variance 1 and white noise give FSC = ``threshold`` at ``resolution`` in Å."""
    return -2 * resolution**2 * np.log(noise**2 * threshold / (1 - threshold))


# local resolution


@pytest.fixture(scope="module")
def two_regions():
    """Half maps of 64 voxels of 2 Å: FSC = 0.143 at 6 Å for x < 0 and at 12 Å for x > 0; noise of 0.15 everywhere."""
    rng = np.random.default_rng(0)
    base = white(rng, 64)
    fine, coarse = (falling(base, decay_for(resolution, 0.15), 2.0) for resolution in (6.0, 12.0))
    x = np.arange(64) - 32
    signal = np.where(x < 0, fine, coarse)
    return tuple(Volume(signal + 0.15 * white(rng, 64), 2.0) for _ in range(2))


def test_two_regions_are_told_apart(two_regions):
    found = local_resolution(*two_regions, window=25.0)
    assert found.voxel_size == 2.0 and found.data.shape == (64, 64, 64)
    fine, coarse = (np.median(found.data[8:56, 8:56, where]) for where in (slice(10, 22), slice(42, 54)))
    assert fine == pytest.approx(6.0, rel=0.05)
    assert coarse == pytest.approx(12.0, rel=0.15)
    profile = np.median(found.data[8:56, 8:56], axis=(0, 1))
    middle = np.interp(9.0, profile[16:48], np.arange(16, 48))
    assert abs(middle - 32) * 2.0 < 25  # the border, to a window: the better side reaches into the worse one


def test_the_stricter_threshold_reads_its_own_planted_value(two_regions):
    found = local_resolution(*two_regions, window=25.0, threshold=0.5).data[8:56, 8:56]
    for where, resolution in ((slice(10, 22), 6.0), (slice(42, 54), 12.0)):
        half = brentq(lambda d, r=resolution: decay_for(d, 0.15, 0.5) - decay_for(r, 0.15), 5.0, 30.0)
        assert np.median(found[:, :, where]) == pytest.approx(half, rel=0.1)


def test_a_mask_keeps_the_solvent_out():
    rng = np.random.default_rng(1)
    radius = fourier.radius_px(48, ndim=3)
    signal = falling(white(rng, 48), decay_for(7.0, 0.15), 2.0) * (radius < 12)
    a, b = (Volume(signal + 0.15 * white(rng, 48), 2.0) for _ in range(2))
    mask = (radius < 12).astype(np.float32)
    plain, masked = (local_resolution(a, b, mask=which, window=30.0).data for which in (None, mask))
    assert np.isnan(masked[radius > 12]).all() and np.isfinite(plain).all()
    rim = (radius > 10) & (radius < 12)
    assert np.median(masked[rim]) == pytest.approx(7.0, rel=0.08)  # no inflation from the sharp mask either
    assert np.median(plain[rim]) > np.median(masked[rim])


def test_noise_has_no_local_resolution():
    rng = np.random.default_rng(2)
    a, b = (Volume(white(rng, 32), 2.0) for _ in range(2))
    assert np.median(local_resolution(a, b, window=30.0).data) > 30
    with pytest.raises(ValueError, match="window must be between three voxels, 6 Å, and the box, 64 Å; got 4 Å"):
        local_resolution(a, b, window=4.0)
    with pytest.raises(ValueError, match="mask is empty"):
        local_resolution(a, b, mask=np.zeros((32, 32, 32)), window=20.0)
    with pytest.raises(ValueError, match="same box"):
        local_resolution(a, Volume(white(rng, 30), 2.0))


# directions


def anisotropic(seed, along, across, *, size_px=64):
    """Half maps whose FSC falls to 0.143 at ``along`` Å within 40° of z, and at ``across`` Å elsewhere."""
    rng = np.random.default_rng(seed)
    kx, ky, kz = fourier.frequency_grid(size_px, 2.0, ndim=3)
    square = kx**2 + ky**2 + kz**2
    near_z = np.abs(kz) > np.cos(np.radians(40)) * np.sqrt(square)
    decay = np.where(near_z, decay_for(along, 0.1), decay_for(across, 0.1))
    signal = fourier.inverse_transform(fourier.transform(white(rng, size_px)) * np.exp(-decay / 4 * square)).real
    return tuple(Volume(signal + 0.1 * white(rng, size_px), 2.0) for _ in range(2))


def planted_area(resolution):
    frequency = np.linspace(0, 1 / resolution, 1000)
    power = np.exp(-decay_for(resolution, 0.1) / 2 * frequency**2)
    return np.trapezoid(power / (power + 0.01), frequency)


@pytest.mark.parametrize(("along", "across"), [(7.0, 7.0), (12.0, 7.0), (25.0, 7.0)])
def test_planted_anisotropy_is_measured(along, across):
    result = directional_fsc(*anisotropic(0, along, across))
    z = result.directions[:, 2]
    assert len(result) == 96 and (z > -1e-9).all()
    assert np.median(result.resolution[z > 0.95]) == pytest.approx(along, rel=0.08)
    assert np.median(result.resolution[z < 0.4]) == pytest.approx(across, rel=0.08)
    assert result.cfar == pytest.approx(planted_area(along) / planted_area(across), abs=0.08)


def test_a_cone_of_90_degrees_is_the_whole_shell():
    a, b = anisotropic(1, 12.0, 7.0, size_px=32)
    result = directional_fsc(a, b, half_angle=90.0, order=0)
    np.testing.assert_allclose(result.curve(0).correlation, fourier_shell_correlation(a, b).correlation, atol=0.02)
    assert result.cfar == pytest.approx(1)
    with pytest.raises(ValueError, match="half_angle must be between 0 and 90°, got 120"):
        directional_fsc(a, b, half_angle=120.0)


def particles_seen(tilt, seed=0):
    """Views of 60 atoms at ``tilt`` degrees (n,), at SNR 0.1."""
    rng = np.random.default_rng(seed)
    n = len(tilt)
    angles = np.column_stack([rng.uniform(0, 360, n), tilt, rng.uniform(0, 360, n)])
    poses = Poses(rotations.from_relion_angles(angles))
    atoms = rng.normal(size=(60, 3)) * 22, np.ones(60)
    images = projection.project_atoms(atoms, 4.0, poses, 32, 4.0)
    return Particles(images + 3 * images.std() * rng.normal(size=images.shape), 4.0, poses=poses)


def test_a_missing_cone_of_views_is_seen_in_the_map_and_in_the_angles():
    rng = np.random.default_rng(3)
    everywhere, from_above = np.degrees(np.arccos(rng.uniform([[-1], [0.75]], 1, (2, 600))))  # within 41° of z
    good, bad = (particles_seen(tilt) for tilt in (everywhere, from_above))
    fsc_good, fsc_bad = (directional_fsc(*half_maps(p, rng=0, progress=False)) for p in (good, bad))
    assert fsc_good.cfar > 0.75 and fsc_bad.cfar < 0.5  # on either side of the usual alarm
    assert fsc_bad.directions[np.argmin(fsc_bad.area), 2] > 0.8  # along z, which no view from above samples
    views_good, views_bad = (orientation_distribution(p.poses, order=2) for p in (good, bad))
    assert views_good.efficiency > 0.9 and views_bad.efficiency < 0.7
    assert views_good.scf > 0.9 and views_bad.scf == 0
    assert views_bad.directions[np.argmin(views_bad.sampling), 2] ** 2 > 0.8
    assert views_bad.directions[np.argmax(views_bad.spread), 2] ** 2 > 0.8


# orientations


def views(tilt, n, seed=0):
    rng = np.random.default_rng(seed)
    return Poses(rotations.from_relion_angles(np.column_stack([rng.uniform(0, 360, n), np.full(n, tilt), np.zeros(n)])))


def test_uniform_views_are_fully_efficient():
    result = orientation_distribution(Poses(rotations.random_rotations(50_000, rng=0)))
    assert result.efficiency == pytest.approx(1, abs=0.01) and result.scf == pytest.approx(1, abs=0.005)
    assert result.density.mean() == pytest.approx(1, abs=0.01)
    assert result.density.std() == pytest.approx(np.sqrt(768 / 50_000), rel=0.15)  # counting noise and no more


@pytest.mark.parametrize("n", [5_000, 50_000])
def test_side_views_have_the_efficiency_of_the_closed_form(n):
    # ⟨exp(−r² (1 − sin²θ cos²φ) / 2)⟩ over φ is a Bessel function; R(θ) is where it is one half
    def half_width(sine):
        return brentq(lambda r: np.exp(-(r**2) * (1 - sine**2) / 2) * ive(0, r**2 * sine**2 / 4) - 0.5, 0.1, 20)

    z = (np.arange(2000) + 0.5) / 2000
    width = np.array([half_width(sine) for sine in np.sqrt(1 - z**2)])
    result = orientation_distribution(views(90, n))
    assert result.efficiency == pytest.approx(1 - 2 * width.std() / width.mean(), abs=0.01)  # 0.71
    assert result.scf == pytest.approx(8 / np.pi**2, abs=0.01)  # Baldwin & Lyumkis 2020
    assert np.abs(result.directions[result.density > 5][:, 2]).max() < 0.1
    assert orientation_distribution(views(0, n)).efficiency < 0.3


def test_symmetry_and_weights_move_the_views():
    poses = Poses(Rotation.from_euler("ZYZ", [[0, 90, 0], [0, 0, 0]], degrees=True))
    assert (orientation_distribution(poses, order=1).density > 0).sum() == 2
    assert (orientation_distribution(poses, order=1, symmetry="C4").density > 0).sum() >= 4
    one = orientation_distribution(poses, order=1, weights=[1, 0])
    assert (one.density > 0).sum() == 1 and one.directions[np.argmax(one.density)] @ [1, 0, 0] > 0.9
    with pytest.raises(ValueError, match="2 numbers of 0 or more"):
        orientation_distribution(poses, weights=[1, -1])
    with pytest.raises(ValueError, match="no particles"):
        orientation_distribution(poses[:0])


# sharpening


def blurred_atoms(seed, b):
    """3,000 points in a ball, blurred by ``b``, with noise such that FSC is 0.143 near 4 Å."""
    rng = np.random.default_rng(seed)
    ball = np.argwhere(fourier.radius_px(64, ndim=3) < 20)
    points = np.zeros((64, 64, 64))
    np.add.at(points, tuple(ball[rng.choice(len(ball), 3000)].T), 1.0)
    signal = falling(points, b, 1.5)
    noise = np.sqrt(3000 * 6 / 64**3) * np.exp(-b / 4 / 4.0**2)
    return Volume(points, 1.5), *(Volume(signal + noise * white(rng, 64), 1.5) for _ in range(2))


@pytest.mark.parametrize("planted", [60.0, 120.0, 200.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_b_factor_is_recovered(planted, seed):
    truth, a, b = blurred_atoms(seed, planted)
    fsc = fourier_shell_correlation(a, b)
    mean = a.with_data((a.data + b.data) / 2)
    fit = b_factor(guinier(mean, fsc=fsc))
    assert fsc.at() == pytest.approx(4.0, rel=0.05) and fit.high == fsc.at()
    assert float(fit) == pytest.approx(planted, rel=0.1) and abs(fit.value - planted) < 4 * fit.error + 2
    assert float(b_factor(guinier(mean), high=fsc.at())) < planted - 15  # noise taken for signal, as the docstring says
    sharp = sharpen(mean, fit)
    assert abs(float(b_factor(guinier(sharp, fsc=fsc)))) < 1


def test_sharpening_restores_the_structure():
    truth, a, b = blurred_atoms(0, 120.0)
    fsc = fourier_shell_correlation(a, b)
    mean = a.with_data((a.data + b.data) / 2)
    sharp = sharpen(mean, b_factor(guinier(mean, fsc=fsc)), fsc=fsc)

    def similarity(volume):
        return np.corrcoef(volume.data.ravel(), low_pass(truth, 4.0).data.ravel())[0, 1]

    assert similarity(sharp) > similarity(mean) + 0.1  # 0.82 and 0.67
    assert similarity(sharpen(mean, 120.0)) < 0.1  # without C_ref and a low-pass, noise is blown up
    assert similarity(sharpen(mean, 300.0, fsc=fsc)) < similarity(sharp) - 0.2
    clean = sharpen(Volume(falling(truth.data, 120.0, 1.5), 1.5), 120.0)
    np.testing.assert_allclose(clean.data, truth.data, atol=1e-3)


def test_map_quality_is_the_correlation_with_the_truth():
    rng = np.random.default_rng(5)
    signal = white(rng, 48)
    a, b = (Volume(signal + 1.5 * white(rng, 48), 2.0) for _ in range(2))
    expected = fourier_shell_correlation(a.with_data(a.data + b.data), Volume(signal, 2.0)).correlation
    found = map_quality(fourier_shell_correlation(a, b))
    np.testing.assert_allclose(found[8:], expected[8:], atol=0.06)


def test_what_cannot_be_sharpened():
    volume = Volume(white(np.random.default_rng(0), 16), 6.0)
    with pytest.raises(ValueError, match="from 10 Å to something finer, got 12 Å"):
        b_factor(guinier(volume))
    with pytest.raises(ValueError, match="2 shells lie between 20 and 15 Å; a line needs 3"):
        b_factor(guinier(volume), low=20, high=15)
    with pytest.raises(ValueError, match="finite"):
        sharpen(volume, np.nan)
    with pytest.raises(ValueError, match="9 shells as the volume has, got 3"):
        sharpen(volume, 1.0, fsc=FSC(np.arange(3.0), np.ones(3), np.ones(3), 1.0))


# more particles, and noise in their place


def test_reslog_recovers_the_planted_b_factor():
    # N particles of FSC signal exp(−B k²/2) and noise 40²: ln N = const + B / 2d²
    rng = np.random.default_rng(6)
    signal = falling(white(rng, 64), 150.0, 1.5)

    def halves(rows):
        level = 40 / np.sqrt(len(rows) / 2)
        return tuple(Volume(signal + level * white(rng, 64), 1.5) for _ in range(2))

    sizes, resolution = subset_resolutions(halves, 64_000, rng=0, sizes=[8_000, 16_000, 32_000, 64_000])
    result = reslog(sizes, resolution)
    assert result.b_factor == pytest.approx(150, rel=0.1)
    for size, found in zip(sizes, resolution, strict=True):
        assert found == pytest.approx(np.sqrt(150 / 2 / np.log(size / 2 / 40**2 * 6)), rel=0.05)
    assert result.at(128_000) < resolution[-1]
    assert result.needed(result.at(50_000)) == pytest.approx(50_000)
    with pytest.raises(ValueError, match="two sizes with a finite resolution, got 1"):
        reslog([100, 200], [10.0, np.inf])
    with pytest.raises(ValueError, match="one resolution per size: got 3 sizes and 2"):
        reslog([1, 2, 3], [10.0, 9.0])
    with pytest.raises(TypeError, match="two Volumes or an FSC, got float"):
        subset_resolutions(lambda rows: 3.0, 100, rng=0)


@pytest.fixture(scope="module")
def blurred_images():
    """600 noisy images of one picture without detail beyond 16 Å, and the picture."""
    rng = np.random.default_rng(7)
    kx, ky = fourier.frequency_grid(48, 2.0)
    picture = fourier.inverse_transform(fourier.transform(rng.normal(size=(48, 48))) * (np.hypot(kx, ky) < 1 / 16)).real
    return Particles(picture + 0.8 * rng.normal(size=(600, 48, 48)), 2.0), picture


def halves_of(images):
    return fourier_ring_correlation(images[::2].mean(axis=0), images[1::2].mean(axis=0), 2.0)


def averaged(particles):
    """An honest procedure: it moves nothing."""
    return halves_of(np.asarray(particles.images))


def aligned_to_a_shared_reference(particles):
    """One that over-fits: each image is moved by up to three pixels to where one sharp reference fits it best."""
    rng = np.random.default_rng(8)
    reference = np.asarray(particles.images)[:300].mean(axis=0) + rng.normal(size=(48, 48))
    moves = [(y, x) for y in range(-3, 4) for x in range(-3, 4)]
    images = np.asarray(particles.images)
    scores = [np.einsum("nij,ij->n", images, np.roll(reference, (-y, -x), (0, 1))) for y, x in moves]
    best = np.argmax(scores, axis=0)
    return halves_of(np.stack([np.roll(image, moves[k], (0, 1)) for image, k in zip(images, best, strict=True)]))


def test_noise_that_correlates_is_found_out(blurred_images):
    particles, _ = blurred_images
    honest = noise_substitution_test(averaged, particles, resolution=12.0, rng=0)
    fitted = noise_substitution_test(aligned_to_a_shared_reference, particles, resolution=12.0, rng=0)
    assert abs(honest.overfitting) < 0.05 and fitted.overfitting > 0.3
    assert 11 < honest.corrected.at() < 17 and 11 < honest.original.at() < 17  # 16 Å, and rings of 40 pixels
    assert fitted.original.at() < 8  # claimed where nothing was planted
    beyond = fitted.original.frequency > 1 / 10
    assert np.abs(fitted.corrected.correlation[beyond].mean()) < 0.25 * fitted.original.correlation[beyond].mean()


def test_substituted_noise_keeps_spectrum_and_coarse_shells(blurred_images):
    particles, _ = blurred_images
    random = substitute_noise(particles, 12.0, rng=0)
    before, after = (np.abs(fourier.transform(np.asarray(p.images[:20]), ndim=2)) for p in (particles, random))
    np.testing.assert_allclose(after, before, rtol=1e-2, atol=1e-2)
    curve = fourier_ring_correlation(particles.images[:20], random.images[:20], 2.0).correlation
    assert np.allclose(curve[:8], 1, atol=1e-4) and np.abs(curve[8:]).max() < 0.15
    assert np.array_equal(random.images, substitute_noise(particles, 12.0, rng=0).images)
    with pytest.raises(ValueError, match="between Nyquist, 4 Å, and the box, 96 Å; got 3 Å"):
        substitute_noise(particles, 3.0, rng=0)


# edges


def test_an_odd_box_is_like_an_even_one():
    rng = np.random.default_rng(10)
    signal = falling(white(rng, 41), decay_for(8.0, 0.15), 2.0)
    a, b = (Volume(signal + 0.15 * white(rng, 41), 2.0) for _ in range(2))
    corrected = corrected_fsc(a, b, "sphere", rng=0)
    assert corrected.resolution == pytest.approx(8.0, rel=0.08)
    assert np.median(directional_fsc(a, b).resolution) == pytest.approx(8.0, rel=0.1)
    assert np.median(local_resolution(a, b, window=35.0).data) == pytest.approx(8.0, rel=0.1)
    fit = b_factor(guinier(a, fsc=corrected.unmasked), low=25.0)
    assert float(fit) == pytest.approx(decay_for(8.0, 0.15), rel=0.15)


def test_nan_is_refused_everywhere():
    broken = Volume(np.full((16, 16, 16), np.nan), 2.0)
    for use in (
        lambda: local_resolution(broken, broken, window=20.0),
        lambda: directional_fsc(broken, broken),
        lambda: corrected_fsc(broken, broken, None, rng=0),
        lambda: automatic_mask(broken),
        lambda: guinier(broken),
        lambda: sharpen(broken, 10.0),
        lambda: map_model_fsc(broken, broken),
    ):
        with pytest.raises(ValueError, match="4096 values are NaN or infinite"):
            use()


# atomic models


def carbon_model(coordinates, b_iso):
    chain = gemmi.Chain("A")
    for number, position in enumerate(coordinates, start=1):
        atom = gemmi.Atom()
        atom.name, atom.element, atom.b_iso, atom.occ = "CA", gemmi.Element("C"), b_iso, 1.0
        atom.pos = gemmi.Position(*position)
        residue = gemmi.Residue()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(number))
        residue.add_atom(atom)
        chain.add_residue(residue)
    structure, model = gemmi.Structure(), gemmi.Model(1)
    model.add_chain(chain)
    structure.add_model(model)
    return AtomicModel(structure)


def test_map_and_model_agree_to_the_planted_resolution():
    rng = np.random.default_rng(9)
    coordinates, origin = rng.normal(size=(400, 3)) * 10, np.array([30.0, -20.0, 5.0])
    model = carbon_model(coordinates + origin + 24 * 1.5, b_iso=80.0)
    sharper = np.sqrt(40 / (8 * np.pi**2))  # another B in the map: it cancels shell by shell
    density = projection.atoms_to_volume((coordinates, np.ones(400)), np.hypot(sharper, 1.2), 48, 1.5)
    clean = Volume(density.data, 1.5, origin)
    assert map_model_fsc(clean, model).correlation[:22].min() > 0.99
    spectrum = fourier.shell_mean(np.abs(fourier.transform(clean.data.astype(float))) ** 2, ndim=3)
    level = np.sqrt(spectrum[14] * 3 / 48**3)  # FSC against a perfect model is 1 / √(1 + 3) in shell 14
    noisy = clean.with_data(clean.data + level * white(rng, 48))
    fsc = map_model_fsc(noisy, model)
    expected = np.sqrt(spectrum / (spectrum + level**2 * 48**3))
    assert np.abs(fsc.correlation - expected)[3:].max() < 0.12
    assert fsc.at(MODEL_THRESHOLD) == pytest.approx(72 / 14, rel=0.06)
    shifted = Volume(noisy.data, 1.5, origin + 6)
    assert map_model_fsc(shifted, model).at(MODEL_THRESHOLD) > 2 * fsc.at(MODEL_THRESHOLD)
    with pytest.raises(ValueError, match="no atom lies inside the box"):
        map_model_fsc(Volume(noisy.data, 1.5, origin + 500), model)
    with pytest.raises(TypeError, match="AtomicModel or a Volume, got ndarray"):
        map_model_fsc(noisy, noisy.data)
