"""The power spectrum of a micrograph, tile by tile."""

from dataclasses import dataclass

import numpy as np
import scipy.fft

__all__ = ["Spectrum", "defects", "estimate_spectrum"]

TILE_PX = 512  # as CTFFIND4
TILE_WIDTH = 600.0  # Å: narrower tiles blur the rings of a defocus of 3 µm at 5 Å
SATURATED = 0.02  # fraction of pixels at the largest or smallest value


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    """Average power spectrum of a micrograph's tiles, and the tiles' own.

    Parameters
    ----------
    power : ndarray (t, t // 2 + 1) float32
        Mean |F|² of the tiles, half plane as `numpy.fft.rfft2` lays it out; white noise of variance 1 gives 1.
    pixel_size : float
        Å, of the micrograph.
    kx, ky : ndarray (m,)
        Å⁻¹: the frequencies kept of every tile, all of a half plane up to ``limit`` but for the axes.
    tiles : ndarray (n, m) float32
        Power of each tile at those frequencies.
    inflation : float
        Variance of a mean over the tiles over what it would be if tiles did not overlap.
    """

    power: np.ndarray
    pixel_size: float
    kx: np.ndarray
    ky: np.ndarray
    tiles: np.ndarray
    inflation: float

    @property
    def tile_px(self):
        """Width of a tile in pixels."""
        return self.power.shape[0]

    @property
    def nyquist(self):
        """Å⁻¹."""
        return 0.5 / self.pixel_size

    def centred(self):
        """The whole plane (t, t), zero frequency at ``t // 2``, for drawing."""
        size = self.tile_px
        whole = np.empty((size, size), dtype=np.float32)
        half = self.power.shape[1]
        whole[:, :half] = self.power
        back = -np.arange(size) % size
        whole[:, half:] = self.power[back][:, size - np.arange(half, size)]
        return np.fft.fftshift(whole)

    def __repr__(self):
        return f"Spectrum({len(self.tiles)} tiles of {self.tile_px}², {self.pixel_size:g} Å/pixel)"


def estimate_spectrum(micrograph, *, tile_px=None, limit=5.0):
    """Average power spectrum of half-overlapping tiles.

    Parameters
    ----------
    micrograph : Micrograph
        Finite; of any shape.
    tile_px : int, optional
        512 by default, more where that is less than 600 Å, and less where a micrograph would hold fewer than 7 × 7
        tiles, as far as they are 600 Å wide.
    limit : float
        Å: the power of each tile is kept up to here, or up to 95 % of Nyquist.

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError
        A micrograph smaller than a tile, or with `defects`.

    Notes
    -----
    Tiles are weighted by half a sine wave along each axis: with steps of half a tile every pixel away from the edges
    counts the same, and a carbon edge leaks little. Rohou & Grigorieff, J Struct Biol 192:216 (2015), take square tiles
    without overlap.

    Examples
    --------
    >>> from cryonb import Micrograph
    >>> noise = np.random.default_rng(0).standard_normal((512, 700))
    >>> spectrum = estimate_spectrum(Micrograph(noise, 5.0))
    >>> spectrum, bool(abs(spectrum.power[5:-5, 5:].mean() - 1) < 0.02)
    (Spectrum(70 tiles of 128², 5 Å/pixel), True)
    """
    broken = defects(micrograph)
    if broken:
        raise ValueError(f"this micrograph has no spectrum to speak of: {broken}")
    size = default_tile(micrograph) if tile_px is None else int(tile_px)
    smallest = min(micrograph.data.shape)
    if not 32 <= size <= smallest:
        raise ValueError(f"tile_px must lie between 32 and the micrograph's {smallest} px, got {size}")
    kx = np.fft.rfftfreq(size, micrograph.pixel_size)
    ky = np.fft.fftfreq(size, micrograph.pixel_size)
    radius = np.hypot(kx[None, :], ky[:, None])
    step = 1 / (size * micrograph.pixel_size)
    reach = min(1 / limit, 0.95 * 0.5 / micrograph.pixel_size)
    kept = (radius <= reach) & (np.abs(kx)[None, :] > 1.5 * step) & (np.abs(ky)[:, None] > 1.5 * step)
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size).astype(np.float32)
    window = np.outer(window, window) / np.float32(size / 2)
    starts = [_starts(side, size) for side in micrograph.data.shape]
    power, rows = np.zeros(radius.shape, dtype=np.float64), []
    for y in starts[0]:
        block = np.stack([micrograph.data[y : y + size, x : x + size] for x in starts[1]])
        block = (block - block.mean(axis=(1, 2), keepdims=True)) * window
        transform = scipy.fft.rfft2(block)
        squares = transform.real**2 + transform.imag**2
        power += squares.sum(axis=0, dtype=np.float64)
        rows.append(squares[:, kept])
    tiles = np.concatenate(rows)
    inflation = float(np.prod([_inflation(start, size) for start in starts]))
    grid = np.broadcast_arrays(kx[None, :], ky[:, None])
    return Spectrum(
        (power / len(tiles)).astype(np.float32), micrograph.pixel_size, grid[0][kept], grid[1][kept], tiles, inflation
    )


