"""Defocus of simulated micrographs against the truth, and of the real raw micrograph where it is there.

50 micrographs of 4096² at 1.3 Å/pixel, 300 kV: ice and carbon alone or with ribosomes; defocus from 0.5 to 3 µm,
astigmatism to 2,000 Å, envelope B from 40 to 140 Å², amorphous ice from 3 to 15 % of the noise, ribosomes of SNR 0.02
to 0.1; detector MTF, coloured shot noise, ice gradient, carbon edge, crystals. Errors are of U and V; coverage is the
share of U and V inside their 90 % intervals; times are CPU seconds of one thread, reading excluded. The last line is
one JSON object. ``--quick``: 12 micrographs of 2048².
"""

import argparse
import gzip
import json
import os
import struct
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

from cryonb import CTF, defocus, io, samples, simulate  # noqa: E402

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "micrographs" / "epu2.9_example.mrc.gz"
PIXEL_SIZE = 1.3


def simulated(size_px, rng):
    """A micrograph and its CTF."""
    mean, size = rng.uniform(5_000, 30_000), rng.uniform(0, 2_000)
    lens = CTF(mean + size / 2, mean - size / 2, rng.uniform(0, 180), b_factor=rng.uniform(40, 140))
    field = simulate.Field(
        lens, (size_px, size_px), PIXEL_SIZE, snr=rng.uniform(0.02, 0.1), amorphous=rng.uniform(0.03, 0.15),
        noise=np.array([1.3, 1.0, 0.9]), mtf=np.linspace(1, rng.uniform(0.3, 0.7), 12),
        ice_gradient=rng.uniform(0, 1), carbon=rng.choice([0, 0.2]), contaminants=int(rng.integers(0, 4)),
    )  # fmt: skip
    n = int(rng.integers(0, 2) * 60 * (size_px / 4096) ** 2)
    return simulate.micrograph(simulate.Specimen(samples.ribosome(), n), field, rng=rng)[0], lens


def measure(n, size_px, seed):
    """Rows (error of U, error of V, error of the angle, astigmatism, U inside, V inside, failed, seconds)."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(n):
        picture, lens = simulated(size_px, rng)
        started = time.process_time()
        fit = defocus.fit_defocus(picture, CTF(0, 0), rng=number)
        seconds = time.process_time() - started
        u, v = fit.ctf.defocus_u - lens.defocus_u, fit.ctf.defocus_v - lens.defocus_v
        angle = (fit.ctf.defocus_angle - lens.defocus_angle + 90) % 180 - 90
        (low_u, high_u), (low_v, high_v) = fit.interval(0.9)[:2]
        inside = low_u <= lens.defocus_u <= high_u, low_v <= lens.defocus_v <= high_v
        size = lens.defocus_u - lens.defocus_v
        rows.append([u, v, angle, size, *inside, fit.failed, seconds])
        print(
            f"{number:3d}  {0.5e-4 * (lens.defocus_u + lens.defocus_v):.2f} µm  astigmatism {size:5.0f} Å  "
            f"errors {u:+7.1f} {v:+7.1f} Å {angle:+6.2f}°  bars {fit.error[0]:5.1f} {fit.error[1]:5.1f} Å  "
            f"rings to {fit.resolution:.2f} Å  {seconds:.2f} s  {fit.reason}", flush=True,
        )  # fmt: skip
    return np.array(rows, dtype=float)


def real():
    """The raw micrograph's defocus (µm), that which its header records, and the resolution of the fit."""
    if not REAL.exists():
        return {}
    with gzip.open(REAL) as file:
        file.seek(1024 + 236)  # "applied defocus" of the first FEI2 record, in metres, negative for underfocus
        (recorded,) = struct.unpack("<d", file.read(8))
    picture = io.read_micrograph(REAL)
    started = time.process_time()
    fit = defocus.fit_defocus(picture, CTF(0, 0, voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.1), rng=0)
    seconds = time.process_time() - started
    print(f"real: {fit!r}, {seconds:.2f} s; applied defocus in its header {1e6 * recorded:.2f} µm")
    mean = 0.5e-4 * (fit.ctf.defocus_u + fit.ctf.defocus_v)
    return {
        "real_defocus_um": round(mean, 3), "real_header_um": round(-1e6 * recorded, 3),
        "real_resolution_angstrom": round(fit.resolution, 2),
    }  # fmt: skip


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = measure(*((12, 2048) if options.quick else (50, 4096)), options.seed)
    error = np.abs(rows[:, :2])
    strong = rows[:, 3] > 300
    numbers = {
        "median_error_angstrom": round(float(np.median(error)), 1),
        "p95_error_angstrom": round(float(np.percentile(error, 95)), 1),
        "max_angle_error_degrees": round(float(np.abs(rows[strong, 2]).max()), 2),
        "coverage": round(float(rows[:, 4:6].mean()), 3),
        "failed": int(rows[:, 6].sum()),
        "seconds_per_micrograph": round(float(np.median(rows[:, 7])), 2),
    }
    print(json.dumps(numbers | real()))


if __name__ == "__main__":
    main()
