"""Rebuilding models with planted errors in simulated half maps: what is repaired, how good the result is, in what time.

    python benchmarks/atomic.py --quick
    python benchmarks/atomic.py --resolutions 3.0 4.0 --models 10
    python benchmarks/atomic.py --quick --start unbound --peer openmm
    python benchmarks/atomic.py --quick --peer servalcat mmtbx --peer-python PYTHON

Chains are crystal structures of the developers' folder ``../shared/data`` (docking benchmark 5); their homologues
leave the fragment library. The start has peptides turned, wrong rotamers and register shifts
planted in it (`simulate.plant_errors`) and is relaxed into the training half map; or it is the unbound form, laid over
the bound one in whose map it is put. Peers start from the same model and see the same half map 1 (``_atomic_peers.py``
says how they are run). Prints a row for each case, and one JSON object last.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cryonb import atomic, io, simulate
from cryonb.atomic import torsions
from cryonb.atomic.moves import shift_registers
from cryonb.atomic.residues import CA, OXYGEN, C

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "models" / "bm5"
QUICK = ("1FSK_l_bound", "1A2K_l_bound", "1HE1_l_bound")
WRONG = 1.0  # Å, rms of a residue's main chain: Wang's definition of a wrong residue
REGISTER = 1.5  # Å, Cα: nearer than this a shifted residue is back in its place


def deviations(truth, xyz):
    """Of each residue in Å: Cα, and rms of the main chain."""
    off = ((xyz[:, :4] - truth.xyz[:, :4]) ** 2).sum(axis=2)
    return np.sqrt(off[:, CA]), np.sqrt(off.mean(axis=1))


def flipped(truth, xyz):
    """Which carbonyls point away from the true one."""
    found, true = (x[:, OXYGEN] - x[:, C] for x in (xyz, truth.xyz))
    return (found * true).sum(axis=1) < 0


def average_precision(wrong, score):
    """Area under precision over recall; a high score says wrong."""
    order = np.argsort(-score)
    hit = wrong[order]
    return float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean()) if hit.any() else float("nan")


@dataclass(frozen=True)
class Case:
    """A start, what it should become, and where it is known to be wrong."""

    truth: atomic.Chains
    start: atomic.Chains
    halves: simulate.HalfMaps
    flipped: np.ndarray
    register: np.ndarray


def planted_case(name, resolution, seed):
    """A bound chain with planted errors, relaxed into the training half map."""
    truth = atomic.Chains.of(io.read_model(DATA / f"{name}.pdb.gz")).completed()
    halves = simulate.half_maps(truth.to_model(), resolution, rng=seed)
    planted = simulate.plant_errors(truth.to_model(), rng=seed + 1)
    start = atomic.Chains.of(planted.model).completed()
    volume = atomic.training_map(halves.half_1, start, resolution)
    field = atomic.Field(start, volume, map_weight=atomic.map_weight(resolution))
    relaxed, _ = field.window(range(len(start)), start.xyz).minimise(start.xyz, steps=200)
    return Case(truth, start.moved(relaxed), halves, planted.flipped, planted.register)


def unbound_case(name, resolution, seed):
    """The unbound form of a bound chain, its Cα laid over those of the bound one, in the bound one's half maps.

    Residues that both forms have; no ligands. Every carbonyl that points elsewhere counts as flipped.
    """
    bound, free = (
        atomic.Chains.of(io.read_model(DATA / f"{name.removesuffix('bound')}{form}.pdb.gz"))
        for form in ("bound", "unbound")
    )
    halves = simulate.half_maps(bound.cut_out().model, resolution, rng=seed)
    places = {(site, str(residue)): i for i, (site, residue) in enumerate(zip(free.sites, free.names))}
    common = [(i, places.get((site, str(name)))) for i, (site, name) in enumerate(zip(bound.sites, bound.names))]
    rows = np.array([pair for pair in common if pair[1] is not None]).T
    truth, start = (alone(chains.part(own)).completed() for chains, own in zip((bound, free), rows))
    middle = [chains.xyz[:, CA].mean(axis=0) for chains in (truth, start)]
    turn, _ = Rotation.align_vectors(truth.xyz[:, CA] - middle[0], start.xyz[:, CA] - middle[1])
    laid = np.einsum("ij,nsj->nsi", turn.as_matrix(), start.xyz - middle[1]) + middle[0]
    return Case(truth, start.moved(laid), halves, flipped(truth, laid), np.zeros(len(truth), dtype=int))


def alone(chains):
    """The chains without anything beside them."""
    return replace(chains.cut_out(), others=np.zeros((0, 3)), other_elements=np.zeros(0, dtype=str), links=())


def one_case(case, name, resolution, seed, protocol, library, workers):
    """Numbers of one start at one resolution."""
    truth, start, halves = case.truth, case.start, case.halves
    volume = atomic.training_map(halves.half_1, start, resolution)
    field = atomic.Field(start, volume, map_weight=atomic.map_weight(resolution))
    _, main_chain = deviations(truth, start.xyz)
    library = library.without([list(truth.names)])
    settled, _ = field.window(range(len(truth)), truth.xyz).minimise(truth.xyz, steps=200)
    _, false_moves = shift_registers(field, settled, rng=0, library=library) if protocol.register else (None, [])
    began, cpu = time.perf_counter(), time.process_time()
    result = atomic.refine_model(
        halves.half_1, halves.half_2, start.to_model(), resolution, rng=seed, protocol=protocol, library=library,
        workers=workers,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    cpu_seconds = time.process_time() - cpu if workers == 1 else float("nan")
    score = result.scores[result.chosen]
    form = atomic.score_models([result.model], halves.half_1, halves.half_2, resolution)[0]
    return {
        **described(case, name, resolution, atomic.Chains.of(result.model), result.start, form),
        "auprc": average_precision(main_chain > WRONG, result.probability_wrong_before),
        "false_registers": len(false_moves), "ifsc_free": score.ifsc_free, "ifsc_gap": score.gap,
        "moves": len(result.moves), "spread": float(np.median(result.spread)),
        "cpu_minutes": cpu_seconds / 60, "minutes": seconds / 60,
    }  # fmt: skip


def peer_case(case, name, resolution, peer, python, monomers):
    """Numbers of another program's refinement of the same start in the same half map."""
    from _atomic_peers import refine  # beside this file: found where this file is what is run

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model, cpu_seconds = refine(peer, python, monomers, case.start, case.halves, resolution, Path(folder))
    seconds = time.perf_counter() - began
    end = atomic.Chains.of(model).completed()
    if list(end.names) != list(case.truth.names):
        raise RuntimeError(f"{peer} returned {len(end)} residues of {name}, other than the {len(case.truth)} it got")
    start, form = (
        atomic.score_models([one], case.halves.half_1, case.halves.half_2, resolution)[0]
        for one in (case.start.to_model(), end.to_model())
    )
    return {
        **described(case, name, resolution, end, start, form), "ifsc_free": form.ifsc_free, "ifsc_gap": form.gap,
        "cpu_minutes": cpu_seconds / 60, "minutes": seconds / 60,
    }  # fmt: skip


