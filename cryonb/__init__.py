"""cryonb: from noisy cryo-EM projections to how a molecular machine moves, in notebooks.

``import cryonb`` gives the nouns (``Volume``, ``Particles``, …) and the rooms
(``cryonb.resolution``, ``cryonb.bayes``, …); each room is imported when first touched.
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

_NOUNS = ("AtomicModel", "CTF", "Embedding", "EnergyLandscape", "Micrograph", "Particles", "Poses", "Volume")
_ROOMS = (
    "fourier", "rotations",
    "types",
    "io", "ctf", "projection", "filters", "alignment", "parallel", "protein",
    "samples", "simulate", "motion", "defocus", "picking", "bayes", "reconstruction", "resolution", "manifold",
    "atomic",
    "plot", "widgets", "tour",
)  # fmt: skip
__all__ = [*_NOUNS, *_ROOMS]


def __getattr__(name):
    if name in _NOUNS:
        return getattr(_import_module("cryonb.types"), name)
    if name in _ROOMS:
        return _import_module(f"cryonb.{name}")
    raise AttributeError(f"module 'cryonb' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
