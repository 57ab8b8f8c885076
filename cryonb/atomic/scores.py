"""One record of how good a model is: its geometry by MolProbity's measures, and its fit to a map."""

from dataclasses import asdict, dataclass

import numpy as np

from .. import protein
from .clashes import clashes
from .density import prepare_map
from .maps import emringer, ifsc, q_score, residue_correlation, residue_mean
from .torsions import CBETA_OUTLIER, cbeta_deviation, ramachandran, rotamers

__all__ = ["Geometry", "ModelScores", "geometry", "ifsc", "molprobity_score", "summary"]


@dataclass(frozen=True)
class Geometry:
    """MolProbity's measures of a model; per cent of the residues that can be scored.

    Parameters
    ----------
    ramachandran_favoured, ramachandran_outliers, rotamer_outliers : float
    clashscore : float
        Per thousand atoms, hydrogens counted.
    cbeta_outliers : int
        Residues whose Cβ is more than 0.25 Å off.
    molprobity : float
        Lower is better; about the resolution of a crystal structure of the same quality.
    """

    ramachandran_favoured: float
    ramachandran_outliers: float
    rotamer_outliers: float
    clashscore: float
    cbeta_outliers: int
    molprobity: float


@dataclass(frozen=True, eq=False)
class ModelScores:
    """Geometry, and the fit to a map.

    Parameters
    ----------
    geometry : Geometry
    residue_correlation, residue_q : ndarray (n,)
        Per amino acid.
    emringer : float
    ifsc : float
        Mean FSC from 10 Å to the resolution.
    """

    geometry: Geometry
    residue_correlation: np.ndarray
    residue_q: np.ndarray
    emringer: float
    ifsc: float

    @property
    def q(self):
        """Mean Q-score of the residues."""
        return float(np.nanmean(self.residue_q))

    @property
    def correlation(self):
        """Mean real-space correlation of the residues."""
        return float(np.nanmean(self.residue_correlation))

    def as_dict(self):
        """Every single number; dict of float."""
        return {
            **asdict(self.geometry), "correlation": self.correlation, "q": self.q, "emringer": self.emringer,
            "ifsc": self.ifsc,
        }  # fmt: skip

    def __repr__(self):
        g = self.geometry
        return (
            f"ModelScores(MolProbity {g.molprobity:.2f}, Ramachandran {g.ramachandran_favoured:.1f} %, "
            f"RSCC {self.correlation:.2f}, Q {self.q:.2f}, EMRinger {self.emringer:.2f}, iFSC {self.ifsc:.3f})"
        )


def molprobity_score(clashscore, rotamer_outliers, ramachandran_favoured):
    """One number for the geometry of a model.

    Parameters
    ----------
    clashscore : float
    rotamer_outliers, ramachandran_favoured : float
        Per cent.

    Returns
    -------
    float: 0.426 ln(1 + clash) + 0.33 ln(1 + max(0, rota − 1)) + 0.25 ln(1 + max(0, (100 − favoured) − 2)) + 0.5
    (Chen et al., Acta Cryst. D 66:12 (2010)).

    Examples
    --------
    >>> molprobity_score(0.0, 1.0, 98.0)
    0.5
    """
    rotamer, backbone = max(0.0, rotamer_outliers - 1), max(0.0, 100 - ramachandran_favoured - 2)
    return float(0.426 * np.log1p(clashscore) + 0.33 * np.log1p(rotamer) + 0.25 * np.log1p(backbone) + 0.5)


def geometry(model, *, coordinates=None, residues=None, among=None):
    """Geometry of a model, without a map.

    Parameters
    ----------
    model : AtomicModel
    coordinates : ndarray (atoms, 3), optional
        In place of the model's.
    residues : Residues, optional
    among : ndarray (atoms,) of bool, optional
        Only residues with such atoms are scored, and only clashes that touch them; all by default.

    Returns
    -------
    Geometry

    Raises
    ------
    ValueError
        No amino acids.
    """
    rows = protein.residues(model) if residues is None else residues
    if len(rows) == 0:
        raise ValueError(f"{model!r} has no amino acids to score")
    contacts = clashes(model, coordinates=coordinates, residues=rows, among=among)
    if among is not None:
        rows = rows.part(np.array([any(among[i] for i in atoms.values()) for atoms in rows.atoms], dtype=bool))
    given = {"coordinates": coordinates, "residues": rows}
    backbone, side = ramachandran(model, **given), rotamers(model, **given)
    off = cbeta_deviation(model, **given)
    score = molprobity_score(
        contacts.score, np.nan_to_num(side.percent_outliers), np.nan_to_num(backbone.percent_favoured, nan=100)
    )
    return Geometry(
        backbone.percent_favoured, backbone.percent_outliers, side.percent_outliers, contacts.score,
        int((np.nan_to_num(off) > CBETA_OUTLIER).sum()), score,
    )  # fmt: skip


def summary(model, volume, resolution, *, b_factor=None, coordinates=None):
    """All scores of a model against a map.

    Parameters
    ----------
    model : AtomicModel
    volume : Volume
        A map or half map.
    resolution : float
        Å.
    b_factor : float, optional
        Å², by which the map is sharpened before the local scores (negative sharpens); none by default, for a map
        that is sharp already.
    coordinates : ndarray (atoms, 3), optional

    Returns
    -------
    ModelScores

    Raises
    ------
    ValueError
        No amino acids, or a map that the model does not fit into.
    """
    rows = protein.residues(model)
    seen = prepare_map(volume, resolution, b_factor=0.0 if b_factor is None else b_factor)
    given = {"coordinates": coordinates}
    q = residue_mean(q_score(model, seen, **given), rows, model.elements)
    return ModelScores(
        geometry(model, residues=rows, **given),
        residue_correlation(model, seen, resolution, residues=rows, **given),
        q,
        emringer(model, seen, residues=rows, **given).score,
        ifsc(model, volume, resolution, **given),
    )
