"""The nearest of a run, from those of an earlier run as far as they hold: the same numbers as a search of all.

An item that has kept its embedding has kept its nearest reference items, but for those that are gone and for new ones that are
nearer. More than ten are remembered of each, nearest first, so that ten are left when some have gone: who is not among these
was no nearer than the last of them then, and still is not. An item with fewer than ten left is compared with the whole
reference; all others with what is new in it.

Reference items are in the order of item ids in both runs, so that equally near ones keep their order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.classifiers.nearest_items import (
    NEAREST,
    PRODUCTS,
    Itself,
    NearestItems,
    Reference,
    Scorer,
    find_reaching,
    rank_reference,
)
from tasks.core.mapped_rows import fetch_rows
from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.similarity import measure_pairs
from tasks.core.slices import cut_slices
from tasks.core.threads import map_in_threads
from tasks.core.types import Allocate, Bool, Float32, Int32, Int64

REMEMBERED = 14
"""Nearest items that are remembered: if 2 % of the reference go in a night, one item in a million has fewer than ten left after
it, and few have after a month."""

_BLOCK = 8192
"""Items looked at at a time."""


@dataclass(frozen=True, kw_only=True)
class EarlierNearest:
    """What an earlier run found.

    nearest: (n', `REMEMBERED`) positions in its reference, the nearest first, -1 where not known. row: (n,) where each present
    item, with the same embedding, was; -1: nowhere. now: (r',) the present positions of its reference, ascending; -1: gone.
    is_new: (r,) the present reference items that it had not.
    """

    nearest: Int32
    row: Int64
    now: Int32
    is_new: Bool


class Finder:
    """Finds the nearest of `others` (r, d) to blocks of items, each of `size` items at most."""

    def __init__(self, others: Float32, earlier: EarlierNearest | None) -> None:
        """`earlier`: what an earlier run found; None: nothing."""
        self._earlier, self._scorer = earlier, Scorer(others)
        self._fresh = np.flatnonzero(earlier.is_new) if earlier is not None else np.empty(0, np.int64)
        self._fresh_scorer = Scorer(others[self._fresh])
        compared = others if earlier is None else self._fresh
        self.size = min(_BLOCK, max(PRODUCTS // max(len(compared), 1), 1))

    def find(self, block: Float32, itself: Int64, part: slice) -> Int32:
        """Return the positions (b, `REMEMBERED`) of those nearest to `block` (b, d), the items in `part`, the nearest first.

        -1 where not known. None of them is that at the position `itself` (b,).
        """
        if self._earlier is None:
            return rank_reference(block, itself, self._scorer, REMEMBERED)
        found = _recall(self._earlier, part)
        is_left = found[:, NEAREST - 1] >= 0
        if len(self._fresh):
            # The reference is sorted by item, so that positions among the fresh are in the order of those in it.
            fresh_self = np.full(len(block), -1, dtype=np.int64)
            is_fresh = itself >= 0
            is_fresh[is_fresh] = self._earlier.is_new[itself[is_fresh]]
            fresh_self[is_fresh] = np.searchsorted(self._fresh, itself[is_fresh])
            scores, margin = self._fresh_scorer.score(block, fresh_self)
            _add_fresh(block, self._scorer.others, found, np.flatnonzero(is_left), scores, margin, self._fresh)
        rest = np.flatnonzero(~is_left)
        if len(rest):
            found[rest] = rank_reference(block[rest], itself[rest], self._scorer, REMEMBERED)
        return found


def recall_nearest_items(
    points: Float32,
    reference: Reference,
    others: Float32,
    earlier: EarlierNearest | None = None,
    advance: Advance = ignore_progress,
    allocate: Allocate = np.zeros,
) -> tuple[NearestItems, Int32]:
    """Return what `find_nearest_items` does, and what is to be remembered: (n, `REMEMBERED`), the nearest first, -1 where not known.

    `allocate` makes the array of both.
    """
    itself = Itself(reference)
    nearest = allocate((len(points), REMEMBERED), np.int32)
    finder = Finder(others, earlier)
    parts = cut_slices(len(points), finder.size)

    def find(part: slice) -> Int32:
        block = fetch_rows(points, part)
        return finder.find(block, itself.find(block), part)

    with count_steps(advance, len(parts)) as step:
        for part, found in zip(parts, map_in_threads(find, parts), strict=True):
            nearest[part] = found
            step(1)
    return NearestItems(reference=reference, nearest=nearest[:, :NEAREST]), nearest


def _recall(earlier: EarlierNearest, part: slice) -> Int32:
    """Return the present positions (b, `REMEMBERED`) of what is known of the items in `part`, the nearest first, then -1."""
    rows = earlier.row[part]
    if not len(earlier.now):
        return np.full((len(rows), REMEMBERED), -1, dtype=np.int32)
    before = np.where(rows[:, None] >= 0, earlier.nearest[rows], -1)
    left = np.where(before >= 0, earlier.now[before], -1).astype(np.int32)
    return np.take_along_axis(left, np.argsort(left < 0, axis=1, kind="stable"), axis=1)


def _add_fresh(
    block: Float32,
    others: Float32,
    found: Int32,
    rows: Int64,
    scores: Float32,
    margin: npt.NDArray[np.float64],
    fresh: Int64,
) -> None:
    """Insert into `found` (b, `REMEMBERED`) the `fresh` reference items that are nearer to `rows` than the last known one.

    Whoever is farther stays out, even where there is room: somebody unknown may be between.
    """
    if not len(rows):
        return
    count = (found[rows] >= 0).sum(axis=1)
    last = found[rows, count - 1]
    reach = measure_pairs(block, rows, others, last)
    squares = np.einsum("nd,nd->n", block[rows], block[rows], dtype=np.float64)
    floor = (squares - reach) / 2 - margin[rows]
    at, column = find_reaching(scores[rows], floor)
    touched = np.unique(at)
    slot, place = np.nonzero(found[rows[touched]] >= 0)
    row = np.concatenate([rows[touched[slot]], rows[at]])
    position = np.concatenate([found[rows[touched[slot]], place], fresh[column]])
    rank, row, position = _rank_pairs(block, row, others, position)
    end = np.zeros(len(block), dtype=np.int64)
    is_last = position == _spread(last, rows, len(block))[row]
    end[row[is_last]] = rank[is_last]
    kept = (rank <= end[row]) & (rank < found.shape[1])
    found[rows[touched]] = -1
    found[row[kept], rank[kept]] = position[kept]


def _spread(values: Int32, rows: Int64, n: int) -> Int32:
    spread = np.full(n, -1, dtype=np.int32)
    spread[rows] = values
    return spread


def _rank_pairs(points: Float32, row: Int64, others: Float32, column: Int64) -> tuple[Int64, Int64, Int64]:
    """Return the pairs of `row` (p,) of `points` and `column` (p,) of `others` by row and nearness: rank within the row, row, column."""
    distance = np.zeros(len(row))
    contested = np.flatnonzero(np.bincount(row)[row] > 1)
    distance[contested] = measure_pairs(points, row[contested], others, column[contested])
    ranked = np.lexsort((column, distance, row))
    row, column = row[ranked], column[ranked]
    return np.arange(len(row)) - np.searchsorted(row, row), row, column
