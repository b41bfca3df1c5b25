"""Choosing how near a neighbor must be, on items whose gold is known, or by agreement among LFs where none is.

A choice is judged by the majority vote over all LFs after extension, since what one LF adds is worth only what it
changes among the others. A tied vote counts each class in equal parts; an item without votes counts every class so.

Without gold one vote of each item is hidden and stands in for it: a good extension lets the other LFs, which may have
been silent there, foretell a vote that they did not see. The hidden vote's LF has no part in the prediction, neither
by its vote nor by an extended one, and no item lends a vote to itself. Hidden votes for each class weigh the same in
total: otherwise, where neighbors tell nothing, extending the most frequent class everywhere would look like a gain on
items that have no other vote. What this cannot see is an error that LFs share; and items that no LF votes on may be
harder than those it looks at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Votes = npt.NDArray[np.int8]
Objective = Literal["accuracy", "macro_f1"]

ABSTAIN = -1

FOLDS = 10
"""Folds of cross-fitting: on three real tasks ten varied less from sample to sample than five, at little cost."""

HIDDEN = 5000
"""Items at most whose vote is hidden: the standard error of a share is then below one percent point."""

_SWEEPS = 5
"""Rounds of coordinate ascent at most; seen to settle in two to four."""

_GAIN = 1e-9
"""What counts as better: more than the rounding of a sum of shares."""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """One vote of each of h items that is to be foretold by the other LFs."""

    rows: Int64
    """(h,) ascending positions of items."""
    lf: Int64
    """(h,) whose vote is hidden."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
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

    @cached_property
    def onehot(self) -> Float64:
        """(k, n) 1 at the class of gold."""
        onehot: Float64 = np.eye(self.k)[:, self.gold]
        return onehot

    def take(self, rows: Int64) -> "Evidence":
        """The same for some of the items."""
        return Evidence(
            L=self.L[rows],
            vote=self.vote[rows],
            similarity=self.similarity[rows],
            gold=self.gold[rows],
            weight=self.weight[rows],
            k=self.k,
            objective=self.objective,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Thresholds on similarity and what they are worth."""

    thresholds: Float64
    """(m,) infinity: do not extend."""
    before: float
    """The objective without the free LFs' extension."""
    after: float
    """The objective with it, each item judged by thresholds that were fitted without it."""


Fit = Callable[[Evidence, list[Float64], Float64, Bools], Float64]
"""Thresholds (m,) from evidence, candidates by LF, thresholds to start from, and which LFs are free."""


def propose_thresholds(similarity: Float32, count: int) -> Float64:
    """Candidates, descending: infinity ("do not extend"), then at most `count` distinct quantiles of `similarity` (r,).

    The last one lies just below the smallest similarity, so that it extends everything. NaN is passed over.

    >>> propose_thresholds(np.float32([0.5, np.nan, 0.25, 0.75, 0.875]), 2).tolist()
    [inf, 0.625, 0.24999999999999997]
    """
    known = np.sort(similarity[~np.isnan(similarity)]).astype(np.float64)
    if not len(known):
        return np.array([np.inf])
    # Halfway between two neighbors in rank, where no observed similarity has to be on the right side by a hair.
    above = np.arange(1, count) * len(known) // count
    above = above[above > 0]
    halfway = (known[above - 1] + known[above]) / 2
    return np.concatenate([[np.inf], np.unique([np.nextafter(known[0], -np.inf), *halfway])[::-1]])


def draw_hidden(L: Votes, seed: int = 0) -> Hidden:
    """One vote of each row of `L` (n, m) that has any, of at most `HIDDEN` rows, all drawn with `seed`."""
    count = np.count_nonzero(L != ABSTAIN, axis=1)
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(np.flatnonzero(count))[:HIDDEN])
    place = (generator.random(len(rows)) * count[rows]).astype(np.int64)
    # The place-th vote of a row is the first cell at which its votes so far exceed `place`.
    lf = np.argmax(np.cumsum(L[rows] != ABSTAIN, axis=1) > place[:, None], axis=1)
    return Hidden(rows=rows, lf=lf.astype(np.int64))


def hide_votes(evidence: Evidence, lf: Int64) -> Evidence:
    """The same items without the votes of `lf` (n,), one LF for each item, and these votes in place of gold.

    Each class that is among them has the same total weight, and all n items that of n.
    """
    cells = np.arange(len(lf)), lf
    L, vote, similarity = evidence.L.copy(), evidence.vote.copy(), evidence.similarity.copy()
    L[cells], vote[cells], similarity[cells] = ABSTAIN, ABSTAIN, np.nan
    gold = evidence.L[cells]
    counts = np.bincount(gold, minlength=evidence.k)
    return Evidence(
        L=L,
        vote=vote,
        similarity=similarity,
        gold=gold,
        weight=len(gold) / np.count_nonzero(counts) / counts[gold] if len(gold) else np.empty(0),
        k=evidence.k,
        objective=evidence.objective,
    )


