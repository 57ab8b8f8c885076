"""Speed and accuracy of `cryonb.bayes` on simulated ribosomes.

    python benchmarks/bayes.py [--quick] [--workers N]

64 px at 6.3 Å, SNR 0.2, defocus 1–2.5 µm, shifts of 1.5 px rms, a ratchet of ±10° over two wells with a factor that
binds to the one. Part 1 refines 4,000 particles (1,000 with --quick) from the unrotated ribosome at 60 Å; part 2
sorts them into two classes around the poses that part 1 found, beside an oracle that has the true maps of every
state and the true poses; part 3 sorts small sets with and without cross-fitting; part 4 counts poses per second of
one core. RELION 3.1.3 (its legacy double-precision CPU path) needs 1,167 s of CPU to refine 1,000 such particles.
Prints one JSON object last.
"""

import argparse
import json
import os
import resource
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from cryonb import bayes, ctf, projection, rotations, samples, simulate  # noqa: E402
from cryonb.bayes import coarse, model, observations, slices  # noqa: E402
from cryonb.types import Poses, Volume  # noqa: E402

SIZE, PIXEL, DIAMETER = 64, 6.3, 330.0
RATCHET = np.arange(-10.0, 10.1, 2.0)


def draw_particles(n, *, snr, seed):
    """Particles of the two-state ribosome and their truth."""
    landscape = simulate.double_well(span=(-10, 10), wells=(-4, 4), barrier_kt=2.0)
    species = simulate.bind(landscape, lambda ratchet: 1 / (1 + np.exp(1 - ratchet)))
    population = simulate.populate(samples.ribosome(), species, n, rng=seed)
    imaging = simulate.Imaging(SIZE, PIXEL, snr=snr, shift_sigma=1.5 * PIXEL / np.sqrt(2))
    return simulate.particles(population, imaging, rng=seed + 1, progress=False, workers=2)


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def class_accuracy(label, truth):
    share = float((label == truth).mean())
    return max(share, 1 - share)


def oracle_accuracy(particles, truth):
    """Bound or free, by someone who knows every particle's pose, the map of each state and how the two go together."""
    half = projection.half_plane(SIZE)
    frequency = half.points / particles.box_size
    pictures = np.fft.rfft2(np.fft.ifftshift(particles.images, axes=(1, 2)))[:, half.rows, half.columns]
    lens = ctf.evaluate(particles.ctf, *frequency.T) * truth.scale
    pictures *= projection.shift_phases(half.points, truth.poses.shift, particles.box_size).conj()
    evidence = np.empty((2, len(RATCHET), len(particles)))
    for bound in range(2):
        for i, ratchet in enumerate(RATCHET):
            volume = samples.ribosome().volume(SIZE, PIXEL, ratchet=ratchet, factor=bool(bound))
            expected = projection.sample_slices(
                projection.prepare(volume), truth.poses.rotation.as_matrix(), half.points
            )
            evidence[bound, i] = -(np.abs(pictures - lens * expected) ** 2).sum(1) / SIZE**2
    share = 1 / (1 + np.exp(1 - RATCHET))
    well = np.exp(-2.0 * ((RATCHET / 4) ** 2 - 1) ** 2)
    evidence += np.log(well * np.stack([1 - share, share]))[:, :, None]
    posterior = np.logaddexp.reduce(evidence, axis=1)
    return float((posterior.argmax(0) == truth.label).mean())


def pose_accuracy(truth, found):
    error = rotations.angular_distance(truth.rotation, found.rotation)
    shift = np.hypot(*(truth.shift - found.shift).T) / PIXEL
    return {
        "median_angular_error_degrees": round(float(np.median(error)), 2),
        "over_30_degrees": round(float((error > 30).mean()), 4),
        "median_shift_error_px": round(float(np.median(shift)), 3),
    }


