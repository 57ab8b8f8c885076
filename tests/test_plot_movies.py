"""Movies: the frames that a sequence asks for, as long as it asks for them, with their label and evidence."""

import io
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from cryonb import plot, simulate
from cryonb.manifold import frame_sequence, projections_and_averages, volumes_at, weighted_half_maps
from cryonb.plot.movie_files import _ffmpeg, movie_writer
from cryonb.samples import rotor
from cryonb.types import EnergyLandscape, Volume

SIZE, PIXEL = 24, 10.0


@pytest.fixture(scope="module")
def turning():
    """A rotor on three bins of an angle, as `embed` would find it if it knew the truth, and its particles."""
    edges = np.array([-30.0, -10.0, 10.0, 30.0])
    landscape = EnergyLandscape(np.log([1.0, 3.0, 1.5]), [edges], gauge="angle (°)")
    population = simulate.populate(rotor(), landscape, 240, rng=0)
    particles, truth = simulate.particles(population, simulate.Imaging(SIZE, PIXEL, snr=2.0), rng=1, progress=False)
    angle = population.state[:, 0]
    nodes = landscape.centers[0]
    volumes = [Volume(rotor().volume(SIZE, PIXEL, angle=value).data * truth.scale, PIXEL) for value in nodes]
    weights = (np.abs(angle[:, None] - nodes) < 10).astype(float)
    found = SimpleNamespace(
        landscape=landscape, nodes=nodes, volumes=volumes, coordinate=angle, effective_particles=weights.sum(axis=0)
    )
    particles = truth.with_poses(particles)
    evidence = weighted_half_maps(particles, weights, rng=0, positions=nodes, gauge="angle (°)")
    return found, particles, evidence


def lasts(path):
    """Milliseconds of each frame of a GIF."""
    with Image.open(path) as picture:
        result = []
        for frame in range(picture.n_frames):
            picture.seek(frame)
            result.append(picture.info["duration"])
    return result


def test_closeness_runs_there_and_back(turning, tmp_path):
    found, _, evidence = turning
    sequence = frame_sequence(found.landscape, "closeness", n_frames=4)
    path = plot.write_surface_movie(found, tmp_path / "movie.gif", sequence=sequence, evidence=evidence)
    assert lasts(path) == [180] * 6  # 1 2 3 4 3 2
    assert [item.name for item in tmp_path.iterdir()] == ["movie.gif"]


def test_occupancy_lasts(turning, tmp_path):
    found, particles, evidence = turning
    sequence = frame_sequence(found.landscape, "occupancy", n_frames=12)  # 6, 2 and 4 frames: energies 0, ln 3, ln 1.5
    path = plot.write_projection_movie(found, particles, tmp_path / "movie.gif", sequence=sequence, evidence=evidence)
    assert lasts(path) == [6 * 80, 2 * 80, 4 * 80, 2 * 80]


def test_a_brownian_movie_shows_every_tick_of_its_clock(turning, tmp_path):
    found, *_ = turning
    sequence = frame_sequence(found.landscape, "Brownian", n_frames=9, interval=0.05, rng=0)
    path = plot.write_surface_movie(found, tmp_path / "movie.gif", sequence=sequence)
    assert lasts(path) == [80] * 9
    with Image.open(path) as picture:  # the clock stands in the corner: another one in every frame
        corners = []
        for frame in range(9):
            picture.seek(frame)
            corners.append(np.asarray(picture.convert("L"))[4:22, -110:].tobytes())
    assert len(set(corners)) == 9


def test_frames_show_the_volume_beside_the_particles_of_the_same_state(turning):
    found, particles, _ = turning
    predicted, averages = projections_and_averages(found, particles, found.nodes)
    likeness = np.corrcoef(predicted.reshape(3, -1), averages.reshape(3, -1))[:3, 3:]
    assert likeness.diagonal().min() > 0.85


def test_volumes_between_nodes_are_interpolated(turning):
    found, *_ = turning
    middle, last, beyond = volumes_at(found, [-10.0, 20.0, 99.0])
    np.testing.assert_allclose(middle.data, (found.volumes[0].data + found.volumes[1].data) / 2, atol=1e-6)
    np.testing.assert_allclose(last.data, found.volumes[2].data, atol=1e-6)
    np.testing.assert_allclose(beyond.data, found.volumes[2].data, atol=1e-6)