def extend(evidence: Evidence, thresholds: Float64) -> Votes:
    """The votes (n, m) after extension with `thresholds` (m,) on similarity."""
    extended = (
        (evidence.L == ABSTAIN) & (evidence.vote != ABSTAIN) & (evidence.similarity.astype(np.float64) > thresholds)
    )
    return np.where(extended, evidence.vote, evidence.L)


def score_votes(evidence: Evidence, L: Votes) -> float:
    """Accuracy or macro F1, in [0, 1], of the majority vote of `L` (n, m) on the items of `evidence`; NaN if n is 0.

    Macro F1 is the mean over the classes that occur in gold.
    """
    if not len(L):
        return float("nan")
    return float(_score_counts(_count_votes(L, evidence.k), evidence))


def trace_curve(evidence: Evidence, thresholds: Float64, lf: int, candidates: Float64) -> Float64:
    """The objective (c,) for each candidate as the threshold of `lf`, other LFs having theirs of `thresholds` (m,)."""
    L = extend(evidence, thresholds)
    L[:, lf] = evidence.L[:, lf]
    return _score_candidates(evidence, _count_votes(L, evidence.k), _rank_offers(evidence, lf), candidates)


def count_above(similarity: Float32, thresholds: Float64) -> Int64:
    """How many of `similarity` (r,), NaN passed over, are above each of `thresholds` (c,)."""
    known = np.sort(similarity[~np.isnan(similarity)]).astype(np.float64)
    return len(known) - np.searchsorted(known, thresholds, side="right")


def trace_coverage(evidence: Evidence, lf: int, candidates: Float64) -> Float64:
    """The share (c,) of items with a vote of `lf` for each candidate as its threshold."""
    abstains = evidence.L[:, lf] == ABSTAIN
    votes = (~abstains).sum() + count_above(evidence.similarity[abstains, lf], candidates)
    share: Float64 = votes / len(abstains)
    return share


def fit_global(evidence: Evidence, candidates: list[Float64], start: Float64, free: Bools) -> Float64:
    """The best single threshold for all `free` LFs (m,), the others keeping `start`; among equals the highest.

    All entries of `candidates` are the same.
    """
    scores = [score_votes(evidence, extend(evidence, np.where(free, one, start))) for one in candidates[0]]
    return np.where(free, candidates[0][_first_best(np.array(scores))], start)


def fit_per_lf(evidence: Evidence, candidates: list[Float64], start: Float64, free: Bools) -> Float64:
    """Thresholds (m,) by coordinate ascent from `start`: LF by LF the best candidate, until none gains."""
    places = np.flatnonzero(free).tolist()
    ranked = {lf: _rank_offers(evidence, lf) for lf in places}
    thresholds = start.copy()
    counts = _count_votes(extend(evidence, thresholds), evidence.k)
    same = -1  # LFs in a row that kept their threshold: once that holds for all but the last to change, it stays so
    for lf in places * _SWEEPS:
        before = thresholds[lf]
        _add(counts, ranked[lf], before, -1)
        # A stable descending order puts the highest threshold first among equals, the present one included.
        tried = np.sort(np.append(before, candidates[lf]))[::-1]
        thresholds[lf] = tried[_first_best(_score_candidates(evidence, counts, ranked[lf], tried))]
        _add(counts, ranked[lf], thresholds[lf], 1)
        same = same + 1 if thresholds[lf] == before else 0
        if same == len(places) - 1:
            break
    return thresholds


