"""Approximate search: items are grouped into cells of the embedding space, and an item looks in the cells nearby only.

All items of a cell look in the same cells: in that cell, then in those with the nearest centers. Cells where an LF has no
support cost that LF nothing and do not count, so that an LF whose votes are rare, or all far away, is served as well:
its items go on from cell to cell until they have seen as many members as `min_candidates` asks. A few cells side by side, which
look in much the same cells, are searched together, and each in what any of them visits: then a vector that was read is
multiplied with many. Within the cells visited the search is exact (tasks/core/search/exact.py), by the same products for all
LFs.

What an LF finds depends on its votes and its `min_candidates` alone, not on the LFs searched beside it.

Source: J. Sivic, A. Zisserman, Video Google, ICCV 2003 (inverted files); H. Jégou et al., Product quantization for
nearest neighbor search, IEEE TPAMI 33(1), 2011, section IV (a coarse quantizer, probed near the query).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.core.search.exact import NOBODY
from tasks.core.search.support import LFClass, Support
from tasks.core.types import Float32, Float64, Int32, Int64, MetricName

TOGETHER = 4
"""Cells searched together: that compares a fifth more than each alone (n = 600,000), and reads a fourth as often."""

_GATHERED = 4096
"""Rows added up at a time."""


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
    """(cells, d) means of the index's vectors (cosine: of length 1); zeros for empty cells."""
    metric: MetricName


@dataclass(frozen=True, kw_only=True)
class MemberCells:
    """Where the members of each LF class are."""

    counts: Int64
    """(lf_classes, cells) members in each cell."""
    starts: Int64
    """(lf_classes, cells) index of the first of them in `LFClass.members`."""


def group_items(of_item: Int64, index_vectors: Float32, metric: MetricName) -> Cells:
    """The cells of n items from each item's cell (n,) and the index's vectors (n, d).

    Cells get new numbers, so that those with near numbers are near: what is looked at together then lies together.
    """
    centers = _find_centers(of_item, index_vectors, metric)
    walk = _walk(centers, metric)
    number = np.empty(len(walk), np.int64)
    number[walk] = np.arange(len(walk))
    of_item = number[of_item]
    order = np.argsort(of_item, kind="stable")
    starts = np.searchsorted(of_item[order], np.arange(len(walk) + 1))
    return Cells(of_item=of_item, order=order, starts=starts, centers=centers[walk], metric=metric)


def _find_centers(of_item: Int64, index_vectors: Float32, metric: MetricName) -> Float64:
    count = int(of_item.max(initial=0)) + 1
    centers = np.zeros((count, index_vectors.shape[1]))
    for start in range(0, len(of_item), _GATHERED):
        of_items = of_item[start : start + _GATHERED]
        by_cell = np.argsort(of_items, kind="stable")
        present, first = np.unique(of_items[by_cell], return_index=True)
        # In the order of the vectors, which may be a file.
        vectors = index_vectors[start : start + _GATHERED][by_cell]
        centers[present] += np.add.reduceat(vectors, first, axis=0, dtype=np.float64)
    centers /= np.maximum(np.bincount(of_item, minlength=count), 1)[:, None]
    if metric == "cosine":
        norms = np.sqrt((centers * centers).sum(axis=1, keepdims=True))
        centers /= np.where(norms > 0, norms, 1)
    return centers


def _walk(centers: Float64, metric: MetricName) -> Int64:
    """All cells, each followed by the nearest cell that had no turn yet."""
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


def locate_members(support: Support, cells: Cells) -> MemberCells:
    """Where the members of each LF class of `support`, which was built with these cells, are."""
    row_cells = cells.of_item[support.items]
    edges = np.arange(len(cells.starts))
    bounds = np.array(
        [np.searchsorted(row_cells[lf_class.members], edges) for lf_class in support.lf_classes], np.int64
    )
    bounds = bounds.reshape(len(support.lf_classes), len(edges))
    return MemberCells(counts=np.diff(bounds, axis=1), starts=bounds[:, :-1])


