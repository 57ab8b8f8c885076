"""How often `cryonb.bayes.initial_model` finds the ribosome, and in what time.

    python benchmarks/initial_model.py [--quick] [--seeds N] [--particles N] [--snr SNR] [--workers N]

Each seed has particles of its own (64 px at 6.3 Å, SNR 0.2, defocus 1–2.5 µm, shifts of 1.5 px rms) and a start of
its own. Found means FSC > 0.5 with the truth to 30 Å after alignment, both hands tried. Prints one JSON object last.
"""

import argparse
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from cryonb import alignment, bayes, resolution, rotations, samples, simulate  # noqa: E402

SIZE, PIXEL, DIAMETER = 64, 6.3, 330.0
TARGET = 30.0  # Å


def draw_particles(n, *, snr, seed):
    population = simulate.populate(samples.ribosome(), simulate.Species("all"), n, rng=seed)
    imaging = simulate.Imaging(SIZE, PIXEL, snr=snr, shift_sigma=1.5 * PIXEL / np.sqrt(2))
    return simulate.particles(population, imaging, rng=seed + 1, progress=False, workers=2)


def pose_error(aligned, found, truth):
    """Angles in degrees between found poses, carried into the true frame, and the true ones."""
    matrices = found.rotation.as_matrix()
    if aligned.mirrored:  # the mirror image seen from the mirrored direction gives the same picture
        flip = np.diag([1.0, 1.0, -1.0])
        matrices = flip @ matrices @ flip
    turned = aligned.rotation * Rotation.from_matrix(matrices)
    return rotations.angular_distance(turned, truth.rotation)


def one_seed(seed, options):
    particles, truth = draw_particles(options.particles, snr=options.snr, seed=1000 + 10 * seed)
    wall, cpu = time.perf_counter(), time.process_time()
    model = bayes.initial_model(
        particles, rng=seed, mask_diameter=DIAMETER, n_batches=options.batches, workers=options.workers, progress=False
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    true_volume = samples.ribosome().volume(SIZE, PIXEL)
    aligned = alignment.align_volumes(model.volumes[0], true_volume)
    curve = resolution.fourier_shell_correlation(aligned.volume, true_volume)
    error = pose_error(aligned, model.poses, truth.poses)
    return {
        "seed": seed, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "fsc05_angstrom": round(curve.at(0.5), 1),
        "found": bool(curve.at(0.5) <= TARGET), "mirrored": aligned.mirrored,
        "agreement": round(aligned.agreement, 3), "other_hand": round(aligned.other_hand, 3),
        "median_angular_error_degrees": round(float(np.median(error)), 2),
        "over_30_degrees": round(float((error > 30).mean()), 4), "pmax": round(float(model.pmax.mean()), 3),
        "log_evidence": round(float(model.log_evidence.mean()), 2),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, half the batches")
    parser.add_argument("--seeds", default=10, type=int)
    parser.add_argument("--particles", default=1000, type=int)
    parser.add_argument("--batches", default=200, type=int)
    parser.add_argument("--snr", default=0.2, type=float)
    parser.add_argument("--workers", default=2, type=int, help="threads")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.batches = 1, 100
    rows = []
    for seed in range(options.seeds):
        rows.append(one_seed(seed, options))
        print(rows[-1], flush=True)
    print(json.dumps({
        "particles": options.particles, "snr": options.snr, "batches": options.batches, "workers": options.workers,
        "seeds": options.seeds, "found": sum(row["found"] for row in rows),
        "worst_fsc05_angstrom": max(row["fsc05_angstrom"] for row in rows),
        "mean_cpu_s": round(float(np.mean([row["cpu_s"] for row in rows])), 1),
        "longest_wall_s": max(row["wall_s"] for row in rows),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
