"""Simulated particles against what was asked for: landscapes, order in time, views, shifts, CTF, noise, bookkeeping."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from cryonb import ctf, filters, fourier, io, projection, samples, simulate
from cryonb.rotations import random_rotations, viewing_direction
from cryonb.simulate import Imaging, Langevin, Species, photographs
from cryonb.types import CTF, EnergyLandscape, Poses, Volume


def small_imaging(**changes):
    return Imaging(**{"size_px": 32, "pixel_size": 8.0, "snr": np.inf, **changes})


def take(population, imaging, rng=5, **options):
    return simulate.particles(population, imaging, rng=rng, progress=False, **options)


@pytest.fixture(scope="module")
def blobs():
    return samples.blobs(rng=0)


def in_circle(imaging):
    return fourier.radius_px(imaging.size_px) <= imaging.circle_px


def agreement(observed, expected):
    """Chi-square's p-value; bins that expect fewer than five, its usual condition, count as one."""
    plenty = expected > 5
    if expected[~plenty].sum() > 5:
        observed = np.append(observed[plenty], observed[~plenty].sum())
        expected = np.append(expected[plenty], expected[~plenty].sum())
    else:
        observed, expected = observed[plenty], expected[plenty] * observed[plenty].sum() / expected[plenty].sum()
    return stats.chisquare(observed, expected).pvalue


# --- who is in the tube -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "landscape", [simulate.double_well(tilt_kt=1.0), simulate.circular(), simulate.coupled_wells()]
)
def test_independent_states_follow_the_landscape(landscape):
    drawn = simulate.sample_landscape(landscape, 40_000, rng=11)
    observed, _ = np.histogramdd(drawn, bins=[edge[::8] for edge in landscape.edges])
    expected = landscape.probability
    for axis, edge in enumerate(landscape.edges):
        expected = np.add.reduceat(expected, np.arange(0, len(edge) - 1, 8), axis=axis)
    expected = expected * 40_000
    assert agreement(observed, expected) > 0.001


def test_a_double_well_is_as_asked():
    landscape = simulate.double_well(wells=(-3.0, 5.0), barrier_kt=3.0, tilt_kt=0.5)
    (x,) = landscape.centers
    left, top, right = np.interp([-3.0, 1.0, 5.0], x, landscape.energy_kt)
    assert right - left == pytest.approx(0.5, abs=0.05)
    assert top - (left + right) / 2 == pytest.approx(3.0, abs=0.1)  # levelled off at 6 kT: lowered by 0.05
    assert landscape.gauge == ("ratchet (°)",) and landscape.energy_kt.max() < 7


def test_coupled_wells_are_coupled():
    states = simulate.sample_landscape(simulate.coupled_wells(slope=1.5, spread=2.0), 20_000, rng=1)
    assert np.corrcoef(states.T)[0, 1] > 0.8


def test_langevin_forgets_and_stays_in_equilibrium():
    landscape = simulate.double_well(barrier_kt=1.0)
    dynamics = Langevin(diffusion=20.0, time_step=1.0)
    paths = simulate.langevin(landscape, 80, dynamics, n=200, rng=3)[:, :, 0]
    assert (np.abs(paths) <= 10).all()
    last, _ = np.histogram(paths[:, -1], bins=landscape.edges[0][::20])
    expected = landscape.probability.reshape(-1, 20).sum(1) * 200
    assert agreement(last, expected) > 0.001  # independent trajectories, long after the start
    pooled, _ = np.histogram(paths, bins=landscape.edges[0][::20])
    truth = landscape.probability.reshape(-1, 20).sum(1)
    assert np.abs(pooled / pooled.sum() - truth).sum() / 2 < 0.04  # 16,000 points, some 10 steps to forget: 1/√1600
    next_one, later = (np.corrcoef(paths[:, :-lag].ravel(), paths[:, lag:].ravel())[0, 1] for lag in (1, 30))
    assert next_one > 0.3 and abs(later) < 0.05  # 10,000 pairs: 0.01, three to four times that for correlated ones


