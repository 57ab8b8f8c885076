"""cryoSPARC files: the reference's values, byte for byte back, images, passthrough files, and bad input."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import io
from cryonb.rotations import angular_distance
from cryonb.types import Particles, Poses


@pytest.fixture
def cs_file(shared_data):
    return shared_data / "stars" / "cryosparc_20" / "particles_20.cs.npy"


def test_cryosparc_values_against_reference(cs_file):
    particles = io.read_particles(cs_file, check_images=False)
    reference = np.load(cs_file.parent / "reference_values.npz")
    # The reference keeps RELION's matrix, the transpose of ours, and shifts as fractions of the box.
    matrices = particles.poses.rotation.as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(matrices, reference["rotations"], atol=1e-6)
    np.testing.assert_allclose(particles.poses.shift / particles.box_size, reference["translations"], atol=1e-6)
    names = ("defocus_u", "defocus_v", "defocus_angle", "voltage_kv", "cs_mm", "amplitude_contrast", "phase_shift")
    for column, name in enumerate(names, start=1):
        np.testing.assert_allclose(getattr(particles.ctf, name), reference["ctf"][:, column], rtol=1e-6)
    np.testing.assert_allclose(particles.pixel_size, reference["ctf"][:, 0], rtol=1e-6)
    assert particles.size_px == reference["D"]
    # Dark protein, blob/sign -1: pixels will be turned.
    assert particles.images.sign == -1


def test_cryosparc_round_trip_is_byte_for_byte(cs_file, tmp_path):
    particles = io.read_particles(cs_file, check_images=False)
    io.write_cryosparc(particles, tmp_path / "again.cs")
    assert (tmp_path / "again.cs").read_bytes() == cs_file.read_bytes()
    index = [4, 19, 0]
    io.write_cryosparc(particles[index], tmp_path / "some.cs")
    assert np.load(tmp_path / "some.cs").tobytes() == np.load(cs_file)[index].tobytes()
    io.write_selection(cs_file, index, tmp_path / "selected.cs")
    assert (tmp_path / "selected.cs").read_bytes() == (tmp_path / "some.cs").read_bytes()


def test_cryosparc_changed_nouns(cs_file, tmp_path):
    particles = io.read_particles(cs_file, check_images=False)
    turned = Poses(Rotation.random(20, rng=1), particles.poses.shift + 1.0)
    defocus = particles.ctf.defocus_u + 100 * (np.arange(20) == 3)
    changed = replace(particles, poses=turned, ctf=replace(particles.ctf, defocus_u=defocus))
    io.write_cryosparc(changed, tmp_path / "a.cs")
    back = io.read_particles(tmp_path / "a.cs", check_images=False)
    # float32 in the file.
    assert angular_distance(back.poses.rotation, turned.rotation).max() < 1e-4
    np.testing.assert_allclose(back.poses.shift, turned.shift, atol=1e-5)
    before, after = np.load(cs_file), np.load(tmp_path / "a.cs")
    same = [name for name in before.dtype.names if name not in ("alignments3D/pose", "alignments3D/shift")]
    different = [
        (name, row) for name in same for row in range(20) if before[name][row].tobytes() != after[name][row].tobytes()
    ]
    assert different == [("ctf/df1_A", 3)]


def test_cryosparc_images_passthrough_and_relion(cs_file, tmp_path):
    records = np.load(cs_file)
    records["blob/idx"], records["blob/shape"] = np.arange(20)[::-1] // 3, 16
    images = np.random.default_rng(0).normal(size=(7, 16, 16)).astype(np.float32)
    for name in np.unique(records["blob/path"]):
        path = tmp_path / name.decode().lstrip(">")
        path.parent.mkdir(parents=True, exist_ok=True)
        io.write_stack(images, path, 1.01)
    alignments = [name for name in records.dtype.names if name.startswith("alignments3D")]
    rest = [name for name in records.dtype.names if name not in alignments]
    np.save(tmp_path / "J751" / "main.npy", records[rest])
    # Another order, joined by uid.
    np.save(tmp_path / "J751" / "passthrough.npy", records[["uid", *alignments]][::-1])
    alone = io.read_particles(tmp_path / "J751" / "main.npy")
    assert alone.poses is None and alone.ctf is not None
    particles = io.read_particles(tmp_path / "J751" / "main.npy", passthrough=[tmp_path / "J751" / "passthrough.npy"])
    complete = io.read_particles(cs_file, check_images=False)
    assert angular_distance(particles.poses.rotation, complete.poses.rotation).max() == 0
    np.testing.assert_array_equal(np.asarray(particles.images), -images[records["blob/idx"]])
    io.write_particles(particles, tmp_path / "relion.star")
    back = io.read_particles(tmp_path / "relion.star")
    assert angular_distance(back.poses.rotation, particles.poses.rotation).max() < 3e-6
    np.testing.assert_allclose(back.poses.shift, particles.poses.shift, rtol=0, atol=1e-6)
    np.testing.assert_allclose(back.ctf.defocus_u, particles.ctf.defocus_u, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(back.images), np.asarray(particles.images))
    assert back.metadata["rlnMicrographName"].iloc[0].startswith("J435/imported/")


def test_cryosparc_bad_input(cs_file, tmp_path):
    records = np.load(cs_file)
    with pytest.raises(
        FileNotFoundError, match=r"particles_20\.cs\.npy, row \d+: stack file J751/extract/.* is not in"
    ):
        io.read_particles(cs_file)
    (tmp_path / "cut.cs").write_bytes(cs_file.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"cut\.cs: damaged or truncated"):
        io.read_particles(tmp_path / "cut.cs")
    np.save(tmp_path / "a.npy", records[["uid", "ctf/df1_A"]])
    with pytest.raises(ValueError, match=r"a\.npy: missing field blob/path \(groups: ctf, uid\)"):
        io.read_particles(tmp_path / "a.npy")
    impossible = records.copy()
    impossible["ctf/amp_contrast"][2] = 1.5
    np.save(tmp_path / "q.npy", impossible)
    with pytest.raises(ValueError, match=r"q\.npy, row 3: amplitude contrast must lie in \[0, 1\], got 1\.5"):
        io.read_particles(tmp_path / "q.npy", check_images=False)
    records["ctf/df2_A"][6] = np.nan
    np.save(tmp_path / "b.npy", records)
    with pytest.raises(ValueError, match=r"b\.npy, row 7: ctf/df2_A is nan"):
        io.read_particles(tmp_path / "b.npy", check_images=False)
    with pytest.raises(ValueError, match="do not come from a .cs file"):
        io.write_cryosparc(Particles(np.ones((2, 4, 4)), 1.0), tmp_path / "c.cs")
    assert not (tmp_path / "c.cs").exists()
