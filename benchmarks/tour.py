"""The whole tour as a user runs it, in a fresh folder: time, memory, and every number against the truth.

``python benchmarks/tour.py [--quick]``; prints one JSON object last. The targets are for 4,000 particles of 64 px at
SNR 0.2 on two cores: under 5 minutes, under 2 GB, landscape within 0.6 kT rms and closer than counting.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGETS = {"wall_seconds": 300, "peak_memory_gb": 2.0, "landscape_rms_kt": 0.6}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="600 particles of 32 px; no targets")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    small = ["--n", "600", "--size", "32", "--snr", "1.0"] if options.quick else []
    with tempfile.TemporaryDirectory() as folder:
        seed = str(options.seed)
        command = [sys.executable, "-m", "cryonb", "tour", "--out", folder, "--seed", seed, "--quiet", *small]
        started = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - started
        summary = json.loads((Path(folder) / "summary.json").read_text())
    summary["wall_seconds"] = round(seconds, 1)
    if not options.quick:
        summary["passed"] = all(summary[name] < limit for name, limit in TARGETS.items()) and (
            summary["landscape_rms_kt"] < summary["counting_rms_kt"]
        )
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
