"""Where the density is: soft masks on the cropped grid."""

import numpy as np

from cryonb import fourier
from cryonb.manifold.volume_sets import crop_or_pad, grid_size

__all__ = ["automatic_mask", "grid_mask", "sphere_mask"]


def sphere_mask(size_px, *, radius=0.45, edge=0.05):
    """Soft sphere on a grid of any size.

    Parameters
    ----------
    size_px : int
    radius, edge : float
        Where the mask falls to a half, and the width of the fall; fractions of the box.

    Returns
    -------
    ndarray (d, d, d) float32
    """
    distance = fourier.radius_px(size_px, ndim=3) / size_px
    return (0.5 * (1 + np.cos(np.pi * np.clip((distance - radius) / edge + 0.5, 0, 1)))).astype(np.float32)


def grid_mask(mask, observations):
    """A mask on the cropped grid of the observations.

    Parameters
    ----------
    mask : Volume or None
        None is a soft sphere that fills the box.
    observations : Observations

    Returns
    -------
    ndarray (c, c, c) float32
    """
    size_px = grid_size(observations.radius)
    if mask is None:
        return sphere_mask(size_px)
    if mask.size_px != observations.size_px:
        raise ValueError(f"the mask has box {mask.size_px} px, the particles {observations.size_px} px")
    # the values are kept, not their sum
    cropped = crop_or_pad(mask.data, size_px) * (size_px / mask.size_px) ** 3
    return np.clip(cropped, 0, 1)


def automatic_mask(volumes, *, level=0.1, low_pass=35.0, margin=18.0):
    """Soft mask around the density of the first volume of a set, on its cropped grid.

    Parameters
    ----------
    volumes : VolumeSet
    level : float
        Threshold on the low-passed volume, as a fraction of its 99.9th percentile.
    low_pass : float
        Å.
    margin : float
        Å kept around what exceeds the threshold; half of it again is the soft edge. Room for the motion.

    Returns
    -------
    ndarray (c, c, c) float32
    """
    from scipy.ndimage import distance_transform_edt, label

    size_px = volumes.data.shape[-1]
    box_size = volumes.size_px * volumes.pixel_size
    falloff = np.exp(-0.5 * (fourier.radius_px(size_px, ndim=3) * low_pass / box_size) ** 2)
    smooth = fourier.inverse_transform(fourier.transform(volumes.data[0]) * falloff).real
    parts, _ = label(smooth > level * np.quantile(smooth, 0.999))
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.size == 0 or sizes.max() < 30:
        return sphere_mask(size_px)
    # specks of noise far from the particle are not part of it
    dense = np.isin(parts, 1 + np.flatnonzero(sizes > 0.02 * sizes.max()))
    distance = distance_transform_edt(~dense) * box_size / size_px
    ramp = np.clip((distance - margin) / (margin / 2), 0, 1)
    return (0.5 * (1 + np.cos(np.pi * ramp)) * (sphere_mask(size_px) > 0)).astype(np.float32)