def join_cells(cells: Cells, size: int) -> tuple[range, ...]:
    """All cells in their order, `TOGETHER` at a time, or as many as have `size` items together, but at least one cell."""
    joined, first, count = [], 0, len(cells.starts) - 1
    while first < count:
        fitting = int(np.searchsorted(cells.starts, cells.starts[first] + size, side="right")) - 1
        last = max(min(fitting, first + TOGETHER), first + 1)
        joined.append(range(first, last))
        first = last
    return tuple(joined)


def measure_need(located: MemberCells, cells: Cells, joined: Sequence[range], items: Int64, position: Int32) -> Int64:
    """The smallest `min_candidates` (lf_classes, q) that makes each of `items` (q,) visit the cell of its nearest neighbor.

    `joined` are the cells that visit together; `position` (lf_classes, q) is the neighbor's, as exact search finds it; NOBODY
    gives 0.
    """
    need = np.zeros(position.shape, np.int64)
    of_items = cells.of_item[items]
    for together in joined:
        asking = np.flatnonzero((of_items >= together.start) & (of_items < together.stop))
        if not len(asking):
            continue
        before = _count_before(located, [rank_cells(cells, cell) for cell in together])
        found = position[:, asking]
        needed = np.take_along_axis(before, cells.of_item[np.maximum(found, 0)], axis=1) + 1
        need[:, asking] = np.where(found == NOBODY, 0, needed)
    return need


def _count_before(located: MemberCells, orders: Sequence[Int64]) -> Int64:
    """(lf_classes, cells): the members seen before each cell is visited, in that of `orders` in which they are fewest."""
    before = np.full_like(located.counts, np.iinfo(np.int64).max)
    for order in orders:
        counts = located.counts[:, order]
        before[:, order] = np.minimum(before[:, order], np.cumsum(counts, axis=1) - counts)
    return before


def choose_min_candidates(need: Int64, target_recall: float) -> int:
    """The `min_candidates` with which a share of `target_recall`, and half of the rest, of the cells with a `need` find it.

    The margin is for other items than those measured: with 2,000 of them the recall of a sample varies by .002.
    """
    needed = np.sort(need[need > 0])
    if not len(needed):
        return 1
    aim = (1 + target_recall) / 2
    return int(needed[max(int(np.ceil(aim * len(needed))), 1) - 1])


def visit(
    lf_classes: Sequence[LFClass], located: MemberCells, orders: Sequence[Int64], min_candidates: Sequence[int | None]
) -> tuple[LFClass, ...]:
    """`lf_classes` with the members in the cells that items of some cells, for each of which `orders` has a ranking, visit.

    `min_candidates` (lf_classes,): cells are visited until that many members were seen; None: the LF class is left out.
    """
    before = _count_before(located, orders)
    return tuple(
        _visit(lf_class, row, located, before[row], min_candidates[row]) for row, lf_class in enumerate(lf_classes)
    )


def _visit(lf_class: LFClass, row: int, located: MemberCells, before: Int64, least: int | None) -> LFClass:
    if least is None:
        return replace(lf_class, members=lf_class.members[:0], positions=lf_class.positions[:0])
    chosen = np.flatnonzero((before < least) & (located.counts[row] > 0))
    counts, starts = located.counts[row, chosen], located.starts[row, chosen]
    ends = np.cumsum(counts)
    slots = np.repeat(starts - (ends - counts), counts) + np.arange(counts.sum())
    return replace(lf_class, members=lf_class.members[slots], positions=lf_class.positions[slots])


def iterate_queries(cells: Cells, joined: Sequence[range], size: int) -> Iterator[tuple[range, Int64]]:
    """The cells in each of `joined` with the positions of at most `size` of their items, ascending, until all had a turn."""
    for together in joined:
        start, stop = cells.starts[together.start], cells.starts[together.stop]
        for begin in range(start, stop, size):
            yield together, np.sort(cells.order[begin : min(begin + size, stop)])
