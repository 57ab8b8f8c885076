"""Errors planted in a deposited model, in its real map: which are found, which are mended, what else is changed.

    python benchmarks/atomic_real.py
    python benchmarks/atomic_real.py --seeds 1 2 3 --models 4 --rows FILE
    python benchmarks/atomic_real.py --stages --seeds 0 --charges 1 0.5 0

EMD-30342 (3.9 Å) around chain A of 7CEC, in the developers' folder ``../shared/data``. Into the deposited model go five
turned peptides and a stretch of 8 to 16 residues slid by one (`simulate.plant_errors`); it is then relaxed into the
map. No half maps are at hand: **the map is given as both halves, so that nothing is held out**. The truth is the
deposited model, which may itself be wrong. Seed 0 plants nothing: what is changed then is changed without need. Prints
a row for each seed, and one JSON object last. ``--stages`` prints what each stage of one round changes in its place,
with the charges of the force field scaled; ``--simulated`` does so in a simulated half map of 3.9 Å of the same model.
"""

import argparse
import json
import time
from importlib import import_module
from pathlib import Path

import numpy as np
from atomic import DATA, QUICK, REGISTER, WRONG, average_precision, deviations, flipped

from cryonb import atomic, io, protein, simulate
from cryonb.atomic.errors import probability_wrong
from cryonb.atomic.fragments import residue_codes
from cryonb.atomic.maps import q_score, residue_mean
from cryonb.atomic.moves import fit_rotamers, flip_peptides, shift_registers
from cryonb.atomic.register import register_scan
from cryonb.atomic.rotamers import side_chain_support
from cryonb.atomic.scores import summary

FOLDER = DATA.parent / "emd30342_7cec"
RESOLUTION = 3.9
CLEAR = 0.45  # Q-score of the deposited residue, the mean of the chain: above it the map shows where it is
BESIDE = 3  # residues next to a planted error that are not counted as the rest


