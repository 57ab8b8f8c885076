"""Pickers that learn: from the micrograph itself, or from a few dozen clicks."""

import numpy as np
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.special import expit

from .blobs import SEPARATION, automatic_threshold, blob_response
from .centring import recentred
from .features import feature_maps, features_at
from .preparation import find_peaks, prepare, separated
from .records import Picks

__all__ = ["Candidates", "ClickPicker", "pick_without_model", "propose"]

CANDIDATE_SEPARATION = 0.5  # diameters
# Blob scores, in units of its threshold, that are surely particle and surely none: the reference windows.
SURE, SURELY_NOT = 1.3, 0.65
STRENGTH = 0.05  # inverse penalty of the logistic regression
# Rounds in which the classifier is trained anew on what it is sure of itself, and from what log odds on it is:
# chosen on five β-galactosidase micrographs.
SELF_ROUNDS, SELF_SURE, SELF_STRENGTH = 2, 0.7, 0.02
# How hard clicks must pull to change the log odds of the picker without a model, by a feature and for all places.
# Of (30, 3), (100, 3), (10, 3) and (30, 30) the last did best on five β-galactosidase micrographs.
WEIGHT_PENALTY, CONSTANT_PENALTY = 30.0, 30.0


class Candidates:
    """Places of one micrograph that could be particles.

    Parameters
    ----------
    prepared : Prepared
    places : ndarray (n, 2)
        Binned pixels.
    blob : ndarray (n,)
        Score of `pick_blobs`.
    blob_threshold : float
        From `automatic_threshold`.
    maps : ndarray (k, h, w)
    """

    def __init__(self, prepared, places, blob, blob_threshold, maps):
        self.prepared, self.places, self.blob, self.maps = prepared, places, blob, maps
        self.blob_threshold = blob_threshold
        self._own = None
        self.features = features_at(maps, places)

    def own_logit(self, features=None):
        """Log odds by what the micrograph says of itself: of the candidates, or of other ``features`` (m, k)."""
        if self._own is None:
            self._own = _own_model(self) or "blobs"
        if self._own == "blobs":
            score = self.blob if features is None else self._nearest_blob(features)
            return 2 * (score - self.blob_threshold)
        return self._own.decision_function(self.features if features is None else features)

    def _nearest_blob(self, features):
        return self.blob[cKDTree(self.features).query(features)[1]]

    def picks(self, score, threshold, *, recentre=True):
        """Candidates of at least a score, well apart and `recentred`: `Picks`."""
        prepared = self.prepared
        keep = np.flatnonzero(score >= threshold)
        keep = keep[separated(self.places[keep], score[keep], SEPARATION * prepared.diameter_px)]
        places, score = self.places[keep], score[keep]
        if recentre:
            places = recentred(prepared, places)
            keep = separated(places, score, SEPARATION * prepared.diameter_px)
            places, score = places[keep], score[keep]
        centres = prepared.to_micrograph(places)
        return Picks(centres, score, prepared.pixel_size, prepared.diameter, float(threshold))


def propose(micrograph, diameter):
    """All blobs of a micrograph with their features; not those too dark to be particles.

    Parameters
    ----------
    micrograph : Micrograph or Prepared
    diameter : float
        Å.

    Returns
    -------
    Candidates
    """
    prepared = micrograph if hasattr(micrograph, "usable") else prepare(micrograph, diameter)
    response = blob_response(prepared)
    # The threshold sees peaks as far apart as `pick_blobs` keeps them.
    dark, bright = (find_peaks(sign * response, prepared, SEPARATION * prepared.diameter_px)[1] for sign in (1, -1))
    threshold, limit = automatic_threshold(dark, bright)
    places, height = find_peaks(response, prepared, CANDIDATE_SEPARATION * prepared.diameter_px)
    places, height = places[height <= limit], height[height <= limit]
    if not len(places):
        raise ValueError("this micrograph has no place that is darker than its surroundings")
    return Candidates(prepared, places, height, threshold, feature_maps(prepared))


