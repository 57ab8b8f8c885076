"""STAR files as text tables: nothing lost, quick, and errors that name the row."""

import bz2
import gzip

import gemmi
import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cryonb import io
from cryonb.io.star import column_numbers

FILES = ["postprocess.star", "relion30.star", "relion31.6opticsgroups.star", "relion31.star", "relion5.star"]

SAMPLE = """
# version 30001

data_general

_rlnFinalResolution    16.363636
_rlnMaskName           "my mask.mrc"   # quoted
_rlnEmpty              ""

# version 30001
# a second comment

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
 1 'first light' 300.000000
 2 ""            2.0e+02

data_particles

loop_
_rlnImageName #1
_rlnDefocusU #2
_rlnOpticsGroup #3
   000001@a.mrcs    13108.082418      1
# a comment among the rows
   000002@a#b.mrcs  -0.250000         2  # and behind one
\t3@data_3.mrcs\t1E+04\t1\r

   4@c.mrcs 0.10 2
"""


def tokens(path):
    """Every value of a STAR file in order, without comments, padding and the numbers behind labels."""
    found = []
    for line in path.read_text().splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            found += words[:1] if words[0].startswith("_") and words[1:2] and words[1].startswith("#") else words
    return found


def test_comments_quotes_blanks_and_both_kinds_of_block(tmp_path):
    (tmp_path / "a.star").write_text(SAMPLE)
    tables = io.read_star(tmp_path / "a.star")
    assert list(tables) == ["general", "optics", "particles"]
    assert tables["general"].iloc[0].to_dict() == {
        "rlnFinalResolution": "16.363636",
        "rlnMaskName": "my mask.mrc",
        "rlnEmpty": "",
    }
    assert tables["optics"]["rlnOpticsGroupName"].tolist() == ["first light", ""]
    assert tables["optics"].attrs["comments"] == ["# version 30001", "# a second comment"]
    particles = tables["particles"]
    assert particles.columns.tolist() == ["rlnImageName", "rlnDefocusU", "rlnOpticsGroup"]
    assert particles["rlnImageName"].tolist() == ["000001@a.mrcs", "000002@a#b.mrcs", "3@data_3.mrcs", "4@c.mrcs"]
    assert particles["rlnDefocusU"].tolist() == ["13108.082418", "-0.250000", "1E+04", "0.10"]
    io.write_star(tables, tmp_path / "b.star")
    again = io.read_star(tmp_path / "b.star")
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table)
        assert again[name].attrs["is_loop"] == table.attrs["is_loop"]


@pytest.mark.parametrize("name", FILES)
def test_real_files_come_back_token_by_token(shared_data, tmp_path, name):
    original = shared_data / "stars" / name
    io.write_star(io.read_star(original), tmp_path / "again.star")
    assert tokens(tmp_path / "again.star") == tokens(original)


@pytest.mark.parametrize("name", FILES)
def test_real_files_agree_with_starfile(shared_data, name):
    ours = io.read_star(shared_data / "stars" / name, numeric=True)
    theirs = starfile.read(shared_data / "stars" / name, always_dict=True)
    assert list(ours) == list(theirs)
    for block, table in theirs.items():
        if isinstance(table, dict):
            assert ours[block].iloc[0].to_dict() == table
        else:
            pd.testing.assert_frame_equal(ours[block], table, check_dtype=False)


def test_quoting_agrees_with_gemmi(tmp_path):
    (tmp_path / "a.star").write_text(SAMPLE)
    ours = io.read_star(tmp_path / "a.star")
    for block in gemmi.cif.read_string(SAMPLE):
        for label in ours[block.name].columns:
            theirs = [gemmi.cif.as_string(value) for value in block.find_values(f"_{label}")]
            assert ours[block.name][label].tolist() == theirs


values = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12).filter(
    lambda text: not (any(f"{mark} " in text + " " for mark in "'") and any(f"{mark} " in text + " " for mark in '"'))
)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(values, min_size=width, max_size=width), min_size=1, max_size=5)
)


@settings(max_examples=80, deadline=None)
@given(rows=tables, is_loop=st.booleans())
def test_any_text_survives_the_round_trip(tmp_path_factory, rows, is_loop):
    path = tmp_path_factory.getbasetemp() / "any.star"
    table = pd.DataFrame(rows, columns=[f"rlnColumn{i}" for i in range(len(rows[0]))], dtype="str")
    table.attrs["is_loop"] = is_loop
    io.write_star({"any": table, "more": table}, path)
    for back in io.read_star(path).values():
        assert back.to_numpy().tolist() == rows


