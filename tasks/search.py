"""The search stage: for every item and LF that abstains on it, the nearest item of each class in that LF's support.

What was found for an LF is kept in the cache. When the LF, the items or the embeddings change, an exact search looks for
what may be nearer only, and anew where a neighbor is gone (see tasks/core/search/incremental.py); the bytes written are
those of a full run. An approximate index is another one when an embedding changes, since its cells are learned from all
of them: then everything is searched again, and when an LF is edited, that LF.

With an approximate index, the effort of each LF is chosen on a sample of items that are searched exactly as well, and
the recall measured afterwards on another sample; a run whose recall is below the target fails.

Peak memory for n items of d dimensions, m LFs, p LF classes, and v distinct vectors in
the support: 8 n p bytes for neighbors, 8 n m for votes and who asks, 24 n (200 n for a moment) to compare items with
those of another day, and per thread 100 MiB. The index, a copy of the embeddings (4 n d bytes each) and the support
(8 v d) are mapped files, which the system drops from memory when it is needed elsewhere.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict
from threadpoolctl import ThreadpoolController

from tasks.cache.code import identify_code
from tasks.cache.row_keys import Keys, hash_vectors
from tasks.cache.store import Cache, Part
from tasks.compute.cluster import open_cluster
from tasks.compute.device import search_block
from tasks.core.search.blocks import FoundInBlock, NearbyPlan, QueryBlock, SamePlan, SearchTask, detach
from tasks.core.search.exact import NOBODY, QUERIES, LFClass, Nearest, Support, build_support, plan_searches
from tasks.core.search.faiss_index import FlatIndex, read_index
from tasks.core.search.incremental import ReusedNeighbors, mark_support, reuse_neighbors
from tasks.core.search.ivf import (
    Cells,
    choose_min_candidates,
    group_items,
    iterate_queries,
    join_cells,
    locate_members,
    measure_need,
)
from tasks.core.types import ABSTAIN, ITEM_ID, Bool
from tasks.errors import DataError
from tasks.neighbors.cache import CACHE_KIND, CurrentRun, NeighborCache
from tasks.neighbors.columns import NeighborColumns
from tasks.params import SearchParams
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.index_file import ContentHash, IndexDescription, hash_file, read_description, read_width
from tasks.tables.label_matrix import to_matrix
from tasks.tables.parquet import ROW_GROUP, read_batches, read_table, read_votes, write_batches
from tasks.tables.paths import CELLS, EMBEDDINGS, INDEX, INDEX_DESCRIPTION, ITEMS, NEIGHBORS, RECALL, VOTES
from tasks.tables.schemas import neighbor_column, similarity_column
from tasks.tables.scratch import expect_scattered_reads, open_scratch
from tasks.tables.validation import require_same_items

SAMPLE = 2048
"""Items on which effort is chosen, and again on which recall is measured; .99 is then known to about .002 per LF."""


class LFRecall(BaseModel):
    """How approximate search did for one LF."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recall: float | None
    """The share of checked neighbors that are as near as those of exact search; null where none was checked."""
    checked_neighbors: int
    effort: int | None
    """How many members of each class's support an item looks at before it stops with the cell at hand; null: at all."""


class Recall(BaseModel):
    """recall.json: what approximate search missed, measured on sampled items that were searched exactly as well.

    A flat index is exact: there is nothing to measure, and target and recall are null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["flat", "ivf"]
    target_recall: float | None
    recall: float | None
    checked_neighbors: int
    lfs: dict[str, LFRecall]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the stage reads; rows are those of items."""

    ids: pl.Series
    lfs: tuple[str, ...]
    L: npt.NDArray[np.int8]
    """(n, m) votes."""
    lends: npt.NDArray[np.bool_]
    """(n,) whether the item is a reference."""
    description: IndexDescription
    index: FlatIndex
    embeddings: npt.NDArray[np.float32]
    """(n, d) a mapped file."""
    cells: Cells | None
    """None in a flat index."""
    scratch: Path
    """The folder of mapped files without a name."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the stage found."""

    columns: dict[str, NeighborColumns]
    """By LF, in the order of votes."""
    searched: tuple[str, ...]
    """The LFs of which the cache did not have all."""
    compared: int
    """Pairs of an item and a support vector whose product was computed."""
    changes: str | None
    """What became of the items since those that the cache has; None where they are the same, or nothing is known."""
    recall: Recall


