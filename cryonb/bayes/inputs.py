"""What an analysis is given, looked at before any long work: images, pixel sizes, references and their extent.

A reference on another grid is brought to that of the particles, with a warning; all else that does not fit is an error.
"""

import warnings

import numpy as np

from cryonb import filters, fourier, io, parallel
from cryonb.types import Volume

__all__ = ["check_extent", "check_images", "check_pixel_sizes", "check_references", "fit_references", "on_grid"]

SAME = 1e-3  # relative difference of pixel sizes that are taken as equal
MIXED = 0.01  # relative difference of optics groups' pixel sizes that is too much, as in `cryonb.io.read_particles`
OUTSIDE = 0.1  # share of a reference's density that may lie outside the mask
READ_AT_ONCE = 500  # images
MOST_PADDING = 40  # voxels tried on each side to find a box that resamples to the wanted voxel size


def check_images(particles):
    """Read every image once: all finite, none constant, not all the same.

    Parameters
    ----------
    particles : Particles

    Raises
    ------
    ValueError
        Names the first particle, counted from 0, that cannot be used.
    """
    first, equal = None, len(particles) > 1
    for part in parallel.chunk_slices(len(particles), READ_AT_ONCE):
        images = np.asarray(particles.images[part], dtype=np.float32)
        finite = np.isfinite(images).all((1, 2))
        if not finite.all():
            place = part.start + int(np.argmin(finite))
            raise ValueError(f"particle images must be finite; particle {place} (counted from 0) has NaN or infinity")
        flat = np.ptp(images, axis=(1, 2)) == 0
        if flat.any():
            place = part.start + int(np.argmax(flat))
            raise ValueError(
                f"the image of particle {place} (counted from 0) is constant: there is nothing to see in it; "
                "leave such particles out"
            )
        first = images[0] if first is None else first
        equal = equal and bool((images == first).all())
    if equal:
        raise ValueError(f"all {len(particles)} particle images are the same; expected an image of each particle")


def check_pixel_sizes(particles):
    """All optics groups that particles use must have one pixel size.

    Parameters
    ----------
    particles : Particles
        Those of a file were checked when read; these may have been put together by hand.

    Raises
    ------
    ValueError
        Pixel sizes (rlnImagePixelSize) more than 1 % apart.
    """
    metadata, optics = particles.metadata, particles.optics
    if metadata is None:
        return
    table, where = metadata, "the particles' metadata"
    if optics is not None and "rlnOpticsGroup" in optics and "rlnOpticsGroup" in metadata:
        used = set(metadata["rlnOpticsGroup"].astype(str))
        table, where = optics[optics["rlnOpticsGroup"].astype(str).isin(used)], "the particles' optics table"
    if "rlnImagePixelSize" not in table or len(table) == 0:
        return
    sizes = io.column_numbers(table, "rlnImagePixelSize", path=where)
    if not sizes.max() - sizes.min() <= MIXED * sizes.min():
        raise ValueError(
            f"mixed pixel sizes: rlnImagePixelSize goes from {sizes.min():g} to {sizes.max():g} Å in {where}; expected "
            "one (bring the images to one with cryonb.filters.resample, or refine the groups apart)"
        )


def check_references(references):
    """Volumes that are finite and not constant.

    Parameters
    ----------
    references : sequence of Volume

    Raises
    ------
    ValueError
        Names the reference, counted from 1.
    """
    for number, volume in enumerate(references, 1):
        if not np.isfinite(volume.data).all() or np.ptp(volume.data) == 0:
            raise ValueError(f"reference {number} must be finite and not constant")


