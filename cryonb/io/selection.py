"""Some of the particles of a file, written as that file has them."""

import numpy as np

from cryonb.io.cryosparc import load_cryosparc
from cryonb.io.formats import detect_format, existing_file, open_maybe_compressed, replacing
from cryonb.io.star_rows import scan_star

__all__ = ["write_selection"]


def write_selection(original, index, path):
    """Write rows of a particle file as they stand in it, byte for byte; every other block is copied whole.

    Parameters
    ----------
    original : path-like
        A STAR file (rows of the block that has rlnImageName; of its only loop, if none has) or a ``.cs`` file.
    index : int, slice, index array or mask
        Rows from 0, in the order wanted.
    path : path-like
        Written whole or not at all, never compressed; may be ``original`` itself.

    Raises
    ------
    FileNotFoundError, ValueError, IndexError
        A row that the file does not have, or a mask of another length.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> text = "data_particles\\n\\nloop_\\n_rlnImageName #1\\n 1@a.mrcs\\n  2@a.mrcs\\n 3@a.mrcs\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.star")
    ...     _ = path.write_text(text)
    ...     write_selection(path, [1], path)
    ...     path.read_text()
    'data_particles\\n\\nloop_\\n_rlnImageName #1\\n  2@a.mrcs\\n'
    """
    if detect_format(existing_file(original)) == "cryosparc":
        records = load_cryosparc(original)
        chosen = _rows(index, len(records), original)
        with replacing(path) as beside, open(beside, "wb") as file:
            np.save(file, records[chosen], allow_pickle=False)
        return
    block = _block(scan_star(original), original)
    with open_maybe_compressed(original) as file:
        content = file.read()
    begins, ends = _lines_of_rows(content, block.regions)
    chosen = _rows(index, len(begins), original)
    first, last = block.regions[0][0], _end_of_rows(block.regions, content, ends)
    with replacing(path) as beside, open(beside, "wb") as file:
        file.write(content[:first])
        for start in range(0, len(chosen), 100_000):
            part = chosen[start : start + 100_000]
            rows = [content[begin:end] for begin, end in zip(begins[part].tolist(), ends[part].tolist())]
            file.write(b"\n".join([*rows, b""]))
        file.write(content[last:])


def _end_of_rows(regions, content, ends):
    """Byte at which what follows the rows begins: after the line break of the last row."""
    end = int(ends[-1]) if len(ends) else regions[-1][1]
    return end + (content[end : end + 1] == b"\n")


def _block(blocks, path):
    loops = [block for block in blocks if block.is_loop]
    named = [block for block in loops if "rlnImageName" in block.labels]
    found = named or (loops if len(loops) == 1 else [])
    if len(found) != 1:
        names = ", ".join(f"data_{block.name}" for block in loops) or "none"
        raise ValueError(f"{path}: expected one table with rlnImageName to select from, got {names}")
    if not found[0].regions:
        raise ValueError(f"{path}: block data_{found[0].name} has no rows to select from")
    return found[0]


def _lines_of_rows(content, regions):
    """First byte of each row, and the byte after it without its line break."""
    begins, ends = [], []
    for start, end, _ in regions:
        characters = np.frombuffer(content, dtype=np.uint8, count=end - start, offset=start)
        breaks = np.flatnonzero(characters == 10)
        line_begins = np.append(0, breaks + 1)
        line_ends = np.append(breaks, len(characters))
        line_begins, line_ends = (edge[line_begins < len(characters)] for edge in (line_begins, line_ends))
        rows = np.maximum.reduceat(characters, line_begins) > 32
        begins.append(line_begins[rows] + start)
        ends.append(line_ends[rows] + start)
    return np.concatenate(begins), np.concatenate(ends)


def _rows(index, n, path):
    index = np.asarray(index) if not isinstance(index, slice) else index
    if not isinstance(index, slice) and index.dtype == bool and index.shape != (n,):
        raise IndexError(f"{path}: the mask has shape {index.shape}, the file has {n} particles")
    if not isinstance(index, slice) and index.size == 0:
        index = index.astype(np.int64)
    try:
        return np.atleast_1d(np.arange(n)[index])
    except IndexError as error:
        raise IndexError(f"{path}: the file has {n} particles ({error})") from None
