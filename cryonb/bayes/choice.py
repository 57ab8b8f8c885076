"""How many classes, and how much of their differences to believe: both chosen by particles that made no volume.

Too many classes are made first, then merged two by two; after each merging, particles that were held out say how
probable they are. Evidence from particles that take part, even when each is scored against volumes of the other half
only, goes on rising with K: through the labels, noise finds its way from one half into the other.
"""

import copy
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from cryonb import parallel

from .classes import Job, Settings, State
from .classify import consensus
from .expectation import expectation
from .inputs import fit_references
from .merging import halved, merged, nearest_pairs
from .model import check_input, fingerprint
from .records import Classification

__all__ = ["ClassChoice", "choose_classes"]

HELD_OUT = 0.25  # share of the particles that judge
SPREAD, FINISH = 8, 12  # iterations at most with too many classes, and with the right number
RELAX = 2  # iterations after a merging or a change of T
SAVED = ("phase", "made", "untried", "class_evidence", "tau_evidence", "noise", "shell", "chosen_at")
TRIES = 3  # pairs that are merged on trial


@dataclass(frozen=True, eq=False, repr=False)
class ClassChoice:
    """K and T as the held-out particles chose them, the classes that follow, and the curves that show why.

    Parameters
    ----------
    classification : Classification
        From all particles, with the chosen K and T.
    tau_fudge : float
        T.
    held_out : ndarray (m,) int
        The particles that judged.
    class_evidence : ndarray (most, m)
        Log evidence of each of them with 1 … most classes, up to a constant of the particle.
    tau_fudges : tuple of float
        The T that were tried, with K classes.
    tau_evidence : ndarray (len(tau_fudges), m)
    """

    classification: Classification
    tau_fudge: float
    held_out: np.ndarray
    class_evidence: np.ndarray
    tau_fudges: tuple[float, ...]
    tau_evidence: np.ndarray

    @property
    def n_classes(self):
        """K."""
        return len(self.classification.volumes)

    def against_chosen(self, evidence=None):
        """What other choices lose: mean of evidence less that of the chosen one, and its standard error.

        Parameters
        ----------
        evidence : ndarray (c, m), optional
            `class_evidence` by default, or `tau_evidence`.

        Returns
        -------
        mean, error : ndarray (c,)
            Nats per particle.
        """
        by_class = evidence is None or evidence is self.class_evidence
        rows = self.class_evidence if by_class else evidence
        chosen = self.n_classes - 1 if by_class else self.tau_fudges.index(self.tau_fudge)
        less = rows - rows[chosen]
        return less.mean(1), less.std(1) / np.sqrt(less.shape[1])

    def __repr__(self):
        return f"ClassChoice(K = {self.n_classes}, T = {self.tau_fudge:g}, {self.classification!r})"


