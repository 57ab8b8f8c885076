"""CPU time of `project` and `reconstruct` against RELION's programs, on the same files.

2,000 views of a 64³ volume; 2,000 particles with CTF. Both sides read their files and write their result; ours is
timed in this process, compiled and imported (user + system time), RELION's is that of its process; ``start_up`` is
what a fresh Python process adds, with the compiled code cached. The last line is one JSON object; without RELION the
ratios are missing, and its CPU times measured elsewhere (0.4–0.5 s and 3.1 s) remain to compare with.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402

from cryonb import ctf, io, projection, reconstruction, rotations, samples  # noqa: E402
from cryonb.types import CTF, Particles, Poses  # noqa: E402

SIZE_PX, PIXEL_SIZE = 64, 6.3


def write_files(folder, n):
    """A ribosome's volume, and its projections through the CTF as a stack and a STAR file."""
    rng = np.random.default_rng(0)
    volume = projection.atoms_to_volume(samples.ribosome().state(), PIXEL_SIZE, SIZE_PX, PIXEL_SIZE)
    poses = Poses(rotations.random_rotations(n, rng=rng), rng.normal(size=(n, 2)) * 10)
    defocus = rng.uniform(8000, 25000, n)
    lens = CTF(defocus, defocus - rng.uniform(0, 1500, n), rng.uniform(0, 180, n))
    images = ctf.apply(projection.project(volume, poses), lens, PIXEL_SIZE)
    io.write_volume(volume, folder / "volume.mrc")
    io.write_particles(
        Particles(images, PIXEL_SIZE, lens, poses), folder / "ours.star", stack_path=folder / "ours.mrcs"
    )


def project_files(folder):
    """What relion_project does."""
    poses = io.read_particles(folder / "ours.star", check_images=False).poses
    images = projection.project(io.read_volume(folder / "volume.mrc"), poses)
    io.write_stack(images, folder / "projected.mrcs", PIXEL_SIZE)


def reconstruct_files(folder):
    """What relion_reconstruct does."""
    particles = io.read_particles(folder / "ours.star")
    io.write_volume(reconstruction.reconstruct(particles, progress=False), folder / "found.mrc")


def cpu_seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def own_cpu(function, folder, *, repeats):
    """Median CPU time of a call in this process, after one that compiles."""
    function(folder)
    times = []
    for _ in range(repeats):
        before = cpu_seconds(resource.RUSAGE_SELF)
        function(folder)
        times.append(cpu_seconds(resource.RUSAGE_SELF) - before)
    return float(np.median(times))


def child_cpu(command, folder, *, repeats):
    """Median CPU time of a program."""
    times = []
    for _ in range(repeats):
        before = cpu_seconds(resource.RUSAGE_CHILDREN)
        subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True)
        times.append(cpu_seconds(resource.RUSAGE_CHILDREN) - before)
    return float(np.median(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one repeat, not five")
    parser.add_argument("--particles", type=int, default=2000)
    options = parser.parse_args()
    repeats = 1 if options.quick else 5
    result = {"benchmark": "projection", "particles": options.particles, "size_px": SIZE_PX}
    theirs = {
        "project": [
            "relion_project",
            "--i",
            "volume.mrc",
            "--o",
            "theirs",
            "--ang",
            "ours.star",
            "--angpix",
            PIXEL_SIZE,
        ],
        "reconstruct": ["relion_reconstruct", "--i", "ours.star", "--o", "theirs.mrc", "--ctf"],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.particles)
        for task, function in (("project", project_files), ("reconstruct", reconstruct_files)):
            result[f"{task}_cpu_seconds"] = own_cpu(function, folder, repeats=repeats)
            if shutil.which(theirs[task][0]):
                result[f"relion_{task}_cpu_seconds"] = child_cpu(theirs[task], folder, repeats=repeats)
                ratio = result[f"{task}_cpu_seconds"] / result[f"relion_{task}_cpu_seconds"]
                result[f"{task}_ratio"] = ratio
        start_up = [sys.executable, "-c", "from cryonb import io, projection, reconstruction"]
        result["start_up_cpu_seconds"] = child_cpu(start_up, folder, repeats=repeats)
    result["passed"] = all(result.get(f"{task}_ratio", 0) <= 1 for task in theirs)
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}))


if __name__ == "__main__":
    main()
