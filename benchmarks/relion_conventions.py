"""Our conventions against RELION's programs: projections with poses, shifts and CTF, and reconstructions.

Needs ``relion_project`` and ``relion_reconstruct`` (RELION 3.1.3: ``apt-get install relion``) on the PATH. The last
line is one JSON object. ``tests/test_relion.py`` keeps small cases with RELION's numbers typed in.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from cryonb import ctf, io, projection, reconstruction, resolution, rotations, samples
from cryonb.types import CTF, Particles, Poses

SIZE_PX, PIXEL_SIZE = 64, 6.3


def simulated_files(folder, n, *, rng):
    """A ribosome's volume, and its projections by us as a stack and a STAR file."""
    rng = np.random.default_rng(rng)
    volume = projection.atoms_to_volume(samples.ribosome().state(), PIXEL_SIZE, SIZE_PX, PIXEL_SIZE)
    poses = Poses(rotations.random_rotations(n, rng=rng), rng.normal(size=(n, 2)) * 10)
    defocus = rng.uniform(8000, 25000, n)
    lens = CTF(defocus, defocus - rng.uniform(0, 1500, n), rng.uniform(0, 180, n))
    images = ctf.apply(projection.project(volume, poses), lens, PIXEL_SIZE)
    io.write_volume(volume, folder / "volume.mrc")
    io.write_particles(
        Particles(images, PIXEL_SIZE, lens, poses), folder / "ours.star", stack_path=folder / "ours.mrcs"
    )
    return volume


def relion(folder, program, *arguments):
    """Run a RELION program in ``folder``."""
    finished = subprocess.run([program, *map(str, arguments)], cwd=folder, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{program} failed: {finished.stderr[-1000:]}")


def compare_projections(folder):
    """Correlation of every pair of images, and the ratio of their scales."""
    relion(folder, "relion_project", "--i", "volume.mrc", "--o", "theirs", "--ang", "ours.star", "--ctf",
           "--angpix", PIXEL_SIZE)  # fmt: skip
    ours, theirs = (np.asarray(io.read_stack(folder / f"{name}.mrcs")) for name in ("ours", "theirs"))
    correlation = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(ours, theirs)]
    centred = [stack - stack.mean(axis=(1, 2), keepdims=True) for stack in (ours, theirs)]
    return {
        "projection_min_correlation": float(min(correlation)),
        "projection_scale": float(np.vdot(*centred) / np.vdot(centred[1], centred[1])),
    }


def compare_reconstructions(folder, truth):
    """FSC of our reconstruction with RELION's, from our files and from RELION's."""
    shells = round(0.9 * SIZE_PX / 2) + 1
    found = {}
    for files in ("ours", "theirs"):
        relion(folder, "relion_reconstruct", "--i", f"{files}.star", "--o", f"from_{files}.mrc", "--ctf")
        theirs = io.read_volume(folder / f"from_{files}.mrc")
        ours = reconstruction.reconstruct(io.read_particles(folder / f"{files}.star"), progress=False)
        for name, pair in {"both": (ours, theirs), "our_truth": (ours, truth), "their_truth": (theirs, truth)}.items():
            curve = resolution.fourier_shell_correlation(*pair).correlation
            found[f"fsc_min_{name}_from_{files}"] = float(curve[:shells].min())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1000 particles for the reconstructions, not 4000")
    options = parser.parse_args()
    if not (shutil.which("relion_project") and shutil.which("relion_reconstruct")):
        print(json.dumps({"benchmark": "relion_conventions", "skipped": "RELION is not on the PATH"}))
        return
    result = {"benchmark": "relion_conventions", "poses": 50}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated_files(folder, 50, rng=0)
        result |= compare_projections(folder)
    result["particles"] = 1000 if options.quick else 4000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = simulated_files(folder, result["particles"], rng=1)
        compare_projections(folder)
        result |= compare_reconstructions(folder, truth)
    result["passed"] = bool(
        result["projection_min_correlation"] > 0.999
        and min(result["fsc_min_both_from_ours"], result["fsc_min_both_from_theirs"]) > 0.99
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
