"""Lazy stacks of particle images: several MRC files seen as one array, read only where one asks."""

import os
from functools import partial

import numpy as np

from cryonb.io.mrc import read_header, read_mrc, write_mrc

__all__ = ["ImageStack", "read_stack", "write_stack"]

_WINDOW_BYTES = 32 * 2**20
_LAST_DECOMPRESSED = {}


class ImageStack:
    """Images that lie in one or more MRC files, as a lazy array ``(n, d, d)`` of float32.

    An integer index gives an image (an array ``(d, d)``); a slice, an index array or a mask gives another lazy stack.
    ``np.asarray(stack)`` reads. Reading maps the bytes it needs and nothing else, opens each file once, and
    converts straight into the result: memory is the result plus at most 32 MiB, whatever the files' size.
    A stack pickles as paths and indices, so a Dask worker that sees the same disk reads for itself.

    Parameters
    ----------
    paths : sequence of path-like
        The files.
    file_of_image : array_like (n,) int
        Which of ``paths`` holds each image.
    position : array_like (n,) int
        Section in that file, from 0.
    size_px : int, optional
        Box size; needed where ``check`` is off, compared with the files where it is on.
    sign : +1 or -1, or array_like (n,)
        Factor on the pixels: -1 for files in which protein is dark.
    check : bool
        Read the headers now and compare: files there and whole, boxes equal, positions inside.
    place : callable, optional
        Says where image i (from 0) is listed, for errors: ``place(2)`` gives ``"p.star, row 3 of data_particles"``.
        A selection keeps the numbers. It must pickle.

    Attributes
    ----------
    shape : tuple (n, d, d)
    dtype : float32
    header_pixel_sizes : ndarray, one for each of ``paths``
        Å in the header of each file, 0 where not stated or not checked. They may differ: who knows the true one
        compares (`require_one_pixel_size`).
    pixel_size : float
        The first of them that is stated, 0 where none is.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file, the image (1-based, as RELION counts), and where it is listed.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "a.mrcs")
    >>> write_stack(np.arange(5.0)[:, None, None] * np.ones((4, 4)), path, 1.5)
    >>> stack = read_stack(path)
    >>> stack, stack[3:].shape, stack[[4, 0]][0].mean().item(), np.asarray(stack[1:3]).sum().item()
    (ImageStack(5 × 4², 1 file), (2, 4, 4), 4.0, 48.0)
    >>> folder.cleanup()
    """

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, paths, file_of_image, position, *, size_px=None, sign=1, check=True, place=None):
        self.paths = tuple(os.path.abspath(path) for path in paths)
        self.file_of_image = np.asarray(file_of_image, dtype=np.int32)
        self.position = np.asarray(position, dtype=np.int64)
        sign = np.asarray(sign, dtype=np.int8)
        self.sign = sign if sign.ndim == 0 or (sign != sign[:1]).any() else sign.reshape(-1)[:1].reshape(())
        if self.sign.size == 0:
            self.sign = np.asarray(1, dtype=np.int8)
        if self.position.ndim != 1 or self.file_of_image.shape != self.position.shape:
            raise ValueError(
                f"file_of_image {self.file_of_image.shape} and position {self.position.shape} must be (n,)"
            )
        self.place, self.number = place, np.arange(len(self.position))
        self.header_pixel_sizes = np.zeros(len(self.paths))
        if len(self.position) and self.position.min() < 0:
            image = int(np.argmax(self.position < 0))
            raise ValueError(
                f"{self._listed(image) or f'image {image + 1}: '}its position in the file must be 1 or more"
            )
        if check:
            size_px = self._check(size_px)
        if size_px is None:
            raise ValueError("the box size of images that are not checked must be given: pass size_px= in pixels")
        self.shape = (len(self.position), int(size_px), int(size_px))

    def __len__(self):
        return self.shape[0]

    @property
    def pixel_size(self):
        """Å in the first header that states it, 0 where none does or none was read."""
        stated = self.header_pixel_sizes[self.header_pixel_sizes > 0]
        return float(stated[0]) if len(stated) else 0.0

    @property
    def nbytes(self):
        """Bytes that `np.asarray` of it takes."""
        return self.shape[0] * self.shape[1] * self.shape[2] * self.dtype.itemsize

    def __getitem__(self, index):
        if isinstance(index, tuple):
            raise IndexError(
                "a lazy stack is indexed along its images only; read first: np.asarray(stack[i])[..., rows]"
            )
        chosen = np.arange(len(self))[index]
        if np.ndim(chosen) == 0:
            return self.read(int(chosen))[0]
        part = object.__new__(type(self))
        part.paths, part.header_pixel_sizes = self.paths, self.header_pixel_sizes
        part.place, part.number = self.place, self.number[chosen]
        part.file_of_image, part.position = self.file_of_image[chosen], self.position[chosen]
        part.sign = self.sign if self.sign.ndim == 0 else self.sign[chosen]
        part.shape = (len(part.position), *self.shape[1:])
        return part

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("a lazy stack has no array to share; reading it makes a copy")
        images = self.read()
        return images if dtype is None else images.astype(dtype, copy=False)

    def __repr__(self):
        files = len(np.unique(self.file_of_image))
        return f"ImageStack({len(self)} × {self.shape[1]}², {files} file{'' if files == 1 else 's'})"

    def read(self, index=slice(None)):
        """Images as an array.

        Parameters
        ----------
        index : int, slice, index array or mask

        Returns
        -------
        ndarray (m, d, d), float32

        Raises
        ------
        FileNotFoundError, ValueError
            A file that is gone or truncated, or NaN among the pixels, naming file, image (1-based) and its place.
        """
        chosen = np.atleast_1d(np.arange(len(self))[index])
        images = np.empty((len(chosen), *self.shape[1:]), dtype=np.float32)
        files, positions = self.file_of_image[chosen], self.position[chosen]
        order = np.lexsort((positions, files))
        bounds = np.flatnonzero(np.diff(files[order])) + 1
        for rows in np.split(order, bounds) if len(order) else ():
            _read_file(self.paths[files[rows[0]]], positions[rows], images, rows, lambda row: self._listed(chosen[row]))
        if self.sign.ndim:
            images *= self.sign[chosen][:, None, None]
        elif self.sign != 1:
            images *= np.float32(self.sign)
        return images

    def location(self, index):
        """Where an image lies, as RELION writes it: ``000012@/path/to/stack.mrcs``."""
        return f"{self.position[index] + 1:06d}@{self.paths[self.file_of_image[index]]}"

    def require_one_pixel_size(self, expected, tolerance, where):
        """Compare the pixel sizes in the headers of the files that are used with one value.

        Parameters
        ----------
        expected : float
            Å; 0 compares them with the first that is stated.
        tolerance : float
            Relative difference that is allowed.
        where : str
            What states ``expected``, for the error.

        Raises
        ------
        ValueError
            Naming the first file that disagrees, both values, and where its first image is listed.
        """
        stated = self.header_pixel_sizes
        if not expected:
            expected = self.pixel_size
            where = f"in the header of {self.paths[int(np.argmax(stated > 0))]}" if expected else where
        wrong = (stated > 0) & (np.abs(stated - expected) > tolerance * expected)
        wrong[wrong] = np.isin(np.flatnonzero(wrong), self.file_of_image)
        if wrong.any():
            file = int(np.argmax(wrong))
            image = int(np.argmax(self.file_of_image == file))
            raise ValueError(
                f"{self._listed(image)}pixel sizes disagree: {expected:g} Å {where}, "
                f"{stated[file]:g} Å in the header of {self.paths[file]}; pass pixel_size= to say which"
            )

    def _listed(self, image):
        """Where an image is listed, to begin an error with; nothing where that is not known."""
        return "" if self.place is None else f"{self.place(int(self.number[image]))}: "

    def _check(self, size_px):
        counts, first_path = np.zeros(len(self.paths), dtype=np.int64), None
        used, first_image = np.unique(self.file_of_image, return_index=True)
        for file, image in zip(used, first_image):
            path = self.paths[file]
            header = _stack_header(path, partial(self._listed, image))
            if size_px is None:
                size_px, first_path = header.shape[1], path
            if header.shape[1] != size_px:
                where = f"in {first_path}" if first_path else "expected"
                raise ValueError(f"{self._listed(image)}{path}: box of {header.shape[1]} px, but {size_px} px {where}")
            counts[file], self.header_pixel_sizes[file] = header.shape[0], header.pixel_size
        beyond = self.position >= counts[self.file_of_image]
        if beyond.any():
            image = int(np.argmax(beyond))
            file = self.file_of_image[image]
            row = "" if self.place else f" (row {image + 1})"
            raise ValueError(
                f"{self._listed(image)}{self.paths[file]}: image {self.position[image] + 1} asked for{row}, "
                f"the file has {counts[file]}"
            )
        return size_px


