"""How much of a volume to believe: Fourier shell correlations, local and directional resolution, views, sharpening.

0.143 between half maps, 0.5 between a map and a model; frequencies in Å⁻¹, resolutions in Å. What needs another stage
(a reconstruction, a refinement) takes it as a callable.
"""

from .convergence import (
    NoiseSubstitution,
    ResLog,
    noise_substitution_test,
    reslog,
    subset_resolutions,
    substitute_noise,
)
from .directional import DirectionalFSC, directional_fsc
from .local import local_resolution
from .masks import CorrectedFSC, automatic_mask, correct_for_mask, corrected_fsc, randomise_phases
from .models import map_model_fsc, model_volume
from .orientations import OrientationDistribution, orientation_distribution
from .sharpening import BFactor, Guinier, b_factor, guinier, map_quality, sharpen
from .shells import (
    FSC,
    HALF_MAP_THRESHOLD,
    MODEL_THRESHOLD,
    fourier_ring_correlation,
    fourier_shell_correlation,
    shell_correlation,
)

__all__ = [
    "FSC", "HALF_MAP_THRESHOLD", "MODEL_THRESHOLD", "BFactor", "CorrectedFSC", "DirectionalFSC", "Guinier",
    "NoiseSubstitution", "OrientationDistribution", "ResLog", "automatic_mask", "b_factor", "correct_for_mask",
    "corrected_fsc", "directional_fsc", "fourier_ring_correlation", "fourier_shell_correlation", "guinier",
    "local_resolution", "map_model_fsc", "map_quality", "model_volume", "noise_substitution_test",
    "orientation_distribution", "randomise_phases", "reslog", "sharpen", "shell_correlation", "subset_resolutions",
    "substitute_noise",
]  # fmt: skip
