"""The tour: the whole story on a small sample, resumed after a kill, and on files of the user's own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from cryonb import bayes, io, samples
from cryonb.__main__ import main
from cryonb.tour import chapters

N = 400
SMALL = ["--n", str(N), "--size", "32", "--snr", "0.5", "--seed", "1", "--quiet"]
TIMING = {"seconds", "peak_memory_gb"}


def numbers(folder):
    """What a tour found, apart from how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in TIMING}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small tour that ran through."""
    out = tmp_path_factory.mktemp("tour") / "whole"
    assert main(["tour", "--out", str(out), *SMALL]) == 0
    return out


def test_the_whole_story_is_told(finished):
    found = numbers(finished)
    assert found["median_angular_error_degrees"] < 5  # a pixel at the rim of the particle is 4.5°
    assert found["class_accuracy"] > found["class_accuracy_chance"] + 0.1
    assert found["class_accuracy"] <= found["class_accuracy_oracle"] + 0.02
    assert found["coordinate_spearman"] > 0.6
    assert len(found["class_sizes"]) == 2 and sum(found["class_sizes"]) == N


def test_so_few_particles_are_not_called_a_resolved_landscape(finished):
    """The verdict only: how good a landscape is, is measured on 4,000 particles by benchmarks/tour.py."""
    assert numbers(finished)["landscape_verdict"].startswith("unresolvable")


def test_the_report_stands_alone(finished):
    page = (finished / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) >= 6 and all(source.startswith("data:image/") for source in sources)
    assert "kT" in page and "{{" not in page
    assert (finished / "figures" / "movie_3d.gif").stat().st_size > 10_000


def test_what_it_found_can_be_used_elsewhere(finished):
    classified = io.read_particles(finished / "particles" / "classified.star")
    assert len(classified) == len(classified.poses) == N
    assert set(classified.metadata["rlnClassNumber"]) == {"1", "2"}
    assert io.read_volume(finished / "volumes" / "class_1.mrc").size_px == 32


@pytest.mark.slow
def test_a_killed_tour_resumes_to_the_same_numbers(finished, tmp_path):
    """kill -9 once in the refinement and once in a later stage; the same command then ends as if nothing had been."""
    command = [sys.executable, "-m", "cryonb", "tour", "--out", str(tmp_path / "killed"), *SMALL]
    stages = tmp_path / "killed" / "stages"
    quiet = subprocess.DEVNULL
    for mark in ("refine.progress.npz", "classify.progress.npz"):
        running = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        patience = time.monotonic() + 120
        while not (stages / mark).exists() and running.poll() is None and time.monotonic() < patience:
            time.sleep(0.02)
        assert (stages / mark).exists()
        os.killpg(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed" / "summary.json").exists()
    subprocess.run(command, check=True)
    assert numbers(tmp_path / "killed") == numbers(finished)


def test_a_second_run_reads_everything_back(finished):
    before = numbers(finished)
    stages = {path: path.stat().st_mtime_ns for path in (finished / "stages").iterdir()}
    assert main(["tour", "--out", str(finished), *SMALL]) == 0
    assert numbers(finished) == before
    assert {path: path.stat().st_mtime_ns for path in (finished / "stages").iterdir()} == stages


def test_another_tour_in_the_same_folder_is_refused(finished, capsys):
    assert main(["tour", "--out", str(finished), *SMALL, "--seed", "2"]) == 1
    assert "another tour" in capsys.readouterr().err


def test_a_tour_of_own_particles_with_their_angles(finished, tmp_path, monkeypatch):
    """RELION files with angles: no reference needed, no truth; a class that ends empty is told and not drawn."""
    classify = bayes.classify_3d

    def all_in_the_first(*args, **options):
        found = classify(*args, **options | {"n_iterations": 1})
        return replace(found, probability=np.eye(2)[np.zeros(N, dtype=int)])

    monkeypatch.setattr(bayes, "classify_3d", all_in_the_first)
    star, out = finished / "particles" / "classified.star", tmp_path / "own"
    assert main(["tour", "--particles", str(star), "--out", str(out), "--classes", "2", "--quiet"]) == 0
    found = numbers(out)
    assert found["particles"] == N and "class_accuracy" not in found
    page = (out / "report.html").read_text()
    assert "cannot check" in page and "there is no truth" in page
    assert found["class_sizes"] == [N, 0] and found["class_resolution_angstrom"][1] is None
    assert [path.name for path in sorted((out / "volumes").glob("class_*"))] == ["class_1.mrc"]
    assert "Class 2 ended without particles" in page


def test_own_particles_without_angles_need_a_reference(finished, tmp_path, capsys):
    star = finished / "particles" / "particles.star"
    assert main(["tour", "--particles", str(star), "--out", str(tmp_path / "own"), "--quiet"]) == 1
    assert "--reference" in capsys.readouterr().err


def test_a_reference_of_another_box_is_refused(finished, tmp_path, capsys):
    reference = tmp_path / "reference.mrc"
    io.write_volume(samples.ribosome().volume(32, 9.0), reference)
    star = finished / "particles" / "particles.star"
    files = ["--particles", str(star), "--reference", str(reference), "--out", str(tmp_path / "own")]
    assert main(["tour", *files, "--quiet"]) == 1
    assert "288.0 Å wide" in capsys.readouterr().err


def test_info_says_what_a_file_is(finished, capsys):
    files = [finished / "particles" / "particles.star", finished / "volumes" / "class_1.mrc"]
    assert main(["info", *map(str, files)]) == 0
    said = capsys.readouterr().out
    assert str(N) in said and "32" in said
    assert main(["info", str(finished / "summary.json"), str(files[1])]) == 1
    after = capsys.readouterr()
    assert "summary.json" in after.err and "32" in after.out  # goes on after what it does not know


def test_classes_are_named_after_their_species():
    truth = np.repeat([0, 1, 1], [30, 20, 10])
    label = np.repeat([2, 0, 1], [30, 20, 10])
    accuracy, confusion = chapters.compare_classes(label, truth)
    assert accuracy == 1.0
    assert confusion.tolist() == [[0, 0, 30], [20, 10, 0]]


def test_the_truth_on_coarser_bins_keeps_its_mass():
    from cryonb.types import EnergyLandscape

    x = np.linspace(-2, 2, 401)
    centres = (x[1:] + x[:-1]) / 2
    fine = EnergyLandscape(centres**2, [x])
    coarse = EnergyLandscape(np.zeros(6), [np.linspace(-3, 3, 7)])
    on_coarse = chapters.truth_on(coarse, fine)
    assert np.isnan(on_coarse.energy_kt[[0, -1]]).all()
    # ∫ exp(−x²) over [0, 1] and over [1, 2], from the error function
    assert np.isclose(on_coarse.energy_kt[4] - on_coarse.energy_kt[3], -np.log(0.1352572580 / 0.7468241328), atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("relion_refine") is None, reason="RELION is not installed")
def test_relions_own_output_goes_through_the_tour(tmp_path):
    """relion_refine finds the angles of simulated particles; its STAR file, in its own order, is toured as it is."""
    from cryonb import simulate
    from cryonb.tour import sources

    _, kinds = sources.species()
    population = simulate.populate(samples.ribosome(), kinds, 200, rng=0)
    particles, _ = simulate.particles(population, simulate.Imaging(32, 12.6, snr=1.0), rng=1, progress=False)
    io.write_particles(particles, tmp_path / "particles.star")
    io.write_volume(samples.ribosome().volume(32, 12.6), tmp_path / "reference.mrc")
    (tmp_path / "run").mkdir()
    options = "--iter 1 --healpix_order 2 --oversampling 0 --offset_range 2 --offset_step 2 --particle_diameter 320"
    subprocess.run(
        ["relion_refine", "--i", "particles.star", "--ref", "reference.mrc", "--o", "run/run", *options.split(),
         "--K", "1", "--ctf", "--ctf_corrected_ref", "--firstiter_cc", "--ini_high", "50", "--flatten_solvent",
         "--dont_check_norm", "--sym", "C1", "--tau2_fudge", "4", "--random_seed", "1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    star = tmp_path / "run" / "run_it001_data.star"
    out = tmp_path / "tour"
    assert main(["tour", "--particles", str(star), "--out", str(out), "--quiet"]) == 0
    found = numbers(out)
    assert found["particles"] == 200
    assert min(limit for limit in found["class_resolution_angstrom"] if limit is not None) < 60
    written = io.read_particles(out / "particles" / "classified.star")
    assert (written.metadata["rlnGroupNumber"] == io.read_particles(star).metadata["rlnGroupNumber"]).all()
