"""Nearest support items, exactly: per LF and class, for every item on which that LF abstains.

Similarity is float64 arithmetic on the float32 embeddings, rounded to float32 at the end:

- cosine: sum(x * y) / sqrt(sum(x * x) * sum(y * y)), clipped to [-1, 1];
- L2: minus sqrt(sum((x - y) ** 2)).

Products of two float32 numbers are exact in float64 and each sum is NumPy's pairwise sum over one row, so a value
depends on its two rows alone. The neighbor has the largest similarity, and among equals the smallest position.

Matrix products in float32 only propose: every vector whose product is within a proven error bound of the best one is
scored in float64. Batches, threads, BLAS and strategy therefore cannot change a result. Vectors that occur more than
once are searched once.

Most of the time should go to the products. In the first tile of support the best product of each LF and class is found
by reducing its members' rows. From then on it is known how good a product must be to matter, few are, and one
comparison of the whole tile finds them for all LFs at once.

Peak memory for v distinct support vectors of d dimensions, p pairs of an LF and a class with s members together: the
factors, 4 v d bytes (L2: 4 v (d + 1)), 16 s for members and twice that while a search is planned; and per thread 16 MiB
of products and 80 MiB of candidates. Embeddings, index and factors may be mapped files; only rows in use are touched.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.core.patterns import find_patterns

MetricName = Literal["cosine", "l2"]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Votes = npt.NDArray[np.int8]

QUERIES = 1024
"""Queries worth searching at a time: with a tile of support 16 MiB of products, which stay in the last-level cache."""

NOBODY = -1
"""The position of a neighbor that does not exist."""

_TILE = 4096
"""Support vectors per matrix product."""

_SEEN = 64
"""Members after which a pair's best product is good enough that later ones rarely reach it."""

_CHUNK = 16
"""Products behind one kept maximum: fewer means more maxima to compare, more means more products to look at again."""

_MAXIMUM_COST = 32
"""Multiply-adds in the time one LF takes to look at one product (measured at d = 384 on one core: .6 ns, .018 ns)."""

_PENDING = 1 << 20
"""Candidates collected before they are scored, 40 MiB: memory stays bounded whatever the number of ties."""

_SCORED = 256
"""Pairs of vectors scored at a time, so that their float64 rows (d = 384: 768 KiB) stay in the cache."""

_GATHERED = 4096
"""Rows hashed, compared or converted at a time when a support is built."""

_UNIT = 2.0**-24
"""Unit roundoff of float32."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An LF, a class in its support, and who votes so. Neighbors are found per pair."""

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
    """(n, d) of all items; may be a mapped file."""
    items: Int64
    """(v,) the first item with each distinct embedding; v is the number of rows."""
    squares: Float64
    """(v,) sums of squares of the distinct embeddings."""
    factors: Float32
    """Cosine: (v, d) unit vectors. L2: (v, d + 1) centered, scaled vectors y, and -|y|^2 / 2."""
    pairs: tuple[Pair, ...]
    """By LF, then class; classes for which an LF never votes have none."""


@dataclass(frozen=True, kw_only=True)
class Members:
    """The members of one pair in one tile."""

    pair: int
    """Place of the pair within the search."""
    places: Int64
    """Places in the tile's rows, ascending."""
    positions: Int64
    """Item positions, as in `Pair`."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Support vectors that are multiplied together, at most `_TILE`."""

    rows: Int64
    """Rows of the support, ascending."""
    new: tuple[Members, ...]
    """Of pairs of which few members were in earlier tiles; never empty."""
    known: tuple[Members, ...]
    """Of the other pairs: their best product so far says which of these matter; never empty."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One pass of queries over some of the support, which answers one pair or many."""

    pairs: tuple[int, ...]
    """Places in `Support.pairs`."""
    tiles: tuple[Tile, ...]
    lf: int | None
    """The LF whose abstaining items alone are queries; None: every item is one."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Items that look for neighbors."""

    vectors: Float32
    """(q, d) embeddings."""
    squares: Float64
    """(q,) their sums of squares."""
    factors: Float32
    """Cosine: (q, d) unit vectors. L2: (q, d + 1) centered, scaled vectors and a 1, both shrunk into the unit ball."""
    margin: Float32
    """(q,) a support vector whose product is further than this below the best one cannot win, nor tie."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Per pair of the support and query: the neighbor and how near it is."""

    similarity: Float32
    """(pairs, q) cosine in [-1, 1] or minus the distance; NaN where the LF votes on the query itself."""
    position: Int64
    """(pairs, q) position of the neighbor among all items; NOBODY where similarity is NaN."""


