"""Images against many volumes at once: overlaps of their projections, and the noise that these leave over."""

from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation

from cryonb.manifold import _kernels
from cryonb.manifold.observations import concatenated
from cryonb.manifold.volume_sets import PADDING
from cryonb.projection.slices import plane_axes

__all__ = ["POSE_STEP", "gram_matrices", "noise_spectrum", "turned_matrices"]

POSE_STEP = 1.0  # degrees, for central differences; small against the finest detail over the particle's radius


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
    return concatenated(function, len(observations), workers=workers)


def _gram_chunk(observations, transforms, mean, scale, chunk):
    values, matrices = observations.values[chunk], observations.matrices[chunk]
    with_pose = mean is not None
    n, n_slices = len(values), transforms.shape[-1] + (5 if with_pose else 0)
    gram, overlap = np.empty((n, n_slices, n_slices)), np.empty((n, n_slices))
    turned = _turned_axes(matrices) if with_pose else np.zeros((n, 0, 3, 2), dtype=np.float32)
    cycles = 2 * np.pi / (observations.size_px * observations.pixel_size)
    _kernels.read(
        transforms, plane_axes(matrices, PADDING), observations.points, values, observations.ctf[chunk], scale,
        mean if with_pose else transforms[..., :1], turned, np.float32(POSE_STEP), np.float32(cycles), gram, overlap,
    )  # fmt: skip
    return gram, overlap


def _turned_axes(matrices):
    """Axes of each image turned by ± a small step about its own x, y and z, (n, 6, 3, 2)."""
    return np.ascontiguousarray(turned_matrices(matrices, POSE_STEP)[..., :2] * PADDING, dtype=np.float32)


def turned_matrices(matrices, step):
    """Rotations ``matrices`` (n, 3, 3), turned by ± ``step`` degrees about each image's x, y, z: (n, 6, 3, 3)."""
    steps = np.repeat(np.eye(3), 2, axis=0) * np.array([1, -1] * 3)[:, None] * step
    return np.einsum("nij,sjk->nsik", matrices, Rotation.from_rotvec(steps, degrees=True).as_matrix())


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
        volumes.transforms(), plane_axes(observations.matrices[index], PADDING), observations.points,
        observations.values[index], observations.ctf[index], weights, shell, power,
    )  # fmt: skip
    counts = np.bincount(shell, minlength=power.size) * len(index)
    return np.where(counts > 0, power / np.maximum(counts, 1), observations.noise)
