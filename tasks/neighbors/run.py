"""The search of nearest neighbors for every LF: from the cache as far as it has them, else exactly or approximately.

Where the LF, the items or the embeddings changed, a search looks for what may be nearer only, and anew where a neighbor is
gone (see tasks/core/search/incremental.py); what it gives is what a search of everything gives. An approximate index whose
centers are not kept (`ingest.centers`) is another one when an embedding changes, since they are learned from all of them: then
everything is searched again.

In an approximate index, the number of cells that each LF looks in is chosen on a sample of items that are searched exactly as
well, and the recall is measured on another sample. A hash chooses the samples, so that what is new hardly changes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.cache.code import identify_code
from tasks.cache.row_keys import Keys, hash_vectors
from tasks.cache.store import Cache, Part
from tasks.core.mapped_rows import fetch_rows
from tasks.core.search.blocks import EarlierLook
from tasks.core.search.exact import QUERIES
from tasks.core.search.ivf import Cells, choose_effort, find_lost, locate_members, measure_need
from tasks.core.search.support import LFClass, Support
from tasks.core.types import ABSTAIN, NOBODY, Bool, Float32, Int32, Int64, Votes
from tasks.neighbors.cache import CACHE_KIND, CurrentRun, NeighborCache
from tasks.neighbors.columns import NeighborColumns
from tasks.neighbors.exactly import Searched, Space, reuse, search_exactly
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

SAMPLE = 2048
"""Items on which efforts are chosen, and again on which recall is measured; .99 is then known to about .002 per
LF."""

_EVERYWHERE = np.iinfo(np.int64).max
"""The effort of who looked in all cells."""


@dataclass(frozen=True, kw_only=True)
class SearchInputs:
    """What neighbors are searched among; rows are those of items."""

    ids: pl.Series
    lfs: tuple[str, ...]
    L: Votes
    """(n, m)"""
    description: IndexDescription
    space: Space


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
        searched = Searched(columns=[], compared=0)
        if missing:
            L = inputs.L if len(missing) == len(known) else np.asfortranarray(inputs.L[:, missing])
            names = [inputs.lfs[lf] for lf in missing]
            if inputs.space.cells is None:
                searched = search_exactly(inputs.space, L, names, cache)
            else:
                searched = _search_approximately(inputs, inputs.space.cells, L, names, cache, params)
            cache.keep_rows()
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
    centers: Part = None
    approximate: Part = None
    if inputs.space.cells is not None:
        centers = inputs.description.centers_sha256
        approximate = [inputs.description.cells_sha256, params.target_recall, SAMPLE]
    return CurrentRun(
        # An item's cell follows from its vector and the centers.
        base=[identify_code("tasks.neighbors.run"), inputs.space.metric, centers],
        content=[inputs.description.content, approximate],
        lends=inputs.space.lends,
        hash_rows=lambda: _hash_rows(inputs),
    )


def _hash_rows(inputs: SearchInputs) -> Keys:
    keys = np.empty((len(inputs.ids), 3), np.uint64)
    starts = range(0, len(keys), QUERIES)
    with Progress("comparing items with earlier ones", total=len(starts)) as progress:
        for start in progress.follow(starts):
            part = slice(start, start + QUERIES)
            keys[part] = hash_vectors(inputs.ids[part], fetch_rows(inputs.space.vectors, part))
    return keys


def _search_approximately(
    inputs: SearchInputs, cells: Cells, L: Votes, names: Sequence[str], cache: NeighborCache, params: SearchParams
) -> Searched:
    """The neighbors of LFs with the votes `L` (n, m) in an approximate index, of which the cache knows some."""
    asking = L == ABSTAIN
    support = inputs.space.build_support(np.where(inputs.space.lends[:, None], L, np.int8(ABSTAIN)))
    keys = [(lf_class.lf, lf_class.label) for lf_class in support.lf_classes]
    sample = _search_sample(inputs, support, asking, cache.keys)
    occupied = locate_members(support, support.lf_classes, cells).counts > 0
    need = measure_need(occupied, cells, sample.tuning, sample.position[:, np.isin(sample.items, sample.tuning)])
    efforts = [_choose_effort(support, lf, need, occupied, params) for lf in range(len(names))]
    effort = np.array([efforts[lf] or 0 for lf, _ in keys], np.int64)

    table = NeighborTable(keys, len(L), inputs.space.scratch, of=cells.order)
    known = _reuse_nearby(inputs, cells, L, names, cache, table, occupied, efforts)
    compared = _search_nearby(inputs, cells, support, support.lf_classes, effort, known.is_open, table)
    added = [lf_class.take(known.is_added[lf_class.positions, lf_class.lf]) for lf_class in support.lf_classes]
    earlier = EarlierLook(
        occupied=known.occupied, effort=known.effort, added=added, located=locate_members(support, added, cells)
    )
    compared += _search_nearby(inputs, cells, support, added, effort, asking & ~known.is_open, table, earlier)

    table.sort()
    columns = np.isin(sample.items, sample.checking)
    checked = sample.position[:, columns] != NOBODY
    right = checked & (table.similarity[:, sample.checking] == sample.similarity[:, columns])
    found = []
    for lf, chosen in enumerate(efforts):
        rows = table.find_rows(lf)
        found.append(table.take(lf, occupied, chosen, int(checked[rows].sum()), int(right[rows].sum())))
    return Searched(columns=found, compared=sample.compared + compared)


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Items that were searched exactly."""

    items: Int64
    """(s,) their positions, ascending."""
    tuning: Int64
    """Those of them on which efforts are chosen, ascending."""
    checking: Int64
    """Those of them on which recall is measured, ascending."""
    similarity: Float32
    """(LF classes, s)"""
    position: Int32
    """(LF classes, s)"""
    compared: int


