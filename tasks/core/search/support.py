"""The support of LFs, which are the items that lend votes, and the queries, which are the items that look for them.

Both have factors: vectors whose float32 products rank the support for a query.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tasks.core.mapped_rows import fetch_rows
from tasks.core.patterns import find_patterns
from tasks.core.search.kernels import hash_rows, measure_norms
from tasks.core.search.products import Multiplier, prepare
from tasks.core.slices import cut_slices
from tasks.core.types import Bool, Float32, Float64, Int64, MetricName, Votes

_UNIT = 2.0**-24
"""Unit roundoff of float32."""


@dataclass(frozen=True, kw_only=True)
class LFClass:
    """An LF, a class that it votes for, and the items on which it does. Neighbors are found per LF class."""

    lf: int
    label: int
    members: Int64
    """(s,) rows of the support, ascending."""
    positions: Int64
    """(s,) per member the smallest position among the items with this vector and this vote."""

    def take(self, slots: Int64 | Bool | slice) -> "LFClass":
        """The same with some members alone."""
        return replace(self, members=self.members[slots], positions=self.positions[slots])


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How vectors become factors, whose float32 products rank them."""

    metric: MetricName
    center: Float64
    """(d,) L2: subtracted from every vector, since rounding grows with the norms. Cosine: zeros."""
    scale: float
    """L2: a power of two (exact) that brings every centered support vector into the unit ball. Cosine: 1."""


@dataclass(frozen=True, kw_only=True)
class Support:
    """The items that lend votes: their distinct vectors, and which of them belong to which LF class."""

    geometry: Geometry
    vectors: Float32
    """(v, d) distinct vectors of the index; v is the number of rows."""
    items: Int64
    """(v,) the first item with each vector."""
    norms: Float64
    """(v,) lengths of the vectors."""
    factors: Float32
    """Cosine: the vectors. L2: (v, d + 1) centered, scaled vectors y, and -|y|^2 / 2."""
    lf_classes: tuple[LFClass, ...]
    """By LF, then class; classes for which an LF never votes have none."""
    multiplier: Multiplier
    """Of the factors."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Items that look for neighbors."""

    vectors: Float32
    """(q, d) the index's."""
    norms: Float64
    """(q,) their lengths."""
    factors: Float32
    """Cosine: the vectors. L2: (q, d + 1) centered, scaled vectors and a 1, both shrunk into the unit ball."""
    margin: Float32
    """(q,) a support vector whose product is further than this below the best cannot win, nor tie."""
    squares: Float64
    """(q,) L2: the squared lengths of centered, scaled vectors. Cosine: zeros."""
    shrink: Float64
    """(q,) L2: by what these vectors are multiplied. Cosine: ones."""


def _allocate(shape: tuple[int, int]) -> Float32:
    return np.empty(shape, np.float32)


