"""Stages from the command line: files in, RELION-style files out, errors in one line."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cryonb import io, rotations, samples, simulate
from cryonb.__main__ import main
from cryonb.types import Volume

SIZE, PIXEL, DIAMETER = 32, 8.0, 190.0
QUICK = ["--mask-diameter", str(DIAMETER), "--workers", "1", "--quiet"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """120 particles of a phantom as RELION files, their truth, and a reference on another grid."""
    folder = tmp_path_factory.mktemp("files")
    phantom = samples.blobs(30, radius=80.0, sigma=9.0, rng=5)
    imaging = simulate.Imaging(SIZE, PIXEL, snr=1.0, diameter=DIAMETER, shift_sigma=6.0)
    population = simulate.populate(phantom, None, 120, rng=7)
    particles, truth = simulate.particles(population, imaging, rng=8, progress=False)
    io.write_particles(particles, folder / "particles.star")
    io.write_volume(phantom.volume(SIZE, PIXEL), folder / "reference.mrc")
    io.write_volume(phantom.volume(24, PIXEL * SIZE / 24), folder / "coarse.mrc")
    return folder, particles, truth


@pytest.fixture(scope="module")
def refined(files, tmp_path_factory):
    folder, _, _ = files
    out = tmp_path_factory.mktemp("refine") / "run"
    inputs = ["--i", str(folder / "particles.star"), "--ref", str(folder / "coarse.mrc")]
    assert main(["refine", *inputs, "--o", str(out), *QUICK]) == 0
    return out


def test_refine_writes_what_relion_reads(files, refined):
    _, particles, truth = files
    found = io.read_particles(refined / "run_data.star")
    error = rotations.angular_distance(truth.poses.rotation, found.poses.rotation)
    assert np.median(error) < 6
    assert set(found.metadata["rlnRandomSubset"]) == {"1", "2"}
    assert np.allclose(found.ctf.defocus_u, particles.ctf.defocus_u, atol=1e-6)
    assert np.allclose(np.asarray(found.images), particles.images, atol=1e-6)
    model = io.read_star(refined / "run_model.star", numeric=True)
    assert model["model_general"]["rlnPixelSize"].iloc[0] == pytest.approx(PIXEL)
    assert (refined / model["model_classes"]["rlnReferenceImage"].iloc[0]).is_file()
    # the images' noise has variance 1; RELION's σ² is of the real part of a transform divided by the pixels' number
    sigma2 = model["model_group_1"]["rlnSigma2Noise"].to_numpy()[5:]
    assert np.allclose(sigma2 * 2 * SIZE**2, 1.0, rtol=0.2)
    numbers = json.loads((refined / "summary.json").read_text())
    assert numbers["particles"] == 120 and 16 <= numbers["resolution_angstrom"] < 60
    for half in (1, 2):
        first = io.read_star(refined / f"run_it001_half{half}_model.star")
        assert first["model_general"]["rlnCurrentResolution"].iloc[0] != "0"
        assert first["model_general"]["rlnNrClasses"].iloc[0] == "1"
        assert {"rlnGoldStandardFsc", "rlnReferenceTau2"} <= set(first["model_class_1"])
        assert io.read_volume(refined / f"run_it001_half{half}_class001.mrc").size_px == SIZE
    # the scale of a group is found by its number, or its name
    groups = model["model_groups"].set_index("rlnGroupNumber")
    numbers_of = io.read_star(refined / "run_data.star", numeric=True)["particles"]["rlnGroupNumber"]
    assert (numbers_of.value_counts() == groups["rlnGroupNrParticles"]).all() and "rlnGroupName" in groups


def test_the_same_command_resumes(files, refined, capsys):
    folder, _, _ = files
    before = (refined / "run_data.star").read_bytes()
    inputs = ["--i", str(folder / "particles.star"), "--ref", str(folder / "coarse.mrc")]
    assert main(["refine", *inputs, "--o", str(refined), *QUICK]) == 0
    assert (refined / "run_data.star").read_bytes() == before
    assert "resampled from 24 px at 10.6667 Å to the particles' 32 px at 8 Å" in capsys.readouterr().out
    assert main(["refine", *inputs, "--o", str(refined), *QUICK, "--seed", "3"]) == 1
    assert "another job: it has another random seed;" in capsys.readouterr().err


def test_a_command_killed_in_its_third_iteration_goes_on_to_the_same_files(files, refined, tmp_path):
    folder, _, _ = files
    inputs = ["--i", str(folder / "particles.star"), "--ref", str(folder / "coarse.mrc")]
    command = ["refine", *inputs, "--o", str(tmp_path), *QUICK]
    running = subprocess.Popen([sys.executable, "-m", "cryonb", *command], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (tmp_path / "run_it003_half1_model.star").exists():  # written before the checkpoint of that iteration is
        assert running.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and not (tmp_path / "run_data.star").exists()
    assert main(command) == 0
    for name in ("run_data.star", "run_class001.mrc", "run_half1_class001_unfil.mrc"):
        assert (tmp_path / name).read_bytes() == (refined / name).read_bytes(), name


def test_resolution_of_what_refine_wrote(refined, tmp_path, capsys):
    halves = [str(refined / f"run_half{number}_class001_unfil.mrc") for number in (1, 2)]
    assert main(["resolution", *halves, "--out", str(tmp_path / "fsc"), "--local"]) == 0
    assert "resolution angstrom" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "fsc" / "summary.json").read_text())
    fsc = io.read_star(tmp_path / "fsc" / "fsc.star", numeric=True)["fsc"]
    masked, randomised, corrected = (
        fsc[name].to_numpy()
        for name in (
            "rlnFourierShellCorrelationMaskedMaps",
            "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
            "rlnFourierShellCorrelationCorrected",
        )
    )
    fine = fsc["rlnAngstromResolution"].to_numpy() < 0.8 * numbers["phases_random_from_angstrom"]
    masked, randomised = masked[fine], randomised[fine]
    assert fine.sum() > 3 and np.allclose(corrected[fine], (masked - randomised) / (1 - randomised), atol=1e-5)
    assert io.read_volume(tmp_path / "fsc" / "local_resolution.mrc").data.max() > 2 * PIXEL


def test_classes_around_the_refined_poses(files, refined, tmp_path):
    folder, _, _ = files
    out = tmp_path / "classes"
    inputs = ["--i", str(refined / "run_data.star"), "--ref", str(folder / "reference.mrc"), "--iter", "2"]
    assert main(["classify3d", *inputs, "--K", "2", "--o", str(out), *QUICK]) == 0
    found = io.read_particles(out / "run_data.star")
    numbers = json.loads((out / "summary.json").read_text())
    counted = [int((found.metadata["rlnClassNumber"] == str(k)).sum()) for k in (1, 2)]
    assert counted == numbers["class_sizes"] and sum(counted) == 120
    before = io.read_particles(refined / "run_data.star").metadata["rlnRandomSubset"]
    assert (found.metadata["rlnRandomSubset"] == before).all()


def test_classes_and_a_first_volume_from_the_particles_alone(files, tmp_path):
    folder, _, _ = files
    star = str(folder / "particles.star")
    flat, first = tmp_path / "flat", tmp_path / "first"
    assert main(["classify2d", "--i", star, "--K", "4", "--iter", "3", "--o", str(flat), *QUICK]) == 0
    assert io.read_stack(flat / "run_classes.mrcs").shape == (4, SIZE, SIZE)
    found = io.read_particles(flat / "run_data.star")
    assert set(found.metadata["rlnClassNumber"]) <= {"1", "2", "3", "4"} and "rlnAnglePsi" in found.metadata
    assert main(["initial-model", "--i", star, "--batches", "3", "--o", str(first), *QUICK]) == 0
    volume = io.read_volume(first / "run_class001.mrc")
    assert volume.size_px == SIZE and volume.voxel_size == pytest.approx(PIXEL)
    placed = io.read_particles(first / "run_data.star").poses
    assert len(placed) == 120 and np.ptp(placed.rotation.as_matrix()[:, 2, 2]) > 1  # from many directions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["refine", "--i", "{folder}/none.star", "--ref", "{folder}/reference.mrc"], "none.star"),
        (["refine", "--i", "{folder}/particles.star", "--ref", "{folder}/wide.mrc"], "wide.mrc: reference 1 is larger"),
        (
            ["classify3d", "--i", "{folder}/particles.star", "--ref", "{folder}/reference.mrc", "--K", "500"],
            "n_classes",
        ),
    ],
)
def test_input_that_cannot_be_used(files, tmp_path, capsys, arguments, message):
    folder, _, _ = files
    io.write_volume(samples.blobs(30, radius=190.0, sigma=20.0, rng=5).volume(48, 10.0), folder / "wide.mrc")
    arguments = [argument.format(folder=folder) for argument in arguments]
    assert main([*arguments, "--o", str(tmp_path / "out"), *QUICK]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()  # nothing is left of a run that was refused


def test_places_and_seeds_that_cannot_be_used(files, tmp_path, capsys):
    folder, _, _ = files
    inputs = ["--i", str(folder / "particles.star"), "--ref", str(folder / "reference.mrc")]
    (tmp_path / "file").write_text("not a folder")
    assert main(["refine", *inputs, "--o", str(tmp_path / "file" / "run"), *QUICK]) == 1
    assert f"{tmp_path / 'file'} is not a folder that can be written to" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["refine", *inputs, "--o", str(tmp_path / "out"), "--seed", "-1"])
    assert "--seed/--random_seed: expected a whole number from 0 on, got '-1'" in capsys.readouterr().err


def test_classify3d_chooses_k_itself(files, refined, tmp_path, capsys):
    inputs = ["--i", str(refined / "run_data.star"), "--ref", str(files[0] / "reference.mrc")]
    out = tmp_path / "run"
    assert main(["classify3d", *inputs, "--o", str(out), "--K", "auto", "--most-classes", "2", *QUICK]) == 0
    numbers = json.loads((out / "summary.json").read_text())
    assert numbers["classes"] == len(numbers["class_sizes"]) == len(list(out.glob("run_class00?.mrc")))
    assert sum(numbers["class_sizes"]) == 120 and numbers["held_out_particles"] == 30
    assert len(numbers["evidence_by_classes"]) == 2 and numbers["tau2_fudges"] == [0.5, 1, 2, 4, 8]
    model = io.read_star(out / "run_model.star")["model_class_1"]
    assert "rlnSsnrMap" in model and "rlnGoldStandardFsc" not in model  # halves aligned to each other
    seen = sorted(int(path.name[6:9]) for path in out.glob("run_it*_model.star"))
    assert seen == list(range(1, len(seen) + 1))  # each iteration has files of its own
    capsys.readouterr()
    assert main(["classify3d", *inputs, "--o", str(out), "--K", "auto", "--iter", "5", *QUICK]) != 0
    assert "--K auto chooses" in capsys.readouterr().err


@pytest.fixture
def fields(tmp_path):
    """Three micrographs of phantoms that can be picked, and four that cannot."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :240]
    for number in range(3):
        data = rng.normal(size=(200, 240))
        for px, py in ((60, 60), (150, 100), (10, 150)):
            data -= 5 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 50)
        io.write_mrc(data.astype(np.float32), tmp_path / f"good{number}.mrc", pixel_size=5.0)
    io.write_mrc(np.zeros((200, 240), np.float32), tmp_path / "black.mrc", pixel_size=5.0)
    io.write_mrc(np.full((200, 240), 255, np.uint16), tmp_path / "saturated.mrc", pixel_size=5.0)
    io.write_mrc(rng.normal(size=(4, 64, 64)).astype(np.float32), tmp_path / "movie.mrc", pixel_size=5.0)
    (tmp_path / "text.mrc").write_text("not an image")
    return sorted(tmp_path.glob("*.mrc"))


