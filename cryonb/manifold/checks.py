"""The doubts about a landscape, each put as a test and answered: `check`.

Quick checks ask the likelihoods that are there. Full ones embed again: either half of the particles by itself, and
particles that are known not to move.
"""

from dataclasses import dataclass, replace

import numpy as np

from cryonb.manifold.dependence import score_test
from cryonb.manifold.embedding import embed
from cryonb.manifold.gram import gram_matrices, noise_spectrum
from cryonb.manifold.heterogeneity import heterogeneity_test
from cryonb.manifold.landscape import FINEST, deconvolve_landscape, landscape_rms
from cryonb.manifold.likelihood import stack_volumes
from cryonb.manifold.observations import observe
from cryonb.parallel import with_one_blas_thread

__all__ = ["Answer", "Checks", "check", "junk_probability"]

LIGHTS = ("green", "amber", "red")
SIGNIFICANT, DOUBTFUL = 0.01, 0.05  # p values below which a light is red, amber
AGREE, DIFFER = 0.35, 0.7  # kT rms up to which two landscapes agree, beyond which they do not
POPULATED = 3.0  # kT up to which they are compared
EXPLAINED = 2.0  # % of the coordinate's variance that a view or a defocus may explain
JUNK_SPREAD = 0.5  # of the contrast of junk about its centre, at most
JUNK_CONTRAST = 0.6  # centre of junk's contrast, at most, as a fraction of the particles'
CONTRAST_SPREAD = 0.25  # of the contrast of particles about 1, at most
DOUBTED = 0.7  # of the likelihoods, in the check of settings
N_PREDICTIVE = 99


@dataclass(frozen=True)
class Answer:
    """One doubt, its answer in a number, and what to make of it.

    Parameters
    ----------
    doubt : str
    value : float
    unit : str
        "kT", "p", "%" or "nats".
    light : {"green", "amber", "red"}
    meaning : str
        A sentence.
    """

    doubt: str
    value: float
    unit: str
    light: str
    meaning: str

    def __post_init__(self):
        if self.light not in LIGHTS:
            raise ValueError(f"light must be one of {LIGHTS}, got {self.light!r}")

    @property
    def figure(self):
        """The number as it is printed."""
        if self.unit == "p":
            return f"p = {self.value:.2g}"
        return f"{self.value:.0f} %" if self.unit == "%" else f"{self.value:.2f} {self.unit}"


@dataclass(frozen=True, eq=False)
class Checks:
    """All answers.

    Parameters
    ----------
    answers : tuple of Answer
    junk : ndarray (n,)
        Probability that an image holds no particle as it should.
    """

    answers: tuple
    junk: np.ndarray

    @property
    def light(self):
        """The worst of all."""
        return LIGHTS[max(LIGHTS.index(answer.light) for answer in self.answers)]

    def __getitem__(self, doubt):
        for answer in self.answers:
            if answer.doubt == doubt:
                return answer
        raise KeyError(f"no check is called {doubt!r}; there are {[answer.doubt for answer in self.answers]}")

    def __repr__(self):
        rows = [f"  {answer.light:5}  {answer.doubt}: {answer.figure}. {answer.meaning}" for answer in self.answers]
        return "\n".join([f"Checks({self.light})", *rows])


