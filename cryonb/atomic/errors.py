"""Which residues of a model are wrong: evidence from the map and from the geometry, weighed into a probability.

The evidence follows Wang et al., eLife 5:e17219 (2016): density, density relative to the surroundings, bonded strain,
Ramachandran; and adds what a builder looks at: does the peptide's oxygen sit in the stronger of its two places, does
the side chain's density peak where its γ atom is, do the sizes of the side chains match the sequence here better than
one residue along. The weights are learnt from planted errors (`benchmarks/atomic_errors.py`).
"""

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from scipy.spatial import cKDTree

from .. import protein
from .bonds import SIDE_BONDS
from .density import SHARPEN, prepare_map, sample
from .maps import residue_correlation
from .torsions import cbeta_deviation, ramachandran, rotamers

__all__ = ["FEATURES", "Evidence", "Suspicion", "evidence", "probability_wrong"]

SURROUNDINGS = 10.0  # Å: what a residue's density is compared with (Wang et al. 2016)
WINDOW = 4  # residues to each side for evidence that a stretch is out of register
# bond lengths (Å) and angles (degrees) of the peptide with their deviations: Engh & Huber, Acta Cryst. A 47:392 (1991)
_BONDS = {("N", "CA"): (1.459, 0.020), ("CA", "C"): (1.525, 0.026), ("C", "O"): (1.229, 0.019)}
_ANGLES = {("N", "CA", "C"): (111.0, 2.7), ("CA", "C", "O"): (120.1, 2.1)}
_LINKS = {("CA", "C", "+N"): (117.2, 2.2), ("C", "+N", "+CA"): (121.7, 2.5), ("O", "C", "+N"): (122.7, 1.6)}
_PEPTIDE = (1.336, 0.023)
STRAIN_CAP = 10.0  # deviations, so that one broken bond does not drown the rest