def cross_fitting(particles, start, truth, n, seeds):
    """Class accuracy of small sets, scored with and without the other half's volumes."""
    found = {True: [], False: []}
    for seed in range(seeds):
        chosen = np.sort(np.random.default_rng(seed).choice(len(particles), n, replace=False))
        for cross_fit in found:
            result = bayes.classify_3d(
                particles[chosen], start, n_classes=2, rng=seed, mask_diameter=DIAMETER, progress=False,
                cross_fit=cross_fit, n_iterations=12,
            )  # fmt: skip
            found[cross_fit].append(class_accuracy(result.label, truth.label[chosen]))
    return round(float(np.mean(found[True])), 3), round(float(np.mean(found[False])), 3)


def poses_per_second(particles, volume, *, max_shell, n=96):
    """Million poses scored per second of one core: 768 views × 48 in-plane angles × 29 shifts."""
    grid = bayes.PolarGrid.covering(SIZE, max_shell, DIAMETER / 2 / PIXEL)
    some = particles[:n]
    noise = model.initial_noise(some, rng=0)
    observed = observations.observe(some, grid, noise[np.zeros(n, int)], np.zeros((n, 2)), 1)
    views = slices.view_matrices(3, rotations.random_rotations(1, rng=0)[0])
    bank = slices.fill_bank([projection.prepare(volume)], views, grid, 1)
    shifts = bayes.Sampling(3, 6.0, 2.0).shifts_px()[0]
    phases = projection.shift_phases(grid.points, shifts, SIZE).reshape(-1, grid.n_radii, grid.n_angles)
    tables = coarse.full_turn_tables(grid, 7.5)
    with threadpool_limits(1, user_api="blas"):
        coarse.global_scores(bank, observed, slice(0, 8), phases, grid, tables)
        _, _, cpu = timed(
            lambda: [
                coarse.global_scores(bank, observed, slice(i, i + 8), phases, grid, tables) for i in range(0, n, 8)
            ]
        )
    return round(n * len(bank) * 48 * len(shifts) / cpu / 1e6, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1,000 particles, one small set")
    parser.add_argument("--workers", default=2, type=int, help="threads")
    options = parser.parse_args()
    n = 1000 if options.quick else 4000
    particles, truth = draw_particles(n, snr=0.2, seed=1)
    reference = samples.ribosome().volume(SIZE, PIXEL, ratchet=0.0, factor=False)
    numbers = {"particles": n, "snr": 0.2, "workers": options.workers}
    refinement, wall, cpu = timed(
        lambda: bayes.refine(
            particles, reference, rng=0, mask_diameter=DIAMETER, workers=options.workers, progress=False
        )
    )
    print(refinement, *refinement.iterations, sep="\n  ")
    numbers |= {"refine_seconds": round(wall, 1), "refine_cpu_seconds": round(cpu, 1)}
    numbers |= {"reported_resolution_angstrom": round(refinement.resolution, 1)}
    numbers |= pose_accuracy(truth.poses, refinement.poses)
    aligned = particles.__class__(
        particles.images, PIXEL, ctf=particles.ctf, poses=Poses(refinement.poses.rotation, refinement.poses.shift)
    )
    start = Volume(refinement.volume.data, PIXEL)
    classes, wall, cpu = timed(
        lambda: bayes.classify_3d(
            aligned, start, n_classes=2, rng=0, mask_diameter=DIAMETER, workers=options.workers, progress=False
        )
    )
    print(classes, *classes.iterations, sep="\n  ")
    numbers |= {
        "classify_seconds": round(wall, 1), "classify_cpu_seconds": round(cpu, 1),
        "class_accuracy": round(class_accuracy(classes.label, truth.label), 4),
        "oracle_class_accuracy": round(oracle_accuracy(particles, truth), 4),
    }  # fmt: skip
    few, seeds = (200, 2) if options.quick else (200, 6)
    with_halves, without = cross_fitting(aligned, start, truth, few, seeds)
    numbers |= {"small_set": few, "small_set_accuracy": with_halves, "small_set_accuracy_without_cross_fit": without}
    numbers["mpose_per_s_core_15_shells"] = poses_per_second(particles, start, max_shell=15)
    numbers["mpose_per_s_core_24_shells"] = poses_per_second(particles, start, max_shell=24)
    numbers["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
