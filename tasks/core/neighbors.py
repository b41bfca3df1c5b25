"""Nearest support items, exactly: per LF and class, for every item on which that LF abstains.

Similarity is float64 arithmetic on the float32 embeddings, rounded to float32 at the end:

- cosine: sum(x * y) / sqrt(sum(x * x) * sum(y * y)), clipped to [-1, 1];
- L2: minus sqrt(sum((x - y) ** 2)).

Products of two float32 numbers are exact in float64 and each sum is NumPy's pairwise sum over one row, so a value
depends on its two rows alone. The neighbor has the largest similarity, and among equals the smallest position.

Matrix products in float32 only propose: every vector whose product is within a proven error bound of the best one is
scored in float64. Batches, threads, BLAS and strategy therefore cannot change a result. Vectors that occur more than
once are searched once.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

MetricName = Literal["cosine", "l2"]
Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Votes = npt.NDArray[np.int8]

QUERIES = 1024
"""Queries worth searching at a time: with a tile of support 8 MiB of scores, which stay in the last-level cache."""

NOBODY = -1
"""The position of a neighbor that does not exist."""

_TILE = 4096
"""Support vectors per matrix product."""

_CHUNK = 8
"""Scores behind one kept maximum: fewer means more maxima to compare, more means more scores to look at again."""

_MAXIMUM_COST = 32
"""Multiply-adds in the time of one gathered maximum (measured at d = 384 on one core: 0.3 ns against 0.009 ns)."""

_PENDING = 1 << 20
"""Candidates collected before they are scored, 32 MiB: memory stays bounded whatever the number of ties."""

_SCORED = 512
"""Pairs of vectors scored at a time, so that their float64 products (d = 384: 1.5 MiB) stay in the cache."""

_UNIT = 2.0**-24
"""Unit roundoff of float32."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An LF, a class in its support, and who votes so. Neighbors are found per pair."""

    lf: int
    label: int
    members: Int64
    """(s,) rows of `Support.vectors`, ascending."""
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
    vectors: Float32
    """(v, d) distinct embeddings."""
    squares: Float64
    """(v,) their sums of squares."""
    factors: Float32
    """Cosine: (v, d) unit vectors. L2: (v, d + 1) centered, scaled vectors y, and -|y|^2 / 2."""
    pairs: tuple[Pair, ...]
    """By LF, then class; classes for which an LF never votes have none."""


@dataclass(frozen=True, kw_only=True)
class Members:
    """The members of one pair in one tile, in chunks of `_CHUNK`; the last chunk repeats its last member."""

    places: Int64
    """(chunks, _CHUNK) places in the tile's rows."""
    positions: Int64
    """(chunks, _CHUNK) item positions, as in `Pair`."""
    block: slice | None
    """The places, where they are consecutive: their scores need not be gathered."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Support vectors that are multiplied together, at most `_TILE`."""

    rows: Int64
    """Rows of `Support.vectors`, ascending."""
    members: tuple[Members, ...]
    """One for each pair of the search."""


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


