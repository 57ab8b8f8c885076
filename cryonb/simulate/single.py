"""One image, step by step: a projection, what the lens makes of it, and that with noise."""

from dataclasses import dataclass

import numpy as np

from .. import ctf, fourier

__all__ = ["FormedImage", "form_image"]


@dataclass(frozen=True, eq=False)
class FormedImage:
    """One particle image at each step of its making.

    Parameters
    ----------
    projection, seen, noisy : ndarray (d, d)
        The density summed along the beam; what the lens makes of it; that plus noise.
    snr : float
        Measured: variance of ``seen`` over variance of the noise, inside the particle's circle.
    """

    projection: np.ndarray
    seen: np.ndarray
    noisy: np.ndarray
    snr: float


def form_image(clean, lens, pixel_size, *, snr, radius_px, rng):
    """Pass a projection through the microscope and add white noise.

    `particles` does the same for a whole population, with one level of noise for all its images.

    Parameters
    ----------
    clean : ndarray (d, d)
        Projection of the density, protein bright.
    lens : CTF
        Of one image.
    pixel_size : float
        Å.
    snr : float
        Variance of signal over variance of noise, per pixel inside the particle's circle; ``inf`` is no noise.
    radius_px : float
        Radius of that circle.
    rng : int or numpy.random.Generator

    Returns
    -------
    FormedImage

    Raises
    ------
    ValueError
        An SNR that is not positive, an image that is constant inside the circle.

    Examples
    --------
    >>> from cryonb.types import CTF
    >>> clean = np.pad(np.ones((8, 8)), 12)
    >>> made = form_image(clean, CTF(2e4, 2e4), 4.0, snr=0.1, radius_px=10, rng=0)
    >>> bool(abs(made.snr / 0.1 - 1) < 0.2)
    True
    """
    if not snr > 0:
        raise ValueError(f"snr must be positive (inf for no noise), got {snr}")
    seen = ctf.apply(clean, lens, pixel_size)
    circle = fourier.radius_px(clean.shape[-1]) <= radius_px
    signal = seen[circle].var()
    if not signal > 0:
        raise ValueError(f"the image does not vary inside a circle of {radius_px:g} px: there is no signal")
    noise = np.random.default_rng(rng).normal(0, np.sqrt(signal / snr), clean.shape)
    return FormedImage(clean, seen, seen + noise, np.inf if np.isinf(snr) else float(signal / noise[circle].var()))
