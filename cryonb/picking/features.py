"""What a place on a micrograph looks like, in numbers that do not change when the particle turns in the plane."""

import numpy as np
import scipy.fft
import scipy.ndimage

from .preparation import robust_scaled

__all__ = ["feature_maps", "features_at"]

LAPLACIAN_SIGMA = (0.1, 0.14, 0.18, 0.22, 0.25, 0.3, 0.4, 0.6)  # diameters
RING_EDGES = (0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0)
ORDERS, ORDER_SIGMA = (1, 2, 3, 4), (0.18, 0.28)
SPREAD_RADIUS = (0.25, 0.5, 1.0)
FINE_RING, N_FINE = 0.08, 9  # width and number of the rings whose mean and deviation are taken
CONTRAST_SIGMA, CONTRAST_WIDTH = 0.2, (0.5, 1.0, 2.0)  # of the particle, and of the surroundings it is compared with


def feature_maps(prepared):
    """Every feature at every place.

    Parameters
    ----------
    prepared : Prepared

    Returns
    -------
    ndarray (49, h, w), float32
        In robust standard deviations of each: 8 Laplacians of Gaussians, the means over 6 rings, the moduli of
        8 circular harmonics r^m exp(−r²/2σ² + imθ), m = 1 … 4 (logarithm), 3 local variances (logarithm), the means
        over 9 fine rings and the variances on them (logarithm), and against surroundings of 3 widths the contrast
        in their standard deviations and that deviation (logarithm).
    """
    image, size = prepared.image, prepared.diameter_px
    convolve = _Convolution(image, int(np.ceil(1.2 * size)))
    maps = []
    for share in LAPLACIAN_SIGMA:
        sigma = share * size
        maps.append(-(sigma**2) * scipy.ndimage.gaussian_laplace(image, sigma))
    radius, angle = convolve.radius, convolve.angle
    for inner, outer in zip(RING_EDGES, RING_EDGES[1:]):
        ring = np.clip(outer * size - radius + 0.5, 0, 1) * np.clip(radius - inner * size + 0.5, 0, 1)
        maps.append(convolve(ring / ring.sum()))
    floor = 1e-3
    for order in ORDERS:
        for share in ORDER_SIGMA:
            sigma = share * size
            envelope = (radius / sigma) ** order * np.exp(-(radius**2) / (2 * sigma**2)) / sigma**2
            real, imaginary = (convolve(envelope * wave(order * angle)) for wave in (np.cos, np.sin))
            maps.append(np.log(floor + np.hypot(real, imaginary)))
    squares = _Convolution(image**2, convolve.margin)
    for share in SPREAD_RADIUS:
        disc = (radius <= share * size).astype(float)
        disc /= disc.sum()
        maps.append(np.log(np.maximum(squares(disc) - convolve(disc) ** 2, floor)))
    for number in range(N_FINE):
        inner, outer = FINE_RING * number * size, FINE_RING * (number + 1) * size
        ring = np.clip(outer - radius + 0.5, 0, 1) * np.clip(radius - inner + 0.5, 0, 1)
        ring /= ring.sum()
        mean = convolve(ring)
        maps += [mean, np.log(np.maximum(squares(ring) - mean**2, floor))]
    smooth = scipy.ndimage.gaussian_filter(image, CONTRAST_SIGMA * size)
    for share in CONTRAST_WIDTH:
        mean = scipy.ndimage.gaussian_filter(image, share * size)
        variance = scipy.ndimage.gaussian_filter(image**2, share * size) - mean**2
        spread = np.sqrt(np.maximum(variance, floor))
        maps += [(smooth - mean) / spread, np.log(spread)]
    return np.stack([robust_scaled(values, prepared.usable) for values in maps]).astype(np.float32)


def features_at(maps, places):
    """Features (n, k) of places (n, 2), x and y in binned pixels: those of the nearest pixel.

    Parameters
    ----------
    maps : ndarray (k, h, w)
    places : ndarray (n, 2)

    Raises
    ------
    ValueError
        A place outside.
    """
    column, row = np.rint(np.asarray(places, dtype=float).reshape(-1, 2)).astype(int).T
    height, width = maps.shape[1:]
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    if not inside.all():
        raise ValueError(f"place {int(np.argmin(inside)) + 1} of {len(inside)} lies outside the micrograph")
    return maps[:, row, column].T.astype(np.float64)


class _Convolution:
    """Correlate one image with small kernels by FFT, zeros outside."""

    def __init__(self, image, margin):
        self.margin, self.shape = margin, image.shape
        self.fast = tuple(scipy.fft.next_fast_len(n + margin, real=True) for n in image.shape)
        self.transform = scipy.fft.rfft2(image.astype(np.float32), self.fast)
        y, x = np.mgrid[-margin : margin + 1, -margin : margin + 1]
        self.radius, self.angle = np.hypot(y, x), np.arctan2(y, x)

    def __call__(self, kernel):
        embedded = np.zeros(self.fast, dtype=np.float32)
        embedded[: kernel.shape[0], : kernel.shape[1]] = kernel
        embedded = np.roll(embedded, [-(n // 2) for n in kernel.shape], axis=(0, 1))
        values = scipy.fft.irfft2(self.transform * np.conj(scipy.fft.rfft2(embedded)), self.fast)
        return values[: self.shape[0], : self.shape[1]]
