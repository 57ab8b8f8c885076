"""`cryonb.bayes` beside RELION on the same files, and where there is nothing to find: refinement, four classes, noise.

    python benchmarks/bayes_relion.py [--quick] [--parts refine classes null] [--no-relion] [--seeds 1 …]

prints one JSON object last. 64 px of 6.3 Å, SNR 0.2, defocus 1–2.5 µm, shifts of 1.5 px rms, from the shipped ribosome:

- refine: 1,000 particles of one state from the 60 Å reference;
- classes: 2,000 particles of four states (80S with a factor 50 %, turned by 6° without 20 %, without 20 %, 60S 10 %),
  given the true poses and given none, beside an oracle that has the true volumes and poses;
- null: 2,000 images of pure noise (1,000 with --quick) from the ribosome: what resolution is reported.

RELION 3.1.3 runs in its legacy double-precision CPU path, one thread a process; newer ones are several times faster.
CPU seconds of both are user and system time. ``--quick`` runs one seed of refine and null at half size, without RELION.
"""

import argparse
import json
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from cryonb import alignment, bayes, io, manifold, resolution, rotations, samples, simulate
from cryonb.types import Particles, Volume

SIZE, PIXEL, DIAMETER = 64, 6.3, 330.0
FOUR = {
    "80S with a factor": (0.5, {"factor": True}),
    "80S turned by 6°": (0.2, {"factor": False, "ratchet": 6.0}),
    "80S": (0.2, {"factor": False}),
    "60S": (0.1, {"factor": False, "parts": "60S"}),
}


def draw(species, n, seed):
    """Particles in memory, and their truth."""
    population = simulate.populate(samples.ribosome(), species, n, rng=[seed, 0])
    imaging = simulate.Imaging(SIZE, PIXEL, snr=0.2, shift_sigma=1.5 * PIXEL / np.sqrt(2))
    return simulate.particles(population, imaging, rng=[seed, 1], progress=False, workers=2)


def cpu_of(function):
    """Result, and CPU seconds of this process and its children."""
    before = cpu_seconds()
    return function(), round(cpu_seconds() - before, 1)


def cpu_seconds():
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


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


def refine(options, seed, folder):
    """One state, 1,000 particles: ours and RELION's gold-standard refinement."""
    n = 500 if options.quick else 1000
    particles, truth = draw([simulate.Species("80S", state={"factor": True})], n, seed)
    reference = samples.ribosome().volume(SIZE, PIXEL)
    found, cpu = cpu_of(
        lambda: bayes.refine(particles, reference, rng=seed, mask_diameter=DIAMETER, workers=2, progress=False)
    )
    numbers = {"ours_cpu_seconds": cpu, "ours_reported_angstrom": round(found.resolution, 2)}
    numbers |= {f"ours_{k}": v for k, v in pose_errors(truth.poses, found.poses, found.volume, reference).items()}
    if options.relion and shutil.which("relion_refine_mpi"):
        (folder / "out").mkdir()
        io.write_particles(particles, folder / "particles.star")
        io.write_volume(reference, folder / "reference.mrc")
        command = [
            "mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3", "relion_refine_mpi", "--i", "particles.star",
            "--ref", "reference.mrc", "--o", "out/refine", "--auto_refine", "--split_random_halves", "--ini_high", "60",
            "--ctf", "--ctf_corrected_ref", "--particle_diameter", str(DIAMETER), "--flatten_solvent", "--zero_mask",
            "--oversampling", "1", "--healpix_order", "2", "--auto_local_healpix_order", "4", "--offset_range", "5",
            "--offset_step", "2", "--sym", "C1", "--low_resol_join_halves", "40", "--norm", "--scale", "--j", "1",
            "--dont_check_norm", "--firstiter_cc", "--random_seed", "1",
        ]  # fmt: skip
        _, cpu = cpu_of(lambda: relion(command, folder))
        theirs = io.read_particles(folder / "out" / "refine_data.star", root=folder)
        back = matching_rows(theirs, particles)
        volume = io.read_volume(folder / "out" / "refine_class001.mrc")
        numbers |= {"relion_cpu_seconds": cpu, "speedup_cpu": round(cpu / numbers["ours_cpu_seconds"], 1)}
        poses = theirs[back].poses
        numbers |= {f"relion_{k}": v for k, v in pose_errors(truth.poses, poses, volume, reference).items()}
    return numbers


