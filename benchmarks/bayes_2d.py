"""Speed and quality of `cryonb.bayes.classify_2d` on simulated ribosomes, beside RELION where it is installed.

    python benchmarks/bayes_2d.py [--quick] [--workers N] [--seeds N]

1,000 particles of one ribosome in all orientations: 64 px at 6.3 Å, SNR 0.2, defocus 1–2.5 µm, shifts of 1.5 px rms,
K = 20, 25 iterations (300 particles and K = 8 with --quick), with and without cross-fitting; then, not with --quick,
RELION 3.1.3 (its legacy double-precision CPU path, about 15 minutes) on the same files. What is measured, from the
true noise-free, CTF-free projections of the particles, aligned as their class says:

- frc: Fourier ring correlation of each class average with the average of its members' projections, mean over shells
  up to Nyquist and over classes (by occupancy); frc05: the resolution in Å at which it falls to 0.5.
- member_correlation: of each average with its members' own projections, mean over particles.
- spread: median angle in degrees between a member's viewing direction and its class's; over_40: share beyond 40°.
  (Twenty equal caps that cover the sphere have a median of 18°.)

Prints one JSON object last.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from cryonb import bayes, io, samples, simulate  # noqa: E402
from cryonb.types import Poses  # noqa: E402

SIZE, PIXEL, DIAMETER = 64, 6.3, 330.0


def draw_particles(n, *, seed):
    """Particles of one ribosome, their true viewing directions, and their projections without noise and CTF."""
    state = {"ratchet": 0.0, "factor": True}
    population = simulate.populate(samples.ribosome(), simulate.Species("70S", state=state), n, rng=seed)
    imaging = simulate.Imaging(SIZE, PIXEL, snr=0.2, shift_sigma=1.5 * PIXEL / np.sqrt(2))
    particles, truth = simulate.particles(population, imaging, rng=seed + 1, progress=False)
    clean = truth.scale * samples.ribosome().project(truth.poses, SIZE, PIXEL, **state)
    return particles, truth.poses.rotation.as_matrix()[:, :, 2], clean


def aligned(images, poses):
    """Samples (n, n_r, n_angles) of images turned and moved back onto their class, and the polar grid."""
    grid = bayes.PolarGrid.covering(SIZE, (SIZE - 1) // 2, SIZE / 2 - 5)
    turn = poses.rotation.as_matrix()[:, :2, :2]
    samples = np.empty((len(images), grid.n_radii, grid.n_angles), dtype=np.complex64)
    axis = np.arange(SIZE) - SIZE // 2
    for image, matrix, shift, result in zip(images, turn, poses.shift, samples):
        k = grid.points @ matrix / SIZE  # R⁻¹ k
        move = np.exp(-2j * np.pi * (k @ shift) / PIXEL)
        columns, rows = (np.exp(-2j * np.pi * k[:, i, None] * axis).astype(np.complex64) for i in range(2))
        result[:] = (((rows @ image) * columns).sum(-1) * move).reshape(result.shape)
    return samples, grid


def quality(averages, label, poses, directions, clean):
    """The numbers that the head of this file explains."""
    members, grid = aligned(clean, poses)
    members[:, grid.radii < 0.5] = 0
    references = grid.transform(averages)
    references[:, grid.radii < 0.5] = 0
    shells, share = np.arange(1, SIZE // 2), np.bincount(label, minlength=len(averages)) / len(label)
    curve, angle, similar = np.zeros(len(shells)), [], []
    for k in np.flatnonzero(share):
        mine, reference = members[label == k], references[k]
        mean = mine.mean(0)
        cross = (mean * reference.conj()).real.mean(1)
        size = np.sqrt((np.abs(mean) ** 2).mean(1) * (np.abs(reference) ** 2).mean(1))
        frc = np.divide(cross, size, out=np.zeros_like(cross), where=size > 0)
        curve += share[k] * np.interp(shells, grid.radii, frc)
        power = [((np.abs(part) ** 2).mean(-1) * grid.areas).sum(-1) for part in (mine, reference)]
        similar.append(((mine * reference.conj()).real.mean(-1) * grid.areas).sum(-1) / np.sqrt(power[0] * power[1]))
        angle.append(spread(directions[label == k]))
    angle = np.concatenate(angle)
    fallen = np.interp(-0.5, -np.minimum.accumulate(curve), shells)
    return {
        "frc": round(float(curve.mean()), 3), "frc05_angstrom": round(SIZE * PIXEL / float(fallen), 1),
        "member_correlation": round(float(np.concatenate(similar).mean()), 4),
        "spread_degrees": round(float(np.median(angle)), 1), "over_40_degrees": round(float((angle > 40).mean()), 3),
        "classes_used": int((share > 0.2 / len(share)).sum()), "largest_class": round(float(share.max()), 3),
    }  # fmt: skip


def spread(directions):
    """Angles in degrees to the direction of the nearer half of a class's members."""
    centre = directions.mean(0)
    for _ in range(5):
        angle = np.arccos(np.clip(directions @ centre / np.linalg.norm(centre), -1, 1))
        centre = directions[angle <= np.median(angle)].mean(0)
    return np.degrees(np.arccos(np.clip(directions @ centre / np.linalg.norm(centre), -1, 1)))


