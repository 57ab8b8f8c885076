"""Fourier shell correlation between a volume and an atomic model."""

import numpy as np

from ..types import AtomicModel, Volume
from .shells import fourier_shell_correlation

__all__ = ["map_model_fsc", "model_volume"]

WIDEN_PX = 1.0  # deviation added to every atom, so that the grid holds it: it cancels in each shell


def map_model_fsc(volume, model, *, mask=None):
    """FSC of a volume against an atomic model; read it at 0.5 (`MODEL_THRESHOLD`).

    Parameters
    ----------
    volume : Volume
        The mean of the half maps; its ``origin`` places it in the model's frame.
    model : AtomicModel or Volume
        Placed in the volume; a Volume is taken as it is.
    mask : ndarray (d, d, d), Volume, "sphere" or "auto", optional
        As in `cryonb.resolution.fourier_shell_correlation`. Without a mask, what the model leaves out counts against
        it, and so does the noise around it.

    Returns
    -------
    FSC: 0.5 against a perfect model where half maps have 0.143 (Rosenthal & Henderson, J Mol Biol 333:721 (2003)).

    Raises
    ------
    ValueError
        No atom inside the box, boxes or voxel sizes that differ.

    Examples
    --------
    >>> density = Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), 2.0)
    >>> bool(np.allclose(map_model_fsc(density, density).correlation, 1))
    True
    """
    return fourier_shell_correlation(volume, model_volume(model, volume), mask=mask)


def model_volume(model, like):
    """Density of an atomic model on the grid of a volume.

    Parameters
    ----------
    model : AtomicModel or Volume
        A Volume comes back as it is.
    like : Volume
        Gives box, voxel size and origin.

    Returns
    -------
    Volume: each atom a Gaussian with the weight atomic number × occupancy and the deviation √(B / 8π² + voxel²).

    Raises
    ------
    ValueError
        No atom inside the box.

    Notes
    -----
    One Gaussian per atom in place of tabulated scattering factors: what all atoms share cancels in a shell correlation.

    Examples
    --------
    One oxygen at the middle of the box, which is voxel 4 of 8:

    >>> import gemmi
    >>> line = "HETATM    1  O   HOH A   1       8.000   8.000   8.000  1.00 20.00           O"
    >>> density = model_volume(AtomicModel(gemmi.read_pdb_string(line)), Volume(np.zeros((8, 8, 8)), 2.0))
    >>> round(float(density.data.sum()), 1), tuple(int(i) for i in np.argwhere(density.data == density.data.max())[0])
    (8.0, (4, 4, 4))
    """
    if isinstance(model, Volume):
        return model
    if not isinstance(model, AtomicModel):
        raise TypeError(f"model must be an AtomicModel or a Volume, got {type(model).__name__}")
    from .. import projection  # numba: only who has a model waits for it

    centre = like.origin + like.size_px // 2 * like.voxel_size
    coordinates = model.coordinates - centre
    inside = (np.abs(coordinates) < like.box_size / 2).all(axis=1)
    if not inside.any():
        low, high = model.coordinates.min(axis=0), model.coordinates.max(axis=0)
        raise ValueError(
            f"no atom lies inside the box, which is {like.box_size:g} Å wide around {centre.round(1).tolist()} Å; "
            f"the model reaches from {low.round(1).tolist()} to {high.round(1).tolist()} Å"
        )
    weights = (model.atomic_numbers * model.occupancies).astype(float)[inside]
    sigma = np.sqrt(np.maximum(model.b_factors[inside], 0) / (8 * np.pi**2) + (WIDEN_PX * like.voxel_size) ** 2)
    density = projection.atoms_to_volume((coordinates[inside], weights), sigma, like.size_px, like.voxel_size)
    return Volume(density.data, like.voxel_size, like.origin)
