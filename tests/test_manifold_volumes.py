"""Principal volumes, likelihoods, volumes along a coordinate, gauges, and `embed`, on phantoms with known truth."""

import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from cryonb import ctf as ctf_room
from cryonb import fourier, plot, projection, rotations, simulate
from cryonb.manifold import (
    RigidBodyGauge,
    arclength,
    average_near_view,
    crowded_view,
    embed,
    heterogeneity_test,
    image_log_likelihood,
    measure_volumes,
    principal_volumes,
    turned_to_view,
    volumes_along,
)
from cryonb.samples import ribosome, rotor
from cryonb.types import CTF, EnergyLandscape, Particles, Poses, Volume

SIZE, PIXEL = 24, 10.0  # the rotor's arm of 70 Å and its body of 70 Å in a box of 240 Å


def rotor_particles(n, *, landscape, snr, seed=0):
    """Images of the rotor with true poses, and the truth."""
    population = simulate.populate(rotor(), landscape, n, rng=[seed, 0])
    imaging = simulate.Imaging(SIZE, PIXEL, snr=snr, shift_sigma=5.0)
    particles, truth = simulate.particles(population, imaging, rng=[seed, 1], progress=False)
    return truth.with_poses(particles), truth


def two_states(angle=40.0):
    """Half of the particles at 0°, half at ``angle``: two bins of a landscape so narrow that they are points."""
    edges = np.array([-0.01, 0.01, angle - 0.01, angle + 0.01])
    return EnergyLandscape(np.array([0.0, np.nan, 0.0]), [edges], gauge=("angle (°)",))


def rotor_at(angle, scale=1.0):
    return Volume(scale * rotor().volume(SIZE, PIXEL, angle=angle).data, PIXEL)


