"""Results to matplotlib Axes, one file per stage: ``plot.<noun>(result, *, ax=None) -> Axes``.

Nothing here computes a number that a reader might want, and nothing calls ``show``.
"""

from .ctf import contrast_transfer, thon_rings
from .style import STYLE, png
from .volumes import central_slices, image, images, projection_montage, surface, surface_strip

__all__ = [
    "STYLE",
    "central_slices",
    "contrast_transfer",
    "image",
    "images",
    "png",
    "projection_montage",
    "surface",
    "surface_strip",
    "thon_rings",
]
