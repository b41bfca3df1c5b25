"""Vectors brought to length one, and vectors as an index has them."""

import numpy as np

from tasks.core.slices import cut_slices
from tasks.core.types import Float32, MetricName

_IN_CACHE = 128
"""Vectors that are brought to length one at a time: their float64 copies stay in a core's cache."""


def normalize(vectors: Float32) -> Float32:
    """Unit vectors (n, d), each component within half a unit of its last digit: divided in float64, then rounded.

    Raises
    ------
    ValueError
        A vector is zero or not finite.
    """
    unit = np.empty(vectors.shape, np.float32)
    for part in cut_slices(len(vectors), _IN_CACHE):
        rows = vectors[part]
        norms = np.sqrt(np.multiply(rows, rows, dtype=np.float64).sum(axis=1, keepdims=True))
        if not (np.isfinite(norms).all() and (norms > 0).all()):
            raise ValueError("a zero or non-finite vector has no direction")
        unit[part] = rows / norms
    return unit


def to_index_vectors(embeddings: Float32, metric: MetricName) -> Float32:
    """The vectors (n, d) of an index of `embeddings` (n, d): unit vectors for cosine, the embeddings themselves for L2.

    Raises
    ------
    ValueError
        For cosine: an embedding is zero or not finite.
    """
    return normalize(embeddings) if metric == "cosine" else embeddings
