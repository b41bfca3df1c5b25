"""Nearest support items, exactly: per LF and class, for every item on which that LF abstains.

Similarity is float64 arithmetic on the float32 embeddings, rounded to float32 at the end:

- cosine: sum(x * y) / sqrt(sum(x * x) * sum(y * y)), clipped to [-1, 1];
- L2: minus sqrt(sum((x - y) ** 2)).

Products of two float32 numbers are exact in float64 and each sum is NumPy's pairwise sum over one row, so a value
depends on its two rows alone. The neighbor has the largest similarity, and among equals the smallest position.

Matrix products in float32 only propose: every vector whose product is within a proven error bound of the best one is
scored in float64. Batches, threads, BLAS and strategy therefore cannot change a result. Vectors that occur more than
once are searched once.

Most of the time goes to the products. One look at those of an LF class's members finds who is near enough to the best so far
(of the first few members the best one is found before), and whoever is near enough to the best in the end is scored.
These loops are compiled (tasks/core/search/kernels.py).

Peak memory for v distinct support vectors of d dimensions, p LF classes with s members together: the
embeddings and factors of the support, 4 v d bytes each (L2: factors 4 v (d + 1)), 16 s for members and four times that
while a search is planned; and per thread 8 MiB of products and 80 MiB of candidates. All of them may be mapped files, of
which only rows in use are touched; those of a support are in its own order, so that what is searched together lies together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.patterns import find_patterns
from tasks.core.search.kernels import (
    bound_similarities,
    collect,
    drop_beaten,
    hash_rows,
    keep_nearest,
    measure_norms,
    raise_floor,
)
from tasks.core.types import Bool, Float32, Float64, Int64, MetricName, Votes

QUERIES = 2048
"""Queries worth searching at a time: fewer are multiplied more slowly."""

NOBODY = -1
"""The position of a neighbor that does not exist."""

_TILE = 1024
"""Support vectors per matrix product: with `QUERIES`, 8 MiB of products."""

_MEMBER_COST = 15
"""Multiply-adds in the time it takes to look at one product of a member (measured at d = 384 on one core: .2 ns)."""

_SEEN = 64
"""Members after which an LF class's best product is good enough that later ones rarely reach it."""

_PENDING = 1 << 20
"""Candidates collected before they are scored, 28 MiB: memory stays bounded whatever the number of ties."""

_GATHERED = 4096
"""Rows hashed, compared or converted at a time when a support is built."""

_UNIT = 2.0**-24
"""Unit roundoff of float32."""


@dataclass(frozen=True, kw_only=True)
class LFClass:
    """An LF, a class in its support, and who votes so. Neighbors are found per LF class."""

    lf: int
    label: int
    members: Int64
    """(s,) rows of the support, ascending."""
    positions: Int64
    """(s,) per member the smallest position among the items with this vector and this vote."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How embeddings become factors, whose float32 products rank them."""

    metric: MetricName
    center: Float64
    """(d,) L2: subtracted from every vector, since rounding grows with the norms. Cosine: zeros."""
    scale: float
    """L2: a power of two (exact) that brings every centered support vector into the unit ball. Cosine: 1."""


