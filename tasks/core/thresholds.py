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

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.core.offers import ClassPoll, Counts, JudgedItems, RankedOffers, TopPoll, count_votes, judge, rank_offers
from tasks.core.progress_callback import WHOLE, Advance, count_steps, ignore_progress
from tasks.core.types import ABSTAIN, Bool, Float32, Float64, Int64, Votes

FOLDS = 10
"""Folds of cross-fitting: on three real tasks ten varied less from sample to sample than five, at little cost."""

HIDDEN = 5000
"""Items at most whose vote is hidden: the standard error of a share is then below one percent point."""

_SWEEPS = 5
"""Rounds of coordinate ascent at most; seen to settle in two to four."""

ENTRIES = 1 << 20
"""Entries of an array of parts, classes and items: a few MiB, beyond which more parts at once save no time."""

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
class Choice:
    """Thresholds on similarity and what they are worth."""

    thresholds: Float64
    """(m,) infinity: do not extend."""
    before: float
    """The objective without the free LFs' extension."""
    after: float
    """The objective with it, each item judged by thresholds that were fitted without it."""


Fit = Callable[[JudgedItems, Bool, list[Float64], Float64, Bool, Advance], Float64]
"""Thresholds (f, m) on f parts of the judged items: from all of them, the items of each part (f, n), candidates by LF,
thresholds to start from (m,), which LFs are free (m,), and who is told of this piece of work."""


