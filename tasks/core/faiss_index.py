"""The only module that imports faiss: an index over all embeddings, built without a single vote.

The flat index stores the vectors that propose neighbors (unit vectors for cosine, the embeddings themselves for L2).
Which proposal wins is decided elsewhere, in float64 on the embeddings.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

MetricName = Literal["cosine", "l2"]
_TYPES: dict[MetricName, Any] = {"cosine": faiss.IndexFlatIP, "l2": faiss.IndexFlatL2}


@dataclass(frozen=True, kw_only=True)
class FlatIndex:
    """An exact index on disk; `vectors` is a view of the mapped file, so only what is used is in memory."""

    metric: MetricName
    vectors: npt.NDArray[np.float32]
    """(n, d), in the order of item ids: unit vectors for cosine, the embeddings themselves for L2."""
    handle: Any
    """The faiss object that owns the memory of `vectors`."""


def normalize(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Unit vectors (n, d), each component within half a unit in the last place: divided in float64, then rounded.

    Raises
    ------
    ValueError
        A vector is zero or not finite.
    """
    norms = np.sqrt(np.multiply(vectors, vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise ValueError("a zero or non-finite vector has no direction")
    unit: npt.NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return unit


def build_index(batches: Iterable[npt.NDArray[np.float32]], *, d: int, metric: MetricName) -> Any:
    """A faiss flat index over the rows of `batches`, each (rows, `d`), in their order.

    Raises
    ------
    ValueError
        For cosine: a vector is zero or not finite.
    """
    index = _TYPES[metric](d)
    for batch in batches:
        vectors = normalize(batch) if metric == "cosine" else batch
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


def write_index(index: Any, path: Path) -> None:
    """Write a faiss index in faiss's own format; the same vectors give the same bytes.

    Raises
    ------
    OSError
        The file cannot be written in full.
    """
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"faiss cannot write {path}: {error}") from None


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
    for metric, kind in _TYPES.items():
        if type(index) is kind:
            vectors = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d) if index.ntotal else np.empty(0)
            shaped = vectors.astype(np.float32, copy=False).reshape(index.ntotal, index.d)
            return FlatIndex(metric=metric, vectors=shaped, handle=index)
    raise ValueError(f"it holds a {type(index).__name__}, not a flat index")
