"""Particles with poses to a volume: Fourier inversion, half maps, and back-projection as the lessons need it."""

from functools import partial

import numpy as np
import scipy.fft

from . import ctf as ctf_room
from . import parallel, projection, rotations
from .types import Volume

__all__ = [
    "accumulate", "filtered_back_projection", "half_maps", "reconstruct", "sinogram", "weighted_back_projection",
]  # fmt: skip

CHUNK_BYTES = 16 * 2**20  # of images
BATCH = 256  # images whose transforms are held at once
FINE_STEP = 0.5  # Fourier pixels


def reconstruct(particles, *, weights=None, prior=None, symmetry="C1", workers=1, progress=True, checkpoint=None):
    """Volume that explains the particles: V = A / (W + 1/prior), in Fourier space.

    A = Σ Pᵀ[CTF X] and W = Σ Pᵀ[CTF²], with X the image's transform, moved so that the particle is centred.

    Parameters
    ----------
    particles : Particles
        With poses; where they have a CTF, it is corrected. Lazy images are read in chunks.
    weights : ndarray (n,), optional
        How much each particle counts (its class probability, 1/σ² of its noise, a selection).
    prior : ndarray (d // 2 + 1,) or float, optional
        τ²/σ² per shell: expected signal variance in units of the noise variance; 1/prior is the Wiener constant.
        Not used below shell 5. By default there is none, and only a floor on W keeps gaps from blowing up.
    symmetry : str
        Point group (`cryonb.rotations.point_group`).
    workers, progress, checkpoint
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    Volume (d, d, d) on the absolute scale: CTF · projection explains the images.

    Raises
    ------
    ValueError
        Particles without poses, weights of the wrong length or negative, NaN in an image, an unknown point group.

    Notes
    -----
    Padding 2, trilinear insertion, sinc² correction; Scheres, J Mol Biol 415:406 (2012), eq. 8. Near zero frequency,
    where a view's samples lie two padded voxels apart, transforms are sampled at half pixels and weighted by |k|:
    this keeps the mean density right. The result holds the noise of the images at frequencies that the particles
    hardly cover: give a ``prior``, or look at half maps.

    Examples
    --------
    >>> from cryonb.types import Particles, Poses
    >>> atoms = (np.array([[6.0, 0, 0], [0, -9, 3]]), np.array([1.0, 2.0]))
    >>> poses = Poses(rotations.random_rotations(300, rng=0))
    >>> images = projection.project_atoms(atoms, 4.0, poses, 16, 3.0)
    >>> found = reconstruct(Particles(images, 3.0, poses=poses), progress=False)
    >>> truth = projection.atoms_to_volume(atoms, 4.0, 16, 3.0)
    >>> bool(np.abs(found.data - truth.data).max() < 0.05 * truth.data.max())
    True
    """
    size_px = particles.size_px
    if particles.poses is None:
        raise ValueError("reconstruction needs poses, and these particles have none")
    weights = _check_weights(weights, len(particles))
    prior = None if prior is None else np.broadcast_to(np.asarray(prior, dtype=float), (size_px // 2 + 1,))
    operators = rotations.point_group(symmetry)
    chunk_size = int(np.clip(CHUNK_BYTES // (4 * size_px**2), 32, 2048))
    total = parallel.map_reduce(
        partial(_accumulate_chunk, particles, weights, operators),
        parallel.chunk_slices(len(particles), chunk_size),
        workers=workers,
        progress="reconstruct" if progress is True else progress,
        checkpoint=checkpoint,
    )
    accumulator = projection.Accumulator(size_px)
    accumulator.values[:], accumulator.weights[:] = total
    return projection.solve(accumulator, particles.pixel_size, prior=prior)


def half_maps(particles, *, rng, weights=None, **options):
    """Two independent reconstructions, for `cryonb.resolution.fourier_shell_correlation`.

    Parameters
    ----------
    particles : Particles
        Where the metadata have ``rlnRandomSubset`` (1 and 2), those halves are used: the poses were found in them,
        and other halves would not be independent.
    rng : seed or Generator
        Splits the particles into two random halves otherwise.
    weights : ndarray (n,), optional
    **options
        As in `reconstruct`.

    Returns
    -------
    (Volume, Volume)
    """
    if len(particles) < 2:
        raise ValueError(f"half maps need at least two particles, got {len(particles)}")
    metadata = particles.metadata
    if metadata is not None and "rlnRandomSubset" in metadata:
        subset = metadata["rlnRandomSubset"].to_numpy().astype(int)
        halves = np.flatnonzero(subset == 1), np.flatnonzero(subset == 2)
        if not all(len(half) for half in halves):
            raise ValueError(f"rlnRandomSubset must hold both 1 and 2, got only {sorted(set(subset.tolist()))}")
    else:
        order = np.random.default_rng(rng).permutation(len(particles))
        middle = (len(particles) + 1) // 2
        halves = np.sort(order[:middle]), np.sort(order[middle:])
    weights = _check_weights(weights, len(particles))
    return tuple(reconstruct(particles[half], weights=weights[half], **options) for half in halves)


def accumulate(accumulator, particles, *, weights=None, operators=None):
    """Insert particles held in memory into an accumulator: values A and weights W of `reconstruct`.

    Parameters
    ----------
    accumulator : cryonb.projection.Accumulator
        Changed in place; then `cryonb.projection.solve`.
    particles : Particles
        With poses.
    weights : ndarray (n,), optional
    operators : Rotation, optional
        Point group: each particle is inserted once per rotation.
    """
    size_px = particles.size_px
    weights = np.ones(len(particles)) if weights is None else weights
    half = projection.half_plane(size_px)
    coarse = (half.points**2).sum(axis=1) >= projection.FREE_SHELLS**2
    fine, fine_weights = _fine_points()
    for batch in parallel.chunk_slices(len(particles), BATCH):
        part = particles[batch]
        images = np.asarray(part.images, dtype=np.float32)
        _check_finite(images, batch.start)
        transforms = projection.to_half_plane(images, half)[:, coarse]
        near_zero = _transform_at(images, fine)
        for points, slices, share in (
            (half.points[coarse], transforms, np.float32(1)),
            (fine, near_zero, fine_weights),
        ):
            slices, squares = _weighted_by_ctf(slices, points, part, weights[batch], share)
            for turn in [None] if operators is None else operators:
                rotation = part.poses.rotation if turn is None else turn * part.poses.rotation
                projection.insert_slices(accumulator, slices, squares, rotation.as_matrix(), points)


def _accumulate_chunk(particles, weights, operators, chunk):
    accumulator = projection.Accumulator(particles.size_px)
    try:
        accumulate(accumulator, particles[chunk], weights=weights[chunk], operators=operators)
    except _NotFinite as error:
        raise ValueError(f"particle {chunk.start + error.row} has pixels that are NaN or infinite") from None
    return accumulator.values, accumulator.weights


def _weighted_by_ctf(slices, points, particles, weights, share):
    """CTF · X · weight with the particle centred, and CTF² · weight."""
    box_size = particles.box_size
    squares = np.asarray(weights, dtype=np.float32)[:, None] * share * np.ones(len(points), dtype=np.float32)
    slices = slices * squares
    if particles.poses.shift.any():
        slices *= projection.shift_phases(points, -particles.poses.shift, box_size)
    if particles.ctf is not None:
        kx, ky = (points / box_size).T
        contrast = ctf_room.evaluate(particles.ctf, kx, ky).astype(np.float32)
        slices *= contrast
        squares *= contrast**2
    return slices, squares


def _fine_points():
    """Half-pixel grid of the disc below FREE_SHELLS, and weights that make its density in 3D uniform.

    Central slices cross at zero frequency, so that their points crowd as 1/|k|: weighting by |k| undoes this. Zero
    frequency gets the mean |k| of its cell, and half of that because it is its own Friedel partner.
    """
    reach = projection.FREE_SHELLS
    axis = np.arange(-reach, reach + FINE_STEP, FINE_STEP)
    kx, ky = (grid.ravel() for grid in np.meshgrid(axis, axis))
    keep = (kx**2 + ky**2 < reach**2) & ((kx > 0) | ((kx == 0) & (ky >= 0)))
    points = np.stack([kx[keep], ky[keep]], axis=1)
    radius = np.hypot(*points.T)
    mean_in_cell = 0.3826 * FINE_STEP  # ∫|k| over the unit square
    weight = np.where(radius == 0, mean_in_cell / 2, radius) * FINE_STEP**2 / reach
    return points.astype(np.float32), weight.astype(np.float32)


def _transform_at(images, points):
    """Transform of images at any (kx, ky) in Fourier pixels, by the sum itself: (n, m) complex64."""
    size_px = images.shape[-1]
    axis = np.arange(size_px) - size_px // 2
    columns, place_x = np.unique(points[:, 0], return_inverse=True)
    rows, place_y = np.unique(points[:, 1], return_inverse=True)
    wave_x, wave_y = (np.exp(-2j * np.pi / size_px * np.outer(axis, k)).astype(np.complex64) for k in (columns, rows))
    along_x = images.reshape(-1, size_px) @ wave_x.real + 1j * (images.reshape(-1, size_px) @ wave_x.imag)
    along_x = along_x.reshape(-1, size_px, len(columns)).astype(np.complex64)
    return (wave_y.T @ along_x)[:, place_y, place_x]


class _NotFinite(ValueError):
    def __init__(self, row):
        super().__init__(f"image {row} has pixels that are NaN or infinite")
        self.row = row


def _check_finite(images, start):
    finite = np.isfinite(images.sum(axis=(1, 2)))
    if not finite.all():
        raise _NotFinite(start + int(np.argmin(finite)))


def _check_weights(weights, n):
    if weights is None:
        return np.ones(n, dtype=np.float32)
    weights = np.asarray(weights, dtype=np.float32)
    if weights.shape != (n,):
        raise ValueError(f"weights must have shape ({n},), one per particle, got {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError("weights must be finite and ≥ 0, and not all zero")
    return weights


def sinogram(image, angles):
    """Parallel projections of an image: row i is p(x) = Σ_y image(R(θ_i)·(x, y)).

    Parameters
    ----------
    image : ndarray (d, d)
    angles : array_like (n,)
        Degrees, from +x to +y.

    Returns
    -------
    ndarray (n, d) float32: the two-dimensional case of `cryonb.projection.project`.

    Examples
    --------
    >>> from cryonb.fourier import radius_px
    >>> disc = (radius_px(32) < 8).astype(float)
    >>> rows = sinogram(disc, [0, 30, 90])
    >>> [bool(abs(row.sum() / disc.sum() - 1) < 0.01) for row in rows]
    [True, True, True]
    """
    from scipy.ndimage import map_coordinates

    image = np.asarray(image, dtype=np.float32)
    size_px = image.shape[-1]
    centre = size_px // 2
    y, x = np.indices(image.shape) - centre
    rows = np.empty((len(angles), size_px), dtype=np.float32)
    for i, angle in enumerate(np.radians(angles)):
        there = np.sin(angle) * x + np.cos(angle) * y + centre, np.cos(angle) * x - np.sin(angle) * y + centre
        rows[i] = map_coordinates(image, there, order=1).sum(axis=0)
    return rows


def filtered_back_projection(rows, angles, *, ramp=True):
    """Image from its parallel projections over half a turn or more, evenly spaced.

    Parameters
    ----------
    rows : ndarray (n, d)
        `sinogram`.
    angles : array_like (n,)
        Degrees.
    ramp : bool
        Multiply the rows' transforms by |k| first. Without it low frequencies, where the slices crowd, count too much
        and the image is blurred.

    Returns
    -------
    ndarray (d, d) float32

    Notes
    -----
    Kak & Slaney, *Principles of Computerized Tomographic Imaging* (1988), chapter 3; the ramp is sampled in real
    space (their eq. 61), which keeps the mean right.

    Examples
    --------
    >>> from cryonb.fourier import radius_px
    >>> disc = (radius_px(32) < 8).astype(float)
    >>> angles = np.arange(60) * 3.0
    >>> found = filtered_back_projection(sinogram(disc, angles), angles)
    >>> round(float(found[14:18, 14:18].mean()), 1), round(float(found[2, 2]), 1)
    (1.0, 0.0)
    """
    from scipy.ndimage import map_coordinates

    rows = np.asarray(rows, dtype=np.float32)
    n, size_px = rows.shape
    if n != len(angles):
        raise ValueError(f"expected one angle per row, got {len(angles)} angles for {n} rows")
    if ramp:
        rows = _ramp_filtered(rows)
    centre = size_px // 2
    y, x = np.indices((size_px, size_px)) - centre
    image = np.zeros((size_px, size_px), dtype=np.float64)
    for row, angle in zip(rows, np.radians(angles)):
        image += map_coordinates(row, [np.cos(angle) * x + np.sin(angle) * y + centre], order=1)
    return (image * (np.pi / n if ramp else 1 / (n * size_px))).astype(np.float32)


def _ramp_filtered(rows):
    size_px = rows.shape[1]
    padded = scipy.fft.next_fast_len(2 * size_px, real=True)
    offset = np.arange(padded)
    offset = np.minimum(offset, padded - offset)
    odd = offset % 2 == 1
    kernel = np.where(odd, -1 / (np.pi * np.maximum(offset, 1)) ** 2, np.where(offset == 0, 0.25, 0))
    transform = scipy.fft.rfft(rows, padded) * scipy.fft.rfft(kernel).real
    return scipy.fft.irfft(transform, padded)[:, :size_px]


def weighted_back_projection(images, poses, voxel_size, *, weighted=True):
    """Volume from images by smearing each back along its beam, weighted by how crowded the views are.

    Parameters
    ----------
    images : ndarray (n, d, d)
    poses : Poses
        n of them; the cost grows as n².
    voxel_size : float
        Å.
    weighted : bool
        Divide each Fourier component by the number of slices that overlap there. Without it: plain back-projection.

    Returns
    -------
    Volume (d, d, d)

    Notes
    -----
    Exact filters for any geometry: Harauz & van Heel, Optik 73:146 (1986). A slice is 1/d thick, and two of them
    overlap at k by the triangle 1 − d·|k·n|, with n the other's viewing direction.
    """
    images = np.asarray(images, dtype=np.float32)
    size_px = images.shape[-1]
    half = projection.half_plane(size_px)
    slices = projection.to_half_plane(images, half)
    if weighted:
        matrices = poses.rotation.as_matrix()
        directions = rotations.viewing_direction(poses.rotation).T.astype(np.float32)
        for i, matrix in enumerate(matrices):
            distance = (half.points @ matrix[:, :2].T.astype(np.float32)) @ directions
            slices[i] /= np.maximum(1 - np.abs(distance), 0).sum(axis=1)
    else:
        slices /= len(images)
    filtered = projection.from_half_plane(slices, half, size_px)
    volume = projection.back_project(filtered, poses, voxel_size)
    return Volume(volume.data / size_px, voxel_size)