def pick_without_model(micrograph, diameter, *, threshold=0.0, recentre=True):
    """Learn from the clearest and the emptiest places of the micrograph itself, then score all the others.

    Parameters
    ----------
    micrograph : Micrograph, Prepared or Candidates
        Protein dark (micrograph).
    diameter : float
        Å.
    threshold : float
        Log odds from which a place is kept.
    recentre : bool
        Move each pick to where it correlates most with the rotational average of all (`centring.recentred`).

    Returns
    -------
    Picks
        Scores are log odds.

    Notes
    -----
    After APPLE (Heimowitz, Andén & Singer, J Struct Biol 204:215 (2018)): a classifier is trained on windows that are
    surely particles and surely none, here by their blob score, and decides on the rest; here it is a logistic
    regression on features that do not change in the plane (`features.feature_maps`), trained twice more on what it is
    sure of itself (self-training, Scudder, IEEE Trans Inf Theory 11:363 (1965)). No labels and no references come from
    outside. Where fewer than ten places are sure, the blob score alone decides.
    """
    candidates = micrograph if isinstance(micrograph, Candidates) else propose(micrograph, diameter)
    return candidates.picks(candidates.own_logit(), threshold, recentre=recentre)


def best_threshold(log_odds):
    """Log odds from which to keep places so that the expected F1 is highest, if the odds are right.

    Keeping the k most probable of n places gives 2 Σₖ p / (k + Σₙ p): more is kept where little is sure (Lipton, Elkan
    & Naryanaswamy, ECML PKDD 2014). Places that are less than half as probable to be a particle as to be none are
    never kept, for where there is nothing this rule would keep everything.

    Parameters
    ----------
    log_odds : ndarray (n,)

    Returns
    -------
    float

    Examples
    --------
    >>> float(best_threshold(np.array([4.0, 4, 4, -0.1, -4, -4])))
    -0.1
    """
    if not len(log_odds):
        return 0.0
    falling = np.sort(log_odds)[::-1]
    probability = expit(falling)
    expected = np.cumsum(probability) / (np.arange(1, len(falling) + 1) + probability.sum())
    return max(falling[expected.argmax()], -np.log(2))


