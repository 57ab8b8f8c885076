"""What a file is, in a few lines for people."""

import os

import numpy as np

from cryonb.io.formats import detect_format, existing_file

__all__ = ["describe"]


def describe(path):
    """What a file is: kind, shape, units, ranges, and what is missing. ``python -m cryonb info FILE`` prints it.

    Parameters
    ----------
    path : path-like
        Any file that `cryonb.io` reads.

    Returns
    -------
    str
        A few lines; the first names the kind.

    Raises
    ------
    FileNotFoundError, ValueError
        A file that is none of them, or damaged.

    Examples
    --------
    >>> import os, tempfile
    >>> from cryonb.io import write_stack
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_stack(np.zeros((7, 16, 16)), os.path.join(folder, "a.mrcs"), 3.0)
    ...     print(describe(os.path.join(folder, "a.mrcs")).split(": ", 1)[1])
    MRC file, a stack of 7 images of 16 × 16 px
      values      float32, 0 to 0
      pixel size  3 Å (48 Å wide)
    """
    kind = detect_format(existing_file(path))
    describers = {"mrc": _mrc, "star": _star, "cryosparc": _cryosparc, "pdb": _model, "mmcif": _model, "image": _image}
    if kind not in describers:
        size = os.path.getsize(path)
        raise ValueError(
            f"{path}: {kind} ({size:,} bytes), not a file that cryonb reads: "
            "expected MRC, STAR, cryoSPARC .cs, PDB or mmCIF"
        )
    title, facts = describers[kind](path)
    width = max((len(name) for name, _ in facts), default=0)
    return "\n".join([f"{path}: {title}", *(f"  {name.ljust(width)}  {value}" for name, value in facts)])


def _mrc(path):
    from cryonb.io.mrc import read_mrc

    data, header = read_mrc(path)
    n, height, width = header.shape
    if n == 1:
        title = f"MRC file, an image of {width} × {height} px"
    elif header.is_stack:
        title = f"MRC file, a stack of {n} images of {width} × {height} px"
    else:
        cube = "" if n == height == width else ", not a cube"
        title = f"MRC file, a volume of {width} × {height} × {n} voxels{cube}"
    kind = header.dtype.newbyteorder("=").name
    order = ", big-endian" if header.dtype.byteorder == ">" else ""
    packed = ", compressed" if header.compressed else ""
    facts = [("values", f"{kind}{order}{packed}{_range_of(data)}")]
    pixel = header.voxel_size[0]
    if pixel > 0:
        facts.append(("pixel size", f"{pixel:g} Å ({pixel * width:.4g} Å wide)"))
    else:
        facts.append(("missing", "pixel size (0 in the header)"))
    if any(header.origin):
        facts.append(("origin", "({:g}, {:g}, {:g}) Å".format(*header.origin)))
    if header.offset > 1024:
        facts.append(("extended", f"header of {header.offset - 1024:,} bytes"))
    return title, facts


def _range_of(data):
    """Smallest and largest value of at most 64 sections spread over the file, so that a large stack is quick."""
    if np.iscomplexobj(data):
        return ""
    rows = np.unique(np.linspace(0, len(data) - 1, 64).astype(int))
    values = [np.asarray(data[row], dtype=np.float64) for row in rows]
    bad = sum(int((~np.isfinite(value)).sum()) for value in values)
    finite = np.concatenate([value[np.isfinite(value)] for value in values])
    some = "" if len(rows) == len(data) else f" (in {len(rows)} of {len(data)} sections)"
    text = f", {finite.min():.4g} to {finite.max():.4g}{some}" if finite.size else ""
    return text + (f", {bad} NaN or infinite" if bad else "")


def _star(path):
    from cryonb.io.star import read_star

    tables = read_star(path)
    name = next((name for name, table in tables.items() if "rlnImageName" in table), None)
    blocks = ", ".join(f"data_{block} ({len(table)} × {table.shape[1]})" for block, table in tables.items())
    if name is None:
        return "STAR file without particles", [("blocks", f"{blocks} (rows × columns)")]
    metadata, optics = tables[name], tables.get("optics")
    form = (
        "with optics groups (RELION 3.1 or later)"
        if optics is not None
        else "without optics groups (RELION 3.0 or earlier)"
    )
    facts = [("blocks", f"{blocks} (rows × columns)")]
    facts += _optics(optics) if optics is not None else []
    facts += _columns(metadata, optics, path) if len(metadata) else []
    return f"STAR file of {len(metadata):,} particles, {form}", facts


