"""Planted drift of simulated movies, found by `motion.align_frames`; and what the correction does to the rings.

Ten movies of 20 frames of 2 e/Å², 2048² at 1.3 Å/pixel: ice, amorphous scattering 5 to 15 % of the noise of the
sum, fading with the dose, drifting by 5 to 40 Å. Errors are root mean squares over the frames, in pixels, the mean
taken out. The last line is one JSON object. ``--quick``: three movies of 1024². ``--particles N``: with N 80S
ribosomes of SNR 0.05 in them, ``--movies M``: M movies.
"""

import argparse
import json
import os
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

from cryonb import CTF, defocus, motion, samples, simulate  # noqa: E402

PIXEL_SIZE = 1.3


def measure(size_px, rng, n_particles=0):
    """Error in pixels, resolution of the rings before and after in Å, CPU seconds."""
    mean = rng.uniform(10_000, 25_000)
    lens = CTF(mean + 200, mean - 200, rng.uniform(0, 180), b_factor=80)
    field = simulate.Field(
        lens, (size_px, size_px), PIXEL_SIZE, snr=0.05, amorphous=rng.uniform(0.05, 0.15), ice_gradient=0.5
    )
    specimens = [simulate.Specimen(samples.ribosome(), n_particles, name="80S")] if n_particles else []
    frames, truth = simulate.movie(specimens, field, simulate.Exposure(20, 2.0, rng.uniform(5, 40)), rng=rng)
    started = time.process_time()
    found = motion.align_frames(frames, PIXEL_SIZE)
    seconds = time.process_time() - started
    error = found.drift - (truth.drift - truth.drift.mean(axis=0))
    sums = [motion.sum_frames(frames, PIXEL_SIZE), motion.sum_frames(frames, PIXEL_SIZE, found, dose=2.0)]
    rings = [defocus.at_defocus(defocus.estimate_spectrum(total), lens).resolution for total in sums]
    return np.sqrt((error**2).sum(axis=1).mean()) / PIXEL_SIZE, *rings, seconds


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--particles", type=int, default=0, metavar="N")
    parser.add_argument("--movies", type=int, metavar="M", help="(10; quick 3)")
    options = parser.parse_args()
    rng, rows = np.random.default_rng(options.seed), []
    n, size_px = (3, 1024) if options.quick else (10, 2048)
    n = options.movies or n
    for number in range(n):
        rows.append(measure(size_px, rng, options.particles))
        error, before, after, seconds = rows[-1]
        print(f"{number:2d}  {error:.3f} px  rings to {before:.1f} → {after:.1f} Å  {seconds:.1f} s", flush=True)
    rows = np.array(rows)
    numbers = {
        "median_drift_error_px": round(float(np.median(rows[:, 0])), 3),
        "max_drift_error_px": round(float(rows[:, 0].max()), 3),
        "rings_before_angstrom": round(float(np.median(rows[:, 1])), 2),
        "rings_after_angstrom": round(float(np.median(rows[:, 2])), 2),
        "seconds_per_movie": round(float(np.median(rows[:, 3])), 1),
    }
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
