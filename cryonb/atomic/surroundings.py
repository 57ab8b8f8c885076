"""What stays where it is: its density is taken out of the map, so that only what is refined is left to be fitted."""

import numpy as np
import scipy.fft

from ..projection import atoms_to_density, scattering_factors
from ..projection.scattering import SAMPLED
from ..types import Volume

__all__ = ["isolated_map", "require_inside"]

MARGIN, TAPER = 10.0, 4.0  # Å around the chains that stay as they are, and beyond those, over which the map fades out
OUTSIDE = 5.0  # Å beyond the box: atoms there still reach into it
SINGULAR = 1e-3  # of the product of the two powers: a shell whose determinant is less tells the two parts not apart


def require_inside(half_map, chains):
    """Refuse a map that is not finite, or that the chains reach out of.

    Parameters
    ----------
    half_map : Volume
    chains : Chains

    Raises
    ------
    ValueError
    """
    if not np.isfinite(half_map.data).all():
        raise ValueError(f"{half_map!r}: expected finite values, got NaN or infinite ones")
    xyz = chains.xyz[chains.present]
    voxels = (xyz - half_map.origin) / half_map.voxel_size
    outside = ((voxels < 0) | (voxels > half_map.size_px - 1)).any(axis=1)
    if outside.any():
        low, high = half_map.origin, half_map.origin + (half_map.size_px - 1) * half_map.voxel_size
        raise ValueError(
            f"{int(outside.sum())} of {len(xyz)} atoms lie outside the map, which reaches from {low.round(1).tolist()} "
            f"to {high.round(1).tolist()} Å; the model reaches from {xyz.min(0).round(1).tolist()} to "
            f"{xyz.max(0).round(1).tolist()} Å"
        )


def isolated_map(half_map, chains):
    """The map around some chains, less the density of every other atom of their model.

    Parameters
    ----------
    half_map : Volume
        As reconstructed.
    chains : Chains
        What is not theirs in ``chains.model`` is subtracted: other chains, nucleic acids, ligands, waters, with their
        B factors, occupancies, hydrogens and alternate conformers. Nothing there leaves the map as it is.

    Returns
    -------
    Volume: a cube that reaches 10 Å beyond the chains, and fades out over 4 Å more where it was cut from a larger one.

    Raises
    ------
    ValueError
        As `require_inside`.

    Notes
    -----
    In each shell the map is M = k F + l G + noise, with F the density of what stays and G that of the chains as they
    are placed now; k and l minimise the squared residual, sums over neighbouring shells weighted 1 : 2 : 1, and k F is
    subtracted (k ≥ 0). Map and model are thus brought to one scale at every resolution, and a chain that is badly
    placed does not make its neighbours weak, as it would with one scale for both. Where the model of the neighbours
    is wrong, so is the difference.
    """
    require_inside(half_map, chains)
    own = chains.owns(chains.model)
    if own.all():
        return half_map
    part, fade = _cut(half_map, chains)
    model = chains.model
    xyz, ends = model.coordinates, (part.origin - OUTSIDE, part.origin + part.box_size + OUTSIDE)
    inside = ((xyz > ends[0]) & (xyz < ends[1])).all(axis=1)
    if not (inside & ~own).any():
        return half_map
    elements, b, occupancies = model.elements, model.b_factors, model.occupancies
    blur = max(0.0, SAMPLED * part.voxel_size**2 - float(b[inside].min()))  # k and l take it off again
    spectra = [scipy.fft.rfftn((part.data - part.data.mean()) * fade, workers=1)]
    for chosen in (inside & ~own, inside & own):
        a, widths = scattering_factors(elements[chosen])
        drawn = atoms_to_density(xyz[chosen], a * occupancies[chosen, None], widths, b[chosen] + blur, part)
        spectra.append(scipy.fft.rfftn(drawn.data * fade, workers=1))
    seen, rest, mine = spectra
    size = part.size_px
    axis = scipy.fft.fftfreq(size) * size
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + (scipy.fft.rfftfreq(size) * size) ** 2)
    shell = np.rint(radius).astype(np.int64)
    rest_rest, mine_mine, rest_mine, rest_seen, mine_seen = (
        _smooth(np.bincount(shell.ravel(), (one.conj() * two).real.ravel()))
        for one, two in ((rest, rest), (mine, mine), (rest, mine), (rest, seen), (mine, seen))
    )
    determinant = rest_rest * mine_mine - rest_mine**2
    together = determinant > SINGULAR * rest_rest * mine_mine
    scale = np.where(
        together,
        (rest_seen * mine_mine - mine_seen * rest_mine) / np.where(together, determinant, 1.0),
        rest_seen / np.maximum(rest_rest, 1e-300),
    )
    difference = seen - np.maximum(scale, 0.0)[shell] * rest
    return part.with_data(scipy.fft.irfftn(difference, s=part.data.shape, workers=1))


def _cut(half_map, chains):
    """The cube around the chains, and the factor by which it fades out where there was more."""
    xyz = chains.xyz[chains.present]
    reach, voxel = MARGIN + TAPER, half_map.voxel_size
    first = np.floor((xyz.min(axis=0) - reach - half_map.origin) / voxel).astype(int)
    size = int(np.ceil(((xyz.max(axis=0) + reach - half_map.origin) / voxel - first).max())) + 1
    size = min(scipy.fft.next_fast_len(size, real=True), half_map.size_px)
    first = np.clip(first, 0, half_map.size_px - size)
    cut = tuple(slice(start, start + size) for start in first[::-1])
    fade = np.ones((size,) * 3, dtype=np.float32)
    for axis, start in enumerate(first[::-1]):
        ramp = np.ones(size)
        edge = 0.5 - 0.5 * np.cos(np.pi * np.clip((np.arange(size) + 0.5) * voxel / TAPER, 0, 1))
        ramp *= edge if start > 0 else 1.0
        ramp *= edge[::-1] if start + size < half_map.size_px else 1.0
        fade *= np.expand_dims(ramp, tuple(other for other in range(3) if other != axis)).astype(np.float32)
    return Volume(half_map.data[cut], voxel, half_map.origin + first * voxel), fade


def _smooth(sums):
    padded = np.pad(sums, 1, mode="edge")
    return padded[:-2] + 2 * padded[1:-1] + padded[2:]
