"""What stands behind each frame of a movie: weighted half maps, effective particles, and the views they cover."""

from dataclasses import dataclass

import numpy as np

from cryonb import fourier, rotations
from cryonb.manifold.masks import automatic_mask, grid_mask
from cryonb.manifold.normal_equations import normal_equations
from cryonb.manifold.observations import observe
from cryonb.manifold.volume_sets import VolumeSet, crop_or_pad, grid_size, shell_power
from cryonb.parallel import with_one_blas_thread

__all__ = ["FrameEvidence", "frame_evidence", "frame_weights", "weighted_half_maps"]

HALF_MAP_THRESHOLD = 0.143
FIRST_SHELL = 3  # an FSC that falls to the threshold before says nothing: those few Fourier pixels agree by chance
ENOUGH = 50.0  # particles behind a frame that counts as observed; the line of `cryonb.plot.evidence`
FINEST = 40  # default resolution: this fraction of the box, so that a frame needs no more than 30 MB at work
VIEW_ORDER = 2  # HEALPix order of the viewing sphere on which coverage is counted: 15° apart
NEGLIGIBLE = 1e-3  # share of a frame's weight that its least likely particles may carry and are left out for


@dataclass(frozen=True, eq=False, repr=False)
class FrameEvidence:
    """Evidence for each frame of a movie.

    Parameters
    ----------
    positions : ndarray (f,)
        Of the frames, along the coordinate.
    gauge : str
        What the coordinate measures, with its unit.
    expected : ndarray (f,)
        Expected number of particles: Σ w.
    effective : ndarray (f,)
        Kish's effective number (Σ w)² / Σ w²: how many particles of weight one would give an average as certain.
    resolution : ndarray (f,)
        Å where the FSC of the frame's half maps falls to 0.143 inside the mask; NaN where it does before shell 3.
    fsc : ndarray (f, shells)
        From zero frequency to the finest shell that was used.
    coverage : ndarray (f,)
        Share of the viewing sphere within 15° of which at least one particle was expected; opposite views count as one.
    volumes : VolumeSet
        f of them, from all particles with their weights.
    half_maps : (VolumeSet, VolumeSet)
    enough : float
        Fewer particles than this are not enough to call a frame observed.
    """

    positions: np.ndarray
    gauge: str
    expected: np.ndarray
    effective: np.ndarray
    resolution: np.ndarray
    fsc: np.ndarray
    coverage: np.ndarray
    volumes: VolumeSet
    half_maps: tuple
    enough: float = ENOUGH

    @property
    def observed(self):
        """Frames, (f,) bool, with enough particles, expected and effective, whose half maps agree; others are
        interpolated from their neighbours."""
        return (np.minimum(self.expected, self.effective) >= self.enough) & np.isfinite(self.resolution)

    def sentence(self, frame):
        """All of it about one frame, in words.

        Parameters
        ----------
        frame : int

        Returns
        -------
        str
        """
        agree = self.resolution[frame]
        halves = f"half maps to {agree:.0f} Å" if np.isfinite(agree) else "half maps do not agree"
        seen = "observed" if self.observed[frame] else "interpolated"
        return (
            f"{seen}: {self.expected[frame]:.0f} particles (effective {self.effective[frame]:.0f}), {halves}, "
            f"{100 * self.coverage[frame]:.0f} % of views"
        )

    def __len__(self):
        return len(self.positions)

    def __repr__(self):
        return f"FrameEvidence({len(self)} frames over {self.gauge}, {self.observed.sum()} observed)"


def frame_weights(found, positions):
    """Posterior share of each particle in each frame.

    Parameters
    ----------
    found : ConformationalLandscape
        n particles; its likelihoods are cross-fitted: no particle is placed by volumes that it helped to make.
    positions : ndarray (f,)
        Of the frames, increasing, in the coordinate's unit.

    Returns
    -------
    ndarray (n, f)
        Σ_m p(m | image) K(x_m − x_f), p(m) that of the deconvolved landscape; K falls linearly from 1 at a frame to 0
        at its neighbours, so that each particle between the first and the last frame counts once in all.
    """
    positions = np.asarray(positions, dtype=float)
    if positions.ndim != 1 or len(positions) < 2 or not (np.diff(positions) > 0).all():
        raise ValueError(f"positions must be at least two increasing numbers, got shape {positions.shape}")
    joint = np.exp(found.log_likelihood - found.log_likelihood.max(axis=1, keepdims=True))
    joint = joint * found.landscape.probability
    share = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
    # np.interp of the unit vectors is the tent; beyond the ends it falls as on the inner side
    first, last = positions[1] - positions[0], positions[-1] - positions[-2]
    knots = np.concatenate([[positions[0] - first], positions, [positions[-1] + last]])
    tents = np.stack([np.interp(found.nodes, knots, row, left=0, right=0) for row in np.eye(len(knots))[1:-1]])
    return share @ tents.T


