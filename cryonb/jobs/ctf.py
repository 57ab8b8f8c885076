"""``python -m cryonb ctf``: defocus and astigmatism of many micrographs, listed as RELION lists them."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from .arguments import seed

__all__ = ["add_arguments", "execute"]


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument(
        "micrographs", nargs="+", type=Path, metavar="FILE", help="images, or STAR files that list them"
    )
    parser.add_argument("--out", "--o", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--voltage", "--HT", type=float, default=300.0, metavar="KV", help="(%(default)s)")
    parser.add_argument(
        "--cs", "--CS", type=float, default=2.7, metavar="MM", help="spherical aberration (%(default)s)"
    )
    parser.add_argument("--amplitude-contrast", "--AmpCnst", type=float, default=0.1, metavar="Q", help="(%(default)s)")
    parser.add_argument("--pixel-size", "--angpix", type=float, metavar="Å", help="instead of the headers'")
    parser.add_argument(
        "--defocus", type=float, nargs=2, default=(3000.0, 50000.0), metavar=("LOW", "HIGH"), help="Å (%(default)s)"
    )
    parser.add_argument(
        "--resolution", type=float, nargs=2, default=(30.0, 5.0), metavar=("COARSEST", "FINEST"), help="Å (%(default)s)"
    )
    parser.add_argument("--phase-shift", type=float, nargs=2, metavar=("LOW", "HIGH"), help="degrees, to search")
    parser.add_argument("--pictures", action="store_true", help="also a PNG of rings and fit for each micrograph")
    parser.add_argument("--workers", "--j", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the bootstrap (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def execute(options):
    """Run the job: one bad micrograph never stops the others.

    Returns
    -------
    dict : the summary, with the failed ones last

    Notes
    -----
    ``micrographs_ctf.star`` (the good ones), ``failed.star`` (name and reason of the others), ``errors.star``
    (standard deviations), ``summary.json``; spectra as PNG with ``--pictures``.
    """
    from concurrent.futures import ThreadPoolExecutor

    from tqdm.auto import tqdm

    from ..defocus.fitting import check_ranges
    from ..types import CTF

    optics = CTF(0.0, 0.0, voltage_kv=options.voltage, cs_mm=options.cs, amplitude_contrast=options.amplitude_contrast)
    check_ranges(options.defocus, options.resolution, options.phase_shift)
    if options.workers < 1:
        raise ValueError(f"workers must be 1 or more, got {options.workers}")
    micrographs = _listed(options.micrographs)
    names = [path.stem for path in micrographs]
    if options.pictures and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two micrographs are called {twice!r}: their pictures would be one file")
    options.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.workers) as pool:
        found = pool.map(lambda path: _one(path, optics, options), micrographs)
        bar = tqdm(found, total=len(names), desc="defocus", unit="micrograph", disable=options.quiet)
        rows = list(bar)
    return _write(rows, options)


def _listed(paths):
    """Paths of images: those given, and those that STAR files name in rlnMicrographName."""
    from .. import io

    found = []
    for path in paths:
        if not path.is_file() or io.detect_format(path) != "star":
            found.append(path)  # what is not there, or no image, is told of at the end
            continue
        tables = [table for table in io.read_star(path).values() if "rlnMicrographName" in table]
        if not tables:
            raise ValueError(f"{path}: expected a table with rlnMicrographName, found none")
        found += [Path(name) for name in tables[0]["rlnMicrographName"].unique()]
    return found


def _one(path, optics, options):
    """Path, fit without its spectrum, pixel size and reason; files that cannot be read give a reason too."""
    from .. import defocus, io

    try:
        micrograph = io.read_micrograph(path, pixel_size=options.pixel_size)
        fit = defocus.fit_defocus(
            micrograph, optics, defocus=options.defocus, resolution=options.resolution,
            phase_shift=options.phase_shift, rng=options.seed,
        )  # fmt: skip
        if options.pictures and fit.ctf is not None:
            _picture(fit, options.out / f"{path.stem}_ctf.png")
    except (OSError, ValueError, TypeError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
        return path, None, None, " ".join(str(error).split()) or type(error).__name__
    row = {
        "ctf": fit.ctf, "merit": fit.score, "resolution": fit.resolution, "error": fit.error,
    }  # fmt: skip
    return path, row, micrograph.pixel_size, fit.reason


def _picture(fit, path):
    from .. import plot
    from ..io.formats import replacing

    def draw(figure):
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.7])
        plot.ctf_fit(fit, ax=left)
        plot.equiphase_average(fit, ax=right)

    with replacing(path) as beside:
        Path(beside).write_bytes(plot.png(draw, width=9.5, height=3.4))


def _write(rows, options):
    import pandas as pd

    from .. import io
    from ..io.formats import replacing
    from ..io.star import number_text
    from ..types import CTF
    from .runs import summary_text

    good = [row for row in rows if not row[3]]
    failed = {str(path): reason for path, _, _, reason in rows if reason}
    numbers = {"micrographs": len(rows), "measured": len(good)}
    stale = [name for name, kept in (("micrographs_ctf.star", good), ("errors.star", good), ("failed.star", failed))
             if not kept]  # fmt: skip
    for name in stale:
        (options.out / name).unlink(missing_ok=True)  # of an earlier run: it would speak for this one
    if good:
        paths = [str(path) for path, *_ in good]
        parts = [fit["ctf"] for _, fit, _, _ in good]
        ctf = CTF(**{field.name: [getattr(part, field.name) for part in parts] for field in fields(CTF)})
        resolution = np.array([fit["resolution"] for _, fit, _, _ in good])
        io.write_micrograph_ctf(
            paths, ctf, [pixel for _, _, pixel, _ in good], options.out / "micrographs_ctf.star",
            merit=[fit["merit"] for _, fit, _, _ in good], resolution=resolution,
        )  # fmt: skip
        error = np.array([fit["error"] for _, fit, _, _ in good])
        columns = ["cryonbDefocusUError", "cryonbDefocusVError", "cryonbDefocusAngleError", "cryonbPhaseShiftError"]
        table = pd.DataFrame({"rlnMicrographName": paths})
        for name, column in zip(columns, error.T):
            table[name] = number_text(column)
        io.write_star({"micrographs": table}, options.out / "errors.star")
        mean = 0.5 * (ctf.defocus_u + ctf.defocus_v)
        numbers |= {
            "median_defocus_angstrom": round(float(np.median(mean)), 1),
            "median_error_angstrom": round(float(np.median(error[:, :2])), 1),
            "median_resolution_angstrom": round(float(np.median(resolution)), 2),
        }
    if failed:
        table = pd.DataFrame({"rlnMicrographName": list(failed), "cryonbReason": list(failed.values())})
        io.write_star({"micrographs": table}, options.out / "failed.star")
    numbers["failed"] = len(failed)
    with replacing(options.out / "summary.json") as beside:
        beside.write_text(summary_text(numbers | {"reasons": failed}), encoding="utf-8")
    listing = "".join(f"\n  {name}: {reason}" for name, reason in failed.items())
    return numbers | {"failed": f"{len(failed)}{listing}"}
