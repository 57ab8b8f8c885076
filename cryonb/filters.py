"""Masks, frequency filters, resampling, normalisation and noise whitening.

What takes ``data`` takes a `Volume`, `Particles`, or images as an array (d, d) or (n, d, d), and returns the same kind;
an array with three axes is always a stack of images. Arrays need their ``pixel_size``, the nouns bring theirs.
"""

from dataclasses import replace

import numpy as np

from . import fourier
from .types import Particles, Volume

__all__ = [
    "butterworth", "critical_dose", "dose_attenuation", "high_pass", "low_pass", "noise_spectrum", "normalise",
    "otsu_threshold", "raised_cosine", "resample", "soft_mask", "soft_sphere", "whiten",
]  # fmt: skip

BATCH = 512  # images in memory at once


def raised_cosine(distance, start, width):
    """1 up to ``start``, 0 from ``start + width`` on, half a cosine between.

    Parameters
    ----------
    distance : ndarray
    start, width : float
        In the units of ``distance``; a width of 0 gives a sharp edge.

    Returns
    -------
    ndarray float32

    Examples
    --------
    >>> raised_cosine(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 1, 2).tolist()
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if width < 0:
        raise ValueError(f"an edge must have a width ≥ 0, got {width:g}")
    if width == 0:
        return (distance <= start).astype(np.float32)
    position = np.clip((distance - start) / width, 0, 1)
    return (0.5 + 0.5 * np.cos(np.pi * position)).astype(np.float32)


def soft_sphere(size_px, radius_px, *, edge_px=3, ndim=3):
    """Sphere (or circle) of ones around the centre with a raised-cosine edge outside ``radius_px``.

    Parameters
    ----------
    size_px : int
        Box size d.
    radius_px, edge_px : float
        Voxels.
    ndim : {3, 2}

    Returns
    -------
    ndarray (d,)*ndim float32, 0 … 1

    Examples
    --------
    >>> soft_sphere(9, 2, edge_px=2, ndim=2)[4].tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    if radius_px <= 0:
        raise ValueError(f"radius_px must be positive, got {radius_px:g} voxels")
    return raised_cosine(fourier.radius_px(size_px, ndim=ndim), radius_px, edge_px)


def soft_mask(volume, *, threshold=None, resolution=None, dilate_px=3, edge_px=6):
    """Mask around the density of a volume: low-pass, threshold, keep the largest body, dilate, soften.

    Parameters
    ----------
    volume : Volume
    threshold : float, optional
        Grey level after the low-pass filter; by default where Otsu's criterion splits the grey levels in two.
    resolution : float, optional
        Å, of the low-pass filter; by default 15 Å, or three voxels where that is coarser.
    dilate_px, edge_px : float
        Voxels: how far the mask reaches beyond the threshold, and the width of its raised-cosine edge after that.

    Returns
    -------
    ndarray (d, d, d) float32, 0 … 1

    Raises
    ------
    ValueError
        No voxel is above the threshold.

    Notes
    -----
    A tight mask raises an FSC by the correlation of its own edge: keep the edge five voxels wide or more. Otsu, IEEE
    Trans Syst Man Cybern 9:62 (1979).

    Examples
    --------
    >>> ball = Volume(soft_sphere(32, 6.0), 4.0)
    >>> mask = soft_mask(ball, dilate_px=2, edge_px=4)
    >>> float(mask[16, 16, 16 + 7]), float(mask[16, 16, 2])
    (1.0, 0.0)
    """
    from scipy import ndimage

    resolution = max(15.0, 3 * volume.voxel_size) if resolution is None else resolution
    smooth = low_pass(volume, resolution).data
    threshold = otsu_threshold(smooth) if threshold is None else threshold
    label, n_bodies = ndimage.label(smooth > threshold)
    if n_bodies == 0:
        raise ValueError(
            f"no voxel is above the threshold {threshold:g}; the filtered volume's maximum is {smooth.max():g}"
        )
    largest = 1 + np.argmax(np.bincount(label.ravel())[1:])
    return raised_cosine(ndimage.distance_transform_edt(label != largest), dilate_px, edge_px)


def low_pass(data, resolution, pixel_size=None, *, edge_shells=2):
    """Keep what is coarser than ``resolution``, with a raised-cosine edge centred there.

    Parameters
    ----------
    data : Volume, Particles, or ndarray (d, d) or (n, d, d)
    resolution : float
        Å. Finer than Nyquist, it changes nothing.
    pixel_size : float
        Å; for arrays only.
    edge_shells : float
        Width of the edge in Fourier pixels.

    Examples
    --------
    Waves of 4 and 16 pixels; the shorter one goes:

    >>> x = np.arange(32)
    >>> image = np.cos(2 * np.pi * x / 4) + np.cos(2 * np.pi * x / 16) + np.zeros((32, 1))
    >>> filtered = low_pass(image, 8.0, 1.0)
    >>> bool(np.allclose(filtered, np.cos(2 * np.pi * x / 16), atol=1e-6))
    True
    """
    _check_resolution(resolution)

    def transfer(frequency, step):
        return raised_cosine(frequency, 1 / resolution - edge_shells * step / 2, edge_shells * step)

    return _filtered(data, transfer, pixel_size)