def correlation(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


@pytest.fixture(scope="module")
def two_state_rotor():
    return rotor_particles(300, landscape=two_states(), snr=2.0)


@pytest.fixture(scope="module")
def turning_rotor():
    flat = simulate.from_energy(lambda x: 0 * x, {"angle (°)": (-25, 25)})
    return rotor_particles(500, landscape=flat, snr=10.0, seed=5)


@pytest.fixture(scope="module")
def small_ribosome():
    """400 ribosomes whose 40S ratchets between two wells, with a gauge."""
    sample = ribosome()
    size_px, pixel_size = 32, 12.6
    landscape = simulate.double_well(barrier_kt=2.0)
    population = simulate.populate(
        sample, simulate.Species("free", landscape=landscape, state={"factor": False}), 400, rng=[1, 0]
    )
    imaging = simulate.Imaging(size_px, pixel_size, snr=2.0)
    particles, truth = simulate.particles(population, imaging, rng=[1, 1], progress=False)
    gauge = RigidBodyGauge(
        lambda angle: sample.volume(size_px, pixel_size, ratchet=angle, factor=False),
        np.linspace(-14.0, 14.0, 15),
        name="ratchet (°)",
    )
    return truth.with_poses(particles), truth, gauge


@pytest.fixture(scope="module")
def embedded_ribosome(small_ribosome, tmp_path_factory):
    particles, _, gauge = small_ribosome
    checkpoint = tmp_path_factory.mktemp("embed") / "embedding.npz"
    return embed(particles, rng=0, gauge=gauge, progress=False, checkpoint=checkpoint), checkpoint


def test_first_principal_volume_is_the_difference_of_two_states(two_state_rotor):
    particles, truth = two_state_rotor
    found = principal_volumes(particles, rng=0, n_components=2, progress=False)
    difference = rotor_at(40.0).data - rotor_at(0.0).data
    assert abs(correlation(found.components[0].data, difference)) > 0.9
    assert abs(correlation(found.embedding.coordinates[:, 0], truth.state[:, 0])) > 0.95
    # half the particles at each end: the variance is a quarter of the squared distance; a mask and a resolution
    # of a twentieth of the box take a little off it
    expected = 0.25 * truth.scale**2 * np.sum(difference.astype(float) ** 2)
    assert found.eigenvalues[0] == pytest.approx(expected, rel=0.2)
    assert found.eigenvalues[0] > 5 * found.eigenvalues[1]
    assert correlation(found.mean.data, rotor_at(0.0).data + rotor_at(40.0).data) > 0.95
    flat = np.stack([component.data.ravel() for component in found.components]).astype(float)
    np.testing.assert_allclose(flat @ flat.T, np.eye(2), atol=1e-3)
    # the absolute scale: mean and component put a particle's volume together
    end = found.embedding.coordinates[truth.state[:, 0] > 20, 0].mean()
    volume = found.mean.data + end * found.components[0].data
    slope = np.polyfit(truth.scale * rotor_at(40.0).data.ravel(), volume.ravel(), 1)[0]
    assert slope == pytest.approx(1, abs=0.1)


def test_same_seed_same_principal_volumes_and_resumption(two_state_rotor, tmp_path):
    particles = two_state_rotor[0]
    options = {"n_components": 1, "progress": False}
    first = principal_volumes(particles, rng=3, **options).embedding.coordinates
    path = tmp_path / "principal.npz"
    saved, resumed = (
        principal_volumes(particles, rng=3, checkpoint=path, **options).embedding.coordinates for _ in range(2)
    )
    np.testing.assert_array_equal(saved, first)
    # resumed from the last resolution but one: latents without their covariances, and so the same fixed point only
    assert correlation(resumed, first) > 0.9999


def test_posterior_covariance_shrinks_with_snr_and_is_honest():
    spreads = []
    for snr in (0.1, 1.0):
        particles, truth = rotor_particles(300, landscape=two_states(), snr=snr, seed=2)
        found = principal_volumes(particles, rng=0, n_components=1, progress=False)
        deviation = np.sqrt(found.embedding.covariance[:, 0, 0])
        assert (deviation > 0).all()
        # in units of the true distance between the states
        length = truth.scale * np.linalg.norm(rotor_at(40.0).data - rotor_at(0.0).data)
        spreads.append(deviation.mean() / length)
        # shrunk coordinates and their errors add up to the prior's variance
        coordinates = found.embedding.coordinates[:, 0]
        assert coordinates.var() + (deviation**2).mean() == pytest.approx(found.eigenvalues[0], rel=1e-3)
    # the error falls as 1/√SNR where the prior does not matter
    assert spreads[1] < spreads[0] / 2


def tiny(n=20, *, size_px=16, noise=0.05, seed=0):
    """Images of one volume on a small grid, and the volume."""
    rng = np.random.default_rng(seed)
    pixel_size = 12.0
    volume = rotor().volume(size_px, pixel_size)
    poses = Poses(Rotation.random(n, random_state=seed), rng.normal(0, 5, (n, 2)))
    defocus = rng.uniform(10_000, 20_000, n)
    ctf = CTF(defocus, defocus + 300, rng.uniform(0, 180, n))
    images = ctf_room.apply(projection.project(volume, poses), ctf, pixel_size)
    images = images + noise * images.std() * rng.standard_normal(images.shape)
    return Particles(images.astype(np.float32), pixel_size, ctf=ctf, poses=poses), volume


def test_a_readers_mask_keeps_its_soft_edge_on_the_cropped_grid():
    """A sphere drawn at 64 px and cropped to 24 px is the sphere that the small grid would have drawn."""
    from cryonb.filters import soft_sphere
    from cryonb.manifold.masks import grid_mask
    from cryonb.manifold.observations import observe

    particles = tiny(size_px=64)[0]
    observations = observe(particles, resolution=particles.box_size / 10)
    mask = Volume(soft_sphere(64, 16, edge_px=8), particles.pixel_size)
    cropped = grid_mask(mask, observations)
    small = soft_sphere(24, 16 * 24 / 64, edge_px=8 * 24 / 64)
    np.testing.assert_allclose(cropped, small, atol=0.1)
    assert np.abs(cropped - small).mean() < 0.01
    with pytest.raises(ValueError, match="mask has box 32 px"):
        grid_mask(Volume(np.ones((32, 32, 32)), 10.0), observations)


def test_likelihood_is_the_sum_of_squared_residuals():
    from cryonb.manifold.observations import observe

    particles, _ = tiny(noise=1.0)
    volumes = [rotor().volume(16, 12.0, angle=angle) for angle in (0.0, 90.0, 180.0)]
    observations = observe(particles)
    shells = np.arange(len(observations.noise))
    noise = (1.0 + 0.2 * shells) * observations.noise.mean()
    measured = image_log_likelihood(particles, volumes, noise=noise)
    # −½ Σ |y − C P V|² / σ² over all Fourier pixels up to the same radius, drawn by another room
    frequency = np.fft.fftfreq(16) * 16
    ky, kx = np.meshgrid(frequency, frequency, indexing="ij")
    radius = np.hypot(kx, ky)
    used = radius <= observations.radii.max() + 1e-3
    expected = np.empty((20, 3))
    for column, volume in enumerate(volumes):
        drawn = ctf_room.apply(projection.project(volume, particles.poses), particles.ctf, 12.0)
        residual = np.abs(np.fft.fft2(particles.images.astype(float) - drawn, norm="ortho")) ** 2
        scale = fourier_norm(particles, observations)
        expected[:, column] = -0.5 * (residual * scale)[:, used] @ (1 / noise[np.rint(radius[used]).astype(int)])
    measured, expected = (a - a.mean(axis=1, keepdims=True) for a in (measured, expected))
    # interpolation in the padded transform is good to about a per cent of the differences
    np.testing.assert_allclose(measured, expected, atol=0.02 * np.abs(expected).max())
    assert correlation(measured, expected) > 0.999


def fourier_norm(particles, observations):
    """Squared ratio of the room's Fourier coefficients to orthonormal ones, from the zero-frequency coefficient."""
    zero = np.flatnonzero(observations.radii == 0)[0]
    return float(
        np.median(
            np.abs(observations.values[:, zero]) ** 2
            / np.abs(np.fft.fft2(particles.images, norm="ortho")[:, 0, 0]) ** 2
        )
    )


def test_likelihood_prefers_the_true_volume_at_the_right_pose():
    particles, volume = tiny(noise=1.0)
    wrong = rotor().volume(16, 12.0, angle=90.0)
    log_likelihood = image_log_likelihood(particles, [volume, wrong])
    assert (log_likelihood[:, 0] > log_likelihood[:, 1]).mean() > 0.9
    # at a wrong pose the true volume explains the images less well
    noise = np.full(9, 1.0) * np.var(particles.images) * 256
    turned = replace(particles, poses=Poses(particles.poses.rotation * Rotation.from_euler("y", 60, degrees=True)))
    right, off = (image_log_likelihood(these, [volume, wrong], noise=noise)[:, 0] for these in (particles, turned))
    assert (right > off).mean() > 0.9
    # a contrast of its own for every image, and a small pose error, do not change which volume wins
    for options in ({"contrast_sd": 0.3}, {"pose_error": (2.0, 2.0)}):
        other = image_log_likelihood(particles, [volume, wrong], **options)
        assert (other[:, 0] > other[:, 1]).mean() > 0.9


def test_likelihood_refuses_volumes_of_another_grid():
    particles, volume = tiny()
    with pytest.raises(ValueError, match="particles' grid, 16 px"):
        image_log_likelihood(particles, [rotor().volume(24, 12.0)])
    with pytest.raises(TypeError, match="list of Volume"):
        image_log_likelihood(particles, [volume.data])


def test_volumes_along_a_known_coordinate(turning_rotor):
    particles, truth = turning_rotor
    nodes, volumes, spectral = volumes_along(particles, truth.state[:, 0], n_nodes=5, n_spectral=4)
    assert nodes[0] == pytest.approx(-25, abs=1) and nodes[-1] == pytest.approx(25, abs=1)
    moving = np.std([rotor_at(angle).data for angle in nodes], axis=0)
    moving = moving > 0.2 * moving.max()
    for k, (angle, volume) in enumerate(zip(nodes, volumes)):
        expected = truth.scale * rotor_at(angle).data
        assert correlation(volume.data, expected) > 0.9
        # among the five states it looks most like its own, where anything moves
        fits = [correlation(volume.data[moving], rotor_at(other).data[moving]) for other in nodes]
        assert np.argmax(fits) == k
    middle = spectral.at(0.0).volumes()[0]
    slope = np.polyfit(truth.scale * rotor_at(0.0).data.ravel(), middle.data.ravel(), 1)[0]
    assert slope == pytest.approx(1, abs=0.1)
    # the angle whose density looks most like it; a gauge, which leaves turns of the whole free, hardly tells those of
    # an arm about the same axis
    grid = np.arange(-40.0, 41.0)
    states = [rotor_at(angle).data for angle in grid]
    angles = [grid[np.argmax([correlation(volume.data, state) for state in states])] for volume in volumes]
    np.testing.assert_allclose(angles, nodes, atol=2.0)


def test_volumes_along_refuses_bad_coordinates(turning_rotor):
    particles = turning_rotor[0]
    with pytest.raises(ValueError, match="does not vary"):
        volumes_along(particles, np.zeros(len(particles)))
    with pytest.raises(ValueError, match="finite"):
        volumes_along(particles, np.full(len(particles), np.nan))
    with pytest.raises(ValueError, match="finite numbers, got shape"):
        volumes_along(particles, np.zeros(3))


def seen_from(direction, n, *, size_px=32, pixel_size=8.0):
    """Noiseless images of the rotor from one direction at any in-plane angle, off centre, defocused."""
    rng = np.random.default_rng(0)
    rot, tilt = rotations.directions_to_angles(np.array(direction))
    angles = np.column_stack([np.full(n, rot), np.full(n, tilt), rng.uniform(0, 360, n)])
    poses = Poses(rotations.from_relion_angles(angles), rng.normal(0, 10, (n, 2)))
    defocus = rng.uniform(10_000, 25_000, n)
    ctf, volume = CTF(defocus, defocus), rotor().volume(size_px, pixel_size)
    images = ctf_room.apply(projection.project(volume, poses), ctf, pixel_size)
    return Particles(images.astype(np.float32), pixel_size, ctf=ctf, poses=poses), volume


def test_an_average_near_a_view_is_the_projection_along_it():
    particles, volume = seen_from([0.3, 0.2, 0.9], 60)
    rot, tilt = rotations.directions_to_angles(np.array([0.3, 0.2, 0.9]))
    transforms, squares = turned_to_view(particles, rotations.from_relion_angles([[rot, tilt, 40.0]]))
    average = average_near_view(transforms, squares, np.ones(60))

    def projected(psi):
        """The projection, damped where the CTFs let through little, as the average is."""
        drawn = projection.project(volume, Poses(rotations.from_relion_angles([[rot, tilt, psi]])))
        return average_near_view(fourier.transform(drawn, ndim=2) * squares, squares, np.ones(60))

    assert correlation(average, projected(40.0)) > 0.99
    assert correlation(average, projected(-40.0)) < 0.7  # turned the other way
    # an image without weight does not count
    alone = average_near_view(transforms, squares, np.eye(60)[3])
    np.testing.assert_allclose(alone, average_near_view(transforms[3:4], squares[3:4], np.ones(1)), atol=1e-5)


def test_the_crowded_view_is_where_the_particles_are():
    crowd, _ = seen_from([0.6, 0.0, 0.8], 30)
    others = Poses(rotations.random_rotations(20, rng=1))
    poses = Poses(Rotation.concatenate([crowd.poses.rotation, others.rotation]))
    particles = Particles(np.zeros((50, 8, 8), dtype=np.float32), 8.0, poses=poses)
    view, index = crowded_view(particles)
    away = np.degrees(np.arccos(rotations.viewing_direction(poses.rotation) @ rotations.viewing_direction(view)[0]))
    np.testing.assert_array_equal(index, np.flatnonzero(away < 25))
    assert set(range(30)) <= set(index)


def rotor_gauge(limit=40.0):
    return RigidBodyGauge(rotor_at, np.linspace(-limit, limit, 21), name="angle (°)")


def ribosome_at(ratchet, *, turned_back=0.0, size_px=32, pixel_size=12.6):
    """The ribosome, its 40S ratcheted, and the whole then turned back about the same axis by a share of the angle."""
    from cryonb.samples.drawing import draw_volume

    sample = ribosome()
    coordinates, weights = sample.state(ratchet=ratchet, factor=False)
    motion = next(motion for motion in sample.motions if motion.name == "ratchet")
    coordinates = motion.rotation(-turned_back * ratchet).apply(coordinates - motion.point) + motion.point
    return draw_volume((coordinates, weights), sample.sigma, size_px, pixel_size)


@pytest.mark.parametrize(
    "turned_back, angles",
    [
        (0.0, [-7.0, -3.5, 0.0, 2.5, 6.0]),
        # a whole that turns back by a fifth reads 6 % short: 0.3° hold up to the wells of a ratchet at ±4°
        (0.2, [-4.0, -2.0, 0.0, 2.5, 4.0]),
    ],
)
def test_gauge_reads_a_known_angle(small_ribosome, turned_back, angles):
    gauge = small_ribosome[2]
    volumes = [ribosome_at(angle, turned_back=turned_back) for angle in angles]
    # the whole turned back, as poses refined against a consensus make it, must not shorten the reading
    np.testing.assert_allclose(measure_volumes(volumes, gauge), angles, atol=0.3)
    scaled = [replace(volume, data=3 * volume.data + 0.01) for volume in volumes]
    np.testing.assert_allclose(measure_volumes(scaled, gauge), angles, atol=0.3)


@pytest.mark.parametrize("turned_back", [0.0, 0.25])
def test_the_curve_is_read_right_though_poses_turned_the_whole_back(small_ribosome, turned_back):
    """With the whole of the model at rest a turn by a quarter made the scale 7 % wrong."""
    from cryonb.manifold.gauge import PreparedGauge
    from cryonb.manifold.likelihood import crop_or_pad
    from cryonb.manifold.volume_sets import VolumeSet

    nodes = np.linspace(-8.0, 8.0, 17)
    density = np.exp(-0.5 * (nodes / 4.0) ** 2)
    density /= density.sum()
    data = np.stack([crop_or_pad(ribosome_at(angle, turned_back=turned_back).data, 28) for angle in nodes])
    curve = VolumeSet(data.astype(np.float32), np.ones((28,) * 3, np.float32), 32, 12.6)
    gauge = PreparedGauge(small_ribosome[2], curve.combine(density[None]))
    read = gauge.read([curve], nodes, density)[0]
    centre, slope = np.average(read - nodes, weights=density), np.polyfit(nodes, read, 1, w=np.sqrt(density))[0]
    assert abs(centre) < 0.15 and abs(slope - 1) < 0.04


def test_a_curve_is_not_read_where_nobody_is(small_ribosome):
    """Beyond the particles a cubic may come by the same volumes again, there at nodes 10 to 15."""
    from cryonb.manifold.gauge import PreparedGauge
    from cryonb.manifold.likelihood import crop_or_pad
    from cryonb.manifold.volume_sets import VolumeSet

    nodes = np.arange(-8.0, 16.0)
    angles = np.where(nodes <= 9, nodes, 1.05 * (8 - 2 * (nodes - 9)))
    density = np.where(nodes <= 8, np.exp(-0.5 * (nodes / 4.0) ** 2), 0.0)
    density /= density.sum()
    data = np.stack([crop_or_pad(ribosome_at(angle).data, 28) for angle in angles])
    curve = VolumeSet(data.astype(np.float32), np.ones((28,) * 3, np.float32), 32, 12.6)
    gauge = PreparedGauge(small_ribosome[2], curve.combine(density[None]))
    read = gauge.read([curve], nodes, density)[0]
    inside = np.abs(nodes) <= 6
    assert np.abs(read - nodes)[inside].max() < 0.7


def test_gauge_refuses_uneven_values_and_other_grids():
    with pytest.raises(ValueError, match="equally spaced"):
        RigidBodyGauge(rotor_at, np.array([0.0, 1, 2, 3, 5]))
    with pytest.raises(ValueError, match="box 32 px"):
        measure_volumes([Volume(np.ones((32, 32, 32)), PIXEL)], rotor_gauge())


def test_arclength_of_a_turn_is_even():
    lengths = arclength([rotor_at(angle) for angle in np.linspace(0, 90, 10)])
    assert lengths[0] == 0 and lengths[-1] == 1
    np.testing.assert_allclose(lengths, np.linspace(0, 1, 10), atol=0.02)
    with pytest.raises(ValueError, match="all the same"):
        arclength([rotor_at(0.0)] * 3)


def test_embedding_finds_the_order_of_the_states(small_ribosome, embedded_ribosome):
    _, truth, _ = small_ribosome
    found = embedded_ribosome[0]
    ratchet = truth.state[:, 0] if truth.state.shape[1] == 1 else truth.state[:, truth.state_names.index("ratchet")]
    # with a gauge the direction is known too
    assert spearmanr(found.coordinate, ratchet).statistic > 0.8
    slope = np.polyfit(ratchet, found.coordinate, 1)[0]
    assert 0.7 < slope < 1.2
    assert found.landscape.gauge == ("ratchet (°)",)
    assert found.nodes.shape == found.effective_particles.shape == found.landscape.energy_kt.shape
    assert found.effective_particles.sum() == pytest.approx(400)
    assert found.log_likelihood.shape == (400, len(found.nodes))
    assert len(found.volumes) == len(found.nodes) and found.volumes[0].size_px == 32
    assert (found.deviation >= 0).all() and np.isfinite(found.flat_coordinate).all()
    # what the volumes show is what the nodes say
    shown = measure_volumes(found.volumes, small_ribosome[2])
    assert correlation(shown, found.nodes) > 0.9
    assert not any("below 200" in note for note in found.warnings)
    assert "400 particles" in repr(found)


def test_checkpoint_returns_the_same_embedding_at_once(small_ribosome, embedded_ribosome, monkeypatch):
    particles, _, gauge = small_ribosome
    found, checkpoint = embedded_ribosome

    def forbidden(*_, **__):
        raise AssertionError("computed again in spite of the checkpoint")

    monkeypatch.setattr("cryonb.manifold.embedding.principal_volumes", forbidden)
    again = embed(particles, rng=0, gauge=gauge, progress=False, checkpoint=checkpoint)
    for name in ("coordinate", "deviation", "nodes", "log_likelihood", "effective_particles"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    np.testing.assert_array_equal(again.landscape.energy_kt, found.landscape.energy_kt)
    np.testing.assert_array_equal(again.volumes[3].data, found.volumes[3].data)
    np.testing.assert_array_equal(again.principal.embedding.covariance, found.principal.embedding.covariance)
    with pytest.raises(ValueError, match="checkpoint of another job"):
        embed(particles, rng=1, gauge=gauge, progress=False, checkpoint=checkpoint)


def test_a_landscape_of_ribosomes_that_do_not_move_is_unresolvable():
    """The band alone does not say so: without a gauge half of such landscapes had a narrow one."""
    still = simulate.Species("still", state={"ratchet": 0.0, "factor": False})
    population = simulate.populate(ribosome(), still, 400, rng=0)
    particles, truth = simulate.particles(population, simulate.Imaging(24, 16.8, snr=0.1), rng=0, progress=False)
    found = embed(truth.with_poses(particles), rng=0, n_components=2, n_rounds=1, progress=False)
    assert found.shape == "point" and "one point" in found.landscape.verdict


def test_embedding_without_a_gauge_follows_the_arc(turning_rotor):
    particles, truth = turning_rotor
    found = embed(particles, rng=0, n_components=2, n_rounds=1, progress=False)
    # which end is zero is arbitrary
    assert abs(spearmanr(found.coordinate, truth.state[:, 0]).statistic) > 0.8
    assert found.landscape.gauge == ("arclength (98 % of particles: 0–1)",)
    assert not any("below 200" in note for note in found.warnings)


def test_few_particles_bring_a_warning(two_state_rotor):
    particles = two_state_rotor[0]
    found = embed(particles[:180], rng=0, n_components=2, n_rounds=1, progress=False)
    assert any("Only 180 particles: below 200" in note for note in found.warnings)


def test_few_particles_and_all_other_warnings_stand_on_the_figure(two_state_rotor):
    found = embed(two_state_rotor[0][:180], rng=0, n_components=2, n_rounds=1, progress=False)
    assert found.landscape.verdict != "resolved" and len(found.warnings) > 1
    ax = plot.landscape(found, label="180 particles")
    printed = " ".join(ax.get_title(loc="left").split())
    assert all(note in printed for note in found.warnings)
    quiet = plot.landscape(replace(found, warnings=(), landscape=replace(found.landscape, verdict="resolved")))
    assert quiet.get_title(loc="left") == ""
    plt.close("all")


CENTRED = np.zeros((30, 2))


def one_constant(particles):
    images = np.array(particles.images)
    images[7] = 3
    return replace(particles, images=images)


def shifted(particles, row, by):
    shift = CENTRED.copy()
    shift[row] = by
    return replace(particles, poses=Poses(particles.poses.rotation, shift))


@pytest.mark.parametrize("spoil, message", [
    (one_constant, "particle 7 is constant: all its pixels are 3"),
    (lambda p: replace(p, images=np.zeros_like(p.images)), "particle 0 is constant: all its pixels are 0"),
    (lambda p: shifted(p, 5, [0, -150.0]), r"particle 5 is shifted by 150 Å, its box is .* \(1 such particles\)"),
    (lambda p: shifted(p, slice(None), 200.0), r"\(30 such particles\): poses of another box or pixel size"),
])  # fmt: skip
def test_constant_images_and_poses_of_another_box_are_refused(spoil, message):
    particles = spoil(tiny(30)[0])
    for question in (embed, heterogeneity_test, principal_volumes):
        with pytest.raises(ValueError, match=message), warnings.catch_warnings():
            warnings.simplefilter("error")  # one error, and nothing before it
            question(
                particles, rng=0, n_components=2, **({} if question is heterogeneity_test else {"progress": False})
            )


@pytest.mark.parametrize("settings, message", [
    ({"n_components": 30}, "n_components must be at least 1 and at most 29, fewer than the 30 particles, got 30"),
    ({"n_components": 0}, "n_components must be at least 1 .* got 0"),
    ({"n_folds": 31}, "n_folds must be at least 2 and at most the number of particles, 30, got 31"),
    ({"n_folds": 1}, "n_folds must be at least 2"),
    ({"n_nodes": 3}, "n_nodes must be at least 4, got 3"),
    ({"n_rounds": 0}, "n_rounds must be at least 1, got 0"),
])  # fmt: skip
def test_settings_that_the_particles_cannot_have_are_refused_before_the_work(settings, message, monkeypatch):
    monkeypatch.setattr("cryonb.manifold.embedding.observe", None)
    with pytest.raises(ValueError, match=message):
        embed(tiny(30)[0], rng=0, progress=False, **settings)


def test_what_cannot_be_embedded_is_refused():
    particles, _ = tiny(30)
    with pytest.raises(ValueError, match="no poses"):
        embed(replace(particles, poses=None), rng=0)
    with pytest.raises(ValueError, match="no ctf"):
        embed(replace(particles, ctf=None), rng=0)
    with pytest.raises(ValueError, match="no poses and no ctf"):
        embed(replace(particles, poses=None, ctf=None), rng=0)
    with pytest.raises(ValueError, match="at least 20 particles"):
        embed(particles[:19], rng=0)
    one_view = Poses(Rotation.from_rotvec(np.linspace(0, 6, 30)[:, None] * [0, 0, 1]))
    with pytest.raises(ValueError, match="seen from one side"):
        embed(replace(particles, poses=one_view), rng=0)
    broken = np.array(particles.images)
    broken[4, 2, 2] = np.nan
    with pytest.raises(ValueError, match="particle 4 .*not finite"):
        embed(replace(particles, images=broken), rng=0, progress=False)
    with pytest.raises(ValueError, match="the gauge's model gives"):
        embed(particles, rng=0, gauge=rotor_gauge(), n_components=1, progress=False)
