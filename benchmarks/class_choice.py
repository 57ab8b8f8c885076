"""K and T without guessing: what `bayes.choose_classes` chooses, and what every other choice would have given.

    python benchmarks/class_choice.py [--quick] [--seeds 1 2 …] [--poses given none] [--no-sweep]

2,000 particles of four ribosome states (50/20/20/10 %), 64 px of 6.3 Å, SNR 0.2. For each seed the automatic choice;
for the first seed and the true poses also `classify_3d` with K = 2 to 8 at T = 1 and T = 2, 4, 8 at K = 4. Scored by
the particles: the FSC between the volume of the class a particle is in and its true state, averaged over particles,
0.5 of that in Å. ``--quick``: one seed of 800 particles, given the poses, no sweep. Prints one JSON object last.
"""

import argparse
import json
import os
import time
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from _ribosomes import DIAMETER, FOUR, draw, mean_volume, scores, true_volumes  # noqa: E402

from cryonb import bayes, resolution  # noqa: E402


def seen_fsc(found, truth, volumes):
    """Å at which the FSC of class and true state, averaged over particles, falls below 0.5."""
    counts = np.zeros((len(volumes), len(found.volumes)))
    np.add.at(counts, (truth.label, found.label), 1)
    curve, total = 0.0, counts.sum()
    for state, k in zip(*np.nonzero(counts)):
        one = resolution.fourier_shell_correlation(found.volumes[k], volumes[state], mask="sphere")
        curve = curve + counts[state, k] / total * one.correlation
    below = int(np.flatnonzero(np.append(curve[1:] < 0.5, True))[0])  # shells from 1 on
    before, after = curve[below], curve[min(below + 1, len(curve) - 1)]
    shell = below + np.clip((before - 0.5) / max(before - after, 1e-9), 0, 1)
    return round(float(volumes[0].box_size / shell), 2)


def scored(found, truth, volumes):
    return scores(found.label, truth.label, "found") | {"fsc05_angstrom": seen_fsc(found, truth, volumes)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed of 800 particles, given the poses, no sweep")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--poses", nargs="+", choices=("given", "none"), default=["given", "none"])
    parser.add_argument("--no-sweep", action="store_true", help="the automatic choice only")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.poses, options.no_sweep = options.seeds[:1], ["given"], True
    common = {"mask_diameter": DIAMETER, "workers": 2, "progress": False}
    numbers = {"particles": 800 if options.quick else 2000}
    for seed in options.seeds:
        particles, truth = draw(FOUR, numbers["particles"], seed=seed, snr=0.2)
        volumes = true_volumes(FOUR, truth)
        reference = mean_volume(FOUR, volumes)
        known = replace(particles, poses=truth.poses)
        for poses in options.poses:
            began = time.process_time()
            choice = bayes.choose_classes(known if poses == "given" else particles, reference, rng=seed, **common)
            row = {"k": choice.n_classes, "t": choice.tau_fudge, "cpu_seconds": round(time.process_time() - began, 1)}
            if poses == "given":
                row |= scored(choice.classification, truth, volumes)
            else:  # in a frame of their own
                row |= scores(choice.classification.label, truth.label, "found")
            for name, evidence in (("by_k", None), ("by_t", choice.tau_evidence)):
                row[name] = [f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(*choice.against_chosen(evidence))]
            numbers[f"seed_{seed}_poses_{poses}"] = row
            print(f"seed {seed}, poses {poses}:", row, flush=True)
        if seed == options.seeds[0] and not options.no_sweep:
            sweep = [(k, 1.0) for k in range(2, 9)] + [(4, t) for t in (2.0, 4.0, 8.0)]
            for k, t in sweep:
                found = bayes.classify_3d(known, reference, n_classes=k, tau_fudge=t, rng=seed, **common)
                row = scored(found, truth, volumes)
                numbers[f"k_{k}_t_{t:g}"] = row
                print(f"K = {k}, T = {t:g}:", row, flush=True)
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
