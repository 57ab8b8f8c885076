"""3D classification: K volumes from one set of particles, with a probability of each class for every particle."""

from dataclasses import asdict, replace

import numpy as np
from tqdm.auto import tqdm

from cryonb import parallel
from cryonb.types import Volume

from .classes import Job, Settings, State
from .contrast import Contrast
from .inputs import fit_references
from .merging import LEAST, merged, nearest_pairs
from .model import check_input, fingerprint
from .refine import refine

__all__ = ["classify_3d", "consensus"]

FEW = 500  # particles a class, while there are more classes than are asked for


@parallel.with_one_blas_thread
def classify_3d(
    particles, references, *, rng, n_classes=None, n_iterations=25, tau_fudge=1.0, initial_resolution=None,
    highest_resolution=None, symmetry="C1", mask_diameter=None, cross_fit=True, workers="threads", progress=True,
    checkpoint=None, monitor=None, consensus_monitor=None,
):  # fmt: skip
    """Sort particles into classes, each with its own volume.

    Parameters
    ----------
    particles : Particles
        n images with CTF. With poses, only their neighbourhood is searched; without, all orientations are: from one
        reference the poses of the consensus are refined first and classes are split around them, with a reference
        for each class poses and classes are found together.
    references : Volume or sequence of Volume
        One, from which the classes are split at random, or one for each class.
    rng : seed or Generator
    n_classes : int, optional
        K; as many as there are references by default.
    n_iterations : int
        At most; fewer when the classes have settled. The last (if not the only one) looks closely around the poses and
        goes to the finest frequency, so that the volumes have them all.
    tau_fudge : float
        T, a factor on the signal-to-noise ratio that the differences between classes are given.
    initial_resolution : float, optional
        Å; the references are low-passed there: 60 without poses, 25 with poses by default.
    highest_resolution : float, optional
        Å; nothing finer enters the likelihood.
    symmetry : str
        Of all classes; as in `refine`.
    mask_diameter : float, optional
        As in `refine`.
    cross_fit : bool
        Score each particle against volumes made from the other half of the particles, so that its own noise in its
        class cannot keep it there.
    workers, progress, checkpoint
        As in `refine`.
    monitor : callable, optional
        Called after each iteration with its `Iteration` and the volumes of the classes.
    consensus_monitor : callable, optional
        Called after each iteration of the consensus that is refined where there are no poses, as `refine`'s monitor is.

    Returns
    -------
    Classification

    Notes
    -----
    Scheres, J Mol Biol 415:406 (2012), with another prior: classes are Gaussian around their consensus, not around
    zero, and the variance of each shell is what recurs between the halves of the particles. So a small class
    shrinks to the consensus, where it costs nothing, and differences beyond what the data show do not enter.
    Cross-fitted, an iteration makes the second half's volumes from the first half's, and then the first half's from
    those: one chain, so that classes keep their names. From one reference, with poses, twice as many classes are made
    in the first third of ``n_iterations``, from 500 particles for each at most; in the second, those two that the
    images can tell apart least become one, until there are K (`merging.nearest_pairs`). It misleads when K is larger
    than the data can tell apart: look at occupancies and at whether classes of two seeds agree.
    """
    volumes = fit_references(particles, [references] if isinstance(references, Volume) else references)
    n_classes = len(volumes) if n_classes is None else int(n_classes)
    diameter = check_input(particles, volumes, mask_diameter)
    if len(volumes) not in (1, n_classes):
        raise ValueError(f"give one reference, or one for each of the {n_classes} classes; got {len(volumes)}")
    if n_iterations < 1:
        raise ValueError(f"n_iterations must be at least 1, got {n_iterations}")
    if not 1 <= n_classes <= len(particles):
        raise ValueError(f"n_classes must be between 1 and the {len(particles)} particles, got {n_classes}")
    seed = int(np.random.default_rng(rng).integers(2**62))
    # split in the first iterations of a global search, classes would differ by less than the poses' errors do
    unplaced = particles.poses is None and len(volumes) == 1 and n_classes > 1
    local = unplaced or particles.poses is not None
    start = initial_resolution
    if unplaced or start is None:
        start = 25.0 if local else 60.0
    settings = Settings(
        n_classes, diameter, local, bool(cross_fit and len(particles) > 1), float(start),
        2 * particles.pixel_size if highest_resolution is None else float(highest_resolution), seed, symmetry,
        float(tau_fudge),
    )  # fmt: skip
    placed = {}
    if unplaced:
        particles, volumes[0], placed = consensus(
            particles, volumes[0], rng=seed, initial_resolution=initial_resolution, checkpoint=checkpoint,
            highest_resolution=highest_resolution, symmetry=symmetry, mask_diameter=mask_diameter, workers=workers,
            progress=progress, monitor=consensus_monitor,
        )  # fmt: skip
    key = asdict(settings) | {
        "question": "classify_3d", "n": len(particles), "box": particles.size_px, "pixel": particles.pixel_size,
        "iterations": n_iterations, "data": checkpoint and fingerprint(particles, volumes),
    }  # fmt: skip
    job = Job(particles, settings, workers, **placed)
    plan = _Plan(job, n_iterations, one=len(volumes) == 1)
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    state = job.start(volumes, plan.most) if saved is None else plan.merge(State.restored(saved))
    bar = tqdm(
        total=n_iterations, initial=len(state.iterations), desc="classify 3D", unit="iteration", disable=not progress
    )
    while len(state.iterations) < n_iterations and not state.complete:
        state = plan.iterate(state)
        if monitor is not None:
            monitor(state.iterations[-1], [job.volume(data * job.mask) for data in state.joined])
        if checkpoint is not None:
            parallel.save_checkpoint(checkpoint, state.values(), key=key)
        bar.update()
        bar.set_postfix_str(f"search to {state.iterations[-1].news}")
    bar.total = bar.n  # settled before the last iteration that was allowed
    bar.close()
    return job.result(state)


