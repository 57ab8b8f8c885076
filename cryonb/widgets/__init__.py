"""Controls and a result, one file per stage: thin views of pure functions, for JupyterLab.

Importing this room before nglview makes nglview draw in JupyterLab 4 (see `cryonb.widgets.ngl`).
"""

from .atoms import EnsembleExplorer, ResidueExplorer
from .bandwidth import KernelBandwidth
from .class_selection import ClassSelection
from .ctf import ContrastTransfer
from .defocus import ThonRings
from .image_formation import ImageFormation
from .iterations import Iterations
from .manifold import LandscapeExplorer
from .movie import LandscapeMovie
from .ngl import density_scene, nglview, view
from .picking import PickingView
from .reconstruction import BackProjection
from .responsibilities import Responsibilities
from .smoothness import LandscapeSmoothness
from .volumes import DensityMovie

__all__ = [
    "BackProjection",
    "ClassSelection",
    "ContrastTransfer",
    "DensityMovie",
    "EnsembleExplorer",
    "ImageFormation",
    "Iterations",
    "KernelBandwidth",
    "LandscapeExplorer",
    "LandscapeMovie",
    "LandscapeSmoothness",
    "PickingView",
    "ResidueExplorer",
    "Responsibilities",
    "ThonRings",
    "density_scene",
    "nglview",
    "view",
]

nglview()
