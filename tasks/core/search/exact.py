"""Nearest support items, exactly: per LF and class, for every item on which that LF abstains.

What similarity is, `tasks.core.similarity` says. The neighbor has the largest similarity, and among equals the smallest position.

Matrix products, in float32 or in 8-bit integers (tasks/core/search/products.py), only select candidates: every vector whose
product is within a proven error bound of the best product is scored in float64. Batches, threads, BLAS, the kind of products
and strategy therefore cannot change a result. Vectors that occur more than once are searched once.

Most of the time goes to the products and to looking at them, which compiled loops do (tasks/core/search/kernels.py).

Peak memory for v distinct support vectors of d dimensions, and LF classes with s members in total: the vectors of the support,
4 v d bytes, for L2 factors of 4 v (d + 1), too, and v (d + 12) in 8 bits; 16 s for members and four times that while a search is
planned; and per thread 8 MiB of products and 80 MiB of candidates. Vectors and factors may be mapped files, of which
only the rows in use are touched; rows that are searched together lie together.
"""

from dataclasses import dataclass

import numpy as np

from tasks.core.search.kernels import bound_similarities, collect, drop_beaten, keep_nearest, raise_floor
from tasks.core.search.plan import Search, Tile
from tasks.core.search.products import Products
from tasks.core.search.support import Queries, Support, bound_products
from tasks.core.similarity import compare_pairs
from tasks.core.types import NOBODY, Bool, Float32, Float64, Int64

QUERIES = 2048
"""Queries worth searching at a time: fewer are multiplied more slowly."""

PENDING = 1 << 20
"""Candidates collected before they are scored, 28 MiB: memory stays bounded whatever the number of ties."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The neighbor, and how near it is, for each LF class of the support and each query."""

    similarity: Float32
    """(lf_classes, q) cosine in [-1, 1] or minus the distance; NaN where the LF votes on the query itself."""
    position: Int64
    """(lf_classes, q) position of the neighbor among all items; NOBODY where similarity is NaN."""


def find_neighbors(
    support: Support, searches: tuple[Search, ...], queries: Queries, abstains: Bool, known: Float32 | None = None
) -> Nearest:
    """The neighbors of some queries, at best about `QUERIES` at a time.

    Parameters
    ----------
    abstains
        (q, m) which LF on which query.
    known
        (lf_classes, q) how near a neighbor is that each query has already, NaN where it has none. One that is less near is
        not looked for, nor perhaps found.
    """
    q = len(queries.vectors)
    bound = None if known is None else bound_products(support.geometry, queries, known)
    found = Nearest(
        similarity=np.full((len(support.lf_classes), q), -np.inf, np.float32),
        position=np.full((len(support.lf_classes), q), _LAST, np.int64),
    )
    tallest = max((len(tile.rows) for search in searches for tile in search.tiles), default=0)
    scratch = np.empty(tallest * q, np.float32)
    pending = _Pending(max([PENDING, *(2 * len(search.lf_classes) * q for search in searches)]))
    for search in searches:
        asking = np.arange(q) if search.lf is None else np.flatnonzero(abstains[:, search.lf])
        for part in support.multiplier.cut(len(asking), len(search.lf_classes)):
            _Run(support, search, queries, asking[part], abstains, pending, found).go(scratch, bound)
    nobody = found.position == _LAST
    return Nearest(
        similarity=np.where(nobody, np.float32(np.nan), found.similarity),
        position=np.where(nobody, NOBODY, found.position),
    )


_LAST = np.iinfo(np.int64).max
"""Larger than any position, so that any position is smaller."""


class _Pending:
    """The candidates: members that may be nearest; there is room for so many."""

    def __init__(self, room: int) -> None:
        self.count = 0
        self.entry = np.empty(room, np.int64)
        """LF class within the search, times the number of queries that ask, plus the query within these."""
        self.row = np.empty(room, np.int64)
        """Row of the support."""
        self.position = np.empty(room, np.int64)
        self.product = np.empty(room, np.float32)