def stretches(slid):
    """First and one past last of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(slid, dtype=int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def near(rows, reach):
    """Residues within so many of those of ``rows`` along the chain."""
    return np.convolve(rows, np.ones(2 * reach + 1), mode="same") > 0.5


def p_wrong(model, volume, chains):
    """P(wrong) of the main chain of each residue of the chains."""
    found = probability_wrong(model, volume, RESOLUTION)
    rows = found.residues
    return in_order(chains, rows, found.backbone)


def in_order(chains, rows, values):
    """A value of each of the model's residues, in the order of the chains'."""
    columns = zip(rows.chains, rows.numbers, rows.insertions, values)
    places = {(str(chain), f"{number}{str(letter).strip()}"): value for chain, number, letter, value in columns}
    return np.array([places.get(site, np.nan) for site in chains.sites])


def register_gain(field, xyz, planted, slid, *, slid_now):
    """By how much the side chains of each slid stretch speak for its own place rather than the one beside.

    Sum over the stretch of `side_chain_support` less its mean over the chain, as the scan uses it; ``slid_now`` says
    whether the main chain bears the slid sequence, or the true one.
    """
    support, _ = side_chain_support(field, xyz)
    support = support - support.mean(axis=0)
    codes = residue_codes(field.chains.names)
    gains = []
    for a, b in stretches(slid):
        rows, shift = np.arange(a, b), int(planted.register[a])
        right, wrong = (rows + shift, rows) if slid_now else (rows, rows - shift)
        gains.append(float((support[rows, codes[right]] - support[rows, codes[wrong]]).sum()))
    return gains


def told_apart(volume, truth, resolution, length=12):
    """Share of the stretches of a true model whose side chains speak for their place rather than for the next.

    Both neighbouring places; the chance is about a half. The main chain is the true one: better than any start.
    """
    training = atomic.training_map(volume, truth, resolution)
    field = atomic.Field(truth, training, map_weight=atomic.map_weight(resolution))
    support, _ = side_chain_support(field, truth.xyz)
    support, codes, found = support - support.mean(axis=0), residue_codes(truth.names), []
    for number in np.unique(truth.segment):
        own = np.flatnonzero(truth.segment == number)
        for shift in (-1, 1):
            rows = own[(own + shift >= own[0]) & (own + shift <= own[-1])]
            gain = support[rows, codes[rows]] - support[rows, codes[rows + shift]]
            if len(gain) >= length:
                found += np.convolve(gain, np.ones(length), mode="valid").tolist()
    return float((np.array(found) > 0).mean())


def deposited():
    """The map, and the model in it."""
    volume = io.read_volume(FOLDER / "emd_30342_chainA.mrc.gz", pad=True)
    return volume, atomic.Chains.of(io.read_model(FOLDER / "7cec_A.cif")).completed()


def state(truth, xyz, start, planted, slid, clear):
    """What a model makes of the planted errors, and what it changes elsewhere, among all or what the map shows."""
    alpha, main_chain = deviations(truth, xyz)
    turned, before = flipped(truth, xyz), flipped(truth, start)
    rest = ~near((planted.register != 0) | planted.strained | planted.flipped, BESIDE)
    still = planted.flipped & before
    runs = stretches(slid)
    return {
        "flips": int(still.sum()), "flips_repaired": int((still & ~turned).sum()),
        "shifts": len(runs), "shifts_repaired": sum(bool(np.median(alpha[a:b]) < REGISTER) for a, b in runs),
        "ca_slid": float(np.sqrt((alpha[slid] ** 2).mean())) if slid.any() else float("nan"),
        "ca": float(np.sqrt((alpha**2).mean())), "wrong": int((main_chain > WRONG).sum()),
        "rest": int(rest.sum()), "rest_ca": float(np.sqrt((alpha[rest] ** 2).mean())),
        "rest_wrong": int((main_chain[rest] > WRONG).sum()), "rest_turned": int((turned & rest).sum()),
        "clear_rest": int((rest & clear).sum()), "clear_rest_wrong": int((main_chain[rest & clear] > WRONG).sum()),
        "clear_rest_turned": int((turned & rest & clear).sum()),
    }  # fmt: skip


def one_seed(seed, protocol, options):
    """All numbers of one planting."""
    volume, truth = deposited()
    share, shifts = (options.flips / len(truth), options.shifts) if seed else (0.0, 0)
    planted = simulate.plant_errors(
        truth.to_model(), rng=seed, flips=share, rotamers=0.0, register_shifts=shifts
    )  # fmt: skip
    start = atomic.Chains.of(planted.model).completed()
    training = atomic.training_map(volume, start, RESOLUTION)
    field = atomic.Field(start, training, map_weight=atomic.map_weight(RESOLUTION))
    relaxed, _ = field.window(range(len(start)), start.xyz).minimise(start.xyz, steps=200)
    start = start.moved(relaxed)
    slid, off = np.zeros(len(truth), dtype=bool), deviations(truth, relaxed)[0]
    for a, b in stretches(planted.register != 0):
        slid[a:b] = np.median(off[a:b]) > REGISTER  # relaxation may slide one back
    clear = clarity(truth, volume) > CLEAR
    row = {"seed": seed, "residues": len(truth), "slid": int(slid.sum()), "clear": int(clear.sum())}
    chance = p_wrong(start.to_model(), volume, truth)
    row["auprc"] = average_precision(deviations(truth, relaxed)[1] > WRONG, np.nan_to_num(chance))
    still = planted.flipped & flipped(truth, relaxed)
    row["flips_suspect"] = int((still & ((chance > 0.5) | (np.append(chance[1:], 0) > 0.5))).sum())  # or the next
    row["slid_suspect"] = int((slid & (chance > 0.5)).sum())
    row["rest_suspect"] = int((~near((planted.register != 0) | planted.flipped, BESIDE) & (chance > 0.5)).sum())

    def right(shift):
        return any(
            shift.shift == planted.register[a] and min(b - 1, shift.last) - max(a, shift.first) + 1 >= (b - a) / 2
            for a, b in stretches(slid)
        )

    row["gain_at_start"] = register_gain(field, relaxed, planted, slid, slid_now=True)
    row["gain_at_truth"] = register_gain(field, truth.xyz, planted, slid, slid_now=False)
    proposals = register_scan(field, relaxed, rng=0)
    row["proposed"] = [[s.first, s.last, s.shift, round(s.gain, 2), round(s.threshold, 2), right(s)] for s in proposals]
    row["planted"] = [[a, b - 1, int(planted.register[a])] for a, b in stretches(slid)]
    began = time.process_time()
    xyz, moves = shift_registers(field, relaxed, rng=0)
    xyz, turned = flip_peptides(field, xyz)
    xyz, _ = fit_rotamers(field, xyz)
    row["directed_cpu_s"] = time.process_time() - began
    row["register_moves"], row["flip_moves"] = [str(move) for move in moves], len(turned)
    row["directed"] = state(truth, xyz, relaxed, planted, slid, clear)
    row["start"] = state(truth, relaxed, relaxed, planted, slid, clear)
    began = time.process_time()
    result = atomic.refine_model(volume, volume, start.to_model(), RESOLUTION, rng=seed, protocol=protocol)
    row["cpu_minutes"] = (time.process_time() - began) / 60
    end = atomic.Chains.of(result.model)
    row["end"] = state(truth, end.xyz, relaxed, planted, slid, clear)
    row["moves"] = {k: sum(m.kind == k for m in result.moves) for k in ("register", "flip", "rotamer", "fragment")}
    for name, model in (("deposited", truth.to_model()), ("start", start.to_model()), ("end", result.model)):
        score = summary(model, volume, RESOLUTION)
        row[f"scores_{name}"] = {
            "q": score.q, "emringer": score.emringer, "molprobity": score.geometry.molprobity,
            "rama": score.geometry.ramachandran_favoured, "ifsc": score.ifsc,
        }  # fmt: skip
    return row


def one_seed_by_stages(seed, charges, options):
    """What each stage of a round does to a planted model: rows of stage, numbers."""
    anneal, rebuilding = import_module("cryonb.atomic.anneal"), import_module("cryonb.atomic.rebuild")
    volume, truth = deposited()
    protocol, library = atomic.Protocol(models=1), atomic.fragment_library()
    if options.simulated:
        volume = simulate.half_maps(truth.to_model(), RESOLUTION, rng=1, like=volume).half_1
    share, shifts = (options.flips / len(truth), options.shifts) if seed else (0.0, 0)
    planted = simulate.plant_errors(truth.to_model(), rng=seed, flips=share, rotamers=0.0, register_shifts=shifts)
    start = atomic.Chains.of(planted.model).completed()
    rest, clear = ~near((planted.register != 0) | planted.strained | planted.flipped, BESIDE), clarity(truth, volume)
    training = atomic.training_map(volume, start, RESOLUTION)
    field = atomic.Field(start, training, map_weight=atomic.map_weight(RESOLUTION), ramachandran=library)

    def told(stage, xyz):
        main_chain, score = deviations(truth, xyz)[1], summary(truth.moved(xyz).to_model(), volume, RESOLUTION)
        row = {
            "seed": seed,
            "stage": stage,
            "rest_wrong": int((main_chain[rest] > WRONG).sum()),
            "rest": int(rest.sum()),
        }
        row |= {"clear_wrong": int((main_chain[rest & (clear > CLEAR)] > WRONG).sum())}
        row |= {"ca_median": float(np.median(deviations(truth, xyz)[0][rest]))}
        row |= {"turned": int(flipped(truth, xyz)[rest].sum()), "density": float(field.density(xyz[:, :4]).mean())}
        return row | {"q": score.q, "rama": score.geometry.ramachandran_favoured}

    relaxed, _ = field.window(range(len(start)), start.xyz).minimise(start.xyz, steps=200)
    yield told("deposited", truth.xyz)
    yield told("relaxed", relaxed)
    mended, _ = rebuilding._directed(field, relaxed, protocol, library, thorough=False)
    yield told("directed", mended)
    rng = np.random.default_rng(0)
    yield told(
        "directed, fragments", rebuilding._fragments(field, mended, protocol, library, rng, rebuilding.CUTS[0])[0]
    )
    for charge in charges:
        anneal.CHARGE = charge
        annealer = anneal.Annealer(start.moved(mended), ramachandran=library)
        still, _ = annealer.run(mended, field, RESOLUTION, rng=0, picoseconds=0.0)
        warmed, _ = annealer.run(still, field, RESOLUTION, rng=0, picoseconds=protocol.picoseconds)
        yield told(f"charges {charge:g}, downhill", still)
        yield told(f"charges {charge:g}, annealed", warmed)
        yield told(f"charges {charge:g}, kept", rebuilding.keep_supported(field, still, warmed))


def clarity(truth, volume):
    """Q-score of each residue of the deposited model."""
    model = truth.to_model()
    rows = protein.residues(model)
    return in_order(truth, rows, residue_mean(q_score(model, volume), rows, model.elements))


def shown(value):
    """A row's value in a line of text."""
    if isinstance(value, dict):
        return "{" + " ".join(f"{k}={shown(v)}" for k, v in value.items()) + "}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main():
    """Run the seeds that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, without annealing")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3], help="0 plants nothing")
    parser.add_argument("--flips", type=int, default=5)
    parser.add_argument("--shifts", type=int, default=1)
    parser.add_argument("--models", type=int, default=1, help="there is no half map to choose by")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], help="register flips rotamers anneal fragments")
    parser.add_argument(
        "--rows", type=Path, default=None, help="a row per line of JSON; those it holds are not repeated"
    )
    parser.add_argument("--stages", action="store_true", help="what each stage of a round changes, instead")
    parser.add_argument("--simulated", action="store_true", help="with --stages, in a simulated half map")
    parser.add_argument(
        "--charges", nargs="+", type=float, default=[1.0, 0.5, 0.0], help="with --stages, factors of the force field's"
    )
    options = parser.parse_args()
    if not FOLDER.is_dir():
        print(f"no {FOLDER}: nothing to work on")
        return
    if options.quick:
        options.seeds, options.rounds, options.without = [1], 1, ["anneal"]
    if options.stages:
        rows = []
        for seed in options.seeds:
            for row in one_seed_by_stages(seed, options.charges, options):
                rows.append(row)
                print(shown(row), flush=True)
        print(json.dumps(rows))
        return
    off = {name: 0 if name == "fragments" else False for name in options.without}
    protocol = atomic.Protocol(models=options.models, rounds=options.rounds, **off)
    settings = [options.flips, options.shifts, options.models, options.rounds, sorted(options.without)]
    lines = options.rows.read_text().splitlines() if options.rows and options.rows.exists() else []
    known = {json.dumps(old["case"]): old["row"] for old in map(json.loads, lines)}
    rows, apart = [], {"emd30342": told_apart(*deposited(), RESOLUTION)}
    for name in QUICK:
        chains = atomic.Chains.of(io.read_model(DATA / f"{name}.pdb.gz")).completed()
        half = simulate.half_maps(chains.to_model(), 4.0, rng=1).half_1
        apart[f"{name}, simulated, 4 Å"] = told_apart(half, chains, 4.0)
    print("stretches of 12 residues of a true model that the map tells from the next place:", shown(apart))
    for seed in options.seeds:
        case = [seed, *settings]
        row = known.get(json.dumps(case))
        if row is None:
            row = one_seed(seed, protocol, options)
            if options.rows:
                with open(options.rows, "a") as file:
                    file.write(json.dumps({"case": case, "row": row}) + "\n")
        rows.append(row)
        for key, value in row.items():
            print(f"  {key}: {shown(value)}" if key != "seed" else f"seed {value}", flush=True)
    planted = [row for row in rows if row["seed"]]
    total = {}
    for stage, kinds in (("end", ("flips", "shifts")), ("directed", ())):
        for kind in (*kinds, "flips_repaired", "shifts_repaired"):
            total[kind if stage == "end" else f"{kind}_{stage}"] = sum(row[stage][kind] for row in planted)
    total["shifts_proposed"] = sum(any(p[-1] for p in row["proposed"]) for row in planted)
    total["told_apart"] = apart
    total["rest_wrong"] = [row["end"]["rest_wrong"] for row in rows]
    print(json.dumps(total))


if __name__ == "__main__":
    main()
