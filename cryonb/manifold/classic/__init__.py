"""The manifold embedding as published: view by view, to compare with `cryonb.manifold.embed` (Dashti 2014)."""

from .distances import Bandwidth, double_filtered_distances, fit_bandwidth, kernel_sum
from .engine import ClassicLandscape, classic_landscape
from .nlsa import NonlinearSpectrum, dense_diffusion_map, fit_cosines, nonlinear_spectrum
from .sense import movie_agreement, propagate_sense
from .view_bins import ViewBins, bin_views, prepare_view

__all__ = [
    "Bandwidth",
    "ClassicLandscape",
    "NonlinearSpectrum",
    "ViewBins",
    "bin_views",
    "classic_landscape",
    "dense_diffusion_map",
    "double_filtered_distances",
    "fit_bandwidth",
    "fit_cosines",
    "kernel_sum",
    "movie_agreement",
    "nonlinear_spectrum",
    "prepare_view",
    "propagate_sense",
]