def read_stack(path):
    """All images of one MRC file, as a lazy `ImageStack`.

    Parameters
    ----------
    path : path-like
        ``.mrcs`` or ``.mrc`` with square sections; may be compressed (then kept whole in memory once read).

    Returns
    -------
    ImageStack

    Raises
    ------
    FileNotFoundError, ValueError
    """
    n = _stack_header(path).shape[0]
    return ImageStack([path], np.zeros(n, dtype=np.int32), np.arange(n))


def write_stack(images, path, pixel_size):
    """Write images as an MRC stack (mode 2), chunk by chunk, whole or not at all.

    Parameters
    ----------
    images : ndarray (n, d, d) or lazy `ImageStack`
    path : path-like
    pixel_size : float
        Å.

    Raises
    ------
    ValueError
        Not a stack of square images; NaN.
    """
    shape = tuple(images.shape)
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"cannot write {path}: images must have shape (n, d, d), got {shape}")
    write_mrc(_AsFloat32(images), path, pixel_size=pixel_size, is_stack=True)


class _AsFloat32:
    """View of an array or stack whose slices come as float32."""

    dtype = np.dtype(np.float32)

    def __init__(self, images):
        self.images, self.shape = images, tuple(images.shape)

    def __getitem__(self, index):
        return np.asarray(self.images[index], dtype=np.float32)


