"""At what defocus was a micrograph taken? The rings of its power spectrum, and how well they are known."""

from .fitting import DefocusFit, at_defocus, fit_defocus
from .profile import EquiphaseAverage, equiphase_average
from .spectrum import Spectrum, defects, estimate_spectrum

__all__ = [
    "DefocusFit", "EquiphaseAverage", "Spectrum", "at_defocus", "defects", "equiphase_average", "estimate_spectrum",
    "fit_defocus",
]  # fmt: skip
