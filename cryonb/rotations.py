"""Orientations: RELION's angles to and from ``scipy`` rotations, samplings of the sphere and of SO(3), distances.

``R = Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True)`` takes image-frame to volume-frame
coordinates: F_image(k) = F_volume(R·(kx, ky, 0)). The third column of R is the viewing direction.
"""

import numpy as np
from scipy.spatial.transform import Rotation

__all__ = [
    "angular_distance", "directions_to_angles", "from_relion_angles", "healpix_directions", "healpix_step",
    "point_group", "random_rotations", "so3_grid", "to_relion_angles", "viewing_direction",
]  # fmt: skip


def from_relion_angles(angles):
    """Rotations from RELION's (rot, tilt, psi).

    Parameters
    ----------
    angles : array_like (n, 3)
        rlnAngleRot, rlnAngleTilt, rlnAnglePsi in degrees.

    Returns
    -------
    Rotation of length n, image frame to volume frame (RELION's own matrix is its transpose).

    Examples
    --------
    A view with rot = 90°, tilt = 90° looks along +y:

    >>> viewing_direction(from_relion_angles([[90.0, 90.0, 0.0]])).round(6).tolist()
    [[0.0, 1.0, 0.0]]
    """
    angles = np.atleast_2d(np.asarray(angles, dtype=float))
    if angles.shape[1] != 3:
        raise ValueError(f"angles must have shape (n, 3): rot, tilt, psi in degrees; got {angles.shape}")
    if not np.isfinite(angles).all():
        raise ValueError(f"angles must be finite, row {int(np.argmin(np.isfinite(angles).all(1)))} is not")
    return Rotation.from_euler("ZYZ", angles, degrees=True)


def to_relion_angles(rotation):
    """RELION's (rot, tilt, psi) of a ``rotation`` of length n, in degrees, shape (n, 3).

    The inverse of `from_relion_angles`. At tilt = 0 or 180 only a sum or difference of rot and psi is defined; psi is
    then 0.

    Examples
    --------
    >>> to_relion_angles(from_relion_angles([[30.0, 50.0, -70.0]])).round(6).tolist()
    [[30.0, 50.0, -70.0]]
    """
    matrix = np.atleast_3d(rotation.as_matrix()) if not rotation.single else rotation.as_matrix()[None]
    tilt = np.arctan2(np.hypot(matrix[:, 0, 2], matrix[:, 1, 2]), matrix[:, 2, 2])
    regular = np.sin(tilt) > 1e-7
    rot = np.where(
        regular,
        np.arctan2(matrix[:, 1, 2], matrix[:, 0, 2]),
        np.arctan2(matrix[:, 1, 0] * np.sign(matrix[:, 2, 2]), matrix[:, 1, 1]),
    )
    psi = np.where(regular, np.arctan2(matrix[:, 2, 1], -matrix[:, 2, 0]), 0.0)
    return np.degrees(np.stack([rot, tilt, psi], axis=1))


def viewing_direction(rotation):
    """Unit vectors (n, 3) along which images of this ``rotation`` were taken, in the volume's frame.

    The third column of R.

    Examples
    --------
    >>> viewing_direction(Rotation.identity()).tolist()
    [[0.0, 0.0, 1.0]]
    """
    return np.atleast_2d(rotation.apply([0.0, 0.0, 1.0]))


def angular_distance(a, b):
    """Angle in degrees, shape (n,), of the rotation that takes ``a`` to ``b`` (element by element).

    Examples
    --------
    >>> turn = Rotation.from_rotvec([[0, 0, 0], [0, 0, 10]], degrees=True)
    >>> angular_distance(turn, turn[0]).round(6).tolist()
    [0.0, 10.0]
    """
    return np.degrees(np.atleast_1d((a.inv() * b).magnitude()))


def random_rotations(n, *, rng):
    """``n`` rotations uniform on SO(3). ``rng`` is a seed or a ``numpy.random.Generator``."""
    return Rotation.random(n, rng=np.random.default_rng(rng))


