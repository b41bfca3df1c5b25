"""The items nearest to each item, exactly, and what their labels say about its own.

Items that resemble each other mostly have the same label. So the shipped probabilities of an item are F = a M + (1 - a) P: P is what
its own votes and embedding say, M the mean of F over its ten nearest items, and a the say of the neighborhood, the same for all
items. Without gold, a follows from how often neighbors agree; gold moves it, by the log loss of gold rows from whose folds
nothing was learned.

Those with a say are the reference: of items with the same embedding the first, and of very many a part, drawn by a hash of their
embeddings. An item's copies are not among its neighbors. F is settled among the reference, and any other row, a later one
included, takes it from there; so rows do not depend on each other unless they are the reference.

Products in float32 only select candidates, within a bound of their errors; squared distances in float64 rank them, and equally
near ones by position. Batches and threads cannot change the result, and neither can what `tasks.core.classifiers.known_nearest`
takes from an earlier run.

Source: X. Zhu, Z. Ghahramani and J. Lafferty, "Semi-supervised learning using Gaussian fields and harmonic functions", ICML 2003;
D. Zhou, O. Bousquet, T. Lal, J. Weston and B. Schölkopf, "Learning with local and global consistency", NIPS 2003. Higham, as in
`tasks.core.search.support`, for the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from tasks.core.classifiers.pool import trust_gold
from tasks.core.classifiers.softmax import LOG_FLOOR
from tasks.core.similarity import measure_pairs
from tasks.core.slices import cut_slices
from tasks.core.types import Allocate, Float32, Float64, GoldRows, Int64, UInt64

NEAREST = 10
"""Items that an item is compared with."""

PAIRS = 1 << 30
"""Most pairs of an item and a reference item, some 20 s at d = 384; up to 32,768 items the reference is all of them."""

FEWEST = 1_000
"""Reference items that are kept however many items there are."""

WEIGHTS = tuple(number / 10 for number in range(10))
"""Says of the neighborhood among which gold chooses."""

ALIKE = 0.5
"""Standard errors within which two says foretell gold alike, given plenty of it."""

STEPS = 20
"""Steps from item to item that are followed to choose a say; of the largest, .9, they leave a tenth unsettled."""

MOST_STEPS = 150
"""Steps that are followed for the labels; of a say of .9 they leave less than a millionth unsettled."""

PRODUCTS = 1 << 22
"""Products at a time in each thread, 16 MiB."""

_GROUPS = 16
"""Products of which only the largest is looked at to bound the tenth largest of all."""

_UNIT = 2.0**-24
"""Unit roundoff of float32."""

_TINIEST = 2.0**-149
"""The smallest positive number of float32."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The items that have a say. rows: (r,) ascending; hashes: (r,) of their embeddings; cut: the largest hash of an item among
    them, over 2^64.
    """

    rows: Int64
    hashes: npt.NDArray[np.uint64]
    cut: float


@dataclass(frozen=True, kw_only=True)
class NearestItems:
    """The nearest reference items of each item. nearest: (n, 10) positions in the reference, the nearest first, -1 where there are
    fewer.
    """

    reference: Reference
    nearest: npt.NDArray[np.int32]


def choose_reference(points: Float32, cut: float | None = None, pairs: int = PAIRS) -> Reference:
    """Return the reference among the items with these `points` (n, d): those whose hash is at most `cut` if that is given."""
    hashes = hash_points(points)
    most = max(pairs // max(len(points), 1), FEWEST)
    found, first = _find_smallest(hashes, most + 1) if cut is None else np.unique(hashes, return_index=True)
    shares = found / 2.0**64
    if cut is None:
        cut = float(shares[most - 1]) if len(found) > most else 1.0
    rows = np.sort(first[shares <= cut])
    return Reference(rows=rows.astype(np.int64), hashes=hashes[rows], cut=cut)


def _find_smallest(hashes: UInt64, most: int) -> tuple[UInt64, Int64]:
    """Return the `most` smallest distinct `hashes` (n,), ascending, or more of them, and the first row of each; all if they are fewer."""
    bound = (most << 65) // max(len(hashes), 1)
    while True:
        rows = np.flatnonzero(hashes <= np.uint64(min(bound, 2**64 - 1)))
        found, at = np.unique(hashes[rows], return_index=True)
        if len(found) >= most or len(rows) == len(hashes):
            return found, rows[at]
        bound *= 2


def find_nearest_items(points: Float32, reference: Reference, others: Float32) -> NearestItems:
    """Return the items nearest to each of `points` (n, d) among the `reference`, whose points are `others` (r, d). O(n r d)."""
    nearest = rank_reference(points, Itself(reference).find(points), Scorer(others), NEAREST)
    return NearestItems(reference=reference, nearest=nearest)


class Itself:
    """Finds the item with the same embedding in a reference."""

    def __init__(self, reference: Reference) -> None:
        """Sort the `reference`."""
        self._order = np.argsort(reference.hashes)
        self._hashes = reference.hashes[self._order]

    def find(self, points: Float32) -> Int64:
        """Return the position (b,) in the reference of the item with the same embedding as each of `points` (b, d); -1 if none."""
        hashes = hash_points(points)
        at = np.searchsorted(self._hashes, hashes)
        itself = np.full(len(points), -1, dtype=np.int64)
        inside = np.flatnonzero(at < len(self._order))
        is_same = self._hashes[at[inside]] == hashes[inside]
        itself[inside[is_same]] = self._order[at[inside[is_same]]]
        return itself


def rank_reference(points: Float32, itself: Int64, scorer: Scorer, most: int) -> npt.NDArray[np.int32]:
    """Return the positions (n, most) in the others (r, d) of `scorer` of those nearest to each of `points`, the nearest first, -1 where fewer.

    None of them is that at the position `itself` (n,).
    """
    nearest = np.full((len(points), most), -1, dtype=np.int32)
    r = len(scorer.others)
    for part in cut_slices(len(points) if r else 0, max(PRODUCTS // max(r, 1), 1)):
        block = points[part]
        scores, margin = scorer.score(block, itself[part])
        row, column = find_reaching(scores, _bound_largest(scores, most) - margin)
        order, rank = _rank_scores(block, scorer.others, row, column, scores[row, column], margin)
        kept = rank < most
        nearest[part.start + row[order[kept]], rank[kept]] = column[order[kept]]
    return nearest


class Scorer:
    """Scores of `others` (r, d) by how near they are: product with a point less half the squared length, in float32."""

    def __init__(self, others: Float32) -> None:
        """Measure `others`."""
        self.others = others
        squares = np.einsum("nd,nd->n", others, others, dtype=np.float64)
        self._halves = (squares / 2).astype(np.float32)
        self._longest = float(np.sqrt(squares.max(initial=0.0)))
        self._terms = terms = others.shape[1] + 4
        self._growth = terms * _UNIT / (1 - terms * _UNIT)

    def score(self, block: Float32, itself: Int64) -> tuple[Float32, Float64]:
        """Return scores (b, r) for the points `block` (b, d), of `itself` (b,) minus infinity, and a margin (b,).

        Of two whose scores are no more than that apart, the lower one may be nearer, or as near once both similarities are rounded.
        """
        scores = block @ self.others.T
        scores -= self._halves
        known = np.flatnonzero(itself >= 0)
        scores[known, itself[known]] = -np.inf
        lengths = np.sqrt(np.einsum("nd,nd->n", block, block, dtype=np.float64))
        reach = lengths + self._longest
        # Each of two products errs by growth times the lengths, twice to be safe; rounding a distance to float32 closes less than
        # the second term, and so do the lengths of unit vectors, which are rounded too; the last is of numbers so small that they
        # are rounded to a multiple of `_TINIEST`.
        margin = (4 * self._growth * self._longest + 4 * _UNIT * reach) * reach
        return scores, margin + 4 * self._terms * _TINIEST


def find_reaching(scores: Float32, floor: Float64) -> tuple[Int64, Int64]:
    """Return row and column of the `scores` (b, r) that reach the `floor` (b,) of their row, in order; minus infinity never does."""
    reached = scores >= np.maximum(floor, np.finfo(np.float32).min)[:, None].astype(np.float32)
    row, column = np.divmod(np.flatnonzero(reached), max(scores.shape[1], 1))  # a fifth of the time of `nonzero`
    return row, column


def _rank_scores(
    points: Float32, others: Float32, row: Int64, column: Int64, scores: Float32, margin: Float64
) -> tuple[Int64, Int64]:
    """Return the pairs (p,) by row, then nearness, then column, and the rank of each in its row (p,).

    `row` ascends, and `column` within a row. Of two whose `scores` are more than the `margin` (b,) of the row apart, the larger one is
    nearer: only what others of the row come close to is measured.
    """
    count = np.bincount(row, minlength=len(points))
    first = np.cumsum(count) - count
    table = np.full((len(points), count.max(initial=0)), -np.inf, np.float32)
    table[row, np.arange(len(row)) - first[row]] = scores
    ranked = np.argsort(-table, axis=1, kind="stable")
    order = (first[:, None] + ranked)[np.arange(table.shape[1]) < count[:, None]]
    rank = np.arange(len(row)) - first[row]
    scores = scores[order]
    follows = np.zeros(len(row) + 1, bool)
    follows[1:-1] = (row[1:] == row[:-1]) & (scores[:-1] - scores[1:] <= margin[row[1:]])
    contested = np.flatnonzero(follows[:-1] | follows[1:])
    pairs = order[contested]
    run = np.cumsum(~follows[:-1])[contested]
    distance = measure_pairs(points, row[pairs], others, column[pairs])
    order[contested] = pairs[np.lexsort((column[pairs], distance, run))]
    return order, rank


def _bound_largest(scores: Float32, most: int) -> Float64:
    """Return a number (b,) that at least `most` scores of each row reach, or as many as there are; close to the largest such."""
    r = scores.shape[1]
    if r <= most * _GROUPS:
        reached = np.partition(scores, r - most, axis=1)[:, r - most] if r > most else scores.min(axis=1)
        return np.asarray(reached, dtype=np.float64)
    width = r // _GROUPS
    largest = scores[:, :width].copy()
    for group in range(1, _GROUPS):
        np.maximum(largest, scores[:, group * width : (group + 1) * width], out=largest)
    return np.asarray(np.partition(largest, width - most, axis=1)[:, width - most], dtype=np.float64)


def measure_agreement(own: Float64, items: NearestItems) -> float:
    """Return how much more often the labels of neighbors agree than those of two random items, over the most possible; 0 at least.

    This is Cohen's kappa of an item and its neighbors. The label of an item is the largest of its `own` (n, k).
    """
    rows, agreeing, compared = items.reference.rows, 0, 0
    heard, count = own[rows].argmax(axis=1), np.zeros(own.shape[1], np.int64)
    for block in cut_slices(len(own) if len(rows) else 0):
        labels = own[block].argmax(axis=1)
        is_there = items.nearest[block] >= 0
        agreeing += int((heard[items.nearest[block]] == labels[:, None])[is_there].sum())
        compared += int(is_there.sum())
        count += np.bincount(labels, minlength=len(count))
    share = count / max(len(own), 1)
    chance = float((share**2).sum())
    if not compared or chance >= 1:
        return 0.0
    return max((agreeing / compared - chance) / (1 - chance), 0.0)


def find_usual_say(own: Float64, items: NearestItems) -> float:
    """Return the say of nearest items where no gold tells: the square of `measure_agreement`, at most the largest of `WEIGHTS`."""
    return min(measure_agreement(own, items) ** 2, WEIGHTS[-1])


def smooth_labels(own: Float64, items: NearestItems, weight: float, allocate: Allocate = np.zeros) -> Float64:
    """Return F (n, k): `own` (n, k), with `weight` the say of the nearest items; rows without neighbors stay as they are.

    `allocate` makes the array of F.
    """
    if weight == 0 or not len(items.reference.rows):
        return own
    start = own[items.reference.rows]
    within = _average(items.nearest[items.reference.rows], len(items.reference.rows))
    settled = start
    for _ in range(MOST_STEPS):
        settled = mix(start, within @ settled, items.nearest[items.reference.rows], weight)
    return extend_labels(own, items.nearest, settled, weight, allocate)


def extend_labels(
    own: Float64,
    nearest: npt.NDArray[np.int32],
    settled: Float64,
    weight: float,
    allocate: Allocate = np.zeros,
) -> Float64:
    """Return F (q, k) of any rows: `own` (q, k), with neighbors `nearest` (q, 10) whose F is `settled` (r, k)."""
    smoothed = allocate(own.shape, np.float64)
    for block in cut_slices(len(own)):
        near = nearest[block]
        smoothed[block] = mix(own[block], _average(near, len(settled)) @ settled, near, weight)
    return smoothed


def mix(own: Float64, said: Float64, nearest: npt.NDArray[np.int32], weight: float) -> Float64:
    """Return a M + (1 - a) P, where a is `weight` and 0 where there are no neighbors."""
    say = np.where(nearest[:, :1] >= 0, weight, 0.0)
    return np.asarray(say * said + (1 - say) * own)


def choose_weight(followed: list[Float64], gold: GoldRows, fold: Int64, usual: float) -> Choice:
    """Return the say that gold supports: of those that foretell it nearly as well as the best, the nearest to what is expected.

    With t as in `weigh_experts`, 1 - t times the `usual` say, that without gold, is expected: gold has to earn what goes beyond.
    Nearly as well: the mean log loss is within `ALIKE` / sqrt(t) standard errors of the difference. followed: (steps + 1, g_f, k) per fold, by
    `follow_steps`, for the gold rows of the fold.
    """
    g = len(gold.rows)
    losses = np.empty((len(WEIGHTS), g))
    said = np.empty((len(WEIGHTS), g, followed[0].shape[2]))
    for f, steps in enumerate(followed):
        rows = np.flatnonzero(fold == f)
        for number, weight in enumerate(WEIGHTS):
            factor = (1 - weight) * weight ** np.arange(len(steps))
            factor[-1] = weight ** (len(steps) - 1)
            said[number, rows] = np.tensordot(factor, steps, axes=1)
            losses[number, rows] = -np.log(np.maximum(said[number, rows, gold.classes[rows]], LOG_FLOOR))
    trust = trust_gold(g, said.shape[2])
    expected, alike = usual * (1 - trust), ALIKE / np.sqrt(trust)
    held_out = np.empty((g, said.shape[2]))
    for f in range(len(followed)):
        out = fold == f
        held_out[out] = said[_find_nearly_best(losses[:, ~out], expected, alike), out]
    return Choice(weight=WEIGHTS[_find_nearly_best(losses, expected, alike)], held_out=held_out)


def _find_nearly_best(losses: Float64, expected: float, alike: float) -> int:
    """Return the position in `WEIGHTS` that `choose_weight` describes, for log losses (weights, g)."""
    above = losses - losses[int(np.argmin(losses.sum(axis=1)))]
    error = above.std(axis=1) / np.sqrt(losses.shape[1])
    nearly = above.mean(axis=1) <= alike * error
    return int(np.argmin(np.where(nearly, np.abs(np.array(WEIGHTS) - expected), np.inf)))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The say of the neighborhood. held_out: (g, k), F of the gold rows, each with a say chosen on other folds."""

    weight: float
    held_out: Float64


