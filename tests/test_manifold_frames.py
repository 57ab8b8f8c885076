"""What stands behind the frames of a movie: half maps, effective particles, views, on phantoms with known states."""

from dataclasses import replace

import numpy as np
import pytest

from cryonb import simulate
from cryonb.manifold import RigidBodyGauge, embed, frame_evidence, frame_weights, weighted_half_maps
from cryonb.samples import ribosome, rotor

SIZE, PIXEL = 24, 10.0
CENTRES = np.array([-20.0, -10.0, 0.0, 10.0, 20.0, 40.0])  # nobody lives at 40°


def rotor_at(angle):
    return rotor().volume(SIZE, PIXEL, angle=angle)


def correlation(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.fixture(scope="module")
def turning():
    """600 rotors with true poses at angles spread evenly over ±25°, and those angles."""
    flat = simulate.from_energy(lambda x: 0 * x, {"angle (°)": (-25, 25)})
    population = simulate.populate(rotor(), flat, 600, rng=[5, 0])
    particles, truth = simulate.particles(
        population, simulate.Imaging(SIZE, PIXEL, snr=4.0), rng=[5, 1], progress=False
    )
    return truth.with_poses(particles), population.state[:, 0]


@pytest.fixture(scope="module")
def windows(turning):
    """Evidence of windows of ±5° around known angles."""
    particles, angle = turning
    weights = (np.abs(angle[:, None] - CENTRES) < 5).astype(float)
    return weighted_half_maps(particles, weights, rng=0, positions=CENTRES, gauge="angle (°)"), weights


def ribosome_at(angle):
    return ribosome().volume(32, 12.6, ratchet=angle, factor=False)


@pytest.fixture(scope="module")
def ratcheting():
    """500 ribosomes with true poses whose 40S ratchets between two wells, their angles, and the embedding."""
    species = simulate.Species("free", landscape=simulate.double_well(barrier_kt=2.0), state={"factor": False})
    population = simulate.populate(ribosome(), species, 500, rng=[1, 0])
    particles, truth = simulate.particles(population, simulate.Imaging(32, 12.6, snr=2.0), rng=[1, 1], progress=False)
    particles = truth.with_poses(particles)
    gauge = RigidBodyGauge(ribosome_at, np.linspace(-14.0, 14.0, 15), name="ratchet (°)")
    found = embed(particles, rng=0, gauge=gauge, n_components=3, n_rounds=2, progress=False)
    return particles, population.state[:, 0], found


def test_each_frame_shows_its_own_state(windows):
    evidence, _ = windows
    known = [rotor_at(angle).data for angle in CENTRES]
    for stack in (evidence.volumes, *evidence.half_maps):
        likeness = np.array([[correlation(volume.data, truth) for truth in known] for volume in stack.volumes()[:5]])
        assert (likeness.argmax(axis=1) == np.arange(5)).all()
        # the best that a window of ±5° and this resolution allow; from halves of 60 particles a little less
        assert likeness.diagonal().min() > 0.9


def test_a_frame_without_particles_is_interpolated(windows):
    evidence, weights = windows
    assert evidence.observed.tolist() == [True] * 5 + [False]
    np.testing.assert_allclose(evidence.expected, weights.sum(axis=0))
    assert evidence.expected[5] == evidence.coverage[5] == 0 and np.isnan(evidence.resolution[5])
    assert not evidence.volumes.data[5].any()
    assert evidence.sentence(5).startswith("interpolated: 0 particles") and "do not agree" in evidence.sentence(5)
    assert evidence.sentence(2).startswith("observed: ") and "half maps to" in evidence.sentence(2)
    assert "6 frames over angle (°), 5 observed" in repr(evidence)


def test_effective_particles_are_kish_s(turning):
    particles, _ = turning
    rng = np.random.default_rng(1)
    uneven = rng.random(600)
    weights = np.column_stack([np.full(600, 0.2), uneven, np.arange(600) < 100])
    evidence = weighted_half_maps(particles, weights, rng=0)
    assert evidence.effective == pytest.approx([600, uneven.sum() ** 2 / (uneven**2).sum(), 100])
    assert evidence.expected == pytest.approx([120, uneven.sum(), 100])


def test_more_particles_agree_to_finer_detail(turning):
    particles, _ = turning
    noisy = replace(particles, images=np.asarray(particles.images) + 4 * np.random.default_rng(0).standard_normal(
        (600, SIZE, SIZE)).astype(np.float32) * np.asarray(particles.images).std())  # fmt: skip
    first = np.arange(600)[:, None] < [600, 60]
    fsc = weighted_half_maps(noisy, first.astype(float), rng=0).fsc
    assert fsc[0, 3:9].mean() > fsc[1, 3:9].mean() + 0.1


def test_half_maps_of_noise_do_not_agree():
    rng = np.random.default_rng(3)
    flat = simulate.from_energy(lambda x: 0 * x, {"angle (°)": (-25, 25)})
    population = simulate.populate(rotor(), flat, 400, rng=0)
    particles, truth = simulate.particles(population, simulate.Imaging(SIZE, PIXEL, snr=1.0), rng=1, progress=False)
    noise = rng.standard_normal((400, SIZE, SIZE)).astype(np.float32)
    particles = replace(truth.with_poses(particles), images=noise)
    evidence = weighted_half_maps(particles, np.eye(4)[np.arange(400) % 4], rng=0)
    assert np.abs(evidence.fsc[:, 3:].mean()) < 0.1
    assert not evidence.observed.any()


def test_missing_views_are_counted(turning):
    particles, _ = turning
    axes = particles.poses.rotation.as_matrix()[:, :, 2]
    near = np.abs(axes[:, 2]) > np.cos(np.radians(30))  # a cap: 13 % of the sphere, 29 % with the 15° beyond its rim
    coverage = weighted_half_maps(particles, np.column_stack([np.ones(600), near]), rng=0).coverage
    assert coverage[0] == 1
    assert 0.15 < coverage[1] < 0.35


def test_weights_of_a_landscape_sum_to_the_particles(ratcheting):
    found = ratcheting[2]
    weights = frame_weights(found, found.nodes)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)
    joint = np.exp(found.log_likelihood - found.log_likelihood.max(axis=1, keepdims=True)) * found.landscape.probability
    np.testing.assert_allclose(weights, joint / joint.sum(axis=1, keepdims=True), atol=1e-9)
    with pytest.raises(ValueError, match="increasing"):
        frame_weights(found, found.nodes[::-1])


