"""Bin viewing directions, opposite ones mirrored together, and bring the images of a bin into one frame."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from cryonb import ctf, filters, fourier, rotations

__all__ = ["ViewBins", "bin_views", "prepare_view"]

_HALF_TURN = Rotation.from_euler("X", 180, degrees=True)  # takes a view to the opposite one, its image mirrored in y


@dataclass(frozen=True, eq=False)
class ViewBins:
    """Bins of viewing directions over half the sphere.

    Parameters
    ----------
    directions : ndarray (v, 3)
        Unit vectors at the centres of the bins kept.
    members : tuple of v ndarrays
        Particles of each bin, drawn at random where there were more than the upper threshold.
    mirrored : ndarray (n,) of bool
        Particles seen from the opposite side.
    populations : ndarray (v,)
        Particles in each bin before drawing.
    width : float
        Degrees.
    """

    directions: np.ndarray
    members: tuple
    mirrored: np.ndarray
    populations: np.ndarray
    width: float

    def __len__(self):
        return len(self.members)

    @property
    def rotation(self):
        """Pose of each bin, of length v: its in-plane angle is 0."""
        angles = rotations.directions_to_angles(self.directions)
        return rotations.from_relion_angles(np.column_stack([angles, np.zeros(len(angles))]))


def bin_views(poses, width, *, rng, least=100, most=2000):
    """Sort particles into bins of viewing direction; a view and its opposite share one.

    Parameters
    ----------
    poses : Poses
    width : float
        Of a bin, degrees; published as resolution over diameter, in radians.
    rng : int or Generator
    least, most : int
        Bins with fewer particles are dropped; of more, ``most`` are drawn at random.

    Returns
    -------
    ViewBins
        Most populous first. Centres lie on a golden spiral over half the sphere, one per ``width`` squared.

    Examples
    --------
    >>> from cryonb.types import Poses
    >>> both = rotations.from_relion_angles([[0.0, 0.0, 0.0], [0.0, 180.0, 0.0]] * 60)
    >>> bins = bin_views(Poses(both, np.zeros((120, 2))), 30.0, rng=0)
    >>> len(bins), int(bins.mirrored.sum())
    (1, 60)
    """
    if not 0 < width <= 90:
        raise ValueError(f"the width of a view bin must lie in (0, 90] degrees, got {width:g}")
    if not 2 <= least <= most:
        raise ValueError(f"thresholds must satisfy 2 <= least <= most, got {least} and {most}")
    rng = np.random.default_rng(rng)
    n_bins = max(1, int(np.ceil(2 * np.pi / np.radians(width) ** 2)))
    z = (np.arange(n_bins) + 0.5) / n_bins
    azimuth = np.arange(n_bins) * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - z**2)
    centers = np.column_stack([ring * np.cos(azimuth), ring * np.sin(azimuth), z])
    nearness = rotations.viewing_direction(poses.rotation) @ centers.T
    home = np.abs(nearness).argmax(axis=1)
    mirrored = nearness[np.arange(len(home)), home] < 0
    counts = np.bincount(home, minlength=n_bins)
    kept = [b for b in np.argsort(-counts, kind="stable") if counts[b] >= least]
    members = []
    for b in kept:
        index = np.flatnonzero(home == b)
        members.append(np.sort(rng.choice(index, most, replace=False)) if len(index) > most else index)
    return ViewBins(centers[kept], tuple(members), mirrored, counts[kept], float(width))


def prepare_view(particles, view, mirrored, *, radius):
    """Filter, centre, turn to a view, mirror and mask images, and turn their CTFs with them.

    Parameters
    ----------
    particles : Particles
        Of one bin, with poses and CTF.
    view : Rotation of length 1
    mirrored : ndarray (n,) of bool
        Images taken from the opposite side.
    radius : float
        Of the mask, Å.

    Returns
    -------
    transforms : ndarray (n, d, d) complex64
        Centred, not corrected for the CTF.
    contrast : ndarray (n, d, d) float32
        CTF of each, in the frame of the view.
    """
    size_px, pixel_size = particles.size_px, particles.pixel_size
    images = filters.butterworth(np.asarray(particles.images), 4 * pixel_size, pixel_size, order=8)
    kx, ky = fourier.frequency_grid(size_px, pixel_size)
    shift = particles.poses.shift[:, :, None, None]
    centring = np.exp(-2j * np.pi * (kx * shift[:, 0] + ky * shift[:, 1]))
    images = fourier.inverse_transform(fourier.transform(images, ndim=2) * centring, ndim=2).real
    sign = np.where(mirrored, -1.0, 1.0)
    facing = particles.poses.rotation * Rotation.from_rotvec(
        np.where(mirrored, 1.0, 0.0)[:, None] * _HALF_TURN.as_rotvec()
    )
    between = (facing.inv() * view[0]).as_matrix()  # from the view's plane to the image's
    angle = np.arctan2(between[:, 1, 0] - between[:, 0, 1], between[:, 0, 0] + between[:, 1, 1])
    axis = np.arange(size_px) - size_px // 2
    x, y = np.meshgrid(axis, axis)
    turned = np.empty(images.shape, dtype=np.float32)
    for i, theta in enumerate(angle):
        row = sign[i] * (np.sin(theta) * x + np.cos(theta) * y)
        column = np.cos(theta) * x - np.sin(theta) * y
        turned[i] = map_coordinates(images[i], [row + size_px // 2, column + size_px // 2], order=1)
    turned *= filters.soft_sphere(size_px, radius / pixel_size, ndim=2)
    lens = replace(particles.ctf, defocus_angle=sign * particles.ctf.defocus_angle - np.degrees(angle))
    return fourier.transform(turned, ndim=2).astype(np.complex64), ctf.grid(lens, size_px, pixel_size)
