"""STAR files as tables of text, every value kept as it was written.

``starfile`` reads STAR into numbers, which loses how they were written (``0.100000`` comes back ``0.1``) and takes
long for a million particles; so the reader is our own, tokenised by NumPy and Arrow, and is tested against
``starfile``'s and ``gemmi``'s parse. Tables are text by default; ``numeric=True`` gives numbers as ``starfile`` does.

The format: Hall, J. Chem. Inf. Comput. Sci. 31, 326 (1991); RELION's dialect has one loop or one list of pairs in
each block. Comments before a block are kept, comments elsewhere and the padding between values are not; values with
blanks, and empty ones, are written in double quotes.
"""

import os
import re
from dataclasses import dataclass, field

import numpy as np

from cryonb.io.formats import detect_format, existing_file, replacing

__all__ = ["column_numbers", "number_text", "read_star", "row_place", "scan_star", "star_text", "write_star"]

_CHUNK_BYTES = 2**25
_ROWS_PER_WRITE = 50_000
# Blanks are the ASCII ones and control characters; a no-break space belongs to a value.
_BLANKS = "".join(map(chr, range(33)))
_QUOTED = r"{0}(?P<{1}>(?:[^{0}\n]|{0}(?=[^\x00-\x20]))*){0}(?=[\x00-\x20]|$)"
_TOKEN = re.compile(
    "|".join([_QUOTED.format('"', "double"), _QUOTED.format("'", "single"), r"(?P<plain>[^\x00-\x20]+)"])
)


@dataclass
class StarBlock:
    """One ``data_`` block as it lies in the file; byte ranges point at its rows.

    Parameters
    ----------
    name : str
        Without ``data_``.
    line : int
        1-based line of ``data_``.
    comments : list of str
        Comment lines before it.
    is_loop : bool
    labels : list of str
        Without the underscore.
    values : list of str
        Of a block of pairs.
    regions : list of (int, int, int)
        First byte, byte after the last, 1-based line of the first byte, of the rows of a loop.
    """

    name: str
    line: int
    comments: list
    is_loop: bool = False
    labels: list = field(default_factory=list)
    values: list = field(default_factory=list)
    regions: list = field(default_factory=list)


def read_star(path, *, numeric=False):
    """Every block of a STAR file as a table.

    Parameters
    ----------
    path : path-like
    numeric : bool
        Turn columns that are numbers throughout into numbers; otherwise all values stay text, exactly as written
        (``column_numbers`` or ``.astype(float)`` gives the numbers of one column).

    Returns
    -------
    dict of str to pandas.DataFrame
        By block name without ``data_``, in the file's order; columns without the underscore (``rlnImageName``).
        A block of pairs is a table of one row. ``table.attrs`` keeps ``comments`` (lines before the block),
        ``is_loop``, ``path`` and ``block``, by which errors find the line of a row.

    Raises
    ------
    FileNotFoundError, ValueError
        Not STAR, no block, a row with too few or too many values (naming file, line and row), a block twice.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> text = "data_optics\\n\\nloop_\\n_rlnOpticsGroup #1\\n_rlnVoltage #2\\n  1   300.000000\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.star").write_text(text)
    ...     tables = read_star(pathlib.Path(folder, "a.star"))
    >>> tables["optics"].iloc[0].to_dict()
    {'rlnOpticsGroup': '1', 'rlnVoltage': '300.000000'}
    """
    tables = {block.name: _table(path, block) for block in scan_star(path)}
    return {name: _as_numbers(table) for name, table in tables.items()} if numeric else tables


