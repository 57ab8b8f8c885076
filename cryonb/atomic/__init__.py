"""Atomic models against a map: what is wrong, what would be right, and how sure that is.

`residues` holds a protein as arrays, `geometry` its ideal form, `fragments` main chains seen elsewhere, `minimise` the
local energy in a map.
"""

from .fragments import FragmentLibrary, Fragments, fragment_library
from .minimise import Field, Window, map_weight, ramachandran_energy
from .moves import Move
from .rebuild import Protocol, Rebuilt, rebuild, training_map
from .refinement import Refinement, refine_model
from .residues import Chains, build_side_chain, chi_angles, main_chain_angles
from .select import ModelScore, choose, score_models, spread

__all__ = [
    "Chains", "Field", "FragmentLibrary", "Fragments", "ModelScore", "Move", "Protocol", "Rebuilt", "Refinement",
    "Window", "build_side_chain", "chi_angles", "choose", "fragment_library", "main_chain_angles", "map_weight",
    "ramachandran_energy", "rebuild", "refine_model", "score_models", "spread", "training_map",
]  # fmt: skip
