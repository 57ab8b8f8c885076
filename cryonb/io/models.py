"""Atomic models: PDB and mmCIF through gemmi."""

import warnings
from pathlib import Path

from cryonb.io.formats import detect_format, existing_file, replacing
from cryonb.types import AtomicModel

__all__ = ["read_model", "write_model"]


def read_model(path):
    """Atomic model of a PDB or mmCIF file, compressed or not; which of them is told by content.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    AtomicModel

    Raises
    ------
    FileNotFoundError, ValueError
        Neither format, damaged, or without atoms.
    """
    import gemmi

    kind = detect_format(existing_file(path))
    if kind not in ("pdb", "mmcif", "star"):
        raise ValueError(f"{path}: expected a PDB or mmCIF file, but the content looks like {kind!r}")
    layout = gemmi.CoorFormat.Pdb if kind == "pdb" else gemmi.CoorFormat.Mmcif
    try:
        structure = _read(path, layout)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: damaged {kind} file ({error})") from error
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise ValueError(f"{path}: a {kind} file without atoms")
    structure.setup_entities()
    return AtomicModel(structure)


def _read(path, layout):
    import gemmi

    try:
        return gemmi.read_structure(str(path), format=layout)
    except (RuntimeError, ValueError) as error:
        if layout is not gemmi.CoorFormat.Pdb or "charge" not in str(error):
            raise
    # files from before 1996 number their lines in columns 73 to 80, where element and charge stand now
    structure = gemmi.read_pdb(str(path), max_line_length=72)
    warnings.warn(f"{path}: columns 73 to 80 hold no elements and charges (line numbers?); left out", stacklevel=4)
    return structure


def write_model(model, path):
    """Write an `AtomicModel` as PDB (``.pdb``, ``.ent``) or mmCIF (``.cif``, ``.mmcif``), whole or not at all.

    Parameters
    ----------
    model : AtomicModel
    path : path-like
        The ending chooses the format.

    Raises
    ------
    ValueError
        Another ending, or a model too large for PDB (its columns hold 99,999 atoms and chain names of one letter).
    """
    ending = Path(path).suffix.lower()
    structure = model.structure
    if ending in (".pdb", ".ent"):
        if len(model) > 99_999 or any(len(chain.name) > 1 for chain in structure[0]):
            raise ValueError(f"cannot write {path}: {len(model)} atoms or long chain names do not fit PDB; use .cif")
        text = structure.make_pdb_string()
    elif ending in (".cif", ".mmcif"):
        text = structure.make_mmcif_document().as_string()
    else:
        raise ValueError(f"cannot write {path}: expected the ending .pdb or .cif, got {ending!r}")
    with replacing(path) as beside:
        beside.write_text(text)
