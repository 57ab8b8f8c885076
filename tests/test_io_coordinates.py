"""Coordinates to and from RELION, EMAN and cryoSPARC."""

import numpy as np
import pandas as pd
import pytest

from cryonb import io


@pytest.fixture
def table():
    return pd.DataFrame({"micrograph": "m1.mrc", "x": [100.0, 250.5], "y": [40.25, 900.0], "score": [2.5, 1.0]})


def test_star_is_lossless(table, tmp_path):
    io.write_coordinates(table, tmp_path / "a.star")
    pd.testing.assert_frame_equal(io.read_coordinates(tmp_path / "a.star"), table, check_dtype=False)


def test_box_rounds_to_pixels_and_takes_the_files_name(table, tmp_path):
    io.write_coordinates(table, tmp_path / "m1_autopick.box", box_px=64)
    assert (tmp_path / "m1_autopick.box").read_text().splitlines()[0] == "68\t8\t64\t64"
    back = io.read_coordinates(tmp_path / "m1_autopick.box")
    assert back["micrograph"].tolist() == ["m1", "m1"]
    np.testing.assert_allclose(back[["x", "y"]], table[["x", "y"]], atol=0.5)


def test_cryosparc_fractions(table, tmp_path):
    io.write_coordinates(table, tmp_path / "a.cs", shape=(1000, 500))
    records = np.load(tmp_path / "a.cs")
    np.testing.assert_allclose(records["location/center_x_frac"], [0.2, 0.501])
    back = io.read_coordinates(tmp_path / "a.cs")
    np.testing.assert_allclose(back[["x", "y", "score"]], table[["x", "y", "score"]], atol=1e-4)
    assert back["micrograph"].tolist() == ["m1.mrc", "m1.mrc"]


def test_relions_file_without_a_name_of_its_block(tmp_path):
    path = tmp_path / "m7_manualpick.star"
    path.write_text("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n  10.0  20.0\n")
    assert io.read_coordinates(path).to_numpy().tolist() == [["m7", 10.0, 20.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.box", "1 2 3\n", "line 1: expected x, y, width"),
        ("a.box", "1 2 x 4\n", "line 1"),
        ("a.star", "data_\n\nloop_\n_rlnVoltage #1\n300\n", "no table with rlnCoordinateX"),
    ],
)
def test_bad_files_are_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        io.read_coordinates(tmp_path / name)


def test_no_picks_are_no_rows(tmp_path):
    (tmp_path / "none.box").write_text("")
    assert len(io.read_coordinates(tmp_path / "none.box")) == 0


def test_what_a_format_needs_is_asked_for(table, tmp_path):
    for name, message in (("a.box", "box_px"), ("a.cs", "shape"), ("a.txt", ".star, .box or .cs")):
        with pytest.raises(ValueError, match=message):
            io.write_coordinates(table, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_y_of_cryosparc_is_inverted_where_asked(table, tmp_path):
    """There and back either way; read the other way, y counts from the other end."""
    for invert in (False, True):
        io.write_coordinates(table, tmp_path / "a.cs", shape=(1000, 500), invert_y=invert)
        same, other = (io.read_coordinates(tmp_path / "a.cs", invert_y=how) for how in (invert, not invert))
        np.testing.assert_allclose(same[["x", "y"]], table[["x", "y"]], atol=1e-3)
        np.testing.assert_allclose(other["y"], 1000 - table["y"], atol=1e-3)
        np.testing.assert_allclose(other["x"], table["x"], atol=1e-3)


def test_the_box_of_a_cryosparc_pick_holds_what_was_picked(tmp_path):
    """One dark pixel, its coordinates through a .cs file, its box: it lies on the centre."""
    from cryonb import picking
    from cryonb.types import Micrograph

    data = np.random.default_rng(0).normal(scale=0.01, size=(80, 100))
    data[22, 61] -= 100
    spot = pd.DataFrame({"micrograph": ["m.mrc"], "x": [61.0], "y": [22.0], "score": [1.0]})
    io.write_coordinates(spot, tmp_path / "a.cs", shape=data.shape)
    back = io.read_coordinates(tmp_path / "a.cs")
    picks = picking.Picks(back[["x", "y"]].to_numpy(), back["score"].to_numpy(), 2.0, 10.0)
    image = picking.extract(Micrograph(data, 2.0), picks, 16)[0].images[0]
    assert np.unravel_index(image.argmax(), image.shape) == (8, 8)
