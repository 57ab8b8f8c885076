"""From movies to particles on the command line: planted drift, RELION's files, and input that cannot be used."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from cryonb import CTF, io, simulate
from cryonb.__main__ import main

PIXEL = 2.0


def put_nan(path, first, count):
    """NaN over ``count`` of the 32-bit values of an MRC file: the package's own writer refuses them."""
    content = bytearray(path.read_bytes())
    start = 1024 + 4 * first
    content[start : start + 4 * count] = np.full(count, np.nan, np.float32).tobytes()
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """{name: (path, what is said of it by each job)} of everything that is no good micrograph, and two that are."""
    folder = tmp_path_factory.mktemp("bad")
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :260]
    good = rng.normal(size=(300, 260))  # not square
    for px, py in ((60, 60), (150, 100), (90, 220), (10, 150)):
        good -= 5 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 50)
    good = good.astype(np.float32)
    eight_bit = np.clip(128 + 20 * good, 0, 255).astype(np.uint8)
    truncated = folder / "truncated.mrc"
    files = {
        "wide": good, "black": 0 * good, "nan": good, "dead": good,
        "saturated": np.where(rng.random(good.shape) < 0.7, 255, eight_bit).astype(np.uint16),
        "movie": rng.normal(size=(4, 64, 64)).astype(np.float32), "truncated": good,
        "signed8": (eight_bit.astype(np.int16) - 128).astype(np.int8), "strip": good[:30],
    }  # fmt: skip
    for name, data in files.items():
        io.write_mrc(data, folder / f"{name}.mrc", pixel_size=PIXEL)
    put_nan(folder / "nan.mrc", 0, good.size)
    put_nan(folder / "dead.mrc", 7000, 9)
    truncated.write_bytes(truncated.read_bytes()[:5000])
    Image.fromarray(eight_bit).save(folder / "eightbit.png")
    pages = [Image.fromarray(eight_bit)] * 3
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    (folder / "text.mrc").write_text("not an image")
    (folder / "empty.mrc").write_bytes(b"")
    return folder


BROKEN = {
    "nan": "pixel (0, 0, 0) is nan", "dead": "is nan", "movie": "expected one image, got 4",
    "truncated": "bytes", "text": "expected an MRC file", "empty": "expected an MRC file", "pages": "got 3",
    "none": "no such file",
}  # fmt: skip


def run(job, folder, out, capsys, *arguments):
    """Reasons of the failed ones by name, after a run that ended well."""
    paths = [str(path) for path in sorted(folder.iterdir())] + [str(folder / "none.mrc")]
    assert main([job, *paths, "--out", str(out), "--pixel-size", str(PIXEL), *arguments]) == 0
    summary = json.loads((out / "summary.json").read_text())
    said = capsys.readouterr().out
    reasons = {name.rsplit("/", 1)[1].split(".")[0]: reason for name, reason in summary["reasons"].items()}
    assert summary["failed"] == len(reasons) and all(reason in said for reason in reasons.values())
    listing = said[said.index("failed") :]
    assert all(f"{name}." in listing for name in reasons)  # at the end, by name
    for name, part in BROKEN.items():
        assert part in reasons[name], (name, reasons[name])
    return summary, reasons


def test_pick_goes_through_everything_bad(bad, tmp_path, capsys):
    summary, reasons = run(
        "pick", bad, tmp_path / "out", capsys, "--diameter", "40", "--method", "blobs", "--threshold", "6", "--quiet"
    )
    assert set(reasons) == {*BROKEN, "black", "saturated", "strip"} and "constant" in reasons["black"]
    assert "saturated" in reasons["saturated"] and "at most a third" in reasons["strip"]
    for name in ("wide", "signed8", "eightbit"):  # not square, and 8 bits, are no error
        table = io.read_coordinates(tmp_path / "out" / f"{name}_autopick.star")
        assert [np.hypot(table["x"] - x, table["y"] - y).min() < 2 for x, y in ((60, 60), (150, 100), (90, 220))]
        assert len(table) <= 5


