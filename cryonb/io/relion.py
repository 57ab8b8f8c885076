"""RELION's particle STAR files (3.0, 3.1, 4, 5; single particles) to `Particles`.

The tables stay text (`cryonb.io.star`); what the nouns need is parsed beside them: optics (voltage, spherical
aberration, amplitude contrast, pixel size), defocus, angles and origins, and where the images lie.
"""

import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from cryonb.io.formats import detect_format, existing_file
from cryonb.io.stack import ImageStack
from cryonb.io.star import column_numbers, place_of_row, read_star, row_place, text_array, whole_numbers
from cryonb.rotations import from_relion_angles
from cryonb.types import CTF, Particles, Poses

__all__ = ["read_particles"]

# columns of RELION 3.1 and later that the CTF model here does not have, and what they are without aberrations
ABERRATIONS = ("rlnBeamTilt", "rlnMagMat", "rlnOddZernike", "rlnEvenZernike", "rlnCtfScalefactor")
NEUTRAL = {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0, "rlnCtfScalefactor": 1.0}

# Å that pixel sizes of one dataset may differ, relative: calibrated magnifications differ by less, binning by more.
PIXEL_SIZE_TOLERANCE = 0.01


def read_particles(path, *, root=None, pixel_size=None, size_px=None, check_images=True, passthrough=()):
    """Particles of a RELION STAR file or a cryoSPARC ``.cs`` file, with lazy images.

    Parameters
    ----------
    path : path-like
        RELION 3.0 (no optics table), 3.1, 4 or 5, single particles; or ``.cs``. Told apart by content.
    root : path-like, optional
        Folder that the image paths in the file are relative to (RELION's project folder). Tried first; then the
        folder of the file, its parents, and the working folder.
    pixel_size : float, optional
        Å, instead of what the file says.
    size_px : int, optional
        Box size, for a file that does not state it, where ``check_images`` is off.
    check_images : bool
        Require the image files to be there, whole, and of the stated box and pixel size. Off, only metadata are
        read, and the images fail when asked for if they are not there.
    passthrough : sequence of path-like
        cryoSPARC's passthrough files, joined by ``uid``.

    Returns
    -------
    Particles
        ``images`` an `ImageStack`, ``metadata`` every column as text (``.cs``: as stored), ``optics`` likewise;
        ``ctf`` and ``poses`` where the file has defocus and all three angles. Other blocks of the STAR file are kept
        in ``metadata.attrs["other_blocks"]`` for writing.

    Warns
    -----
    UserWarning
        Optics groups whose pixel sizes differ by less than 1 % (the median is used for all); images that are
        already multiplied by the CTF. Groups that no particle uses do not count.

    Raises
    ------
    FileNotFoundError, ValueError
        One sentence naming file, row and line, what was expected and what came: a missing column or stack, an
        index past the end of a stack, a value that is no number or not possible, an optics group defined twice or not
        at all, boxes or pixel sizes that disagree (each stack's header counts), no particles. Images say the same when
        they are read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "particles.star")
    >>> from cryonb.io import write_particles
    >>> ctf = CTF(np.full(3, 15000.0), 14000.0, 30.0)
    >>> write_particles(Particles(np.zeros((3, 8, 8)), 2.0, ctf=ctf), path)
    >>> particles = read_particles(path)
    >>> particles.images, particles.ctf.defocus_u[0].item(), particles.metadata.loc[0, "rlnDefocusU"]
    (ImageStack(3 × 8², 1 file), 15000.0, '15000.000000')
    >>> folder.cleanup()
    """
    kind = detect_format(existing_file(path))
    if kind == "cryosparc":
        from cryonb.io.cryosparc import read_cryosparc

        return read_cryosparc(
            path, root=root, pixel_size=pixel_size, check_images=check_images, passthrough=passthrough
        )
    if kind == "mrc":
        raise ValueError(
            f"{path}: expected a STAR or .cs file, but this is an MRC file: images alone, with no CTF or poses"
        )
    tables = read_star(path)
    name = particle_block(tables, path)
    metadata = tables.pop(name)
    if len(metadata) == 0:
        raise ValueError(f"{path}: block data_{name} has no particles (0 rows)")
    optics = tables.pop("optics", None)
    used, group = used_optics(optics, optics_of_particles(metadata, optics, path))
    _require_single_particles(used, path)
    size_px = _box_size(used, path, size_px)
    images = _image_stack(metadata, path, root, size_px, check_images)
    pixels = pixel_sizes(metadata, used, path)
    if pixel_size is None:
        pixel_size = _one_pixel_size(pixels, images, path)
    if pixels is None or pixel_size != typical_pixel_size(pixels):
        pixels = np.full(len(metadata), pixel_size)
    elif optics is not None:
        pixels = pixels[group]
    particles = Particles(
        images,
        pixel_size,
        ctf=parse_ctf(metadata, used, group, path),
        poses=parse_poses(metadata, pixels, path),
        metadata=metadata,
        optics=optics,
    )
    metadata.attrs["other_blocks"] = _as_one_text(tables)
    return particles


