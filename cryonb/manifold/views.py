"""Evidence per view: averages of the particles seen from one side, to hold beside projections of the volumes."""

import numpy as np
from scipy.ndimage import map_coordinates

from cryonb import ctf, fourier, projection, rotations
from cryonb.types import Poses

__all__ = ["average_near_view", "crowded_view", "projections_and_averages", "turned_to_view", "volumes_at"]

NEAR = 25.0  # degrees: particles within this of a view are averaged with it
WIENER = 0.1  # added to the sum of squared CTFs, as a fraction of the number of particles


def crowded_view(particles):
    """The pose with the most particles within `NEAR` of its viewing direction, and the indices of those.

    Parameters
    ----------
    particles : Particles
        With poses.

    Returns
    -------
    view : Rotation of length 1
        On a grid of directions 15° apart; its in-plane angle psi is 0.
    index : ndarray
    """
    directions = rotations.viewing_direction(particles.poses.rotation)
    candidates = rotations.healpix_directions(2)
    near = directions @ candidates.T > np.cos(np.radians(NEAR))
    best = int(near.sum(axis=0).argmax())
    rot, tilt = rotations.directions_to_angles(candidates[best])
    return rotations.from_relion_angles([[rot, tilt, 0.0]]), np.flatnonzero(near[:, best])


def turned_to_view(particles, view):
    """Centred transforms of images, turned in plane to a view, times their CTF; and the squared CTFs.

    Parameters
    ----------
    particles : Particles
        With poses near ``view`` and with CTF.
    view : Rotation of length 1

    Returns
    -------
    transforms : ndarray (n, d, d) complex
    squares : ndarray (n, d, d)
    """
    size_px, pixel_size = particles.size_px, particles.pixel_size
    images = np.asarray(particles.images)
    kx, ky = fourier.frequency_grid(size_px, pixel_size)
    shift = particles.poses.shift
    centring = np.exp(-2j * np.pi * (kx * shift[:, 0, None, None] + ky * shift[:, 1, None, None]))
    contrast = ctf.grid(particles.ctf, size_px, pixel_size)
    images = fourier.inverse_transform(fourier.transform(images, ndim=2) * centring * contrast, ndim=2).real
    between = (particles.poses.rotation.inv() * view[0]).as_matrix()  # from the view's plane to the image's
    angle = np.arctan2(between[:, 1, 0] - between[:, 0, 1], between[:, 0, 0] + between[:, 1, 1])
    axis = np.arange(size_px) - size_px // 2
    x, y = np.meshgrid(axis, axis)
    turned, squares = np.empty_like(images), np.empty_like(images)
    for i, theta in enumerate(angle):
        where = [np.sin(theta) * x + np.cos(theta) * y, np.cos(theta) * x - np.sin(theta) * y]
        where = [coordinate + size_px // 2 for coordinate in where]
        turned[i] = map_coordinates(images[i], where, order=1)
        squares[i] = map_coordinates(contrast[i] ** 2, where, order=1, mode="nearest")
    return fourier.transform(turned, ndim=2), squares


def average_near_view(transforms, squares, weights):
    """Wiener average of images that `turned_to_view` has prepared.

    Parameters
    ----------
    transforms, squares : ndarray (n, d, d)
    weights : ndarray (n,)
        How much each image counts, for instance by its distance from a state.

    Returns
    -------
    ndarray (d, d), on the scale of the images; what the CTFs let through little of is damped
    """
    top = np.tensordot(weights, transforms, axes=1)
    bottom = np.tensordot(weights, squares, axes=1) + WIENER * weights.sum()
    return fourier.inverse_transform(top / bottom).real


def projections_and_averages(found, particles, positions, *, volumes=None):
    """From the view that most particles share: projections of the volumes, and averages of the particles, per state.

    Parameters
    ----------
    found : ConformationalLandscape
    particles : Particles
        With poses and CTF: those that were embedded.
    positions : ndarray (f,)
        Of the frames, in the coordinate's unit.
    volumes : sequence of f Volume, optional
        Those of ``found``, interpolated linearly to the positions, by default.

    Returns
    -------
    predicted, averages : ndarray (f, d, d)
        Particles count by a Gaussian about each position. An average lacks what the particles' CTFs let through little
        of; so does what stands beside it.
    """
    view, index = crowded_view(particles)
    aligned, squares = turned_to_view(particles[index], view)
    volumes = volumes_at(found, positions) if volumes is None else volumes
    width = np.median(np.diff(found.nodes)) * max(1.0, len(found.nodes) / 8)
    predicted, averages = [], []
    for position, volume in zip(positions, volumes):
        weights = np.exp(-0.5 * ((found.coordinate[index] - position) / width) ** 2)
        averages.append(average_near_view(aligned, squares, weights))
        shadow = fourier.transform(projection.project(volume, Poses(view)))
        predicted.append(average_near_view(shadow * squares, squares, weights))
    return np.array(predicted), np.array(averages)


def volumes_at(found, positions):
    """Volumes of a landscape at any positions, interpolated linearly between its nodes.

    Parameters
    ----------
    found : ConformationalLandscape
    positions : ndarray (f,)
        Clipped to the range of the nodes.

    Returns
    -------
    list of Volume, f of them
    """
    if found.landscape.energy_kt.ndim != 1:
        raise ValueError("this is a surface over two coordinates: its own volumes_at takes pairs of values")
    nodes = found.nodes
    place = np.interp(positions, nodes, np.arange(len(nodes)))
    low = np.minimum(place.astype(int), len(nodes) - 2)
    return [
        found.volumes[i].with_data((1 - part) * found.volumes[i].data + part * found.volumes[i + 1].data)
        for i, part in zip(low, place - low)
    ]
