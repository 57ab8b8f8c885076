"""MRC files: volumes and micrographs to and from nouns, and the header that lazy stacks read.

Headers, byte order, modes and compression are ``mrcfile``'s [1]_; what is added here is checking (size of the file
against its header, pixel size, NaN), axis order, origin, and writing that leaves the whole file or nothing.

.. [1] Burnley, Palmer & Winn, Acta Cryst. D73, 469 (2017); MRC2014: Cheng et al., J. Struct. Biol. 192, 146 (2015).
"""

from dataclasses import dataclass

import numpy as np

from cryonb.io.formats import (
    decompressed_head,
    detect_format,
    existing_file,
    format_of_head,
    open_maybe_compressed,
    replacing,
)
from cryonb.types import Micrograph, Volume

__all__ = [
    "MrcHeader",
    "read_header",
    "read_micrograph",
    "read_mrc",
    "read_volume",
    "write_micrograph",
    "write_mrc",
    "write_volume",
]

_HEADER_BYTES = 1024
_MODES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class MrcHeader:
    """What one needs of an MRC header to read its data.

    Parameters
    ----------
    path : str
    shape : tuple of int (sections, rows, columns)
        As the data lie in the file.
    dtype : numpy.dtype
        With the byte order of the file.
    offset : int
        Bytes before the data (header and extended header).
    voxel_size : tuple of float (x, y, z)
        Å; 0 where the file does not say.
    origin : tuple of float (x, y, z)
        Å of voxel [0, 0, 0]: ``ORIGIN``, or ``NSTART`` times the voxel size where ``ORIGIN`` is zero.
    axes : tuple of int
        ``MAPC, MAPR, MAPS``: which of x = 1, y = 2, z = 3 runs along columns, rows, sections.
    is_stack : bool
        Space group 0: sections are separate images.
    compressed : bool
    """

    path: str
    shape: tuple
    dtype: np.dtype
    offset: int
    voxel_size: tuple
    origin: tuple
    axes: tuple
    is_stack: bool
    compressed: bool

    @property
    def data_bytes(self):
        """Size of the data in bytes, uncompressed."""
        return int(np.prod([int(n) for n in self.shape], dtype=object)) * self.dtype.itemsize

    @property
    def pixel_size(self):
        """Å along x; 0 where the file does not say; an error where x and y differ by more than 1 %."""
        x, y, _ = self.voxel_size
        if x > 0 and y > 0 and abs(x - y) > 0.01 * x:
            raise ValueError(f"{self.path}: pixels are not square: {x:g} by {y:g} Å")
        return x


def read_header(path):
    """Header of an MRC file, checked against the size of the file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    MrcHeader

    Raises
    ------
    FileNotFoundError, ValueError
        Not an MRC file; unknown mode; impossible shape; fewer bytes than the header promises.
    """
    import mrcfile

    path = existing_file(path)
    head, compressed = decompressed_head(path, _HEADER_BYTES)
    kind = format_of_head(head)
    if kind != "mrc":
        short = f", and only {len(head)} bytes where an MRC header has 1024" if len(head) < _HEADER_BYTES else ""
        raise ValueError(f"{path}: expected an MRC file, but the content looks like {kind!r}{short}")
    header = np.frombuffer(head, dtype=mrcfile.dtypes.HEADER_DTYPE, count=1)[0]
    swapped = header.view(header.dtype.newbyteorder())
    # What makes sense, not the machine stamp, decides the byte order: some programs never write the stamp.
    if not _makes_sense(header) and _makes_sense(swapped):
        header = swapped
    mode = int(header["mode"])
    if mode not in _MODES:
        raise ValueError(f"{path}: MRC mode {mode} is not one of {sorted(_MODES)}")
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    extended = int(header["nsymbt"])
    if min(shape) <= 0 or extended < 0:
        raise ValueError(f"{path}: damaged MRC header: shape {shape}, extended header {extended} bytes")
    order = ">" if header.dtype["nx"].byteorder == ">" else "<"
    voxel_size, origin, axes = _geometry(header, path)
    found = MrcHeader(
        str(path), shape, np.dtype(_MODES[mode]).newbyteorder(order), _HEADER_BYTES + extended, voxel_size, origin,
        axes, is_stack=int(header["ispg"]) == 0, compressed=compressed,
    )  # fmt: skip
    if not compressed:
        _check_bytes(found, path.stat().st_size)
    return found


