"""Do the latents lie on a point, a line, a closed line or a surface? Particles not used for the shapes choose one."""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from cryonb.manifold.coordinates import local_linear_residuals
from cryonb.manifold.diffusion import DiffusionMap
from cryonb.manifold.landscape import deconvolve_landscape
from cryonb.parallel import with_one_blas_thread

__all__ = ["LatentShape", "choose_shape", "fit_shape", "shape_landscape", "unshrunk_latents"]

SHAPES = ("point", "line", "circle", "surface")  # from simple to rich
N_LINE, N_SIDE = 60, 16  # nodes along a line; of a surface, along either side
DEGREE, WAVES, SURFACE_DEGREE = 6, 4, 4  # of the polynomials and Fourier series that shapes are made of
N_ITERATIONS, N_DENSITY = 40, 10  # of shape and density; of the density alone
STIFFNESS = 1e-4  # by the fourth power of a function's order, of the mean information
N_FIT = 6000  # particles that make and choose shapes; more only cost time
DOUBT = 2.0  # standard errors by which a richer shape must explain the particles better
LEAST_GAIN = 0.005  # nats per particle; set after looking at points that only noise spreads
LEAST = 1e-3  # information, relative to the prior's, below which an image says nothing of a direction
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class LatentShape:
    """Result of `choose_shape`.

    Parameters
    ----------
    name : {"point", "line", "circle", "surface"}
    nodes : ndarray (m, p)
        Line: distance along it; circle: angle in degrees, equal distances apart; surface: mean distance along either
        side; distances in the latents' unit. A point has p = 0.
    positions : ndarray (m, q)
        The nodes in the space of the latents.
    edges : tuple of p ndarray
        Bins around the nodes.
    log_likelihood : ndarray (n, m)
        Of every particle at every node, up to a constant per particle.
    density : ndarray (m,)
        How the particles are spread over the nodes.
    coordinate : ndarray (n, p)
        Posterior mean of every particle.
    spread : ndarray (q, q)
        Covariance of the particles about the shape that their errors do not explain: smaller motions, and what the
        particles' errors share.
    evidence : dict of str to (float, float)
        Of every shape tried: held-out log-likelihood less that of the chosen one, nats per particle, and its standard
        error.
    """

    name: str
    nodes: np.ndarray
    positions: np.ndarray
    edges: tuple
    log_likelihood: np.ndarray
    density: np.ndarray
    coordinate: np.ndarray
    spread: np.ndarray
    evidence: dict = field(default_factory=dict)

    @property
    def posterior(self):
        """Of every particle over the nodes, (n, m)."""
        return _posterior(self.log_likelihood, self.density)

    def __repr__(self):
        others = ", ".join(f"{name} {mean:+.3f} ± {error:.3f}" for name, (mean, error) in self.evidence.items())
        return f"LatentShape({self.name} of {len(self.log_likelihood)} particles{'; ' if others else ''}{others})"


def unshrunk_latents(embedding):
    """What the images alone say of each particle's latent coordinates, without the prior that draws them to the mean.

    Parameters
    ----------
    embedding : Embedding
        Posterior means (n, q) under a Gaussian prior, with covariance and eigenvalues (the prior's variances).

    Returns
    -------
    latents : ndarray (n, q)
    information : ndarray (n, q, q)
        Inverse covariance of each particle's error.

    Examples
    --------
    One image's estimate 2 ± 1 under a prior of variance 1 has the posterior 1 ± 1/√2:

    >>> from cryonb.types import Embedding
    >>> seen = Embedding(np.ones((1, 1)), np.ones(1), "", np.full((1, 1, 1), 0.5))
    >>> [part.ravel().round(6).tolist() for part in unshrunk_latents(seen)]
    [[2.0], [1.0]]
    """
    precision = np.linalg.inv(embedding.covariance)
    information = precision - np.diag(1 / embedding.eigenvalues)
    values, vectors = np.linalg.eigh(information)
    values = np.maximum(values, LEAST / embedding.eigenvalues[0])
    information = np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
    pull = np.einsum("nij,nj->ni", precision, embedding.coordinates)
    return np.linalg.solve(information, pull[..., None])[..., 0], information


