"""Plots: what is drawn where, in which unit; and that drawing leaves the reader's session alone."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from cryonb import (  # noqa: E402
    CTF,
    Embedding,
    EnergyLandscape,
    Particles,
    Poses,
    Volume,
    ctf,
    filters,
    plot,
    resolution,
    rotations,
)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def ball():
    """A ball of radius 20 Å at (x, y, z) = (16, 0, 0) Å in a box of 32 voxels of 4 Å."""
    z, y, x = np.indices((32, 32, 32)) - 16
    return Volume(((x - 4) ** 2 + y**2 + z**2 <= 25).astype(float), 4.0)


def test_an_image_is_drawn_in_angstrom_from_the_centre(ball):
    data = ball.data.sum(0)
    ax = plot.image(data, pixel_size=4.0)
    left, right, bottom, top = ax.images[0].get_extent()
    assert (left, right, bottom, top) == (-66, 62, -66, 62)  # pixel 16 of 32 is centred on 0 Å
    assert "(Å)" in ax.get_xlabel() and "(Å)" in ax.get_ylabel()
    assert ax.images[0].origin == "lower"


def test_a_montage_has_one_grey_scale_and_a_bar_of_the_right_length(ball):
    ax = plot.images(ball.data[8:24], pixel_size=4.0, columns=8)
    assert len(ax.images) == 16
    assert len({picture.get_clim() for picture in ax.images}) == 1
    length = float(ax.texts[-1].get_text().removesuffix(" Å"))
    (start, end), _ = ax.lines[-1].get_data()
    assert (end - start) * 4.0 == pytest.approx(length)


def test_central_slices_show_the_three_planes(ball):
    ax = plot.central_slices(ball)
    z_plane, y_plane, x_plane = (picture.get_array() for picture in ax.images)
    assert z_plane[16, 20] == y_plane[16, 20] == 1  # the ball's centre, x = +16 Å
    assert x_plane[16, 16] == 1 and x_plane.sum() < z_plane.sum()  # cut off its centre


def test_projection_montage_draws_only_what_there_is():
    particles = Particles(np.zeros((3, 8, 8), np.float32), 2.0)
    assert len(plot.projection_montage(particles, count=16).images) == 3


def test_a_surface_covers_the_disc_of_a_ball(ball):
    picture = plot.surface(ball, level=0.5).images[0].get_array()
    covered = (picture < 0.999).any(-1).mean()
    # π (20 Å)² of (128 Å)², give or take half a voxel of radius
    assert np.pi * 18**2 / 128**2 < covered < np.pi * 22**2 / 128**2
    columns = np.flatnonzero((picture < 0.999).any(-1).any(0))
    centre = (columns.mean() / (picture.shape[1] - 1) - 0.5) * 128
    assert centre == pytest.approx(16, abs=3)  # x to the right


def test_a_strip_has_a_tile_for_each_volume(ball):
    assert len(plot.surface_strip([ball, ball, ball], titles=["a", "b", "c"]).images) == 3


def test_contrast_transfer_is_the_ctf_itself_labelled_in_angstrom():
    lens = CTF(15000, 15000)
    ax = plot.contrast_transfer(lens, pixel_size=2.0)
    k, value = ax.lines[-1].get_data()
    assert np.allclose(value, ctf.evaluate(lens, k, 0 * k))
    labels = {float(label.get_text()): tick for label, tick in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)}
    assert all(tick == pytest.approx(1 / angstrom) for angstrom, tick in labels.items())
    assert ax.get_xlim() == (0, 0.25)


def test_thon_rings_are_zero_where_the_ctf_is():
    lens = CTF(20000, 18000, 30)
    picture = plot.thon_rings(lens, size_px=64, pixel_size=3.0).images[0].get_array()
    assert np.allclose(picture, ctf.grid(lens, 64, 3.0) ** 2)


def test_fsc_marks_the_crossing():
    class Curve:
        frequency = np.linspace(0, 0.1, 33)
        correlation = 1 - frequency / 0.1

        def at(self, threshold):
            return 0.1**-1 / (1 - threshold)

    ax = plot.fourier_shell_correlation([Curve()], labels=["half maps"])
    x, y = ax.lines[-1].get_data()
    assert x == pytest.approx([0.0857], abs=1e-4) and y == [0.143]
    assert "11.7 Å" in ax.get_legend().get_texts()[0].get_text()


@pytest.fixture
def double_well():
    edges = np.linspace(-10, 10, 21)
    x = (edges[1:] + edges[:-1]) / 2
    energy = 2 * np.cos(x / 2) + 0.02 * x**2
    return EnergyLandscape(energy, [edges], energy - 0.3, energy + 0.3, gauge="ratchet (°)", credibility=0.8)


def test_landscape_shows_band_and_truth(double_well):
    ax = plot.landscape(double_well, truth=double_well.energy_kt + 7)
    assert ax.get_xlabel() == "ratchet (°)" and "(kT)" in ax.get_ylabel()
    estimate, truth = ax.lines
    assert np.allclose(estimate.get_ydata(), truth.get_ydata())  # both above their minimum
    assert "80 % band" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_an_unresolvable_landscape_says_so(double_well):
    from dataclasses import replace

    ax = plot.landscape(replace(double_well, verdict="unresolvable: too few particles"))
    assert "unresolvable" in ax.get_title("left")


def test_two_coordinates_keep_their_axes_and_unobserved_bins_stay_empty(double_well):
    energy = double_well.energy_kt[:, None] + np.linspace(0, 3, 12)
    energy[0, :4] = np.nan
    edges = [double_well.edges[0], np.linspace(0, 6, 13)]
    result = EnergyLandscape(energy, edges, gauge=["ratchet (°)", "swivel (°)"])
    ax = plot.landscape(result, truth=energy, path=np.zeros((2, 2)))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("ratchet (°)", "swivel (°)")
    mesh = ax.collections[0].get_array()
    assert mesh.shape == (12, 20) and np.ma.getmaskarray(mesh).sum() == 4


def test_embedding_and_eigenvalues():
    points = np.random.default_rng(0).normal(size=(50, 2))
    result = Embedding(points, [0.9, 0.4], "diffusion map")
    assert np.allclose(plot.embedding(result, color=points[:, 0]).collections[0].get_offsets(), points)
    assert np.allclose(plot.eigenvalues(result, null=[0.3, 0.3]).lines[0].get_ydata(), [0.9, 0.4])
    with pytest.raises(ValueError, match="needs a colour"):
        plot.embedding(Embedding(points[:, :1], [0.9], "one"))


def test_given_axes_are_used_and_the_readers_settings_survive(ball):
    before = dict(matplotlib.rcParams)
    ax = plt.figure().subplots()
    count = len(plt.get_fignums())
    assert plot.image(ball.data[16], pixel_size=4.0, ax=ax) is ax
    assert len(plt.get_fignums()) == count
    assert dict(matplotlib.rcParams) == before


def test_png_opens_no_window(ball):
    count = len(plt.get_fignums())
    content = plot.png(lambda figure: plot.central_slices(ball, ax=figure.subplots()), width=4, height=2, dpi=50)
    assert Image.open(io.BytesIO(content)).size == (200, 100)
    assert len(plt.get_fignums()) == count


@pytest.fixture
def records():
    from cryonb.bayes import Iteration

    def record(number, share):
        spectrum = np.ones((1, 17))
        return Iteration(
            number, 100, 7.5, number > 2, 10, 60.0 / number, np.ones(17), spectrum, np.vstack([spectrum, spectrum]),
            np.array([share, 1 - share]), 0.5, 3.0, 2.0, 1.0, 0.1, 1.0,
        )  # fmt: skip

    return [record(1, 0.5), record(2, 0.6), record(3, 0.8)]


def test_iterations_show_resolution_and_probability(records):
    ax = plot.iterations(records)
    assert ax.lines[0].get_ydata().tolist() == [60, 30, 20] and "(Å)" in ax.get_ylabel()
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    assert twin.lines[0].get_ydata().tolist() == [0.5] * 3
    assert "local search" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_occupancy_is_stacked_to_one_hundred(records):
    ax = plot.occupancy(records, names=["free", "bound"])
    tops = [collection.get_paths()[0].vertices[:, 1].max() for collection in ax.collections]
    assert tops == pytest.approx([80, 100])


def test_occupancy_of_classes_that_were_merged(records):
    import dataclasses

    more = dataclasses.replace(records[0], occupancy=np.array([0.5, 0.3, 0.2]))
    ax = plot.occupancy([more, *records[1:]])
    tops = [collection.get_paths()[0].vertices[:, 1].max() for collection in ax.collections]
    assert len(tops) == 3 and tops[-1] == pytest.approx(100)


def test_class_averages_come_largest_first():
    from cryonb.bayes import Classification2D, TopPoses

    probability = np.repeat([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]], [3, 5, 2], axis=0)
    n, spectrum = len(probability), np.ones((3, 9))
    result = Classification2D(
        np.random.default_rng(0).random((3, 16, 16)), 4.0, probability, np.zeros(n), np.zeros((n, 2)), np.ones(n),
        np.zeros(n, int), spectrum, spectrum[:1], [], TopPoses.empty(n, 1),
    )  # fmt: skip
    ax = plot.class_averages(result, columns=2)
    titles = [text.get_text() for text in ax.texts if "%" in text.get_text()]
    assert titles == ["3: 50.0 %", "1: 30.0 %", "2: 20.0 %"] and len(ax.images) == 3


def test_confusion_writes_every_count():
    ax = plot.confusion([[1200, 300], [200, 2300]], true_names=["free", "bound"])
    assert [text.get_text().split("\n")[0] for text in ax.texts] == ["1,200", "300", "200", "2,300"]
    assert ax.texts[0].get_text().endswith("80 %")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["free", "bound"]


def test_angular_error_marks_the_median():
    ax = plot.angular_error(np.array([1.0, 2, 3, 4, 100]), label="refined")
    assert "median 3.0°" in ax.get_legend().get_texts()[0].get_text()
    x, y = ax.lines[0].get_data()
    assert x.tolist() == [1, 2, 3, 4, 100] and y.tolist() == [20, 40, 60, 80, 100]


def test_spectra_lie_at_their_resolution(records):
    ax = plot.shell_spectra(records[-1], pixel_size=4.0)
    assert ax.lines[0].get_xdata()[-1] == pytest.approx(1 / 8)  # Nyquist
    assert len(ax.lines) == 3


def test_recovered_and_evidence():
    x = np.linspace(-5, 5, 11)
    ax = plot.recovered(x, x + 1, deviation=np.ones(11), gauge="ratchet (°)")
    assert ax.get_xlim() == ax.get_ylim() and ax.get_ylabel() == "found ratchet (°)"
    ax = plot.evidence(x, np.where(np.abs(x) < 3, 200, 10), gauge="ratchet (°)")
    pale = {bar.get_facecolor() for bar in ax.patches if bar.get_height() < 50}
    full = {bar.get_facecolor() for bar in ax.patches if bar.get_height() >= 50}
    assert len(pale) == len(full) == 1 and pale != full


def test_counting_can_be_drawn_over_without_its_band(double_well):
    ax = plot.landscape(double_well)
    plot.landscape(double_well, ax=ax, band=False, label="counting")
    assert len(ax.collections) == 1 and len(ax.lines) == 2


def test_path_shows_its_barrier_and_the_populations(double_well):
    from cryonb.manifold import minimum_energy_path

    found = minimum_energy_path(double_well)
    ax = plot.path(found)
    assert ax.get_xlabel() == "ratchet (°)"
    assert f"{found.barrier_kt:.1f} kT" in ax.get_legend().get_texts()[0].get_text()
    assert [text.get_text() for text in ax.texts] == [f"{100 * basin.population:.0f} %" for basin in found.basins]
    assert [basin.population for basin in found.basins] == pytest.approx([0.5, 0.5], abs=0.02)  # mirror images


@pytest.fixture
def half_volumes():
    rng = np.random.default_rng(0)
    signal = filters.low_pass(Volume(rng.normal(size=(32, 32, 32)), 2.0), 8.0).data
    return tuple(Volume(signal + 0.2 * rng.normal(size=signal.shape), 2.0) for _ in range(2))


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_mask_correction_shows_four_curves_and_the_resolution_of_one(half_volumes):
    result = resolution.corrected_fsc(*half_volumes, "sphere", rng=0)
    ax = plot.corrected_fsc(result)
    drawn = [line.get_ydata() for line in ax.lines if len(np.atleast_1d(line.get_ydata())) == 17]
    assert np.array_equal(drawn[-1], result.corrected.correlation) and len(drawn) == 4
    assert legend_of(ax)[-1] == f"corrected: {result.resolution:.3g} Å"
    test = resolution.NoiseSubstitution(result.masked, result.randomised, result.corrected, result.randomise_from)
    assert legend_of(plot.noise_substitution(test))[-1] == f"corrected: {result.resolution:.3g} Å"


def test_local_resolution_is_drawn_with_its_median_and_white_outside(half_volumes):
    mask = filters.soft_sphere(32, 10, edge_px=3)
    result = resolution.local_resolution(*half_volumes, mask=mask)
    ax = plot.local_resolution(result)
    assert legend_of(ax) == [f"median {np.nanmedian(result.data):.3g} Å"]
    assert sum(patch.get_height() for patch in ax.patches) == pytest.approx(100)
    slices = plot.local_resolution_slices(result, limits=(6, 12))
    assert len(slices.images) == 3 and slices.images[0].get_clim() == (6, 12)
    assert np.isnan(np.ma.filled(slices.images[0].get_array(), np.nan)[0, 0])


def test_directions_are_drawn_over_rot_and_tilt(half_volumes):
    result = resolution.directional_fsc(*half_volumes, order=1)
    ax = plot.directional_fsc(result)
    assert ax.get_legend().get_title().get_text() == f"cFAR {result.cfar:.2f}"
    assert f"{result.resolution[result.area.argmin()]:.3g} Å" in legend_of(ax)[1]
    assert plot.directional_resolution(result).get_xlabel() == "rot (°)"
    one = Poses(rotations.from_relion_angles([[60.0, 60.0, 0.0]]))
    ax = plot.orientation_distribution(resolution.orientation_distribution(one))
    rows, columns = np.nonzero(ax.images[0].get_array() > 0)
    picture = ax.images[0].get_array().shape
    assert (columns.mean() + 0.5) / picture[1] * 360 - 180 == pytest.approx(60, abs=5)
    assert (rows.mean() + 0.5) / picture[0] * 2 - 1 == pytest.approx(0.5, abs=0.05)  # cos 60°


def test_guinier_and_reslog_draw_their_lines():
    squares = np.linspace(0, 0.1, 30)
    lines = resolution.Guinier(squares, 3 - 20 * squares, 3 - 20 * squares, 3.3)
    ax = plot.guinier(lines, fit=resolution.b_factor(lines))
    assert "B = 80" in legend_of(ax)[-1]
    x, y = ax.lines[-1].get_data()
    assert np.allclose(y, 3 - 20 * x)
    sizes = np.array([100, 1000, 10000])
    ax = plot.reslog(resolution.reslog(sizes, 1 / np.sqrt(2 / 90 * np.log(sizes))))
    assert legend_of(ax)[0] == "B = 90 Å²"
    assert np.allclose(np.array(ax.get_yticks()) ** -0.5, [float(t.get_text()) for t in ax.get_yticklabels()])
