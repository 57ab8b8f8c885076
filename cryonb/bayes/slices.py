"""Central slices of the references as polar coefficients, and the way back: polar sums into an accumulator."""

from dataclasses import dataclass

import numpy as np

from cryonb import projection, rotations

__all__ = ["SliceBank", "fill_bank", "insert_bank", "ring_power", "view_matrices", "weight_samples"]

BATCH = 128  # slices whose samples are held at once


@dataclass(frozen=True, eq=False)
class SliceBank:
    """Slices of K volumes along v views, volume by volume: K·v rows.

    Parameters
    ----------
    packed : ndarray (K·v, n_packed) float32
        Angular coefficients (`polar.PolarGrid.analyse`).
    power : ndarray (K·v, 2, n_r, n_m) float32
        Coefficients 0, 2, 4, … of |slice|² on each ring.
    """

    packed: np.ndarray
    power: np.ndarray

    def __len__(self):
        return len(self.packed)


def view_matrices(order, turn):
    """Image-to-volume matrices of the HEALPix views at ψ = 0.

    Parameters
    ----------
    order : int
    turn : Rotation
        Turns the whole grid.

    Returns
    -------
    ndarray (12·4^order, 3, 3)
    """
    angles = rotations.directions_to_angles(rotations.healpix_directions(order))
    angles = np.column_stack([angles, np.zeros(len(angles))])
    return (turn * rotations.from_relion_angles(angles)).as_matrix()


def fill_bank(fourier_volumes, matrices, grid, n_harmonics):
    """Slices of volumes along views.

    Parameters
    ----------
    fourier_volumes : sequence of FourierVolume
        K of them.
    matrices : ndarray (v, 3, 3)
    grid : PolarGrid
    n_harmonics : int
        How many even harmonics of |slice|² to keep: 1 for CTFs without astigmatism.

    Returns
    -------
    SliceBank of K·v rows, without shell 0, which a background would rule
    """
    n = len(matrices)
    packed = np.empty((len(fourier_volumes) * n, grid.n_packed), dtype=np.float32)
    power = np.empty((len(packed), 2, grid.n_radii, n_harmonics), dtype=np.float32)
    for k, volume in enumerate(fourier_volumes):
        for start in range(0, n, BATCH):
            views = matrices[start : start + BATCH]
            samples = projection.sample_slices(volume, views, grid.points)
            samples = samples.reshape(len(views), grid.n_radii, grid.n_angles)
            samples[:, grid.radii < 0.5] = 0
            rows = slice(k * n + start, k * n + start + len(views))
            packed[rows] = grid.analyse(samples)
            power[rows] = ring_power(samples.real**2 + samples.imag**2, grid, n_harmonics)
    return SliceBank(packed, power)


def ring_power(squares, grid, n_harmonics):
    """Even angular harmonics of a real function with period π, such as |F|² or CTF².

    Parameters
    ----------
    squares : ndarray (n, n_r, n_angles)
    grid : PolarGrid
    n_harmonics : int
        q = 0, 2, …, 2(n_harmonics − 1).

    Returns
    -------
    ndarray (n, 2, n_r, n_harmonics) float32, real and imaginary parts.
    """
    basis = np.exp(-2j * np.arange(n_harmonics) * grid.angles[:, None]) / grid.n_angles
    squares = np.asarray(squares, dtype=np.float32)
    parts = squares @ np.concatenate([basis.real, basis.imag], axis=1).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(parts.reshape(*squares.shape[:-1], 2, n_harmonics), -2, -3))


def insert_bank(accumulator, sums, weights, matrices, grid, *, symmetry=None):
    """Insert summed polar images into a volume's accumulator: the adjoint of `fill_bank` for one volume.

    Parameters
    ----------
    accumulator : projection.Accumulator
        Changed in place.
    sums : ndarray (v, n_packed)
        Coefficients of Σ Γ · area · CTF X / σ².
    weights : ndarray (v, 2, n_r, n_m)
        Even harmonics of Σ Γ · area · CTF² / σ².
    matrices : ndarray (v, 3, 3)
    grid : PolarGrid
    symmetry : Rotation, optional
        Of a point group: every view is inserted at all its equivalents.
    """
    for start in range(0, len(matrices), BATCH):
        rows = slice(start, start + BATCH)
        values = grid.synthesise(sums[rows]).reshape(-1, grid.n_radii * grid.n_angles)
        weight = weight_samples(weights[rows], grid).reshape(values.shape)
        values, weight = values / grid.n_angles, weight / grid.n_angles
        for turn in np.eye(3)[None] if symmetry is None else symmetry.as_matrix():
            projection.insert_slices(accumulator, values, weight, turn @ matrices[rows], grid.points)


def weight_samples(weights, grid):
    """Weights on the samples of the grid from their even harmonics: the inverse of `ring_power`, never below 0.

    Parameters
    ----------
    weights : ndarray (n, 2, n_r, n_m)
    grid : PolarGrid

    Returns
    -------
    ndarray (n, n_r, n_angles)
    """
    n_harmonics = weights.shape[-1]
    basis = np.exp(2j * np.arange(n_harmonics)[:, None] * grid.angles)
    basis *= np.where(np.arange(n_harmonics) == 0, 1, 2)[:, None]
    basis = np.stack([basis.real, -basis.imag]).astype(np.float32)
    return np.maximum(np.matmul(weights[:, 0], basis[0]) + np.matmul(weights[:, 1], basis[1]), 0)
