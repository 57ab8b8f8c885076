"""Ideal geometry of amino acids: medians over 52 crystal structures of `data_samples/make_fragments.py`'s sources.

A row of the table is: atom, the three atoms a b c that place it, the χ angle that turns it (0: none), bond c–atom in Å,
angle b–c–atom and dihedral a–b–c–atom (added to χ) in degrees.
"""

__all__ = ["CHAIN_ATOMS", "CLOSURES", "MAIN_CHAIN", "PLANAR_CHI", "SIDE_CHAINS", "SYNONYMS"]

CHAIN_ATOMS = ("N", "CA", "C", "O")

SYNONYMS = {"MSE": "MET"}
"""Residues that are treated as one of the twenty; selenium takes the place of sulphur."""

MAIN_CHAIN = {
    ("N", "CA"): 1.459, ("CA", "C"): 1.525, ("C", "O"): 1.232, ("C", "+N"): 1.330,
    ("N", "CA", "C"): 111.1, ("CA", "C", "O"): 120.4, ("CA", "C", "+N"): 116.6, ("O", "C", "+N"): 122.9,
    ("C", "+N", "+CA"): 121.6,
}  # fmt: skip
"""Bonds in Å and angles in degrees; + marks the following residue."""

CLOSURES = {
    "PRO": [("CD", "N", 1.473)], "PHE": [("CE2", "CZ", 1.389)], "TYR": [("CE2", "CZ", 1.384)],
    "TRP": [("NE1", "CE2", 1.375), ("CZ3", "CH2", 1.400)], "HIS": [("CE1", "NE2", 1.320)],
}  # fmt: skip
"""Bonds that close rings, Å."""

PLANAR_CHI = {"PHE": 2, "TYR": 2, "TRP": 2, "HIS": 2, "ASP": 2, "ASN": 2, "GLU": 3, "GLN": 3}
"""The χ angle that turns a planar group."""

