"""Particles to a landscape, view by view, as Dashti et al. published it."""

from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from cryonb import fourier
from cryonb.types import EnergyLandscape

from ..landscape import counting_landscape
from .distances import Bandwidth, double_filtered_distances
from .nlsa import nonlinear_spectrum, trimmed_diffusion_map
from .sense import movie_agreement, propagate_sense
from .view_bins import ViewBins, bin_views, prepare_view

__all__ = ["ClassicLandscape", "classic_landscape"]

_MINIMUM_PARTICLES = 200
_EIGENVECTORS = 15  # published
_NEIGHBORS = 6  # views that each is compared with for its sense
_WIENER = 0.2  # published: signal-to-noise ratio 5


@dataclass(frozen=True, eq=False, repr=False)
class ClassicLandscape:
    """What `classic_landscape` found.

    Parameters
    ----------
    coordinate : ndarray (n,)
        τ in [0, 1] per particle; NaN where its view had too few particles, where it was trimmed or not drawn, and
        where no sense could be given to its view.
    bins : ViewBins
    landscape : EnergyLandscape
        −ln count over the states.
    eigenvalues : tuple of ndarray (15,), one per view
    bandwidths : tuple of Bandwidth, one per view
    sense : ndarray (v,)
        1, −1 where τ was turned around, 0 where unknown.
    violated : float
        Share of the compared pairs of views whose movies contradict the senses given.
    agreement : ndarray (v, v)
        Between neighbouring views, before turning.
    movies : ndarray (v, s, d, d)
        Noise-reduced images averaged per state, in the view's frame, sense applied; states without images hold the
        nearest one with.
    """

    coordinate: np.ndarray
    bins: ViewBins
    landscape: EnergyLandscape
    eigenvalues: tuple
    bandwidths: tuple[Bandwidth, ...]
    sense: np.ndarray
    violated: float
    agreement: np.ndarray
    movies: np.ndarray

    def __repr__(self):
        used = int(np.isfinite(self.coordinate).sum())
        return f"ClassicLandscape({used} of {len(self.coordinate)} particles in {len(self.bins)} views)"


def classic_landscape(
    particles, *, rng, diameter, resolution=None, width=None, eigenvector=0, n_states=50, least=100, most=2000,
    progress=True,
):  # fmt: skip
    """The manifold embedding view by view, with no global model, to compare with `embed`.

    Bins of viewing direction; double-filtered distances; a diffusion map per bin (α = 1); NLSA along one of its
    eigenvectors; the senses of the views from their movies; energy −ln n over the states.

    Parameters
    ----------
    particles : Particles
        With poses and CTF.
    rng : int or Generator
    diameter : float
        Of the particle, Å; of the mask too.
    resolution : float, optional
        Å; the published bin width is resolution / diameter radians. 4 pixels (half of Nyquist) if left out.
    width : float, optional
        Bin width in degrees, instead of the published one: small data sets have too few particles per published bin.
    eigenvector : int
        Which diffusion coordinate of every view NLSA follows. Published: chosen by hand per view.
    n_states : int
    least, most : int
        Thresholds of `bin_views`.
    progress : bool

    Returns
    -------
    ClassicLandscape

    Raises
    ------
    ValueError
        Fewer than 200 particles, no poses or CTF, pixels that are not finite, constant images, or no two views with
        enough particles.

    Notes
    -----
    Dashti et al., PNAS 111:17492 (2014). The known faults are the method's own: τ is min–max scaled per view,
    counting blurs, and wells pile up at the ends. There is no error bar beyond that of counting.
    """
    _check(particles, diameter, eigenvector)
    pixel_size = particles.pixel_size
    if width is None:
        width = float(np.degrees((resolution or 4 * pixel_size) / diameter))
    bins = bin_views(particles.poses, width, rng=rng, least=least, most=most)
    if len(bins) < 2:
        raise ValueError(
            f"{len(bins)} views of {width:.1f}° hold {least} particles or more, at least 2 are needed: "
            f"give a larger width than {width:.1f}°, or more particles"
        )
    views = bins.rotation
    coordinate = np.full(len(particles), np.nan)
    movies, taus, eigenvalues, bandwidths = [], [], [], []
    for v, index in enumerate(tqdm(bins.members, desc="views", disable=not progress)):
        transforms, contrast = prepare_view(
            particles[index], views[v : v + 1], bins.mirrored[index], radius=diameter / 2
        )
        squared = double_filtered_distances(transforms, contrast)
        kept, values, psi, _, bandwidth = trimmed_diffusion_map(squared, _EIGENVECTORS)
        images = _deconvolved(transforms[kept], contrast[kept])
        order = np.argsort(psi[:, eigenvector], kind="stable")
        spectrum = nonlinear_spectrum(squared[np.ix_(kept, kept)], images.reshape(len(kept), -1), order)
        taus.append((index[kept], spectrum.tau))
        movies.append(_movie(spectrum, n_states).reshape(n_states, *images.shape[1:]))
        eigenvalues.append(values)
        bandwidths.append(bandwidth)
    agreement = _agreements(movies, bins)
    sense, violated = propagate_sense(agreement)
    for v, (index, tau) in enumerate(taus):
        if sense[v]:
            coordinate[index] = tau if sense[v] > 0 else 1 - tau
    movies = np.stack([movie[::-1] if sign < 0 else movie for movie, sign in zip(movies, sense, strict=True)])
    seen = np.clip(coordinate[np.isfinite(coordinate)], 0, 1)
    landscape = counting_landscape(seen, np.linspace(0, 1, n_states + 1), gauge="τ (min–max scaled)")
    return ClassicLandscape(
        coordinate, bins, landscape, tuple(eigenvalues), tuple(bandwidths), sense, violated, agreement, movies
    )  # fmt: skip


