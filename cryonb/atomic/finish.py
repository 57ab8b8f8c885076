"""The last touches on a model: the map's voxel size and origin, the coordinates, the B factors.

Everything here climbs the real-space correlation by its analytic gradient (`density.map_correlation`). The voxel size
comes from the model because chemistry knows how long a bond is and the microscope's magnification is known to a per
cent (Wang et al., eLife 5:e17219 (2016)).
"""

from dataclasses import dataclass

import numpy as np
import scipy.optimize
from scipy.spatial import cKDTree

from .. import protein
from ..projection import atoms_to_density, density_gradients, scattering_factors
from ..projection.scattering import SAMPLED
from ..types import AtomicModel, Volume
from .density import SHARPEN, map_correlation, prepare_map, sample
from .maps import ifsc
from .noise import noise_power

__all__ = [
    "Calibration", "RefinedCoordinates", "calibrate_map", "refine_b_factors", "refine_coordinates", "refine_voxel_size",
]  # fmt: skip

LARGEST = 0.05  # of the voxel size: more is not a calibration
B_RANGE = (5.0, 300.0)  # Å²
CERTAIN = 0.9999  # of a shell's correlation: above it the likelihood is not asked for more
FAINT = 0.05  # of the same: below it the fall of the model's part is not read
PASSES = 3
B_SMOOTH = 2e-4  # of the correlation, for neighbouring residues whose log B differ by 1 rms
NEAR = 2.7  # Å: pairs of bonds and angles
TORSION_NEAR = 4.2  # Å: pairs over a torsion, held softly
WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0)  # of the map against the geometry, tried in turn
STIFF, SOFT, REPEL = 100.0, 0.5, 20.0  # per Å²
CONTACT = 3.0  # Å: atoms not joined come no nearer than this, or than they were
PENALTY = 0.004  # of the free FSC per unit of energy per residue (Wang et al. 2016)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Voxel size and origin that fit a model best.

    Parameters
    ----------
    voxel_size : float
        Å.
    origin : ndarray (3,)
        Å.
    correlation, correlation_before : float
        Real-space correlation with the model, after and before.
    """

    voxel_size: float
    origin: np.ndarray
    correlation: float
    correlation_before: float


@dataclass(frozen=True, eq=False)
class RefinedCoordinates:
    """A model refined with the weight that the free half map chose.

    Parameters
    ----------
    model : AtomicModel
    weight : float
        Of the map; 0 where no weight was better than leaving the model as it was.
    weights, work, free, energy : ndarray (w,)
        What was tried: iFSC against the map refined into and against the other one, and the restraints' energy per
        residue. The first row, weight 0, is the model as it came.
    """

    model: AtomicModel
    weight: float
    weights: np.ndarray
    work: np.ndarray
    free: np.ndarray
    energy: np.ndarray

    @property
    def gap(self):
        """Overfitting: iFSC(work) − iFSC(free) at the chosen weight."""
        chosen = int(np.flatnonzero(self.weights == self.weight)[0])
        return float(self.work[chosen] - self.free[chosen])


def refine_voxel_size(volume, model, resolution, *, fit_origin=True, steps=60):
    """Voxel size and origin of a map from an atomic model.

    Parameters
    ----------
    volume : Volume
        With a voxel size within 5 % of the true one.
    model : AtomicModel
        Placed in the map.
    resolution : float
        Å.
    fit_origin : bool
        Also move the map; without, its centre stays.
    steps : int
        Of L-BFGS, at most.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        The voxel size ran to the 5 % limit, or model and map do not correlate.

    Notes
    -----
    The voxel size scales the map about its centre, so that it and the origin are nearly independent. What is climbed is
    −½ Σ n log(1 − FSC²) over shells of n coefficients to the resolution: the likelihood of voxel size and origin when
    the scale and the noise of each shell are not known. Two things would pass for a scale:

    - A real-space correlation (Wang et al., eLife 5:e17219 (2016)) sees a model whose atoms are off by σ in each
      direction as one with a radius of gyration of √(R² + 3σ²), 1.2 % too large for 4AKE and σ = √3 Å. Shell by shell
      blur has no say.
    - The coarser the model's own frequencies, the better they agree, so that a stretched grid fits better. The fall of
      the FSC that is not the map's noise (`cryonb.atomic.noise.noise_power`) is fitted by exp(−b k²), as Luzzati,
      Acta Cryst. 5:802 (1952), has it for errors of coordinates, and divided out; three passes.
    """
    coordinates, elements = model.coordinates, model.elements
    a, widths = scattering_factors(elements)
    a = a * model.occupancies[:, None]
    drawn_b = model.b_factors + max(0.0, SAMPLED * volume.voxel_size**2 - float(model.b_factors.min()))
    half = volume.size_px // 2
    centre = volume.origin + half * volume.voxel_size
    reach = 0.5 * volume.box_size  # a change of scale by s moves the faces by s · reach
    shells = _Shells(volume, noise_power(volume, coordinates)[0], resolution)

    def drawn(x):
        voxel = volume.voxel_size * (1 + x[0] / reach)
        grid = Volume(volume.data, voxel, centre + x[1:4] * fit_origin - half * voxel)
        return atoms_to_density(coordinates, a, widths, drawn_b, grid)

    def target(x):
        grid = drawn(x)
        value, slope, own = shells.likelihood(grid.data, grid.voxel_size)
        _, _, by_voxel, by_origin = density_gradients(slope, coordinates, a, widths, drawn_b, grid)
        scale = (by_voxel - half * by_origin.sum() + own) * volume.voxel_size / reach
        return -value, -np.concatenate([[scale], by_origin * fit_origin])

    before = _whole_correlation(volume, model, resolution)
    if not before > 0:
        raise ValueError(f"model and map do not correlate ({before:.3f}): dock the model first")
    limits = [(-LARGEST * reach, LARGEST * reach), *[(None, None)] * 3]
    options = {"maxiter": steps, "ftol": 1e-9, "gtol": 1e-8}
    x = np.zeros(4)
    for _ in range(PASSES):
        grid = drawn(x)
        shells.fit_error(grid.data, grid.voxel_size)
        found = scipy.optimize.minimize(target, x, jac=True, method="L-BFGS-B", bounds=limits, options=options)
        x = found.x
    voxel = float(volume.voxel_size * (1 + found.x[0] / reach))
    if abs(found.x[0]) > 0.999 * LARGEST * reach:
        raise ValueError(
            f"the voxel size ran from {volume.voxel_size:g} Å to the limit of {voxel:g} Å: is the model in the map?"
        )
    origin = centre + found.x[1:4] * fit_origin - half * voxel
    after = _whole_correlation(Volume(volume.data, voxel, origin), model, resolution)
    return Calibration(voxel, origin, after, before)


def _whole_correlation(volume, model, resolution):
    return map_correlation(
        volume, model.coordinates, model.elements, b_factors=model.b_factors, resolution=resolution,
        occupancies=model.occupancies,
    ).value  # fmt: skip


class _Shells:
    """A map's Fourier shells, and the likelihood of another density on the same grid given them."""

    def __init__(self, volume, noise, resolution):
        size = volume.size_px
        axis = np.fft.fftfreq(size, 1 / size)
        radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + np.fft.rfftfreq(size, 1 / size) ** 2)
        index = np.rint(radius).astype(np.int64)
        last = min(int(volume.box_size / resolution), size // 2 - 1)
        self._inside = (index > 0) & (index <= last)
        self._index, self._count = index[self._inside] - 1, last
        twice = np.full(radius.shape, 2.0)
        twice[..., 0] = 1.0
        self._twice = twice[self._inside]
        self._size, self._spectrum = size, np.fft.rfftn(volume.data)[self._inside]
        self._number = self._sum(np.ones(len(self._index)))
        self._power = np.maximum(self._sum(np.abs(self._spectrum) ** 2), 1e-100)
        self._square = ((np.arange(last) + 1) / volume.box_size) ** 2
        share = 1 - noise[1 : last + 1] * size**3 * self._number / self._power
        self._map_part = 0.5 * np.log(np.clip(share, FAINT**2, 1))
        self.error, self._reference = 0.0, volume.voxel_size

    def _sum(self, values):
        return np.bincount(self._index, self._twice * values, minlength=self._count)

    def compare(self, density, voxel):
        """FSC of each shell with a density on the grid stretched to a voxel size; its spectrum and power."""
        drawn = np.fft.rfftn(density)[self._inside]
        power = np.maximum(self._sum(np.abs(drawn) ** 2), 1e-100)
        norm = np.sqrt(power * self._power)
        fsc = self._sum((drawn.conj() * self._spectrum).real) / norm
        return np.clip(fsc, 0, CERTAIN), drawn, power, norm

    def fit_error(self, density, voxel):
        """Å²: how fast the model's part of the FSC falls, exp(−b k²), by what each shell has to say."""
        fsc = self.compare(density, voxel)[0]
        told = fsc > FAINT
        weight = (self._number * fsc**2 / (1 - fsc**2))[told]
        height, square = np.log(fsc[told]) - self._map_part[told], self._square[told]
        middle = np.average(square, weights=weight)
        square = square - middle
        slope = np.average(square * height, weights=weight) / max(np.average(square**2, weights=weight), 1e-12)
        self.error, self._reference = max(0.0, -float(slope)), voxel

    def likelihood(self, density, voxel):
        """Per coefficient, its derivative with respect to each voxel, and that to the voxel size at a fixed density."""
        fsc, drawn, power, norm = self.compare(density, voxel)
        ratio = self._reference / voxel
        level = np.exp(-self.error * self._square * (1 - ratio**2))
        fsc = np.minimum(fsc * level, CERTAIN)
        value = -0.5 * (self._number * np.log1p(-(fsc**2))).sum() / self._number.sum()
        pull = self._number * fsc / (1 - fsc**2) / self._number.sum()
        slope = np.zeros((self._size, self._size, self._size // 2 + 1), dtype=complex)
        along = (pull * level / norm)[self._index] * self._spectrum - (pull * fsc / power)[self._index] * drawn
        slope[self._inside] = along
        own = (pull * fsc * -2 * self.error * self._square * ratio**2 / voxel).sum()
        return value, self._size**3 * np.fft.irfftn(slope, s=density.shape, axes=(0, 1, 2)), own


def calibrate_map(volume, calibration):
    """The map with another voxel size and origin.

    Parameters
    ----------
    volume : Volume
    calibration : Calibration

    Returns
    -------
    Volume: the same values.
    """
    return Volume(volume.data, calibration.voxel_size, calibration.origin)


def refine_b_factors(model, volume, resolution, *, steps=80):
    """One B factor per residue, from the map.

    Parameters
    ----------
    model : AtomicModel
    volume : Volume
        As reconstructed, or sharpened: the B factors describe this very map, so sharpen first what is to be low.
    resolution : float
        Å.
    steps : int

    Returns
    -------
    AtomicModel: all atoms of a residue share one B, between 5 and 300 Å².

    Notes
    -----
    Log B climbs the correlation with a penalty on the difference between neighbours along the chain. The correlation
    does not depend on the scale of the map, and hardly on what all B factors have in common: read differences.
    """
    groups = _residue_of_each_atom(model)
    count = groups.max() + 1
    coordinates, elements = model.coordinates, model.elements
    start = np.array([model.b_factors[groups == g].mean() for g in range(count)])

    def target(x):
        b = np.exp(x)
        found = map_correlation(
            volume, coordinates, elements, b_factors=b[groups], resolution=resolution, occupancies=model.occupancies
        )
        step = np.diff(x)
        slope = np.bincount(groups, weights=found.b_factors, minlength=count) * b
        smooth = np.zeros(count)
        smooth[1:] += step
        smooth[:-1] -= step
        penalty = B_SMOOTH / max(count - 1, 1)
        return -found.value + penalty * (step**2).sum(), -slope + 2 * penalty * smooth

    limits = [tuple(np.log(B_RANGE))] * count
    x = np.log(np.clip(start, *B_RANGE))
    options = {"maxiter": steps, "ftol": 1e-10, "gtol": 1e-9}
    found = scipy.optimize.minimize(target, x, jac=True, method="L-BFGS-B", bounds=limits, options=options)
    return protein.with_atoms(model, b_factors=np.exp(found.x)[groups])


def refine_coordinates(model, half_1, half_2, resolution, *, weights=WEIGHTS, steps=100, b_factor=SHARPEN):
    """Refine coordinates into one half map, with the weight that the other half map chooses.

    Parameters
    ----------
    model : AtomicModel
        Of good geometry: its bonds and angles are what the result is held to.
    half_1 : Volume
        Refined into.
    half_2 : Volume
        Only chooses the weight.
    resolution : float
        Å.
    weights : sequence of float
        Of the map against the restraints, tried in turn.
    steps : int
        Of L-BFGS, for each weight.
    b_factor : float
        Å², by which the map is sharpened first.

    Returns
    -------
    RefinedCoordinates

    Raises
    ------
    ValueError
        Half maps of different boxes.

    Notes
    -----
    Chosen is the largest U = iFSC(free) − 0.004 · energy per residue (Wang et al. 2016), the energy being that of the
    restraints here: 1–2 and 1–3 distances stiffly and 1–4 softly at what they were, and no new contacts.
    """
    if half_1.data.shape != half_2.data.shape or not np.isclose(half_1.voxel_size, half_2.voxel_size):
        raise ValueError(f"half maps must share box and voxel size, got {half_1!r} and {half_2!r}")
    seen = prepare_map(half_1, resolution, b_factor=b_factor)
    start = model.coordinates
    unit = float(np.sqrt((sample(seen, start) ** 2).mean()))
    weigh = model.atomic_numbers / 6 * model.occupancies
    pairs, length, stiff, contacts, closest = _restraints(start)
    residues = max(len(protein.residues(model)), 1)

    def restraints(xyz):
        slope = np.zeros_like(xyz)
        energy = 0.0
        for index, aim, hard, only_near in ((pairs, length, stiff, False), (contacts, closest, REPEL, True)):
            arm = xyz[index[:, 0]] - xyz[index[:, 1]]
            distance = np.maximum(np.linalg.norm(arm, axis=1), 1e-6)
            off = distance - aim
            off = np.minimum(off, 0) if only_near else off
            energy += float((hard * off**2).sum())
            force = (2 * hard * off / distance)[:, None] * arm
            np.add.at(slope, index[:, 0], force)
            np.add.at(slope, index[:, 1], -force)
        return energy, slope

    def target(flat, weight):
        xyz = flat.reshape(-1, 3)
        values, slopes = sample(seen, xyz, order=3, gradient=True)
        energy, slope = restraints(xyz)
        total = energy - weight * (weigh * values).sum() / unit
        return total, (slope - weight * weigh[:, None] * slopes / unit).ravel()

    rows, answers = [(0.0, ifsc(model, half_1, resolution), ifsc(model, half_2, resolution), 0.0)], [start]
    for weight in weights:
        options = {"maxiter": steps}
        found = scipy.optimize.minimize(
            target, answers[-1].ravel(), (float(weight),), jac=True, method="L-BFGS-B", options=options
        )
        xyz = found.x.reshape(-1, 3)
        work, free = (ifsc(model, half, resolution, coordinates=xyz) for half in (half_1, half_2))
        rows.append((float(weight), work, free, restraints(xyz)[0] / residues))
        answers.append(xyz)
    tried = np.array(rows).T
    best = int((tried[2] - PENALTY * tried[3]).argmax())
    return RefinedCoordinates(protein.with_atoms(model, coordinates=answers[best]), float(tried[0][best]), *tried)


def _restraints(xyz):
    """Pairs with their lengths and stiffness, and contacts with the least distance."""
    close = cKDTree(xyz).query_pairs(TORSION_NEAR + 1.0, output_type="ndarray")
    distance = np.linalg.norm(xyz[close[:, 0]] - xyz[close[:, 1]], axis=1)
    bonds = distance < 2.0
    graph = {}
    for a, b in close[bonds]:
        graph.setdefault(int(a), set()).add(int(b))
        graph.setdefault(int(b), set()).add(int(a))
    kind = np.zeros(len(close), dtype=np.int64)  # bonds apart, 0 for more than three
    for row, (a, b) in enumerate(close):
        near = graph.get(int(a), set())
        if int(b) in near:
            kind[row] = 1
        elif near & graph.get(int(b), set()):
            kind[row] = 2
        elif any(graph.get(i, set()) & graph.get(int(b), set()) for i in near):
            kind[row] = 3
    held = (kind > 0) & (distance < TORSION_NEAR)
    stiff = np.where(kind[held] < 3, STIFF, SOFT)
    free = kind == 0
    return close[held], distance[held], stiff, close[free], np.minimum(distance[free], CONTACT)


def _residue_of_each_atom(model):
    """A number per residue, ligands too, for each atom; ndarray (atoms,) int."""
    numbers, count = [], 0
    for chain in model.structure[0]:
        for residue in chain:
            numbers += [count] * len(residue)
            count += len(residue) > 0
    return np.array(numbers, dtype=np.int64)
