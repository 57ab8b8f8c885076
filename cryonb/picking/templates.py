"""Template matching: normalised cross-correlation with references turned in the plane."""

import numpy as np
import scipy.fft

from .. import projection, rotations
from ..types import Poses
from .blobs import automatic_threshold
from .placing import modulated, placed, turned
from .preparation import find_peaks, prepare, robust_scaled, separated
from .records import Picks

__all__ = ["correlation_map", "pick_templates", "reference_images"]

SEPARATION = 0.6  # diameters, as blobs


def reference_images(volume, *, order=0):
    """Projections of a volume along the directions of a HEALPix grid of the half sphere, protein bright.

    Parameters
    ----------
    volume : Volume
    order : int
        12 · 4^order directions on the sphere; opposite ones give mirror images, and both are kept.

    Returns
    -------
    ndarray (n, d, d)
    """
    directions = rotations.directions_to_angles(rotations.healpix_directions(order))
    angles = np.column_stack([directions, np.zeros(len(directions))])
    return projection.project(volume, Poses(rotations.from_relion_angles(angles)))


def pick_templates(
    micrograph, references, diameter, *, pixel_size, ctf=None, angle_step=5.0, threshold=None, separation=SEPARATION
):
    """Places that look like one of the references at some in-plane angle.

    Parameters
    ----------
    micrograph : Micrograph or Prepared
        Protein dark (micrograph). Picks on a micrograph are placed on its finer pixels once they are found
        (`placing.placed`); something prepared no longer has them, and its picks stay on the grid of the search.
    references : ndarray (k, d, d)
        Protein bright, centred. The closer their views, the better the picks are centred: simulated ribosomes to 1 % of
        the diameter with 192 views (``order=2`` of `reference_images`), to 3 % with 48.
    diameter : float
        Å, of the circle that is compared.
    pixel_size : float
        Å, of the references.
    ctf : CTF of one image, optional
        Of the micrograph; the references are modulated by it. The micrograph's own by default, none if it has none.
    angle_step : float
        Degrees, in the plane.
    threshold : float, optional
        Robust standard deviations of the best correlation above its median; `automatic_threshold` by default, from the
        peaks of the correlation with the references and with their negatives.
    separation : float
        Diameters.

    Returns
    -------
    Picks
        Scores in robust standard deviations of the map of best correlations.

    Raises
    ------
    TypeError, ValueError
        As in `prepare`; references that are not square, not finite or constant.

    Notes
    -----
    Roseman, Ultramicroscopy 94:225 (2003). The best of many references correlates with noise too: what is picked
    then looks like the references when averaged ("Einstein from noise", Henderson, PNAS 110:18037 (2013)). How high it
    gets depends on the references: with a CTF they hold finer detail, of which noise finds more that fits. A fixed
    threshold therefore does not carry over from one set to another; the automatic one measures noise by the negatives.
    """
    prepared = micrograph if hasattr(micrograph, "usable") else prepare(micrograph, diameter)
    ctf = getattr(micrograph, "ctf", None) if ctf is None else ctf
    references = _checked(references)
    found = _correlations(prepared, references, pixel_size, ctf, angle_step)
    (places, height), (_, opposite) = (
        find_peaks(robust_scaled(response, prepared.usable), prepared, separation * prepared.diameter_px)
        for response in found
    )
    if threshold is None:
        threshold, _ = automatic_threshold(height, opposite)  # a correlation has no grey level: nothing is too dark
    places, height = places[height >= threshold], height[height >= threshold]
    if prepared is not micrograph:
        places = placed(
            micrograph, prepared, places, references, pixel_size=pixel_size, ctf=ctf, angles=_angles(angle_step)
        )
        kept = separated(places, height, separation * prepared.diameter_px)
        places, height = places[kept], height[kept]
    return Picks(prepared.to_micrograph(places), height, prepared.pixel_size, prepared.diameter, float(threshold))


def correlation_map(prepared, references, *, pixel_size, ctf=None, angle_step=5.0):
    """Highest normalised cross-correlation over references and angles at every place, in [−1, 1].

    Parameters
    ----------
    prepared : Prepared
    references : ndarray (k, d, d)
    pixel_size : float
    ctf : CTF of one image, optional
    angle_step : float

    Returns
    -------
    ndarray (h, w), float32
    """
    return _correlations(prepared, references, pixel_size, ctf, angle_step)[0]


def _correlations(prepared, references, pixel_size, ctf, angle_step):
    """Highest correlation at every place with the references, and with their negatives."""
    angles = _angles(angle_step)
    small_pixel = prepared.pixel_size * prepared.binning
    references = modulated(_checked(references), pixel_size, ctf, small_pixel)
    reach = int(np.ceil(prepared.diameter_px / 2))
    offset = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(float)
    inside = np.hypot(*offset) <= prepared.diameter_px / 2
    image = prepared.image
    fast = tuple(scipy.fft.next_fast_len(n + 2 * reach, real=True) for n in image.shape)

    def transformed(kernel):
        embedded = np.zeros(fast, dtype=np.float32)
        embedded[: 2 * reach + 1, : 2 * reach + 1] = kernel
        return np.conj(scipy.fft.rfft2(np.roll(embedded, (-reach, -reach), axis=(0, 1))))

    def back(values):
        return scipy.fft.irfft2(values, fast)[: image.shape[0], : image.shape[1]]

    whole, disc, count = scipy.fft.rfft2(image, fast), transformed(inside), inside.sum()
    mean = back(whole * disc) / count
    energy = back(scipy.fft.rfft2(image**2, fast) * disc) - count * mean**2
    best, worst = (np.full(image.shape, -np.inf, dtype=np.float32) for _ in range(2))
    for reference in references:
        for angle in angles:
            kernel = turned(reference, angle, offset, small_pixel / pixel_size, inside)
            if kernel is not None:
                correlation = back(whole * transformed(kernel))
                np.maximum(best, correlation, out=best)
                np.maximum(worst, -correlation, out=worst)
    scale = np.sqrt(np.maximum(energy, 1e-3 * count))
    return best / scale, worst / scale


def _angles(step):
    if not 0 < step <= 360:
        raise ValueError(f"angle_step must lie in (0, 360] degrees, got {step}")
    return np.radians(np.arange(0, 360, step))


def _checked(references):
    references = np.asarray(references, dtype=np.float32)
    if references.ndim == 2:
        references = references[None]
    if references.ndim != 3 or references.shape[1] != references.shape[2] or not len(references):
        raise ValueError(f"references are images (k, d, d), got shape {references.shape}")
    if not np.isfinite(references).all() or (np.ptp(references, axis=(1, 2)) == 0).any():
        raise ValueError("references must be finite, and none of them constant")
    return references
