"""Images against many volumes at once: Gram matrices, normal equations, and their solution voxel by voxel.

The model of this room is y_i = C_i P_i Σ_k f_ik V_k + noise: a few volumes, shared by all particles, and coefficients
of each particle (latent coordinates, or functions of a conformational coordinate). All of it happens on the half-plane
of Fourier pixels up to a resolution, with poses and shifts known.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.fft

from cryonb import ctf as ctf_room
from cryonb import projection
from cryonb.manifold import _kernels
from cryonb.parallel import chunk_slices, map_reduce
from cryonb.types import Volume

__all__ = [
    "NormalEquations",
    "Observations",
    "VolumeSet",
    "gram_matrices",
    "noise_spectrum",
    "normal_equations",
    "observe",
]

PADDING = 2
MINIMUM_PARTICLES = 20
_POSE_STEP = 1.0  # degrees, for central differences; small against the finest detail over the particle's radius


@dataclass(frozen=True, eq=False)
class Observations:
    """Centred Fourier half-planes of particles up to a radius, sorted by radius.

    Parameters
    ----------
    values : ndarray (n, m) complex64
    ctf : ndarray (n, m) float32
    matrices : ndarray (n, 3, 3) float32
    points : ndarray (m, 2) float32
        Fourier pixels.
    multiplicity : ndarray (m,) float32
        How many Fourier pixels each point stands for: 2, at zero frequency 1.
    noise : ndarray (shells,)
        Variance of a complex coefficient of the noise, per shell.
    size_px : int
    pixel_size : float
        Å.
    """

    values: np.ndarray
    ctf: np.ndarray
    matrices: np.ndarray
    points: np.ndarray
    multiplicity: np.ndarray
    noise: np.ndarray
    size_px: int
    pixel_size: float

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return replace(self, values=self.values[index], ctf=self.ctf[index], matrices=self.matrices[index])

    def to_radius(self, radius):
        """The same particles, cut at a Fourier radius in pixels."""
        m = int((self.radii <= radius + 1e-6).sum())
        return replace(
            self, values=self.values[:, :m], ctf=self.ctf[:, :m], points=self.points[:m],
            multiplicity=self.multiplicity[:m],
        )  # fmt: skip

    def moved(self, correction):
        """The same images under corrected poses.

        ``correction`` (n, 5) is the pose's error: degrees about the image's x, y and z, and Å along x and y.
        """
        from scipy.spatial.transform import Rotation

        turns = Rotation.from_rotvec(correction[:, :3], degrees=True).as_matrix()
        matrices = (self.matrices @ turns).astype(np.float32)
        phases = projection.shift_phases(self.points, -correction[:, 3:], self.size_px * self.pixel_size)
        return replace(self, matrices=matrices, values=self.values * phases)

    @property
    def radii(self):
        """Distance of each point from zero frequency, ndarray (m,), Fourier pixels."""
        return np.hypot(self.points[:, 0], self.points[:, 1])

    @property
    def shell(self):
        """Shell of each point, ndarray (m,) int."""
        return np.rint(self.radii).astype(np.int64)

    @property
    def radius(self):
        """Largest Fourier radius in whole pixels."""
        return int(np.ceil(self.radii.max()))

    @property
    def scale(self):
        """Factor that whitens each point: the log-likelihood is −½ Σ |scale · residual|²."""
        return np.sqrt(self.multiplicity / self.noise[self.shell]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class VolumeSet:
    """Volumes on a Fourier-cropped grid of the same physical box.

    Parameters
    ----------
    data : ndarray (l, c, c, c) float32
    mask : ndarray (c, c, c) float32
    size_px : int
        Box of the particles.
    pixel_size : float
        Å, of the particles.
    """

    data: np.ndarray
    mask: np.ndarray
    size_px: int
    pixel_size: float

    def __len__(self):
        return len(self.data)

    def combine(self, coefficients):
        """Linear combinations, (r, l) coefficients: a set of r volumes."""
        data = np.tensordot(np.asarray(coefficients, dtype=np.float32), self.data, axes=1)
        return replace(self, data=data)

    def resized(self, radius):
        """The same volumes on the grid of another Fourier radius."""
        size_px = grid_size(radius)
        if size_px == self.data.shape[-1]:
            return self
        data = np.stack([_resample(volume, size_px) for volume in self.data])
        mask = np.clip(_resample(self.mask, size_px) * (size_px / self.mask.shape[0]) ** 3, 0, 1)
        return replace(self, data=data, mask=mask)

    def volumes(self):
        """The volumes at the particles' own box and pixel size, as a list of `Volume`."""
        return [Volume(_resample(volume, self.size_px), self.pixel_size) for volume in self.data]

    def transforms(self):
        """Padded half-transforms for slicing, (p, p, h, 2, l) float32: kx ≥ 0, real and imaginary."""
        size_px = self.data.shape[-1]
        envelope = _envelope(size_px)
        stacked = [_padded_transform(volume / envelope) for volume in self.data]
        return (
            np.stack([[t.real, t.imag] for t in stacked], axis=-1)
            .transpose(1, 2, 3, 0, 4)
            .astype(np.float32, order="C")
        )


