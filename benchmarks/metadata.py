"""A million particles of metadata, and a stack of images larger than the memory allowed.

    python benchmarks/metadata.py [--quick]

Part 1 writes a RELION 3.1 STAR file of 1,000,000 particles × 26 columns and times, in a fresh process: load, filter
by defocus, save, and the same selection written row by row from the original; `starfile` on the same file for
comparison. Part 2 writes a stack of 4 GiB and, in a process that may use 256 MiB beyond its imports, averages it and
copies a selection of it. Prints one JSON object last.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COLUMNS = """
CoordinateX CoordinateY ImageOriginalName MicrographName CtfMaxResolution CtfFigureOfMerit DefocusU DefocusV
DefocusAngle CtfBfactor CtfScalefactor PhaseShift AngleRot AngleTilt AnglePsi ClassNumber NormCorrection RandomSubset
LogLikeliContribution MaxValueProbDistribution NrOfSignificantSamples ImageName OpticsGroup OriginXAngst OriginYAngst
GroupNumber
""".split()
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnAmplitudeContrast #3
_rlnSphericalAberration #4
_rlnVoltage #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
           1 opticsGroup1     0.100000     2.700000   300.000000     1.403000          256            2


# version 30001

data_particles

loop_
"""
BOX = 128
ALLOWED = 256 * 2**20


