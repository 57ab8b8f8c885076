"""The frames of an exposure to one micrograph: whole-frame drift taken out, radiation damage weighted down."""

from dataclasses import dataclass

import numpy as np
import scipy.fft

from .filters import dose_attenuation
from .types import Micrograph

__all__ = ["Motion", "align_frames", "dose_weights", "sum_frames"]

COARSEST = 300.0  # Å: what is coarser, such as uneven illumination, need not move with the specimen
# From groups of neighbouring frames, blurred, far and wide, to single frames, sharp and near:
# half the width of a group as a part of all frames; B in Å² of the weight exp(−B k²/4); Å to search; rounds.
STAGES = ((0.2, 2000.0, 60.0, 2), (0.1, 1000.0, 20.0, 3), (0.05, 500.0, 10.0, 3), (0.0, 300.0, 6.0, 6))
STILL = 0.01  # pixels: rounds end when no frame moves farther
NEWTON = 6
CAUTION = 1.4  # of cross-validation: each degree of freedom counts 1.4 (Kim & Gu, J R Stat Soc B 66:337, 2004)


@dataclass(frozen=True, eq=False, repr=False)
class Motion:
    """Where the specimen lies in each frame.

    Parameters
    ----------
    drift : ndarray (f, 2)
        Å, (x, y), against the mean over the frames; smooth.
    measured : ndarray (f, 2)
        The same of each frame for itself.
    pixel_size : float
        Å.
    rounds : int
        Until no frame moved.
    """

    drift: np.ndarray
    measured: np.ndarray
    pixel_size: float
    rounds: int

    def __len__(self):
        return len(self.drift)

    def __repr__(self):
        length = np.hypot(*np.diff(self.drift, axis=0).T).sum()
        return f"Motion({len(self)} frames, path of {length:.1f} Å)"


def align_frames(frames, pixel_size, *, resolution=6.0):
    """Whole-frame drift by phase correlation of each frame with the sum of the others.

    Parameters
    ----------
    frames : ndarray (f, h, w)
        Of one exposure, gain corrected.
    pixel_size : float
        Å.
    resolution : float
        Å: finer frequencies are left out.

    Returns
    -------
    Motion

    Raises
    ------
    ValueError
        Fewer than two frames, pixels that are not finite, a frame that is constant.

    Notes
    -----
    Frames are whitened, so that no frequency counts for its brightness; the correlation is weighted by exp(−B
    k²/4), and its peak refined by Newton's method to a fraction of a pixel. Groups of neighbouring frames go first
    and single frames last; each round starts from the path of the one before. The path is the smooth curve nearest
    to the measured shifts: its second differences are penalised, as strongly as generalised cross-validation says
    (Craven & Wahba, Numer Math 31:377, 1979). After Grant & Grigorieff, eLife 4:e06980 (2015). Motion that differs
    across the field stays.

    Examples
    --------
    >>> from cryonb import CTF, simulate
    >>> field = simulate.Field(CTF(2e4, 2e4, b_factor=60), (256, 256), 2.0, amorphous=0.5)
    >>> frames, truth = simulate.movie([], field, simulate.Exposure(6, 2.0, 12.0), rng=0)
    >>> found = align_frames(frames, 2.0)
    >>> error = (found.drift - truth.drift) - (found.drift - truth.drift).mean(axis=0)
    >>> bool(np.sqrt((error**2).sum(1).mean()) < 0.3 * 2.0)
    True
    """
    frames = _checked(frames)
    transforms, kx, ky = _cropped(frames, pixel_size, resolution)
    radius = np.hypot(kx, ky)
    transforms = _whitened(transforms, radius)
    drift = measured = np.zeros((len(frames), 2))
    rounds = 0
    for width, envelope, reach, most in STAGES:
        weight = np.where(radius > 1 / COARSEST, np.exp(-0.25 * envelope * radius**2), 0.0).astype(np.float32)
        group = _groups(len(frames), int(width * len(frames)))
        for _ in range(most):
            found = drift + _offsets(transforms, (kx, ky), drift, group, weight, reach)
            smooth = _smoothed(found)
            moved = np.abs(smooth - drift).max() / pixel_size
            measured, drift, rounds = found, smooth, rounds + 1
            if moved < STILL:
                break
    centre = drift.mean(axis=0)
    return Motion(drift - centre, measured - centre, float(pixel_size), rounds)


