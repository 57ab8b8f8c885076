"""What a file is, from what it contains; and writing that leaves either the whole file or nothing."""

import contextlib
import io
import os
import zlib
from pathlib import Path

__all__ = ["detect_format", "existing_file", "replacing"]

_MAGIC = (
    (b"\x93NUMPY", "npy"),
    (b"PK\x03\x04", "zip"),
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"\x89HDF", "hdf5"),
)
_PDB_RECORDS = ("HEADER", "ATOM  ", "HETATM", "CRYST1", "REMARK", "TITLE ", "MODEL ", "EXPDTA", "COMPND")


def existing_file(path):
    """``path`` as a `Path`, or an error that says where one looked.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    FileNotFoundError
        With the absolute path; or if it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder, expected a file")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file (looked for {path.absolute()})")
    return path


def detect_format(path):
    """Kind of a file, judged by its first bytes (inside gzip or bzip2 too), not by its name.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
        ``"mrc"``, ``"star"``, ``"cryosparc"`` (a NumPy structured array), ``"npy"``, ``"pdb"``, ``"mmcif"``,
        ``"image"`` (PNG, JPEG, TIFF), ``"zip"``, ``"hdf5"``, ``"empty"``, ``"text"`` or ``"binary"``.

    Raises
    ------
    FileNotFoundError

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "particles.mrc")
    ...     _ = path.write_text("data_particles\\n\\nloop_\\n_rlnImageName #1\\n1@a.mrcs\\n")
    ...     detect_format(path)
    'star'
    """
    return format_of_head(decompressed_head(existing_file(path))[0])


def format_of_head(head):
    """What `detect_format` says of a file that begins with these bytes."""
    if not head:
        return "empty"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return "cryosparc" if kind == "npy" and b"'descr': [" in head[:256] else kind
    if len(head) >= 1024 and (head[208:211] == b"MAP" or _plausible_mrc_header(head)):
        return "mrc"
    if b"\x00" in head:
        return "binary"
    return _kind_of_text(head.decode("utf-8", errors="replace"))


def decompressed_head(path, size=4096):
    """First ``size`` bytes of a file, of its contents if it is compressed by gzip or bzip2; and whether it is."""
    with open_maybe_compressed(path) as file:
        try:
            return file.read(size), not isinstance(file, io.BufferedReader)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged compressed file ({error})") from error


def open_maybe_compressed(path):
    """A file opened for reading bytes, through gzip or bzip2 where its first bytes say so."""
    file = open(path, "rb")
    magic = file.peek(3)[:3]
    if magic[:2] == b"\x1f\x8b":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if magic == b"BZh":
        import bz2

        return bz2.BZ2File(file)
    return file


def _plausible_mrc_header(head):
    # Files older than MRC2000 lack the "MAP " word: accept one whose mode and axes make sense in either byte order.
    for order in ("little", "big"):
        words = [int.from_bytes(head[4 * i : 4 * i + 4], order, signed=True) for i in (0, 1, 2, 3, 16, 17, 18)]
        small = all(0 < n < 2**20 for n in words[:3]) and words[3] in (0, 1, 2, 4, 6, 12)
        if small and sorted(words[4:]) in ([1, 2, 3], [0, 0, 0]):
            return True
    return False


def _kind_of_text(text):
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        return "text"
    if lines[0].lower().startswith("data_"):
        cif = any(line.startswith(("_atom_site.", "_entry.", "_cell.", "_audit_conform.")) for line in lines)
        return "mmcif" if cif else "star"
    if any(line.ljust(6)[:6] in _PDB_RECORDS for line in lines[:20]):
        return "pdb"
    return "text"


@contextlib.contextmanager
def replacing(path):
    """Write a file whole or not at all: yields a temporary path beside ``path``, renamed onto it at the end.

    The temporary file reaches the disk (fsync) before the rename; on any error it is removed and ``path`` stays
    as it was. The folder is made if it is missing.

    Parameters
    ----------
    path : path-like

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     try:
    ...         with replacing(pathlib.Path(folder, "a.txt")) as beside:
    ...             _ = beside.write_text("half")
    ...             raise OSError("disk full")
    ...     except OSError as error:
    ...         print(error, list(pathlib.Path(folder).iterdir()))
    disk full []
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(3).hex()}.part")
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
