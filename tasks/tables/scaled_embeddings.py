"""Embeddings as the label model and the end model see them: unit vectors for cosine, one common scale for L2.

They lie in a mapped file of 4 n d bytes, which the system drops from memory when it is needed elsewhere; only blocks of
rows are ever copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import Metric
from tasks.progress import Progress
from tasks.tables import schemas
from tasks.tables.parquet import ROW_GROUP, read_batches, read_schema
from tasks.tables.paths import EMBEDDINGS, ITEMS
from tasks.tables.scratch import open_scratch
from tasks.tables.validation import require_same_items

_BLOCK = ROW_GROUP
"""Rows scaled at a time."""


@dataclass(frozen=True, kw_only=True)
class ScaledEmbeddings:
    """Vectors scaled so that 1 - |x - y|^2 / 2 is the similarity of two of them.

    vectors: (n, d) float32, a mapped file. Cosine: unit vectors, and the similarity is the cosine. L2: embeddings about
    their mean, divided by `scale`, so that two items drawn at random have a similarity of 0 on average. center: (d,)
    float32, their mean for L2, 0 for cosine. scale: the root of the mean squared norm for L2, 1 for cosine.
    """

    vectors: npt.NDArray[np.float32]
    center: npt.NDArray[np.float32]
    scale: float


def read_scaled_embeddings(root: Path, items: pl.DataFrame, metric: Metric, folder: Path) -> ScaledEmbeddings:
    """The embeddings of `items`, in their order, as points in a file without a name below `folder`.

    Raises
    ------
    DataError
        The embeddings are missing or damaged, or belong to other items.
    """
    n = items.height
    vectors = open_scratch(folder, (n, read_width(root)))
    with Progress("reading embeddings", total=n) as progress:
        for rows, embeddings in read_blocks(root, items):
            lengths = np.sqrt(_square_norms(embeddings))[:, None] if metric is Metric.COSINE else np.ones(1)
            np.divide(embeddings, lengths.astype(np.float32), out=vectors[rows])
            progress.advance(len(embeddings))
    if metric is Metric.COSINE:
        return ScaledEmbeddings(vectors=vectors, center=np.zeros(vectors.shape[1], np.float32), scale=1.0)
    total = np.zeros((1, vectors.shape[1]))
    squares = np.empty(n)
    with Progress("centering embeddings", total=3 * n) as progress:
        for rows in _cut(n):
            # Row after row whatever the blocks are, so that the last digit is that of a single sum over all rows.
            total[0] = np.concatenate([total, vectors[rows]]).sum(axis=0)
            progress.advance(rows.stop - rows.start)
        center = (total[0] / n).astype(np.float32)
        for rows in _cut(n):
            vectors[rows] -= center
            squares[rows] = _square_norms(vectors[rows])
            progress.advance(rows.stop - rows.start)
        scale = float(np.sqrt(squares.mean())) if squares.any() else 1.0
        for rows in _cut(n):
            vectors[rows] /= np.float32(scale)
            progress.advance(rows.stop - rows.start)
    return ScaledEmbeddings(vectors=vectors, center=center, scale=scale)


def scale_vectors(
    vectors: npt.NDArray[np.float32], metric: Metric, center: npt.NDArray[np.float32], scale: float
) -> npt.NDArray[np.float32]:
    """Embeddings (q, d), changed in place, as points among others, whose center and scale are known."""
    if metric is Metric.COSINE:
        vectors /= np.sqrt(_square_norms(vectors))[:, None].astype(np.float32)
        return vectors
    vectors -= center
    vectors /= np.float32(scale)
    return vectors


def to_cosine(similarity: npt.NDArray[np.float32], metric: Metric, scale: float) -> npt.NDArray[np.float32]:
    """A similarity of embeddings as that of points: minus a distance becomes 1 - (distance / scale)^2 / 2."""
    if metric is Metric.COSINE:
        return similarity
    return (1 - (similarity / np.float32(scale)) ** 2 / 2).astype(np.float32)


def read_vectors(root: Path, items: pl.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
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


def read_width(root: Path) -> int:
    """The number of dimensions of the embeddings.

    Raises
    ------
    DataError
        They are missing or damaged.
    """
    path = root / EMBEDDINGS
    width = read_schema(path).get("embedding")
    if not isinstance(width, pl.Array):
        raise DataError(f"{path}: column 'embedding' is {width}; expected arrays of float32. Run 'dvc repro ingest'.")
    return width.size


def read_blocks(root: Path, items: pl.DataFrame) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
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


def _cut(n: int) -> Iterator[slice]:
    for start in range(0, n, _BLOCK):
        yield slice(start, min(start + _BLOCK, n))


def _square_norms(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(n,): added up in float64 in a fixed order."""
    norms: npt.NDArray[np.float64] = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return norms
