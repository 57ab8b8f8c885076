"""The kinds of particles a population is made of."""

from dataclasses import dataclass, field

from ..types import EnergyLandscape

__all__ = ["Species", "coordinate_name"]


@dataclass(frozen=True, eq=False)
class Species:
    """A kind of particle: how many, over which landscape, and what is fixed about it.

    Parameters
    ----------
    name : str
        Its label.
    fraction : float
        Of the population, relative to the other species' fractions.
    landscape : EnergyLandscape, optional
        Where its particles are; the names before the brackets of its gauge move the model.
    state : dict
        Values that all its particles share: ``{"factor": False}``, ``{"ratchet": 4.0}``, ``{"volume": 1}``.
    junk : bool
        Not the molecule at all: blobs of no shape that recurs, as bright as the molecule.
    """

    name: str
    fraction: float = 1.0
    landscape: EnergyLandscape | None = None
    state: dict = field(default_factory=dict)
    junk: bool = False

    def __post_init__(self):
        if not self.fraction >= 0:
            raise ValueError(f"fraction of {self.name!r} must be 0 or more, got {self.fraction}")
        twice = set(self.coordinates) & set(self.state)
        if twice:
            raise ValueError(f"{sorted(twice)[0]!r} of {self.name!r} is both fixed and drawn from the landscape")

    @property
    def coordinates(self):
        """Names of the coordinates that vary."""
        return () if self.landscape is None else tuple(coordinate_name(gauge) for gauge in self.landscape.gauge)


def coordinate_name(gauge):
    """What a gauge measures: "ratchet (°)" measures "ratchet".

    Parameters
    ----------
    gauge : str

    Examples
    --------
    >>> coordinate_name("ratchet (°)")
    'ratchet'
    """
    return gauge.split("(")[0].strip()
