"""Learn which kind of residue stands where along a main chain, from simulated maps of the shipped fragment library.

    python benchmarks/atomic_kinds.py --keep FOLDER [--sets 12] [--out cryonb/atomic/kinds.npz]
    python benchmarks/atomic_kinds.py --scan [--chains NAMES] [--resolutions 3.0 3.5 4.0 4.5] [--seeds 1]
    python benchmarks/atomic_kinds.py --real

Every entry of the library is made a model, with B factors drawn for it; half maps are simulated at 2.8 to 4.7 Å;
register shifts, turned peptides and wrong rotamers are planted and relaxed into the first half map, as a builder's
program would do. What is seen around each main chain is learnt (`cryonb.atomic.kinds`). FOLDER keeps the examples, so
that it can be stopped. Prints the mean log odds of the right kind in entries left out of the learning, by resolution;
then learns from all. No chain of docking benchmark 5 has a homologue among the entries: the nearest local alignment
over 30 residues or more has 44 % identical.

``--scan`` asks the register scan alone (`cryonb.atomic.register`), about its planted shifts in chains of docking
benchmark 5: is a stretch that overlaps one by half proposed, is it sure, and how many sure stretches are false, there
and in the true model. ``--real`` asks in EMD-30342 (3.9 Å) whether the deposited sequence is likelier than one slid by
one or two, in every window of 8, 12 and 16 residues of 7CEC. The last line is JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cryonb import io, simulate
from cryonb.atomic import Chains, Field, fragment_library, kinds, map_weight, training_map
from cryonb.atomic.fragments import residue_codes
from cryonb.atomic.register import SURE, register_scan
from cryonb.atomic.residues import CA
from cryonb.protein import with_atoms

PLACES = 96
RESOLUTIONS = (2.8, 4.7)  # Å
NEAR = 1.2  # Å from a true Cα: what is further off is no residue's place
LEFT_OUT = 6  # one entry in six is not learnt while it is measured
BANDS = ((2.8, 3.25), (3.25, 3.75), (3.75, 4.25), (4.25, 4.7))  # Å
NETS, HIDDEN, DECAY = 4, (128, 64), 2.0  # the last two of four tried on entries left out


def places(library):
    """Middles of 96 clusters of side-chain atoms behind Cβ, in the axes of `kinds.frames`."""
    from sklearn.cluster import KMeans

    found = []
    for name in sorted(set(library.names)):
        xyz = Chains.of(library.model(name)).xyz
        local = np.einsum("nsb,nab->nsa", xyz[:, 5:] - xyz[:, CA, None], kinds.frames(xyz))
        found.append(local[np.isfinite(local).all(axis=-1)])
    middles = KMeans(PLACES, n_init=1, random_state=0).fit(np.concatenate(found)).cluster_centers_
    return middles[np.argsort(np.linalg.norm(middles, axis=1))]


def with_b_factors(model, rng):
    """B factors that rise towards the surface and along side chains."""
    xyz = model.coordinates
    near = cKDTree(xyz).query_ball_point(xyz, 8.0, return_length=True)
    buried = np.argsort(np.argsort(near)) / len(xyz)
    side = ~np.isin(model.atom_names, ("N", "CA", "C", "O", "CB"))
    middle, slope, along = rng.uniform(15, 50), rng.uniform(0.3, 1.2), rng.uniform(1.0, 1.5)
    return with_atoms(model, b_factors=middle * np.exp(slope * (0.5 - buried)) * np.where(side, along, 1.0))


def examples(library, name, seed, where):
    """Features, kinds and resolution of one planted model; positions that are nobody's place are left out."""
    rng = np.random.default_rng([sorted(set(library.names)).index(name), seed])
    resolution = float(rng.uniform(*RESOLUTIONS))
    model = with_b_factors(library.model(name), rng)
    half = simulate.half_maps(model, resolution, rng=rng, b_factor=float(rng.uniform(40, 120))).half_1
    shaken = float(rng.choice([0.0, 0.3, 0.6]))
    planted = simulate.plant_errors(
        model, rng=rng, register_shifts=int(rng.integers(0, 9)), shake_rms=shaken, correlation=3.0
    )
    truth, start = Chains.of(model), Chains.of(planted.model).completed()
    field = Field(start, training_map(half, start, resolution), map_weight=map_weight(resolution))
    xyz, _ = field.window(range(len(start)), start.xyz).minimise(start.xyz, steps=int(rng.choice([60, 200, 400])))
    away, nearest = cKDTree(truth.xyz[:, CA]).query(xyz[:, CA])
    values = kinds.kind_features(field, xyz, where)
    slid = nearest != np.arange(len(xyz))
    return values[away < NEAR], residue_codes(truth.names)[nearest[away < NEAR]], slid[away < NEAR], resolution