def _check(particles, diameter, eigenvector):
    if len(particles) < _MINIMUM_PARTICLES:
        raise ValueError(f"at least {_MINIMUM_PARTICLES} particles are needed, got {len(particles)}")
    for name in ("poses", "ctf"):
        if getattr(particles, name) is None:
            raise ValueError(f"the particles have no {name}; the view-by-view embedding needs poses and CTF")
    box = particles.size_px * particles.pixel_size
    if not 0 < diameter <= box:
        raise ValueError(f"diameter must lie in (0, {box:g}] Å, the box, got {diameter:g} Å")
    if not 0 <= eigenvector < _EIGENVECTORS:
        raise ValueError(f"eigenvector must lie in 0 … {_EIGENVECTORS - 1}, got {eigenvector}")
    for start in range(0, len(particles), 1000):
        images = np.asarray(particles.images[start : start + 1000])
        flat = images.reshape(len(images), -1)
        finite = np.isfinite(flat).all(axis=1)
        if not finite.all():
            raise ValueError(f"image {start + int(np.argmin(finite))} holds NaN or infinite pixels")
        if (np.ptp(flat, axis=1) == 0).any():
            raise ValueError(f"image {start + int(np.argmin(np.ptp(flat, axis=1)))} is constant")


def _deconvolved(transforms, contrast):
    """Images corrected for their CTF by the mean squared CTF of the view."""
    weight = contrast / ((contrast**2).mean(axis=0) + _WIENER)
    return fourier.inverse_transform(transforms * weight, ndim=2).real.astype(np.float32)


def _movie(spectrum, n_states):
    """Mean noise-reduced image per state (s, p)."""
    state = np.minimum((spectrum.tau * n_states).astype(int), n_states - 1)
    filled = np.unique(state)
    nearest = filled[np.abs(np.arange(n_states)[:, None] - filled).argmin(axis=1)]
    means = {s: spectrum.images[state == s].mean(axis=0) for s in filled}
    return np.stack([means[s] for s in nearest])


def _agreements(movies, bins):
    """Agreement of each view's movie with those of its nearest views, (v, v)."""
    views = bins.rotation
    nearness = np.abs(bins.directions @ bins.directions.T)
    np.fill_diagonal(nearness, -1)
    agreement = np.zeros(nearness.shape)
    for v in range(len(bins)):
        for other in np.argsort(-nearness[v], kind="stable")[: min(_NEIGHBORS, len(bins) - 1)]:
            if agreement[v, other] == 0:
                score = movie_agreement(movies[v], movies[other], views[v : v + 1], views[other : other + 1])
                agreement[v, other] = agreement[other, v] = score * nearness[v, other]
    return agreement