def build_support(
    votes: Votes,
    positions: Int64,
    vectors: Float32,
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
    vectors
        (n, d) of all items, as an index has them: embeddings, for cosine brought to length one.
    metric
        "cosine" or "l2".
    cells
        (n,) of all items; where given, the support's rows are sorted by the cell of their first item.
    allocate
        Makes room for vectors and factors, such as a mapped file where they may not fit memory.
    """
    leader = _find_leaders(vectors, positions)
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
        votes_of_lf = np.ascontiguousarray(votes[:, lf])
        for label in np.unique(votes_of_lf[votes_of_lf >= 0]).tolist():
            voters = np.flatnonzero(votes_of_lf == label)
            members, where = np.unique(row[voters], return_index=True)
            lf_classes.append(LFClass(lf=lf, label=label, members=members, positions=positions[voters[where]]))
    items = positions[first]
    d = vectors.shape[1]
    lent, norms = allocate((len(items), d)), np.empty(len(items))
    for part in cut_slices(len(items)):
        lent[part] = fetch_rows(vectors, items[part])
        norms[part] = measure_norms(lent[part])
    geometry, factors = _find_geometry(lent, metric), lent
    if metric == "l2":
        factors = allocate((len(items), d + 1))
        for part in cut_slices(len(items)):
            placed = (lent[part] - geometry.center) * geometry.scale
            factors[part, :-1] = placed
            factors[part, -1] = -0.5 * (placed * placed).sum(axis=1)
    return Support(
        geometry=geometry,
        vectors=lent,
        items=items,
        norms=norms,
        factors=factors,
        lf_classes=tuple(lf_classes),
        multiplier=prepare(factors, allocate),
    )


def build_queries(geometry: Geometry, vectors: Float32) -> Queries:
    """Queries from the index's vectors (q, d).

    The margin is twice the error of a product, plus the gap that rounding a similarity to float32 can close.
    A product of vectors of d float32 numbers, summed in any order, errs by at most g * sum|x_i y_i| with g = d u / (1 - d u).
    Cosine: the sum is at most 1 (Cauchy-Schwarz, unit vectors). L2: a query z is divided by a power of two a >= |z|, so
    that the sum is at most 1 + 1/2; and d(z, y)^2 = |z|^2 - 2 (z.y - |y|^2 / 2), so that two distances which round to
    the same float32 differ by at most 2^-22 d^2 / (2 a) in the product, with d <= |z| + 1. Each bound is doubled or
    rounded up where that costs nothing.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    terms = vectors.shape[1] + 2
    growth = terms * _UNIT / (1 - terms * _UNIT)
    if geometry.metric == "cosine":
        factors = vectors
        squares, shrink = np.zeros(len(vectors)), np.ones(len(vectors))
        margin = np.full(len(vectors), 2 * 1.01 * growth + 12 * _UNIT)
    else:
        placed = (vectors - geometry.center) * geometry.scale
        squares = (placed * placed).sum(axis=1)
        norms = np.sqrt(squares)
        shrink = np.exp2(-np.ceil(np.log2(np.maximum(norms, 1.0))))
        factors = np.column_stack([placed * shrink[:, None], shrink]).astype(np.float32)
        margin = 2 * 1.52 * growth + 16 * _UNIT + 4 * _UNIT * shrink * (norms + 1) ** 2
    return Queries(
        vectors=vectors,
        norms=measure_norms(vectors),
        factors=factors,
        margin=margin.astype(np.float32),
        squares=squares,
        shrink=shrink,
    )


def bound_products(geometry: Geometry, queries: Queries, similarity: Float32) -> Float64:
    """The products (c, q) below which no support vector is as near as `similarity` (c, q); -infinity where that is NaN.

    A vector that is as near has a similarity that rounds to `similarity` or more. Its product is at least what follows from
    `similarity` by the formulas of `build_queries`, less what rounding closes and less the error of a product: together
    less than the margin.
    """
    if geometry.metric == "cosine":
        product = similarity.astype(np.float64)
    else:
        # No vector of the support is further away than |z| + 1.
        distance = np.minimum(-geometry.scale * similarity.astype(np.float64), np.sqrt(queries.squares) + 1)
        product = queries.shrink * (queries.squares - distance * distance) / 2
    product -= queries.margin
    product[np.isnan(product)] = -np.inf
    return product


def _find_geometry(vectors: Float32, metric: MetricName) -> Geometry:
    """The geometry that suits the support's `vectors` (v, d)."""
    v, d = vectors.shape
    if metric == "cosine" or not v:
        return Geometry(metric=metric, center=np.zeros(d), scale=1.0)
    total, low, high = np.zeros(d), np.full(d, np.inf), np.full(d, -np.inf)
    for part in cut_slices(v):
        some = vectors[part]
        total += some.sum(axis=0, dtype=np.float64)
        low, high = np.minimum(low, some.min(axis=0)), np.maximum(high, some.max(axis=0))
    center = total / v
    # The largest spread of each component bounds every norm.
    spread = np.maximum(high - center, center - low)
    radius = float(np.sqrt((spread * spread).sum()))
    return Geometry(metric=metric, center=center, scale=1.0 if radius == 0 else float(2.0 ** -np.ceil(np.log2(radius))))


def _find_leaders(vectors: Float32, positions: Int64) -> Int64:
    """For each of `positions` (r,) the index of the first position with the same vector, bit for bit.

    Equal hashes bring equal rows together, which are then compared. Different rows with the same hash could only
    separate equal rows, which are then searched twice.
    """
    r, d = len(positions), vectors.shape[1]
    weights = np.bitwise_or(np.random.default_rng(0).integers(0, 2**64, d, dtype=np.uint64), np.uint64(1))
    hashes = np.empty(r, np.uint64)
    for part in cut_slices(r):
        hashes[part] = hash_rows(np.ascontiguousarray(fetch_rows(vectors, positions[part])).view(np.uint32), weights)
    order = np.argsort(hashes, kind="stable")
    is_new = np.ones(r, bool)
    maybe = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
    for part in cut_slices(len(maybe)):
        here, before = positions[order[maybe[part]]], positions[order[maybe[part] - 1]]
        same = vectors[here].view(np.uint32) == vectors[before].view(np.uint32)
        is_new[maybe[part]] = ~same.all(axis=1)
    leader = np.empty(r, np.int64)
    leader[order] = order[np.flatnonzero(is_new)[np.cumsum(is_new) - 1]]
    return leader