_TABLE = """
GLY
ALA
    CB N C CA 0 1.524 110.4 123.0
SER
    CB N C CA 0 1.531 110.0 122.7
    OG N CA CB 1 1.417 110.8 0.0
CYS
    CB N C CA 0 1.530 109.8 122.1
    SG N CA CB 1 1.814 114.0 0.0
THR
    CB N C CA 0 1.544 109.6 123.4
    OG1 N CA CB 1 1.433 109.4 0.0
    CG2 N CA CB 1 1.526 111.0 -120.6
VAL
    CB N C CA 0 1.548 110.0 123.2
    CG1 N CA CB 1 1.525 110.7 0.0
    CG2 N CA CB 1 1.525 110.5 122.8
ILE
    CB N C CA 0 1.549 110.2 123.4
    CG1 N CA CB 1 1.532 110.5 0.0
    CG2 N CA CB 1 1.529 110.7 -123.3
    CD1 CA CB CG1 2 1.518 114.0 0.0
LEU
    CB N C CA 0 1.532 110.0 122.4
    CG N CA CB 1 1.531 116.4 0.0
    CD1 CA CB CG 2 1.523 110.4 0.0
    CD2 CA CB CG 2 1.524 110.6 123.0
MET
    CB N C CA 0 1.532 110.1 122.7
    CG N CA CB 1 1.522 114.0 0.0
    SD CA CB CG 2 1.805 113.0 0.0
    CE CB CG SD 3 1.792 100.6 0.0
PRO
    CB N C CA 0 1.532 110.5 114.9
    CG N CA CB 1 1.495 104.4 0.0
    CD CA CB CG 2 1.504 105.1 0.0
PHE
    CB N C CA 0 1.533 110.1 122.5
    CG N CA CB 1 1.505 113.8 0.0
    CD1 CA CB CG 2 1.391 120.6 0.0
    CD2 CA CB CG 2 1.390 120.6 180.0
    CE1 CB CG CD1 0 1.393 120.8 180.0
    CE2 CB CG CD2 0 1.392 120.9 180.0
    CZ CG CD1 CE1 0 1.389 119.9 0.0
TYR
    CB N C CA 0 1.533 110.1 122.7
    CG N CA CB 1 1.512 114.0 0.0
    CD1 CA CB CG 2 1.394 120.9 0.0
    CD2 CA CB CG 2 1.393 120.9 180.0
    CE1 CB CG CD1 0 1.391 121.1 180.0
    CE2 CB CG CD2 0 1.389 121.2 180.0
    CZ CG CD1 CE1 0 1.384 119.6 0.0
    OH CD1 CE1 CZ 0 1.377 119.8 180.0
TRP
    CB N C CA 0 1.532 109.7 122.2
    CG N CA CB 1 1.500 113.7 0.0
    CD1 CA CB CG 2 1.368 127.0 0.0
    CD2 CA CB CG 2 1.433 126.7 180.0
    NE1 CB CG CD1 0 1.375 110.1 180.0
    CE2 CB CG CD2 0 1.412 107.2 180.0
    CE3 CB CG CD2 0 1.400 133.9 0.0
    CZ2 CG CD2 CE2 0 1.397 122.4 180.0
    CZ3 CG CD2 CE3 0 1.390 118.7 180.0
    CH2 CD2 CE2 CZ2 0 1.370 117.5 0.0
HIS
    CB N C CA 0 1.532 110.0 123.2
    CG N CA CB 1 1.497 113.8 0.0
    ND1 CA CB CG 2 1.379 122.7 0.0
    CD2 CA CB CG 2 1.354 131.2 180.0
    CE1 CB CG ND1 0 1.322 109.3 180.0
    NE2 CB CG CD2 0 1.374 107.2 180.0
ASP
    CB N C CA 0 1.532 110.4 122.9
    CG N CA CB 1 1.519 112.8 0.0
    OD1 CA CB CG 2 1.250 119.0 0.0
    OD2 CA CB CG 2 1.250 118.2 180.0
ASN
    CB N C CA 0 1.532 110.3 123.3
    CG N CA CB 1 1.517 112.7 0.0
    OD1 CA CB CG 2 1.232 120.9 0.0
    ND2 CA CB CG 2 1.329 116.5 180.0
GLU
    CB N C CA 0 1.531 110.1 122.8
    CG N CA CB 1 1.523 114.0 0.0
    CD CA CB CG 2 1.520 113.0 0.0
    OE1 CB CG CD 3 1.252 118.8 0.0
    OE2 CB CG CD 3 1.251 118.2 180.0
GLN
    CB N C CA 0 1.531 109.9 122.8
    CG N CA CB 1 1.523 114.1 0.0
    CD CA CB CG 2 1.519 112.6 0.0
    OE1 CB CG CD 3 1.233 120.9 0.0
    NE2 CB CG CD 3 1.329 116.5 180.0
LYS
    CB N C CA 0 1.531 110.1 122.7
    CG N CA CB 1 1.523 114.1 0.0
    CD CA CB CG 2 1.523 111.5 0.0
    CE CB CG CD 3 1.524 111.6 0.0
    NZ CG CD CE 4 1.493 111.9 0.0
ARG
    CB N C CA 0 1.531 110.1 123.0
    CG N CA CB 1 1.522 113.9 0.0
    CD CA CB CG 2 1.522 111.8 0.0
    NE CB CG CD 3 1.462 112.0 0.0
    CZ CG CD NE 4 1.331 124.6 0.0
    NH1 CD NE CZ 0 1.329 120.4 0.0
    NH2 CD NE CZ 0 1.327 119.8 180.0
"""


def _parse(text):
    table = {}
    for line in text.strip().splitlines():
        words = line.split()
        if len(words) == 1:
            rows = table.setdefault(words[0], [])
        else:
            atom, a, b, c, chi = words[:5]
            rows.append((atom, (a, b, c), int(chi), *map(float, words[5:])))
    return table


SIDE_CHAINS = _parse(_TABLE)
"""Residue name to rows (atom, (a, b, c), number of χ, bond, angle, dihedral)."""
