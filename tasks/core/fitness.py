"""Whether an embedding can carry votes from item to item, seen before any threshold is chosen.

Extension believes that near items have the same class. How far that holds shows in a sample: how often an item's label
(its majority vote, or gold) is that of its r-th nearest neighbor, and of neighbors at a given similarity, against how
often two items drawn at random agree. In a sample neighbors are farther than among all items, so agreement by rank is
rather understated; agreement by similarity is not affected.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.threads import one_thread
from tasks.core.types import ABSTAIN, Float32, Float64, Int64, MetricName, Votes

SAMPLE = 4000
"""Items compared with each other at most: agreement within a percent point (two standard errors are .016), in a
second or two."""

NEIGHBORS = 64
"""Farthest rank that is looked at; beyond, extension would hardly ever reach."""

BINS = 20
"""Of similarity, with equally many pairs of neighbors each."""

_ERRORS = 3.0
"""Standard errors that agreement must be above chance: a random embedding passes once in several hundred times."""

_HARDLY = 0.1
"""Share of the way from chance to full agreement below which nine neighbors in ten say nothing."""

_DETECTABLE = 0.25
"""Share of the way from chance to full agreement that a sample must be able to show before it may say "no"."""

_BLOCK = 512
"""Rows of similarities at a time: 8 MiB at the full sample."""


class Carries(StrEnum):
    """Whether nearest neighbors tell an item's label."""

    YES = "yes"
    HARDLY = "hardly"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """Agreement of n items' labels with those of their neighbors; all in [0, 1]."""

    n: int
    chance: float
    """How often two different items agree; NaN below two items."""
    rank: Int64
    """(r,) 1, 2, 4, ... 1 is the nearest other item."""
    rank_similarity: Float64
    """(r,) the median similarity of the neighbor of that rank."""
    rank_agreement: Float64
    """(r,)"""
    similarity: Float64
    """(b,) the least similarity in each bin, descending; a bin reaches up to the one before."""
    agreement: Float64
    """(b,) of the neighbors in the bin."""


@dataclass(frozen=True, kw_only=True)
class ThresholdRange:
    """Similarities between which a threshold is worth looking for."""

    low: float
    high: float


def find_majority(L: Votes, k: int) -> Votes:
    """Return the class (n,) that most LFs vote for; ABSTAIN without votes or where several classes have most.

    >>> find_majority(np.int8([[0, 0, 1], [1, -1, 0], [-1, -1, -1]]), 2).tolist()
    [0, -1, -1]
    """
    counts = np.stack([np.count_nonzero(label == L, axis=1) for label in range(k)], axis=1)
    top = counts.max(axis=1, keepdims=True)
    is_clear = (top[:, 0] > 0) & ((counts == top).sum(axis=1) == 1)
    return np.where(is_clear, counts.argmax(axis=1), ABSTAIN).astype(np.int8)