@with_one_blas_thread
def check(particles, found, *, rng, gauge=None, mode="quick", n_nulls=1, workers=1, progress=True, **options):
    """Tests of what people doubt about a landscape, with a traffic light each.

    Parameters
    ----------
    particles : Particles
        Those that were embedded.
    found : ConformationalLandscape
        What `embed` made of them.
    rng : seed or Generator
    gauge : RigidBodyGauge, optional
        The one that `embed` was given.
    mode : {"quick", "full"}
        Quick: from the likelihoods that are there. Full: with two independent embeddings of half the particles, and
        ``3 n_nulls`` of particles that do not move.
    n_nulls : int
        Of each kind.
    workers
        As in `cryonb.parallel.map_reduce`.
    progress : bool
    **options
        Of `embed`, as they were; only for ``mode="full"``.

    Returns
    -------
    Checks

    Raises
    ------
    ValueError
        Particles that are not those of ``found``, an unknown mode.

    Notes
    -----
    Quick checks. *Do the particles differ at all?* `heterogeneity_test`: components made of one half of the particles
    against the images of the other. *Halves:* landscapes of two random halves, from shared volumes: sampling only.
    *Views, defocus:* `score_test` of the coordinate against even spherical harmonics of the viewing direction, up to
    degree 4, and against the defocus to the third power. *Junk:* `junk_probability`, and how the landscape changes
    without those above one half. *Settings:* the landscape from half as many nodes, and from likelihoods that count
    for 0.7 (posteriors on simulated ribosomes with refined poses were 1.2 times too narrow). *Prediction:* images
    simulated from the landscape, at the same poses and defoci, are placed as the real ones were; the histograms are
    compared.

    Full checks. *Independent halves:* each half embedded by itself. *Homogeneous:* images of the mean volume with
    Gaussian noise; *noise:* Gaussian noise alone; *exchanged residuals:* what the mean volume leaves over of one image,
    with a random sign, added to the mean's projection at the pose of another, so that the noise is the real one. In
    all three nothing moves: a landscape that is called resolved is a false one.
    """
    if mode not in ("quick", "full"):
        raise ValueError(f"mode must be 'quick' or 'full', got {mode!r}")
    if found.landscape.energy_kt.ndim != 1:
        raise ValueError("checks are of a landscape over one coordinate, this is a surface over two")
    if len(particles) != len(found.coordinate):
        raise ValueError(f"found is of {len(found.coordinate)} particles, got {len(particles)}")
    rng = np.random.default_rng(rng)
    observations = observe(particles, resolution=found.principal.resolution, workers=workers)
    facts = _Facts.of(observations, found, workers)
    junk = facts.junk()
    answers = [
        _heterogeneity(observations, rng, workers), _halves(found, rng), *_entanglement(particles, found, rng),
        _junk(found, junk, rng), _settings(found, rng), _prediction(found, facts, rng),
    ]  # fmt: skip
    if mode == "full":
        again = {"gauge": gauge, "workers": workers, "progress": progress, **options}
        answers += [_independent_halves(particles, found, rng, again), *_nulls(particles, found, rng, again, n_nulls)]
    return Checks(tuple(answers), junk)


def junk_probability(particles, volume, *, resolution=None, workers=1):
    """Probability that each image does not hold the particle, at its pose, as strongly as others do.

    Parameters
    ----------
    particles : Particles
        n of them, with poses and CTF.
    volume : Volume
        On their absolute scale: a consensus, or the mean of the volumes along a coordinate.
    resolution : float, optional
        Å; default a twentieth of the box.
    workers
        As in `cryonb.parallel.map_reduce`.

    Returns
    -------
    ndarray (n,)

    Notes
    -----
    Each image says how strongly the volume's projection shows in it, â = b / G ± 1/√G (overlap and power, whitened):
    near one value where the particle is there, lower where something else is, or the pose is wrong. A mixture of the
    two, N(m, s² + 1/G) and N(c, t² + 1/G), with the share of junk, m, c ≤ 0.6 m, s ≤ 0.25 m and t ≤ 0.5 fitted by
    EM; what is stronger than m is no junk. It cannot see junk that looks like the particle, and takes particles with
    wrong poses for junk; a landscape wants neither.
    """
    resolution = particles.box_size / 20 if resolution is None else resolution
    observations = observe(particles, resolution=resolution, workers=workers)
    stack = stack_volumes([volume], observations)
    noise = noise_spectrum(observations, stack, np.ones((len(observations), 1)))
    gram, overlap = gram_matrices(replace(observations, noise=noise), stack, workers=workers)
    return _junk_mixture(overlap[:, 0] / gram[:, 0, 0], 1 / gram[:, 0, 0])


def _junk_mixture(contrast, variance, *, n_iterations=300):
    """Posterior of junk (n,) from contrasts and the variances of their noise.

    Both centres are free: junk in the reference raises the contrast of the particles, and junk that is bright in the
    middle has some itself.
    """
    share, spread, wide, centre = 0.1, 0.1, 0.3, float(np.median(contrast))
    low = 0.3 * centre
    for _ in range(n_iterations):
        good = (1 - share) * _normal(contrast - centre, spread**2 + variance)
        bad = np.where(contrast > centre, 0, share * _normal(contrast - low, wide**2 + variance))
        junk = bad / np.maximum(good + bad, 1e-300)
        share = np.clip(junk.mean(), 1e-4, 0.9)
        centre = np.average(contrast, weights=(1 - junk) / (spread**2 + variance))
        spread = _spread(contrast - centre, variance, 1 - junk, spread, (0.01, CONTRAST_SPREAD * centre))
        weight = junk / (wide**2 + variance)
        low = np.clip((weight @ contrast) / max(weight.sum(), 1e-300), 0, JUNK_CONTRAST * centre)
        wide = _spread(contrast - low, variance, junk, wide, (0.05, JUNK_SPREAD))
    return junk


