"""The exact search of LFs of which the cache knows some: what is known stays, and only what may be nearer is looked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.core.search.incremental import ReusedNeighbors, mark_support, reuse_neighbors
from tasks.core.search.ivf import Cells
from tasks.core.search.support import Support, build_support
from tasks.core.types import ABSTAIN, Bool, Float32, MetricName, Votes
from tasks.neighbors.cache import NeighborCache
from tasks.neighbors.columns import NeighborColumns
from tasks.neighbors.passes import plan_exact_pass, search_pass
from tasks.neighbors.table import NeighborTable
from tasks.tables.scratch import open_scratch


@dataclass(frozen=True, kw_only=True)
class Space:
    """The items that neighbors are searched among."""

    vectors: Float32
    """(n, d) as an index has them."""
    metric: MetricName
    lends: Bool
    """(n,) whether the item is a reference."""
    cells: Cells | None
    """None where an index has none."""
    scratch: Path
    """The folder of mapped files without a name."""

    def build_support(self, votes: Votes) -> Support:
        """The support of LFs that are lent `votes` (n, m)."""
        reference = np.flatnonzero((votes != ABSTAIN).any(axis=1))
        return build_support(
            np.ascontiguousarray(votes[reference]),
            reference,
            self.vectors,
            metric=self.metric,
            cells=None if self.cells is None else self.cells.of_item,
            allocate=lambda shape: open_scratch(self.scratch, shape, np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class Searched:
    """The neighbors of some LFs, and the number of products that it took to find them."""

    columns: list[NeighborColumns]
    compared: int


def reuse(
    space: Space, votes: Votes, name: str, cache: NeighborCache, effort: int | None = None
) -> tuple[ReusedNeighbors, NeighborColumns | None]:
    """What is known of the LF with this `name` and these `votes` (n,), and by which earlier search; `effort` is that of this one."""
    support = mark_support(votes, space.lends)
    labels = tuple(np.unique(support[support >= 0]).tolist())
    previous = cache.recall_previous(name)
    if previous is None or (effort is None and previous.entry.columns.effort is not None):
        # Of a search nearby, a search of everything can use nothing.
        return reuse_neighbors(None, None, support, labels), None
    return reuse_neighbors(previous.entry.as_previous(), previous.row, support, labels), previous.entry.columns


def search_exactly(
    space: Space,
    L: Votes,
    names: Sequence[str],
    cache: NeighborCache,
    titles: tuple[str, str] = ("searching", "searching what is new"),
    *,
    is_spread: bool = True,
) -> Searched:
    """The neighbors of LFs with these `names` and the votes `L` (n, m).

    `titles` say on progress lines that items search everything, and that others search what was added. A cluster helps, if there
    is one and `is_spread`.
    """
    lent = np.where(space.lends[:, None], L, np.int8(ABSTAIN))
    labels = [np.unique(votes[votes >= 0]).tolist() for votes in lent.T]
    keys = [(lf, label) for lf, of_lf in enumerate(labels) for label in of_lf]
    table = NeighborTable(keys, len(L), space.scratch)
    is_open, is_added = np.empty(L.shape, bool), np.empty(L.shape, bool)
    for lf, name in enumerate(names):
        reused, _ = reuse(space, L[:, lf], name, cache)
        is_open[:, lf], is_added[:, lf] = reused.is_open, reused.is_added
        table.put(lf, reused)

    def search(asking: Bool, lent: Votes, title: str, *, improves: bool) -> int:
        """The number of products computed while items that ask (n, m) search those that lend (n, m); `improves` as in `Pass`."""
        lfs = np.flatnonzero(asking.any(axis=0) & (lent != ABSTAIN).any(axis=0))
        if not len(lfs):
            return 0
        support = space.build_support(lent[:, lfs])
        rows = table.index_rows([(int(lfs[lf_class.lf]), lf_class.label) for lf_class in support.lf_classes])
        work = plan_exact_pass(support, support.lf_classes, asking[:, lfs], title, improves=improves)
        return search_pass(work, space.vectors, table, rows, is_spread=is_spread)

    # Items of which nothing is known ask the whole support, and the others what was added to it.
    compared = search(is_open, lent, titles[0], improves=False)
    lent[~is_added] = ABSTAIN
    compared += search((L == ABSTAIN) & ~is_open, lent, titles[1], improves=True)
    nowhere = np.empty((len(keys), 0), bool)
    return Searched(columns=[table.take(lf, nowhere) for lf in range(L.shape[1])], compared=compared)
