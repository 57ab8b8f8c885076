"""The samples in ``data_samples``, checked against their registry; the ribosome among them."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .moving_model import Motion, MovingModel

__all__ = ["Ribosome", "registry", "ribosome", "sample_path"]

FOLDER = Path(__file__).resolve().parents[2] / "data_samples"


@dataclass(frozen=True, eq=False, repr=False)
class Ribosome(MovingModel):
    """The 80S ribosome of PDB 6ZU5, coarse-grained (`ribosome`): `MovingModel` with ratchet, swivel and factor.

    Parameters are those of `MovingModel`. Positive ``ratchet`` turns the 40S counter-clockwise as seen from its
    solvent side; positive ``swivel`` turns the head's interface side towards the E site.

    Attributes
    ----------
    landmarks : dict of str to ndarray (3,)
        Å: bridge B3, decoding site, sarcin–ricin loop.
    """

    landmarks: dict = None


@functools.cache
def ribosome():
    """The shipped 80S ribosome: two pseudo-atoms per residue, six parts, two motions.

    Returns
    -------
    Ribosome
        x from the 40S to the 60S, y from body to head; the centre of mass of 60S and 40S is the box's centre.

    Notes
    -----
    PDB 6ZU5, Ehrenbolger et al., PLoS Biol 18:e3000958 (2020); ``data_samples/README.md`` says how parts and axes
    were made.

    Examples
    --------
    >>> sample = ribosome()
    >>> sample.coordinate_names, sample.part_names[:3]
    (('swivel', 'ratchet'), ('60S', '40S body', '40S head'))
    >>> coordinates, weights = sample.state(ratchet=8.0, factor=False)
    >>> coordinates.shape == (len(sample), 3)
    True
    """
    with np.load(sample_path("ribosome_6zu5.npz")) as stored:
        data = dict(stored)
    arrays = {
        "coordinates": data["coordinates"] * float(data["coordinate_unit"]),
        "weights": data["weights"].astype(np.float64),
        "sigma": data["sigma"] * float(data["sigma_unit"]),
        "part": data["part"].astype(np.int64),
    }
    for array in arrays.values():
        array.flags.writeable = False
    motions = (
        Motion("swivel", data["swivel_axis"], data["swivel_point"], ("40S head",)),
        Motion("ratchet", data["ratchet_axis"], data["ratchet_point"], ("40S body", "40S head")),
    )
    landmarks = {name: data[name] for name in ("bridge_b3", "decoding_site", "sarcin_ricin_loop")}
    names = tuple(str(name) for name in data["part_names"])
    return Ribosome(**arrays, part_names=names, motions=motions, optional=("factor",), landmarks=landmarks)


def registry():
    """What is in ``data_samples``: file name to a dict of what, source, licence, shape, pixel_size, sha256.

    Examples
    --------
    >>> registry()["ribosome_6zu5.npz"]["licence"]
    'CC0-1.0'
    """
    file = FOLDER / "registry.json"
    if not file.exists():
        raise FileNotFoundError(
            f"expected the shipped samples in {FOLDER}, beside the package, and found none there: "
            "clone the repository and install it in place with `pip install -e .`"
        )
    return json.loads(file.read_text(encoding="utf-8"))


def sample_path(name):
    """Path of a shipped sample whose bytes are those of the registry.

    Parameters
    ----------
    name : str
        A key of `registry`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    KeyError, FileNotFoundError, ValueError
        Not in the registry, not on disk, or not the registered bytes.
    """
    entries = registry()
    if name not in entries:
        raise KeyError(f"no shipped sample is called {name!r}; there are {', '.join(sorted(entries))}")
    path = FOLDER / name
    if not path.exists():
        raise FileNotFoundError(f"the registry lists {name}, but it is not in {FOLDER}: check it out again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != entries[name]["sha256"]:
        raise ValueError(
            f"{path} has sha256 {found[:12]}…, the registry says {entries[name]['sha256'][:12]}…: check it out again"
        )
    return path
