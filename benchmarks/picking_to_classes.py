"""From micrographs to class averages: simulate, pick without a model, extract, classify, compare with the truth.

    python benchmarks/picking_to_classes.py

Ribosomes at 8 Å pixels; each class average is compared with the projections of the true volume along 192 directions,
turned in the plane in steps of 6° and shifted, inside the particle's circle. Prints one JSON object last.
"""

import json
import time
from dataclasses import replace

import numpy as np

from cryonb import bayes, filters, fourier, picking, projection, rotations, samples, simulate
from cryonb.simulate import Field, Specimen
from cryonb.types import CTF, Particles, Poses

PIXEL, SIZE, DIAMETER = 8.0, 48, 300.0


def particles(n_micrographs):
    """Particles picked and cut from simulated micrographs."""
    parts = []
    for number in range(n_micrographs):
        defocus = 15_000 + 10_000 * number / n_micrographs
        field = Field(CTF(defocus + 200, defocus - 200, 30, b_factor=80), (1024, 1024), PIXEL, snr=0.3)
        micrograph, truth = simulate.micrograph(Specimen(samples.ribosome(), 150, name="80S"), field, rng=number)
        micrograph = replace(micrograph, ctf=truth.ctf)
        picks = picking.pick_without_model(micrograph, DIAMETER)
        parts.append(picking.extract(micrograph, picks, SIZE, name=f"{number}.mrc", background_radius=170.0)[0])
    fields = CTF.__dataclass_fields__
    ctf = CTF(**{name: np.concatenate([getattr(part.ctf, name) for part in parts]) for name in fields})
    return Particles(np.concatenate([part.images for part in parts]), PIXEL, ctf=ctf)


def likeness(averages):
    """Highest correlation of each average with any projection of the truth."""
    directions = rotations.directions_to_angles(rotations.healpix_directions(2))
    psi = np.arange(0, 360, 6.0)
    angles = np.column_stack([np.repeat(directions, len(psi), axis=0), np.tile(psi, len(directions))])
    volume = samples.ribosome().volume(SIZE, PIXEL)
    volume = filters.low_pass(volume, 25.0)
    disc = fourier.radius_px(SIZE) <= 0.55 * DIAMETER / PIXEL
    best = np.full(len(averages), -1.0)
    filtered = filters.low_pass(averages.astype(np.float32), 25.0, PIXEL) * disc
    centred = np.where(disc, filtered - filtered[:, disc].mean(axis=1)[:, None, None], 0)
    for start in range(0, len(angles), 1000):
        images = projection.project(volume, Poses(rotations.from_relion_angles(angles[start : start + 1000]))) * disc
        images = np.where(disc, images - images[:, disc].mean(axis=1)[:, None, None], 0)
        transforms = np.fft.rfft2(images) / np.linalg.norm(images, axis=(1, 2))[:, None, None]
        for number, average in enumerate(centred):
            correlation = np.fft.irfft2(transforms.conj() * np.fft.rfft2(average), (SIZE, SIZE)) / np.linalg.norm(
                average
            )
            best[number] = max(best[number], correlation.max())
    return best


def main():
    start = time.time()
    found = particles(5)
    classes = bayes.classify_2d(
        found, n_classes=8, rng=0, n_iterations=15, mask_diameter=340.0, workers=1, progress=False
    )
    sizes = np.bincount(classes.label, minlength=8)
    largest = np.argsort(-sizes)[:5]
    scores = likeness(np.asarray(classes.averages)[largest])
    print(json.dumps({
        "particles": len(found), "sizes": sizes[largest].tolist(), "correlation": scores.round(3).tolist(),
        "seconds": round(time.time() - start, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
