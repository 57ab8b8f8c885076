"""Coordinates of particles on micrographs: RELION STAR, EMAN ``.box``, cryoSPARC ``.cs``."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from cryonb.io.cryosparc import load_cryosparc
from cryonb.io.formats import detect_format, existing_file, replacing
from cryonb.io.star import column_numbers, number_text, read_star, write_star

__all__ = ["read_coordinates", "write_coordinates"]

_SUFFIX = re.compile(r"_(autopick|manualpick|pick|picks|extract)$")


def read_coordinates(path, *, micrograph=None, invert_y=False):
    """Centres of particles, whatever program wrote them.

    Parameters
    ----------
    path : path-like
        A STAR file with rlnCoordinateX and Y, EMAN's ``.box`` (corner and size in pixels), or a ``.cs`` file with
        ``location`` columns.
    micrograph : str, optional
        Name of the micrograph where the file does not say; its own name without ``_autopick`` and the like by default.
    invert_y : bool
        Of a ``.cs`` file: count y from the other end of the micrograph.

    Returns
    -------
    pandas.DataFrame
        ``micrograph``, ``x``, ``y`` (pixels of the micrograph), ``score`` (0 where the file has none).

    Raises
    ------
    FileNotFoundError, ValueError
        Another kind of file; a column that is missing; a line that is not four numbers.

    Notes
    -----
    cryoSPARC's fractions are multiplied by the micrograph's shape. Whether its y runs along the rows of the MRC file or
    against them depends on which program made the micrograph and on cryoSPARC's version (asarnow/pyem on GitHub, issues
    22, 81, 101 and 133: for micrographs that RELION shares, its author inverts y). Draw the picks of one micrograph;
    where they lie upside down, pass ``invert_y=True``.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.box")
    ...     _ = path.write_text("10\\t20\\t100\\t100\\n")
    ...     read_coordinates(path).to_numpy().tolist()
    [['a', 60.0, 70.0, 0.0]]
    """
    path = existing_file(path)
    kind = detect_format(path)
    name = micrograph or _SUFFIX.sub("", path.name.split(".")[0] if path.name.endswith(".gz") else path.stem)
    if kind == "star":
        return _from_star(path, name)
    if kind == "cryosparc":
        return _from_cryosparc(path, invert_y)
    if kind in ("text", "empty"):
        return _from_box(path, name)
    raise ValueError(f"{path}: expected coordinates (STAR, .box or .cs), but the content looks like {kind!r}")


def write_coordinates(table, path, *, box_px=None, shape=None, invert_y=False):
    """Write coordinates as RELION STAR (``.star``), EMAN (``.box``) or cryoSPARC (``.cs``), by the name's ending.

    Parameters
    ----------
    table : DataFrame
        As from `read_coordinates`.
    path : path-like
    box_px : int, optional
        Box size, which ``.box`` needs.
    shape : (int, int), optional
        Height and width of the micrographs in pixels, which ``.cs`` needs.
    invert_y : bool
        As in `read_coordinates`.

    Raises
    ------
    ValueError
        Another ending, several micrographs in a ``.box``, or a size that is missing.

    Notes
    -----
    Written beside and renamed. ``.box`` holds whole pixels, rounded.
    """
    path = Path(path)
    missing = [name for name in ("micrograph", "x", "y") if name not in table]
    if missing:
        raise ValueError(f"cannot write {path}: coordinates need columns {missing}")
    score = table["score"].to_numpy(float) if "score" in table else np.zeros(len(table))
    if path.suffix == ".star":
        _to_star(table, score, path)
    elif path.suffix == ".box":
        _to_box(table, path, box_px)
    elif path.suffix == ".cs":
        _to_cryosparc(table, score, path, shape, invert_y)
    else:
        raise ValueError(f"cannot write {path}: coordinates go to .star, .box or .cs")


def _table(micrograph, x, y, score):
    import pandas as pd

    table = pd.DataFrame({"micrograph": micrograph, "x": x, "y": y, "score": score})
    return table.astype({"micrograph": object, "x": float, "y": float, "score": float})


def _from_star(path, name):
    for block in read_star(path).values():
        if "rlnCoordinateX" in block and "rlnCoordinateY" in block:
            x, y = (column_numbers(block, f"rlnCoordinate{axis}", path=path) for axis in "XY")
            score = np.zeros(len(x))
            if "rlnAutopickFigureOfMerit" in block:
                score = column_numbers(block, "rlnAutopickFigureOfMerit", path=path)
            names = block["rlnMicrographName"].tolist() if "rlnMicrographName" in block else [name] * len(x)
            return _table(names, x, y, score)
    raise ValueError(f"{path}: no table with rlnCoordinateX and rlnCoordinateY")


def _from_box(path, name):
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            left, bottom, width, height = (float(field) for field in fields[:4])
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected x, y, width and height in pixels, got {line.strip()!r}"
            ) from None
        rows.append((left + width / 2, bottom + height / 2))
    x, y = np.array(rows).reshape(-1, 2).T
    return _table([name] * len(rows), x, y, np.zeros(len(rows)))


def _from_cryosparc(path, invert_y):
    records = load_cryosparc(path)
    needed = [f"location/{name}" for name in ("micrograph_path", "center_x_frac", "center_y_frac", "micrograph_shape")]
    for name in needed:
        if name not in records.dtype.names:
            raise ValueError(f"{path}: missing field {name}")
    shape = records["location/micrograph_shape"].astype(float)
    names = [
        (value.decode() if isinstance(value, bytes) else str(value)).lstrip(">")
        for value in records["location/micrograph_path"]
    ]
    score = np.zeros(len(records))
    if "pick_stats/ncc_score" in records.dtype.names:
        score = records["pick_stats/ncc_score"].astype(float)
    down = records["location/center_y_frac"]
    x, y = records["location/center_x_frac"] * shape[:, 1], (1 - down if invert_y else down) * shape[:, 0]
    return _table(names, x, y, score)


def _to_star(table, score, path):
    import pandas as pd

    columns = {
        "rlnMicrographName": [str(name) for name in table["micrograph"]],
        "rlnCoordinateX": number_text(table["x"].to_numpy(float)),
        "rlnCoordinateY": number_text(table["y"].to_numpy(float)),
        "rlnAutopickFigureOfMerit": number_text(score),
    }
    write_star({"": pd.DataFrame(columns)}, path)


def _to_box(table, path, box_px):
    if box_px is None or table["micrograph"].nunique() > 1:
        raise ValueError(f"cannot write {path}: .box needs box_px= and holds one micrograph")
    corner = np.rint(table[["x", "y"]].to_numpy(float) - box_px / 2).astype(int)
    lines = [f"{x}\t{y}\t{box_px}\t{box_px}\n" for x, y in corner]
    with replacing(path) as beside:
        beside.write_text("".join(lines), encoding="ascii")


def _to_cryosparc(table, score, path, shape, invert_y):
    if shape is None:
        raise ValueError(f"cannot write {path}: .cs needs shape=(height, width) of the micrographs in pixels")
    names = [str(PurePosixPath(str(name))).encode() for name in table["micrograph"]]
    length = max([len(name) for name in names], default=1)
    records = np.zeros(
        len(table),
        dtype=[
            ("uid", "<u8"), ("location/micrograph_path", f"S{length}"), ("location/micrograph_shape", "<u4", (2,)),
            ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"), ("pick_stats/ncc_score", "<f4"),
        ],
    )  # fmt: skip
    records["uid"] = np.arange(1, len(table) + 1)
    records["location/micrograph_path"], records["location/micrograph_shape"] = names, shape
    records["location/center_x_frac"] = table["x"].to_numpy(float) / shape[1]
    down = table["y"].to_numpy(float) / shape[0]
    records["location/center_y_frac"] = 1 - down if invert_y else down
    records["pick_stats/ncc_score"] = score
    with replacing(path) as beside, open(beside, "wb") as file:
        np.save(file, records, allow_pickle=False)
