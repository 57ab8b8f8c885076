"""Maximum-a-posteriori refinement and classification (Scheres 2012) on polar Fourier grids.

One expectation and one maximisation, adjoint to each other (`expectation`, `maximisation`), and the questions that
they answer: `initial_model`, `refine` and `classify_3d`; `classify_2d` asks images instead of volumes (`averages`).
Beside them, for comparison, the old method (`baseline`).
"""

from . import baseline
from .classify import classify_3d
from .classify_images import classify_2d
from .expectation import Model, Posterior, Statistics, expectation
from .initial_model import InitialModel, initial_model
from .polar import PolarGrid
from .records import Classification, Classification2D, Iteration, Refinement
from .refine import refine
from .search import Sampling

__all__ = [
    "Classification", "Classification2D", "InitialModel", "Iteration", "Model", "PolarGrid", "Posterior", "Refinement",
    "Sampling", "Statistics", "baseline", "classify_2d", "classify_3d", "expectation", "initial_model", "refine",
]  # fmt: skip