@dataclass(frozen=True, kw_only=True)
class Support:
    """The items that lend votes: their distinct embeddings, and which of these vote for what."""

    geometry: Geometry
    embeddings: Float32
    """(v, d) the distinct ones; v is the number of rows."""
    items: Int64
    """(v,) the first item with each of them."""
    norms: Float64
    """(v,) lengths of the embeddings."""
    factors: Float32
    """Cosine: (v, d) unit vectors. L2: (v, d + 1) centered, scaled vectors y, and -|y|^2 / 2."""
    lf_classes: tuple[LFClass, ...]
    """By LF, then class; classes for which an LF never votes have none."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Support vectors that are multiplied together, at most `_TILE`, and whose members they are."""

    rows: Int64
    """(r,) rows of the support, ascending."""
    starts: Int64
    """(r + 1,) where in `lf_classes` each row's memberships begin, and their number s."""
    lf_classes: Int64
    """(s,) places of LF classes within the search."""
    positions: Int64
    """(s,) item positions, as in `LFClass`."""
    is_new: Bool
    """(lf_classes,) of which few members are in earlier tiles."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One pass of queries over some of the support, which answers one LF class or many."""

    lf_classes: tuple[int, ...]
    """Places in `Support.lf_classes`."""
    tiles: tuple[Tile, ...]
    lf: int | None
    """The LF whose abstaining items alone are queries; None: every item is one."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Items that look for neighbors."""

    vectors: Float32
    """(q, d) embeddings."""
    norms: Float64
    """(q,) their lengths."""
    factors: Float32
    """Cosine: (q, d) unit vectors. L2: (q, d + 1) centered, scaled vectors and a 1, both shrunk into the unit ball."""
    margin: Float32
    """(q,) a support vector whose product is further than this below the best one cannot win, nor tie."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Per LF class of the support and query: the neighbor and how near it is."""

    similarity: Float32
    """(lf_classes, q) cosine in [-1, 1] or minus the distance; NaN where the LF votes on the query itself."""
    position: Int64
    """(lf_classes, q) position of the neighbor among all items; NOBODY where similarity is NaN."""


def compute_similarity(x: Float32, y: Float32, metric: MetricName) -> Float32:
    """The similarities (r,) of rows of `x` with the same rows of `y`, both (r, d): the definition at the top.

    >>> x, y = np.float32([[3, 4], [3, 4]]), np.float32([[6, 8], [4, -3]])
    >>> compute_similarity(x, y, "cosine").tolist(), compute_similarity(x, y, "l2").tolist()
    ([1.0, 0.0], [-5.0, -7.071067810058594])
    """
    if metric == "cosine":
        return np.clip(_dot(x, y) / np.sqrt(_dot(x, x) * _dot(y, y)), -1, 1).astype(np.float32)
    difference = np.subtract(x, y, dtype=np.float64)
    distance = np.sqrt(np.add.reduce(difference * difference, axis=1))
    near: Float64 = 0.0 - np.minimum(distance, np.finfo(np.float32).max)  # 0, never -0, for equal rows
    return near.astype(np.float32)


def _allocate(shape: tuple[int, int]) -> Float32:
    return np.empty(shape, np.float32)


def build_support(
    votes: Votes,
    positions: Int64,
    embeddings: Float32,
    index_vectors: Float32,
    *,
    metric: MetricName,
    cells: Int64 | None = None,
    allocate: Callable[[tuple[int, int]], Float32] = _allocate,
) -> Support:
    """The support of every LF among r reference items.

    Parameters
    ----------
    votes
        (r, m) the items' votes, at least one each.
    positions
        (r,) their positions among all items, ascending.
    embeddings
        (n, d) of all items.
    index_vectors
        (n, d) the index's vectors of all items: unit vectors for cosine, the embeddings for L2.
    metric
        "cosine" or "l2".
    cells
        (n,) of all items; where given, the support's rows are sorted by the cell of their first item.
    allocate
        Makes room for embeddings and factors, such as a mapped file where they may not fit memory.
    """
    leader = _find_leaders(embeddings, positions)
    first = np.flatnonzero(leader == np.arange(len(leader)))
    # Items with the same votes lie side by side, so that the members of an LF are often consecutive.
    patterns = find_patterns(votes[first]).inverse
    order = np.lexsort((patterns,) if cells is None else (patterns, cells[positions[first]]))
    first = first[order]
    row = np.empty(len(leader), np.int64)
    row[first] = np.arange(len(first))
    row = row[leader]
    lf_classes = []
    for lf in range(votes.shape[1]):
        own = np.ascontiguousarray(votes[:, lf])
        for label in np.unique(own[own >= 0]).tolist():
            voters = np.flatnonzero(own == label)
            members, where = np.unique(row[voters], return_index=True)
            lf_classes.append(LFClass(lf=lf, label=label, members=members, positions=positions[voters[where]]))
    items = positions[first]
    d = embeddings.shape[1]
    lent, factors, norms = allocate((len(items), d)), allocate((len(items), d + (metric == "l2"))), np.empty(len(items))
    for part in _parts(len(items), _GATHERED):
        lent[part] = embeddings[items[part]]
    geometry = _place(lent, metric)
    for part in _parts(len(items), _GATHERED):
        vectors = lent[part]
        norms[part] = measure_norms(vectors)
        if metric == "cosine":
            factors[part] = index_vectors[items[part]]
        else:
            placed = (vectors - geometry.center) * geometry.scale
            factors[part, :-1] = placed
            factors[part, -1] = -0.5 * (placed * placed).sum(axis=1)
    return Support(
        geometry=geometry, embeddings=lent, items=items, norms=norms, factors=factors, lf_classes=tuple(lf_classes)
    )