def grid_size(radius):
    """Edge of the cropped grid that holds a Fourier radius, with room for interpolation."""
    return 2 * (int(radius) + 2)


def observe(particles, *, resolution=None, workers=1):
    """Transform particles once, centred by their shifts, up to a resolution.

    Parameters
    ----------
    particles : Particles
        With poses and CTF.
    resolution : float, optional
        Å; by default, and at finest, just below Nyquist.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    Observations; ``noise`` is, to begin with, the mean power of the images.

    Raises
    ------
    ValueError
        Poses or CTF missing, fewer than 20 particles, images that are not finite.
    """
    for name, hint in (("poses", "refine orientations first"), ("ctf", "estimate or read defocus first")):
        if getattr(particles, name) is None:
            raise ValueError(f"particles have no {name}: {hint}")
    if len(particles) < MINIMUM_PARTICLES:
        raise ValueError(f"expected at least {MINIMUM_PARTICLES} particles, got {len(particles)}")
    finest = particles.size_px // 2 - 2
    radius = finest if resolution is None else min(finest, int(round(particles.box_size / resolution)))
    if radius < 3:
        raise ValueError(f"resolution {resolution:g} Å is too coarse for a box of {particles.box_size:.0f} Å")
    half = projection.half_plane(particles.size_px, max_radius=radius + 1e-3)
    order = np.argsort(np.hypot(*half.points.T), kind="stable")
    chunks = chunk_slices(len(particles), 512)
    parts = map_reduce(partial(_observe_chunk, particles, half, order), chunks, combine=_join, workers=workers)
    values, ctf = (np.concatenate(arrays) for arrays in parts)
    points = np.ascontiguousarray(half.points[order])
    shell = np.rint(np.hypot(*points.T)).astype(int)
    power = (np.abs(values) ** 2).mean(axis=0, dtype=np.float64)
    noise = np.bincount(shell, power) / np.bincount(shell)
    matrices = particles.poses.rotation.as_matrix().astype(np.float32)
    multiplicity = half.multiplicity[order]
    return Observations(values, ctf, matrices, points, multiplicity, noise, particles.size_px, particles.pixel_size)


def _observe_chunk(particles, half, order, chunk):
    chunk = particles[chunk]
    images = np.asarray(chunk.images, dtype=np.float32)
    finite = np.isfinite(images).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"particle {int(np.argmin(finite))} of the chunk has pixels that are not finite")
    points = half.points[order]
    values = projection.to_half_plane(images, half)[:, order]
    values *= projection.shift_phases(points, -chunk.poses.shift, chunk.box_size)
    kx, ky = points.T / chunk.box_size
    return [values.astype(np.complex64)], [ctf_room.evaluate(chunk.ctf, kx, ky).astype(np.float32)]


def _join(total, item):
    return tuple(a + b for a, b in zip(total, item))


def gram_matrices(observations, volumes, *, mean=None, workers=1):
    """Whitened overlaps of every particle's projections of all volumes.

    Parameters
    ----------
    observations : Observations
    volumes : VolumeSet
        l of them.
    mean : VolumeSet of one, optional
        Where given, five more slices follow the l volumes': the derivatives of this volume's projection by the pose,
        three rotations of the image frame (x, y, z; per degree) and the shift (x, y; per Å).
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    gram : ndarray (n, l, l) or (n, l + 5, l + 5), G_kl = Re Σ conj(C P V_k) C P V_l / σ²
    overlap : ndarray (n, l) or (n, l + 5), b_k = Re Σ conj(C P V_k) y / σ²

    Notes
    -----
    With these, the log-likelihood of any combination f of the volumes is bᵀf − ½ fᵀGf, up to a constant.
    """
    transforms = volumes.transforms()
    mean_transform = None if mean is None else mean.transforms()
    function = partial(_gram_chunk, observations, transforms, mean_transform, observations.scale)
    parts = map_reduce(function, chunk_slices(len(observations), 512), combine=_join, workers=workers)
    return tuple(np.concatenate(arrays) for arrays in parts)


