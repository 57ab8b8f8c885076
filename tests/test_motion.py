"""Frames: planted drift comes back, the sum undoes it, doses weigh as published."""

import numpy as np
import pytest

from cryonb import CTF, defocus, filters, motion, simulate

LENS = CTF(16_000, 15_000, 30, b_factor=80)


def rms_px(found, truth, pixel_size):
    """Root mean square distance of two paths in pixels, whatever their origins."""
    error = (found - found.mean(axis=0)) - (truth - truth.mean(axis=0))
    return np.sqrt((error**2).sum(axis=1).mean()) / pixel_size


@pytest.fixture(scope="module")
def shaken():
    field = simulate.Field(LENS, (600, 512), 2.0, amorphous=0.2, ice_gradient=0.5, carbon=0.1)
    return simulate.movie([], field, simulate.Exposure(16, 2.0, 25.0), rng=3)


def test_planted_drift_comes_back(shaken):
    frames, truth = shaken
    found = motion.align_frames(frames, 2.0)
    assert rms_px(found.drift, truth.drift, 2.0) < 0.3
    assert rms_px(np.zeros_like(truth.drift), truth.drift, 2.0) > 2
    assert np.allclose(found.drift.mean(axis=0), 0, atol=1e-9) and len(found) == 16


def test_jumps_of_whole_pixels_come_back_exactly():
    scene = np.random.default_rng(0).standard_normal((96, 120)).astype(np.float32)
    steps = np.array([[0, 0], [3, -2], [5, 1], [-4, 2]])
    frames = np.stack([np.roll(scene, (y, x), axis=(0, 1)) for x, y in steps])
    found = motion.align_frames(frames, 4.0, resolution=9.0)
    assert np.allclose(found.measured, 4.0 * (steps - steps.mean(axis=0)), atol=0.02)
    still = motion.sum_frames(frames, 4.0, 4.0 * steps)
    assert np.allclose(still.data, 4 * scene, atol=1e-4)


def test_the_sum_without_drift_is_the_plain_sum(shaken):
    frames, _ = shaken
    assert np.allclose(motion.sum_frames(frames, 2.0).data, frames.sum(axis=0), atol=1e-4)


def test_correction_brings_the_rings_back(shaken):
    frames, truth = shaken
    sums = [motion.sum_frames(frames, 2.0), motion.sum_frames(frames, 2.0, motion.align_frames(frames, 2.0))]
    blurred, sharp = (defocus.equiphase_average(defocus.estimate_spectrum(picture), LENS) for picture in sums)
    fine = (blurred.frequency > 1 / 12) & (blurred.frequency < 1 / 5)
    assert sharp.correlation[fine].mean() > blurred.correlation[fine].mean() + 0.2
    assert sharp.resolution < blurred.resolution


def test_critical_dose_is_grant_and_grigorieffs():
    """eLife 4:e06980 (2015): Nc = 0.245 k^−1.665 + 2.81 e/Å² at 300 kV, 0.8 of it at 200 kV."""
    k = np.array([1 / 3, 1 / 5, 1 / 10, 1 / 20])
    by_hand = [0.245 * d**1.665 + 2.81 for d in (3, 5, 10, 20)]
    assert np.allclose(filters.critical_dose(k), by_hand)
    assert np.allclose(filters.critical_dose(k, 200), 0.8 * np.array(by_hand))
    assert filters.critical_dose(np.array(0.0)) == np.inf
    assert np.allclose(filters.dose_attenuation(k, filters.critical_dose(k)[1])[1], np.exp(-0.5))
    with pytest.raises(ValueError, match="dose must be 0"):
        filters.dose_attenuation(k, -1.0)
    with pytest.raises(ValueError, match="voltage"):
        filters.critical_dose(k, 0.0)


def test_the_weighted_signal_gains_what_the_weights_promise():
    """The exposure filter is the matched one: signal over noise grows by √(n Σq²) / Σq at each frequency."""
    k, doses = np.array([0.05, 0.2, 0.3]), np.arange(1, 40, 2.0)
    q = np.stack([filters.dose_attenuation(k, dose) for dose in doses])
    weights = motion.dose_weights(k, doses)
    assert np.allclose((weights**2).sum(axis=0), len(doses))
    gain = (weights * q).sum(axis=0) / q.sum(axis=0)
    assert np.allclose(gain, np.sqrt(len(doses) * (q**2).sum(axis=0)) / q.sum(axis=0)) and (np.diff(gain) > 0).all()


def test_sum_with_dose_is_the_weights_times_the_frames():
    frames = np.random.default_rng(1).standard_normal((5, 32, 48))
    found = np.fft.rfft2(motion.sum_frames(frames, 2.0, dose=3.0, before=4.0, voltage_kv=200).data)
    radius = np.hypot(np.fft.rfftfreq(48, 2.0)[None], np.fft.fftfreq(32, 2.0)[:, None])
    weights = motion.dose_weights(radius, 4.0 + 3.0 * (np.arange(5) + 0.5), 200)
    assert np.allclose(found, (weights * np.fft.rfft2(frames)).sum(axis=0), atol=1e-3)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.ones((8, 8)), "shape"),
        (np.ones((1, 8, 8)), "2 frames"),
        (np.ones((3, 64, 64)), "frame 1 of 3 is constant"),
        (np.full((3, 64, 64), np.nan), "frame 1 of 3 has pixels"),
        (np.random.default_rng(0).standard_normal((3, 4, 4)), "hold nothing"),
    ],
)
def test_frames_that_cannot_be_aligned(frames, message):
    with pytest.raises(ValueError, match=message):
        motion.align_frames(frames, 2.0)


def test_sums_that_cannot_be():
    frames = np.random.default_rng(0).standard_normal((3, 16, 16))
    with pytest.raises(ValueError, match=r"drift must have shape \(3, 2\)"):
        motion.sum_frames(frames, 2.0, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="dose must be positive"):
        motion.sum_frames(frames, 2.0, dose=0.0)
