"""Particles from RELION and cryoSPARC and back: values, conventions, what RELION itself reads, and bad input."""

import os
import pickle
import shutil
import subprocess
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from cryonb import io
from cryonb.rotations import angular_distance, from_relion_angles
from cryonb.types import CTF, Particles, Poses


def simulated(n=12, size_px=8, pixel_size=2.0, **ctf):
    """Particles with nothing special about them."""
    rng = np.random.default_rng(5)
    return Particles(
        rng.normal(size=(n, size_px, size_px)).astype(np.float32),
        pixel_size,
        ctf=CTF(rng.uniform(1e4, 2e4, n), rng.uniform(1e4, 2e4, n), rng.uniform(0, 180, n), **ctf),
        poses=Poses(Rotation.random(n, rng=rng), rng.normal(scale=4, size=(n, 2))),
    )


def same_nouns(a, b, *, tolerance=1e-6):
    """Equal to the six decimals of a STAR file."""
    assert len(a) == len(b) and a.pixel_size == pytest.approx(b.pixel_size, abs=1e-6)
    for name in ("defocus_u", "defocus_v", "defocus_angle", "voltage_kv", "cs_mm", "amplitude_contrast", "phase_shift"):
        np.testing.assert_allclose(getattr(a.ctf, name), getattr(b.ctf, name), rtol=0, atol=tolerance)
    # Three angles, each rounded.
    assert angular_distance(a.poses.rotation, b.poses.rotation).max() < 3 * tolerance
    np.testing.assert_allclose(a.poses.shift, b.poses.shift, rtol=0, atol=tolerance)


def test_simulated_particles_come_back(tmp_path):
    particles = simulated(phase_shift=30.0, amplitude_contrast=0.07)
    io.write_particles(particles, tmp_path / "p.star")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.mrcs", "p.star"]
    back = io.read_particles(tmp_path / "p.star")
    same_nouns(back, particles)
    assert isinstance(back.images, io.ImageStack)
    np.testing.assert_array_equal(np.asarray(back.images), particles.images)
    some = back[[3, 1]]
    np.testing.assert_array_equal(np.asarray(some.images), particles.images[[3, 1]])
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(some)).images), particles.images[[3, 1]])


def test_stack_elsewhere_and_project_folder(tmp_path):
    particles = simulated(4)
    (tmp_path / "job").mkdir()
    io.write_particles(
        particles, tmp_path / "job" / "p.star", stack_path=tmp_path / "stacks" / "all.mrcs", project=tmp_path
    )
    assert io.read_star(tmp_path / "job" / "p.star")["particles"]["rlnImageName"].iloc[3] == "000004@stacks/all.mrcs"
    back = io.read_particles(tmp_path / "job" / "p.star")
    np.testing.assert_array_equal(np.asarray(back.images), particles.images)
    # Moved away from its project: root= says where names begin.
    shutil.move(tmp_path / "stacks", tmp_path / "elsewhere" / "stacks")
    with pytest.raises(
        FileNotFoundError, match=r"p\.star, row 1 of data_particles .*stacks/all\.mrcs is not in .*root="
    ):
        io.read_particles(tmp_path / "job" / "p.star")
    assert len(io.read_particles(tmp_path / "job" / "p.star", root=tmp_path / "elsewhere")) == 4