def read_mrc(path):
    """Any MRC file as it is stored: every mode, either byte order, gzip or bzip2.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    data : ndarray (sections, rows, columns)
        In the file's own type, complex for mode 4; a read-only memory map where the file is not compressed.
    header : MrcHeader

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mrc(np.eye(4, dtype=np.int16), os.path.join(folder, "a.mrc"), pixel_size=2.5)
    ...     data, header = read_mrc(os.path.join(folder, "a.mrc"))
    ...     data.dtype.name, data.shape, header.pixel_size, int(data.sum())
    ('int16', (1, 4, 4), 2.5, 4)
    """
    header = read_header(path)
    if not header.compressed:
        return np.memmap(header.path, dtype=header.dtype, mode="r", offset=header.offset, shape=header.shape), header
    try:
        with open_maybe_compressed(header.path) as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: damaged compressed file ({error})") from error
    _check_bytes(header, len(content))
    count = header.data_bytes // header.dtype.itemsize
    return np.frombuffer(content, header.dtype, count, header.offset).reshape(header.shape), header


def read_volume(path, *, voxel_size=None, pad=False):
    """Volume of an MRC/CCP4 file (``.mrc``, ``.map``, compressed or not).

    Axes in any order are turned to ``[z, y, x]``; ``ORIGIN`` (or ``NSTART`` where it is zero) gives the position.

    Parameters
    ----------
    path : path-like
    voxel_size : float, optional
        Å, instead of the header's.
    pad : bool
        Make a box that is not a cube one, by zeros after the last voxel of each axis (the origin stays).

    Returns
    -------
    Volume

    Raises
    ------
    FileNotFoundError, ValueError
        Damaged or truncated file, complex data, not a cube, NaN, voxel size missing or not the same along x, y, z.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "point.mrc")
    ...     write_volume(Volume(np.ones((8, 8, 8)), 2.1, origin=[-8.4, 0, 0]), path)
    ...     read_volume(path), read_volume(path).origin.round(4).tolist()
    (Volume(8³, 2.1 Å/voxel, 16.8 Å box), [-8.4, 0.0, 0.0])
    """
    data, header = read_mrc(path)
    if len(set(header.shape)) != 1 and not pad:
        shape = " × ".join(map(str, header.shape))
        raise ValueError(f"{path}: a volume is a cube, got {shape} voxels; pad=True fills it up with zeros")
    values = real_float32(data, f"{path}: voxel")
    # header.axes names the axis of columns, rows, sections; numpy's axes run sections, rows, columns.
    in_file = [3 - header.axes.index(axis) - 1 for axis in (3, 2, 1)]
    values = values.transpose(in_file)
    values = np.ascontiguousarray(np.pad(values, [(0, max(values.shape) - n) for n in values.shape]))
    if voxel_size is None:
        x, y, z = header.voxel_size
        z = z if z > 0 and not header.is_stack else x
        if max(x, y, z) > 0 and max(x, y, z) - min(x, y, z) > 0.01 * max(x, y, z):
            raise ValueError(
                f"{path}: voxels are not cubes: {x:g} × {y:g} × {z:g} Å; pass voxel_size= if that is wrong"
            )
        voxel_size = _known(x, path, "voxel_size")
    return Volume(values, voxel_size, origin=np.array(header.origin))


def read_micrograph(path, *, pixel_size=None):
    """Micrograph of an MRC file, or of a PNG, JPEG or TIFF image (grey levels; these need ``pixel_size``).

    Parameters
    ----------
    path : path-like
    pixel_size : float, optional
        Å, instead of the header's.

    Returns
    -------
    Micrograph

    Raises
    ------
    FileNotFoundError, ValueError
        Also where the file holds more than one image or the pixel size is missing.
    """
    if detect_format(path) == "image":
        from PIL import Image

        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"{path}: expected one image, got {image.n_frames}; read_movie reads it")
            # Row 0 is the top of the picture here and the first row of an MRC file there, as RELION takes them.
            return Micrograph(np.asarray(image.convert("F")), _known(pixel_size or 0, path, "pixel_size"))
    data, header = read_mrc(path)
    if header.shape[0] != 1:
        raise ValueError(f"{path}: expected one image, got {header.shape[0]}; read_stack or read_volume reads it")
    values = real_float32(data, f"{path}: pixel")[0]
    return Micrograph(values, pixel_size if pixel_size is not None else _known(header.pixel_size, path, "pixel_size"))