def relion(command, folder):
    log = folder / "relion.log"
    with open(log, "w") as file:
        if subprocess.run(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise RuntimeError(f"{command[0]} failed:\n{log.read_text()[-2000:]}")


def matching_rows(theirs, ours):
    """Rows of RELION's file in our order: it sorts particles by micrograph."""
    number = np.array([int(name.split("@")[0]) for name in theirs.metadata["rlnImageName"]])
    if len(number) != len(ours):
        raise RuntimeError(f"RELION wrote {len(number)} particles of {len(ours)}")
    return np.argsort(number)


def classes(options, seed, folder):
    """Four ribosomes, 2,000 particles: given the true poses, and given none."""
    species = [simulate.Species(name, share, state=state) for name, (share, state) in FOUR.items()]
    particles, truth = draw(species, 2000, seed)
    maps = [samples.ribosome().volume(SIZE, PIXEL, **state) for _, state in FOUR.values()]
    maps = [volume.with_data(volume.data * truth.scale) for volume in maps]
    shares = np.array([share for share, _ in FOUR.values()])
    known = replace(particles, poses=truth.poses)
    likelihood = manifold.image_log_likelihood(known, maps, workers=2) + np.log(shares)
    numbers = {"oracle_class_accuracy": round(float((likelihood.argmax(1) == truth.label).mean()), 4)}
    mean = Volume(np.tensordot(shares, [volume.data for volume in maps], 1), PIXEL)
    for name, some in (("given_poses", known), ("no_poses", particles)):
        found, cpu = cpu_of(
            lambda some=some: bayes.classify_3d(
                some, mean, n_classes=4, rng=seed, mask_diameter=DIAMETER, workers=2, progress=False
            )
        )
        accuracy, recall = class_scores(found.label, truth.label)
        numbers |= {
            f"{name}_class_accuracy": accuracy, f"{name}_minority_recall": recall, f"{name}_cpu_seconds": cpu,
            f"{name}_iterations": len(found.iterations),
        }  # fmt: skip
    return numbers


def class_scores(label, truth):
    """Accuracy under the best naming of the classes, and recall of the rarest species."""
    counts = np.zeros((truth.max() + 1, max(truth.max(), label.max()) + 1), dtype=int)
    np.add.at(counts, (truth, label), 1)
    rows, columns = linear_sum_assignment(-counts)
    rarest = int(np.bincount(truth).argmin())
    return round(float(counts[rows, columns].sum() / len(truth)), 4), round(
        float(counts[rarest, columns[rarest]] / counts[rarest].sum()), 4
    )


def null(options, seed, folder):
    """Pure noise, from the ribosome at 60 Å."""
    n = 1000 if options.quick else 2000
    particles, _ = draw([simulate.Species("80S", state={"factor": True})], 50, seed)
    noise = np.random.default_rng(seed).standard_normal((n, SIZE, SIZE)).astype(np.float32)
    empty = Particles(noise, PIXEL, ctf=particles[np.arange(n) % 50].ctf)
    reference = samples.ribosome().volume(SIZE, PIXEL)
    found, cpu = cpu_of(
        lambda: bayes.refine(empty, reference, rng=seed, mask_diameter=DIAMETER, workers=2, progress=False)
    )
    return {"reported_angstrom": round(found.resolution, 2), "cpu_seconds": cpu}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="half size, one seed, no RELION, no classes")
    parser.add_argument("--parts", nargs="+", choices=["refine", "classes", "null"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--no-relion", dest="relion", action="store_false")
    options = parser.parse_args()
    options.relion &= not options.quick
    parts = options.parts or (["refine", "null"] if options.quick else ["refine", "classes", "null"])
    numbers = {}
    for part in parts:
        for seed in options.seeds:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                found = globals()[part](options, seed, Path(folder))
            found["seconds"] = round(time.perf_counter() - started, 1)
            print(part, seed, json.dumps(found), flush=True)
            numbers.setdefault(part, []).append(found)
    numbers["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
