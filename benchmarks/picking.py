"""Picking on real β-galactosidase micrographs and on simulated ribosomes.

    python benchmarks/picking.py [--quick] [--data FOLDER]

Part 1 (where the folder of real data is): ten micrographs of EMPIAR-10017 with expert centres, one setting for all.
Those at even places in the list were used in development, the others were not; both are reported. Then 50 clicks on one
micrograph, the rest picked: the clicks are answered by the expert's centres, 20 on random blobs and 30 where the picker
asked. Part 2: simulated 80S ribosomes at 1.5 to 2.5 µm. ``--quick``: two real micrographs and two simulated ones.
Prints one JSON object last; its ``f1_…``, ``precision`` and ``recall`` are of the real micrographs, of simulated ones
where there are none.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cryonb import io, picking, samples, simulate
from cryonb.picking.learning import propose
from cryonb.simulate import Field, Specimen
from cryonb.types import CTF

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "micrographs" / "bgal_10017"
PIXEL, DIAMETER = 1.77, 108 * 1.77  # Å
RIBOSOME, ANGLE_STEP = 300.0, 10.0  # Å, degrees


def real(files):
    """Candidates, true centres and seconds of each micrograph; prints a row for each."""
    found = []
    for path in files:
        micrograph = io.read_micrograph(path, pixel_size=PIXEL)
        centres = np.loadtxt(path.with_suffix(".csv"), delimiter=",")
        start = time.process_time()
        candidates = propose(micrograph, DIAMETER)
        own = picking.score_picks(picking.pick_without_model(candidates, DIAMETER), centres)
        seconds = time.process_time() - start
        blobs = picking.score_picks(picking.pick_blobs(candidates.prepared, DIAMETER), centres)
        print(row(path.stem, blobs, own), f"{seconds:.2f} s", flush=True)
        found.append((candidates, centres, own, blobs, seconds))
    return found


def row(name, blobs, own):
    return (
        f"{name:34s} blobs F1 {blobs.f1:.3f}  own F1 {own.f1:.3f} P {own.precision:.3f} R {own.recall:.3f} "
        f"AP {own.average_precision:.3f} centring {100 * own.centring_error / DIAMETER:.1f} % of the diameter"
    )


def teach(candidates, centres, *, rng, clicks=50, at_random=20):
    """A picker taught by clicks that know the true centres."""
    rng = np.random.default_rng(rng)
    picker, tree = picking.ClickPicker(candidates.prepared.diameter), cKDTree(centres)
    radius = picker.diameter / candidates.prepared.pixel_size / 4
    places = candidates.prepared.to_micrograph(candidates.places)
    likely = np.flatnonzero(candidates.blob > 0.6 * candidates.blob_threshold)
    clicked = places[rng.choice(likely, at_random, replace=False)]
    picker.click(candidates, clicked, tree.query(clicked)[0] < radius)
    while len(clicked) < clicks:
        asked = picker.suggest(candidates, min(10, clicks - len(clicked)), exclude=clicked)
        picker.click(candidates, asked, tree.query(asked)[0] < radius)
        clicked = np.vstack([clicked, asked])
    return picker


def after_clicks(found):
    """Mean F1 on the others, for each micrograph that was clicked."""
    scores = []
    for number, (candidates, centres, *_) in enumerate(found):
        picker = teach(candidates, centres, rng=number)
        others = [picking.score_picks(picker.pick(c), t).f1 for k, (c, t, *_) in enumerate(found) if k != number]
        scores.append(float(np.mean(others)))
    return scores


def simulated(n):
    """Every picker on fields of ribosomes, with and without carbon and dirt; summary and found."""
    ribosome = samples.ribosome()
    references = picking.reference_images(ribosome.volume(96, 4.0), order=1)
    rows, found = [], []
    for number, defocus in enumerate(np.linspace(15_000, 25_000, n)):
        dirty = {"ice_gradient": 0.6, "carbon": 0.15, "contaminants": 4} if number % 2 else {}
        field = Field(CTF(defocus + 200, defocus - 200, 30, b_factor=80), (1024, 1024), 4.0, snr=0.05, **dirty)
        micrograph, truth = simulate.micrograph(Specimen(ribosome, 60, name="80S"), field, rng=100 + number)
        start = time.process_time()
        candidates = propose(micrograph, RIBOSOME)
        own = picking.score_picks(picking.pick_without_model(candidates, RIBOSOME), truth.centres)
        seconds = time.process_time() - start
        templates, plain = (
            picking.score_picks(
                picking.pick_templates(
                    candidates.prepared, references, RIBOSOME, pixel_size=4.0, ctf=ctf, angle_step=ANGLE_STEP
                ),
                truth.centres,
            )
            for ctf in (truth.ctf, None)
        )
        blobs = picking.score_picks(picking.pick_blobs(candidates.prepared, RIBOSOME), truth.centres)
        rows.append([score.f1 for score in (blobs, own, templates, plain)])
        rows[-1] += [score.centring_error for score in (own, templates, plain)]
        found.append((candidates, truth.centres, own, blobs, seconds))
        print(
            f"{defocus:.0f} Å {'dirty' if dirty else 'clean'} F1: blobs {blobs.f1:.3f}, own {own.f1:.3f}, "
            f"templates {templates.f1:.3f} (without CTF {plain.f1:.3f}); centring: own "
            f"{own.centring_error / RIBOSOME:.3f}, templates {templates.centring_error / RIBOSOME:.3f} "
            f"({plain.centring_error / RIBOSOME:.3f}) of the diameter",
            flush=True,
        )
    rows = np.array(rows)
    clean, dirty = rows[::2].mean(0), rows[1::2].mean(0)
    names = ("f1_blobs", "f1_own", "f1_templates", "f1_templates_without_ctf")
    names += ("centring_own", "centring_templates", "centring_templates_without_ctf")
    summary = {}
    for label, values in (("clean", clean), ("dirty", dirty)):
        values = np.append(values[:4], values[4:] / RIBOSOME)
        summary |= {f"simulated_{label}_{name}": round(float(v), 4) for name, v in zip(names, values)}
    return summary, found


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="under a minute")
    arguments.add_argument("--data", type=Path, default=DATA, help="folder of the real micrographs")
    options = arguments.parse_args()
    extra, found = simulated(2 if options.quick else 10)
    files = sorted(options.data.glob("*.jpg"))
    if files:
        found = real(files[:2] if options.quick else files)
        for label, part in (("developed_on", found[::2]), ("held_out", found[1::2])):
            extra[f"f1_{label}"] = round(float(np.mean([entry[2].f1 for entry in part])), 4)
            extra[f"f1_blobs_{label}"] = round(float(np.mean([entry[3].f1 for entry in part])), 4)
    clicks = after_clicks(found)
    mean = {
        name: float(np.mean([getattr(entry[2], name) for entry in found])) for name in ("f1", "precision", "recall")
    }
    print(
        json.dumps(
            {
                "f1_no_training": round(mean["f1"], 4), "f1_clicks": round(float(np.mean(clicks)), 4),
                "precision": round(mean["precision"], 4), "recall": round(mean["recall"], 4),
                "seconds_per_micrograph": round(float(np.mean([entry[4] for entry in found])), 2),
                "f1_clicks_range": [round(min(clicks), 4), round(max(clicks), 4)], "real": bool(files), **extra,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
