"""Maximum a posteriori against projection matching: what each finds, and what each says that it found.

    python benchmarks/bayes_baseline.py [--quick] [--seeds N] [--particles N] [--snr SNR] [--workers N]

Simulated ribosomes at 6.3 Å (64 px; 48 px of 8.4 Å with --quick), both methods from the true volume at 60 Å. The
constants of projection matching are tuned on a set of particles of their own, by the truth, which no user has. True
FSC is that of a map, aligned, with the truth; a method's own FSC is that of its half maps, here as √(2f/(1+f)), what it
promises of the joined map. Over-fitting is reported minus true resolution in Å, negative when too good, and the
promised FSC less the true one, averaged over shells. Then pure noise is refined from the ribosome at 60
and, but for --quick, at 30 Å. Prints one JSON object last.
"""

import argparse
import dataclasses
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from cryonb import alignment, bayes, resolution, samples, simulate  # noqa: E402
from cryonb.bayes.maximisation import sphere  # noqa: E402

BOX, DIAMETER = 403.2, 330.0
NOISE_RESOLUTIONS = (60.0, 30.0)  # Å, of the references that noise is refined from


class Setting:
    """The simulated microscope, and the refinements' common options."""

    def __init__(self, options):
        self.size_px = 48 if options.quick else 64
        self.pixel = BOX / self.size_px
        self.snr, self.n, self.workers = options.snr, options.particles, options.workers
        self.truth = samples.ribosome().volume(self.size_px, self.pixel)
        self.common = {"mask_diameter": DIAMETER, "workers": options.workers, "progress": False}

    def particles(self, seed, n):
        population = simulate.populate(samples.ribosome(), simulate.Species("all"), n, rng=seed)
        imaging = simulate.Imaging(self.size_px, self.pixel, snr=self.snr, shift_sigma=1.5 * 6.3 / np.sqrt(2))
        return simulate.particles(population, imaging, rng=seed + 1, progress=False, workers=2)[0]


def true_curve(volume, setting):
    aligned = alignment.align_volumes(volume, setting.truth, hand=False, resolution=BOX / 16)
    return resolution.fourier_shell_correlation(aligned.volume, setting.truth, mask="sphere")


def own_curve(result, setting):
    promised = np.clip(result.correlation, 0, 1)
    own = resolution.shell_correlation(*np.ones((2, *[setting.size_px] * 3)), setting.pixel, ndim=3)
    return dataclasses.replace(own, correlation=np.sqrt(2 * promised / (1 + promised)))


def judge(result, volume, setting, threshold):
    """What the method says and what is true."""
    true, own = true_curve(volume, setting), own_curve(result, setting)
    says = dataclasses.replace(own, correlation=result.correlation).at(threshold)
    loose = dataclasses.replace(own, correlation=result.correlation).at(0.143)
    return {
        "true": true.correlation, "own": own.correlation, "true_resolution": true.at(0.5), "says": says,
        "says_at_0.143": loose,
    }  # fmt: skip


def both(particles, constants, seed, setting):
    reference = setting.truth
    began = time.process_time()
    found = bayes.refine(particles, reference, rng=seed, **setting.common)
    middle = time.process_time()
    old = bayes.baseline.refine(particles, reference, rng=seed, **constants, **setting.common)
    seconds = middle - began, time.process_time() - middle
    mask = sphere(setting.size_px, DIAMETER / setting.pixel)  # as the other is
    unfiltered = setting.truth.with_data((old.half_maps[0].data + old.half_maps[1].data) / 2 * mask)
    return judge(found, found.volume, setting, 0.143), judge(old, unfiltered, setting, 0.5), seconds


