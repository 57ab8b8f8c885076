"""Phantoms: small models whose density, transform and projections are known in closed form."""

import numpy as np

from .moving_model import Motion, MovingModel

__all__ = ["blobs", "rotor"]


def blobs(n=12, *, radius=60.0, sigma=8.0, rng):
    """A phantom of ``n`` Gaussian blobs without symmetry: its transform and its projections are known exactly.

    Parameters
    ----------
    n : int
    radius : float
        Å; the blobs' centres lie within this distance of the box's centre, and their centre of mass on it.
    sigma : float
        Å.
    rng : int or numpy.random.Generator

    Returns
    -------
    MovingModel without motions

    Examples
    --------
    >>> round(float(blobs(rng=0).volume(32, 6.0).data.sum()), 2)
    1.0
    """
    rng = np.random.default_rng(rng)
    direction = rng.standard_normal((n, 3))
    distance = radius * 0.9 * rng.random(n) ** (1 / 3)
    weights = rng.uniform(0.5, 1.5, n)
    weights /= weights.sum()
    coordinates = direction / np.linalg.norm(direction, axis=1, keepdims=True) * distance[:, None]
    coordinates -= weights @ coordinates
    coordinates *= min(1.0, radius / np.linalg.norm(coordinates, axis=1).max())
    return MovingModel(coordinates, weights, np.full(n, float(sigma)), np.zeros(n, dtype=np.int64), ("body",))


def rotor(*, arm=70.0, sigma=8.0):
    """A phantom with a periodic coordinate: an arm that turns all the way round on a body.

    Parameters
    ----------
    arm : float
        Length of the arm in Å.
    sigma : float
        Å.

    Returns
    -------
    MovingModel with the motion ``angle`` about z (360° is 0°)

    Examples
    --------
    >>> turned, _ = rotor().state(angle=360.0)
    >>> bool(np.allclose(turned, rotor().coordinates))
    True
    """
    body = np.array([[0, 0, -30], [18, 0, -42], [-12, 15, -42], [0, -24, -55], [8, 6, -66]], dtype=float)
    along = np.linspace(0, arm, 6)
    turning = np.stack([along, 0.1 * along, np.full(6, 5.0)], axis=1)
    part = np.repeat([0, 1], [len(body), len(turning)])
    coordinates = np.concatenate([body, turning])
    motion = Motion("angle", np.array([0.0, 0.0, 1.0]), np.zeros(3), ("arm",))
    weights = np.where(part == 0, 1.2, 0.8)
    return MovingModel(coordinates, weights, np.full(len(part), float(sigma)), part, ("body", "arm"), (motion,))
