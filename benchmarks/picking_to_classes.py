"""From micrographs to class averages and a first volume: simulate, pick without a model, extract, classify, compare.

    python benchmarks/picking_to_classes.py [--figure FILE] [--micrographs N]

Ribosomes at 8 Å pixels; each class average is compared with the projections of the true volume along 192 directions,
turned in the plane in steps of 6° and shifted, inside the particle's circle. The initial volume, from the same
particles and nothing else, is aligned with the truth (both hands tried) and compared by FSC, without a mask. Prints one
JSON object last; ``--figure`` draws averages over projections and slices of both volumes.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryonb import (
    alignment,
    bayes,
    filters,
    fourier,
    picking,
    plot,
    projection,
    resolution,
    rotations,
    samples,
    simulate,
)
from cryonb.simulate import Field, Specimen
from cryonb.types import CTF, Particles, Poses

PIXEL, SIZE, DIAMETER = 8.0, 48, 300.0
MASK, LOW_PASS = 340.0, 25.0  # Å


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
    """Highest correlation of each average with any projection of the truth, and that projection laid over it."""
    directions = rotations.directions_to_angles(rotations.healpix_directions(2))
    psi = np.arange(0, 360, 6.0)
    angles = np.column_stack([np.repeat(directions, len(psi), axis=0), np.tile(psi, len(directions))])
    volume = filters.low_pass(samples.ribosome().volume(SIZE, PIXEL), LOW_PASS)
    disc = fourier.radius_px(SIZE) <= 0.55 * DIAMETER / PIXEL
    best, nearest = np.full(len(averages), -1.0), np.zeros_like(averages)
    filtered = filters.low_pass(averages.astype(np.float32), LOW_PASS, PIXEL) * disc
    centred = np.where(disc, filtered - filtered[:, disc].mean(axis=1)[:, None, None], 0)
    for start in range(0, len(angles), 1000):
        images = projection.project(volume, Poses(rotations.from_relion_angles(angles[start : start + 1000]))) * disc
        images = np.where(disc, images - images[:, disc].mean(axis=1)[:, None, None], 0)
        transforms = np.fft.rfft2(images) / np.linalg.norm(images, axis=(1, 2))[:, None, None]
        for number, average in enumerate(centred):
            correlation = np.fft.irfft2(transforms.conj() * np.fft.rfft2(average), (SIZE, SIZE))
            image, row, column = np.unravel_index(correlation.argmax(), correlation.shape)
            value = correlation[image, row, column] / np.linalg.norm(average)
            if value > best[number]:
                best[number], nearest[number] = value, np.roll(images[image], (row, column), (0, 1))
    return best, nearest


def initial_volume(found):
    """A first volume of the particles aligned with the truth, the truth, and their FSC."""
    model = bayes.initial_model(found, rng=0, mask_diameter=MASK, workers=1, progress=False)
    truth = samples.ribosome().volume(SIZE, PIXEL)
    aligned = alignment.align_volumes(model.volumes[0], truth)
    return aligned, truth, resolution.fourier_shell_correlation(aligned.volume, truth), model.resolution


def draw(path, averages, projections, scores, volume, truth, curve):
    """Averages over projections with their correlation; three slices of the volume over those of the truth."""

    disc = fourier.radius_px(SIZE) <= 0.55 * DIAMETER / PIXEL

    def panels(figure):
        axes = figure.subplots(4, 5)
        for column, (average, image, score) in enumerate(zip(averages, projections, scores)):
            for row, shown in enumerate((filters.low_pass(average, LOW_PASS, PIXEL), image)):
                axes[row, column].imshow(np.where(disc, shown, shown[disc].min()), cmap="gray")
            axes[1, column].set_xlabel(f"correlation {score:.2f}")
        middle, smooth = SIZE // 2, filters.low_pass(truth, LOW_PASS)
        for row, data in ((2, volume.data), (3, smooth.data)):
            for axis in range(3):
                axes[row, axis].imshow(np.take(data, middle, axis=axis), cmap="gray")
        for axis, name in enumerate("zyx"):
            axes[3, axis].set_xlabel(f"slice across {name}")
        for row, name in enumerate(("class average", "projection of\nthe truth", "initial volume", "truth")):
            axes[row, 0].set_ylabel(name)
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
        for ax in axes[2:, 3:].flat:
            ax.remove()
        fsc = figure.add_axes((0.71, 0.09, 0.27, 0.33))
        plot.fourier_shell_correlation(curve, ax=fsc, threshold=0.5)
        fsc.set_title("initial volume against truth")

    path.write_bytes(plot.png(panels, width=8.6, height=7.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--micrographs", type=int, default=5)
    parser.add_argument("--figure", type=Path, help="PNG file")
    options = parser.parse_args()
    start = time.time()
    found = particles(options.micrographs)
    classes = bayes.classify_2d(
        found, n_classes=8, rng=0, n_iterations=15, mask_diameter=MASK, workers=1, progress=False
    )
    sizes = np.bincount(classes.label, minlength=8)
    largest = np.argsort(-sizes)[:5]
    averages = np.asarray(classes.averages)[largest]
    scores, projections = likeness(averages)
    middle = time.time()
    aligned, truth, curve, ended = initial_volume(found)
    if options.figure:
        draw(options.figure, averages, projections, scores, aligned.volume, truth, curve)
    print(json.dumps({
        "particles": len(found), "sizes": sizes[largest].tolist(), "correlation": scores.round(3).tolist(),
        "seconds": round(middle - start, 1), "volume_fsc05_angstrom": round(float(curve.at(0.5)), 1),
        "volume_low_pass_angstrom": round(ended, 1), "mirrored": aligned.mirrored,
        "volume_seconds": round(time.time() - middle, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