def test_ctf_goes_through_everything_bad(bad, tmp_path, capsys):
    summary, reasons = run("ctf", bad, tmp_path / "out", capsys, "--workers", "1", "--quiet")
    assert summary["measured"] == 0  # noise has no rings, and every one of them is flagged with its reason
    assert "all pixels are 0" in reasons["black"]
    assert all(reasons[name] for name in ("wide", "signed8", "eightbit", "saturated", "strip"))
    assert not (tmp_path / "out" / "micrographs_ctf.star").exists()
    assert len(io.read_star(tmp_path / "out" / "failed.star")["micrographs"]) == summary["failed"]


def test_extract_goes_through_everything_bad(bad, tmp_path, capsys):
    coordinates = tmp_path / "coordinates"
    coordinates.mkdir()
    inside, edge, outside = "40\t40\t40\t40\n", "-15\t130\t40\t40\n", "900\t-900\t40\t40\n"
    for path in (*bad.iterdir(), bad / "none.mrc"):
        (coordinates / f"{path.stem}.box").write_text(inside + edge + outside)
    (coordinates / "strip.box").write_text(inside)
    (coordinates / "signed8.box").write_text(outside)
    (coordinates / "eightbit.box").unlink()
    summary, reasons = run(
        "extract", bad, tmp_path / "out", capsys, "--coordinates", str(coordinates), "--box", "40", "--quiet"
    )
    assert "a box of 40 pixels: expected 8 to 30" in reasons["strip"]
    assert "none of 1 picks" in reasons["signed8"] and "1 reach over the edge" in reasons["signed8"]
    assert "1 without contrast" in reasons["black"]
    assert "no coordinates of eightbit.png" in reasons["eightbit"]
    assert summary["over_the_edge"] >= 2  # one over the edge, one outside
    names = set(io.read_star(tmp_path / "out" / "particles.star")["particles"]["rlnMicrographName"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "particles.mrcs", "particles.star", "summary.json",
    ]  # fmt: skip
    assert str(bad / "wide.mrc") in names and not any("signed8" in name for name in names)


def test_coordinates_that_are_not_numbers_fail_alone(bad, tmp_path, capsys):
    (tmp_path / "wide.box").write_text("a\tb\tc\td\n")
    (tmp_path / "saturated.box").write_text("40\t40\t40\t40\n")
    paths = [str(bad / "wide.mrc"), str(bad / "saturated.mrc")]
    out = tmp_path / "out"
    assert main(["extract", *paths, "--coordinates", str(tmp_path), "--box", "40", "--out", str(out), "--quiet"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["particles"] == 1 and "wide.box, line 1" in summary["reasons"][paths[0]]


# --- motion -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def movies(tmp_path_factory):
    """Two movies with planted drift and their STAR file; one of them as bytes."""
    folder = tmp_path_factory.mktemp("movies")
    field = simulate.Field(CTF(16000, 15000, 30, b_factor=80), (240, 320), PIXEL, amorphous=0.5, snr=1.0)
    drift = np.column_stack([np.linspace(0, 12, 8), np.linspace(0, -20, 8)])
    frames, _ = simulate.movie([], field, simulate.Exposure(8, 2.0, drift, damage=False), rng=3)
    io.write_mrc(frames, folder / "a.mrcs", pixel_size=PIXEL, is_stack=True)
    io.write_mrc(np.clip(60 * frames, -127, 127).astype(np.int8), folder / "b.mrcs", pixel_size=PIXEL, is_stack=True)
    optics = "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n"
    optics += "_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\nopticsGroup1 1 2.0 200 1.4 0.07\n"
    rows = "".join(f"{folder / name} 1\n" for name in ("a.mrcs", "b.mrcs"))
    (folder / "movies.star").write_text(
        f"{optics}\ndata_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\n{rows}"
    )
    return folder, frames, drift


def test_motion_takes_the_drift_out_and_lists_it_as_relion_does(movies, tmp_path):
    folder, frames, drift = movies
    assert main(["motion", str(folder / "movies.star"), "--out", str(tmp_path), "--dose", "2", "--quiet"]) == 0
    tables = io.read_star(tmp_path / "corrected_micrographs.star")
    row = tables["micrographs"].iloc[0]
    assert row["rlnMicrographName"] == str(tmp_path / "a.mrc") and len(tables["micrographs"]) == 2
    assert tables["optics"].iloc[0][["rlnVoltage", "rlnSphericalAberration"]].astype(float).tolist() == [200, 1.4]
    path = np.hypot(12, 20)
    assert float(row["rlnAccumMotionTotal"]) == pytest.approx(path, abs=1.0)
    assert float(row["rlnAccumMotionEarly"]) == pytest.approx(path / 7, abs=0.5)  # 4 e/Å² end with the second frame
    for name in ("a", "b"):
        shifts = io.read_star(tmp_path / f"{name}.star")["global_shift"].astype(float)
        found = shifts[["rlnMicrographShiftX", "rlnMicrographShiftY"]].to_numpy()
        np.testing.assert_allclose(found, (drift[0] - drift) / PIXEL, atol=0.3)
    sharp, blurred = io.read_micrograph(tmp_path / "a_noDW.mrc"), frames.sum(axis=0)
    assert sharp.data.std() > 1.02 * blurred.std()
    weighted = io.read_micrograph(tmp_path / "a.mrc")
    assert weighted.pixel_size == PIXEL and not np.allclose(weighted.data, sharp.data, atol=0.1)


@pytest.mark.skipif(shutil.which("relion_run_motioncorr") is None, reason="RELION is not installed")
def test_the_signs_of_the_shifts_are_relions(movies, tmp_path):
    folder, _, drift = movies
    command = ["relion_run_motioncorr", "--i", str(folder / "movies.star"), "--o", "out/", "--use_own", "--j", "1"]
    command += ["--patch_x", "1", "--patch_y", "1", "--bfactor", "150", "--only_do_unfinished"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=True)
    table = io.read_star(next((tmp_path / "out").rglob("a.star")))["global_shift"].astype(float)
    shift = table[["rlnMicrographShiftX", "rlnMicrographShiftY"]].to_numpy()
    np.testing.assert_allclose(shift, (drift[0] - drift) / PIXEL, atol=1.0)  # of a path of 12: the sign is certain


def test_motion_lists_what_failed_and_keeps_movies_from_harm(movies, tmp_path, capsys):
    from PIL import Image

    folder, frames, drift = movies
    io.write_mrc(frames[0], tmp_path / "single.mrc", pixel_size=PIXEL)
    io.write_mrc(frames[:3], tmp_path / "nan.mrcs", pixel_size=PIXEL)
    put_nan(tmp_path / "nan.mrcs", frames[0].size + 5, 1)
    pages = [Image.fromarray(frame[::-1]) for frame in frames]  # TIFF rows are turned upside down
    pages[0].save(tmp_path / "good.tif", save_all=True, append_images=pages[1:])
    names = [str(tmp_path / name) for name in ("single.mrc", "nan.mrcs", "none.mrcs", "good.tif")]
    out = tmp_path / "out"
    assert main(["motion", *names, "--out", str(out), "--pixel-size", str(PIXEL), "--quiet"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["corrected"], summary["failed"]) == (1, 3)
    assert "expected a movie" in summary["reasons"][names[0]] and "frame 2 of 3" in summary["reasons"][names[1]]
    assert not (out / "good_noDW.mrc").exists() and "single.mrc" in capsys.readouterr().out
    shift = io.read_star(out / "good.star")["global_shift"].astype(float)["rlnMicrographShiftY"]
    assert shift.iloc[-1] == pytest.approx(10, abs=0.3)
    assert main(["motion", names[0], "--out", str(tmp_path), "--quiet"]) == 1  # single.mrc would be written over
    assert "written over" in capsys.readouterr().err
    for arguments in (["--dose", "0"], ["--before", "-1"], ["--resolution", "nan"]):
        assert main(["motion", names[3], "--out", str(tmp_path / "no"), *arguments]) == 1
    assert not (tmp_path / "no").exists()
