"""A search in blocks of queries, each with all it needs to be searched anywhere: here, in a thread, on another machine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tasks.core.search.exact import Nearest, find_neighbors
from tasks.core.search.ivf import Cells, MemberCells, find_visited, rank_cells, visit
from tasks.core.search.on_cards import CardSearch
from tasks.core.search.plan import Search, plan_searches
from tasks.core.search.support import LFClass, Support, build_queries
from tasks.core.types import Bool, Float32, Int64


@dataclass(frozen=True, kw_only=True)
class QueryBlock:
    """Items that look for neighbors together."""

    items: Int64
    """(q,) their positions."""
    cells: range | None
    """The cells they are in; None where that does not matter."""
    vectors: Float32
    """(q, d) the index's vectors of them."""
    asking: Bool
    """(q, m) which LF asks for which of them."""
    known: Float32 | None = None
    """(lf_classes, q) how near their neighbors so far are, NaN where there is none: of others, those at least as near are found."""


class Plan(Protocol):
    """How blocks are searched."""

    @property
    def lf_classes(self) -> Sequence[LFClass]:
        """Those of the support, some perhaps without members."""

    def choose(self, block: QueryBlock) -> tuple[Search, ...]:
        """The searches that answer `block`."""


@dataclass(frozen=True, kw_only=True)
class SamePlan:
    """Every block is searched alike."""

    lf_classes: Sequence[LFClass]
    """Those of the support, some perhaps without members."""
    searches: tuple[Search, ...]
    """Of `lf_classes`."""
    multiply_adds: int
    """What products of all items that ask with all members take."""

    def choose(self, block: QueryBlock) -> tuple[Search, ...]:
        """The same searches for every block."""
        return self.searches


@dataclass(frozen=True, kw_only=True)
class EarlierLook:
    """A search of the same items in the same cells, some of whose members may be gone, and others added since."""

    occupied: Bool
    """(lf_classes, cells) as in `NearbyPlan`, of that search."""
    effort: Int64
    """(lf_classes,)"""
    added: Sequence[LFClass]
    """The LF classes with the added members alone."""
    located: MemberCells
    """Where these are."""


@dataclass(frozen=True, kw_only=True)
class NearbyPlan:
    """A block is searched in the cells near any cell of the block."""

    lf_classes: Sequence[LFClass]
    located: MemberCells
    """Where their members are."""
    cells: Cells
    occupied: Bool
    """(lf_classes, cells) which cells count: those with members."""
    effort: Int64
    """(lf_classes,) as for `find_visited`."""
    width: int
    """Columns of the support's factors."""
    earlier: EarlierLook | None = None
    """Where all that ask have looked before, and found what is known of them; they look at the others alone."""

    def choose(self, block: QueryBlock) -> tuple[Search, ...]:
        """The searches of the members that `visit` leaves."""
        assert block.cells is not None
        orders = [rank_cells(self.cells, cell) for cell in block.cells]
        visited = find_visited(self.occupied, orders, self.effort)
        if self.earlier is None:
            lf_classes = visit(self.lf_classes, self.located, visited)
        else:
            before = find_visited(self.earlier.occupied, orders, self.earlier.effort)
            elsewhere = visit(self.lf_classes, self.located, visited & ~before)
            added = visit(self.earlier.added, self.earlier.located, visited & before)
            lf_classes = tuple(map(_join, elsewhere, added))
        return plan_searches(lf_classes, block.asking.sum(axis=0), len(block.asking), self.width)


def _join(one: LFClass, other: LFClass) -> LFClass:
    """`one` with the members of `other` as well, which are others, of the same LF class."""
    members = np.concatenate([one.members, other.members])
    order = np.argsort(members)
    return replace(one, members=members[order], positions=np.concatenate([one.positions, other.positions])[order])


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchTask:
    """What all blocks of a search share."""

    support: Support
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class FoundInBlock:
    """What became of a block."""

    nearest: Nearest
    compared: int
    """Pairs of an item and a support vector whose product was computed."""


def find_block(task: SearchTask, block: QueryBlock, on_cards: CardSearch | None = None) -> FoundInBlock:
    """The neighbors of the items of `block`, found by `on_cards`, of the same task, where that is given."""
    queries = build_queries(task.support.geometry, block.vectors)
    if on_cards is not None:
        asked = block.asking.sum(axis=0)
        compared = sum(int(asked[lf_class.lf]) * len(lf_class.members) for lf_class in task.plan.lf_classes)
        return FoundInBlock(nearest=on_cards.find_neighbors(queries, block.asking), compared=compared)
    searches = task.plan.choose(block)
    compared = sum(_count_products(search, block.asking) for search in searches)
    nearest = find_neighbors(task.support, searches, queries, block.asking, block.known)
    return FoundInBlock(nearest=nearest, compared=compared)


def _count_products(search: Search, asking: Bool) -> int:
    queries = len(asking) if search.lf is None else int(asking[:, search.lf].sum())
    return queries * sum(len(tile.rows) for tile in search.tiles)


def detach(task: SearchTask) -> SearchTask:
    """`task` without who is in which cell: what has to travel.

    For v distinct support vectors of d dimensions and s members of lf_classes: 4 v d + 32 s bytes, for L2 8 v d + 32 s.
    """
    if not isinstance(task.plan, NearbyPlan):
        return task
    nobody = np.empty(0, np.int64)
    cells = replace(task.plan.cells, of_item=nobody, order=nobody)
    return replace(task, plan=replace(task.plan, cells=cells))
