"""Partitions of the embedding space, so that an LF may be trusted here and not there.

Source: Chen et al., "Shoring Up the Foundations: Fusing Model Embeddings and Weak Supervision" (Liger), UAI 2022,
arXiv 2203.13270, section 4: partition the space, then estimate one label model on each part.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

_SEED = 0
_STARTS = 4
"""Runs of k-means from different seeds; the tightest one counts."""

KMEANS_ROWS = 20_000
"""Rows that are enough for k-means: over a thousand for each of sixteen parts settle their centroids."""

_BLOCK = 8192
"""Rows assigned at once: bounded memory, any number of items."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Centroids, float64 of shape (t, d); an item belongs to the nearest one, among equals to the first."""

    centroids: npt.NDArray[np.float64]

    def assign(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Return the part, 0..t-1, of each row of `vectors` (n, d); int64 of shape (n,)."""
        squares = np.einsum("td,td->t", self.centroids, self.centroids) / 2
        # Of two centroids equally near, rounding decides, and BLAS rounds as the number of threads has it.
        with threadpool_limits(limits=1):
            parts = [
                np.argmax(vectors[start : start + _BLOCK].astype(np.float64) @ self.centroids.T - squares, axis=1)
                for start in range(0, len(vectors), _BLOCK)
            ]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def thin_rows(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return at most `KMEANS_ROWS` of `rows`, evenly spaced, so that time and memory of k-means stay bounded; all, if not more."""
    return rows[:: max(1, -(-len(rows) // KMEANS_ROWS))]


def fit_partition(vectors: npt.NDArray[np.float32], parts: int) -> Partition:
    """Return `parts` centroids by k-means on `vectors` (n, d), or as many as there are distinct rows.

    Runs on one thread: k-means adds up its centroids per thread, so that more threads give other last digits.

    Raises
    ------
    ValueError
        There is no row, or `parts` is below one.
    """
    if parts < 1 or len(vectors) == 0:
        raise ValueError(f"cannot make {parts} parts of {len(vectors)} rows")
    parts = min(parts, len(np.unique(vectors, axis=0)))
    with threadpool_limits(limits=1):
        found = KMeans(n_clusters=parts, n_init=_STARTS, random_state=_SEED).fit(vectors.astype(np.float64))
    # In a fixed order, so that a part's number says nothing about the start that found it.
    order = np.lexsort(found.cluster_centers_.T[::-1])
    return Partition(centroids=found.cluster_centers_[order])