def test_pick_and_extract_list_what_failed_and_go_on(fields, tmp_path, capsys):
    picked, cut = tmp_path / "picked", tmp_path / "cut"
    names = [str(path) for path in fields]
    assert main(["pick", *names, "--out", str(picked), "--diameter", "100", "--method", "blobs", "--quiet"]) == 0
    summary = json.loads((picked / "summary.json").read_text())
    assert (summary["micrographs"], summary["failed"]) == (7, 4)
    assert {name.rsplit("/", 1)[1] for name in summary["reasons"]} == {
        "black.mrc",
        "saturated.mrc",
        "movie.mrc",
        "text.mrc",
    }
    assert "expected one image, got 4" in capsys.readouterr().out
    assert len(list(picked.glob("good*_autopick.star"))) == 3
    for number in range(3):
        table = io.read_coordinates(picked / f"good{number}_autopick.star")
        assert np.hypot(table["x"] - 60, table["y"] - 60).min() < 3
    (picked / "good0_autopick.star").unlink()
    (picked / "good0.box").write_text("40\t40\t40\t40\n-5\t130\t40\t40\n900\t900\t40\t40\n")
    assert main(["extract", *names, "--coordinates", str(picked), "--out", str(cut), "--box", "40", "--quiet"]) == 0
    summary = json.loads((cut / "summary.json").read_text())
    assert summary["failed"] == 4 and summary["over_the_edge"] >= 2
    particles = io.read_particles(cut / "particles.star")
    assert len(particles) == summary["particles"] >= 3 and particles.size_px == 40
    assert np.asarray(particles.images[:])[0, 16:24, 16:24].mean() > 1


