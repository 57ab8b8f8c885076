"""How well each image fits each point of a conformational coordinate, through Gram matrices of a few volumes.

Image i at coordinate x is y_i = C_i P_i Σ_l φ_l(x) s_l + Σ_j t_j ∂_j + noise: spectral volumes s along the coordinate,
and, where wanted, small errors t of the pose, which are integrated out exactly. Cost N (P L + L² M) for N images of P
pixels, L volumes and M nodes.
"""

from dataclasses import dataclass

import numpy as np

from cryonb.manifold.gram import gram_matrices, noise_spectrum
from cryonb.manifold.observations import Observations, observe
from cryonb.manifold.volume_sets import VolumeSet, crop_or_pad, grid_size
from cryonb.parallel import with_one_blas_thread
from cryonb.types import Volume

__all__ = ["Overlaps", "image_log_likelihood", "node_log_likelihood", "without_pose_errors"]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Sufficient statistics of each image for the spectral volumes.

    Parameters
    ----------
    gram : ndarray (n, l, l)
    overlap : ndarray (n, l)
        The log-likelihood of spectral coefficients f is overlapᵀf − ½ fᵀ gram f, up to a constant per image.
    """

    gram: np.ndarray
    overlap: np.ndarray


def without_pose_errors(gram, overlap, pose_error):
    """Integrate small errors of the poses out of Gram matrices.

    Parameters
    ----------
    gram : ndarray (n, l + 5, l + 5)
        Of l volumes and the five derivatives by the pose, as `gram_matrices` gives them.
    overlap : ndarray (n, l + 5)
    pose_error : (float, float)
        Standard deviation per axis of the rotation in degrees and of the shift in Å.

    Returns
    -------
    Overlaps
    """
    degrees, shift = pose_error
    precision = np.repeat([1 / max(degrees, 1e-6) ** 2, 1 / max(shift, 1e-6) ** 2], [3, 2])
    across = gram[:, -5:, :-5]
    covariance = np.linalg.inv(gram[:, -5:, -5:] + np.diag(precision))
    mean = np.einsum("nij,nj->ni", covariance, overlap[:, -5:])
    return Overlaps(
        gram[:, :-5, :-5] - np.swapaxes(across, 1, 2) @ covariance @ across,
        overlap[:, :-5] - np.einsum("nji,nj->ni", across, mean),
    )


def node_log_likelihood(overlaps, coefficients):
    """Log-likelihood of every image at every node, (n, m), up to a constant per image.

    Parameters
    ----------
    overlaps : Overlaps
    coefficients : ndarray (m, l)
        Of the spectral volumes at each node.

    Examples
    --------
    >>> one = Overlaps(np.ones((1, 1, 1)), np.full((1, 1), 2.0))
    >>> node_log_likelihood(one, np.array([[0.0], [2.0]])).tolist()
    [[0.0, 2.0]]
    """
    m, n_spectral = coefficients.shape
    pairs = (coefficients[:, :, None] * coefficients[:, None, :]).reshape(m, -1)
    return overlaps.overlap @ coefficients.T - 0.5 * overlaps.gram.reshape(-1, n_spectral**2) @ pairs.T


@with_one_blas_thread
def image_log_likelihood(
    particles, volumes, *, resolution=None, noise=None, pose_error=None, contrast_sd=0.0, workers=1
):
    """Log-likelihood of every particle under each of a list of volumes, at known poses and CTF.

    Parameters
    ----------
    particles : Particles
        n of them, with poses and CTF.
    volumes : list of Volume
        m of them, on the particles' grid and the absolute scale (a projection explains the images).
    resolution : float, optional
        Å, the finest used; just below Nyquist by default.
    noise : ndarray (shells,), optional
        Variance of a complex Fourier coefficient of the noise per shell; by default what the mean of the volumes
        leaves unexplained.
    pose_error : (float, float), optional
        Standard deviations in degrees and Å, per axis, to integrate over (first order in the pose).
    contrast_sd : float
        Standard deviation of a contrast per particle, N(1, sd²), integrated out; 0 for none.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    ndarray (n, m), up to a constant per particle

    Raises
    ------
    ValueError
        Volumes of another grid; what `observe` refuses.

    Notes
    -----
    log N(y; C P V, σ²) from Gram matrices, log p = b_m − ½ G_mm; with contrast a ~ N(1, s²), 1/s² = κ:
    ½ (b_m + κ)²/(G_mm + κ) − ½ ln(G_mm + κ).
    """
    from dataclasses import replace

    observations = particles
    if not isinstance(particles, Observations):
        observations = observe(particles, resolution=resolution, workers=workers)
    stack = volumes if isinstance(volumes, VolumeSet) else stack_volumes(volumes, observations)
    mean = stack.combine(np.full((1, len(stack)), 1 / len(stack)))
    if noise is None:
        noise = noise_spectrum(observations, mean, np.ones((len(observations), 1)))
    observations = replace(observations, noise=np.asarray(noise))
    columns = []
    for start in range(0, len(stack), 8):
        part = stack.combine(np.eye(len(stack))[start : start + 8])
        gram, overlap = gram_matrices(observations, part, mean=None if pose_error is None else mean, workers=workers)
        overlaps = Overlaps(gram, overlap) if pose_error is None else without_pose_errors(gram, overlap, pose_error)
        power, match = np.einsum("nii->ni", overlaps.gram), overlaps.overlap
        if contrast_sd > 0:
            stiffness = 1 / contrast_sd**2
            columns.append(0.5 * (match + stiffness) ** 2 / (power + stiffness) - 0.5 * np.log(power + stiffness))
        else:
            columns.append(match - 0.5 * power)
    return np.concatenate(columns, axis=1)


def stack_volumes(volumes, observations):
    """A list of `Volume` on the cropped grid of observations, as a `VolumeSet` without a mask."""
    size_px = grid_size(observations.radius)
    for volume in volumes:
        if not isinstance(volume, Volume):
            raise TypeError(f"volumes must be a list of Volume, got {type(volume).__name__}")
        if volume.size_px != observations.size_px or not np.isclose(volume.voxel_size, observations.pixel_size):
            raise ValueError(
                f"volumes must have the particles' grid, {observations.size_px} px of {observations.pixel_size:g} Å; "
                f"got {volume}"
            )
    data = np.stack([crop_or_pad(volume.data, size_px) for volume in volumes])
    mask = np.ones((size_px,) * 3, dtype=np.float32)
    return VolumeSet(data, mask, observations.size_px, observations.pixel_size)
