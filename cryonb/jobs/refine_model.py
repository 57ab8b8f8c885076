"""``python -m cryonb refine-model``: mend and refine an atomic model in one half map, choose by the other."""

import csv
import io as text
import json
from pathlib import Path

from .arguments import seed

__all__ = ["add_arguments", "execute"]


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument("--half1", type=Path, required=True, metavar="MRC", help="unfiltered half map, to build in")
    parser.add_argument("--half2", type=Path, required=True, metavar="MRC", help="the other, to choose by")
    parser.add_argument("--model", type=Path, required=True, metavar="PDB", help="PDB or mmCIF, in the maps' frame")
    parser.add_argument("--resolution", type=float, required=True, metavar="Å", help="where the FSC is 0.143")
    parser.add_argument("--out", "--o", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--chain", nargs="+", metavar="NAME", help="protein chains to refine, the rest of the file fixed (all of them)"
    )
    parser.add_argument("--models", type=int, default=10, help="how many are made to choose from (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of moves and annealing (%(default)s)")
    parser.add_argument("--fragments", type=Path, metavar="DIR", help="PDB or mmCIF files to take fragments from")
    parser.add_argument("--workers", "--j", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--seed", "--random_seed", type=seed, default=0, help="random seed (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def execute(options):
    """Run the job.

    Returns
    -------
    dict : the summary

    Notes
    -----
    Writes ``model.cif``; ``models/``, one mmCIF for each seed; ``residues.csv`` with spread, confidence and P(wrong);
    ``moves.json``; ``report.md``; ``summary.json``. The same command goes on where it was stopped.
    """
    from .. import atomic, io
    from .runs import summary_text

    halves = [io.read_volume(path) for path in (options.half1, options.half2)]
    model = io.read_model(options.model)
    library = None if options.fragments is None else atomic.FragmentLibrary.from_structures(options.fragments)
    found = atomic.refine_model(
        *halves, model, options.resolution, rng=options.seed, chains=options.chain, library=library,
        workers=options.workers, protocol=atomic.Protocol(models=options.models, rounds=options.rounds),
        folder=options.out / "checkpoint", progress=not options.quiet,
    )  # fmt: skip
    (options.out / "models").mkdir(parents=True, exist_ok=True)
    io.write_model(found.model, options.out / "model.cif")
    for score, each in zip(found.scores, found.models):
        io.write_model(each, options.out / "models" / f"seed_{score.seed:03d}.cif")
    moves = [{"kind": m.kind, "residues": m.label, "reason": m.reason, **m.evidence} for m in found.moves]
    chosen = found.scores[found.chosen]
    numbers = {
        "residues": len(found.sites), "models": len(found.models), "chosen_seed": chosen.seed,
        "supported": found.supported, "moves": len(moves),
        **{kind: sum(m.kind == kind for m in found.moves) for kind in dict.fromkeys(m.kind for m in found.moves)},
        "ifsc_work": round(chosen.ifsc_work, 4), "ifsc_free": round(chosen.ifsc_free, 4),
        "ifsc_free_before": round(found.start.ifsc_free, 4), "molprobity": round(chosen.molprobity, 2),
        "molprobity_before": round(found.start.molprobity, 2),
        "ramachandran_favoured_percent": round(chosen.ramachandran_favoured, 1),
        "median_spread_angstrom": round(float(sorted(found.spread)[len(found.spread) // 2]), 2),
    }  # fmt: skip
    _write(options.out / "residues.csv", _residues(found))
    _write(options.out / "moves.json", json.dumps(moves, indent=2, ensure_ascii=False) + "\n")
    _write(options.out / "report.md", _report(options, found, numbers))
    _write(options.out / "summary.json", summary_text(numbers))
    return numbers


def _write(path, content):
    from ..io.formats import replacing

    with replacing(path) as beside:
        beside.write_text(content, encoding="utf-8")


def _residues(found):
    table = text.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["chain", "residue", "spread_angstrom", "confidence", "probability_wrong"])
    for (chain, number), *row in zip(found.sites, found.spread, found.confidence, found.probability_wrong):
        writer.writerow([chain, number, *(f"{value:.3f}" for value in row)])
    return table.getvalue()


def _report(options, found, numbers):
    """What a reader wants to know first, in Markdown."""
    lines = [f"# {options.model.name} at {options.resolution:g} Å", ""]
    lines += [f"- {note}" for note in found.notes] + [""] * bool(found.notes)
    lines += ["| | before | chosen model |", "|---|---|---|"]
    before, after = found.start, found.scores[found.chosen]
    rows = [
        ("iFSC, training half map", "ifsc_work", ".3f"), ("iFSC, validation half map", "ifsc_free", ".3f"),
        ("MolProbity score", "molprobity", ".2f"), ("clashscore", "clashscore", ".1f"),
        ("Ramachandran favoured, %", "ramachandran_favoured", ".1f"),
        ("rotamer outliers, %", "rotamer_outliers", ".1f"),
    ]  # fmt: skip
    lines += [f"| {name} | {getattr(before, key):{form}} | {getattr(after, key):{form}} |" for name, key, form in rows]
    lines += ["", f"Seed {after.seed} of {numbers['models']} models; the median spread of a Cα over them is "
              f"{numbers['median_spread_angstrom']:.2f} Å.", "", f"## {len(found.moves)} moves", ""]  # fmt: skip
    lines += [f"1. {move}" for move in found.moves]
    return "\n".join(lines) + "\n"
