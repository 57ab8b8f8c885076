"""How well a map supports a model: per residue (RSCC, Q-score), over side chains (EMRinger), over shells (iFSC)."""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.ndimage
from scipy.spatial import cKDTree

from .. import fourier, protein
from ..projection import atoms_to_density, model_density, scattering_factors
from .density import sample, width_at

__all__ = ["EMRinger", "emringer", "ifsc", "q_score", "residue_correlation", "residue_mean"]

LOWEST = 10.0  # Å: where iFSC begins (Wang et al. 2016)
Q_SIGMA, Q_REACH, Q_STEP, Q_POINTS = 0.6, 2.0, 0.1, 8  # Å, Å, Å (Pintilie et al. 2020)
Q_NEAR = 0.9  # a point belongs to an atom if no other atom is within this share of its radius
RINGER_STEP, RINGER_LEVELS = 5, 20  # degrees (Barad et al. 2015)
RINGER_NAMES = ("ARG", "ASN", "ASP", "CYS", "GLU", "GLN", "HIS", "LEU", "LYS", "MET", "PHE", "SER", "TRP", "TYR")
GAMMA = {"CYS": "SG", "SER": "OG"}


def residue_correlation(model, volume, resolution, *, coordinates=None, residues=None, part="all", radius=None):
    """Real-space correlation coefficient of each residue.

    Parameters
    ----------
    model : AtomicModel
    volume : Volume
        As `density.prepare_map` gives it.
    resolution : float
        Å.
    coordinates : ndarray (atoms, 3), optional
        In place of the model's.
    residues : Residues, optional
    part : {"all", "backbone", "side"}
        Which of a residue's atoms say where to look; the density there is the whole model's.
    radius : float, optional
        Å around them; by default max(1.5, resolution / 2).

    Returns
    -------
    ndarray (n,); NaN where a residue has no such atoms or lies outside the box.
    """
    rows = protein.residues(model) if residues is None else residues
    xyz = model.coordinates if coordinates is None else coordinates
    elements = model.elements
    a, b = scattering_factors(elements)
    drawn = atoms_to_density(
        xyz, a * model.occupancies[:, None], b, model.b_factors + width_at(resolution), volume
    ).data
    radius = max(1.5, resolution / 2) if radius is None else radius
    reach = int(np.ceil(radius / volume.voxel_size))
    axis = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    result = np.full(len(rows), np.nan)
    size = volume.size_px
    for row in range(len(rows)):
        if part == "backbone":
            chosen = [rows.atoms[row][n] for n in (*protein.BACKBONE, "CB") if n in rows.atoms[row]]
        else:
            chosen = rows.heavy(row, elements, side_chain=None if part == "all" else True)
        if len(chosen) == 0:
            continue
        places = ((xyz[chosen] - volume.origin) / volume.voxel_size)[:, ::-1]
        cells = np.rint(places).astype(int)[:, None, :] + offsets
        near = ((cells - places[:, None, :]) ** 2).sum(-1) <= (radius / volume.voxel_size) ** 2
        inside = near & (cells >= 0).all(-1) & (cells < size).all(-1)
        flat = np.unique(np.ravel_multi_index(tuple(cells[inside].T), volume.data.shape))
        if len(flat) > 3:
            one, two = drawn.ravel()[flat].astype(float), volume.data.ravel()[flat].astype(float)
            one, two = one - one.mean(), two - two.mean()
            norm = np.sqrt((one @ one) * (two @ two))
            result[row] = one @ two / norm if norm > 0 else np.nan
    return result


@dataclass(frozen=True, eq=False)
class EMRinger:
    """EMRinger analysis.

    Parameters
    ----------
    score : float
        10 · max z / √N; above 1 is good at 3 to 4 Å, 0 is chance. NaN where no side chain can be scored.
    rows : ndarray (m,) int
        The residues with a γ atom that were scanned.
    peak_angle : ndarray (m,)
        Degrees, χ1 of the highest density.
    peak_value : ndarray (m,)
    thresholds, z : ndarray (t,)
    """

    score: float
    rows: np.ndarray
    peak_angle: np.ndarray
    peak_value: np.ndarray
    thresholds: np.ndarray
    z: np.ndarray