def dose_weights(frequency, doses, voltage_kv=300.0):
    """Weights of frames at given frequencies, scaled so that they leave the noise of a plain sum.

    w_f(k) = q_f(k) √(n / Σ q²), with q_f = exp(−N_f / 2 Nc(k)) (`cryonb.filters.dose_attenuation`).

    Parameters
    ----------
    frequency : ndarray k
        Å⁻¹.
    doses : ndarray (f,)
        e/Å² that the specimen has received in each frame.
    voltage_kv : float

    Returns
    -------
    ndarray (f, *k)

    Notes
    -----
    Grant & Grigorieff, eLife 4:e06980 (2015), equation 9, times √n.

    Examples
    --------
    >>> weights = dose_weights(np.array([0.0, 0.2]), [1.0, 20.0])
    >>> (weights**2).sum(axis=0).round(6).tolist(), weights[:, 0].tolist(), bool(weights[0, 1] > weights[1, 1])
    ([2.0, 2.0], [1.0, 1.0], True)
    """
    q = np.stack([dose_attenuation(frequency, float(dose), voltage_kv) for dose in doses])
    return q * np.sqrt(len(q) / (q**2).sum(axis=0))


def sum_frames(frames, pixel_size, drift=None, *, dose=None, before=0.0, voltage_kv=300.0):
    """Sum of frames, each moved back by its drift, weighted by dose if asked.

    Parameters
    ----------
    frames : ndarray (f, h, w)
    pixel_size : float
        Å.
    drift : ndarray (f, 2), or Motion, optional
        Å; none by default.
    dose : float, optional
        e/Å² per frame: weights by `dose_weights`, each frame's dose taken in its middle (Unblur takes its end).
    before : float
        e/Å² that the specimen received before the first frame.
    voltage_kv : float

    Returns
    -------
    Micrograph

    Raises
    ------
    ValueError
        As `align_frames`; a drift of another number of frames; a dose that is not positive.

    Notes
    -----
    Frames move in Fourier space: what leaves at one edge comes in at the other.
    """
    frames = _checked(frames, least=1)
    n, height, width = frames.shape
    drift = np.zeros((n, 2)) if drift is None else np.asarray(getattr(drift, "drift", drift), dtype=float)
    if drift.shape != (n, 2):
        raise ValueError(f"drift must have shape ({n}, 2) in Å for {n} frames, got {drift.shape}")
    if dose is not None and not dose > 0:
        raise ValueError(f"dose must be positive in e/Å² per frame, got {dose}")
    kx = np.fft.rfftfreq(width, pixel_size)[None, :]
    ky = np.fft.fftfreq(height, pixel_size)[:, None]
    total = np.zeros((height, kx.shape[1]), dtype=np.complex64)
    weight, squares = 1.0, np.zeros(total.shape, dtype=np.float32)
    radius = np.hypot(kx, ky).astype(np.float32)
    for f in range(n):
        if dose is not None:
            weight = dose_attenuation(radius, before + (f + 0.5) * dose, voltage_kv).astype(np.float32)
            squares += weight**2
        total += scipy.fft.rfft2(frames[f].astype(np.float32)) * _phase(kx, ky, -drift[f]) * weight
    if dose is not None:
        total *= np.sqrt(n / squares)
    return Micrograph(scipy.fft.irfft2(total, s=(height, width)), pixel_size)


def _checked(frames, least=2):
    frames = np.asarray(frames)
    if frames.ndim != 3 or len(frames) < least:
        raise ValueError(f"frames must have shape (f, h, w) with {least} frames or more, got {frames.shape}")
    for f, frame in enumerate(frames):
        if not np.isfinite(frame).all():
            raise ValueError(f"frame {f + 1} of {len(frames)} has pixels that are not finite")
        if least > 1 and frame.min() == frame.max():
            raise ValueError(f"frame {f + 1} of {len(frames)} is constant: {frame.flat[0]:g}")
    return frames


def _cropped(frames, pixel_size, resolution):
    """Half-plane transforms up to a resolution, (f, rows, columns) complex64, and their frequencies."""
    _, height, width = frames.shape
    kx, ky = np.fft.rfftfreq(width, pixel_size), np.fft.fftfreq(height, pixel_size)
    limit = min(1 / resolution, 0.95 * 0.5 / pixel_size)
    columns, rows = np.flatnonzero(kx <= limit), np.flatnonzero(np.abs(ky) <= limit)
    if len(columns) < 4 or len(rows) < 4:
        raise ValueError(f"frames of {width} × {height} px hold nothing between {COARSEST:g} and {resolution:g} Å")
    kept = np.ix_(rows, columns)
    transforms = np.stack([scipy.fft.rfft2(frame.astype(np.float32))[kept] for frame in frames])
    return transforms, *(grid.astype(np.float32) for grid in np.meshgrid(kx[columns], ky[rows]))


