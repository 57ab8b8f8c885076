"""A prior that knows that some parts of a volume are better resolved than others, and that keeps the halves apart.

The prior of a refinement has one variance per shell: it trusts a flexible arm and the solvent as much as the core. Here
each band of frequencies is weighted voxel by voxel, g = S / (S + N), with the local power of the half's own map for
S + N and the noise power of the band, one number, for N. SIDESPLITTER (Ramlaul et al., J Struct Biol 211:107545, 2020)
has the same aim. Weights made from both halves would carry the noise of one into the other: where noise agrees by
chance both would be raised, and the FSC of the halves with them. These do not: a half's weights are a function of that
half and of numbers per band. On pure noise they are even in it, so that it stays uncorrelated between the halves; with
a signal that is not proved, but measured: no correlation came up where phases were randomised.

It gains nothing, or loses a little, in a part that many wrong poses blur (numbers in docs/decisions.md).
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from cryonb import fourier

__all__ = ["bands", "local_weights", "noise_power", "weighted_locally"]

WIDTH = 2.0  # shells, least distance of two bands
GROWTH = 1.2  # of the centre of a band over that of the last
NEIGHBOURHOOD = 1.0  # wavelengths: standard deviation of the Gaussian over which power is local


def bands(n_shells):
    """Overlapping bands of frequency that add up to one.

    Parameters
    ----------
    n_shells : int
        d // 2 + 1.

    Returns
    -------
    centre : ndarray (b,)
        Fourier pixels.
    window : ndarray (b, n_shells)
        Triangles between neighbouring centres.

    Examples
    --------
    >>> centre, window = bands(33)
    >>> bool(np.allclose(window.sum(0), 1)), len(centre)
    (True, 13)
    """
    centre = [0.0]
    while centre[-1] < n_shells - 1:
        centre.append(max(centre[-1] + WIDTH, GROWTH * centre[-1]))
    centre = np.array(centre)
    shells = np.arange(n_shells)
    return centre, np.stack([np.interp(shells, centre, row) for row in np.eye(len(centre))])


def noise_power(a, b, mask):
    """Noise of a half map in each shell, from the difference of the halves within a mask: ½⟨|A − B|²⟩ / ⟨mask²⟩.

    Parameters
    ----------
    a, b : ndarray (d, d, d)
    mask : ndarray (d, d, d)
        Where the particle is: there the noise is stronger than in the box, for particles were aligned to it.

    Returns
    -------
    ndarray (d // 2 + 1,), mean |F|² of the noise in each shell.
    """
    power = fourier.shell_mean(np.abs(fourier.transform((a - b) * mask)) ** 2, ndim=3)
    return 0.5 * power / (mask**2).mean(dtype=np.float64)


def local_weights(data, noise, mask, centre, window):
    """How much of each voxel in one band is signal.

    Parameters
    ----------
    data : ndarray (d, d, d)
        A half map, unfiltered.
    noise : ndarray (d // 2 + 1,)
        `noise_power`.
    mask : ndarray (d, d, d)
        Where the particle is.
    centre : float
        Of the band, in Fourier pixels.
    window : ndarray (d // 2 + 1,)

    Returns
    -------
    ndarray (d, d, d) float32, 0 … 1

    Notes
    -----
    g = S / (S + N), S = max(0, P̄ − N + κ (P − P̄)): P is the local mean of the squared band, P̄ its mean in the mask, and
    κ the share of the variance of P that is not sampling, 2 P² / m for a mean of m independent numbers. Where power
    varies no more than it must, all voxels get the weight of the band.
    """
    size_px = len(data)
    shell = np.minimum(np.rint(fourier.radius_px(size_px, ndim=3)), size_px // 2).astype(int)
    part = fourier.inverse_transform(fourier.transform(data) * window[shell]).real
    sigma = NEIGHBOURHOOD * size_px / max(centre, WIDTH)
    power = gaussian_filter(part.astype(np.float64) ** 2, sigma, mode="nearest")
    expected = (window**2 * noise)[shell].sum() / size_px**6
    coefficients = (window**2)[shell].sum() ** 2 / max((window**4)[shell].sum(), 1e-30)
    count = max(coefficients * min((4 * np.pi * sigma**2) ** 1.5 / size_px**3, 1.0), 1.0)
    mean = np.average(power, weights=mask)
    spread = np.average((power - mean) ** 2, weights=mask)
    real = max(0.0, 1 - 2 / count * np.average(power**2, weights=mask) / max(spread, 1e-30))
    signal = np.maximum(0, mean - expected + real * (power - mean))
    return (signal / np.maximum(signal + expected, 1e-30)).astype(np.float32)


def weighted_locally(regularised, data, noise, mask, gain):
    """A regularised map with the weights of its shells replaced by weights of its voxels, band by band.

    Parameters
    ----------
    regularised : ndarray (d, d, d)
        The half's MAP volume, on average ``gain`` times what the data say in each shell.
    data : ndarray (d, d, d)
        The same half, unfiltered: what the weights are made from.
    noise : ndarray (d // 2 + 1,)
        Noise power of ``data`` in each shell.
    mask : ndarray (d, d, d)
        Where the particle is; the result is not masked.
    gain : ndarray (d // 2 + 1,)
        Above 0.

    Returns
    -------
    ndarray (d, d, d) float32
    """
    size_px = len(data)
    shell = np.minimum(np.rint(fourier.radius_px(size_px, ndim=3)), size_px // 2).astype(int)
    transform = fourier.transform(regularised) / gain[shell]
    total = np.zeros(data.shape, np.float32)
    for centre, window in zip(*bands(size_px // 2 + 1)):
        part = fourier.inverse_transform(transform * window[shell]).real
        total += local_weights(data, noise, mask, centre, window) * part.astype(np.float32)
    return total