# What is syntax in CIF unless it is quoted, alone and with more behind it.
words = st.sampled_from(
    ["stop_", "save_x", "global_", "data_x", "loop_", "$a", "_x", "#x", "'x", '"x', ";x", "[x]", "]"]
)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
syntax = st.builds(lambda word, more, up: (word.upper() if up else word) + more, words, printable | st.just(""),
                   st.booleans()) | printable  # fmt: skip
syntax = syntax.filter(lambda text: not ("' " in text + " " and '" ' in text + " "))
syntax_tables = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(syntax, min_size=width, max_size=width), min_size=1, max_size=4)
)


@settings(max_examples=200, deadline=None)
@given(rows=syntax_tables, is_loop=st.booleans())
def test_gemmi_reads_the_values_that_we_write(tmp_path_factory, rows, is_loop):
    path = tmp_path_factory.getbasetemp() / "syntax.star"
    table = pd.DataFrame(rows, columns=[f"rlnColumn{i}" for i in range(len(rows[0]))], dtype="str")
    table.attrs["is_loop"] = is_loop
    io.write_star({"any": table}, path)
    block = gemmi.cif.read(str(path)).sole_block()
    for name in table:
        # A bare . or ? stays bare: as_string would make "" of what CIF calls "does not apply" and "unknown".
        found = [text if text in ".?" else gemmi.cif.as_string(text) for text in block.find_values(f"_{name}")]
        assert found == table[name].tolist()
    assert io.read_star(path)["any"].to_numpy().tolist() == rows


@pytest.mark.parametrize("value", ["stop_", "SAVE_x", "global_", "data_x", "loop_", "$a", "_x", "#", "'", '"a', "[x]"])
def test_syntax_in_any_column_is_quoted(tmp_path, value):
    table = pd.DataFrame({"rlnA": ["s.mrcs", "d"], "rlnB": ["l", value], "rlnC": ["g", "1"]}, dtype="str")
    io.write_star({"any": table}, tmp_path / "a.star")
    column = gemmi.cif.read(str(tmp_path / "a.star")).sole_block().find_values("_rlnB")
    assert [gemmi.cif.as_string(text) for text in column] == ["l", value]
    assert io.read_star(tmp_path / "a.star")["any"].to_numpy().tolist() == table.to_numpy().tolist()


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_numbers_written_by_us_read_back_the_same(tmp_path_factory, numbers):
    path = tmp_path_factory.getbasetemp() / "numbers.star"
    table = pd.DataFrame({"rlnValue": numbers, "rlnClassNumber": np.arange(len(numbers))})
    io.write_star({"particles": table}, path)
    back = io.read_star(path)["particles"]
    assert column_numbers(back, "rlnValue").tolist() == numbers
    assert back["rlnClassNumber"].tolist() == [str(i) for i in range(len(numbers))]


def test_chunks_meet_without_loss(tmp_path, monkeypatch):
    # Chunks of a few lines instead of 4 MiB, so that rows, comments and blocks fall on every kind of border.
    rows = [
        f"{i:06d}@stack.mrcs {i * 0.5:.6f} 'name {i}'" if i % 7 == 3 else f"{i}@s.mrcs {i}.0 name" for i in range(300)
    ]
    text = "data_particles\n\nloop_\n_rlnImageName\n_rlnX\n_rlnName\n" + "\n".join(rows) + "\n\n# c\ndata_b\n_rlnY 3\n"
    (tmp_path / "a.star").write_text(text)
    whole = io.read_star(tmp_path / "a.star")
    for size in (40, 200, 1001):
        monkeypatch.setattr("cryonb.io.star_rows._CHUNK_BYTES", size)
        for name, table in io.read_star(tmp_path / "a.star").items():
            pd.testing.assert_frame_equal(table, whole[name])
    assert len(whole["particles"]) == 300 and whole["b"]["rlnY"].tolist() == ["3"]
    monkeypatch.setattr("cryonb.io.star._ROWS_PER_WRITE", 7)
    io.write_star(whole, tmp_path / "b.star")
    pd.testing.assert_frame_equal(io.read_star(tmp_path / "b.star")["particles"], whole["particles"])


