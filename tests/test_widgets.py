"""Widgets without a browser: set a control, compare ``result`` with the function behind it."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

if importlib.util.find_spec("nglview") is None or importlib.util.find_spec("ipympl") is None:
    # not importorskip, which would import nglview before the shim that these tests are about
    pytest.skip("nglview and ipympl are not installed: pip install '.[lab]'", allow_module_level=True)

from cryonb import (  # noqa: E402
    CTF,
    EnergyLandscape,
    Micrograph,
    Poses,
    Volume,
    defocus,
    manifold,
    projection,
    reconstruction,
    rotations,
    simulate,
    widgets,
)
from cryonb.widgets import ngl  # noqa: E402

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def volume():
    atoms = np.random.default_rng(0).normal(size=(60, 3)) * [30, 20, 10]
    return projection.atoms_to_volume((atoms, np.ones(60)), 6.0, 32, 5.0)


def test_the_shim_speaks_the_installed_front_end():
    """The whole reason for widgets/ngl.py: Python and browser must name the same version, or nothing is drawn."""
    installed = ngl.front_end_version()
    assert installed is not None
    assert ngl.nglview().NGLWidget()._view_module_version == installed


def test_the_shim_complains_when_it_comes_too_late():
    code = "import nglview, nglview._frontend as f; f.__frontend_version__ = '0.0'; import cryonb.widgets"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode != 0
    assert "restart the kernel and import cryonb.widgets first" in ended.stderr


def test_an_encoded_map_is_an_mrc_that_others_read(volume, tmp_path):
    mrcfile = pytest.importorskip("mrcfile")
    content, level = ngl.encode_map(volume)
    (tmp_path / "map.mrc").write_bytes(content)
    with mrcfile.open(tmp_path / "map.mrc") as mrc:
        assert mrc.voxel_size.x == pytest.approx(5.0)
        assert np.abs(mrc.data * level - volume.data).max() <= 0.51 * level  # rounded to one grey level
        assert int(mrc.header.nxstart) == -16


def test_an_empty_map_can_be_encoded():
    content, level = ngl.encode_map(Volume(np.zeros((4, 4, 4)), 1.0))
    assert len(content) == 1024 + 64 and level > 0


def test_a_scene_is_a_plain_dict(volume):
    scene = widgets.density_scene([volume, volume], level=0.01, color=["#112233", "#445566"], shown=1)
    assert [part["visible"] for part in scene["components"]] == [False, True]
    assert [part["color"] for part in scene["components"]] == ["#112233", "#445566"]
    _, step = ngl.encode_map(volume)
    assert scene["components"][0]["isolevel"] * step == pytest.approx(0.01)
    with pytest.raises(ValueError, match="one colour or 2"):
        widgets.density_scene([volume, volume], level=0.01, color=["#112233"] * 3)


def test_a_movie_shows_one_frame_at_a_time(volume):
    frames = [volume, Volume(volume.data * 2, 5.0), Volume(volume.data * 3, 5.0)]
    movie = widgets.DensityMovie(frames, level=0.01, captions=["a", "b", "c"])
    assert movie.result is frames[0] and movie.caption.value == "a"
    movie.frame.value = 2
    assert movie.result is frames[2] and movie.caption.value == "c"
    sent = [call._ngl_msg for call in movie.ngl_view._callbacks_before_loaded]
    last = [message["args"] for message in sent if message["methodName"] == "setVisibility"][-3:]
    assert last == [[False], [False], [True]]
    assert sum(message["methodName"] == "loadFile" for message in sent) == 3
    with pytest.raises(ValueError, match="3 captions"):
        widgets.DensityMovie(frames, level=0.01, captions=["a"])


def test_turning_pages_does_not_send_the_maps_again(volume):
    """nglview sends its whole archive whenever it grows; frames are shown by calls that stay out of it."""
    movie = widgets.DensityMovie([volume, volume], level=0.01)
    archived = len(movie.ngl_view._ngl_msg_archive)
    movie.frame.value = 1
    assert len(movie.ngl_view._ngl_msg_archive) == archived


def test_a_view_has_its_size_before_it_is_on_the_page(volume):
    view = widgets.view(widgets.density_scene([volume], level=0.01, size_px=(300, 200)))
    assert (view._view_width, view._view_height) == ("300px", "200px")


def test_the_ctf_panel_gives_the_ctf_of_its_sliders():
    panel = widgets.ContrastTransfer(pixel_size=2.0)
    first = panel.view.value
    panel.defocus.value, panel.astigmatism.value, panel.angle.value = 2.0, 0.4, 45
    wanted = CTF(22000, 18000, 45, amplitude_contrast=0.1)
    assert (panel.result.defocus_u, panel.result.defocus_v) == pytest.approx((wanted.defocus_u, wanted.defocus_v))
    assert panel.result.defocus_angle == 45
    assert bytes(panel.view.value[:4]) == PNG and panel.view.value != first


def test_image_formation_gives_what_its_function_gives(volume):
    panel = widgets.ImageFormation(volume, radius=60, rng=3)
    panel.rot.value, panel.tilt.value, panel.defocus.value, panel.snr.value = 50, 40, 2.0, 0.5
    clean = projection.project(volume, Poses(rotations.from_relion_angles([[50, 40, 0]])))[0]
    wanted = simulate.form_image(clean, CTF(20000, 20000), 5.0, snr=0.5, radius_px=12, rng=3)
    assert np.array_equal(panel.result.noisy, wanted.noisy)
    assert bytes(panel.view.value[:4]) == PNG


def test_no_control_is_without_a_label(volume, explorer, smoothness, movie):
    import ipywidgets

    panels = [
        widgets.ContrastTransfer(pixel_size=2.0),
        widgets.ImageFormation(volume, radius=60, rng=0),
        widgets.DensityMovie([volume], level=0.01),
        widgets.BackProjection(np.eye(16), pixel_size=4.0),
        widgets.ThonRings(
            defocus.estimate_spectrum(Micrograph(np.random.default_rng(0).standard_normal((256, 256)), 4.0)),
            CTF(0.0, 0.0),
        ),
        explorer,
        smoothness,
        movie,
    ]
    for panel in panels:
        controls = [value for value in vars(panel).values() if isinstance(value, ipywidgets.ValueWidget)]
        sliders = [control for control in controls if "Slider" in type(control).__name__]
        assert sliders and all(control.description for control in sliders)


@pytest.fixture
def explorer(volume):
    edges = np.linspace(-10, 10, 21)
    x = (edges[1:] + edges[:-1]) / 2
    landscape = EnergyLandscape((x / 4) ** 2, [edges], gauge="ratchet (°)")
    frames = [Volume(volume.data * (k + 1), 5.0) for k in range(5)]
    averages = np.arange(5)[:, None, None] * np.ones((5, 32, 32))
    return widgets.LandscapeExplorer(landscape, frames, [-8, -4, 0, 4, 8], averages=averages, truth=landscape)


def test_the_explorer_starts_in_the_deepest_well_and_follows_its_slider(explorer):
    assert explorer.result == (0.0, explorer.volumes[2])
    picture = bytes(explorer.average.value)
    explorer.position.value = 4
    assert explorer.result == (8.0, explorer.volumes[4])
    assert "<b>8.0</b>" in explorer.caption.value and "4.0 kT" in explorer.caption.value
    assert bytes(explorer.average.value) != picture
    assert explorer._marker.get_xdata() == [8.0]


def test_a_click_on_the_landscape_moves_the_slider(explorer):
    click(explorer.canvas, -3.2, 1.0)
    assert explorer.position.value == 1 and explorer.result[0] == -4.0


@pytest.fixture
def movie(volume):
    """Of a landscape of three bins, the middle one the deepest, by occupancy: 2, 6 and 2 frames."""
    edges = np.array([-30.0, -10.0, 10.0, 30.0])
    landscape = EnergyLandscape(np.log([3.0, 1.0, 3.0]), [edges], gauge="angle (°)")
    frames = [Volume(volume.data * (k + 1), 5.0) for k in range(3)]
    found = SimpleNamespace(
        landscape=landscape,
        nodes=landscape.centers[0],
        volumes=frames,
        effective_particles=np.array([20.0, 60.0, 20.0]),
    )
    return widgets.LandscapeMovie(found, sequence=manifold.frame_sequence(landscape, "occupancy", n_frames=10))


def test_a_landscape_movie_plays_states_as_long_as_its_clock_says(movie):
    seen = []
    for frame in range(10):
        movie.play.value = frame  # what the browser does when it plays
        seen.append(movie.result[0])
        assert movie.frame.value == frame
    assert seen == [-20.0] * 2 + [0.0] * 6 + [20.0] * 2
    assert np.array_equal(movie.result[1].data, movie.found.volumes[2].data)
    sent = [call._ngl_msg for call in movie.ngl_view._callbacks_before_loaded]
    assert sum(message["methodName"] == "loadFile" for message in sent) == 3  # each state once
    last = [message["args"] for message in sent if message["methodName"] == "setVisibility"][-3:]
    assert last == [[False], [False], [True]]
    words = movie.caption.value
    assert "angle (°): <b>20.0</b>" in words and "occupancy: frames last" in words and "direction" in words
    before = bytes(movie.strip.value)
    movie.frame.value = 0
    assert movie.play.value == 0 and bytes(movie.strip.value) != before


def test_a_landscape_movie_by_default_goes_by_closeness_and_says_the_brownian_time(movie):
    assert widgets.LandscapeMovie(movie.found).sequence.clock == "closeness"
    walk = manifold.frame_sequence(movie.found.landscape, "Brownian", n_frames=5, interval=0.05, rng=0)
    walking = widgets.LandscapeMovie(movie.found, sequence=walk)
    walking.frame.value = 4
    assert "0.20 L²/D" in walking.caption.value


@pytest.fixture
def smoothness(volume):
    edges = np.linspace(-10, 10, 21)
    x = (edges[1:] + edges[:-1]) / 2
    rng = np.random.default_rng(0)
    seen = rng.choice([-4.0, 4.0], 400, p=[0.7, 0.3]) + 2.5 * rng.standard_normal(400)
    log_likelihood = -0.5 * ((seen[:, None] - x) / 2) ** 2
    scan = manifold.scan_smoothness(log_likelihood, edges, gauge="ratchet (°)")
    marginal = manifold.deconvolve_landscape(log_likelihood, edges, rng=0, gauge="ratchet (°)")
    frames = [Volume(volume.data * (k + 1), 5.0) for k in range(3)]
    averages = np.arange(3)[:, None, None] * np.ones((3, 32, 32))
    return widgets.LandscapeSmoothness(scan, frames, [-4, 0, 4], marginal=marginal, averages=averages)


def test_the_smoothness_panel_starts_at_the_most_probable_and_follows_its_sliders(smoothness):
    scan = smoothness.scan
    assert smoothness.smoothness.value == scan.best
    assert smoothness.result == (scan.landscapes[scan.best], -4.0, smoothness.volumes[0])
    before = [bytes(one.value) for one in (smoothness.curve, smoothness.energy, smoothness.average)]
    smoothness.smoothness.value, smoothness.state.value = 0, 2
    assert smoothness.result == (scan.landscapes[0], 4.0, smoothness.volumes[2])
    after = [bytes(one.value) for one in (smoothness.curve, smoothness.energy, smoothness.average)]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert "<b>4.0</b>" in smoothness.caption.value and f"{100 * scan.weight[0]:.0f} %" in smoothness.caption.value


def test_the_smoothness_panel_wants_a_position_and_an_average_for_each_volume(smoothness, volume):
    with pytest.raises(ValueError, match="a position for each of 1 volumes, got 2"):
        widgets.LandscapeSmoothness(smoothness.scan, [volume], [0, 1])
    with pytest.raises(ValueError, match="an average for each of 1 volumes, got 3"):
        widgets.LandscapeSmoothness(smoothness.scan, [volume], [0], averages=smoothness.averages)


def test_the_explorer_walks_over_two_coordinates(volume):
    edges = [np.linspace(-10, 10, 11), np.linspace(-20, 20, 11)]
    x, y = np.meshgrid(*[(edge[1:] + edge[:-1]) / 2 for edge in edges], indexing="ij")
    energy = ((x - 5) / 4) ** 2 + (y / 8) ** 2
    energy[0, 0] = np.nan
    landscape = EnergyLandscape(energy, edges, gauge=("ratchet (°)", "swivel (°)"))
    points = np.array([[-9.0, -18.0], [-5.0, 0.0], [0.0, 0.0], [5.0, 0.0]])
    frames = [Volume(volume.data * (k + 1), 5.0) for k in range(4)]
    explorer = widgets.LandscapeExplorer(landscape, frames, points)
    assert explorer.position.value == 3
    click(explorer.canvas, -4.0, 3.0)
    assert explorer.position.value == 1 and explorer.result[1] is frames[1]
    assert "swivel (°): <b>0.0</b>" in explorer.caption.value and "kT" in explorer.caption.value
    explorer.position.value = 0
    assert "not observed" in explorer.caption.value
    with pytest.raises(ValueError, match=r"got shape \(4,\) on a landscape over ratchet \(°\) and swivel"):
        widgets.LandscapeExplorer(landscape, frames, points[:, 0])


def test_a_clickable_canvas_leaves_the_readers_backend_alone():
    """Importing ipympl changes the backend of every figure; the pictures of a notebook would become widgets."""
    code = (
        "import matplotlib; matplotlib.use('svg'); from matplotlib.figure import Figure;"
        "from cryonb.widgets.canvas import clickable_canvas; clickable_canvas(Figure(), print);"
        "print(matplotlib.get_backend())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "svg"


def test_the_explorer_wants_a_position_and_an_average_for_each_volume(explorer, volume):
    with pytest.raises(ValueError, match=r"a position for each of 1 volumes, got shape \(2,\)"):
        widgets.LandscapeExplorer(explorer.landscape, [volume], [0, 1])
    with pytest.raises(ValueError, match="an average for each of 1 volumes, got 2"):
        widgets.LandscapeExplorer(explorer.landscape, [volume], [0], averages=np.zeros((2, 8, 8)))


def test_back_projection_gives_what_its_function_gives():
    image = np.pad(np.ones((7, 7)), 12)
    panel = widgets.BackProjection(image, pixel_size=4.0)
    panel.views.value, panel.span.value, panel.ramp.value = 7, 90, False
    angles = np.arange(7) * 90 / 7
    wanted = reconstruction.filtered_back_projection(reconstruction.sinogram(image, angles), angles, ramp=False)
    assert np.array_equal(panel.result, wanted) and np.allclose(panel.angles, angles)


def test_the_responsibilities_panel_shows_the_iteration_and_the_image_of_its_sliders():
    rng = np.random.default_rng(0)
    averages, weights = rng.normal(size=(3, 16, 16)), rng.dirichlet(np.ones(12), size=(3, 7))
    images, truth = rng.normal(size=(7, 16, 16)), rng.uniform(0, 360, 7)
    panel = widgets.Responsibilities(
        averages, weights, np.arange(0, 360, 30), pixel_size=4.0, images=images, truth=truth
    )  # fmt: skip
    first = bytes(panel.view.value)
    panel.iteration.value, panel.image.value = 3, 5
    assert np.array_equal(panel.result[0], averages[2]) and np.array_equal(panel.result[1], weights[2, 4])
    assert first[:4] == PNG and bytes(panel.view.value) != first
    with pytest.raises(ValueError, match="go with 3 averages, got 2"):
        widgets.Responsibilities(averages[:2], weights, np.arange(0, 360, 30), pixel_size=4.0)


def test_ticked_classes_give_their_particles():
    from cryonb.bayes import Classification2D, TopPoses

    probability = np.eye(3)[[0, 1, 2, 1, 0, 1]]
    classes = Classification2D(
        np.random.default_rng(0).normal(size=(3, 16, 16)), 4.0, probability, np.zeros(6), np.zeros((6, 2)), np.ones(6),
        np.zeros(6, int), np.zeros((3, 9)), np.ones((1, 9)), [], TopPoses.empty(6, 1),
    )  # fmt: skip
    panel = widgets.ClassSelection(classes, chosen=[0])
    assert panel.result.tolist() == [0, 4]
    panel.boxes[1].value = True
    assert panel.result.tolist() == [0, 1, 3, 4, 5] and panel.chosen.tolist() == [0, 1]
    panel.boxes[0].value = False
    assert panel.result.tolist() == [1, 3, 5] and "<b>3</b> of 6" in panel.caption.value
    with pytest.raises(ValueError, match="from 0 to 2"):
        widgets.ClassSelection(classes, chosen=[3])


def test_the_iterations_panel_follows_a_run_and_scrubs_through_it(volume):
    from cryonb import bayes
    from cryonb.types import CTF, Particles

    poses = Poses(rotations.random_rotations(40, rng=0))
    images = projection.project(volume, poses)
    images = images / images.std() + np.random.default_rng(0).standard_normal(images.shape)
    particles = Particles(images.astype(np.float32), 5.0, ctf=CTF(np.full(40, 1e4), np.full(40, 1e4)), poses=poses)
    panel = widgets.Iterations(pixel_size=5.0)
    assert panel.result is None and bytes(panel.view.value[:4]) == PNG
    found = bayes.classify_3d(
        particles, volume, n_classes=2, rng=0, n_iterations=3, workers=1, progress=False, monitor=panel.monitor
    )
    assert panel.records == found.iterations and panel.iteration.max == 3
    assert panel.result is found.iterations[-1]
    last = bytes(panel.view.value)
    panel.iteration.value = 1
    assert panel.result is found.iterations[0] and bytes(panel.view.value) != last
    afterwards = widgets.Iterations(found.iterations, pixel_size=5.0, volumes=found.volumes)
    assert afterwards.result is found.iterations[-1]


@pytest.fixture(scope="module")
def protein_in_map():
    """Forty residues of the shipped library, three of them bent away, in their own density."""
    from cryonb import protein
    from cryonb.atomic import fragment_library
    from cryonb.types import AtomicModel

    whole = fragment_library().model("1ubi")
    structure = whole.structure.clone()
    while len(structure[0][0]) > 40:
        del structure[0][0][40]
    model = AtomicModel(structure)
    moved = model.coordinates + 3.0 * np.isin(model.residue_numbers, [10, 11, 12])[:, None]
    grid = simulate.box_around(model, 2.0)
    density = projection.model_density(model, grid, b_factors=model.b_factors + 80)
    return model, protein.with_atoms(model, coordinates=moved), density


def suspected(model, worst):
    from cryonb import protein
    from cryonb.atomic.errors import FEATURES, Evidence, Suspicion

    rows = protein.residues(model)
    wrong = np.where(np.arange(len(rows)) == worst, 0.9, 0.1)
    return Suspicion(rows, wrong, wrong, Evidence(rows, np.zeros((len(rows), len(FEATURES)))))


def click(canvas, x, y):
    from matplotlib.backend_bases import MouseButton, MouseEvent

    canvas.draw()
    place = canvas.figure.axes[0].transData.transform((x, y))
    canvas.callbacks.process(
        "button_press_event", MouseEvent("button_press_event", canvas, *place, MouseButton.LEFT)
    )  # fmt: skip


def said(ngl_view, method):
    """What was last asked of the 3D view by the name of a method."""
    return [call._ngl_msg for call in ngl_view._callbacks_before_loaded if call._ngl_msg["methodName"] == method]


def test_the_residue_explorer_goes_where_it_is_told(protein_in_map):
    model, spoilt, density = protein_in_map
    panel = widgets.ResidueExplorer(suspected(spoilt, 11), density, spoilt, model, planted=np.arange(40) == 11)
    assert panel.result == ("A 12", 0.9) and panel.residue.value == 12
    click(panel.strip, 24.8, 0.5)
    assert panel.result == ("A 26", 0.1) and "A 26" in panel.caption.value
    assert said(panel.ngl_view, "autoView")[-1]["args"] == ["25-27:A", 0]
    assert panel._marker.get_xdata() == [25, 25]
    phi, psi = panel._scores[0].torsions[10, :2]  # of the spoilt model, where no other residue is
    click(panel.torsions, phi, psi)
    assert panel.result[0] == "A 11"
    assert np.allclose(np.array(panel._ring.get_data())[:, 0], [phi, psi])
    click(panel.torsions, 100.0, -100.0)  # nobody is there
    assert panel.result[0] == "A 11"


def test_the_residue_explorer_shows_the_model_and_the_level_that_are_chosen(protein_in_map):
    model, spoilt, density = protein_in_map
    panel = widgets.ResidueExplorer(suspected(spoilt, 11), density, spoilt, model)
    panel.shown.value = "after"
    assert [message["args"] for message in said(panel.ngl_view, "setVisibility")[-3:]] == [[True], [False], [True]]
    panel.level.value = 2.0
    _, step = ngl.encode_map(density)
    asked = said(panel.ngl_view, "setParameters")[-1]
    assert asked["kwargs"]["isolevel"] * step == pytest.approx(2.0 * density.data.std())
    alone = widgets.ResidueExplorer(suspected(spoilt, 11), density, spoilt)
    assert alone.shown.options == ("before",) and alone.result == panel.result
    with pytest.raises(ValueError, match="the after model must have the 40 residues of the strip"):
        short = type(model)(model.structure.clone())
        del short.structure[0][0][0]
        widgets.ResidueExplorer(suspected(spoilt, 11), density, spoilt, short)


def test_models_are_sent_in_the_frame_of_the_map(protein_in_map):
    import gemmi

    model, _, density = protein_in_map
    scene = ngl.model_scene(density, [model], level=0.1, colors=["#112233"])
    block = gemmi.cif.read_string(scene["components"][1]["model"]).sole_block()
    sent = gemmi.make_structure_from_block(block)
    first = sent[0][0][0][0].pos.tolist()
    centre = density.origin + density.size_px // 2 * density.voxel_size
    assert np.allclose(first, model.coordinates[0] - centre, atol=1e-3)
    with pytest.raises(ValueError, match="a colour for each of 1 models, got 2"):
        ngl.model_scene(density, [model], level=0.1, colors=["#112233"] * 2)


def test_the_ensemble_starts_where_the_models_disagree_most(protein_in_map):
    model, spoilt, density = protein_in_map
    spread = np.where(np.arange(40) == 10, 2.5, 0.1)
    panel = widgets.EnsembleExplorer([model, spoilt], 0, spread, density)
    assert panel.result == ("A 11", 2.5)
    panel.only.value = True
    assert [message["args"] for message in said(panel.ngl_view, "setVisibility")[-3:]] == [[True], [True], [False]]
    click(panel.strip, 39.4, 0.2)
    assert panel.result == ("A 40", 0.1)
    with pytest.raises(ValueError, match="a spread for each of 40 residues, got 3"):
        widgets.EnsembleExplorer([model], 0, [1, 2, 3], density)