def _gram_chunk(observations, transforms, mean, scale, chunk):
    values, matrices = observations.values[chunk], observations.matrices[chunk]
    with_pose = mean is not None
    n, n_slices = len(values), transforms.shape[-1] + (5 if with_pose else 0)
    gram, overlap = np.empty((n, n_slices, n_slices)), np.empty((n, n_slices))
    turned = _turned_axes(matrices) if with_pose else np.zeros((n, 0, 3, 2), dtype=np.float32)
    cycles = 2 * np.pi / (observations.size_px * observations.pixel_size)
    _kernels.read(
        transforms, _axes(matrices), observations.points, values, observations.ctf[chunk], scale,
        mean if with_pose else transforms[..., :1], turned, np.float32(_POSE_STEP), np.float32(cycles), gram, overlap,
    )  # fmt: skip
    return [gram], [overlap]


def _turned_axes(matrices):
    """Axes of each image turned by ± a small step about its own x, y and z, (n, 6, 3, 2)."""
    from scipy.spatial.transform import Rotation

    steps = np.repeat(np.eye(3), 2, axis=0) * np.array([1, -1] * 3)[:, None] * _POSE_STEP
    turns = Rotation.from_rotvec(steps, degrees=True).as_matrix()
    turned = np.einsum("nij,sjk->nsik", matrices, turns)[..., :2] * PADDING
    return np.ascontiguousarray(turned, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums over particles that determine volumes, in groups: every voxel's right-hand side and matrix.

    Parameters
    ----------
    totals : list of ndarray
        One per group of particles.
    n_volumes : int
    radius : int
        Fourier pixels.
    mask : ndarray (c, c, c)
        Applied to the solutions; c = `grid_size` of the radius.
    size_px, pixel_size
        Of the particles.
    """

    totals: list
    n_volumes: int
    radius: int
    mask: np.ndarray
    size_px: int
    pixel_size: float

    def solve(self, prior=None, *, without=None):
        """Volumes from all groups, or from all but the one numbered ``without``.

        Parameters
        ----------
        prior : ndarray (shells, l), optional
            τ² of each shell and volume, E|V(k)|²; inf for none.
        without : int, optional

        Returns
        -------
        volumes : VolumeSet
        power : ndarray (shells, l)
            E|V(k)|², from the solution and its posterior variance: the next prior.
        """
        total = self.totals[0] if len(self.totals) == 1 else np.sum(self.totals, axis=0)
        if without is not None:
            total = total - self.totals[without]
        return _solve(self, total, prior)


def normal_equations(observations, first, second, *, mask, groups=None, workers=1):
    """Sum up what determines volumes, given the moments of each particle's coefficients.

    The volumes minimise Σ_i E‖y_i − C_i P_i Σ_k f_ik V_k‖²/σ² + Σ_k ‖V_k‖²/τ²_k, voxel by voxel.

    Parameters
    ----------
    observations : Observations
    first : ndarray (n, l)
        E[f_i].
    second : ndarray (n, l, l)
        E[f_i f_iᵀ].
    mask : ndarray (c, c, c)
    groups : sequence of index arrays, optional
        Keep the sums of these particles apart (cross-fitting); by default all are one group.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    NormalEquations
    """
    lower = np.tril_indices(first.shape[1])
    packed = np.ascontiguousarray(second[:, lower[0], lower[1]], dtype=np.float32)
    function = partial(_insert_chunk, observations, observations.scale, first.astype(np.float32), packed)
    totals = []
    for indices in _group_chunks(len(observations), groups):
        total = map_reduce(function, indices, combine=_add, workers=workers)
        _complete_plane(total, first.shape[1])
        totals.append(total)
    return NormalEquations(
        totals, first.shape[1], observations.radius, mask, observations.size_px, observations.pixel_size
    )


def _group_chunks(n, groups):
    groups = [np.arange(n)] if groups is None else [np.asarray(group) for group in groups]
    # at least two parts, for two workers; each part needs an accumulator of its own
    return [np.array_split(group, max(2, -(-len(group) // 8000))) for group in groups]


def _insert_chunk(observations, scale, first, second, index):
    radius = observations.radius
    edge = PADDING * grid_size(radius)
    total = np.zeros((edge, edge, edge // 2 + 1, 2 * first.shape[1] + second.shape[1]), dtype=np.float32)
    axes = _axes(observations.matrices[index])
    values, ctf = observations.values[index], observations.ctf[index]
    _kernels.insert(total, axes, observations.points, values, ctf, scale, first[index], second[index])
    return total


def _add(total, item):
    total += item
    return total


def _solve(equations, total, prior):
    n_volumes, edge = equations.n_volumes, total.shape[0]
    n_shells = equations.radius + 2
    spread = PADDING**3  # the padded grid has that many more voxels to share the data among
    prior = np.full((n_shells, n_volumes), np.inf) if prior is None else np.asarray(prior)
    # the prior is the power inside the mask; the noise of a voxel comes from the whole box
    inside = float(np.mean(equations.mask**2))
    precision = inside / (spread * np.maximum(prior, 1e-30))
    # a floor, so that voxels that no image reached stay zero
    precision = np.maximum(precision, 1e-6 * float(total[..., 2 * n_volumes].max()))
    solution = np.zeros((edge, edge, edge // 2 + 1, 2, n_volumes), dtype=np.float32)
    variance, counts = np.zeros((n_shells, n_volumes)), np.zeros(n_shells)
    _kernels.solve(total, n_volumes, precision, PADDING * equations.radius + 1.0, solution, variance, counts)
    variance /= np.maximum(counts, 1)[:, None] * spread
    shape = equations.mask / _envelope(edge // PADDING)
    parts = [_cropped_inverse(solution[..., 0, k] + 1j * solution[..., 1, k]) * shape for k in range(n_volumes)]
    data = np.stack(parts).astype(np.float32)
    volumes = VolumeSet(data, equations.mask, equations.size_px, equations.pixel_size)
    return volumes, shell_power(volumes, n_shells) + variance * inside


def _complete_plane(total, n_volumes):
    """Give the plane kx = 0 what the Friedel partners of its points bring."""
    plane = total[:, :, 0]
    partner = np.roll(plane[::-1, ::-1], 1, axis=(0, 1)).copy()
    partner[..., n_volumes : 2 * n_volumes] *= -1
    plane += partner


def shell_power(volumes, n_shells):
    """Mean |V(k)|² per shell, (shells, l)."""
    from cryonb.fourier import shell_mean, transform

    power = np.stack([shell_mean(np.abs(transform(volume)) ** 2, ndim=3) for volume in volumes.data], axis=1)
    result = np.zeros((n_shells, len(volumes)))
    keep = min(n_shells, len(power))
    result[:keep] = power[:keep]
    return result


def noise_spectrum(observations, volumes, coefficients, *, n_particles=1000):
    """Noise variance per shell: mean power of what the volumes leave unexplained.

    Parameters
    ----------
    observations : Observations
    volumes : VolumeSet
    coefficients : ndarray (n, l)
        Of each particle.
    n_particles : int
        How many to use, evenly spread over the stack.

    Returns
    -------
    ndarray (shells,); shells beyond the observations' radius keep their value.
    """
    index = np.unique(np.linspace(0, len(observations) - 1, min(n_particles, len(observations))).astype(int))
    shell = observations.shell
    power = np.zeros(observations.noise.size)
    weights = np.ascontiguousarray(coefficients[index], dtype=np.float32)
    _kernels.project_out(
        volumes.transforms(), _axes(observations.matrices[index]), observations.points,
        observations.values[index], observations.ctf[index], weights, shell, power,
    )  # fmt: skip
    counts = np.bincount(shell, minlength=power.size) * len(index)
    return np.where(counts > 0, power / np.maximum(counts, 1), observations.noise)


def sphere_mask(size_px, *, radius=0.45, edge=0.05):
    """Soft sphere on a grid of any size; radius and width of the edge as fractions of the box."""
    from cryonb.fourier import radius_px

    distance = radius_px(size_px, ndim=3) / size_px
    return (0.5 * (1 + np.cos(np.pi * np.clip((distance - radius) / edge + 0.5, 0, 1)))).astype(np.float32)


def grid_mask(mask, observations):
    """A mask on the cropped grid of the observations: from a `Volume`, or a soft sphere that fills the box."""
    size_px = grid_size(observations.radius)
    if mask is None:
        return sphere_mask(size_px)
    if mask.size_px != observations.size_px:
        raise ValueError(f"the mask has box {mask.size_px} px, the particles {observations.size_px} px")
    scale = (size_px / mask.size_px) ** 3
    return np.clip(_resample(mask.data, size_px) / scale, 0, 1).astype(np.float32)


def _resample(data, size_px):
    """Fourier crop or pad a cube to another edge, the same physical box; the sum over voxels is kept."""
    old = data.shape[-1]
    if old == size_px:
        return np.array(data, dtype=np.float32)
    from cryonb.fourier import inverse_transform, transform

    source = transform(data)
    keep = min(old, size_px)
    result = np.zeros((size_px,) * 3, dtype=source.dtype)
    to, source_from = size_px // 2 - keep // 2, old // 2 - keep // 2
    inner = slice(1, keep) if keep % 2 == 0 else slice(0, keep)  # without the unpaired Nyquist plane
    into = tuple(slice(to + inner.start, to + inner.stop) for _ in range(3))
    out_of = tuple(slice(source_from + inner.start, source_from + inner.stop) for _ in range(3))
    result[into] = source[out_of]
    return inverse_transform(result).real.astype(np.float32)


def _envelope(size_px):
    """What trilinear interpolation on the padded grid does in real space: sinc² along each axis."""
    axis = np.sinc((np.arange(size_px) - size_px // 2) / (size_px * PADDING)) ** 2
    return (axis[:, None, None] * axis[:, None] * axis).astype(np.float32)


def _padded_transform(data):
    size_px = data.shape[0]
    start = PADDING * size_px // 2 - size_px // 2
    box = np.zeros((PADDING * size_px,) * 3, dtype=np.float32)
    box[(slice(start, start + size_px),) * 3] = data
    return scipy.fft.fftshift(scipy.fft.rfftn(scipy.fft.ifftshift(box)), axes=(0, 1))


def _cropped_inverse(values):
    edge = values.shape[0]
    box = scipy.fft.fftshift(scipy.fft.irfftn(scipy.fft.ifftshift(values, axes=(0, 1)), s=(edge,) * 3))
    size_px = edge // PADDING
    start = edge // 2 - size_px // 2
    return box[(slice(start, start + size_px),) * 3]


def _axes(matrices):
    return np.ascontiguousarray(matrices[:, :, :2] * PADDING, dtype=np.float32)


def automatic_mask(volumes, *, level=0.1, low_pass=35.0, margin=18.0):
    """Soft mask around the density of the first volume of a set, on its cropped grid.

    Parameters
    ----------
    volumes : VolumeSet
    level : float
        Threshold on the low-passed volume, as a fraction of its 99.9th percentile.
    low_pass : float
        Å.
    margin : float
        Å kept around what exceeds the threshold; half of it again is the soft edge. Room for the motion.

    Returns
    -------
    ndarray (c, c, c) float32
    """
    from scipy.ndimage import distance_transform_edt, label

    from cryonb.fourier import inverse_transform, radius_px, transform

    size_px = volumes.data.shape[-1]
    box_size = volumes.size_px * volumes.pixel_size
    falloff = np.exp(-0.5 * (radius_px(size_px, ndim=3) * low_pass / box_size) ** 2)
    smooth = inverse_transform(transform(volumes.data[0]) * falloff).real
    parts, _ = label(smooth > level * np.quantile(smooth, 0.999))
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.size == 0 or sizes.max() < 30:
        return sphere_mask(size_px)
    # specks of noise far from the particle are not part of it
    dense = np.isin(parts, 1 + np.flatnonzero(sizes > 0.02 * sizes.max()))
    distance = distance_transform_edt(~dense) * box_size / size_px
    ramp = np.clip((distance - margin) / (margin / 2), 0, 1)
    return (0.5 * (1 + np.cos(np.pi * ramp)) * (sphere_mask(size_px) > 0)).astype(np.float32)
