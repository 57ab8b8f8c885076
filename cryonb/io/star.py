"""STAR files as tables of text, every value kept as it was written.

``starfile`` reads STAR into numbers, which loses how they were written (``0.100000`` comes back ``0.1``) and takes
long for a million particles; so the reader is our own, tokenised by NumPy and Arrow, and is tested against
``starfile``'s and ``gemmi``'s parse. Tables are text by default; ``numeric=True`` gives numbers as ``starfile`` does.

The format: Hall, J. Chem. Inf. Comput. Sci. 31, 326 (1991); RELION's dialect has one loop or one list of pairs in
each block. Comments before a block are kept, comments elsewhere and the padding between values are not; values with
blanks, empty ones, and those that other readers of the format would take for syntax (``stop_``, ``$a``, ``_x``) are
written in quotes. ``.`` and ``?``, the format's "does not apply" and "unknown", go out bare, as they come in.
Files are UTF-8, and may be compressed by gzip or bzip2 where they are read.
"""

import re
from collections import Counter

import numpy as np

from cryonb.io.formats import open_maybe_compressed, replacing
from cryonb.io.star_rows import BLANKS, one_array, row_columns, scan_star

__all__ = ["column_numbers", "read_star", "write_star"]

_ROWS_PER_WRITE = 50_000
# What a bare value may not begin with in STAR and CIF (Hall et al., International Tables G, 2.2.7.1); brackets may
# not either, but RELION writes its lists of aberrations so, and gemmi reads them.
_MARKS = "\"'#;_$"
_WORDS = ("data_", "loop_", "save_", "stop_", "global_")


def read_star(path, *, numeric=False):
    """Every block of a STAR file as a table.

    Parameters
    ----------
    path : path-like
        May be compressed by gzip or bzip2.
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
        Not STAR, no block, a row with too few or too many values (naming file, line and row), a block twice, text that
        is not UTF-8 (naming the line).

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
        No table, a value that STAR cannot hold (a line break), a name of a table or a column that has a blank or is
        there twice.
    """
    if not tables:
        raise ValueError(f"cannot write {path}: no table given")
    require_names(tables, path)
    with replacing(path) as beside, open(beside, "wb") as file:
        for number, (name, table) in enumerate(tables.items()):
            for piece in star_text(name, table, default_comment="# version 30001" if number == 0 else None):
                file.write(piece)


def require_names(tables, path):
    """Refuse names of tables and columns that would not be read back: with a blank, empty, or there twice.

    Parameters
    ----------
    tables : dict of str to pandas.DataFrame
    path : path-like
        The file that is to be written, for the error.

    Raises
    ------
    ValueError
    """
    for name, table in tables.items():
        for kind, text in (("table", str(name)), *(("column", str(column)) for column in table.columns)):
            if any(character in BLANKS for character in text) or (kind == "column" and not text):
                raise ValueError(
                    f"cannot write {path}: the name of a {kind} in a STAR file has no blanks and is not empty, "
                    f"got {text!r}"
                )
        for column, count in Counter(map(str, table.columns)).items():
            if count > 1:
                raise ValueError(
                    f"cannot write {path}: column {column!r} is {count} times in table {str(name)!r}, expected once"
                )


def star_text(name, table, *, default_comment=None):
    """Pieces of bytes that make one block of a STAR file, ending in a blank line."""
    import pyarrow as pa
    import pyarrow.compute as pc

    comments = table.attrs.get("comments") or ([default_comment] if default_comment else [])
    head = ["", *comments, "", f"data_{name}", ""]
    columns = [text_array(table[column]) for column in table.columns]
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

    Parameters
    ----------
    table : pandas.DataFrame
        As `read_star` gives it, or any other.
    name : str
        The column.
    path : path-like
        The file to name in errors.

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
            values = text_array(series).cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            values = np.array([_number(text) for text in series], dtype=np.float64)
    else:
        values = series.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{path}, {row_place(table, row)}: {name} is {series.iloc[row]!r}, expected a finite number")
    return values


