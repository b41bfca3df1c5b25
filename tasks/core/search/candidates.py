"""Exact search where something else multiplies, such as a GPU: it gives a few candidates, which are scored here.

The result is that of tasks/core/search/exact.py, bit for bit. The candidates of an item and an LF class are the members
with the largest float32 products, in any order of summation; each whose product is within the proven error bound of the
best product is scored in float64. Where more members than the candidates might be so near (many nearly equal vectors),
tasks/core/search/exact.py searches for the item.

Memory of the device: 4 bytes for each of the members of all LF classes and each of d (L2: d + 1) dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol

import numpy as np

from tasks.core.search.exact import NOBODY, Nearest, compute_similarity, find_neighbors
from tasks.core.search.plan import plan_per_lf
from tasks.core.search.support import LFClass, Queries, Support
from tasks.core.types import Bool, Float32, Int64

CANDIDATES = 32
"""Candidates per item and LF class: mostly one or two are within the bound, and faiss is fastest with few of them."""


class ProductIndex(Protocol):
    """Vectors among which the largest inner products are found, such as a faiss index."""

    def search(self, x: Float32, k: int) -> tuple[Float32, Int64]:
        """For each row of `x` (q, d) the `k` largest products, descending, and whose they are; both (q, k)."""


BuildIndex = Callable[[Float32], ProductIndex]
"""An index of the vectors (s, d)."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The members with the largest products."""

    score: Float32
    """(q, k) descending."""
    member: Int64
    """(q, k) positions among the LF class's members."""


class CandidateIndexes:
    """Indexes of the members of `lf_classes`, each made when it is first asked; callers take turns."""

    def __init__(self, support: Support, lf_classes: Sequence[LFClass], build: BuildIndex) -> None:
        self.support, self.lf_classes = support, lf_classes
        self._build, self._lock = build, Lock()
        self._indexes: dict[int, ProductIndex] = {}

    def find(self, row: int, factors: Float32) -> Candidates:
        """The candidates of queries with these `factors`, for the LF class in this `row`, which has members."""
        members = self.lf_classes[row].members
        with self._lock:  # faiss may use the resources of a GPU from one thread at a time
            if row not in self._indexes:
                self._indexes[row] = self._build(self.support.factors[members])
            score, member = self._indexes[row].search(np.ascontiguousarray(factors), min(CANDIDATES, len(members)))
        return Candidates(score=score, member=member)


def find_neighbors_among_candidates(indexes: CandidateIndexes, queries: Queries, asking: Bool) -> Nearest:
    """The neighbors of `queries`, as `find_neighbors` gives them; `asking` (q, m): which LF for which of them."""
    support, q = indexes.support, len(queries.vectors)
    similarity = np.full((len(support.lf_classes), q), np.nan, np.float32)
    position = np.full((len(support.lf_classes), q), NOBODY, np.int64)
    for row, lf_class in enumerate(indexes.lf_classes):
        asked = np.flatnonzero(asking[:, lf_class.lf])
        if not len(asked) or not len(lf_class.members):
            continue
        found = indexes.find(row, queries.factors[asked])
        matters = found.score >= found.score[:, :1] - queries.margin[asked, None]
        is_cut = matters[:, -1] & (found.score.shape[1] < len(lf_class.members))
        # Of the candidates of an item: how near in float64, and whose vote it is.
        query, rank = np.nonzero(matters & ~is_cut[:, None])
        member = found.member[query, rank]
        lenders = support.embeddings[lf_class.members[member]]
        exact = compute_similarity(queries.vectors[asked[query]], lenders, support.geometry.metric)
        best = np.full(len(asked), -np.inf, np.float32)
        np.maximum.at(best, query, exact)
        first = np.full(len(asked), np.iinfo(np.int64).max)
        wins = exact == best[query]
        np.minimum.at(first, query[wins], lf_class.positions[member[wins]])
        similarity[row, asked], position[row, asked] = best, first
        if is_cut.any():
            rest = asked[is_cut]
            again = _search_one(indexes, row, queries, rest, asking)
            similarity[row, rest], position[row, rest] = again.similarity[row], again.position[row]
    return Nearest(similarity=similarity, position=position)


def _search_one(indexes: CandidateIndexes, row: int, queries: Queries, rows: Int64, asking: Bool) -> Nearest:
    """The neighbors of the queries at `rows` for the LF class in this `row`, without candidates."""
    lf_classes = [
        lf_class if other == row else replace(lf_class, members=lf_class.members[:0], positions=lf_class.positions[:0])
        for other, lf_class in enumerate(indexes.lf_classes)
    ]
    part = Queries(
        vectors=queries.vectors[rows],
        norms=queries.norms[rows],
        factors=queries.factors[rows],
        margin=queries.margin[rows],
    )
    return find_neighbors(indexes.support, plan_per_lf(lf_classes), part, asking[rows])
