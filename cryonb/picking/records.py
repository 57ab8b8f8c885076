"""Coordinates of particles on one micrograph."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Picks"]


@dataclass(frozen=True, eq=False, repr=False)
class Picks:
    """Where particles were found, best first if a picker made them.

    Parameters
    ----------
    centres : ndarray (n, 2)
        Columns x, y in pixels of the micrograph; (0, 0) is the centre of the first pixel.
    score : ndarray (n,)
        In the picker's own units; larger is more certain.
    pixel_size : float
        Å, of the micrograph.
    diameter : float
        Å, of the particle.
    threshold : float
        Score from which places were kept.

    Raises
    ------
    ValueError
        Shapes that do not agree, or numbers that are not finite.

    Examples
    --------
    >>> Picks(np.array([[10.0, 20.0], [40, 5]]), np.array([3.0, 1.0]), 2.0, 100.0).above(2.0).centres_angstrom.tolist()
    [[20.0, 40.0]]
    """

    centres: np.ndarray
    score: np.ndarray
    pixel_size: float
    diameter: float
    threshold: float = -np.inf

    def __post_init__(self):
        centres = np.asarray(self.centres, dtype=np.float64)
        score = np.asarray(self.score, dtype=np.float64)
        if centres.size == 0:
            centres = centres.reshape(0, 2)
        if centres.ndim != 2 or centres.shape[1] != 2 or score.shape != (len(centres),):
            raise ValueError(f"centres are (n, 2) and scores (n,), got {centres.shape} and {score.shape}")
        if not np.isfinite(centres).all() or np.isnan(score).any():
            raise ValueError("centres and scores must be numbers")
        for name in ("pixel_size", "diameter"):
            value = float(getattr(self, name))
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive in Å, got {value:g}")
        object.__setattr__(self, "centres", centres)
        object.__setattr__(self, "score", score)

    def __len__(self):
        return len(self.centres)

    def __getitem__(self, index):
        index = np.atleast_1d(np.arange(len(self))[index])
        return replace(self, centres=self.centres[index], score=self.score[index])

    @property
    def centres_angstrom(self):
        """(n, 2), x and y in Å."""
        return self.centres * self.pixel_size

    @property
    def diameter_px(self):
        """Diameter in pixels."""
        return self.diameter / self.pixel_size

    def above(self, threshold):
        """Those of at least this score."""
        return replace(self[self.score >= threshold], threshold=float(threshold))

    def __repr__(self):
        return f"Picks({len(self)}, {self.diameter:g} Å, {self.pixel_size:g} Å/pixel)"
