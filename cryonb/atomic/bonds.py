"""The chemistry of the twenty amino acids beyond the backbone: side-chain bonds, and which hydrogens ride where."""

__all__ = ["HYDROGENS", "SIDE_BONDS"]

_RING = ("CB CG", "CG CD1", "CG CD2", "CD1 CE1", "CD2 CE2", "CE1 CZ", "CE2 CZ")

SIDE_BONDS = {
    "ARG": ("CB CG", "CG CD", "CD NE", "NE CZ", "CZ NH1", "CZ NH2"),
    "ASN": ("CB CG", "CG OD1", "CG ND2"),
    "ASP": ("CB CG", "CG OD1", "CG OD2"),
    "CYS": ("CB SG",),
    "GLN": ("CB CG", "CG CD", "CD OE1", "CD NE2"),
    "GLU": ("CB CG", "CG CD", "CD OE1", "CD OE2"),
    "HIS": ("CB CG", "CG ND1", "CG CD2", "ND1 CE1", "CD2 NE2", "CE1 NE2"),
    "ILE": ("CB CG1", "CB CG2", "CG1 CD1"),
    "LEU": ("CB CG", "CG CD1", "CG CD2"),
    "LYS": ("CB CG", "CG CD", "CD CE", "CE NZ"),
    "MET": ("CB CG", "CG SD", "SD CE"),
    "MSE": ("CB CG", "CG SE", "SE CE"),
    "PHE": _RING,
    "PRO": ("CB CG", "CG CD", "CD N"),
    "SER": ("CB OG",),
    "THR": ("CB OG1", "CB CG2"),
    "TRP": (
        "CB CG", "CG CD1", "CG CD2", "CD1 NE1", "NE1 CE2", "CD2 CE2", "CD2 CE3", "CE2 CZ2", "CE3 CZ3", "CZ2 CH2",
        "CZ3 CH2",
    ),
    "TYR": (*_RING, "CZ OH"),
    "VAL": ("CB CG1", "CB CG2"),
}  # fmt: skip

# CH, CH2, CH3 tetrahedral; arom and NH in a plane between two bonds; NH2p planar; OH, SH, NH3 free to turn
HYDROGENS = {
    "ALA": {"CB": "CH3"},
    "ARG": {"CB": "CH2", "CG": "CH2", "CD": "CH2", "NE": "NH", "NH1": "NH2p", "NH2": "NH2p"},
    "ASN": {"CB": "CH2", "ND2": "NH2p"},
    "ASP": {"CB": "CH2"},
    "CYS": {"CB": "CH2", "SG": "SH"},
    "GLN": {"CB": "CH2", "CG": "CH2", "NE2": "NH2p"},
    "GLU": {"CB": "CH2", "CG": "CH2"},
    "HIS": {"CB": "CH2", "CD2": "arom", "CE1": "arom"},
    "ILE": {"CB": "CH", "CG1": "CH2", "CG2": "CH3", "CD1": "CH3"},
    "LEU": {"CB": "CH2", "CG": "CH", "CD1": "CH3", "CD2": "CH3"},
    "LYS": {"CB": "CH2", "CG": "CH2", "CD": "CH2", "CE": "CH2", "NZ": "NH3"},
    "MET": {"CB": "CH2", "CG": "CH2", "CE": "CH3"},
    "MSE": {"CB": "CH2", "CG": "CH2", "CE": "CH3"},
    "PHE": {"CB": "CH2", "CD1": "arom", "CD2": "arom", "CE1": "arom", "CE2": "arom", "CZ": "arom"},
    "PRO": {"CB": "CH2", "CG": "CH2", "CD": "CH2"},
    "SER": {"CB": "CH2", "OG": "OH"},
    "THR": {"CB": "CH", "CG2": "CH3", "OG1": "OH"},
    "TRP": {"CB": "CH2", "CD1": "arom", "NE1": "NH", "CE3": "arom", "CZ2": "arom", "CZ3": "arom", "CH2": "arom"},
    "TYR": {"CB": "CH2", "CD1": "arom", "CD2": "arom", "CE1": "arom", "CE2": "arom", "OH": "OH"},
    "VAL": {"CB": "CH", "CG1": "CH3", "CG2": "CH3"},
}