def scan_star(path):
    """Blocks of a STAR file with where their rows lie, without reading the rows.

    Returns
    -------
    list of StarBlock

    Raises
    ------
    FileNotFoundError, ValueError
    """
    kind = detect_format(existing_file(path))
    if kind == "empty":
        raise ValueError(f"{path}: empty file, expected a STAR file with data_ blocks")
    if kind not in ("star", "mmcif", "text", "pdb"):
        raise ValueError(f"{path}: expected a STAR file, but the content looks like {kind!r}")
    if kind in ("text", "pdb") and os.path.getsize(path) > 2**30:
        raise ValueError(f"{path}: expected a STAR file, but it begins with neither data_ nor a comment")
    scanner = _Scanner(path)
    with open(path, "rb") as file:
        while True:
            start = file.tell()
            line = file.readline()
            if not line:
                break
            scanner.line += 1
            if scanner.takes(line):
                continue
            file.seek(start)
            scanner.line -= 1
            scanner.skip_rows(file)
    blocks = scanner.blocks
    if not blocks:
        raise ValueError(f"{path}: no data_ block found; is it a STAR file?")
    lines = {}
    for block in blocks:
        if block.name in lines:
            raise ValueError(
                f"{path}, line {block.line}: block data_{block.name} again, first in line {lines[block.name]}"
            )
        lines[block.name] = block.line
    return blocks


def write_star(tables, path):
    """Write tables as a STAR file, whole or not at all; text goes out as it is.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
        As `read_star` gives them. Numbers are written in the shortest form that reads back the same.
        ``attrs["is_loop"] = False`` makes a one-row table a list of pairs; ``attrs["comments"]`` go before it.
    path : path-like

    Raises
    ------
    ValueError
        No table, or a value that STAR cannot hold (a line break).
    """
    if not tables:
        raise ValueError(f"cannot write {path}: no table given")
    with replacing(path) as beside, open(beside, "wb") as file:
        for number, (name, table) in enumerate(tables.items()):
            for piece in star_text(name, table, default_comment="# version 30001" if number == 0 else None):
                file.write(piece)


def star_text(name, table, *, default_comment=None):
    """Pieces of bytes that make one block of a STAR file, ending in a blank line."""
    import pyarrow as pa
    import pyarrow.compute as pc

    comments = table.attrs.get("comments") or ([default_comment] if default_comment else [])
    head = ["", *comments, "", f"data_{name}", ""]
    columns = [_as_text(table[column]) for column in table.columns]
    if not table.attrs.get("is_loop", True) and len(table) == 1:
        width = max((len(str(column)) for column in table.columns), default=0) + 4
        pairs = [
            f"_{column}".ljust(width) + _quoted(values[0].as_py()) for column, values in zip(table.columns, columns)
        ]
        yield "\n".join([*head, *pairs, "", ""]).encode()
        return
    labels = [f"_{column} #{number}" for number, column in enumerate(table.columns, start=1)]
    yield "\n".join([*head, "loop_", *labels, ""]).encode()
    space, newline = pa.scalar(" ", pa.large_string()), pa.scalar("\n", pa.large_string())
    for start in range(0, len(table), _ROWS_PER_WRITE):
        parts = [column.slice(start, _ROWS_PER_WRITE) for column in columns]
        block = _joined(pc.binary_join_element_wise(*parts, space), newline)
        if not _is_plain(block, len(parts[0]), len(parts)):
            parts = [pa.array([_quoted(value) for value in part.to_pylist()], pa.large_string()) for part in parts]
            block = _joined(pc.binary_join_element_wise(*parts, space), newline)
        yield block
    yield b"\n"


def column_numbers(table, name, *, path="table"):
    """A column of text as float64, shape (n,).

    Raises
    ------
    ValueError
        A missing column, or a value that is not a finite number, with its row (1-based) and line.

    Examples
    --------
    >>> import pandas as pd
    >>> column_numbers(pd.DataFrame({"rlnDefocusU": ["13108.082418", "1.2e4"]}), "rlnDefocusU").tolist()
    [13108.082418, 12000.0]
    """
    import pyarrow as pa

    if name not in table:
        raise ValueError(f"{path}: missing column {name}; there are {', '.join(map(str, table.columns)) or 'none'}")
    series = table[name]
    if not isinstance(series.dtype, np.dtype) or series.dtype.kind == "O":
        try:
            values = _as_text(series).cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            values = np.array([_number(text) for text in series], dtype=np.float64)
    else:
        values = series.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{path}, {row_place(table, row)}: {name} is {series.iloc[row]!r}, expected a finite number")
    return values


