"""Known free-energy landscapes, in kT, over one or two conformational coordinates."""

import numpy as np

from ..types import EnergyLandscape
from .species import Species, coordinate_name

__all__ = ["bind", "circular", "closed_valley", "coupled_wells", "double_well", "from_energy"]

CEILING_KT = 6.0


def from_energy(energy, spans, *, bins=None):
    """A landscape from a function.

    Parameters
    ----------
    energy : callable
        Takes one array per coordinate, returns kT.
    spans : dict of str to (float, float)
        Range of each coordinate by its gauge: ``{"ratchet (°)": (-10, 10)}``. A model moves by the word before the
        bracket.
    bins : int, optional
        Per coordinate; 200 for one and 80 for two.

    Returns
    -------
    EnergyLandscape

    Examples
    --------
    >>> spring = from_energy(lambda x: x**2 / 2, {"ratchet (°)": (-4, 4)}, bins=8)
    >>> spring.energy_kt.round(3).tolist()[:4]
    [6.0, 3.0, 1.0, 0.0]
    """
    bins = {1: 200, 2: 80}[len(spans)] if bins is None else bins
    edges = [np.linspace(low, high, bins + 1) for low, high in spans.values()]
    centres = np.meshgrid(*((edge[1:] + edge[:-1]) / 2 for edge in edges), indexing="ij")
    return EnergyLandscape(np.asarray(energy(*centres), dtype=float), edges, gauge=tuple(spans), credibility=1.0)


def double_well(gauge="ratchet (°)", *, span=(-10.0, 10.0), wells=(-4.0, 4.0), barrier_kt=2.0, tilt_kt=0.0):
    """Two wells: F = B (u² − 1)² + T u / 2, u = −1 and 1 at the wells, rising softly to a plateau.

    Parameters
    ----------
    gauge : str
        Coordinate and unit.
    span, wells : (float, float)
        Range of the coordinate, and where the wells are.
    barrier_kt : float
        B, height of the barrier above the wells when T = 0.
    tilt_kt : float
        T, energy of the right well above the left one.

    Returns
    -------
    EnergyLandscape

    Notes
    -----
    The quartic's steep sides would leave most of the span empty; F → −ln(e^(−F) + e^(−6)) levels them off at 6 kT,
    which lowers a barrier of 2 kT by 0.02.

    Examples
    --------
    >>> well = double_well(barrier_kt=3.0, tilt_kt=1.0)
    >>> left, middle, right = np.interp([-4.0, 0.0, 4.0], well.centers[0], well.energy_kt)
    >>> float(round(right - left, 1)), float(round(middle - left, 1))
    (1.0, 3.5)
    """
    middle, half = (wells[0] + wells[1]) / 2, (wells[1] - wells[0]) / 2

    def energy(x):
        return _level_off(_quartic((x - middle) / half, barrier_kt, tilt_kt))

    return from_energy(energy, {gauge: span})


def coupled_wells(spans=None, *, wells=(-4.0, 4.0), barrier_kt=2.0, slope=1.5, spread=3.0, tilt_kt=0.0):
    """Two coordinates that go together: a double well in x, and y spread about slope · x.

    Parameters
    ----------
    spans : dict of str to (float, float), optional
        x and y by their gauges; ratchet ±10° and swivel ±15° by default.
    wells, barrier_kt, tilt_kt
        Of x, as in `double_well`.
    slope : float
        Degrees of y for each degree of x.
    spread : float
        Standard deviation of y about slope · x, degrees.

    Returns
    -------
    EnergyLandscape
    """
    spans = {"ratchet (°)": (-10.0, 10.0), "swivel (°)": (-15.0, 15.0)} if spans is None else spans
    middle, half = (wells[0] + wells[1]) / 2, (wells[1] - wells[0]) / 2

    def energy(x, y):
        across = (y - slope * x) ** 2 / (2 * spread**2)
        return _level_off(_quartic((x - middle) / half, barrier_kt, tilt_kt) + across)

    return from_energy(energy, spans)


def circular(gauge="angle (°)", *, wells=3, barrier_kt=2.0, tilt_kt=0.5):
    """A periodic coordinate with several wells: F = B (1 − cos wθ) / 2 + T (1 − cos θ) / 2, θ from 0 to 360°.

    Parameters
    ----------
    gauge : str
    wells : int
        w.
    barrier_kt, tilt_kt : float
        B and T; T makes the wells differ.

    Returns
    -------
    EnergyLandscape
    """

    def energy(angle):
        theta = np.radians(angle)
        return barrier_kt * (1 - np.cos(wells * theta)) / 2 + tilt_kt * (1 - np.cos(theta)) / 2

    return from_energy(energy, {gauge: (0.0, 360.0)})