def run_relion(particles, n_classes, folder):
    """RELION's averages, labels and poses, and its CPU seconds."""
    io.write_particles(particles, folder / "particles.star")
    (folder / "run").mkdir()
    command = (
        f"relion_refine --i particles.star --o run/r --K {n_classes} --iter 25 --ctf --tau2_fudge 2 "
        "--particle_diameter 320 --flatten_solvent --zero_mask --psi_step 12 --offset_range 5 --offset_step 2 --norm "
        "--scale --oversampling 1 --dont_check_norm --j 1 --random_seed 1"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    table = io.read_star(folder / "run/r_it025_data.star", numeric=True)["particles"]
    number = [int(str(name).split("@")[0]) for name in table["rlnImageName"]]
    found = io.read_particles(folder / "run/r_it025_data.star", root=folder)
    order = np.argsort(number)
    averages = np.asarray(io.read_stack(folder / "run/r_it025_classes.mrcs"))
    label = table["rlnClassNumber"].to_numpy().astype(int)[order] - 1
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return averages, label, Poses(found.poses.rotation[order], found.poses.shift[order]), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="300 particles, K = 8, one seed, no RELION")
    parser.add_argument("--workers", default=2, type=int, help="threads")
    parser.add_argument("--seeds", default=3, type=int, help="starts of each kind")
    options = parser.parse_args()
    n, n_classes, seeds = (300, 8, 1) if options.quick else (1000, 20, options.seeds)
    particles, directions, clean = draw_particles(n, seed=1)
    numbers = {"particles": n, "classes": n_classes, "seeds": seeds, "workers": options.workers}
    common = {"n_classes": n_classes, "mask_diameter": DIAMETER, "workers": options.workers, "progress": False}
    bayes.classify_2d(particles[:20], rng=0, n_iterations=1, **(common | {"n_classes": 2}))  # compile
    for name, cross_fit in (("ours", True), ("without_cross_fit", False)):
        rows = []
        for seed in range(seeds):
            wall, cpu = time.perf_counter(), time.process_time()
            found = bayes.classify_2d(particles, rng=seed, cross_fit=cross_fit, **common)
            row = {"cpu_seconds": round(time.process_time() - cpu, 1), "seconds": round(time.perf_counter() - wall, 1)}
            row |= {"iterations": len(found.iterations)}
            rows.append(row | quality(found.averages, found.label, found.poses, directions, clean))
            print(name, rows[-1], flush=True)
        numbers[name] = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}
    if not options.quick and shutil.which("relion_refine"):
        with tempfile.TemporaryDirectory() as folder:
            *found, seconds = run_relion(particles, n_classes, Path(folder))
        numbers["relion"] = {"cpu_seconds": round(seconds, 1), **quality(*found, directions, clean)}
        numbers["speedup_cpu"] = round(seconds / numbers["ours"]["cpu_seconds"], 1)
    numbers["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
