"""The search of nearest neighbors for every LF: from the cache as far as it has them, else exactly or approximately.

An exact search looks for what may be nearer only, where the LF, the items or the embeddings changed, and anew where a
neighbor is gone (see tasks/core/search/incremental.py); what it gives is what a search of everything gives. An
approximate index is another one when an embedding changes, since its cells are learned from all of them: then everything
is searched again, and when an LF is edited, that LF.

In an approximate index, the number of candidates that each LF looks at is chosen on a sample of items that are searched
exactly as well, and the recall is measured on another sample.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cache.code import identify_code
from tasks.cache.row_keys import Keys, hash_vectors
from tasks.cache.store import Cache, Part
from tasks.core.search.exact import NOBODY, QUERIES
from tasks.core.search.faiss_index import FlatIndex
from tasks.core.search.incremental import ReusedNeighbors, mark_support, reuse_neighbors
from tasks.core.search.ivf import Cells, choose_min_candidates, join_cells, locate_members, measure_need
from tasks.core.search.support import LFClass, Support, build_support
from tasks.core.types import ABSTAIN, Bool, Int64, Votes
from tasks.neighbors.cache import CACHE_KIND, CurrentRun, NeighborCache
from tasks.neighbors.columns import NeighborColumns
from tasks.neighbors.passes import (
    Pass,
    cut_into_blocks,
    plan_exact_pass,
    plan_exact_task,
    plan_nearby_pass,
    search_pass,
)
from tasks.neighbors.recall import Recall, describe_recall, require_recall
from tasks.neighbors.table import NeighborTable
from tasks.params import SearchParams
from tasks.progress import Progress
from tasks.tables.index_file import IndexDescription
from tasks.tables.scratch import open_scratch

SAMPLE = 2048
"""Items on which the candidates are chosen, and again on which recall is measured; .99 is then known to about .002 per
LF."""


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """What neighbors are searched among; rows are those of items."""

    ids: pl.Series
    lfs: tuple[str, ...]
    L: Votes
    """(n, m)"""
    lends: Bool
    """(n,) whether the item is a reference."""
    description: IndexDescription
    index: FlatIndex
    cells: Cells | None
    """None in a flat index."""
    scratch: Path
    """The folder of mapped files without a name."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The neighbors of every LF, and how they were found."""

    columns: dict[str, NeighborColumns]
    """By LF, in the order of votes."""
    searched: tuple[str, ...]
    """The LFs of which the cache did not have all."""
    compared: int
    """Pairs of an item and a support vector whose product was computed."""
    changes: str | None
    """How the items differ from those that the cache has; None where they are the same, or nothing is known."""
    recall: Recall


@dataclass(frozen=True, kw_only=True)
class _Searched:
    """The neighbors of some LFs, and the number of products that it took to find them."""

    columns: list[NeighborColumns]
    compared: int


def search_items(root: Path, inputs: SearchInputs, params: SearchParams) -> SearchResult:
    """The neighbors of every LF: from the cache below `root` as far as it has them, else searched, and kept there.

    Raises
    ------
    DataError
        The recall of approximate search is below `params.target_recall`.
    """
    with Cache(root, CACHE_KIND) as entries:
        cache = NeighborCache(entries, _describe_run(inputs, params))
        known = [cache.recall(inputs.L[:, lf]) for lf in range(len(inputs.lfs))]
        missing = [lf for lf, columns in enumerate(known) if columns is None]
        searched = _Searched(columns=[], compared=0)
        if missing:
            L = inputs.L if len(missing) == len(known) else np.asfortranarray(inputs.L[:, missing])
            if inputs.cells is None:
                names = [inputs.lfs[lf] for lf in missing]
                searched = _search_exactly(inputs, L, _reuse(inputs, L, names, cache))
                cache.keep_rows()
            else:
                searched = _search_approximately(inputs, inputs.cells, L, params)
        for lf, found in zip(missing, searched.columns, strict=True):
            known[lf] = found
            cache.keep(inputs.lfs[lf], inputs.L[:, lf], found)
        columns = {name: found for name, found in zip(inputs.lfs, known, strict=True) if found is not None}
        recall = describe_recall(inputs.description.kind, columns, params.target_recall)
        require_recall(recall)
        return SearchResult(
            columns=columns,
            searched=tuple(inputs.lfs[lf] for lf in missing),
            compared=searched.compared,
            changes=cache.describe_changes(),
            recall=recall,
        )


