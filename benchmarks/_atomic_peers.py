"""Other programs' refinement of a model in a half map; `benchmarks/atomic.py --peer servalcat mmtbx` calls it.

    pip install servalcat cctbx-base coot-headless-api        (in an environment of its own)
    python benchmarks/atomic.py --quick --peer servalcat mmtbx --peer-python THAT_ENVIRONMENT/bin/python

The programs stand beside the package and are none of its dependencies; each runs in its own process. Both need a
monomer library of CCP4's form: the folder named by ``--monomers``, by CLIBD_MON, or the subset that comes with
coot-headless-api (GPL: its files are read by the programs, nothing of it is imported).

*servalcat* (Yamashita et al., Acta Cryst. D 77:1282 (2021)) gets the two half maps as they are and refines against the
first (``--cross_validation``), with its own choice of weights and of all else. *mmtbx* is real-space refinement with
the engine of phenix (Afonine et al., Acta Cryst. D 74:531 (2018)): five macro-cycles, each a search for the weight at
which bonds and angles stay within 0.01 Å and 1°, and 150 steps of minimisation of all coordinates, in the same
sharpened and cut-off half map that ours works in; the protein alone, without ligands. Its rotamer fit and its
Ramachandran restraints need tables that come with no package, and are left out. This file runs itself with ``--mmtbx
FOLDER`` in the other interpreter.
"""

import os
import subprocess
import sys
from pathlib import Path

PEERS = ("servalcat", "mmtbx")
MACRO_CYCLES, STEPS = 5, 150  # of mmtbx: the first as phenix's program has it, the second mmtbx's own default
BONDS, ANGLES = 0.01, 1.0  # Å and degrees, rms: phenix's targets
CYCLES = 10  # of servalcat: its default
LIBRARY = "mon_lib_list.cif"


def ask(python, code):
    """What another interpreter prints, or None where it fails."""
    try:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=300)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_monomers(python, given=None):
    """The folder of the monomer library, or None."""
    inside = ask(
        python,
        "import importlib.util as u; s = u.find_spec('coot_headless_api'); print(s.submodule_search_locations[0])",
    )
    places = [given, os.environ.get("CLIBD_MON"), os.environ.get("MMTBX_CCP4_MONOMER_LIB")]
    places += [Path(inside) / "share" / "coot" / "lib" / "data" / "monomers"] if inside else []
    return next((Path(place) for place in places if place and (Path(place) / "list" / LIBRARY).exists()), None)


def absent(peer, python, monomers):
    """Why a program cannot be run, in words; None where it can."""
    if python is None:
        return f"{peer} is not run: it needs --peer-python, an interpreter that has it"
    if ask(python, f"import {peer}") is None:
        return f"{peer} is not run: {python} does not have it"
    if monomers is None:
        return f"{peer} is not run: no monomer library (--monomers, CLIBD_MON, or coot-headless-api in {python})"
    return None


def refine(peer, python, monomers, start, halves, resolution, folder):
    """The start, refined against half map 1 by another program.

    Parameters: ``start`` Chains, ``halves`` simulate.HalfMaps, ``resolution`` Å, ``folder`` an empty one to work in.
    Returns an AtomicModel in the frame of the start, and what the program's process took in seconds of CPU.
    """
    import resource

    import numpy as np

    from cryonb import atomic, io, protein
    from cryonb.types import Volume

    model = start.to_model()
    if peer == "servalcat":
        origin = halves.half_1.origin
        for name, half in (("half_1", halves.half_1), ("half_2", halves.half_2)):
            io.write_volume(Volume(half.data, half.voxel_size, np.zeros(3)), folder / f"{name}.mrc")
        command = [
            *(str(python), "-m", "servalcat", "refine_spa_norefmac", "--halfmaps", "half_1.mrc", "half_2.mrc"),
            *("--cross_validation", "--model", "start.pdb", "-d", str(resolution), "--monlib", str(monomers)),
            *("--ncycle", str(CYCLES), "-o", "end"),
        ]
    else:
        seen = atomic.training_map(halves.half_1, start, resolution)
        origin = seen.origin
        np.savez(folder / "map.npz", data=seen.data, voxel_size=seen.voxel_size)
        command = [str(python), str(Path(__file__).resolve()), "--mmtbx", str(folder)]
    moved = protein.with_atoms(model, coordinates=model.coordinates - origin)
    for site in moved.structure[0].all():
        site.atom.name = site.atom.name.replace("*", "'")  # O5* of old files is O5' in the library
    if peer == "mmtbx":
        moved.structure.remove_ligands_and_waters()  # of some ligands it finds two definitions in the library
    io.write_model(moved, folder / "start.pdb")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"MMTBX_CCP4_MONOMER_LIB": str(monomers), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or not (folder / "end.pdb").exists():
        said = (done.stdout + done.stderr).strip().splitlines()[-6:]
        raise RuntimeError(f"{peer} stopped with code {done.returncode}: " + " / ".join(said))
    end = io.read_model(folder / "end.pdb")
    end = protein.with_atoms(end, coordinates=end.coordinates + origin)
    return end, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def mmtbx(folder):
    """Real-space refinement by mmtbx; runs in its own interpreter."""
    import random

    import iotbx.pdb
    import mmtbx.model
    import numpy as np
    from cctbx import crystal
    from cctbx.array_family import flex
    from libtbx.utils import null_out
    from mmtbx.refinement.real_space import individual_sites, weight

    random.seed(0)
    flex.set_random_seed(0)
    grid = np.load(folder / "map.npz")
    side = float(grid["voxel_size"]) * len(grid["data"])
    values = flex.double(np.ascontiguousarray(grid["data"].transpose(2, 1, 0)).astype(float))
    box = crystal.symmetry(unit_cell=(side,) * 3 + (90,) * 3, space_group_symbol="P1")
    source = iotbx.pdb.input(file_name=str(folder / "start.pdb"))
    model = mmtbx.model.manager(model_input=source, crystal_symmetry=box, log=null_out())
    model.process(make_restraints=True)
    for _ in range(MACRO_CYCLES):
        restraints, atoms = model.get_restraints_manager(), model.get_xray_structure()
        found = weight.run(
            map_data=values, xray_structure=atoms, pdb_hierarchy=model.get_hierarchy(),
            geometry_restraints_manager=restraints, rms_bonds_limit=BONDS, rms_angles_limit=ANGLES,
        )  # fmt: skip
        step = individual_sites.simple(
            target_map=values, selection=flex.bool(model.size(), True), max_iterations=STEPS,
            geometry_restraints_manager=restraints.geometry,
        )  # fmt: skip
        step.refine(weight=found.weight, xray_structure=model.get_xray_structure())
        model.set_sites_cart(step.sites_cart())
    (folder / "end.pdb").write_text(model.model_as_pdb())


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "--mmtbx":
        sys.exit(__doc__)
    mmtbx(Path(sys.argv[2]))