def row_place(table, row):
    """Where a row of a table that was read stands in its file: ``row 3 of data_particles (line 41)``, from 1.

    A selection keeps the numbers of the rows that it was made of.
    """
    number = int(table.index[row])
    name = f" of data_{table.attrs['block']}" if "block" in table.attrs else ""
    line = _line_of_row(table, number)
    return f"row {number + 1}{name}{f' (line {line})' if line else ''}"


def number_text(values, *, decimals=6):
    """Numbers as RELION writes them, a list of str.

    Examples
    --------
    >>> number_text([13108.0824184, -0.25]), number_text([3], decimals=0)
    (['13108.082418', '-0.250000'], ['3'])
    """
    form = f"%.{decimals}f"
    return [form % value for value in np.asarray(values, dtype=np.float64).tolist()]


class _Scanner:
    """Walks a STAR file line by line outside rows, and over rows in large strides."""

    def __init__(self, path):
        self.path, self.line, self.blocks, self.comments = path, 0, [], []

    def takes(self, raw):
        """Use a line that is not a row of a loop; False if it is one."""
        line = raw.decode("utf-8-sig" if self.line == 1 else "utf-8", errors="replace").strip(_BLANKS)
        block = self.blocks[-1] if self.blocks else None
        if not line:
            return True
        if line.startswith("#"):
            self.comments.append(line)
        elif _starts_block(line):
            self.blocks.append(StarBlock(line[5:], self.line, self.comments))
            self.comments = []
        elif block is None:
            raise ValueError(f"{self.path}, line {self.line}: expected a data_ block of a STAR file, got {line[:60]!r}")
        elif line.lower() == "loop_":
            if block.is_loop or block.labels:
                self._fail(f"a second table in block data_{block.name}, expected one loop or one list of pairs")
            block.is_loop = True
        elif line.startswith("_") and not block.regions:
            self._label(block, line)
        elif not block.is_loop or not block.labels:
            self._fail(f"expected a label or loop_, got {line[:60]!r}")
        else:
            return False
        return True

    def skip_rows(self, file):
        """Note where rows lie, from here to the next comment, block or the end."""
        block = self.blocks[-1]
        while chunk := file.read(_CHUNK_BYTES):
            chunk += file.readline()
            start = file.tell() - len(chunk)
            end = _end_of_rows(chunk)
            if end:
                block.regions.append((start, start + end, self.line + 1))
                self.line += chunk.count(b"\n", 0, end)
            if end < len(chunk):
                file.seek(start + end)
                return

    def _label(self, block, line):
        label = re.match(r"[^\x00-\x20]+", line)[0]
        rest = line[len(label) :]
        if label[1:] in block.labels:
            self._fail(f"label {label} twice in block data_{block.name}")
        block.labels.append(label[1:])
        if not block.is_loop:
            tokens = _tokens(rest)
            block.values.append(tokens[0] if len(tokens) == 1 else rest.strip(_BLANKS))

    def _fail(self, what):
        raise ValueError(f"{self.path}, line {self.line}: {what}")


def _starts_block(line):
    return line[:5].lower() == "data_" and not any(character in _BLANKS for character in line)


