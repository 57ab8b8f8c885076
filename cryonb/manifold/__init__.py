"""Particles to conformational coordinates to a free-energy landscape, with its band, paths and volumes (Dashti 2014).

`embed` goes the whole way; every step of it can be called by itself.
"""

from . import classic
from .checks import Answer, Checks, check, junk_probability
from .clocks import CLOCKS, FrameSequence, brownian_walk, frame_sequence
from .conditions import ConditionDifference, compare_conditions
from .coordinates import local_linear_residuals, product_harmonics, select_coordinates
from .dependence import score_test
from .diffusion import DiffusionMap
from .embedding import ConformationalLandscape, embed
from .frames import FrameEvidence, frame_evidence, frame_weights, weighted_half_maps
from .gauge import RigidBodyGauge, arclength, measure_volumes
from .gauge_surface import SurfaceGauge
from .heterogeneity import Heterogeneity, heterogeneity_test
from .kinetics import PassageTimes, committor, passage_times, rate_matrix
from .landscape import change_gauge, counting_landscape, deconvolve_landscape, landscape_rms
from .likelihood import image_log_likelihood
from .paths import Basin, Path, find_basins, minimum_energy_path
from .principal import PrincipalVolumes, principal_volumes
from .scores import Scores, band_coverage, score
from .shapes import LatentShape, choose_shape, fit_shape, shape_landscape, unshrunk_latents
from .smoothness import SmoothnessScan, scan_smoothness
from .spectral import SpectralVolumes, volumes_along
from .surface import ConformationalSurface, embed_surface
from .views import average_near_view, crowded_view, projections_and_averages, turned_to_view, volumes_at

__all__ = [
    "CLOCKS",
    "Answer",
    "Basin",
    "Checks",
    "ConditionDifference",
    "ConformationalLandscape",
    "ConformationalSurface",
    "DiffusionMap",
    "FrameEvidence",
    "FrameSequence",
    "Heterogeneity",
    "LatentShape",
    "PassageTimes",
    "Path",
    "PrincipalVolumes",
    "RigidBodyGauge",
    "Scores",
    "SmoothnessScan",
    "SpectralVolumes",
    "SurfaceGauge",
    "arclength",
    "average_near_view",
    "band_coverage",
    "brownian_walk",
    "change_gauge",
    "check",
    "choose_shape",
    "classic",
    "committor",
    "compare_conditions",
    "counting_landscape",
    "crowded_view",
    "deconvolve_landscape",
    "embed",
    "embed_surface",
    "find_basins",
    "fit_shape",
    "frame_evidence",
    "frame_sequence",
    "frame_weights",
    "heterogeneity_test",
    "image_log_likelihood",
    "junk_probability",
    "landscape_rms",
    "local_linear_residuals",
    "measure_volumes",
    "minimum_energy_path",
    "passage_times",
    "principal_volumes",
    "product_harmonics",
    "projections_and_averages",
    "rate_matrix",
    "scan_smoothness",
    "score",
    "score_test",
    "select_coordinates",
    "shape_landscape",
    "turned_to_view",
    "unshrunk_latents",
    "volumes_along",
    "volumes_at",
    "weighted_half_maps",
]