def _spread(gap, variance, share, spread, limits):
    """Standard deviation of contrasts beyond their noise, by moments."""
    weight = share / (spread**2 + variance) ** 2
    beyond = (weight * (gap**2 - variance)).sum() / max(weight.sum(), 1e-300)
    return float(np.sqrt(np.clip(beyond, *np.square(limits))))


def _normal(x, variance):
    return np.exp(-0.5 * x**2 / variance) / np.sqrt(2 * np.pi * variance)


@dataclass
class _Facts:
    """Overlaps of all images with the volumes along the coordinate, which are combinations of a few."""

    gram: np.ndarray  # (n, l, l)
    overlap: np.ndarray  # (n, l)
    coefficients: np.ndarray  # (m, l), of the nodes' volumes
    occupied: np.ndarray  # (m,), share of the particles

    @classmethod
    def of(cls, observations, found, workers):
        stack = stack_volumes(found.volumes, observations)
        flat = stack.data.reshape(len(stack), -1)
        left, values, _ = np.linalg.svd(flat @ flat.T)
        keep = values > 1e-6 * values[0]
        basis = stack.combine((left[:, keep] / np.sqrt(values[keep])).T)
        coefficients = left[:, keep] * np.sqrt(values[keep])
        gram, overlap = gram_matrices(replace(observations, noise=found.principal.noise), basis, workers=workers)
        return cls(gram, overlap, coefficients, found.effective_particles / found.effective_particles.sum())

    def junk(self):
        mean = self.occupied @ self.coefficients
        power = np.einsum("l,nlk,k->n", mean, self.gram, mean)
        return _junk_mixture(self.overlap @ mean / power, 1 / power)

    def placed(self, overlap):
        """Most probable node (n,) of each image, from its overlaps."""
        pairs = (self.coefficients[:, :, None] * self.coefficients[:, None, :]).reshape(len(self.coefficients), -1)
        return (overlap @ self.coefficients.T - 0.5 * self.gram.reshape(len(self.gram), -1) @ pairs.T).argmax(1)

    def simulated(self, nodes, rng):
        """Overlaps of images that show these nodes' volumes, noise and all."""
        root = np.linalg.cholesky(
            self.gram + 1e-9 * np.trace(self.gram, axis1=1, axis2=2)[:, None, None] * np.eye(self.gram.shape[1])
        )
        noise = np.einsum("nij,nj->ni", root, rng.standard_normal(self.overlap.shape))
        return np.einsum("nij,nj->ni", self.gram, self.coefficients[nodes]) + noise


def _light(value, amber, red):
    return LIGHTS[int(value > amber) + int(value > red)]


def _heterogeneity(observations, rng, workers):
    tested = heterogeneity_test(observations, rng=rng, workers=workers)
    light = "green" if tested.p_value <= SIGNIFICANT else "amber" if tested.p_value <= DOUBTFUL else "red"
    verdict = "" if light == "green" else " One structure explains them, or there is too little to tell."
    return Answer(
        "Do the particles differ at all?", tested.p_value, "p", light,
        f"Components made of one half of them lie in the images of the other, by {tested.surplus:.1f} standard "
        f"deviations of chance.{verdict}",
    )  # fmt: skip


def _landscape(log_likelihood, edges, rng):
    """As `embed` makes it."""
    return deconvolve_landscape(log_likelihood, edges, rng=rng, finest=FINEST)


def _halves(found, rng):
    half = rng.permutation(len(found.coordinate)) % 2 == 0
    pair = [_landscape(found.log_likelihood[some], found.landscape.edges, rng) for some in (half, ~half)]
    rms = _rms(*pair)
    return Answer(
        "Is it the same in halves of the particles?", rms, "kT", _light(rms, AGREE, DIFFER),
        "Random halves, volumes shared: sampling alone. mode=\"full\" embeds each half by itself.",
    )  # fmt: skip


