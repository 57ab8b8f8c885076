"""Evaluate the contrast transfer function and apply it to images.

χ(k) = πλΔf k² − (π/2) C_s λ³ k⁴ + φ + arcsin Q, CTF = sin χ · exp(−B k²/4), with
Δf(θ) = ½(U + V) + ½(U − V) cos 2(θ − angle), θ from +x to +y; underfocus positive, CTF(0) = +Q at φ = 0.
RELION agrees; several Python codes have the opposite sign.
"""

import numpy as np

from . import fourier

__all__ = ["apply", "evaluate", "grid", "phase", "phase_flip"]


def evaluate(ctf, kx, ky):
    """CTF at given frequencies.

    Parameters
    ----------
    ctf : CTF
        Of one image, or of n.
    kx, ky : ndarray, same shape k
        Å⁻¹.

    Returns
    -------
    ndarray k for one image, (n, *k) for n; float64.

    Notes
    -----
    Rohou & Grigorieff, J Struct Biol 192:216 (2015), equations 2–5; the amplitude contrast enters as a phase
    arcsin Q.

    Examples
    --------
    >>> from cryonb.types import CTF
    >>> lens = CTF(15000, 14000, 30, voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.07)
    >>> float(evaluate(lens, np.array(0.0), np.array(0.0)).round(12))
    0.07
    """
    kx, ky = np.asarray(kx, dtype=np.float64), np.asarray(ky, dtype=np.float64)
    return np.sin(phase(ctf, kx, ky)) * np.exp(-0.25 * _column(ctf.b_factor, kx.ndim) * (kx**2 + ky**2))


def phase(ctf, kx, ky):
    """The phase χ whose sine is the CTF, in radians. Parameters and shapes as in `evaluate`.

    Examples
    --------
    >>> from cryonb.types import CTF
    >>> round(float(np.sin(phase(CTF(1e4, 1e4, amplitude_contrast=0.2), 0.0, 0.0))), 6)
    0.2
    """
    kx, ky = np.asarray(kx, dtype=np.float64), np.asarray(ky, dtype=np.float64)

    def column(value):
        return _column(value, kx.ndim)

    k_squared = kx**2 + ky**2
    wavelength = column(ctf.wavelength)
    u, v, angle = column(ctf.defocus_u), column(ctf.defocus_v), np.radians(column(ctf.defocus_angle))
    # k² cos 2(θ − angle) without the angle of every pixel
    k_squared_cosine = (kx**2 - ky**2) * np.cos(2 * angle) + 2 * kx * ky * np.sin(2 * angle)
    defocus_k_squared = 0.5 * (u + v) * k_squared + 0.5 * (u - v) * k_squared_cosine
    chi = np.pi * wavelength * defocus_k_squared
    chi = chi - 0.5 * np.pi * column(ctf.cs_mm) * 1e7 * wavelength**3 * k_squared**2
    return chi + np.radians(column(ctf.phase_shift)) + np.arcsin(column(ctf.amplitude_contrast))


def _column(value, ndim):
    """One value for each of n images, against frequencies of ``ndim`` axes."""
    value = np.asarray(value)
    return value.reshape(-1, *[1] * ndim) if value.ndim else value


def grid(ctf, size_px, pixel_size):
    """CTF on the centred Fourier grid of an image: (d, d) for one image, (n, d, d) for n; float32.

    Parameters
    ----------
    ctf : CTF
    size_px : int
        Box size d.
    pixel_size : float
        Å.
    """
    kx, ky = fourier.frequency_grid(size_px, pixel_size)
    return evaluate(ctf, kx, ky).astype(np.float32)


def apply(images, ctf, pixel_size):
    """Multiply images by the CTF in Fourier space.

    Parameters
    ----------
    images : ndarray (d, d) or (n, d, d)
    ctf : CTF of one image, or of n
    pixel_size : float
        Å.

    Returns
    -------
    ndarray like ``images``, or (n, d, d) for one image and n CTFs.
    """
    return _filter(images, grid(ctf, images.shape[-1], pixel_size))


def phase_flip(images, ctf, pixel_size):
    """Turn the negative lobes of the CTF around: multiply images by sign(CTF). Shapes as in `apply`."""
    return _filter(images, np.sign(grid(ctf, images.shape[-1], pixel_size)))


def _filter(images, factor):
    images = np.asarray(images)
    return fourier.inverse_transform(fourier.transform(images, ndim=2) * factor, ndim=2).real.astype(images.dtype)