def defects(micrograph):
    """Why a micrograph cannot be analysed: "" if it can.

    Parameters
    ----------
    micrograph : Micrograph

    Returns
    -------
    str
        "nan", "black" (constant) or "saturated", with figures.

    Examples
    --------
    >>> from cryonb import Micrograph
    >>> defects(Micrograph(np.zeros((8, 8)), 1.0))
    'black: all pixels are 0'
    """
    data = micrograph.data
    finite = int(np.isfinite(data).sum())
    if finite < data.size:
        return f"nan: {data.size - finite} of {data.size} pixels are not finite"
    low, high = float(data.min()), float(data.max())
    if low == high:
        return f"black: all pixels are {low:g}"
    ends = [(high, data < high), (low, data > low)]
    if low == 0 and (data == np.rint(data)).all():
        ends.pop()  # electrons counted one by one: many pixels are 0 by right
    for value, inner in ends:
        share = 1 - float(inner.mean())
        if share > SATURATED:
            # Quantised data may be common at its ends too: what counts is that it is far commoner there than beside.
            beside = data[inner].max() if value == high else data[inner].min()
            if share > 3 * np.mean(data == beside):
                return f"saturated: {100 * share:.0f} % of the pixels are {value:g}"
    return ""


def default_tile(micrograph):
    """Width in pixels of the tiles that a micrograph gets by default.

    Parameters
    ----------
    micrograph : Micrograph
    """
    smallest = min(micrograph.data.shape)
    wide_enough = scipy.fft.next_fast_len(int(np.ceil(TILE_WIDTH / micrograph.pixel_size)), real=True)
    wide_enough += wide_enough % 2
    size = max(min(TILE_PX, 2 * (smallest // 8)), wide_enough)
    return min(size, smallest - smallest % 2)


def _starts(side, size):
    """First pixels of tiles spread over a side by steps of half a tile or less."""
    count = max(1, int(np.ceil((side - size) / (size / 2))) + 1)
    return np.rint(np.linspace(0, side - size, count)).astype(int)


def _inflation(starts, size):
    """Variance of a mean of smooth functions of the tiles' power, over that of as many tiles apart: along one axis.

    The powers of two tiles correlate as the squares of their windows overlap (summed over neighbouring frequencies,
    which a window correlates too: Parseval).
    """
    square = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    lag = np.abs(starts[:, None] - starts)
    overlap = {int(shift): square[shift:] @ square[: max(0, size - shift)] for shift in np.unique(lag) if shift < size}
    return sum(value * int((lag == shift).sum()) for shift, value in overlap.items()) / (overlap[0] * len(starts))
