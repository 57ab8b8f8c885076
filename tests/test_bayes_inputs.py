"""Input that cannot be used is named before any long work, by every question to the engine and by the command line."""

import dataclasses
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from cryonb import bayes, io, samples, simulate
from cryonb.__main__ import main
from cryonb.bayes import baseline, inputs

SIZE, PIXEL, DIAMETER, N = 32, 8.0, 190.0, 12
QUIET = {"rng": 0, "progress": False, "workers": 1, "mask_diameter": DIAMETER}


@pytest.fixture(scope="module")
def body():
    return samples.blobs(30, radius=80.0, sigma=9.0, rng=5)


@pytest.fixture(scope="module")
def particles(body):
    imaging = simulate.Imaging(SIZE, PIXEL, snr=1.0, diameter=DIAMETER, shift_sigma=5.0)
    return simulate.particles(simulate.populate(body, None, N, rng=7), imaging, rng=8, progress=False)[0]


QUESTIONS = {
    "classify_2d": lambda particles, volume, **more: bayes.classify_2d(particles, **({"n_classes": 2} | QUIET | more)),
    "classify_3d": lambda particles, volume, **more: bayes.classify_3d(
        particles, volume, **({"n_classes": 2} | QUIET | more)
    ),
    "choose_classes": lambda particles, volume, **more: bayes.choose_classes(
        particles, volume, **({"most": 2} | QUIET | more)
    ),
    "refine": lambda particles, volume, **more: bayes.refine(particles, volume, **(QUIET | more)),
    "initial_model": lambda particles, volume, **more: bayes.initial_model(
        particles, **(QUIET | {"batch_size": 10} | more)
    ),
    "baseline": lambda particles, volume, **more: baseline.refine(particles, volume, **(QUIET | more)),
}
WITH_REFERENCE = ["classify_3d", "choose_classes", "refine", "baseline"]


@pytest.fixture(autouse=True)
def no_work(monkeypatch, request):
    """Nothing is scored: an error that comes later than the checks is not the one that is expected."""
    if "error" in request.node.name:

        def worked(*args, **kwargs):
            raise AssertionError("work began before the input was checked")

        for room in ("refine", "classes", "choice", "initial_model"):
            monkeypatch.setattr(sys.modules[f"cryonb.bayes.{room}"], "expectation", worked)
        monkeypatch.setattr(sys.modules["cryonb.bayes.classify_images"], "average_expectation", worked)
        monkeypatch.setattr(baseline, "match", worked)


def with_pixel(images, place, value):
    images = np.array(images)
    images[place] = value
    return images


def mixed(particles):
    """Two optics groups, one binned."""
    metadata = particles.metadata.copy()
    metadata["rlnOpticsGroup"] = np.where(np.arange(N) < 4, "1", "2")
    optics = pd.DataFrame({"rlnOpticsGroup": ["1", "2"], "rlnImagePixelSize": ["8.0", "4.0"]})
    return dataclasses.replace(particles, metadata=metadata, optics=optics)