def high_pass(data, resolution, pixel_size=None, *, edge_shells=2):
    """Keep what is finer than ``resolution``; everything else as in `low_pass`, which keeps the rest.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(16, 16))
    >>> parts = low_pass(image, 5.0, 1.0) + high_pass(image, 5.0, 1.0)
    >>> bool(np.allclose(parts, image, atol=1e-6))
    True
    """
    _check_resolution(resolution)

    def transfer(frequency, step):
        return 1 - raised_cosine(frequency, 1 / resolution - edge_shells * step / 2, edge_shells * step)

    return _filtered(data, transfer, pixel_size)


def butterworth(data, resolution, pixel_size=None, *, order=4):
    """Low-pass by 1 / √(1 + (k·resolution)^(2·order)): no ringing, 1/√2 at ``resolution``.

    Parameters
    ----------
    data, resolution, pixel_size
        As in `low_pass`.
    order : float
        Steepness.

    Examples
    --------
    >>> x = np.arange(32)
    >>> wave = np.cos(2 * np.pi * x / 8) + np.zeros((32, 1))
    >>> round(float(butterworth(wave, 8.0, 1.0).max()), 4)
    0.7071
    """
    _check_resolution(resolution)
    return _filtered(data, lambda frequency, step: 1 / np.sqrt(1 + (frequency * resolution) ** (2 * order)), pixel_size)


