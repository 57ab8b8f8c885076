"""How `cryonb.bayes` grows with the number of particles: cost of an iteration, time of a whole job, memory.

    python benchmarks/bayes_scale.py [--quick] [--parts linear job memory] [--folder F]

Four ribosomes of 64 px, 6.3 Å and SNR 0.2 (as `bayes.py`), K = 4, two workers. Poses are given in the last part only.
Each part runs in a process of its own, so that its peak memory is its own:

- linear: CPU seconds of one iteration over all orientations, of 1,000 to 8,000 particles, and a line through them;
- job: 10,000 particles through `classify_3d` from their mean, to the end;
- memory: 100,000 particles in a memory-mapped stack of 1.6 GB (2,000 true projections, each with fresh noise many
  times) through one iteration around their poses.

``--quick`` runs linear on 100 to 400 particles, and memory on 1,000. Prints one JSON object last.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from _ribosomes import DIAMETER, FOUR, PIXEL, SIZE, draw, mean_volume, scores, true_volumes  # noqa: E402

from cryonb import bayes, io  # noqa: E402
from cryonb.types import Particles  # noqa: E402

OPTIONS = {"rng": 1, "mask_diameter": DIAMETER, "workers": 2, "progress": False}


def linear(quick, folder):
    """CPU seconds of one iteration, start included, against the number of particles."""
    numbers = np.array([100, 200, 400] if quick else [1000, 2000, 4000, 8000])
    particles, truth = draw(FOUR, int(numbers[-1]), seed=1)
    maps = true_volumes(FOUR, truth)
    seconds = []
    for n in numbers:
        started = time.process_time()
        bayes.classify_3d(particles[:n], maps, n_iterations=1, **OPTIONS)
        seconds.append(time.process_time() - started)
    slope, start = np.polyfit(numbers, seconds, 1)
    return {
        "n": numbers.tolist(), "cpu_seconds": np.round(seconds, 2).tolist(),
        "cpu_ms_per_particle": round(1000 * slope, 2), "cpu_seconds_of_start": round(start, 2),
        "worst_residual": round(float(np.abs((start + slope * numbers) / seconds - 1).max()), 3),
    }  # fmt: skip


def job(quick, folder):
    """A whole classification from one reference."""
    n = 500 if quick else 10_000
    particles, truth = draw(FOUR, n, seed=1)
    started, cpu = time.perf_counter(), time.process_time()
    found = bayes.classify_3d(particles, mean_volume(FOUR, true_volumes(FOUR, truth)), n_classes=4, **OPTIONS)
    return {
        "n": n, "wall_seconds": round(time.perf_counter() - started, 1), "iterations": len(found.iterations),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "class_accuracy": scores(found.label, truth.label, "ours")["ours_class_accuracy"],
        "occupancy": np.sort(found.occupancy)[::-1].round(3).tolist(),
    }  # fmt: skip


def memory(quick, folder):
    """One iteration over a stack that is never read whole."""
    n, before = 1000 if quick else 100_000, 1e4
    clean, truth = draw(FOUR, min(n // 4, 2000), seed=1, snr=before)
    factor = np.sqrt(0.2 / before)
    io.write_stack(_Repeated(factor * clean.images, n), folder / "particles.mrcs", PIXEL)
    stack = io.read_stack(folder / "particles.mrcs")
    source = np.arange(n) % len(clean)
    particles = Particles(stack, PIXEL, ctf=clean.ctf[source], poses=truth.poses[source])
    maps = [volume.with_data(factor * volume.data) for volume in true_volumes(FOUR, truth)]
    started, cpu, base = time.perf_counter(), time.process_time(), peak_gb()
    found = bayes.classify_3d(particles, maps, n_iterations=1, **OPTIONS)
    right = (found.label == truth.label[source]).mean()
    return {
        "n": n, "stack_gb": round(n * SIZE**2 * 4 / 1e9, 2), "wall_seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1), "class_accuracy": round(float(right), 4),
        "peak_before_gb": base,
    }  # fmt: skip


class _Repeated:
    """A lazy stack of n images: the same few, each time with noise of its own of variance 1."""

    dtype = np.dtype(np.float32)

    def __init__(self, images, n):
        self.images, self.shape = images.astype(np.float32), (n, SIZE, SIZE)

    def __getitem__(self, rows):
        index = np.arange(*rows.indices(self.shape[0]))
        noise = np.random.default_rng([2, rows.start]).standard_normal((len(index), SIZE, SIZE), dtype=np.float32)
        return self.images[index % len(self.images)] + noise


def peak_gb():
    """Peak resident memory of this process, mapped files included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def measured(part, quick, folder):
    started = time.perf_counter()
    found = globals()[part](quick, folder)
    return found | {"peak_memory_gb": peak_gb(), "seconds": round(time.perf_counter() - started, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="hundreds of particles; under a minute")
    parser.add_argument("--parts", nargs="+", choices=["linear", "job", "memory"])
    parser.add_argument("--folder", type=Path, help="where the stack is written, and left; a temporary one by default")
    options = parser.parse_args()
    numbers = {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.parts or (["linear", "memory"] if options.quick else ["linear", "job", "memory"]):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                numbers[part] = pool.submit(measured, part, options.quick, options.folder or Path(scratch)).result()
            print(part, json.dumps(numbers[part]), flush=True)
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
