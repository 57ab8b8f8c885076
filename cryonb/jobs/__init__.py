"""One stage on files, from the command line: STAR and MRC in; RELION-style ``run_data.star`` and maps out.

Every job is a module with ``add_arguments(parser)`` and ``execute(options)``, which returns the numbers of its summary.
"""

from . import classify2d, classify3d, ctf, extract, initial_model, motion, pick, refine, refine_model, resolution

__all__ = [
    "COMMANDS", "classify2d", "classify3d", "ctf", "extract", "initial_model", "motion", "pick", "refine",
    "refine_model", "resolution",
]  # fmt: skip

COMMANDS = {
    "motion": (motion, "micrographs from the frames of movies, drift taken out and weighted by dose"),
    "ctf": (ctf, "defocus and astigmatism of micrographs, with error bars"),
    "pick": (pick, "coordinates of particles on micrographs"),
    "extract": (extract, "cut particles out of micrographs"),
    "classify2d": (classify2d, "sort particles by what they show, and average them"),
    "initial-model": (initial_model, "a first volume, from the particles alone"),
    "refine": (refine, "gold-standard refinement of orientations and a volume"),
    "classify3d": (classify3d, "sort particles into 3D classes"),
    "refine-model": (refine_model, "mend and refine an atomic model in half maps"),
    "resolution": (resolution, "how much of two half maps, or of a map against a model, to believe"),
}