def test_the_strip_says_what_stands_behind_a_frame(turning):
    _, _, evidence = turning
    ax = plot.frame_evidence(evidence, frame=1)
    assert "angle (°) = 0" in ax.get_xlabel() and evidence.sentence(1) in ax.get_xlabel()
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx(np.minimum(evidence.expected, evidence.effective))
    pale = [bar.get_facecolor()[0] > 0.5 for bar in ax.patches]
    assert pale == (~evidence.observed).tolist()
    plt.close("all")


def test_two_coordinates_are_refused(turning, tmp_path):
    found, *_ = turning
    plane = EnergyLandscape(np.zeros((4, 4)), [np.linspace(0, 1, 5)] * 2, gauge=("a", "b"))
    with pytest.raises(ValueError, match="one coordinate, this sequence has 2"):
        plot.write_surface_movie(found, tmp_path / "movie.gif", sequence=frame_sequence(plane, "Brownian", rng=0))


def coloured(shades, size=(64, 49)):
    """PNG frames of one grey each; an odd height, which H.264 cannot have."""
    frames = []
    for shade in shades:
        buffer = io.BytesIO()
        Image.new("L", size, shade).save(buffer, format="PNG")
        frames.append(buffer.getvalue())
    return frames


FAKE = """#!{python}
import sys
if "-encoders" in sys.argv:
    print(" V....D libx264 H.264")
else:
    read = sys.stdin.buffer.read()
    open(sys.argv[-1], "w").write(" ".join(sys.argv[1:]) + " frames: " + str(read.count(b"IEND")))
"""


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """A program of this name that writes down what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_mp4_frames_go_through_a_pipe(fake_ffmpeg, tmp_path):
    asked = plot.write_mp4(tmp_path / "movie.mp4", coloured([0, 90, 180, 255]), milliseconds=80).read_text()
    assert asked.endswith("movie.mp4.part frames: 6")  # 1 2 3 4 3 2
    assert "-framerate 1000/80" in asked and "-c:v libx264" in asked and "yuv420p" in asked
    assert plot.write_mp4(tmp_path / "once.mp4", coloured([0, 90]), back=False).read_text().endswith("frames: 2")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bin", "movie.mp4", "once.mp4"]


def test_a_landscape_goes_to_mp4(turning, fake_ffmpeg, tmp_path):
    sequence = frame_sequence(turning[0].landscape, "closeness", n_frames=4)
    path = plot.write_surface_movie(turning[0], tmp_path / "movie.mp4", sequence=sequence)
    assert path.read_text().endswith("frames: 6") and "-framerate 1000/180" in path.read_text()


def test_without_ffmpeg_one_clear_error_before_the_work(turning, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(RuntimeError, match="needs the program ffmpeg on PATH, or the package imageio-ffmpeg"):
        plot.write_surface_movie(None, tmp_path / "movie.mp4")
    with pytest.raises(ValueError, match="to a .gif or .mp4 file, got movie.avi"):
        plot.write_projection_movie(None, None, "movie.avi")
    for write in (plot.write_gif, plot.write_mp4):
        with pytest.raises(ValueError, match="at least one frame"):
            write(tmp_path / "movie", [])
        with pytest.raises(ValueError, match="must be positive, got 0"):
            write(tmp_path / "movie", coloured([0]), milliseconds=0)
    assert not list(tmp_path.iterdir())


def test_what_ffmpeg_says_is_passed_on(fake_ffmpeg, tmp_path):
    program = tmp_path / "bin" / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stderr.write('no room left')\nsys.exit(3)\n")
    with pytest.raises(RuntimeError, match="movie.mp4 was not written, ffmpeg ended with 3: no room left"):
        plot.write_mp4(tmp_path / "movie.mp4", coloured([0, 90]))
    assert [item.name for item in tmp_path.iterdir()] == ["bin"]


def test_a_real_mp4_plays(tmp_path):
    """Where there is an ffmpeg: written, read back, as many frames as asked, of the greys that were given."""
    try:
        movie_writer("movie.mp4")
    except RuntimeError as reason:
        pytest.skip(str(reason))
    path = plot.write_mp4(tmp_path / "movie.mp4", coloured([20, 120, 220]), milliseconds=100)
    raw = subprocess.run(
        [_ffmpeg(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True
    ).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, 50, 64)
    assert np.abs(frames[:, :40].mean(axis=(1, 2)) - [20, 120, 220, 120]).max() < 6