def build_queries(geometry: Geometry, vectors: Float32, index_vectors: Float32) -> Queries:
    """Queries from embeddings (q, d) and the index's vectors of the same items (q, d).

    The margin is twice the error of one product, plus the gap that rounding a similarity to float32 can close.
    A product of d float32 lf_classes, summed in any order, errs by at most g * sum|x_i y_i| with g = d u / (1 - d u).
    Cosine: the sum is at most 1 (Cauchy-Schwarz, unit vectors). L2: a query z is divided by a power of two a >= |z|, so
    that the sum is at most 1 + 1/2; and d(z, y)^2 = |z|^2 - 2 (z.y - |y|^2 / 2), so that two distances which round to
    the same float32 differ by at most 2^-22 d^2 / (2 a) in the product, with d <= |z| + 1. Each bound is doubled or
    rounded up where that costs nothing.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    terms = vectors.shape[1] + 2
    growth = terms * _UNIT / (1 - terms * _UNIT)
    if geometry.metric == "cosine":
        factors = index_vectors
        margin = np.full(len(vectors), 2 * 1.01 * growth + 12 * _UNIT)
    else:
        placed = (vectors - geometry.center) * geometry.scale
        norms = np.sqrt((placed * placed).sum(axis=1))
        shrink = np.exp2(-np.ceil(np.log2(np.maximum(norms, 1.0))))
        factors = np.column_stack([placed * shrink[:, None], shrink]).astype(np.float32)
        margin = 2 * 1.52 * growth + 16 * _UNIT + 4 * _UNIT * shrink * (norms + 1) ** 2
    return Queries(vectors=vectors, norms=measure_norms(vectors), factors=factors, margin=margin.astype(np.float32))


def plan_per_lf(lf_classes: Sequence[LFClass]) -> tuple[Search, ...]:
    """One search for each LF, over its own support, by the items on which it abstains."""
    lfs = sorted({lf_class.lf for lf_class in lf_classes if len(lf_class.members)})
    return tuple(
        _plan(lf_classes, tuple(place for place, lf_class in enumerate(lf_classes) if lf_class.lf == lf), lf)
        for lf in lfs
    )


def plan_union(lf_classes: Sequence[LFClass]) -> tuple[Search, ...]:
    """One search for all LFs, over the union of their supports, by every item."""
    places = tuple(place for place, lf_class in enumerate(lf_classes) if len(lf_class.members))
    return (_plan(lf_classes, places, None),) if places else ()


def plan_searches(lf_classes: Sequence[LFClass], abstaining: Int64, n: int, width: int) -> tuple[Search, ...]:
    """The cheaper of `plan_per_lf` and `plan_union` by predicted multiply-adds; both give the same result.

    `lf_classes` are those of a support, or the same with fewer members, whose factors have `width` columns; `abstaining`
    (m,) counts the items on which each LF abstains, among `n`.
    """
    per_lf = sum(abstaining[lf_class.lf] * len(lf_class.members) * (width + _MEMBER_COST) for lf_class in lf_classes)
    rows = _unite([lf_class.members for lf_class in lf_classes])
    union = n * (len(rows) * width + sum(len(lf_class.members) for lf_class in lf_classes) * _MEMBER_COST)
    return plan_per_lf(lf_classes) if per_lf <= union else plan_union(lf_classes)


def find_neighbors(support: Support, searches: tuple[Search, ...], queries: Queries, abstains: Bool) -> Nearest:
    """The neighbors of some queries, at best about `QUERIES` at a time; `abstains` (q, m): which LF on which query."""
    q = len(queries.vectors)
    found = Nearest(
        similarity=np.full((len(support.lf_classes), q), -np.inf, np.float32),
        position=np.full((len(support.lf_classes), q), _LAST, np.int64),
    )
    tallest = max((len(tile.rows) for search in searches for tile in search.tiles), default=0)
    scratch = np.empty(tallest * q, np.float32)
    pending = _Pending(max([_PENDING, *(2 * len(search.lf_classes) * q for search in searches)]))
    for search in searches:
        asking = np.arange(q) if search.lf is None else np.flatnonzero(abstains[:, search.lf])
        if len(asking):
            _Run(support, search, queries, asking, abstains, pending, found).go(scratch)
    nobody = found.position == _LAST
    return Nearest(
        similarity=np.where(nobody, np.float32(np.nan), found.similarity),
        position=np.where(nobody, NOBODY, found.position),
    )


_LAST = np.iinfo(np.int64).max
"""Larger than any position, so that any position is smaller."""


class _Pending:
    """Those who may be the neighbor: room for so many."""

    def __init__(self, room: int) -> None:
        self.count = 0
        self.cell = np.empty(room, np.int64)
        """LFClass within the search, times the number of queries that ask, plus the query within these."""
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

    def go(self, scratch: Float32) -> None:
        """Search every tile; `scratch` has room for the products of the tallest."""
        q, pending = len(self._asking), self._pending
        factors = self._queries.factors if q == len(self._queries.factors) else self._queries.factors[self._asking]
        for tile in self._search.tiles:
            scores = scratch[: len(tile.rows) * q].reshape(len(tile.rows), q)
            np.matmul(_take_rows(self._support.factors, tile.rows), factors.T, out=scores)
            if tile.is_new.any():
                raise_floor(scores, tile.starts, tile.lf_classes, tile.is_new, self._margin, self._floor)
            row = 0
            while row < len(tile.rows):
                row, pending.count = collect(
                    scores, tile.starts, tile.lf_classes, tile.rows, tile.positions, self._margin, self._floor,
                    row, pending.count, pending.cell, pending.row, pending.position, pending.product,
                )  # fmt: skip
                if row < len(tile.rows):
                    self._drop_beaten()
                    if 2 * pending.count > len(pending.cell):
                        self._settle()
        self._drop_beaten()
        self._settle()

    def _drop_beaten(self) -> None:
        """Keep the pending candidates that still reach the floor."""
        one = self._pending
        one.count = drop_beaten(self._floor, one.count, one.cell, one.row, one.position, one.product)

    def _settle(self) -> None:
        """Score the pending candidates and keep the best."""
        pending, q = self._pending, len(self._asking)
        cell, row, position = (array[: pending.count] for array in (pending.cell, pending.row, pending.position))
        pending.count = 0
        lf_class = cell // q  # quicker than np.divmod
        query = self._asking[cell - lf_class * q]
        similarity = _score(self._support, self._queries, query, row)
        found = np.asarray(self._search.lf_classes)[lf_class] * len(self._queries.vectors) + query
        keep_nearest(found, position, similarity, self._found.similarity.reshape(-1), self._found.position.reshape(-1))


def _score(support: Support, queries: Queries, query: Int64, row: Int64) -> Float32:
    """The exact similarities of queries and support vectors, LF class by LF class.

    Summed in the order that is fastest where every number within the errors of both orders rounds to the same float32;
    the few others are summed as the definition says.
    """
    metric = support.geometry.metric
    similarity, high = np.empty(len(query), np.float32), np.empty(len(query), np.float32)
    bound_similarities(
        queries.vectors, support.embeddings, queries.norms, support.norms[row], metric == "cosine", query, row,
        similarity, high,
    )  # fmt: skip
    unsure = np.flatnonzero(similarity != high)
    for part in _parts(len(unsure), _GATHERED):
        one = unsure[part]
        vectors, others = queries.vectors[query[one]], support.embeddings[row[one]]
        similarity[one] = compute_similarity(vectors, others, metric)
    return similarity


def _dot(x: Float32, y: Float32) -> Float64:
    """The inner products (r,) of the rows of `x` and `y`, in float64 and in an order that the row alone fixes."""
    products: Float64 = np.multiply(x, y, dtype=np.float64)
    sums: Float64 = np.add.reduce(products, axis=1)
    return sums


def _place(embeddings: Float32, metric: MetricName) -> Geometry:
    """The geometry that suits the support's `embeddings` (v, d)."""
    v, d = embeddings.shape
    if metric == "cosine" or not v:
        return Geometry(metric=metric, center=np.zeros(d), scale=1.0)
    total, low, high = np.zeros(d), np.full(d, np.inf), np.full(d, -np.inf)
    for part in _parts(v, _GATHERED):
        vectors = embeddings[part]
        total += vectors.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, vectors.min(axis=0)), np.maximum(high, vectors.max(axis=0))
    center = total / v
    # The largest spread of each component bounds every norm.
    spread = np.maximum(high - center, center - low)
    radius = float(np.sqrt((spread * spread).sum()))
    return Geometry(metric=metric, center=center, scale=1.0 if radius == 0 else float(2.0 ** -np.ceil(np.log2(radius))))


