"""`Particles` to RELION 3.1 STAR and MRCS files.

A value goes out exactly as it came in unless a noun says otherwise: where ``ctf``, ``poses`` or ``pixel_size``
differ from what the columns say, those values, and only those, are written anew.
"""

import os
from pathlib import Path

import numpy as np

from cryonb.io.formats import replacing
from cryonb.io.relion import (
    find_stack,
    optics_of_particles,
    parse_image_names,
    parse_poses,
    pixel_sizes,
    stack_places,
    typical_pixel_size,
    used_optics,
)
from cryonb.io.stack import ImageStack, write_stack
from cryonb.io.star import column_numbers, number_text, require_names, star_text
from cryonb.rotations import to_relion_angles

__all__ = ["write_particles"]

_MICROSCOPE = {
    "rlnVoltage": "voltage_kv",
    "rlnSphericalAberration": "cs_mm",
    "rlnAmplitudeContrast": "amplitude_contrast",
}
_DEFOCUS = {"rlnDefocusU": "defocus_u", "rlnDefocusV": "defocus_v", "rlnDefocusAngle": "defocus_angle"}
_OPTIONAL = {"rlnPhaseShift": "phase_shift", "rlnCtfBfactor": "b_factor"}
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
# What RELION 3.0 keeps with each particle and 3.1 in the optics table, or in Å.
_MOVED = ("rlnMagnification", "rlnDetectorPixelSize", *_MICROSCOPE)
# Half of the sixth decimal that RELION writes; less is formatting, not a change.
_SAME = 5e-7


def write_particles(particles, star_path, *, stack_path=None, project=None):
    """Write particles as a RELION 3.1 STAR file, and their images as an MRC stack.

    Parameters
    ----------
    particles : Particles
        Columns of ``metadata`` and ``optics`` are kept as they are, apart from values in which ``ctf``, ``poses`` or
        ``pixel_size`` differ from them: the nouns win. Metadata of RELION 3.0 are written in the form of 3.1
        (optics table, origins in Å); of cryoSPARC, only what the nouns say is written.
    star_path : path-like
    stack_path : path-like, optional
        Stack to write all images to, in their order (float32). By default images in memory go beside the STAR file
        (``particles.star``: ``particles.mrcs``), and images that already lie in files (`ImageStack`) stay there.
    project : path-like, optional
        Folder in which RELION will be started: names in the STAR file are relative to it. The folder of the STAR
        file by default.

    Raises
    ------
    ValueError
        NaN pixels; microscope values that vary within an optics group; a column or value that STAR cannot hold.

    Notes
    -----
    Both files are written beside and renamed, the images first; on an error neither is there. Numbers that are written
    anew have six decimals, as RELION's.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from cryonb.types import Particles
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_particles(Particles(np.ones((2, 8, 8)), 1.5), pathlib.Path(folder.name, "two.star"))
    >>> from cryonb.io import read_star
    >>> read_star(pathlib.Path(folder.name, "two.star"))["particles"]["rlnImageName"].tolist()
    ['000001@two.mrcs', '000002@two.mrcs']
    >>> folder.cleanup()
    """
    star_path = Path(star_path)
    project = Path(star_path.absolute().parent if project is None else project).absolute()
    if stack_path is None and not _stays_in_files(particles.images):
        stack_path = star_path.with_suffix(".mrcs")
    metadata, optics = particle_tables(particles)
    metadata = _with_image_names(metadata, particles, star_path, stack_path, project)
    require_names({"optics": optics, "particles": metadata}, star_path)
    others = (metadata.attrs.get("other_blocks") or "").encode()
    with replacing(star_path) as beside, open(beside, "wb") as file:
        for piece in star_text("optics", optics, default_comment="# version 30001"):
            file.write(piece)
        for piece in star_text("particles", metadata, default_comment="# version 30001"):
            file.write(piece)
        file.write(others)
        file.flush()
        # Now that the tables can be written: a table that cannot leaves no stack behind.
        if stack_path is not None:
            write_stack(particles.images, stack_path, particles.pixel_size)