def _describe_run(inputs: SearchInputs, params: SearchParams) -> CurrentRun:
    """What determines the neighbors of an LF, beside its votes."""
    approximate: Part = None
    if inputs.cells is not None:
        approximate = [inputs.description.cells_sha256, params.target_recall, SAMPLE]
    return CurrentRun(
        base=[identify_code("tasks.neighbors.run"), inputs.index.metric, inputs.cells is None],
        content=[inputs.description.content, approximate],
        lends=inputs.lends,
        hash_rows=lambda: _hash_rows(inputs),
    )


def _hash_rows(inputs: SearchInputs) -> Keys:
    keys = np.empty((len(inputs.ids), 3), np.uint64)
    starts = range(0, len(keys), QUERIES)
    with Progress("comparing items with earlier ones", total=len(starts)) as progress:
        for start in progress.follow(starts):
            part = slice(start, start + QUERIES)
            keys[part] = hash_vectors(inputs.ids[part], inputs.index.vectors[part])
    return keys


def _build_support(inputs: SearchInputs, votes: Votes) -> Support:
    """The support of LFs that are lent `votes` (n, m)."""
    reference = np.flatnonzero((votes != ABSTAIN).any(axis=1))
    return build_support(
        np.ascontiguousarray(votes[reference]),
        reference,
        inputs.index.vectors,
        metric=inputs.index.metric,
        cells=None if inputs.cells is None else inputs.cells.of_item,
        allocate=lambda shape: np.asarray(open_scratch(inputs.scratch, shape)),
    )


def _search_pass(inputs: SearchInputs, work: Pass, table: NeighborTable, rows: Int64) -> int:
    return search_pass(work, inputs.index.vectors, table, rows)


# Exactly.


def _reuse(inputs: SearchInputs, L: Votes, names: Sequence[str], cache: NeighborCache) -> Iterator[ReusedNeighbors]:
    """What is known of LFs with the votes `L` (n, m) and these `names`, one after the other."""
    for lf, name in enumerate(names):
        support = mark_support(L[:, lf], inputs.lends)
        labels = tuple(np.unique(support[support >= 0]).tolist())
        previous = cache.recall_previous(name)
        if previous is None:
            yield reuse_neighbors(None, None, support, labels)
        else:
            yield reuse_neighbors(previous.entry.as_previous(), previous.row, support, labels)


def _search_exactly(inputs: SearchInputs, L: Votes, known: Iterable[ReusedNeighbors]) -> _Searched:
    """The neighbors of LFs with the votes `L` (n, m), of which some are `known`."""
    lent = np.where(inputs.lends[:, None], L, np.int8(ABSTAIN))
    labels = [np.unique(votes[votes >= 0]).tolist() for votes in lent.T]
    keys = [(lf, label) for lf, of_lf in enumerate(labels) for label in of_lf]
    table = NeighborTable(keys, len(L), inputs.scratch)
    is_open, is_added = np.empty(L.shape, bool), np.empty(L.shape, bool)
    for lf, reused in enumerate(known):
        is_open[:, lf], is_added[:, lf] = reused.is_open, reused.is_added
        table.put(lf, reused)
    # Items of which nothing is known ask the whole support, and the others what was added to it.
    compared = _search_lent(inputs, is_open, lent, table, improves=False)
    lent[~is_added] = ABSTAIN
    compared += _search_lent(inputs, (L == ABSTAIN) & ~is_open, lent, table, improves=True)
    return _Searched(columns=[table.take(lf, None, 0, 0) for lf in range(L.shape[1])], compared=compared)


