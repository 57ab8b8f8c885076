"""The maximisation: from sums over particles to the next references, noise, priors and class weights.

V = A / (W + 1/(T τ²)); σ² = Σ Γ |X − CTF P V|² / 2n. Scheres 2012, eq. 8–10.
"""

from dataclasses import replace

import numpy as np

from cryonb import fourier, projection

from .expectation import Statistics
from .observations import rim_mask

__all__ = [
    "class_weights", "correlation", "filtered", "join_low_shells", "last_shell_above", "merge_classes",
    "noise_spectrum", "offset_deviation", "power_prior", "signal_to_noise", "solve_class", "sphere", "stack_classes",
    "sum_statistics", "wiener_prior",
]  # fmt: skip

EDGE_PX = 4  # soft edge of the solvent mask
FSC_LIMITS = (1e-3, 0.999)


def solve_class(statistics, k, voxel_size, *, prior=None):
    """MAP volume of one class from the sums.

    Parameters
    ----------
    statistics : Statistics
    k : int
        Class.
    voxel_size : float
        Å.
    prior : ndarray (d // 2 + 1,), optional
        T · τ² per shell.

    Returns
    -------
    Volume, not masked.
    """
    return projection.solve(statistics.accumulator(k), voxel_size, prior=prior)


def power_prior(volume):
    """τ² of each shell from a reference: half its mean power (Scheres 2012).

    Parameters
    ----------
    volume : Volume

    Returns
    -------
    ndarray (d // 2 + 1,)
    """
    return 0.5 * fourier.shell_mean(np.abs(fourier.transform(volume.data)) ** 2, ndim=3)


def wiener_prior(correlation, weight):
    """τ² per shell from an FSC of half maps: SSNR = f/(1 − f), τ² = SSNR · σ²_rec, σ²_rec = 1 / weight.

    Parameters
    ----------
    correlation : ndarray (d // 2 + 1,)
    weight : ndarray (d // 2 + 1,)
        Mean W of each shell (`projection.weight_spectrum`).
    """
    return signal_to_noise(correlation) / np.maximum(weight, 1e-30)


def signal_to_noise(correlation):
    """Spectral signal-to-noise ratio f / (1 − f) of one half set, f held between 0.001 and 0.999.

    Parameters
    ----------
    correlation : float or ndarray

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> float(signal_to_noise(0.5))
    1.0
    """
    clipped = np.clip(correlation, *FSC_LIMITS)
    return clipped / (1 - clipped)


def noise_spectrum(statistics, grid, previous):
    """σ² per optics group and shell from the residuals.

    Parameters
    ----------
    statistics : Statistics
    grid : PolarGrid
        On which the residuals were taken.
    previous : ndarray (g, d // 2 + 1)
        Kept beyond the grid, and for groups without particles.

    Returns
    -------
    ndarray (g, d // 2 + 1)

    Notes
    -----
    The images were cut to a circle, so the residual is divided by the share of noise that this leaves: σ² is the
    noise of the whole image, and posteriors keep their width whatever the mask.
    """
    share = float((rim_mask(grid.size_px) ** 2).mean())
    noise = np.array(previous, dtype=np.float64)
    shells = np.arange(noise.shape[1])
    inside = (shells >= 1) & (shells <= grid.radii[-1] + 0.5)
    for group in np.flatnonzero(statistics.count):
        per_ring = statistics.residual[group] / (2 * statistics.count[group] * share)
        noise[group, inside] = np.interp(shells[inside], grid.radii, per_ring)
        noise[group, 0] = noise[group, 1]
    return noise


def class_weights(statistics):
    """Prior of each class for the next iteration: its mean posterior, at least a tenth of an even share.

    Parameters
    ----------
    statistics : Statistics

    Returns
    -------
    ndarray (K,) summing to 1
    """
    weights = np.maximum(statistics.class_count / statistics.class_count.sum(), 0.1 / len(statistics.class_count))
    return weights / weights.sum()


def offset_deviation(statistics, pixel_size, *, least_px=0.5):
    """σ_off: root mean square of the shifts along one axis, in Å.

    Parameters
    ----------
    statistics : Statistics
    pixel_size : float
        Å.
    least_px : float
        Floor in pixels.

    Returns
    -------
    float
    """
    n = statistics.class_count.sum()
    return float(max(np.sqrt(statistics.offset2 / (2 * n)), least_px) * pixel_size)