def run(root: Path, classes: tuple[str, ...], params: SearchParams) -> None:
    """Write the neighbors of every item below `root`, and the recall.

    Raises
    ------
    DataError
        As for `search_items`, or the recall of approximate search is below `params.target_recall`.
    """
    inputs = read_inputs(root, len(classes), params)
    found = search_items(root, inputs, params)
    if found.changes:
        print(f"search: items since they were last searched: {found.changes}", file=sys.stderr)
    print(
        f"search: {len(found.searched)} of {len(inputs.lfs)} LFs searched, {found.compared:,} pairs of vectors compared; "
        "the rest is known",
        file=sys.stderr,
    )
    write_found(root, inputs, found)


def write_found(root: Path, inputs: Inputs, found: Found) -> None:
    """Write the table of neighbors, and the recall."""
    columns = [ITEM_ID]
    for lf, one in found.columns.items():
        for label in one.labels:
            columns += [neighbor_column(lf, label), similarity_column(lf, label)]
    starts = range(0, max(len(inputs.ids), 1), ROW_GROUP)
    with Progress("writing neighbors", total=len(starts)) as progress:
        tables = (_to_table(inputs.ids, found, start, columns) for start in progress.follow(starts))
        write_batches(root / NEIGHBORS, tables, schemas.neighbors(columns, inputs.ids.dtype))
    write_json(root / RECALL, found.recall.model_dump(mode="json"))


def read_inputs(root: Path, k: int, params: SearchParams) -> Inputs:
    """Items, votes of `k` classes, embeddings and index below `root`, rows joined by id.

    Raises
    ------
    DataError
        A table or the index is missing or damaged, they are not about the same items, or the index is out of date.
    """
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    votes = read_votes(root / VOTES, k)
    require_same_items(root / ITEMS, items, root / VOTES, votes)
    lfs = tuple(name for name in votes.columns if name != ITEM_ID)
    description = read_description(root)
    index = _open_index(root, description)
    return Inputs(
        ids=items[ITEM_ID],
        lfs=lfs,
        L=to_matrix(votes),
        lends=items["split"].is_in([str(split) for split in params.reference]).to_numpy(),
        description=description,
        index=index,
        embeddings=_read_embeddings(root, items, index, description),
        cells=_read_cells(root, items, index, description),
        scratch=(root / NEIGHBORS).parent,
    )


def search_items(root: Path, inputs: Inputs, params: SearchParams) -> Found:
    """The neighbors of every LF: from the cache below `root` as far as it has them, else searched, and kept there.

    Raises
    ------
    DataError
        The recall of approximate search is below `params.target_recall`.
    """
    with Cache(root, CACHE_KIND) as kept:
        memory = NeighborCache(kept, _describe_today(inputs, params))
        known = [memory.recall(inputs.L[:, lf]) for lf in range(len(inputs.lfs))]
        missing = [lf for lf, columns in enumerate(known) if columns is None]
        searched = _Searched(columns=[], compared=0)
        if missing:
            L = np.asfortranarray(inputs.L[:, missing])
            if inputs.cells is None:
                names = [inputs.lfs[lf] for lf in missing]
                searched = _search_exactly(inputs, L, _reuse_neighbors(inputs, L, names, memory))
                memory.keep_rows()
            else:
                searched = _search(inputs, inputs.cells, L, params)
        for lf, found in zip(missing, searched.columns, strict=True):
            known[lf] = found
            memory.keep(inputs.lfs[lf], inputs.L[:, lf], found)
        columns = {name: one for name, one in zip(inputs.lfs, known, strict=True) if one is not None}
        recall = _describe_recall(inputs.description, columns, params)
        _require_recall(recall)
        return Found(
            columns=columns,
            searched=tuple(inputs.lfs[lf] for lf in missing),
            compared=searched.compared,
            changes=memory.describe_changes(),
            recall=recall,
        )