class _Run:
    """One search of some queries, which improves what was found for them before."""

    def __init__(
        self,
        support: Support,
        search: Search,
        queries: Queries,
        asking: Int64,
        abstains: Bool,
        pending: _Pending,
        found: Nearest,
    ) -> None:
        self._support, self._search, self._queries, self._asking = support, search, queries, asking
        self._pending, self._found = pending, found
        lfs = [support.lf_classes[lf_class].lf for lf_class in search.lf_classes]
        # Once per LF, then per LF class: advanced indexing of both at once is slow.
        voted = ~abstains[asking].T[lfs]
        self._margin = queries.margin[asking]
        self._floor = np.where(voted, np.float32(np.inf), np.float32(-np.inf))
        """(lf_classes, q) the product that a candidate must reach; none reaches infinity."""

    def go(self, scratch: Float32, bound: Float64 | None) -> None:
        """Search every tile for what reaches `bound`, by `bound_products`; `scratch` has room for the products of the tallest."""
        queries = self._queries.factors
        if len(self._asking) < len(queries):
            queries = queries[self._asking]
        count = len(queries) * sum(len(tile.rows) for tile in self._search.tiles)
        with self._support.multiplier.multiply(queries, self._margin, scratch, count) as products:
            if bound is not None:
                asked = bound[list(self._search.lf_classes)][:, self._asking]
                self._floor = np.maximum(self._floor, products.find_floor(asked))
            self._is_open = (self._floor == -np.inf).any(axis=1)
            for tile in self._search.tiles:
                self._look_at(tile, products)
            self._drop_beaten()
            self._settle()

    def _look_at(self, tile: Tile, products: Products) -> None:
        """Make candidates of members of `tile`."""
        pending = self._pending
        scores, scale = products.multiply(tile.rows)
        found = scores, scale, products.half
        is_new = tile.is_new & self._is_open
        if is_new.any():
            raise_floor(*found, tile.starts, tile.lf_classes, is_new, products.margin, self._floor)
        row = 0
        while row < len(tile.rows):
            row, pending.count = collect(
                *found, tile.starts, tile.lf_classes, tile.rows, tile.positions, products.margin, self._floor,
                row, pending.count, pending.entry, pending.row, pending.position, pending.product,
            )  # fmt: skip
            if row < len(tile.rows):
                self._drop_beaten()
                if 2 * pending.count > len(pending.entry):
                    self._settle()

    def _drop_beaten(self) -> None:
        """Keep the pending candidates that still reach the floor."""
        pending = self._pending
        pending.count = drop_beaten(
            self._floor, pending.count, pending.entry, pending.row, pending.position, pending.product
        )

    def _settle(self) -> None:
        """Score the pending candidates and keep the best."""
        pending, q = self._pending, len(self._asking)
        entry, row, position = (array[: pending.count] for array in (pending.entry, pending.row, pending.position))
        pending.count = 0
        lf_class = entry // q  # quicker than np.divmod
        query = self._asking[entry - lf_class * q]
        similarity = score_pairs(self._support, self._queries, query, row)
        found = np.asarray(self._search.lf_classes)[lf_class] * len(self._queries.vectors) + query
        keep_nearest(found, position, similarity, self._found.similarity.reshape(-1), self._found.position.reshape(-1))


def score_pairs(support: Support, queries: Queries, query: Int64, row: Int64) -> Float32:
    """The exact similarities of queries and support vectors, pair by pair.

    Summed in the order that is fastest where every number within the errors of both orders rounds to the same float32;
    the few others are summed as the definition says.
    """
    metric = support.geometry.metric
    similarity, high = np.empty(len(query), np.float32), np.empty(len(query), np.float32)
    bound_similarities(
        queries.vectors, support.vectors, queries.norms, support.norms[row], metric == "cosine", query, row,
        similarity, high,
    )  # fmt: skip
    unsure = np.flatnonzero(similarity != high)
    similarity[unsure] = compare_pairs(queries.vectors, query[unsure], support.vectors, row[unsure], metric)
    return similarity
