"""Epoxy's extension as a mask over neighbors: which abstaining entries take the vote of their nearest support item.

Source: Chen et al., Train and You'll Miss It (Epoxy), arXiv 2006.15168, section 3, with distances and ties put right.
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.types import ABSTAIN, Bool, Float32, Float64, Int64, MetricName, Votes


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Similarities of n items to the nearest support item, for each LF class: an LF and a class in its support."""

    lf: Int64
    """(p,) position of its LF, ascending."""
    label: Votes
    """(p,) its class."""
    similarity: Float32
    """(p, n) larger is nearer; NaN where there is no neighbor (the LF votes on the item itself)."""


@dataclass(frozen=True, kw_only=True)
class NearestVotes:
    """For each of n items and m LFs the vote that the nearest support item has, whatever the threshold."""

    vote: Votes
    """(n, m) its class; ABSTAIN where there is no neighbor, or where different classes are equally near."""
    similarity: Float32
    """(n, m) how near it is; NaN where `vote` is ABSTAIN."""
    lf_class: Int64
    """(n, m) which LF class of `Neighbors` it is; -1 where `vote` is ABSTAIN."""


def find_nearest_votes(neighbors: Neighbors, m: int) -> NearestVotes:
    """Return the vote of each LF's nearest support item, of any class; a tie between classes gives none.

    >>> two_classes = Neighbors(
    ...     lf=np.array([0, 0]), label=np.int8([0, 1]), similarity=np.float32([[0.9, 0.5], [0.8, 0.5]])
    ... )
    >>> nearest_votes = find_nearest_votes(two_classes, 1)
    >>> nearest_votes.vote.ravel().tolist(), nearest_votes.lf_class.ravel().tolist()
    ([0, -1], [0, -1])
    """
    n = neighbors.similarity.shape[1]
    best = np.full((m, n), -np.inf, np.float32)
    lf_class = np.full((m, n), -1, np.int64)
    for position, lf in enumerate(neighbors.lf):
        similarity = neighbors.similarity[position]
        nearer, tied = similarity > best[lf], similarity == best[lf]  # both False for NaN
        best[lf][nearer] = similarity[nearer]
        lf_class[lf][nearer] = position
        lf_class[lf][tied] = -1
    none = lf_class < 0
    labels = np.append(neighbors.label, np.int8(ABSTAIN))
    return NearestVotes(
        vote=labels[lf_class].T,
        similarity=np.where(none, np.float32(np.nan), best).T,
        lf_class=lf_class.T,
    )


def find_abstaining_entries(L: Votes) -> Bool:
    """Return the entries (n, m) of `L` (n, m) that abstain: Epoxy's scope."""
    abstains: Bool = L == ABSTAIN
    return abstains


def find_abstaining_rows(L: Votes) -> Bool:
    """Return the entries (n, m) of rows of `L` (n, m) on which every LF abstains: no conflict with explicit votes is added."""
    return np.broadcast_to((L == ABSTAIN).all(axis=1, keepdims=True), L.shape)


def to_similarity(thresholds: Float64, metric: MetricName) -> Float64:
    """Return thresholds (m,) as users give them to thresholds on similarity; NaN ("do not extend") becomes infinity.

    A user gives L2 thresholds as plain distances; this is the only place that turns them around.

    >>> to_similarity(np.array([0.5, np.nan]), "l2").tolist()
    [-0.5, inf]
    """
    oriented = thresholds if metric == "cosine" else -thresholds
    return np.where(np.isnan(oriented), np.inf, oriented)


def extend_votes(nearest_votes: NearestVotes, scope: Bool, thresholds: Float64) -> Bool:
    """Return the entries (n, m) that are extended: within `scope` (n, m) and strictly more similar than their LF's threshold.

    `thresholds` (m,) are those of `to_similarity`. A cosine threshold of 1 never extends, since similarity is at most
    1; votes that exist are kept because no scope holds them.
    """
    # float64 against float64: a float32 threshold would be rounded onto the similarity it must exclude.
    extended: Bool = (
        scope & (nearest_votes.vote != ABSTAIN) & (nearest_votes.similarity.astype(np.float64) > thresholds)
    )
    return extended