def whole_numbers(table, name, *, path="table"):
    """A column of whole numbers as int64, shape (n,); ``"1.000000"`` is one, ``"1.7"`` is not.

    Parameters
    ----------
    table, name, path
        As `column_numbers` takes them.

    Raises
    ------
    ValueError
        As `column_numbers`, and a number that is not whole.
    """
    values = column_numbers(table, name, path=path)
    wrong = values != np.round(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        text = table[name].iloc[row]
        raise ValueError(f"{path}, {row_place(table, row)}: {name} is {text!r}, expected a whole number")
    return values.astype(np.int64)


def row_place(table, row):
    """Where a row of a table that was read stands in its file: ``row 3 of data_particles (line 41)``, from 1.

    A selection keeps the numbers of the rows that it was made of.
    """
    number = int(table.index[row])
    name = f" of data_{table.attrs['block']}" if "block" in table.attrs else ""
    line = _line_of_row(table.attrs.get("path"), table.attrs.get("block"), number)
    return f"row {number + 1}{name}{f' (line {line})' if line else ''}"


def place_of_row(path, block, number):
    """The same of row ``number`` (from 0) of a block as it lies in its file, without the table.

    Returns
    -------
    str
        ``a.star, row 3 of data_particles (line 41)``
    """
    line = _line_of_row(path, block, number)
    return f"{path}, row {number + 1} of data_{block}{f' (line {line})' if line else ''}"


def number_text(values, *, decimals=6):
    """Numbers as RELION writes them, a list of str.

    Examples
    --------
    >>> number_text([13108.0824184, -0.25]), number_text([3], decimals=0)
    (['13108.082418', '-0.250000'], ['3'])
    """
    form = f"%.{decimals}f"
    return [form % value for value in np.asarray(values, dtype=np.float64).tolist()]


def _table(path, block):
    import pandas as pd
    import pyarrow as pa

    dtype = _text_dtype()
    if block.is_loop:
        parts = [part for region in block.regions for part in row_columns(path, block, *region)]
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


def _line_of_row(path, name, number):
    # Only errors ask, so the file is read again rather than a line number kept for every row.
    if path is None:
        return None
    try:
        block = next(block for block in scan_star(path) if block.name == name)
        with open_maybe_compressed(path) as file:
            for start, end, line in block.regions:
                file.seek(start)
                for offset, text in enumerate(file.read(end - start).split(b"\n")):
                    if text.strip() and number == 0:
                        return line + offset
                    number -= bool(text.strip())
    except (OSError, ValueError, StopIteration):
        pass
    return None


def text_array(series):
    """A column as one arrow array of text; numbers in the shortest form that reads back the same."""
    import pyarrow as pa

    array = pa.array(series.array) if not isinstance(series.dtype, np.dtype) else None
    if array is None:
        values = series.to_numpy()
        array = pa.array([str(value) for value in values]) if values.dtype.kind in "OUS" else pa.array(values)
    array = one_array(array).cast(pa.large_string())
    return array.fill_null("") if array.null_count else array


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
    starts = np.append(0, np.flatnonzero(blank)[:-1] + 1)
    if np.isin(characters[starts], np.frombuffer(_MARKS.encode(), dtype=np.uint8)).any():
        return False
    initials = "".join({word[0] for word in _WORDS})
    starts = starts[np.isin(characters[starts], np.frombuffer((initials + initials.upper()).encode(), dtype=np.uint8))]
    return not any(_begin_with(characters, starts, word).any() for word in _WORDS)


def _begin_with(characters, starts, word):
    """Where ``word`` stands, in small letters or large."""
    same = np.ones(len(starts), dtype=bool)
    for offset, letter in enumerate(word):
        here = characters[np.minimum(starts + offset, len(characters) - 1)]
        same &= (here == ord(letter)) | (here == ord(letter.upper()))
    return same


def _quoted(value):
    if "\n" in value or "\r" in value:
        raise ValueError(f"a STAR value cannot hold a line break: {value[:60]!r}")
    special = not value or value[0] in _MARKS or value.lower().startswith(_WORDS)
    if not special and not any(character in BLANKS for character in value):
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