def _entanglement(particles, found, rng):
    axes = particles.poses.rotation.as_matrix()[:, :, 2]
    defocus = (np.asarray(particles.ctf.defocus_u) + np.asarray(particles.ctf.defocus_v)) / 2
    defocus = (defocus - defocus.mean()) / max(defocus.std(), 1e-9)
    questions = {
        "Does the state depend on the view?": (
            _even_harmonics(axes), "views are missing for some states, or poses and states are mixed up"
        ),
        "Does the state depend on the defocus?": (
            defocus[:, None] ** np.arange(1, 4), "it comes from the microscope, or from grid squares that differ"
        ),
    }  # fmt: skip
    for doubt, (covariates, why) in questions.items():
        _, p_value = score_test(found.log_likelihood, found.landscape.edges[0], covariates, rng=rng)
        explained = _explained(found.coordinate, covariates)
        light = "green" if p_value > DOUBTFUL else "amber"
        if p_value < SIGNIFICANT and explained > EXPLAINED:
            light = "red"
        meaning = f"It explains {explained:.1f} % of the coordinate's variance; where it does, {why}."
        yield Answer(doubt, p_value, "p", light, meaning)


def _explained(coordinate, covariates):
    """Adjusted share of the variance in %, at least 0."""
    design = np.column_stack([np.ones(len(coordinate)), covariates])
    fit, _, rank, _ = np.linalg.lstsq(design, coordinate, rcond=None)
    left = ((coordinate - design @ fit) ** 2).sum() / max(len(coordinate) - rank, 1)
    return 100 * max(0.0, 1 - left / max(coordinate.var(ddof=1), 1e-30))


def _even_harmonics(axes):
    """Even functions of the viewing direction up to degree 4: products of its coordinates, (n, 20)."""
    x, y, z = axes.T
    second = np.column_stack([x * x, y * y, x * y, x * z, y * z])
    rows, columns = np.triu_indices(5)
    return np.column_stack([second, second[:, rows] * second[:, columns]])


def _junk(found, junk, rng):
    kept = junk < 0.5
    share = 100 * float((~kept).mean())
    if kept.all():
        return Answer("Is there junk?", share, "%", "green", "No image lacks the particle; nothing was selected.")
    without = _landscape(found.log_likelihood[kept], found.landscape.edges, rng)
    change = _rms(without, found.landscape)
    return Answer(
        "Is there junk?", share, "%", max(_light(share, 10, 30), _light(change, AGREE, DIFFER), key=LIGHTS.index),
        f"Without these images the landscape changes by {change:.2f} kT rms.",
    )  # fmt: skip


