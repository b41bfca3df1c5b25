"""The embeddings of items, read block by block or for some rows, joined by id."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.types import ITEM_ID, Float32, Int64
from tasks.errors import DataError
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.parquet import read_batches, read_schema
from tasks.tables.paths import EMBEDDINGS, ITEMS
from tasks.tables.validation import require_same_items


def read_width(root: Path) -> int:
    """The number of dimensions of the embeddings below `root`.

    Raises
    ------
    DataError
        There is no column of embeddings of one width.
    """
    path = root / EMBEDDINGS
    kind = read_schema(path).get("embedding")
    if not isinstance(kind, pl.Array) or kind.inner != pl.Float32 or len(kind.shape) != 1 or kind.size < 1:
        raise DataError(f"{path}: column 'embedding' is {kind}, expected arrays of float32. Run 'dvc repro ingest'.")
    return kind.size


def read_vectors(root: Path, items: pl.DataFrame, rows: Int64) -> Float32:
    """The embeddings (r, d) of the items at positions `rows` (r,), ascending; others are read and let go.

    Raises
    ------
    DataError
        The embeddings are missing or damaged, or belong to other items.
    """
    vectors = np.empty((len(rows), read_width(root)), dtype=np.float32)
    with Progress("reading embeddings", total=items.height) as progress:
        for block, embeddings in read_blocks(root, items):
            low, high = np.searchsorted(rows, [block.start, block.stop])
            vectors[low:high] = embeddings[rows[low:high] - block.start]
            progress.advance(len(embeddings))
    return vectors


def read_blocks(root: Path, items: pl.DataFrame) -> Iterator[tuple[slice, Float32]]:
    """The embeddings of `items`, row group by row group, with the rows that they are of."""
    path = root / EMBEDDINGS
    start = 0
    for batch in read_batches(path, schemas.embeddings(read_width(root))):
        rows = slice(start, start + batch.height)
        require_same_items(root / ITEMS, items[rows].select(ITEM_ID), path, batch)
        yield rows, batch["embedding"].to_numpy()
        start += batch.height
    if start < items.height:
        raise DataError(f"{path}: {start:,} of {items.height:,} items have an embedding. Run 'dvc repro ingest'.")
