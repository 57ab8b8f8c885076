"""Results to matplotlib Axes, one file per stage: ``plot.<noun>(result, *, ax=None) -> Axes``.

Nothing here computes a number that a reader might want, and nothing calls ``show``.
"""

from .ctf import contrast_transfer, thon_rings
from .manifold import eigenvalues, embedding, landscape
from .resolution import fourier_shell_correlation, spectrum
from .style import STYLE, png
from .volumes import central_slices, default_level, image, images, projection_montage, surface, surface_strip

__all__ = [
    "STYLE",
    "central_slices",
    "contrast_transfer",
    "default_level",
    "eigenvalues",
    "embedding",
    "fourier_shell_correlation",
    "image",
    "images",
    "landscape",
    "png",
    "projection_montage",
    "spectrum",
    "surface",
    "surface_strip",
    "thon_rings",
]