def write_volume(volume, path):
    """Write a volume as an MRC file (mode 2) with voxel size and origin; whole or not at all.

    Parameters
    ----------
    volume : Volume
    path : path-like

    Raises
    ------
    ValueError
        NaN among the voxels.

    Examples
    --------
    See `read_volume`.
    """
    write_mrc(volume.data, path, pixel_size=volume.voxel_size, origin=volume.origin)


def write_micrograph(micrograph, path):
    """Write a micrograph as an MRC file (mode 2) with its pixel size; whole or not at all.

    Parameters
    ----------
    micrograph : Micrograph
    path : path-like

    Raises
    ------
    ValueError
        NaN among the pixels.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_micrograph(Micrograph(np.ones((4, 6)), 0.85), os.path.join(folder, "a.mrc"))
    ...     read_micrograph(os.path.join(folder, "a.mrc"))
    Micrograph(6 × 4, 0.85 Å/pixel)
    """
    write_mrc(micrograph.data, path, pixel_size=micrograph.pixel_size)


def write_mrc(data, path, *, pixel_size, origin=(0.0, 0.0, 0.0), is_stack=False):
    """Write an array as an MRC file, whole or not at all; streams, so ``data`` may be lazy or memory-mapped.

    Parameters
    ----------
    data : ndarray (h, w) or (n, h, w), or anything with such a ``shape`` that can be sliced
        float32 (float64 becomes float32), float16, int8, int16, uint16 or complex64 choose the mode.
    path : path-like
    pixel_size : float
        Å.
    origin : (3,)
        Å, (x, y, z) of voxel [0, 0, 0].
    is_stack : bool
        Sections are separate images (space group 0), as in ``.mrcs``.

    Raises
    ------
    ValueError
        Empty, more than three axes, a type that MRC does not have, or NaN.
    """
    shape = tuple(int(n) for n in data.shape)
    shape = (1, *shape) if len(shape) == 2 else shape
    if len(shape) != 3 or min(shape) == 0:
        raise ValueError(f"cannot write {path}: an MRC file holds (h, w) or (n, h, w) values, got shape {data.shape}")
    dtype = np.dtype(getattr(data, "dtype", np.float32)).newbyteorder("=")
    dtype = np.dtype({"float64": "float32", "complex128": "complex64"}.get(dtype.name, dtype.name))
    mode = next((mode for mode, code in _MODES.items() if np.dtype(code) == dtype), None)
    if mode is None:
        known = ", ".join(np.dtype(code).name for code in _MODES.values())
        raise ValueError(f"cannot write {path}: MRC has no mode for {dtype.name}; convert to one of {known}")
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"cannot write {path}: pixel size must be positive in Å, got {pixel_size}")
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(bytes(_HEADER_BYTES))
        statistics = _stream(data if len(data.shape) == 3 else data[None], file, dtype, path)
        file.seek(0)
        file.write(_new_header(shape, mode, float(pixel_size), origin, is_stack, statistics))


def real_float32(data, what):
    """``data`` as float32 in native byte order; an error for complex values or NaN, whose first place it names."""
    if np.iscomplexobj(data):
        raise ValueError(f"{what.rsplit(':', 1)[0]}: complex data (MRC mode 4); read_mrc returns them, nouns are real")
    values = np.asarray(data).astype(np.float32)
    if values.dtype == np.float32 and np.issubdtype(data.dtype, np.floating) and not np.isfinite(values).all():
        first = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
        raise ValueError(f"{what} {tuple(int(i) for i in first)} is {values[first]}, expected a finite number")
    return values


