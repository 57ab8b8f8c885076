"""Picks moved by what an alignment found: planted offsets in 3D, in 2D classes, on the command line; RELION's signs."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import bayes, io, picking, projection
from cryonb.__main__ import main
from cryonb.types import CTF, Micrograph, Particles, Poses, Volume

PIXEL = 4.0


def blob(centre, size_px=32):
    """A Gaussian at a place x, y, z in Å from the centre of a volume."""
    axis = (np.arange(size_px) - size_px // 2) * PIXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return Volume(np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / 300), PIXEL)


def test_the_centre_of_a_volume_is_where_its_projections_have_theirs():
    """Independent of recentre's algebra: projections are drawn by slices, and their centres of mass are measured."""
    rng = np.random.default_rng(0)
    volume = blob((18.0, -10, 7))
    poses = Poses(Rotation.random(20, rng=rng), rng.uniform(-8, 8, (20, 2)))
    images = projection.project(volume, poses)
    boxes = picking.Picks(rng.uniform(40, 400, (20, 2)), np.ones(20), PIXEL, 60.0)
    moved = picking.recentre(boxes, poses, centre=picking.centre_of_mass(volume))
    seen = boxes.centres_angstrom + picking.centre_of_mass(images, PIXEL)[:, :2]
    np.testing.assert_allclose(moved.centres_angstrom, seen, atol=PIXEL / 4)  # slices leave fringes
    away = picking.recentre(boxes, poses)  # the middle of the volume's box, which is not where the density is
    assert np.hypot(*(away.centres_angstrom - seen).T).min() > 3


def test_centre_of_mass_of_averages_and_volumes_agree_and_refuse():
    stack = np.zeros((2, 3, 9, 9))
    stack[0, :, 6, 1], stack[1, :, 4, 4] = 2, 5
    found = picking.centre_of_mass(stack, 2.0)
    assert found.shape == (2, 3, 3) and found[0, 0].tolist() == [-6, 4, 0] and found[1, 2].tolist() == [0, 0, 0]
    stack[0, 0] = -1
    with pytest.raises(ValueError, match="brighter"):
        picking.centre_of_mass(stack, 2.0)
    with pytest.raises(ValueError, match="pixel_size"):
        picking.centre_of_mass(stack)
    with pytest.raises(ValueError, match="shape"):
        picking.centre_of_mass(np.zeros((4, 5)), 1.0)
    with pytest.raises(ValueError, match="finite"):
        picking.centre_of_mass(np.full((4, 4), np.nan), 1.0)
    picks = picking.Picks(np.zeros((2, 2)), np.ones(2), 1.0, 10.0)
    with pytest.raises(ValueError, match="3 poses for 2 picks"):
        picking.recentre(picks, Poses(Rotation.identity(3)))
    with pytest.raises(ValueError, match="x, y, z"):
        picking.recentre(picks, Poses(Rotation.identity(2)), centre=(1, 2))
    nothing = picking.Picks(np.zeros((0, 2)), np.zeros(0), 1.0, 10.0)
    assert len(picking.recentre(nothing, Poses(Rotation.identity(1))[:0])) == 0