def propose_thresholds(similarity: Float32, count: int) -> Float64:
    """Return candidates, descending: infinity ("do not extend"), then at most `count` distinct quantiles of `similarity` (r,).

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
    """Return one vote of each row of `L` (n, m) that has any, of at most `HIDDEN` rows, all drawn with `seed`."""
    count = np.count_nonzero(L != ABSTAIN, axis=1)
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(np.flatnonzero(count))[:HIDDEN])
    drawn = (generator.random(len(rows)) * count[rows]).astype(np.int64)
    # The drawn-th vote of a row is the first entry at which its votes so far exceed `drawn`.
    lf = np.argmax(np.cumsum(L[rows] != ABSTAIN, axis=1) > drawn[:, None], axis=1)
    return Hidden(rows=rows, lf=lf.astype(np.int64))


def hide_votes(judged: JudgedItems, lf: Int64) -> JudgedItems:
    """Return the same items without the votes of `lf` (n,), one LF for each item, and these votes in place of gold.

    Each class that is among them has the same total weight, and all n items that of n.
    """
    entries = np.arange(len(lf)), lf
    L, vote, similarity = judged.L.copy(), judged.vote.copy(), judged.similarity.copy()
    L[entries], vote[entries], similarity[entries] = ABSTAIN, ABSTAIN, np.nan
    gold = judged.L[entries]
    counts = np.bincount(gold, minlength=judged.k)
    return JudgedItems(
        L=L,
        vote=vote,
        similarity=similarity,
        gold=gold,
        weight=len(gold) / np.count_nonzero(counts) / counts[gold] if len(gold) else np.empty(0),
        k=judged.k,
        objective=judged.objective,
    )


def extend(judged: JudgedItems, thresholds: Float64) -> Votes:
    """Return the votes (n, m) after extension with `thresholds` (m,) on similarity."""
    extended = (judged.L == ABSTAIN) & (judged.vote != ABSTAIN) & (judged.similarity.astype(np.float64) > thresholds)
    return np.where(extended, judged.vote, judged.L)


def score_votes(judged: JudgedItems, L: Votes) -> float:
    """Return accuracy or macro F1, in [0, 1], of the majority vote of `L` (n, m) on the items of `judged`; NaN if n is 0.

    Macro F1 is the mean over the classes that occur in gold.
    """
    if not len(L):
        return float("nan")
    totals = judge(judged, count_votes(L, judged.k)[None]) @ judged.weight
    return float(_score(judged, judged.weight[None], totals[:, :, None])[0, 0])


def count_extended(judged: JudgedItems, thresholds: Float64) -> Counts:
    """Return the votes (k, n) for each class after extension with `thresholds` (m,) on similarity."""
    return count_votes(extend(judged, thresholds), judged.k)


def trace_curve(
    judged: JudgedItems, thresholds: Float64, lf: int, candidates: Float64, counts: Counts | None = None
) -> Float64:
    """Return the objective (c,) for each candidate as the threshold of `lf`, other LFs having theirs of `thresholds` (m,).

    `counts` are those of `count_extended`, so that who traces the curves of many LFs counts once.
    """
    if counts is None:
        counts = count_extended(judged, thresholds)
    weight, ranked = judged.weight[None], rank_offers(judged, lf)
    counts = counts[None].copy()
    counts[:, :, ranked.rows] -= ranked.cast(thresholds[[lf]], judged.k)
    gained = _sum_gains(_open_poll(judged, counts).try_offers(ranked, np.array([np.inf])), weight, ranked)
    total = judge(judged, counts) @ weight[:, :, None]
    curve: Float64 = _score(judged, weight, total + gained[:, :, ranked.count_above(candidates)])[0]
    return curve


def count_above(similarity: Float32, thresholds: Float64) -> Int64:
    """Return how many of `similarity` (r,), NaN passed over, are above each of `thresholds` (c,)."""
    known = np.sort(similarity[~np.isnan(similarity)]).astype(np.float64)
    return len(known) - np.searchsorted(known, thresholds, side="right")


def trace_coverage(judged: JudgedItems, lf: int, candidates: Float64) -> Float64:
    """Return the share (c,) of items with a vote of `lf` for each candidate as its threshold."""
    abstains = judged.L[:, lf] == ABSTAIN
    votes = (~abstains).sum() + count_above(judged.similarity[abstains, lf], candidates)
    share: Float64 = votes / len(abstains)
    return share


def fit_global(
    judged: JudgedItems,
    parts: Bool,
    candidates: list[Float64],
    start: Float64,
    free: Bool,
    advance: Advance = ignore_progress,
) -> Float64:
    """Return the best single threshold for all `free` LFs (m,), the others keeping `start`; among equals the highest.

    All entries of `candidates` are the same.
    """
    weight = judged.weight * parts
    totals = []
    with count_steps(advance, len(candidates[0])) as step:
        for counts in count_at_each(judged, candidates[0], start, free):
            totals.append(judge(judged, counts) @ weight.T)
            step(len(counts))
    best = _find_first_best(_score(judged, weight, np.concatenate(totals).transpose(2, 1, 0)))
    return np.where(free, candidates[0][best][:, None], start)


def count_at_each(judged: JudgedItems, candidates: Float64, start: Float64, free: Bool) -> Iterator[Counts]:
    """Return votes (c, k, n) after extension of all `free` LFs at each of some `candidates`, until all had their turn."""
    n, k = len(judged.L), judged.k
    rows, lfs = np.nonzero((judged.L == ABSTAIN) & (judged.vote != ABSTAIN) & free)
    entry = judged.vote[rows, lfs].astype(np.int64) * n + rows
    # Candidates descend, and an offer that one of them lets pass is let pass by all that follow.
    above = np.searchsorted(candidates[::-1], judged.similarity[rows, lfs].astype(np.float64))
    first = len(candidates) - above
    counts = count_votes(extend(judged, np.where(free, np.inf, start)), k)
    together = max(1, ENTRIES // max(k * n, 1))
    for at in range(0, len(candidates), together):
        size = min(together, len(candidates) - at)
        is_let_pass = (first >= at) & (first < at + size)
        added = np.bincount((first[is_let_pass] - at) * k * n + entry[is_let_pass], minlength=size * k * n)
        each = np.cumsum(added.reshape(size, k, n), axis=0, dtype=np.int16) + counts
        counts = each[-1]
        yield each


def fit_per_lf(
    judged: JudgedItems,
    parts: Bool,
    candidates: list[Float64],
    start: Float64,
    free: Bool,
    advance: Advance = ignore_progress,
) -> Float64:
    """Return thresholds (f, m) by coordinate ascent from `start`: LF by LF the best candidate, until none gains.

    Among equals the highest.
    """
    free_lfs = np.flatnonzero(free).tolist()
    ranked_by_lf = {lf: rank_offers(judged, lf) for lf in free_lfs}
    weight = judged.weight * parts
    thresholds = np.tile(start, (len(parts), 1))
    counts = np.repeat(count_votes(extend(judged, start), judged.k)[None], len(parts), axis=0)
    total = judge(judged, counts) @ weight[:, :, None]
    poll = _open_poll(judged, counts)
    same = -1  # LFs in a row that kept their thresholds: once all but the last to change have, all will
    with count_steps(advance, len(free_lfs) * _SWEEPS) as step:
        for lf in free_lfs * _SWEEPS:
            step(1)
            ranked, before = ranked_by_lf[lf], thresholds[:, lf].copy()
            gained = _sum_gains(poll.try_offers(ranked, before), weight, ranked)
            total -= _take_each(gained, ranked.count_above(before))
            scores = _score(judged, weight, total + gained[:, :, ranked.count_above(candidates[lf])])
            thresholds[:, lf] = candidates[lf][_find_first_best(scores)]
            total += _take_each(gained, ranked.count_above(thresholds[:, lf]))
            if np.array_equal(thresholds[:, lf], before):
                same += 1
            else:
                poll.take_offers(ranked, thresholds[:, lf])
                same = 0
            if same == len(free_lfs) - 1:
                break
    return thresholds


def choose_thresholds(
    judged: JudgedItems,
    fit: Fit,
    candidates: list[Float64],
    start: Float64,
    free: Bool,
    advance: Advance = ignore_progress,
) -> Choice:
    """Return cross-fitted thresholds: the upper median, by LF, of those that `fit` finds with one fold at a time left out.

    So a threshold is kept only where most subsets agree on one at least as low, and few items cannot carry it. If the
    left-out items do not gain, the thresholds are those of `start`.

    Parameters
    ----------
    judged
        n items with gold or a hidden vote, n at least 1; the i-th is in fold i mod FOLDS.
    fit
        `fit_per_lf` or `fit_global`.
    candidates
        By LF, as from `propose_thresholds`.
    start
        (m,) thresholds of the LFs that are not free; infinity for those that are.
    free
        (m,) whose thresholds are chosen.
    advance
        Is told of one piece of work.
    """
    n = len(judged.gold)
    folds = min(FOLDS, n)
    fold = np.arange(n) % folds
    parts = (fold != np.arange(folds)[:, None]) | (folds == 1)
    together = max(1, ENTRIES // (judged.k * n))
    blocks = range(0, folds, together)
    with count_steps(advance, len(blocks) * WHOLE) as step:
        fitted = np.concatenate(
            [fit(judged, parts[start_at : start_at + together], candidates, start, free, step) for start_at in blocks]
        )
    before = score_votes(judged, extend(judged, start))
    after = score_votes(judged, extend(judged, fitted[fold]))
    if after <= before + _GAIN:
        return Choice(thresholds=start, before=before, after=before)
    return Choice(thresholds=np.sort(fitted, axis=0)[folds // 2], before=before, after=after)


def _find_first_best(scores: Float64) -> Int64:
    """Return position, along the last axis, of the first score that no other exceeds by more than rounding."""
    found: Int64 = np.argmax(scores >= scores.max(axis=-1, keepdims=True) - _GAIN, axis=-1)
    return found


def _take_each(gained: Float64, position: Int64) -> Float64:
    """Return of each of f parts, its own `position` (f,) along the last axis, (f, q, 1)."""
    return np.take_along_axis(gained, position[:, None, None], axis=2)


def _score(judged: JudgedItems, weight: Float64, totals: Float64) -> Float64:
    """Return the objective (f, c) from sums (f, q, c) as of `_judge`, of items that weigh `weight` (f, n)."""
    if judged.objective == "accuracy":
        accuracy: Float64 = totals[:, 0] / weight.sum(axis=1, keepdims=True)
        return accuracy
    actual = (weight @ (judged.gold[:, None] == np.arange(judged.k)))[:, :, None]
    occurs = actual > 0
    f1 = 2 * totals[:, : judged.k] / np.where(occurs, totals[:, judged.k :] + actual, np.inf)
    mean: Float64 = f1.sum(axis=1) / occurs.sum(axis=1)
    return mean


def _open_poll(judged: JudgedItems, counts: Counts) -> ClassPoll | TopPoll:
    """Return the votes `counts` (f, k, n) as what tries offers on them by the objective of `judged`."""
    return TopPoll(judged, counts) if judged.objective == "accuracy" else ClassPoll(judged, counts)


def _sum_gains(change: Float64, weight: Float64, ranked: RankedOffers) -> Float64:
    """Return what the nearest 0, 1, ..., r offers gain, (f, q, r + 1), each of which changes `change` (f, q, r)."""
    gained = np.zeros((*change.shape[:2], len(ranked.rows) + 1))
    np.cumsum(change * weight.take(ranked.rows, axis=1)[:, None], axis=2, out=gained[:, :, 1:])
    return gained
