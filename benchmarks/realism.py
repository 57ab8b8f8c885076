"""A ratcheting ribosome seen as real ones are: their defoci, their uneven views, their noise, poses that are off.

    python benchmarks/realism.py [--quick] [--n 10000] [--seeds 0 1 2] [--tables ../shared/data/tables]

The ratchet of `benchmarks/landscape.py` without its factor (64 px of 6.3 Å, SNR 0.1), first as simulations are used to
be ("ideal": even views, 1 to 2.5 µm, white noise, true poses), then with one thing after the other taken from real
data ("ctf": the CTFs of EMPIAR-10028; "views": those and the orientations of EMPIAR-10076; "noise": those and its
measured spectrum of the noise), last all of it with poses that are off ("poses"; rotations 2° rms in all, shifts 2 Å
along x and along y). The tables are the developers'; without them nothing is run. For each: error of the landscape in
kT rms, that of counting, share of the bins inside the 90 % band, rank correlation with the true angle beside that of an
oracle with the true volumes and poses, and the verdict. ``--quick``: 1,500 particles, the first and the last. Prints
one JSON object last.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402

from cryonb import manifold, samples, simulate  # noqa: E402
from cryonb.types import CTF, EnergyLandscape  # noqa: E402

TABLES = Path(__file__).resolve().parents[2] / "shared" / "data" / "tables"
SIZE, PIXEL = 64, 6.3
RATCHET = "ratchet (°)"
STEPS = ("ideal", "ctf", "views", "noise", "poses")
BOX, BOX_PIXEL = 256, 1.6375  # of EMPIAR-10076, whose shells the noise is given in


def imaging(step, tables):
    """`simulate.Imaging` of one step; each has what those before it have."""
    options = {}
    if step != "ideal":
        _, _, u, v, angle, kv, cs, contrast, phase = np.load(tables / "empiar10028_ctf.npy")[::20].T
        options["defocus"] = CTF(u, v, angle, kv, cs, contrast, phase)
    if step in ("views", "noise", "poses"):
        options["views"] = Rotation.from_matrix(np.load(tables / "empiar10076_poses_ctf.npz")["rotations"][::20])
    if step in ("noise", "poses"):
        variance = np.load(tables / "empiar10076_noise_variance_radial.npy")
        shell = np.linspace(0, BOX * BOX_PIXEL / (2 * PIXEL), SIZE // 2 + 1)
        options["noise"] = np.interp(shell, np.arange(len(variance)), variance)
    return simulate.Imaging(SIZE, PIXEL, snr=0.1, **options)


def one(step, n, seed, tables, workers):
    """Numbers of one step and seed."""
    sample = samples.ribosome()
    landscape = simulate.double_well(RATCHET, span=(-10.0, 10.0), wells=(-5.0, 5.0), barrier_kt=2.0, tilt_kt=0.4)
    species = simulate.Species("free", landscape=landscape, state={"factor": False})
    population = simulate.populate(sample, species, n, rng=[seed, 0])
    particles, truth = simulate.particles(
        population, imaging(step, tables), rng=[seed, 1], progress=False, workers=workers
    )
    particles = right = truth.with_poses(particles)
    if step == "poses":
        off = simulate.disturb_poses(truth.poses, angle=2 / np.sqrt(3), shift=2.0, rng=[seed, 2])
        particles = replace(particles, poses=off)

    def model(value):
        return sample.volume(SIZE, PIXEL, ratchet=value, factor=False)

    def truth_at(value):
        energy = np.interp(value, landscape.centers[0], landscape.energy_kt)
        return np.where(np.abs(value) <= 10, energy, np.nan)

    gauge = manifold.RigidBodyGauge(model, np.linspace(-14.0, 14.0, 15), name=RATCHET)
    wall = time.perf_counter()
    found = manifold.embed(particles, rng=seed, gauge=gauge, workers=workers, progress=False)
    wall = time.perf_counter() - wall
    values = np.arange(-10.0, 10.1, 0.5)
    known = [model(value).with_data(truth.scale * model(value).data) for value in values]
    oracle = manifold.image_log_likelihood(right, known, resolution=20.0, workers=workers) - truth_at(values)
    oracle = np.exp(oracle - oracle.max(axis=1, keepdims=True))
    angle = population.state[:, 0]
    on_bins = EnergyLandscape(truth_at(found.nodes), found.landscape.edges, gauge=found.landscape.gauge)
    return {
        "step": step, "n": n, "seed": seed,
        "landscape_rms_kt": round(manifold.landscape_rms(found.landscape, truth_at), 3),
        "histogram_rms_kt": round(manifold.landscape_rms(found.counting, truth_at), 3),
        "coverage": round(manifold.band_coverage(found.landscape, on_bins), 3),
        "spearman": round(float(abs(spearmanr(found.coordinate, angle)[0])), 4),
        "spearman_of_oracle": round(float(spearmanr(oracle @ values / oracle.sum(axis=1), angle)[0]), 4),
        "verdict": found.landscape.verdict, "warnings": list(found.warnings), "seconds": round(wall, 1),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not options.tables.is_dir():
        print(json.dumps({"skipped": "the developers' tables of real CTFs, views and noise are not here"}))
        return
    n, seeds, steps = (1500, [0], (STEPS[0], STEPS[-1])) if options.quick else (options.n, options.seeds, options.steps)
    rows = []
    for step in steps:
        for seed in seeds:
            rows.append(one(step, n, seed, options.tables, options.workers))
            print(json.dumps(rows[-1]), flush=True)
    summary = {}
    for step in steps:
        of_step = [row for row in rows if row["step"] == step]
        names = ("landscape_rms_kt", "histogram_rms_kt", "coverage", "spearman", "spearman_of_oracle")
        summary[step] = {name: round(float(np.median([row[name] for row in of_step])), 4) for name in names}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
