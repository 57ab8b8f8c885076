"""cryoSPARC's ``.cs`` files (NumPy structured arrays) to and from `Particles`.

Conventions, checked against values that came with a real file: ``alignments3D/pose`` is a rotation vector in radians
whose rotation takes image-frame to volume-frame coordinates (RELION's matrix is its transpose);
``alignments3D/shift`` is in pixels of ``alignments3D/psize_A`` with RELION's sign; angles of the CTF are radians;
``blob/sign`` is -1 where protein is dark in the file.
"""

from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryonb.io.formats import detect_format, existing_file, replacing
from cryonb.io.relion import agreed_pixel_size, find_stack, require_possible, stack_places, typical_pixel_size
from cryonb.io.stack import ImageStack
from cryonb.types import CTF, Particles, Poses

__all__ = ["read_cryosparc", "write_cryosparc"]

# Field of the file, field of the noun, factor from the file's unit to the noun's.
_CTF_FIELDS = (
    ("ctf/df1_A", "defocus_u", 1.0),
    ("ctf/df2_A", "defocus_v", 1.0),
    ("ctf/df_angle_rad", "defocus_angle", 180 / np.pi),
    ("ctf/accel_kv", "voltage_kv", 1.0),
    ("ctf/cs_mm", "cs_mm", 1.0),
    ("ctf/amp_contrast", "amplitude_contrast", 1.0),
    ("ctf/phase_shift_rad", "phase_shift", 180 / np.pi),
    ("ctf/bfactor", "b_factor", 1.0),
)
_POSE, _SHIFT, _SHIFT_PIXEL = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"


def read_cryosparc(path, *, root=None, pixel_size=None, check_images=True, passthrough=()):
    """Particles of a ``.cs`` file; `read_particles` comes here by itself.

    Parameters
    ----------
    path : path-like
    root : path-like, optional
        cryoSPARC's project folder, which ``blob/path`` is relative to. The file's folder and its parents are tried too.
    pixel_size : float, optional
        Å, instead of ``blob/psize_A``.
    check_images : bool
        As in `read_particles`.
    passthrough : sequence of path-like
        Further ``.cs`` files with the same ``uid``, in any order; their fields are added.

    Returns
    -------
    Particles
        ``metadata`` has every field with its own type; a field of several numbers gives columns ``name[0]``,
        ``name[1]``, …. ``metadata.attrs["cryosparc_dtype"]`` is the layout that `write_cryosparc` restores.

    Raises
    ------
    FileNotFoundError, ValueError
    """
    records = load_cryosparc(path)
    for other in passthrough:
        records = _joined(records, load_cryosparc(other), path, other)
    if len(records) == 0:
        raise ValueError(f"{path}: no particles (0 rows)")
    for name in ("blob/path", "blob/idx", "blob/shape", "blob/psize_A"):
        if name not in records.dtype.names:
            has = ", ".join(sorted({field.split("/")[0] for field in records.dtype.names}))
            raise ValueError(f"{path}: missing field {name} (groups: {has}); pass the other .cs file in passthrough=")
    pixels = records["blob/psize_A"].astype(np.float64)
    size_px = _box(records, path)
    images = _images(records, path, root, size_px, check_images)
    if pixel_size is None:
        pixel_size = _pixel_size(pixels, images, path)
    metadata = _flattened(records)
    metadata.attrs.update(cryosparc_dtype=[tuple(entry) for entry in records.dtype.descr], path=str(path))
    return Particles(images, pixel_size, ctf=_ctf(records, path), poses=_poses(records, path), metadata=metadata)