def described(case, name, resolution, end, start_score, end_score):
    """What became of the errors of the start, and the model's form at both ends."""
    truth, start = case.truth, case.start
    alpha_start, main_chain_start = deviations(truth, start.xyz)
    alpha, main_chain = deviations(truth, end.xyz)
    before, after = flipped(truth, start.xyz), flipped(truth, end.xyz)
    still = case.flipped & before  # relaxation may turn one back
    slid = (case.register != 0) & (alpha_start > REGISTER)
    stretch = np.flatnonzero(np.diff(np.concatenate([[0], slid.astype(int), [0]])))
    stretches = [(a, b) for a, b in zip(stretch[::2], stretch[1::2]) if b - a >= 3]
    back = [bool(np.median(alpha[a:b]) < REGISTER) for a, b in stretches]
    return {
        "chain": name, "residues": len(truth), "resolution": resolution,
        "shifts": len(stretches), "shifts_repaired": sum(back),
        "flips": int(still.sum()), "flips_repaired": int((still & ~after).sum()),
        "flips_wrong_start": int(before.sum()), "flips_wrong_end": int(after.sum()),
        "ca_start": float(np.sqrt((alpha_start**2).mean())), "ca_end": float(np.sqrt((alpha**2).mean())),
        "wrong_start": int((main_chain_start > WRONG).sum()), "wrong_end": int((main_chain > WRONG).sum()),
        "molprobity_start": start_score.molprobity, "molprobity": end_score.molprobity,
        "clashscore": end_score.clashscore, "rotamer_outliers": end_score.rotamer_outliers,
        "rama_start": start_score.ramachandran_favoured, "rama": end_score.ramachandran_favoured,
        "ifsc_free_start": start_score.ifsc_free,
        **beside_truth(truth, end, case.halves, resolution),
    }  # fmt: skip


def beside_truth(truth, end, halves, resolution):
    """The true model's own shares, and of its residues in favoured regions those that left them."""
    own = atomic.score_models([truth.to_model()], halves.half_1, halves.half_2, resolution)[0]
    before, after = (
        dict(zip(zip(rama.residues.chains.tolist(), rama.residues.numbers.tolist()), rama.favoured.tolist()))
        for rama in (torsions.ramachandran(chains.to_model()) for chains in (truth, end))
    )
    lost = sum(good and not after.get(site, True) for site, good in before.items())
    gained = sum(after.get(site, False) and not good for site, good in before.items())
    return {"rama_truth": own.ramachandran_favoured, "ifsc_gap_truth": own.gap, "ifsc_free_truth": own.ifsc_free,
            "rama_lost": int(lost), "rama_gained": int(gained)}  # fmt: skip