def frame_evidence(
    particles, found, *, rng, positions=None, mask=None, resolution=None, enough=ENOUGH, workers=1, progress=False
):
    """Weighted half maps and what else stands behind each frame of a movie along the coordinate.

    Parameters
    ----------
    particles : Particles
        Those that were embedded.
    found : ConformationalLandscape
        What `embed` made of them.
    rng : seed or Generator
        Splits the particles into halves; ``rlnRandomSubset`` of the metadata counts where it is there.
    positions : ndarray (f,), optional
        Of the frames, increasing; the nodes of ``found`` by default.
    mask : Volume, optional
        Within which half maps are compared; by default around the mean volume.
    resolution : float, optional
        Å, finest used; default a fortieth of the box, or just below Nyquist where that is coarser. Finer than what
        `embed` used, since that is what the half maps are asked.
    enough : float
        Particles.
    workers
        As in `cryonb.parallel.map_reduce`.
    progress : bool

    Returns
    -------
    FrameEvidence

    Raises
    ------
    ValueError
        Particles that are not those of ``found``, positions that do not increase; what `observe` refuses.

    Notes
    -----
    The halves share the poses, the noise spectrum and the volumes by which particles were placed (each by volumes made
    without it, but not without the other half): the FSC says how far the particles of a frame agree with each other,
    not how far two independent analyses would.
    """
    if len(particles) != len(found.coordinate):
        raise ValueError(f"found is of {len(found.coordinate)} particles, got {len(particles)}")
    positions = found.nodes if positions is None else np.asarray(positions, dtype=float)
    weights = frame_weights(found, positions)
    observations = _observed(particles, resolution, workers)
    shape = automatic_mask(found.principal.volumes) if mask is None else grid_mask(mask, observations)
    size_px = grid_size(observations.radius)
    shape = np.clip(crop_or_pad(shape, size_px) * (size_px / len(shape)) ** 3, 0, 1)  # values are kept, not their sum
    known = found.principal.noise[: len(observations.noise)]
    noise = np.concatenate([known, observations.noise[len(known) :]])
    return _evidence(
        observations, weights, _halves(particles, rng), shape, noise, positions=positions,
        gauge=found.landscape.gauge[0], enough=enough, workers=workers, progress=progress,
    )  # fmt: skip


def weighted_half_maps(
    particles, weights, *, rng, positions=None, gauge="frame", resolution=None, mask=None, noise=None, enough=ENOUGH,
    workers=1, progress=False,
):  # fmt: skip
    """The same for any weights of particles in frames: of a classification, a path, or a landscape of two coordinates.

    Parameters
    ----------
    particles : Particles
        n of them, with poses and CTF.
    weights : ndarray (n, f)
        Of each particle in each frame, 0 to 1.
    rng, mask, enough, workers, progress
        As in `frame_evidence`.
    positions : ndarray (f,), optional
        Of the frames; 0, 1, … by default.
    gauge : str
        What the positions measure.
    resolution : float, optional
        As in `frame_evidence`.
    noise : ndarray (shells,), optional
        Variance of a complex Fourier coefficient of the noise; by default the mean power of the images, which is right
        where noise is most of it.

    Returns
    -------
    FrameEvidence

    Raises
    ------
    ValueError
        Weights of another shape, negative, above 1 or not finite.

    Examples
    --------
    >>> from cryonb import simulate
    >>> from cryonb.samples import rotor
    >>> flat = simulate.from_energy(lambda x: 0 * x, {"angle (°)": (-25, 25)})
    >>> population = simulate.populate(rotor(), flat, 120, rng=0)
    >>> imaging = simulate.Imaging(24, 10.0, snr=5.0)
    >>> particles, truth = simulate.particles(population, imaging, rng=1, progress=False)
    >>> low = population.state[:, 0] < 0
    >>> evidence = weighted_half_maps(truth.with_poses(particles), np.column_stack([low, ~low]), rng=0)
    >>> bool(evidence.effective.sum().round(6) == 120), evidence.observed.tolist()
    (True, [True, True])
    """
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 2 or len(weights) != len(particles) or weights.shape[1] < 1:
        raise ValueError(f"weights must have shape ({len(particles)}, frames), got {weights.shape}")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights <= 1 + 1e-9).all()):
        raise ValueError(f"weights must lie between 0 and 1, got {weights.min():g} to {weights.max():g}")
    observations = _observed(particles, resolution, workers)
    shape = grid_mask(mask, observations)
    positions = np.arange(weights.shape[1], dtype=float) if positions is None else np.asarray(positions, dtype=float)
    if positions.shape != (weights.shape[1],):
        raise ValueError(f"positions must be {weights.shape[1]} numbers, one per frame, got shape {positions.shape}")
    return _evidence(
        observations, weights, _halves(particles, rng), shape, noise, positions=positions, gauge=gauge, enough=enough,
        workers=workers, progress=progress,
    )  # fmt: skip