_LOCAL = (
    "correlation", "backbone correlation", "side correlation", "backbone density", "oxygen density", "beta density",
    "side density", "side density least", "peptide here", "peptide before", "gamma", "strain", "ramachandran",
    "rotamer", "beta deviation", "omega", "bend",
)  # fmt: skip
_AROUND = ("correlation", "backbone density", "side density")
_WINDOWED = ("correlation", "side correlation", "side density", "strain", "ramachandran", "gamma")
FEATURES = (
    *_LOCAL, *(f"{name} against surroundings" for name in _AROUND), *(f"{name} of the stretch" for name in _WINDOWED),
    "register here", "register ahead", "register back", "side atoms", "glycine", "proline", "resolution", "end",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for and against each residue.

    Parameters
    ----------
    residues : Residues
        n of them.
    values : ndarray (n, f)
        Columns as in `FEATURES`; finite (what is missing takes the column's middle).
    """

    residues: protein.Residues
    values: np.ndarray

    def __getitem__(self, name):
        """One column by name; ndarray (n,)."""
        return self.values[:, FEATURES.index(name)]


@dataclass(frozen=True, eq=False)
class Suspicion:
    """Probability that each residue is wrong.

    Parameters
    ----------
    residues : Residues
        n of them.
    backbone : ndarray (n,)
        Probability that N, CA, C and O are more than 1 Å rms from where they should be.
    residue : ndarray (n,)
        The same of all its heavy atoms: wrong backbones, and side chains in a wrong rotamer.
    evidence : Evidence
    """

    residues: protein.Residues
    backbone: np.ndarray
    residue: np.ndarray
    evidence: Evidence

    def __repr__(self):
        return f"Suspicion({len(self.residues)} residues, {(self.backbone > 0.5).sum()} with a wrong backbone)"


def evidence(model, volume, resolution, *, coordinates=None, b_factor=SHARPEN):
    """Collect the evidence for every residue.

    Parameters
    ----------
    model : AtomicModel
    volume : Volume
        A half map or map as reconstructed.
    resolution : float
        Å.
    coordinates : ndarray (atoms, 3), optional
        In place of the model's.
    b_factor : float
        Å², by which the map is sharpened first; 0 for one that is sharp already.

    Returns
    -------
    Evidence

    Raises
    ------
    ValueError
        No amino acids.
    """
    rows = protein.residues(model)
    if len(rows) == 0:
        raise ValueError(f"{model!r} has no amino acids to judge")
    xyz, elements = model.coordinates if coordinates is None else coordinates, model.elements
    seen = prepare_map(volume, resolution, b_factor=b_factor)
    backbone = [rows.positions(name, xyz) for name in ("N", "CA", "C", "O")]
    cb = rows.positions("CB", xyz)
    scale = _typical(sample(seen, backbone[1][np.isfinite(backbone[1]).all(1)]))
    at_atoms = sample(seen, np.nan_to_num(xyz)) / scale
    side = [rows.heavy(row, elements, side_chain=True) for row in range(len(rows))]
    columns = {
        "correlation": residue_correlation(model, seen, resolution, coordinates=xyz, residues=rows),
        "backbone correlation": residue_correlation(
            model, seen, resolution, coordinates=xyz, residues=rows, part="backbone"
        ),
        "side correlation": residue_correlation(model, seen, resolution, coordinates=xyz, residues=rows, part="side"),
        "backbone density": np.nanmean([_read(seen, part) for part in backbone], axis=0) / scale,
        "oxygen density": _read(seen, backbone[3]) / scale,
        "beta density": _read(seen, cb) / scale,
        "side density": np.array([at_atoms[i].mean() if len(i) else np.nan for i in side]),
        "side density least": np.array([at_atoms[i].min() if len(i) else np.nan for i in side]),
        "gamma": _gamma(rows, xyz, seen) / scale,
        "strain": _strain(rows, xyz),
        "beta deviation": np.minimum(cbeta_deviation(model, coordinates=xyz, residues=rows), 2.0),
    }
    here = _peptide(rows, backbone, seen) / scale
    columns["peptide here"] = here
    columns["peptide before"] = np.where(rows.linked, np.roll(here, 1), np.nan)
    torsions = ramachandran(model, coordinates=xyz, residues=rows)
    columns["ramachandran"] = -np.log(torsions.score + 1e-4)
    columns["rotamer"] = -np.log(rotamers(model, coordinates=xyz, residues=rows).score + 1e-3)
    omega = np.abs(torsions.torsions[:, 2])
    columns["omega"] = np.minimum(omega, 180 - omega)
    columns["bend"] = _bend(rows, backbone[1])
    for name in _AROUND:
        columns[f"{name} against surroundings"] = columns[name] - _surroundings(columns[name], backbone[1])
    for name in _WINDOWED:
        columns[f"{name} of the stretch"] = _stretch(columns[name], rows.linked)
    registers = _register(rows, backbone, cb, seen, resolution)
    columns["register here"], columns["register ahead"], columns["register back"] = registers
    columns["side atoms"] = np.array([len(SIDE_BONDS.get(name, ())) for name in rows.names], dtype=float)
    columns["glycine"], columns["proline"] = (rows.names == "GLY").astype(float), (rows.names == "PRO").astype(float)
    columns["resolution"] = np.full(len(rows), float(resolution))
    columns["end"] = (~rows.linked | ~np.append(rows.linked[1:], False)).astype(float)
    values = np.stack([np.asarray(columns[name], dtype=float) for name in FEATURES], axis=1)
    for column in values.T:
        known = np.isfinite(column)
        column[~known] = np.median(column[known]) if known.any() else 0.0
    return Evidence(rows, values)


def probability_wrong(model, volume, resolution, *, coordinates=None, b_factor=SHARPEN):
    """Probability that each residue is wrong.

    Parameters
    ----------
    model, volume, resolution, coordinates, b_factor
        As in `evidence`.

    Returns
    -------
    Suspicion

    Notes
    -----
    Learnt on models that were relaxed into the map first, at 3.0 to 4.5 Å, with about one residue in five wrong: of a
    model with fewer errors the probabilities are too high, their order stays.
    """
    found = evidence(model, volume, resolution, coordinates=coordinates, b_factor=b_factor)
    backbone, residue = _forward(found.values, weights())
    return Suspicion(found.residues, backbone, residue, found)


@functools.cache
def weights():
    """The learnt weights: dict of ndarray, as `benchmarks/atomic_errors.py` wrote them."""
    with resources.files(__package__).joinpath("errors.npz").open("rb") as file:
        kept = np.load(file)
        return {name: kept[name] for name in kept.files}


def _forward(values, learnt):
    """Two layers of rectified units and a logistic output, averaged over the networks; returns (2, n)."""
    if tuple(learnt["features"]) != FEATURES:
        raise ValueError("errors.npz was learnt on other features; run benchmarks/atomic_errors.py")
    x = np.clip((values - learnt["middle"]) / learnt["width"], -6, 6)
    answers = []
    for head in ("backbone", "residue"):
        nets = [name[:-1] for name in learnt if name.startswith(f"{head}_") and name.endswith("0")]
        logit = np.zeros(len(x))
        for net in nets:
            hidden = np.maximum(x @ learnt[f"{net}0"] + learnt[f"{net}1"], 0)
            hidden = np.maximum(hidden @ learnt[f"{net}2"] + learnt[f"{net}3"], 0)
            logit += (hidden @ learnt[f"{net}4"] + learnt[f"{net}5"])[:, 0] / len(nets)
        answers.append(1 / (1 + np.exp(-logit)))
    return answers


def _typical(values):
    """Scale of the density on the chain: the upper quartile over CA, at least a tenth of a deviation of the map."""
    return max(float(np.quantile(values, 0.75)) if len(values) else 1.0, 0.1)


def _read(volume, points):
    known = np.isfinite(points).all(axis=1)
    return np.where(known, sample(volume, np.where(known[:, None], points, 0.0)), np.nan)


def _ahead(rows, values):
    """Values of the next residue where it is bonded, else NaN."""
    joined = np.append(rows.linked[1:], False)
    moved = np.roll(values, -1, axis=0)
    return np.where(joined[:, None] if values.ndim > 1 else joined, moved, np.nan)


def _peptide(rows, backbone, volume):
    """Density at the carbonyl oxygen less that at its place after a flip of the peptide plane."""
    _, ca, _, o = backbone
    ahead = _ahead(rows, ca)
    axis = ahead - ca
    axis = axis / np.linalg.norm(axis, axis=1, keepdims=True)
    arm = o - ca
    flipped = ca + 2 * (arm * axis).sum(1, keepdims=True) * axis - arm
    return _read(volume, o) - _read(volume, flipped)


def _gamma(rows, xyz, volume):
    """Density at the γ atom less the best on its circle about CA–CB; 0 is best."""
    result = np.full(len(rows), np.nan)
    turns = np.arange(0, 360, 20.0)
    for row, name in enumerate(rows.names):
        quartet = protein.CHI_ATOMS.get(name)
        if not quartet or name == "PRO":
            continue
        ca, cb, gamma = (rows.atoms[row].get(atom, -1) for atom in quartet[0].split()[1:])
        if min(ca, cb, gamma) < 0:
            continue
        ring = sample(volume, protein.rotate_about(np.tile(xyz[gamma], (len(turns), 1)), xyz[ca], xyz[cb], turns))
        result[row] = ring[0] - ring.max()
    return result


def _strain(rows, xyz):
    """Root mean square deviation of the residue's peptide bonds and angles, in deviations of good structures."""
    names = {atom for key in (*_BONDS, *_ANGLES) for atom in key}
    at = {name: rows.positions(name, xyz) for name in names | {"N", "CA"}}
    at |= {f"+{name}": _ahead(rows, at[name]) for name in ("N", "CA")}
    terms = [(np.linalg.norm(at[a] - at[b], axis=1) - mean) / dev for (a, b), (mean, dev) in _BONDS.items()]
    terms.append((np.linalg.norm(at["C"] - at["+N"], axis=1) - _PEPTIDE[0]) / _PEPTIDE[1])
    for (a, b, c), (mean, dev) in (_ANGLES | _LINKS).items():
        one, two = at[a] - at[b], at[c] - at[b]
        cosine = (one * two).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1))
        terms.append((np.degrees(np.arccos(np.clip(cosine, -1, 1))) - mean) / dev)
    squares = np.minimum(np.abs(terms), STRAIN_CAP) ** 2
    count = np.isfinite(squares).sum(axis=0)
    return np.sqrt(np.where(count > 0, np.nansum(squares, axis=0) / np.maximum(count, 1), np.nan))