def point_group(symmetry):
    """Rotations of a point group, oriented as RELION orients them.

    Parameters
    ----------
    symmetry : str
        ``"C1"``, ``"C2"``, …, ``"D2"``, …, ``"T"``, ``"O"``, ``"I1"``, or ``"I2"`` (``"I"`` means I2).

    Returns
    -------
    Rotation; the volume is unchanged by each.

    Notes
    -----
    The main axis is z, the twofold axis of D is x; T has a threefold on z and a twofold at (0, √⅔, √⅓); I1 and I2 have
    twofolds on x, y and z and differ by 90° about z.

    Examples
    --------
    >>> [len(point_group(name)) for name in ("C1", "C7", "D2", "T", "O", "I")]
    [1, 7, 4, 12, 24, 60]
    """
    name = str(symmetry).strip().upper()
    if name in ("O", "I1"):
        return Rotation.create_group(name[0])
    if name in ("I", "I2"):
        turn = Rotation.from_euler("z", 90, degrees=True)
        return turn * Rotation.create_group("I") * turn.inv()
    if name == "T":
        turn, _ = Rotation.align_vectors([[0, 0, 1], np.sqrt([0, 2 / 3, 1 / 3])], [np.sqrt([1 / 3] * 3), [0, 0, 1]])
        return turn * Rotation.create_group("T") * turn.inv()
    if name[:1] in ("C", "D") and name[1:].isdigit() and int(name[1:]) >= 1:
        return Rotation.create_group(name)
    raise ValueError(f"symmetry must be C<n>, D<n>, T, O, I, I1 or I2, got {symmetry!r}")


def healpix_step(order):
    """Angular step in degrees of a HEALPix grid: 360 / (6·2^order) (60, 30, 15, 7.5, 3.75, …).

    Examples
    --------
    >>> [healpix_step(order) for order in range(4)]
    [60.0, 30.0, 15.0, 7.5]
    """
    return 360.0 / (6 * 2**order)


def healpix_directions(order):
    """Equal-area grid of the sphere, nested order: pixel p of one order has children 4p … 4p+3 in the next.

    Parameters
    ----------
    order : int ≥ 0
        12·4^order directions, about `healpix_step` apart.

    Returns
    -------
    ndarray (12·4^order, 3), float64, unit vectors (x, y, z)

    Notes
    -----
    The pixel centres of Górski et al., ApJ 622:759 (2005), section 4 and equations 4–9.

    Examples
    --------
    >>> directions = healpix_directions(1)
    >>> directions.shape, bool(np.allclose(directions.mean(0), 0))
    ((48, 3), True)
    """
    if order < 0:
        raise ValueError(f"order must be 0 or more, got {order}")
    n_side = 2**order
    pixel = np.arange(12 * n_side**2)
    face, within = pixel // n_side**2, pixel % n_side**2
    x = np.zeros_like(within)
    y = np.zeros_like(within)
    for bit in range(order):
        x |= ((within >> (2 * bit)) & 1) << bit
        y |= ((within >> (2 * bit + 1)) & 1) << bit
    ring_of_face = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])[face]
    longitude_of_face = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])[face]
    ring = ring_of_face * n_side - x - y - 1
    polar_cap = np.minimum(ring, 4 * n_side - ring)
    in_cap = polar_cap < n_side
    per_quarter = np.where(in_cap, polar_cap, n_side)
    z = np.where(
        in_cap,
        (1 - polar_cap**2 / (3 * n_side**2)) * np.where(ring < n_side, 1, -1),
        (2 * n_side - ring) * 2 / (3 * n_side),
    )
    offset = np.where(in_cap, 0, (ring - n_side) & 1)
    column = (longitude_of_face * per_quarter + x - y + 1 + offset) / 2
    column = np.where(column < 1, column + 4 * per_quarter, column)
    phi = (column - (offset + 1) / 2) * (np.pi / 2) / per_quarter
    sin_theta = np.sqrt(1 - z**2)
    return np.stack([sin_theta * np.cos(phi), sin_theta * np.sin(phi), z], axis=1)


def directions_to_angles(directions):
    """RELION's (rot, tilt) in degrees, shape (n, 2), of viewing directions (n, 3)."""
    x, y, z = np.moveaxis(np.asarray(directions, dtype=float), -1, 0)
    return np.degrees(np.stack([np.arctan2(y, x), np.arctan2(np.hypot(x, y), z)], axis=-1))


def so3_grid(order, *, n_psi=None):
    """Grid of orientations: the HEALPix directions of ``order``, each with ``n_psi`` in-plane angles.

    Returns
    -------
    Rotation of length 12·4^order · n_psi; psi runs fastest. ``n_psi`` defaults to 360 / `healpix_step`.

    Examples
    --------
    >>> len(so3_grid(1))
    576
    """
    n_psi = round(360 / healpix_step(order)) if n_psi is None else n_psi
    angles = directions_to_angles(healpix_directions(order))
    psi = np.arange(n_psi) * 360.0 / n_psi
    grid = np.column_stack([np.repeat(angles, n_psi, axis=0), np.tile(psi, len(angles))])
    return from_relion_angles(grid)
