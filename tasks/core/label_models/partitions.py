"""Partitions of the embedding space, so that an LF can be trusted in some regions and not in others.

Source: Chen et al., "Shoring Up the Foundations: Fusing Model Embeddings and Weak Supervision" (Liger), UAI 2022,
arXiv 2203.13270, section 4: partition the space, then estimate a label model on each part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.core.progress_callback import Advance, count_steps, ignore_progress
from tasks.core.search.faiss_index import find_tightest_centers
from tasks.core.threads import one_thread
from tasks.core.types import Int8

_STARTS = 4
"""Runs of k-means from different seeds, of which the tightest is used."""

KMEANS_ROWS = 20_000
"""Most rows for k-means: over a thousand for each of sixteen parts, enough to settle their centroids."""

_BLOCK = 8192
"""Rows assigned at a time, which bounds memory."""


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Centroids, float64 of shape (t, d); an item belongs to the nearest, and on a tie to the first of them."""

    centroids: npt.NDArray[np.float64]

    def assign(self, vectors: npt.NDArray[np.float32]) -> Int8:
        """Return the part, 0..t-1, of each row of `vectors` (n, d), (n,); t is at most 127."""
        return assign_parts([self], vectors)[0]


def assign_parts(
    partitions: Sequence[Partition], vectors: npt.NDArray[np.float32], advance: Advance = ignore_progress
) -> list[Int8]:
    """Return what each of `partitions` assigns the rows of `vectors` (n, d) to, which are read once for all; see `Partition.assign`.

    `advance` receives a single piece of work.
    """
    halves = [np.einsum("td,td->t", partition.centroids, partition.centroids) / 2 for partition in partitions]
    parts = [np.empty(len(vectors), np.int8) for _ in partitions]
    starts = range(0, len(vectors), _BLOCK)
    # Rounding could decide between equally near centroids, and BLAS's rounding depends on the number of threads.
    with one_thread(), count_steps(advance, len(starts)) as step:
        for start in starts:
            block = vectors[start : start + _BLOCK].astype(np.float64)
            for part, partition, half in zip(parts, partitions, halves, strict=True):
                part[start : start + _BLOCK] = np.argmax(block @ partition.centroids.T - half, axis=1)
            step(1)
    return parts


def thin_rows(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return `rows`, or an evenly spaced `KMEANS_ROWS` of them if there are more, to bound the time and memory of k-means."""
    return rows[:: max(1, -(-len(rows) // KMEANS_ROWS))]


def fit_partition(vectors: npt.NDArray[np.float32], parts: int) -> Partition:
    """Return `parts` centroids by k-means on `vectors` (n, d), or fewer if there are fewer distinct rows.

    It runs on a single thread, as the last digits of products depend on the number of threads.

    Raises
    ------
    ValueError
        There are no rows, or `parts` is below 1.
    """
    if parts < 1 or len(vectors) == 0:
        raise ValueError(f"cannot make {parts} parts of {len(vectors)} rows")
    parts = _count_distinct(vectors, parts)
    with one_thread():
        found = find_tightest_centers(vectors, parts, starts=_STARTS).astype(np.float64)
    # Sorted, so that a part's number does not depend on which start found it.
    return Partition(centroids=found[np.lexsort(found.T[::-1])])


def _count_distinct(vectors: npt.NDArray[np.float32], enough: int) -> int:
    """Return the number of distinct rows of `vectors` (n, d), or `enough` if there are more."""
    seen: set[bytes] = set()
    for row in vectors:
        seen.add((row + np.float32(0)).tobytes())  # 0 and -0 are equal, and their sum with 0 is 0
        if len(seen) == enough:
            break
    return len(seen)
