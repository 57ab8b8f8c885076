"""Does the resolution come from the particles: more of them, and noise in their place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .masks import LEAKAGE_SHELLS, correct_for_mask, random_phase_images
from .shells import FSC, HALF_MAP_THRESHOLD, fourier_shell_correlation

__all__ = ["NoiseSubstitution", "ResLog", "noise_substitution_test", "reslog", "subset_resolutions", "substitute_noise"]

BATCH = 512  # images in memory at once, beside the result


@dataclass(frozen=True, eq=False, repr=False)
class ResLog:
    """Resolution over the number of particles, and the line 1/d² = a + (2/B) ln N.

    Parameters
    ----------
    n_particles : ndarray (m,)
    resolution : ndarray (m,)
        Å.
    slope, intercept : float
        Of 1/d² in Å⁻² over ln N.
    """

    n_particles: np.ndarray
    resolution: np.ndarray
    slope: float
    intercept: float

    @property
    def b_factor(self):
        """Å², 2 / slope (Rosenthal & Henderson 2003); infinite where more particles bring nothing."""
        return float(2 / self.slope) if self.slope > 0 else float("inf")

    def at(self, n_particles):
        """Resolution in Å that the line promises for ``n_particles``."""
        square = self.intercept + self.slope * np.log(np.asarray(n_particles, dtype=float))
        return 1 / np.sqrt(np.maximum(square, 1e-12))

    def needed(self, resolution):
        """Particles for a ``resolution`` in Å, by the line."""
        return np.exp((np.asarray(resolution, dtype=float) ** -2.0 - self.intercept) / self.slope)

    def __repr__(self):
        pairs = ", ".join(f"{n:,.0f}: {d:.3g} Å" for n, d in zip(self.n_particles, self.resolution, strict=True))
        return f"ResLog({pairs}; B {self.b_factor:.3g} Å²)"


def reslog(n_particles, resolution):
    """Fit of resolution against the number of particles.

    Parameters
    ----------
    n_particles : sequence of int
        Two sizes or more, different ones.
    resolution : sequence of float or of FSC
        Å, one for each size; curves are read at 0.143.

    Returns
    -------
    ResLog

    Raises
    ------
    ValueError
        Lengths that differ, fewer than two finite resolutions.

    Notes
    -----
    Stagg et al., J Struct Biol 185:418 (2014), draw 1/d over log N; the B factor needs 1/d² over ln N, with slope 2/B
    (Rosenthal & Henderson, J Mol Biol 333:721 (2003)), which is fitted here. Sizes whose resolution is infinite or at
    Nyquist say nothing about the slope: leave the latter out.

    Examples
    --------
    >>> sizes = np.array([1000, 2000, 4000, 8000])
    >>> result = reslog(sizes, 1 / np.sqrt(0.01 + 2 / 100 * np.log(sizes)))
    >>> round(result.b_factor, 6), bool(np.isclose(result.needed(result.at(16000)), 16000))
    (100.0, True)
    """
    n_particles = np.asarray(n_particles, dtype=float)
    resolution = np.array([one.at() if isinstance(one, FSC) else float(one) for one in resolution])
    if n_particles.shape != resolution.shape:
        raise ValueError(f"one resolution per size: got {len(n_particles)} sizes and {len(resolution)} resolutions")
    known = np.isfinite(resolution) & (resolution > 0) & (n_particles > 0)
    if len(np.unique(n_particles[known])) < 2:
        raise ValueError(f"a line needs two sizes with a finite resolution, got {int(known.sum())}")
    slope, intercept = np.polyfit(np.log(n_particles[known]), resolution[known] ** -2.0, 1)
    return ResLog(n_particles, resolution, float(slope), float(intercept))


def subset_resolutions(half_maps_of, n_particles, *, rng, sizes=None, threshold=HALF_MAP_THRESHOLD, mask=None):
    """Resolution of growing random subsets: what `reslog` fits.

    Parameters
    ----------
    half_maps_of : callable
        Takes row numbers (k,) and returns two half-map Volumes, or their FSC.
    n_particles : int
        Rows are drawn from 0 … ``n_particles`` − 1; each subset contains the smaller ones.
    rng : int or numpy.random.Generator
    sizes : sequence of int, optional
        By default five, each twice the one before, up to all.
    threshold : float
    mask : optional
        As in `cryonb.resolution.fourier_shell_correlation`.

    Returns
    -------
    sizes, resolution : ndarray (m,), ndarray (m,)
        Å.

    Examples
    --------
    >>> def half_maps_of(rows):
    ...     step = np.arange(3) / 10
    ...     return FSC(step, np.array([1, 1, 0.5 - 100 / len(rows)]), np.ones(3), 2.5)
    >>> sizes, resolution = subset_resolutions(half_maps_of, 1600, rng=0)
    >>> sizes.tolist(), bool((np.diff(resolution) <= 0).all())
    ([100, 200, 400, 800, 1600], True)
    """
    sizes = n_particles // 2 ** np.arange(4, -1, -1) if sizes is None else np.sort(np.asarray(sizes, dtype=int))
    if sizes[0] < 2 or sizes[-1] > n_particles:
        raise ValueError(f"sizes must be between 2 and {n_particles} particles, got {sizes[0]} to {sizes[-1]}")
    order = np.random.default_rng(rng).permutation(n_particles)
    curves = [_curve(half_maps_of(np.sort(order[:size])), mask) for size in sizes]
    return sizes, np.array([curve.at(threshold) for curve in curves])


@dataclass(frozen=True, eq=False, repr=False)
class NoiseSubstitution:
    """FSC of the same procedure on the particles, and on particles whose fine detail is noise.

    Parameters
    ----------
    original, substituted : FSC
        Of the data, and of the data with random phases finer than ``randomise_from``.
    corrected : FSC
        ``(original − substituted) / (1 − substituted)``: what is left of signal.
    randomise_from : float
        Å.
    """

    original: FSC
    substituted: FSC
    corrected: FSC
    randomise_from: float

    @property
    def overfitting(self):
        """Mean correlation that the procedure made out of noise, beyond ``randomise_from``; 0 is none."""
        first = np.searchsorted(self.original.frequency, 1 / self.randomise_from - 1e-9) + LEAKAGE_SHELLS
        return float(self.substituted.correlation[min(first, self.original.n_shells - 1) :].mean())

    def __repr__(self):
        return (
            f"NoiseSubstitution(from {self.randomise_from:.3g} Å: reported {self.original.at():.3g} Å, corrected "
            f"{self.corrected.at():.3g} Å, {self.overfitting:.2f} of noise correlates)"
        )


def noise_substitution_test(half_maps_of, particles, *, resolution, rng, mask=None):
    """Repeat a procedure on particles without fine detail: whatever correlates there was made by the procedure.

    Parameters
    ----------
    half_maps_of : callable
        The whole procedure, alignment included: takes Particles and returns two half-map Volumes, or their FSC. It
        must start from where the original did, not from its result.
    particles : Particles
    resolution : float
        Å: from here on phases are randomised. Take it coarser than the resolution that is claimed.
    rng : int or numpy.random.Generator
    mask : optional
        As in `cryonb.resolution.fourier_shell_correlation`.

    Returns
    -------
    NoiseSubstitution

    Notes
    -----
    Chen et al., Ultramicroscopy 135:24 (2013): FSC_true = (FSC_t − FSC_n) / (1 − FSC_n), from two shells after the edge
    on. It also holds the correlation that a mask brings.

    Examples
    --------
    >>> from cryonb.types import Particles
    >>> def blind(particles):  # a procedure that reports the same, whatever it is given
    ...     return FSC(np.arange(9) / 16, np.ones(9), np.ones(9), 1.0)
    >>> images = np.random.default_rng(0).normal(size=(4, 16, 16))
    >>> noise_substitution_test(blind, Particles(images, 1.0), resolution=4.0, rng=0).overfitting
    1.0
    """
    original = _curve(half_maps_of(particles), mask)
    substituted = _curve(half_maps_of(substitute_noise(particles, resolution, rng=rng)), mask)
    first = int(np.searchsorted(original.frequency, 1 / resolution - 1e-9)) + LEAKAGE_SHELLS
    corrected = correct_for_mask(original, substituted, from_shell=first)
    return NoiseSubstitution(original, substituted, corrected, float(resolution))


def substitute_noise(particles, resolution, *, rng):
    """Particles with their amplitudes kept and their phases random at everything finer than ``resolution`` (Å).

    Parameters
    ----------
    particles : Particles
    resolution : float
        Å.
    rng : int or numpy.random.Generator

    Returns
    -------
    Particles, with images in memory.

    Raises
    ------
    ValueError
        A resolution beyond Nyquist or coarser than the box.

    Examples
    --------
    >>> from cryonb.types import Particles
    >>> images = np.random.default_rng(0).normal(size=(3, 16, 16))
    >>> random = substitute_noise(Particles(images, 2.0), 8.0, rng=1)
    >>> from cryonb.filters import high_pass, low_pass
    >>> change = random.images - images
    >>> bool(np.allclose(low_pass(change, 16.0, 2.0), 0, atol=1e-5)), bool(high_pass(change, 7.0, 2.0).std() > 1)
    (True, True)
    """
    from dataclasses import replace

    if not 2 * particles.pixel_size <= resolution <= particles.box_size:
        raise ValueError(
            f"resolution must be between Nyquist, {2 * particles.pixel_size:g} Å, and the box, "
            f"{particles.box_size:g} Å; got {resolution:g} Å"
        )
    generator = np.random.default_rng(rng)
    images = np.empty((len(particles), particles.size_px, particles.size_px), dtype=np.float32)
    for start in range(0, len(particles), BATCH):
        rows = slice(start, start + BATCH)
        batch = np.asarray(particles.images[rows], dtype=np.float32)
        images[rows] = random_phase_images(batch, resolution / particles.pixel_size, generator, ndim=2)
    return replace(particles, images=images)


def _curve(result, mask):
    if isinstance(result, FSC):
        return result
    if isinstance(result, Sequence) and len(result) == 2:
        return fourier_shell_correlation(*result, mask=mask)
    raise TypeError(f"half_maps_of must return two Volumes or an FSC, got {type(result).__name__}")
