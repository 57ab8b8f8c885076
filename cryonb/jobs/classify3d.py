"""``python -m cryonb classify3d``: sort particles into 3D classes, around their poses or with none.

Writes run_data.star (particles with their class), run_class001.mrc … , run_model.star, each iteration's model as
run_it003_… (without poses, first those of one volume as consensus_it003_…), and summary.json (with the curves of
'auto'). The same command continues a run that was stopped; with
other settings it says so and changes nothing.
"""

import argparse
import time

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
    parser.add_argument(
        "--classes", "--K", type=_number_of_classes, required=True, metavar="K",
        help="a number, or 'auto': K and T (which then must not be given) as particles that are held out choose them; "
        "three to four times as long",
    )  # fmt: skip
    parser.add_argument("--iterations", "--iter", type=int, metavar="N", help="at most (25)")
    parser.add_argument("--tau2-fudge", "--tau2_fudge", type=float, metavar="T", help="how far classes may differ (1)")
    parser.add_argument("--most-classes", type=int, default=8, metavar="K", help="that 'auto' looks at (%(default)s)")
    parser.add_argument("--ignore-angles", action="store_true", help="search all orientations, whatever the file says")


def execute(options):
    """Run the job.

    Returns
    -------
    dict : the summary
    """
    from dataclasses import replace

    from .. import bayes

    given = {"n_iterations": options.iterations, "tau_fudge": options.tau2_fudge}
    given = {name: value for name, value in given.items() if value is not None}
    if options.classes == "auto" and given:
        raise ValueError("--K auto chooses T and its iterations itself: leave --tau2_fudge and --iter out")
    began = time.perf_counter()
    particles = read_particles(options)
    reference = read_reference(options.reference, particles)
    run = Run(options.out, particles, gold_standard=False)
    some = replace(particles, poses=None) if options.ignore_angles else particles
    common = {
        "rng": options.seed, "symmetry": options.symmetry, "mask_diameter": options.mask_diameter,
        "workers": options.workers, "progress": not options.quiet, "checkpoint": run.checkpoint, "monitor": run.monitor,
        "consensus_monitor": run.monitor_consensus,
    }  # fmt: skip
    chosen = {}
    if options.classes == "auto":
        choice = bayes.choose_classes(some, reference, most=options.most_classes, **common)
        found = choice.classification
        chosen = _curves(choice)
    else:
        found = bayes.classify_3d(some, reference, n_classes=options.classes, **given, **common)
    run.write_particles(poses=found.poses, pmax=found.pmax, half=found.half, label=found.label)
    run.write_model("run", found.iterations[-1], found.volumes)
    numbers = {
        "particles": len(particles), "class_sizes": np.bincount(found.label, minlength=len(found.volumes)).tolist(),
        "class_shares": [round(float(share), 4) for share in found.occupancy], "iterations": len(found.iterations),
        "mean_pmax": round(float(found.pmax.mean()), 3),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    run.write_summary(numbers | chosen)
    return numbers | chosen


def _number_of_classes(text):
    if text != "auto" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number or 'auto', got {text!r}")
    return text if text == "auto" else int(text)


def _curves(choice):
    """K, T and the evidence for them, for the summary."""
    curves = {"classes": choice.n_classes, "tau2_fudge": choice.tau_fudge, "held_out_particles": len(choice.held_out)}
    named = (("classes", None), ("tau2_fudge", choice.tau_evidence))
    for name, evidence in named:
        mean, error = choice.against_chosen(evidence)
        curves[f"evidence_by_{name}"] = [round(float(value), 4) + 0.0 for value in mean]
        curves[f"evidence_by_{name}_error"] = [round(float(value), 4) for value in error]
    return curves | {"tau2_fudges": list(choice.tau_fudges)}
