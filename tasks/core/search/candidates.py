"""Exact search where something else multiplies, such as a GPU: it proposes a few neighbors, which are scored here.

The result is that of tasks/core/search/exact.py, bit for bit. What proposes gives, per item and pair of an LF and a class,
the largest float32 products, in any order of summation; every support vector whose product is within the proven error
bound of the best one is scored in float64. Where more of them might be so than were proposed (many nearly equal
vectors), the item is searched by tasks/core/search/exact.py.

Memory of the device: 4 bytes for each of the members of all pairs and each of d (L2: d + 1) dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

import numpy as np

from tasks.core.search.exact import (
    NOBODY,
    Nearest,
    Pair,
    Queries,
    Support,
    compute_similarity,
    find_neighbors,
    plan_per_lf,
)
from tasks.core.types import Bool, Float32, Int64

PROPOSED = 32
"""Proposals per item and pair: mostly one or two are within the bound, and faiss is fastest with few."""


class FlatIndex(Protocol):
    """Vectors among which the largest inner products are found; a faiss index is one."""

    def search(self, x: Float32, k: int) -> tuple[Float32, Int64]:
        """For each row of `x` (q, d) the `k` largest products, descending, and whose they are; both (q, k)."""


BuildIndex = Callable[[Float32], FlatIndex]
"""An index of the vectors (s, d)."""


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """The members with the largest products."""

    score: Float32
    """(q, k) descending."""
    member: Int64
    """(q, k) places in the pair's members."""


class Proposals:
    """Indexes of the members of `pairs`, each made when it is first asked; callers take turns."""

    def __init__(self, support: Support, pairs: Sequence[Pair], build: BuildIndex) -> None:
        self.support, self.pairs = support, pairs
        self._build, self._lock = build, Lock()
        self._indexes: dict[int, FlatIndex] = {}

    def find(self, place: int, factors: Float32) -> Proposed:
        """What is proposed for queries with these `factors`, of the pair at `place`, which has members."""
        members = self.pairs[place].members
        with self._lock:  # faiss may use the resources of a GPU from one thread at a time
            if place not in self._indexes:
                self._indexes[place] = self._build(self.support.factors[members])
            score, member = self._indexes[place].search(np.ascontiguousarray(factors), min(PROPOSED, len(members)))
        return Proposed(score=score, member=member)


def find_proposed_neighbors(proposals: Proposals, queries: Queries, asking: Bool) -> Nearest:
    """The neighbors of `queries`, as `find_neighbors` gives them; `asking` (q, m): which LF for which of them."""
    support, q = proposals.support, len(queries.vectors)
    similarity = np.full((len(support.pairs), q), np.nan, np.float32)
    position = np.full((len(support.pairs), q), NOBODY, np.int64)
    for place, pair in enumerate(proposals.pairs):
        own = np.flatnonzero(asking[:, pair.lf])
        if not len(own) or not len(pair.members):
            continue
        found = proposals.find(place, queries.factors[own])
        matters = found.score >= found.score[:, :1] - queries.margin[own, None]
        is_cut = matters[:, -1] & (found.score.shape[1] < len(pair.members))
        # Of what is proposed for an item: how near in float64, and whose vote it is.
        query, rank = np.nonzero(matters & ~is_cut[:, None])
        member = found.member[query, rank]
        lenders = support.embeddings[pair.members[member]]
        exact = compute_similarity(queries.vectors[own[query]], lenders, support.geometry.metric)
        best = np.full(len(own), -np.inf, np.float32)
        np.maximum.at(best, query, exact)
        first = np.full(len(own), np.iinfo(np.int64).max)
        wins = exact == best[query]
        np.minimum.at(first, query[wins], pair.positions[member[wins]])
        similarity[place, own], position[place, own] = best, first
        if is_cut.any():
            rest = own[is_cut]
            again = _search_one(proposals, place, queries, rest, asking)
            similarity[place, rest], position[place, rest] = again.similarity[place], again.position[place]
    return Nearest(similarity=similarity, position=position)


def _search_one(proposals: Proposals, place: int, queries: Queries, rows: Int64, asking: Bool) -> Nearest:
    """The neighbors of the queries at `rows` for one pair, without proposals."""
    pairs = [
        pair if at == place else replace(pair, members=pair.members[:0], positions=pair.positions[:0])
        for at, pair in enumerate(proposals.pairs)
    ]
    part = Queries(
        vectors=queries.vectors[rows],
        norms=queries.norms[rows],
        factors=queries.factors[rows],
        margin=queries.margin[rows],
    )
    return find_neighbors(proposals.support, plan_per_lf(pairs), part, asking[rows])
