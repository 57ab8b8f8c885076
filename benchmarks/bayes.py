"""`cryonb.bayes` beside RELION on the same files, scored against the truth: refinement, classes, noise, speed.

    python benchmarks/bayes.py [--quick] [--parts …] [--snr 0.2 0.05] [--seeds 1 …] [--workers N] [--folder F]
        [--relion …]

64 px of 6.3 Å, defocus 1–2.5 µm, shifts of 1.5 px rms, from the shipped ribosome. Parts:

- refine: 1,000 particles of one state from the 60 Å reference;
- classes: 2,000 particles of four states (80S with a factor 50 %, turned by 6° without 20 %, without 20 %, 60S 10 %)
  from their mean, given the true poses, beside an oracle that has the true volumes and poses;
- no_poses: the same, given none;
- search: 500 of those, one iteration of four classes over all orientations, at RELION's sampling and at ours;
- small: 200 particles of two states 8° and a factor apart, given the true poses, scored with and without cross-fitting;
- null: 2,000 images of pure noise (SNR does not matter) from the ribosome: what resolution is reported;
- throughput: million poses per second of one core.

RELION 3.1.3 runs in its legacy double-precision CPU path, one thread a process; newer ones are several times faster.
Without poses it makes two iterations only: each takes minutes. What it finished stays in ``--folder`` and is not
run again (name another folder when its options change here); ``--relion kept`` runs nothing. CPU seconds are user and
system time, of RELION over MPI those of the two ranks that work. ``--quick``: refine, classes (few iterations) and
throughput on fewer particles, without RELION.
Prints one JSON object last; its first keys are of the first SNR, means over the seeds.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _relion  # noqa: E402
import numpy as np  # noqa: E402
from _ribosomes import DIAMETER, FOUR, ONE, PIXEL, SIZE, draw, mean_volume, scores, true_volumes  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from cryonb import alignment, bayes, io, manifold, projection, resolution, rotations  # noqa: E402
from cryonb.bayes import coarse, maximisation, model, observations, slices  # noqa: E402
from cryonb.bayes.search import coarse_shell  # noqa: E402
from cryonb.types import Particles  # noqa: E402

PARTS = ("refine", "classes", "no_poses", "search", "small", "null", "throughput")
QUICK = ("refine", "classes", "throughput")
TWO = {
    "80S at −4°": (0.5, {"factor": False, "ratchet": -4.0}),
    "80S at 4° with a factor": (0.5, {"factor": True, "ratchet": 4.0}),
}


def refine(options, snr, seed, folder):
    """One state: ours and RELION's gold-standard refinement."""
    n = 500 if options.quick else 1000
    particles, truth = draw(ONE, n, seed=seed, snr=snr)
    (reference,) = true_volumes(ONE, truth)
    found, cpu = cpu_of(
        lambda: bayes.refine(
            particles, reference, rng=seed, mask_diameter=DIAMETER, workers=options.workers, progress=False
        )
    )
    numbers = {"ours_cpu_seconds": cpu, "ours_reported_angstrom": round(found.resolution, 2)}
    numbers |= {f"ours_{k}": v for k, v in pose_errors(truth.poses, found.poses, found.volume, reference).items()}
    ran = run_relion(options, folder, _relion.REFINE, particles, reference)
    if ran is not None:
        theirs = io.read_particles(folder / "relion" / "run_data.star", root=folder)
        poses = theirs[matching_rows(theirs, particles)].poses
        volume = io.read_volume(folder / "relion" / "run_class001.mrc")
        numbers |= {"relion_cpu_seconds": ran["cpu_seconds"], "relion_all_ranks_cpu_seconds": ran["all_cpu_seconds"]}
        numbers["speedup_cpu"] = round(ran["cpu_seconds"] / cpu, 1)
        numbers |= {f"relion_{k}": v for k, v in pose_errors(truth.poses, poses, volume, reference).items()}
    return numbers


