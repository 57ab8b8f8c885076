"""Fourier shell correlation: identities, known noise, where the curve is read, and what a mask adds to it."""

import numpy as np
import pytest
from scipy import ndimage

from cryonb import filters, fourier, io
from cryonb.resolution import (
    FSC,
    HALF_MAP_THRESHOLD,
    MODEL_THRESHOLD,
    Guinier,
    automatic_mask,
    b_factor,
    correct_for_mask,
    corrected_fsc,
    fourier_ring_correlation,
    fourier_shell_correlation,
    map_quality,
    randomise_phases,
    sharpen,
)
from cryonb.types import Volume


def noise(seed, size_px=32):
    return np.random.default_rng(seed).normal(size=(size_px,) * 3).astype(np.float32)


@pytest.mark.parametrize("size_px", [31, 32])
def test_identities(size_px):
    a = Volume(noise(0, size_px), 3.0)
    same = fourier_shell_correlation(a, a.with_data(5 * a.data))
    np.testing.assert_allclose(same.correlation, 1, atol=1e-6)
    opposite = fourier_shell_correlation(a, a.with_data(-a.data))
    np.testing.assert_allclose(opposite.correlation[1:], -1, atol=1e-6)
    assert same.n_shells == size_px // 2 + 1 and same.n_pixels[:2].tolist() == [1, 18]
    np.testing.assert_allclose(same.frequency, np.arange(size_px // 2 + 1) / (size_px * 3.0))
    assert same.auc == pytest.approx(1) and opposite.at() == np.inf
    assert same.at() == pytest.approx(size_px * 3.0 / (size_px // 2))  # never falls: the finest shell


def test_expected_value_with_known_noise():
    # signal of variance 1 and noise of variance v in both: FSC = 1 / (1 + v), to 1/√(independent pixels)
    signal, variance = noise(1, 48), 0.5
    a, b = (Volume(signal + variance**0.5 * noise(seed, 48), 2.0) for seed in (2, 3))
    fsc = fourier_shell_correlation(a, b)
    error = (fsc.correlation - 1 / 1.5)[5:] * np.sqrt(fsc.n_pixels[5:] / 2)
    assert np.abs(error).max() < 4 and np.abs(error).mean() < 1.5


def test_half_map_threshold_is_where_the_joined_map_is_half_right():
    assert np.sqrt(2 * HALF_MAP_THRESHOLD / (1 + HALF_MAP_THRESHOLD)) == pytest.approx(MODEL_THRESHOLD, abs=1e-3)


def test_first_crossing_is_interpolated_and_later_ones_ignored():
    frequency = np.arange(6) / 100
    fsc = FSC(frequency, np.array([1, 0.9, 0.5, 0.1, 0.6, 0.0]), np.ones(6), 10.0)
    assert fsc.at(0.3) == pytest.approx(1 / 0.025)
    assert fsc.at(0.5) == pytest.approx(1 / 0.02)
    assert fsc.at(0.95) == np.inf
    assert fsc.at(-0.1) == pytest.approx(20.0)


def test_low_passed_noise_correlates_up_to_the_filter():
    # FSC = t² / (t² + v) falls to ½ where the filter t is √v = ½, and that is its resolution
    shared, resolution = noise(4, 48), 48 * 2.0 / 12
    a, b = (
        Volume(filters.low_pass(Volume(shared, 2.0), resolution).data + 0.5 * noise(seed, 48), 2.0) for seed in (5, 6)
    )
    assert fourier_shell_correlation(a, b).at(0.5) == pytest.approx(resolution, rel=0.03)


@pytest.mark.parametrize("kind", ["sphere", "auto", "array", "volume"])
def test_masks_remove_noise_outside(kind):
    distance = fourier.radius_px(40, ndim=3)
    signal = 20 * filters.low_pass(Volume(noise(7, 40) * (distance < 9), 5.0), 20.0).data + 2.0 * (distance < 9)
    a, b = (Volume(signal + noise(seed, 40), 5.0) for seed in (8, 9))
    sphere = filters.soft_sphere(40, 11, edge_px=5)
    mask = {"sphere": "sphere", "auto": "auto", "array": sphere, "volume": Volume(sphere, 5.0)}[kind]
    plain, masked = fourier_shell_correlation(a, b), fourier_shell_correlation(a, b, mask=mask)
    assert masked.auc > plain.auc and masked.n_shells == plain.n_shells


def test_wrong_input():
    a = Volume(noise(0), 3.0)
    with pytest.raises(ValueError, match="same box, got 32 and 30"):
        fourier_shell_correlation(a, Volume(noise(0, 30), 3.0))
    with pytest.raises(ValueError, match="same voxel size, got 3 and 3.1 Å"):
        fourier_shell_correlation(a, Volume(a.data, 3.1))
    broken = a.data.copy()
    broken[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="1 values are NaN"):
        fourier_shell_correlation(a, a.with_data(broken))
    with pytest.raises(ValueError, match="mask must"):
        fourier_shell_correlation(a, a, mask="tight")
    with pytest.raises(ValueError, match=r"shape \(32, 32, 32\)"):
        fourier_shell_correlation(a, a, mask=np.ones((3, 3, 3)))
    with pytest.raises(ValueError, match="one shape"):
        fourier_ring_correlation(np.zeros((4, 4)), np.zeros((4, 5)), 1.0)


def test_ring_correlation_of_a_stack_is_one_curve():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(50, 32, 32))
    a, b = signal + rng.normal(size=signal.shape), signal + rng.normal(size=signal.shape)
    curve = fourier_ring_correlation(a, b, 2.0)
    np.testing.assert_allclose(curve.correlation[3:], 0.5, atol=0.1)
    mask = filters.soft_sphere(32, 10, edge_px=4, ndim=2)
    assert fourier_ring_correlation(a, b, 2.0, mask=mask).auc == pytest.approx(0.5, abs=0.1)
    assert fourier_ring_correlation(a[0], a[0], 2.0).auc == pytest.approx(1)


def test_empty_volumes_have_no_correlation():
    zero = Volume(np.zeros((16, 16, 16)), 1.0)
    assert fourier_shell_correlation(zero, zero).at() == np.inf


@pytest.mark.parametrize(("size_px", "b"), [(31, 0), (48, 0), (48, 800)])
def test_equals_five_lines_of_numpy(size_px, b):
    # at B = 800 Å² the last shells are 10⁻⁸ of the first, as in an unsharpened volume
    signal = noise(1, size_px) + 2
    a, b = (sharpen(Volume(signal + noise(seed, size_px), 1.5), -b) for seed in (2, 3))
    f, g = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(v.data.astype(float)))) for v in (a, b))
    shell = np.rint(np.sqrt(sum((np.indices(f.shape) - size_px // 2) ** 2.0))).astype(int)
    rings = [shell == s for s in range(size_px // 2 + 1)]
    expected = [(f[r] @ g[r].conj()).real / np.sqrt((abs(f[r]) ** 2).sum() * (abs(g[r]) ** 2).sum()) for r in rings]
    np.testing.assert_allclose(fourier_shell_correlation(a, b).correlation[1:], expected[1:], atol=1e-6)


NOISE = 0.5


def particle_in_noise(seed, *, size_px=64):
    """Half maps of a lump with detail that ends near 8 Å; the lump from 0 to 1; and the power of the signal.

    The lump's coarse shape stands three times higher than its detail: that is what a mask spreads to fine shells.
    """
    rng = np.random.default_rng(seed)
    rough = filters.low_pass(Volume(rng.normal(size=(size_px,) * 3), 2.0), 30.0).data
    inside = (fourier.radius_px(size_px, ndim=3) < 0.28 * size_px) & (rough > -0.3 * rough.std())
    lump = np.clip(filters.low_pass(Volume(inside.astype(float), 2.0), 14.0).data, 0, 1)
    detail = sharpen(Volume(rng.normal(size=(size_px,) * 3), 2.0), -515.0).data
    signal = 3 * lump + detail * lump
    a, b = (Volume(signal + NOISE * rng.normal(size=signal.shape), 2.0) for _ in range(2))
    power = fourier.shell_mean(np.abs(fourier.transform(signal * around(lump, 2, 8))) ** 2, ndim=3)
    return a, b, lump, power


def around(lump, reach_px, edge_px):
    return filters.raised_cosine(ndimage.distance_transform_edt(lump < 0.5), reach_px, edge_px)


def expected_fsc(power, mask):
    """All the signal and the noise inside the mask, were the mask to correlate nothing."""
    return power / (power + NOISE**2 * (mask.astype(float) ** 2).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tight_mask_is_found_out(seed):
    a, b, lump, power = particle_in_noise(seed)
    mask = around(lump, 0, 2)  # cut along the density, two voxels of edge
    truth, result = expected_fsc(power, mask), corrected_fsc(a, b, mask, rng=seed)
    planted = FSC(result.masked.frequency, truth, result.masked.n_pixels, 2.0).at()
    assert result.resolution == pytest.approx(planted, rel=0.1)
    assert result.masked.at() < 0.8 * planted  # 5.6 Å is claimed where 7.4 Å is true
    curves = (result.masked.frequency > 1 / 9.5) & (result.masked.frequency < 1 / 6)
    error = (result.corrected.correlation - truth)[curves]
    assert np.abs(error.mean()) < 0.06 and (result.masked.correlation - truth)[curves].mean() > 0.25


def test_the_sharpest_mask_correlates_to_nyquist_and_is_corrected():
    a, b, lump, power = particle_in_noise(0)
    mask = around(lump, 0, 0)
    result = corrected_fsc(a, b, mask, rng=0)
    empty = result.masked.frequency > 1 / 5.5
    assert expected_fsc(power, mask)[empty].max() < 0.03
    assert result.masked.at() == pytest.approx(4.0) and result.masked.correlation[empty].mean() > 0.3
    assert result.corrected.correlation[empty].mean() == pytest.approx(0, abs=0.03)


def test_a_wide_soft_mask_needs_no_correction():
    a, b, lump, power = particle_in_noise(0)
    mask = around(lump, 2, 8)
    result = corrected_fsc(a, b, mask, rng=0)
    assert np.abs(result.masked.correlation - expected_fsc(power, mask))[4:].max() < 0.1
    assert np.abs((result.corrected.correlation - result.masked.correlation)[4:].mean()) < 0.02
    found = corrected_fsc(a, b, "auto", rng=0)
    assert found.resolution == pytest.approx(result.resolution, rel=0.03)
    assert result.unmasked.at() > 1.3 * result.resolution
    again = corrected_fsc(a, b, "auto", rng=0)
    assert np.array_equal(found.corrected.correlation, again.corrected.correlation)


def test_random_phases_keep_amplitudes_and_the_coarse_shells():
    volume = Volume(noise(3, 33) + 1, 2.0)
    random = randomise_phases(volume, 66 / 8, rng=0)
    before, after = (fourier.transform(v.data.astype(float)) for v in (volume, random))
    np.testing.assert_allclose(np.abs(after), np.abs(before), rtol=1e-3, atol=1e-2)
    curve = fourier_shell_correlation(volume, random).correlation
    assert np.allclose(curve[:8], 1, atol=1e-5) and np.abs(curve[8:]).max() < 0.2
    assert np.array_equal(random.data, randomise_phases(volume, 66 / 8, rng=0).data)
    assert not np.allclose(random.data, randomise_phases(volume, 66 / 8, rng=1).data)


@pytest.mark.parametrize("noise_level", [0.0, 0.3, 0.8])
def test_the_automatic_mask_holds_the_particle_and_little_more(noise_level):
    radius = fourier.radius_px(64, ndim=3)
    ball = filters.soft_sphere(64, 8, edge_px=4)  # 1.4 % of the box
    volume = Volume(ball + noise_level * noise(4, 64), 3.0)
    mask = automatic_mask(volume)
    assert mask[radius < 9].min() > 0.99 and mask[radius > 24].max() < 0.01
    assert mask.min() == 0 and mask.max() == 1 and len(np.unique(mask.round(2))) > 5  # a soft edge
    if noise_level == 0.8:  # there, the grey levels alone put the split into the solvent
        assert np.mean(filters.soft_mask(volume) > 0.5) > 0.5


def test_no_particle_no_mask():
    with pytest.raises(ValueError, match="of the box at the threshold"):
        automatic_mask(Volume(noise(0) + 1, 3.0), threshold=0.0)
    with pytest.raises(ValueError, match="no voxel is above"):
        automatic_mask(Volume(noise(0), 3.0), threshold=100.0)


def test_no_resolution_is_found_in_noise():
    """Twelve pairs of noise: no mask is made, or none that finds anything finer than the coarsest shells."""
    found = []
    for seed in range(12):
        halves = [Volume(noise(2 * seed + side, 48), 4.0) for side in range(2)]
        try:
            found.append(corrected_fsc(*halves, "auto", rng=0).resolution)
        except ValueError as error:
            assert "no particle stands out" in str(error) or "no voxel is above" in str(error)
    assert all(resolution > 48 * 4.0 / 3 for resolution in found), found


def test_what_is_no_mask_is_refused():
    a = Volume(noise(0), 3.0)
    for wrong, message in (
        (np.full(a.data.shape, np.nan), "between 0 and 1, got nan"),
        (np.full(a.data.shape, 1000.0), "between 0 and 1, got 1e\\+03"),
        (np.zeros(a.data.shape), "mask is empty"),
        (Volume(np.ones(a.data.shape), 4.0), "voxels of 3 Å, got 4 Å"),
    ):
        with pytest.raises(ValueError, match=message):
            corrected_fsc(a, a, wrong, rng=0)


def test_wrong_randomisation():
    a = Volume(noise(0), 3.0)
    for wrong in (5.0, 97.0 * 3, -1.0):
        with pytest.raises(ValueError, match="randomise_from must be between 6 and 96 Å"):
            corrected_fsc(a, a, "sphere", rng=0, randomise_from=wrong)
    assert corrected_fsc(a, a, "sphere", rng=0).randomise_from == pytest.approx(6.0)  # never below 0.8: Nyquist


@pytest.fixture(scope="module")
def postprocess(shared_data):
    """A file of RELION 3.0.8 `postprocess`: its tables as numbers."""
    return io.read_star(shared_data / "stars" / "postprocess.star", numeric=True)


def star_curve(table, column):
    pixel_size = 7.5  # in the file's own comment
    return FSC(table["rlnResolution"].to_numpy(), table[column].to_numpy(), np.ones(len(table)), pixel_size)


def test_postprocess_star_is_reproduced_from_its_own_columns(postprocess):
    table, general = postprocess["fsc"], postprocess["general"].iloc[0]
    names = {"corrected": "rlnFourierShellCorrelationCorrected", "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
             "masked": "rlnFourierShellCorrelationMaskedMaps",
             "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"}  # fmt: skip
    curves = {key: star_curve(table, name) for key, name in names.items()}
    start = int(np.flatnonzero(curves["unmasked"].correlation < 0.8)[0])
    assert table["rlnAngstromResolution"][start] == pytest.approx(general["rlnRandomiseFrom"])
    found = correct_for_mask(curves["masked"], curves["randomised"], from_shell=start + 2)
    np.testing.assert_allclose(found.correlation, curves["corrected"].correlation, atol=2e-6)
    last_above = np.flatnonzero(found.correlation < HALF_MAP_THRESHOLD)[0] - 1  # RELION names a shell, we interpolate
    final = table["rlnAngstromResolution"][last_above]
    assert final == pytest.approx(general["rlnFinalResolution"])
    assert table["rlnAngstromResolution"][last_above + 1] < found.at() < final


def test_postprocess_star_guinier_plot_is_reproduced(postprocess):
    table, curve = postprocess["guinier"], star_curve(postprocess["fsc"], "rlnFourierShellCorrelationCorrected")
    weighted = table["rlnLogAmplitudesOriginal"] + np.log(map_quality(curve))
    np.testing.assert_allclose(weighted, table["rlnLogAmplitudesWeighted"], atol=2e-5)
    np.testing.assert_allclose(table["rlnResolutionSquared"][1:], curve.frequency[1:] ** 2, atol=1e-6)
    # the file states B = 0: at 7.5 Å a pixel nothing reaches 10 Å, and nothing was fitted. Nor do we
    assert postprocess["general"]["rlnBfactorUsedForSharpening"][0] == 0
    columns = [table[name].to_numpy() for name in table]
    with pytest.raises(ValueError, match="from 10 Å to something finer, got 16.1 Å"):
        b_factor(Guinier(*columns, curve.at()))