def fit_shape(embedding, name, *, diffusion=None):
    """Fit one shape through latents with known errors.

    z_i = c(x) + spread + error, x ~ a smooth density on the nodes, c(x) a polynomial, or a Fourier series where it is
    closed, by expectation–maximisation: a generative topographic map (Bishop, Svensén & Williams, Neural Comput.
    10:215 (1998)) with a Gaussian spread about the shape besides the error that is known of every point.

    Parameters
    ----------
    embedding : Embedding
        Of `principal_volumes`, with covariance and eigenvalues; at least 20 particles, and two components for a circle
        or a surface.
    name : {"point", "line", "circle", "surface"}
    diffusion : ndarray (n, k), optional
        Diffusion coordinates, for the start (the latents themselves give another, and the better one counts);
        computed by default.

    Returns
    -------
    LatentShape

    Raises
    ------
    ValueError
        No covariance or eigenvalues, too few particles or components, an unknown shape.

    Examples
    --------
    Points around a ring, each with an error of 0.1:

    >>> from cryonb.types import Embedding
    >>> rng = np.random.default_rng(0)
    >>> angle = rng.uniform(0, 2 * np.pi, 400)
    >>> seen = np.column_stack([np.cos(angle), np.sin(angle)]) + 0.1 * rng.standard_normal((400, 2))
    >>> error = np.linalg.inv(np.eye(2) / 0.1**2 + np.eye(2) / 0.5)
    >>> ring = fit_shape(Embedding(seen @ error / 0.1**2, np.full(2, 0.5), "", np.tile(error, (400, 1, 1))), "circle")
    >>> bool(np.abs(np.hypot(*ring.positions.T) - 1).max() < 0.05)
    True
    """
    orders = _orders(embedding, [name], diffusion)
    data, family = _Latents.of(embedding), _family(name)
    some = np.random.default_rng(0).permutation(len(data))[:N_FIT]
    model = family.best(data[some], [order[some] for order in orders])
    log_likelihood = model.log_likelihood(data)
    nodes, edges = family.gauge(model)
    coordinate = family.mean(_posterior(log_likelihood, model.density), nodes)
    return LatentShape(name, nodes, model.positions, edges, log_likelihood, model.density, coordinate, model.spread)


@with_one_blas_thread
def choose_shape(embedding, *, rng, diffusion=None, shapes=SHAPES):
    """Fit shapes through latents with known errors, and take the simplest that held-out particles do not doubt.

    Each shape is fitted (`fit_shape`) to one half of the particles and judged by the other. A line must explain them
    better than a point by two standard errors and 0.005 nats per particle, a surface better than what stands, and a
    circle better than all others. All shapes have a Gaussian spread: a second motion in one well is not a second
    coordinate but width.

    Parameters
    ----------
    embedding, diffusion
        As in `fit_shape`.
    rng : seed or Generator
        Halves.
    shapes : sequence of str
        Which to try.

    Returns
    -------
    LatentShape

    Raises
    ------
    ValueError
        As `fit_shape`.

    Notes
    -----
    The principal volumes were made of all particles: where nothing moves, their noise may still look like a line. The
    starts, too, come from all particles.
    """
    shapes = [name for name in shapes if name not in ("circle", "surface") or embedding.coordinates.shape[1] > 1]
    orders = _orders(embedding, shapes, diffusion)
    data = _Latents.of(embedding)
    some = np.random.default_rng(rng).permutation(len(data))[:N_FIT]
    score = {name: np.empty(len(some)) for name in sorted(shapes, key=SHAPES.index)}
    for side in range(2):
        fitted, judge = some[side::2], some[1 - side :: 2]
        for name in score:
            model = _family(name).best(data[fitted], [order[fitted] for order in orders])
            score[name][1 - side :: 2] = model.log_marginal(data[judge])
    chosen = None
    for name in (name for name in ("point", "line", "surface") if name in score):
        chosen = name if chosen is None or _better(score[name] - score[chosen]) else chosen
    if "circle" in score and all(_better(score["circle"] - other) for name, other in score.items() if name != "circle"):
        chosen = "circle"
    gains = {name: values - score[chosen] for name, values in score.items()}
    evidence = {name: (float(gain.mean()), float(gain.std() / np.sqrt(len(gain)))) for name, gain in gains.items()}
    return replace(fit_shape(embedding, chosen, diffusion=orders[0]), evidence=evidence)