def _end_of_rows(chunk):
    """Byte of the first line in ``chunk`` that is a comment, a block or ``loop_``; its length if there is none."""
    end = len(chunk)
    for word in (b"#", b"data_", b"loop_"):
        at = chunk.find(word, 0, end)
        while at >= 0:
            begin = chunk.rfind(b"\n", 0, at) + 1
            if not chunk[begin:at].strip():
                stop = chunk.find(b"\n", at)
                line = chunk[at : stop if stop >= 0 else len(chunk)].decode("utf-8", errors="replace").strip(_BLANKS)
                if word == b"#" or line == "loop_" or _starts_block(line):
                    end = begin
                    break
            at = chunk.find(word, at + 1, end)
    return end


def _table(path, block):
    import pandas as pd
    import pyarrow as pa

    dtype = _text_dtype()
    if block.is_loop:
        parts = [part for region in block.regions for part in _row_columns(path, block, *region)]
        columns = [pa.chunked_array([part[i] for part in parts], pa.large_string()) for i in range(len(block.labels))]
    else:
        columns = [pa.chunked_array([[value]], pa.large_string()) for value in block.values]
    series = {label: pd.Series(dtype.construct_array_type()._from_sequence(column, dtype=dtype))
              for label, column in zip(block.labels, columns)}  # fmt: skip
    table = pd.DataFrame(series, copy=False)
    table.attrs.update(comments=block.comments, is_loop=block.is_loop, path=str(path), block=block.name)
    return table


def _text_dtype():
    import pandas as pd

    try:
        # pandas 3's own text type: comparing gives plain booleans.
        return pd.StringDtype("pyarrow", na_value=np.nan)
    except TypeError:
        return pd.StringDtype("pyarrow")


def _row_columns(path, block, start, end, line):
    """Columns of one region of rows, chunk by chunk: lists of arrow arrays of text."""
    row = 0
    with open(path, "rb") as file:
        file.seek(start)
        while start < end:
            chunk = file.read(min(_CHUNK_BYTES, end - start))
            chunk += file.readline() if start + len(chunk) < end else b""
            start += len(chunk)
            where = (path, block, line, row)
            columns = _split_plain(chunk, where)
            columns = _split_quoted(chunk, where) if columns is None else columns
            yield columns
            line += chunk.count(b"\n")
            row += len(columns[0])


def _split_plain(chunk, where):
    """Rows without quotes or comments: one blank between values, one line a row, and Arrow's CSV reader; else None."""
    import pyarrow as pa
    import pyarrow.csv

    width = len(where[1].labels)
    characters = np.frombuffer(chunk, dtype=np.uint8)
    inside = characters > 32
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    starts = np.flatnonzero(begins)
    first = characters[starts]
    if ((first == ord('"')) | (first == ord("'")) | (first == ord("#"))).any():
        return None
    lines = np.append(np.flatnonzero(characters == 10), len(characters))
    counts = np.diff(np.searchsorted(starts, lines), prepend=0)
    wrong = (counts != width) & (counts != 0)
    if wrong.any():
        at = int(np.argmax(wrong))
        _wrong_count(where, at, int((counts[:at] != 0).sum()), int(counts[at]))
    keep = inside.copy()
    keep[1:] |= inside[:-1]
    compact = characters[keep]
    if len(starts) and inside[-1]:
        compact = np.append(compact, np.uint8(10))
    separators = np.flatnonzero(compact <= 32)
    compact[separators] = 32
    compact[separators[width - 1 :: width]] = 10
    names = [str(i) for i in range(width)]
    if not len(starts):
        return [pa.array([], pa.large_string()) for _ in names]
    table = pyarrow.csv.read_csv(
        pa.py_buffer(compact),
        read_options=pyarrow.csv.ReadOptions(
            column_names=names, use_threads=False, block_size=2 * _CHUNK_BYTES + len(compact)
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=" ", quote_char=False, double_quote=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.large_string() for name in names}, strings_can_be_null=False
        ),
    )
    return [_one_array(table[name]) for name in names]


