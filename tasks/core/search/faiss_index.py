"""The only module that imports faiss: an index over all embeddings, built without a single vote, and k-means.

The flat index stores the vectors that search, fit and train read: unit vectors for cosine, the embeddings themselves for L2.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from tasks.core.types import MetricName
from tasks.core.unit_vectors import to_index_vectors

_BLOCK = 16_384
"""Vectors looked at at a time."""

_POINTS = 64
"""Items per cell that k-means sees: more hardly move the centers, and the sample stays small (n = 10^6: 128,000)."""

ROUNDS = 10
"""Iterations of k-means; the cells need not be optimal, only compact."""

_SMALLEST = 32
"""Items per cell at least, on average: below, products are of too few rows to be fast."""

_VISITED = 40_000
"""Support vectors that an item is predicted to be compared with: some 20 LFs of 2,000 members each."""

_NIGHTS, _NEW = 365, 100
"""A year: the first search, and nights in each of which one row of a hundred is new."""

_COMFORT = (2.0**-30, 2.0**30)
"""Largest components that are left as they are: sums of their squares are far from both ends of float32."""

_TYPES: dict[MetricName, Any] = {"cosine": faiss.IndexFlatIP, "l2": faiss.IndexFlatL2}


@dataclass(frozen=True, kw_only=True)
class FlatIndex:
    """An exact index on disk; `vectors` is the mapped file, so only what is used is in memory."""

    metric: MetricName
    vectors: npt.NDArray[np.float32]
    """(n, d), in the order of item ids: unit vectors for cosine, the embeddings themselves for L2."""


def write_index(batches: Iterable[npt.NDArray[np.float32]], path: Path, *, d: int, metric: MetricName) -> None:
    """Write a faiss flat index over the rows of `batches`, each (rows, `d`), in their order: one batch in memory at most.

    The bytes are those of `faiss.write_index`, which needs all vectors in memory.

    Raises
    ------
    ValueError
        For cosine: a vector is zero or not finite.
    OSError
        The file cannot be written in full.
    """
    n = 0
    with path.open("wb") as file:
        file.write(_make_header(0, d, metric))
        for batch in batches:
            file.write(np.ascontiguousarray(to_index_vectors(batch, metric), dtype=np.float32).data)
            n += len(batch)
        file.seek(0)
        file.write(_make_header(n, d, metric))


def _make_header(n: int, d: int, metric: MetricName) -> bytes:
    """What faiss writes before the vectors: those of an empty index, with the number of items and that of values."""
    index = _TYPES[metric](d)
    header = _fill_header(faiss.serialize_index(index).tobytes(), n, d)
    index.add(np.ones((1, d), np.float32))
    sample = faiss.serialize_index(index).tobytes()
    if _fill_header(sample[: len(header)], n, d) != header or len(sample) != len(header) + 4 * d:
        raise AssertionError("faiss writes flat indices in another form than this module does")
    return header


def _fill_header(header: bytes, n: int, d: int) -> bytes:
    return header[:8] + n.to_bytes(8, "little") + header[16:-8] + (n * d).to_bytes(8, "little")


def read_index(path: Path) -> FlatIndex:
    """The flat index at `path`, mapped rather than loaded.

    Raises
    ------
    ValueError
        The file is not a flat index that faiss can read; it may be truncated.
    """
    try:
        index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ValueError(f"faiss cannot read it: {error}") from None
    n, d = index.ntotal, index.d
    for metric, kind in _TYPES.items():
        if type(index) is kind:
            return FlatIndex(metric=metric, vectors=_map_vectors(path, n, d, len(_make_header(n, d, metric))))
    raise ValueError(f"it holds a {type(index).__name__}, not a flat index")


def _map_vectors(path: Path, n: int, d: int, start: int) -> npt.NDArray[np.float32]:
    """The vectors (n, d) in the file at `path`, from byte `start` on."""
    if not n:
        return np.empty((0, d), np.float32)
    return np.asarray(np.memmap(path, np.float32, "r", start, (n, d)))


def count_cells(n: int) -> int:
    """How many cells suit `n` items: twice the square root, so that finding cells costs less than searching them."""
    return max(1, min(round(2 * math.sqrt(n)), n // _SMALLEST))


def predict_exact_year(n: int) -> int:
    """Pairs of vectors compared, at most, when `n` items are searched exactly in a year, whatever the votes.

    Once all with all; then, each night, the new items with all, and all with the new members of the support.
    """
    return n * n + (_NIGHTS - 1) * 2 * n * (n // _NEW)


def predict_approximate_year(n: int) -> int:
    """Pairs of vectors compared when `n` items are searched approximately in a year, with a typical effort.

    New items move the cells, so that each night trains, assigns and searches all of them.
    """
    cells = count_cells(n)
    return _NIGHTS * (cells * cells * _POINTS * ROUNDS + n * cells + n * min(n, _VISITED))


def is_approximate_worth_it(n: int) -> bool:
    """Whether `n` items are predicted to be searched approximately with fewer comparisons in a year than exactly.

    Of the content, only the number of items decides: both costs grow alike with dimensions, and LFs come and go.
    """
    return predict_exact_year(n) > predict_approximate_year(n)


def find_scale(vectors: npt.NDArray[np.float32]) -> float:
    """The power of two to multiply `vectors` (n, d) with before faiss squares them in float32; mostly 1.

    Squares of numbers beyond 10^19 are infinite, on which faiss ends the process, and those below 10^-19 are 0.
    """
    largest = max(
        (float(np.abs(vectors[start : start + _BLOCK]).max()) for start in range(0, len(vectors), _BLOCK)), default=1.0
    )
    return 1.0 if _COMFORT[0] <= largest <= _COMFORT[1] or not largest else 2.0 ** min(-math.frexp(largest)[1], 126)


def find_centers(
    vectors: npt.NDArray[np.float32], *, cells: int, metric: MetricName, rounds: Iterable[int], scale: float = 1.0
) -> npt.NDArray[np.float32]:
    """The centers (cells, d) that k-means finds on a sample of `vectors` (n, d), times `scale`.

    In as many iterations as `rounds` has.

    The sample is drawn by a fixed seed. Peak memory: the sample, 4 d bytes for each of 64 items per cell.
    """
    n, d = vectors.shape
    quantizer = _TYPES[metric](d)
    training = faiss.Clustering(d, cells)
    training.seed, training.spherical = 0, metric == "cosine"
    # faiss would otherwise draw a sample itself, and warn if it is small.
    training.max_points_per_centroid, training.min_points_per_centroid = n, 1
    # One iteration goes on from the centers of the last, so that each can be seen to end.
    training.niter = 1
    sample = vectors[np.sort(np.random.default_rng(0).choice(n, min(n, _POINTS * cells), replace=False))]
    sample = sample * np.float32(scale)
    for _ in rounds:
        training.train(sample, quantizer)
    centers: npt.NDArray[np.float32] = faiss.vector_to_array(training.centroids).reshape(cells, d)
    return centers


def find_tightest_centers(vectors: npt.NDArray[np.float32], centers: int, *, starts: int) -> npt.NDArray[np.float32]:
    """The tightest of `starts` sets of `centers` (centers, d) that k-means finds among all `vectors` (n, d), for L2.

    Each start draws its first centers far apart (k-means++), by a fixed seed. `vectors` have at least so many distinct rows.
    FAISS and BLAS promise the same digits for the same number of threads only.
    """
    training = faiss.Clustering(vectors.shape[1], centers)
    training.init_method, training.nredo, training.seed = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS, starts, 0
    training.max_points_per_centroid, training.min_points_per_centroid = len(vectors), 1
    training.train(np.ascontiguousarray(vectors), faiss.IndexFlatL2(vectors.shape[1]))
    return faiss.vector_to_array(training.centroids).reshape(centers, vectors.shape[1])
