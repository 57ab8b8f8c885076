"""The command line: ``python -m cryonb tour``, ``info FILE``, and a command for each stage (`cryonb.jobs`)."""

import argparse
import sys
from pathlib import Path

from . import __version__, jobs


def parser():
    """The arguments of every command."""
    top = argparse.ArgumentParser(
        prog="cryonb", description="Single-particle cryo-EM: from noisy projections to a free-energy landscape."
    )
    top.add_argument("--version", action="version", version=f"cryonb {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="say what files are (MRC, STAR, .cs, PDB, mmCIF)")
    info.add_argument("files", nargs="+", type=Path, metavar="FILE")

    tour = commands.add_parser(
        "tour",
        help="the whole story: particles, classes, manifold, landscape, report",
        description="Without --particles: on simulated particles of the shipped ribosome, with the truth drawn in. "
        "With --particles: on your own. The same command resumes a run that was stopped.",
    )
    tour.add_argument("--out", type=Path, default=Path("out/tour"), help="folder of the results (%(default)s)")
    tour.add_argument("--seed", type=jobs.arguments.seed, default=0, help="random seed (%(default)s)")
    tour.add_argument("--classes", type=int, default=2, metavar="K", help="number of 3D classes (%(default)s)")
    tour.add_argument("--workers", type=int, default=2, help="threads (%(default)s)")
    tour.add_argument("--quiet", action="store_true", help="no progress bars")
    simulated = tour.add_argument_group("the shipped sample")
    simulated.add_argument("--n", type=int, default=4000, dest="n_particles", help="particles (%(default)s)")
    simulated.add_argument("--snr", type=float, default=0.2, help="signal-to-noise ratio (%(default)s)")
    own = tour.add_argument_group("your own particles")
    own.add_argument("--particles", type=Path, metavar="STAR", help="RELION .star or cryoSPARC .cs")
    own.add_argument(
        "--reference", type=Path, metavar="MRC", help="start volume for new orientations (else the file's)"
    )
    own.add_argument("--mask-diameter", type=float, metavar="Å", help="of the particle (default: 85 %% of the box)")
    own.add_argument("--size", type=int, default=64, metavar="PX", help="crop larger boxes to this (%(default)s)")

    for name, (job, sentence) in jobs.COMMANDS.items():
        job.add_arguments(commands.add_parser(name, help=sentence, description=job.__doc__.split(": ", 1)[1]))
    return top


def main(arguments=None):
    """Run a command; errors of the input end in one line and exit status 1."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "info":
            from . import io

            unknown = []
            for file in options.files:
                try:
                    print(io.describe(file), end="\n\n")
                except (OSError, ValueError) as error:
                    unknown.append(str(error))
            if unknown:
                raise ValueError("; ".join(unknown))
        elif options.command in jobs.COMMANDS:
            numbers = jobs.COMMANDS[options.command][0].execute(options)
            print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in numbers.items()))
        else:
            from . import tour

            tour.tour(tour.Plan.from_options(options), progress=not options.quiet)
    except (OSError, ValueError) as error:
        print(f"cryonb: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
