"""RELION on files in a folder that is kept: what ran to its end is not run again. Shared by the benchmarks."""

import json
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

from cryonb import io

CLASSIFY = [
    "relion_refine", "--i", "particles.star", "--ref", "reference.mrc", "--K", "4", "--tau2_fudge", "4", "--ini_high",
    "60", "--firstiter_cc", "--ctf", "--ctf_corrected_ref", "--flatten_solvent", "--zero_mask", "--sym", "C1", "--norm",
    "--scale", "--dont_check_norm", "--random_seed", "1", "--j", "1",
]  # fmt: skip
SEARCH = [
    "--oversampling", "1", "--healpix_order", "2", "--offset_range", "5", "--offset_step", "2"
]  # fmt: skip
REFINE = [
    "mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3",
    # each rank's CPU time in a file of its own: the first one only waits, and OpenMPI spins while it waits
    "bash", "-c", 'relion_refine_mpi "$@"; code=$?; times > ${@: -1}.rank$OMPI_COMM_WORLD_RANK.times; exit $code', "_",
    "--i", "particles.star", "--ref", "reference.mrc", "--auto_refine", "--split_random_halves", "--ini_high", "60",
    "--firstiter_cc", "--ctf", "--ctf_corrected_ref", "--flatten_solvent", "--zero_mask", "--sym", "C1", "--norm",
    "--scale", "--dont_check_norm", "--random_seed", "1", "--j", "1", "--low_resol_join_halves", "40", *SEARCH,
    # local searches from 3.75° on: by default RELION goes on globally there, at seconds of CPU a particle
    "--auto_local_healpix_order", "3",
]  # fmt: skip


def installed():
    return shutil.which("relion_refine") is not None


def write_inputs(folder, particles, reference):
    """``particles.star``, its stack and ``reference.mrc``, unless the folder holds the very same particles."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "reference.mrc").exists():  # written last
        if not np.array_equal(io.read_particles(folder / "particles.star", root=folder).images, particles.images):
            raise ValueError(f"{folder} holds other particles; name an empty folder")
        return
    io.write_particles(particles, folder / "particles.star")
    io.write_volume(reference, folder / "reference.mrc")


def run(folder, name, command, *, diameter):
    """Run RELION to files ``folder/name/run_*``, unless it has; the record of the run.

    ``cpu_seconds`` are user and system time, of a run over MPI those of the two ranks that work;
    ``iteration_cpu_seconds`` those between the files of one iteration and the next (without MPI).
    """
    record = folder / f"{name}.json"
    if not record.exists():
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
        before, at = children_seconds(), []
        with open(folder / f"{name}.log", "w") as log:
            arguments = [*command, "--particle_diameter", str(diameter), "--o", f"{name}/run"]
            process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
            while process.poll() is None:
                if len(at) < written(folder / name):
                    at.append(process_seconds(process.pid))
                time.sleep(0.2)
        finished = children_seconds() - before
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{Path(log.name).read_text()[-2000:]}")
        found = {"all_cpu_seconds": round(finished, 1)}
        ranks = [rank_seconds(folder / name / f"run.rank{i}.times") for i in (1, 2)] if command[0] == "mpirun" else []
        found["cpu_seconds"] = round(sum(ranks), 1) if ranks else found["all_cpu_seconds"]
        if not ranks:  # the files of the last iteration may be seen only when the process is gone
            found["iteration_cpu_seconds"] = np.diff(at[: written(folder / name) - 1] + [finished]).round(1).tolist()
        record.write_text(json.dumps(found))
    return json.loads(record.read_text())


def written(folder):
    """Number of iterations whose files are there, the start as one."""
    return len(list(folder.glob("run_it*_optimiser.star")))


def children_seconds():
    """User and system time of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def process_seconds(pid):
    """User and system time so far of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rank_seconds(path):
    """User and system time of a shell's children, from what its ``times`` printed last: ``0m1.5s 0m0.1s``."""
    parts = [part.rstrip("s").split("m") for part in path.read_text().split("\n")[1].split()]
    return sum(60 * float(minutes) + float(seconds) for minutes, seconds in parts)