def _observed(particles, resolution, workers):
    resolution = particles.box_size / FINEST if resolution is None else resolution
    return observe(particles, resolution=resolution, workers=workers)


def _halves(particles, rng):
    """Half of each particle, (n,) 0 or 1."""
    metadata = particles.metadata
    if metadata is not None and "rlnRandomSubset" in metadata:
        half = metadata["rlnRandomSubset"].to_numpy().astype(int) - 1
        if set(half.tolist()) != {0, 1}:
            raise ValueError(f"rlnRandomSubset must hold both 1 and 2, got only {sorted(set((half + 1).tolist()))}")
        return half
    return np.random.default_rng(rng).permutation(len(particles)) % 2


@with_one_blas_thread
def _evidence(observations, weights, halves, mask, noise, *, positions, gauge, enough, workers, progress):
    from dataclasses import replace

    from tqdm.auto import tqdm

    if noise is not None:
        observations = replace(observations, noise=np.asarray(noise))
    expected = weights.sum(axis=0)
    effective = expected**2 / np.maximum((weights**2).sum(axis=0), 1e-300)
    prior, maps = _signal_power(observations, mask, workers), []
    for column in tqdm(weights.T, desc="half maps of the frames", disable=not progress):
        maps.append(_maps(observations, column, halves, mask, prior, workers))
    whole, first, second = (
        VolumeSet(np.stack(stack), mask, observations.size_px, observations.pixel_size) for stack in zip(*maps)
    )
    fsc = np.array([_correlation(a, b, observations.radius) for a, b in zip(first.data, second.data)])
    box_size = observations.size_px * observations.pixel_size
    resolution = np.array([_crossing(curve, box_size) for curve in fsc])
    coverage = _coverage(observations.matrices[:, :, 2], weights)
    return FrameEvidence(
        positions, gauge, expected, effective, resolution, fsc, coverage, whole, (first, second), float(enough)
    )


def _signal_power(observations, mask, workers):
    """E|V(k)|² per shell of the volume that all particles make, the Wiener prior of every frame, (shells, 1)."""
    ones = np.ones((len(observations), 1))
    mean = normal_equations(observations, ones, ones[:, None], mask=mask, workers=workers).solve()[0]
    return np.maximum(shell_power(mean, observations.radius + 2), 1e-30)


def _maps(observations, weights, halves, mask, prior, workers):
    """Volume from all particles with their weights, and from each half."""
    rows = _that_count(weights)
    groups = [np.flatnonzero(halves[rows] == half) for half in (0, 1)]
    if min(len(group) for group in groups) < 2:
        return (np.zeros((grid_size(observations.radius),) * 3, dtype=np.float32),) * 3
    share = weights[rows, None]
    equations = normal_equations(observations[rows], share, share[:, None], mask=mask, groups=groups, workers=workers)
    return tuple(equations.solve(prior, without=left)[0].data[0] for left in (None, 1, 0))


def _that_count(weights):
    """Indices of the particles that carry all but `NEGLIGIBLE` of the weight."""
    order = np.argsort(weights)
    total = np.cumsum(weights[order])
    return np.sort(order[total > NEGLIGIBLE * total[-1]])


def _correlation(a, b, radius):
    """FSC of two volumes up to a shell, (radius + 1,)."""
    a, b = fourier.transform(a), fourier.transform(b)
    products = (a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2
    cross, one, other = (fourier.shell_mean(part, ndim=3)[: radius + 1] for part in products)
    return cross / np.maximum(np.sqrt(one * other), 1e-30)


def _crossing(curve, box_size):
    """Å where a curve first falls to the threshold; the finest shell where it never does; NaN before `FIRST_SHELL`."""
    below = np.flatnonzero(curve[1:] < HALF_MAP_THRESHOLD) + 1
    if len(below) == 0:
        return box_size / (len(curve) - 1)
    shell = below[0]
    if shell < FIRST_SHELL:
        return np.nan
    above, under = curve[shell - 1], curve[shell]
    return box_size / (shell - 1 + (above - HALF_MAP_THRESHOLD) / (above - under))


def _coverage(axes, weights):
    """Share of the viewing sphere near which at least one particle is expected, (f,)."""
    sphere = rotations.healpix_directions(VIEW_ORDER)
    sphere = sphere[sphere[:, 2] >= -1e-9]
    reach, near = np.cos(np.radians(rotations.healpix_step(VIEW_ORDER))), 0.0
    for start in range(0, len(axes), 4096):
        part = slice(start, start + 4096)
        near = near + (np.abs(sphere @ axes[part].T) >= reach) @ weights[part]
    return (near >= 1).mean(axis=0)
