"""Embeddings as the label model and the end model see them: unit vectors for cosine, one common scale for L2.

Those for cosine are the index's own. Those for L2 lie in a mapped file of 4 n d bytes. Either the system drops from memory when it
is needed elsewhere; only blocks of rows are ever copied.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.slices import cut_slices
from tasks.core.types import Float32, Float64
from tasks.params import Metric
from tasks.progress import Progress
from tasks.tables.index_file import open_index, read_cells, read_description
from tasks.tables.parquet import ROW_GROUP
from tasks.tables.scratch import open_scratch


@dataclass(frozen=True, kw_only=True)
class ScaledEmbeddings:
    """Vectors scaled so that 1 - |x - y|^2 / 2 is the similarity of two of them.

    vectors: (n, d) a mapped file. Cosine: unit vectors, and the similarity is the cosine. L2: embeddings about
    their mean, divided by `scale`, so that two items drawn at random have a similarity of 0 on average. center: (d,)
    their mean for L2, 0 for cosine. scale: the root of the mean squared norm for L2, 1 for cosine.
    """

    metric: Metric
    vectors: Float32
    center: Float32
    scale: float


def read_scaled_embeddings(root: Path, items: pl.DataFrame, folder: Path) -> ScaledEmbeddings:
    """The embeddings of `items`, in their order, as points; those for L2 in a file without a name below `folder`.

    Raises
    ------
    DataError
        The index is missing or damaged, or is about other items.
    """
    description = read_description(root)
    read_cells(root, items, description)  # the index itself has no ids
    stored = open_index(root, description).vectors
    metric, (n, d) = description.metric, stored.shape
    if metric is Metric.COSINE:
        return ScaledEmbeddings(metric=metric, vectors=stored, center=np.zeros(d, np.float32), scale=1.0)
    vectors, total, squares = open_scratch(folder, (n, d), np.float32), np.zeros((1, d)), np.empty(n)
    with Progress("centering embeddings", total=3 * n) as progress:
        for rows in cut_slices(n, ROW_GROUP):
            # Row after row whatever the blocks are, so that the last digit is that of a single sum over all rows.
            total[0] = np.concatenate([total, stored[rows]]).sum(axis=0)
            progress.advance(rows.stop - rows.start)
        center = (total[0] / n).astype(np.float32)
        for rows in cut_slices(n, ROW_GROUP):
            np.subtract(stored[rows], center, out=vectors[rows])
            squares[rows] = _square_norms(vectors[rows])
            progress.advance(rows.stop - rows.start)
        scale = float(np.sqrt(squares.mean())) if squares.any() else 1.0
        for rows in cut_slices(n, ROW_GROUP):
            vectors[rows] /= np.float32(scale)
            progress.advance(rows.stop - rows.start)
    return ScaledEmbeddings(metric=metric, vectors=vectors, center=center, scale=scale)


def place_vectors(vectors: Float32, metric: Metric, center: Float32, scale: float) -> Float32:
    """Vectors (q, d) as an index has them, as points (q, d) among others, whose center and scale are known."""
    return vectors if metric is Metric.COSINE else (vectors - center) / np.float32(scale)


def _square_norms(vectors: Float32) -> Float64:
    """(n,): added up in float64 in a fixed order."""
    norms: Float64 = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    return norms