def test_one_column_and_no_last_line_break(tmp_path):
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnMicrographName\na.mrc\n_c.mrc\n'data_x'\nd.mrc")
    assert io.read_star(tmp_path / "a.star")[""]["rlnMicrographName"].tolist() == ["a.mrc", "_c.mrc", "data_x", "d.mrc"]


def test_selection_keeps_rows_byte_for_byte(shared_data, tmp_path):
    original = shared_data / "stars" / "relion31.6opticsgroups.star"
    index = np.array([138, 0, 17])
    io.write_selection(original, index, tmp_path / "some.star")
    lines = original.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b"Polish/" in line and b"@" in line)
    expected = b"".join([*lines[:first], *(lines[first + i] for i in index), *lines[first + 139 :]])
    assert (tmp_path / "some.star").read_bytes() == expected
    mask = np.arange(139) % 2 == 0
    io.write_selection(original, mask, tmp_path / "half.star")
    half = io.read_star(tmp_path / "half.star")["particles"]
    whole = io.read_star(original)["particles"]
    assert half.to_numpy().tolist() == whole[mask].to_numpy().tolist()
    io.write_selection(original, slice(None), tmp_path / "all.star")
    assert (tmp_path / "all.star").read_bytes() == original.read_bytes()
    io.write_selection(original, [], tmp_path / "none.star")
    assert len(io.read_star(tmp_path / "none.star")["particles"]) == 0


def test_selection_of_rows_with_comments_and_of_wrong_rows(tmp_path):
    (tmp_path / "a.star").write_text(SAMPLE)
    io.write_selection(tmp_path / "a.star", [3, 1], tmp_path / "b.star")
    chosen = io.read_star(tmp_path / "b.star")
    assert chosen["particles"]["rlnImageName"].tolist() == ["4@c.mrcs", "000002@a#b.mrcs"]
    assert chosen["general"]["rlnMaskName"].tolist() == ["my mask.mrc"]
    with pytest.raises(IndexError, match=r"a\.star: the file has 4 particles"):
        io.write_selection(tmp_path / "a.star", [4], tmp_path / "c.star")
    with pytest.raises(IndexError, match=r"the mask has shape \(3,\), the file has 4"):
        io.write_selection(tmp_path / "a.star", [True, False, True], tmp_path / "c.star")
    assert not (tmp_path / "c.star").exists()


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"bad\.star: empty file, expected a STAR file"),
        ("# version 30001\n\n", r"bad\.star: no data_ block found"),
        ("rot tilt psi\n1 2 3\n", r"bad\.star, line 1: expected a data_ block of a STAR file, got 'rot tilt psi'"),
        ("data_a\nloop_\n_rlnX\n_rlnY\n1 2\n3\n", r"row 2 of data_a \(line 6\): expected 2 values, got 1"),
        ("data_a\nloop_\n_rlnX\n_rlnY\n1 2\n\n'3 4' 5 6\n", r"row 2 of data_a \(line 7\): expected 2 values, got 3"),
        ("data_a\n_rlnX 1\ndata_a\n_rlnX 2\n", r"line 3: block data_a again, first in line 1"),
        ("data_a\nloop_\n_rlnX\n_rlnX\n1 2\n", r"line 4: label _rlnX twice"),
        ("data_a\n1 2 3\n", r"line 2: expected a label or loop_, got '1 2 3'"),
        ("data_a\nloop_\n_rlnX\n1\nloop_\n_rlnY\n2\n", r"line 5: a second table in block data_a"),
    ],
)
def test_broken_star_files(tmp_path, text, message):
    (tmp_path / "bad.star").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        io.read_star(tmp_path / "bad.star")
    assert "bad.star" in str(error.value)


def test_a_million_bytes_of_something_else(tmp_path):
    (tmp_path / "bad.star").write_bytes(bytes(range(256)) * 16)
    with pytest.raises(ValueError, match=r"bad\.star: expected a STAR file, but the content looks like 'binary'"):
        io.read_star(tmp_path / "bad.star")
    io.write_stack(np.ones((2, 4, 4)), tmp_path / "stack.star", 1.0)
    with pytest.raises(ValueError, match=r"looks like 'mrc'"):
        io.read_star(tmp_path / "stack.star")
    with pytest.raises(FileNotFoundError, match=r"gone\.star: there is no such file"):
        io.read_star(tmp_path / "gone.star")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        io.read_star(tmp_path)


