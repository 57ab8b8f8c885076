"""One volume onto another: the rotation, the shift and the hand under which they agree best."""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from . import fourier, rotations
from .types import Volume

__all__ = ["Alignment", "align_volumes", "transform_volume"]

COARSE_ORDER = 2  # 4,608 rotations, 15° apart
COARSE_SHELLS = 7  # what half of such a step leaves alike, in a particle that fills two thirds of its box
CANDIDATES, FINALISTS = 12, 3
APART = 20.0  # degrees between candidates
FIRST_STEP = 5.0  # degrees, of the climb
VOXELS_PER_DEGREE = 0.25
PADDING = 2
FAINT = 1e-6  # of the strongest shell's power: what holds less is rounding, not structure
EDGE_PX = 3  # of the sphere that fills the box
BATCH = 512


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """How a volume lies on another.

    Parameters
    ----------
    volume : Volume
        The moving volume, moved.
    rotation : Rotation
        R of x' = R·x + shift, which takes a place of the (mirrored) moving volume to where it lies in the fixed one.
    shift : ndarray (3,)
        Å, (x, y, z).
    mirrored : bool
        Whether z was turned to −z first.
    agreement : float
        Mean FSC of the two up to the resolution that was used, −1 … 1.
    other_hand : float
        The same of the best alignment with the other hand; NaN where it was not tried.
    """

    volume: Volume
    rotation: Rotation
    shift: np.ndarray
    mirrored: bool
    agreement: float
    other_hand: float

    def __repr__(self):
        angle = np.degrees(self.rotation.magnitude())
        hand = "mirrored, " if self.mirrored else ""
        return f"Alignment({hand}turned {angle:.1f}°, agreement {self.agreement:.2f}, other hand {self.other_hand:.2f})"