def from_noise(constants, setting, n, starts):
    """How much of the reference each method finds in images that hold nothing."""
    empty = setting.particles(77, n)
    noise = np.random.default_rng(0).standard_normal(empty.images.shape).astype(np.float32)
    empty = dataclasses.replace(empty, images=noise)
    numbers = {"noise_particles": n}
    for start in starts:
        common = setting.common | {"initial_resolution": start, "rng": 0}
        results = {
            "map": (bayes.refine(empty, setting.truth, **common), 0.143),
            "baseline": (bayes.baseline.refine(empty, setting.truth, **constants, **common), 0.5),
        }
        for name, (result, threshold) in results.items():
            curve = resolution.fourier_shell_correlation(result.volume, setting.truth).correlation
            says = dataclasses.replace(own_curve(result, setting), correlation=result.correlation).at(threshold)
            name = f"noise_from_{start:.0f}_angstrom_{name}"
            numbers[f"{name}_fsc_with_reference"] = round(float(curve[1 : int(BOX / start) + 1].mean()), 3)
            numbers[f"{name}_reported_angstrom"] = round(min(says, BOX), 1)
    return numbers


def summary(rows, name):
    """Means over seeds of one method."""
    over = [np.mean(row["own"][1:] - row["true"][1:]) for row in rows]
    wrong = [row["says"] - row["true_resolution"] for row in rows]
    return {
        f"{name}_true_angstrom": round(float(np.mean([row["true_resolution"] for row in rows])), 2),
        f"{name}_reported_angstrom": round(float(np.mean([row["says"] for row in rows])), 2),
        f"{name}_fsc_0.143_angstrom": round(float(np.mean([row["says_at_0.143"] for row in rows])), 2),
        f"{name}_reported_minus_true_angstrom": round(float(np.mean(wrong)), 2),
        f"{name}_promised_minus_true_fsc": round(float(np.mean(over)), 4),
        f"{name}_true_fsc": [round(float(f), 3) for f in np.mean([row["true"] for row in rows], 0)],
        f"{name}_promised_fsc": [round(float(f), 3) for f in np.mean([row["own"] for row in rows], 0)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, 200 particles of 48 px, fewer constants")
    parser.add_argument("--seeds", default=5, type=int)
    parser.add_argument("--particles", default=500, type=int)
    parser.add_argument("--snr", default=0.2, type=float)
    parser.add_argument("--workers", default=2, type=int, help="threads")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.particles = 1, 200
    setting = Setting(options)
    tuning = bayes.baseline.tune(
        setting.particles(500, options.particles), setting.truth, setting.truth, rng=0,
        wiener=(0.1, 1.0, 10.0)[: 2 if options.quick else 3],
        low_pass=(2.0, 5.0) if options.quick else (0.0, 3.0, 6.0, 10.0),
        n_iterations=3 if options.quick else 6, n_local=1 if options.quick else 2, **setting.common,
    )  # fmt: skip
    print(tuning, tuning.agreement.round(4).tolist(), flush=True)
    constants = {"wiener": tuning.wiener, "low_pass": tuning.low_pass}
    if options.quick:
        constants |= {"n_iterations": 6, "n_local": 2}
    found, old, seconds = [], [], []
    for seed in range(options.seeds):
        a, b, cpu = both(setting.particles(1000 + 10 * seed, options.particles), constants, seed, setting)
        found.append(a)
        old.append(b)
        seconds.append(cpu)
        for name, row in (("MAP", a), ("baseline", b)):
            print(f"seed {seed} {name}: true {row['true_resolution']:.2f} Å, says {row['says']:.2f} Å", flush=True)
    numbers = {"particles": options.particles, "snr": options.snr, "seeds": options.seeds, "size_px": setting.size_px}
    numbers |= {"wiener": tuning.wiener, "low_pass": tuning.low_pass} | summary(found, "map") | summary(old, "baseline")
    each = np.array([a["true"] - b["true"] for a, b in zip(found, old)])[:, 1:]
    difference, error = each.mean(axis=0), each.std(axis=0) / np.sqrt(max(len(each) - 1, 1))
    numbers |= {
        "map_minus_baseline": difference.round(4).tolist(), "map_minus_baseline_error": error.round(4).tolist(),
        "shells_where_map_is_lower": int((difference < 0).sum()),
        "least_map_minus_baseline": round(float(difference.min()), 4),
        "map_cpu_s": round(float(np.mean(seconds, 0)[0]), 1), "baseline_cpu_s": round(float(np.mean(seconds, 0)[1]), 1),
    }  # fmt: skip
    numbers |= from_noise(
        constants, setting, 200 if options.quick else 2000, NOISE_RESOLUTIONS[: 1 if options.quick else 2]
    )
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
