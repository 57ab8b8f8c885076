"""One sense for the movies of all views: compared between neighbours, propagated along a spanning tree."""

import numpy as np
import scipy.sparse
from scipy.ndimage import map_coordinates
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial.transform import Rotation

__all__ = ["movie_agreement", "propagate_sense"]


def movie_agreement(movie, other, view, other_view):
    """How much more a neighbour's movie resembles another played forwards than backwards.

    Parameters
    ----------
    movie, other : ndarray (s, d, d)
    view, other_view : Rotation of length 1
        The neighbour's frames are turned in plane to ``view``, and mirrored where it looks from the other side.

    Returns
    -------
    float
        In [−2, 2]: difference of the correlations of the frames without their mean; negative where the senses differ.
    """
    mirrored = (view[0].as_matrix()[:, 2] @ other_view[0].as_matrix()[:, 2]) < 0
    facing = other_view[0] * Rotation.from_euler("X", 180, degrees=True) if mirrored else other_view[0]
    between = (facing.inv() * view[0]).as_matrix()
    theta = np.arctan2(between[1, 0] - between[0, 1], between[0, 0] + between[1, 1])
    size_px = movie.shape[-1]
    axis = np.arange(size_px) - size_px // 2
    x, y = np.meshgrid(axis, axis)
    row = (-1 if mirrored else 1) * (np.sin(theta) * x + np.cos(theta) * y) + size_px // 2
    column = np.cos(theta) * x - np.sin(theta) * y + size_px // 2
    turned = np.stack([map_coordinates(frame, [row, column], order=1) for frame in other])
    here, there = movie - movie.mean(axis=0), turned - turned.mean(axis=0)
    norm = np.sqrt((here**2).sum() * (there**2).sum())
    return float(((here * there).sum() - (here * there[::-1]).sum()) / norm) if norm > 0 else 0.0


def propagate_sense(agreement):
    """Sign of each view from signed agreements with its neighbours.

    Parameters
    ----------
    agreement : ndarray (v, v)
        Symmetric; 0 where two views are not compared, negative where their senses differ.

    Returns
    -------
    sense : ndarray (v,) of int
        1 or −1 along the spanning tree of the largest |agreement| from view 0; 0 where no path leads there.
    violated : float
        Share of the compared pairs, weighted by |agreement|, that disagree with the result.

    Examples
    --------
    >>> propagate_sense(np.array([[0.0, -1.0, 0.2], [-1.0, 0.0, -0.9], [0.2, -0.9, 0.0]]))[0].tolist()
    [1, -1, 1]
    """
    agreement = np.asarray(agreement, dtype=float)
    if agreement.ndim != 2 or agreement.shape[0] != agreement.shape[1] or not np.allclose(agreement, agreement.T):
        raise ValueError(f"agreement must be symmetric of shape (v, v), got {agreement.shape}")
    strength = np.abs(agreement)
    # a minimum spanning tree of decreasing positive costs; an absent edge stays zero
    cost = np.where(strength > 0, 1 + strength.max() - strength, 0)
    tree = minimum_spanning_tree(scipy.sparse.csr_matrix(cost))
    order, parent = breadth_first_order(tree, 0, directed=False)
    sense = np.zeros(len(agreement), dtype=int)
    sense[0] = 1
    for view in order[1:]:
        sense[view] = sense[parent[view]] * int(np.sign(agreement[view, parent[view]]))
    wrong = strength[agreement * np.outer(sense, sense) < 0].sum()
    return sense, float(wrong / strength.sum()) if strength.any() else 0.0
