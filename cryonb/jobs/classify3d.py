"""``python -m cryonb classify3d``: particles into 3D classes, around their poses or with none."""

import numpy as np

from .arguments import add_engine_arguments, read_particles, read_reference
from .runs import Run

__all__ = ["add_arguments", "execute"]


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add_engine_arguments(parser)
    parser.add_argument("--classes", "--K", type=int, required=True, metavar="K")
    parser.add_argument("--iterations", "--iter", type=int, default=25, metavar="N", help="at most (%(default)s)")
    parser.add_argument("--tau2-fudge", "--tau2_fudge", type=float, default=1.0, metavar="T", help="(%(default)s)")
    parser.add_argument("--ignore-angles", action="store_true", help="search all orientations, whatever the file says")


def execute(options):
    """Run the job.

    Returns
    -------
    dict : the summary
    """
    from dataclasses import replace

    from .. import bayes

    particles = read_particles(options)
    reference = read_reference(options.reference, particles)
    run = Run(options.out, particles)
    found = bayes.classify_3d(
        replace(particles, poses=None) if options.ignore_angles else particles, reference, n_classes=options.classes,
        rng=options.seed, n_iterations=options.iterations, tau_fudge=options.tau2_fudge,
        symmetry=options.symmetry, mask_diameter=options.mask_diameter, workers=options.workers,
        progress=not options.quiet,
        checkpoint=run.checkpoint, monitor=run.monitor,
    )  # fmt: skip
    run.write_particles(poses=found.poses, pmax=found.pmax, half=found.half, label=found.label)
    run.write_model("run", found.iterations[-1], found.volumes)
    numbers = {
        "particles": len(particles), "class_sizes": np.bincount(found.label, minlength=options.classes).tolist(),
        "class_shares": [round(float(share), 4) for share in found.occupancy], "iterations": len(found.iterations),
        "mean_pmax": round(float(found.pmax.mean()), 3),
        "seconds": round(sum(record.seconds for record in found.iterations), 1),
    }  # fmt: skip
    run.write_summary(numbers)
    return numbers