def write_example(path, n):
    """A STAR file such as RELION writes after refinement, padded as RELION pads."""
    rng = np.random.default_rng(0)
    name = "Micrographs/18aug10a_MC2_FoilHole_10984848_Data_10985376_10985377_20180810_{:06d}_DW.mrc"
    highest = {"CoordinateX": 4e3, "CoordinateY": 4e3, "DefocusU": 3e4, "DefocusV": 3e4, "LogLikeliContribution": 2e5}
    whole = {"ClassNumber", "RandomSubset", "NrOfSignificantSamples", "OpticsGroup", "GroupNumber"}
    row = " ".join("{}" if "Name" in label else "{:12d}" if label in whole else "{:12.6f}" for label in COLUMNS) + " \n"
    with open(path, "w") as file:
        file.write(OPTICS + "".join(f"_rln{label} #{number}\n" for number, label in enumerate(COLUMNS, start=1)))
        for start in range(0, n, 50_000):
            number = np.arange(start, min(start + 50_000, n))
            columns = {label: rng.uniform(0, highest.get(label, 180.0), len(number)).tolist() for label in COLUMNS}
            columns.update({label: (number % 300 + 1).tolist() for label in whole}, OpticsGroup=[1] * len(number))
            columns["MicrographName"] = ["MotionCorr/job002/" + name.format(i // 150) for i in number]
            columns["ImageName"] = [f"{i % 150 + 1:06d}@Extract/job133/{name.format(i // 150)}s" for i in number]
            columns["ImageOriginalName"] = columns["ImageName"]
            file.writelines(row.format(*values) for values in zip(*columns.values()))


def metadata_part(folder):
    """Times of load, filter, save; runs in a process of its own."""
    from cryonb import io

    path, seconds = Path(folder) / "million.star", {}
    io.read_particles(Path(folder) / "small.star", check_images=False)  # imports done
    cpu, start = time.process_time(), time.perf_counter()
    particles = io.read_particles(path, check_images=False)
    seconds["load_s"] = time.perf_counter() - start
    lap = time.perf_counter()
    keep = particles.ctf.defocus_u < 2.0e4
    chosen = particles[keep]
    seconds["filter_s"] = time.perf_counter() - lap
    lap = time.perf_counter()
    io.write_particles(chosen, Path(folder) / "chosen.star")
    seconds["save_s"] = time.perf_counter() - lap
    seconds["total_s"] = time.perf_counter() - start
    seconds["total_cpu_s"] = time.process_time() - cpu
    seconds["peak_rss_gb"] = peak_bytes() / 1e9
    lap = time.perf_counter()
    io.write_selection(path, keep, Path(folder) / "selection.star")
    seconds["selection_from_original_s"] = time.perf_counter() - lap
    kept = io.read_star(Path(folder) / "chosen.star")["particles"]
    again = io.read_star(Path(folder) / "selection.star")["particles"]
    seconds["every_value_identical"] = bool(kept.equals(again)) and len(kept) == int(keep.sum())
    return {"particles": len(particles), "columns": particles.metadata.shape[1], "kept": len(chosen), **seconds}


def starfile_part(folder):
    """The same file through `starfile`: read and write, into numbers."""
    import starfile

    cpu, start = time.process_time(), time.perf_counter()
    tables = starfile.read(Path(folder) / "million.star")
    read = time.perf_counter() - start
    starfile.write(tables, Path(folder) / "starfile.star")
    total = time.perf_counter() - start
    return {
        "read_s": read,
        "total_s": total,
        "total_cpu_s": time.process_time() - cpu,
        "peak_rss_gb": peak_bytes() / 1e9,
    }


def stack_part(folder):
    """Average a stack and copy half of it, with 256 MiB of address space beyond the imports."""
    from cryonb import io
    from cryonb.types import Particles

    path = Path(folder) / "large.mrcs"
    small = Particles(np.zeros((2, 8, 8)), 1.5)
    io.write_particles(small, Path(folder) / "two.star")  # imports done, buffers there
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ALLOWED
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = peak_bytes()
    start = time.perf_counter()
    stack = io.read_stack(path)
    mean = np.zeros(stack.shape[1:])
    for first in range(0, len(stack), 500):
        mean += np.asarray(stack[first : first + 500]).sum(axis=0, dtype=np.float64)
    seconds = time.perf_counter() - start
    copied = Particles(stack, stack.pixel_size)[::2]
    io.write_particles(copied, Path(folder) / "half.star", stack_path=Path(folder) / "half.mrcs")
    # Every image of the stack is constant at number % 7.
    right = np.allclose(mean / len(stack), np.mean(np.arange(len(stack)) % 7))
    half = io.read_stack(Path(folder) / "half.mrcs")
    right &= half[1].max() == 2.0 and len(half) == (len(stack) + 1) // 2
    return {
        "stack_gb": stack.nbytes / 1e9,
        "allowed_beyond_imports_gb": ALLOWED / 1e9,
        "peak_rss_growth_gb": (peak_bytes() - before) / 1e9,
        "stack_over_growth": stack.nbytes / max(peak_bytes() - before, 1),
        "read_gb_per_s": stack.nbytes / 1e9 / seconds,
        "values_right": bool(right),
    }


class Constant:
    """Images that are written without ever being in memory together."""

    def __init__(self, n):
        self.shape = (n, BOX, BOX)

    def __getitem__(self, index):
        numbers = np.arange(self.shape[0])[index] % 7
        return np.broadcast_to(numbers.astype(np.float32)[:, None, None], (len(numbers), BOX, BOX))


def peak_bytes():
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_fresh_process(part, folder):
    """Run a part of this script by itself, so that its peak memory is its own; on one core."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50,000 particles and a stack of 0.5 GiB")
    parser.add_argument("--part", choices=["metadata", "starfile", "stack"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(globals()[f"{options.part}_part"](options.folder)))
        return
    from cryonb import io

    with tempfile.TemporaryDirectory() as folder:
        write_example(Path(folder) / "million.star", 50_000 if options.quick else 1_000_000)
        write_example(Path(folder) / "small.star", 10)
        size = (Path(folder) / "million.star").stat().st_size
        metadata = in_a_fresh_process("metadata", folder)
        print(f"metadata: {metadata}")
        theirs = in_a_fresh_process("starfile", folder)
        print(f"starfile: {theirs}")
        io.write_stack(Constant((2**29 if options.quick else 2**32) // (4 * BOX**2)), Path(folder) / "large.mrcs", 1.5)
        stack = in_a_fresh_process("stack", folder)
        print(f"stack: {stack}")
    result = {
        "metadata": {"file_gb": size / 1e9, **metadata, "limit_s": 20.0},
        "starfile": theirs,
        "cpu_ratio_to_starfile": theirs["total_cpu_s"] / metadata["total_cpu_s"],
        "stack": stack,
        "passed": metadata["total_s"] < 20 and metadata["every_value_identical"] and stack["values_right"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
