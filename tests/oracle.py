"""Nearest neighbors by brute force, one pair of vectors at a time: slow, obvious, and what every backend must equal."""

import numpy as np


def similarity(x, y, metric):
    """The float32 similarity of two float32 vectors."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if metric == "cosine":
        return np.float32(np.clip((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), -1, 1))
    return np.float32(0 - np.sqrt(((x - y) ** 2).sum()))


def nearest(vectors, votes, is_reference, metric):
    """{(item, lf, label): (similarity, neighbor)} for every abstaining cell and class in that LF's support."""
    found = {}
    for lf in range(votes.shape[1]):
        support = np.flatnonzero(is_reference & (votes[:, lf] >= 0))
        for item in np.flatnonzero(votes[:, lf] < 0):
            for (
                other
            ) in support:  # ascending, and only a strictly larger similarity replaces: the smallest position wins
                key, near = (item, lf, votes[other, lf]), similarity(vectors[item], vectors[other], metric)
                if key not in found or near > found[key][0]:
                    found[key] = (near, other)
    return found
