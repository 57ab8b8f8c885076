"""``python -m cryonb initial-model``: make a first volume from the particles alone, up to its hand.

Writes run_class001.mrc (one for each class), run_data.star and summary.json. The same command continues a run that
was stopped; with other settings it says so and changes nothing. Give the mask's diameter. A start that failed is
seen by a mean Pmax that stays near 0 and by what ``refine`` says of it: try another seed then.
"""

import numpy as np

from .arguments import add_engine_arguments, read_particles
from .runs import Run

__all__ = ["add_arguments", "execute"]

EVERY = 25  # batches, after which one is written


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add_engine_arguments(parser, reference=False)
    parser.add_argument("--classes", "--K", type=int, default=1, metavar="K", help="volumes (%(default)s)")
    parser.add_argument("--batches", type=int, default=200, metavar="N", help="mini-batches (%(default)s)")


def execute(options):
    """Run the job.

    Returns
    -------
    dict : the summary
    """
    from .. import bayes, io

    particles = read_particles(options)
    run = Run(options.out, particles, gold_standard=False)
    found = bayes.initial_model(
        particles, rng=options.seed, n_classes=options.classes, n_batches=options.batches,
        batch_size=min(100, len(particles)), symmetry=options.symmetry,
        mask_diameter=options.mask_diameter, workers=options.workers, progress=not options.quiet,
        checkpoint=run.checkpoint, monitor=lambda record, volumes: (
            run.monitor(record, volumes) if record.number % EVERY == 0 else None
        ),
    )  # fmt: skip
    label = found.probability.argmax(1)
    run.write_particles(poses=found.poses, pmax=found.pmax, label=label)
    for k, volume in enumerate(found.volumes):
        io.write_volume(volume, options.out / f"run_class{k + 1:03d}.mrc")
    numbers = {
        "particles": len(particles), "class_sizes": np.bincount(label, minlength=options.classes).tolist(),
        "low_pass_angstrom": round(float(found.resolution), 2), "mean_pmax": round(float(found.pmax.mean()), 3),
    }  # fmt: skip
    run.write_summary(numbers)
    return numbers
