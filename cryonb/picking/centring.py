"""Picks moved onto the centres of what they show."""

import numpy as np
import scipy.fft

__all__ = ["highest", "recentred"]

FEWEST = 8  # picks whose average is worth comparing with
ROUNDS, REACH = 2, 0.25  # how often, and how far from where it was a pick may go in each, in diameters
# Radius in diameters to which a pick is compared: its circle and the fringe around it. Of 0.4, 0.5, 0.6, 0.75 and 0.9
# chosen on simulated ribosomes and three of the β-galactosidase micrographs of development.
WINDOW = 0.75


def recentred(prepared, places):
    """Each place moved to where its surroundings correlate most with the rotational average of all.

    Parameters
    ----------
    prepared : Prepared
    places : ndarray (n, 2)
        x, y in binned pixels.

    Returns
    -------
    ndarray (n, 2)
        To a fraction of a pixel, by a parabola along each axis.

    Notes
    -----
    Two rounds, each of at most a quarter of a diameter. The average is turned through all angles, because particles lie
    in the plane as they please and the mean of all has no direction of its own. Fewer than eight places stay where
    they are. The centre is the one that the particles share, not that of any one view.

    Examples
    --------
    >>> from cryonb.picking import prepare
    >>> from cryonb.types import Micrograph
    >>> y, x = np.mgrid[:240, :240]
    >>> true = np.array([[40.0 + 50 * i, 40 + 50 * j] for i in range(4) for j in range(4)])
    >>> discs = sum(np.hypot(x - a, y - b) < 9 for a, b in true)
    >>> prepared = prepare(Micrograph(np.random.default_rng(0).normal(size=(240, 240)) - 2 * discs, 5.0), 90.0)
    >>> found = recentred(prepared, prepared.from_micrograph(true + np.random.default_rng(1).normal(0, 2, true.shape)))
    >>> bool(np.sqrt(((prepared.to_micrograph(found) - true) ** 2).sum(1).mean()) < 0.5)
    True
    """
    places = np.asarray(places, dtype=float).reshape(-1, 2)
    if len(places) < FEWEST:
        return places.copy()
    size = prepared.diameter_px
    half = int(np.ceil(WINDOW * size)) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    radius = np.hypot(x, y)
    window = np.clip((WINDOW * size - radius) / (0.1 * size) + 0.5, 0, 1)
    near = radius <= REACH * size
    padded = np.pad(prepared.image, half)
    boxes = np.lib.stride_tricks.sliding_window_view(padded, (2 * half + 1, 2 * half + 1))
    last = np.array(prepared.image.shape)[::-1] - 1
    for _ in range(ROUNDS):
        nearest = np.clip(np.rint(places).astype(int), 0, last)
        surroundings = boxes[nearest[:, 1], nearest[:, 0]]
        average = _turned(surroundings.mean(axis=0), radius)
        average = (average - (average * window).sum() / window.sum()) * window
        reference = np.conj(scipy.fft.rfft2(np.fft.ifftshift(average)))
        correlation = scipy.fft.irfft2(scipy.fft.rfft2(surroundings) * reference, surroundings.shape[1:])
        places = nearest + highest(correlation, near)[1]
    return places


def _turned(image, radius):
    """The rotational average of an image."""
    ring = np.rint(radius).astype(int).ravel()
    profile = np.bincount(ring, image.ravel()) / np.maximum(np.bincount(ring), 1)
    return np.interp(radius, np.arange(len(profile)), profile)


def highest(maps, near):
    """Highest value of each map where ``near``, and its place (x, y) against the centre, by a parabola along each axis.

    Parameters
    ----------
    maps : ndarray (n, s, s)
    near : ndarray (s, s) of bool
        Not on the rim.

    Returns
    -------
    height : ndarray (n,)
    place : ndarray (n, 2)
        In pixels.
    """
    n, size, _ = maps.shape
    which = np.arange(n)
    row, column = np.unravel_index(np.where(near, maps, -np.inf).reshape(n, -1).argmax(axis=1), (size, size))
    height = maps[which, row, column]
    steps = []
    for dy, dx in ((0, 1), (1, 0)):
        before, after = (maps[which, row + sign * dy, column + sign * dx] for sign in (-1, 1))
        curvature = before + after - 2 * height
        step = np.divide(0.5 * (before - after), curvature, out=np.zeros(n), where=curvature < 0)
        steps.append(np.clip(step, -0.5, 0.5))
    return height, np.column_stack([column, row]) - size // 2 + np.column_stack(steps)