def follow_steps(own: Float64, at: Float64, nearest: npt.NDArray[np.int32], of_gold: npt.NDArray[np.int32]) -> Float64:
    """Return what gold rows hear of items 0, 1, ... `STEPS` steps away, (steps + 1, g, k).

    own: (r, k) P of the reference, whose neighbors are `nearest` (r, 10); at: (g, k) P of the gold rows, theirs `of_gold` (g, 10).
    A row without neighbors hears itself.
    """
    within, towards = _average(nearest, len(own)), _average(of_gold, len(own))
    alone, gold_alone = nearest[:, 0] < 0, of_gold[:, 0] < 0
    heard = [at]
    for _ in range(STEPS):
        heard.append(np.where(gold_alone[:, None], at, towards @ own))
        own = np.where(alone[:, None], own, within @ own)
    return np.stack(heard)


def _average(nearest: npt.NDArray[np.int32], r: int) -> scipy.sparse.csr_array:
    """Return the matrix (q, r) that takes the mean over each row's neighbors; rows without any have zeros."""
    there = nearest >= 0
    count = there.sum(axis=1)
    weights = np.repeat(1.0 / np.maximum(count, 1), count)
    return scipy.sparse.csr_array((weights, nearest[there], np.r_[0, np.cumsum(count)]), shape=(len(nearest), r))


def hash_points(points: Float32) -> npt.NDArray[np.uint64]:
    """Return a hash (n,) of each row, of its numbers alone."""
    weights = np.random.default_rng(0).integers(0, 2**64, points.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(points), dtype=np.uint64)
    for block in cut_slices(len(points)):
        bits = (points[block] + np.float32(0)).view(np.uint32)  # so that -0 is 0
        hashes[block] = np.einsum("nd,d->n", bits, weights, dtype=np.uint64, casting="safe")
    # So that the high digits, by which the reference is cut, depend on all.
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0x9E3779B97F4A7C15)
    return hashes