def _makes_sense(header):
    axes = sorted(int(header[name]) for name in ("mapc", "mapr", "maps"))
    sizes = [int(header[name]) for name in ("nx", "ny", "nz")]
    return int(header["mode"]) in _MODES and axes in ([1, 2, 3], [0, 0, 0]) and max(map(abs, sizes)) < 2**24


def _check_bytes(header, actual):
    expected = header.offset + header.data_bytes
    if actual < expected:
        shape = " × ".join(map(str, header.shape))
        raise ValueError(
            f"{header.path}: truncated: the header promises {shape} values of {header.dtype.name} = "
            f"{expected:,} bytes, the file has {actual:,} bytes"
        )


def _geometry(header, path):
    sampling = [int(header[name]) for name in ("mx", "my", "mz")]
    cell = [float(header["cella"][axis]) for axis in "xyz"]
    voxel_size = tuple(length / n if n > 0 and length > 0 else 0.0 for length, n in zip(cell, sampling))
    axes = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
    axes = axes if axes != (0, 0, 0) else (1, 2, 3)
    if sorted(axes) != [1, 2, 3]:
        raise ValueError(f"{path}: damaged MRC header: MAPC, MAPR, MAPS are {axes}, expected 1, 2, 3 in some order")
    origin = [float(header["origin"][axis]) for axis in "xyz"]
    if not any(origin):
        starts = dict(zip(axes, (int(header[name]) for name in ("nxstart", "nystart", "nzstart"))))
        origin = [starts[axis + 1] * voxel_size[axis] for axis in range(3)]
    if not np.isfinite([*voxel_size, *origin]).all():
        raise ValueError(f"{path}: damaged MRC header: voxel size {voxel_size} Å, origin {origin} Å")
    return voxel_size, tuple(origin), axes


def _known(size, path, name):
    if not size > 0:
        raise ValueError(f"{path}: the header gives no pixel size (0 Å); pass {name}= in Å")
    return float(size)


def _stream(data, file, dtype, path):
    """Write section after section; returns (minimum, maximum, mean, rms), or MRC2014's "unknown" if complex."""
    per_chunk = max(1, _CHUNK_BYTES // (int(np.prod(data.shape[1:])) * dtype.itemsize))
    count, low, high, total, squares = 0, np.inf, -np.inf, 0.0, 0.0
    for start in range(0, data.shape[0], per_chunk):
        chunk = np.ascontiguousarray(np.asarray(data[start : start + per_chunk]), dtype=dtype)
        finite = np.isfinite(chunk)
        if not finite.all():
            section = start + int(np.argmin(finite.reshape(len(chunk), -1).all(1)))
            raise ValueError(
                f"cannot write {path}: section {section + 1} of {data.shape[0]} has NaN or infinite values"
            )
        file.write(chunk.data)
        if np.iscomplexobj(chunk):
            continue
        count += chunk.size
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        total += float(chunk.sum(dtype=np.float64))
        squares += float(np.square(chunk, dtype=np.float64).sum())
    if count == 0:
        return 0.0, -1.0, -2.0, -1.0
    return low, high, total / count, np.sqrt(max(squares / count - (total / count) ** 2, 0.0))


def _new_header(shape, mode, pixel_size, origin, is_stack, statistics):
    import mrcfile

    header = np.zeros((), dtype=mrcfile.dtypes.HEADER_DTYPE)
    header["nz"], header["ny"], header["nx"] = shape
    header["mode"] = mode
    header["mx"], header["my"] = shape[2], shape[1]
    # MRC2014: a stack of images is space group 0 with MZ = 1, a volume space group 1 with MZ = NZ.
    header["mz"], header["ispg"] = (1, 0) if is_stack or shape[0] == 1 else (shape[0], 1)
    header["cella"] = tuple(pixel_size * int(header[name]) for name in ("mx", "my", "mz"))
    header["cellb"] = (90.0, 90.0, 90.0)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics
    header["origin"] = tuple(float(value) for value in origin)
    header["map"] = b"MAP "
    header["machst"] = mrcfile.utils.machine_stamp_from_byte_order("=")
    header["nversion"] = 20141
    header["nlabl"] = 1
    header["label"][0] = b"cryonb"
    return header.tobytes()
