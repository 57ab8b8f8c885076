"""Backbone and side-chain torsions against what well-determined structures show: Ramachandran, rotamers, Cβ.

The Ramachandran tables are the six Top8000 distributions of MolProbity (Lovell et al., Proteins 50:437 (2003); Chen et
al., Acta Cryst. D 66:12 (2010)), evaluated on their own 2° grid with cctbx (`data_samples/make_ramachandran.py`). The
rotamers are the central values and shares of Hintze et al., Proteins 84:1177 (2016).
"""

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np

from .. import protein
from .residues import place_atom

__all__ = [
    "KINDS", "BackboneScores", "RotamerScores", "cbeta_deviation", "ramachandran", "ramachandran_table",
    "rotamer_library", "rotamers",
]  # fmt: skip

KINDS = ("general", "glycine", "cis-proline", "trans-proline", "pre-proline", "isoleucine or valine")
FAVOURED = 0.02
ALLOWED = (0.0005, 0.001, 0.002, 0.001, 0.001, 0.001)  # per kind; below is an outlier (Chen et al. 2010)
CIS = 30.0  # degrees of ω
ROTAMER_FAVOURED, ROTAMER_ALLOWED = 0.02, 0.003  # Hintze et al. 2016
# Deviations are widened, because real wells have longer tails than Gaussians: 1.2 makes the 0.3 % contour of valine
# as wide as the published one (chosen on that residue alone).
WIDEN = 1.2
DRAWS = 20_000  # from each rotamer mixture, to turn its density into a share
CBETA_OUTLIER = 0.25  # Å; Lovell et al. 2003


@dataclass(frozen=True, eq=False)
class BackboneScores:
    """Ramachandran analysis of n residues.

    Parameters
    ----------
    residues : Residues
    torsions : ndarray (n, 3)
        φ, ψ and the ω before, degrees, NaN where undefined.
    kind : ndarray (n,) int
        Index into `KINDS`.
    score : ndarray (n,)
        Share of good structures' residues that lie in less likely places; NaN where φ or ψ is missing.
    """

    residues: protein.Residues
    torsions: np.ndarray
    kind: np.ndarray
    score: np.ndarray

    @property
    def scored(self):
        """Residues with φ and ψ; ndarray (n,) bool."""
        return np.isfinite(self.score)

    @property
    def outlier(self):
        """ndarray (n,) bool."""
        return self.scored & (self.score < np.array(ALLOWED)[self.kind])

    @property
    def favoured(self):
        """ndarray (n,) bool."""
        return self.scored & (self.score >= FAVOURED)

    @property
    def percent_favoured(self):
        """Of the scored residues; NaN without any."""
        return _percent(self.favoured, self.scored)

    @property
    def percent_outliers(self):
        """Of the scored residues; NaN without any."""
        return _percent(self.outlier, self.scored)


@dataclass(frozen=True, eq=False)
class RotamerScores:
    """Side-chain torsions of n residues against the rotamer library.

    Parameters
    ----------
    residues : Residues
    chi : ndarray (n, 4)
        Degrees, NaN where there is none.
    score : ndarray (n,)
        Share of good side chains in less likely places; NaN for Gly, Ala, and incomplete side chains.
    """

    residues: protein.Residues
    chi: np.ndarray
    score: np.ndarray

    @property
    def scored(self):
        """ndarray (n,) bool."""
        return np.isfinite(self.score)

    @property
    def outlier(self):
        """ndarray (n,) bool."""
        return self.scored & (self.score < ROTAMER_ALLOWED)

    @property
    def percent_outliers(self):
        """Of the scored residues; NaN without any."""
        return _percent(self.outlier, self.scored)


def _percent(chosen, among):
    return float(100 * chosen.sum() / among.sum()) if among.any() else np.nan


@functools.cache
def ramachandran_table():
    """The six distributions: share of residues in less likely places.

    Returns
    -------
    ndarray (6, 180, 180): kinds as in `KINDS`, then φ and ψ at −179°, −177°, … 179°.
    """
    with resources.files(__package__).joinpath("ramachandran.npz").open("rb") as file:
        code = np.load(file)["code"]
    return np.where(code > 0, 10 ** (code / 10_000 - 6.0), 0.0)


def ramachandran_score(kind, phi, psi):
    """Value of the table, linear between its cells; arrays or numbers, degrees."""
    table = ramachandran_table()
    x, y = ((np.asarray(angle, float) + 179) / 2 for angle in (phi, psi))
    i, j = np.floor(np.nan_to_num(x)).astype(int), np.floor(np.nan_to_num(y)).astype(int)
    u, v = x - i, y - j
    corners = [[table[kind, (i + a) % 180, (j + b) % 180] for b in (0, 1)] for a in (0, 1)]
    near = corners[0][0] * (1 - v) + corners[0][1] * v
    return near * (1 - u) + (corners[1][0] * (1 - v) + corners[1][1] * v) * u