def test_lazy_images_stay_in_their_files(tmp_path):
    io.write_particles(simulated(), tmp_path / "p.star")
    chosen = io.read_particles(tmp_path / "p.star")[[7, 2]]
    io.write_particles(chosen, tmp_path / "chosen.star")
    assert not (tmp_path / "chosen.mrcs").exists()
    assert io.read_star(tmp_path / "chosen.star")["particles"]["rlnImageName"].tolist() == [
        "000008@p.mrcs",
        "000003@p.mrcs",
    ]
    # In a place from which the names would not be found they become absolute.
    other = tmp_path.parent / f"{tmp_path.name}-other"
    io.write_particles(chosen, other / "chosen.star")
    np.testing.assert_array_equal(
        np.asarray(io.read_particles(other / "chosen.star").images), np.asarray(chosen.images)
    )
    io.write_particles(chosen, other / "copied.star", stack_path=other / "copied.mrcs")
    names = io.read_star(other / "copied.star")["particles"]["rlnImageName"]
    assert names.tolist() == ["000001@copied.mrcs", "000002@copied.mrcs"]
    np.testing.assert_array_equal(
        np.asarray(io.read_particles(other / "copied.star").images), np.asarray(chosen.images)
    )


# What RELION wrote ----------------------------------------------------------------------------------------------------


def test_relion30(shared_data):
    particles = io.read_particles(shared_data / "stars" / "relion30.star", check_images=False, size_px=64)
    assert len(particles) == 17 and particles.optics is None
    # 5 µm over a magnification of 37369.207031.
    assert particles.pixel_size == pytest.approx(5e4 / 37369.207031, rel=1e-12)
    assert sorted(set(particles.ctf.voltage_kv)) == [200.0, 300.0]
    assert particles.ctf.defocus_u[0] == 21186.804688 and particles.ctf.cs_mm[0] == 2.7
    # Origins are in pixels in 3.0.
    np.testing.assert_allclose(particles.poses.shift[0], np.array([0.1996, 0.1996]) * particles.pixel_size)
    expected = from_relion_angles([[109.186640, 122.200343, 71.118492]])
    assert angular_distance(particles.poses.rotation[0], expected)[0] < 1e-5


def test_relion30_is_written_as_31(shared_data, tmp_path):
    original = io.read_particles(shared_data / "stars" / "relion30.star", check_images=False, size_px=64)
    io.write_particles(original, tmp_path / "new.star")
    back = io.read_particles(tmp_path / "new.star", check_images=False)
    same_nouns(back, original)
    moved = {"rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"}
    origins = {"rlnOriginX", "rlnOriginY"}
    assert set(original.metadata) - set(back.metadata) == moved | origins
    assert set(back.metadata) - set(original.metadata) == {"rlnOpticsGroup", "rlnOriginXAngst", "rlnOriginYAngst"}
    assert sorted(back.optics["rlnVoltage"].astype(float)) == [200.0, 300.0]
    for name in set(original.metadata) & set(back.metadata):
        assert back.metadata[name].tolist() == original.metadata[name].tolist()


def test_relion31_and_5(shared_data):
    particles = io.read_particles(shared_data / "stars" / "relion31.star", check_images=False)
    assert (len(particles), particles.size_px, particles.pixel_size) == (5, 256, 2.806)
    assert particles.ctf.defocus_v[1] == 12643.518499 and particles.ctf.voltage_kv[1] == 300.0
    assert particles.ctf.cs_mm[0] == 0.01 and particles.ctf.amplitude_contrast[0] == 0.1
    np.testing.assert_allclose(particles.poses.shift[:2], [[0.019324, -0.64686], [-0.25248, 0.403454]])
    particles = io.read_particles(shared_data / "stars" / "relion5.star", check_images=False)
    assert (len(particles), particles.size_px, particles.pixel_size) == (17, 448, 0.89)
    assert particles.ctf.voltage_kv[0] == 100.0 and len(set(particles.images.paths)) == 2


def test_six_optics_groups(shared_data):
    path = shared_data / "stars" / "relion31.6opticsgroups.star"
    with pytest.warns(UserWarning, match=r"pixel sizes of 1\.24 to 1\.25 Å are all taken as 1\.25 Å"):
        particles = io.read_particles(path, check_images=False)
    assert particles.pixel_size == 1.25 and particles.size_px == 196
    # Group 4 has its own spherical aberration.
    group = particles.metadata["rlnOpticsGroup"].to_numpy().astype(int)
    np.testing.assert_array_equal(particles.ctf.cs_mm, np.where(group == 4, 2.6, 2.7))


