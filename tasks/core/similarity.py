"""What the similarity of two vectors is, to the last digit.

It is float64 arithmetic on the float32 vectors of the index, which for cosine are embeddings brought to length one, rounded
to float32 at the end:

- cosine: sum(x * y) / sqrt(sum(x * x) * sum(y * y)), clipped to [-1, 1];
- L2: minus sqrt(sum((x - y) ** 2)).

Products of two float32 numbers are exact in float64 and each sum is NumPy's pairwise sum over one row, so a value
depends on its two rows alone.
"""

import numpy as np

from tasks.core.slices import cut_slices
from tasks.core.types import Float32, Float64, Int64, MetricName

_PAIRS = 512
"""Pairs compared at a time: of 384 dimensions, 1.5 MiB for each of several arrays, which a core's cache holds."""


def compute_similarity(x: Float32, y: Float32, metric: MetricName) -> Float32:
    """The similarities (r,) of rows of `x` with the same rows of `y`, both (r, d): the definition at the top.

    >>> x, y = np.float32([[3, 4], [3, 4]]), np.float32([[6, 8], [4, -3]])
    >>> compute_similarity(x, y, "cosine").tolist(), compute_similarity(x, y, "l2").tolist()
    ([1.0, 0.0], [-5.0, -7.071067810058594])
    """
    if metric == "cosine":
        return np.clip(_dot(x, y) / np.sqrt(_dot(x, x) * _dot(y, y)), -1, 1).astype(np.float32)
    difference = np.subtract(x, y, dtype=np.float64)
    distance = np.sqrt(np.add.reduce(difference * difference, axis=1))
    near: Float64 = 0.0 - np.minimum(distance, np.finfo(np.float32).max)  # 0, never -0, for equal rows
    return near.astype(np.float32)


def compare_pairs(x: Float32, row: Int64, y: Float32, column: Int64, metric: MetricName) -> Float32:
    """The similarities (p,) of the vectors in `row` (p,) of `x` with those in `column` (p,) of `y`."""
    similarity = np.empty(len(row), np.float32)
    for part in cut_slices(len(row), _PAIRS):
        similarity[part] = compute_similarity(x[row[part]], y[column[part]], metric)
    return similarity


def measure_pairs(points: Float32, row: Int64, others: Float32, column: Int64) -> Float64:
    """Return the squared distances (p,) between `row` (p,) of `points` and `column` (p,) of `others`."""
    distance = np.empty(len(row))
    for part in cut_slices(len(row), _PAIRS):
        difference = np.subtract(points[row[part]], others[column[part]], dtype=np.float64)
        distance[part] = np.add.reduce(difference * difference, axis=1)
    return distance


def to_cosine(similarity: Float32, metric: MetricName, scale: float = 1.0) -> Float32:
    """A similarity of embeddings as that of points (`tasks.tables.scaled_embeddings`): minus a distance becomes 1 - (distance / scale)^2 / 2."""
    if metric == "cosine":
        return similarity
    return (1 - (similarity / np.float32(scale)) ** 2 / 2).astype(np.float32)


def _dot(x: Float32, y: Float32) -> Float64:
    """The inner products (r,) of the rows of `x` and `y`, in float64 and in an order that the row alone fixes."""
    products: Float64 = np.multiply(x, y, dtype=np.float64)
    sums: Float64 = np.add.reduce(products, axis=1)
    return sums