def ramachandran(model, *, coordinates=None, residues=None):
    """Ramachandran analysis.

    Parameters
    ----------
    model : AtomicModel
    coordinates : ndarray (atoms, 3), optional
        In place of the model's.
    residues : Residues, optional
        Of this model, where they are known already.

    Returns
    -------
    BackboneScores
    """
    rows = protein.residues(model) if residues is None else residues
    torsions = rows.phi_psi_omega(model.coordinates if coordinates is None else coordinates)
    names, kind = rows.names, np.zeros(len(rows), dtype=np.int64)
    before_proline = np.append(names[1:] == "PRO", False) & np.append(rows.linked[1:], False) if len(rows) else kind
    kind[(names == "ILE") | (names == "VAL")] = 5
    kind[before_proline] = 4
    cis = np.abs(np.nan_to_num(torsions[:, 2], nan=180)) < CIS
    kind[names == "PRO"] = np.where(cis, 2, 3)[names == "PRO"]
    kind[names == "GLY"] = 1
    return BackboneScores(rows, torsions, kind, ramachandran_score(kind, torsions[:, 0], torsions[:, 1]))


@functools.cache
def rotamer_library():
    """Rotamers per residue name.

    Returns
    -------
    dict of name to (share (r,), mean (r, k), deviation (r, k)): shares sum to 1; degrees; k torsions.
    """
    found = {}
    for line in resources.files(__package__).joinpath("rotamers.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        left, right = line.split("/")
        name, share, *mean = left.split()
        found.setdefault(name, []).append((float(share), list(map(float, mean)), list(map(float, right.split()))))
    library = {
        name: tuple(np.array([row[part] for row in rows], dtype=float) for part in range(3))
        for name, rows in found.items()
    }
    library["TYR"], library["MSE"] = library["PHE"], library["MET"]
    return {name: (share / share.sum(), mean, width) for name, (share, mean, width) in library.items()}


def rotamer_density(name, chi):
    """Density of the rotamer mixture of a residue at chi (n, k) in degrees, per degreeᵏ; planar ends repeat by 180°."""
    share, mean, width = rotamer_library()[name]
    width = width * WIDEN
    off = chi[:, None, :] - mean
    off = (off + 180) % 360 - 180
    if name in ("PHE", "TYR", "ASP", "GLU"):
        off[..., -1] = (off[..., -1] + 90) % 180 - 90
    if name == "ARG":
        pass
    exponent = -0.5 * ((off / width) ** 2).sum(-1) - np.log(width * np.sqrt(2 * np.pi)).sum(-1)
    return (share * np.exp(exponent)).sum(1)


@functools.cache
def _levels(name):
    """Sorted densities of draws from the mixture: the share below is a search in them."""
    share, mean, width = rotamer_library()[name]
    rng = np.random.default_rng(0)
    which = rng.choice(len(share), DRAWS, p=share)
    return np.sort(rotamer_density(name, mean[which] + WIDEN * width[which] * rng.normal(size=mean[which].shape)))


def rotamers(model, *, coordinates=None, residues=None):
    """Side-chain torsions against the rotamer library.

    Parameters
    ----------
    model, coordinates, residues
        As in `ramachandran`.

    Returns
    -------
    RotamerScores

    Notes
    -----
    The library's Gaussians stand for the four-dimensional tables of MolProbity, which are not in the package.
    """
    rows = protein.residues(model) if residues is None else residues
    chi = rows.chi(model.coordinates if coordinates is None else coordinates)
    score = np.full(len(rows), np.nan)
    for name in set(rows.names) & set(rotamer_library()):
        count = rotamer_library()[name][1].shape[1]
        chosen = np.flatnonzero((rows.names == name) & np.isfinite(chi[:, :count]).all(axis=1))
        if len(chosen):
            levels = _levels(name)
            score[chosen] = np.searchsorted(levels, rotamer_density(name, chi[chosen, :count])) / len(levels)
    return RotamerScores(rows, chi, score)


# bond CA–CB, angle C–CA–CB, torsion N–C–CA–CB, angle N–CA–CB, torsion C–N–CA–CB (Lovell et al. 2003)
_CBETA = {
    "ALA": (1.536, 110.1, 122.9, 110.6, -122.6),
    "PRO": (1.530, 112.2, 115.1, 103.0, -120.7),
    "VAL": (1.540, 109.1, 123.4, 111.5, -122.0),
    "THR": (1.540, 109.1, 123.4, 111.5, -122.0),
    "ILE": (1.540, 109.1, 123.4, 111.5, -122.0),
}
_CBETA_OTHER = (1.530, 110.1, 122.8, 110.5, -122.6)


def cbeta_deviation(model, *, coordinates=None, residues=None):
    """Distance of Cβ from where N, CA and C put it.

    Parameters
    ----------
    model, coordinates, residues
        As in `ramachandran`.

    Returns
    -------
    ndarray (n,) in Å, NaN for glycine and where an atom is missing; above 0.25 Å the backbone or the side chain is
    wrong (Lovell et al. 2003).
    """
    rows = protein.residues(model) if residues is None else residues
    xyz = model.coordinates if coordinates is None else coordinates
    n, ca, c, cb = (rows.positions(name, xyz) for name in ("N", "CA", "C", "CB"))
    ideal = np.array([_CBETA.get(name, _CBETA_OTHER) for name in rows.names]).reshape(-1, 5).T
    from_n = place_atom(n, c, ca, ideal[0], ideal[1], ideal[2])
    from_c = place_atom(c, n, ca, ideal[0], ideal[3], ideal[4])
    middle = (from_n + from_c) / 2 - ca
    middle = ca + middle * (ideal[0][:, None] / np.linalg.norm(middle, axis=1, keepdims=True))
    return np.linalg.norm(cb - middle, axis=1)