class _Plan:
    """Twice as many classes in the first third of the iterations, merged one by one in the second.

    Two states that share a class never part: each of their particles finds its like there. Two classes of one state
    are told from two states by what recurs between the halves of the particles.
    """

    def __init__(self, job, n_iterations, *, one):
        self.job, self.wanted, self.n_iterations = job, job.settings.n_classes, n_iterations
        n, third = len(job.particles), n_iterations // 3
        self.most = self.wanted
        if one and job.settings.local and job.settings.cross_fit and self.wanted > 1 and third > 1:
            self.most = max(self.wanted, min(2 * self.wanted, n // (2 * LEAST)))
        self.third = third if self.most > self.wanted else 0
        shuffled = np.random.default_rng([job.settings.seed, 5]).permutation(n)
        self.few = np.isin(np.arange(n), shuffled[: FEW * self.most])

    @property
    def merged_by(self):
        """Iteration after which there are K classes."""
        return 2 * self.third

    def iterate(self, state):
        """Another iteration, and what merging is then due."""
        done = len(state.iterations)
        self.job.used = self.few if done < self.merged_by else np.ones(len(self.few), dtype=bool)
        last = self.n_iterations > 1 and done == self.n_iterations - 1
        self.job.iterate(state, last=last or self.job.settled(state, since=self.merged_by))
        return self.merge(state)

    def merge(self, state):
        """Down to as many classes as there should be after the state's iterations."""
        left = np.clip((self.merged_by - len(state.iterations)) / max(self.third, 1), 0, 1)
        while len(state.weights) > self.wanted + np.ceil(left * (self.most - self.wanted)):
            state = merged(self.job, state, *nearest_pairs(self.job, state, state.shell)[0])
        return state


def consensus(particles, reference, *, initial_resolution, checkpoint, **options):
    """Poses that all classes start from: those of a gold-standard refinement of one volume.

    Parameters
    ----------
    particles : Particles
        n of them.
    reference : Volume
    initial_resolution : float or None
        Å.
    checkpoint : path or None
        Of the classification; the refinement's is beside it.
    **options
        Of `refine`.

    Returns
    -------
    particles : Particles
        With poses.
    volume : Volume
    placed : dict
        The halves of the refinement (were a particle that aligned one half to change over to the other, what the
        halves share would no longer be signal), and the contrast of the images, for `classes.Job`.
    """
    started = {} if initial_resolution is None else {"initial_resolution": initial_resolution}
    beside = None if checkpoint is None else f"{checkpoint}.consensus"
    found = refine(particles, reference, checkpoint=beside, **started, **options)
    contrast = Contrast.of(particles)
    count = np.bincount(contrast.group)
    scale = np.bincount(contrast.group, found.scale) / np.maximum(count, 1)
    contrast = replace(contrast, norm=found.norm, group_scale=scale)
    return replace(particles, poses=found.poses), found.volume, {"half": found.half, "contrast": contrast}
