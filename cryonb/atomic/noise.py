"""How much of a half map is signal, shell by shell, from that half map alone: noise is what lies beside the model."""

import numpy as np
import scipy.ndimage

from .. import fourier

__all__ = ["noise_power", "signal_share", "weigh_signal"]

INNER, EDGE = 3.0, 3.0  # Å around the atoms, and of the mask's cosine edge
BESIDE = 7.0  # Å from every atom of the file: where noise is looked for
ROUGHNESS = 4.0  # Å over which the local variance is averaged
QUIET = 0.5  # of the surroundings that vary: the rest may hold what the model has not
BARELY = 1e-6  # of the mean square of the map inside: less is rounding
ENOUGH = 2000  # voxels of noise, or nothing is said
LEAST = 0.143  # of a shell within the resolution, which is where half maps agree as much as this


def noise_power(half_map, atoms, others=()):
    """Power of the noise in each shell, from what lies beside the atoms.

    Parameters
    ----------
    half_map : Volume
        As reconstructed, not masked.
    atoms : ndarray (n, 3)
        Å, roughly placed.
    others : ndarray (m, 3), optional
        Å, of what else is there: not empty.

    Returns
    -------
    noise : ndarray (d // 2 + 1,)
        Mean of |F|² of each shell for each voxel; 0 where the surroundings hold no noise (a masked map).
    inside : ndarray (d // 2 + 1,)
        The same of signal and noise within 3 Å of the atoms, a cosine edge of 3 Å beyond.

    Notes
    -----
    Looked at is the quieter half of what lies over 7 Å from all atoms: the rest may hold what the model has not.
    """
    data = half_map.data - half_map.data.mean(dtype=np.float64)
    inner, beside = _masks(half_map, np.asarray(atoms), np.asarray(others, dtype=float).reshape(-1, 3))
    width = ROUGHNESS / half_map.voxel_size
    weight = scipy.ndimage.gaussian_filter(beside.astype(np.float32), width)
    inside = _power(data, inner)
    if beside.sum() < ENOUGH:
        return np.zeros_like(inside), inside
    data = data - data[beside].mean()  # the level of the solvent is no noise
    rough = scipy.ndimage.gaussian_filter(np.where(beside, data, 0) ** 2, width) / np.maximum(weight, 1e-6)
    varies = beside & (rough > BARELY * inside[1:].mean() / data.size)
    if varies.sum() < ENOUGH:
        return np.zeros_like(inside), inside
    quiet = varies & (rough <= np.quantile(rough[varies], QUIET))
    return _power(data, scipy.ndimage.gaussian_filter(quiet.astype(np.float32), 1.0) * beside), inside


def signal_share(half_map, atoms, others=()):
    """Share of the power of each shell, in a mask around the atoms, that is not noise.

    Parameters
    ----------
    half_map, atoms, others
        As in `noise_power`.

    Returns
    -------
    ndarray (d // 2 + 1,): S / (S + N) in [0.143, 1].

    Notes
    -----
    It needs one half map only, so that a model may be built with it before the other is looked at. Noise that is
    stronger in the particle than beside it is missed by the difference. Below 0.143 nothing is taken off: within the
    resolution a shell has that much.
    """
    noise, inside = noise_power(half_map, atoms, others)
    share = 1 - noise / np.maximum(inside, 1e-300)
    return np.clip(scipy.ndimage.gaussian_filter1d(share, 1.0, mode="nearest"), LEAST, 1.0)


def weigh_signal(half_map, chains):
    """The half map with each shell multiplied by its share of signal: Wiener's filter.

    Parameters
    ----------
    half_map : Volume
    chains : Chains

    Returns
    -------
    Volume
    """
    share = signal_share(half_map, chains.xyz[chains.present], chains.others)
    if (share == 1).all():
        return half_map
    radius = fourier.radius_px(half_map.size_px, ndim=3)
    factor = np.interp(radius, np.arange(len(share)), share)
    return half_map.with_data(fourier.inverse_transform(fourier.transform(half_map.data) * factor).real)


def _power(data, mask):
    return fourier.shell_mean(np.abs(fourier.transform(data * mask)) ** 2, ndim=3) / (mask.astype(float) ** 2).sum()


def _masks(half_map, atoms, others):
    """A soft mask around the atoms, and the voxels far from every atom."""
    distances = []
    for points in (atoms, np.concatenate([atoms, others])):
        index = np.rint((points - half_map.origin) / half_map.voxel_size).astype(int)
        index = index[((index >= 0) & (index < half_map.size_px)).all(axis=1)]
        empty = np.ones(half_map.data.shape, dtype=bool)
        empty[tuple(index[:, ::-1].T)] = False
        distances.append(scipy.ndimage.distance_transform_edt(empty) * half_map.voxel_size)
    ramp = np.clip((distances[0] - INNER) / EDGE, 0, 1)
    return ((1 + np.cos(np.pi * ramp)) / 2).astype(np.float32), distances[1] > BESIDE
