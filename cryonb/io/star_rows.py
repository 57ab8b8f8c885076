"""Where the blocks and rows of a STAR file lie, and its rows as columns of text.

Outside rows a file is read line by line; rows are found and split in strides of 4 MiB, by NumPy (where values
begin) and Arrow's CSV reader, unless a stride has quotes or comments.
"""

import re
import zlib
from dataclasses import dataclass, field

import numpy as np

from cryonb.io.formats import detect_format, existing_file, open_maybe_compressed

__all__ = ["StarBlock", "scan_star"]

_CHUNK_BYTES = 2**22
# Blanks are the ASCII ones and control characters; a no-break space belongs to a value.
BLANKS = "".join(map(chr, range(33)))
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


def scan_star(path):
    """Blocks of a STAR file with where their rows lie, without reading the rows.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of StarBlock

    Raises
    ------
    FileNotFoundError, ValueError
        Also a damaged compressed file, and text that is not UTF-8.
    """
    kind = detect_format(existing_file(path))
    if kind == "empty":
        raise ValueError(f"{path}: empty file, expected a STAR file with data_ blocks")
    if kind not in ("star", "mmcif", "text", "pdb"):
        raise ValueError(f"{path}: expected a STAR file, but the content looks like {kind!r}")
    scanner = _Scanner(path)
    with open_maybe_compressed(path) as file:
        try:
            scanner.walk(file)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged compressed file ({error})") from error
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


def row_columns(path, block, start, end, line):
    """Columns of one region of rows, chunk by chunk: lists of Arrow arrays of text."""
    import pyarrow as pa

    row = 0
    with open_maybe_compressed(path) as file:
        file.seek(start)
        while start < end:
            chunk = file.read(min(_CHUNK_BYTES, end - start))
            chunk += file.readline() if start + len(chunk) < end else b""
            start += len(chunk)
            where = (path, block, line, row)
            try:
                columns = _split_plain(chunk, where)
                columns = _split_quoted(chunk, where) if columns is None else columns
            except (UnicodeDecodeError, pa.ArrowInvalid):
                for offset, raw in enumerate(chunk.split(b"\n")):
                    _as_text(raw, path, line + offset)
                raise
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
    return [one_array(table[name]) for name in names]


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


class _Scanner:
    """Walks a STAR file line by line outside rows, and over rows in large strides."""

    def __init__(self, path):
        self.path, self.line, self.blocks, self.comments = path, 0, [], []

    def walk(self, file):
        """Take every line; where rows begin, go to their end at once."""
        while True:
            start = file.tell()
            line = file.readline()
            if not line:
                break
            self.line += 1
            if self.takes(line):
                continue
            file.seek(start)
            self.line -= 1
            self.skip_rows(file)

    def takes(self, raw):
        """Use a line that is not a row of a loop; False if it is one."""
        line = _as_text(raw, self.path, self.line).strip(BLANKS)
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
            block.values.append(tokens[0] if len(tokens) == 1 else rest.strip(BLANKS))

    def _fail(self, what):
        raise ValueError(f"{self.path}, line {self.line}: {what}")


def _as_text(raw, path, line):
    """A line of a file as text; STAR is read as UTF-8, because a guess would lose what was written."""
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {line}: expected UTF-8 text, got the byte 0x{raw[error.start]:02x} "
            f"(after {raw[: error.start].decode()[-30:]!r}); save the file as UTF-8, for example with "
            "iconv -f latin1 -t utf-8"
        ) from None


def _starts_block(line):
    return line[:5].lower() == "data_" and not any(character in BLANKS for character in line)


def _end_of_rows(chunk):
    """Byte of the first line in ``chunk`` that is a comment, a block or ``loop_``; its length if there is none."""
    end = len(chunk)
    for word in (b"#", b"data_", b"loop_"):
        at = chunk.find(word, 0, end)
        while at >= 0:
            begin = chunk.rfind(b"\n", 0, at) + 1
            if not chunk[begin:at].strip():
                stop = chunk.find(b"\n", at)
                line = chunk[at : stop if stop >= 0 else len(chunk)].decode("utf-8", errors="replace").strip(BLANKS)
                if word == b"#" or line == "loop_" or _starts_block(line):
                    end = begin
                    break
            at = chunk.find(word, at + 1, end)
    return end


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


def one_array(array):
    """A chunked Arrow array as one array."""
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks or [pa.array([], array.type)])
    return array