def pose_errors(truth, found, volume, reference):
    """Median angular error, share over 30° off, and the true FSC 0.5, after the best common turn of the frame."""
    turn = (truth.rotation * found.rotation.inv()).mean()
    error = rotations.angular_distance(turn * found.rotation, truth.rotation)
    aligned = alignment.align_volumes(volume, reference, hand=False).volume
    curve = resolution.fourier_shell_correlation(aligned, reference, mask="sphere")
    return {
        "median_angular_error_degrees": round(float(np.median(error)), 2),
        "over_30_degrees": round(float((error > 30).mean()), 4), "fsc05_angstrom": round(float(curve.at(0.5)), 2),
    }  # fmt: skip


def classes(options, snr, seed, folder):
    """Four ribosomes, given the true poses: ours, RELION's, and an oracle's that has the true volumes too."""
    particles, truth, maps, mean = four_ribosomes(500 if options.quick else 2000, seed, snr)
    known = replace(particles, poses=truth.poses)
    shares = np.array([share for share, _ in FOUR.values()])
    likelihood = manifold.image_log_likelihood(known, maps, workers=2) + np.log(shares)
    numbers = {"oracle_class_accuracy": round(float((likelihood.argmax(1) == truth.label).mean()), 4)}
    numbers |= classified(known, truth, mean, seed, n_iterations=9 if options.quick else 25)
    ran = run_relion(options, folder, [*_relion.CLASSIFY, "--skip_align", "--iter", "25"], known, mean)
    if ran is not None:
        theirs = io.read_particles(folder / "relion" / "run_it025_data.star", root=folder)
        label = theirs.metadata["rlnClassNumber"].to_numpy(int)[matching_rows(theirs, particles)] - 1
        numbers |= scores(label, truth.label, "relion") | {"relion_cpu_seconds": ran["cpu_seconds"]}
    return numbers


def no_poses(options, snr, seed, folder):
    """The same particles, given no poses."""
    particles, truth, _, mean = four_ribosomes(2000, seed, snr)
    return classified(particles, truth, mean, seed)


def classified(particles, truth, mean, seed, n_iterations=25):
    """Scores and cost of `classify_3d` from one reference."""
    found, cpu = cpu_of(
        lambda: bayes.classify_3d(
            particles, mean, n_classes=4, rng=seed, mask_diameter=DIAMETER, workers=2, progress=False,
            n_iterations=n_iterations,
        )
    )  # fmt: skip
    numbers = {"ours_cpu_seconds": cpu, "ours_iterations": len(found.iterations)}
    return scores(found.label, truth.label, "ours") | numbers


def search(options, snr, seed, folder):
    """CPU seconds of an iteration that looks for the poses of 500 particles in four classes, all orientations.

    At RELION's sampling (views 15° apart, then 7.5°; shifts within 5 px) and at the finer one of `classify_3d`;
    references and images to the same shell. RELION's is its second iteration: the first only correlates.
    """
    particles, _, maps, mean = four_ribosomes(500, seed, snr)
    shell = particles.box_size / 60
    low = tuple(model.low_pass(volume, shell) for volume in maps)
    noise = model.initial_noise(particles, rng=seed)
    start = bayes.Model(low, noise, np.full(4, 0.25), 10.0)
    grid = bayes.PolarGrid.covering(SIZE, np.ceil(shell + 10), DIAMETER / 2 / PIXEL)
    numbers = {}
    for name, order in (("", 2), ("finer_", 3)):
        limit = coarse_shell(order, SIZE, DIAMETER / 2 / PIXEL)
        sampling = bayes.Sampling(order, 5.0, 2.0, coarse_radius=limit, keep_views=48)
        iterate(particles[:50], start, grid, sampling)  # compiles
        _, numbers[f"ours_{name}cpu_seconds"] = cpu_of(lambda: iterate(particles, start, grid, sampling))  # noqa: B023
    ran = run_relion(options, folder, [*_relion.CLASSIFY, *_relion.SEARCH, "--iter", "2"], particles, mean)
    if ran is not None:
        numbers["relion_cpu_seconds"] = ran["iteration_cpu_seconds"][1]
        numbers["speedup_cpu"] = round(numbers["relion_cpu_seconds"] / numbers["ours_cpu_seconds"], 1)
        numbers["speedup_cpu_finer"] = round(numbers["relion_cpu_seconds"] / numbers["ours_finer_cpu_seconds"], 1)
    return numbers


