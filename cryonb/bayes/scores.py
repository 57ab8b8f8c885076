"""Scores: one matrix product per angular coefficient over the rings, then one more to all in-plane angles.

For slices A and images B = area · CTF · X / σ² on the polar grid, with angular coefficients q,

    score[ψ, v, t] = Re Σ_q e^(−iqψ) Σ_r conj(A[v, q, r]) · B[t, q, r]

is the log-likelihood but for half the norm Σ |CTF A|²/σ², which is the same form with |A|² and CTF²/σ².
"""

import numpy as np

from . import _kernels

__all__ = ["AngleTables", "image_columns", "products", "shifted_images", "turned_images"]


class AngleTables:
    """The products that take angular coefficients to in-plane angles.

    Parameters
    ----------
    n_coefficients : int
        A multiple of 8.
    angles : ndarray (n_ψ,)
        Radians. With ``full_turn``, the first half of evenly spaced angles on a whole turn: the other half costs
        only a change of sign.
    full_turn : bool
    """

    def __init__(self, n_coefficients, angles, *, full_turn=False):
        self.full_turn = full_turn
        self.angles = np.concatenate([angles, angles + np.pi]) if full_turn else np.asarray(angles)
        table = angle_table(np.arange(n_coefficients), angles)
        self.even, self.odd = (np.ascontiguousarray(table[parity::2].reshape(-1, len(angles)).T) for parity in (0, 1))

    def parts(self, even, odd):
        """Scores of the even and of the odd coefficients, (n_ψ, m); arguments (n_q / 2, 2, …)."""
        return (
            self.even[:, : 2 * len(even)] @ even.reshape(2 * len(even), -1),
            self.odd[:, : 2 * len(odd)] @ odd.reshape(2 * len(odd), -1),
        )

    def scores(self, even, odd):
        """Scores at all angles, (n_ψ, m)."""
        even, odd = self.parts(even, odd)
        return np.concatenate([even + odd, even - odd]) if self.full_turn else even + odd

    def coefficients(self, weights):
        """Σ_ψ weights · [cos qψ, sin qψ] for even and for odd q, (n_q / 2, 2, m) each, from weights (n_ψ, m)."""
        even = odd = weights
        if self.full_turn:
            half = len(weights) // 2
            even, odd = weights[:half] + weights[half:], weights[:half] - weights[half:]
        even, odd = (
            (table.T @ part).reshape(-1, 2, part.shape[1]) for table, part in ((self.even, even), (self.odd, odd))
        )
        even[1:] *= 0.5  # the tables count q > 0 twice
        odd *= 0.5
        return even, odd


def angle_table(q, angles):
    """(n_q, 2, n_ψ): what Re S and Im S of coefficient q ≥ 0 contribute to Re Σ S exp(−iqψ), −q included."""
    phase = q[:, None] * np.asarray(angles)
    twice = np.where(q == 0, 1, 2)[:, None]
    return np.stack([twice * np.cos(phase), twice * np.sin(phase)], axis=1).astype(np.float32)


def shifted_images(observations, particle, shift, phases, grid):
    """Packed images of particles moved back by shifts.

    Parameters
    ----------
    observations : Observations
    particle, shift : ndarray (m,) int
        Row of the observations and row of ``phases`` of each image.
    phases : ndarray (t, n_r, n_angles) complex64
        exp(2πi k·s) of the shifts.
    grid : PolarGrid
        May be the inner part of that of the observations.

    Returns
    -------
    ndarray (m, n_packed) float32
    """
    shape = (len(particle), grid.n_radii, grid.n_angles)
    real, imaginary = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    _kernels.shifted_parts(observations.weighted, particle, phases, shift, real, imaginary)
    return grid.analyse_parts(real, imaginary)


def image_columns(images, grid, out=None):
    """Packed images as right-hand sides of `products`.

    Parameters
    ----------
    images : ndarray (m, n_packed)
    grid : PolarGrid
    out : ndarray, optional
        Written to where it is long enough.

    Returns
    -------
    ndarray (2 · m · n_packed,) float32
    """
    size = 2 * images.size
    columns = np.empty(size, dtype=np.float32) if out is None or len(out) < size else out[:size]
    _kernels.stack_columns(images, grid.n_radii, grid.lowest, grid.starts, columns)
    return columns


def products(packed, columns, n_images, grid):
    """S[q, part, v, t] = Σ_r conj(A) · B for even and for odd q.

    Parameters
    ----------
    packed : ndarray (v, n_packed) float32
        Slices.
    columns : ndarray
        `image_columns` of ``n_images`` images.
    n_images : int
    grid : PolarGrid

    Returns
    -------
    even, odd : ndarray (n_q / 2, 2, v, n_images) float32
    """
    n_blocks = len(grid.lowest)
    even = np.empty((4 * n_blocks, 2, len(packed), n_images), dtype=np.float32)
    odd = np.empty_like(even)
    for block, (left_even, left_odd) in enumerate(grid.blocks(packed)):
        length = left_even.shape[2]
        right = columns[2 * n_images * grid.starts[block] : 2 * n_images * grid.starts[block + 1]]
        right = right.reshape(2, 4, 2, length, n_images)
        rows = slice(4 * block, 4 * block + 4)
        np.matmul(left_even[:, None], right[0], out=even[rows])
        np.matmul(left_odd[:, None], right[1], out=odd[rows])
    return even, odd


def turned_images(even, odd, columns, grid):
    """The adjoint of `products`: images times e^(−iqψ), summed over in-plane angles and shifts.

    Parameters
    ----------
    even, odd : ndarray (n_q / 2, 2, v, t)
        `AngleTables.coefficients` of the weights of each slice and image.
    columns : ndarray
        `image_columns` of the t images.
    grid : PolarGrid

    Returns
    -------
    ndarray (v, n_packed) float32
    """
    n_images = even.shape[3]
    turned = np.empty((even.shape[2], grid.n_packed), dtype=np.float32)
    for block, outs in enumerate(grid.blocks(turned)):
        right = columns[2 * n_images * grid.starts[block] : 2 * n_images * grid.starts[block + 1]]
        right = right.reshape(2, 4, 2, -1, n_images)
        rows = slice(4 * block, 4 * block + 4)
        for weights, images, out in zip((even, odd), right, outs):
            out[:] = np.matmul(weights[rows, 0], images[:, 0].swapaxes(1, 2))
            out += np.matmul(weights[rows, 1], images[:, 1].swapaxes(1, 2))
    return turned