def align_volumes(moving, fixed, *, hand=True, resolution=None):
    """Rotate, shift and, where that is better, mirror one volume onto another.

    Parameters
    ----------
    moving, fixed : Volume
        Same box and voxel size; any grey scale.
    hand : bool
        Try the mirror image of ``moving`` too.
    resolution : float, optional
        Å; finer detail is not looked at. A thirteenth of the box by default, about 30 Å for a ribosome.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        Boxes or voxel sizes that differ, a volume that is constant or not finite.

    Notes
    -----
    What is maximised is the mean over the shells of the Fourier shell correlation, to which strong and weak shells
    count alike, but for those with less than a millionth of the strongest one's power. All rotations 15° apart are
    tried at the coarsest seven shells, each at its best shift by fast correlation over the whole box; then the best
    twelve of either hand climb in six parameters. What lies outside the sphere that fills the box is left out of the
    moving volume. A volume of noise finds its best rotation too: see ``agreement``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y, z = (axis - 12 for axis in np.indices((24, 24, 24))[::-1])
    >>> body = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 4) for a, b, c in rng.normal(0, 2.5, (8, 3)))
    >>> fixed = Volume(body, 4.0)
    >>> turn = Rotation.from_euler("ZYZ", [30, 50, 70], degrees=True)
    >>> found = align_volumes(transform_volume(fixed, turn.inv()), fixed)
    >>> bool(rotations.angular_distance(found.rotation, turn)[0] < 1.0), found.mirrored
    (True, False)
    """
    _check_pair(moving, fixed)
    size_px, box_size = fixed.size_px, fixed.box_size
    resolution = box_size / 13 if resolution is None else float(resolution)
    shells = int(np.clip(box_size / resolution, 3, (size_px - 1) // 2))
    found = []
    for mirrored in (False, True) if hand else (False,):
        volume = transform_volume(moving, mirrored=True) if mirrored else moving
        best = _best_of(_Pair(volume, fixed, min(shells, COARSE_SHELLS)), _Pair(volume, fixed, shells))
        found.append((*best, mirrored))
    best = max(found, key=lambda entry: entry[0])
    agreement, rotation, shift_px, mirrored = best
    shift = shift_px * fixed.voxel_size
    volume = transform_volume(moving, rotation, shift, mirrored=mirrored)
    others = [entry[0] for entry in found if entry is not best]
    return Alignment(volume, rotation, shift, mirrored, float(agreement), float(others[0]) if others else float("nan"))


def transform_volume(volume, rotation=None, shift=(0.0, 0.0, 0.0), *, mirrored=False):
    """A volume mirrored, then rotated about its centre, then shifted.

    Parameters
    ----------
    volume : Volume
    rotation : Rotation, optional
        R: what was at x is then at R·x.
    shift : array_like (3,)
        Å, (x, y, z).
    mirrored : bool
        Turn z to −z first.

    Returns
    -------
    Volume, of the same box; zero where there was nothing. Cubic splines.

    Examples
    --------
    >>> data = np.zeros((9, 9, 9)); data[4, 4, 6] = 1  # at x = +2
    >>> turned = transform_volume(Volume(data, 1.0), Rotation.from_euler("z", 90, degrees=True))
    >>> [int(i) for i in np.unravel_index(turned.data.argmax(), (9, 9, 9))]  # at y = +2
    [4, 6, 4]
    """
    size_px, centre = volume.size_px, volume.size_px // 2
    rotation = Rotation.identity() if rotation is None else rotation
    shift_px = np.asarray(shift, dtype=float) / volume.voxel_size
    there = np.stack(np.indices((size_px,) * 3)[::-1], axis=-1).reshape(-1, 3) - centre
    here = (there - shift_px) @ rotation.as_matrix()  # rows: the inverse rotation of each place
    if mirrored:
        here[:, 2] *= -1
    data = map_coordinates(volume.data, (here[:, ::-1] + centre).T, order=3, mode="constant")
    return volume.with_data(data.reshape(volume.data.shape))


class _Pair:
    """Mean FSC, up to a shell, of a fixed volume and a moving one that is rotated and shifted."""

    def __init__(self, moving, fixed, shells):
        self.size_px = fixed.size_px
        self.grid = 3 * shells + shells % 2  # sampling of the shifts: two thirds of half the finest wave
        kz, ky, kx = np.meshgrid(*[np.arange(-shells, shells + 1)] * 2, np.arange(shells + 1), indexing="ij")
        radius = np.sqrt(kx**2 + ky**2 + kz**2)
        inside = (radius > 0.5) & (radius < shells + 0.5)
        self.points = np.stack([kx, ky, kz], axis=-1)[inside].astype(np.float32)
        shell = np.rint(radius[inside]).astype(int)
        twice = np.where(self.points[:, 0] > 0, 2, 1)  # the partners at −k; of kx = 0 both are among the points
        data = _padded_transform(moving.data)
        middle = data.shape[0] // 2
        keep = min(PADDING * (shells + 1) + 1, middle - 1)
        self.data = np.ascontiguousarray(data[(slice(middle - keep, middle + keep + 1),) * 2 + (slice(0, keep + 1),)])
        target = fourier.transform(fixed.data)
        c = self.size_px // 2
        target = target[kz[inside] + c, ky[inside] + c, kx[inside] + c]
        power = [
            np.bincount(shell, twice * np.abs(values) ** 2, shells + 1)
            for values in (target, self.slices(np.eye(3)[None])[0])
        ]
        power = [spectrum + FAINT * spectrum.max() for spectrum in power]
        norm = np.sqrt(power[0] * power[1])[shell]
        weight = np.divide(twice, shells * norm, out=np.zeros(len(norm)), where=norm > 0)
        self.target = (target.conj() * weight).astype(np.complex64)

    def slices(self, matrices):
        """The moving volume's transform at R⁻¹k, (n, m)."""
        values = np.empty((len(matrices), len(self.points)), dtype=np.complex64)
        _gather(self.data, np.ascontiguousarray(PADDING * matrices, dtype=np.float32), self.points, values)
        return values

    def best_shifts(self, matrices):
        """Score (n,) of rotations at their best shift, and that shift (n, 3) in voxels: x, y, z."""
        grid = self.grid
        kx, ky, kz = self.points.T.astype(int)
        product = (self.slices(matrices) * self.target).conj()
        product = np.where(kx > 0, product / 2, product)  # the inverse transform doubles these
        half = np.zeros((len(matrices), grid, grid, grid // 2 + 1), dtype=np.complex64)
        half[:, kz % grid, ky % grid, kx] = product
        score = scipy.fft.irfftn(half, s=(grid,) * 3, axes=(1, 2, 3), overwrite_x=True).reshape(len(matrices), -1)
        place = score.argmax(1)
        index = np.stack(np.unravel_index(place, (grid,) * 3), axis=-1)[:, ::-1]
        index = (index + grid // 2) % grid - grid // 2
        return score[np.arange(len(score)), place] * grid**3, index * self.size_px / grid

    def score(self, rotation, shift_px):
        phases = np.exp(-2j * np.pi / self.size_px * (self.points @ shift_px))
        return float((self.slices(rotation.as_matrix()[None])[0] * phases * self.target).real.sum())

    def climb(self, rotation, shift_px):
        """The nearest maximum: score, rotation, shift."""

        def moved(step):
            return Rotation.from_rotvec(step[:3], degrees=True) * rotation, shift_px + VOXELS_PER_DEGREE * step[3:]

        simplex = np.vstack([np.zeros(6), FIRST_STEP * np.eye(6)])
        best = minimize(
            lambda step: -self.score(*moved(step)), np.zeros(6), method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 0.02, "fatol": 1e-6, "maxfev": 500},
        ).x  # fmt: skip
        rotation, shift_px = moved(best)
        return self.score(rotation, shift_px), rotation, shift_px


def _best_of(coarse, fine):
    """Score, rotation and shift in voxels of the best alignment."""
    grid = rotations.so3_grid(COARSE_ORDER)
    matrices = grid.as_matrix()
    scores, shifts = zip(*[coarse.best_shifts(matrices[i : i + BATCH]) for i in range(0, len(matrices), BATCH)])
    scores, shifts = np.concatenate(scores), np.concatenate(shifts)
    starts = []
    apart = 1 + 2 * np.cos(np.radians(APART))  # trace of the rotation between two candidates
    for i in np.argsort(-scores):
        if (np.einsum("nij,ij->n", matrices[starts], matrices[i]) < apart).all():
            starts.append(int(i))
        if len(starts) == CANDIDATES:
            break
    climbed = sorted((coarse.climb(grid[i], shifts[i]) for i in starts), key=lambda entry: -entry[0])
    return max((fine.climb(*entry[1:]) for entry in climbed[:FINALISTS]), key=lambda entry: entry[0])


@numba.njit(cache=True, fastmath=True, nogil=True)
def _gather(data, matrices, points, values):
    """Trilinear interpolation of a half-grid [kz, ky, kx ≥ 0], kz and ky centred, at the rows points · matrix."""
    centre = data.shape[0] // 2
    for n in range(len(matrices)):
        for m in range(len(points)):
            x, y, z = np.float32(0), np.float32(0), np.float32(0)
            for i in range(3):
                x += points[m, i] * matrices[n, i, 0]
                y += points[m, i] * matrices[n, i, 1]
                z += points[m, i] * matrices[n, i, 2]
            mirrored = x < 0
            if mirrored:
                x, y, z = -x, -y, -z
            y += centre
            z += centre
            x0, y0, z0 = int(x), int(y), int(z)
            fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
            total = np.complex64(0)
            for k in range(2):
                for j in range(2):
                    weight = (fz if k else 1 - fz) * (fy if j else 1 - fy)
                    low, high = data[z0 + k, y0 + j, x0], data[z0 + k, y0 + j, x0 + 1]
                    total += np.float32(weight * (1 - fx)) * low + np.float32(weight * fx) * high
            values[n, m] = np.conj(total) if mirrored else total


def _padded_transform(data):
    """Transform of a padded volume, ``[kz, ky, kx ≥ 0]``, ready for trilinear interpolation.

    What does not turn with the particle goes first: the grey level around it, and the corners of the box.
    """
    size_px = len(data)
    radius = fourier.radius_px(size_px, ndim=3)
    rim = np.clip((size_px / 2 - radius) / EDGE_PX, 0, 1)
    data = (data - data[radius > size_px / 2].mean()) * rim
    envelope = np.sinc((np.arange(size_px) - size_px // 2) / (PADDING * size_px)) ** 2
    padded = PADDING * size_px
    start = padded // 2 - size_px // 2
    box = np.zeros((padded,) * 3, dtype=np.float32)
    box[(slice(start, start + size_px),) * 3] = data / (envelope[:, None, None] * envelope[:, None] * envelope)
    return scipy.fft.fftshift(scipy.fft.rfftn(scipy.fft.ifftshift(box)), axes=(0, 1)).astype(np.complex64)


def _check_pair(moving, fixed):
    if moving.size_px != fixed.size_px or abs(moving.voxel_size / fixed.voxel_size - 1) > 1e-3:
        raise ValueError(
            f"volumes must have the same box and voxel size, got {moving.size_px} voxels of {moving.voxel_size:g} Å "
            f"and {fixed.size_px} voxels of {fixed.voxel_size:g} Å"
        )
    for name, volume in (("moving", moving), ("fixed", fixed)):
        if not np.isfinite(volume.data).all() or volume.data.std() == 0:
            raise ValueError(f"the {name} volume must be finite and not constant")
