"""Does a particle's place on the coordinate depend on something else that is known of it?"""

import numpy as np

from cryonb.manifold.deconvolution import Problem, log_evidence, ridge, solve_path

__all__ = ["score_test"]


def score_test(log_likelihood, edges, covariates, *, rng, n_permutations=999):
    """Whether the density over the coordinate depends on something else that is known of each particle.

    Rao's score test: at the landscape of all particles, the slope of each particle's log-likelihood by the energies of
    the bins is set against the covariates; their products are compared with those after the particles' covariates were
    permuted.

    Parameters
    ----------
    log_likelihood : ndarray (n, m)
    edges : ndarray (m + 1,)
    covariates : ndarray (n, c)
        Functions of a viewing direction, a defocus, membership of a condition; constants are left out.
    rng : seed or Generator
    n_permutations : int

    Returns
    -------
    statistic : float
        Σ over covariates of gᵀ H⁻¹ g, g their products with the slopes; about (bins that can be told apart) ×
        (covariates) where nothing depends.
    p_value : float
        (1 + permutations that reach the statistic) / (1 + permutations).

    Notes
    -----
    Rao, Math. Proc. Camb. Philos. Soc. 44:50 (1948). A particle that can hardly be placed has hardly a slope: it does
    not make a dependence, as it would in a correlation of posterior means, which shrink towards the middle.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> side = rng.random(500) < 0.5
    >>> seen = np.where(side, 0.3, 0.6) + 0.1 * rng.standard_normal(500)
    >>> edges = np.linspace(0, 1, 11)
    >>> likelihood = -0.5 * ((seen[:, None] - (edges[1:] + edges[:-1]) / 2) / 0.1) ** 2
    >>> score_test(likelihood, edges, side[:, None], rng=1, n_permutations=99)[1]
    0.01
    """
    rng = np.random.default_rng(rng)
    covariates = np.asarray(covariates, dtype=float)
    if covariates.ndim != 2 or len(covariates) != len(log_likelihood) or not np.isfinite(covariates).all():
        raise ValueError(
            f"covariates must be finite, with a row for each of {len(log_likelihood)} particles, "
            f"got shape {covariates.shape}"
        )
    covariates = covariates[:, covariates.std(axis=0) > 0]
    if not covariates.shape[1]:
        return 0.0, 1.0
    # orthonormal, so that it does not matter which functions span the same space
    whitened = np.linalg.svd(covariates - covariates.mean(axis=0), full_matrices=False)
    whitened = whitened[0][:, whitened[1] > 1e-9 * whitened[1][0]] * np.sqrt(len(covariates))
    problem = Problem.build(log_likelihood, (np.asarray(edges, dtype=float),), None)
    grid, energies = solve_path(problem)
    evidence = [log_evidence(problem, energy, smoothness) for energy, smoothness in zip(energies, grid)]
    best = int(np.argmax(evidence))
    slopes = problem.scores(energies[best])[0]
    slopes = slopes - slopes.mean(axis=0)
    precision = slopes.T @ slopes + problem.stiffness(grid[best])
    constant = np.trace(precision) / len(precision) ** 2  # energies have no level
    values, vectors = np.linalg.eigh(precision + ridge(precision) + constant)
    known = values > 1e-9 * max(values[-1], 1e-30)
    root = vectors[:, known] / np.sqrt(values[known])
    pulls = slopes @ root
    statistic = float(((whitened.T @ pulls) ** 2).sum())
    more = sum(
        float(((whitened[rng.permutation(len(whitened))].T @ pulls) ** 2).sum()) >= statistic
        for _ in range(n_permutations)
    )
    return statistic, (1 + more) / (1 + n_permutations)
