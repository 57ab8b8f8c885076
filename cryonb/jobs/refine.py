"""``python -m cryonb refine``: find orientations and a volume from a rough reference.

Writes run_class001.mrc, the unfiltered halves run_half1_class001_unfil.mrc and run_half2_… (for resolution),
run_data.star, run_model.star, each iteration's halves as run_it003_half1_…, and summary.json. The same command
continues a run that was stopped; with other settings it says so and changes nothing. Summary and output say so where
the halves agree hardly beyond the start: then nothing was found. The mean Pmax is that of the last, finest grid, far
below 1; the volumes of all iterations are kept.
"""

import warnings

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
    parser.add_argument(
        "--initial-resolution",
        "--ini_high",
        type=float,
        default=60.0,
        metavar="Å",
        help="low-pass of the reference (%(default)s)",
    )
    parser.add_argument("--no-contrast", action="store_true", help="do not fit norms of images and scales of groups")
    parser.add_argument("--local-prior", action="store_true", help="weigh each part of the map by its own signal")
    parser.add_argument("--no-views", action="store_true", help="expect all viewing directions alike in searches")


def execute(options):
    """Run the job.

    Returns
    -------
    dict : the summary
    """
    from .. import bayes, io

    particles = read_particles(options)
    reference = read_reference(options.reference, particles)
    run = Run(options.out, particles)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        found = bayes.refine(
            particles, reference, rng=options.seed, initial_resolution=options.initial_resolution,
            symmetry=options.symmetry, mask_diameter=options.mask_diameter, workers=options.workers,
            correct_contrast=not options.no_contrast, learn_views=not options.no_views,
            local_prior=options.local_prior, progress=not options.quiet,
            checkpoint=run.checkpoint, monitor=run.monitor,
        )  # fmt: skip
    run.write_particles(poses=found.poses, pmax=found.pmax, half=found.half, norm=found.norm)
    run.write_model("run", found.iterations[-1], [found.volume], scale=found.scale)
    for number, half in enumerate(found.half_maps, 1):
        io.write_volume(half, options.out / f"run_half{number}_class001_unfil.mrc")
    numbers = {
        "particles": len(particles), "resolution_angstrom": round(found.resolution, 2),
        "iterations": len(found.iterations),
        "angular_step_degrees": round(found.iterations[-1].step, 3), "mean_pmax": round(float(found.pmax.mean()), 3),
        "seconds": round(sum(record.seconds for record in found.iterations), 1),
    }  # fmt: skip
    if said:
        numbers["warnings"] = [str(warning.message) for warning in said]
    run.write_summary(numbers)
    return numbers
