"""The offers that an LF may take from its neighbors, and what its nearest ones would gain in the majority vote.

Each offered vote changes its own item alone, so that in order of falling similarity the changes add up.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.core.types import ABSTAIN, Bool, Float32, Float64, Int64, Votes

Counts = npt.NDArray[np.int16]
Objective = Literal["accuracy", "macro_f1"]


@dataclass(frozen=True, kw_only=True)
class JudgedItems:
    """Items with gold or a hidden vote, what the LFs vote and what their nearest neighbors offer."""

    L: Votes
    """(n, m) original votes."""
    vote: Votes
    """(n, m) offered votes; ABSTAIN where nothing is offered."""
    similarity: Float32
    """(n, m) how near the neighbor is that offers; NaN where nothing is offered."""
    gold: Votes
    """(n,) classes: of gold, or the hidden votes."""
    weight: Float64
    """(n,) of each item in the objective; positive."""
    k: int
    objective: Objective


@dataclass(frozen=True, kw_only=True)
class RankedOffers:
    """The r offers that an LF may take, by falling similarity; equally near ones in the order of items."""

    rows: Int64
    """(r,) their items."""
    label: Int64
    """(r,) the offered classes."""
    similarity: Float64
    """(r,)"""

    def count_above(self, thresholds: Float64) -> Int64:
        """Return how many are above each of `thresholds` (c,)."""
        return len(self.rows) - np.searchsorted(self.similarity[::-1], thresholds, side="right")

    def find_passed(self, thresholds: Float64) -> Bool:
        """Return which offers each of f `thresholds` lets pass, (f, r)."""
        passed: Bool = np.arange(len(self.rows)) < self.count_above(thresholds)[:, None]
        return passed

    def cast(self, thresholds: Float64, k: int) -> Counts:
        """Return the votes for each of k classes that each of f `thresholds` lets pass, (f, k, r)."""
        votes: Counts = self.find_passed(thresholds)[:, None] * self.code(k)
        return votes

    def code(self, k: int) -> Counts:
        """Return 1 at the offered class, 0 at the other ones, (k, r)."""
        return np.equal(self.label, np.arange(k)[:, None]).astype(np.int16)


def rank_offers(judged: JudgedItems, lf: int) -> RankedOffers:
    """Return the offers to `lf` on the items where it abstains."""
    rows = np.flatnonzero((judged.L[:, lf] == ABSTAIN) & (judged.vote[:, lf] != ABSTAIN))
    similarity = judged.similarity[rows, lf].astype(np.float64)
    order = np.argsort(-similarity, kind="stable")
    return RankedOffers(
        rows=rows[order],
        label=judged.vote[rows[order], lf].astype(np.int64),
        similarity=similarity[order],
    )


def count_votes(L: Votes, k: int) -> Counts:
    """Return votes (k, n) for each class; class by class, since sums and maxima over two or ten entries in a row are slow."""
    return np.stack([np.equal(L, label).sum(axis=1, dtype=np.int16) for label in range(k)])


def judge(judged: JudgedItems, counts: Counts, rows: Int64 | slice = slice(None)) -> Float64:
    """Return what the majority vote of `counts` (f, k, r) on `rows` adds to the sums that the objective is made of, (f, q, r).

    Accuracy: the share of the gold class. Macro F1: that for each class, then the share of each class. Tied classes
    share evenly.
    """
    top = counts == counts.max(axis=1, keepdims=True)
    tied = top.sum(axis=1, dtype=np.int16)[:, None]
    is_gold = judged.gold[rows] == np.arange(judged.k, dtype=np.int8)[:, None]
    if judged.objective == "accuracy":
        return np.asarray((top & is_gold).any(axis=1, keepdims=True) / tied)
    share = top / tied
    return np.concatenate([share * is_gold, share], axis=1)


class ClassPoll:
    """The votes on the judged items in f parts, each with thresholds of its own, for any objective.

    An offer costs a look at the votes for every class.
    """

    def __init__(self, judged: JudgedItems, counts: Counts) -> None:
        """`counts` (f, k, n) are the votes; they are changed in place."""
        self._judged = judged
        self._counts = counts
        self._without = counts

    def try_offers(self, ranked: RankedOffers, thresholds: Float64) -> Float64:
        """Return what the nearest 0, 1, ..., r offers of an LF change of the sums of `judge`, (f, q, r).

        `thresholds` (f,) are those at which the votes have its offers now.
        """
        judged, k = self._judged, self._judged.k
        self._without = self._counts.take(ranked.rows, axis=2) - ranked.cast(thresholds, k)
        after = judge(judged, self._without + ranked.code(k), ranked.rows)
        return after - judge(judged, self._without, ranked.rows)

    def take_offers(self, ranked: RankedOffers, thresholds: Float64) -> None:
        """Change the thresholds of the LF whose offers were tried last."""
        self._counts[:, :, ranked.rows] = self._without + ranked.cast(thresholds, self._judged.k)


class TopPoll:
    """`ClassPoll` for accuracy: an offer costs the same however many classes there are.

    An offer changes the votes for a single class, so that of the others it is enough to know the most votes that any
    class has, and how many classes have as many. Only where an offer that passed is taken back from the sole leader are
    all classes looked at.
    """

    def __init__(self, judged: JudgedItems, counts: Counts) -> None:
        """`counts` (f, k, n) are the votes; they are changed in place."""
        self._judged = judged
        self._counts = counts
        self._most = counts.max(axis=1)
        self._leaders = (counts == self._most[:, None]).sum(axis=1, dtype=np.int16)
        self._without = self._most, self._leaders, self._most

    def try_offers(self, ranked: RankedOffers, thresholds: Float64) -> Float64:
        """As `ClassPoll` has it."""
        rows, label, gold = ranked.rows, ranked.label, self._judged.gold[ranked.rows].astype(np.int64)
        flat, n = self._counts.reshape(len(self._counts), -1), self._counts.shape[2]
        passed = ranked.find_passed(thresholds)
        now, most, leaders = flat.take(label * n + rows, axis=1), self._most[:, rows], self._leaders[:, rows]
        of_gold = flat.take(gold * n + rows, axis=1) - (passed & (label == gold))
        led = passed & (now == most)
        part, offer = np.nonzero(led & (leaders == 1))
        runners_up = self._counts[part, :, rows[offer]] == most[part, offer][:, None] - 1
        leaders = leaders - led
        # It joins those that it led by one vote.
        leaders[part, offer] = runners_up.sum(axis=1, dtype=np.int16) + 1
        most[part, offer] -= 1
        others = now - passed
        self._without = most, leaders, others
        before = (of_gold == most) / leaders
        most, leaders = _add_vote(most, leaders, others)
        change: Float64 = (of_gold + (label == gold) == most) / leaders - before
        return change[:, None]

    def take_offers(self, ranked: RankedOffers, thresholds: Float64) -> None:
        """As `ClassPoll` has it."""
        most, leaders, others = self._without
        passed = ranked.find_passed(thresholds)
        flat, n = self._counts.reshape(len(self._counts), -1), self._counts.shape[2]
        flat[:, ranked.label * n + ranked.rows] = others + passed
        more = _add_vote(most, leaders, others)
        self._most[:, ranked.rows] = np.where(passed, more[0], most)
        self._leaders[:, ranked.rows] = np.where(passed, more[1], leaders)


def _add_vote(most: Counts, leaders: Counts, others: Counts) -> tuple[Counts, Counts]:
    """Return the most votes and the number of classes that have them after another vote for the class with `others` votes."""
    added = others + np.int16(1)
    return np.maximum(most, added), np.where(added > most, np.int16(1), leaders + (added == most)).astype(np.int16)
