"""The view-by-view embedding: identities of its steps, planted data, and bad input."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import spearmanr

from cryonb import ctf, plot, projection, rotations, simulate, widgets
from cryonb.manifold.classic import (
    bin_views,
    classic_landscape,
    dense_diffusion_map,
    double_filtered_distances,
    fit_bandwidth,
    kernel_sum,
    movie_agreement,
    nonlinear_spectrum,
    prepare_view,
    propagate_sense,
)
from cryonb.samples import rotor
from cryonb.types import CTF, Particles, Poses

SIZE, PIXEL = 24, 10.0


def rotor_particles(n, views, *, snr, seed=0):
    """The rotor turning by 50° over a flat landscape, seen from few sides, and its angle."""
    flat = simulate.from_energy(lambda x: 0 * x, {"angle (°)": (-25, 25)})
    population = simulate.populate(rotor(), flat, n, rng=[seed, 0])
    imaging = simulate.Imaging(SIZE, PIXEL, snr=snr, shift_sigma=5.0, views=views)
    particles, truth = simulate.particles(population, imaging, rng=[seed, 1], progress=False)
    return truth.with_poses(particles), population.state[:, 0]


VIEWS = rotations.from_relion_angles([[0.0, 0.0, 0.0], [0.0, 8.0, 70.0], [20.0, 172.0, 0.0], [90.0, 16.0, 30.0]])


@pytest.fixture(scope="module")
def turning():
    return rotor_particles(480, VIEWS, snr=2.0)


@pytest.fixture(scope="module")
def found(turning):
    return classic_landscape(turning[0], rng=0, diameter=200.0, width=8.0, least=60, progress=False)


# --- views --------------------------------------------------------------------------------------------------------


def test_opposite_views_share_a_bin_and_bins_draw_at_random():
    poses = Poses(rotations.from_relion_angles([[0, 3, 0], [180, 177, 0]] * 100), np.zeros((200, 2)))
    bins = bin_views(poses, 40.0, rng=3, least=10, most=50)
    assert len(bins) == 1 and bins.mirrored.sum() == 100
    assert bins.populations.tolist() == [200] and len(bins.members[0]) == 50
    assert bins.members[0].max() > 100  # not the first ones
    assert np.array_equal(bins.members[0], bin_views(poses, 40.0, rng=3, least=10, most=50).members[0])


def test_every_direction_lies_near_the_centre_of_its_bin():
    poses = Poses(rotations.random_rotations(3000, rng=0), np.zeros((3000, 2)))
    bins = bin_views(poses, 15.0, rng=0, least=2)
    directions = rotations.viewing_direction(poses.rotation)
    for center, index in zip(bins.directions, bins.members, strict=True):
        away = np.degrees(np.arccos(np.clip(np.abs(directions[index] @ center), 0, 1)))
        assert away.max() < 20
    assert sum(bins.populations) == 3000


def test_images_of_one_view_agree_whatever_their_in_plane_angle_and_side():
    sample = rotor()
    volume = sample.volume(SIZE, PIXEL, angle=10.0)
    facing = rotations.from_relion_angles([[30.0, 40.0, 0.0]])
    spin = Rotation.from_euler("Z", [[0.0], [75.0], [-140.0], [20.0]], degrees=True)
    opposite = np.array([False, False, True, True])
    rotation = facing * Rotation.from_euler("X", 180.0 * opposite[:, None], degrees=True) * spin
    shift = np.array([[0.0, 0.0], [10.0, -20.0], [-10.0, 0.0], [20.0, 10.0]])
    poses = Poses(rotation, shift)
    lens = CTF(np.full(4, 20000.0), np.full(4, 17000.0), np.array([0.0, 40.0, 80.0, 120.0]))
    images = ctf.apply(projection.project(volume, poses), lens, PIXEL)
    particles = Particles(images, PIXEL, lens, poses)
    transforms, contrast = prepare_view(particles, facing, opposite, radius=110.0)
    apart = double_filtered_distances(transforms, contrast)
    other = np.roll(transforms, 5, axis=2)  # a yardstick: unrelated images
    scale = double_filtered_distances(np.concatenate([transforms[:1], other[:1]]), contrast[[0, 0]])[0, 1]
    assert apart.max() < 0.1 * scale
    wrong, wrong_contrast = prepare_view(particles, facing, ~opposite, radius=110.0)
    assert double_filtered_distances(wrong, wrong_contrast).max() > 3 * apart.max()


# --- distances and bandwidth --------------------------------------------------------------------------------------


def test_distance_of_one_structure_through_two_lenses_is_that_of_the_noise():
    rng = np.random.default_rng(0)
    structure = rng.normal(size=(16, 16)) + 1j * rng.normal(size=(16, 16))
    lens = rng.uniform(-1, 1, (60, 16, 16))
    noise = rng.normal(size=(60, 16, 16)) + 1j * rng.normal(size=(60, 16, 16))
    apart = double_filtered_distances(3 * lens * structure + noise, lens)
    expected = 2 * np.einsum("ik,k->i", (lens**2).reshape(60, -1), np.ones(256)) / 256
    expected = expected[:, None] + expected
    off = ~np.eye(60, dtype=bool)
    assert abs((apart / expected)[off].mean() - 1) < 0.02


def test_distances_equal_the_sum_written_out():
    rng = np.random.default_rng(1)
    f = rng.normal(size=(5, 6, 6)) + 1j * rng.normal(size=(5, 6, 6))
    c = rng.normal(size=(5, 6, 6))
    direct = [[(np.abs(c[i] * f[j] - c[j] * f[i]) ** 2).sum() / 36 for j in range(5)] for i in range(5)]
    assert np.allclose(double_filtered_distances(f, c), direct, atol=1e-4)


def test_histogram_gives_the_sum_of_kernels():
    points = np.random.default_rng(0).normal(size=(200, 3))
    squared = ((points[:, None] - points) ** 2).sum(axis=2)
    log_epsilon = np.linspace(-8, 6, 30)
    direct = [np.log(np.exp(-squared / (2 * np.exp(x))).sum()) for x in log_epsilon]
    assert np.abs(kernel_sum(squared, log_epsilon) - direct).max() < 1e-3


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_bandwidth_fit_gives_the_dimension_of_a_gaussian_cloud(dimension):
    points = np.random.default_rng(2).normal(size=(800, dimension))
    squared = ((points[:, None] - points) ** 2).sum(axis=2)
    fit = fit_bandwidth(squared)
    assert fit.dimension == pytest.approx(dimension, rel=0.25)
    assert fit_bandwidth(100 * squared).sigma == pytest.approx(10 * fit.sigma, rel=0.01)


def test_no_bandwidth_of_equal_or_broken_images():
    with pytest.raises(ValueError, match="all distances are zero"):
        fit_bandwidth(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="finite"):
        fit_bandwidth(np.full((4, 4), np.nan))


# --- diffusion map and NLSA ---------------------------------------------------------------------------------------


def test_diffusion_map_does_not_see_the_density_of_points_on_a_line():
    place = np.sort(np.random.default_rng(0).beta(2, 5, 400))
    _, psi, measure = dense_diffusion_map((place[:, None] - place) ** 2, 0.1, 3)
    assert measure.sum() == pytest.approx(1)
    assert (measure[:, None] * psi**2).sum(axis=0) == pytest.approx(1)
    assert abs(spearmanr(psi[:, 0], place)[0]) > 0.999


def test_nlsa_orders_a_moving_blob_and_removes_its_noise():
    rng = np.random.default_rng(0)
    truth = rng.random(300)
    # a short way: two modes, the mean and one of motion, hold no more
    clean = np.exp(-(((np.arange(30) / 30 - 0.4 - 0.2 * truth[:, None]) / 0.15) ** 2))
    noisy = clean + 0.1 * rng.normal(size=clean.shape)
    squared = ((noisy[:, None] - noisy) ** 2).sum(axis=2)
    order = np.argsort(truth + 0.05 * rng.normal(size=300))
    spectrum = nonlinear_spectrum(squared, noisy, order)
    assert abs(spearmanr(spectrum.tau, truth)[0]) > 0.97
    centred = clean - clean.mean(axis=0)
    moved = spectrum.images - spectrum.images.mean(axis=0)
    assert np.corrcoef(moved.ravel(), centred.ravel())[0, 1] > 0.9
    assert spectrum.tau.min() == 0 and spectrum.tau.max() == 1


# --- sense --------------------------------------------------------------------------------------------------------


def test_planted_flips_are_found():
    rng = np.random.default_rng(0)
    truth = rng.choice([-1, 1], 40)
    truth[0] = 1
    strength = rng.uniform(0.5, 1, (40, 40)) * (rng.random((40, 40)) < 0.2)
    strength = np.triu(strength, 1) + np.triu(strength, 1).T
    wrong = np.triu(rng.random((40, 40)) < 0.1, 1)
    agreement = np.outer(truth, truth) * strength * np.where(wrong | wrong.T, -0.1, 1)
    sense, violated = propagate_sense(agreement)
    assert np.array_equal(sense, truth)
    assert 0 < violated < 0.05


def test_a_view_without_neighbours_has_no_sense():
    agreement = np.zeros((3, 3))
    agreement[0, 1] = agreement[1, 0] = -0.5
    assert propagate_sense(agreement)[0].tolist() == [1, -1, 0]


def test_a_movie_disagrees_with_itself_played_backwards():
    axis = np.arange(24) - 12
    x, y = np.meshgrid(axis, axis)
    movie = np.stack([np.exp(-((x - t) ** 2 + (y - 4) ** 2) / 8) for t in np.linspace(-6, 6, 10)])
    view = rotations.from_relion_angles([[10.0, 30.0, 0.0]])
    opposite = view * Rotation.from_euler("X", 180, degrees=True)
    mirrored = np.roll(movie[:, ::-1], 1, axis=1)
    assert movie_agreement(movie, movie, view, view) > 0.5
    assert movie_agreement(movie, movie[::-1], view, view) < -0.5
    assert movie_agreement(movie, mirrored, view, opposite) > 0.5
    assert movie_agreement(movie, mirrored[::-1], view, opposite) < -0.5


# --- all of it ----------------------------------------------------------------------------------------------------


def test_the_rotors_angle_is_recovered_over_all_views(turning, found):
    used = np.isfinite(found.coordinate)
    assert used.mean() > 0.9
    assert abs(spearmanr(found.coordinate[used], turning[1][used])[0]) > 0.85
    assert found.landscape.counts.sum() == used.sum()
    assert found.movies.shape == (len(found.bins), 50, SIZE, SIZE)


def test_same_seed_same_result(turning, found):
    again = classic_landscape(turning[0], rng=0, diameter=200.0, width=8.0, least=60, progress=False)
    assert np.array_equal(again.coordinate, found.coordinate, equal_nan=True)


def test_particles_of_thin_views_have_no_coordinate(turning):
    *full, last = bin_views(turning[0].poses, 8.0, rng=0, least=60).members
    index = np.concatenate([last[:40], *full])
    result = classic_landscape(turning[0][index], rng=0, diameter=200.0, width=8.0, least=60, progress=False)
    assert len(result.bins) == len(full) > 1
    assert np.isnan(result.coordinate[:40]).all() and np.isfinite(result.coordinate[40:]).mean() > 0.9


@pytest.mark.parametrize("change, message", [
    (lambda p: p[:150], "at least 200 particles are needed, got 150"),
    (lambda p: replace(p, poses=None), "have no poses"),
    (lambda p: replace(p, ctf=None), "have no ctf"),
    (lambda p: replace(p, images=np.where(np.arange(len(p))[:, None, None] == 7, np.nan, p.images)), "image 7 holds"),
    (lambda p: replace(p, images=np.ones_like(p.images)), "image 0 is constant"),
    (lambda p: replace(p, poses=Poses(Rotation.concatenate([VIEWS[0]] * len(p)), p.poses.shift)), "1 views of"),
])  # fmt: skip
def test_bad_input_is_refused(turning, change, message):
    with pytest.raises(ValueError, match=message):
        classic_landscape(change(turning[0]), rng=0, diameter=200.0, width=8.0, least=60, progress=False)


def test_a_diameter_beyond_the_box_is_refused(turning):
    with pytest.raises(ValueError, match="diameter must lie in"):
        classic_landscape(turning[0], rng=0, diameter=500.0)


def test_a_view_is_not_compared_with_itself(found):
    assert len(found.bins) <= 6  # fewer views than each is compared with
    assert np.all(np.diag(found.agreement) == 0)


# --- drawing and the widget ---------------------------------------------------------------------------------------


def test_the_bandwidth_the_view_and_the_senses_are_drawn(found):
    ax = plot.kernel_bandwidth(found.bandwidths[0], sigma=2 * found.bandwidths[0].sigma)
    assert ax.lines[2].get_xdata()[0] == pytest.approx(np.log(found.bandwidths[0].sigma ** 2 / 2))
    assert len(ax.lines) == 4
    graph = plot.sense_graph(found)
    assert sum(len(group.get_offsets()) for group in graph.collections) == len(found.bins)
    points = np.random.default_rng(0).normal(size=(20, 3))
    assert np.allclose(plot.view_coordinates(points, color=points[:, 2]).collections[0].get_offsets(), points[:, :2])


def test_the_widget_gives_what_the_diffusion_map_gives():
    place = np.random.default_rng(0).random(120)
    squared = (place[:, None] - place) ** 2
    panel = widgets.KernelBandwidth(squared, color=place, label="place")
    panel.factor.value = 0.5
    expected = dense_diffusion_map(squared, panel.fit.sigma * 10**0.5, 3)
    assert all(np.array_equal(a, b) for a, b in zip(panel.result, expected, strict=True))
    assert panel.curve.value and panel.cloud.value