def _whitened(transforms, radius):
    """Divide by the root mean square over the frames and rings of frequencies."""
    step = float(radius[0, 1])
    shell = np.rint(radius / step).astype(int)
    count = np.bincount(shell.ravel())
    power = np.mean(np.abs(transforms) ** 2, axis=0)
    level = np.bincount(shell.ravel(), weights=power.ravel()) / np.maximum(count, 1)
    return transforms / np.sqrt(np.maximum(level, 1e-30))[shell].astype(np.float32)


def _phase(kx, ky, shift):
    """exp(−2πi k·s), which moves an image by s (Å)."""
    x, y = np.float32(shift[0]), np.float32(shift[1])
    return np.exp(np.complex64(-2j * np.pi) * (kx * x + ky * y))


def _groups(n, half):
    """Weights (f, f) of the frames in the group about each frame: a triangle reaching ``half`` frames."""
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))
    return np.maximum(0, 1 - distance / (half + 1)).astype(np.float32)


def _offsets(transforms, grid, drift, group, weight, reach):
    """How far each group of frames still lies from the sum of the other frames, (f, 2) Å."""
    kx, ky = grid
    aligned = np.stack([transform * _phase(kx, ky, -shift) for transform, shift in zip(transforms, drift)])
    total = aligned.sum(axis=0)
    found = np.empty_like(drift)
    for f, row in enumerate(group):
        members = np.flatnonzero(row)
        part = np.tensordot(row[members], aligned[members], axes=1)
        others = total - aligned[members].sum(axis=0)
        if len(members) == len(group):
            others = total - aligned[f]
        cross = part * np.conj(others) * weight
        found[f] = _refined(cross, kx, ky, _peak(cross, kx, ky, reach), reach)
    return found - found.mean(axis=0)


def _peak(cross, kx, ky, reach):
    """Shift (x, y) in Å, no longer than ``reach``, of the largest value of a cross-correlation on a coarse grid."""
    rows, columns = cross.shape
    wide = 2 * columns - 1
    image = scipy.fft.irfft2(cross, s=(rows, wide))
    y = np.fft.fftfreq(rows, ky[1, 0] - ky[0, 0])
    x = np.fft.fftfreq(wide, kx[0, 1])
    near = np.hypot(x[None, :], y[:, None]) <= reach
    place = np.unravel_index(np.argmax(np.where(near, image, -np.inf)), image.shape)
    return np.array([x[place[1]], y[place[0]]])


def _refined(cross, kx, ky, start, reach):
    """The maximum of Re Σ cross exp(2πi k·s) nearest to a shift; sums over the half plane have the same maximum."""
    shift = np.array(start, dtype=float)
    for _ in range(NEWTON):
        wave = cross * _phase(kx, ky, -shift)
        height, slope = wave.real, wave.imag
        gradient = -2 * np.pi * np.array([(kx * slope).sum(), (ky * slope).sum()], dtype=float)
        xx, xy, yy = (-4 * np.pi**2 * float((a * b * height).sum()) for a, b in ((kx, kx), (kx, ky), (ky, ky)))
        if not (xx < 0 and xx * yy > xy**2):
            break  # not at a peak: what was found before stands
        step = -np.linalg.solve([[xx, xy], [xy, yy]], gradient)
        shift += step
        if np.abs(step).max() < 1e-3:
            break
    # a flat peak can send Newton's method away: then the place on the grid stands
    return shift if np.hypot(*shift) <= reach and np.hypot(*(shift - start)) <= 0.5 * reach else np.asarray(start)


def _smoothed(path):
    """Penalised least squares with the penalty of least generalised cross-validation; short paths stay as they are."""
    n = len(path)
    if n < 5:
        return path.copy()
    second = np.diff(np.eye(n), 2, axis=0)
    values, vectors = np.linalg.eigh(second.T @ second)
    values = np.maximum(values, 0)
    rotated = vectors.T @ path
    best, chosen = np.inf, np.ones(n)
    for penalty in np.append(0.0, 10 ** np.linspace(-3, 3, 25)):
        keep = 1 / (1 + penalty * values)
        left = n - CAUTION * keep.sum()
        if left < 0.5:
            continue
        score = (((1 - keep)[:, None] * rotated) ** 2).sum() / left**2
        if score < best:
            best, chosen = score, keep
    return vectors @ (chosen[:, None] * rotated)
