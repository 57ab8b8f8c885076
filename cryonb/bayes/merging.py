"""Two classes become one, or one becomes two: what K is changed by while a 3D classification goes on."""

import copy

import numpy as np

from cryonb import fourier

__all__ = ["LEAST", "halved", "merged", "nearest_pairs"]

SPLIT = 6  # iterations in which a class's own particles part
LEAST = 10  # particles of either half that a class needs


def nearest_pairs(job, state, shell):
    """Pairs (a, b) of classes, a before b, those that the images can tell apart least first.

    By Ward's criterion, J Am Stat Assoc 58:236 (1963), with the cross-spectrum of the halves instead of a power: noise
    does not count.

    Parameters
    ----------
    job : classes.Job
    state : classes.State
        Of K classes.
    shell : float
        Last one that is looked at.

    Returns
    -------
    list of (int, int)
        All K (K − 1) / 2 of them.
    """
    mask, count = job.mask, state.probability[job.used].sum(0)
    shells = np.arange(1, int(shell) + 1)
    weight = shells / state.noise.mean(0)[shells]
    first, second = ([fourier.transform(data * mask) for data in half] for half in state.difference)
    cost = {}
    for b in range(len(count)):
        for a in range(b):
            cross = ((first[a] - first[b]) * (second[a] - second[b]).conj()).real
            shared = count[a] * count[b] / max(count[a] + count[b], 1e-9)
            cost[a, b] = shared * float(fourier.shell_mean(cross, ndim=3)[shells] @ weight)
    return sorted(cost, key=cost.get)


def merged(job, state, a, b):
    """A copy of the state in which class b is part of class a, a before b.

    Parameters
    ----------
    job : classes.Job
    state : classes.State
        Of K classes.
    a, b : int

    Returns
    -------
    classes.State
        Of K − 1.
    """
    state = copy.deepcopy(state)
    count = state.probability[job.used].sum(0)[[a, b]]
    share = count / max(count.sum(), 1e-9)
    for volumes in (state.difference.swapaxes(0, 1), state.joined):
        volumes[a] = share[0] * volumes[a] + share[1] * volumes[b]
    state.probability[:, a] += state.probability[:, b]
    state.weights[a] += state.weights[b]
    state.difference, state.maps = np.delete(state.difference, b, 1), np.delete(state.maps, b, 1)
    state.joined, state.weights = np.delete(state.joined, b, 0), np.delete(state.weights, b)
    state.probability = np.delete(state.probability, b, 1)
    label = state.top.label
    label[label == b] = a
    label[label > b] -= 1
    for side in job.sides:
        job.refilter(state, side)
    return state


def halved(job, state, k, shell):
    """A copy of the state in which class k has become two, the last, by its own particles alone.

    Parameters
    ----------
    job : classes.Job
    state : classes.State
        Of K classes.
    k : int
    shell : float
        At which the two start.

    Returns
    -------
    classes.State, or None
        Of K + 1; None where the class has too few particles.
    """
    whole = job.used
    job.used = whole & (state.probability.argmax(1) == k)
    pair = None
    if min(len(job.members(side)) for side in job.sides) >= 2 * LEAST:
        pair = job.fresh([state.maps[side, k] for side in (0, 1)], state.noise, 2, shell)
        pair.norm, pair.group_scale = state.norm, state.group_scale
        job.split(pair, np.random.default_rng([job.settings.seed, 4, len(state.weights), k]))
        for _ in range(SPLIT):
            job.iterate(pair)
    job.used = whole
    if pair is None:
        return None
    before, state = state, copy.deepcopy(state)
    parts = pair.difference + (pair.consensus - before.consensus)[:, None]
    state.difference = np.concatenate([np.delete(state.difference, k, 1), parts], 1)
    state.maps = np.concatenate([np.delete(state.maps, k, 1), pair.maps], 1)
    state.joined = np.concatenate([np.delete(state.joined, k, 0), pair.joined])
    state.weights = np.append(np.delete(state.weights, k), before.weights[k] * pair.weights)
    shared = before.probability[:, k, None] * pair.probability
    state.probability = np.concatenate([np.delete(state.probability, k, 1), shared], 1)
    label = state.top.label
    label[label == k] = len(before.weights)  # which of the two the next iteration says
    label[label > k] -= 1
    for side in job.sides:
        job.refilter(state, side)
    return state