def sphere(size_px, diameter_px):
    """Soft spherical solvent mask: 1 within the radius less half the edge, 0 half an edge outside.

    Parameters
    ----------
    size_px : int
        Box size d.
    diameter_px : float

    Returns
    -------
    ndarray (d, d, d) float32
    """
    radius = fourier.radius_px(size_px, ndim=3)
    position = np.clip((radius - diameter_px / 2 + EDGE_PX / 2) / EDGE_PX, 0, 1)
    return (0.5 + 0.5 * np.cos(np.pi * position)).astype(np.float32)


def sum_statistics(parts):
    """Sums over several sets of particles together.

    Parameters
    ----------
    parts : sequence of Statistics

    Returns
    -------
    Statistics
    """
    first, *others = parts
    names = first.__dataclass_fields__
    return Statistics(**{name: sum((getattr(other, name) for other in others), getattr(first, name)) for name in names})


def merge_classes(statistics):
    """The sums of all classes as those of one.

    Parameters
    ----------
    statistics : Statistics of K classes

    Returns
    -------
    Statistics of one class
    """
    return replace(
        statistics, values=statistics.values.sum(0, keepdims=True), weights=statistics.weights.sum(0, keepdims=True),
        class_count=statistics.class_count.sum(keepdims=True),
    )  # fmt: skip


def stack_classes(parts):
    """Sums of one class each, from different particles, as those of several classes.

    Parameters
    ----------
    parts : sequence of Statistics

    Returns
    -------
    Statistics
    """
    whole = sum_statistics(parts)
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "weights", "class_count")
    }
    return replace(whole, **arrays)


def filtered(data, gain):
    """A volume times a factor for each shell, linear in between.

    Parameters
    ----------
    data : ndarray (d, d, d)
    gain : ndarray (m,)
        Of shells 0 … m − 1; 0 beyond.

    Returns
    -------
    ndarray (d, d, d) float32
    """
    radius = fourier.radius_px(len(data), ndim=3)
    factor = np.interp(radius, np.arange(len(gain)), gain, right=0.0)
    return fourier.inverse_transform(fourier.transform(data) * factor).real.astype(np.float32)


def join_low_shells(a, b, shell):
    """Two halves whose sums below a shell are those of both: they cannot drift apart in orientation or hand.

    Parameters
    ----------
    a, b : Statistics
    shell : float
        Fourier pixels.

    Returns
    -------
    list of two Statistics
    """
    size = a.values.shape[1]
    centred = (np.arange(size) - size // 2) ** 2
    radius2 = centred[:, None, None] + centred[:, None] + np.arange(size // 2 + 1) ** 2
    low = radius2 < (2 * shell) ** 2
    values, weights = (np.where(low, getattr(a, name) + getattr(b, name), 0) for name in ("values", "weights"))
    return [
        replace(part, values=np.where(low, values, part.values), weights=np.where(low, weights, part.weights))
        for part in (a, b)
    ]


def correlation(a, b):
    """Fourier shell correlation.

    Parameters
    ----------
    a, b : ndarray (d, d, d)

    Returns
    -------
    ndarray (d // 2 + 1,); 0 where a shell is empty.
    """
    first, second = fourier.transform(a), fourier.transform(b)
    cross = fourier.shell_mean((first * second.conj()).real, ndim=3)
    power = fourier.shell_mean(np.abs(first) ** 2, ndim=3) * fourier.shell_mean(np.abs(second) ** 2, ndim=3)
    return np.divide(cross, np.sqrt(power), out=np.zeros_like(cross), where=power > 0)


def last_shell_above(values, level):
    """The shell before the first, from 1 on, at which values fall below a level.

    Parameters
    ----------
    values : array_like (m,)
    level : float

    Returns
    -------
    int

    Examples
    --------
    >>> last_shell_above([1, 0.9, 0.6, 0.4, 0.8], 0.5)
    2
    """
    below = np.flatnonzero(np.asarray(values)[1:] < level)
    return int(below[0]) if len(below) else len(values) - 1
