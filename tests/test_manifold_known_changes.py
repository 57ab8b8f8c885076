"""Volumes whose changes are known: what the images determine of them, and that no particle has a part in its judge."""

from dataclasses import replace

import numpy as np
import pytest

from cryonb import manifold, simulate
from cryonb.manifold.gauge import PreparedGauge
from cryonb.manifold.known_changes import KnownChanges
from cryonb.manifold.masks import sphere_mask
from cryonb.manifold.observations import observe
from cryonb.manifold.spectral import coordinate_weights, fit_spectral, legendre_basis, posterior_moments
from cryonb.manifold.volume_sets import VolumeSet, crop_or_pad, grid_size
from cryonb.samples import ribosome

SIZE, PIXEL, LIMITS = 32, 12.6, (-10.0, 10.0)


def ribosome_at(angle):
    return ribosome().volume(SIZE, PIXEL, ratchet=angle, factor=False)


@pytest.fixture(scope="module")
def case():
    """300 ribosomes whose angles are known, the changes of a gauge, and the moments of four Legendre polynomials."""
    landscape = simulate.double_well("ratchet (°)", span=LIMITS, wells=(-5, 5), barrier_kt=1.0)
    species = simulate.Species("free", landscape=landscape, state={"factor": False})
    population = simulate.populate(ribosome(), species, 300, rng=0)
    particles, truth = simulate.particles(population, simulate.Imaging(SIZE, PIXEL, snr=0.3), rng=1, progress=False)
    observations = observe(truth.with_poses(particles), resolution=2.2 * PIXEL)
    size_px = grid_size(observations.radius)
    mask = sphere_mask(size_px)
    exact = np.stack([crop_or_pad(ribosome_at(x).data * truth.scale, size_px) for x in (-6.0, 0.0, 6.0)])
    reference = VolumeSet(exact[1:2].astype(np.float32) * mask, mask, SIZE, PIXEL)
    gauge = PreparedGauge(manifold.RigidBodyGauge(ribosome_at, np.linspace(-12, 12, 9)), reference)
    weights, nodes = coordinate_weights(population.state[:, 0], None, LIMITS)
    moments = posterior_moments(weights, legendre_basis(nodes, 4, LIMITS))
    groups = np.array_split(np.random.default_rng(2).permutation(300), 3)
    return observations, gauge.changes(), mask, groups, moments, exact * mask


def test_changes_have_unit_norm_and_hold_what_the_model_does(case):
    _, changes, mask, _, _, exact = case
    np.testing.assert_allclose((changes**2).sum(axis=(1, 2, 3)), 1)
    difference = (exact[2] - exact[0]).ravel()
    rows = changes.reshape(len(changes), -1).T
    left = difference - rows @ np.linalg.lstsq(rows, difference, rcond=None)[0]
    assert np.linalg.norm(left) < 0.25 * np.linalg.norm(difference)


def test_the_planted_motion_is_found_with_less_noise_than_voxel_by_voxel(case):
    observations, changes, mask, groups, moments, exact = case
    whole, without = KnownChanges(observations, changes, mask=mask, groups=groups).fit(*moments)
    free, _ = fit_spectral(observations, *moments, 4, LIMITS, mask=mask, groups=groups)
    ends = legendre_basis(np.array([-6.0, 6.0]), 4, LIMITS)
    wanted = exact[2] - exact[0]
    errors = []
    for volumes in (whole, free.volumes):
        low, high = volumes.combine(ends).data
        errors.append(np.linalg.norm(high - low - wanted) / np.linalg.norm(wanted))
    assert errors[0] < 0.4 and errors[0] < 0.6 * errors[1]
    assert len(whole) == 4 and len(without) == 3


def test_no_group_has_a_part_in_the_volumes_that_judge_it(case):
    observations, changes, mask, groups, moments, _ = case
    values = observations.values.copy()
    values[groups[1]] *= -3
    fits = [
        KnownChanges(each, changes, mask=mask, groups=groups).fit(*moments, unshrunk=4)[1]
        for each in (observations, replace(observations, values=values))
    ]
    scale = np.abs(fits[0][1].data).max()
    np.testing.assert_allclose(fits[0][1].data, fits[1][1].data, rtol=0, atol=1e-4 * scale)
    assert np.abs(fits[0][0].data - fits[1][0].data).max() > 0.1 * scale