def test_free_diffusion_spreads_as_2dt():
    flat = simulate.from_energy(lambda angle: 0 * angle, {"angle (°)": (0, 360)})
    paths = simulate.langevin(flat, 2, Langevin(diffusion=3.0, time_step=2.0, periodic=True), n=20_000, rng=4)[:, :, 0]
    step = (paths[:, 1] - paths[:, 0] + 180) % 360 - 180
    # one part in 40 short, as the integrator shares random numbers between successive steps; 1 % of sampling
    assert step.var() == pytest.approx(2 * 3.0 * 2.0 * (1 - 1 / 40), rel=0.03)


def test_a_two_coordinate_trajectory_keeps_the_coupling():
    landscape = simulate.coupled_wells(slope=1.5, spread=2.0)
    paths = simulate.langevin(landscape, 60, Langevin((4.0, 8.0), 2.0), n=100, rng=6)
    assert paths.shape == (100, 60, 2)
    assert np.corrcoef(paths[:, -1].T)[0, 1] > 0.7


def test_time_order_is_kept_and_species_do_not_change_on_the_way(blobs):
    kinds = [Species("a", 0.5, simulate.double_well()), Species("b", 0.5, simulate.double_well())]
    population = simulate.populate(blobs, kinds, 103, dynamics=Langevin(1.0, 0.5, trajectories=6), rng=0)
    for number in range(6):
        rows = population.trajectory == number
        assert 17 <= rows.sum() <= 18
        assert np.allclose(np.diff(population.time[rows]), 0.5) and population.time[rows][0] == 0
        assert len(set(population.label[rows])) == 1
    assert np.bincount(population.label, minlength=2).min() > 40


def test_binding_depends_on_the_state_and_leaves_the_whole_landscape(blobs):
    landscape = simulate.double_well()

    def occupancy(ratchet):
        return 0.1 + 0.8 / (1 + np.exp(-ratchet))

    free, bound = simulate.bind(landscape, occupancy)
    assert free.state == {"factor": False} and bound.state == {"factor": True}
    population = simulate.populate(samples.ribosome(), [free, bound], 20_000, rng=7)
    x, is_bound = population.state[:, 0], population.label == 1
    for low in range(-6, 6, 2):
        here = (x >= low) & (x < low + 2)
        wanted = occupancy(x[here]).mean()
        assert is_bound[here].mean() == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / here.sum()))
    _, truth = take(simulate.populate(samples.ribosome(), [free, bound], 10, rng=7), small_imaging())
    assert np.allclose(truth.landscape().energy_kt, landscape.energy_kt)
    assert np.allclose(truth.landscape("bound").energy_kt, bound.landscape.energy_kt)
    with pytest.raises(ValueError, match="between 0 and 1"):
        simulate.bind(landscape, lambda x: x)
    with pytest.raises(ValueError, match="no species.*junk"):
        truth.landscape("junk")


# --- how it was seen ----------------------------------------------------------------------------------------------


def test_snr_is_what_was_asked_for():
    """Variance of signal over variance of noise, inside the circle (the noise-free images share the seed)."""
    population = simulate.populate(samples.ribosome(), simulate.double_well(), 600, rng=1)
    imaging = Imaging(48, 8.4, snr=0.2)
    noisy, truth = take(population, imaging)
    clean, _ = take(population, Imaging(48, 8.4, snr=np.inf))
    signal = truth.scale * clean.images
    noise = noisy.images - signal
    inside = in_circle(imaging)
    measured = signal[:, inside].var(axis=1).mean() / noise[:, inside].var()
    assert measured == pytest.approx(0.2, rel=0.03)
    assert noise[:, inside].var() == pytest.approx(truth.noise_variance[0], rel=0.02)
    assert signal[:, inside].var(axis=1).mean() == pytest.approx(truth.signal_variance, rel=0.02)


def test_coloured_noise_has_the_spectrum_asked_for(blobs):
    spectrum = np.array([4.0, 3.0, 2.0, 1.5, 1.0])
    population = simulate.populate(blobs, None, 800, rng=1)
    # far from any signal: so little of it that the noise is all there is
    particles, truth = take(population, small_imaging(snr=1e-6, noise=spectrum))
    measured = filters.noise_spectrum(particles, 4)
    assert measured[3:] == pytest.approx(truth.noise_spectrum[0, 3:], rel=0.06)
    assert particles.images.var() == pytest.approx(1.0, rel=0.01)
    wanted = np.interp(np.linspace(0, 1, 17), np.linspace(0, 1, 5), spectrum)
    ratio = truth.noise_spectrum[0] / wanted
    # shells are a pixel wide, and beyond Nyquist, half of the last shell, the variance stays what it is there
    assert np.allclose(ratio[1:16], ratio[1:16].mean(), rtol=0.015)


