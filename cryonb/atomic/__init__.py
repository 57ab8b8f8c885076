"""Atomic models against a map: what is wrong, what would be right, and how sure that is.

`residues` holds a protein as arrays, `geometry` its ideal form, `fragments` main chains seen elsewhere, `minimise` the
local energy in a map.
"""

from .fragments import FragmentLibrary, Fragments, fragment_library
from .minimise import Field, Window, ramachandran_energy
from .residues import Chains, build_side_chain, chi_angles, main_chain_angles

__all__ = [
    "Chains", "Field", "FragmentLibrary", "Fragments", "Window", "build_side_chain", "chi_angles", 
    "fragment_library", "main_chain_angles", "ramachandran_energy",
]  # fmt: skip