def particle_tables(particles):
    """Tables (metadata, optics) in RELION 3.1's form, with the nouns' values where they differ; image names untouched.

    Examples
    --------
    >>> from cryonb.types import CTF, Particles
    >>> metadata, optics = particle_tables(Particles(np.ones((2, 8, 8)), 1.5, ctf=CTF([1e4, 2e4], 1e4, voltage_kv=200)))
    >>> metadata["rlnDefocusU"].tolist(), optics["rlnVoltage"].tolist()
    (['10000.000000', '20000.000000'], ['200.000000'])
    """
    metadata, optics = _relion_columns(particles), particles.optics
    if metadata is None or optics is None:
        old = metadata
        metadata, optics = _with_new_optics(particles, metadata)
        # Origins in pixels are compared at the pixel size of the file that they came from.
        pixels = None if old is None else pixel_sizes(old, None, "metadata")
        group = optics_of_particles(metadata, optics, "metadata")
    else:
        optics = optics.copy()
        group = optics_of_particles(metadata, optics, "metadata")
        used, member = used_optics(optics, group)
        pixels = pixel_sizes(metadata, used, "metadata")
        pixels = None if pixels is None else pixels[member]
    if pixels is None:
        pixels = np.full(len(metadata), particles.pixel_size)
    _update_ctf(metadata, optics, group, particles.ctf)
    _update_poses(metadata, pixels, particles.poses)
    _update_grid(optics, group, particles)
    return metadata, optics


def _stays_in_files(images):
    return isinstance(images, ImageStack) and not (images.sign != 1).any()


def _relion_columns(particles):
    metadata = particles.metadata
    if metadata is None:
        return None
    if "cryosparc_dtype" in metadata.attrs:
        return _from_cryosparc(metadata)
    attrs = metadata.attrs
    metadata = metadata.reset_index(drop=True)
    metadata.attrs.update(attrs)
    for name in ("path", "block"):
        metadata.attrs.pop(name, None)
    return metadata


def _from_cryosparc(metadata):
    """What RELION can use of cryoSPARC's fields beyond the nouns: micrograph, half set and class, counted from 1."""
    import pandas as pd

    columns = {}
    if "location/micrograph_path" in metadata:
        columns["rlnMicrographName"] = [name.lstrip(">") for name in metadata["location/micrograph_path"]]
    for field, column in (("alignments3D/split", "rlnRandomSubset"), ("alignments3D/class", "rlnClassNumber")):
        if field in metadata:
            columns[column] = (metadata[field].to_numpy().astype(np.int64) + 1).astype(str)
    return pd.DataFrame(columns, index=range(len(metadata)))


def _with_new_optics(particles, metadata):
    """Tables with an optics group for each combination of voltage, aberration and contrast."""
    import pandas as pd

    n, ctf = len(particles), particles.ctf
    if ctf is None:
        # RELION wants an optics table even for particles without a CTF; these are then its neutral entries.
        microscope = np.array([[300.0, 2.7, 0.1]])
        member = np.zeros(n, dtype=np.int64)
    else:
        values = np.column_stack([np.broadcast_to(getattr(ctf, name), n) for name in _MICROSCOPE.values()])
        microscope, member = np.unique(values, axis=0, return_inverse=True)
    if ctf is None and metadata is not None and "rlnVoltage" in metadata:
        microscope = np.array([[column_numbers(metadata, name)[0] for name in _MICROSCOPE]])
    groups = range(1, len(microscope) + 1)
    optics = pd.DataFrame(
        {"rlnOpticsGroup": [str(g) for g in groups], "rlnOpticsGroupName": [f"opticsGroup{g}" for g in groups]}
    )
    for column, name in enumerate(_MICROSCOPE):
        optics[name] = number_text(microscope[:, column])
    optics["rlnImagePixelSize"] = number_text(np.full(len(optics), particles.pixel_size))
    optics["rlnImageSize"] = str(particles.size_px)
    optics["rlnImageDimensionality"] = "2"
    attrs = {} if metadata is None else metadata.attrs
    metadata = pd.DataFrame(index=range(n)) if metadata is None else metadata.drop(columns=[*_MOVED], errors="ignore")
    metadata.attrs.update(attrs)
    metadata["rlnOpticsGroup"] = (member.reshape(-1) + 1).astype(str).astype(object)
    return metadata, optics


def _update_ctf(metadata, optics, group, ctf):
    if ctf is None:
        return
    had_defocus = "rlnDefocusU" in metadata
    known = {**_DEFOCUS, **{c: f for c, f in _OPTIONAL.items() if c in metadata or np.any(getattr(ctf, f) != 0)}}
    for column, name in known.items():
        values = np.broadcast_to(getattr(ctf, name), len(metadata))
        # A file without rlnDefocusV means no astigmatism: nothing to add while that holds.
        if had_defocus and column not in metadata and np.array_equal(ctf.defocus_v, ctf.defocus_u):
            continue
        _replace_changed(metadata, column, values)
    for column, name in _MICROSCOPE.items():
        values = np.broadcast_to(getattr(ctf, name), len(metadata))
        if column in metadata:
            _replace_changed(metadata, column, values)
            continue
        low, high = np.full(len(optics), np.inf), np.full(len(optics), -np.inf)
        np.minimum.at(low, group, values)
        np.maximum.at(high, group, values)
        if (high - low > _SAME).any():
            row = int(np.argmax(high - low))
            raise ValueError(
                f"{name} varies from {low[row]:g} to {high[row]:g} within optics group "
                f"{optics['rlnOpticsGroup'].iloc[row]}; give these particles optics groups of their own"
            )
        used = np.isfinite(low)
        present = column_numbers(optics, column) if column in optics else np.full(len(optics), values[0])
        _replace_changed(optics, column, np.where(used, low, present))


