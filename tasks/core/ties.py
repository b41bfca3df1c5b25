"""From probabilities to hard labels, and how many of these are right; ties are the same to both."""

import numpy as np
import numpy.typing as npt

from tasks.core.types import Float64

SAME = 12
"""Digits to which probabilities must agree to tie; rounding in the last bits must not break a tie."""


def score_labels(probabilities: Float64, classes: npt.NDArray[np.int64]) -> Float64:
    """(n,): 1 where the most probable class is right, 0 where it is wrong, 1 / t where t classes tie and one is right."""
    top = _find_top(probabilities)
    shares: Float64 = top[np.arange(len(classes)), classes] / top.sum(axis=1)
    return shares


def pick_labels(probabilities: Float64, class_balance: Float64) -> npt.NDArray[np.intp]:
    """(n,): the most probable class; of those that tie, the one with the larger class balance, then the first."""
    picked: npt.NDArray[np.intp] = np.argmax(np.where(_find_top(probabilities), class_balance, -1.0), axis=1)
    return picked


def _find_top(probabilities: Float64) -> npt.NDArray[np.bool_]:
    rounded = probabilities.round(SAME)
    top: npt.NDArray[np.bool_] = rounded == rounded.max(axis=1, keepdims=True)
    return top