@pytest.mark.parametrize("name", ["relion31.star", "relion31.6opticsgroups.star", "relion5.star"])
def test_untouched_values_keep_their_text(shared_data, tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        original = io.read_particles(shared_data / "stars" / name, check_images=False)
    chosen = original[np.arange(len(original))[::-2]]
    io.write_particles(chosen, tmp_path / "a.star")
    tables = io.read_star(tmp_path / "a.star")
    assert tables["particles"].columns.tolist() == original.metadata.columns.tolist()
    assert tables["particles"].to_numpy().tolist() == chosen.metadata.to_numpy().tolist()
    assert tables["optics"].to_numpy().tolist() == original.optics.to_numpy().tolist()
    assert tables["optics"].columns.tolist() == original.optics.columns.tolist()


def test_changed_nouns_change_their_values_and_no_others(shared_data, tmp_path):
    original = io.read_particles(shared_data / "stars" / "relion5.star", check_images=False)
    before = original.metadata
    defocus = original.ctf.defocus_u.copy()
    defocus[3] += 250.0
    turn = Rotation.from_rotvec(np.where(np.arange(17)[:, None] == 5, [[0.0, 0.0, 10.0]], 0.0), degrees=True)
    shift = original.poses.shift.copy()
    shift[7, 1] = -9.5
    changed = replace(
        original,
        ctf=replace(original.ctf, defocus_u=defocus, voltage_kv=np.full(17, 120.0)),
        poses=Poses(original.poses.rotation * turn, shift),
        metadata=before.assign(rlnMyScore=np.linspace(0, 1, 17), rlnClassNumber=3),
    )
    io.write_particles(changed, tmp_path / "a.star")
    back = io.read_particles(tmp_path / "a.star", check_images=False)
    same_nouns(back, changed)
    assert set(back.metadata["rlnClassNumber"]) == {"3"}
    np.testing.assert_array_equal(back.metadata["rlnMyScore"].astype(float), np.linspace(0, 1, 17))
    different = {
        (name, row)
        for name in before.columns.drop("rlnClassNumber")
        for row in range(17)
        if back.metadata[name].iloc[row] != before[name].iloc[row]
    }
    # Turning about the image's own z changes psi alone; -129.99999… is rewritten with it where RELION rounded.
    assert {("rlnDefocusU", 3), ("rlnAnglePsi", 5), ("rlnOriginYAngst", 7)} <= different
    assert different <= {("rlnDefocusU", 3), ("rlnOriginYAngst", 7)} | {
        (f"rlnAngle{name}", 5) for name in ("Rot", "Tilt", "Psi")
    }
    assert back.optics["rlnVoltage"].tolist() == ["120.000000"]
    untouched = [name for name in original.optics if name != "rlnVoltage"]
    assert back.optics[untouched].to_numpy().tolist() == original.optics[untouched].to_numpy().tolist()


def test_rescaled_particles_update_the_optics_table(tmp_path):
    io.write_particles(simulated(), tmp_path / "p.star")
    particles = io.read_particles(tmp_path / "p.star")
    small = replace(particles, images=np.asarray(particles.images)[:, ::2, ::2], pixel_size=4.0)
    io.write_particles(small, tmp_path / "small.star")
    back = io.read_particles(tmp_path / "small.star")
    assert (back.size_px, back.pixel_size) == (4, 4.0)
    same_nouns(back, small)


def test_other_blocks_and_unknown_columns_survive(tmp_path):
    io.write_particles(simulated(3), tmp_path / "p.star")
    tables = io.read_star(tmp_path / "p.star")
    tables["particles"]["mySpecialColumn"] = ["a b", "", "0.10"]
    general = tables["optics"].iloc[:, :1].rename(columns={"rlnOpticsGroup": "rlnNote"})
    general.attrs.update(is_loop=False, comments=["# kept"])
    tables["general"] = general
    io.write_star(tables, tmp_path / "q.star")
    io.write_particles(io.read_particles(tmp_path / "q.star")[[2, 1, 0]], tmp_path / "r.star")
    back = io.read_star(tmp_path / "r.star")
    assert back["particles"]["mySpecialColumn"].tolist() == ["0.10", "", "a b"]
    assert back["general"]["rlnNote"].tolist() == ["1"] and back["general"].attrs["comments"] == ["# kept"]


# RELION reads what we write -------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="RELION is not on PATH")
def test_relion_reads_our_files(tmp_path):
    particles = simulated(20, size_px=16)
    io.write_particles(particles, tmp_path / "p.star")

    def relion(command):
        return subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    relion("relion_star_handler --i p.star --o chosen.star --select rlnDefocusU --minval 15000")
    chosen = io.read_particles(tmp_path / "chosen.star")
    keep = particles.ctf.defocus_u >= 15000
    # RELION gives wide negative numbers (-102.30296) one decimal less.
    same_nouns(chosen, particles[keep], tolerance=1e-5)
    np.testing.assert_array_equal(np.asarray(chosen.images), particles.images[keep])
    relion("relion_stack_create --i p.star --o copied")
    np.testing.assert_array_equal(np.asarray(io.read_particles(tmp_path / "copied.star").images), particles.images)
    relion("relion_reconstruct --i p.star --o map.mrc --ctf")
    volume = io.read_volume(tmp_path / "map.mrc")
    assert (volume.size_px, volume.voxel_size) == (16, 2.0)
    io.write_volume(volume, tmp_path / "ours.mrc")
    relion("relion_image_handler --i ours.mrc --o theirs.mrc --multiply_constant 2")
    np.testing.assert_allclose(io.read_volume(tmp_path / "theirs.mrc").data, 2 * volume.data, rtol=1e-6)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """Write simulated particles, change the text of the STAR file, and give its path."""
    io.write_particles(simulated(6), tmp_path / "p.star")
    good = (tmp_path / "p.star").read_text()

    def change(*pairs):
        text = good
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "p.star").write_text(text)
        return tmp_path / "p.star"

    return change


