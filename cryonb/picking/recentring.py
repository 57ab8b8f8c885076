"""Picks moved to where an alignment of their particles found the centre, as RELION does when it re-extracts."""

from dataclasses import replace

import numpy as np

from ..types import Volume

__all__ = ["centre_of_mass", "recentre"]


def centre_of_mass(data, pixel_size=None):
    """Centre of mass of what is brighter than the background.

    Parameters
    ----------
    data : Volume or ndarray (..., d, d)
        A volume, or class averages; protein bright, background 0.
    pixel_size : float, optional
        Å, of averages.

    Returns
    -------
    ndarray (3,) or (..., 3)
        x, y, z in Å from the centre, voxel d // 2; z is 0 of averages.

    Raises
    ------
    ValueError
        Averages without a pixel size, values that are not finite, or nothing positive.

    Notes
    -----
    Negative values, the fringes that a CTF leaves, do not count. An average that mixes views has no centre that they
    share.

    Examples
    --------
    >>> average = np.zeros((16, 16))
    >>> average[9, 11] = 1
    >>> centre_of_mass(average, 2.0).tolist()
    [6.0, 2.0, 0.0]
    """
    if isinstance(data, Volume):
        values, pixel_size, ndim = data.data, data.voxel_size, 3
    else:
        values, ndim = np.asarray(data), 2
        if values.ndim < 2 or values.shape[-1] != values.shape[-2]:
            raise ValueError(f"expected a volume or averages (..., d, d), got shape {values.shape}")
        if pixel_size is None or not (np.isfinite(pixel_size) and pixel_size > 0):
            raise ValueError(f"averages need their pixel_size in Å, got {pixel_size}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    weight = np.clip(values, 0, None).astype(np.float64)
    axes = tuple(range(-ndim, 0))
    total = weight.sum(axis=axes)
    if not (total > 0).all():
        raise ValueError("nothing is brighter than the background: there is no centre of mass")
    along = np.arange(values.shape[-1]) - values.shape[-1] // 2
    centre = np.zeros((*total.shape, 3))
    for axis in range(ndim):  # x is the last axis
        others = tuple(other for other in axes if other != -1 - axis)
        centre[..., axis] = (weight.sum(axis=others) * along).sum(axis=-1) / total
    return centre * pixel_size


def recentre(picks, poses, *, centre=(0.0, 0.0, 0.0)):
    """Picks moved to where their particles' poses say that the centre is.

    Parameters
    ----------
    picks : Picks
        Where the boxes were cut: the centre of each box, as `extract` writes it.
    poses : Poses
        Of the particles in those boxes, from `cryonb.bayes` or another program; 2D classes have rot and tilt 0.
    centre : (3,) or (n, 3)
        x, y, z in Å: the place in the reference, or in each particle's own, that is to be the particle's centre;
        see `centre_of_mass`. A reference need not be centred itself.

    Returns
    -------
    Picks
        The same ones in the same order; fractions of a pixel are kept.

    Raises
    ------
    ValueError
        Another number of poses than picks, or a centre that is no place.

    Notes
    -----
    A particle sits at its box's centre − shift, and the point c of its reference at (R⁻¹c)ₓᵧ from there.

    Examples
    --------
    >>> from cryonb.picking import Picks
    >>> from cryonb.rotations import from_relion_angles
    >>> from cryonb.types import Poses
    >>> picks = Picks(np.array([[100.0, 80], [50, 40]]), np.ones(2), 2.0, 60.0)
    >>> poses = Poses(from_relion_angles(np.zeros((2, 3))), np.array([[6.0, 0], [0, -3]]))
    >>> recentre(picks, poses, centre=(10, 0, 0)).centres.tolist()
    [[102.0, 80.0], [55.0, 41.5]]
    """
    if len(poses) != len(picks):
        raise ValueError(f"{len(poses)} poses for {len(picks)} picks: expected one each")
    centre = np.asarray(centre, dtype=float)
    if centre.shape not in ((3,), (len(picks), 3)) or not np.isfinite(centre).all():
        raise ValueError(f"centre must be x, y, z in Å, (3,) or ({len(picks)}, 3), all finite; got {centre.shape}")
    if not len(picks):
        return picks
    moved = poses.rotation.inv().apply(np.broadcast_to(centre, (len(picks), 3)).copy())[:, :2] - poses.shift
    return replace(picks, centres=picks.centres + moved / picks.pixel_size)