@parallel.with_one_blas_thread
def choose_classes(
    particles, reference, *, rng, most=8, tau_fudges=(0.5, 1.0, 2.0, 4.0, 8.0), initial_resolution=None,
    highest_resolution=None, symmetry="C1", mask_diameter=None, workers="threads", progress=True, checkpoint=None,
    monitor=None, consensus_monitor=None,
):  # fmt: skip
    """3D classes without guessing their number K or the regularisation parameter T.

    Parameters
    ----------
    particles : Particles
        n images with CTF, at least 40. Without poses, those of the consensus are found first, of the particles that
        are held out too: the evidence is then of classes, given poses to which all particles contributed.
    reference : Volume
    rng : seed or Generator
    most : int
        The largest K looked at; a good deal above the expected one, so that each state gets a class at first.
    tau_fudges : sequence of float
        T to try; among them 1, with which the differences are let through that recur between halves.
    initial_resolution, highest_resolution, symmetry, mask_diameter, workers, progress, checkpoint
    monitor, consensus_monitor
        As in `classify_3d`; the monitor sees every iteration with too many classes and with the right number, and the
        last one after each merging and splitting.

    Returns
    -------
    ClassChoice

    Notes
    -----
    A quarter of the particles is held out. The others are sorted into ``most`` classes, as `classify_3d` does. Then
    two classes that the images can hardly tell apart become one (of three such pairs, by Ward's criterion, J Am Stat
    Assoc 58:236 (1963), on what recurs in both halves, the one that costs less evidence), the rest settles, and the
    held-out particles are scored, down to one class. K is the smallest whose mean log evidence is within two standard
    errors (paired, over particles) of the best. Then each class is split by its own particles alone, and stays split
    where evidence rises by two standard errors: what an early merging hid comes back. T, with that K, is the nearest to
    1 within two standard errors of the best. Last, the held-out particles join and the classes settle. It costs about
    as much as four classifications with ``most`` / 2 classes. A continuum of states has no K: then the curve goes on
    rising to ``most``. The held-out particles also pick what is merged and split, a dozen choices in all, so that the
    curve's errors are a little too small.
    """
    (reference,) = fit_references(particles, [reference])
    diameter = check_input(particles, [reference], mask_diameter)
    n, tau_fudges = len(particles), tuple(float(value) for value in tau_fudges)
    if 1.0 not in tau_fudges or min(tau_fudges) <= 0:
        raise ValueError(f"tau_fudges must be positive, with 1 among them; got {tau_fudges}")
    seed = int(np.random.default_rng(rng).integers(2**62))
    unplaced = particles.poses is None
    start = 25.0 if unplaced or initial_resolution is None else float(initial_resolution)
    settings = Settings(
        int(most), diameter, True, True, start,
        2 * particles.pixel_size if highest_resolution is None else float(highest_resolution), seed, symmetry,
    )  # fmt: skip
    if not 2 <= most <= n * HELD_OUT / 5:
        raise ValueError(
            f"most must be at least 2, with 20 particles for each class; got {most} classes, {n} particles"
        )
    placed = {}
    if unplaced:
        particles, reference, placed = consensus(
            particles, reference, rng=seed, initial_resolution=initial_resolution, checkpoint=checkpoint,
            highest_resolution=highest_resolution, symmetry=symmetry, mask_diameter=mask_diameter, workers=workers,
            progress=progress, monitor=consensus_monitor,
        )  # fmt: skip
    key = asdict(settings) | {
        "question": "choose_classes", "n": n, "box": particles.size_px, "pixel": particles.pixel_size,
        "data": checkpoint and fingerprint(particles, [reference]), "tau": tau_fudges,
    }  # fmt: skip
    search = _Search(Job(particles, settings, workers, **placed), tau_fudges)
    saved = None if checkpoint is None else parallel.load_checkpoint(checkpoint, key=key)
    search.start(reference) if saved is None else search.restore(saved)
    bar = tqdm(desc="choose classes", unit="step", disable=not progress)
    while search.phase != "done":
        record = search.step()
        if monitor is not None and record is not None:
            monitor(replace(record, number=search.made), search.volumes)
        if checkpoint is not None:
            parallel.save_checkpoint(checkpoint, search.values(), key=key)
        bar.update()
        bar.set_postfix_str(f"K = {len(search.state.weights)}, {search.phase}")
    bar.close()
    return search.result()