def _find_leaders(embeddings: Float32, positions: Int64) -> Int64:
    """For each of `positions` (r,) the place of the first one with the same embedding, bit for bit.

    Equal hashes bring equal rows together, which are then compared. Different rows with the same hash could only
    separate equal ones, and leave them to be searched twice.
    """
    r, d = len(positions), embeddings.shape[1]
    weights = np.bitwise_or(np.random.default_rng(0).integers(0, 2**64, d, dtype=np.uint64), np.uint64(1))
    hashes = np.empty(r, np.uint64)
    for part in _parts(r, _GATHERED):
        hashes[part] = hash_rows(np.ascontiguousarray(embeddings[positions[part]]).view(np.uint32), weights)
    order = np.argsort(hashes, kind="stable")
    is_new = np.ones(r, bool)
    maybe = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
    for part in _parts(len(maybe), _GATHERED):
        one, other = positions[order[maybe[part]]], positions[order[maybe[part] - 1]]
        same = embeddings[one].view(np.uint32) == embeddings[other].view(np.uint32)
        is_new[maybe[part]] = ~same.all(axis=1)
    leader = np.empty(r, np.int64)
    leader[order] = order[np.flatnonzero(is_new)[np.cumsum(is_new) - 1]]
    return leader


def _plan(lf_classes: Sequence[LFClass], places: tuple[int, ...], lf: int | None) -> Search:
    """A search for the LF classes at `places`, its tiles cut and whose members are in them."""
    sizes = [len(lf_classes[place].members) for place in places]
    members = np.concatenate([lf_classes[place].members for place in places])
    order = np.argsort(members, kind="stable")
    members = members[order]
    whose = np.repeat(np.arange(len(places)), sizes)[order]
    positions = np.concatenate([lf_classes[place].positions for place in places])[order]
    starts = np.flatnonzero(np.concatenate([[True], members[1:] != members[:-1]]))
    rows = members[starts]
    starts = np.append(starts, len(members))
    tiles, seen = [], np.zeros(len(places), np.int64)
    for part in _parts(len(rows), _TILE):
        bounds = starts[part.start : part.stop + 1]
        own = slice(bounds[0], bounds[-1])
        tiles.append(
            Tile(
                rows=rows[part],
                starts=bounds - bounds[0],
                lf_classes=whose[own],
                positions=positions[own],
                is_new=seen < _SEEN,
            )
        )
        seen += np.bincount(whose[own], minlength=len(places))
    return Search(lf_classes=places, tiles=tuple(tiles), lf=lf)


def _unite(members: Sequence[Int64]) -> Int64:
    """The distinct rows among `members`, ascending."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *members]))


def _take_rows(matrix: Float32, rows: Int64) -> Float32:
    """The rows of `matrix`, in place where they are consecutive."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return matrix[rows[0] : rows[-1] + 1]
    return matrix.take(rows, axis=0)


def _parts(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `count`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