# Reading.


def _open_index(root: Path, description: IndexDescription) -> FlatIndex:
    """The index, checked against its description and the embeddings' shape."""
    path = root / INDEX
    if hash_file(path) != description.sha256:
        raise DataError(
            f"{path} is not the file that {INDEX_DESCRIPTION} describes; it is damaged or from another run. "
            f"Run 'dvc checkout {INDEX}' or 'dvc repro -f index'."
        )
    try:
        index = read_index(path)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}. Run 'dvc repro -f index'.") from None
    found = (index.metric, *index.vectors.shape)
    if found != (description.metric.value, description.n, description.d):
        raise DataError(
            f"{path}: got metric, items, dimensions {found}, expected "
            f"{(description.metric.value, description.n, description.d)} as {INDEX_DESCRIPTION} says. "
            "Run 'dvc repro -f index'."
        )
    if read_width(root / EMBEDDINGS) != description.d:
        raise _stale(root, description, f"{read_width(root / EMBEDDINGS)} dimensions")
    expect_scattered_reads(index.vectors)
    return index


def _read_embeddings(
    root: Path, items: pl.DataFrame, index: FlatIndex, description: IndexDescription
) -> npt.NDArray[np.float32]:
    """The embeddings (n, d), mapped, read in one pass that also proves the index fresh.

    For L2 the index itself holds them; for cosine they are copied to a scratch file.
    """
    path = root / EMBEDDINGS
    content = ContentHash()
    is_copied = index.metric == "cosine" and items.height > 0
    shape = (items.height, description.d)
    embeddings = np.asarray(open_scratch((root / NEIGHBORS).parent, shape)) if is_copied else index.vectors
    expect_scattered_reads(embeddings)
    ids = []
    start = 0
    with Progress("reading embeddings", total=items.height) as progress:
        for batch in read_batches(path, schemas.embeddings(description.d)):
            vectors = batch["embedding"].to_numpy().reshape(batch.height, description.d)
            content.update(batch[ITEM_ID], vectors)
            ids.append(batch[ITEM_ID])
            if is_copied and start + batch.height <= items.height:
                embeddings[start : start + batch.height] = vectors
            start += batch.height
            progress.advance(batch.height)
    require_same_items(root / ITEMS, items, path, pl.concat(ids).to_frame())
    if content.hexdigest() != description.content:
        raise _stale(root, description, "other contents")
    return embeddings


def _read_cells(root: Path, items: pl.DataFrame, index: FlatIndex, description: IndexDescription) -> Cells | None:
    """The cells of an approximate index."""
    if description.kind == "flat":
        return None
    path = root / CELLS
    if hash_file(path) != description.cells_sha256:
        raise DataError(
            f"{path} is not the file that {INDEX_DESCRIPTION} describes. "
            f"Run 'dvc checkout {CELLS}' or 'dvc repro -f index'."
        )
    table = read_table(path, schemas.CELLS)
    require_same_items(root / ITEMS, items, path, table)
    return group_items(table["cell"].to_numpy().astype(np.int64), index.vectors, index.metric)


def _stale(root: Path, description: IndexDescription, got: str) -> DataError:
    return DataError(
        f"{root / EMBEDDINGS}: {got}, but the index was built from {description.n:,} items of {description.d} "
        f"dimensions that differ. The index is out of date: run 'dvc repro index'."
    )


