"""The chapters of a tour, in order; each is a stage that a second run reads back."""

import json
import os
from dataclasses import dataclass, replace

import numpy as np

from .. import bayes, filters, io, manifold, reconstruction, resolution, rotations
from ..types import Volume
from . import chapters, sources
from .plan import Stages

__all__ = ["Story", "tour"]


@dataclass(frozen=True, eq=False)
class Story:
    """All that the report tells.

    Parameters
    ----------
    source : Source
    particles : Particles
        With the poses that were found or given.
    refinement : Refinement, or None where the poses came with the particles
    classification : Classification
    curves : list of FSC, one per class; None for a class that a half has no particle of
    conformations : ConformationalLandscape
    checks : Checks
    summary : dict
        The numbers of ``summary.json``.
    """

    source: sources.Source
    particles: object
    refinement: "bayes.Refinement | None"
    classification: "bayes.Classification"
    curves: list
    conformations: "manifold.ConformationalLandscape"
    checks: "manifold.Checks"
    summary: dict


def tour(plan, *, progress=True):
    """Run every stage that is not done yet and write the report.

    Parameters
    ----------
    plan : Plan
    progress : bool
        Show bars, and a line per stage.

    Returns
    -------
    dict, as in ``summary.json``

    Notes
    -----
    In ``plan.out``: ``report.html``, ``summary.json``, ``figures/``, ``volumes/`` (MRC), ``particles/`` (RELION files:
    the input, then with orientations and classes), ``stages/`` (what lets a stopped run resume).
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    stages = Stages(plan.out / "stages", plan.key, print if progress else _silent)
    source = (sources.simulated if plan.particles is None else sources.own)(plan, stages)
    refinement, particles = align(source, plan, stages, progress)
    start = reconstruct_start(source, particles, refinement, plan, stages)
    classification = classify(source, particles, start, plan, stages, progress)
    volumes, curves = reconstruct_classes(source, particles, classification, plan, stages)
    conformations = move(source, particles, plan, stages, progress)
    write_results(plan.out, particles, classification, volumes, conformations)
    checks = manifold.check(particles, conformations, rng=[plan.seed, 5], workers=plan.workers)
    story = Story(source, particles, refinement, classification, curves, conformations, checks, {})
    summary = chapters.summarise(story)
    summary |= {"seconds": round(sum(stages.seconds.values()), 1), "peak_memory_gb": round(stages.peak_memory_gb, 2)}
    chapters.write(replace(story, summary=summary), plan, stages)
    _write_json(plan.out / "summary.json", summary)
    (print if progress else _silent)(f"report: {plan.out / 'report.html'}")
    return summary


def align(source, plan, stages, progress):
    """Orientations: those of the file, or a gold-standard refinement from the reference."""
    particles = source.particles
    if source.reference is None:
        return None, particles

    def compute():
        return bayes.refine(
            particles, source.reference, rng=[plan.seed, 2], mask_diameter=source.mask_diameter, workers=plan.workers,
            progress=progress, checkpoint=stages.checkpoint("refine"),
        )  # fmt: skip

    found = stages.resumed("refine", "find orientations (gold-standard refinement)", compute)
    metadata = particles.metadata.copy()
    metadata["rlnRandomSubset"] = (found.half + 1).astype(str)  # later stages keep the halves apart
    return found, replace(particles, poses=found.poses, metadata=metadata)


def reconstruct_start(source, particles, refinement, plan, stages):
    """The volume from which classes are split: refined, or reconstructed with the given poses."""
    if refinement is not None:
        return refinement.volume

    def compute():
        volume = reconstruction.reconstruct(particles, workers=plan.workers, progress=False)
        mask = filters.soft_sphere(volume.size_px, 0.5 * source.mask_diameter / volume.voxel_size)
        return {"volume": volume.data * mask}

    start = stages.stored("start", "reconstruct with the given orientations", compute)
    return Volume(start["volume"], particles.pixel_size)


def classify(source, particles, start, plan, stages, progress):
    """3D classes around the poses."""

    def compute():
        return bayes.classify_3d(
            particles, start, n_classes=plan.n_classes, rng=[plan.seed, 3], mask_diameter=source.mask_diameter,
            n_iterations=12, workers=plan.workers, progress=progress, checkpoint=stages.checkpoint("classify"),
        )  # fmt: skip

    return stages.resumed("classify", f"sort into {plan.n_classes} 3D classes", compute)


def reconstruct_classes(source, particles, classification, plan, stages):
    """Volume and FSC of each class, from two halves of its particles; None and None where a half has none of them."""
    size_px, pixel_size = particles.size_px, particles.pixel_size
    mask = filters.soft_sphere(size_px, 0.5 * source.mask_diameter / pixel_size)
    in_half = np.arange(2)[:, None] == classification.half
    shares = classification.probability.T[:, None] * in_half  # (K, 2, n)
    filled = shares.sum(axis=2).min(axis=1) >= 1

    def compute():
        halves = np.zeros((plan.n_classes, 2, size_px, size_px, size_px), dtype=np.float32)
        for k in np.flatnonzero(filled):
            for half in range(2):
                volume = reconstruction.reconstruct(
                    particles, weights=shares[k, half], workers=plan.workers, progress=False
                )
                halves[k, half] = volume.data
        return {"halves": halves}

    halves = stages.stored("reconstruct", "reconstruct each class from two halves", compute)["halves"]
    volumes, curves = [], []
    for k, (first, second) in enumerate(halves):
        if not filled[k]:
            volumes.append(None)
            curves.append(None)
            continue
        pair = Volume(first, pixel_size), Volume(second, pixel_size)
        curve = resolution.fourier_shell_correlation(*pair, mask=mask)
        limit = min(max(curve.at(0.143), 2 * pixel_size), particles.box_size / 2)
        volumes.append(filters.low_pass(Volume((first + second) / 2 * mask, pixel_size), limit))
        curves.append(curve)
    return volumes, curves


def move(source, particles, plan, stages, progress):
    """Conformational coordinate, landscape, volumes along it."""

    def compute():
        return manifold.embed(
            particles, rng=[plan.seed, 4], gauge=source.gauge, workers=plan.workers, progress=progress,
            checkpoint=stages.checkpoint("embed"),
        )  # fmt: skip

    return stages.resumed("embed", "embed, and estimate the energy landscape", compute)


def write_results(out, particles, classification, volumes, conformations):
    """Volumes as MRC, particles with their classes as a STAR file that RELION reads."""
    (out / "volumes").mkdir(exist_ok=True)
    for k, volume in enumerate(volumes):
        if volume is not None:
            io.write_volume(volume, out / "volumes" / f"class_{k + 1}.mrc")
    for m, volume in enumerate(conformations.volumes):
        io.write_volume(volume, out / "volumes" / f"node_{m + 1:02d}.mrc")
    metadata = particles.metadata.copy()
    metadata["rlnClassNumber"] = (classification.label + 1).astype(str)
    metadata["rlnMaxValueProbDistribution"] = [f"{value:.6f}" for value in classification.pmax]
    metadata["cryonbCoordinate"] = [f"{value:.6f}" for value in conformations.coordinate]
    io.write_particles(replace(particles, metadata=metadata), out / "particles" / "classified.star")


def pose_error(found, truth):
    """Angular errors in degrees (n,) and shift errors in Å (n,), after the best common rotation of the frame."""
    turn = (truth.rotation * found.rotation.inv()).mean()
    return (
        rotations.angular_distance(turn * found.rotation, truth.rotation),
        np.linalg.norm(found.shift - truth.shift, axis=1),
    )


def _silent(_):
    pass


def _write_json(path, values):
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)