def iterate(particles, start, grid, sampling):
    """One expectation and one maximisation."""
    statistics, _ = bayes.expectation(particles, start, grid, sampling, workers=2)
    return [maximisation.solve_class(statistics, k, PIXEL) for k in range(len(start.volumes))]


def small(options, snr, seed, folder):
    """What cross-fitting changes where an image's own noise is much of its class."""
    particles, truth = draw(TWO, 200, seed=seed, snr=snr)
    maps = true_volumes(TWO, truth)
    known = replace(particles, poses=truth.poses)
    likelihood = manifold.image_log_likelihood(known, maps, workers=2)
    numbers = {"oracle_class_accuracy": round(float((likelihood.argmax(1) == truth.label).mean()), 4)}
    for name, cross_fit in (("ours", True), ("without_cross_fit", False)):
        found = bayes.classify_3d(
            known, mean_volume(TWO, maps), n_classes=2, rng=seed, mask_diameter=DIAMETER, workers=2, progress=False,
            cross_fit=cross_fit,
        )  # fmt: skip
        numbers |= {f"{name}_class_accuracy": scores(found.label, truth.label, "")["_class_accuracy"]}
    return numbers


def null(options, snr, seed, folder):
    """Pure noise, from the ribosome at 60 Å."""
    particles, _ = draw(ONE, 50, seed=seed)
    noise = np.random.default_rng(seed).standard_normal((2000, SIZE, SIZE)).astype(np.float32)
    empty = Particles(noise, PIXEL, ctf=particles[np.arange(2000) % 50].ctf)
    (reference,) = true_volumes(ONE, _)
    found, cpu = cpu_of(
        lambda: bayes.refine(empty, reference, rng=seed, mask_diameter=DIAMETER, workers=2, progress=False)
    )
    return {"reported_angstrom": round(found.resolution, 2), "cpu_seconds": cpu}


def throughput(options, snr, seed, folder):
    """Million poses scored per second of one core: 768 views × 48 in-plane angles × 29 shifts."""
    n, shifts = 96, bayes.Sampling(3, 6.0, 2.0).shifts_px()[0]
    particles, truth = draw(ONE, n, seed=seed)
    noise = model.initial_noise(particles, rng=0)
    views = slices.view_matrices(3, rotations.random_rotations(1, rng=0)[0])
    numbers = {}
    for max_shell in (15, 24):
        grid = bayes.PolarGrid.covering(SIZE, max_shell, DIAMETER / 2 / PIXEL)
        observed = observations.observe(particles, grid, noise[np.zeros(n, int)], np.zeros((n, 2)), 1)
        bank = slices.fill_bank([projection.prepare(*true_volumes(ONE, truth))], views, grid, 1)
        phases = projection.shift_phases(grid.points, shifts, SIZE).reshape(-1, grid.n_radii, grid.n_angles)
        tables = coarse.full_turn_tables(grid, 7.5)
        blocks = [slice(i, i + 8) for i in range(0, n, 8)]
        with threadpool_limits(1, user_api="blas"):
            coarse.global_scores(bank, observed, blocks[0], phases, grid, tables)  # compiles
            started = time.process_time()
            for block in blocks:
                coarse.global_scores(bank, observed, block, phases, grid, tables)
            cpu = time.process_time() - started
        numbers[f"mpose_per_s_core_{max_shell}_shells"] = round(n * len(bank) * 48 * len(shifts) / cpu / 1e6, 1)
    return numbers


