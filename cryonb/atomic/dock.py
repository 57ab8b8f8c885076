"""Where a model lies in a map, and whether the map has the right hand: every rotation, every translation by FFT."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.optimize
from scipy.spatial.transform import Rotation

from .. import protein, rotations
from ..filters import resample
from ..projection import low_pass, scattering_factors
from ..projection.scattering import atoms_to_density
from ..types import AtomicModel, Volume
from .density import map_correlation, width_at

__all__ = ["Docking", "dock"]

COARSE = 9.0  # Å, of the search
KEPT = 12  # placements of each hand that are refined
CLOSE = 20.0  # degrees, and half as many Å: placements nearer than this are one
MARGIN = 0.03  # of the correlation, by which one hand must win to be named
ENOUGH = 0.3  # correlation below which nothing is said to be docked


@dataclass(frozen=True, eq=False)
class Docking:
    """The best placement of a model in a map.

    Parameters
    ----------
    model : AtomicModel
        Moved to where it fits best in the map as it is.
    rotation : scipy Rotation
        About the model's centre of mass.
    shift : ndarray (3,)
        Å, of the centre of mass.
    correlation : float
        Over the whole map at the given resolution.
    mirrored : float or None
        The best correlation in the mirrored map; None where it was not tried.
    hand : {"as given", "mirrored", "undecided"}
        Which hand of the map the model belongs to.
    runners_up : ndarray (k,)
        Correlations of the other placements, best first.
    """

    model: AtomicModel
    rotation: Rotation
    shift: np.ndarray
    correlation: float
    mirrored: float | None
    hand: str
    runners_up: np.ndarray

    def __repr__(self):
        other = "" if self.mirrored is None else f", {self.mirrored:.3f} in the mirrored map: hand {self.hand}"
        return f"Docking(correlation {self.correlation:.3f}{other})"


def dock(model, volume, resolution, *, both_hands=True, order=2, fine=None):
    """Place a model in a map.

    Parameters
    ----------
    model : AtomicModel
        Anywhere.
    volume : Volume
    resolution : float
        Å, of the map.
    both_hands : bool
        Also try the mirrored map: a map of the wrong hand looks as good until the helices are seen.
    order : int
        Of the HEALPix grid of rotations: 2 is 15° apart, 4,608 rotations.
    fine : float, optional
        Å, at which placements are refined and compared; max(resolution, 4) by default.

    Returns
    -------
    Docking

    Raises
    ------
    ValueError
        A model larger than the box, or nothing that correlates above 0.3.

    Notes
    -----
    At 9 Å each rotation's density is correlated with the map at all translations by one FFT; the twelve best
    placements of each hand are refined as rigid bodies by the analytic gradient. Fits the whole map: where much of it
    belongs to something else, cut the map first.
    """
    coordinates = model.coordinates
    middle = coordinates.mean(axis=0)
    extent = 2 * np.linalg.norm(coordinates - middle, axis=1).max()
    if np.ptp(coordinates, axis=0).max() > volume.box_size * 1.2:
        raise ValueError(f"the model is {extent:.0f} Å long, the box only {volume.box_size:g} Å wide: {volume!r}")
    coarse = max(COARSE, resolution)
    small = _coarse(volume, coarse)
    fine = max(resolution, 4.0) if fine is None else fine
    sharp = _coarse(volume, fine)
    grid = rotations.so3_grid(order)
    found = {}
    for mirrored in (False, True) if both_hands else (False,):
        starts = _search(model, coordinates - middle, _mirror(small) if mirrored else small, coarse, grid)
        target = _mirror(sharp) if mirrored else sharp
        placed = [_rigid(model, coordinates - middle, target, fine, *start) for start in starts]
        found[mirrored] = sorted(placed, key=lambda entry: -entry[0])
    value, rotation, centre = found[False][0]
    other = found[True][0][0] if both_hands else None
    best = max(value, -1.0 if other is None else other)
    if best < ENOUGH:
        raise ValueError(f"no placement correlates above {ENOUGH}: the best has {best:.3f}; is this the right map?")
    hand = "undecided"
    if other is not None and abs(value - other) > MARGIN:
        hand = "as given" if value > other else "mirrored"
    moved = rotation.apply(coordinates - middle) + centre
    rest = np.array([entry[0] for entry in found[False][1:]])
    return Docking(
        protein.with_atoms(model, coordinates=moved), rotation, centre - middle, float(value), other, hand, rest
    )


def _mirror(volume):
    """The other hand: x turned round about voxel d // 2."""
    data = volume.data[:, :, ::-1]
    return volume.with_data(np.roll(data, 1, axis=2) if volume.size_px % 2 == 0 else data)


