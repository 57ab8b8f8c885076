"""Particles with known truth: who is in the tube, then how the microscope saw it.

`populate` draws the state of every particle from known landscapes; `particles` takes its picture. Both take a seed.
The same seed and the same number of particles give the same particles, whatever the chunks and the workers, in memory
or in a file. Another number of particles gives others: the first 100 of 200 are not the 100 of a population of 100.
"""

from .imaging import Imaging, VonMisesFisher, disturb_poses
from .landscapes import bind, circular, coupled_wells, double_well, from_energy
from .photographs import Truth, particles
from .population import Langevin, Population, Species, VolumeSet, langevin, populate, sample_landscape

__all__ = [
    "Imaging", "Langevin", "Population", "Species", "Truth", "VolumeSet", "VonMisesFisher", "bind", "circular",
    "coupled_wells", "disturb_poses", "double_well", "from_energy", "langevin", "particles", "populate",
    "sample_landscape",
]  # fmt: skip
