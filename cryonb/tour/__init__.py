"""The whole story in one run: particles, orientations, classes, resolution, landscape, movies and a report.

On the shipped sample the truth is known and every number stands beside it; on a user's particles the report says
what cannot be checked.
"""

from .plan import Plan
from .story import tour

__all__ = ["Plan", "tour"]
