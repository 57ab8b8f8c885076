"""Atomic models, and what `describe` says of every kind of file."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import io
from cryonb.types import CTF, Particles, Poses, Volume


def test_models(shared_data, tmp_path):
    path = next((shared_data / "models" / "bm5").glob("*_unbound.pdb.gz"))
    model = io.read_model(path)
    for name in ("a.cif", "a.pdb"):
        io.write_model(model, tmp_path / name)
        back = io.read_model(tmp_path / name)
        assert len(back) == len(model) > 100
        np.testing.assert_allclose(back.coordinates, model.coordinates, atol=1e-6)
        assert back.residue_names.tolist() == model.residue_names.tolist()
    with pytest.raises(ValueError, match=r"expected the ending \.pdb or \.cif, got '\.xyz'"):
        io.write_model(model, tmp_path / "a.xyz")
    (tmp_path / "b.pdb").write_text("HEADER    EMPTY\nEND\n")
    with pytest.raises(ValueError, match=r"b\.pdb: a pdb file without atoms"):
        io.read_model(tmp_path / "b.pdb")
    (tmp_path / "c.cif").write_text("hello")
    with pytest.raises(ValueError, match=r"c\.cif: expected a PDB or mmCIF file, but the content looks like 'text'"):
        io.read_model(tmp_path / "c.cif")


def test_a_pdb_file_that_numbers_its_lines(tmp_path):
    """Columns 73 to 80 of files from before 1996; 77 to 80 are read as element and charge now."""
    lines = [
        "ATOM   6585  N   LYS B   1      22.665  10.368  64.050  1.00 46.19      B   6932",
        "ATOM   6586  CA  LYS B   1      21.471   9.727  64.662  1.00 46.87      B   6923",
    ]
    (tmp_path / "old.pdb").write_text("\n".join([*lines, "END", ""]))
    with pytest.warns(UserWarning, match=r"old\.pdb: columns 73 to 80"):
        model = io.read_model(tmp_path / "old.pdb")
    assert [atom.element.name for atom in model.structure[0][0][0]] == ["N", "C"]
    assert model.coordinates[1].tolist() == [21.471, 9.727, 64.662]


def test_the_whole_ribosome(shared_data):
    model = io.read_model(shared_data / "ribosome" / "6zu5.cif.gz")
    # The README of the data: 165,175 atoms, 74 chains.
    assert len(model) == 165_175 and len(model.structure[0]) == 74


def test_describe(tmp_path):
    ctf, poses = CTF(np.full(12, 1.5e4), 1.2e4), Poses(Rotation.identity(12))
    io.write_particles(Particles(np.zeros((12, 8, 8)), 2.0, ctf=ctf, poses=poses), tmp_path / "p.star")
    text = io.describe(tmp_path / "p.star")
    assert "STAR file of 12 particles, with optics groups" in text
    for fact in (
        "pixel size          2 Å",
        "box size            8 px",
        "voltage             300 kV",
        "orientations        yes",
    ):
        assert fact in text
    os.remove(tmp_path / "p.mrcs")
    assert "missing             1 of these stacks, the first p.mrcs" in io.describe(tmp_path / "p.star")
    io.write_volume(Volume(np.ones((6, 6, 6)), 1.5, origin=[1, 2, 3]), tmp_path / "v.mrc")
    assert "a volume of 6 × 6 × 6 voxels" in io.describe(tmp_path / "v.mrc")
    assert "origin      (1, 2, 3) Å" in io.describe(tmp_path / "v.mrc")
    (tmp_path / "n.mrc").write_text("shopping list")
    with pytest.raises(ValueError, match=r"n\.mrc: text \(13 bytes\), not a file that cryonb reads"):
        io.describe(tmp_path / "n.mrc")
    with pytest.raises(FileNotFoundError):
        io.describe(tmp_path / "gone.star")


def test_describe_real_files(shared_data):
    text = {path.name: io.describe(path) for path in (shared_data / "stars").glob("*.star")}
    assert "6 groups" in text["relion31.6opticsgroups.star"] and "1.24, 1.25 Å" in text["relion31.6opticsgroups.star"]
    assert "without optics groups" in text["relion30.star"] and "without particles" in text["postprocess.star"]
    assert "20 particles" in io.describe(shared_data / "stars" / "cryosparc_20" / "particles_20.cs.npy")


def test_importing_the_room_is_light():
    heavy = ("pandas", "mrcfile", "gemmi", "pyarrow", "starfile")
    code = f"import sys, cryonb.io; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
