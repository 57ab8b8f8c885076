"""Central slices: a volume to its images and back; and exact projections of atoms."""

from .atoms import atoms_to_volume, project_atoms
from .inversion import FREE_SHELLS, solve, weight_spectrum
from .slices import (
    Accumulator,
    FourierVolume,
    HalfPlane,
    back_project,
    from_half_plane,
    half_plane,
    insert_slices,
    prepare,
    project,
    sample_slices,
    shift_phases,
    to_half_plane,
)

__all__ = [
    "FREE_SHELLS", "Accumulator", "FourierVolume", "HalfPlane", "atoms_to_volume", "back_project", "from_half_plane",
    "half_plane", "insert_slices", "prepare", "project", "project_atoms", "sample_slices", "shift_phases", "solve",
    "to_half_plane", "weight_spectrum",
]  # fmt: skip