def measure_fitness(vectors: Float32, labels: Votes, metric: MetricName, advance: Advance = ignore_progress) -> Fitness:
    """Return how often neighbors agree, from an n x n comparison in blocks; meant for a sample.

    Parameters
    ----------
    vectors
        (n, d) embeddings; the cosine to one of length 0 is 0.
    labels
        (n,) classes, none missing.
    metric
        Similarity is the cosine, or minus the Euclidean distance.
    advance
        Is told of one piece of work, block by block.
    """
    n = len(labels)
    near = min(NEIGHBORS, n - 1)
    counts = np.bincount(labels, minlength=1)
    if near < 1:
        nothing = np.empty(0)
        return Fitness(
            n=n,
            chance=float("nan"),
            rank=np.empty(0, np.int64),
            rank_similarity=nothing,
            rank_agreement=nothing,
            similarity=nothing,
            agreement=nothing,
        )
    points = vectors.astype(np.float64)
    points -= 0 if metric == "cosine" else points.mean(axis=0)  # distances stay, rounding shrinks
    squares = np.einsum("nd,nd->n", points, points)
    lengths = np.sqrt(np.where(squares > 0, squares, 1))
    similarity, agrees = np.empty((n, near)), np.empty((n, near), np.bool_)
    starts = range(0, n, _BLOCK)
    # The thread count must not change a result.
    with one_thread(), count_steps(advance, len(starts)) as step:
        for start in starts:
            rows = np.arange(start, min(start + _BLOCK, n))
            dots = points[rows] @ points.T
            if metric == "cosine":
                scores = dots / (lengths[rows, None] * lengths)
            else:
                scores = 0 - np.sqrt(np.maximum(squares[rows, None] + squares - 2 * dots, 0))
            scores[np.arange(len(rows)), rows] = -np.inf
            nearest = _find_nearest(scores, near)
            similarity[rows] = np.take_along_axis(scores, nearest, axis=1)
            agrees[rows] = labels[nearest] == labels[rows, None]
            step(1)
    rank = 2 ** np.arange(int(np.log2(near)) + 1)
    order = np.argsort(-similarity, axis=None, kind="stable")
    cuts = np.unique(np.arange(1, BINS + 1) * len(order) // BINS)
    cuts = cuts[cuts > 0]
    right = np.concatenate([[0], np.cumsum(agrees.ravel()[order])[cuts - 1]])
    return Fitness(
        n=n,
        chance=float((counts * (counts - 1)).sum() / (n * (n - 1))),
        rank=rank,
        rank_similarity=np.median(similarity[:, rank - 1], axis=0),
        rank_agreement=agrees[:, rank - 1].mean(axis=0),
        similarity=similarity.ravel()[order[cuts - 1]],
        agreement=np.diff(right) / np.diff(np.concatenate([[0], cuts])),
    )


def _find_nearest(scores: Float64, near: int) -> Int64:
    """Return the positions (rows, near) of the highest `scores` (rows, n), descending; of equal ones the first come first."""
    rows, n = scores.shape
    kept = scores >= np.partition(scores, n - near, axis=1)[:, [n - near]]
    row, position = np.nonzero(kept)
    order = np.lexsort((-scores[kept], row))
    starts = np.searchsorted(row, np.arange(rows))
    nearest: Int64 = position[order[starts[:, None] + np.arange(near)]]
    return nearest


def judge_fitness(fitness: Fitness) -> Carries:
    """Return whether the nearest neighbor's label is a better guess than that of any other item.

    UNKNOWN with a single class, or where agreement is not clearly above chance and the sample too small to expect it.
    """
    if not fitness.chance < 1:  # of one class, or NaN
        return Carries.UNKNOWN
    above, room = fitness.rank_agreement[0] - fitness.chance, 1 - fitness.chance
    # One item more that agrees and one that does not: among few items chance may seem to be 0, without any error.
    rate = (fitness.chance * fitness.n + 1) / (fitness.n + 2)
    # Two items that are each other's nearest are one observation, so there may be only n / 2 of them.
    margin = _ERRORS * np.sqrt(rate * (1 - rate) / (fitness.n / 2))
    if above <= margin:
        return Carries.NO if margin <= _DETECTABLE * room else Carries.UNKNOWN
    return Carries.HARDLY if above <= _HARDLY * room else Carries.YES


def suggest_range(fitness: Fitness) -> ThresholdRange | None:
    """Return the range from halfway down to chance up to the similarity that half of the items have a neighbor of.

    None if neighbors do not tell the label (`judge_fitness`), or agree too little even in the nearest bin.
    """
    if judge_fitness(fitness) not in {Carries.YES, Carries.HARDLY}:
        return None
    halfway = (fitness.rank_agreement[0] + fitness.chance) / 2
    good = int(np.argmin(np.append(fitness.agreement >= halfway, False)))
    if good == 0:
        return None
    low, high = float(fitness.similarity[good - 1]), float(fitness.rank_similarity[0])
    return ThresholdRange(low=min(low, high), high=high)
