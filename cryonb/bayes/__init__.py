"""Maximum-a-posteriori refinement and classification (Scheres 2012) on polar Fourier grids.

One expectation and one maximisation, adjoint to each other (`expectation`, `maximisation`), and the questions that
they answer: `refine` and `classify_3d`. `classify_2d` asks images instead of volumes (`averages`).
"""

from .classify import classify_3d
from .classify_images import classify_2d
from .expectation import Model, Posterior, Statistics, expectation
from .polar import PolarGrid
from .records import Classification, Classification2D, Iteration, Refinement
from .refine import refine
from .search import Sampling

__all__ = [
    "Classification", "Classification2D", "Iteration", "Model", "PolarGrid", "Posterior", "Refinement", "Sampling",
    "Statistics", "classify_2d", "classify_3d", "expectation", "refine",
]  # fmt: skip