def _search_sample(inputs: SearchInputs, support: Support, asking: Bool, keys: Keys) -> _Sample:
    """The neighbors in `support` of a sample of the items that ask (n, m)."""
    tuning, checking = _choose_samples(keys)
    items = np.union1d(tuning, checking)
    lf_classes = [(lf_class.lf, lf_class.label) for lf_class in support.lf_classes]
    table = NeighborTable(lf_classes, len(asking), inputs.space.scratch, of=items)
    task = plan_exact_task(support, support.lf_classes, asking, len(asking))
    title = "searching a sample exactly"
    work = Pass(task=task, asking=asking, blocks=cut_into_blocks(items), total=len(items), title=title)
    compared = search_pass(work, inputs.space.vectors, table, table.index_rows(lf_classes))
    return _Sample(
        items=items,
        tuning=tuning,
        checking=checking,
        similarity=table.similarity,
        position=table.position,
        compared=compared,
    )


def _choose_samples(keys: Keys) -> tuple[Int64, Int64]:
    """Positions of the items on which efforts are chosen, and of those on which recall is measured, both ascending."""
    # By a hash of the row's content: most items are in the sample of another day if they are in this one's.
    shuffled = np.argsort(keys[:, 1], kind="stable")
    tuning = np.sort(shuffled[:SAMPLE])
    # Of few items the second sample is all of them, since no other would be left.
    checking = np.sort(shuffled[SAMPLE : 2 * SAMPLE] if len(keys) >= 2 * SAMPLE else shuffled)
    return tuning, checking


@dataclass(frozen=True, kw_only=True)
class _KnownNearby:
    """What earlier searches tell about this one."""

    is_open: Bool
    """(n, m) the items to be searched wherever they look."""
    is_added: Bool
    """(n, m) the members that the support has gained."""
    occupied: Bool
    """(LF classes, cells) where members were, of which others know."""
    effort: Int64
    """(LF classes,) in how many of these cells the others have looked; 0 where nothing is known."""


