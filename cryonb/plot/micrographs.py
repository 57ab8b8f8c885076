"""Draw whole micrographs, and the path that a specimen took under the beam."""

import numpy as np

from .style import new_axes, scale_bar, styled

__all__ = ["drift", "micrograph"]


@styled
def micrograph(picture, *, centres=None, diameter=None, ax=None):
    """A micrograph, reduced to at most 512 pixels a side by averaging, with circles round particles.

    Parameters
    ----------
    picture : Micrograph
    centres : ndarray (n, 2), optional
        (x, y) in pixels of the micrograph.
    diameter : float or ndarray (n,), optional
        Å, of the circles; 150 by default.
    ax : Axes, optional

    Returns
    -------
    Axes
        Row 0 at the bottom, as for all images; grey levels between the 1st and the 99th percentile.
    """
    from matplotlib.collections import EllipseCollection

    ax = new_axes(ax, width=4.2, height=4.2)
    factor = max(1, int(np.ceil(max(picture.data.shape) / 512)))
    height, width = (side // factor * factor for side in picture.data.shape)
    shown = picture.data[:height, :width].reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))
    low, high = np.nanpercentile(shown, [1, 99])
    pixel = factor * picture.pixel_size
    ax.imshow(shown, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    if centres is not None:
        centres = np.atleast_2d(centres)
        width_px = np.broadcast_to(np.asarray(150.0 if diameter is None else diameter) / pixel, len(centres))
        offsets = (centres - (factor - 1) / 2) / factor
        ax.add_collection(
            EllipseCollection(
                width_px, width_px, np.zeros(len(centres)), units="x", offsets=offsets, transOffset=ax.transData,
                facecolor="none", edgecolor="C1", lw=0.9,
            )
        )  # fmt: skip
    ax.set(xticks=[], yticks=[])
    lengths = np.outer(10.0 ** np.arange(8), [1, 2, 5]).ravel()
    length = lengths[lengths <= 0.3 * max(4.0, shown.shape[1] * pixel)].max(initial=1.0)
    scale_bar(ax, length, length / pixel)
    return ax


@styled
def drift(paths, *, ax=None):
    """Displacements of the specimen, frame by frame, each path against its own mean.

    Parameters
    ----------
    paths : dict of str to ndarray (f, 2)
        Name to (x, y) in Å.
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=3.6, height=3.2)
    for number, (name, path) in enumerate(paths.items()):
        centred = np.asarray(path) - np.mean(path, axis=0)
        ax.plot(*centred.T, marker="o" if number == 0 else ".", ms=5 if number == 0 else 3, lw=1.0, label=name)
    ax.set(xlabel="x (Å)", ylabel="y (Å)")
    ax.set_aspect("equal", adjustable="datalim")
    ax.legend()
    return ax
