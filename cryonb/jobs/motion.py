"""``python -m cryonb motion``: frames of many movies to micrographs, drift taken out and weighted by dose."""

from pathlib import Path

import numpy as np

__all__ = ["add_arguments", "execute"]

# Column of the optics table, the name of the value here and of the option that gives it where the table does not.
OPTICS = {
    "rlnMicrographOriginalPixelSize": ("pixel_size", "pixel_size"),
    "rlnVoltage": ("voltage_kv", "voltage"),
    "rlnSphericalAberration": ("cs_mm", "cs"),
    "rlnAmplitudeContrast": ("amplitude_contrast", "amplitude_contrast"),
}


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument(
        "movies", nargs="+", type=Path, metavar="FILE",
        help="gain-corrected MRC stacks or TIFF of many pages, or STAR files that list them in rlnMicrographMovieName",
    )  # fmt: skip
    parser.add_argument("--out", "--o", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--dose", "--dose_per_frame", type=float, metavar="E", help="e/Å² per frame; without it, no dose weights"
    )
    parser.add_argument(
        "--before", "--preexposure", type=float, default=0.0, metavar="E", help="e/Å² before (%(default)s)"
    )
    parser.add_argument("--pixel-size", "--angpix", type=float, metavar="Å", help="instead of the files'")
    parser.add_argument("--voltage", "--HT", type=float, default=300.0, metavar="KV", help="(%(default)s)")
    parser.add_argument("--cs", "--CS", type=float, default=2.7, metavar="MM", help="(%(default)s)")
    parser.add_argument("--amplitude-contrast", "--AmpCnst", type=float, default=0.1, metavar="Q", help="(%(default)s)")
    parser.add_argument(
        "--resolution", type=float, default=6.0, metavar="Å", help="finest that is aligned (%(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def execute(options):
    """Run the job: one bad movie never stops the others.

    Returns
    -------
    dict : the summary, with the failed ones last

    Notes
    -----
    For each movie ``<movie>.mrc``, the sum of its frames, and ``<movie>.star``, their shifts in pixels; with ``--dose``
    the sum is weighted and ``<movie>_noDW.mrc`` is the plain one. ``corrected_micrographs.star``, ``summary.json``.
    Memory: the transforms of all frames up to ``--resolution``, and one frame; MRC files are mapped, not read whole.
    """
    from .. import io
    from .batch import finish, require_different_names, through

    for name, value, least in (("--dose", options.dose, 0), ("--resolution", options.resolution, 0)):
        if value is not None and not (np.isfinite(value) and value > least):
            raise ValueError(f"{name} must be positive, got {value}")
    if not (np.isfinite(options.before) and options.before >= 0):
        raise ValueError(f"--before must be 0 or more e/Å², got {options.before}")
    optics = _listed(options)
    require_different_names(list(optics))
    results = {target.resolve() for path in optics for target in _targets(path, options.out)}
    for path in optics:
        if path.resolve() in results:
            raise ValueError(f"{path}: its folder is --out, and a result would be written over it; choose another")
    options.out.mkdir(parents=True, exist_ok=True)
    rows, failed = through(
        list(optics), lambda path: _correct(path, optics[path], options), label="motion", quiet=options.quiet
    )
    listing = options.out / "corrected_micrographs.star"
    numbers = {"movies": len(optics), "corrected": len(rows)}
    if rows:
        io.write_corrected_micrographs(rows, listing)
        paths = [np.hypot(*np.diff(row["drift"], axis=0).T).sum() for row in rows]
        numbers["median_path_angstrom"] = round(float(np.median(paths)), 2)
    else:
        listing.unlink(missing_ok=True)  # of an earlier run: it would speak for this one
    return finish(numbers | {"failed": len(failed)}, failed, options.out)


def _targets(path, folder):
    """The sum, the plain sum where there are weights, the table of shifts."""
    return folder / f"{path.stem}.mrc", folder / f"{path.stem}_noDW.mrc", folder / f"{path.stem}.star"


def _correct(path, optics, options):
    from .. import io, motion

    frames, pixel_size = io.read_movie(path, pixel_size=optics["pixel_size"])
    found = motion.align_frames(frames, pixel_size, resolution=options.resolution)
    total, plain, table = _targets(path, options.out)
    weighted = options.dose is not None
    io.write_micrograph(motion.sum_frames(frames, pixel_size, found), plain if weighted else total)
    if weighted:
        micrograph = motion.sum_frames(
            frames, pixel_size, found, dose=options.dose, before=options.before, voltage_kv=optics["voltage_kv"]
        )
        io.write_micrograph(micrograph, total)
    io.write_motion(
        found.drift, table, movie=path, shape=frames.shape[1:], pixel_size=pixel_size, voltage_kv=optics["voltage_kv"],
        dose=options.dose, before=options.before,
    )  # fmt: skip
    return optics | {
        "name": total, "unweighted": plain if weighted else None, "metadata": table, "drift": found.drift,
        "dose": options.dose, "before": options.before, "pixel_size": pixel_size,
    }  # fmt: skip


def _listed(options):
    """{path of a movie: its optics}, from the arguments and from the STAR files among them."""
    from .. import io

    given = {name: getattr(options, option) for name, option in OPTICS.values()}
    found = {}
    for path in options.movies:
        if not path.is_file() or io.detect_format(path) != "star":
            found[path] = dict(given)
            continue
        tables = io.read_star(path)
        movies = next((table for table in tables.values() if "rlnMicrographMovieName" in table), None)
        if movies is None:
            raise ValueError(f"{path}: expected a table with rlnMicrographMovieName, found none")
        described = _described(tables, movies, path)
        for row, name in enumerate(movies["rlnMicrographMovieName"]):
            found[Path(name)] = given | {key: float(values[row]) for key, values in described.items()}
            if options.pixel_size is not None:
                found[Path(name)]["pixel_size"] = options.pixel_size
    return found


def _described(tables, movies, path):
    """Values of the optics table for each movie, by their names here."""
    from .. import io

    optics = tables.get("optics")
    if optics is None or "rlnOpticsGroup" not in movies or "rlnOpticsGroup" not in optics:
        return {}
    place = {number: row for row, number in enumerate(optics["rlnOpticsGroup"])}
    unknown = next((number for number in movies["rlnOpticsGroup"] if number not in place), None)
    if unknown is not None:
        raise ValueError(f"{path}: a movie is in optics group {unknown}, which data_optics has not")
    rows = [place[number] for number in movies["rlnOpticsGroup"]]
    return {
        name: io.column_numbers(optics, column, path=path)[rows]
        for column, (name, _) in OPTICS.items()
        if column in optics
    }
