"""Scores of atomic models against cctbx, and Q-scores against published ones.

    python benchmarks/atomic_scores.py --models FOLDER --cctbx PYTHON [--quick]

FOLDER holds PDB files; PYTHON is an interpreter with `cctbx-base`, a program beside the package and none of its
dependencies. It re-runs this file with ``--judge``. Clashes need a CCP4 monomer library as well, named by the variable
MMTBX_CCP4_MONOMER_LIB; rotamer tables come with no package, so that rotamers are not compared. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RESOLUTION = 3.0  # Å, of the simulated map that EMRinger is run on


def judge(folder):
    """What cctbx finds; in its own interpreter."""
    import numpy as np
    from cctbx import uctbx
    from cctbx.array_family import flex
    from iotbx import pdb
    from libtbx.utils import null_out
    from mmtbx.ringer import em_scoring, iterate_over_residues
    from mmtbx.ringer import emringer as program
    from mmtbx.validation import cbetadev, ramalyze

    found = {}
    for path in sorted(Path(folder).glob("*.pdb")):
        hierarchy = pdb.input(str(path)).construct_hierarchy()
        hierarchy.atoms().reset_i_seq()
        rama = ramalyze.ramalyze(pdb_hierarchy=hierarchy, outliers_only=False)
        entry = {"ramachandran": {}, "favoured": rama.percent_favored, "outliers": rama.percent_outliers}
        for result in rama.results:
            entry["ramachandran"][f"{result.chain_id.strip()}{result.resid.strip()}"] = result.ramalyze_type()
        entry["cbeta"] = cbetadev.cbetadev(pdb_hierarchy=hierarchy).get_outlier_count()
        grid = np.load(path.with_suffix(".npz"))
        values = flex.double(np.ascontiguousarray(grid["data"].transpose(2, 1, 0)).astype(float))
        voxel = float(grid["voxel_size"])
        params = program.master_params().extract() if hasattr(program, "master_params") else None
        if params is None:
            from libtbx.phil import parse

            params = parse(program.master_phil_str if hasattr(program, "master_phil_str") else "").extract()
        for name, value in (("sampling_angle", 5), ("skip_alt_confs", True), ("nproc", 1), ("scaling", "sigma")):
            setattr(params, name, value)
        scanned = iterate_over_residues(
            hierarchy, params, map_data=values, unit_cell=uctbx.unit_cell((voxel,) * 3 + (90,) * 3), log=null_out()
        )
        score = em_scoring.main(None, ringer_result=scanned.results, quiet=True, out=null_out())
        entry["emringer"] = score.score
        entry["clashscore"] = judged_clashes(path)
        found[path.stem] = entry
    print(json.dumps(found))


def judged_clashes(path):
    """Clashscore by Probe2, on hydrogens placed by Reduce2; None where the monomer library cannot do it."""
    program = Path(sys.executable).parent / "molprobity.clashscore2"
    if "MMTBX_CCP4_MONOMER_LIB" not in os.environ or not program.exists():
        return None
    shown = subprocess.run([program, path.name], cwd=path.parent, capture_output=True, text=True).stdout
    for line in shown.splitlines()[::-1]:
        if "clashscore" in line.lower() and "=" in line:
            return float(line.split("=")[-1])
    return None


def prepare(source, folder, like_count):
    """Models with incomplete side chains cut to alanine, in a simulated map whose origin is zero."""
    import numpy as np

    from cryonb import protein, simulate
    from cryonb.atomic.bonds import SIDE_BONDS
    from cryonb.io import read_model, write_model
    from cryonb.types import AtomicModel

    for path in sorted(source.glob("*bound.pdb.gz"))[:like_count]:
        structure = read_model(path).structure
        structure.remove_hydrogens()
        structure.remove_alternative_conformations()
        structure.remove_ligands_and_waters()
        for chain in structure[0]:
            for residue in chain:
                wanted = {atom for bond in SIDE_BONDS.get(residue.name, ()) for atom in bond.split()}
                if not wanted <= {atom.name for atom in residue}:
                    for name in [a.name for a in residue if a.name not in ("N", "CA", "C", "O", "CB", "OXT")]:
                        residue.remove_atom(name, "\0")
                    residue.name = "ALA"
        model = AtomicModel(structure)
        box = simulate.box_around(model, RESOLUTION / 3)
        model = protein.with_atoms(model, coordinates=np.round(model.coordinates - box.origin, 3))
        maps = simulate.half_maps(model, RESOLUTION, rng=0)
        box = maps.half_1
        model = protein.with_atoms(model, coordinates=np.round(model.coordinates - box.origin, 3))
        name = path.name.split(".")[0]
        write_model(model, folder / f"{name}.pdb")
        np.savez(folder / f"{name}.npz", data=maps.mean.data, voxel_size=box.voxel_size)


def ours(folder):
    """The same scores by the package."""
    import numpy as np

    from cryonb.atomic import clashes, maps, torsions
    from cryonb.io import read_model
    from cryonb.types import Volume

    found = {}
    for path in sorted(folder.glob("*.pdb")):
        model, grid = read_model(path), np.load(path.with_suffix(".npz"))
        rama = torsions.ramachandran(model)
        words = np.where(rama.outlier, "OUTLIER", np.where(rama.favoured, "Favored", "Allowed"))
        rows = rama.residues
        labels = [f"{c}{n}{i}" for c, n, i in zip(rows.chains, rows.numbers, rows.insertions)]
        found[path.stem] = {
            "ramachandran": {label: w for label, w, ok in zip(labels, words.tolist(), rama.scored) if ok},
            "favoured": rama.percent_favoured,
            "outliers": rama.percent_outliers,
            "cbeta": int((np.nan_to_num(torsions.cbeta_deviation(model)) > torsions.CBETA_OUTLIER).sum()),
            "emringer": maps.emringer(model, Volume(grid["data"], float(grid["voxel_size"]))).score,
            "clashscore": clashes.clashes(model).score,
        }
    return found


def published_q(folder):
    """Correlation of our Q-score per residue with the published one of EMD-30342 and 7CEC."""
    import numpy as np

    from cryonb import protein
    from cryonb.atomic import maps
    from cryonb.io import read_model, read_volume

    volume = read_volume(folder / "emd_30342_chainA.mrc.gz", pad=True)
    model = read_model(folder / "7cec_A.cif")
    rows = protein.residues(model)
    scores = maps.residue_mean(maps.q_score(model, volume), rows, model.elements)
    told = {}
    for line in (folder / "published_qscores_7cec_A.txt").read_text().splitlines():
        cells = line.split("\t")
        if len(cells) > 5 and cells[0] == "A" and cells[2].strip().isdigit() and cells[5]:
            told[int(cells[2])] = float(cells[5])
    both = [(s, told[n]) for s, n in zip(scores, rows.numbers) if n in told and np.isfinite(s)]
    one, two = np.array(both).T
    return {
        "residues": len(both),
        "r": float(np.corrcoef(one, two)[0, 1]),
        "mean": float(one.mean()),
        "published": float(two.mean()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("../shared/data/models"))
    parser.add_argument("--cctbx", help="interpreter with cctbx-base")
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.judge:
        return judge(options.judge)
    result = {}
    if (options.models / "emd30342_7cec").is_dir():
        result["q"] = published_q(options.models / "emd30342_7cec")
        print("Q-score, EMD-30342:", {k: round(v, 4) for k, v in result["q"].items()})
    else:
        print(f"{options.models} is not there: nothing to compare")
    if options.cctbx and (options.models / "bm5").is_dir():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(options.models / "bm5", folder, 2 if options.quick else 20)
            told = subprocess.run(
                [options.cctbx, __file__, "--judge", folder], capture_output=True, text=True, check=True
            )
            theirs, mine = json.loads(told.stdout.splitlines()[-1]), ours(folder)
        same = total = 0
        for name, judged in theirs.items():
            pairs = [(mine[name]["ramachandran"].get(k), v) for k, v in judged["ramachandran"].items()]
            same, total = same + sum(a == b for a, b in pairs), total + len(pairs)
            row = [f"{mine[name][k]:.3f} {judged[k]:.3f}" if judged[k] is not None else f"{mine[name][k]:.3f} –"
                   for k in ("favoured", "outliers", "emringer", "clashscore", "cbeta")]  # fmt: skip
            print(name, *row, sep=" | ")
        result["structures"], result["ramachandran_same"] = len(theirs), same / total
        result["ramachandran_residues"] = total
        result["emringer_worst"] = max(abs(mine[n]["emringer"] - theirs[n]["emringer"]) for n in theirs)
        result["cbeta_same"] = sum(mine[n]["cbeta"] == theirs[n]["cbeta"] for n in theirs)
        pairs = [
            (mine[n]["clashscore"], theirs[n]["clashscore"]) for n in theirs if theirs[n]["clashscore"] is not None
        ]
        result["clash_ratios"] = [round(a / b, 3) for a, b in pairs if b]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