def check_extent(volume, diameter, name):
    """A volume's body must lie within a sphere.

    Parameters
    ----------
    volume : Volume
    diameter : float
        Å, around the centre of the box.
    name : str
        For the error.

    Raises
    ------
    ValueError
        More than a tenth of the density outside; says how wide the body is.

    Notes
    -----
    The body is what Otsu's threshold keeps of the volume without detail finer than a fifth of the diameter, less
    bodies apart from the largest: noise around a volume does not count. Density is counted above the background.
    """
    from scipy import ndimage

    smooth = filters.low_pass(volume, max(diameter / 5, 3 * volume.voxel_size)).data
    radius = fourier.radius_px(volume.size_px, ndim=3) * volume.voxel_size
    label, _ = ndimage.label(smooth > filters.otsu_threshold(smooth))
    body = label == 1 + np.argmax(np.bincount(label.ravel())[1:])
    density = np.where(body, smooth - np.median(smooth), 0)
    outside = density[radius > diameter / 2].sum() / density.sum()
    if outside > OUTSIDE:
        raise ValueError(
            f"{name} is larger than the sphere of {diameter:.0f} Å that should hold it: {100 * outside:.0f} % "
            f"of its density is outside, its body is {2 * radius[body].max():.0f} Å wide around the centre of the box; "
            "expected it centred, and a wider mask_diameter or a larger box"
        )


def fit_references(particles, references):
    """References in the box and with the pixel size of the particles.

    Parameters
    ----------
    particles : Particles
    references : sequence of Volume

    Returns
    -------
    list of Volume

    Warns
    -----
    UserWarning
        For each reference that came on another grid, or with its contrast inverted, as far as can be told.

    Raises
    ------
    ValueError
        Not finite, constant, or larger than the particles' box.
    """
    check_references(references)
    for number, volume in enumerate(references, 1):
        smooth = filters.low_pass(volume, max(volume.box_size / 8, 3 * volume.voxel_size)).data
        if ((smooth - np.median(smooth)) ** 3).sum() < 0:
            warnings.warn(
                f"reference {number} looks inverted: its density lies below its background; expected protein bright "
                "(multiply it by −1)",
                UserWarning,
                stacklevel=3,
            )
    fitted = []
    for number, volume in enumerate(references, 1):
        same = abs(volume.voxel_size / particles.pixel_size - 1) < SAME
        if not same or volume.size_px != particles.size_px:
            if volume.box_size > particles.box_size * (1 + SAME):
                check_extent(volume, particles.box_size, f"reference {number}")
            warnings.warn(
                f"reference {number} resampled from {volume.size_px} px at {volume.voxel_size:g} Å to the particles' "
                f"{particles.size_px} px at {particles.pixel_size:g} Å",
                UserWarning,
                stacklevel=3,
            )
            volume = on_grid(volume, particles.size_px, particles.pixel_size)
        fitted.append(volume)
    return fitted


def on_grid(volume, size_px, voxel_size):
    """A volume in another box with another voxel size; its centre stays the centre.

    Parameters
    ----------
    volume : Volume
    size_px : int
    voxel_size : float
        Å.

    Returns
    -------
    Volume

    Notes
    -----
    Padded to a width that Fourier cropping or padding takes to the voxel size within a thousandth, then cropped or
    padded to the box. Padding is the mean of the faces of the box.

    Examples
    --------
    >>> on_grid(Volume(np.ones((24, 24, 24)), 10.0), 32, 7.5)
    Volume(32³, 7.5 Å/voxel, 240 Å box)
    """
    if abs(volume.voxel_size / voxel_size - 1) >= SAME:
        widths = volume.size_px + np.arange(2 * MOST_PADDING + 1)
        exact = widths * volume.voxel_size / voxel_size
        whole = np.maximum(np.rint(exact), 1)
        wrong = np.abs(whole / exact - 1)
        best = int(np.argmax(wrong < SAME)) if (wrong < SAME).any() else int(np.argmin(wrong))
        volume = filters.resample(_boxed(volume, int(widths[best])), int(whole[best]))
    volume = _boxed(volume, size_px)
    return Volume(volume.data, voxel_size)


def _boxed(volume, size_px):
    """Cropped or padded around the centre."""
    before = size_px // 2 - volume.size_px // 2
    after = size_px - volume.size_px - before
    inner = volume.data[(slice(max(-before, 0), volume.size_px - max(-after, 0)),) * 3]
    data = volume.data
    faces = np.mean([face.mean() for axis in range(3) for face in (data.take(0, axis), data.take(-1, axis))])
    return Volume(np.pad(inner, [(max(before, 0), max(after, 0))] * 3, constant_values=faces), volume.voxel_size)
