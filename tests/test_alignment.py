"""Rotations, shifts and hands that were planted come back."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import samples
from cryonb.alignment import align_volumes, transform_volume
from cryonb.resolution import fourier_shell_correlation
from cryonb.rotations import angular_distance
from cryonb.types import Volume

PIXEL = 8.0


@pytest.fixture(scope="module")
def body():
    return samples.blobs(30, radius=80.0, sigma=9.0, rng=5).volume(32, PIXEL)


@pytest.mark.parametrize(("size_px", "mirrored"), [(32, False), (27, True)])
def test_planted_rotation_shift_and_hand_come_back(size_px, mirrored):
    body = samples.blobs(30, radius=70.0, sigma=9.0, rng=5).volume(size_px, PIXEL)
    rng = np.random.default_rng(size_px + mirrored)
    turn, shift = Rotation.random(rng=rng), rng.normal(0, 10, 3)
    moved = transform_volume(body, turn, shift)
    if mirrored:
        moved = transform_volume(moved, mirrored=True)
    noisy = moved.with_data(-3 + 50 * (moved.data + moved.data.std() * rng.standard_normal(moved.data.shape)))
    found = align_volumes(noisy, body)
    assert found.mirrored == mirrored
    assert angular_distance(found.rotation, turn.inv())[0] < 1.0
    assert np.linalg.norm(found.shift + turn.inv().apply(shift)) < 0.1 * PIXEL
    assert found.agreement > found.other_hand + 0.2
    clean = transform_volume(moved, found.rotation, found.shift, mirrored=mirrored)
    assert fourier_shell_correlation(clean, body).at(0.9) < 25.0


def test_the_given_hand_is_kept(body):
    mirror = transform_volume(body, mirrored=True)
    found = align_volumes(mirror, body, hand=False)
    assert not found.mirrored and np.isnan(found.other_hand)
    assert found.agreement < 0.8


def test_transform_is_a_group(body):
    one, two = Rotation.from_euler("ZYZ", [10, 20, 30], degrees=True), Rotation.from_euler("z", 90, degrees=True)
    twice = transform_volume(transform_volume(body, one), two, [PIXEL, 0, 0])
    once = transform_volume(body, two * one, [PIXEL, 0, 0])
    assert np.corrcoef(twice.data.ravel(), once.data.ravel())[0, 1] > 0.99
    assert np.allclose(transform_volume(body).data, body.data, atol=1e-5)
    # four quarter turns are none
    turned = body
    for _ in range(4):
        turned = transform_volume(turned, two)
    assert np.abs(turned.data - body.data)[6:-6, 6:-6, 6:-6].max() < 1e-3 * body.data.max()


def test_volumes_that_cannot_be_aligned(body):
    with pytest.raises(ValueError, match="32 voxels of 8 Å and 32 voxels of 4 Å"):
        align_volumes(body, Volume(body.data, 4.0))
    with pytest.raises(ValueError, match="the moving volume must be finite and not constant"):
        align_volumes(body.with_data(np.ones_like(body.data)), body)
    with pytest.raises(ValueError, match="the fixed volume"):
        align_volumes(body, body.with_data(np.full_like(body.data, np.nan)))