def _reuse_nearby(
    inputs: SearchInputs,
    cells: Cells,
    L: Votes,
    names: Sequence[str],
    cache: NeighborCache,
    table: NeighborTable,
    occupied: Bool,
    efforts: Sequence[int | None],
) -> _KnownNearby:
    """What the cache knows of LFs with the votes `L` (n, m) is put into `table`, as far as it is where items look now.

    `table` has its columns in the order of cells; `occupied` (rows of `table`, cells) and `efforts` (m,) are those of this search.
    """
    is_open, is_added = np.empty(L.shape, bool), np.empty(L.shape, bool)
    before, effort_before = np.zeros_like(occupied), np.zeros(len(occupied), np.int64)
    moved, lf_of_row = [], np.empty(len(occupied), np.int64)
    for lf, (name, effort) in enumerate(zip(names, efforts, strict=True)):
        reused, earlier = reuse(inputs.space, L[:, lf], name, cache, effort)
        is_open[:, lf], is_added[:, lf] = reused.is_open, reused.is_added
        table.put(lf, reused)
        rows = table.find_rows(lf)
        lf_of_row[rows] = lf
        for row, label in zip(range(rows.start, rows.stop), reused.labels, strict=True):
            if earlier is not None and label in earlier.labels:
                before[row] = earlier.occupied[earlier.labels.index(label)]
                effort_before[row] = _EVERYWHERE if earlier.effort is None else earlier.effort
                if effort is not None and (effort != earlier.effort or (occupied[row] != before[row]).any()):
                    moved.append(row)
    look = np.array([efforts[lf] or 0 for lf in lf_of_row[moved]], np.int64)
    for items, is_lost in find_lost(occupied[moved], look, cells, [table.position[row] for row in moved]):
        for row, lost in zip(moved, is_lost, strict=True):
            is_open[items[lost], lf_of_row[row]] = True
    for lf in range(len(names)):
        table.forget(lf, is_open[:, lf])
    return _KnownNearby(is_open=is_open, is_added=is_added, occupied=before, effort=effort_before)


def _search_nearby(
    inputs: SearchInputs,
    cells: Cells,
    support: Support,
    lf_classes: Sequence[LFClass],
    effort: Int64,
    asking: Bool,
    table: NeighborTable,
    earlier: EarlierLook | None = None,
) -> int:
    """The number of products computed while items that ask (n, m) look nearby, or at all of `lf_classes` where `effort` is 0.

    `table` has the LF classes of `support` in their order; `earlier` is as in `NearbyPlan`.
    """
    lfs = np.array([lf_class.lf for lf_class in support.lf_classes], np.int64)
    rows, compared = np.arange(len(lfs)), 0
    nearby = asking & np.isin(np.arange(asking.shape[1]), lfs[effort > 0])
    if nearby.any():
        title = "searching approximately" if earlier is None else "searching what is new nearby"
        work = plan_nearby_pass(cells, support, effort, nearby, title, earlier)
        compared += search_pass(work, inputs.space.vectors, table, rows)
    rest = [
        lf_class.take(slice(0)) if near else lf_class for lf_class, near in zip(lf_classes, effort > 0, strict=True)
    ]
    everywhere = asking & np.isin(
        np.arange(asking.shape[1]), [lf_class.lf for lf_class in rest if len(lf_class.members)]
    )
    if everywhere.any():
        title = "searching exactly" if earlier is None else "searching what is new"
        work = plan_exact_pass(support, rest, everywhere, title, improves=earlier is not None)
        compared += search_pass(work, inputs.space.vectors, table, rows)
    return compared


def _choose_effort(support: Support, lf: int, need: Int64, occupied: Bool, params: SearchParams) -> int | None:
    """In how many cells items look for an LF, from the `need` (LF classes, q) of sampled items and `occupied` (LF classes, cells).

    None where exact search is hardly more work: beyond half of the members, gathering them costs more than it saves.
    """
    rows = [row for row, lf_class in enumerate(support.lf_classes) if lf_class.lf == lf]
    effort = choose_effort(need[rows], params.target_recall)
    sizes = np.array([len(support.lf_classes[row].members) for row in rows])
    shares = np.minimum(effort / occupied[rows].sum(axis=1), 1.0)
    return None if 2 * (sizes * shares).sum() > sizes.sum() else effort
