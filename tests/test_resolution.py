"""Fourier shell correlation: identities, known noise, and where the curve is read."""

import numpy as np
import pytest

from cryonb import filters, fourier
from cryonb.resolution import (
    FSC,
    HALF_MAP_THRESHOLD,
    MODEL_THRESHOLD,
    fourier_ring_correlation,
    fourier_shell_correlation,
)  # fmt: skip
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
