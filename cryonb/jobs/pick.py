"""``python -m cryonb pick``: coordinates of particles on many micrographs, one STAR file each."""

from pathlib import Path

import numpy as np

__all__ = ["add_arguments", "execute"]


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument("micrographs", nargs="+", type=Path, metavar="FILE", help="MRC, TIFF, PNG or JPEG images")
    parser.add_argument("--out", "--o", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--diameter", type=float, required=True, metavar="Å", help="of the particle")
    parser.add_argument(
        "--method", choices=("blobs", "own", "templates"), default="own",
        help="Laplacian of Gaussian; learnt from each micrograph itself; references (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--references", "--ref", type=Path, metavar="MRCS", help="of --method templates, protein bright"
    )
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="(default: automatic)")
    parser.add_argument("--pixel-size", "--angpix", type=float, metavar="Å", help="instead of the headers'")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def execute(options):
    """Run the job: one bad micrograph never stops the others.

    Returns
    -------
    dict : the summary, with the failed ones last

    Notes
    -----
    ``<micrograph>_autopick.star`` for each, ``summary.json``.
    """
    from .. import io
    from .batch import finish, require_different_names, through

    if not (np.isfinite(options.diameter) and options.diameter > 0):
        raise ValueError(f"--diameter must be positive in Å, got {options.diameter}")
    if (options.method == "templates") != (options.references is not None):
        raise ValueError("--method templates and --references go together")
    references = None if options.references is None else io.read_stack(options.references)
    require_different_names(options.micrographs)

    def one(path):
        import pandas as pd

        micrograph = io.read_micrograph(path, pixel_size=options.pixel_size)
        picks = _picks(micrograph, references, options)
        table = pd.DataFrame(
            {"micrograph": str(path), "x": picks.centres[:, 0], "y": picks.centres[:, 1], "score": picks.score}
        )
        io.write_coordinates(table, options.out / f"{path.stem}_autopick.star")
        return len(picks)

    counts, failed = through(options.micrographs, one, label="picking", quiet=options.quiet)
    numbers = {"micrographs": len(options.micrographs), "picks": int(sum(counts)), "failed": len(failed)}
    return finish(numbers, failed, options.out)


def _picks(micrograph, references, options):
    from .. import picking

    threshold = {} if options.threshold is None else {"threshold": options.threshold}
    if options.method == "blobs":
        return picking.pick_blobs(micrograph, options.diameter, **threshold)
    if options.method == "own":
        return picking.pick_without_model(micrograph, options.diameter, **threshold)
    images, pixel_size = np.asarray(references[:]), references.pixel_size or micrograph.pixel_size
    return picking.pick_templates(micrograph, images, options.diameter, pixel_size=pixel_size, **threshold)