def emringer(model, volume, *, coordinates=None, residues=None):
    """EMRinger score: do side-chain densities peak where rotamers are?

    Parameters
    ----------
    model : AtomicModel
    volume : Volume
        Its scale does not matter.
    coordinates, residues
        As in `residue_correlation`.

    Returns
    -------
    EMRinger

    Notes
    -----
    Barad et al., Nat. Methods 12:943 (2015): the γ atom is turned about CA–CB in steps of 5°, the map read linearly
    between voxels; at each of 20 thresholds from the mean to the maximum, the share of peaks in the wells is compared
    with 39/72. A well is the twelve steps 35° … 90°, 155° … 210°, 275° … 330°, as the program of the paper counts.
    """
    rows = protein.residues(model) if residues is None else residues
    xyz = model.coordinates if coordinates is None else coordinates
    angles = np.arange(1, 360 // RINGER_STEP + 1) * RINGER_STEP
    chosen, waves = [], []
    chi = rows.chi(xyz)[:, 0]
    for row, name in enumerate(rows.names):
        if name in RINGER_NAMES and np.isfinite(chi[row]):
            atoms = rows.atoms[row]
            gamma = np.broadcast_to(xyz[atoms[GAMMA.get(name, "CG")]], (len(angles), 3))
            ring = protein.rotate_about(gamma, xyz[atoms["CA"]], xyz[atoms["CB"]], angles - chi[row])
            chosen.append(row)
            waves.append(sample(volume, ring))
    if not chosen:
        empty = np.zeros(0)
        return EMRinger(np.nan, np.zeros(0, int), empty, empty, empty, empty)
    waves = np.array(waves)
    top, peak = waves.max(axis=1), waves.argmax(axis=1)
    low, high = waves.mean(), top.max()
    thresholds = low + np.arange(RINGER_LEVELS) * (high - low) / RINGER_LEVELS
    in_well = (peak - 6) % 24 < 12
    z = np.zeros(RINGER_LEVELS)
    for level, threshold in enumerate(thresholds):
        above = top > threshold
        count = above.sum()
        if count == 0 or not (above & in_well).any():
            break
        z[level] = ((above & in_well).sum() - 39 / 72 * count) / np.sqrt(39 / 72 * 33 / 72 * count)
    used = z[: level + 1] if count and (above & in_well).any() else z[: max(level, 1)]
    score = float(10 * used.max() / np.sqrt(len(chosen)))
    return EMRinger(score, np.array(chosen), angles[peak].astype(float), top, thresholds, z)


def q_score(model, volume, *, coordinates=None):
    """Q-score of every atom: how much its surroundings in the map look like a Gaussian of 0.6 Å.

    Parameters
    ----------
    model : AtomicModel
    volume : Volume
        The final map, sharpened as for looking at; the score does not depend on its scale.
    coordinates : ndarray (atoms, 3), optional

    Returns
    -------
    ndarray (atoms,) in [−1, 1]; NaN for hydrogens and where the map is flat. `residue_mean` averages per residue.

    Notes
    -----
    Pintilie et al., Nat. Methods 17:328 (2020): eight points on each of the shells 0, 0.1, … 2.0 Å that no other atom
    is close to, correlated about the mean with exp(−r² / 2 · 0.6²). The map is read linearly between voxels.
    """
    xyz = model.coordinates if coordinates is None else coordinates
    heavy = np.flatnonzero(~np.isin(model.elements, ("H", "D")))
    atoms = np.ascontiguousarray(xyz[heavy])
    tree = cKDTree(atoms)
    near = tree.query_ball_point(atoms, 2 * Q_REACH)
    start = np.concatenate([[0], np.cumsum([len(found) for found in near])])
    flat = np.concatenate([np.asarray(found, dtype=np.int64) for found in near])
    scores = np.full(len(xyz), np.nan)
    places = np.ascontiguousarray((atoms - volume.origin) / volume.voxel_size)
    scores[heavy] = _q_scores(volume.data, places, volume.voxel_size, atoms, start, flat, _sphere_sets())
    return scores


def residue_mean(values, residues, elements):
    """Mean of a value per atom over each residue's heavy atoms.

    Parameters
    ----------
    values : ndarray (atoms,)
    residues : Residues
        n of them.
    elements : ndarray (atoms,) of str

    Returns
    -------
    ndarray (n,); NaN where no atom has a value.
    """
    means = np.full(len(residues), np.nan)
    for row in range(len(residues)):
        inside = values[residues.heavy(row, elements)]
        if np.isfinite(inside).any():
            means[row] = np.nanmean(inside)
    return means


def ifsc(model, volume, resolution, *, coordinates=None, lowest=LOWEST):
    """Integrated FSC of a model against a map: its mean from 10 Å to the resolution, around the model.

    Parameters
    ----------
    model : AtomicModel
    volume : Volume
        A half map as reconstructed; sharpening changes nothing.
    resolution : float
        Å.
    coordinates : ndarray (atoms, 3), optional
    lowest : float
        Å, where the mean begins.

    Returns
    -------
    float. Against the half map that was refined into it is iFSC(work), against the other iFSC(free); their difference
    measures overfitting (Wang et al. 2016).

    Raises
    ------
    ValueError
        No shell between the limits.
    """
    if coordinates is not None:
        model = protein.with_atoms(model, coordinates=coordinates)
    like = model_density(model, volume)
    inside = scipy.ndimage.binary_dilation(like.data > 0.1 * like.data.max(), iterations=_steps(3.0, volume))
    mask = np.clip(scipy.ndimage.gaussian_filter(inside.astype(np.float32), 3.0 / volume.voxel_size / 2), 0, 1)
    one, two = (fourier.transform((v.data - v.data.mean()) * mask) for v in (like, volume))
    cross, first, second = (
        fourier.shell_mean(p, ndim=3) for p in ((one * two.conj()).real, np.abs(one) ** 2, np.abs(two) ** 2)
    )
    shells = np.arange(len(cross)) / volume.box_size
    chosen = (shells >= 1 / lowest) & (shells <= 1 / resolution)
    if not chosen.any():
        raise ValueError(f"no shell between {lowest:g} and {resolution:g} Å in {volume!r}")
    return float((cross[chosen] / np.sqrt(np.maximum(first[chosen] * second[chosen], 1e-300))).mean())


def _steps(length, volume):
    return max(1, round(length / volume.voxel_size))


def _sphere_sets():
    """Points on the unit sphere, 16 of them, then 24, 36, …: ndarray (sets, most, 3), NaN beyond a set's number."""
    counts = [16, 24, 36, 54, 80, 120, 180]
    sets = np.full((len(counts), counts[-1], 3), np.nan)
    for row, count in enumerate(counts):
        index = np.arange(count) + 0.5
        height, turn = 1 - 2 * index / count, np.pi * (1 + np.sqrt(5)) * index
        ring = np.sqrt(1 - height**2)
        sets[row, :count] = np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)
    return sets