@pytest.mark.parametrize(
    ("before", "raw", "line"),
    [("", "_rlnX\n1\n2\né\n", 6), ("", "_rlnX\n'1 2'\n'é'\n", 5), ("# é\n", "_rlnX\n1\n", 1), ("", "_é\n1\n", 3)],
)
def test_text_that_is_not_utf8_is_placed(tmp_path, before, raw, line):
    (tmp_path / "bad.star").write_bytes(f"{before}data_a\nloop_\n{raw}".encode("latin-1"))
    for reader in (io.read_star, io.describe):
        with pytest.raises(ValueError, match=rf"bad\.star, line {line}: expected UTF-8 text, got the byte 0xe9"):
            reader(tmp_path / "bad.star")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_star_files(tmp_path, monkeypatch, compress):
    plain, packed = tmp_path / "a.star", tmp_path / "a.star.gz"
    plain.write_text(SAMPLE)
    packed.write_bytes(compress(SAMPLE.encode()))
    assert io.detect_format(packed) == "star"
    assert io.describe(packed).split(":", 1)[1] == io.describe(plain).split(":", 1)[1]
    monkeypatch.setattr("cryonb.io.star_rows._CHUNK_BYTES", 40)
    for name, table in io.read_star(packed).items():
        pd.testing.assert_frame_equal(table, io.read_star(plain)[name])
    line = SAMPLE.splitlines().index(" 1 'first light' 300.000000") + 1
    with pytest.raises(ValueError, match=rf"row 1 of data_optics \(line {line}\): .* is 'first light', expected"):
        column_numbers(io.read_star(packed)["optics"], "rlnOpticsGroupName", path=packed)
    for file in (plain, packed):
        io.write_selection(file, [3, 1], file.with_suffix(".some"))
    assert (tmp_path / "a.some").read_bytes() == (tmp_path / "a.star.some").read_bytes()
    big = SAMPLE + "".join(f"{i * 7919 % 1009}@x.mrcs {i * 104729 % 7351} 1\n" for i in range(5000))
    packed.write_bytes(compress(big.encode())[:-30])
    for reader in (io.read_star, io.describe):
        with pytest.raises(ValueError, match=r"a\.star\.gz: damaged compressed file"):
            reader(packed)


def test_columns_that_are_no_numbers(tmp_path):
    (tmp_path / "a.star").write_text(SAMPLE.replace("-0.250000", "unknown"))
    table = io.read_star(tmp_path / "a.star")["particles"]
    line = SAMPLE.splitlines().index("   000002@a#b.mrcs  -0.250000         2  # and behind one") + 1
    where = rf"{tmp_path / 'a.star'}, row 2 of data_particles \(line {line}\)"
    with pytest.raises(ValueError, match=rf"{where}: rlnDefocusU is 'unknown', expected a finite number"):
        column_numbers(table, "rlnDefocusU", path=tmp_path / "a.star")
    # The row keeps its number in a selection.
    with pytest.raises(ValueError, match=rf"row 2 of data_particles \(line {line}\)"):
        column_numbers(table.iloc[[3, 1]], "rlnDefocusU", path="a")
    with pytest.raises(ValueError, match="missing column rlnVoltage; there are rlnImageName, rlnDefocusU"):
        column_numbers(table, "rlnVoltage", path="a")


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("my table", ["rlnX"], r"a\.star: the name of a table .* no blanks .*, got 'my table'"),
        ("a", ["rlnX", "my col"], r"a\.star: the name of a column .* no blanks .*, got 'my col'"),
        ("a", ["rlnX", "my\tcol"], r"name of a column"),
        ("a", ["rlnX", ""], r"not empty, got ''"),
        ("a", ["rlnX", "rlnX"], r"column 'rlnX' is 2 times in table 'a', expected once"),
    ],
)
def test_names_that_star_cannot_hold_leave_no_file(tmp_path, table, columns, message):
    with pytest.raises(ValueError, match=message):
        io.write_star({table: pd.DataFrame([["1"] * len(columns)], columns=columns)}, tmp_path / "a.star")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["two\nlines", "' \" both"])
def test_values_that_star_cannot_hold_leave_no_file(tmp_path, value):
    with pytest.raises(ValueError, match="a STAR value cannot hold"):
        io.write_star({"a": pd.DataFrame({"rlnX": ["fine", value + " "]})}, tmp_path / "a.star")
    assert list(tmp_path.iterdir()) == []