def particle_block(tables, path):
    """Name of the block that lists particles: the one with rlnImageName.

    Raises
    ------
    ValueError
        None has, or several have.
    """
    found = [name for name, table in tables.items() if "rlnImageName" in table]
    if len(found) == 1:
        return found[0]
    if "particles" in found:
        return "particles"
    if found:
        raise ValueError(f"{path}: several blocks have rlnImageName: {', '.join('data_' + name for name in found)}")
    likely = next((name for name in ("particles", "images", "") if name in tables), None)
    if likely is not None:
        columns = ", ".join(tables[likely].columns)
        raise ValueError(f"{path}: missing column rlnImageName in data_{likely}; there are {columns or 'none'}")
    blocks = ", ".join(f"data_{name}" for name in tables)
    raise ValueError(f"{path}: expected a block of particles with column rlnImageName, got {blocks}")


def optics_of_particles(metadata, optics, path):
    """Row of the optics table of each particle, shape (n,) int; zeros without an optics table.

    Raises
    ------
    ValueError
        A group defined twice, referenced but not defined, not a whole number, or a missing rlnOpticsGroup.
    """
    if optics is None:
        return np.zeros(len(metadata), dtype=np.int64)
    defined = whole_numbers(optics, "rlnOpticsGroup", path=f"{path}, data_optics")
    number, first, counts = np.unique(defined, return_index=True, return_counts=True)
    if (counts > 1).any():
        twice = int(number[np.argmax(counts > 1)])
        rows = (np.flatnonzero(defined == twice) + 1).tolist()
        raise ValueError(f"{path}, data_optics: optics group {twice} is defined {len(rows)} times, in rows {rows}")
    used = whole_numbers(metadata, "rlnOpticsGroup", path=path)
    place = np.searchsorted(number, used).clip(0, len(number) - 1)
    if not len(number) or (number[place] != used).any():
        row = int(np.argmax(number[place] != used)) if len(number) else 0
        known = ", ".join(str(n) for n in number) or "none"
        raise ValueError(
            f"{path}, {row_place(metadata, row)}: optics group {used[row]} is not in data_optics ({known})"
        )
    return first[place]


def used_optics(optics, group):
    """Rows of the optics table that particles use, and which of them each particle uses; None stays None.

    Parameters
    ----------
    optics : DataFrame or None
    group : ndarray (n,) int
        As `optics_of_particles` gives it.
    """
    if optics is None:
        return None, group
    rows, member = np.unique(group, return_inverse=True)
    return optics.iloc[rows], member.reshape(-1)


