"""Half maps of an atomic model whose Fourier shell correlation falls to 0.143 where it is told to."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage

from .. import fourier
from ..projection import model_density
from ..types import AtomicModel, Volume

__all__ = ["HalfMaps", "box_around", "half_maps"]

THRESHOLD = 0.143  # Rosenthal & Henderson, J Mol Biol 333:721 (2003)
B_OVERALL = 80.0  # Å² on top of the model's own: alignment and imaging blur, of the order that sharpening takes off
MASK_RADIUS, MASK_EDGE = 3.0, 3.0  # Å around the atoms: the mask in which the resolution holds


@dataclass(frozen=True, eq=False)
class HalfMaps:
    """Two independent noisy volumes of one density.

    Parameters
    ----------
    half_1, half_2 : Volume
        Signal plus noise; not filtered, not sharpened.
    clean : Volume
        The signal alone.
    mask : ndarray (d, d, d) float32
        In [0, 1]: around the model, where ``resolution`` holds.
    resolution : float
        Å, where the FSC of the masked halves is 0.143.
    """

    half_1: Volume
    half_2: Volume
    clean: Volume
    mask: np.ndarray
    resolution: float

    def __repr__(self):
        return f"HalfMaps({self.half_1!r}, FSC 0.143 at {self.resolution:g} Å)"

    @property
    def mean(self):
        """The mean of the halves, a Volume."""
        return self.half_1.with_data((self.half_1.data + self.half_2.data) / 2)


def box_around(model, voxel_size, *, margin=10.0):
    """An empty cubic box around a model, of a size that transforms quickly.

    Parameters
    ----------
    model : AtomicModel
    voxel_size : float
        Å.
    margin : float
        Å between the outermost atoms and the faces, at least.

    Returns
    -------
    Volume: zeros, even, with the model's middle at voxel ``d // 2``; the origin is not a whole number of voxels.
    """
    coordinates = model.coordinates
    low, high = coordinates.min(axis=0) - margin, coordinates.max(axis=0) + margin
    size = scipy.fft.next_fast_len(int(np.ceil((high - low).max() / voxel_size)), real=True)
    while size % 2:
        size = scipy.fft.next_fast_len(size + 1, real=True)
    return Volume(np.zeros((size,) * 3), voxel_size, (low + high) / 2 - size // 2 * voxel_size)


def half_maps(model, resolution, *, rng, voxel_size=None, like=None, b_factor=B_OVERALL):
    """Simulate two half maps of an atomic model.

    Parameters
    ----------
    model : AtomicModel
        The truth; its own B factors stay.
    resolution : float
        Å, where the FSC of the halves inside a mask around the model is 0.143.
    rng : int or numpy.random.Generator
    voxel_size : float, optional
        Å; a third of the resolution by default, in a box from `box_around`.
    like : Volume, optional
        Another box, voxel size and origin, instead.
    b_factor : float
        Å², added to every atom: how fast the signal falls before sharpening.

    Returns
    -------
    HalfMaps

    Raises
    ------
    ValueError
        A resolution beyond Nyquist, no atom inside the box, or an ``rng`` without a seed.

    Notes
    -----
    Per half map FSC = S / (S + N) with the powers S of the signal and N of the noise in a shell, both inside the mask.
    The noise is white, so one number fixes it: N = S(1/d) (1 − 0.143) / 0.143.
    """
    if not isinstance(model, AtomicModel):
        raise TypeError(f"model must be an AtomicModel, got {type(model).__name__}")
    rng = np.random.default_rng(rng)
    if like is None:
        like = box_around(model, resolution / 3 if voxel_size is None else voxel_size)
    if resolution < 2 * like.voxel_size:
        raise ValueError(f"resolution {resolution:g} Å is beyond the {2 * like.voxel_size:g} Å of voxels ({like!r})")
    clean = model_density(model, like, b_factors=model.b_factors + b_factor)
    mask = _mask(model, like)
    seen = fourier.transform(clean.data * mask)
    power = fourier.shell_mean(np.abs(seen) ** 2, ndim=3)
    shell = like.box_size / resolution
    wanted = np.exp(np.interp(shell, np.arange(1, len(power)), np.log(power[1:])))
    per_voxel = wanted * (1 - THRESHOLD) / THRESHOLD / (mask.astype(float) ** 2).sum()
    halves = [clean.with_data(clean.data + rng.normal(0, np.sqrt(per_voxel), clean.data.shape)) for _ in range(2)]
    return HalfMaps(*halves, clean, mask, float(resolution))


def _mask(model, like):
    """1 within 3 Å of an atom, then a cosine edge 3 Å wide."""
    index = np.rint((model.coordinates - like.origin) / like.voxel_size).astype(int)
    index = index[((index >= 0) & (index < like.size_px)).all(axis=1)]
    empty = np.ones(like.data.shape, dtype=bool)
    empty[tuple(index[:, ::-1].T)] = False
    distance = scipy.ndimage.distance_transform_edt(empty) * like.voxel_size
    ramp = np.clip((distance - MASK_RADIUS) / MASK_EDGE, 0, 1)
    return ((1 + np.cos(np.pi * ramp)) / 2).astype(np.float32)
