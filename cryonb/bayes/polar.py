"""Images and slices on a polar Fourier grid, and their angular Fourier coefficients.

On rings of Fourier space an in-plane rotation by ψ is a phase exp(−iqψ) of the angular coefficient q, so that
one product over the radii serves all ψ of a view at once. Radii are Gauss–Legendre nodes with the area of their
ring as weight: sums over the grid equal sums over the Cartesian half-plane of Fourier pixels. Of a real image
half a circle is enough; the coefficients with even q come from the real part, the odd ones from the imaginary.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.fft

from . import _kernels

__all__ = ["PolarGrid", "ring_basis"]

KERNEL_WIDTH = 6  # points per axis that the interpolation kernel covers, on the twice oversampled grid
KERNEL_BETA = 2.3 * KERNEL_WIDTH


@dataclass(frozen=True, eq=False)
class PolarGrid:
    """Polar sampling of the Fourier half-plane of a d × d image.

    Parameters
    ----------
    size_px : int
        Box size d.
    radii : ndarray (n_r,)
        Gauss–Legendre nodes in Fourier pixels, increasing.
    areas : ndarray (n_r,)
        Half-plane area of each ring in Fourier pixels²: Σ_half-plane f ≈ Σ_r area · ⟨f⟩_ring.
    n_angles : int
        Samples of the half circle from −90° to 90° (kx ≥ 0).
    bands : ndarray (n_r,) int64
        Angular coefficients 0 … band − 1 kept on each ring: multiples of 8, not decreasing.

    Notes
    -----
    `PolarGrid.covering` chooses the values. A *packed* array (n, n_packed) holds the coefficients of one image in a
    row, ready for matrix products over the rings: block after block of eight q, in a block first the four even
    and then the four odd ones, of each the real and then the imaginary parts on the rings that keep it.
    """

    size_px: int
    radii: np.ndarray
    areas: np.ndarray
    n_angles: int
    bands: np.ndarray

    @classmethod
    def covering(cls, size_px, max_radius, extent_px):
        """The grid for frequencies up to a radius and a particle of a given size.

        Parameters
        ----------
        size_px : int
            Box size d.
        max_radius : float
            Last shell in Fourier pixels, at most (d − 1) / 2.
        extent_px : float
            Radius in real-space pixels outside which references are zero.

        Returns
        -------
        PolarGrid
            4/3 · max_radius radii, and on each ring the coefficients that an object of this size can have: an
            object within ρ pixels has |q| ≤ 2πρr/d but for the tail of the Bessel functions.

        Examples
        --------
        Areas add up to the half-disc:

        >>> grid = PolarGrid.covering(32, 12, 12)
        >>> round(float(grid.areas.sum() / (np.pi * 12.5**2 / 2)), 6)
        1.0
        """
        if not 1 <= max_radius <= (size_px - 1) / 2:
            raise ValueError(f"max_radius must be from 1 to {(size_px - 1) / 2:g} Fourier pixels, got {max_radius:g}")
        limit = max_radius + 0.5
        n_radii = int(np.ceil(4 / 3 * max_radius)) + 2
        nodes, weights = np.polynomial.legendre.leggauss(n_radii)
        radii = limit * (nodes + 1) / 2
        areas = np.pi * radii * weights * limit / 2
        bands = 8 * -(-_bandwidth(radii * extent_px / size_px) // 8)
        # aliases of an image that fills the box must stay clear of the coefficients that are kept
        n_angles = int(np.ceil((_bandwidth(limit * 0.5) + bands[-1]) / 2)) + 1
        n_angles = scipy.fft.next_fast_len(n_angles, real=True)
        return cls(int(size_px), radii, areas, n_angles, np.minimum(bands, 8 * (n_angles // 8)).astype(np.int64))

    @property
    def n_radii(self):
        """Number of rings."""
        return len(self.radii)

    @cached_property
    def n_packed(self):
        """Length of a packed image (real numbers)."""
        return int(self.starts[-1])

    @cached_property
    def lowest(self):
        """First ring of each block of eight q, ndarray (n_blocks,) int64."""
        return np.searchsorted(self.bands, 8 * np.arange(self.bands[-1] // 8), side="right").astype(np.int64)

    @cached_property
    def starts(self):
        """Where each block begins in a packed array, and its end: ndarray (n_blocks + 1,) int64."""
        return np.concatenate([[0], np.cumsum(16 * (self.n_radii - self.lowest))]).astype(np.int64)

    def blocks(self, packed):
        """Views (even, odd) of each block of a packed array: (4, n, 2 · rings) each, for products over the rings."""
        for block, start in enumerate(self.starts[:-1]):
            length = 2 * (self.n_radii - self.lowest[block])
            whole = packed[:, start : start + 8 * length].reshape(-1, 2, 4, length)
            yield whole[:, 0].swapaxes(0, 1), whole[:, 1].swapaxes(0, 1)

    @cached_property
    def angles(self):
        """Angles of the half circle in radians, ndarray (n_angles,)."""
        return np.pi * (np.arange(self.n_angles) / self.n_angles - 0.5)

    @cached_property
    def points(self):
        """(kx, ky) in Fourier pixels of all samples, ring by ring: ndarray (n_r · n_angles, 2) float32."""
        direction = np.stack([np.cos(self.angles), np.sin(self.angles)], axis=-1)
        return (self.radii[:, None, None] * direction).reshape(-1, 2).astype(np.float32)

    def rings_within(self, radius):
        """How many rings lie below a radius in Fourier pixels (at least 3)."""
        return max(3, int(np.searchsorted(self.radii, radius + 0.5)))

    def inner(self, n_rings):
        """The grid of the first ``n_rings`` rings, for passes limited in frequency."""
        return replace(self, radii=self.radii[:n_rings], areas=self.areas[:n_rings], bands=self.bands[:n_rings])

    def transform(self, images):
        """Fourier transform of images at the samples of the grid.

        Parameters
        ----------
        images : ndarray (n, d, d)
            Real.

        Returns
        -------
        ndarray (n, n_r, n_angles) complex64: Σ_x image(x) exp(−2πi k·x), x counted from the pixel d // 2.

        Notes
        -----
        The non-uniform transform of Barnett et al., SIAM J Sci Comput 41:C479 (2019): divide by the kernel's
        transform, pad twice, FFT, gather with the kernel "exponential of semicircle" (error about 1e-5).

        Examples
        --------
        A point at the centre has a flat transform:

        >>> grid = PolarGrid.covering(16, 7, 6)
        >>> point = np.zeros((1, 16, 16)); point[0, 8, 8] = 1
        >>> bool(np.allclose(grid.transform(point), 1, atol=1e-4))
        True
        """
        images = np.asarray(images, dtype=np.float32)
        size_px = self.size_px
        if images.ndim != 3 or images.shape[1:] != (size_px, size_px):
            raise ValueError(f"images must have shape (n, {size_px}, {size_px}), got {images.shape}")
        padded = 2 * size_px
        envelope = _kernel_transform((np.arange(size_px) - size_px // 2) / padded)
        factor = (1 / (envelope[:, None] * envelope)).astype(np.float32)
        place = (np.arange(size_px) - size_px // 2) % padded
        first, weights = _kernel_stencil(self.points)
        samples = np.empty((len(images), self.n_radii * self.n_angles), dtype=np.complex64)
        box = np.zeros((padded, padded), dtype=np.float32)
        for image, row in zip(images, samples):
            box[np.ix_(place, place)] = image * factor
            _kernels.gather_plane(scipy.fft.rfft2(box), first, weights, row)
        return samples.reshape(len(images), self.n_radii, self.n_angles)

    def invert(self, samples):
        """Images from their Fourier transform at the samples of the grid: the inverse of `transform`.

        Parameters
        ----------
        samples : ndarray (n, n_r, n_angles) complex64

        Returns
        -------
        ndarray (n, d, d) float32: Σ_r area Σ_φ F exp(2πi k·x) over both half-planes, which is the image where it is
        zero outside the grid's extent and has no frequency beyond the last ring.
        """
        size_px, padded = self.size_px, 2 * self.size_px
        envelope = _kernel_transform((np.arange(size_px) - size_px // 2) / padded)
        factor = 2 / (self.n_angles * envelope[:, None] * envelope) * (padded / size_px) ** 2
        place = (np.arange(size_px) - size_px // 2) % padded
        first, weights = _kernel_stencil(self.points)
        weighted = (samples * self.areas[:, None]).astype(np.complex64).reshape(len(samples), -1)
        images = np.empty((len(samples), size_px, size_px), dtype=np.float32)
        for row, image in zip(weighted, images):
            plane = np.zeros((padded, padded), dtype=np.complex64)
            _kernels.scatter_plane(row, first, weights, plane)
            image[:] = scipy.fft.ifft2(plane).real[np.ix_(place, place)] * factor
        return images

    def analyse(self, samples):
        """Angular Fourier coefficients of samples on the half circle.

        Parameters
        ----------
        samples : ndarray (..., n_r, n_angles) complex64
            Of real images: the other half circle is the conjugate.

        Returns
        -------
        ndarray (..., n_packed) float32: real and imaginary parts of (1/2π)∮ F(r, φ) exp(−iqφ) dφ, q ≥ 0.
        """
        samples = np.asarray(samples)
        return self.analyse_parts(samples.real.astype(np.float32), samples.imag.astype(np.float32))

    def analyse_parts(self, real, imaginary):
        """`analyse` of samples whose real and imaginary parts lie in arrays of their own (they often do)."""
        even, odd = self._analysis
        shape = real.shape[:-2]
        rows_even = real.reshape(-1, self.n_angles) @ even.T
        rows_odd = imaginary.reshape(-1, self.n_angles) @ odd.T
        packed = np.empty((rows_even.shape[0] // self.n_radii, self.n_packed), dtype=np.float32)
        _kernels.pack(rows_even, rows_odd, self.n_radii, self.lowest, self.starts, packed)
        return packed.reshape(*shape, self.n_packed)

    def synthesise(self, packed):
        """Samples on the half circle from angular coefficients: the inverse of `analyse`.

        Parameters
        ----------
        packed : ndarray (n, n_packed) float32

        Returns
        -------
        ndarray (n, n_r, n_angles) complex64
        """
        even, odd = ring_basis(self.angles, int(self.bands[-1]))
        n_even, n_odd = even.shape[0], odd.shape[0]
        rows_even = np.zeros((len(packed) * self.n_radii, 2 * n_even), dtype=np.float32)
        rows_odd = np.zeros((len(packed) * self.n_radii, 2 * n_odd), dtype=np.float32)
        packed = np.ascontiguousarray(packed, dtype=np.float32)
        _kernels.unpack(packed, self.n_radii, self.lowest, self.starts, rows_even, rows_odd)
        twice = np.where(np.arange(n_even) == 0, 1, 2)[:, None]  # the coefficients −q, which are the conjugates
        even = np.concatenate([twice * even.real, -twice * even.imag]).astype(np.float32)
        odd = np.concatenate([2 * odd.imag, 2 * odd.real]).astype(np.float32)
        samples = np.empty((len(packed), self.n_radii, self.n_angles), dtype=np.complex64)
        samples.real = (rows_even @ even).reshape(samples.shape)
        samples.imag = (rows_odd @ odd).reshape(samples.shape)
        return samples

    @cached_property
    def _analysis(self):
        """[Re | Im] rows that take the real part of half a circle to even q, and the imaginary part to odd q."""
        even, odd = ring_basis(self.angles, int(self.bands[-1]))
        even = (np.concatenate([even.real, -even.imag]) / self.n_angles).astype(np.float32)
        odd = (np.concatenate([odd.imag, odd.real]) / self.n_angles).astype(np.float32)
        return even, odd


def ring_basis(angles, n_coefficients):
    """exp(iqφ) for even and for odd q.

    Parameters
    ----------
    angles : ndarray (n_angles,)
        φ in radians.
    n_coefficients : int
        q runs from 0 to below this.

    Returns
    -------
    even, odd : ndarray (n_q, n_angles) complex128
    """
    q = np.arange(n_coefficients)
    basis = np.exp(1j * q[:, None] * np.asarray(angles))
    return basis[::2], basis[1::2]


def _bandwidth(cycles):
    """Coefficients 0 … q that matter on a ring: 2π·cycles is the argument of the Bessel functions at the rim."""
    argument = 2 * np.pi * np.asarray(cycles)
    return np.ceil(argument + 1.5 * np.cbrt(argument) + 2).astype(np.int64) + 1


def _kernel(distance):
    inside = np.maximum(1 - (2 * distance / KERNEL_WIDTH) ** 2, 0)
    return np.where(np.abs(distance) < KERNEL_WIDTH / 2, np.exp(KERNEL_BETA * (np.sqrt(inside) - 1)), 0)


def _kernel_transform(frequency):
    """Transform of the interpolation kernel at frequencies in cycles per point."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    nodes, weights = nodes * KERNEL_WIDTH / 2, weights * KERNEL_WIDTH / 2
    return (weights * _kernel(nodes)) @ np.cos(2 * np.pi * nodes[:, None] * frequency)


def _kernel_stencil(points):
    """First grid point (n, 2) and weights (n, 2, width) of the kernel around points of the twice padded grid."""
    position = 2.0 * points.astype(np.float64)
    first = np.ceil(position - KERNEL_WIDTH / 2)
    offset = first[..., None] + np.arange(KERNEL_WIDTH) - position[..., None]
    return first.astype(np.int64), _kernel(offset).astype(np.float32)
