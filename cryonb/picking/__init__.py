"""Micrograph to coordinates, coordinates to particles.

`pick_blobs` (Laplacian of Gaussian), `pick_templates` (normalised cross-correlation), `pick_without_model` (learns from
the micrograph's own clearest and emptiest places) and `ClickPicker` (learns from a few dozen clicks) return `Picks`;
`score_picks` compares them with known centres, `extract` cuts the particles out, `recentre` moves picks to where the
poses found for those particles say that the centre is.
"""

from .blobs import pick_blobs
from .extraction import extract
from .learning import ClickPicker, pick_without_model
from .preparation import Prepared, prepare
from .recentring import centre_of_mass, recentre
from .records import Picks
from .scoring import Score, score_picks
from .templates import pick_templates, reference_images

__all__ = [
    "ClickPicker", "Picks", "Prepared", "Score", "centre_of_mass", "extract", "pick_blobs", "pick_templates",
    "pick_without_model", "prepare", "recentre", "reference_images", "score_picks",
]  # fmt: skip
