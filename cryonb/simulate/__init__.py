"""Particles with known truth: who is in the tube, then how the microscope saw it.

`populate` draws the state of every particle from known landscapes; `particles` takes its picture. Both take a seed,
and give the same particles whatever the chunks and the workers; another number of particles gives others. `form_image`
makes a single picture step by step. `micrograph` and `movie` record whole fields of view. `half_maps` and
`plant_errors` are for atomic models: noisy maps of a known resolution, and the mistakes that a builder makes in them.
"""

from .half_maps import HalfMaps, box_around, half_maps
from .imaging import Imaging, VonMisesFisher, disturb_poses
from .landscapes import bind, circular, closed_valley, coupled_wells, double_well, from_energy
from .micrographs import MicrographTruth, micrograph, movie
from .photographs import Truth, particles
from .planted import PlantedErrors, plant_errors, residue_deviation, shake
from .population import Langevin, Population, Species, VolumeSet, langevin, populate, sample_landscape
from .single import FormedImage, form_image
from .specimens import Exposure, Field, Specimen

__all__ = [
    "Exposure", "Field", "FormedImage", "HalfMaps", "Imaging", "Langevin", "MicrographTruth", "PlantedErrors",
    "Population", "Species", "Specimen", "Truth", "VolumeSet", "VonMisesFisher", "bind", "box_around", "circular",
    "closed_valley", "coupled_wells", "disturb_poses", "double_well", "form_image", "from_energy", "half_maps",
    "langevin", "micrograph", "movie", "particles", "plant_errors", "populate", "residue_deviation",
    "sample_landscape", "shake",
]  # fmt: skip