def test_frames_of_an_embedding_turn_with_it(ratcheting):
    particles, angle, found = ratcheting
    positions = np.linspace(-5.0, 5.0, 3)
    evidence = frame_evidence(particles, found, rng=0, positions=positions, enough=20)
    assert evidence.observed.all() and evidence.gauge == "ratchet (°)"
    assert evidence.coverage.min() > 0.7
    # the true angle of the particles behind each frame, and the angle that the frame's volume shows beside the mean
    weights = frame_weights(found, positions)
    behind = angle @ weights / weights.sum(axis=0)
    angles = np.linspace(-14, 14, 29)
    known = np.array([ribosome_at(value).data.ravel() for value in angles])
    shown = [
        angles[np.argmax([correlation(volume.data, row) for row in known])] for volume in evidence.volumes.volumes()
    ]
    assert np.abs(shown - behind).max() < 2
    assert shown[0] < shown[1] < shown[2]


def test_the_halves_of_the_metadata_are_kept(turning):
    import pandas as pd

    particles, _ = turning
    subset = np.where(np.arange(600) < 200, 1, 2)
    told = replace(particles, metadata=pd.DataFrame({"rlnRandomSubset": subset}))
    one, again = (weighted_half_maps(told, np.ones((600, 1)), rng=rng).half_maps[0].data for rng in (0, 1))
    np.testing.assert_array_equal(one, again)
    bad = replace(particles, metadata=pd.DataFrame({"rlnRandomSubset": np.ones(600, int)}))
    with pytest.raises(ValueError, match="both 1 and 2"):
        weighted_half_maps(bad, np.ones((600, 1)), rng=0)


def test_bad_weights_are_refused(turning, ratcheting):
    particles, _ = turning
    with pytest.raises(ValueError, match=r"shape \(600, frames\)"):
        weighted_half_maps(particles, np.ones(600), rng=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        weighted_half_maps(particles, np.full((600, 2), 1.5), rng=0)
    with pytest.raises(ValueError, match="one per frame"):
        weighted_half_maps(particles, np.ones((600, 2)), rng=0, positions=[1.0])
    with pytest.raises(ValueError, match="found is of 500 particles, got 30"):
        frame_evidence(particles[:30], ratcheting[2], rng=0)
