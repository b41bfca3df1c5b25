"""search: for every item and LF that abstains on it, find the nearest item of each class in the LF's support.

The bytes written are those of a full search, whatever was in the cache (see tasks/neighbors/run.py). A run whose recall
is below the target fails.

Peak memory for n items of d dimensions, m LFs, p LF classes, and v distinct vectors in the support: 8 n m bytes for votes and
who asks, 24 n (200 n for a moment) to compare items with those of an earlier run, and per thread 100 MiB. The index (4 n d
bytes), the support (4 v d, for L2 8 v d) and the neighbors (8 n p) are mapped files, which the system drops from memory
when it is needed elsewhere.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.search.exact import QUERIES
from tasks.core.search.ivf import group_items, join_cells
from tasks.core.types import ITEM_ID, NOBODY
from tasks.neighbors.exactly import Space
from tasks.neighbors.run import SearchInputs, SearchResult, search_items
from tasks.params import SearchParams
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.index_file import open_index, read_cells, read_description, read_index_centers
from tasks.tables.label_matrix import read_vote_matrix
from tasks.tables.parquet import ROW_GROUP, read_table, write_batches
from tasks.tables.paths import ITEMS, NEIGHBORS, RECALL, VOTES
from tasks.tables.schemas import neighbor_column, similarity_column
from tasks.tables.scratch import expect_scattered_reads


def run(root: Path, classes: tuple[str, ...], params: SearchParams) -> None:
    """Write the neighbors of every item below `root`, and the recall.

    Raises
    ------
    DataError
        As for `search_items`, or the recall of approximate search is below `params.target_recall`.
    """
    inputs = read_inputs(root, len(classes), params)
    result = search_items(root, inputs, params)
    if result.changes:
        print(f"search: items since they were last searched: {result.changes}", file=sys.stderr)
    print(
        f"search: {len(result.searched)} of {len(inputs.lfs)} LFs searched, {result.compared:,} pairs of vectors compared; "
        "the rest is known",
        file=sys.stderr,
    )
    write_result(root, inputs, result)


def write_result(root: Path, inputs: SearchInputs, result: SearchResult) -> None:
    """Write the table of neighbors, and the recall."""
    columns = [ITEM_ID]
    for lf, found in result.columns.items():
        for label in found.labels:
            columns += [neighbor_column(lf, label), similarity_column(lf, label)]
    starts = range(0, max(len(inputs.ids), 1), ROW_GROUP)
    with Progress("writing neighbors", total=len(starts)) as progress:
        tables = (_to_table(inputs.ids, result, start, columns) for start in progress.follow(starts))
        write_batches(root / NEIGHBORS, tables, schemas.neighbors(columns, inputs.ids.dtype))
    write_json(root / RECALL, result.recall.model_dump(mode="json"))


def read_inputs(root: Path, k: int, params: SearchParams) -> SearchInputs:
    """Items, votes for `k` classes and index below `root`, with rows joined by id.

    Raises
    ------
    DataError
        A table or the index is missing or damaged, or they are not about the same items.
    """
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    scratch = (root / NEIGHBORS).parent
    votes = read_vote_matrix(root, items, VOTES, k, scratch)
    description = read_description(root)
    of_item = read_cells(root, items, description)  # also of a flat index, which itself has no ids
    index = open_index(root, description)
    expect_scattered_reads(index.vectors)
    cells = None
    if description.kind == "ivf":
        centers = read_index_centers(root, description)
        together = join_cells(centers.items, QUERIES)
        vectors = centers.vectors.astype(np.float64)
        cells = group_items(of_item.to_numpy().astype(np.int64), vectors, together, index.metric)
    return SearchInputs(
        ids=items[ITEM_ID],
        lfs=votes.lfs,
        L=votes.votes,
        description=description,
        space=Space(
            vectors=index.vectors,
            metric=index.metric,
            lends=items["split"].is_in([str(split) for split in params.reference]).to_numpy(),
            cells=cells,
            scratch=scratch,
        ),
    )


def _to_table(ids: pl.Series, result: SearchResult, start: int, columns: Sequence[str]) -> pl.DataFrame:
    """Rows of the neighbors table for a row group of items from position `start` on."""
    series = [ids[start : start + ROW_GROUP]]
    names = iter(columns[1:])
    for found in result.columns.values():
        for position, similarity in zip(found.position, found.similarity, strict=True):
            part = pl.Series(position[start : start + ROW_GROUP])
            series.append(ids.gather(part.set(part == NOBODY, None)).alias(next(names)))
            series.append(pl.Series(next(names), similarity[start : start + ROW_GROUP]).fill_nan(None))
    return pl.DataFrame(series)
