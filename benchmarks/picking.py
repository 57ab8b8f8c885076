"""Picking on real β-galactosidase micrographs and on simulated ribosomes.

    python benchmarks/picking.py [--quick] [--only simulated] [--data FOLDER]

Part 1 (where the folder of real data is): ten micrographs of EMPIAR-10017 with expert centres, one setting for all.
Those at even places in the list were used in development, the others were not; both are reported. Then 50 clicks on one
micrograph, the rest picked: the clicks are answered by the expert's centres, 20 on random blobs and 30 where the picker
asked. Part 2: simulated 80S ribosomes at 1.5 to 2.5 µm; then (not with
``--quick``) the picks of the picker without a model are cut out, sorted into 2D classes and made into a first volume,
each from the particles alone, and moved by the shifts found there. The volume is the one of three seeds that explains
the images best; the truth has no part in that. ``--only simulated`` leaves part 1 out. ``--quick``: two real
micrographs and two simulated ones. Prints one JSON object last; its ``f1_…``, ``precision`` and ``recall`` are of the
real micrographs, of simulated ones where there are none.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from cryonb import bayes, filters, io, picking, samples, simulate
from cryonb.picking.learning import propose
from cryonb.simulate import Field, Specimen
from cryonb.types import CTF, Particles

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "micrographs" / "bgal_10017"
PIXEL, DIAMETER = 1.77, 108 * 1.77  # Å
RIBOSOME, ANGLE_STEP = 300.0, 10.0  # Å, degrees
BOX, SMALL, MASK = 96, 48, 330.0  # px as cut, px as aligned, Å
CLASSES, SEEDS = 50, 3


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
    references = picking.reference_images(ribosome.volume(96, 4.0), order=2)
    rows, found, fields = [], [], []
    for number, defocus in enumerate(np.linspace(15_000, 25_000, n)):
        dirty = {"ice_gradient": 0.6, "carbon": 0.15, "contaminants": 4} if number % 2 else {}
        field = Field(CTF(defocus + 200, defocus - 200, 30, b_factor=80), (1024, 1024), 4.0, snr=0.05, **dirty)
        micrograph, truth = simulate.micrograph(Specimen(ribosome, 60, name="80S"), field, rng=100 + number)
        start = time.process_time()
        candidates = propose(micrograph, RIBOSOME)
        picks = picking.pick_without_model(candidates, RIBOSOME)
        own = picking.score_picks(picks, truth.centres)
        seconds = time.process_time() - start
        fields.append((replace(micrograph, ctf=truth.ctf), truth.centres, picks))
        templates, plain = (
            picking.score_picks(
                picking.pick_templates(
                    micrograph, references, RIBOSOME, pixel_size=4.0, ctf=ctf, angle_step=ANGLE_STEP
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
    return summary, found, fields


def cut(fields):
    """Particles of all fields at half the sampling, and for each field where its boxes lie."""
    parts, boxes = [], []
    for micrograph, _, picks in fields:
        particles, kept = picking.extract(micrograph, picks, BOX, background_radius=MASK / 2)
        parts.append(particles)
        places = particles.metadata[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy(float)
        boxes.append(replace(picks[kept], centres=places))
    names = CTF.__dataclass_fields__
    lens = CTF(**{name: np.concatenate([getattr(part.ctf, name) for part in parts]) for name in names})
    particles = Particles(np.concatenate([part.images for part in parts]), parts[0].pixel_size, ctf=lens)
    return filters.resample(particles, SMALL), boxes


def after_alignment(fields):
    """Centring in shares of the diameter and F1 before and after 2D classes and a first volume."""
    particles, boxes = cut(fields)
    start = np.cumsum([0, *map(len, boxes)])

    def scored(label, moved):
        scores = [picking.score_picks(picks, truth) for picks, (_, truth, _) in zip(moved, fields)]
        numbers = {}
        for kind, part in (("clean", scores[::2]), ("dirty", scores[1::2])):
            away = np.concatenate([score.distance[score.hit] for score in part])
            numbers[f"simulated_{kind}_centring_{label}"] = round(float(np.sqrt((away**2).mean()) / RIBOSOME), 4)
            numbers[f"simulated_{kind}_f1_{label}"] = round(float(np.mean([score.f1 for score in part])), 4)
            numbers[f"simulated_{kind}_median_{label}"] = round(float(np.median(away) / RIBOSOME), 4)
        print(label, numbers, flush=True)
        return numbers

    def moved(poses, centre):
        return [
            picking.recentre(picks, poses[first:last], centre=centre[first:last])
            for picks, first, last in zip(boxes, start, start[1:])
        ]

    began = time.process_time()
    classes = bayes.classify_2d(
        particles, n_classes=CLASSES, rng=0, n_iterations=20, mask_diameter=MASK, workers=1, progress=False
    )
    used, member = np.unique(classes.label, return_inverse=True)
    centre = picking.centre_of_mass(classes.averages[used], classes.pixel_size)[member]
    extra = scored("cut", boxes) | scored("classes", moved(classes.poses, centre))
    extra["seconds_classes"], began = round(time.process_time() - began, 1), time.process_time()
    models = []
    for seed in range(SEEDS):
        models.append(bayes.initial_model(particles, rng=seed, mask_diameter=MASK, workers=1, progress=False))
        evidence = float(models[-1].log_evidence.mean())
        print(f"seed {seed}: log-evidence {evidence:.2f}, Pmax {models[-1].pmax.mean():.3f}", flush=True)
        centre = np.tile(picking.centre_of_mass(models[-1].volumes[0]), (len(particles), 1))
        scored(f"seed {seed}", moved(models[-1].poses, centre))
    best = max(models, key=lambda model: model.log_evidence.mean())
    centre = np.tile(picking.centre_of_mass(best.volumes[0]), (len(particles), 1))
    extra |= scored("volume", moved(best.poses, centre))
    return extra | {"seconds_volumes": round(time.process_time() - began, 1), "particles_cut": len(particles)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="under a minute")
    arguments.add_argument("--data", type=Path, default=DATA, help="folder of the real micrographs")
    arguments.add_argument("--only", choices=["simulated"], help="leave the real micrographs out")
    options = arguments.parse_args()
    extra, found, fields = simulated(2 if options.quick else 10)
    if not options.quick:
        extra |= after_alignment(fields)
    files = [] if options.only else sorted(options.data.glob("*.jpg"))
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
