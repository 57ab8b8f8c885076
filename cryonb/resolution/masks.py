"""Masks around a particle, and the Fourier shell correlation with what the mask added taken out again."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from .. import filters, fourier
from .shells import FSC, check_finite, check_same_grid, half_transform, mask_values, volume_correlation

__all__ = ["CorrectedFSC", "automatic_mask", "correct_for_mask", "corrected_fsc", "randomise_phases"]

RANDOMISE_BELOW = 0.8  # unmasked FSC from which phases are randomised: well before the signal ends
LEAKAGE_SHELLS = 2  # a mask blurs true phases this far across the edge, so the correction starts beyond
NOISE_DEVIATIONS = 4.0  # of the solvent, that a mask's threshold must lie above it
LEAST_SHARE = 0.005  # of the box, that a mask must cover: a blob of noise covers 0.002


@dataclass(frozen=True, eq=False, repr=False)
class CorrectedFSC:
    """Half-map correlation under a mask, with and without what the mask itself contributes.

    Parameters
    ----------
    unmasked, masked : FSC
        Of the half maps as they are, and multiplied by the mask.
    randomised : FSC
        Masked, after the phases finer than ``randomise_from`` were randomised in both: only the mask correlates there.
    corrected : FSC
        ``(masked − randomised) / (1 − randomised)``, a negative randomised one counting as 0: the curve to report.
    randomise_from : float
        Å.
    """

    unmasked: FSC
    masked: FSC
    randomised: FSC
    corrected: FSC
    randomise_from: float

    @property
    def resolution(self):
        """Å, where the corrected curve falls below 0.143."""
        return self.corrected.at()

    def __repr__(self):
        return (
            f"CorrectedFSC({self.corrected.n_shells} shells, corrected {self.resolution:.3g} Å, masked "
            f"{self.masked.at():.3g} Å, unmasked {self.unmasked.at():.3g} Å, phases random from "
            f"{self.randomise_from:.3g} Å)"
        )


def corrected_fsc(half1, half2, mask, *, rng, randomise_from=None):
    """FSC of half maps under a mask, corrected for the correlation that the mask brings (phase randomisation).

    Parameters
    ----------
    half1, half2 : Volume
        Reconstructed from independent halves of the particles; same box and voxel size.
    mask : ndarray (d, d, d), Volume, "sphere" or "auto"
        As `cryonb.resolution.fourier_shell_correlation` takes it; ``"auto"`` is `automatic_mask` of their mean.
    rng : int or numpy.random.Generator
        Of the random phases.
    randomise_from : float, optional
        Å; by default the first shell whose unmasked FSC is below 0.8 (Nyquist where none is).

    Returns
    -------
    CorrectedFSC

    Raises
    ------
    ValueError
        Boxes or voxel sizes that differ, values that are not finite, a ``randomise_from`` outside the box's shells.

    Notes
    -----
    FSC_true = (FSC_masked − FSC_randomised) / (1 − FSC_randomised) (Chen et al., Ultramicroscopy 135:24 (2013), here
    with the mask as the only source of false correlation). A mask multiplies, so it convolves the transforms and drags
    true phases a little way across the edge: the first two shells after it are left uncorrected. A corrected curve
    that dips at ``randomise_from`` and rises again means that the mask is too tight.

    Examples
    --------
    Independent noise under a tight mask: the mask alone correlates nothing, and nothing is left of it.

    >>> from cryonb.types import Volume
    >>> rng = np.random.default_rng(0)
    >>> a, b = (Volume(rng.normal(size=(32, 32, 32)), 2.0) for _ in range(2))
    >>> result = corrected_fsc(a, b, filters.soft_sphere(32, 8, edge_px=4), rng=0, randomise_from=32.0)
    >>> bool(np.abs(result.corrected.correlation[8:].mean()) < 0.1)
    True
    """
    check_same_grid(half1, half2)
    mean = half1.with_data((half1.data + half2.data) / 2)
    factor = automatic_mask(mean) if isinstance(mask, str) and mask == "auto" else mask_values(mask, half1, half2)
    unmasked = _correlation(half1.data, half2.data, half1.voxel_size)
    start = _first_random_shell(unmasked, randomise_from, half1.box_size)
    generators = np.random.default_rng(rng).spawn(2)
    masked = _correlation(half1.data * factor, half2.data * factor, half1.voxel_size)
    random = (
        randomise_phases(half, half1.box_size / start, rng=generator).data * factor
        for half, generator in zip((half1, half2), generators, strict=True)
    )
    randomised = _correlation(*random, half1.voxel_size)
    chance = replace(randomised, correlation=np.maximum(randomised.correlation, 0))  # a mask takes nothing away
    corrected = correct_for_mask(masked, chance, from_shell=start + LEAKAGE_SHELLS)
    return CorrectedFSC(unmasked, masked, randomised, corrected, half1.box_size / start)


def correct_for_mask(masked, randomised, *, from_shell):
    """(FSC_masked − FSC_randomised) / (1 − FSC_randomised) from one shell on, the masked curve before it.

    Parameters
    ----------
    masked, randomised : FSC
        Of one grid.
    from_shell : int

    Returns
    -------
    FSC

    Examples
    --------
    >>> shells = np.arange(3) / 10
    >>> masked, randomised = (FSC(shells, np.array([1, 0.9, value]), np.ones(3), 2.5) for value in (0.6, 0.2))
    >>> correct_for_mask(masked, randomised, from_shell=2).correlation.round(6).tolist()
    [1.0, 0.9, 0.5]
    """
    if masked.n_shells != randomised.n_shells:
        raise ValueError(f"the curves must have the same shells, got {masked.n_shells} and {randomised.n_shells}")
    difference, room = masked.correlation - randomised.correlation, 1 - randomised.correlation
    true = np.divide(difference, room, out=np.zeros_like(difference), where=room > 1e-6)
    beyond = np.arange(masked.n_shells) >= from_shell
    return FSC(masked.frequency, np.where(beyond, true, masked.correlation), masked.n_pixels, masked.pixel_size)


def randomise_phases(volume, resolution, *, rng):
    """The same amplitudes with random phases at everything finer than ``resolution``.

    Parameters
    ----------
    volume : Volume
    resolution : float
        Å; the shell there is the first to be randomised.
    rng : int or numpy.random.Generator

    Returns
    -------
    Volume

    Examples
    --------
    >>> from cryonb.types import Volume
    >>> volume = Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), 2.0)
    >>> random = randomise_phases(volume, 8.0, rng=1)
    >>> before, after = (fourier.shell_mean(np.abs(fourier.transform(v.data)), ndim=3) for v in (volume, random))
    >>> bool(np.allclose(before, after, rtol=1e-4)), bool(np.allclose(volume.data, random.data, atol=0.1))
    (True, False)
    """
    check_finite(volume.data)
    data = random_phase_images(volume.data[None], resolution / volume.voxel_size, np.random.default_rng(rng), ndim=3)
    return volume.with_data(data[0])


def random_phase_images(images, resolution_px, rng, *, ndim):
    """`randomise_phases` for a stack (n, d, d) or (n, d, d, d), with the resolution in pixels.

    The phases are those of the transform of white noise, so that the result is real and all phases are as likely.
    """
    size_px, axes = images.shape[-1], tuple(range(-ndim, 0))
    frequency = [np.fft.fftfreq(size_px)] * (ndim - 1) + [np.fft.rfftfreq(size_px)]
    radius = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*frequency, indexing="ij"))) * size_px
    fine = np.rint(radius) >= round(size_px / resolution_px)
    transform = scipy.fft.rfftn(images, axes=axes)
    noise = scipy.fft.rfftn(rng.standard_normal(images.shape, dtype=np.float32), axes=axes)
    noise /= np.maximum(np.abs(noise), np.finfo(np.float32).tiny)
    transform = np.where(fine, np.abs(transform) * noise, transform)
    return scipy.fft.irfftn(transform, s=images.shape[-ndim:], axes=axes)


def automatic_mask(volume, *, resolution=15.0, threshold=None, extend=6.0, edge=10.0):
    """Soft mask around the particle: low-pass, threshold found from the grey levels, extend, cosine edge.

    Parameters
    ----------
    volume : Volume
        The mean of the half maps, unsharpened.
    resolution : float
        Å, of the low-pass filter; three voxels where that is coarser.
    threshold : float, optional
        Grey level after the filter. By default the higher of two: Otsu's split of the grey levels, and four standard
        deviations of the solvent above the solvent.
    extend, edge : float
        Å: how far the mask reaches beyond the threshold, and the width of its edge after that (at least two and three
        voxels).

    Returns
    -------
    ndarray (d, d, d) float32, 0 … 1

    Raises
    ------
    ValueError
        No voxel, less than half a percent or more than half of the box is within the mask: there is no particle to be
        told from solvent.

    Notes
    -----
    Otsu's split (IEEE Trans Syst Man Cybern 9:62 (1979)) fails where a small particle stands weakly in much noise; the
    solvent's own spread then decides. It is measured below the median, where the particle does not reach. Only the
    largest connected body is kept (`cryonb.filters.soft_mask`).

    Examples
    --------
    >>> from cryonb.types import Volume
    >>> ball = Volume(filters.soft_sphere(32, 6.0), 4.0)
    >>> mask = automatic_mask(ball, extend=8, edge=16)
    >>> float(mask[16, 16, 16 + 7]), float(mask[16, 16, 2])
    (1.0, 0.0)
    """
    if extend < 0 or edge < 0:
        raise ValueError(f"extend and edge must be 0 Å or more, got {extend:g} and {edge:g}")
    check_finite(volume.data)
    resolution = max(resolution, 3 * volume.voxel_size)
    if threshold is None:
        threshold = mask_threshold(filters.low_pass(volume, resolution).data)
    mask = filters.soft_mask(
        volume,
        threshold=threshold,
        resolution=resolution,
        dilate_px=max(2.0, extend / volume.voxel_size),
        edge_px=max(3.0, edge / volume.voxel_size),
    )
    inside = float(np.mean(mask >= 0.5))
    if inside < LEAST_SHARE:
        raise ValueError(
            f"the mask would cover {100 * inside:.1f} % of the box at the threshold {threshold:.3g}; expected at least "
            f"{100 * LEAST_SHARE:g} %: no particle stands out from the solvent, or the box is far too large"
        )
    if inside > 0.5:
        raise ValueError(
            f"the mask would cover {100 * inside:.0f} % of the box at the threshold {threshold:.3g}; expected less "
            "than half: no particle stands out from the solvent, or the box is too small"
        )
    return mask


def mask_threshold(smooth):
    """Grey level between solvent and particle of a low-passed density (d, d, d), as in `automatic_mask`."""
    inside = smooth[fourier.radius_px(smooth.shape[-1], ndim=3) < smooth.shape[-1] / 2]
    solvent, low = np.quantile(inside, [0.5, 0.1587])  # 0.1587: one standard deviation below the mean of a Gaussian
    noise = solvent + NOISE_DEVIATIONS * (solvent - low)
    otsu = filters.otsu_threshold(smooth)
    return float(max(otsu, noise)) if noise < inside.max() else float(otsu)


def _correlation(a, b, voxel_size):
    return volume_correlation(half_transform(a), half_transform(b), voxel_size)


def _first_random_shell(unmasked, randomise_from, box_size):
    if randomise_from is None:
        below = np.flatnonzero(unmasked.correlation[1:] < RANDOMISE_BELOW) + 1
        return int(below[0]) if len(below) else unmasked.n_shells - 1
    shell = round(box_size / randomise_from) if randomise_from > 0 else 0
    if not 1 <= shell < unmasked.n_shells:
        finest = 1 / unmasked.frequency[-1]
        raise ValueError(f"randomise_from must be between {finest:.3g} and {box_size:.4g} Å, got {randomise_from:g} Å")
    return shell