def closed_valley(gauges=("coordinate 1", "coordinate 2"), *, bins=70, wells_kt=(0.0, 0.05, 0.15), pass_kt=0.6):
    """Two coordinates: three wells on a closed valley around cells that nobody observed, and one patch apart from it.

    Parameters
    ----------
    gauges : (str, str)
        Coordinates from 0 to 1.
    bins : int
        Per coordinate.
    wells_kt : (float, float, float)
        Energies of the wells.
    pass_kt : float
        Energy of the three passes between them.

    Returns
    -------
    EnergyLandscape
        NaN where more than 2 kT would lie above the lowest well: not observed.

    Notes
    -----
    A look-alike of the landscape of the yeast 80S ribosome (Dashti et al., PNAS 111:17492 (2014)): its size of 70 × 70
    cells, its cut at 2, and the places of three of its wells and the height of the passes between them, rounded, are
    read off the published figure; the valley's floor and width are made up.

    Examples
    --------
    >>> landscape = closed_valley()
    >>> landscape.energy_kt.shape, bool(np.isnan(landscape.energy_kt[37, 33]))
    ((70, 70), True)
    """
    corners, patch = np.array([[0.36, 0.24], [0.40, 0.74], [0.80, 0.42]]), (0.14, 0.80)
    width, cut_kt = 0.055, 2.0

    def energy(x, y):
        place = np.stack([x, y], axis=-1)
        lowest = 1.2 + 2 * ((place - patch) ** 2).sum(axis=-1) / width**2
        for k, start in enumerate(corners):
            way, low, high = corners[k - 2] - start, wells_kt[k], wells_kt[k - 2]
            along = np.clip((place - start) @ way / (way @ way), 0, 1)
            floor = low + (high - low) * along + (pass_kt - (low + high) / 2) * np.sin(np.pi * along) ** 2
            across = ((place - start - along[..., None] * way) ** 2).sum(axis=-1)
            lowest = np.minimum(lowest, floor + across / (2 * width**2))
        return np.where(lowest < cut_kt, lowest, np.nan)

    return from_energy(energy, dict.fromkeys(gauges, (0.0, 1.0)), bins=bins)


def bind(landscape, occupancy, *, part="factor"):
    """Split a landscape by whether a part is there: p(bound | x) as given, so that binding and motion go together.

    Parameters
    ----------
    landscape : EnergyLandscape
        Of all particles.
    occupancy : callable or float
        Probability that the part is there; takes the coordinates' bin centres, one array each.
    part : str
        What the model calls it.

    Returns
    -------
    tuple of Species: free and bound, for `populate`. Their mixture has the given landscape.

    Examples
    --------
    >>> free, bound = bind(double_well(), lambda ratchet: ratchet > 0)
    >>> round(bound.fraction, 3)
    0.5
    """
    centres = np.meshgrid(*landscape.centers, indexing="ij")
    if callable(occupancy):
        bound = np.broadcast_to(np.asarray(occupancy(*centres), dtype=float), landscape.energy_kt.shape)
    else:
        bound = np.full(landscape.energy_kt.shape, float(occupancy))
    if not ((bound >= 0) & (bound <= 1)).all():
        raise ValueError(f"an occupancy lies between 0 and 1, got {bound.min():g} to {bound.max():g}")
    species = []
    for name, share, there in (("free", 1 - bound, False), ("bound", bound, True)):
        fraction = float((landscape.probability * share).sum())
        if fraction == 0:
            raise ValueError(f"no particle would be {name}: make one species by hand with state={{{part!r}: {there}}}")
        energy = np.full(share.shape, np.nan)
        energy[share > 0] = landscape.energy_kt[share > 0] - np.log(share[share > 0])
        own = EnergyLandscape(energy, landscape.edges, gauge=landscape.gauge, credibility=1.0)
        species.append(Species(name, fraction, own, {part: there}))
    names = [coordinate_name(gauge) for gauge in landscape.gauge]
    if part in names:
        raise ValueError(f"{part!r} is a coordinate of the landscape, not a part that comes and goes")
    return tuple(species)


def _quartic(u, barrier_kt, tilt_kt):
    return barrier_kt * (u**2 - 1) ** 2 + tilt_kt * u / 2


def _level_off(energy):
    return -np.logaddexp(-energy, -CEILING_KT)