def pixel_sizes(metadata, optics, path):
    """Pixel size in Å of each optics group, or of each particle where there is no optics table; None if not stated."""
    if optics is not None:
        if "rlnImagePixelSize" not in optics:
            return None
        values = column_numbers(optics, "rlnImagePixelSize", path=f"{path}, data_optics")
    elif "rlnDetectorPixelSize" in metadata and "rlnMagnification" in metadata:
        # RELION 3.0: detector pixel in µm over magnification.
        magnification = column_numbers(metadata, "rlnMagnification", path=path)
        detector = column_numbers(metadata, "rlnDetectorPixelSize", path=path)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = 1e4 * detector / magnification
    else:
        name = next((name for name in ("rlnImagePixelSize", "rlnPixelSize") if name in metadata), None)
        if name is None:
            return None
        values = column_numbers(metadata, name, path=path)
    if not (np.isfinite(values) & (values > 0)).all():
        row = int(np.argmin(np.isfinite(values) & (values > 0)))
        place = row_place(metadata if optics is None else optics, row)
        raise ValueError(f"{path}, {place}: pixel size {values[row]:g} Å, expected a positive number")
    return values


def typical_pixel_size(pixels):
    """The lower median of pixel sizes: a value that occurs, and that one odd group does not move.

    Examples
    --------
    >>> typical_pixel_size(np.array([1.25, 1.24, 1.25, 1.25]))
    1.25
    """
    return float(np.sort(pixels)[(len(pixels) - 1) // 2])


def parse_ctf(metadata, optics, group, path):
    """CTF of length n from the columns, or None where there is no rlnDefocusU.

    Voltage, spherical aberration and amplitude contrast come from the optics table, or from the particles
    (RELION 3.0). A missing rlnDefocusV means no astigmatism, as in RELION; phase shift and B factor default to 0.
    """
    if "rlnDefocusU" not in metadata:
        return None
    defocus_u = column_numbers(metadata, "rlnDefocusU", path=path)
    optional = {
        name: column_numbers(metadata, column, path=path) if column in metadata else 0.0
        for name, column in (
            ("defocus_angle", "rlnDefocusAngle"),
            ("phase_shift", "rlnPhaseShift"),
            ("b_factor", "rlnCtfBfactor"),
        )
    }
    microscope = {}
    for name, column in (
        ("voltage_kv", "rlnVoltage"),
        ("cs_mm", "rlnSphericalAberration"),
        ("amplitude_contrast", "rlnAmplitudeContrast"),
    ):
        if optics is not None and column not in metadata:
            microscope[name] = column_numbers(optics, column, path=f"{path}, data_optics")[group]
        else:
            microscope[name] = column_numbers(metadata, column, path=path)
    require_possible(microscope, lambda row: f"{path}, {row_place(metadata, row)}")
    _warn_of_aberrations(metadata, optics, path)
    defocus_v = column_numbers(metadata, "rlnDefocusV", path=path) if "rlnDefocusV" in metadata else defocus_u
    return CTF(defocus_u, defocus_v, **optional, **microscope)


def _warn_of_aberrations(metadata, optics, path):
    """Say which columns of aberrations and magnifications are not neutral: they are kept, but not applied."""
    ignored = []
    for table in (metadata, optics):
        for column in () if table is None else [name for name in table if name.startswith(ABERRATIONS)]:
            neutral = NEUTRAL.get(column, 0.0)
            lists = (str(value).strip("[]").replace(",", " ").split() for value in set(table[column]))
            if any(abs(float(number) - neutral) > 1e-4 for values in lists for number in values):
                ignored.append(column)
    if ignored:
        warnings.warn(f"{path}: {', '.join(ignored)} will be ignored: aberrations are not modelled", stacklevel=2)


def require_possible(values, place):
    """Refuse voltages and amplitude contrasts that no microscope has, before `CTF` does so without their place.

    Parameters
    ----------
    values : dict of str to ndarray (n,)
        By the names of `CTF`'s fields.
    place : callable
        File and row of particle i, counted from 0.

    Raises
    ------
    ValueError
    """
    voltage, contrast = values["voltage_kv"], values["amplitude_contrast"]
    if not (voltage > 0).all():
        row = int(np.argmin(voltage > 0))
        raise ValueError(f"{place(row)}: voltage must be positive in kV, got {voltage[row]:g} kV")
    possible = (contrast >= 0) & (contrast <= 1)
    if not possible.all():
        row = int(np.argmin(possible))
        raise ValueError(f"{place(row)}: amplitude contrast must lie in [0, 1], got {contrast[row]:g}")


def parse_poses(metadata, pixels, path):
    """Poses of length n, or None unless all three angles are there.

    Parameters
    ----------
    metadata : DataFrame
    pixels : ndarray (n,)
        Å per pixel, for origins that are in pixels (RELION 3.0).
    path : str
        For errors.
    """
    angles = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    if not all(name in metadata for name in angles):
        return None
    euler = np.column_stack([column_numbers(metadata, name, path=path) for name in angles])
    shift = np.zeros((len(metadata), 2))
    for column, axis in enumerate("XY"):
        if f"rlnOrigin{axis}Angst" in metadata:
            shift[:, column] = column_numbers(metadata, f"rlnOrigin{axis}Angst", path=path)
        elif f"rlnOrigin{axis}" in metadata:
            shift[:, column] = column_numbers(metadata, f"rlnOrigin{axis}", path=path) * pixels
    return Poses(from_relion_angles(euler), shift)


def parse_image_names(metadata, path):
    """Paths as written, which of them each particle uses, and the section from 0, of rlnImageName (``12@a.mrcs``)."""
    import pyarrow as pa

    names = text_array(metadata["rlnImageName"])
    numbers, paths = _cut_names(names) or _match_names(names, metadata, path)
    number = numbers.cast(pa.int64()).to_numpy(zero_copy_only=False)
    if (number < 1).any():
        row = int(np.argmax(number < 1))
        text = metadata["rlnImageName"].iloc[row]
        raise ValueError(f"{path}, {row_place(metadata, row)}: rlnImageName is {text!r}, but images count from 1")
    coded = paths.dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False), number - 1


def _cut_names(names):
    """Numbers and paths where all rows have as many digits, as RELION writes them: much quicker than matching."""
    import pyarrow as pa
    import pyarrow.compute as pc

    at = pc.min_max(pc.find_substring(names, "@")).as_py()
    if at["min"] != at["max"] or not at["min"] or at["min"] < 0:
        return None
    raw = names.cast(pa.large_binary())
    numbers = pc.binary_slice(raw, 0, at["min"]).cast(pa.large_string())
    # An open end of the slice overflows in Arrow 26, so it is given.
    paths = pc.binary_slice(raw, at["min"] + 1, pc.max(pc.binary_length(raw)).as_py()).cast(pa.large_string())
    plain = pc.and_(pc.ascii_is_decimal(numbers), pc.not_equal(paths, ""))
    return (numbers, paths) if pc.all(plain).as_py() else None


def _match_names(names, metadata, path):
    import pyarrow.compute as pc

    parts = pc.extract_regex(names, r"^(?:(?P<number>[0-9]+)@)?(?P<path>.*[^@])$")
    if parts.null_count:
        row = int(np.argmax(parts.is_null().to_numpy(zero_copy_only=False)))
        text = metadata["rlnImageName"].iloc[row]
        raise ValueError(f"{path}, {row_place(metadata, row)}: rlnImageName is {text!r}, expected number@stack.mrcs")
    # A name without a number is a file with one image.
    return pc.if_else(pc.equal(parts.field(0), ""), "1", parts.field(0)), parts.field(1)


def stack_places(path, root):
    """Folders in which the images that a file names are sought: root, its own, its parents, the working folder."""
    folder = Path(path).absolute().parent
    places = [Path(root).absolute()] if root is not None else []
    return list(dict.fromkeys(str(place) for place in [*places, folder, *folder.parents, Path.cwd()]))


def find_stack(name, places, *, must_exist=True):
    """Absolute path of an image file, the first found in ``places`` (`stack_places`); in the first of them if in none.

    Raises
    ------
    FileNotFoundError
        Found nowhere, unless ``must_exist`` is off.
    """
    for place in places:
        # An absolute name wins over any place it is joined to.
        path = os.path.join(place, name)
        if os.path.isfile(path):
            return os.path.normpath(path)
    if must_exist and os.path.isabs(name):
        raise FileNotFoundError(f"stack file {name} is gone")
    if must_exist:
        tried = ", ".join(place for place in places if place != os.path.sep)
        raise FileNotFoundError(f"stack file {name} is not in {tried}; root= says where paths begin")
    return os.path.normpath(os.path.join(places[0], name))


def _image_stack(metadata, path, root, size_px, check):
    names, file_of_image, position = parse_image_names(metadata, path)
    paths, places = [], stack_places(path, root)
    for number, name in enumerate(names):
        try:
            paths.append(find_stack(name, places, must_exist=check))
        except FileNotFoundError as error:
            row = int(np.argmax(file_of_image == number))
            raise FileNotFoundError(f"{path}, {row_place(metadata, row)}: {error}") from None
    if not check and size_px is None and paths and os.path.isfile(paths[0]):
        from cryonb.io.mrc import read_header

        size_px = read_header(paths[0]).shape[-1]
    place = partial(place_of_row, str(path), metadata.attrs["block"])
    return ImageStack(paths, file_of_image, position, size_px=size_px, check=check, place=place)


def _box_size(optics, path, size_px):
    if size_px is not None or optics is None or "rlnImageSize" not in optics:
        return size_px
    used = np.unique(whole_numbers(optics, "rlnImageSize", path=f"{path}, data_optics"))
    if len(used) > 1:
        raise ValueError(f"{path}, data_optics: rlnImageSize differs between optics groups: {used.tolist()} px")
    return int(used[0])


def _one_pixel_size(pixels, images, path):
    if pixels is None:
        images.require_one_pixel_size(0, PIXEL_SIZE_TOLERANCE, "")
        if images.pixel_size > 0:
            return images.pixel_size
        raise ValueError(
            f"{path}: no pixel size: no rlnImagePixelSize in data_optics (RELION 3.0: rlnDetectorPixelSize and "
            "rlnMagnification), and none in the stack's header; pass pixel_size= in Å"
        )
    return agreed_pixel_size(typical_pixel_size(pixels), pixels, images, path, where="between optics groups")


def agreed_pixel_size(typical, pixels, images, path, *, where):
    """The one pixel size of particles that state it each, checked among them and against the stacks' headers.

    Parameters
    ----------
    typical : float
        Å, returned where all agree to 1 %.
    pixels : ndarray (n,)
    images : ImageStack
    path : path-like
    where : str
        What differs, for the error.

    Raises
    ------
    ValueError
        Pixel sizes more than 1 % apart, in the file or in the stacks.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if high - low > PIXEL_SIZE_TOLERANCE * typical:
        raise ValueError(
            f"{path}: pixel sizes disagree: {low:g} to {high:g} Å {where}, more than 1 % apart; "
            "rescale to one, select one group, or pass pixel_size="
        )
    if high > low:
        warnings.warn(f"{path}: pixel sizes of {low:g} to {high:g} Å are all taken as {typical:g} Å", stacklevel=4)
    images.require_one_pixel_size(typical, PIXEL_SIZE_TOLERANCE, "here")
    return typical


def _require_single_particles(optics, path):
    if optics is None:
        return
    if "rlnImageDimensionality" in optics:
        dimensions = column_numbers(optics, "rlnImageDimensionality", path=f"{path}, data_optics")
        if (dimensions != 2).any():
            raise ValueError(
                f"{path}, data_optics: rlnImageDimensionality is {dimensions.max():g}; only 2D images are read"
            )
    if "rlnCtfDataAreCtfPremultiplied" in optics:
        if column_numbers(optics, "rlnCtfDataAreCtfPremultiplied", path=f"{path}, data_optics").any():
            warnings.warn(
                f"{path}: images are already multiplied by their CTF (rlnCtfDataAreCtfPremultiplied)", stacklevel=3
            )


def _as_one_text(tables):
    from cryonb.io.star import star_text

    return b"".join(piece for name, table in tables.items() for piece in star_text(name, table)).decode()