def _update_poses(metadata, pixels, poses):
    if poses is None:
        return
    written = parse_poses(metadata, pixels, "metadata")
    shift_columns = ("rlnOriginXAngst", "rlnOriginYAngst")
    if written is None:
        turned = np.ones(len(metadata), dtype=bool)
    else:
        turned = np.degrees((written.rotation.inv() * poses.rotation).magnitude()) > 2e-6
    if turned.any() or written is None:
        angles = to_relion_angles(poses.rotation)
        for column, name in enumerate(_ANGLES):
            _replace(metadata, name, angles[:, column], turned)
    for column, name in enumerate(shift_columns):
        old = name.removesuffix("Angst")
        if old in metadata and name not in metadata:
            place = metadata.columns.get_loc(old)
            metadata.insert(place, name, number_text(poses.shift[:, column]))
        if old in metadata:
            del metadata[old]
        _replace_changed(metadata, name, poses.shift[:, column])


def _update_grid(optics, group, particles):
    """Box and pixel size of the groups in use, where particles were rescaled or cropped since the table was read."""
    used = np.isin(np.arange(len(optics)), group)
    if "rlnImageSize" not in optics:
        optics["rlnImageSize"] = str(particles.size_px)
    elif (column_numbers(optics, "rlnImageSize")[used] != particles.size_px).any():
        optics["rlnImageSize"] = np.where(used, str(particles.size_px), optics["rlnImageSize"].astype(object))
    if "rlnImagePixelSize" not in optics:
        optics["rlnImagePixelSize"] = number_text(np.full(len(optics), particles.pixel_size))
        return
    pixels = column_numbers(optics, "rlnImagePixelSize")
    # What reading this table gives; groups that differ a little are scaled alike.
    before = typical_pixel_size(pixels[used])
    if abs(before - particles.pixel_size) > _SAME:
        _replace_changed(optics, "rlnImagePixelSize", np.where(used, pixels * particles.pixel_size / before, pixels))


def _replace_changed(table, name, values):
    if name not in table:
        table[name] = number_text(values)
        return
    written = column_numbers(table, name)
    _replace(table, name, values, np.abs(written - values) > _SAME + 1e-9 * np.abs(values))


def _replace(table, name, values, changed):
    if name not in table:
        table[name] = number_text(values)
    elif changed.all():
        table[name] = number_text(values)
    elif changed.any():
        text = table[name].astype(object).to_numpy(copy=True)
        text[changed] = number_text(np.asarray(values)[changed])
        table[name] = text


def _with_image_names(metadata, particles, star_path, stack_path, project):
    n = len(particles)
    if stack_path is not None:
        stack = os.path.relpath(Path(stack_path).absolute(), project)
        names = [f"{number:06d}@{stack}" for number in range(1, n + 1)]
    else:
        names = _names_in_place(metadata, particles.images, star_path, project)
    if names is not None:
        if "rlnImageName" in metadata:
            metadata["rlnImageName"] = names
        else:
            metadata.insert(0, "rlnImageName", names)
    return metadata


def _names_in_place(metadata, images, star_path, project):
    """Names of images that stay where they lie; None where the text in the table still finds them from the new file."""
    if "rlnImageName" in metadata:
        written, file_of_image, position = parse_image_names(metadata, "metadata")
        places = stack_places(star_path, project)
        found = [find_stack(name, places, must_exist=False) for name in written]
        pairs = np.unique(np.column_stack([file_of_image, images.file_of_image]), axis=0)
        if np.array_equal(position, images.position) and all(_same_file(found[a], images.paths[b]) for a, b in pairs):
            return None
    return [images.location(i) for i in range(len(images))]


def _same_file(found, now):
    # A file that is not there cannot be found from anywhere: its name stays as it was written.
    return found == now or not os.path.exists(now) or os.path.realpath(found) == os.path.realpath(now)