def _coarse(volume, resolution):
    """The map at a resolution, on voxels of about a third of it, mean 0."""
    filtered = low_pass(volume, resolution)
    size = int(np.ceil(volume.box_size / (resolution / 3)))
    size = min(size + size % 2, volume.size_px)
    filtered = resample(filtered, size) if size < volume.size_px else filtered
    return filtered.with_data(filtered.data - filtered.data.mean())


def _search(model, arms, volume, resolution, grid):
    """The most promising placements, (rotation, centre) each, none twice."""
    size = scipy.fft.next_fast_len(volume.size_px)
    padded = np.zeros((size,) * 3, dtype=np.float32)
    padded[tuple(slice(0, volume.size_px) for _ in range(3))] = volume.data
    spectrum = scipy.fft.rfftn(padded)
    a, b = scattering_factors(model.elements)
    strength = a.sum(axis=1, keepdims=True) * model.occupancies[:, None]  # one Gaussian is enough at 9 Å
    width = np.full((len(a), 1), width_at(resolution))
    frame = Volume(np.zeros((size,) * 3), volume.voxel_size, np.full(3, -(size // 2) * volume.voxel_size))
    best = np.full(len(grid), -np.inf)
    where = np.zeros(len(grid), dtype=np.int64)
    for number, rotation in enumerate(grid):
        drawn = atoms_to_density(rotation.apply(arms), strength, width, np.zeros(len(a)), frame).data
        drawn = drawn - drawn.mean()
        match = scipy.fft.irfftn(spectrum * np.conj(scipy.fft.rfftn(drawn)), s=drawn.shape)
        place = int(match.argmax())
        best[number], where[number] = match.flat[place] / np.linalg.norm(drawn), place
    starts = []
    for number in best.argsort()[::-1]:
        shift = np.array(np.unravel_index(where[number], (size,) * 3))[::-1]
        shift = (shift + size // 2) % size  # of the frame's middle, into the box
        centre = volume.origin + shift * volume.voxel_size
        known = any(
            (grid[number] * rotation.inv()).magnitude() < np.radians(CLOSE) and np.linalg.norm(centre - c) < CLOSE / 2
            for rotation, c in starts
        )
        if not known:
            starts.append((grid[number], centre))
        if len(starts) == KEPT:
            break
    return starts


def _rigid(model, arms, volume, resolution, rotation, centre):
    """Climb the correlation by rotation and shift; returns (correlation, rotation, centre)."""
    elements, b = model.elements, model.b_factors
    size = float(np.sqrt((arms**2).sum(1).mean()))

    def place(x):
        turn = Rotation.from_rotvec(x[:3] / size) * rotation
        return turn, centre + x[3:]

    def target(x):
        turn, middle = place(x)
        turned = turn.apply(arms)
        found = map_correlation(
            volume, turned + middle, elements, b_factors=b, resolution=resolution, occupancies=model.occupancies
        )
        torque = np.cross(turned, found.coordinates).sum(axis=0) / size
        return -found.value, -np.concatenate([torque, found.coordinates.sum(axis=0)])

    # the torque is exact only at zero rotation vector, so the frame is moved up in a few rounds
    value = 0.0
    for _ in range(4):
        try:
            found = scipy.optimize.minimize(target, np.zeros(6), jac=True, method="L-BFGS-B", options={"maxiter": 12})
        except ValueError:  # driven out of the box
            return -1.0, rotation, centre
        rotation, centre = place(found.x)
        if -found.fun - value < 1e-4:
            break
        value = -found.fun
    return float(-found.fun), rotation, centre