def test_optics_groups_differ_in_noise(blobs):
    imaging = small_imaging(snr=1e-6, group_noise=(1.0, 2.0), per_micrograph=10)
    particles, truth = take(simulate.populate(blobs, None, 200, rng=1), imaging)
    assert np.array_equal(particles.optics_group, truth.optics_group)
    for group, deviation in enumerate((1.0, 2.0)):
        assert particles.images[truth.optics_group == group].std() == pytest.approx(deviation, rel=0.01)
    assert truth.noise_variance.tolist() == [1.0, 4.0]


def test_a_particle_sits_at_centre_minus_shift(blobs):
    """Measured on the image itself: the blobs' centre of mass is the box's centre, so the centroid is −shift."""
    imaging = small_imaging(defocus=None, shift_sigma=10.0)
    particles, truth = take(simulate.populate(blobs, None, 20, rng=1), imaging)
    axis = (np.arange(32) - 16) * 8.0
    total = particles.images.sum((1, 2))
    centroid = np.stack([particles.images.sum(1) @ axis / total, particles.images.sum(2) @ axis / total], axis=1)
    assert np.abs(truth.poses.shift).max() > 15
    assert np.allclose(centroid, -truth.poses.shift, atol=0.05)  # Å


def test_the_truth_explains_the_images():
    """CTF · projection of the scaled volume at the true pose, plus white noise of variance 1."""
    population = simulate.populate(
        samples.ribosome(), [Species("rotated", state={"ratchet": 6.0, "factor": False})], 40, rng=2
    )
    noisy, truth = take(population, Imaging(48, 8.4, snr=2.0))
    assert noisy.poses is None and truth.with_poses(noisy).poses is truth.poses
    volume = samples.ribosome().volume(48, 8.4, ratchet=6.0, factor=False)
    model = ctf.apply(projection.project(volume.with_data(truth.scale * volume.data), truth.poses), truth.ctf, 8.4)
    residual = noisy.images - model
    assert residual.var() == pytest.approx(1.0, abs=0.02)
    assert residual.std((1, 2)) == pytest.approx(np.ones(40), abs=0.1)


def test_the_ctf_is_applied():
    population = simulate.populate(samples.blobs(rng=1), None, 10, rng=3)
    lens = CTF(0.0, 0.0, voltage_kv=200.0, cs_mm=2.0, amplitude_contrast=0.07, b_factor=100.0)
    with_ctf, truth = take(population, small_imaging(optics=lens, astigmatism=500.0))
    without, _ = take(population, small_imaging(defocus=None))
    expected = ctf.apply(without.images, truth.ctf, 8.0)
    assert np.allclose(with_ctf.images, expected, atol=1e-4 * expected.std())
    assert (truth.ctf.voltage_kv == 200).all() and (truth.ctf.b_factor == 100).all()
    mean = (truth.ctf.defocus_u + truth.ctf.defocus_v) / 2
    assert ((mean >= 10_000) & (mean <= 25_000)).all()
    assert without.ctf is None and not np.allclose(without.images, with_ctf.images)


def test_ctfs_are_drawn_from_a_table(blobs):
    u, v, angle = np.array([[12_000.0, 18_000.0], [11_000.0, 17_500.0], [10.0, 80.0]])
    table = CTF(u, v, angle, voltage_kv=200.0)
    population = simulate.populate(blobs, None, 400, rng=1)
    particles, truth = take(population, small_imaging(defocus=table, per_micrograph=10))
    rows = {(u, v, a, kv) for u, v, a, kv in zip(
        truth.ctf.defocus_u, truth.ctf.defocus_v, truth.ctf.defocus_angle, truth.ctf.voltage_kv
    )}  # fmt: skip
    assert rows == {(12_000.0, 11_000.0, 10.0, 200.0), (18_000.0, 17_500.0, 80.0, 200.0)}
    name = particles.metadata["rlnMicrographName"].to_numpy()
    for one in np.unique(name):
        assert len(set(truth.ctf.defocus_u[name == one])) == 1