def shape_landscape(shape, *, rng, credibility=0.9):
    """Free-energy landscape over a shape: one coordinate, an angle, or two coordinates.

    Parameters
    ----------
    shape : LatentShape
        Not a point.
    rng : seed or Generator
    credibility : float

    Returns
    -------
    EnergyLandscape
        By `deconvolve_landscape` of the particles' likelihoods at the nodes.

    Raises
    ------
    ValueError
        For a point: there is no coordinate.
    """
    names = {"line": ("distance",), "circle": ("angle (°)",), "surface": ("distance 1", "distance 2")}
    if shape.name == "point":
        raise ValueError("the latents lie on a point: nothing moves that these particles could show")
    grid = tuple(len(edge) - 1 for edge in shape.edges)
    return deconvolve_landscape(
        shape.log_likelihood.reshape(-1, *grid), shape.edges, rng=rng, gauge=names[shape.name], credibility=credibility,
        periodic=shape.name == "circle",
    )  # fmt: skip


def _orders(embedding, names, diffusion):
    """Coordinates that shapes may start from; errors for what no shape can be fitted to."""
    if embedding.covariance is None or embedding.eigenvalues is None:
        raise ValueError("shapes need latents with covariance and eigenvalues, as principal_volumes gives them")
    n, q = embedding.coordinates.shape
    if not names or any(name not in SHAPES for name in names):
        raise ValueError(f"shapes must be some of {', '.join(SHAPES)}, got {', '.join(names) or 'none'}")
    if q < 2 and any(name in ("circle", "surface") for name in names):
        raise ValueError(f"a circle or a surface needs at least 2 latent coordinates, got {q}")
    if n < 20:
        raise ValueError(f"a shape needs at least 20 particles, got {n}")
    if diffusion is None:
        diffusion = DiffusionMap(min(5, n - 2)).fit_transform(embedding.coordinates, covariance=embedding.covariance)
    return diffusion, embedding.coordinates


def _posterior(log_likelihood, density):
    exponent = log_likelihood + np.log(density)
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _better(gain):
    return gain.mean() > max(DOUBT * gain.std() / np.sqrt(len(gain)), LEAST_GAIN)


@dataclass
class _Latents:
    """Estimates of n latents, their errors, and both together with the particles' own spread about a shape."""

    latents: np.ndarray  # (n, q)
    errors: np.ndarray  # (n, q, q)
    information: np.ndarray  # (n, q, q), inverse of the errors' and the spread's covariance
    pull: np.ndarray  # (n, q), information @ latents
    size: np.ndarray  # (n,), latents @ pull
    volume: np.ndarray  # (n,), log determinant of the information

    @classmethod
    def of(cls, embedding):
        latents, information = unshrunk_latents(embedding)
        return cls(latents, np.linalg.inv(information), *[None] * 4)

    def spread_by(self, spread):
        """The same with another spread, (q, q)."""
        information = np.linalg.inv(self.errors + spread)
        pull = np.einsum("nij,nj->ni", information, self.latents)
        size = np.einsum("ni,ni->n", self.latents, pull)
        return _Latents(self.latents, self.errors, information, pull, size, np.linalg.slogdet(information)[1])

    def __len__(self):
        return len(self.latents)

    def __getitem__(self, index):
        return _Latents(self.latents[index], self.errors[index], *[None] * 4)

    def log_likelihood(self, positions):
        """Of each particle at each position, (n, m)."""
        n, q = self.latents.shape
        squares = np.einsum("mi,mj->mij", positions, positions).reshape(len(positions), q * q)
        squared = self.size[:, None] - 2 * self.pull @ positions.T + self.information.reshape(n, q * q) @ squares.T
        return 0.5 * (self.volume[:, None] - np.maximum(squared, 0))

    def next_spread(self, spread, weights, positions):
        """Expected covariance of the particles about a shape, given the last one (an EM step)."""
        q = positions.shape[1]
        first = weights @ positions
        second = (weights @ np.einsum("mi,mj->mij", positions, positions).reshape(-1, q * q)).reshape(-1, q, q)
        cross = np.einsum("ni,nj->nij", self.latents, first)
        square = np.einsum("ni,nj->nij", self.latents, self.latents) - cross - cross.swapaxes(1, 2) + second
        gain = np.einsum("ij,njk->nik", spread, self.information)
        moved = np.einsum("nij,njk,nlk->nil", gain, square, gain, optimize=True)
        new = (moved + spread - np.einsum("nij,jk->nik", gain, spread)).mean(axis=0)
        return (new + new.T) / 2