def _settings(found, rng):
    """Largest change of the landscape under other choices than were made."""
    edges = found.landscape.edges[0]
    doubted = _landscape(DOUBTED * found.log_likelihood, edges, rng)
    changes = {f"likelihoods that count for {DOUBTED}": _rms(doubted, found.landscape)}
    if (len(edges) - 1) // 2 >= 6:
        last = 2 * ((len(edges) - 1) // 2)
        likelihood = found.log_likelihood[:, :last]
        pairs = np.logaddexp(likelihood[:, ::2], likelihood[:, 1::2]) - np.log(2)
        coarse = _landscape(pairs, edges[: last + 1 : 2], rng)
        fine = _joined(found.landscape, last)
        changes["half as many nodes"] = _rms(coarse, fine)
    worst = max(changes, key=changes.get)
    return Answer(
        "Does it depend on settings?", changes[worst], "kT", _light(changes[worst], AGREE, DIFFER),
        f"Most with {worst}.",
    )  # fmt: skip


def _joined(landscape, last):
    """The first ``last`` bins of a landscape, joined two by two."""
    probability = landscape.probability[:last].reshape(-1, 2).sum(axis=1)
    edges = landscape.edges[0][: last + 1 : 2]
    with np.errstate(divide="ignore"):
        energy = np.where(probability > 0, -np.log(probability / np.diff(edges)), np.nan)
    return replace(landscape, energy_kt=energy, edges=[edges], lower_kt=None, upper_kt=None, counts=None)


def _prediction(found, facts, rng):
    m = len(facts.coefficients)
    seen = np.bincount(facts.placed(facts.overlap), minlength=m)
    density = found.landscape.probability
    drawn = np.array([
        np.bincount(facts.placed(facts.simulated(rng.choice(m, len(facts.gram), p=density), rng)), minlength=m)
        for _ in range(N_PREDICTIVE)
    ])  # fmt: skip
    expected = drawn.mean(axis=0)
    spread = drawn.var(axis=0) + 1
    distance = [float(((row - expected) ** 2 / spread).sum()) for row in (*drawn, seen)]
    p_value = (1 + sum(value >= distance[-1] for value in distance[:-1])) / (1 + N_PREDICTIVE)
    moved = [50 * float(np.abs(row - expected).sum()) / len(facts.gram) for row in (*drawn, seen)]
    excess = max(0.0, moved[-1] - float(np.mean(moved[:-1])))
    return Answer(
        "Would it give these images?", excess, "%", _light(excess, 5, 15),
        "Share of particles that lie elsewhere than images simulated from the landscape do, beyond chance "
        f"(p = {p_value:.2g}).",
    )  # fmt: skip


def _independent_halves(particles, found, rng, options):
    half = rng.permutation(len(particles)) % 2 == 0
    pair = [embed(particles[np.flatnonzero(some)], rng=rng, **options) for some in (half, ~half)]
    rms = _rms(*(_on(each.landscape, found.landscape) for each in pair))
    return Answer(
        "Is it the same in independent halves?", rms, "kT", _light(rms, AGREE, DIFFER),
        "Either half embedded by itself: mean, components, volumes and landscape.",
    )  # fmt: skip


def _nulls(particles, found, rng, options, n_nulls):
    names = {
        "homogeneous": "Does it find motion where there is none?", "noise": "Does it find motion in pure noise?",
        "exchanged residuals": "Does it find motion in residuals that were exchanged?",
    }  # fmt: skip
    for kind, doubt in names.items():
        false, refused = 0, 0
        for _ in range(n_nulls):
            try:
                null = embed(_null_particles(particles, found, kind, rng), rng=rng, **options)
            except ValueError:  # nothing moves along the coordinate
                refused += 1
                continue
            false += null.landscape.verdict == "resolved"
        yield Answer(
            doubt, 100 * false / n_nulls, "%", "red" if false else "green",
            f"{kind}: {n_nulls} tried, {false} called resolved, {refused} refused with an error.",
        )  # fmt: skip


def _null_particles(particles, found, kind, rng):
    """The particles with images in which nothing moves."""
    other, sign = rng.permutation(len(particles)), rng.choice([-1, 1], len(particles))
    shape = np.asarray(particles[:1].images).shape[1:]
    images = np.empty((len(particles), *shape), dtype=np.float32)
    for start in range(0, len(particles), 256):
        part = np.arange(start, min(start + 256, len(particles)))
        signal = _mean_images(particles[part], found)
        if kind == "exchanged residuals":
            # a sign alone leaves a motion in the images, made symmetric: r rᵀ is the same for −r
            residual = np.asarray(particles[other[part]].images) - _mean_images(particles[other[part]], found)
            images[part] = signal + sign[part, None, None] * residual
        else:
            residual = np.asarray(particles[part].images) - signal
            noise = rng.standard_normal(residual.shape) * residual.std(axis=(1, 2), keepdims=True)
            images[part] = noise + (signal if kind == "homogeneous" else 0)
    return replace(particles, images=images)


def _mean_images(particles, found):
    from cryonb import ctf, projection

    return ctf.apply(projection.project(found.principal.mean, particles.poses), particles.ctf, particles.pixel_size)


def _on(landscape, other):
    """A landscape on the bins of another one, by interpolation; NaN outside."""
    centers, wanted = landscape.centers[0], other.centers[0]
    energy = np.interp(wanted, centers, landscape.energy_kt, left=np.nan, right=np.nan)
    return replace(landscape, energy_kt=energy, edges=other.edges, lower_kt=None, upper_kt=None, counts=None)


def _rms(one, other):
    """`landscape_rms` of two estimates; infinite where they share no bins."""
    try:
        return landscape_rms(one, other, energy_limit=POPULATED)
    except ValueError:
        return float("inf")
