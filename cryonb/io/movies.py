"""Movies: frames from MRC and TIFF, and what RELION's motion correction lists of them."""

from pathlib import Path

import numpy as np

from cryonb.io.formats import detect_format
from cryonb.io.mrc import read_mrc
from cryonb.io.star import number_text, write_star

__all__ = ["read_movie", "write_corrected_micrographs", "write_motion"]

EARLY = 4.0  # e/Å²: up to here RELION calls motion early


def read_movie(path, *, pixel_size=None):
    """Frames of one exposure and their pixel size.

    Parameters
    ----------
    path : path-like
        MRC or a TIFF of many pages.
    pixel_size : float, optional
        Å, instead of the header's; TIFF needs it.

    Returns
    -------
    frames : ndarray (f, h, w)
        As stored; a read-only memory map where the MRC file is not compressed. Rows of a TIFF are turned upside down,
        as RELION reads them.
    pixel_size : float
        Å.

    Raises
    ------
    FileNotFoundError, ValueError
        One image only, another kind of file, a pixel size that nobody gives.
    """
    kind = detect_format(path)
    if kind == "image":
        frames, known = _pages(path), 0.0
    else:
        frames, header = read_mrc(path)
        known = header.pixel_size if pixel_size is None else 0.0
    if len(frames) < 2:
        raise ValueError(f"{path}: expected a movie of two frames or more, got one image")
    pixel_size = known if pixel_size is None else pixel_size
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"{path}: the pixel size is not known; pass pixel_size= in Å")
    return frames, float(pixel_size)


def _pages(path):
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        return np.stack([np.asarray(page)[::-1] for page in ImageSequence.Iterator(image)])


def write_motion(drift, path, *, movie, shape, pixel_size, voltage_kv, dose=None, before=0.0):
    """Write the drift of one movie as RELION's motion correction does: its metadata file.

    Parameters
    ----------
    drift : ndarray (f, 2)
        Å: where the specimen lies in each frame.
    path : path-like
        STAR.
    movie : str
        Its name.
    shape : (int, int)
        Height and width in pixels.
    pixel_size : float
        Å.
    voltage_kv : float
    dose : float, optional
        e/Å² per frame.
    before : float
        e/Å² before the first frame.

    Notes
    -----
    rlnMicrographShiftX and Y are pixels by which a frame is moved to lie on the first: minus the specimen's drift. The
    sign is that of ``relion_run_motioncorr`` 3.1.3 on a movie with planted drift.
    """
    import pandas as pd

    drift = np.asarray(drift, dtype=float)
    shift = (drift[0] - drift) / pixel_size + 0.0  # no minus zero
    general = {
        "rlnImageSizeX": str(shape[1]), "rlnImageSizeY": str(shape[0]), "rlnImageSizeZ": str(len(drift)),
        "rlnMicrographMovieName": str(movie), "rlnMicrographBinning": "1.000000",
        "rlnMicrographOriginalPixelSize": f"{pixel_size:.6f}",
    }  # fmt: skip
    if dose is not None:
        general |= {"rlnMicrographDoseRate": f"{dose:.6f}", "rlnMicrographPreExposure": f"{before:.6f}"}
    general |= {"rlnVoltage": f"{voltage_kv:.6f}", "rlnMicrographStartFrame": "1", "rlnMotionModelVersion": "0"}
    frames = {
        "rlnMicrographFrameNumber": [str(f + 1) for f in range(len(drift))],
        "rlnMicrographShiftX": number_text(shift[:, 0]), "rlnMicrographShiftY": number_text(shift[:, 1]),
    }  # fmt: skip
    table = pd.DataFrame([general])
    table.attrs["is_loop"] = False
    write_star({"general": table, "global_shift": pd.DataFrame(frames)}, path)


def write_corrected_micrographs(rows, path):
    """Write the list of micrographs that motion correction made: RELION's ``corrected_micrographs.star``.

    Parameters
    ----------
    rows : sequence of dict
        Of each micrograph: ``name``; ``unweighted``, the name of the sum without dose weights, or None; ``metadata``,
        the file of `write_motion`; ``drift`` (f, 2) in Å; ``dose`` in e/Å² per frame, or None, and ``before``;
        ``pixel_size``, ``voltage_kv``, ``cs_mm``, ``amplitude_contrast``.
    path : path-like

    Raises
    ------
    ValueError
        No micrograph.

    Notes
    -----
    rlnAccumMotionTotal, Early (up to 4 e/Å²) and Late are lengths of the path in Å. Micrographs with the same
    microscope and pixel size share an optics group. RELION's CtfFind and this package's ``ctf`` read the file.
    """
    import pandas as pd

    if not rows:
        raise ValueError(f"cannot write {path}: no micrographs")
    constants = ("pixel_size", "voltage_kv", "cs_mm", "amplitude_contrast")
    groups, group = np.unique([[row[name] for name in constants] for row in rows], axis=0, return_inverse=True)
    numbers = [str(number + 1) for number in range(len(groups))]
    optics = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers], "rlnOpticsGroup": numbers,
        "rlnMicrographOriginalPixelSize": number_text(groups[:, 0]), "rlnVoltage": number_text(groups[:, 1]),
        "rlnSphericalAberration": number_text(groups[:, 2]), "rlnAmplitudeContrast": number_text(groups[:, 3]),
        "rlnMicrographPixelSize": number_text(groups[:, 0]),
    }  # fmt: skip
    columns = {}
    if any(row["unweighted"] for row in rows):
        columns["rlnMicrographNameNoDW"] = [str(row["unweighted"] or row["name"]) for row in rows]
    early, total = np.array([_lengths(row) for row in rows]).T
    columns |= {
        "rlnMicrographName": [str(row["name"]) for row in rows],
        "rlnMicrographMetadata": [str(row["metadata"]) for row in rows],
        "rlnOpticsGroup": [numbers[number] for number in np.ravel(group)],
        "rlnAccumMotionTotal": number_text(total), "rlnAccumMotionEarly": number_text(early),
        "rlnAccumMotionLate": number_text(total - early),
    }  # fmt: skip
    write_star({"optics": pd.DataFrame(optics), "micrographs": pd.DataFrame(columns)}, Path(path))


def _lengths(row):
    """Length of the path in Å until ``EARLY``, and of all of it."""
    steps = np.hypot(*np.diff(row["drift"], axis=0).T)
    if row["dose"] is None:
        return 0.0, steps.sum()
    received = row["before"] + row["dose"] * np.arange(2, len(steps) + 2)  # when the frame that a step leads to ends
    return steps[received <= EARLY].sum(), steps.sum()
