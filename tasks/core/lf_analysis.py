"""What a label matrix says about its labeling functions: coverage, polarity, overlaps, conflicts, precision.

Everywhere L is the label matrix, int8 of shape (n, m): -1 abstains, 0..k-1 is a class. Every function costs O(n m):
two LFs are never compared with each other, only each vote with what its row says as a whole.

Source: the terms are those of Ratner et al., "Snorkel: Rapid Training Data Creation with Weak Supervision", VLDB 2017.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tasks.core.types import ABSTAIN, Float64, Int64, Votes


@dataclass(frozen=True, kw_only=True)
class GoldCounts:
    """Per LF, int64 of shape (m,): how many of its votes fall on items with gold, and how many of those are right."""

    votes: Int64
    correct: Int64


def count_votes(L: Votes) -> Int64:
    """Return the number of votes of each LF, int64 of shape (m,).

    >>> count_votes(np.array([[0, -1], [1, -1], [-1, -1]], dtype=np.int8)).tolist()
    [2, 0]
    """
    return np.array([np.count_nonzero(column != ABSTAIN) for column in L.T], dtype=np.int64)


def find_polarity(L: Votes, k: int) -> npt.NDArray[np.bool_]:
    """Return whether each LF ever votes each of the k classes, of shape (m, k).

    >>> find_polarity(np.array([[0, -1], [1, -1]], dtype=np.int8), k=2).tolist()
    [[True, True], [False, False]]
    """
    return np.stack([np.equal(L, label).any(axis=0) for label in range(k)], axis=1)


def measure_coverage(L: Votes) -> Float64:
    """Return the share of all items on which each LF votes, float64 of shape (m,) in [0, 1]; NaN without items."""
    return _share(count_votes(L), L.shape[0])


def count_overlaps(L: Votes) -> Int64:
    """Return the number of items on which each LF votes and so does another, int64 of shape (m,).

    >>> count_overlaps(np.array([[0, 0, -1], [1, -1, -1]], dtype=np.int8)).tolist()
    [1, 1, 0]
    """
    voted = L != ABSTAIN
    once, shared = np.zeros((2, len(L)), dtype=np.bool_)
    for column in voted.T:
        shared |= once & column
        once |= column
    return _count_each(voted & shared[:, None])


def count_conflicts(L: Votes) -> Int64:
    """Return the number of items on which each LF votes and another votes another class, int64 of shape (m,).

    On a row with two classes or more, every LF that votes has another against it.

    >>> count_conflicts(np.array([[0, 1, -1], [1, 1, -1]], dtype=np.int8)).tolist()
    [1, 1, 0]
    """
    highest = L.max(axis=1, initial=ABSTAIN)
    # Read as unsigned, abstain is above every class.
    lowest = L.view(np.uint8).min(axis=1, initial=np.iinfo(np.uint8).max)
    disputed = highest > lowest
    return np.array([np.count_nonzero((column != ABSTAIN) & disputed) for column in L.T], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class VoteCounts:
    """What can be counted part by part: rows, and per LF (shape (m,)) votes, overlaps, conflicts, and gold.

    `polarity` is bool of shape (m, k): whether the LF ever votes the class.
    """

    n: int
    votes: Int64
    overlaps: Int64
    conflicts: Int64
    polarity: npt.NDArray[np.bool_]
    gold: GoldCounts

    def __add__(self, other: "VoteCounts") -> "VoteCounts":
        """Return the counts of both parts together."""
        return VoteCounts(
            n=self.n + other.n,
            votes=self.votes + other.votes,
            overlaps=self.overlaps + other.overlaps,
            conflicts=self.conflicts + other.conflicts,
            polarity=self.polarity | other.polarity,
            gold=GoldCounts(votes=self.gold.votes + other.gold.votes, correct=self.gold.correct + other.gold.correct),
        )

    def share(self, counts: Int64) -> Float64:
        """Return `counts` as shares of all rows, float64 of shape (m,); NaN without rows."""
        return _share(counts, self.n)


def count_all(L: Votes, gold: npt.NDArray[np.integer], k: int) -> VoteCounts:
    """Return the counts of these rows; `gold`, integers of shape (n,), is -1 where it is unknown."""
    return VoteCounts(
        n=len(L),
        votes=count_votes(L),
        overlaps=count_overlaps(L),
        conflicts=count_conflicts(L),
        polarity=find_polarity(L, k),
        gold=count_correct(L, gold),
    )


def count_correct(L: Votes, gold: npt.NDArray[np.integer]) -> GoldCounts:
    """Return votes of each LF on items with gold, and how many of them equal it.

    Parameters
    ----------
    L
        int8 of shape (n, m).
    gold
        Integers of shape (n,): the true class of each row, -1 where it is unknown.

    >>> counts = count_correct(np.array([[0, 1], [1, -1], [0, 0]], dtype=np.int8), np.array([0, 0, -1]))
    >>> counts.votes.tolist(), counts.correct.tolist()
    ([2, 1], [1, 0])
    """
    known = gold != ABSTAIN
    judged, truth = L[known], gold[known]
    return GoldCounts(
        votes=count_votes(judged),
        correct=_count_each((judged == truth[:, None]) & (judged != ABSTAIN)),
    )


def measure_precision(counts: GoldCounts) -> Float64:
    """Return the share of each LF's judged votes that are right, float64 of shape (m,); NaN for an LF with none."""
    return _share(counts.correct, counts.votes)


def wilson_interval(counts: GoldCounts, confidence: float = 0.95) -> tuple[Float64, Float64]:
    """Return the lower and upper bound of each LF's precision, float64 of shape (m,) each; NaN for an LF without judged votes.

    Unlike the normal approximation, it stays within [0, 1] and does not shrink to a point at 0 of n or n of n.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    >>> low, high = wilson_interval(GoldCounts(votes=np.array([10]), correct=np.array([10])))
    >>> round(float(low[0]), 4), float(high[0])
    (0.7225, 1.0)
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = np.where(counts.votes > 0, counts.votes, np.nan)
    p = counts.correct / n
    center = p + z**2 / (2 * n)
    margin = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return np.clip((center - margin) / scale, 0, 1), np.clip((center + margin) / scale, 0, 1)


def _count_each(found: npt.NDArray[np.bool_]) -> Int64:
    """Return how often each column of `found` (n, m) is true; column by column, which is much faster than along an axis."""
    return np.fromiter(map(np.count_nonzero, found.T), dtype=np.int64, count=found.shape[1])


def _share(part: Int64, whole: Int64 | int) -> Float64:
    """Return `part` / `whole`, NaN where `whole` is 0."""
    return part / np.where(np.asarray(whole) > 0, whole, np.nan)