def resample(data, size_px):
    """Another sampling of the same field of view: crop or pad in Fourier space.

    Parameters
    ----------
    data : Volume, Particles, or ndarray (d, d) or (n, d, d)
    size_px : int
        New box size; even or odd.

    Returns
    -------
    The same kind, ``size_px`` wide: its pixel size is d / ``size_px`` times the old one; the centre stays at
    element ``size_px // 2`` and at the same place in Å (a volume's ``origin`` moves accordingly).

    Notes
    -----
    Grey values are kept, as an average over larger pixels would. A projection sums voxels, so that
    ``project(resample(V))`` is ``resample(project(V))`` times ``size_px / d``. Metadata and optics tables are left as
    they are; `cryonb.io.write_particles` writes the pixel size of the images.

    Examples
    --------
    >>> resample(Volume(np.ones((8, 8, 8)), 2.0), 5)
    Volume(5³, 3.2 Å/voxel, 16 Å box)
    """
    if size_px < 1:
        raise ValueError(f"size_px must be 1 or more, got {size_px}")
    if isinstance(data, Volume):
        voxel_size = data.box_size / size_px
        shift = (data.size_px // 2) * data.voxel_size - (size_px // 2) * voxel_size
        return Volume(_resampled(data.data, size_px, 3), voxel_size, data.origin + shift)
    if isinstance(data, Particles):
        images = np.empty((len(data), size_px, size_px), dtype=np.float32)
        for chunk in _batches(len(data)):
            images[chunk] = _resampled(np.asarray(data.images[chunk], dtype=np.float32), size_px, 2)
        return replace(data, images=images, pixel_size=data.box_size / size_px)
    return _resampled(_images(data), size_px, 2)


def normalise(data, radius_px, *, ramp=False):
    """Background of each image to mean 0 and standard deviation 1, as RELION does.

    Parameters
    ----------
    data : Particles or ndarray (d, d) or (n, d, d)
    radius_px : float
        Pixels; the background is everything farther from the centre.
    ramp : bool
        Subtract the plane that fits the background, not only its mean.

    Raises
    ------
    ValueError
        No background outside the circle, or an image whose background is constant.

    Examples
    --------
    >>> image = 7 + 3 * np.random.default_rng(0).normal(size=(32, 32))
    >>> outside = fourier.radius_px(32) > 12
    >>> flat = normalise(image, 12)[outside]
    >>> bool(abs(flat.mean()) < 1e-6), bool(abs(flat.std() - 1) < 1e-6)
    (True, True)
    """

    def each(images):
        size_px = images.shape[-1]
        outside = _outside(size_px, radius_px)
        y, x = np.indices((size_px, size_px)) - size_px // 2
        basis = np.stack([np.ones(x.shape), x, y])[: 3 if ramp else 1]
        flat = images.reshape(-1, size_px, size_px).astype(np.float64)
        fit = np.linalg.lstsq(basis[:, outside].T, flat[:, outside].T, rcond=None)[0]
        flat = flat - np.tensordot(fit.T, basis, axes=1)
        deviation = flat[:, outside].std(axis=1)
        if not (deviation > 0).all():
            row = int(np.argmin(deviation > 0))
            raise ValueError(f"image {row} of this batch has a constant or NaN background outside {radius_px:g} pixels")
        return (flat / deviation[:, None, None]).reshape(images.shape)

    return _on_images(data, each)


def noise_spectrum(data, radius_px, *, edge_px=3):
    """Noise variance per resolution shell, measured where there is no particle.

    Parameters
    ----------
    data : Particles or ndarray (d, d) or (n, d, d)
        All images share one spectrum; call it per optics group where they do not.
    radius_px : float
        Pixels; the particle is inside.
    edge_px : float
        Width of the soft edge that keeps the circle from ringing.

    Returns
    -------
    ndarray (d // 2 + 1,): σ² of the real part of an unscaled Fourier coefficient. White noise of standard deviation
    s gives s² d² / 2 in every shell.

    Notes
    -----
    The mask blurs the spectrum over d / (width of the free ring) shells, so sharp features are rounded. The mean of
    each background is taken out first, and shell 0 takes the value of shell 1.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(scale=2, size=(200, 32, 32))
    >>> spectrum = noise_spectrum(noise, 10)
    >>> bool(np.allclose(spectrum[2:], 4 * 32**2 / 2, rtol=0.05))
    True
    """
    images = data.images if isinstance(data, Particles) else _images(data)
    size_px = images.shape[-1]
    _outside(size_px, radius_px)
    mask = 1 - soft_sphere(size_px, radius_px, edge_px=edge_px, ndim=2)
    images = images if len(images.shape) == 3 else images[None]
    total = np.zeros((size_px, size_px))
    for chunk in _batches(images.shape[0]):
        part = np.asarray(images[chunk], dtype=np.float32)
        mean = (part * mask).sum(axis=(1, 2), keepdims=True) / mask.sum()
        total += (np.abs(fourier.transform((part - mean) * mask, ndim=2)) ** 2).sum(axis=0, dtype=np.float64)
    spectrum = fourier.shell_mean(total / images.shape[0]) / (2 * np.mean(mask**2))
    spectrum[0] = spectrum[1]
    return spectrum


def whiten(data, spectrum):
    """Divide images by the square root of a noise spectrum, so that their noise is white with standard deviation 1.

    Parameters
    ----------
    data : Particles or ndarray (d, d) or (n, d, d)
    spectrum : ndarray (d // 2 + 1,)
        `noise_spectrum`. Corners beyond Nyquist take the last shell's value.

    Notes
    -----
    The signal is filtered too: reconstructions from whitened images need that undone.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(100, 32, 32))
    >>> coloured = noise + butterworth(noise, 8.0, 1.0, order=1)
    >>> white = whiten(coloured, noise_spectrum(coloured, 8))
    >>> round(float(coloured.std()), 1), round(float(white.std()), 1)
    (1.4, 1.0)
    """
    spectrum = np.asarray(spectrum, dtype=np.float64)

    def each(images):
        size_px = images.shape[-1]
        if spectrum.shape != (size_px // 2 + 1,) or not (spectrum > 0).all():
            raise ValueError(f"spectrum must be {size_px // 2 + 1} positive variances, got shape {spectrum.shape}")
        deviation = np.sqrt(2 * spectrum) / size_px
        shell = np.minimum(fourier.shell_index(size_px), size_px // 2)
        return _multiplied(images, (1 / deviation[shell]).astype(np.float32), 2)

    return _on_images(data, each)


def critical_dose(frequency, voltage_kv=300.0):
    """Dose in e/Å² after which the amplitude at a frequency has fallen to 1/√e.

    Nc(k) = 0.245 k^(−1.665) + 2.81 at 300 kV, and 0.8 times that at 200 kV; linear in the voltage elsewhere.

    Parameters
    ----------
    frequency : ndarray
        Å⁻¹; the mean of an image (0) is never damaged: infinite.
    voltage_kv : float

    Returns
    -------
    ndarray like ``frequency``

    Notes
    -----
    Grant & Grigorieff, eLife 4:e06980 (2015), equation 3, fitted to rotavirus between 3 and 100 Å; the factor at 200 kV
    is theirs, the line between and beyond is not measured.

    Examples
    --------
    >>> critical_dose(np.array([1 / 3, 0.1, 0.0])).round(2).tolist()
    [4.34, 14.14, inf]
    """
    if not voltage_kv > 0:
        raise ValueError(f"voltage_kv must be positive, got {voltage_kv:g} kV")
    frequency = np.asarray(frequency)
    with np.errstate(divide="ignore"):
        dose = 0.245 * frequency ** np.asarray(-1.665, frequency.dtype.type if frequency.dtype.kind == "f" else float)
    return (dose + 2.81) * (0.8 + 0.2 * (voltage_kv - 200) / 100)


def dose_attenuation(frequency, dose, voltage_kv=300.0):
    """What radiation leaves of the amplitudes: exp(−dose / 2 Nc(k)), `critical_dose` Nc.

    Parameters
    ----------
    frequency : ndarray
        Å⁻¹.
    dose : float
        e/Å² that the specimen has received.
    voltage_kv : float

    Returns
    -------
    ndarray like ``frequency``

    Examples
    --------
    >>> k = np.array([0.0, 0.25])
    >>> (np.log(dose_attenuation(k, 10.0)) * -2 * critical_dose(k)[1]).round(6).tolist()
    [-0.0, 10.0]
    """
    if not dose >= 0:
        raise ValueError(f"dose must be 0 or more in e/Å², got {dose:g}")
    return np.exp(-0.5 * dose / critical_dose(frequency, voltage_kv))


def _filtered(data, transfer, pixel_size):
    """Multiply by ``transfer(frequency Å⁻¹, width of a Fourier pixel Å⁻¹)``."""
    noun_size = {Volume: "voxel_size", Particles: "pixel_size"}.get(type(data))
    if noun_size is not None:
        if pixel_size is not None:
            raise ValueError(f"{type(data).__name__} brings its own {noun_size}; give pixel_size for arrays only")
        pixel_size = getattr(data, noun_size)
    elif pixel_size is None:
        raise ValueError("images given as an array need their pixel_size in Å")

    def factor(size_px, ndim):
        step = 1 / (size_px * pixel_size)
        return transfer(fourier.radius_px(size_px, ndim=ndim) * step, step).astype(np.float32)

    if isinstance(data, Volume):
        return data.with_data(_multiplied(data.data, factor(data.size_px, 3), 3))
    return _on_images(data, lambda images: _multiplied(images, factor(images.shape[-1], 2), 2))


def _multiplied(array, factor, ndim):
    return fourier.inverse_transform(fourier.transform(array, ndim=ndim) * factor, ndim=ndim).real


def _on_images(data, function):
    """Apply a function of images to an array, or batch by batch to particles (lazy ones too)."""
    if not isinstance(data, Particles):
        return function(_images(data)).astype(np.float32)
    images = np.empty((len(data), data.size_px, data.size_px), dtype=np.float32)
    for chunk in _batches(len(data)):
        images[chunk] = function(np.asarray(data.images[chunk], dtype=np.float32))
    return replace(data, images=images)


def _batches(n):
    return [slice(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]


def _images(array):
    array = np.asarray(array, dtype=np.float32)
    if array.ndim not in (2, 3) or array.shape[-1] != array.shape[-2]:
        raise ValueError(f"images must have shape (d, d) or (n, d, d), got {array.shape}")
    return array


def _resampled(array, size_px, ndim):
    old = array.shape[-1]
    common = min(old, size_px)
    transform = fourier.transform(array, ndim=ndim)
    resampled = np.zeros((*array.shape[:-ndim], *[size_px] * ndim), dtype=transform.dtype)
    there = slice(size_px // 2 - common // 2, size_px // 2 - common // 2 + common)
    here = slice(old // 2 - common // 2, old // 2 - common // 2 + common)
    resampled[(..., *[there] * ndim)] = transform[(..., *[here] * ndim)]
    return (fourier.inverse_transform(resampled, ndim=ndim).real * (size_px / old) ** ndim).astype(np.float32)


def _outside(size_px, radius_px):
    outside = fourier.radius_px(size_px) > radius_px
    if radius_px <= 0 or outside.sum() < size_px:
        raise ValueError(f"a circle of radius {radius_px:g} pixels leaves no background in a box of {size_px} pixels")
    return outside


def _check_resolution(resolution):
    if not (np.isfinite(resolution) and resolution > 0):
        raise ValueError(f"resolution must be positive in Å, got {resolution:g}")


def otsu_threshold(values):
    """Grey level that splits ``values`` in two with the most variance between the classes (Otsu 1979).

    Examples
    --------
    >>> bool(1 < otsu_threshold(np.array([0.0, 0.1, 1.0, 4.0, 4.2])) < 4)
    True
    """
    counts, edges = np.histogram(values, bins=256)
    centers = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sum_below = np.cumsum(counts * centers)[:-1]
    sum_above = (counts * centers).sum() - sum_below
    between = below * above * (sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)) ** 2
    return edges[1:-1][np.argmax(between)]
