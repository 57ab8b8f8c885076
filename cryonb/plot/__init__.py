"""Results to matplotlib Axes, one file per stage: ``plot.<noun>(result, *, ax=None) -> Axes``.

Nothing here computes a number that a reader might want, and nothing calls ``show``.
"""

from .atoms import q_strip, ramachandran, ramachandran_moves, spread_strip, suspicion_strip
from .atoms_in_map import model_in_map
from .bayes import (
    angular_error,
    class_averages,
    class_choice,
    confusion,
    iterations,
    occupancy,
    responsibilities,
    responsibility,
    shell_spectra,
)
from .classic import kernel_bandwidth, sense_graph, view_coordinates
from .ctf import contrast_transfer, thon_rings
from .defocus import ctf_fit, equiphase_average
from .doubts import checks, condition_difference
from .manifold import (
    eigenvalues,
    embedding,
    evidence,
    frame_evidence,
    landscape,
    path,
    recovered,
    smoothness_evidence,
)
from .micrographs import drift, micrograph
from .movie_files import write_gif, write_mp4
from .movies import write_projection_movie, write_surface_movie
from .picking import picks, precision_recall
from .resolution import (
    corrected_fsc,
    directional_fsc,
    fourier_shell_correlation,
    guinier,
    noise_substitution,
    reslog,
    spectrum,
)
from .resolution_maps import (
    directional_resolution,
    local_resolution,
    local_resolution_slices,
    orientation_distribution,
)
from .style import STYLE, png
from .volumes import central_slices, default_level, image, images, projection_montage, surface, surface_strip

__all__ = [
    "STYLE",
    "angular_error",
    "central_slices",
    "checks",
    "class_averages",
    "class_choice",
    "condition_difference",
    "confusion",
    "contrast_transfer",
    "corrected_fsc",
    "ctf_fit",
    "default_level",
    "directional_fsc",
    "directional_resolution",
    "drift",
    "eigenvalues",
    "embedding",
    "equiphase_average",
    "evidence",
    "fourier_shell_correlation",
    "frame_evidence",
    "guinier",
    "image",
    "images",
    "iterations",
    "kernel_bandwidth",
    "landscape",
    "local_resolution",
    "local_resolution_slices",
    "noise_substitution",
    "micrograph",
    "model_in_map",
    "occupancy",
    "orientation_distribution",
    "path",
    "picks",
    "png",
    "precision_recall",
    "projection_montage",
    "q_strip",
    "ramachandran",
    "ramachandran_moves",
    "recovered",
    "reslog",
    "responsibilities",
    "responsibility",
    "sense_graph",
    "shell_spectra",
    "smoothness_evidence",
    "spectrum",
    "spread_strip",
    "surface",
    "surface_strip",
    "suspicion_strip",
    "thon_rings",
    "view_coordinates",
    "write_gif",
    "write_mp4",
    "write_projection_movie",
    "write_surface_movie",
]