def _stack_header(path, listed=lambda: ""):
    """Header of a stack of square real images; ``listed()`` begins its errors."""
    try:
        header = read_header(path)
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{listed()}{error}") from None
    if header.shape[1] != header.shape[2]:
        raise ValueError(f"{listed()}{path}: particle images are square, got {header.shape[2]} × {header.shape[1]} px")
    if header.dtype.kind == "c":
        raise ValueError(f"{listed()}{path}: complex images (MRC mode 4); particle images are real")
    return header


def _read_file(path, positions, images, rows, listed):
    """Fill ``images[rows]`` with the sections ``positions`` (sorted) of one file; ``listed(row)`` begins errors."""
    header = _stack_header(path, lambda: listed(rows[0]))
    if header.shape[1:] != images.shape[1:]:
        raise ValueError(f"{listed(rows[0])}{path}: box of {header.shape[1]} px, but {images.shape[1]} px expected")
    if positions[-1] >= header.shape[0]:
        first = np.argmax(np.where(positions >= header.shape[0], -rows, -np.inf))
        raise ValueError(
            f"{listed(rows[first])}{path}: image {positions[first] + 1} asked for, the file has {header.shape[0]}"
        )
    section_bytes = header.shape[1] * header.shape[2] * header.dtype.itemsize
    longest = max(1, _WINDOW_BYTES // section_bytes)
    # A run of neighbouring sections is one window; a gap (or a repeat) starts the next.
    starts = np.concatenate([[0], np.flatnonzero(np.diff(positions) != 1) + 1, [len(positions)]])
    with open(path, "rb") as file:
        for start, stop in zip(starts[:-1], starts[1:]):
            for begin in range(start, stop, longest):
                end = min(begin + longest, stop)
                try:
                    images[rows[begin:end]] = _window(header, file, int(positions[begin]), end - begin)
                except ValueError as error:  # a damaged compressed file shows only here
                    raise ValueError(f"{listed(rows[begin])}{error}") from None
                if header.dtype.kind == "f":
                    _require_finite(images, rows[begin:end], path, positions[begin:end], listed)


def _window(header, file, first, count):
    shape = (count, *header.shape[1:])
    if header.compressed:
        return _decompressed(header.path)[first : first + count]
    offset = header.offset + first * int(np.prod(shape[1:])) * header.dtype.itemsize
    return np.memmap(file, dtype=header.dtype, mode="r", offset=offset, shape=shape)


def _decompressed(path):
    # One compressed file at a time is kept: reading it image by image would otherwise inflate it for each.
    key = (path, os.stat(path).st_mtime_ns)
    if key not in _LAST_DECOMPRESSED:
        data = read_mrc(path)[0]
        _LAST_DECOMPRESSED.clear()
        _LAST_DECOMPRESSED[key] = data
    return _LAST_DECOMPRESSED[key]


def _require_finite(images, rows, path, positions, listed):
    # The sum over an image is finite unless a pixel is not (float64: it cannot overflow).
    bad = ~np.isfinite(images[rows].sum(axis=(1, 2), dtype=np.float64))
    if bad.any():
        worst = int(np.argmax(bad))
        image = images[rows[worst]]
        count = int((~np.isfinite(image)).sum())
        raise ValueError(
            f"{listed(rows[worst])}{path}: image {positions[worst] + 1} has NaN or infinite pixels "
            f"({count} of {image.size}), expected finite ones"
        )