def test_views_are_drawn_as_asked(blobs):
    population = simulate.populate(blobs, None, 6000, rng=1)
    rng = np.random.default_rng(8)

    def directions(views):
        imaging = small_imaging(views=views)
        return viewing_direction(simulate.imaging.draw_poses(imaging, population.state, rng).rotation)

    assert np.linalg.norm(directions(None).mean(0)) < 0.04  # 1/√6000 = 0.013 along each axis
    axis = np.array([0.6, 0.0, 0.8])
    cluster = directions(simulate.VonMisesFisher([axis], concentration=8.0, uniform=0.0))
    assert (cluster @ axis).mean() == pytest.approx(1 / np.tanh(8.0) - 1 / 8.0, abs=0.01)
    assert np.cross(cluster.mean(0), axis) == pytest.approx(np.zeros(3), abs=0.02)
    half = directions(simulate.VonMisesFisher([axis], concentration=8.0, uniform=0.5))
    assert (half @ axis).mean() == pytest.approx(0.5 * (1 / np.tanh(8.0) - 1 / 8.0), abs=0.03)
    table = np.array([[0, 0, 1.0], [0, 1.0, 0]])
    drawn = directions(table)
    assert np.allclose((drawn[:, None] * table).sum(2).max(1), 1)
    by_state = directions(lambda state, rng: np.tile([1.0, 0, 0], (len(state), 1)))
    assert np.allclose(by_state, [1, 0, 0])
    whole = Rotation.random(3, rng=0)
    poses = simulate.imaging.draw_poses(small_imaging(views=whole), population.state, rng)
    assert ((poses.rotation[:20].as_matrix()[:, None] - whole.as_matrix()) ** 2).sum((2, 3)).min(1).max() < 1e-12


