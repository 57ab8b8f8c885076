"""MRC files: every mode, either byte order, headers that lie, volumes and lazy stacks."""

import bz2
import gzip
import pickle

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cryonb import io
from cryonb.io.mrc import read_header
from cryonb.types import Micrograph, Volume

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 4: np.complex64, 6: np.uint16, 12: np.float16}


def reference_file(path, data, *, pixel_size=1.5, **header):
    """A file written by mrcfile, the independent authority."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data)
        file.voxel_size = pixel_size
        for name, value in header.items():
            setattr(file.header, name, value)
    return path


def big_endian(path):
    """The same file in the other byte order, converted by mrcfile."""
    with mrcfile.open(path) as file:
        header, extended, data = file.header.copy(), bytes(file.extended_header), np.array(file.data)
    header = header.astype(header.dtype.newbyteorder(">"))
    header["machst"] = [0x11, 0x11, 0, 0]
    path.write_bytes(header.tobytes() + extended + data.astype(data.dtype.newbyteorder(">")).tobytes())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("swap", [False, True])
def test_every_mode_in_either_byte_order_reads_as_mrcfile_does(tmp_path, mode, swap):
    values = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(MODES[mode])
    if mode == 4:
        values = values + 1j * values[::-1]
    path = reference_file(tmp_path / "a.mrc", values.astype(MODES[mode]))
    if swap:
        big_endian(path)
    data, header = io.read_mrc(path)
    assert data.dtype.newbyteorder("=") == MODES[mode]
    assert isinstance(data, np.memmap)
    np.testing.assert_array_equal(data, values)
    assert header.pixel_size == 1.5
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(data, file.data)


@pytest.mark.parametrize("mode", [0, 1, 2, 6, 12])
def test_lazy_stacks_read_every_real_mode_as_float32(tmp_path, mode):
    values = (np.arange(6 * 16).reshape(6, 4, 4) % 100).astype(MODES[mode])
    path = reference_file(tmp_path / "a.mrcs", values)
    images = np.asarray(io.read_stack(path)[[5, 0, 0]])
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, values[[5, 0, 0]])


def test_extended_headers_are_skipped(tmp_path):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.ones((4, 4, 4), dtype=np.float32) * np.arange(4, dtype=np.float32))
        file.set_extended_header(np.arange(1000, dtype=np.int16))
        file.voxel_size = 2.0
    assert read_header(path).offset == 1024 + 2000
    np.testing.assert_array_equal(io.read_volume(path).data[1, 2], [0, 1, 2, 3])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_volumes_and_stacks(tmp_path, pack):
    data = np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)
    io.write_volume(Volume(data, 2.0), tmp_path / "a.mrc")
    # The ending says nothing of the compression: content decides.
    (tmp_path / "packed.mrc").write_bytes(pack((tmp_path / "a.mrc").read_bytes()))
    np.testing.assert_array_equal(io.read_volume(tmp_path / "packed.mrc").data, data)
    np.testing.assert_array_equal(np.asarray(io.read_stack(tmp_path / "packed.mrc")[2:4]), data[2:4])
    (tmp_path / "cut.mrc").write_bytes(pack((tmp_path / "a.mrc").read_bytes())[:-20])
    with pytest.raises(ValueError, match=r"cut\.mrc: damaged compressed file"):
        io.read_volume(tmp_path / "cut.mrc")


def test_axis_order_origin_and_nstart(tmp_path):
    data = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    # Columns run along z, rows along y, sections along x: voxel [z, y, x] lies at [x, y, z] in the file.
    path = reference_file(tmp_path / "a.mrc", data, mapc=3, mapr=2, maps=1, nxstart=2, nystart=0, nzstart=-1)
    volume = io.read_volume(path)
    np.testing.assert_array_equal(volume.data, data.transpose(2, 1, 0))
    # NXSTART belongs to the columns, here z; starts are in voxels of 1.5 Å.
    np.testing.assert_allclose(volume.origin, [-1.5, 0.0, 3.0])
    origin = [1.0, -2.0, 3.5]
    io.write_volume(Volume(data, 1.5, origin=origin), tmp_path / "b.mrc")
    np.testing.assert_allclose(io.read_volume(tmp_path / "b.mrc").origin, origin)


def test_written_files_are_valid_for_mrcfile(tmp_path):
    data = np.random.default_rng(1).normal(size=(5, 6, 6)).astype(np.float32)
    io.write_stack(data, tmp_path / "stack.mrcs", 3.2)
    io.write_volume(Volume(np.pad(data, ((0, 1), (0, 0), (0, 0))), 3.2), tmp_path / "volume.mrc")
    io.write_micrograph(Micrograph(data[0], 3.2), tmp_path / "image.mrc")
    for name, stack, volume in (("stack.mrcs", True, False), ("volume.mrc", False, True), ("image.mrc", False, False)):
        assert mrcfile.validate(tmp_path / name)
        with mrcfile.open(tmp_path / name) as file:
            assert (file.is_image_stack(), file.is_volume()) == (stack, volume)
            assert file.voxel_size.x == pytest.approx(3.2)
    with mrcfile.open(tmp_path / "stack.mrcs") as file:
        np.testing.assert_array_equal(file.data, data)
        assert file.header.dmean == pytest.approx(data.mean(), abs=1e-6)
        assert file.header.rms == pytest.approx(data.std(), rel=1e-5)
    assert io.read_micrograph(tmp_path / "image.mrc").pixel_size == pytest.approx(3.2)


@settings(max_examples=40, deadline=None)
@given(
    data=st.sampled_from([np.int8, np.int16, np.uint16, np.float32, np.float16]).flatmap(
        lambda kind: arrays(
            kind,
            st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)),
            elements={"allow_nan": False, "allow_infinity": False} if np.dtype(kind).kind == "f" else None,
        )
    ),
    pixel_size=st.floats(0.125, 50, width=32),
    is_stack=st.booleans(),
)
def test_any_array_survives_the_round_trip(tmp_path_factory, data, pixel_size, is_stack):
    path = tmp_path_factory.getbasetemp() / "round.mrc"
    io.write_mrc(data, path, pixel_size=pixel_size, is_stack=is_stack)
    back, header = io.read_mrc(path)
    assert back.dtype == data.dtype
    np.testing.assert_array_equal(back, data)
    assert header.pixel_size == pytest.approx(pixel_size, rel=1e-6)


@pytest.fixture
def three_files(tmp_path):
    """Images whose pixels are 100·file + section."""
    paths = []
    for number, count in enumerate((4, 7, 2)):
        values = 100.0 * number + np.arange(count)[:, None, None] * np.ones((8, 8))
        paths.append(tmp_path / f"{number}.mrcs")
        io.write_stack(values, paths[-1], 2.0)
    return paths


def test_stack_over_several_files(three_files):
    file_of_image = np.array([0, 1, 2, 1, 0, 1, 1])
    position = np.array([3, 0, 1, 6, 0, 1, 2])
    stack = io.ImageStack(three_files, file_of_image, position)
    truth = 100.0 * file_of_image + position
    assert stack.shape == (7, 8, 8) and stack.dtype == np.float32 and stack.pixel_size == 2.0 and len(stack) == 7
    assert stack[2].shape == (8, 8) and stack[-1][0, 0] == truth[-1]
    for index in (slice(1, 6, 2), [6, 0, 3, 3], np.array([True, False] * 3 + [True]), np.arange(7)[::-1], []):
        part = stack[index]
        assert isinstance(part, io.ImageStack)
        np.testing.assert_array_equal(np.asarray(part)[:, 4, 4], truth[np.arange(7)[index]])
    np.testing.assert_array_equal(stack[1:][[0, 2]].read([1])[:, 0, 0], truth[[3]])
    assert stack.location(2).endswith("2.mrcs") and stack.location(2).startswith("000002@")
    with pytest.raises(IndexError):
        stack[7]


def test_stack_pickles_as_paths_not_pixels(three_files):
    stack = io.read_stack(three_files[1])
    content = pickle.dumps(stack)
    assert len(content) < stack.nbytes / 2
    np.testing.assert_array_equal(np.asarray(pickle.loads(content)), np.asarray(stack))


def test_sign_turns_dark_protein_bright(three_files):
    stack = io.ImageStack(three_files, [0, 1], [1, 1], sign=[1, -1])
    assert np.asarray(stack)[:, 0, 0].tolist() == [1.0, -101.0]
    assert np.asarray(stack[1:])[:, 0, 0].tolist() == [-101.0]


def test_odd_and_single_pixel_boxes(tmp_path):
    for size in (1, 7):
        io.write_stack(np.full((1, size, size), 2.5), tmp_path / "a.mrcs", 1.0)
        assert np.asarray(io.read_stack(tmp_path / "a.mrcs")).tolist() == np.full((1, size, size), 2.5).tolist()


def test_a_box_that_is_no_cube_is_refused_or_filled_up(tmp_path):
    io.write_mrc(np.ones((3, 4, 5), dtype=np.float32), tmp_path / "a.mrc", pixel_size=2.0, origin=(1, 2, 3))
    with pytest.raises(ValueError, match=r"a\.mrc: a volume is a cube, got 3 × 4 × 5 voxels; pad=True"):
        io.read_volume(tmp_path / "a.mrc")
    padded = io.read_volume(tmp_path / "a.mrc", pad=True)
    assert padded.size_px == 5 and padded.data.sum() == 60 and padded.data[2, 3, 4] == 1
    assert padded.origin.tolist() == [1, 2, 3]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [io.read_volume, io.read_stack, io.read_mrc])
def test_truncated_file(tmp_path, reader):
    path = tmp_path / "cut.mrc"
    io.write_volume(Volume(np.ones((8, 8, 8)), 1.0), path)
    path.write_bytes(path.read_bytes()[:-100])
    # 1024 + 8³·4 bytes promised, 100 missing.
    with pytest.raises(ValueError, match=r"cut\.mrc: truncated: .* 8 × 8 × 8 .* 3,072 bytes, the file has 2,972 bytes"):
        reader(path)


def test_header_that_promises_too_many_sections(tmp_path):
    path = tmp_path / "lies.mrcs"
    io.write_stack(np.ones((3, 4, 4)), path, 1.0)
    content = bytearray(path.read_bytes())
    content[8:12] = np.int32(2_000_000_000).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lies\.mrcs: truncated: .*2000000000 × 4 × 4"):
        io.read_stack(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(12, 3, "MRC mode 3 is not one of"), (0, -5, "shape"), (92, -8, "extended header -8"), (64, 7, "MAPC")],
)
def test_damaged_headers(tmp_path, offset, value, message):
    path = tmp_path / "bad.mrc"
    io.write_volume(Volume(np.ones((4, 4, 4)), 1.0), path)
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = np.int32(value).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        io.read_volume(path)
    assert "bad.mrc" in str(error.value)


@pytest.mark.filterwarnings("ignore:Data array contains NaN:RuntimeWarning")
def test_nan_is_named_by_file_and_image(tmp_path):
    data = np.zeros((40, 8, 8), dtype=np.float32)
    data[28, 3, 4] = np.nan
    path = reference_file(tmp_path / "nan.mrcs", data)
    stack = io.read_stack(path)
    assert np.asarray(stack[:28]).shape == (28, 8, 8)
    with pytest.raises(ValueError, match=r"nan\.mrcs: image 29 has NaN or infinite pixels \(1 of 64\)"):
        np.asarray(stack)
    with pytest.raises(ValueError, match=r"nan\.mrcs: image 29"):
        stack[28]
    with pytest.raises(ValueError, match=r"nan\.mrc: voxel \(1, 2, 3\) is nan"):
        bad = np.zeros((4, 4, 4), dtype=np.float32)
        bad[1, 2, 3] = np.nan
        io.read_volume(reference_file(tmp_path / "nan.mrc", bad))


def test_missing_pixel_size_is_an_error_or_given(tmp_path):
    path = reference_file(tmp_path / "a.mrc", np.ones((4, 4, 4), dtype=np.float32), pixel_size=0)
    with pytest.raises(ValueError, match=r"a\.mrc: the header gives no pixel size \(0 Å\); pass voxel_size="):
        io.read_volume(path)
    assert io.read_volume(path, voxel_size=4.2).voxel_size == 4.2
    path = reference_file(tmp_path / "b.mrc", np.ones((4, 4), dtype=np.float32), pixel_size=0)
    with pytest.raises(ValueError, match="pass pixel_size="):
        io.read_micrograph(path)
    assert io.read_micrograph(path, pixel_size=0.9).pixel_size == 0.9


def test_voxels_that_are_no_cubes(tmp_path):
    path = reference_file(tmp_path / "a.mrc", np.ones((4, 4, 4), dtype=np.float32), pixel_size=(1.0, 1.0, 1.3))
    with pytest.raises(ValueError, match=r"voxels are not cubes: 1 × 1 × 1\.3 Å"):
        io.read_volume(path)


def test_text_with_the_wrong_ending(tmp_path):
    (tmp_path / "a.mrc").write_text("data_particles\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n")
    with pytest.raises(ValueError, match=r"a\.mrc: expected an MRC file, but the content looks like 'star'"):
        io.read_volume(tmp_path / "a.mrc")
    (tmp_path / "b.mrcs").write_bytes(b"")
    with pytest.raises(ValueError, match=r"b\.mrcs: .*'empty', and only 0 bytes"):
        io.read_stack(tmp_path / "b.mrcs")
    with pytest.raises(FileNotFoundError, match=r"gone\.mrc"):
        io.read_volume(tmp_path / "gone.mrc")


def test_stack_file_that_goes_away_after_opening(three_files):
    stack = io.read_stack(three_files[0])
    three_files[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.mrcs"):
        np.asarray(stack)


def test_different_boxes_and_positions_past_the_end(tmp_path, three_files):
    io.write_stack(np.ones((3, 6, 6)), tmp_path / "small.mrcs", 2.0)
    with pytest.raises(ValueError, match=r"small\.mrcs: box of 6 px, but 8 px in .*0\.mrcs"):
        io.ImageStack([three_files[0], tmp_path / "small.mrcs"], [0, 1], [0, 0])
    with pytest.raises(ValueError, match=r"0\.mrcs: image 5 asked for \(row 2\), the file has 4"):
        io.ImageStack(three_files, [0, 0, 0], [0, 4, 8])


@pytest.mark.parametrize("data", [np.full((3, 4, 4), np.nan), np.ones((2, 4, 5)), np.ones((0, 4, 4))])
def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path, data):
    path = tmp_path / "a.mrcs"
    path.write_text("what was there")
    with pytest.raises(ValueError, match="cannot write"):
        io.write_stack(data, path, 1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mrcs"] and path.read_text() == "what was there"


def test_a_write_interrupted_in_the_middle_leaves_nothing(tmp_path):
    class Breaks:
        shape, dtype = (10_000, 64, 64), np.dtype(np.float32)

        def __getitem__(self, index):
            if index.start > 0:
                raise KeyboardInterrupt
            return np.zeros((index.stop, 64, 64), dtype=np.float32)

    with pytest.raises(KeyboardInterrupt):
        io.write_stack(Breaks(), tmp_path / "a.mrcs", 1.0)
    assert list(tmp_path.iterdir()) == []


# Real data -----------------------------------------------------------------------------------------------------------


def test_real_volumes_and_micrographs(shared_data):
    for part in ("30S", "50S"):
        # The README of the data states 5 Å.
        assert io.read_volume(shared_data / "ribosome" / f"4v4r_{part}.mrc.gz").voxel_size == 5.0
    micrograph = io.read_micrograph(shared_data / "micrographs" / "epu2.9_example.mrc.gz")
    assert micrograph.data.shape == (4096, 4096)
    # The README of the data states 0.6667 Å.
    assert micrograph.pixel_size == pytest.approx(0.6667, abs=2e-4)
    image = next((shared_data / "micrographs" / "bgal_10017").glob("*.jpg"))
    assert io.read_micrograph(image, pixel_size=1.77).data.shape == (4096, 4096)
    with pytest.raises(ValueError, match="pass pixel_size="):
        io.read_micrograph(image)
