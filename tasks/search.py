"""The search stage: for every item and LF that abstains on it, the nearest item of each class in that LF's support."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import ThreadpoolController

from tasks import schemas
from tasks.artifacts import (
    EMBEDDINGS,
    INDEX,
    INDEX_DESCRIPTION,
    ITEMS,
    NEIGHBORS,
    VOTES,
    read_batches,
    read_table,
    read_votes,
    require_same_items,
    write_batches,
)
from tasks.core.faiss_index import FlatIndex, read_index
from tasks.core.neighbors import (
    NOBODY,
    QUERIES,
    Nearest,
    Search,
    Support,
    build_queries,
    build_support,
    find_neighbors,
    plan_searches,
)
from tasks.errors import DataError
from tasks.index_description import ContentHash, IndexDescription, hash_file, read_description, read_width
from tasks.params import SearchParams
from tasks.progress import Progress
from tasks.schemas import ABSTAIN, ITEM_ID, neighbor_column, similarity_column


def run(root: Path, classes: tuple[str, ...], params: SearchParams) -> None:
    """Write the neighbors of every item below `root`.

    Raises
    ------
    DataError
        A table or the index is missing or damaged, they are not about the same items, or the index is out of date.
    """
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    votes = read_votes(root / VOTES, len(classes))
    require_same_items(root / ITEMS, items, root / VOTES, votes)
    index = _open_index(root)
    lfs = [name for name in votes.columns if name != ITEM_ID]
    L = votes.select(lfs).to_numpy().astype(np.int8, copy=False).reshape(items.height, len(lfs))
    lends = items["split"].is_in([str(split) for split in params.reference]).to_numpy()
    support = _read_support(root, items, L, np.flatnonzero(lends & (L != ABSTAIN).any(axis=1)), index)
    searches = plan_searches(support, (L == ABSTAIN).sum(axis=0), items.height)
    columns = [ITEM_ID]
    for pair in support.pairs:
        columns += [neighbor_column(lfs[pair.lf], pair.label), similarity_column(lfs[pair.lf], pair.label)]

    def tables() -> Iterator[pl.DataFrame]:
        with Progress("searching", total=items.height) as progress:
            for start, nearest in _search(root, support, searches, L, index):
                yield _to_table(nearest, start, items[ITEM_ID], columns)
                progress.advance(nearest.similarity.shape[1])

    write_batches(root / NEIGHBORS, tables(), schemas.neighbors(columns, items[ITEM_ID].dtype))


def _open_index(root: Path) -> FlatIndex:
    """The index, checked against its description and the embeddings' shape."""
    path, description = root / INDEX, read_description(root)
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
    return index


def _read_support(
    root: Path, items: pl.DataFrame, L: npt.NDArray[np.int8], positions: npt.NDArray[np.int64], index: FlatIndex
) -> Support:
    """The support: embeddings of the items at `positions`, gathered in one pass that also proves the index fresh."""
    path, description = root / EMBEDDINGS, read_description(root)
    content = ContentHash()
    vectors = np.empty((len(positions), description.d), np.float32)
    ids = []
    start = 0
    for batch in read_batches(path, schemas.embeddings(description.d)):
        embeddings = _embeddings(batch, description.d)
        content.update(batch[ITEM_ID], embeddings)
        ids.append(batch[ITEM_ID])
        low, high = np.searchsorted(positions, [start, start + batch.height])
        vectors[low:high] = embeddings[positions[low:high] - start]
        start += batch.height
    require_same_items(root / ITEMS, items, path, pl.concat(ids).to_frame())
    if content.hexdigest() != description.content:
        raise _stale(root, description, "other contents")
    return build_support(L[positions], positions, vectors, index.vectors[positions], metric=index.metric)


def _search(
    root: Path, support: Support, searches: tuple[Search, ...], L: npt.NDArray[np.int8], index: FlatIndex
) -> Iterator[tuple[int, Nearest]]:
    """Position of the first query and the neighbors of a block of queries, block by block in the items' order."""
    controller = ThreadpoolController()
    # One block per thread beats many threads per product; the number BLAS was allowed (OMP_NUM_THREADS and the like).
    threads = max((library["num_threads"] for library in controller.select(user_api="blas").info()), default=1)
    d = support.vectors.shape[1]
    start = 0
    with controller.limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for batch in read_batches(root / EMBEDDINGS, schemas.embeddings(d)):
            embeddings = _embeddings(batch, d)

            def find(low: int, embeddings: npt.NDArray[np.float32] = embeddings, start: int = start) -> Nearest:
                part = slice(low, low + QUERIES)
                where = slice(start + low, start + low + len(embeddings[part]))
                queries = build_queries(support.geometry, embeddings[part], index.vectors[where])
                return find_neighbors(support, searches, queries, L[where] == ABSTAIN)

            blocks = range(0, max(batch.height, 1), QUERIES)
            for low, nearest in zip(blocks, pool.map(find, blocks), strict=True):
                yield start + low, nearest
            start += batch.height


def _to_table(nearest: Nearest, start: int, ids: pl.Series, columns: list[str]) -> pl.DataFrame:
    """Rows of the neighbors table for the items from position `start` on."""
    rows = nearest.similarity.shape[1]
    series = [ids[start : start + rows]]
    for pair, (neighbor, similarity) in enumerate(zip(columns[1::2], columns[2::2], strict=True)):
        position = nearest.position[pair]
        found = pl.Series(position).set(pl.Series(position == NOBODY), None)
        series.append(ids.gather(found).alias(neighbor))
        series.append(pl.Series(similarity, nearest.similarity[pair]).fill_nan(None))
    return pl.DataFrame(series)


def _embeddings(batch: pl.DataFrame, d: int) -> npt.NDArray[np.float32]:
    """The embeddings (rows, d) of a batch of the table of embeddings."""
    return batch["embedding"].to_numpy().reshape(batch.height, d)


def _stale(root: Path, description: IndexDescription, got: str) -> DataError:
    return DataError(
        f"{root / EMBEDDINGS}: {got}, but the index was built from {description.n:,} items of {description.d} "
        f"dimensions that differ. The index is out of date: run 'dvc repro index'."
    )
