"""Central slices: a volume to its images and back; and exact projections of atoms."""

from .atoms import atoms_to_volume, project_atoms
from .slices import (
    FREE_SHELLS,
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
    solve,
    to_half_plane,
    weight_spectrum,
)

__all__ = [
    "FREE_SHELLS", "Accumulator", "FourierVolume", "HalfPlane", "atoms_to_volume", "back_project", "from_half_plane",
    "half_plane", "insert_slices", "prepare", "project", "project_atoms", "sample_slices", "shift_phases", "solve",
    "to_half_plane", "weight_spectrum",
]  # fmt: skip
