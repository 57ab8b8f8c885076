"""Files to and from nouns: MRC, RELION STAR, cryoSPARC ``.cs``, PDB/mmCIF, and lazy stacks of images.

Readers look at what a file contains, not at how its name ends, and say in one sentence what is wrong with it.
Writers write beside the target and rename, so that a failed write leaves nothing behind.
"""

from importlib import import_module as _import_module

_WHERE = {
    "ImageStack": "stack",
    "column_numbers": "star",
    "describe": "description",
    "detect_format": "formats",
    "read_coordinates": "coordinates",
    "read_cryosparc": "cryosparc",
    "read_micrograph": "mrc",
    "read_micrograph_ctf": "micrographs",
    "read_model": "models",
    "read_movie": "movies",
    "read_mrc": "mrc",
    "read_particles": "relion",
    "read_stack": "stack",
    "read_star": "star",
    "read_volume": "mrc",
    "write_coordinates": "coordinates",
    "write_corrected_micrographs": "movies",
    "write_cryosparc": "cryosparc",
    "write_micrograph": "mrc",
    "write_micrograph_ctf": "micrographs",
    "write_model": "models",
    "write_motion": "movies",
    "write_mrc": "mrc",
    "write_particles": "relion_writing",
    "write_selection": "selection",
    "write_stack": "stack",
    "write_star": "star",
    "write_volume": "mrc",
}
__all__ = list(_WHERE)


def __getattr__(name):
    if name in _WHERE:
        return getattr(_import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