def compute_similarity(x: Float32, y: Float32, metric: MetricName) -> Float32:
    """The similarities (r,) of rows of `x` with the same rows of `y`, both (r, d): the definition at the top.

    >>> x, y = np.float32([[3, 4], [3, 4]]), np.float32([[6, 8], [4, -3]])
    >>> compute_similarity(x, y, "cosine").tolist(), compute_similarity(x, y, "l2").tolist()
    ([1.0, 0.0], [-5.0, -7.071067810058594])
    """
    if metric == "cosine":
        return _round_cosine(_dot(x, y), _dot(x, x), _dot(y, y))
    return _round_distance(x, y)


def _allocate(shape: tuple[int, int]) -> Float32:
    return np.empty(shape, np.float32)


def build_support(
    votes: Votes,
    positions: Int64,
    embeddings: Float32,
    proposals: Float32,
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
    proposals
        (n, d) the index's vectors of all items: unit vectors for cosine, the embeddings for L2.
    metric
        "cosine" or "l2".
    cells
        (n,) of all items; where given, the support's rows are sorted by the cell of their first item.
    allocate
        Makes room for the factors, such as a mapped file where they may not fit memory.
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
    pairs = []
    for lf in range(votes.shape[1]):
        own = np.ascontiguousarray(votes[:, lf])
        for label in np.unique(own[own >= 0]).tolist():
            voters = np.flatnonzero(own == label)
            members, where = np.unique(row[voters], return_index=True)
            pairs.append(Pair(lf=lf, label=label, members=members, positions=positions[voters[where]]))
    items = positions[first]
    geometry = _place(embeddings, items, metric)
    width = embeddings.shape[1] + (metric == "l2")
    factors, squares = np.asarray(allocate((len(items), width))), np.empty(len(items))
    for part in _parts(len(items), _GATHERED):
        vectors = embeddings[items[part]]
        squares[part] = _dot(vectors, vectors)
        if metric == "cosine":
            factors[part] = proposals[items[part]]
        else:
            placed = (vectors - geometry.center) * geometry.scale
            factors[part, :-1] = placed
            factors[part, -1] = -0.5 * (placed * placed).sum(axis=1)
    return Support(
        geometry=geometry, embeddings=embeddings, items=items, squares=squares, factors=factors, pairs=tuple(pairs)
    )


def build_queries(geometry: Geometry, vectors: Float32, proposals: Float32) -> Queries:
    """Queries from embeddings (q, d) and the index's vectors of the same items (q, d).

    The margin is twice the error of one product, plus the gap that rounding a similarity to float32 can close.
    A product of d float32 pairs, summed in any order, errs by at most g * sum|x_i y_i| with g = d u / (1 - d u).
    Cosine: the sum is at most 1 (Cauchy-Schwarz, unit vectors). L2: a query z is divided by a power of two a >= |z|, so
    that the sum is at most 1 + 1/2; and d(z, y)^2 = |z|^2 - 2 (z.y - |y|^2 / 2), so that two distances which round to
    the same float32 differ by at most 2^-22 d^2 / (2 a) in the product, with d <= |z| + 1. Each bound is doubled or
    rounded up where that costs nothing.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    terms = vectors.shape[1] + 2
    growth = terms * _UNIT / (1 - terms * _UNIT)
    if geometry.metric == "cosine":
        factors = proposals
        margin = np.full(len(vectors), 2 * 1.01 * growth + 12 * _UNIT)
    else:
        placed = (vectors - geometry.center) * geometry.scale
        norms = np.sqrt((placed * placed).sum(axis=1))
        shrink = np.exp2(-np.ceil(np.log2(np.maximum(norms, 1.0))))
        factors = np.column_stack([placed * shrink[:, None], shrink]).astype(np.float32)
        margin = 2 * 1.52 * growth + 16 * _UNIT + 4 * _UNIT * shrink * (norms + 1) ** 2
    return Queries(vectors=vectors, squares=_dot(vectors, vectors), factors=factors, margin=margin.astype(np.float32))


def plan_per_lf(pairs: Sequence[Pair]) -> tuple[Search, ...]:
    """One search for each LF, over its own support, by the items on which it abstains."""
    lfs = sorted({pair.lf for pair in pairs if len(pair.members)})
    return tuple(_plan(pairs, tuple(place for place, pair in enumerate(pairs) if pair.lf == lf), lf) for lf in lfs)


def plan_union(pairs: Sequence[Pair]) -> tuple[Search, ...]:
    """One search for all LFs, over the union of their supports, by every item."""
    places = tuple(place for place, pair in enumerate(pairs) if len(pair.members))
    return (_plan(pairs, places, None),) if places else ()


def plan_searches(pairs: Sequence[Pair], abstaining: Int64, n: int, width: int) -> tuple[Search, ...]:
    """The cheaper of `plan_per_lf` and `plan_union` by predicted multiply-adds; both give the same result.

    `pairs` are those of a support, or the same with fewer members, whose factors have `width` columns; `abstaining`
    (m,) counts the items on which each LF abstains, among `n`.
    """
    per_lf = sum(abstaining[pair.lf] * len(pair.members) * (width + _MAXIMUM_COST) for pair in pairs)
    rows = _unite([pair.members for pair in pairs])
    union = n * (len(rows) * width + sum(len(pair.members) for pair in pairs) * _MAXIMUM_COST)
    return plan_per_lf(pairs) if per_lf <= union else plan_union(pairs)


def find_neighbors(support: Support, searches: tuple[Search, ...], queries: Queries, abstains: Bools) -> Nearest:
    """The neighbors of some queries, at best about `QUERIES` at a time; `abstains` (q, m): which LF on which query."""
    q = len(queries.vectors)
    found = _Found(pairs=len(support.pairs), q=q)
    tallest = max((len(tile.rows) for search in searches for tile in search.tiles), default=0)
    scratch = np.empty(tallest * q, np.float32)
    for search in searches:
        asking = np.arange(q) if search.lf is None else np.flatnonzero(abstains[:, search.lf])
        if len(asking):
            _Run(support, search, queries, asking, abstains, found).go(scratch)
    nobody = found.position == _LAST
    return Nearest(
        similarity=np.where(nobody, np.float32(np.nan), found.similarity),
        position=np.where(nobody, NOBODY, found.position),
    )


_LAST = np.iinfo(np.int64).max
"""Larger than any position, so that any position is smaller."""


class _Found:
    """The best so far."""

    def __init__(self, *, pairs: int, q: int) -> None:
        self.similarity = np.full((pairs, q), -np.inf, np.float32)
        self.position = np.full((pairs, q), _LAST, np.int64)


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Those who may be the neighbor; arrays of one length."""

    cell: Int64
    """Pair within the search, times the number of queries that ask, plus the query within these."""
    row: Int64
    """Row of the support."""
    position: Int64
    score: Float32


class _Run:
    """One search of some queries, which improves what was found for them before."""

    def __init__(
        self, support: Support, search: Search, queries: Queries, asking: Int64, abstains: Bools, found: _Found
    ) -> None:
        self._support, self._search, self._queries, self._asking, self._found = support, search, queries, asking, found
        lfs = [support.pairs[pair].lf for pair in search.pairs]
        # Once per LF, then per pair: advanced indexing of both at once is slow.
        self._voted = ~abstains[asking].T[lfs]
        self._margin = queries.margin[asking]
        self._best = np.full((len(lfs), len(asking)), -np.inf, np.float32)
        self._pending: list[_Candidates] = []

    def go(self, scratch: Float32) -> None:
        """Search every tile; `scratch` has room for the products of the tallest."""
        q = len(self._asking)
        factors = self._queries.factors if q == len(self._queries.factors) else self._queries.factors[self._asking]
        for tile in self._search.tiles:
            scores = scratch[: len(tile.rows) * q].reshape(len(tile.rows), q)
            np.matmul(_take_rows(self._support.factors, tile.rows), factors.T, out=scores)
            for members in tile.new:
                self._reduce(scores, tile, members)
            if tile.known and not self._compare(scores, tile):
                for members in tile.known:
                    self._reduce(scores, tile, members)
        self._settle()

    def _find_floor(self, pairs: list[int]) -> Float32:
        """(pairs, q) the product that a candidate must reach; infinite where the LF votes itself."""
        floor: Float32 = self._best[pairs] - self._margin
        floor[self._voted[pairs]] = np.inf
        return floor

    def _reduce(self, scores: Float32, tile: Tile, members: Members) -> None:
        """Find the best product of one pair in a tile, then the candidates: chunks that reach it, and who in them."""
        q, places = len(self._asking), members.places
        s = len(places)
        is_block = places[-1] - places[0] == s - 1
        block = scores[places[0] : places[-1] + 1] if is_block else scores.take(places, axis=0)
        maxima = np.maximum.reduceat(block, np.arange(0, s, _CHUNK), axis=0) if s < _CHUNK else _reduce_chunks(block)
        np.maximum(self._best[members.pair], maxima.max(axis=0), out=self._best[members.pair])
        floor = self._find_floor([members.pair])[0]
        # One-dimensional indices throughout: NumPy finds and takes them several times faster than pairs.
        chunk, query = np.divmod(np.flatnonzero(maxima >= floor), q)
        for part in _parts(len(chunk), max(_PENDING // _CHUNK, 1)):
            slots = chunk[part, None] * _CHUNK + np.arange(_CHUNK)
            inside = block.reshape(-1).take(np.minimum(slots, s - 1) * q + query[part, None])
            hit = np.flatnonzero((inside >= floor[query[part], None]) & (slots < s))
            slot = slots.reshape(-1)[hit]
            self._collect(
                _Candidates(
                    cell=members.pair * q + query[part][hit // _CHUNK],
                    row=tile.rows[places[slot]],
                    position=members.positions[slot],
                    score=inside.reshape(-1)[hit],
                )
            )

    def _compare(self, scores: Float32, tile: Tile) -> bool:
        """Find the candidates of known pairs; False, and nothing done, where so many products matter that it is slow.

        One comparison with the lowest floor of any pair finds the products that may matter, row by row; each member is
        then compared on its row's products alone.
        """
        q = len(self._asking)
        floor = self._find_floor([members.pair for members in tile.known])
        hits = np.flatnonzero(scores >= floor.min(axis=0))
        starts = np.searchsorted(hits, np.arange(len(tile.rows) + 1) * q)
        counts = np.diff(starts)
        sizes = [len(members.places) for members in tile.known]
        place = np.concatenate([members.places for members in tile.known])
        each = counts[place]
        total = int(each.sum())
        if total > min(_PENDING, len(place) * q // 8):
            return False
        if not total:
            return True
        # For every member the hits of its row: `hit` walks through the segment of `hits` that is its row's.
        ends = np.cumsum(each)
        hit = np.repeat(starts[place] - (ends - each), each)
        hit += np.arange(total)
        index = hits[hit]
        # The hit's index is row * q + query; the floor's is pair * q + query.
        cell = index + np.repeat(np.repeat(np.arange(len(sizes)), sizes) * q - place * q, each)
        score = scores.reshape(-1)[index]
        kept = np.flatnonzero(score >= floor.reshape(-1)[cell])
        slot = np.searchsorted(ends, kept, side="right")
        pairs = np.array([members.pair for members in tile.known])
        pair, query = np.divmod(cell[kept], q)
        cell = pairs[pair] * q + query
        score = score[kept]
        np.maximum.at(self._best.reshape(-1), cell, score)
        positions = np.concatenate([members.positions for members in tile.known])
        self._collect(_Candidates(cell=cell, row=tile.rows[place[slot]], position=positions[slot], score=score))
        return True

    def _collect(self, candidates: _Candidates) -> None:
        self._pending.append(candidates)
        if sum(len(one.cell) for one in self._pending) >= _PENDING:
            self._settle()

    def _settle(self) -> None:
        """Score the pending candidates that still reach the floor and keep the best."""
        if not self._pending:
            return
        cell, row, position, score = (
            np.concatenate([getattr(one, name) for one in self._pending])
            for name in ("cell", "row", "position", "score")
        )
        self._pending = []
        kept = score >= (self._best - self._margin).reshape(-1)[cell]
        cell, row, position = cell[kept], row[kept], position[kept]
        pair, query = np.divmod(cell, len(self._asking))
        query = self._asking[query]
        similarity = _score(self._support, self._queries, query, row)
        found = np.asarray(self._search.pairs)[pair] * len(self._queries.vectors) + query
        before = self._found.similarity.copy()
        after, positions = self._found.similarity.reshape(-1), self._found.position.reshape(-1)
        np.maximum.at(after, found, similarity)
        positions[after > before.reshape(-1)] = _LAST
        wins = similarity == after[found]
        np.minimum.at(positions, found[wins], position[wins])


def _reduce_chunks(block: Float32) -> Float32:
    """The maximum (chunks, q) of each `_CHUNK` rows of `block` (s, q), s >= _CHUNK; the last chunk may be smaller."""
    s = len(block)
    whole = s // _CHUNK
    maxima: Float32 = np.maximum.reduce(block[: whole * _CHUNK].reshape(whole, _CHUNK, -1), axis=1)
    if s % _CHUNK:
        maxima = np.concatenate([maxima, block[whole * _CHUNK :].max(axis=0)[None]])
    return maxima


def _score(support: Support, queries: Queries, query: Int64, row: Int64) -> Float32:
    """The exact similarities of queries and support vectors, pair by pair.

    BLAS sums in an order of its own, so its float64 product is used only where every number within the errors of both
    sums rounds to the same float32; the few others are summed as the definition says.
    """
    if not len(query):
        return np.empty(0, np.float32)
    # One number per pair and its place below it: sorting plain integers is several times faster than sorting indices.
    shift = len(query).bit_length()
    packed = np.sort((query * len(support.items) + row) << shift | np.arange(len(query)))
    key, place = packed >> shift, packed & ((1 << shift) - 1)
    is_first = np.concatenate([[True], key[1:] != key[:-1]])
    query, row = np.divmod(key[is_first], len(support.items))
    similarity = _score_sorted(support, queries, query, row)
    back = np.empty(len(key), np.float32)
    back[place] = similarity[np.cumsum(is_first) - 1]
    return back


def _score_sorted(support: Support, queries: Queries, query: Int64, row: Int64) -> Float32:
    """As `_score`, for distinct pairs whose queries ascend."""
    squares, other_squares = queries.squares[query], support.squares[row]
    items = support.items[row]
    if len(query) >= 4 * len(np.unique(query)):
        vectors, dots = queries.vectors.astype(np.float64), np.empty(len(query))
        for part in _parts(len(query), _SCORED):
            wide = support.embeddings.take(items[part], axis=0).astype(np.float64)
            own = query[part]
            cuts = [0, *(np.flatnonzero(own[1:] != own[:-1]) + 1).tolist(), len(own)]
            found = dots[part]
            for a, b in pairwise(cuts):
                np.dot(wide[a:b], vectors[own[a]], out=found[a:b])
        bounds = _bound(dots, squares, other_squares, vectors.shape[1], support.geometry.metric)
        similarity = bounds.low
        unsure = np.flatnonzero(bounds.low != bounds.high)
    else:  # products of so few rows are no faster than the definition
        similarity = np.empty(len(query), np.float32)
        unsure = np.arange(len(query))
    for part in _parts(len(unsure), _SCORED):
        one = unsure[part]
        x, y = queries.vectors[query[one]], support.embeddings.take(items[one], axis=0)
        if support.geometry.metric == "cosine":
            similarity[one] = _round_cosine(_dot(x, y), squares[one], other_squares[one])
        else:
            similarity[one] = _round_distance(x, y)
    return similarity


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Numbers between which similarities are, float32."""

    low: Float32
    high: Float32


def _bound(dots: Float64, squares: Float64, other_squares: Float64, d: int, metric: MetricName) -> _Bounds:
    """Between which numbers the similarity is that the definition gives, from inner products summed in any order.

    Each sum of d terms errs by at most g = d u / (1 - d u) of the sum of their absolute values, which is at most
    |x| |y| (and (|x|^2 + |y|^2) / 2); both sums err, and a few operations follow: 2 (d + 8) u, doubled.
    """
    error = 4 * (d + 8) * 2.0**-53
    if metric == "cosine":
        cosine = dots / np.sqrt(squares * other_squares)
        low, high = np.clip(cosine - error, -1, 1), np.clip(cosine + error, -1, 1)
        return _Bounds(low=low.astype(np.float32), high=high.astype(np.float32))
    total = squares + other_squares
    square = total - 2 * dots
    near = np.sqrt(np.maximum(square - error * total, 0)) * (1 - error)
    far = np.sqrt(np.maximum(square + error * total, 0)) * (1 + error)
    largest = np.finfo(np.float32).max
    low, high = 0.0 - np.minimum(far, largest), 0.0 - np.minimum(near, largest)
    return _Bounds(low=low.astype(np.float32), high=high.astype(np.float32))


def _dot(x: Float32, y: Float32) -> Float64:
    """The inner products (r,) of the rows of `x` and `y`, in float64 and in an order that the row alone fixes."""
    products: Float64 = np.multiply(x, y, dtype=np.float64)
    sums: Float64 = np.add.reduce(products, axis=1)
    return sums


def _round_cosine(dots: Float64, squares: Float64, other_squares: Float64) -> Float32:
    """Cosines as float32."""
    return np.clip(dots / np.sqrt(squares * other_squares), -1, 1).astype(np.float32)


def _round_distance(x: Float32, y: Float32) -> Float32:
    """Minus the distances (r,) of rows as float32; 0, never -0, for equal rows."""
    difference = np.subtract(x, y, dtype=np.float64)
    distance = np.sqrt(np.add.reduce(difference * difference, axis=1))
    near: Float64 = 0.0 - np.minimum(distance, np.finfo(np.float32).max)
    return near.astype(np.float32)


def _place(embeddings: Float32, items: Int64, metric: MetricName) -> Geometry:
    """The geometry that suits the support vectors of `items` (v,)."""
    d = embeddings.shape[1]
    if metric == "cosine" or not len(items):
        return Geometry(metric=metric, center=np.zeros(d), scale=1.0)
    total, low, high = np.zeros(d), np.full(d, np.inf), np.full(d, -np.inf)
    for part in _parts(len(items), _GATHERED):
        vectors = embeddings[items[part]]
        total += vectors.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, vectors.min(axis=0)), np.maximum(high, vectors.max(axis=0))
    center = total / len(items)
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
    weights = np.random.default_rng(0).integers(0, 2**64, d, dtype=np.uint64, endpoint=False) | np.uint64(1)
    hashes = np.empty(r, np.uint64)
    for part in _parts(r, _GATHERED):
        words = np.ascontiguousarray(embeddings[positions[part]]).view(np.uint32)
        hashes[part] = (words.astype(np.uint64) * weights).sum(axis=1)
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


def _plan(pairs: Sequence[Pair], places: tuple[int, ...], lf: int | None) -> Search:
    """A search for the pairs at `places`, its tiles cut and each pair's members found in them."""
    rows = _unite([pairs[place].members for place in places])
    cuts = [*range(0, len(rows), _TILE), len(rows)]
    tiles = []
    seen = dict.fromkeys(range(len(places)), 0)
    for a, b in pairwise(cuts):
        new: list[Members] = []
        known: list[Members] = []
        for pair, place in enumerate(places):
            members = _cut(pairs[place], pair, rows[a:b])
            if len(members.places):
                (new if seen[pair] < _SEEN else known).append(members)
                seen[pair] += len(members.places)
        tiles.append(Tile(rows=rows[a:b], new=tuple(new), known=tuple(known)))
    return Search(pairs=places, tiles=tuple(tiles), lf=lf)


def _cut(pair: Pair, place: int, rows: Int64) -> Members:
    """The members of `pair` among `rows`."""
    a, b = np.searchsorted(pair.members, [rows[0], rows[-1] + 1])
    return Members(pair=place, places=np.searchsorted(rows, pair.members[a:b]), positions=pair.positions[a:b])


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
