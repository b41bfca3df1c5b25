"""From probabilities to hard labels, and how many of these are right: the one rule by which classes tie."""

import numpy as np

from tasks.core.slices import WIDE, cut_slices
from tasks.core.types import Bool, Float64, Int64

TIE = 1e-12
"""Probabilities this near to the highest one tie with it: rounding moves them by some 1e-15, evidence by far more."""


def find_top(probabilities: Float64) -> Bool:
    """Return the classes (n, k) that are the most probable ones of their rows, or tie with it.

    >>> find_top(np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])).tolist()
    [[True, False, False], [True, True, False]]
    """
    top: Bool = probabilities >= probabilities.max(axis=1, keepdims=True) - TIE
    return top


def share_labels(probabilities: Float64) -> Float64:
    """Return the share of each row's hard label that goes to each class, (n, k), rows sum to one.

    Classes that tie share evenly, so that a score is its expectation over random tie-breaking and no class is favored
    by its position.

    >>> share_labels(np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])).tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    """
    top = find_top(probabilities)
    shares: Float64 = top / top.sum(axis=1, keepdims=True)
    return shares


def score_labels(probabilities: Float64, classes: Int64) -> Float64:
    """Return 1 where the hard label is right, 0 where it is wrong, 1 / t where t classes tie and one is right, (n,)."""
    scores: Float64 = share_labels(probabilities)[np.arange(len(classes)), classes]
    return scores


def pick_labels(probabilities: Float64, class_balance: Float64) -> Int64:
    """Return the hard label, (n,): of classes that tie, the one with the larger class balance, then the first."""
    picked = np.empty(len(probabilities), np.int64)
    for part in cut_slices(len(picked), WIDE):
        picked[part] = np.argmax(np.where(find_top(probabilities[part]), class_balance, -1.0), axis=1)
    return picked