def _search_lent(inputs: SearchInputs, asking: Bool, votes: Votes, table: NeighborTable, *, improves: bool) -> int:
    """The number of products computed while items that ask (n, m) search those that lend `votes` (n, m) exactly.

    `improves`: the items' neighbors among all others are in `table` already.
    """
    lfs = np.flatnonzero(asking.any(axis=0) & (votes != ABSTAIN).any(axis=0))
    if not len(lfs):
        return 0
    support = _build_support(inputs, votes[:, lfs])
    rows = table.index_rows([(int(lfs[lf_class.lf]), lf_class.label) for lf_class in support.lf_classes])
    title = "searching what is new" if improves else "searching"
    work = plan_exact_pass(support, support.lf_classes, asking[:, lfs], title, improves=improves)
    return _search_pass(inputs, work, table, rows)


# Approximately.


def _search_approximately(inputs: SearchInputs, cells: Cells, L: Votes, params: SearchParams) -> _Searched:
    """The neighbors of LFs with the votes `L` (n, m) in an approximate index."""
    n, m = L.shape
    support = _build_support(inputs, np.where(inputs.lends[:, None], L, np.int8(ABSTAIN)))
    asking = L == ABSTAIN
    keys = [(lf_class.lf, lf_class.label) for lf_class in support.lf_classes]
    table = NeighborTable(keys, n, inputs.scratch)
    rows = table.index_rows(keys)
    shuffled = np.random.default_rng(0).permutation(n)
    tuning = np.sort(shuffled[:SAMPLE])
    # Of few items the second sample is all of them, since no other would be left.
    checking = np.sort(shuffled[SAMPLE : 2 * SAMPLE] if n >= 2 * SAMPLE else shuffled)
    sampled = np.union1d(tuning, checking)
    exact = NeighborTable(keys, n, inputs.scratch, of=sampled)
    task = plan_exact_task(support, support.lf_classes, asking, n)
    title = "searching a sample exactly"
    sample = Pass(task=task, asking=asking, blocks=cut_into_blocks(sampled), total=len(sampled), title=title)
    compared = _search_pass(inputs, sample, exact, rows)
    joined = join_cells(cells, QUERIES)
    nearest = exact.position[:, np.searchsorted(sampled, tuning)]
    need = measure_need(locate_members(support, cells), cells, joined, tuning, nearest)
    min_candidates = [_choose_min_candidates(support, lf, need, params) for lf in range(m)]
    compared += _search_pass(inputs, plan_nearby_pass(cells, joined, support, min_candidates, asking), table, rows)
    rest = [
        lf_class if min_candidates[lf_class.lf] is None else _without_members(lf_class)
        for lf_class in support.lf_classes
    ]
    if any(len(lf_class.members) for lf_class in rest):
        compared += _search_pass(inputs, plan_exact_pass(support, rest, asking, "searching exactly"), table, rows)
    columns = np.searchsorted(sampled, checking)
    checked = exact.position[:, columns] != NOBODY
    right = checked & (table.similarity[:, checking] == exact.similarity[:, columns])
    found = []
    for lf in range(m):
        of_lf = table.find_rows(lf)
        found.append(table.take(lf, min_candidates[lf], int(checked[of_lf].sum()), int(right[of_lf].sum())))
    return _Searched(columns=found, compared=compared)


def _choose_min_candidates(support: Support, lf: int, need: Int64, params: SearchParams) -> int | None:
    """The least number of members that items look at for an LF, from the `need` (LF classes, q) of sampled items.

    None where exact search is hardly more work: beyond half of the members, gathering them costs more than it saves.
    """
    rows = [row for row, lf_class in enumerate(support.lf_classes) if lf_class.lf == lf]
    least = choose_min_candidates(need[rows], params.target_recall)
    sizes = [len(support.lf_classes[row].members) for row in rows]
    return None if 2 * sum(min(least, size) for size in sizes) > sum(sizes) else least


def _without_members(lf_class: LFClass) -> LFClass:
    return LFClass(lf=lf_class.lf, label=lf_class.label, members=lf_class.members[:0], positions=lf_class.positions[:0])
