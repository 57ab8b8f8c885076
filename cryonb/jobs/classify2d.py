"""``python -m cryonb classify2d``: sort particles by what they show, with no reference.

Writes run_data.star (particles with class, angle and shift), run_classes.mrcs (the averages) and summary.json. The
same command continues a run that was stopped; with other settings it says so and changes nothing.
"""

import numpy as np

from .arguments import add_engine_arguments, read_particles
from .runs import Run

__all__ = ["add_arguments", "execute"]


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add_engine_arguments(parser, reference=False, symmetry=False)
    parser.add_argument("--classes", "--K", type=int, required=True, metavar="K", help="how many")
    parser.add_argument("--iterations", "--iter", type=int, default=25, metavar="N", help="at most (%(default)s)")
    parser.add_argument(
        "--tau2-fudge",
        "--tau2_fudge",
        type=float,
        default=1.0,
        metavar="T",
        help="weight of the images against the prior (%(default)s)",
    )


def execute(options):
    """Run the job.

    Returns
    -------
    dict : the summary
    """
    from .. import bayes

    particles = read_particles(options)
    run = Run(options.out, particles, gold_standard=False)
    found = bayes.classify_2d(
        particles, n_classes=options.classes, rng=options.seed, n_iterations=options.iterations,
        tau_fudge=options.tau2_fudge, mask_diameter=options.mask_diameter, workers=options.workers,
        progress=not options.quiet, checkpoint=run.checkpoint, monitor=run.monitor_averages,
    )  # fmt: skip
    run.write_particles(poses=found.poses, pmax=found.pmax, label=found.label)
    run.write_averages("run", found.iterations[-1], found.averages)
    numbers = {
        "particles": len(particles), "class_sizes": np.bincount(found.label, minlength=options.classes).tolist(),
        "iterations": len(found.iterations), "mean_pmax": round(float(found.pmax.mean()), 3),
        "seconds": round(sum(record.seconds for record in found.iterations), 1),
    }  # fmt: skip
    run.write_summary(numbers)
    return numbers
