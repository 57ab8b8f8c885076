"""Central slices: a volume to its images and back; and exact projections of atoms."""

from .atoms import atoms_to_volume, project_atoms
from .inversion import FREE_SHELLS, solve, weight_spectrum
from .scattering import atoms_to_density, density_gradients, low_pass, model_density, scattering_factors
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
    "FREE_SHELLS", "Accumulator", "FourierVolume", "HalfPlane", "atoms_to_density", "atoms_to_volume", "back_project",
    "density_gradients", "from_half_plane", "half_plane", "insert_slices", "low_pass", "model_density", "prepare",
    "project", "project_atoms", "sample_slices", "scattering_factors", "shift_phases", "solve", "to_half_plane",
    "weight_spectrum",
]  # fmt: skip
