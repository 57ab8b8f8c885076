"""Results to matplotlib Axes, one file per stage: ``plot.<noun>(result, *, ax=None) -> Axes``.

Nothing here computes a number that a reader might want, and nothing calls ``show``.
"""

from .bayes import angular_error, class_averages, confusion, iterations, occupancy, shell_spectra
from .ctf import contrast_transfer, thon_rings
from .manifold import eigenvalues, embedding, evidence, landscape, path, recovered
from .resolution import fourier_shell_correlation, spectrum
from .style import STYLE, png
from .volumes import central_slices, default_level, image, images, projection_montage, surface, surface_strip

__all__ = [
    "STYLE",
    "angular_error",
    "central_slices",
    "class_averages",
    "confusion",
    "contrast_transfer",
    "default_level",
    "eigenvalues",
    "embedding",
    "evidence",
    "fourier_shell_correlation",
    "image",
    "images",
    "iterations",
    "landscape",
    "occupancy",
    "path",
    "png",
    "projection_montage",
    "recovered",
    "shell_spectra",
    "spectrum",
    "surface",
    "surface_strip",
    "thon_rings",
]
