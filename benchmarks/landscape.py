"""How well `cryonb.manifold` recovers a known landscape, and what it costs.

    python benchmarks/landscape.py [--quick] [--workers N] [--seeds N]

Part 1 deconvolves one coordinate with a known Gaussian error of 0.06, 0.10 and 0.15 of its range (50,000 values; 10,000
with --quick), over a double well of 3.4 kT: rms error in kT over the whole range, that of the histogram of the same
values, and how often the 90 % band holds the truth. Part 2 embeds simulated ribosomes (4,000 of 64 px at 6.3 Å, SNR
0.2; 2,000 with --quick) that ratchet over two wells, with their true poses: rms error, that of counting, and the rank
correlation with the true angle beside an oracle that knows the volume of every angle. Prints one JSON object last.
"""

import argparse
import json
import os
import resource
import time
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402

from cryonb import manifold, samples, simulate  # noqa: E402
from cryonb.types import Volume  # noqa: E402

SIZE, PIXEL = 64, 6.3
BLURS = (0.06, 0.10, 0.15)
RATCHET = "ratchet (°)"


def known_energy(x):
    """Two uneven wells on the unit interval, 3.4 kT from the lowest to the highest point."""
    u = 2 * x - 1
    return (1.6 * (1 - (u / 0.6) ** 2) ** 2 + 0.4 * u) * 4 / 5.9


def draw(energy, n, rng):
    """Values distributed as exp(−energy) on the unit interval."""
    grid = np.linspace(0, 1, 20001)
    cumulative = np.cumsum(np.exp(-energy(grid)))
    return np.interp(rng.random(n), cumulative / cumulative[-1], grid)


def share_in_band(landscape, truth):
    """Share of the bins where the band holds the truth, after the best additive constant."""
    gap = landscape.energy_kt - truth
    offset = np.nanmean(gap)
    observed = np.isfinite(gap)
    inside = (landscape.lower_kt - offset <= truth) & (truth <= landscape.upper_kt - offset)
    return float(inside[observed].mean())


def latents_tier(n, seeds):
    """Medians over seeds of rms, histogram rms and coverage, for each blur."""
    edges = np.linspace(0, 1, 51)
    centres = (edges[1:] + edges[:-1]) / 2
    truth = known_energy(centres) - known_energy(centres).min()
    rows = {}
    for blur in BLURS:
        numbers = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            seen = draw(known_energy, n, rng) + blur * rng.standard_normal(n)
            found = manifold.deconvolve_landscape(-0.5 * ((seen[:, None] - centres) / blur) ** 2, edges, rng=seed)
            counted = manifold.counting_landscape(seen, edges)
            errors = [manifold.landscape_rms(each, known_energy, energy_limit=9) for each in (found, counted)]
            numbers.append([*errors, share_in_band(found, truth)])
        median, worst = np.median(numbers, axis=0), np.max(numbers, axis=0)
        rows[f"{blur:.2f}"] = {
            "rms_kt": round(float(median[0]), 3), "worst_rms_kt": round(float(worst[0]), 3),
            "histogram_rms_kt": round(float(median[1]), 3),
            "coverage": round(float(np.mean(numbers, axis=0)[2]), 3),
        }  # fmt: skip
        print(f"blur {blur:.2f} of the range, {n} values: {rows[f'{blur:.2f}']}")
    return rows


def ratchet_tier(n, seed, workers):
    """One simulated ratchet, embedded with its true poses."""
    sample = samples.ribosome()
    landscape = simulate.double_well(RATCHET, span=(-10.0, 10.0), wells=(-5.0, 5.0), barrier_kt=2.0, tilt_kt=0.4)
    species = simulate.bind(landscape, lambda ratchet: 0.05 + 0.9 / (1 + np.exp(-ratchet)))
    population = simulate.populate(sample, species, n, rng=[seed, 0])
    imaging = simulate.Imaging(SIZE, PIXEL, snr=0.2)
    particles, truth = simulate.particles(population, imaging, rng=[seed, 1], progress=False, workers=workers)
    particles = replace(particles, poses=truth.poses)
    angle = population.state[:, 0]

    def model(value):
        return sample.volume(SIZE, PIXEL, ratchet=value, factor=False)

    gauge = manifold.RigidBodyGauge(model, np.linspace(-14.0, 14.0, 15), name=RATCHET)
    wall, cpu = time.perf_counter(), time.process_time()
    found = manifold.embed(particles, rng=seed, gauge=gauge, workers=workers, progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu

    def truth_at(value):
        energy = np.interp(value, landscape.centers[0], landscape.energy_kt)
        return np.where(np.abs(value) <= 10, energy, np.nan)

    values = np.arange(-10.5, 10.6, 0.5)
    known = [Volume(model(value).data * truth.scale, PIXEL) for value in values]
    oracle = manifold.image_log_likelihood(particles, known, resolution=20.0, workers=workers)
    weights = np.exp(oracle - oracle.max(axis=1, keepdims=True)) * truth_weights(values, truth_at)
    best = weights @ values / weights.sum(axis=1)
    on_bins = truth_at(found.nodes)
    return {
        "landscape_rms_kt": round(manifold.landscape_rms(found.landscape, truth_at), 3),
        "histogram_rms_kt": round(manifold.landscape_rms(found.counting, truth_at), 3),
        "coverage": round(share_in_band(found.landscape, on_bins), 3),
        "spearman": round(float(spearmanr(found.coordinate, angle)[0]), 4),
        "spearman_of_oracle": round(float(spearmanr(best, angle)[0]), 4),
        "range": [round(float(edge), 2) for edge in found.landscape.edges[0][[0, -1]]],
        "verdict": found.landscape.verdict,
        "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1),
    }  # fmt: skip


def truth_weights(values, truth_at):
    """The true density on the oracle's values, zero outside its range."""
    energy = truth_at(values)
    return np.where(np.isfinite(energy), np.exp(-np.nan_to_num(energy)), 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, help="of each tier; 5, or 1 with --quick")
    options = parser.parse_args()
    seeds = options.seeds or (1 if options.quick else 5)
    began = time.perf_counter()
    latents = latents_tier(10_000 if options.quick else 50_000, seeds)
    ratchets = []
    for seed in range(seeds):
        ratchets.append(ratchet_tier(2000 if options.quick else 4000, seed, options.workers))
        print(f"ratchet, seed {seed}: {ratchets[-1]}")

    def median(name):
        return round(float(np.median([row[name] for row in ratchets])), 4)

    fractions = [row["spearman"] / row["spearman_of_oracle"] for row in ratchets]
    print(json.dumps({
        "latents": latents,
        "ratchet": ratchets,
        "spearman_fraction_of_oracle": round(float(np.median(fractions)), 4),
        "landscape_rms_kt": median("landscape_rms_kt"),
        "histogram_rms_kt": median("histogram_rms_kt"),
        "coverage": median("coverage"),
        "embed_seconds": median("seconds"),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