def test_a_cluster_of_no_concentration_is_even():
    axis, rng = np.array([0.6, 0.0, 0.8]), np.random.default_rng(0)
    for concentration in (0, 0.0, 1e-12):
        drawn = simulate.VonMisesFisher([axis], concentration=concentration, uniform=0.0).draw(20_000, rng)
        assert np.allclose(np.linalg.norm(drawn, axis=1), 1)
        # The area of a sphere between two planes is as their distance (Archimedes).
        assert stats.kstest((drawn @ axis + 1) / 2, "uniform").pvalue > 0.001
    for wrong, message in (
        ({"concentration": -1.0}, "concentration must be a number ≥ 0, got -1"),
        ({"concentration": np.nan}, "concentration must be a number ≥ 0, got nan"),
        ({"uniform": 1.5}, r"a fraction in \[0, 1\], got 1.5"),
        ({"weights": [1.0, 2.0]}, "weights must be 1 numbers"),
        ({"directions": [[0, 0, 0]]}, "directions must be finite vectors"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate.VonMisesFisher(**{"directions": [axis], **wrong})


def test_in_plane_angles_of_a_table_of_directions_are_even(blobs):
    population = simulate.populate(blobs, None, 4000, rng=1)
    poses = simulate.imaging.draw_poses(
        small_imaging(views=np.array([[1.0, 2, 3]])), population.state, np.random.default_rng(0)
    )
    psi = poses.rotation.as_euler("ZYZ", degrees=True)[:, 2] % 360
    assert stats.kstest(psi / 360, "uniform").pvalue > 0.001


def test_junk_is_as_bright_and_never_recurs():
    kinds = [Species("ribosome", 0.8, simulate.double_well()), Species("junk", 0.2, junk=True)]
    population = simulate.populate(samples.ribosome(), kinds, 300, rng=4)
    particles, truth = take(population, small_imaging(pixel_size=12.6))
    junk = truth.label == 1
    assert 0.12 < junk.mean() < 0.28
    assert np.isnan(truth.state[junk]).all() and np.isfinite(truth.state[~junk]).all()
    brightness = particles.images[:, in_circle(truth.imaging)].var(axis=1)
    assert brightness[junk].mean() == pytest.approx(truth.signal_variance, rel=1e-3)
    pictures = particles.images[junk].reshape(junk.sum(), -1)
    alike = np.corrcoef(pictures) - np.eye(junk.sum())
    assert alike.max() < 0.99


def test_volumes_make_a_population_of_discrete_states():
    volumes = [samples.blobs(rng=seed).volume(32, 8.0) for seed in (1, 2)]
    population = simulate.populate(
        volumes, [Species("a", 3.0, state={"volume": 0}), Species("b", 1.0, state={"volume": 1})], 200, rng=0
    )
    particles, truth = take(population, small_imaging(defocus=None))
    assert (truth.label == 0).mean() == pytest.approx(0.75, abs=0.1)
    for label in (0, 1):
        rows = np.flatnonzero(truth.label == label)[:5]
        assert np.allclose(particles.images[rows], projection.project(volumes[label], truth.poses[rows]), atol=1e-6)
    assert simulate.populate(volumes, None, 10, rng=0).species[1].name == "volume 1"
    with pytest.raises(ValueError, match="32 px of 8 Å, the images should have 64 px.*resample"):
        take(population, Imaging(64, 4.0))
    with pytest.raises(ValueError, match="share one grid"):
        simulate.populate([volumes[0], Volume(np.zeros((16, 16, 16)), 8.0)], None, 5, rng=0)


# --- the same numbers, wherever and however -------------------------------------------------------------------------


def test_same_seed_same_particles_whatever_the_chunks_threads_or_target(blobs, monkeypatch, tmp_path):
    kinds = [Species("blob", 0.9), Species("junk", 0.1, junk=True)]
    population = simulate.populate(blobs, kinds, 70, rng=3)
    imaging = small_imaging(snr=0.3, noise=np.array([2.0, 1.0]))
    once, truth = take(population, imaging)
    monkeypatch.setattr(photographs, "CHUNK", 16)
    again, _ = take(population, imaging, workers=2)
    assert np.allclose(again.images, once.images, atol=1e-5)
    filed, filed_truth = take(population, imaging, path=tmp_path / "stack.mrcs")
    assert np.array_equal(np.asarray(filed.images), again.images)
    assert isinstance(filed.images, io.ImageStack) and filed_truth.scale == pytest.approx(truth.scale)
    other, _ = take(population, imaging, rng=6)
    assert not np.allclose(other.images, once.images)
    assert np.array_equal(simulate.populate(blobs, kinds, 70, rng=3).label, population.label)


def test_particles_and_truth_go_through_relion_files(blobs, tmp_path):
    population = simulate.populate(
        blobs, simulate.double_well("ratchet (°)"), 12, dynamics=Langevin(trajectories=2), rng=3
    )
    population = simulate.Population(
        model=samples.rotor(), species=(Species("rotor", landscape=simulate.circular()),), label=population.label,
        state=population.state + 180, gauge=("angle (°)",), trajectory=population.trajectory, time=population.time,
    )  # fmt: skip
    particles, truth = take(population, small_imaging(snr=0.5))
    io.write_particles(truth.with_poses(particles), tmp_path / "particles.star")
    back = io.read_particles(tmp_path / "particles.star")
    assert np.allclose(np.asarray(back.images), particles.images)
    assert np.allclose(back.ctf.defocus_u, truth.ctf.defocus_u, atol=1e-3)
    assert np.allclose(back.poses.rotation.as_matrix(), truth.poses.rotation.as_matrix(), atol=1e-6)
    assert back.metadata["rlnMicrographName"][0].startswith("micrographs/")
    io.write_star({"truth": truth.table()}, tmp_path / "truth.star")
    table = io.read_star(tmp_path / "truth.star")["truth"]
    assert np.allclose(table["cryonbAngle"].astype(float), truth.state[:, 0])
    assert set(table["cryonbSpecies"]) == {"rotor"}
    assert table["cryonbTrajectory"].astype(int).tolist() == [0] * 6 + [1] * 6


def test_a_coordinate_of_two_words_goes_through_a_star_file(blobs, tmp_path):
    _, truth = take(simulate.populate(blobs, None, 4, rng=0), small_imaging())
    population = replace(truth.population, state=np.arange(4.0)[:, None], gauge=("head swivel (°)",))
    io.write_star({"truth": replace(truth, population=population).table()}, tmp_path / "truth.star")
    assert io.read_star(tmp_path / "truth.star")["truth"]["cryonbHeadSwivel"].astype(float).tolist() == [0, 1, 2, 3]


def test_disturbed_poses_are_off_by_what_was_asked(blobs):
    _, truth = take(simulate.populate(blobs, None, 500, rng=1), small_imaging())
    off = simulate.disturb_poses(truth.poses, angle=3.0, shift=2.0, rng=0)
    angle = np.degrees((truth.poses.rotation.inv() * off.rotation).magnitude())
    assert np.sqrt((angle**2).mean()) == pytest.approx(3.0 * np.sqrt(3), rel=0.06)
    assert (off.shift - truth.poses.shift).std() == pytest.approx(2.0, rel=0.06)


# --- one picture, step by step ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean(blobs):
    return projection.project(blobs.volume(32, 5.0), Poses(random_rotations(1, rng=0)))[0]


def test_a_single_image_has_the_signal_to_noise_ratio_asked_for(clean):
    circle = fourier.radius_px(32) <= 12
    made = [simulate.form_image(clean, CTF(1e4, 1e4), 5.0, snr=0.2, radius_px=12, rng=seed) for seed in range(40)]
    # a variance from m pixels is known to a fraction √(2/m)
    tolerance = 4 * np.sqrt(2 / (40 * circle.sum()))
    noise = np.mean([(image.noisy - image.seen)[circle].var() for image in made])
    assert made[0].seen[circle].var() / noise == pytest.approx(0.2, rel=tolerance)
    for image in made[:3]:
        assert image.snr == pytest.approx(image.seen[circle].var() / (image.noisy - image.seen)[circle].var())


def test_a_single_image_goes_through_the_lens_and_has_a_seed(clean):
    lens = CTF(1.2e4, 1e4, 30)
    made, again = (simulate.form_image(clean, lens, 5.0, snr=0.5, radius_px=12, rng=7) for _ in range(2))
    np.testing.assert_array_equal(made.noisy, again.noisy)
    np.testing.assert_array_equal(made.projection, clean)
    np.testing.assert_array_equal(made.seen, ctf.apply(clean, lens, 5.0))
    silent = simulate.form_image(clean, lens, 5.0, snr=np.inf, radius_px=12, rng=7)
    np.testing.assert_array_equal(silent.noisy, silent.seen)
    assert silent.snr == np.inf


def test_a_single_image_without_signal_is_refused(clean):
    with pytest.raises(ValueError, match="snr must be positive"):
        simulate.form_image(clean, CTF(1e4, 1e4), 5.0, snr=0, radius_px=12, rng=0)
    with pytest.raises(ValueError, match="no signal"):
        simulate.form_image(np.zeros((32, 32)), CTF(1e4, 1e4), 5.0, snr=1, radius_px=12, rng=0)


def test_what_cannot_be_simulated_is_said(blobs):
    for wrong, message in (
        ({"snr": 0.0}, "snr must be positive"),
        ({"noise": "pink"}, "noise is 'white'"),
        ({"noise": np.array([1.0, -1.0])}, "relative variances"),
        ({"diameter": 1e3}, "does not fit a box of 256 Å"),
    ):
        with pytest.raises(ValueError, match=message):
            small_imaging(**wrong)
    with pytest.raises(ValueError, match="both fixed and drawn"):
        Species("x", landscape=simulate.double_well(), state={"ratchet": 2})
    with pytest.raises(ValueError, match="every particle is junk"):
        take(simulate.populate(blobs, Species("junk", junk=True), 5, rng=0), small_imaging())
    with pytest.raises(TypeError, match="unknown coordinate 'ratchet'"):
        take(simulate.populate(blobs, simulate.double_well(), 5, rng=0), small_imaging())
    gap = EnergyLandscape(np.array([0.0, np.nan, 1.0]), [np.arange(4.0)])
    with pytest.raises(ValueError, match="without unobserved bins"):
        simulate.langevin(gap, 5, Langevin(), rng=0)
