"""Approximate search: items are grouped into cells of the embedding space, and an item looks in the cells nearby only.

All items of a cell look in the same cells: in that cell, then in those with the nearest centers, until they have looked in
as many as `effort` asks. Cells where an LF has no support cost that LF nothing and do not count, so that an LF whose votes are
rare, or all far away, is served as well. A few cells side by side, which look in much the same cells, are searched together, and
each in what any of them visits: then a vector that was read is multiplied with many. Within the cells visited the search is
exact (tasks/core/search/exact.py), by the same products for all LFs.

What an LF finds depends on its votes and its `effort` alone, not on the LFs searched beside it. Since cells are counted, not the
members in them, new members rarely change which cells are visited: while the centers stay, most of what was found stays, and a
search goes on from there (`NearbyPlan` in tasks/core/search/blocks.py).

Source: J. Sivic, A. Zisserman, Video Google, ICCV 2003 (inverted files); H. Jégou et al., Product quantization for
nearest neighbor search, IEEE TPAMI 33(1), 2011, section IV (a coarse quantizer, probed near the query).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from tasks.core.search.support import LFClass, Support
from tasks.core.types import NOBODY, Bool, Float64, Int32, Int64, MetricName

TOGETHER = 4
"""Cells searched together: that compares a fifth more than each alone (n = 600,000), and reads a fourth as often."""

_RUNGS = 4
"""Efforts there are to choose from between a number and its double: then a choice by a sample rarely changes with it."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Items grouped by cell."""

    of_item: Int64
    """(n,) the cell of each item."""
    order: Int64
    """(n,) item positions sorted by cell, then position."""
    starts: Int64
    """(cells + 1,) where each cell begins in `order`."""
    centers: Float64
    """(cells, d) for cosine of length 1; cells with near numbers are near."""
    together: tuple[range, ...]
    """The cells that are searched together: all of them, in their order."""
    metric: MetricName


@dataclass(frozen=True, kw_only=True)
class MemberCells:
    """Where the members of each LF class are."""

    counts: Int64
    """(lf_classes, cells) members in each cell."""
    starts: Int64
    """(lf_classes, cells) index of the first of them in `LFClass.members`."""


def group_items(of_item: Int64, centers: Float64, together: tuple[range, ...], metric: MetricName) -> Cells:
    """The cells of n items from each item's cell (n,), and what is known of the cells."""
    order = np.argsort(of_item, kind="stable")
    starts = np.searchsorted(of_item[order], np.arange(len(centers) + 1))
    return Cells(of_item=of_item, order=order, starts=starts, centers=centers, together=together, metric=metric)


def walk_centers(centers: Float64, metric: MetricName) -> Int64:
    """All of `centers` (cells, d), each followed by the nearest that had no turn yet: an order in which near ones lie together."""
    walk = np.empty(len(centers), np.int64)
    is_left = np.ones(len(centers), bool)
    cell = 0
    for step in range(len(centers)):
        cell = int(np.where(is_left, measure_distances(centers, cell, metric), np.inf).argmin())
        walk[step], is_left[cell] = cell, False
    return walk


def rank_cells(cells: Cells, cell: int) -> Int64:
    """All cells, `cell` first, then those with nearer centers first; among equals the smaller number."""
    return np.argsort(measure_distances(cells.centers, cell, cells.metric), kind="stable")


def measure_distances(centers: Float64, cell: int, metric: MetricName) -> Float64:
    """How far each center is from that of `cell`, by numbers that only compare; it itself is the nearest."""
    if metric == "cosine":
        far: Float64 = -np.einsum("cd,d->c", centers, centers[cell])  # BLAS rounds as the number of threads has it
    else:
        far = ((centers - centers[cell]) ** 2).sum(axis=1)
    far[cell] = -np.inf
    return far


def locate_members(support: Support, lf_classes: Sequence[LFClass], cells: Cells) -> MemberCells:
    """Where the members of each of `lf_classes` of `support`, which was built with these cells, are."""
    row_cells = cells.of_item[support.items]
    edges = np.arange(len(cells.starts))
    bounds = np.array([np.searchsorted(row_cells[lf_class.members], edges) for lf_class in lf_classes], np.int64)
    bounds = bounds.reshape(len(lf_classes), len(edges))
    return MemberCells(counts=np.diff(bounds, axis=1), starts=bounds[:, :-1])


def join_cells(sizes: Int64, size: int) -> tuple[range, ...]:
    """Cells of `sizes` (cells,) in their order, `TOGETHER` at a time, or as many as have `size` items, but at least one cell."""
    ends, joined, first = np.cumsum(sizes), [], 0
    while first < len(sizes):
        fitting = int(np.searchsorted(ends, size + (ends[first - 1] if first else 0), side="right"))
        last = max(min(fitting, first + TOGETHER), first + 1)
        joined.append(range(first, last))
        first = last
    return tuple(joined)