class _Search:
    """From too many classes to the right number, a step at a time."""

    def __init__(self, job, tau_fudges):
        self.job, self.tau_fudges = job, tau_fudges
        n = len(job.particles)
        shuffled = np.random.default_rng([job.settings.seed, 2]).permutation(n)
        self.held_out = np.sort(shuffled[: int(round(HELD_OUT * n))])
        self.class_evidence = np.full((job.settings.n_classes, len(self.held_out)), np.nan)
        self.tau_evidence = np.full((len(tau_fudges), len(self.held_out)), np.nan)
        self.best = None  # the state with the K that would be chosen were there no smaller one
        self.noise, self.shell = np.zeros(0), 0.0  # with which the held-out particles are scored
        self.made = 0  # iterations that a monitor has seen
        self.untried = []  # classes that may still be split
        self.chosen_at = 0  # iterations before all particles take part

    def start(self, reference):
        self.enter("spread")
        self.state = self.job.start([reference])

    def enter(self, phase):
        self.phase = phase
        self.job.used = np.ones(len(self.job.particles), dtype=bool)
        if phase not in ("finish", "done"):
            self.job.used[self.held_out] = False

    def values(self):
        """All of it, for a checkpoint."""
        values = {name: getattr(self, name) for name in SAVED}
        values |= {f"state.{name}": value for name, value in self.state.values().items()}
        best = {} if self.best is None else self.best.values()
        return values | {f"best.{name}": value for name, value in best.items()}

    def restore(self, saved):
        parts = {"state": {}, "best": {}}
        for name, value in saved.items():
            where, _, field = name.partition(".")
            if field:
                parts[where][field] = value
        self.state = State.restored(parts["state"])
        self.best = State.restored(parts["best"]) if parts["best"] else None
        for name in SAVED:
            setattr(self, name, saved[name])
        self.enter(self.phase)

    def step(self):
        """Go on; the record of the iteration that was made, or None."""
        state = getattr(self, self.phase)()
        if state is None:
            return None
        self.made += 1
        self.volumes = [self.job.volume(data * self.job.mask) for data in state.joined]
        return state.iterations[-1]

    def spread(self):
        """An iteration with too many classes."""
        self.job.iterate(self.state)
        if len(self.state.iterations) >= SPREAD or self.job.settled(self.state):
            self.noise, self.shell = self.state.noise, self.state.shell
            self.judge(self.state, self.evidence(self.state))
            self.enter("merge")
        return self.state

    def judge(self, state, evidence):
        """Keep the state if no larger K is better by more than two standard errors."""
        row = len(state.weights) - 1
        self.class_evidence[row] = evidence
        known = self.class_evidence[row:]
        best = known[known.mean(1).argmax()]
        if not _better(best, known[0]):
            self.best = copy.deepcopy(state)

    def evidence(self, state):
        """Log evidence (m,) of the held-out particles: same noise, same shells and same search every time.

        The search is finer than that of the iterations. On their grid, two copies of one volume that are turned a
        little against each other would fill the gaps between its poses, and look like two classes.
        """
        job = self.job
        grid = job.grid(self.shell + 2)
        turn = Rotation.random(rng=np.random.default_rng([job.settings.seed, 3]))
        sampling = job.sampling(state, turn, local=True, max_shell=grid.radii[-1])
        sampling = replace(
            sampling, order=sampling.order + 1, shift_step_px=0.5 * sampling.shift_step_px,
            keep_views=8 * job.settings.n_classes,
        )  # fmt: skip
        model = job.model(state, state.joined, self.noise)
        _, posterior = expectation(
            job.particles, model, grid, sampling, index=self.held_out, poses=job.particles.poses, workers=job.workers
        )
        return posterior.log_evidence

    def relaxed(self, state):
        """Evidence (m,) after some iterations, all on the shells on which it is taken."""
        for _ in range(RELAX):
            self.job.iterate(state)
            state.shell = self.shell
        return self.evidence(state)

    def merge(self):
        """One class fewer: of a few pairs that images can hardly tell apart, the one that costs least evidence."""
        found = None
        for pair in nearest_pairs(self.job, self.state, self.shell)[:TRIES]:
            trial = merged(self.job, self.state, *pair)
            evidence = self.relaxed(trial)
            if found is None or evidence.mean() > found[1].mean():
                found = trial, evidence
        self.state = found[0]
        self.judge(*found)
        if len(self.state.weights) == 1:
            self.untried = list(range(len(self.best.weights)))
            self.enter("split")
        return found[0]

    def split(self):
        """Try to split one class, by its own particles alone: two states that never came apart may do so here."""
        made = None
        if self.untried and len(self.best.weights) < self.job.settings.n_classes:
            k, *self.untried = self.untried
            made = halved(self.job, self.best, k, self.shell)
        if made is not None:
            count, evidence = len(made.weights), self.relaxed(made)
            if _better(evidence, self.class_evidence[count - 2]):
                self.class_evidence[count - 1] = evidence
                self.best = made
                self.untried = [i - (i > k) for i in self.untried] + [count - 2, count - 1]
        if not self.untried or len(self.best.weights) == self.job.settings.n_classes:
            self.state = self.best
            self.enter("temper")
        return made

    def temper(self):
        """Another T, with K classes; the best of them when all are known."""
        row = int(np.isnan(self.tau_evidence[:, 0]).argmax())
        trial = copy.deepcopy(self.best)
        trial.tau_fudge = self.tau_fudges[row]
        for side in self.job.sides:
            self.job.refilter(trial, side)
        self.tau_evidence[row] = self.relaxed(trial)
        if row + 1 < len(self.tau_fudges):
            return
        best = self.tau_evidence[self.tau_evidence.mean(1).argmax()]
        good = [t for t, evidence in zip(self.tau_fudges, self.tau_evidence) if not _better(best, evidence)]
        self.state = self.best
        self.state.tau_fudge = min(good, key=lambda t: abs(np.log(t)))
        for side in self.job.sides:
            self.job.refilter(self.state, side)
        self.chosen_at = len(self.state.iterations)
        self.enter("finish")

    def finish(self):
        """An iteration with all particles and the chosen K and T."""
        done = len(self.state.iterations) - self.chosen_at
        settled = self.job.settled(self.state, since=self.chosen_at)
        self.job.iterate(self.state, last=settled or done >= FINISH - 1)
        if self.state.complete:
            self.state.iterations = self.state.iterations[self.chosen_at :]
            self.enter("done")
        return self.state

    def result(self):
        return ClassChoice(
            self.job.result(self.state), self.state.tau_fudge, self.held_out, self.class_evidence, self.tau_fudges,
            self.tau_evidence,
        )  # fmt: skip


def _better(one, other):
    """Whether evidence is higher by more than two standard errors of the paired difference."""
    more = one - other
    return more.mean() > 2 * more.std() / np.sqrt(len(more))