def planted(n, offset_px, rng, *, noise=0.3):
    """A micrograph of one view at any in-plane angle, its centres of mass, and picks that are off by known offsets."""
    angle = np.degrees(rng.uniform(0, 2 * np.pi, n))
    side = int(np.ceil(np.sqrt(n)))
    true = np.array([[40.0 + 44 * (i % side), 40 + 44 * (i // side)] for i in range(n)]) + rng.uniform(-3, 3, (n, 2))
    data = rng.normal(scale=noise, size=(44 * side + 40, 44 * side + 40))
    rows, columns = np.indices(data.shape)
    spots = np.array([[-20.0, 0], [16, 14], [4, -14]])  # Å; their mean is 0
    for (x, y), psi in zip(true, np.radians(angle)):
        turn = np.array([[np.cos(psi), -np.sin(psi)], [np.sin(psi), np.cos(psi)]])
        for a, b in spots @ turn.T / PIXEL:
            data -= np.exp(-((columns - x - a) ** 2 + (rows - y - b) ** 2) / 9)
    lens = CTF(0.0, 0.0, amplitude_contrast=1.0, cs_mm=0.0)  # passes everything
    picks = picking.Picks(true + rng.normal(0, offset_px, (n, 2)), np.ones(n), PIXEL, 72.0)
    return Micrograph(data, PIXEL, lens), true, picks


def test_classes_bring_planted_offsets_back():
    micrograph, true, picks = planted(64, 2.0, np.random.default_rng(3))
    particles, kept = picking.extract(micrograph, picks, 36)
    found = bayes.classify_2d(
        particles, n_classes=1, rng=0, n_iterations=8, mask_diameter=110.0, workers=1, progress=False
    )
    boxes = particles.metadata[["rlnCoordinateX", "rlnCoordinateY"]].astype(float).to_numpy()
    boxes = picking.Picks(boxes, picks.score[kept], PIXEL, picks.diameter)
    centre = picking.centre_of_mass(found.averages, PIXEL)[found.label]
    moved = picking.recentre(boxes, found.poses, centre=centre)
    before, after = (np.sqrt(((p.centres - true[kept]) ** 2).sum(1).mean()) for p in (picks, moved))
    assert before > 2 and after < 0.3 * before, (before, after)


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """A micrograph of noise, particles cut from it, and a run_data.star with planted poses and classes."""
    folder = tmp_path_factory.mktemp("refined")
    rng = np.random.default_rng(5)
    io.write_mrc(rng.normal(size=(200, 260)).astype(np.float32), folder / "a.mrc", pixel_size=PIXEL)
    io.write_mrc(rng.normal(size=(200, 260)).astype(np.float32), folder / "b.mrc", pixel_size=PIXEL)
    parts, boxes = [], rng.integers(60, 140, (8, 2)).astype(float)
    for name, rows in (("a", slice(0, 5)), ("b", slice(5, 8))):
        picks = picking.Picks(boxes[rows], np.arange(8.0)[rows], PIXEL, 60.0)
        micrograph = Micrograph(io.read_micrograph(folder / f"{name}.mrc").data, PIXEL, CTF(2e4, 19000.0, 10.0))
        parts.append(picking.extract(micrograph, picks, 32, name=str(folder / f"{name}.mrc"))[0])
    import pandas as pd

    metadata = pd.concat([part.metadata for part in parts], ignore_index=True)
    metadata["rlnClassNumber"] = ["1", "3"] * 4
    poses = Poses(Rotation.random(8, rng=rng), rng.uniform(-20, 20, (8, 2)))
    lens = CTF(np.full(8, 2e4), np.full(8, 19000.0), np.full(8, 10.0))
    images = np.concatenate([part.images for part in parts])
    # Half the resolution, as refinements often have: origins are in Å, coordinates in pixels of the micrograph.
    io.write_particles(Particles(images[:, ::2, ::2], 2 * PIXEL, lens, poses, metadata), folder / "run_data.star")
    io.write_volume(blob((25.0, -12, 8)), folder / "map.mrc")
    averages = np.zeros((3, 16, 16), np.float32)
    averages[0, 9, 6], averages[2, 5, 8] = 1, 1  # the second has nothing, and no particles
    io.write_stack(averages, folder / "run_classes.mrcs", 2 * PIXEL)
    return folder, boxes, poses


def again(folder, out, *arguments):
    names = [str(folder / name) for name in ("a.mrc", "b.mrc")]
    star = folder / "run_data.star"
    return main(
        ["extract", *names, "--coordinates", str(star), "--box", "32", "--out", str(out), "--quiet", *arguments]
    )


@pytest.mark.parametrize("of", [None, "map.mrc", "run_classes.mrcs"])
def test_extract_moves_picks_by_the_origins_of_a_run(refined, tmp_path, of):
    folder, boxes, poses = refined
    arguments = ["--recentre", *([] if of is None else ["--centre-of", str(folder / of)])]
    assert again(folder, tmp_path, *arguments) == 0
    centre = {
        None: np.zeros(3), "map.mrc": np.array([25.0, -12, 8]),
        "run_classes.mrcs": np.array([[-16.0, 8, 0], [0, -24, 0]] * 4),
    }[of]  # fmt: skip
    matrix = poses.rotation.as_matrix()  # image to volume: its first two columns are the image's axes in the volume
    projected = np.einsum("nij,ni->nj", matrix[:, :, :2], np.broadcast_to(centre, (8, 3)))
    expected = boxes + (projected - poses.shift) / PIXEL
    particles = io.read_particles(tmp_path / "particles.star")
    written = particles.metadata[["rlnCoordinateX", "rlnCoordinateY"]].astype(float).to_numpy()
    tolerance = 0.02 if of == "map.mrc" else 1e-4  # px; the tail of the Gaussian leaves its box
    np.testing.assert_allclose(written, np.rint(expected), atol=1e-6)
    np.testing.assert_allclose(written - particles.poses.shift / PIXEL, expected, atol=tolerance)
    np.testing.assert_allclose(particles.poses.rotation.as_matrix(), matrix, atol=1e-6)
    assert np.abs(particles.poses.shift).max() <= PIXEL / 2 + 1e-6
    summary = json.loads((tmp_path / "summary.json").read_text())
    moved = np.sqrt(((expected - boxes) ** 2).sum(1).mean()) * PIXEL
    assert summary["particles"] == 8 and summary["moved_angstrom_rms"] == pytest.approx(moved, abs=0.1)


def test_without_recentre_nothing_moves_and_bad_requests_are_refused(refined, tmp_path, capsys):
    folder, boxes, _ = refined
    assert again(folder, tmp_path / "same") == 0
    plain = io.read_particles(tmp_path / "same" / "particles.star")
    np.testing.assert_allclose(plain.metadata[["rlnCoordinateX", "rlnCoordinateY"]].astype(float), boxes)
    assert plain.poses is None
    one = np.ones((1, 16, 16), np.float32)
    io.write_stack(one, tmp_path / "one.mrcs", 8.0)
    io.write_star({"": plain.metadata.drop(columns="rlnImageName")}, tmp_path / "picks.star")
    for arguments, said in (
        (["--centre-of", str(folder / "map.mrc")], "expected both"),
        (["--recentre", "--centre-of", str(tmp_path / "one.mrcs")], "has 1 averages"),
        (["--recentre", "--coordinates", str(tmp_path)], "got the folder"),
        (["--recentre", "--coordinates", str(tmp_path / "same" / "particles.star")], "needs rlnCoordinateX"),
    ):
        assert again(folder, tmp_path / "no", *arguments) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="RELION is not installed")
def test_recentring_moves_as_relions_does(refined, tmp_path):
    """relion_preprocess --recenter, onto a place that is given: the same boxes, the same origins that are left."""
    folder, _, _ = refined
    assert again(folder, tmp_path / "ours", "--recentre", "--centre-of", str(folder / "map.mrc")) == 0
    ours = io.read_particles(tmp_path / "ours" / "particles.star")
    x, y, z = picking.centre_of_mass(io.read_volume(folder / "map.mrc")) / PIXEL
    tables = io.read_star(folder / "run_data.star")
    optics = tables["optics"]
    for column in ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnImagePixelSize"):
        optics[column] = str(PIXEL)  # of binned particles RELION 3.1.3 moves by whole pixels of their size
    for name in ("a", "b"):
        shutil.copy(folder / f"{name}.mrc", tmp_path / f"{name}.mrc")
    for column in ("rlnMicrographName", "rlnImageName"):
        tables["particles"][column] = [text.replace(f"{folder}/", "") for text in tables["particles"][column]]
    io.write_star(tables, tmp_path / "run_data.star")
    import pandas as pd

    rows = pd.DataFrame({"rlnMicrographName": ["a.mrc", "b.mrc"], "rlnOpticsGroup": ["1", "1"]})
    io.write_star({"optics": optics, "micrographs": rows}, tmp_path / "micrographs.star")
    command = ["relion_preprocess", "--i", "micrographs.star", "--reextract_data_star", "run_data.star", "--recenter"]
    command += ["--recenter_x", f"{x}", "--recenter_y", f"{y}", "--recenter_z", f"{z}", "--ref_angpix", f"{PIXEL}"]
    command += ["--part_star", "out.star", "--part_dir", "out/", "--extract", "--extract_size", "32"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    theirs = io.read_star(tmp_path / "out.star")["particles"]
    columns = ["rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst"]
    theirs, mine = theirs[columns].astype(float).to_numpy(), ours.metadata[columns].astype(float).to_numpy()
    # Where a fraction is near one half the two may round to either side: compare the places themselves.
    np.testing.assert_allclose(theirs[:, :2] - theirs[:, 2:] / PIXEL, mine[:, :2] - mine[:, 2:] / PIXEL, atol=0.01)
    assert (theirs[:, :2] == mine[:, :2]).mean() > 0.8