CHANGES = {
    "no CTF": (lambda p: dataclasses.replace(p, ctf=None), "no CTF: expected rlnDefocusU"),
    "mixed": (mixed, "mixed pixel sizes: rlnImagePixelSize goes from 4 to 8 Å"),
    "NaN": (
        lambda p: dataclasses.replace(p, images=with_pixel(p.images, (7, 3, 3), np.nan)),
        "particle 7 .* has NaN or infinity",
    ),
    "constant": (
        lambda p: dataclasses.replace(p, images=with_pixel(p.images, 5, 2.0)), "image of particle 5 .* is constant",
    ),
    "equal": (
        lambda p: dataclasses.replace(p, images=np.stack([p.images[0]] * N)), "all 12 particle images are the same",
    ),
    "none": (lambda p: p[:0], "there are no particles"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_error_of_particles(question, change, particles, body):
    wrong, message = CHANGES[change]
    with pytest.raises(ValueError, match=message):
        QUESTIONS[question](wrong(particles), body.volume(SIZE, PIXEL))


def changed(volume, value):
    return volume.with_data(np.full_like(volume.data, value))


@pytest.mark.parametrize("value", [1.0, np.nan])
@pytest.mark.parametrize("question", WITH_REFERENCE)
def test_error_of_a_reference_that_shows_nothing(question, value, particles, body):
    with pytest.raises(ValueError, match="reference 1 must be finite and not constant"):
        QUESTIONS[question](particles, changed(body.volume(SIZE, PIXEL), value))


@pytest.mark.parametrize("question", WITH_REFERENCE)
def test_error_of_a_particle_larger_than_the_mask(question, particles, body):
    with pytest.raises(ValueError, match="reference 1 is larger than the sphere of 110 Å.* its body is 1.. Å wide"):
        QUESTIONS[question](particles, body.volume(SIZE, PIXEL), mask_diameter=110.0)


@pytest.mark.parametrize("question", ["classify_3d", "refine"])
@pytest.mark.parametrize("name", ["C", "X7", "C0", "tetrahedral", ""])
def test_error_of_a_misspelt_symmetry(question, name, particles, body):
    with pytest.raises(ValueError, match="symmetry must be C<n>, D<n>, T, O, I"):
        QUESTIONS[question](particles, body.volume(SIZE, PIXEL), symmetry=name)


@pytest.mark.parametrize("question", ["classify_2d", "classify_3d", "initial_model"])
def test_error_of_more_classes_than_particles(question, particles, body):
    with pytest.raises(ValueError, match="13"):
        QUESTIONS[question](particles, body.volume(SIZE, PIXEL), n_classes=13)


@pytest.mark.parametrize("question", ["refine", "baseline"])
@pytest.mark.parametrize(("size", "pixel"), [(24, PIXEL * SIZE / 24), (40, PIXEL), (28, PIXEL), (50, 5.3), (41, 7.1)])
def test_a_reference_on_another_grid_is_resampled_and_said(question, size, pixel, particles, body, monkeypatch):
    """What the engine starts from is the reference on the particles' own grid."""
    seen = []

    def start(self, reference, *_):
        seen.append(reference)
        raise InterruptedError

    module = sys.modules[f"cryonb.bayes.{question}"]
    monkeypatch.setattr(module._Job, "start", start)
    with pytest.warns(UserWarning, match=rf"reference 1 resampled from {size} px at {pixel:g} Å to .* 32 px at 8 Å"):
        with pytest.raises(InterruptedError):
            QUESTIONS[question](particles, body.volume(size, pixel))
    expected = body.volume(SIZE, PIXEL)
    assert seen[0].size_px == SIZE and seen[0].voxel_size == PIXEL
    assert np.corrcoef(seen[0].data.ravel(), expected.data.ravel())[0, 1] > (0.998 if size == 24 else 0.9999)


def test_noise_around_a_reference_is_not_a_larger_particle(body):
    volume = body.volume(SIZE, PIXEL)
    noise = np.random.default_rng(0).normal(0, 2 * volume.data.std(), volume.data.shape)
    inputs.check_extent(volume.with_data(volume.data + noise), DIAMETER, "reference 1")
    shifted = volume.with_data(np.roll(volume.data, 8, axis=2))  # by 64 Å
    with pytest.raises(ValueError, match="expected it centred"):
        inputs.check_extent(shifted, DIAMETER, "reference 1")


COMMANDS = ["refine", "classify2d", "classify3d", "initial-model"]
WRONG = [(command, wrong) for command in COMMANDS for wrong in ("ctf", "nan", "mask")]
WRONG += [(command, "symmetry") for command in ("refine", "classify3d")]
WRONG += [(command, "classes") for command in COMMANDS[1:]]


@pytest.mark.parametrize(("command", "wrong"), WRONG)
def test_error_on_the_command_line(command, wrong, particles, body, tmp_path, capsys):
    """One line on stderr, exit status 1."""
    sample = dataclasses.replace(particles, ctf=None if wrong == "ctf" else particles.ctf)
    if wrong == "ctf":
        metadata = sample.metadata.drop(columns=[name for name in sample.metadata if "Defocus" in name])
        sample = dataclasses.replace(sample, metadata=metadata)
    io.write_particles(sample, tmp_path / "particles.star")
    if wrong == "nan":
        np.memmap(tmp_path / "particles.mrcs", np.float32, "r+", offset=1024)[7 * SIZE**2] = np.nan
    io.write_volume(body.volume(SIZE, PIXEL), tmp_path / "reference.mrc")
    arguments = [command, "--i", str(tmp_path / "particles.star"), "--o", str(tmp_path / "out"), "--quiet"]
    arguments += ["--mask-diameter", "900" if wrong == "mask" else str(DIAMETER), "--workers", "1"]
    if command in ("refine", "classify3d"):
        arguments += ["--ref", str(tmp_path / "reference.mrc"), "--sym", "C0" if wrong == "symmetry" else "C1"]
    if command != "refine":
        arguments += ["--K", "500" if wrong == "classes" else "2"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    expected = {"ctf": "CTF", "nan": "NaN", "mask": "mask_diameter", "symmetry": "symmetry must be", "classes": "500"}
    assert said.count("\n") == 1 and said.startswith("cryonb: ") and expected[wrong] in said


def test_an_inverted_reference_is_said():
    from cryonb import samples
    from cryonb.bayes.inputs import fit_references
    from cryonb.types import Particles

    volume = samples.ribosome().volume(32, 12.6)
    particles = Particles(np.zeros((2, 32, 32), np.float32), 12.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_references(particles, [volume])
    with pytest.warns(UserWarning, match="reference 2 looks inverted"):
        fit_references(particles, [volume, volume.with_data(-volume.data)])


NUMBERS = [("classify_3d", "tau_fudge"), ("classify_3d", "initial_resolution"), ("classify_3d", "highest_resolution"),
           ("refine", "initial_resolution"), ("refine", "highest_resolution"),
           ("choose_classes", "highest_resolution")]  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -3.0, np.nan])
@pytest.mark.parametrize("question, name", NUMBERS)
def test_error_of_a_number_that_must_be_positive(question, name, value, particles, body):
    posed = dataclasses.replace(particles, poses=None)
    with pytest.raises(ValueError, match=f"{name} must be positive, got"):
        QUESTIONS[question](posed, body.volume(SIZE, PIXEL), **{name: value})


def test_error_of_no_iterations(particles, body):
    with pytest.raises(ValueError, match="n_iterations must be at least 1, got 0"):
        bayes.classify_3d(particles, body.volume(SIZE, PIXEL), n_classes=2, n_iterations=0, **QUIET)