def test_pick_refuses_what_cannot_work_before_any_work(fields, tmp_path, capsys):
    out = tmp_path / "none"
    assert main(["pick", str(fields[0]), "--out", str(out), "--diameter", "-3"]) == 1
    assert main(["pick", str(fields[0]), "--out", str(out), "--diameter", "100", "--method", "templates"]) == 1
    assert main(["pick", str(fields[0]), str(fields[0]), "--out", str(out), "--diameter", "100"]) == 1
    assert not out.exists() and capsys.readouterr().err.count("cryonb:") == 3


def test_resolution_refuses_what_are_not_two_halves(refined, tmp_path, capsys):
    folder = refined
    half = io.read_volume(folder / "run_half1_class001_unfil.mrc")
    io.write_volume(half.with_data(0 * half.data + 1), tmp_path / "flat.mrc")
    io.write_volume(Volume(half.data[1:-1, 1:-1, 1:-1], half.voxel_size), tmp_path / "small.mrc")
    one = str(folder / "run_half1_class001_unfil.mrc")
    for other, message in ((one, "hold the same map"), (str(tmp_path / "flat.mrc"), "is constant"),
                           (str(tmp_path / "small.mrc"), "volumes must have the same box")):  # fmt: skip
        assert main(["resolution", one, other, "--out", str(tmp_path / "fsc")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "fsc").exists()


def test_a_command_is_followed_from_its_folder(refined, files, tmp_path):
    from cryonb import bayes, widgets

    read = bayes.read_iterations(refined)
    model = io.read_star(refined / "run_model.star", numeric=True)
    last, volumes = read[-1]
    assert [record.number for record, _ in read] == list(range(1, len(read) + 1)) and len(volumes) == 2
    assert last.resolution == pytest.approx(model["model_general"]["rlnCurrentResolution"].iloc[0])
    # the images' noise has variance 1 per pixel, so that of a transform's coefficient is d²
    assert np.allclose(last.noise[0][5:], last.noise[0][5:].mean(), rtol=0.2) and last.correlation.shape == (17,)
    panel = widgets.Iterations.of_folder(refined)
    assert len(panel.records) == len(read) and panel.pixel_size == PIXEL
    panel.iteration.value = 1
    shown = bytes(panel.view.value)
    for curves in ("SSNR", "noise and prior"):
        panel.curves.value = curves
        assert bytes(panel.view.value) != shown
    panel.update()
    assert len(panel.records) == len(read)  # nothing new
    out = tmp_path / "classes"
    folder = files[0]
    command = ["classify2d", "--i", str(folder / "particles.star"), "--o", str(out), "--K", "3", "--iter", "2", *QUICK]
    assert main(command) == 0
    panel = widgets.Iterations.of_folder(out, every=0.1)
    assert len(panel.records) == 2 and np.stack(panel.volumes[1]).shape == (3, SIZE, SIZE)
    averages = io.read_star(out / "run_model.star")["model_classes"]["rlnReferenceImage"]
    assert averages.iloc[2] == "000003@run_classes.mrcs"
    with pytest.raises(ValueError, match="is not a folder"):
        bayes.read_iterations(tmp_path / "nowhere")
