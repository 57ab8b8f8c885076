"""A first defocus and astigmatism, from profiles of the spectrum along sectors."""

from dataclasses import replace

import numpy as np

from .. import ctf as ctf_room
from ..types import CTF

__all__ = ["lens", "search"]

SECTORS = 18  # of 10°
DEFOCUS_STEP = 50.0  # Å
PHASE_STEP = 10.0  # degrees
BACKGROUND = 5  # terms of the smooth background of a profile's logarithm
ASTIGMATISM = np.arange(0.0, 3001.0, 250.0)  # Å, tried with 12 axes


def lens(optics, mean, along, across, phase_shift):
    """CTF of a mean defocus and an astigmatism (along, across) = (U − V)(cos 2α, sin 2α).

    Parameters
    ----------
    optics : CTF
        Voltage, aberration, amplitude contrast.
    mean, along, across : float
        Å.
    phase_shift : float
        Degrees.

    Examples
    --------
    >>> made = lens(CTF(0.0, 0.0), 10_000, 0.0, 600.0, 0.0)
    >>> made.defocus_u, made.defocus_v, made.defocus_angle
    (10300.0, 9700.0, 45.0)
    """
    half = 0.5 * np.hypot(along, across)
    angle = np.degrees(0.5 * np.arctan2(across, along)) % 180
    return replace(
        optics, defocus_u=mean + half, defocus_v=mean - half, defocus_angle=angle, phase_shift=phase_shift, b_factor=0.0
    )


def search(spectrum, optics, defocus, resolution, phases):
    """Defocus, astigmatism and phase shift whose rings agree best with the spectrum.

    Parameters
    ----------
    spectrum : Spectrum
    optics : CTF
    defocus : (float, float)
        Å: the range of the mean defocus.
    resolution : (float, float)
        Å: the coarsest and the finest that count.
    phases : ndarray (p,)
        Phase shifts to try, degrees.

    Returns
    -------
    tuple of float: mean, along, across (Å), phase shift (degrees), score

    Notes
    -----
    CTFFIND4 (Rohou & Grigorieff 2015) searches the rotational average first, then astigmatism in the plane; an average
    over sectors of 10° keeps the rings of a strong astigmatism, costs no more, and both are searched at once. The score
    is the correlation of the profiles with CTF², a smooth background taken out of both.
    """
    profiles, weights, k = _profiles(spectrum, resolution)
    scale = np.sqrt(weights.sum(0))
    basis = np.linalg.qr(np.polynomial.legendre.legvander(_unit(k), BACKGROUND - 1) * scale[:, None])[0]
    data = np.log(profiles) * scale
    data -= (data @ basis) @ basis.T
    data /= np.linalg.norm(data)
    grid = np.arange(defocus[0], defocus[1] + DEFOCUS_STEP, DEFOCUS_STEP)
    margin = ASTIGMATISM[-1] / 2
    wide = np.arange(grid[0] - margin, grid[-1] + margin + 3 * DEFOCUS_STEP, DEFOCUS_STEP)
    best = (-np.inf,)
    for phase in phases:
        rounds = CTF(wide, wide, **_constants(optics), phase_shift=phase)
        rings = ctf_room.evaluate(rounds, k, np.zeros_like(k)) ** 2 * scale
        rings -= (rings @ basis) @ basis.T
        rings /= np.linalg.norm(rings, axis=1, keepdims=True) * np.sqrt(SECTORS)
        agreement = rings @ data.T  # (defocus, sector)
        best = max(best, _with_astigmatism(agreement, wide, grid, phase))
    score, mean, along, across, phase = best
    return mean, along, across, phase, score


def _with_astigmatism(agreement, wide, grid, phase):
    """The best mean defocus over all astigmatisms: sums of ``agreement`` along a wave over the sectors."""
    angle = np.radians((np.arange(SECTORS) + 0.5) * 180 / SECTORS)
    start = int(np.rint((grid[0] - wide[0]) / DEFOCUS_STEP))
    best = (-np.inf,)
    for size in ASTIGMATISM:
        for axis in np.arange(12) * np.pi / 12 if size else [0.0]:
            offset = 0.5 * size * np.cos(2 * (angle - axis)) / DEFOCUS_STEP
            low = np.floor(offset).astype(int)
            part = offset - low
            total = np.zeros(len(grid))
            for s in range(SECTORS):
                first = start + low[s]
                total += (1 - part[s]) * agreement[first : first + len(grid), s]
                total += part[s] * agreement[first + 1 : first + 1 + len(grid), s]
            top = int(np.argmax(total))
            found = (float(total[top]), float(grid[top]), size * np.cos(2 * axis), size * np.sin(2 * axis), phase)
            best = max(best, found)
    return best


def _profiles(spectrum, resolution):
    """Mean power (sector, shell), pixels in each, and the frequencies of the shells (Å⁻¹)."""
    step = 1 / (spectrum.tile_px * spectrum.pixel_size)
    radius = np.hypot(spectrum.kx, spectrum.ky)
    inside = (radius >= 1 / resolution[0]) & (radius <= 1 / resolution[1])
    shell = np.rint(radius[inside] / step).astype(int)
    first, n = shell.min(), np.ptp(shell) + 1
    angle = np.degrees(np.arctan2(spectrum.ky[inside], spectrum.kx[inside])) % 180
    sector = np.minimum((angle / 180 * SECTORS).astype(int), SECTORS - 1)
    index = sector * n + shell - first
    mean = spectrum.tiles.mean(axis=0, dtype=np.float64)[inside]
    count = np.bincount(index, minlength=SECTORS * n).reshape(SECTORS, n)
    total = np.bincount(index, weights=mean, minlength=SECTORS * n).reshape(SECTORS, n)
    overall = total.sum(0) / np.maximum(count.sum(0), 1)
    profile = np.where(count > 0, total / np.maximum(count, 1), overall)
    return profile, count, (np.arange(n) + first) * step


def _constants(optics):
    return {name: getattr(optics, name) for name in ("voltage_kv", "cs_mm", "amplitude_contrast")}


def _unit(k):
    return 2 * (k - k[0]) / (k[-1] - k[0]) - 1
