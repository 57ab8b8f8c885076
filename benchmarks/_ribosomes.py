"""The particles that the benchmarks of `cryonb.bayes` share: 64 px of 6.3 Å, defocus 1–2.5 µm, shifts of 1.5 px rms."""

import numpy as np
from scipy.optimize import linear_sum_assignment

from cryonb import samples, simulate
from cryonb.types import Volume

SIZE, PIXEL, DIAMETER = 64, 6.3, 330.0
ONE = {"80S with a factor": (1.0, {"factor": True})}
FOUR = {
    "80S with a factor": (0.5, {"factor": True}),
    "80S turned by 6°": (0.2, {"factor": False, "ratchet": 6.0}),
    "80S": (0.2, {"factor": False}),
    "60S": (0.1, {"factor": False, "parts": "60S"}),
}


def draw(states, n, *, seed, snr=0.2):
    """Particles in memory, and their truth."""
    species = [simulate.Species(name, share, state=state) for name, (share, state) in states.items()]
    population = simulate.populate(samples.ribosome(), species, n, rng=[seed, 0])
    imaging = simulate.Imaging(SIZE, PIXEL, snr=snr, shift_sigma=1.5 * PIXEL / np.sqrt(2))
    return simulate.particles(population, imaging, rng=[seed, 1], progress=False, workers=2)


def true_volumes(states, truth):
    """The volume of each state on the grey scale of the particles."""
    volumes = [samples.ribosome().volume(SIZE, PIXEL, **state) for _, state in states.values()]
    return [volume.with_data(volume.data * truth.scale) for volume in volumes]


def mean_volume(states, volumes):
    """The average over the population: what a consensus refinement would give, and where classification starts."""
    return Volume(np.tensordot([share for share, _ in states.values()], [volume.data for volume in volumes], 1), PIXEL)


def scores(label, truth, name):
    """Accuracy under the best naming of the classes, and recall of the rarest species."""
    counts = np.zeros((truth.max() + 1, max(truth.max(), label.max()) + 1), dtype=int)
    np.add.at(counts, (truth, label), 1)
    rows, columns = linear_sum_assignment(-counts)
    rarest = int(np.bincount(truth).argmin())
    return {
        f"{name}_class_accuracy": round(float(counts[rows, columns].sum() / len(truth)), 4),
        f"{name}_minority_recall": round(float(counts[rarest, columns[rarest]] / counts[rarest].sum()), 4),
    }