def measure_need(occupied: Bool, cells: Cells, items: Int64, position: Int32) -> Int64:
    """The smallest effort (lf_classes, q) that makes each of `items` (q,) visit the cell of its nearest neighbor.

    `occupied` (lf_classes, cells) is where there are members; `position` (lf_classes, q) is the neighbor's, as exact search finds
    it; NOBODY gives 0.
    """
    need = np.zeros(position.shape, np.int64)
    of_items = cells.of_item[items]
    for together in cells.together:
        asking = np.flatnonzero((of_items >= together.start) & (of_items < together.stop))
        if not len(asking):
            continue
        before = _count_before(occupied, [rank_cells(cells, cell) for cell in together])
        found = position[:, asking]
        needed = np.take_along_axis(before, cells.of_item[np.maximum(found, 0)], axis=1) + 1
        need[:, asking] = np.where(found == NOBODY, 0, needed)
    return need


def _count_before(occupied: Bool, orders: Sequence[Int64]) -> Int64:
    """(lf_classes, cells): the occupied cells before each cell, in that of `orders` in which they are fewest."""
    before = np.full(occupied.shape, np.iinfo(np.int64).max)
    for order in orders:
        counts = occupied[:, order].astype(np.int64)
        before[:, order] = np.minimum(before[:, order], np.cumsum(counts, axis=1) - counts)
    return before


def choose_effort(need: Int64, target_recall: float) -> int:
    """The effort with which a share of `target_recall`, and half of the rest, of those with a `need` find their neighbor.

    The margin is for other items than those measured: with 2,000 of them the recall of a sample varies by .002. The effort is
    rounded up to a power of the fourth root of two, so that a few other items seldom make it another one.
    """
    needed = np.sort(need[need > 0])
    if not len(needed):
        return 1
    aim = (1 + target_recall) / 2
    least = int(needed[max(int(np.ceil(aim * len(needed))), 1) - 1])
    return next(rung for rung in map(_to_rung, count()) if rung >= least)


def _to_rung(number: int) -> int:
    return math.ceil(2 ** (number / _RUNGS))


def find_visited(occupied: Bool, orders: Sequence[Int64], effort: Int64) -> Bool:
    """(lf_classes, cells): where items of some cells look, for each of which `orders` has a ranking.

    `effort` (lf_classes,) is how many of the `occupied` (lf_classes, cells) they look in, in each order; 0: in none.
    """
    return occupied & (_count_before(occupied, orders) < effort[:, None])


def visit(lf_classes: Sequence[LFClass], located: MemberCells, visited: Bool) -> tuple[LFClass, ...]:
    """`lf_classes` with the members in the cells `visited` (lf_classes, cells) alone."""
    return tuple(_visit(lf_class, located, row, visited[row]) for row, lf_class in enumerate(lf_classes))


def _visit(lf_class: LFClass, located: MemberCells, row: int, visited: Bool) -> LFClass:
    chosen = np.flatnonzero(visited & (located.counts[row] > 0))
    counts, starts = located.counts[row, chosen], located.starts[row, chosen]
    ends = np.cumsum(counts)
    return lf_class.take(np.repeat(starts - (ends - counts), counts) + np.arange(counts.sum()))


def find_lost(occupied: Bool, effort: Int64, cells: Cells, position: Sequence[Int32]) -> Iterator[tuple[Int64, Bool]]:
    """Some items (q,), and whether they have a neighbor where they do not look (lf_classes, q), until all had a turn.

    `occupied` (lf_classes, cells) and `effort` (lf_classes,) are as for `find_visited`; `position` has each LF class's neighbors (n,),
    or NOBODY, in the order of cells.
    """
    for together in cells.together if position else ():
        part = slice(cells.starts[together.start], cells.starts[together.stop])
        visited = find_visited(occupied, [rank_cells(cells, cell) for cell in together], effort)
        found = np.stack([of_class[part] for of_class in position])
        is_seen = np.take_along_axis(visited, cells.of_item[np.maximum(found, 0)], axis=1)
        yield cells.order[part], (found != NOBODY) & ~is_seen


def iterate_queries(cells: Cells, asks: Bool, size: int) -> Iterator[tuple[range, Int64]]:
    """Cells that are searched together, with the positions of at most `size` of their items that ask (n,), ascending."""
    for together in cells.together:
        items = cells.order[cells.starts[together.start] : cells.starts[together.stop]]
        items = np.sort(items[asks[items]])
        for begin in range(0, len(items), size):
            yield together, items[begin : begin + size]