def write_cryosparc(particles, path):
    """Write particles that came from a ``.cs`` file as a ``.cs`` file, whole or not at all; images stay where they are.

    Every field keeps its bytes, apart from values in which ``ctf`` or ``poses`` now differ.

    Parameters
    ----------
    particles : Particles
        With the metadata that `read_cryosparc` gave, selected or reordered at will.
    path : path-like

    Raises
    ------
    ValueError
        Particles that do not come from a ``.cs`` file.
    """
    metadata = particles.metadata
    if metadata is None or "cryosparc_dtype" not in metadata.attrs:
        raise ValueError(
            f"cannot write {path}: these particles do not come from a .cs file; write_particles writes STAR"
        )
    records = _unflattened(metadata)
    if particles.ctf is not None:
        _update_ctf(records, particles.ctf)
    if particles.poses is not None:
        records = _update_poses(records, particles.poses, particles.pixel_size)
    with replacing(path) as beside, open(beside, "wb") as file:
        np.save(file, records, allow_pickle=False)


def load_cryosparc(path):
    """The structured array of a ``.cs`` file.

    Raises
    ------
    FileNotFoundError, ValueError
        Not such a file, or truncated.
    """
    kind = detect_format(existing_file(path))
    if kind != "cryosparc":
        raise ValueError(
            f"{path}: expected a cryoSPARC .cs file (a NumPy structured array), but it looks like {kind!r}"
        )
    try:
        with open(path, "rb") as file:
            return np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated .cs file ({error})") from error


def _box(records, path):
    shapes = np.unique(records["blob/shape"], axis=0)
    if len(shapes) != 1 or shapes[0][0] != shapes[0][1]:
        raise ValueError(f"{path}: blob/shape must be one square box, got {shapes.tolist()} px")
    return int(shapes[0][0])


def _images(records, path, root, size_px, check):
    names, first, file_of_image = np.unique(records["blob/path"], return_index=True, return_inverse=True)
    paths, places = [], stack_places(path, root)
    for name, row in zip(names, first):
        # A leading > says "relative to the project folder".
        text = name.decode().lstrip(">") if isinstance(name, bytes) else str(name).lstrip(">")
        try:
            paths.append(find_stack(text, places, must_exist=check))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}, row {row + 1}: {error}") from None
    sign = records["blob/sign"] if "blob/sign" in records.dtype.names else 1
    sign = np.where(np.asarray(sign) < 0, -1, 1)
    return ImageStack(
        paths, file_of_image.reshape(-1), records["blob/idx"],
        size_px=size_px, sign=sign, check=check, place=partial(_place_of_row, str(path)),
    )  # fmt: skip


def _place_of_row(path, row):
    return f"{path}, row {row + 1}"


def _pixel_size(pixels, images, path):
    if not (np.isfinite(pixels) & (pixels > 0)).all():
        row = int(np.argmin(np.isfinite(pixels) & (pixels > 0)))
        raise ValueError(f"{path}, row {row + 1}: blob/psize_A is {pixels[row]:g} Å, expected a positive number")
    # float32 in the file: 1.01 Å is 1.00999999, which nobody wrote.
    typical = float(f"{typical_pixel_size(pixels):.6g}")
    return agreed_pixel_size(typical, pixels, images, path, where="in blob/psize_A")


def _ctf(records, path):
    if "ctf/df1_A" not in records.dtype.names:
        return None
    values = {}
    for field, name, factor in _CTF_FIELDS:
        if field in records.dtype.names:
            values[name] = _finite(records, field, path).astype(np.float64) * factor
        elif name not in ("phase_shift", "b_factor"):
            raise ValueError(f"{path}: missing field {field}")
    require_possible(values, partial(_place_of_row, path))
    return CTF(**values)


def _poses(records, path):
    names = records.dtype.names
    if _POSE not in names:
        return None
    rotation = Rotation.from_rotvec(_finite(records, _POSE, path).astype(np.float64))
    if _SHIFT not in names:
        return Poses(rotation)
    pixel = records[_SHIFT_PIXEL if _SHIFT_PIXEL in names else "blob/psize_A"].astype(np.float64)
    return Poses(rotation, _finite(records, _SHIFT, path).astype(np.float64) * pixel[:, None])


def _finite(records, field, path):
    values = records[field]
    good = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{path}, row {row + 1}: {field} is {values[row]}, expected a finite number")
    return values