@numba.njit(cache=True, nogil=True)
def _read(data, x, y, z):
    size = data.shape[0]
    i, j, k = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    if min(i, j, k) < 0 or max(i, j, k) >= size - 1:
        return 0.0
    u, v, w = x - i, y - j, z - k
    total = 0.0
    for dk in range(2):
        for dj in range(2):
            weight = (w if dk else 1 - w) * (v if dj else 1 - v)
            total += weight * ((1 - u) * data[k + dk, j + dj, i] + u * data[k + dk, j + dj, i + 1])
    return total


@numba.njit(cache=True, nogil=True)
def _q_scores(data, places, voxel, atoms, start, flat, sets):
    scores = np.full(len(atoms), np.nan)
    shells = int(round(Q_REACH / Q_STEP))
    for a in range(len(atoms)):
        sv = Q_POINTS * _read(data, places[a, 0], places[a, 1], places[a, 2])
        svv = sv * sv / Q_POINTS
        sg, sgg, svg, n = 1.0 * Q_POINTS, 1.0 * Q_POINTS, sv, Q_POINTS
        for shell in range(1, shells + 1):
            radius = shell * Q_STEP
            g = np.exp(-0.5 * (radius / Q_SIGMA) ** 2)
            limit = (Q_NEAR * radius) ** 2
            for s in range(len(sets)):
                count, v1, v2 = 0, 0.0, 0.0
                for p in range(sets.shape[1]):
                    if np.isnan(sets[s, p, 0]):
                        break
                    dx, dy, dz = radius * sets[s, p, 0], radius * sets[s, p, 1], radius * sets[s, p, 2]
                    free = True
                    for q in range(start[a], start[a + 1]):
                        other = flat[q]
                        if other != a:
                            ox = atoms[a, 0] + dx - atoms[other, 0]
                            oy = atoms[a, 1] + dy - atoms[other, 1]
                            oz = atoms[a, 2] + dz - atoms[other, 2]
                            if ox * ox + oy * oy + oz * oz < limit:
                                free = False
                                break
                    if free:
                        value = _read(
                            data, places[a, 0] + dx / voxel, places[a, 1] + dy / voxel, places[a, 2] + dz / voxel
                        )
                        count += 1
                        v1 += value
                        v2 += value * value
                if count >= Q_POINTS or (s == len(sets) - 1 and count > 0):
                    scale = Q_POINTS / count  # every shell counts the same
                    sv += scale * v1
                    svv += scale * v2
                    sg += Q_POINTS * g
                    sgg += Q_POINTS * g * g
                    svg += scale * v1 * g
                    n += Q_POINTS
                    break
        var_v, var_g = svv - sv * sv / n, sgg - sg * sg / n
        if var_v > 1e-12 and var_g > 0:
            scores[a] = (svg - sv * sg / n) / np.sqrt(var_v * var_g)
    return scores