def choose_thresholds(evidence: Evidence, fit: Fit, candidates: list[Float64], start: Float64, free: Bools) -> Choice:
    """Cross-fitted thresholds: the upper median, by LF, of those that `fit` finds with one fold at a time left out.

    So a threshold is kept only where most subsets agree on one at least as low, and few items cannot carry it. If the
    left-out items do not gain, the thresholds are those of `start`.

    Parameters
    ----------
    evidence
        n items with gold or a hidden vote, n at least 1; the i-th is in fold i mod FOLDS.
    fit
        `fit_per_lf` or `fit_global`.
    candidates
        By LF, as from `propose_thresholds`.
    start
        (m,) thresholds of the LFs that are not free; infinity for those that are.
    free
        (m,) whose thresholds are chosen.
    """
    n = len(evidence.gold)
    folds = min(FOLDS, n)
    fold = np.arange(n) % folds
    fitted = []
    held_out = np.empty_like(evidence.L)
    for one in range(folds):
        inside = np.flatnonzero((fold != one) | (folds == 1))
        fitted.append(fit(evidence.take(inside), candidates, start, free))
        outside = np.flatnonzero(fold == one)
        held_out[outside] = extend(evidence.take(outside), fitted[-1])
    before = score_votes(evidence, extend(evidence, start))
    after = score_votes(evidence, held_out)
    if after <= before + _GAIN:
        return Choice(thresholds=start, before=before, after=before)
    return Choice(thresholds=np.sort(fitted, axis=0)[folds // 2], before=before, after=after)


def _first_best(scores: Float64) -> int:
    """Position of the first score that no other exceeds by more than rounding."""
    return int(np.argmax(scores >= scores.max() - _GAIN))


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """The r offers that an LF may take, by falling similarity; equally near ones in the order of items."""

    rows: Int64
    """(r,) their items."""
    vote: Votes
    """(r,)"""
    similarity: Float64
    """(r,)"""

    def count_above(self, thresholds: Float64) -> Int64:
        """How many are above each of `thresholds` (c,)."""
        return len(self.rows) - np.searchsorted(self.similarity[::-1], thresholds, side="right")


def _rank_offers(evidence: Evidence, lf: int) -> _Ranked:
    rows = np.flatnonzero((evidence.L[:, lf] == ABSTAIN) & (evidence.vote[:, lf] != ABSTAIN))
    similarity = evidence.similarity[rows, lf].astype(np.float64)
    order = np.argsort(-similarity, kind="stable")
    return _Ranked(rows=rows[order], vote=evidence.vote[rows[order], lf], similarity=similarity[order])


def _add(counts: Int64, ranked: _Ranked, threshold: float, sign: int) -> None:
    """Add (or with -1 take away) the extended votes of an LF at `threshold` to `counts` (k, n)."""
    above = slice(0, int(ranked.count_above(np.array([threshold]))[0]))
    counts[ranked.vote[above], ranked.rows[above]] += sign


def _count_votes(L: Votes, k: int) -> Int64:
    """Votes (k, n) for each class; class by class, since sums and maxima over two or ten cells in a row are slow."""
    return np.stack([np.count_nonzero(label == L, axis=1) for label in range(k)])


def _share(counts: Int64) -> Float64:
    """What the majority vote gives each class (k, n): columns sum to 1, tied classes have equal parts."""
    top: Bools = counts == counts.max(axis=0)
    share: Float64 = top / top.sum(axis=0)
    return share


def _score_counts(counts: Int64, evidence: Evidence) -> Float64:
    """The objective for the majority vote of `counts` (k, n)."""
    share = _share(counts) * evidence.weight
    return _score((share * evidence.onehot).sum(axis=1), share.sum(axis=1), evidence)


def _score(hits: Float64, predicted: Float64, evidence: Evidence) -> Float64:
    """The objective from weights of items by class (first axis): rightly predicted, and predicted."""
    actual = evidence.onehot @ evidence.weight
    if evidence.objective == "accuracy":
        accuracy: Float64 = hits.sum(axis=0) / actual.sum()
        return accuracy
    occurs = actual > 0
    f1: Float64 = (2 * hits[occurs].T / (predicted[occurs].T + actual[occurs])).mean(axis=-1)
    return f1


def _score_candidates(evidence: Evidence, counts: Int64, ranked: _Ranked, candidates: Float64) -> Float64:
    """The objective (c,) for each threshold of an LF, given the votes `counts` (k, n) without its extension.

    Each offered vote changes its own item alone. In order of falling similarity the changes add up, so that all
    thresholds together cost one pass.
    """
    rows = ranked.rows
    with_offer = counts[:, rows]
    with_offer[ranked.vote, np.arange(len(rows))] += 1
    share = _share(counts) * evidence.weight
    change = _share(with_offer) * evidence.weight[rows] - share[:, rows]
    nothing = np.zeros((evidence.k, 1))
    hits = np.concatenate([nothing, np.cumsum(change * evidence.onehot[:, rows], axis=1)], axis=1)
    predicted = np.concatenate([nothing, np.cumsum(change, axis=1)], axis=1)
    extended = ranked.count_above(candidates)
    return _score(
        (share * evidence.onehot).sum(axis=1, keepdims=True) + hits[:, extended],
        share.sum(axis=1, keepdims=True) + predicted[:, extended],
        evidence,
    )