def _bend(rows, ca):
    """Distance from a CA to the one two before it and two after it, the shorter: below 5 Å a chain folds on itself."""
    far = np.linalg.norm(_ahead(rows, _ahead(rows, ca)) - ca, axis=1)
    before = np.roll(far, 2)
    before[:2] = np.nan
    return np.fmin(far, before)


def _surroundings(values, ca):
    """Mean of a column over the residues within 10 Å."""
    result = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(ca).all(axis=1))
    for row, near in zip(known, cKDTree(ca[known]).query_ball_point(ca[known], SURROUNDINGS)):
        around = values[known[near]]
        if np.isfinite(around).any():
            result[row] = np.nanmean(around)
    return result


def _stretch(values, linked):
    """Mean over the bonded residues up to four before and after."""
    result, start = np.full(len(values), np.nan), 0
    for stop in [*np.flatnonzero(~linked)[1:], len(values)]:
        for row in range(start, stop):
            part = values[max(start, row - WINDOW) : min(stop, row + WINDOW + 1)]
            if np.isfinite(part).any():
                result[row] = np.nanmean(part)
        start = stop
    return result


def _register(rows, backbone, cb, volume, resolution):
    """How well side-chain sizes match the density along the chain: here, less one residue ahead, less one back.

    The size is the number of side-chain bonds; the density is the mean of the map at 2 to 5 Å from CA along CA–CB, off
    the axis too. Correlated over nine residues, with the sequence as it is and slid by one.
    """
    n, ca, c, _ = backbone
    direction = ca - (n + c) / 2
    with_beta = np.isfinite(cb).all(axis=1)
    direction[with_beta] = (cb - ca)[with_beta]
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    across = np.cross(direction, n - ca)
    across = across / np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(direction, across)
    seen = np.zeros(len(rows))
    for length, aside in ((1.5, 0.0), (2.5, 0.8), (3.5, 1.4), (4.8, 2.0), (6.0, 2.5)):
        ring = [np.cos(t) * across + np.sin(t) * other for t in np.arange(0, 2 * np.pi, np.pi / 3)]
        values = np.array([_read(volume, ca + length * direction + aside * step) for step in ring])
        seen += np.maximum(values.max(axis=0), 0) if aside else np.maximum(values[0], 0)
    size = np.array([len(SIDE_BONDS.get(name, ())) + (name != "GLY") for name in rows.names], dtype=float)
    size += np.isin(rows.names, ("PHE", "TYR", "TRP", "HIS", "MET", "CYS"))  # rings and sulphur show more
    match = np.full((3, len(rows)), np.nan)
    starts = [*np.flatnonzero(~rows.linked), len(rows)]
    for start, stop in zip(starts[:-1], starts[1:]):
        for row in range(start, stop):
            low, high = max(start, row - WINDOW), min(stop, row + WINDOW + 1)
            for order, slide in enumerate((0, 1, -1)):
                index = np.arange(low, high)
                index = index[(index + slide >= start) & (index + slide < stop)]
                one, two = seen[index], size[index + slide]
                good = np.isfinite(one)
                if good.sum() > 4 and one[good].std() > 0 and two[good].std() > 0:
                    match[order, row] = np.corrcoef(one[good], two[good])[0, 1]
    return match[0], match[0] - match[1], match[0] - match[2]
