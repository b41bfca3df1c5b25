"""Embeddings as the label model and the end model see them: unit vectors for cosine, one common scale for L2."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks import artifacts, schemas
from tasks.errors import DataError
from tasks.params import Metric
from tasks.schemas import ITEM_ID


@dataclass(frozen=True, kw_only=True)
class Points:
    """Vectors scaled so that 1 - |x - y|^2 / 2 is the similarity of two of them.

    vectors: (n, d) float32. Cosine: unit vectors, and the similarity is the cosine. L2: embeddings about their mean,
    divided by `scale`, so that two items drawn at random have a similarity of 0 on average. scale: the root of the mean
    squared norm for L2, 1 for cosine.
    """

    vectors: npt.NDArray[np.float32]
    scale: float


def read_points(root: Path, items: pl.DataFrame, metric: Metric) -> Points:
    """The embeddings of `items`, in their order, as points.

    Raises
    ------
    DataError
        The embeddings are missing or damaged, or belong to other items.
    """
    vectors = read_vectors(root, items, np.arange(items.height))
    if metric is Metric.COSINE:
        vectors /= np.sqrt(_square_norms(vectors))[:, None].astype(np.float32)
        return Points(vectors=vectors, scale=1.0)
    vectors -= vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = float(np.sqrt(_square_norms(vectors).mean())) if vectors.any() else 1.0
    return Points(vectors=np.divide(vectors, np.float32(scale), out=vectors), scale=scale)


def read_vectors(root: Path, items: pl.DataFrame, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The embeddings (r, d) of the items at positions `rows` (r,), ascending; others are read and let go.

    Raises
    ------
    DataError
        The embeddings are missing or damaged, or belong to other items.
    """
    path = root / artifacts.EMBEDDINGS
    width = artifacts.read_schema(path).get("embedding")
    if not isinstance(width, pl.Array):
        raise DataError(f"{path}: column 'embedding' is {width}; expected arrays of float32. Run 'dvc repro ingest'.")
    vectors = np.empty((len(rows), width.size), dtype=np.float32)
    start = 0
    for batch in artifacts.read_batches(path, schemas.embeddings(width.size)):
        own = items[start : start + batch.height].select(ITEM_ID)
        artifacts.require_same_items(root / artifacts.ITEMS, own, path, batch)
        low, high = np.searchsorted(rows, [start, start + batch.height])
        vectors[low:high] = batch["embedding"].to_numpy()[rows[low:high] - start]
        start += batch.height
    if start < items.height:
        raise DataError(f"{path}: {start:,} of {items.height:,} items have an embedding. Run 'dvc repro ingest'.")
    return vectors


def _square_norms(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(n,): added up in float64 in one fixed order."""
    norms: npt.NDArray[np.float64] = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return norms