def main():
    """Run the cases that were asked for."""
    import _atomic_peers as peers

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three chains at 3.0 Å, four models each")
    parser.add_argument("--chains", nargs="+", default=None, help="names in ../shared/data/models/bm5")
    parser.add_argument("--resolutions", nargs="+", type=float, default=[3.0], metavar="Å")
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes; CPU time is known for 1 only")
    parser.add_argument(
        "--rows", type=Path, default=None, help="a row per line of JSON; cases that it holds are not repeated"
    )
    parser.add_argument(
        "--start",
        choices=("planted", "unbound"),
        default="planted",
        help="the bound form with errors, or the unbound one",
    )
    parser.add_argument(
        "--peer",
        nargs="+",
        choices=("openmm", *peers.PEERS),
        default=[],
        help="beside ours; openmm: the same annealing, seeds and choice, without moves",
    )
    parser.add_argument("--peers-only", action="store_true", help="without ours")
    parser.add_argument("--peer-python", default=None, help="an interpreter that has servalcat and cctbx-base")
    parser.add_argument("--monomers", default=None, help="folder of a CCP4 monomer library, for servalcat and mmtbx")
    parser.add_argument(
        "--without", nargs="*", default=[], help="ablation: register flips rotamers ramachandran anneal fragments"
    )
    options = parser.parse_args()
    chains = options.chains or (QUICK if options.quick else sorted(p.name[:-7] for p in DATA.glob("*_bound.pdb.gz")))
    off = {name: 0 if name == "fragments" else False for name in options.without}
    protocol = atomic.Protocol(models=4 if options.quick else options.models, rounds=options.rounds, **off)
    methods = {} if options.peers_only else {"ours": protocol}
    if "openmm" in options.peer:
        methods["openmm"] = replace(protocol, register=False, flips=False, rotamers=False, fragments=0)
    others = [peer for peer in options.peer if peer in peers.PEERS]
    monomers = peers.find_monomers(options.peer_python, options.monomers) if others else None
    for peer in others:
        why = peers.absent(peer, options.peer_python, monomers)
        if why:
            print(why, flush=True)
        else:
            methods[peer] = None
    make_case = planted_case if options.start == "planted" else unbound_case
    rows = {method: [] for method in methods}
    settings = [options.seed, protocol.models, protocol.rounds, sorted(options.without)]
    known = (
        [json.loads(line) for line in options.rows.read_text().splitlines()]
        if options.rows and options.rows.exists()
        else []
    )
    for resolution in [3.0] if options.quick else options.resolutions:
        for name in chains:
            made = None
            for method, switches in methods.items():
                special = [] if (options.start, method) == ("planted", "ours") else [options.start, method]
                own = settings if switches is not None else [options.seed, None, None, []]  # a program has one model
                case = [name, resolution, [*own, *special]]
                row = next((old["row"] for old in known if old["case"] == case), None)
                if row is None:
                    made = made or make_case(name, resolution, options.seed)
                    if switches is None:
                        row = peer_case(made, name, resolution, method, options.peer_python, monomers)
                    else:
                        given = (name, resolution, options.seed, switches, atomic.fragment_library(), options.workers)
                        row = one_case(made, *given)
                    if options.rows:
                        with open(options.rows, "a") as file:
                            file.write(json.dumps({"case": case, "row": row}) + "\n")
                rows[method].append(row)
                words = [f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()]
                print(method, *words, flush=True)
    found = {}
    for method in rows:
        prefix = "" if method == "ours" else f"{method}_"
        found |= {f"{prefix}{key}": value for key, value in summary(rows[method]).items()}
    print(json.dumps(found))


def share(some, of):
    """A ratio; None of nothing."""
    return some / of if of else None


def summary(rows):
    """The numbers of one method over its rows."""
    total = {key: sum(row[key] for row in rows) for key in ("shifts", "shifts_repaired", "flips", "flips_repaired")}
    residues = sum(row["residues"] for row in rows)
    median = {key: float(np.median([row[key] for row in rows])) for key in rows[0] if isinstance(rows[0][key], float)}
    false_registers = [row["false_registers"] for row in rows if "false_registers" in row]
    return {
        "auprc": median.get("auprc"), "register_repaired": share(total["shifts_repaired"], total["shifts"]),
        "false_register_per_1000": 1000 * sum(false_registers) / residues if false_registers else None,
        "flips_repaired": share(total["flips_repaired"], total["flips"]), "ca_rmsd_median": median["ca_end"],
        "molprobity_median": median["molprobity"], "rama_favoured_median": median["rama"],
        "ca_rmsd_start_median": median["ca_start"], "ifsc_free_median": median["ifsc_free"],
        "ifsc_gap_median": median["ifsc_gap"], "cpu_minutes_median": median["cpu_minutes"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