def build_support(
    votes: Votes, positions: Int64, vectors: Float32, proposals: Float32, *, metric: MetricName
) -> Support:
    """The support of every LF among r reference items.

    Parameters
    ----------
    votes
        (r, m) the items' votes, at least one each.
    positions
        (r,) their positions among all items, ascending.
    vectors
        (r, d) their embeddings.
    proposals
        (r, d) the index's vectors of the same items: unit vectors for cosine, the embeddings for L2.
    metric
        "cosine" or "l2".
    """
    r, d = vectors.shape
    rows = np.ascontiguousarray(vectors).view(np.dtype((np.void, 4 * d))).reshape(r)
    _, first, row = np.unique(rows, return_index=True, return_inverse=True)
    distinct = vectors[first]
    geometry = _place(distinct, metric)
    pairs = []
    for lf in range(votes.shape[1]):
        for label in np.unique(votes[votes[:, lf] >= 0, lf]).tolist():
            voters = np.flatnonzero(votes[:, lf] == label)
            members, where = np.unique(row[voters], return_index=True)
            pairs.append(Pair(lf=lf, label=label, members=members, positions=positions[voters[where]]))
    if metric == "cosine":
        factors = proposals[first]
    else:
        placed = (distinct - geometry.center) * geometry.scale
        factors = np.column_stack([placed, -0.5 * (placed * placed).sum(axis=1)]).astype(np.float32)
    return Support(
        geometry=geometry,
        vectors=distinct,
        squares=_dot(distinct, distinct),
        factors=factors,
        pairs=tuple(pairs),
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


def plan_per_lf(support: Support) -> tuple[Search, ...]:
    """One search for each LF, over its own support, by the items on which it abstains."""
    lfs = sorted({pair.lf for pair in support.pairs})
    return tuple(
        _plan(support, tuple(place for place, pair in enumerate(support.pairs) if pair.lf == lf), lf) for lf in lfs
    )


def plan_union(support: Support) -> tuple[Search, ...]:
    """One search for all LFs, over the union of their supports, by every item."""
    return (_plan(support, tuple(range(len(support.pairs))), None),) if support.pairs else ()


def plan_searches(support: Support, abstaining: Int64, n: int) -> tuple[Search, ...]:
    """The cheaper of `plan_per_lf` and `plan_union` by predicted multiply-adds; both give the same result.

    `abstaining` (m,) counts the items on which each LF abstains, among `n`.
    """
    width = support.factors.shape[1]
    per_lf = sum(abstaining[pair.lf] * len(pair.members) * (width + _MAXIMUM_COST) for pair in support.pairs)
    union = n * (len(support.vectors) * width + sum(len(pair.members) for pair in support.pairs) * _MAXIMUM_COST)
    return plan_per_lf(support) if per_lf <= union else plan_union(support)


def find_neighbors(support: Support, searches: tuple[Search, ...], queries: Queries, abstains: Bools) -> Nearest:
    """The neighbors of some queries, at best about `QUERIES` at a time; `abstains` (q, m): which LF on which query."""
    q = len(queries.vectors)
    found = _Found(pairs=len(support.pairs), q=q)
    scratch = np.empty(_TILE * q, np.float32)
    for search in searches:
        if search.lf is None:
            _run(support, search, queries, np.arange(q), abstains, found, scratch)
        else:
            asking = np.flatnonzero(abstains[:, search.lf])
            if len(asking):
                _run(support, search, queries, asking, abstains, found, scratch)
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

    place: Int64
    """Pair within the search."""
    query: Int64
    """Query within those that ask."""
    row: Int64
    """Row of `Support.vectors`."""
    position: Int64
    score: Float32


def _run(
    support: Support, search: Search, queries: Queries, asking: Int64, abstains: Bools, found: _Found, scratch: Float32
) -> None:
    """Improve `found` by one search of the queries `asking`; `scratch` has room for the scores of a tile."""
    factors = queries.factors[asking] if len(asking) < len(queries.factors) else queries.factors
    margin = queries.margin[asking]
    best = np.full((len(search.pairs), len(asking)), -np.inf, np.float32)
    voted = [~abstains[asking, support.pairs[pair].lf] for pair in search.pairs]
    pending: list[_Candidates] = []
    count = 0
    for tile in search.tiles:
        scores = scratch[: len(tile.rows) * len(asking)].reshape(len(tile.rows), len(asking))
        np.matmul(support.factors[tile.rows], factors.T, out=scores)
        for place, members in enumerate(tile.members):
            if not len(members.places):
                continue
            maxima = _reduce(scores, members)
            np.maximum(best[place], maxima.max(axis=0), out=best[place])
            floor = best[place] - margin
            floor[voted[place]] = np.inf
            candidates = _propose(scores, maxima, floor, members, tile.rows, place)
            pending.append(candidates)
            count += len(candidates.query)
            if count >= _PENDING:
                _settle(support, search, queries, asking, best - margin, pending, found)
                pending, count = [], 0
    _settle(support, search, queries, asking, best - margin, pending, found)


def _reduce(scores: Float32, members: Members) -> Float32:
    """The maximum (chunks, q) in each chunk of members of the scores (tile, q)."""
    block = scores.take(members.places.ravel(), axis=0) if members.block is None else scores[members.block]
    maxima: Float32 = np.maximum.reduce(block.reshape(len(members.places), _CHUNK, -1), axis=1)
    return maxima


def _propose(
    scores: Float32, maxima: Float32, floor: Float32, members: Members, rows: Int64, place: int
) -> _Candidates:
    """Members whose score reaches the floor (q,) of their query: first the chunks with such members, then these."""
    # One-dimensional indices throughout: NumPy finds and takes them several times faster than pairs.
    chunk, query = np.divmod(np.flatnonzero(maxima >= floor), len(floor))
    inside = scores.reshape(-1).take(members.places[chunk] * len(floor) + query[:, None])
    hit = np.flatnonzero(inside >= floor[query][:, None])
    where = hit // _CHUNK
    slot = chunk[where] * _CHUNK + hit % _CHUNK
    return _Candidates(
        place=np.full(len(hit), place),
        query=query[where],
        row=rows[members.places.reshape(-1)[slot]],
        position=members.positions.reshape(-1)[slot],
        score=inside.reshape(-1)[hit],
    )


def _settle(
    support: Support,
    search: Search,
    queries: Queries,
    asking: Int64,
    floor: Float32,
    pending: list[_Candidates],
    found: _Found,
) -> None:
    """Score the candidates that still reach `floor` (pairs of the search, q) and keep the best."""
    if not pending:
        return
    place, query, row, position, score = (
        np.concatenate([getattr(candidates, name) for candidates in pending])
        for name in ("place", "query", "row", "position", "score")
    )
    if len(search.tiles) > 1:
        kept = score >= floor[place, query]
        place, query, row, position = place[kept], query[kept], row[kept], position[kept]
    query = asking[query]
    similarity = _score(support, queries, query, row, shared=search.lf is None)
    cell = np.asarray(search.pairs)[place] * len(queries.vectors) + query
    before = found.similarity.copy()
    after, positions = found.similarity.reshape(-1), found.position.reshape(-1)
    np.maximum.at(after, cell, similarity)
    positions[after > before.reshape(-1)] = _LAST
    wins = similarity == after[cell]
    np.minimum.at(positions, cell[wins], position[wins])


def _score(support: Support, queries: Queries, query: Int64, row: Int64, *, shared: bool) -> Float32:
    """The exact similarities of queries and support vectors, pair by pair; `shared`: many pairs occur repeatedly."""
    if shared:
        distinct, back = np.unique(query * len(support.vectors) + row, return_inverse=True)
        query, row = np.divmod(distinct, len(support.vectors))
    similarity = np.empty(len(query), np.float32)
    for start in range(0, len(query), _SCORED):
        part = slice(start, start + _SCORED)
        x, y = queries.vectors[query[part]], support.vectors[row[part]]
        if support.geometry.metric == "cosine":
            similarity[part] = _round_cosine(_dot(x, y), queries.squares[query[part]], support.squares[row[part]])
        else:
            similarity[part] = _round_distance(x, y)
    return similarity[back] if shared else similarity


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


def _place(vectors: Float32, metric: MetricName) -> Geometry:
    """The geometry that suits these support vectors (v, d)."""
    if metric == "cosine" or not len(vectors):
        return Geometry(metric=metric, center=np.zeros(vectors.shape[1]), scale=1.0)
    center = vectors.mean(axis=0, dtype=np.float64)
    # Twice the largest component spread times sqrt(d) bounds every norm without a float64 copy of all vectors.
    spread = np.maximum(vectors.max(axis=0) - center, center - vectors.min(axis=0))
    radius = float(np.sqrt((spread * spread).sum()))
    return Geometry(metric=metric, center=center, scale=1.0 if radius == 0 else float(2.0 ** -np.ceil(np.log2(radius))))


def _plan(support: Support, pairs: tuple[int, ...], lf: int | None) -> Search:
    """A search for `pairs`, its tiles cut and each pair's members found in them."""
    rows = np.unique(np.concatenate([support.pairs[pair].members for pair in pairs]))
    cuts = [*range(0, len(rows), _TILE), len(rows)]
    tiles = tuple(
        Tile(rows=rows[a:b], members=tuple(_cut(support.pairs[pair], rows[a:b]) for pair in pairs))
        for a, b in pairwise(cuts)
    )
    return Search(pairs=pairs, tiles=tiles, lf=lf)


def _cut(pair: Pair, rows: Int64) -> Members:
    """The members of `pair` among `rows`."""
    a, b = np.searchsorted(pair.members, [rows[0], rows[-1] + 1])
    padding = (0, -(b - a) % _CHUNK)
    places, positions = np.searchsorted(rows, pair.members[a:b]), pair.positions[a:b]
    consecutive = b > a and padding == (0, 0) and places[-1] - places[0] == b - a - 1
    block = slice(places[0], places[-1] + 1) if consecutive else None
    if b > a:
        places, positions = np.pad(places, padding, mode="edge"), np.pad(positions, padding, mode="edge")
    return Members(places=places.reshape(-1, _CHUNK), positions=positions.reshape(-1, _CHUNK), block=block)
