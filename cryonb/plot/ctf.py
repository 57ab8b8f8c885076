"""Draw what the microscope does: the contrast transfer function along a radius and in the plane."""

import numpy as np

from cryonb import ctf as _ctf

from .style import new_axes, styled

__all__ = ["contrast_transfer", "resolution_axis", "thon_rings"]

# Å, what a resolution axis may say
RESOLUTIONS = np.array([200, 100, 70, 50, 40, 30, 25, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1.2, 1.0])


def resolution_axis(ax, limit):
    """Label an axis over Å⁻¹, from 0 to ``limit``, in Å: the numbers that people say."""
    allowed = RESOLUTIONS[1 / RESOLUTIONS <= limit * 1.001]
    ticks, last = [], 0.0
    for value in allowed:
        if 1 / value - last > 0.075 * limit:
            ticks.append(value)
            last = 1 / value
    ax.set_xticks([1 / value for value in ticks], [f"{value:g}" for value in ticks])
    ax.set(xlim=(0, limit), xlabel="resolution (Å)")


@styled
def contrast_transfer(ctf, *, pixel_size, ax=None, label=None):
    """CTF along +x from 0 to Nyquist, drawn over Å⁻¹ and labelled in Å.

    Parameters
    ----------
    ctf : CTF
        Of one image.
    pixel_size : float
        Å; Nyquist lies at twice this.
    ax : Axes, optional
    label : str, optional
        Name in a legend.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, height=2.6)
    k = np.linspace(0, 0.5 / pixel_size, 800)
    ax.axhline(0, color="#999999", lw=0.8)
    ax.plot(k, _ctf.evaluate(ctf, k, np.zeros_like(k)), label=label)
    resolution_axis(ax, 0.5 / pixel_size)
    ax.set(ylim=(-1.08, 1.08), ylabel="CTF")
    if label:
        ax.legend(loc="lower left", ncols=2)
    return ax


@styled
def thon_rings(ctf, *, size_px, pixel_size, ax=None):
    """CTF² in the plane of spatial frequencies (kx, ky), in Å⁻¹.

    Parameters
    ----------
    ctf : CTF
        Of one image.
    size_px : int
        Box size of the grid drawn.
    pixel_size : float
        Å.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=3.4, height=2.9)
    nyquist = 0.5 / pixel_size
    power = _ctf.grid(ctf, size_px, pixel_size) ** 2
    shown = ax.imshow(power, cmap="gray", vmin=0, vmax=1, extent=(-nyquist, nyquist, -nyquist, nyquist))
    ax.figure.colorbar(shown, ax=ax, label="CTF²", shrink=0.9)
    ax.set(xlabel="$k_x$ (Å⁻¹)", ylabel="$k_y$ (Å⁻¹)")
    return ax
