"""A pass of items over a support, cut into blocks that are searched by threads of this machine or by a cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from tasks.compute.cluster import open_cluster
from tasks.compute.device import THREADS_PER_CARD, choose_block_size, choose_cards, search_block
from tasks.core.mapped_rows import fetch_rows
from tasks.core.search.blocks import EarlierLook, FoundInBlock, NearbyPlan, QueryBlock, SamePlan, SearchTask, detach
from tasks.core.search.exact import QUERIES
from tasks.core.search.ivf import Cells, iterate_queries, locate_members
from tasks.core.search.plan import plan_searches
from tasks.core.search.support import LFClass, Support
from tasks.core.threads import map_in_threads
from tasks.core.types import Bool, Float32, Int64
from tasks.neighbors.table import NeighborTable
from tasks.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Block:
    """Items that are searched together."""

    items: Int64
    """(q,) their positions, ascending."""
    cells: range | None = None
    """The cells that the items are in; None where that does not matter."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Blocks that together search `total` items."""

    task: SearchTask
    asking: Bool
    """(n, m) whether the LF abstains on the item, which then looks for a neighbor."""
    blocks: Iterable[Block]
    total: int
    title: str
    """What the progress line says."""
    improves: bool = False
    """Whether items have neighbors already, and only others that are at least as near matter."""


def cut_into_blocks(items: Int64, size: int = QUERIES) -> Iterator[Block]:
    """Blocks of `size` of `items` at most, in their order."""
    return (Block(items=items[start : start + size]) for start in range(0, len(items), size))


def plan_exact_task(support: Support, lf_classes: Sequence[LFClass], asking: Bool, n: int) -> SearchTask:
    """The exact search of `lf_classes` for those of `n` items that ask, (n, m)."""
    asked, width = asking.sum(axis=0), support.factors.shape[1]
    pairs = sum(int(asked[lf_class.lf]) * len(lf_class.members) for lf_class in lf_classes)
    searches = plan_searches(lf_classes, asked, n, width)
    return SearchTask(
        support=support, plan=SamePlan(lf_classes=lf_classes, searches=searches, multiply_adds=width * pairs)
    )


def plan_exact_pass(
    support: Support, lf_classes: Sequence[LFClass], asking: Bool, title: str, *, improves: bool = False
) -> Pass:
    """The exact search of `lf_classes` for all items that ask, (n, m), in their order."""
    items = np.flatnonzero(asking.any(axis=1))
    task = plan_exact_task(support, lf_classes, asking, len(items))
    size = choose_block_size(task.plan) if isinstance(task.plan, SamePlan) else QUERIES
    blocks = cut_into_blocks(items, size)
    return Pass(task=task, asking=asking, blocks=blocks, total=len(items), title=title, improves=improves)


def plan_nearby_pass(
    cells: Cells, support: Support, effort: Int64, asking: Bool, title: str, earlier: EarlierLook | None = None
) -> Pass:
    """The search of the cells near each item's own, for all items that ask, (n, m).

    `effort` (LF classes,) is as for `find_visited`; `earlier` as in `NearbyPlan`, of items that have neighbors already.
    """
    located = locate_members(support, support.lf_classes, cells)
    plan = NearbyPlan(
        lf_classes=support.lf_classes,
        located=located,
        cells=cells,
        occupied=located.counts > 0,
        effort=effort,
        width=support.factors.shape[1],
        earlier=earlier,
    )
    asks: Bool = np.any(asking, axis=1)
    blocks = (Block(items=items, cells=together) for together, items in iterate_queries(cells, asks, QUERIES))
    task = SearchTask(support=support, plan=plan)
    improves = earlier is not None
    return Pass(task=task, asking=asking, blocks=blocks, total=int(asks.sum()), title=title, improves=improves)


def search_pass(work: Pass, vectors: Float32, table: NeighborTable, rows: Int64, *, is_spread: bool = True) -> int:
    """The number of products computed while `table` is improved, on this machine or on a cluster.

    Parameters
    ----------
    vectors
        (n, d) of all items, the index's.
    rows
        The rows of `table` that are those of the support's LF classes.
    is_spread
        Whether a cluster may help, if there is one.
    """

    def cut(block: Block) -> QueryBlock:
        return QueryBlock(
            items=block.items,
            cells=block.cells,
            vectors=fetch_rows(vectors, block.items),
            asking=work.asking[block.items],
            known=table.look_up(block.items, rows) if work.improves else None,
        )

    compared = 0
    with Progress(work.title, total=work.total) as progress, open_cluster() if is_spread else nullcontext() as cluster:
        if cluster is None:
            results = _search_here(work, cut)
        else:
            results = cluster.spread(search_block, map(cut, work.blocks), shared=[detach(work.task)], name=_describe)
        for block, found in results:
            table.improve(block.items, found.nearest, rows)
            compared += found.compared
            progress.advance(len(block.items))
    return compared


def _describe(block: QueryBlock) -> str:
    return f"search: {len(block.items):,} items from position {block.items[0]:,} on"


def _search_here(work: Pass, cut: Callable[[Block], QueryBlock]) -> Iterator[tuple[QueryBlock, FoundInBlock]]:
    """Each block with what was found, several searched at a time."""

    def find(block: Block) -> tuple[QueryBlock, FoundInBlock]:
        queries = cut(block)
        return queries, search_block(work.task, queries)

    threads = None
    if isinstance(work.task.plan, SamePlan) and (cards := choose_cards(work.task.plan)):
        threads = THREADS_PER_CARD * len(cards)
    return map_in_threads(find, work.blocks, threads)
