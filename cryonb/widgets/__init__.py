"""Controls and a result, one file per stage: thin views of pure functions, for JupyterLab.

Importing this room before nglview makes nglview draw in JupyterLab 4 (see `cryonb.widgets.ngl`).
"""

from .ngl import density_scene, nglview, view
from .volumes import DensityMovie

__all__ = ["DensityMovie", "density_scene", "nglview", "view"]

nglview()