class ClickPicker:
    """A picker that learns from clicks (active learning).

    Parameters
    ----------
    diameter : float
        Å.

    Attributes
    ----------
    n_clicks : int

    Notes
    -----
    A logistic regression whose offset is the log odds of `pick_without_model` of each micrograph; the clicks
    correct it, and until both kinds have been clicked it decides alone. `suggest` names the
    places about which the picker is least certain (uncertainty sampling, Lewis & Gale 1994).

    Examples
    --------
    >>> ClickPicker(150.0).n_clicks
    0
    """

    def __init__(self, diameter):
        self.diameter = float(diameter)
        self._rows, self._labels, self._offset, self._model = [], [], [], None

    @property
    def n_clicks(self):
        """Places clicked so far."""
        return len(self._labels)

    def propose(self, micrograph):
        """`Candidates` of a micrograph, to be made once and used in every other method.

        Parameters
        ----------
        micrograph : Micrograph or Candidates
        """
        return micrograph if isinstance(micrograph, Candidates) else propose(micrograph, self.diameter)

    def click(self, micrograph, centres, is_particle):
        """Learn from clicked places.

        Parameters
        ----------
        micrograph : Micrograph or Candidates
        centres : ndarray (n, 2)
            x, y in pixels of the micrograph; a click counts for the candidate within a quarter of a diameter, for the
            place itself where there is none.
        is_particle : bool or sequence of bool (n,)

        Raises
        ------
        ValueError
            A click outside the micrograph.
        """
        candidates = self.propose(micrograph)
        places = candidates.prepared.from_micrograph(np.asarray(centres, dtype=float).reshape(-1, 2))
        labels = np.broadcast_to(np.asarray(is_particle, dtype=bool), len(places))
        away, nearest = cKDTree(candidates.places).query(places)
        close = away < candidates.prepared.diameter_px / 4
        rows = features_at(candidates.maps, np.where(close[:, None], candidates.places[nearest], places))
        self._rows.extend(rows)
        self._offset.extend(candidates.own_logit(rows))
        self._labels.extend(labels.tolist())
        self._fit()

    def score(self, micrograph):
        """Log odds (n,) of every candidate of a micrograph.

        Parameters
        ----------
        micrograph : Micrograph or Candidates
        """
        return self._score(self.propose(micrograph))

    def pick(self, micrograph, *, threshold=None, recentre=True):
        """`Picks` of a micrograph; scores are log odds.

        Parameters
        ----------
        micrograph : Micrograph or Candidates
        threshold : float, optional
            Log odds; by default where F1 is expected to be highest on this micrograph (`best_threshold`).
        recentre : bool
            As in `pick_without_model`.
        """
        candidates = self.propose(micrograph)
        score = self._score(candidates)
        return candidates.picks(score, best_threshold(score) if threshold is None else threshold, recentre=recentre)

    def suggest(self, micrograph, n=10, *, exclude=()):
        """Centres (n, 2) in pixels of the places that would teach most, most uncertain first.

        Parameters
        ----------
        micrograph : Micrograph or Candidates
        n : int
        exclude : ndarray (m, 2)
            Centres already clicked on this micrograph.
        """
        candidates = self.propose(micrograph)
        order = np.argsort(np.abs(self._score(candidates)), kind="stable")
        centres = candidates.prepared.to_micrograph(candidates.places[order])
        if len(exclude):
            near = self.diameter / candidates.prepared.pixel_size / 4
            centres = centres[cKDTree(np.asarray(exclude, dtype=float)).query(centres)[0] > near]
        return centres[:n]

    def _score(self, candidates):
        own = candidates.own_logit()
        if self._model is None:
            return own
        return np.clip(own, -4, 4) + _bounded(candidates.features) @ self._model[:-1] + self._model[-1]

    def _fit(self):
        if len(set(self._labels)) < 2:
            return
        rows, labels = np.array(self._rows), np.array(self._labels)
        own = np.array(self._offset)
        self._model = _corrections(_bounded(rows), np.clip(own, -4, 4), labels)


def _bounded(features):
    return np.clip(features, -5, 5)


def _corrections(features, offset, labels):
    """Weights w and constant b of the log odds offset + w·features + b, both penalised: few clicks move little."""
    sign = np.where(labels, 1.0, -1.0)
    joined = np.column_stack([features, np.ones(len(features))])
    penalty = np.append(np.full(features.shape[1], WEIGHT_PENALTY), CONSTANT_PENALTY)

    def loss(weights):
        margin = sign * (offset + joined @ weights)
        slope = -sign * expit(-margin)
        value = np.logaddexp(0, -margin).sum() + 0.5 * (penalty * weights**2).sum()
        return value, joined.T @ slope + penalty * weights

    return minimize(loss, np.zeros(joined.shape[1]), jac=True, method="L-BFGS-B").x


def _own_model(candidates):
    score = candidates.blob / candidates.blob_threshold
    sure, none = score > SURE, score < SURELY_NOT
    if min(sure.sum(), none.sum()) < 10:
        return None
    chosen = sure | none
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(chosen, is_particle, strength):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        return model.fit(candidates.features[chosen], is_particle[chosen])

    model = fit(chosen, sure, STRENGTH)
    for _ in range(SELF_ROUNDS):
        score = model.decision_function(candidates.features)
        chosen = np.abs(score) > SELF_SURE
        if min((score[chosen] > 0).sum(), (score[chosen] < 0).sum()) < 10:
            break
        model = fit(chosen, score > 0, SELF_STRENGTH)
    return model
