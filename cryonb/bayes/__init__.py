"""Maximum-a-posteriori refinement and classification (Scheres 2012) on polar Fourier grids.

One expectation and one maximisation, adjoint to each other (`expectation`, `maximisation`), and the questions that
they answer: `initial_model`, `refine`, `classify_3d` and `choose_classes`; `classify_2d` asks images instead of volumes
(`averages`). Beside them, for comparison, the old method (`baseline`).
"""

from . import baseline
from .choice import ClassChoice, choose_classes
from .classify import classify_3d
from .classify_images import classify_2d
from .expectation import Model, Posterior, Statistics, expectation
from .folder import read_iterations
from .initial_model import InitialModel, initial_model
from .polar import PolarGrid
from .records import Classification, Classification2D, Iteration, Refinement, TopPoses
from .refine import refine
from .search import Sampling

__all__ = [
    "ClassChoice", "Classification", "Classification2D", "InitialModel", "Iteration", "Model", "PolarGrid", "Posterior",
    "Refinement", "Sampling", "Statistics", "TopPoses", "baseline", "choose_classes", "classify_2d", "classify_3d",
    "expectation", "initial_model", "read_iterations", "refine",
]  # fmt: skip
