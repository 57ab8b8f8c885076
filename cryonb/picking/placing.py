"""Template picks placed on finer pixels than they were searched on."""

import numpy as np
import scipy.fft
import scipy.ndimage

from .. import ctf as ctf_room
from .centring import highest

__all__ = ["modulated", "placed", "turned"]

# Pixels of a diameter at least, how far a pick may move, in diameters, and how many of the references, as they are
# turned, are compared on fine pixels: those that correlate best on coarse ones. Set on four simulated micrographs.
FINE_PX, REACH, SHORT_LIST = 36, 0.15, 64
BLUR = 0.4  # σ over the new pixel of the Gaussian that keeps a reference on coarser pixels from aliasing


def modulated(references, pixel_size, ctf, to_pixel):
    """References (k, d, d) as a micrograph shows them: multiplied by its CTF, blurred for pixels of ``to_pixel`` Å.

    Parameters
    ----------
    references : ndarray (k, d, d)
    pixel_size : float
        Å, of the references.
    ctf : CTF of one image or None
    to_pixel : float
        Å.

    Returns
    -------
    ndarray (k, d, d), or (k, 2 d, 2 d) with a CTF
    """
    if ctf is not None:
        half = references.shape[-1] // 2
        references = ctf_room.apply(np.pad(references, [(0, 0), (half, half), (half, half)]), ctf, pixel_size)
    scale = to_pixel / pixel_size
    return scipy.ndimage.gaussian_filter(references, (0, BLUR * scale, BLUR * scale)) if scale > 1 else references


def turned(reference, angle, offset, scale, inside):
    """A reference turned by ``angle`` (radian), 0 outside a circle, mean 0 and length 1 within; None if constant there.

    Parameters
    ----------
    reference : ndarray (d, d)
    angle : float
    offset : ndarray (2, ...)
        Row and column from the centre, in pixels that are ``scale`` of the reference's wide.
    scale : float
    inside : ndarray (...) of bool
    """
    centre = reference.shape[-1] // 2
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    where = [centre + cosine * offset[0] + sine * offset[1], centre - sine * offset[0] + cosine * offset[1]]
    image = scipy.ndimage.map_coordinates(reference, where, order=1)
    image = np.where(inside, image - image[inside].mean(), 0)
    length = np.sqrt((image**2).sum())
    return image / length if length > 0 else None


def placed(micrograph, prepared, places, references, *, pixel_size, ctf, angles):
    """Each place moved to where the best reference, turned in the plane, fits on fine pixels.

    Parameters
    ----------
    micrograph : Micrograph
        Protein dark.
    prepared : Prepared
        Of this micrograph; the references are compared with it where the places are, and the best of them again with
        the micrograph itself, binned until the diameter is 36 to 72 pixels.
    places : ndarray (n, 2)
        x, y in binned pixels of ``prepared``.
    references : ndarray (k, d, d)
        Protein bright, centred.
    pixel_size : float
        Å, of the references.
    ctf : CTF of one image or None
    angles : ndarray (m,)
        Radian.

    Returns
    -------
    ndarray (n, 2)
        To a fraction of a pixel by a parabola along each axis; no place moves by more than 0.15 diameters along x or y.

    Notes
    -----
    The centre that is found is the references'. It is as exact as they are close to the particle's view: neighbouring
    views have their features elsewhere.
    """
    if not len(places):
        return places
    listed = _short_lists(
        prepared, places, modulated(references, pixel_size, ctf, _pixel(prepared)), pixel_size, angles
    )
    binning = max(1, int(prepared.diameter / prepared.pixel_size / FINE_PX))
    fine_pixel = micrograph.pixel_size * binning
    references, scale = modulated(references, pixel_size, ctf, fine_pixel), fine_pixel / pixel_size
    diameter = prepared.diameter / fine_pixel
    reach, half = int(np.ceil(REACH * diameter)), int(np.ceil((0.5 + REACH) * diameter)) + 2
    middle = slice(half - reach - 1, half + reach + 2)
    near = np.pad(np.ones((2 * reach + 1,) * 2, dtype=bool), 1)
    offset = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    inside = np.hypot(*offset) <= diameter / 2
    nearest, boxes = _boxes(micrograph, prepared.to_micrograph(places), binning, half)
    transforms = scipy.fft.rfft2(boxes)
    best, step = np.full(len(places), -np.inf), np.zeros((len(places), 2))
    for number in np.flatnonzero(listed.any(axis=0)):
        view, angle = divmod(number, len(angles))
        image = turned(references[view], angles[angle], offset, scale, inside)
        if image is None:
            continue
        who = np.flatnonzero(listed[:, number])
        kernel = np.conj(scipy.fft.rfft2(np.fft.ifftshift(image).astype(np.float32)))
        found = scipy.fft.irfft2(transforms[who] * kernel, boxes.shape[1:])
        height, place = highest(found[:, middle, middle], near)
        better = height > best[who]
        best[who[better]], step[who[better]] = height[better], place[better]
    return prepared.from_micrograph((nearest + step + 0.5) * binning - 0.5)


def _pixel(prepared):
    return prepared.pixel_size * prepared.binning


def _short_lists(prepared, places, references, pixel_size, angles):
    """Whether each place (n) wants each reference at each angle (k · m) compared on fine pixels."""
    half = int(np.ceil(prepared.diameter_px / 2))
    offset = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    inside = np.hypot(*offset) <= prepared.diameter_px / 2
    padded = np.pad(prepared.image, half + 1)
    column, row = np.rint(places).astype(int).T
    windows = np.lib.stride_tricks.sliding_window_view(padded, offset.shape[1:])
    around = np.stack([windows[row + dy, column + dx][:, inside] for dy in range(3) for dx in range(3)])
    score = np.full((len(places), len(references), len(angles)), -np.inf, dtype=np.float32)
    for view, reference in enumerate(references):
        images = [turned(reference, angle, offset, _pixel(prepared) / pixel_size, inside) for angle in angles]
        kept = [number for number, image in enumerate(images) if image is not None]
        if kept:
            kernels = np.array([images[number][inside] for number in kept], dtype=np.float32)
            score[:, view, kept] = (around @ kernels.T).max(axis=0)
    score = score.reshape(len(places), -1)
    n = min(SHORT_LIST, score.shape[1])
    return (score >= np.partition(score, -n, axis=1)[:, [-n]]) & np.isfinite(score)


def _boxes(micrograph, centres, binning, half):
    """Nearest binned pixel (n, 2) of each centre and the binned boxes around them, protein bright, mean 0."""
    height, width = (n // binning for n in micrograph.data.shape)
    data = micrograph.data[: height * binning, : width * binning]
    middle = np.nanmedian(data)
    data = np.nan_to_num(middle - data, nan=0.0, posinf=0.0, neginf=0.0)
    small = data.reshape(height, binning, width, binning).mean(axis=(1, 3), dtype=np.float32)
    nearest = np.clip(np.rint((centres + 0.5) / binning - 0.5).astype(int), 0, (width - 1, height - 1))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(small, half), (2 * half + 1, 2 * half + 1))
    boxes = windows[nearest[:, 1], nearest[:, 0]]
    return nearest, boxes - boxes.mean(axis=(1, 2), keepdims=True)