@dataclass
class _Model:
    """A shape in the space of the latents, how the particles are spread over it and about it."""

    positions: np.ndarray  # (m, q)
    density: np.ndarray  # (m,)
    spread: np.ndarray  # (q, q)

    def log_likelihood(self, data):
        parts = [data[i : i + CHUNK].spread_by(self.spread) for i in range(0, len(data), CHUNK)]
        return np.concatenate([part.log_likelihood(self.positions) for part in parts])

    def log_marginal(self, data):
        exponent = self.log_likelihood(data) + np.log(self.density)
        highest = exponent.max(axis=1)
        return highest + np.log(np.exp(exponent - highest[:, None]).sum(axis=1))


@dataclass
class _Family:
    """Functions on nodes, and what is special to points, lines, circles and surfaces."""

    name: str
    unit: np.ndarray  # (m, p), nodes in the unit range
    basis: np.ndarray  # (m, l)
    order: np.ndarray  # (l,), of each function: the higher, the smaller it is expected to be
    fine: np.ndarray | None = None  # the basis on a fine grid, where nodes are spaced by arclength

    def best(self, data, orders):
        """The most probable of the shapes that several orderings of the particles lead to."""
        models = [self.fit(data, self.start(order)) for order in orders[: 1 if self.name == "point" else None]]
        return max(models, key=lambda model: model.log_marginal(data).sum())

    def start(self, order):
        """Weights (n, m) from the ranks of one or two coordinates, or from the angle between two."""
        n = len(order)
        if self.name == "point":
            return np.ones((n, 1))
        rank = (np.argsort(np.argsort(order, axis=0, kind="stable"), axis=0) + 0.5) / n
        if self.name == "circle":
            angle = np.arctan2(rank[:, 1] - 0.5, rank[:, 0] - 0.5)
            place = ((np.argsort(np.argsort(angle, kind="stable")) + 0.5) / n)[:, None]
            gap = np.abs(place - self.unit[:, 0])
            squared = np.minimum(gap, 1 - gap) ** 2
        else:
            columns = [0] if self.name == "line" else [0, 1 + int(np.argmax(local_linear_residuals(order)[1:]))]
            squared = ((rank[:, None, columns] - self.unit) ** 2).sum(axis=2)
        weights = np.exp(-0.5 * squared / (0.05 if self.unit.shape[1] == 1 else 0.1) ** 2)
        return weights / weights.sum(axis=1, keepdims=True)

    def fit(self, data, weights):
        """Expectation–maximisation; then equal distances between the nodes of a line, and the density again."""
        (m, size), q = self.basis.shape, data.latents.shape[1]
        model = _Model(None, np.full(m, 1 / m), 0.1 * np.cov(data.latents.T).reshape(q, q))
        for iteration in range(N_ITERATIONS + N_DENSITY):
            data = data.spread_by(model.spread)
            if iteration < N_ITERATIONS:
                strength = (weights.T @ data.information.reshape(-1, q * q)).reshape(m, q, q)
                normal = np.einsum("ml,mk,mij->likj", self.basis, self.basis, strength, optimize=True)
                normal = normal.reshape(size * q, size * q)
                roughness = np.repeat(self.order**4.0, q) * STIFFNESS * np.trace(normal) / len(normal)
                target = (self.basis.T @ (weights.T @ data.pull)).ravel()
                amplitude = np.linalg.solve(normal + np.diag(roughness + 1e-12), target).reshape(size, q)
                model.positions = self.basis @ amplitude
            elif iteration == N_ITERATIONS:
                if self.fine is None:
                    break
                model.positions = _evenly(self.fine @ amplitude, m, self.closed)
                model.density = np.full(m, 1 / m)
            if iteration not in (0, N_ITERATIONS):
                model.density = self.smooth(weights.mean(axis=0))
            weights = _posterior(data.log_likelihood(model.positions), model.density)
            model.spread = data.next_spread(model.spread, weights, model.positions)
        return model

    @property
    def closed(self):
        return self.name == "circle"

    def smooth(self, density):
        if self.name == "point":
            return density
        grid = density.reshape(N_SIDE, N_SIDE) if self.name == "surface" else density
        grid = gaussian_filter(grid, 1.5, mode="wrap" if self.closed else "nearest").ravel() + 1e-3 / len(density)
        return grid / grid.sum()

    def gauge(self, model):
        """Coordinates of the nodes, and bins around them."""
        if self.name == "point":
            return np.zeros((1, 0)), ()
        if self.name == "surface":
            grid = model.positions.reshape(N_SIDE, N_SIDE, -1)
            shares = model.density.reshape(N_SIDE, N_SIDE)
            lengths = [_mean_length(grid, shares), _mean_length(grid.swapaxes(0, 1), shares.T)]
            nodes = np.stack([value.ravel() for value in np.meshgrid(*lengths, indexing="ij")], axis=1)
            return nodes, tuple(_bins(length) for length in lengths)
        if self.closed:
            edges = np.linspace(0, 360, N_LINE + 1)
            return ((edges[1:] + edges[:-1]) / 2)[:, None], (edges,)
        length = np.linalg.norm(np.diff(model.positions, axis=0), axis=1).sum()
        nodes = np.linspace(0, length, N_LINE)
        return nodes[:, None], (_bins(nodes),)

    def mean(self, weights, nodes):
        if self.closed:
            turning = weights @ np.exp(1j * np.radians(nodes[:, 0]))
            return (np.degrees(np.angle(turning)) % 360)[:, None]
        return weights @ nodes


