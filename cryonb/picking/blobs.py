"""Laplacian of Gaussian: a dark blob of about the right size."""

import numpy as np
import scipy.ndimage

from ..filters import otsu_threshold
from .preparation import find_peaks, prepare, robust_scaled
from .records import Picks

__all__ = ["automatic_threshold", "blob_response", "pick_blobs"]

# σ of the Gaussian over the diameter. A flat disc answers most at 1 / (2 √2) = 0.35; particles are denser within.
# 0.25 did best on five β-galactosidase micrographs (0.20, 0.25, 0.30 and 0.35 were tried there).
SIGMA = 0.25
SEPARATION = 0.6  # closest two particles, in diameters: best on the same five
# The automatic threshold: shares of bright peaks among dark ones that mean "nothing but noise" and "mostly particles",
# and how much darker than the median particle dirt is. Set on those five and seven simulated micrographs.
NOISE_SHARE, CLEAN_SHARE, DIRT = 0.75, 0.3, 2.0
FRINGE = 4.0  # bright peaks this many times their median; in noise alone the highest of hundreds are near 3.3


def pick_blobs(micrograph, diameter, *, threshold=None, separation=SEPARATION):
    """Blobs by the Laplacian of Gaussian, −σ² ∇² G_σ, over a range of sizes.

    Parameters
    ----------
    micrograph : Micrograph or Prepared
        Protein dark (micrograph).
    diameter : float or (float, float)
        Å; a range is searched in steps of √2^½ and the best size taken at each place; the picks bear the largest.
    threshold : float, optional
        Robust standard deviations of the response above its median; `automatic_threshold` by default, which also leaves
        out what is too dark.
    separation : float
        Diameters.

    Returns
    -------
    Picks
        Scores in robust standard deviations.

    Raises
    ------
    TypeError, ValueError
        As in `prepare`.

    Notes
    -----
    Lindeberg, Int J Comput Vis 30:79 (1998). σ is a quarter of the diameter. It sees size and density only:
    dirt of the particle's size and darkness is picked too.

    Examples
    --------
    >>> from cryonb.types import Micrograph
    >>> y, x = np.mgrid[:200, :200]
    >>> noise = np.random.default_rng(0).normal(size=(200, 200))
    >>> picks = pick_blobs(Micrograph(noise - 3 * (np.hypot(x - 120, y - 70) < 10), 5.0), 100.0, threshold=6)
    >>> picks.centres.round(-1).tolist()
    [[120.0, 70.0]]
    """
    low, high = np.resize(np.asarray(diameter, dtype=float), 2)
    prepared = micrograph if hasattr(micrograph, "usable") else prepare(micrograph, float(high))
    response = blob_response(prepared, (low, high))
    places, height = find_peaks(response, prepared, separation * prepared.diameter_px)
    if threshold is None:
        threshold, limit = automatic_threshold(
            height, find_peaks(-response, prepared, separation * prepared.diameter_px)[1]
        )
        places, height = places[height <= limit], height[height <= limit]
    return Picks(prepared.to_micrograph(places), height, prepared.pixel_size, prepared.diameter).above(threshold)


def automatic_threshold(dark, bright):
    """Between which scores particles lie, from the peaks of a response and of its negative.

    Parameters
    ----------
    dark, bright : ndarray
        Heights of the peaks of the response and of its negative; both have the same noise, only one has particles.

    Returns
    -------
    lowest, highest : float
        What is above ``highest``, twice the median of the clear peaks, is dirt. ``lowest`` splits the rest in two with
        the most variance between them (Otsu 1979). Where the bright peaks above it are as many as three quarters of
        the dark ones, both are noise, and ``lowest`` is where they are three tenths.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> noise, particles = np.abs(rng.normal(size=(2, 500))), rng.normal(8, 1, size=50)
    >>> lowest, highest = automatic_threshold(np.concatenate([noise[0], particles, [60.0]]), noise[1])
    >>> bool(2 < lowest < 6), bool(12 < highest < 30)
    (True, True)
    """
    dark, bright = np.sort(dark)[::-1], np.sort(bright)
    # The fringes of dirt are no noise either.
    bright = bright[bright <= FRINGE * np.median(bright)] if len(bright) else bright
    if len(dark) < 2:
        return (float(dark[0]) if len(dark) else 0.0), np.inf

    def share(level):
        return (len(bright) - np.searchsorted(bright, level)) / (np.arange(len(dark)) + 1)

    clear = np.flatnonzero(share(dark) <= CLEAN_SHARE)
    clean = dark[clear[-1]] if len(clear) else 1.001 * max(dark[0], bright[-1] if len(bright) else 0)
    highest = DIRT * np.median(dark[dark >= clean]) if len(clear) else np.inf
    rest = dark[dark <= highest]
    if len(rest) < 2:
        return float(clean), float(highest)
    lowest = otsu_threshold(rest)
    found = np.sum(rest >= lowest)
    if np.sum((bright >= lowest) & (bright <= highest)) >= NOISE_SHARE * max(found, 1):
        lowest = max(clean, lowest)
    return float(lowest), float(highest)


def blob_response(prepared, diameter=None):
    """Response of the best size at every place, each size in robust standard deviations.

    Parameters
    ----------
    prepared : Prepared
    diameter : (float, float), optional
        Å, smallest and largest size; that of ``prepared`` by default.

    Returns
    -------
    ndarray (h, w)
    """
    low, high = (prepared.diameter, prepared.diameter) if diameter is None else diameter
    if not 0 < low <= high:
        raise ValueError(f"a range of diameters goes from low to high in Å, got {low:g} to {high:g}")
    steps = int(np.ceil(4 * np.log2(high / low))) + 1
    best = None
    for size in np.geomspace(low, high, steps):
        sigma = SIGMA * size / (prepared.pixel_size * prepared.binning)
        response = -(sigma**2) * scipy.ndimage.gaussian_laplace(prepared.image, sigma)
        response = robust_scaled(response, prepared.usable)
        best = response if best is None else np.maximum(best, response)
    return best
