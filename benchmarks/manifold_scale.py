"""What `cryonb.manifold` costs, and how that grows with the number of particles.

    python benchmarks/manifold_scale.py [--quick] [--parts cost checks diffusion dask] [--python PYTHON]

Each part runs in a process of its own, so that its peak memory is its own:

- cost: 10,000 and 50,000 ribosomes that ratchet (64 px, 6.3 Å, SNR 0.1, true poses; 2,000 true projections, each with
  fresh noise many times) through `embed`: coordinates, volumes, landscape with its band, path. Two threads. The
  exponent is that of the CPU time between the two;
- checks: the same 10,000, `check` in quick mode and the diffusion map with its bandwidth scan, beside `embed`;
- diffusion: `DiffusionMap` of 100,000 points in 10 dimensions, a noisy arc; with ``--python``, an interpreter that has
  ``pydiffmap``, the same with that package;
- dask: 50,000 particles through `embed` on two Dask workers, one of which is killed, against the same in this process.

``--quick`` takes 500 and 1,000 particles, 5,000 points. Prints one JSON object last.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from cryonb import manifold, samples, simulate  # noqa: E402
from cryonb.types import Particles  # noqa: E402

SIZE, PIXEL, SNR, CLEAN = 64, 6.3, 0.1, 1e4
RATCHET = "ratchet (°)"
PEER = """
import sys, time
import numpy as np
from pydiffmap import diffusion_map
points = np.load(sys.argv[1])
start = time.process_time(), time.perf_counter()
made = diffusion_map.DiffusionMap.from_sklearn(n_evecs=5, k=64, epsilon="bgh", alpha=1.0)
found = made.fit_transform(points)
np.save(sys.argv[2], found)
print(time.process_time() - start[0], time.perf_counter() - start[1])
"""


class _Repeated:
    """A lazy stack of n images: the same few, each time with noise of its own of variance 1."""

    dtype = np.dtype(np.float32)

    def __init__(self, images, n):
        self.images, self.shape = images.astype(np.float32), (n, SIZE, SIZE)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        index = np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else np.atleast_1d(rows)
        noise = [np.random.default_rng([2, k]).standard_normal((SIZE, SIZE), dtype=np.float32) for k in index]
        return self.images[index % len(self.images)] + np.array(noise, dtype=np.float32).reshape(-1, SIZE, SIZE)


@cache
def clean(n):
    """Noiseless ribosomes of known angle, on the grey scale of images with noise of variance 1."""
    sample = samples.ribosome()
    landscape = simulate.double_well(RATCHET, span=(-10.0, 10.0), wells=(-5.0, 5.0), barrier_kt=2.0, tilt_kt=0.4)
    population = simulate.populate(
        sample, simulate.Species("free", landscape=landscape, state={"factor": False}), n, rng=[1, 0]
    )
    imaging = simulate.Imaging(SIZE, PIXEL, snr=CLEAN)
    particles, truth = simulate.particles(population, imaging, rng=[1, 1], progress=False, workers=2)
    images = np.asarray(particles.images) * np.sqrt(SNR / CLEAN)
    return sample, population.state[:, 0], truth.with_poses(particles), images


def ribosomes(n):
    """n particles, their angle, and the gauge."""
    sample, angle, particles, images = clean(min(n, 2000))
    source = np.arange(n) % len(angle)
    repeated = Particles(_Repeated(images, n), PIXEL, ctf=particles.ctf[source], poses=particles.poses[source])

    def model(value):
        return sample.volume(SIZE, PIXEL, ratchet=value, factor=False)

    gauge = manifold.RigidBodyGauge(model, np.linspace(-14.0, 14.0, 15), name=RATCHET)
    return repeated, angle[source], gauge


def timed(function):
    """The result, wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = function()
    return found, round(time.perf_counter() - wall, 1), round(time.process_time() - cpu, 1)


def cost_of(n):
    """`embed` of n particles."""
    particles, angle, gauge = ribosomes(n)
    base = peak_gb()
    found, wall, cpu = timed(lambda: manifold.embed(particles, rng=0, gauge=gauge, workers=2, progress=False))
    return {
        "n": n, "wall_seconds": wall, "cpu_seconds": cpu, "peak_before_gb": base, "peak_memory_gb": peak_gb(),
        "correlation": round(float(np.corrcoef(found.coordinate, angle)[0, 1]), 4),
    }  # fmt: skip