def _family(name):
    from cryonb.manifold.spectral import legendre_basis

    if name == "point":
        return _Family(name, np.zeros((1, 0)), np.ones((1, 1)), np.zeros(1))
    if name == "line":
        nodes, limits = np.linspace(0, 1, N_LINE), (0.0, 1.0)
        fine = legendre_basis(np.linspace(0, 1, 400), DEGREE, limits)
        return _Family(name, nodes[:, None], legendre_basis(nodes, DEGREE, limits), np.arange(DEGREE), fine)
    if name == "circle":
        nodes = (np.arange(N_LINE) + 0.5) / N_LINE
        order = np.concatenate([[0], np.repeat(np.arange(1, WAVES + 1), 2)])
        return _Family(name, nodes[:, None], _fourier_basis(nodes), order, _fourier_basis(np.linspace(0, 1, 401)))
    side = (np.arange(N_SIDE) + 0.5) / N_SIDE
    along = legendre_basis(side, SURFACE_DEGREE + 1, (0.0, 1.0))
    pairs = [(a, b) for a in range(SURFACE_DEGREE + 1) for b in range(SURFACE_DEGREE + 1 - a)]
    basis = np.stack([np.outer(along[:, a], along[:, b]).ravel() for a, b in pairs], axis=1)
    unit = np.stack([value.ravel() for value in np.meshgrid(side, side, indexing="ij")], axis=1)
    return _Family(name, unit, basis, np.array([np.hypot(a, b) for a, b in pairs]))


def _fourier_basis(place):
    waves = 2 * np.pi * np.outer(place, np.arange(1, WAVES + 1))
    pairs = np.stack([np.cos(waves), np.sin(waves)], axis=2).reshape(len(place), -1)
    return np.column_stack([np.ones(len(place)), np.sqrt(2) * pairs])


def _evenly(fine, m, closed):
    """m points equally spaced along a line; along a closed one in the middle of equal pieces."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    even = (np.arange(m) + 0.5) / m * length[-1] if closed else np.linspace(0, length[-1], m)
    return np.stack([np.interp(even, length, column) for column in fine.T], axis=1)


def _mean_length(grid, shares):
    """Distance from the first row of a surface to each, averaged over where particles are."""
    steps = np.linalg.norm(np.diff(grid, axis=0), axis=2)
    weight = (shares[1:] + shares[:-1]) + 1e-3 * shares.sum() / shares.size
    return np.concatenate([[0], np.cumsum((steps * weight).sum(axis=1) / weight.sum(axis=1))])


def _bins(centres):
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