def _split_quoted(chunk, where):
    import pyarrow as pa

    width = len(where[1].labels)
    rows = []
    for number, line in enumerate(chunk.decode("utf-8").split("\n")):
        tokens = _tokens(line)
        if tokens and len(tokens) != width:
            _wrong_count(where, number, len(rows), len(tokens))
        if tokens:
            rows.append(tokens)
    columns = list(zip(*rows)) if rows else [()] * width
    return [pa.array(column, pa.large_string()) for column in columns]


def _line_of_row(table, number):
    # Only errors ask, so the file is read again rather than a line number kept for every row.
    try:
        block = next(block for block in scan_star(table.attrs["path"]) if block.name == table.attrs["block"])
        with open(table.attrs["path"], "rb") as file:
            for start, end, line in block.regions:
                file.seek(start)
                for offset, text in enumerate(file.read(end - start).split(b"\n")):
                    if text.strip() and number == 0:
                        return line + offset
                    number -= bool(text.strip())
    except (KeyError, OSError, ValueError, StopIteration):
        pass
    return None


def _tokens(line):
    """Values of one line: blanks separate, quotes hold together, an unquoted ``#`` begins a comment."""
    found = []
    for match in _TOKEN.finditer(line):
        if match["plain"] is not None and match["plain"].startswith("#"):
            break
        found.append(next(value for value in match.groups() if value is not None))
    return found


def _wrong_count(where, line_offset, row_offset, count):
    path, block, line, row = where
    raise ValueError(
        f"{path}, row {row + row_offset + 1} of data_{block.name} (line {line + line_offset}): "
        f"expected {len(block.labels)} values, got {count}"
    )


def _as_text(series):
    """A column as one arrow array of text; numbers in the shortest form that reads back the same."""
    import pyarrow as pa

    array = pa.array(series.array) if not isinstance(series.dtype, np.dtype) else None
    if array is None:
        values = series.to_numpy()
        array = pa.array([str(value) for value in values]) if values.dtype.kind in "OUS" else pa.array(values)
    array = _one_array(array).cast(pa.large_string())
    return array.fill_null("") if array.null_count else array


def _one_array(array):
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks or [pa.array([], array.type)])
    return array


def _joined(lines, newline):
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = pa.LargeListArray.from_arrays(pa.array([0, len(lines)], pa.int64()), lines)
    return pc.binary_join(rows, newline)[0].as_buffer().to_pybytes() + b"\n"


def _is_plain(block, n_rows, n_columns):
    """Whether the joined text reads back: no blank inside a value, none empty, none that looks like syntax."""
    characters = np.frombuffer(block, dtype=np.uint8)
    blank = characters <= 32
    if int(blank.sum()) != n_rows * n_columns or blank[0] or (blank[1:] & blank[:-1]).any():
        return False
    first = characters[np.append(0, np.flatnonzero(blank)[:-1] + 1)]
    if np.isin(first, np.frombuffer(b"\"'#;", dtype=np.uint8)).any():
        return False
    leading = first[::n_columns]
    return not np.isin(leading, np.frombuffer(b"_dDlL", dtype=np.uint8)).any()


def _quoted(value):
    if "\n" in value or "\r" in value:
        raise ValueError(f"a STAR value cannot hold a line break: {value[:60]!r}")
    special = not value or value[0] in "\"'#;_" or value[:5].lower() in ("data_", "loop_")
    if not special and not any(character <= " " for character in value):
        return value
    for mark in "\"'":
        if not re.search(mark + r"([\x00-\x20]|$)", value):
            return f"{mark}{value}{mark}"
    raise ValueError(f"a STAR value cannot hold both kinds of quote before a blank: {value[:60]!r}")


def _number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return np.nan


def _as_numbers(table):
    import pandas as pd

    attrs = table.attrs
    columns = {}
    for name in table.columns:
        try:
            columns[name] = pd.to_numeric(table[name].astype(object))
        except (ValueError, TypeError):
            columns[name] = table[name]
    table = pd.DataFrame(columns)
    table.attrs.update(attrs)
    return table
