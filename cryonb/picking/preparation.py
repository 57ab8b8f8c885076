"""A micrograph made ready for picking: small, flat, protein bright, and what of it can be used."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
from scipy.spatial import cKDTree

from ..types import Micrograph

__all__ = ["Prepared", "find_peaks", "prepare", "separated"]

SMALL_PX = 18  # a particle's diameter after binning is between this and twice this
FLAT = 0.35  # a margin repeated from its edge has less than this share of the usual gradient
# Carbon, ice and dirt: a grey level this many robust standard deviations off, over this many diameters.
OUTLIER, DIRT_WIDTH = 3.0, 1.6
SURFACE_ROUNDS, ROUNDS = 8, 4  # of the surface's robust fit, and at most of background and dirt in turn
CLEARANCE = 0.35  # diameters from dirt, whose smoothed outline already lies outside it


@dataclass(frozen=True, eq=False)
class Prepared:
    """A binned micrograph.

    Parameters
    ----------
    image : ndarray (h, w)
        Protein bright, background 0, robust standard deviation 1.
    usable : ndarray (h, w) of bool
        False on margins, carbon, dirt and dead pixels.
    binning : int
        Pixels of the micrograph along each side of one of these.
    pixel_size : float
        Å, of the micrograph.
    diameter : float
        Å, of the particle.
    """

    image: np.ndarray
    usable: np.ndarray
    binning: int
    pixel_size: float
    diameter: float

    @property
    def diameter_px(self):
        """Diameter of the particle in binned pixels."""
        return self.diameter / (self.pixel_size * self.binning)

    def to_micrograph(self, places):
        """Binned coordinates (n, 2) as pixels of the micrograph."""
        return (np.asarray(places, dtype=float) + 0.5) * self.binning - 0.5

    def from_micrograph(self, centres):
        """Pixels of the micrograph (n, 2) as binned coordinates."""
        return (np.asarray(centres, dtype=float) + 0.5) / self.binning - 0.5


def prepare(micrograph, diameter):
    """Bin, flatten and mask a micrograph.

    Parameters
    ----------
    micrograph : Micrograph
        Protein dark.
    diameter : float
        Å, of the particle.

    Returns
    -------
    Prepared

    Raises
    ------
    TypeError
        Not a micrograph.
    ValueError
        Nothing but NaN, constant, saturated, or too small for the particle.

    Notes
    -----
    Blocks of pixels are averaged until the diameter is 18 to 36 pixels, and a Gaussian background (σ two diameters) is
    taken off. Not usable: pixels that are not finite, margins that repeat their edge (gradient below 0.35 of the
    median) and half a diameter around both; whatever differs by 3 robust standard deviations in a patch wider than 1.6
    diameters (carbon, ice, dirt) and 0.35 diameters around it. Dirt is first looked for against a quadratic surface
    that is fitted to most of the micrograph, then against the background of what is no dirt: a background that
    carbon has a part in would be too dark beside it, and the ice there would stand out as if it were dirt.
    """
    if not isinstance(micrograph, Micrograph):
        raise TypeError(f"expected a Micrograph, got {type(micrograph).__name__}")
    if not (np.isfinite(diameter) and diameter > 0):
        raise ValueError(f"diameter must be positive in Å, got {diameter}")
    diameter_px = diameter / micrograph.pixel_size
    height, width = micrograph.data.shape
    if min(height, width) < 3 * diameter_px or diameter_px < 4:
        raise ValueError(
            f"a particle of {diameter:g} Å is {diameter_px:.4g} pixels: expected at least 4 pixels and at most a third "
            f"of the micrograph ({width} × {height})"
        )
    dead = _dead_pixels(micrograph.data)
    binning = max(1, int(diameter_px / SMALL_PX))
    image, dead = _binned(np.where(dead, 0, micrograph.data), binning), _binned(dead.astype(np.float32), binning)
    live = 1 - dead
    image = np.where(live > 0.5, image / np.maximum(live, 0.5), np.nan)
    bad = ~np.isfinite(image)
    image = np.where(bad, np.nanmedian(image), image)
    small = diameter_px / binning
    bad |= _margins(image)
    if bad.mean() > 0.95:
        raise ValueError("nothing of this micrograph can be used: it is flat, repeated from its edge, or dead")
    edge = _distance(~bad)
    dirt = _dirt(_without_slope(image, ~bad, small), ~bad, small)
    for _ in range(ROUNDS):
        flat = _flattened(image, ~(bad | dirt), 2 * small)
        before, dirt = dirt, _dirt(flat, ~bad, small)
        if (dirt == before).all():
            break
    image = np.where(bad | dirt, 0, flat)
    usable = (edge > small / 2) & (_distance(~dirt, border=False) > CLEARANCE * small)
    if usable.mean() < 0.02:
        raise ValueError("nothing of this micrograph can be used: carbon, dirt or margins cover it")
    spread = _robust_sd(image[usable])
    if not spread > 0:
        raise ValueError("this micrograph is constant where it could be used")
    # A bounded grey scale: one speck of dirt must not outshine a field of particles.
    return Prepared(
        np.clip(-image / spread, -6, 6).astype(np.float32), usable, binning, micrograph.pixel_size, float(diameter)
    )


def find_peaks(response, prepared, separation):
    """Maxima of a response where the micrograph is usable, none closer than ``separation`` to a higher one.

    Parameters
    ----------
    response : ndarray (h, w)
    prepared : Prepared
    separation : float
        Binned pixels.

    Returns
    -------
    places : ndarray (n, 2)
        x, y in binned pixels, to a fraction of a pixel by a parabola along each axis.
    height : ndarray (n,)
        In falling order.
    """
    highest = scipy.ndimage.maximum_filter(response, size=3)
    y, x = np.nonzero((response == highest) & prepared.usable & (response > 0))
    height = response[y, x]
    keep = separated(np.column_stack([x, y]), height, separation)
    y, x, height = y[keep], x[keep], height[keep]
    places = np.column_stack([x, y]).astype(float)
    limit = np.array(response.shape) - 2
    inside = (y > 0) & (x > 0) & (y <= limit[0]) & (x <= limit[1])
    for axis, (dy, dx) in enumerate([(0, 1), (1, 0)]):
        before = response[y[inside] - dy, x[inside] - dx]
        after = response[y[inside] + dy, x[inside] + dx]
        curvature = before + after - 2 * height[inside]
        step = np.divide(0.5 * (before - after), curvature, out=np.zeros(len(before)), where=curvature < 0)
        places[inside, axis] += np.clip(step, -0.5, 0.5)
    return places, height.astype(np.float64)


def separated(places, height, separation):
    """Indices of places, highest first, of which none is closer than ``separation`` to a higher one that stays.

    Parameters
    ----------
    places : ndarray (n, 2)
    height : ndarray (n,)
    separation : float
    """
    order = np.argsort(-height, kind="stable")
    if len(order) == 0:
        return order
    tree, gone, kept = cKDTree(places), np.zeros(len(order), dtype=bool), []
    for index in order:
        if not gone[index]:
            kept.append(index)
            gone[tree.query_ball_point(places[index], separation)] = True
    return np.array(kept)


def robust_scaled(response, usable):
    """A response minus its median over its robust standard deviation, both where the micrograph is usable."""
    values = response[usable]
    spread = _robust_sd(values)
    return (response - np.median(values)) / (spread if spread > 0 else 1.0)


def _distance(good, *, border=True):
    """Distance of every pixel from the nearest that is not good; what lies beyond the border is not good either."""
    if border:
        return scipy.ndimage.distance_transform_edt(np.pad(good, 1))[1:-1, 1:-1]
    return np.full(good.shape, np.inf) if good.all() else scipy.ndimage.distance_transform_edt(good)


def _robust_sd(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def _dead_pixels(data):
    finite = np.isfinite(data)
    if finite.mean() < 0.5:
        raise ValueError(f"{100 * (1 - finite.mean()):.0f} % of the pixels are not numbers")
    low, high = data[finite].min(), data[finite].max()
    if low == high:
        raise ValueError(f"this micrograph is constant: every pixel is {low:g}")
    for value, name in ((low, "lowest"), (high, "highest")):
        share = np.mean(data == value)
        if share > 0.5:
            raise ValueError(f"{100 * share:.0f} % of the pixels have the {name} value {value:g}: saturated or empty")
    return ~finite


def _binned(data, binning):
    height, width = (n // binning * binning for n in data.shape)
    blocks = data[:height, :width].reshape(height // binning, binning, width // binning, binning)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _margins(image):
    """Where pixels repeat along one axis: the rim that alignment leaves behind."""
    bad = np.zeros(image.shape, dtype=bool)
    for axis in (0, 1):
        gradient = np.abs(np.diff(image, axis=axis, append=np.take(image, [-1], axis=axis)))
        local = scipy.ndimage.uniform_filter(gradient, 9)
        bad |= local < FLAT * np.median(local)
    return bad


def _without_slope(image, good, small):
    """Image minus the quadratic surface of most of it: residuals beyond three robust deviations do not count."""
    mean = scipy.ndimage.gaussian_filter(np.where(good, image, np.median(image[good])), small / 4)
    y, x = (2 * np.arange(n) / n - 1 for n in image.shape)
    x, y = np.meshgrid(x, y)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    step = max(1, int(small / 4))
    sparse = (slice(step // 2, None, step),) * 2
    columns, values = terms[:, *sparse][:, good[sparse]].T, mean[sparse][good[sparse]]
    left = values - np.median(values)
    for _ in range(SURFACE_ROUNDS):
        kept = np.abs(left) <= OUTLIER * _robust_sd(left)
        surface = np.linalg.lstsq(columns[kept], values[kept], rcond=None)[0]
        left = values - columns @ surface
        left = left - np.median(left)
    return image - np.tensordot(surface, terms, 1)


def _flattened(image, good, sigma):
    weight = scipy.ndimage.gaussian_filter(good.astype(np.float32), sigma, truncate=3)
    mean = np.median(image[good])
    total = scipy.ndimage.gaussian_filter(np.where(good, image - mean, 0), sigma, truncate=3)
    return image - mean - total / np.maximum(weight, 1e-3)


def _dirt(image, good, small):
    """Where something dark or bright is wider than ``DIRT_WIDTH`` particles."""
    mean = scipy.ndimage.gaussian_filter(np.where(good, image, np.median(image[good])), small / 4)
    mean = np.where(good, mean, 0)
    outlier = np.abs(mean - np.median(mean[good])) > OUTLIER * _robust_sd(mean[good])
    reach = DIRT_WIDTH * small / 2
    core = _distance(outlier | ~good, border=False) > reach
    if not core.any():
        return np.zeros_like(good)
    return (scipy.ndimage.distance_transform_edt(~core) <= reach) & good