def _optics(optics):
    from cryonb.io.star import column_numbers

    facts = [("optics", f"{len(optics)} group{'' if len(optics) == 1 else 's'}")]
    units = {
        "rlnImagePixelSize": ("pixel size", "Å"),
        "rlnImageSize": ("box size", "px"),
        "rlnVoltage": ("voltage", "kV"),
        "rlnSphericalAberration": ("Cs", "mm"),
        "rlnAmplitudeContrast": ("amplitude contrast", ""),
    }
    for column, (label, unit) in units.items():
        if column in optics:
            values = np.unique(column_numbers(optics, column)).tolist()
            facts.append((label, f"{', '.join(f'{value:g}' for value in values)} {unit}".rstrip()))
        else:
            facts.append(("missing", f"{label} ({column} in data_optics)"))
    return facts


def _columns(metadata, optics, path):
    from cryonb.io.relion import find_stack, parse_image_names, pixel_sizes, stack_places
    from cryonb.io.star import column_numbers

    facts = []
    if optics is None:
        pixels = pixel_sizes(metadata, None, path)
        facts.append(("missing", "pixel size") if pixels is None else ("pixel size", _span(pixels, "Å")))
    names, _, _ = parse_image_names(metadata, path)
    places = stack_places(path, None)
    gone = [name for name in names if not os.path.exists(find_stack(name, places, must_exist=False))]
    facts.append(_stacks(len(names)))
    if gone:
        facts.append(("missing", f"{len(gone)} of these stacks, the first {gone[0]}"))
    for label, columns, unit, factor in (
        ("defocus", ("rlnDefocusU", "rlnDefocusV"), "µm", 1e-4),
        ("shift", ("rlnOriginXAngst", "rlnOriginYAngst"), "Å", 1.0),
        ("shift", ("rlnOriginX", "rlnOriginY"), "px", 1.0),
        ("phase shift", ("rlnPhaseShift",), "°", 1.0),
    ):
        if all(column in metadata for column in columns):
            values = np.concatenate([column_numbers(metadata, column, path=path) for column in columns]) * factor
            facts.append((label, _span(values, unit)))
    if "rlnDefocusU" not in metadata:
        facts.append(("missing", "CTF (rlnDefocusU)"))
    angles = [name for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi") if name not in metadata]
    facts.append(("missing", f"orientations ({', '.join(angles)})") if angles else ("orientations", "yes"))
    if "rlnClassNumber" in metadata:
        facts.append(("classes", str(metadata["rlnClassNumber"].nunique())))
    if "rlnMicrographName" in metadata:
        facts.append(("micrographs", str(metadata["rlnMicrographName"].nunique())))
    return facts


def _stacks(count):
    return "stacks", f"{count} file{'' if count == 1 else 's'}"


def _span(values, unit):
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.4g} {unit}" if low == high else f"{low:.4g} to {high:.4g} {unit}"


def _cryosparc(path):
    from cryonb.io.cryosparc import load_cryosparc

    records = load_cryosparc(path)
    fields = records.dtype.names
    groups = ", ".join(sorted({name.split("/")[0] for name in fields if "/" in name}))
    facts = [("groups", groups)]
    if len(records):
        for label, field, unit, factor in (
            ("pixel size", "blob/psize_A", "Å", 1.0),
            ("box size", "blob/shape", "px", 1),
            ("voltage", "ctf/accel_kv", "kV", 1.0),
            ("defocus", "ctf/df1_A", "µm", 1e-4),
        ):
            facts.append((label, _span(records[field] * factor, unit)) if field in fields else ("missing", field))
        if "blob/path" in fields:
            facts.append(_stacks(len(np.unique(records["blob/path"]))))
    facts.append(("orientations", "yes") if "alignments3D/pose" in fields else ("missing", "alignments3D/pose"))
    return f"cryoSPARC file of {len(records):,} particles", facts


def _model(path):
    from cryonb.io.models import read_model

    model = read_model(path)
    first = model.structure[0]
    residues, chains = sum(len(chain) for chain in first), len(first)
    low, high = model.coordinates.min(axis=0), model.coordinates.max(axis=0)
    facts = [
        (
            "content",
            f"{len(model):,} atoms, {residues:,} residues, {chains} chain{'' if chains == 1 else 's'}",
        ),
        ("extent", "{:.0f} × {:.0f} × {:.0f} Å".format(*(high - low))),
        ("B factors", _span(model.b_factors, "Å²")),
    ]
    if len(model.structure) > 1:
        facts.append(("models", f"{len(model.structure)} (the first is used)"))
    return f"atomic model {model.structure.name}", facts


def _image(path):
    from PIL import Image

    with Image.open(path) as image:
        return f"{image.format} image of {image.width} × {image.height} px", [("missing", "pixel size")]
