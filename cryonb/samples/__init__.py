"""Where data come from: the shipped ribosome, phantoms with known truth, and EMDB or EMPIAR.

A sample is a `MovingModel`: Gaussian pseudo-atoms in named parts that turn about known axes, from which any
state can be had as atoms, as a volume, or as images, at any box size.
"""

from .archives import fetch_emdb, fetch_empiar
from .moving_model import Motion, MovingModel
from .phantoms import blobs, rotor
from .shipped import Ribosome, registry, ribosome, sample_path

__all__ = [
    "Motion", "MovingModel", "Ribosome", "blobs", "fetch_emdb", "fetch_empiar", "registry", "ribosome", "rotor",
    "sample_path",
]  # fmt: skip