OPTICS_ROW = "1 opticsGroup1 300.000000 2.700000 0.100000 2.000000 8 2"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            [("_rlnImageName", "_rlnName")],
            ValueError,
            r"missing column rlnImageName in data_particles; there are rlnName",
        ),
        ([("_rlnVoltage", "_rlnVolts")], ValueError, r"data_optics: missing column rlnVoltage"),
        ([("_rlnOpticsGroup #2", "_rlnX #2")], ValueError, r"missing column rlnOpticsGroup"),
        ([("000003@p.mrcs", "000003@q.mrcs")], FileNotFoundError, r"row 3 of data_particles \(line 35\): stack file q"),
        (
            [("000003@p.mrcs", "000009@p.mrcs")],
            ValueError,
            r"row 3 of .*\(line 35\): .*p\.mrcs: image 9 asked for, the file has 6",
        ),
        ([("000003@p.mrcs", "000000@p.mrcs")], ValueError, r"row 3 of .*'000000@p\.mrcs', but images count from 1"),
        ([("000003@p.mrcs", "3@")], ValueError, r"row 3 of .*'3@', expected number@stack\.mrcs"),
        ([(" 8 2", " 10 2")], ValueError, r"p\.mrcs: box of 8 px, but 10 px expected"),
        ([(" 8 2", " 8 3")], ValueError, r"rlnImageDimensionality is 3; only 2D"),
        ([("2.000000 8", "2.100000 8")], ValueError, r"pixel sizes disagree: 2\.1 Å here, 2 Å in the header"),
        ([("2.000000 8", "0.000000 8")], ValueError, r"row 1 of data_optics \(line \d+\): pixel size 0 Å"),
        (
            [(OPTICS_ROW, OPTICS_ROW + "\n" + OPTICS_ROW)],
            ValueError,
            r"optics group 1 is defined 2 times, in rows \[1, 2\]",
        ),
        (
            [(OPTICS_ROW, OPTICS_ROW + "\n2 second 300 2.7 0.1 2.5 8 2"), ("000003@p.mrcs 1", "000003@p.mrcs 2")],
            ValueError,
            r"pixel sizes disagree: 2 to 2\.5 Å between optics groups",
        ),
        (
            [(OPTICS_ROW, OPTICS_ROW + "\n2 second 300 2.7 0.1 2.0 9 2"), ("000003@p.mrcs 1", "000003@p.mrcs 2")],
            ValueError,
            r"rlnImageSize differs between optics groups: \[8, 9\]",
        ),
        (
            [("000004@p.mrcs 1", "000004@p.mrcs 7")],
            ValueError,
            r"row 4 of .*: optics group 7 is not in data_optics \(1\)",
        ),
        ([("000002@p.mrcs 1 ", "000002@p.mrcs 1 x")], ValueError, r"row 2 of .*: rlnDefocusU is 'x\d+.*finite number"),
        ([("000002@p.mrcs 1 ", "000002@p.mrcs 1 nan ")], ValueError, r"row 2 of .*: expected 10 values, got 11"),
        ([("300.000000", "-300.0")], ValueError, r"row 1 of .*: voltage must be positive in kV, got -300 kV"),
        (
            [("000004@p.mrcs 1 ", "000004@p.mrcs 1.7 ")],
            ValueError,
            r"row 4 of data_particles \(line 36\): rlnOpticsGroup is '1\.7', expected a whole number",
        ),
        (
            [(OPTICS_ROW, OPTICS_ROW.replace("1 optics", "1.7 optics"))],
            ValueError,
            r"row 1 of data_optics .*: rlnOpticsGroup is '1\.7', expected a whole number",
        ),
        ([(" 8 2", " 8.5 2")], ValueError, r"row 1 of data_optics .*: rlnImageSize is '8\.5', expected a whole number"),
        (
            [(OPTICS_ROW, OPTICS_ROW + "\n2 second 300 2.7 1.5 2.0 8 2"), ("000003@p.mrcs 1", "000003@p.mrcs 2")],
            ValueError,
            r"row 3 of data_particles \(line 36\): amplitude contrast must lie in \[0, 1\], got 1\.5",
        ),
    ],
)
def test_bad_particle_files(broken, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        io.read_particles(broken(*changes))
    assert "p.star" in str(caught.value)


def three_stacks(folder, *, images=2, pixel_sizes=(2.0, 2.0, 2.0), stated=2.0):
    """A STAR file with two particles in each of three stacks, a.mrcs to c.mrcs."""
    for name, pixel_size in zip("abc", pixel_sizes):
        io.write_stack(np.ones((images, 8, 8)), folder / f"{name}.mrcs", pixel_size)
    rows = "".join(f"{number}@{name}.mrcs 1\n" for name in "abc" for number in (1, 2))
    column = "" if stated is None else "_rlnImagePixelSize\n"
    value = "" if stated is None else f" {stated}"
    (folder / "p.star").write_text(
        f"data_optics\nloop_\n_rlnOpticsGroup\n{column}1{value}\n\n"
        f"data_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n{rows}"
    )
    return folder / "p.star"


def test_every_header_is_compared_with_the_pixel_size(tmp_path):
    path = three_stacks(tmp_path, pixel_sizes=(2.0, 2.01, 4.0))
    with pytest.raises(ValueError, match=r"p\.star, row 5 of .*: pixel sizes disagree: 2 Å here, 4 Å in .*c\.mrcs"):
        io.read_particles(path)
    assert io.read_particles(path, pixel_size=3.0).pixel_size == 3.0
    path = three_stacks(tmp_path, pixel_sizes=(2.0, 2.01, 4.0), stated=None)
    with pytest.raises(ValueError, match=r"row 5 of .*disagree: 2 Å in the header of .*a\.mrcs, 4 Å in .*c\.mrcs"):
        io.read_particles(path)
    assert io.read_particles(three_stacks(tmp_path, pixel_sizes=(2.0, 2.01, 2.0), stated=None)).pixel_size == 2.0


def test_optics_groups_that_no_particle_uses_do_not_count(broken, tmp_path):
    other = "2 second 200 2.7 1.5 4.0 16 3"  # another box, another pixel size, tomograms, an impossible contrast
    path = broken((OPTICS_ROW, other + "\n" + OPTICS_ROW))
    particles = io.read_particles(path)
    assert (particles.pixel_size, particles.size_px, set(particles.ctf.voltage_kv)) == (2.0, 8, {300.0})
    io.write_particles(particles, tmp_path / "again.star")
    pd.testing.assert_frame_equal(io.read_star(tmp_path / "again.star")["optics"], particles.optics)
    # Two groups that cannot be read together, one of which a selection leaves.
    two = broken((OPTICS_ROW, OPTICS_ROW + "\n2 second 300 2.7 0.1 4.0 8 2"), ("000003@p.mrcs 1", "000003@p.mrcs 2"))
    with pytest.raises(ValueError, match="pixel sizes disagree: 2 to 4 Å between optics groups"):
        io.read_particles(two)
    io.write_selection(two, [0, 1, 5], tmp_path / "one.star")
    assert io.read_particles(tmp_path / "one.star").pixel_size == 2.0


def test_optics_groups_are_whole_numbers(tmp_path):
    path = three_stacks(tmp_path)
    path.write_text(path.read_text().replace("1@c.mrcs 1", "1@c.mrcs 1.000"))
    particles = io.read_particles(path)
    assert particles.optics_group.tolist() == [0] * 6
    wrong = particles.metadata.assign(rlnOpticsGroup=["1", "1", "1.7", "1", "1", "1"])
    with pytest.raises(ValueError, match="rlnOpticsGroup must be a whole number, got 1.7 in row 3"):
        _ = replace(particles, metadata=wrong).optics_group


def test_pixels_that_cannot_be_read_are_placed_in_both_files(tmp_path):
    path = three_stacks(tmp_path)
    images = np.ones((2, 8, 8), dtype=np.float32)
    images[1, 3, 3] = np.nan
    with open(tmp_path / "b.mrcs", "r+b") as file:
        file.seek(1024)
        file.write(images.tobytes())
    where = r"p\.star, row 4 of data_particles \(line 14\): .*"
    chosen = io.read_particles(path)[[5, 3]]
    for stack in (chosen.images, pickle.loads(pickle.dumps(chosen.images))):
        with pytest.raises(ValueError, match=where + r"b\.mrcs: image 2 has NaN or infinite pixels \(1 of 64\)"):
            np.asarray(stack)
    # Files that change after the headers were read.
    (tmp_path / "b.mrcs").write_bytes((tmp_path / "b.mrcs").read_bytes()[:-4])
    with pytest.raises(ValueError, match=where + r"b\.mrcs"):
        chosen.images[1]
    io.write_stack(np.ones((2, 6, 6)), tmp_path / "b.mrcs", 2.0)
    with pytest.raises(ValueError, match=where + r"b\.mrcs: box of 6 px, but 8 px expected"):
        chosen.images[1]
    with pytest.raises(ValueError, match=r"row 3 of .*b\.mrcs: box of 6 px, but 8 px in .*a\.mrcs"):
        io.read_particles(path)
    io.write_stack(np.ones((1, 8, 8)), tmp_path / "b.mrcs", 2.0)
    with pytest.raises(ValueError, match=where + r"b\.mrcs: image 2 asked for, the file has 1"):
        np.asarray(chosen.images)
    (tmp_path / "b.mrcs").unlink()
    with pytest.raises(FileNotFoundError, match=where + r"b\.mrcs"):
        chosen.images[1]


def test_the_first_image_past_the_end_is_named_with_its_own_row(tmp_path):
    io.write_stack(np.ones((5, 8, 8)), tmp_path / "a.mrcs", 2.0)
    path = tmp_path / "p.star"
    path.write_text("data_particles\nloop_\n_rlnImageName\n_rlnPixelSize\n1@a.mrcs 2\n6@a.mrcs 2\n9@a.mrcs 2\n")
    with pytest.raises(ValueError, match=r"row 2 of .*\(line 6\): .*a\.mrcs: image 6 asked for, the file has 5"):
        io.read_particles(path)


def test_overrides_for_doubtful_files(broken):
    path = broken(("2.000000 8", "2.100000 8"))
    assert io.read_particles(path, pixel_size=2.0).pixel_size == 2.0
    path = broken(("_rlnImagePixelSize", "_rlnOther"))
    assert io.read_particles(path).pixel_size == 2.0  # from the header of the stack
    with pytest.raises(ValueError, match=r"no pixel size: .*pass pixel_size="):
        io.read_particles(path, check_images=False)
    path = broken(("_rlnImageSize", "_rlnOther"))
    assert io.read_particles(path).size_px == 8
    os.remove(path.with_suffix(".mrcs"))
    with pytest.raises(ValueError, match="pass size_px="):
        io.read_particles(path, check_images=False)


def test_no_particles_and_other_files(tmp_path):
    (tmp_path / "a.star").write_text("data_particles\n\nloop_\n_rlnImageName #1\n")
    with pytest.raises(ValueError, match=r"a\.star: block data_particles has no particles"):
        io.read_particles(tmp_path / "a.star")
    (tmp_path / "a.star").write_text("data_fsc\n\nloop_\n_rlnResolution #1\n1\n")
    with pytest.raises(
        ValueError, match=r"a\.star: expected a block of particles with column rlnImageName, got data_fsc"
    ):
        io.read_particles(tmp_path / "a.star")
    io.write_stack(np.ones((2, 4, 4)), tmp_path / "b.star", 1.0)
    with pytest.raises(ValueError, match=r"b\.star: .*this is an MRC file"):
        io.read_particles(tmp_path / "b.star")
    (tmp_path / "notes.cs").write_text("just a note")
    with pytest.raises(
        ValueError, match=r"notes\.cs, line 1: expected a data_ block of a STAR file, got 'just a note'"
    ):
        io.read_particles(tmp_path / "notes.cs")


def test_failed_writes_leave_nothing(tmp_path):
    particles = simulated(4)
    bad = np.array(particles.images)
    bad[2, 1, 1] = np.nan
    with pytest.raises(ValueError, match=r"p\.mrcs: section 3 of 4 has NaN"):
        io.write_particles(replace(particles, images=bad), tmp_path / "p.star")
    assert list(tmp_path.iterdir()) == []
    for column, message in (({"my col": "1"}, "p\\.star: the name of a column"), ({"rlnX": "a\nb"}, "line break")):
        table = pd.DataFrame(column, index=range(4))
        with pytest.raises(ValueError, match=message):
            io.write_particles(replace(particles, metadata=table), tmp_path / "p.star")
        assert list(tmp_path.iterdir()) == []
    io.write_particles(particles, tmp_path / "p.star")
    back = io.read_particles(tmp_path / "p.star")
    mixed = replace(back, ctf=replace(back.ctf, voltage_kv=np.array([300.0, 300, 200, 300])))
    with pytest.raises(ValueError, match="voltage_kv varies from 200 to 300 within optics group 1"):
        io.write_particles(mixed, tmp_path / "q.star")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.mrcs", "p.star"]
