"""Micrographs with their CTF as RELION lists them: ``micrographs_ctf.star``."""

import numpy as np

from cryonb.io.star import column_numbers, number_text, read_star, whole_numbers, write_star
from cryonb.types import CTF

__all__ = ["read_micrograph_ctf", "write_micrograph_ctf"]


def write_micrograph_ctf(names, ctf, pixel_size, path, *, merit=None, resolution=None, spectra=None):
    """Write micrographs with their CTF as RELION's CtfFind job does; whole or not at all.

    Parameters
    ----------
    names : sequence of str
        Paths of n micrographs, as later jobs shall find them.
    ctf : CTF of length n
    pixel_size : float or ndarray (n,)
        Å. Micrographs that share it, and the constants of the microscope, share an optics group.
    path : path-like
    merit : ndarray (n,), optional
        ``rlnCtfFigureOfMerit``.
    resolution : ndarray (n,), optional
        Å, ``rlnCtfMaxResolution``.
    spectra : sequence of str, optional
        ``rlnCtfImage``; the micrograph's name where there is none, for RELION wants the column.

    Raises
    ------
    ValueError
        No micrograph, or columns of different lengths.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "micrographs_ctf.star")
    ...     write_micrograph_ctf(["a.mrc"], CTF([15000.0], [14000.0], 30.0), 1.3, file)
    ...     names, ctf, pixel_size = read_micrograph_ctf(file)
    >>> names, ctf.defocus_v.tolist(), pixel_size.tolist()
    (['a.mrc'], [14000.0], [1.3])
    """
    import pandas as pd

    n = len(names)
    if n == 0 or np.ndim(ctf.defocus_u) == 0 or len(ctf) != n:
        raise ValueError(f"cannot write {path}: expected the CTFs of {n} micrographs, one or more, got {ctf!r}")
    pixel_size = np.broadcast_to(np.asarray(pixel_size, dtype=float), n)
    for name, column in (("merit", merit), ("resolution", resolution), ("spectra", spectra)):
        if column is not None and len(column) != n:
            raise ValueError(f"cannot write {path}: {name} has {len(column)} values for {n} micrographs")
    constants = np.column_stack([pixel_size, ctf.voltage_kv, ctf.cs_mm, ctf.amplitude_contrast])
    groups, group = np.unique(constants, axis=0, return_inverse=True)
    optics = {
        "rlnOpticsGroupName": [f"opticsGroup{i + 1}" for i in range(len(groups))],
        "rlnOpticsGroup": [str(i + 1) for i in range(len(groups))],
        "rlnMicrographPixelSize": number_text(groups[:, 0]), "rlnVoltage": number_text(groups[:, 1]),
        "rlnSphericalAberration": number_text(groups[:, 2]), "rlnAmplitudeContrast": number_text(groups[:, 3]),
    }  # fmt: skip
    columns = {
        "rlnMicrographName": [str(name) for name in names],
        "rlnOpticsGroup": [str(i + 1) for i in np.ravel(group)],
        "rlnCtfImage": [str(name) for name in (names if spectra is None else spectra)],
        "rlnDefocusU": number_text(ctf.defocus_u), "rlnDefocusV": number_text(ctf.defocus_v),
        "rlnCtfAstigmatism": number_text(np.abs(ctf.defocus_u - ctf.defocus_v)),
        "rlnDefocusAngle": number_text(ctf.defocus_angle),
    }  # fmt: skip
    if np.any(ctf.phase_shift):
        columns["rlnPhaseShift"] = number_text(ctf.phase_shift)
    if merit is not None:
        columns["rlnCtfFigureOfMerit"] = number_text(merit)
    if resolution is not None:
        columns["rlnCtfMaxResolution"] = number_text(resolution)
    write_star({"optics": pd.DataFrame(optics), "micrographs": pd.DataFrame(columns)}, path)


def read_micrograph_ctf(path):
    """Names, CTF and pixel sizes of the micrographs in a STAR file of RELION's CtfFind job (3.1 and later).

    Parameters
    ----------
    path : path-like

    Returns
    -------
    names : list of str
    ctf : CTF of length n
    pixel_size : ndarray (n,)
        Å.

    Raises
    ------
    FileNotFoundError, ValueError
        Not STAR, a table or a column missing, an optics group that the file does not describe.
    """
    tables = read_star(path)
    for name in ("optics", "micrographs"):
        if name not in tables:
            raise ValueError(f"{path}: expected tables data_optics and data_micrographs, there are {', '.join(tables)}")
    optics, micrographs = tables["optics"], tables["micrographs"]
    if "rlnMicrographName" not in micrographs:
        raise ValueError(f"{path}: missing column rlnMicrographName in data_micrographs")
    numbers = whole_numbers(optics, "rlnOpticsGroup", path=path)
    wanted = whole_numbers(micrographs, "rlnOpticsGroup", path=path)
    unknown = ~np.isin(wanted, numbers)
    if unknown.any():
        row = int(np.argmax(unknown))
        raise ValueError(f"{path}: micrograph {row + 1} is in optics group {wanted[row]}, which data_optics has not")
    place = np.array([int(np.flatnonzero(numbers == number)[0]) for number in wanted])

    def optical(name):
        return column_numbers(optics, name, path=path)[place]

    def own(name):
        return column_numbers(micrographs, name, path=path)

    ctf = CTF(
        own("rlnDefocusU"), own("rlnDefocusV"), own("rlnDefocusAngle"), voltage_kv=optical("rlnVoltage"),
        cs_mm=optical("rlnSphericalAberration"), amplitude_contrast=optical("rlnAmplitudeContrast"),
        phase_shift=own("rlnPhaseShift") if "rlnPhaseShift" in micrographs else 0.0,
    )  # fmt: skip
    return [str(name) for name in micrographs["rlnMicrographName"]], ctf, optical("rlnMicrographPixelSize")