def _describe_today(inputs: Inputs, params: SearchParams) -> CurrentRun:
    """What determines the neighbors of an LF, beside its votes."""
    approximate: Part = None
    if inputs.cells is not None:
        approximate = [inputs.description.cells_sha256, params.target_recall, SAMPLE]
    return CurrentRun(
        base=[identify_code("tasks.search"), inputs.index.metric, inputs.cells is None],
        content=[inputs.description.content, approximate],
        lends=inputs.lends,
        hash_rows=lambda: _hash_rows(inputs),
    )


def _hash_rows(inputs: Inputs) -> Keys:
    keys = np.empty((len(inputs.ids), 3), np.uint64)
    starts = range(0, len(keys), QUERIES)
    with Progress("comparing items with earlier ones", total=len(starts)) as progress:
        for start in progress.follow(starts):
            part = slice(start, start + QUERIES)
            keys[part] = hash_vectors(inputs.ids[part], inputs.embeddings[part])
    return keys


# Searching.


@dataclass(frozen=True, kw_only=True)
class _Searched:
    """What was found for some LFs, and with how many products."""

    columns: list[NeighborColumns]
    compared: int


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Items that are searched together."""

    items: npt.NDArray[np.int64]
    """Their positions, ascending."""
    cells: range | None = None
    """Those they are in, where that matters."""


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """Blocks of `total` queries, together."""

    task: SearchTask
    asking: Bool
    """(n, m) which LF asks for which item."""
    blocks: Iterable[_Block]
    total: int
    what: str
    """What to call it while it lasts."""


def _reuse_neighbors(
    inputs: Inputs, L: npt.NDArray[np.int8], names: Sequence[str], memory: NeighborCache
) -> Iterator[ReusedNeighbors]:
    """What is known of LFs with these votes (n, m) and names, one after the other."""
    for lf, name in enumerate(names):
        support = mark_support(L[:, lf], inputs.lends)
        labels = tuple(np.unique(support[support >= 0]).tolist())
        earlier = memory.recall_previous(name)
        if earlier is None:
            yield reuse_neighbors(None, None, support, labels)
        else:
            yield reuse_neighbors(earlier.entry.as_previous(), earlier.place, support, labels)


def _search_exactly(inputs: Inputs, L: npt.NDArray[np.int8], known: Iterable[ReusedNeighbors]) -> _Searched:
    """The neighbors of LFs with the votes `L` (n, m), of which some are `known`."""
    lent = np.where(inputs.lends[:, None], L, np.int8(ABSTAIN))
    labels = [np.unique(own[own >= 0]).tolist() for own in lent.T]
    columns = _Columns([(lf, label) for lf, own in enumerate(labels) for label in own], len(L))
    is_open, is_added = np.empty(L.shape, bool), np.empty(L.shape, bool)
    for lf, reused in enumerate(known):
        is_open[:, lf], is_added[:, lf] = reused.is_open, reused.is_added
        columns.put(lf, reused)
    # Those of which nothing is known ask the whole support, and the others what was added to it.
    compared = _improve(inputs, is_open, lent, columns, "searching")
    lent[~is_added] = ABSTAIN
    compared += _improve(inputs, (L == ABSTAIN) & ~is_open, lent, columns, "searching what is new")
    return _Searched(columns=[columns.take(lf, None, 0, 0) for lf in range(L.shape[1])], compared=compared)


def _improve(inputs: Inputs, asks: Bool, votes: npt.NDArray[np.int8], columns: "_Columns", what: str) -> int:
    """Search exactly for those who ask (n, m) among those who lend `votes` (n, m); gives back the number of products."""
    lfs = np.flatnonzero(asks.any(axis=0) & (votes != ABSTAIN).any(axis=0))
    if not len(lfs):
        return 0
    support = _build_support(inputs, votes[:, lfs])
    asking = asks[:, lfs]
    rows = columns.place([(int(lfs[lf_class.lf]), lf_class.label) for lf_class in support.lf_classes])
    return _search_blocks(inputs, _cut_all(support, support.lf_classes, asking, what), columns, rows)


def _build_support(inputs: Inputs, votes: npt.NDArray[np.int8]) -> Support:
    """The support of LFs that are lent `votes` (n, m)."""
    reference = np.flatnonzero((votes != ABSTAIN).any(axis=1))
    return build_support(
        np.ascontiguousarray(votes[reference]),
        reference,
        inputs.embeddings,
        inputs.index.vectors,
        metric=inputs.index.metric,
        cells=None if inputs.cells is None else inputs.cells.of_item,
        allocate=lambda shape: np.asarray(open_scratch(inputs.scratch, shape)),
    )


def _search(inputs: Inputs, cells: Cells, L: npt.NDArray[np.int8], params: SearchParams) -> _Searched:
    """The neighbors of LFs with the votes `L` (n, m) in an approximate index."""
    n, m = L.shape
    support = _build_support(inputs, np.where(inputs.lends[:, None], L, np.int8(ABSTAIN)))
    asking = L == ABSTAIN
    lf_classes = [(lf_class.lf, lf_class.label) for lf_class in support.lf_classes]
    columns = _Columns(lf_classes, n)
    rows = columns.place(lf_classes)
    min_candidates: list[int | None] = [None] * m
    samples = np.random.default_rng(0).permutation(n)
    # Of few items the second sample is all of them, since no other would be left.
    tuning, checking = np.sort(samples[:SAMPLE]), np.sort(samples[SAMPLE : 2 * SAMPLE] if n >= 2 * SAMPLE else samples)
    known = np.union1d(tuning, checking)
    exact = _Columns(lf_classes, n, of=known)
    task = _plan_exactly(support, support.lf_classes, asking, n)
    blocks = [_Block(items=known[a : a + QUERIES]) for a in range(0, len(known), QUERIES)]
    sample = _Pass(task=task, asking=asking, blocks=blocks, total=len(known), what="searching a sample exactly")
    compared = _search_blocks(inputs, sample, exact, rows)
    located = locate_members(support, cells)
    joined = join_cells(cells, QUERIES)
    need = measure_need(located, cells, joined, tuning, exact.position[:, np.searchsorted(known, tuning)])
    for lf in range(m):
        own = [place for place, lf_class in enumerate(support.lf_classes) if lf_class.lf == lf]
        min_candidates[lf] = _choose_min_candidates(support, own, need[own], params)
    compared += _search_blocks(inputs, _cut_cells(cells, joined, support, min_candidates, asking), columns, rows)
    rest = [
        lf_class if min_candidates[lf_class.lf] is None else _leave_out(lf_class) for lf_class in support.lf_classes
    ]
    if any(len(lf_class.members) for lf_class in rest):
        compared += _search_blocks(inputs, _cut_all(support, rest, asking, "searching exactly"), columns, rows)
    place = np.searchsorted(known, checking)
    checked = exact.position[:, place] != NOBODY
    right = checked & (columns.similarity[:, checking] == exact.similarity[:, place])
    found = []
    for lf in range(m):
        part = columns.locate(lf)
        found.append(columns.take(lf, min_candidates[lf], int(checked[part].sum()), int(right[part].sum())))
    return _Searched(columns=found, compared=compared)


def _choose_min_candidates(
    support: Support, own: Sequence[int], need: npt.NDArray[np.int64], params: SearchParams
) -> int | None:
    """The effort of the LF whose LF classes are at places `own`; None where exact search is hardly more work."""
    effort = choose_min_candidates(need, params.target_recall)
    sizes = [len(support.lf_classes[place].members) for place in own]
    # Beyond half of the members, gathering those to look at costs more than it saves.
    return None if 2 * sum(min(effort, size) for size in sizes) > sum(sizes) else effort


def _leave_out(lf_class: LFClass) -> LFClass:
    return LFClass(lf=lf_class.lf, label=lf_class.label, members=lf_class.members[:0], positions=lf_class.positions[:0])


def _plan_exactly(support: Support, lf_classes: Sequence[LFClass], asking: Bool, n: int) -> SearchTask:
    """To search `lf_classes` exactly, by `n` items of which some ask."""
    searches = plan_searches(lf_classes, asking.sum(axis=0), n, support.factors.shape[1])
    return SearchTask(support=support, plan=SamePlan(lf_classes=lf_classes, searches=searches))


def _cut_all(support: Support, lf_classes: Sequence[LFClass], asking: Bool, what: str) -> _Pass:
    """All items that ask (n, m) in their order, in blocks that search `lf_classes` exactly."""
    items = np.flatnonzero(asking.any(axis=1))
    task = _plan_exactly(support, lf_classes, asking, len(items))
    blocks = (_Block(items=items[start : start + QUERIES]) for start in range(0, len(items), QUERIES))
    return _Pass(task=task, asking=asking, blocks=blocks, total=len(items), what=what)


def _cut_cells(
    cells: Cells, joined: Sequence[range], support: Support, min_candidates: Sequence[int | None], asking: Bool
) -> _Pass:
    """All items, the cells in each of `joined` at a time, in blocks that search the cells nearby."""
    by_lf_class = [min_candidates[lf_class.lf] for lf_class in support.lf_classes]
    located, width = locate_members(support, cells), support.factors.shape[1]
    plan = NearbyPlan(
        lf_classes=support.lf_classes, located=located, cells=cells, min_candidates=by_lf_class, width=width
    )
    parts = () if all(effort is None for effort in by_lf_class) else iterate_queries(cells, joined, QUERIES)
    blocks = (_Block(items=items, cells=own) for own, items in parts)
    task = SearchTask(support=support, plan=plan)
    return _Pass(task=task, asking=asking, blocks=blocks, total=len(asking), what="searching approximately")


class _Columns:
    """Neighbors of n items, or of the items `of` alone (ascending), per LF and class; improved in any order."""

    def __init__(self, lf_classes: Sequence[tuple[int, int]], n: int, of: npt.NDArray[np.int64] | None = None) -> None:
        self._pairs, self._of = lf_classes, of
        size = n if of is None else len(of)
        self.similarity = np.full((len(lf_classes), size), np.nan, np.float32)
        self.position = np.full((len(lf_classes), size), NOBODY, np.int32)

    def put(self, lf: int, reused: ReusedNeighbors) -> None:
        """Begin with what is known of one LF."""
        own = self.locate(lf)
        self.similarity[own], self.position[own] = reused.similarity, reused.position

    def improve(self, items: npt.NDArray[np.int64], nearest: Nearest, rows: npt.NDArray[np.int64]) -> None:
        """Take over what was found, LF class by LF class for these `rows`, where it is nearer, or as near and earlier."""
        where = items if self._of is None else np.searchsorted(self._of, items)
        for lf_class in np.flatnonzero((nearest.position != NOBODY).any(axis=1)):
            similarity, position = self.similarity[rows[lf_class]], self.position[rows[lf_class]]
            near, new = nearest.similarity[lf_class], nearest.position[lf_class]
            old_near, old = similarity[where], position[where]
            wins = (new != NOBODY) & ((old == NOBODY) | (near > old_near) | ((near == old_near) & (new < old)))
            similarity[where[wins]], position[where[wins]] = near[wins], new[wins]

    def place(self, lf_classes: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        """The rows of some LF classes."""
        return np.array([self._pairs.index(lf_class) for lf_class in lf_classes], np.int64)

    def locate(self, lf: int) -> slice:
        """The rows of one LF."""
        own = [row for row, lf_class in enumerate(self._pairs) if lf_class[0] == lf]
        return slice(own[0], own[-1] + 1) if own else slice(0, 0)

    def take(self, lf: int, effort: int | None, checked: int, right: int) -> NeighborColumns:
        """The columns of one LF."""
        own = self.locate(lf)
        return NeighborColumns(
            labels=tuple(label for _, label in self._pairs[own]),
            similarity=self.similarity[own],
            position=self.position[own],
            effort=effort,
            checked=checked,
            right=right,
        )


def _search_blocks(inputs: Inputs, work: _Pass, columns: _Columns, rows: npt.NDArray[np.int64]) -> int:
    """Improve the `rows` of `columns` that are those of the support's lf_classes, on this machine or on a cluster.

    Gives back the number of products that were computed.
    """

    def cut(block: _Block) -> QueryBlock:
        items = block.items
        return QueryBlock(
            items=items,
            cells=block.cells,
            vectors=inputs.embeddings[items],
            index_vectors=inputs.index.vectors[items],
            asking=work.asking[items],
        )

    compared = 0
    with Progress(work.what, total=work.total) as progress, open_cluster() as cluster:
        if cluster is None:
            found = _search_here(work, cut)
        else:
            found = cluster.spread(search_block, map(cut, work.blocks), shared=[detach(work.task)], name=_describe)
        for block, one in found:
            columns.improve(block.items, one.nearest, rows)
            compared += one.compared
            progress.advance(len(block.items))
    return compared


def _describe(block: QueryBlock) -> str:
    return f"search: {len(block.items):,} items from position {block.items[0]:,} on"


def _search_here(work: _Pass, cut: Callable[[_Block], QueryBlock]) -> Iterator[tuple[QueryBlock, FoundInBlock]]:
    """Each block with what was found, several searched at a time."""

    def find(block: _Block) -> tuple[QueryBlock, FoundInBlock]:
        queries = cut(block)
        return queries, search_block(work.task, queries)

    controller = ThreadpoolController()
    # One block per thread beats many threads per product; the number BLAS was allowed (OMP_NUM_THREADS and the like).
    threads = max((library["num_threads"] for library in controller.select(user_api="blas").info()), default=1)
    with controller.limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[tuple[QueryBlock, FoundInBlock]]] = deque()
        for block in work.blocks:
            waiting.append(pool.submit(find, block))
            # As many again are planned ahead, so that no thread waits and few results do.
            while len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# Writing.


def _to_table(ids: pl.Series, found: Found, start: int, columns: Sequence[str]) -> pl.DataFrame:
    """Rows of the neighbors table for a row group of items from position `start` on."""
    series = [ids[start : start + ROW_GROUP]]
    names = iter(columns[1:])
    for one in found.columns.values():
        for position, similarity in zip(one.position, one.similarity, strict=True):
            part = pl.Series(position[start : start + ROW_GROUP])
            series.append(ids.gather(part.set(part == NOBODY, None)).alias(next(names)))
            series.append(pl.Series(next(names), similarity[start : start + ROW_GROUP]).fill_nan(None))
    return pl.DataFrame(series)


def _describe_recall(
    description: IndexDescription, columns: dict[str, NeighborColumns], params: SearchParams
) -> Recall:
    lfs = {}
    for name, one in columns.items():
        share = round(one.right / one.checked, 6) if one.checked else None
        lfs[name] = LFRecall(recall=share, checked_neighbors=one.checked, effort=one.effort)
    checked = sum(one.checked for one in columns.values())
    right = sum(one.right for one in columns.values())
    return Recall(
        kind=description.kind,
        target_recall=None if description.kind == "flat" else params.target_recall,
        recall=round(right / checked, 6) if checked else None,
        checked_neighbors=checked,
        lfs=lfs,
    )


def _require_recall(recall: Recall) -> None:
    """Refuse a recall below the target."""
    if recall.recall is None or recall.target_recall is None or recall.recall >= recall.target_recall:
        return
    worst = sorted((one.recall, name) for name, one in recall.lfs.items() if one.recall is not None)[:5]
    raise DataError(
        f"search: recall is {recall.recall:.4f} on {recall.checked_neighbors:,} neighbors of sampled items, expected at "
        f"least {recall.target_recall:g}. Lowest: {', '.join(f'{name} {one:.4f}' for one, name in worst)}. "
        "Raise search.target_recall (more effort is then chosen), or set index.kind to flat for exact search."
    )
