"""Learn which residues of a model are wrong, from planted errors, and measure it on other proteins.

    python benchmarks/atomic_errors.py --models FOLDER [--out cryonb/atomic/errors.npz] [--quick]

FOLDER holds chains as ``NAME_l_bound.pdb.gz``. Into each are planted peptide flips, wrong rotamers, register shifts and
a shake; half maps are simulated at four resolutions; the model is relaxed into the first half map, as a builder's
program would do; and the evidence is learnt. Training and test proteins are different. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

RESOLUTIONS = (3.0, 3.5, 4.0, 4.5)
TEST_SHARE, TEST_SETS = 0.4, 3
LIMIT = 1.0  # Å rms: wrong
RELAX_STEPS = 60  # brief: a true model must stay within the limit, or the labels are of the relaxation
MAP_WEIGHT = {3.0: 4.0, 3.5: 3.0, 4.0: 1.5, 4.5: 1.0}  # kJ/mol: about what leaves a true model where it is
NETS, HIDDEN = 4, (24, 12)


def relaxed(model, half, resolution):
    """The model after local minimisation in a half map; the same atoms in the same order."""
    from cryonb import protein
    from cryonb.atomic import minimise, rebuild
    from cryonb.atomic import residues as arrays

    chains = arrays.Chains.of(model)
    seen = rebuild.training_map(half, chains, resolution)
    field = minimise.Field(chains, seen, map_weight=MAP_WEIGHT[resolution])
    xyz = chains.xyz
    for _ in range(3):
        xyz, _ = field.window(range(len(chains)), xyz).minimise(xyz, steps=RELAX_STEPS // 3)
    rows, coordinates = protein.residues(model), model.coordinates
    for row, atoms in enumerate(rows.atoms):
        for slot, name in enumerate(arrays.atom_names(str(chains.names[row]))):
            if name in atoms:
                coordinates[atoms[name]] = xyz[row, slot]
    return protein.with_atoms(model, coordinates=coordinates)


def whole(path):
    """A chain whose incomplete residues were cut to alanine, without hydrogens, ligands and alternates."""
    from cryonb.atomic.bonds import SIDE_BONDS
    from cryonb.io import read_model
    from cryonb.types import AtomicModel

    structure = read_model(path).structure
    structure.remove_hydrogens()
    structure.remove_alternative_conformations()
    structure.remove_ligands_and_waters()
    for chain in structure[0]:
        for residue in chain:
            wanted = {"CB"} | {atom for bond in SIDE_BONDS.get(residue.name, ()) for atom in bond.split()}
            if residue.name != "GLY" and not wanted <= {atom.name for atom in residue}:
                for name in [a.name for a in residue if a.name not in ("N", "CA", "C", "O", "CB")]:
                    residue.remove_atom(name, "\0")
                residue.name = "ALA" if any(a.name == "CB" for a in residue) else "GLY"
            for name in [a.name for a in residue if a.name == "OXT"]:
                residue.remove_atom(name, "\0")
        for index in reversed(range(len(chain))):
            if not {"N", "CA", "C", "O"} <= {atom.name for atom in chain[index]}:
                del chain[index]
    for site in structure[0].all():
        site.atom.b_iso = min(max(site.atom.b_iso, 10.0), 80.0)
    return AtomicModel(structure)


def examples(path, resolution, seed):
    """Evidence and labels of one planted model: (n, f), (n, 2)."""
    from cryonb import protein, simulate
    from cryonb.atomic.errors import evidence

    truth = whole(path)
    maps = simulate.half_maps(truth, resolution, rng=seed)
    rng = np.random.default_rng([seed, 1])
    planted = simulate.plant_errors(truth, rng=rng, shake_rms=float(rng.choice([0.0, 0.5, 1.0])), correlation=3.0)
    model = relaxed(planted.model, maps.half_1, resolution)
    return evidence(model, maps.half_1, resolution).values, labels(model, truth, protein)


def labels(model, truth, protein):
    """Wrong backbone, and wrong residue: rms over its heavy atoms, of equal labellings the better."""
    from cryonb.simulate import residue_deviation

    deviation = residue_deviation(model, truth)
    rows = protein.residues(truth)
    side = np.array([sum(name not in protein.BACKBONE for name in atoms) for atoms in rows.atoms])
    every = np.sqrt((4 * deviation[:, 0] ** 2 + side * np.nan_to_num(deviation[:, 1]) ** 2) / (4 + side))
    return np.stack([deviation[:, 0] > LIMIT, every > LIMIT], axis=1)


def main():
    from sklearn.metrics import average_precision_score
    from sklearn.neural_network import MLPClassifier

    from cryonb.atomic import errors

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("../shared/data/models/bm5"))
    parser.add_argument("--out", type=Path, help="write the weights here")
    parser.add_argument("--sets", type=int, default=8, help="planted models per training chain and resolution")
    parser.add_argument("--quick", action="store_true", help="three chains, measured with the shipped weights")
    options = parser.parse_args()
    paths = sorted(options.models.glob("*_bound.pdb.gz"))
    if not paths:
        print(f"no *_bound.pdb.gz in {options.models}: nothing to learn from")
        return
    order = np.random.default_rng(0).permutation(len(paths))
    cut = round(TEST_SHARE * len(paths))
    test = set(order[:cut].tolist())
    if options.quick:
        test, paths = set(range(3)), [paths[i] for i in order[:3]]
    start, rows = time.process_time(), []
    for number, path in enumerate(paths):
        for resolution in RESOLUTIONS:
            for seed in range(1 if options.quick else TEST_SETS if number in test else options.sets):
                try:
                    values, wrong = examples(path, resolution, 1000 * number + seed)
                except ValueError as error:
                    print(path.name, resolution, error)
                    continue
                rows.append((number, resolution, values, wrong))
        print(path.name, f"{time.process_time() - start:.0f} s CPU", flush=True)
    kept = {"features": np.array(errors.FEATURES)}
    training = [row for row in rows if row[0] not in test]
    if training:
        x, y = np.concatenate([row[2] for row in training]), np.concatenate([row[3] for row in training])
        kept["middle"] = np.median(x, axis=0)
        kept["width"] = np.maximum(x.std(axis=0), 1e-3)
        x = np.clip((x - kept["middle"]) / kept["width"], -6, 6)
        for head, name in enumerate(("backbone", "residue")):
            for net in range(NETS):
                learner = MLPClassifier(HIDDEN, alpha=0.03, early_stopping=True, random_state=net, max_iter=200)
                learner.fit(x, y[:, head])
                for layer, (matrix, bias) in enumerate(zip(learner.coefs_, learner.intercepts_)):
                    kept[f"{name}_{net}_{2 * layer}"] = matrix.astype(np.float32)
                    kept[f"{name}_{net}_{2 * layer + 1}"] = bias.astype(np.float32)
        if options.out:
            np.savez_compressed(options.out, **kept)
    else:
        kept = errors.weights()
    result = {}
    for head, name in enumerate(("backbone", "residue")):
        for resolution in RESOLUTIONS:
            found = [row for row in rows if row[0] in test and row[1] == resolution]
            wrong = np.concatenate([row[3][:, head] for row in found])
            x = np.concatenate([row[2] for row in found])
            chance = errors._forward(x, kept)[head]
            alone = {
                f: average_precision_score(wrong, -x[:, errors.FEATURES.index(f)])
                for f in ("correlation", "backbone density")
            }
            result[f"{name}_{resolution}"] = round(float(average_precision_score(wrong, chance)), 4)
            print(f"{name} {resolution} Å: AUPRC {result[f'{name}_{resolution}']:.3f}, of {len(wrong)} residues "
                  f"{wrong.mean():.3f} wrong; density alone {max(alone.values()):.3f}")  # fmt: skip
    result["cpu_s"] = round(time.process_time() - start)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
