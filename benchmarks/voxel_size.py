"""The voxel size of a map from models some 3 Å off, as Wang et al. tested it.

    python benchmarks/voxel_size.py --model adk_open.pdb [--count 50] [--kinds modes independent dynamics]

The paper's test (eLife 5:e17219 (2016), figure 2A): a map of 4AKE without noise, 3 Å, voxels of 1 Å; 50 models 2.9 to
3.1 Å off, made by molecular dynamics and minimisation; the voxel size from each has a standard deviation of 0.011 Å,
and of 0.004 Å once voxel size and coordinates were refined in turns, which is not done here. The map is stated 1 % too
large. Kinds of models: *modes*, along slow modes of a network of Cα in steps of 0.25 Å, the geometry mended after each,
then annealed from 300 K and minimised with ff14SB; *dynamics*, ff14SB in vacuum at 1500 K, then the same (the chains
swell by 4 to 5 %); *independent*, each atom moved by itself, which leaves no chain at all. The file is in the source
package of MDAnalysisTests (``data/adk_open.pdb``). Prints a row for each model and one JSON object last.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cryonb import atomic, io, simulate
from cryonb.atomic import finish
from cryonb.projection import model_density
from cryonb.types import AtomicModel, Volume

RESOLUTION, VOXEL, STATED = 3.0, 1.0, 1.01  # Å, Å, of the true voxel size
OFF = (2.9, 3.1)  # Å rms over all atoms, superposed
HOT, FRICTION = 1500.0, 0.5  # K, per ps
CUTOFF, MODES, STEP = 13.0, 12, 0.25  # Å, of them, Å rms


def laid(xyz, truth):
    """Coordinates (a, 3) on the true ones."""
    middle = xyz.mean(axis=0), truth.mean(axis=0)
    turn, _ = Rotation.align_vectors(truth - middle[1], xyz - middle[0])
    return turn.apply(xyz - middle[0]) + middle[1]


def off(xyz, truth):
    """Rms distance in Å."""
    return float(np.sqrt(((xyz - truth) ** 2).sum(axis=-1).mean()))


def place(chains, xyz):
    """Residue coordinates laid on the true ones, and how far they are off."""
    there = chains.present
    moved = np.full_like(xyz, np.nan)
    moved[there] = laid(xyz[there], chains.xyz[there])
    return moved, off(moved[there], chains.xyz[there])


def independent(chains, seed, tools):
    """Each atom by itself."""
    return simulate.shake(chains.to_model(), 3.0, rng=seed)


def low_modes(alpha):
    """The slowest modes (3n, k) of an anisotropic network of Cα with springs to 13 Å, and their frequencies squared."""
    apart = alpha[:, None] - alpha[None]
    distance = np.sqrt((apart**2).sum(axis=-1)) + np.eye(len(alpha))
    spring = ((distance < CUTOFF) & ~np.eye(len(alpha), dtype=bool)) / distance**2
    blocks = -np.einsum("ijk,ijl,ij->ijkl", apart, apart, spring)
    blocks[np.arange(len(alpha)), np.arange(len(alpha))] = -blocks.sum(axis=1)
    square, modes = np.linalg.eigh(blocks.transpose(0, 2, 1, 3).reshape(3 * len(alpha), -1))
    return square[6 : 6 + MODES], modes[:, 6 : 6 + MODES]


def modes(chains, seed, tools):
    """Along slow modes of the Cα network, in short steps with the geometry mended after each, then as dynamics ends."""
    geometry, annealer = tools["geometry"], tools["annealer"]
    everything = range(len(chains))
    aim = 3.0
    for _ in range(4):
        rng, xyz, direction = np.random.default_rng(seed), chains.xyz, None
        for _ in range(40):
            square, slow = low_modes(xyz[:, 1])
            weight = rng.normal(size=MODES) / np.sqrt(square) if direction is None else slow.T @ direction
            direction = slow @ weight / np.linalg.norm(slow @ weight)
            step = STEP * np.sqrt(len(chains)) * direction.reshape(-1, 1, 3)
            xyz, found = place(chains, geometry.window(everything, xyz + step).minimise(xyz + step, steps=40)[0])
            if found > aim:
                break
        xyz, _ = annealer.run(xyz, geometry, RESOLUTION, rng=seed, picoseconds=0.3, warm=300.0, minimise=100)
        xyz, found = place(chains, xyz)
        if OFF[0] < found < OFF[1]:
            break
        aim += 3.0 - found
    return chains.moved(xyz).to_model()


def heavy_atoms(annealer, xyz):
    """Where the dynamics has taken the chains."""
    found = 10.0 * annealer.context.getState(getPositions=True).getPositions(asNumpy=True)._value
    moved, inside = np.array(xyz), annealer.slots >= 0
    moved.reshape(-1, 3)[annealer.slots[inside]] = found[annealer.heavy[inside]]
    return moved


def dynamics(chains, seed, tools):
    """Hot dynamics without a map until the chains are some 3 Å off, then cooled and minimised."""
    annealer, geometry = tools["annealer"], tools["geometry"]
    context = annealer.context
    integrator = context.getIntegrator()
    aim = 3.0
    for _ in range(6):
        integrator.setRandomNumberSeed(1 + seed)
        integrator.setFriction(FRICTION)
        context.reinitialize()
        context.setParameter("map_weight", 0.0)
        context.setPositions(annealer._all_atoms(chains.xyz) / 10)
        integrator.setTemperature(HOT)
        context.setVelocitiesToTemperature(HOT, 1 + seed)
        for _ in range(400):
            integrator.step(25)
            xyz, found = place(chains, heavy_atoms(annealer, chains.xyz))
            if found > aim:
                break
        cooled, _ = annealer.run(xyz, geometry, RESOLUTION, rng=seed, picoseconds=0.3, warm=300.0, minimise=100)
        xyz, found = place(chains, cooled)
        if OFF[0] < found < OFF[1]:
            break
        aim += 3.0 - found
    return chains.moved(xyz).to_model()


def main():
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="4AKE: MDAnalysisTests' adk_open.pdb")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="seed of the first model")
    parser.add_argument("--kinds", nargs="+", default=["modes", "independent"])
    parser.add_argument("--rows", type=Path, default=None, help="rows of JSON; what it holds is not made again")
    options = parser.parse_args()
    structure = io.read_model(options.model).structure
    structure.remove_hydrogens()
    for residue in [residue for chain in structure[0] for residue in chain]:
        if residue.name in ("HSD", "HSE", "HSP"):  # CHARMM's names
            residue.name = "HIS"
    chains = atomic.Chains.of(AtomicModel(structure)).completed()
    truth = chains.to_model()
    box = simulate.box_around(truth, VOXEL)
    clean = model_density(truth, box, resolution=RESOLUTION)
    centre = box.origin + box.size_px // 2 * VOXEL
    stated = Volume(clean.data, STATED * VOXEL, centre - box.size_px // 2 * STATED * VOXEL)
    tools = {"geometry": atomic.Field(chains)}
    if {"dynamics", "modes"} & set(options.kinds):
        from cryonb.atomic.anneal import Annealer

        tools["annealer"] = Annealer(chains)
    makers = {"dynamics": dynamics, "modes": modes, "independent": independent}
    known = [json.loads(line) for line in options.rows.read_text().splitlines()] if (
        options.rows and options.rows.exists()) else []  # fmt: skip
    rows = {kind: [] for kind in options.kinds}
    for seed in range(options.first, options.first + options.count):
        for kind in options.kinds:
            row = next((old for old in known if (old["kind"], old["seed"]) == (kind, seed)), None)
            if row is None:
                model = makers[kind](chains, seed, tools)
                row = {"kind": kind, "seed": seed} | one(model, chains, stated)
                if options.rows:
                    with open(options.rows, "a") as file:
                        file.write(json.dumps(row) + "\n")
            rows[kind].append(row)
            print(kind, seed, *(f"{k}={v:.4f}" for k, v in row.items() if isinstance(v, float)), flush=True)
    print(json.dumps({kind: summary(found) for kind, found in rows.items()}))


def one(model, chains, stated):
    """How far one model is off, how large it is, and the voxel size from it."""
    truth = chains.to_model().coordinates
    radius = [np.sqrt(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean()) for x in (model.coordinates, truth)]
    fields, cpu = {"off": off(model.coordinates, truth), "radius": float(radius[0] / radius[1])}, time.process_time()
    try:
        fields["voxel_size"] = finish.refine_voxel_size(stated, model, RESOLUTION).voxel_size
    except ValueError:  # beyond 5 %
        fields["voxel_size"] = float("nan")
    fields["seconds"] = time.process_time() - cpu
    return fields


def summary(rows):
    """Number, mean, standard deviation, least and largest of what was found."""
    told = {}
    for key in ("off", "radius", "voxel_size", "seconds"):
        values = np.array([row[key] for row in rows if key in row])
        if len(values):
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            numbers = values.mean(), spread, values.min(), values.max()
            told[key] = [len(values), *(round(float(number), 5) for number in numbers)]
    return told


if __name__ == "__main__":
    main()
