"""Norm of each image and scale of each group: planted factors come back, and nothing is corrected where nothing is."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from cryonb import bayes, ctf, io, projection, rotations, samples
from cryonb.__main__ import main
from cryonb.bayes.contrast import Contrast, independent_coefficients, scale_groups
from cryonb.bayes.polar import PolarGrid
from cryonb.types import CTF, Particles, Poses

SIZE, PIXEL, DIAMETER, N, PER_MICROGRAPH = 32, 8.0, 190.0, 200, 20


@pytest.fixture(scope="module")
def body():
    return samples.blobs(30, radius=80.0, sigma=9.0, rng=5).volume(SIZE, PIXEL)


@pytest.fixture(scope="module")
def planted(body):
    """Particles whose signal varies by ± 30 % between micrographs, and all of each image by ± 20 %; both factors."""
    rng = np.random.default_rng(3)
    poses = Poses(rotations.random_rotations(N, rng=rng), rng.normal(0, 5, (N, 2)))
    lens = CTF(rng.uniform(1e4, 2.5e4, N), rng.uniform(1e4, 2.5e4, N))
    clean = ctf.apply(projection.project(body, poses), lens, PIXEL)
    clean *= 0.6 / clean.std()
    micrograph = np.arange(N) // PER_MICROGRAPH
    scale = rng.uniform(0.7, 1.3, micrograph.max() + 1)[micrograph]
    norm = rng.uniform(0.8, 1.2, N)
    noise = rng.standard_normal(clean.shape)
    images = norm[:, None, None] * (scale[:, None, None] * clean + noise)
    metadata = pd.DataFrame({"rlnMicrographName": [f"m{number}.mrc" for number in micrograph]})
    particles = Particles(images.astype(np.float32), PIXEL, ctf=lens, metadata=metadata)
    return particles, norm / norm.mean(), scale / scale.mean()


@pytest.fixture(scope="module")
def files(planted, body, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrast")
    io.write_particles(planted[0], folder / "particles.star")
    io.write_volume(body, folder / "reference.mrc")
    arguments = ["--i", str(folder / "particles.star"), "--ref", str(folder / "reference.mrc"), "--o", str(folder)]
    assert main(["refine", *arguments, "--mask-diameter", str(DIAMETER), "--workers", "1", "--quiet"]) == 0
    return folder


def test_planted_factors_come_back_and_are_written(files, planted):
    """A norm is known to 1 / (2 √m) of itself, m being the independent coefficients of an image."""
    _, norm, scale = planted
    particles = io.read_particles(files / "run_data.star")
    found = particles.metadata["rlnNormCorrection"].to_numpy().astype(float)
    sampling = 0.5 / np.sqrt(independent_coefficients(PolarGrid.covering(SIZE, 15, DIAMETER / 2 / PIXEL)))
    assert np.sqrt(np.mean((found / norm - 1) ** 2)) < 1.5 * sampling < 0.06
    groups = io.read_star(files / "run_model.star", numeric=True)["model_groups"]
    assert groups["rlnGroupNrParticles"].tolist() == [PER_MICROGRAPH] * (N // PER_MICROGRAPH)
    by_group = [scale[scale_groups(planted[0]) == number].mean() for number in range(len(groups))]
    assert np.allclose(groups["rlnGroupScaleCorrection"], by_group, rtol=0.1)
    assert np.corrcoef(groups["rlnGroupScaleCorrection"], by_group)[0, 1] > 0.97


def test_norms_are_read_where_the_file_has_them(files, planted):
    written = io.read_particles(files / "run_data.star")
    start = Contrast.of(written)
    assert start.norm.std() > 0.05 and start.norm.mean() == pytest.approx(1)
    assert np.allclose(start.norm, written.metadata["rlnNormCorrection"].to_numpy().astype(float), atol=1e-4)
    assert (Contrast.of(planted[0]).norm == 1).all() and (start.scale == 1).all()
    wrong = dataclasses.replace(written, metadata=written.metadata.assign(rlnNormCorrection="0"))
    with pytest.raises(ValueError, match="rlnNormCorrection must be positive, got 0 in row 1"):
        Contrast.of(wrong)


def test_groups_are_the_named_ones_else_the_optics_groups(planted):
    particles = planted[0]
    assert len(np.unique(scale_groups(particles))) == N // PER_MICROGRAPH
    halves = np.where(np.arange(N) < 50, "1", "2")
    other = particles.metadata.drop(columns="rlnMicrographName").assign(rlnOpticsGroup=halves)
    assert np.bincount(scale_groups(dataclasses.replace(particles, metadata=other))).tolist() == [50, 150]
    named = particles.metadata.assign(rlnGroupName=np.where(np.arange(N) < 30, "a", "b"))
    assert np.bincount(scale_groups(dataclasses.replace(particles, metadata=named))).tolist() == [30, 170]


def test_sampling_alone_corrects_nothing(planted):
    """Misfits and overlaps that vary only as much as they must."""
    particles, rng = planted[0], np.random.default_rng(0)
    grid = PolarGrid.covering(SIZE, 12, 12)
    misfit = 1 + rng.normal(0, 1 / np.sqrt(independent_coefficients(grid)), N)
    explained = np.full(N, 40.0)
    cross = explained + rng.normal(0, np.sqrt(explained))
    group = np.zeros(N, dtype=int)
    quiet = Contrast.of(particles).updated(np.arange(N), group, (misfit, cross, explained), grid)
    assert quiet.norm.std() < 0.02 and quiet.scale.std() < 0.02
    loud = Contrast.of(particles).updated(np.arange(N), group, (misfit, np.where(quiet.group < 5, 1.4, 0.7) * cross,
                                                                explained), grid)  # fmt: skip
    assert loud.scale.std() > 0.25 and loud.scale.mean() == pytest.approx(1)


def test_off_leaves_all_at_one(planted, body):
    found = bayes.refine(
        planted[0][:40], body, rng=0, mask_diameter=DIAMETER, correct_contrast=False, workers=1, progress=False
    )
    assert (found.norm == 1).all() and (found.scale == 1).all()