def four_ribosomes(n, seed, snr):
    """Particles, truth, the true volumes, and their mean."""
    particles, truth = draw(FOUR, n, seed=seed, snr=snr)
    maps = true_volumes(FOUR, truth)
    return particles, truth, maps, mean_volume(FOUR, maps)


def cpu_of(function):
    """Result, and CPU seconds of this process."""
    before = time.process_time()
    return function(), round(time.process_time() - before, 1)


def run_relion(options, folder, command, particles, reference):
    """The record of RELION's run on these particles, or None where it is not wanted or not to be had."""
    if options.relion == "none" or (options.relion == "kept" and not (folder / "relion.json").exists()):
        return None
    _relion.write_inputs(folder, particles, reference)
    return _relion.run(folder, "relion", command, diameter=DIAMETER)


def matching_rows(theirs, ours):
    """Rows of RELION's file in our order: it sorts particles by micrograph."""
    number = np.array([int(name.split("@")[0]) for name in theirs.metadata["rlnImageName"]])
    if len(number) != len(ours):
        raise RuntimeError(f"RELION wrote {len(number)} particles of {len(ours)}")
    return np.argsort(number)


def summary(numbers, snr):
    """The figures that are asked for, at one SNR; None where they were not measured."""

    def mean(part, key):
        values = [row[key] for row in numbers.get(part, {}).get(snr, []) if key in row]
        return round(float(np.mean(values)), 4) if values else None

    recall = [row["ours_minority_recall"] for row in numbers.get("classes", {}).get(snr, [])]
    return {
        "snr": snr, "speedup_cpu": mean("refine", "speedup_cpu"),
        "speedup_cpu_classes_global": mean("search", "speedup_cpu"),
        "ours_fsc05_angstrom": mean("refine", "ours_fsc05_angstrom"),
        "relion_fsc05_angstrom": mean("refine", "relion_fsc05_angstrom"),
        "ours_class_accuracy": mean("classes", "ours_class_accuracy"),
        "ours_class_accuracy_no_poses": mean("no_poses", "ours_class_accuracy"),
        "relion_class_accuracy": mean("classes", "relion_class_accuracy"),
        "oracle_class_accuracy": mean("classes", "oracle_class_accuracy"),
        "minority_recall": mean("classes", "ours_minority_recall"),
        "seeds": len(recall), "seeds_with_minority_recall_over_0.9": int(np.sum(np.array(recall) >= 0.9)),
        "mpose_per_s_core": mean("throughput", "mpose_per_s_core_24_shells"),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer particles, no RELION; a minute")
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--snr", nargs="+", type=float, default=[0.2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--workers", type=int, default=2, help="threads of our refinement")
    parser.add_argument("--folder", type=Path, help="keep RELION's files here and go on from them")
    parser.add_argument("--relion", choices=["run", "kept", "none"], default="run" if _relion.installed() else "none")
    options = parser.parse_args()
    if options.quick:
        options.relion = "none"
    numbers = {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.parts or (QUICK if options.quick else PARTS):
            of_snr = part not in ("null", "throughput")
            for snr in options.snr if of_snr else options.snr[:1]:
                for seed in options.seeds if part != "throughput" else options.seeds[:1]:
                    started = time.perf_counter()
                    folder = (options.folder or Path(scratch)) / f"{part}-snr{snr:g}-seed{seed}"
                    found = globals()[part](options, snr, seed, folder)
                    found["seconds"] = round(time.perf_counter() - started, 1)
                    print(part, f"SNR {snr:g}," if of_snr else "", f"seed {seed}", json.dumps(found), flush=True)
                    numbers.setdefault(part, {}).setdefault(snr, []).append(found)
    print(json.dumps(summary(numbers, options.snr[0]) | numbers, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