def cost(quick, python):
    """Two sizes, each in its own process."""
    rows = [in_process(cost_of, n) for n in ((500, 1000) if quick else (10_000, 50_000))]
    few, many = rows
    growth = np.log(many["cpu_seconds"] / few["cpu_seconds"]) / np.log(many["n"] / few["n"])
    return {"rows": rows, "exponent_of_cpu": round(float(growth), 3)}


def checks(quick, python):
    """What the checks and the scans add to `embed`."""
    particles, _, gauge = ribosomes(1000 if quick else 10_000)
    found, wall, cpu = timed(lambda: manifold.embed(particles, rng=0, gauge=gauge, workers=2, progress=False))
    answers, check_wall, check_cpu = timed(lambda: manifold.check(particles, found, rng=0, workers=2, progress=False))
    latents = found.principal.embedding
    chart = manifold.DiffusionMap(5)
    _, _, map_cpu = timed(lambda: chart.fit(latents.coordinates, covariance=latents.covariance))
    return {
        "embed_wall_seconds": wall, "embed_cpu_seconds": cpu, "check_wall_seconds": check_wall,
        "check_cpu_seconds": check_cpu, "check_share": round(check_wall / wall, 3), "light": answers.light,
        "diffusion_map_cpu_seconds": map_cpu,
    }  # fmt: skip


def arc(n):
    """A noisy arc in ten dimensions, turned at random."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, n)
    points = 0.05 * rng.standard_normal((n, 10))
    points[:, 0] += np.cos(angle)
    points[:, 1] += np.sin(angle)
    return points @ np.linalg.qr(rng.standard_normal((10, 10)))[0], angle


def diffusion(quick, python):
    """100,000 points; the peer where there is one."""
    import tempfile
    from pathlib import Path

    from scipy.stats import spearmanr

    points, angle = arc(5000 if quick else 100_000)
    found, wall, cpu = timed(lambda: manifold.DiffusionMap(5).fit_transform(points))
    row = {
        "n": len(points), "wall_seconds": wall, "cpu_seconds": cpu,
        "spearman": round(float(abs(spearmanr(found[:, 0], angle)[0])), 5),
    }  # fmt: skip
    if python:
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / name) for name in ("points.npy", "found.npy")]
            np.save(files[0], points)
            run = subprocess.run([python, "-c", PEER, *files], capture_output=True, text=True, timeout=1800)
            if run.returncode:
                row["pydiffmap"] = run.stderr.strip().splitlines()[-1]
            else:
                cpu, wall = map(float, run.stdout.split()[-2:])
                rank = abs(spearmanr(np.load(files[1])[:, 0], angle)[0])
                row["pydiffmap"] = {
                    "cpu_seconds": round(cpu, 1), "wall_seconds": round(wall, 1), "spearman": round(float(rank), 5)
                }  # fmt: skip
    return row


def dask(quick, python):
    """Two workers, one of them killed after a while, against this process."""
    from dask.distributed import Client, LocalCluster

    particles, _, gauge = ribosomes(1000 if quick else 50_000)
    options = {"rng": 0, "gauge": gauge, "progress": False}
    here, wall, _ = timed(lambda: manifold.embed(particles, workers=1, **options))
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0)
    with cluster, Client(cluster) as client:

        def kill():
            worker = next(iter(cluster.workers.values()))
            os.kill(worker.process.process.pid, 9)

        timer = threading.Timer(5 if quick else 60, kill)
        timer.start()
        there, far, _ = timed(lambda: manifold.embed(particles, workers=client, **options))
        timer.cancel()
    gap = np.nanmax(np.abs(here.landscape.energy_kt - there.landscape.energy_kt))
    return {
        "n": len(particles), "in_process_seconds": wall, "two_workers_seconds": far,
        "largest_difference_kt": float(gap),
        "largest_difference_of_coordinate": float(np.abs(here.coordinate - there.coordinate).max()),
    }  # fmt: skip


def peak_gb():
    """Peak resident memory of this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def in_process(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="hundreds of particles; about a minute")
    parser.add_argument("--parts", nargs="+", choices=["cost", "checks", "diffusion", "dask"])
    parser.add_argument("--python", help="an interpreter with pydiffmap, to compare with")
    options = parser.parse_args()
    numbers = {}
    for part in options.parts or ["cost", "checks", "diffusion", "dask"]:
        numbers[part] = in_process(globals()[part], options.quick, options.python)
        print(part, json.dumps(numbers[part]), flush=True)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
