"""Choose among rebuilt models: by the validation half map first, then by geometry, then by the full map."""

from dataclasses import dataclass

import numpy as np

from ..protein import with_atoms
from .maps import ifsc
from .residues import CA
from .scores import geometry

__all__ = ["ModelScore", "choose", "score_models", "spread"]

KEEP = 0.5  # of the models stay after the validation map
GEOMETRY = 3  # of those stay after MolProbity


@dataclass(frozen=True)
class ModelScore:
    """What one model scored.

    Parameters
    ----------
    seed : int
    ifsc_work, ifsc_free, ifsc_full : float
        Mean FSC from 10 Å to the resolution against the training half map, the validation half map and their mean.
    molprobity, clashscore, rotamer_outliers, ramachandran_favoured : float
        The last two in per cent.
    """

    seed: int
    ifsc_work: float
    ifsc_free: float
    ifsc_full: float
    molprobity: float
    clashscore: float
    rotamer_outliers: float
    ramachandran_favoured: float

    @property
    def gap(self):
        """iFSC(work) − iFSC(free): how much noise of the training map the model follows."""
        return self.ifsc_work - self.ifsc_free


def score_models(models, half_map_1, half_map_2, resolution, *, seeds=None, among=None):
    """Scores of models that were rebuilt in the first half map.

    Parameters
    ----------
    models : sequence of AtomicModel
    half_map_1, half_map_2 : Volume
        Training and validation map, as reconstructed.
    resolution : float
        Å.
    seeds : sequence of int, optional
        0, 1, … by default.
    among : ndarray (atoms,) of bool, optional
        Only these atoms are scored, with what they clash with; all by default.

    Returns
    -------
    list of ModelScore
    """
    full = half_map_1.with_data((half_map_1.data + half_map_2.data) / 2)
    scores = []
    for seed, model in zip(range(len(models)) if seeds is None else seeds, models):
        form = geometry(model, among=among)
        own = model if among is None else with_atoms(model, occupancies=np.where(among, model.occupancies, 0.0))
        curves = [ifsc(own, volume, resolution) for volume in (half_map_1, half_map_2, full)]
        scores.append(
            ModelScore(
                int(seed), *curves, form.molprobity, form.clashscore, form.rotamer_outliers, form.ramachandran_favoured
            )
        )
    return scores


def choose(scores):
    """Position of the model to believe: the better half by ``ifsc_free``, of those three by MolProbity, of those
    one by ``ifsc_full`` (Wang et al., eLife 5:e17219 (2016), with their counts for 5,000 models scaled down).

    Parameters
    ----------
    scores : sequence of ModelScore

    Returns
    -------
    int

    Examples
    --------
    >>> rows = [(0.80, 1.5, 0.9), (0.79, 1.0, 0.8), (0.50, 0.5, 0.95), (0.4, 0.5, 0.95)]
    >>> choose([ModelScore(i, 0, free, full, score, 0, 0, 0) for i, (free, score, full) in enumerate(rows)])
    0
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i].ifsc_free)
    order = order[: max(1, int(np.ceil(KEEP * len(scores))))]
    order = sorted(order, key=lambda i: scores[i].molprobity)[:GEOMETRY]
    return max(order, key=lambda i: scores[i].ifsc_full)


def spread(coordinates):
    """Root-mean-square deviation of each Cα over models from their mean, Å.

    Parameters
    ----------
    coordinates : sequence of ndarray (n, 14, 3)

    Returns
    -------
    ndarray (n,): 0 for a single model. A lower bound of the error: what all models have wrong does not show.
    """
    alpha = np.array([xyz[:, CA] for xyz in coordinates])
    return np.sqrt(((alpha - alpha.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0))