def learn(values, kind):
    """The networks' arrays, as `kinds.weights` gives them but for the places."""
    from sklearn.neural_network import MLPClassifier

    kept = {"middle": values.mean(axis=0), "width": values.std(axis=0) + 1e-3}
    kept["log_prior"] = np.log(np.bincount(kind, minlength=20) / len(kind))
    x = np.clip((values - kept["middle"]) / kept["width"], -6, 6)
    for net in range(NETS):
        learner = MLPClassifier(
            HIDDEN, alpha=DECAY, batch_size=512, early_stopping=True, n_iter_no_change=3, max_iter=40, random_state=net
        )
        learner.fit(x, kind)
        for layer, (matrix, bias) in enumerate(zip(learner.coefs_, learner.intercepts_)):
            kept |= {f"net{net}_{2 * layer}": matrix, f"net{net}_{2 * layer + 1}": bias}
    return kept


def measure(kept, values, kind, slid, resolution):
    """Mean log odds of the right kind and share of positions where it is the first, by resolution."""
    odds, found = kinds.log_odds(values, kept), {}
    own, first = odds[np.arange(len(kind)), kind], odds.argmax(axis=1) == kind
    for low, high in BANDS:
        band = (resolution >= low) & (resolution < high)
        found[f"{low}-{high}"] = {
            "positions": int(band.sum()), "log_odds": round(float(own[band].mean()), 3),
            "log_odds_slid": round(float(own[band & slid].mean()), 3), "first": round(float(first[band].mean()), 3),
        }  # fmt: skip
    return found


def scan(names, resolution, seeds):
    """Counts of planted shifts, those proposed and those sure; sure false ones; the scan's seconds."""
    from atomic import planted_case

    count = dict.fromkeys(("chains", "shifts", "proposed", "sure", "false_planted", "false_true", "residues"), 0)
    gains, false, seconds = [], [], 0.0
    for place, name in enumerate(names):
        for seed in range(seeds):
            case = planted_case(name, resolution, 100 * (seed + 1) + 7 * place)
            volume = training_map(case.halves.half_1, case.start, resolution)
            field = Field(case.start, volume, map_weight=map_weight(resolution))
            everything = range(len(case.start))
            xyz, _ = field.window(everything, case.start.xyz).minimise(case.start.xyz, steps=200)
            true, _ = field.window(everything, case.truth.xyz).minimise(case.truth.xyz, steps=200)
            began = time.process_time()
            found = register_scan(field, xyz, rng=0)
            seconds += time.process_time() - began
            edges = np.flatnonzero(np.diff(np.concatenate([[0], case.register, [0]])))
            stretches = [(a, b, case.register[a]) for a, b in zip(edges[:-1], edges[1:]) if case.register[a]]
            right = [[p for p in found if p.shift == k and overlap(p, a, b) >= 0.5] for a, b, k in stretches]
            near = [p for p in found if any(overlap(p, a, b) > 0 for a, b, _ in stretches)]
            wrong = [p for p in found if p not in near]
            above = register_scan(field, true, rng=0)
            gains += [max((p.gain for p in own), default=0.0) for own in right]
            false += [max((p.gain for p in group), default=0.0) for group in (wrong, above)]
            added = (
                1, len(stretches), sum(bool(own) for own in right), sum(any(p.sure for p in own) for own in right),
                sum(p.sure for p in wrong), sum(p.sure for p in above), len(xyz),
            )  # fmt: skip
            count = {key: value + int(more) for (key, value), more in zip(count.items(), added)}
    quantiles = np.quantile(gains, [0.05, 0.25, 0.5]).round(1).tolist()
    return count | {
        "gain_5_25_50": quantiles,
        "false_most": round(max(false), 1),
        "scan_s": round(seconds / count["chains"], 2),
    }


