"""How much a model follows the noise of its map: which stage does it, and what the map's weight is worth.

    python benchmarks/atomic_fit.py --chains 1GLA_l_bound --resolutions 3.0 4.0 --factors 0.25 1 4
    python benchmarks/atomic_fit.py --rebuilt --chains 1KXQ_l_bound
    python benchmarks/atomic_fit.py --truth

For the true model of a chain of ``../shared/data`` in simulated half maps: iFSC(work) − iFSC(free) as it is; with B
factors fitted to the training half map; and after the local minimiser, then after annealing (0.5 ps from 300 K), each
into the training half map at multiples of the usual weights. *Weighted* is `atomic.training_map` with its weights for
each shell, *plain* without. No placement is better than the truth, so that what a stage adds to its gap and to its
error is the stage's doing. ``--rebuilt``: a model with planted errors, rebuilt, before and after the last minimisation
(`cryonb.atomic.rebuild.settle`). ``--truth``: the Ramachandran scores of the true models only. JSON last.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from atomic import planted_case

from cryonb import atomic, io, simulate
from cryonb.atomic import anneal, finish, torsions
from cryonb.atomic.rebuild import settle
from cryonb.atomic.residues import CA

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "models" / "bm5"


def scores(truth, xyz, halves, model=None):
    """Numbers of one model."""
    model = truth.moved(xyz).to_model() if model is None else model
    found = atomic.score_models([model], halves.half_1, halves.half_2, halves.resolution)[0]
    apart = ((xyz - truth.xyz) ** 2).sum(axis=2)
    return {
        "work": found.ifsc_work, "free": found.ifsc_free, "gap": found.gap, "rama": found.ramachandran_favoured,
        "molprobity": found.molprobity, "ca": float(np.sqrt(apart[:, CA].mean())),
        "all": float(np.sqrt(apart[truth.present].mean())),
    }  # fmt: skip


def one_case(name, resolution, seed, factors, maps):
    """Rows of one chain at one resolution."""
    truth = atomic.Chains.of(io.read_model(DATA / f"{name}.pdb.gz")).cut_out().completed()
    halves = simulate.half_maps(truth.to_model(), resolution, rng=seed)
    yield ("truth", "", 0.0), scores(truth, truth.xyz, halves)
    fitted = finish.refine_b_factors(truth.to_model(), halves.half_1, resolution, steps=40)
    yield ("truth, B fitted", "", 0.0), scores(truth, truth.xyz, halves, fitted)
    annealer = anneal.Annealer(truth)
    usual = anneal.ANNEAL_WEIGHT
    for kind in maps:
        volume = atomic.training_map(halves.half_1, truth, resolution, weighted=kind == "weighted")
        for factor in factors:
            field = atomic.Field(truth, volume, map_weight=factor * atomic.map_weight(resolution))
            xyz, _ = field.window(range(len(truth)), truth.xyz).minimise(truth.xyz, steps=200)
            yield ("minimised", kind, factor), scores(truth, xyz, halves)
            try:
                anneal.ANNEAL_WEIGHT = factor * usual
                xyz, _ = annealer.run(xyz, field, resolution, rng=seed, picoseconds=0.5, warm=300.0)
            finally:
                anneal.ANNEAL_WEIGHT = usual
            yield ("annealed", kind, factor), scores(truth, xyz, halves)


def rebuilt_case(name, resolution, seed):
    """Rows of one chain with planted errors: one model as it is rebuilt, before and after the last minimisation."""
    case = planted_case(name, resolution, seed)
    truth, start, half = case.truth, case.start, case.halves.half_1
    library = atomic.fragment_library().without([list(truth.names)])
    protocol = atomic.Protocol(models=1)
    volume = atomic.training_map(half, start, resolution)
    made = atomic.rebuild(start, volume, resolution, rng=seed, protocol=protocol, library=library)[0]
    end = start.moved(made.xyz)
    yield ("truth", "", 0.0), scores(truth, truth.xyz, case.halves)
    yield ("rebuilt", "", 0.0), scores(truth, end.xyz, case.halves)
    for kind in ("plain", "weighted"):
        volume = atomic.training_map(half, end, resolution, weighted=kind == "weighted")
        xyz = settle(end, volume, resolution, library=library)
        yield ("rebuilt, last", kind, 0.0), scores(truth, xyz, case.halves)


def main():
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", nargs="+", default=None, help="names in ../shared/data/models/bm5")
    parser.add_argument("--resolutions", nargs="+", type=float, default=[3.0], metavar="Å")
    parser.add_argument("--factors", nargs="+", type=float, default=[0.25, 1.0, 4.0])
    parser.add_argument("--maps", nargs="+", default=["weighted", "plain"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rebuilt", action="store_true", help="one rebuilt model, before and after the last stage")
    parser.add_argument("--truth", action="store_true", help="only the true models' Ramachandran scores")
    options = parser.parse_args()
    chains = options.chains or sorted(p.name[:-7] for p in DATA.glob("*_bound.pdb.gz"))
    if options.truth:
        found = {}
        for name in chains:
            rama = torsions.ramachandran(atomic.Chains.of(io.read_model(DATA / f"{name}.pdb.gz")).cut_out().model)
            found[name] = [round(float(rama.percent_favoured), 2), round(float(rama.percent_outliers), 2)]
            print(name, *found[name], flush=True)
        print(json.dumps({"favoured_median": float(np.median([row[0] for row in found.values()])), "chains": found}))
        return
    rows = []
    for resolution in options.resolutions:
        for name in chains:
            given = (name, resolution, options.seed)
            made = rebuilt_case(*given) if options.rebuilt else one_case(*given, options.factors, options.maps)
            for what, row in made:
                rows.append([name, resolution, *what, row])
                print(name, resolution, *what, *(f"{key}={value:.4f}" for key, value in row.items()), flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