def _joined(records, other, path, other_path):
    for array, where in ((records, path), (other, other_path)):
        if "uid" not in array.dtype.names:
            raise ValueError(f"{where}: missing field uid, by which passthrough files are joined")
    order = np.argsort(other["uid"])
    place = np.searchsorted(other["uid"], records["uid"], sorter=order).clip(0, max(len(other) - 1, 0))
    rows = order[place] if len(other) else place
    missing = other["uid"][rows] != records["uid"] if len(other) else np.ones(len(records), dtype=bool)
    if missing.any():
        row = int(np.argmax(missing))
        raise ValueError(f"{other_path}: no particle with uid {records['uid'][row]} (row {row + 1} of {path})")
    new = [name for name in other.dtype.names if name not in records.dtype.names]
    return _with_fields(records, {name: other[name][rows] for name in new})


def _with_fields(records, columns):
    layout = list(records.dtype.descr)
    layout += [(name, values.dtype.str, values.shape[1:]) for name, values in columns.items()]
    grown = np.empty(len(records), dtype=layout)
    for name in records.dtype.names:
        grown[name] = records[name]
    for name, values in columns.items():
        grown[name] = values
    return grown


def _flattened(records):
    import pandas as pd

    columns = {}
    for name in records.dtype.names:
        values = records[name]
        if values.dtype.kind == "S":
            # Latin-1 maps every byte to a character and back.
            columns[name] = pd.Series(np.char.decode(values, "latin-1"), dtype="str")
        elif values.ndim == 1:
            columns[name] = values
        else:
            flat = values.reshape(len(values), -1)
            columns.update({f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])})
    return pd.DataFrame(columns)


def _unflattened(metadata):
    layout = np.dtype([tuple(entry) for entry in metadata.attrs["cryosparc_dtype"]])
    records = np.empty(len(metadata), dtype=layout)
    for name in layout.names:
        field = layout[name]
        if field.kind == "S":
            records[name] = np.char.encode(metadata[name].to_numpy().astype(str), "latin-1")
        elif field.shape:
            count = int(np.prod(field.shape))
            flat = np.column_stack([metadata[f"{name}[{i}]"].to_numpy() for i in range(count)])
            records[name] = flat.reshape(len(metadata), *field.shape)
        else:
            records[name] = metadata[name].to_numpy()
    return records


def _update_ctf(records, ctf):
    for field, name, factor in _CTF_FIELDS:
        if field in records.dtype.names:
            values = np.broadcast_to(getattr(ctf, name), len(records))
            before = records[field].astype(np.float64) * factor
            changed = np.abs(values - before) > 1e-9 * np.maximum(1, np.abs(values))
            records[field][changed] = values[changed] / factor


def _update_poses(records, poses, pixel_size):
    n = len(records)
    if _POSE not in records.dtype.names:
        records = _with_fields(records, {_POSE: np.full((n, 3), np.inf, dtype=np.float32)})
    if _SHIFT not in records.dtype.names:
        records = _with_fields(records, {_SHIFT: np.zeros((n, 2), dtype=np.float32)})
    if _SHIFT_PIXEL not in records.dtype.names:
        records = _with_fields(records, {_SHIFT_PIXEL: np.full(n, pixel_size, dtype=np.float32)})
    known = np.isfinite(records[_POSE]).all(axis=1)
    before = Rotation.from_rotvec(np.where(known[:, None], records[_POSE], 0).astype(np.float64))
    changed = ~known | ((before.inv() * poses.rotation).magnitude() > 1e-8)
    records[_POSE][changed] = poses.rotation.as_rotvec()[changed]
    pixel = records[_SHIFT_PIXEL].astype(np.float64)[:, None]
    moved = np.abs(records[_SHIFT].astype(np.float64) * pixel - poses.shift) > 1e-9 * np.maximum(1, np.abs(poses.shift))
    records[_SHIFT][moved] = (poses.shift / pixel)[moved]
    return records