def real():
    """Of windows of a deposited model in its map: share where its register is likelier than others, and by how much."""
    from atomic import DATA

    folder = DATA.parent / "emd30342_7cec"
    volume = io.read_volume(folder / "emd_30342_chainA.mrc.gz", pad=True)
    chains = Chains.of(io.read_model(folder / "7cec_A.cif")).completed()
    field = Field(chains, training_map(volume, chains, 3.9), map_weight=map_weight(3.9))
    relaxed, _ = field.window(range(len(chains)), chains.xyz).minimise(chains.xyz, steps=200)
    found, codes = {}, residue_codes(chains.names)
    for label, xyz in (("deposited", chains.xyz), ("relaxed", relaxed)):
        odds = kinds.kind_log_odds(field, xyz)
        own = odds[np.arange(len(codes)), codes]
        found[label] = {"log_odds": float(own.mean()), "first": float((odds.argmax(axis=1) == codes).mean())}
        for length in (8, 12, 16):
            ahead = []
            for slide in (1, -1, 2, -2):
                for start in range(2, len(codes) - length - 2):
                    inside = np.arange(start, start + length)
                    if len(set(chains.segment[start - 2 : start + length + 2])) == 1:
                        ahead.append((own[inside] - odds[inside, codes[inside + slide]]).sum())
            found[label][f"windows_{length}"] = [float((np.array(ahead) > least).mean()) for least in (0, SURE)]
        proposals = register_scan(field, xyz, rng=0)
        found[label] |= {"proposed": len(proposals), "sure": sum(shift.sure for shift in proposals)}
        print(label, *(f"{key} {np.round(value, 3)}" for key, value in found[label].items()))
    return found


def overlap(shift, first, end):
    """Shared residues over all residues of a proposal and a planted stretch."""
    shared = min(shift.last + 1, end) - max(shift.first, first)
    return max(0, shared) / (max(shift.last + 1, end) - min(shift.first, first))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder of examples")
    parser.add_argument("--sets", type=int, default=12, help="planted models of each entry")
    parser.add_argument("--out", type=Path, help="write what is learnt here")
    parser.add_argument("--scan", action="store_true", help="judge the register scan, learn nothing")
    parser.add_argument("--real", action="store_true", help="judge the log odds in EMD-30342, learn nothing")
    parser.add_argument("--chains", nargs="+", default=None, help="names in ../shared/data/models/bm5")
    parser.add_argument("--resolutions", nargs="+", type=float, default=[3.0, 3.5, 4.0, 4.5], metavar="Å")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if options.real:
        print(json.dumps(real()))
        return
    if options.scan:
        from atomic import DATA

        names, found = options.chains or sorted(p.name[:-7] for p in DATA.glob("*_bound.pdb.gz")), {}
        for resolution in options.resolutions:
            found[resolution] = scan(names, resolution, options.seeds)
            print(resolution, "Å:", *(f"{key} {value}" for key, value in found[resolution].items()), flush=True)
        print(json.dumps(found))
        return
    if options.keep is None:
        parser.error("--keep FOLDER is needed to learn")
    library, start = fragment_library(), time.process_time()
    options.keep.mkdir(parents=True, exist_ok=True)
    where = places(library)
    for seed in range(options.sets):
        for name in sorted(set(library.names)):
            path = options.keep / f"{name}_{seed}.npz"
            if not path.exists():
                values, kind, slid, resolution = examples(library, name, seed, where)
                np.savez(path, values=values.astype(np.float16), kind=kind, slid=slid, resolution=resolution)
        print(f"set {seed}: {time.process_time() - start:.0f} s CPU", flush=True)
    columns, entry = [], []
    for number, name in enumerate(sorted(set(library.names))):
        for seed in range(options.sets):
            with np.load(options.keep / f"{name}_{seed}.npz") as kept:
                values = kept["values"].astype(np.float32)
                columns.append((values, kept["kind"], kept["slid"], np.full(len(values), float(kept["resolution"]))))
            entry += [number] * len(values)
    values, kind, slid, resolution = (np.concatenate(column) for column in zip(*columns))
    out = np.array(entry) % LEFT_OUT == 0
    found = measure(learn(values[~out], kind[~out]), values[out], kind[out], slid[out], resolution[out])
    for band, numbers in found.items():
        print(band, "Å:", *(f"{key} {value}" for key, value in numbers.items()))
    if options.out:
        kept = learn(values, kind) | {"places": where}
        np.savez_compressed(options.out, **{name: array.astype(np.float16) for name, array in kept.items()})
    print(json.dumps({"left_out": found, "cpu_s": round(time.process_time() - start)}))


if __name__ == "__main__":
    main()
