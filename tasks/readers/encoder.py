"""Embeddings of texts and images by a model of one of the extras; a text or image is never encoded twice.

Vectors are cached by model and content (see tasks.cache.store), many to an entry.
"""

import hashlib
import io
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.cache import store
from tasks.cache.code import find_file, identify_code
from tasks.cache.store import Cache, identify
from tasks.compute.cluster import open_cluster
from tasks.core.types import Float32
from tasks.errors import DataError, ParamsError, StageError
from tasks.progress import Progress
from tasks.tables.scratch import open_scratch

CACHE_KIND = "encode"

BUDGET = 32 * 2**30
"""The cache's limit in bytes, some twenty million vectors of 384 floats: nothing else in the cache costs as much to compute."""

CHUNK = 4096
"""Texts per entry of the cache: a stopped run loses at most this many, and a million texts make some 250 entries."""


class ModelChoice(Protocol):
    """The fields of `EncoderParams` that encoding needs.

    Not imported from tasks.params: the cache key covers this module's imports, and an edit to another stage's params
    must not re-encode every text.
    """

    @property
    def model(self) -> str:
        """The model's public name, or a folder or a file inside the project."""

    @property
    def batch_size(self) -> int:
        """The number of texts per call of the model."""


class Encoder(Protocol):
    """Turns texts, or the bytes of image files, into vectors; a vector must not depend on the rest of its batch.

    (Except for rounding: models pad a batch to its longest text, which changes the last bits.)
    """

    def __call__(self, contents: Sequence[Any], /) -> npt.NDArray[np.floating]:
        """The vectors of `contents`, of shape (len(contents), d); NaN where one cannot be read."""


LoadEncoder = Callable[[Path, ModelChoice], Encoder]


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Vectors of n texts: text i has row `rows[i]` of `matrix`, float32 of shape (distinct texts, d), on disk."""

    matrix: Float32
    rows: npt.NDArray[np.int64]


def encode_texts(root: Path, texts: pl.Series, params: ModelChoice, load: LoadEncoder) -> EncodedTexts:
    """The vectors of `texts` (at least one, no nulls), from the cache where possible, else from the encoder.

    `load` is called only when a text is not in the cache.

    Raises
    ------
    EpoxyError
        The encoder cannot be loaded.
    ParamsError
        `params.model` leads out of the project.
    DataError
        The encoder does not return one vector per text, all of the same length.
    """
    # Sorted by length: batches need little padding, and do not depend on the order of the items.
    distinct = texts.unique().sort()
    distinct = distinct.gather(distinct.str.len_bytes().arg_sort())
    keys = [hashlib.sha256(text.encode()).digest() for text in distinct]
    matrix = encode_distinct(root, keys, distinct.gather, params, load, CHUNK)
    rows_of = texts.replace_strict(distinct, range(len(distinct)), return_dtype=pl.Int64)
    return EncodedTexts(matrix=matrix, rows=rows_of.to_numpy())


def encode_distinct(
    root: Path,
    keys: Sequence[bytes],
    fetch: Callable[[list[int]], pl.Series],
    params: ModelChoice,
    load: LoadEncoder,
    size: int,
) -> Float32:
    """The vectors (n, d), on disk, of n contents whose SHA-256 digests are `keys`, at least one and each another.

    `fetch` gives the contents at some positions, text or bytes; it is called for those alone that are not in the cache, and for
    `size` of them at a time, which become an entry of the cache.

    Raises
    ------
    EpoxyError
        As for `encode_texts`, or `fetch` raises it.
    """
    model = _identify_model(root, params.model)
    prefix = identify(model, _identify_loader(load))[:32]
    matrix: Float32 | None = None
    missing = dict(zip(keys, range(len(keys)), strict=True))
    with Cache(root, CACHE_KIND, budget=BUDGET) as kept:
        for entry in kept.read_all(prefix):
            chunk = _unpack(entry)
            known = [(row, missing.pop(key)) for row, key in enumerate(chunk.keys) if key in missing]
            if known:
                matrix = _fit(matrix, root, len(keys), chunk.vectors, params.model)
                source, target = zip(*known, strict=True)
                matrix[list(target)] = chunk.vectors[list(source)]
        if missing:
            rows = list(missing.values())
            job = _Job(params=params, identity=model, load=load)
            with Progress("encode", total=len(rows)) as progress:
                parts = (fetch(rows[start : start + size]) for start in range(0, len(rows), size))
                for number, vectors in enumerate(_encode_parts(root, job, parts, progress)):
                    part = rows[number * size : (number + 1) * size]
                    matrix = _fit(matrix, root, len(keys), vectors, params.model)
                    matrix[part] = vectors
                    entry = _pack(_Chunk(keys=[keys[row] for row in part], vectors=vectors))
                    kept.write(f"{prefix}-{hashlib.sha256(entry).hexdigest()}", entry)
    assert matrix is not None, "nothing to encode"
    return matrix


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The encoder's part of a request to a worker."""

    params: ModelChoice
    identity: str
    """The model's identity, from `_identify_model`."""
    load: LoadEncoder


def _encode_parts(root: Path, job: _Job, parts: Iterator[pl.Series], progress: Progress) -> Iterator[Float32]:
    """The vectors of each of `parts`, here or on the workers of a cluster."""
    with open_cluster() as cluster:
        if cluster is None:
            encoder = job.load(root, job.params)
            for texts in parts:
                yield _encode(encoder, texts, job.params, progress)
        else:
            for texts, vectors in cluster.spread(partial(encode_shard, job), parts, name=_describe):
                progress.advance(len(texts))
                yield vectors


def encode_shard(job: _Job, texts: pl.Series) -> Float32:
    """The vectors of `texts` or images; runs on a worker, which loads a model once, from a copy of the project's folder."""
    with _loading:
        if job.identity not in _encoders:
            if _identify_model(Path(), job.params.model) != job.identity:
                raise StageError(
                    f"ingest.encoder: the folder {job.params.model} of a worker on {platform.node()} is not that of "
                    f"this project. Start workers in a copy of the project's folder ({Path.cwd()} there) with the model."
                )
            _encoders.clear()
            _encoders[job.identity] = job.load(Path(), job.params)
        encoder = _encoders[job.identity]
    with Progress("encode", total=len(texts)) as progress:
        return _encode(encoder, texts, job.params, progress)


_loading = threading.Lock()
_encoders: dict[str, Encoder] = {}
"""The model that this worker has loaded, by identity."""


def _describe(texts: pl.Series) -> str:
    return f"{len(texts):,} texts from {texts[0][:40]!r} on" if texts.dtype == pl.String else f"{len(texts):,} images"


def _encode(encoder: Encoder, texts: pl.Series, params: ModelChoice, progress: Progress) -> Float32:
    """The vectors of `texts`, encoded in batches."""
    batches: list[Float32] = []
    for start in range(0, len(texts), params.batch_size):
        batch = texts[start : start + params.batch_size].to_list()
        vectors = np.asarray(encoder(batch))
        if vectors.ndim != 2 or len(vectors) != len(batch) or vectors.shape[1:] != (batches or [vectors])[0].shape[1:]:
            kind = "text" if texts.dtype == pl.String else "image"
            raise DataError(
                f"ingest.encoder: '{params.model}' gave an array of shape {vectors.shape} for {len(batch)} {kind}s; "
                f"expected one vector per {kind}, all of one length."
            )
        batches.append(vectors.astype(np.float32))
        progress.advance(len(batch))
    return np.concatenate(batches)


def _fit(matrix: Float32 | None, root: Path, n: int, vectors: Float32, model: str) -> Float32:
    """`matrix`, or a new matrix of n rows if it is None, once `vectors` are checked to have its width."""
    if matrix is None:
        return open_scratch(root / store.FOLDER, (n, vectors.shape[1]), np.float32)
    if matrix.shape[1] != vectors.shape[1]:
        raise DataError(
            f"ingest.encoder: '{model}' gives vectors of length {vectors.shape[1]}, and {matrix.shape[1]} before. "
            f"Delete {store.FOLDER / CACHE_KIND} if the model behind this name has changed."
        )
    return matrix


def _identify_loader(load: LoadEncoder) -> str:
    """The digest of the code that encodes: this module, and that of the loader with the libraries it imports.

    Of the other loaders nothing, or a library that is not installed would make it depend on all that is.
    """
    module = getattr(load, "__module__", "")
    loader = module if find_file(module) is not None else "tasks.readers.sentence_encoder"
    return identify_code("tasks.readers.encoder", loader)


def _identify_model(root: Path, model: str) -> str:
    """The name of the model's folder in the cache: a digest of its files, or of its public name."""
    if Path(model).is_absolute() or ".." in Path(model).parts:
        raise ParamsError(f"params.yaml: 'ingest.encoder.model': {model!r} leads out of the project.")
    digest = hashlib.sha256(model.encode())
    path = root / model
    if path.is_file():  # what it says lies beside it, or one folder above
        folder = path.parent.parent if path.parent.name == "onnx" else path.parent
        found = [path, *path.parent.glob(f"{path.name}?*"), *folder.glob("*.json"), *folder.glob("1_Pooling/*.json")]
    else:
        folder, found = path, [*path.rglob("*")] if path.is_dir() else []
    for file in sorted(found):
        if file.is_file():
            digest.update(str(file.relative_to(folder)).encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Vectors, float32 of shape (len(keys), d), and the SHA-256 digests of their texts."""

    keys: list[bytes]
    vectors: Float32


def _pack(chunk: _Chunk) -> bytes:
    """A chunk as the bytes of a cache entry."""
    packed = io.BytesIO()
    keys = np.frombuffer(b"".join(chunk.keys), dtype=np.uint8).reshape(-1, hashlib.sha256().digest_size)
    np.savez(packed, keys=keys, vectors=chunk.vectors)
    return packed.getvalue()


def _unpack(entry: bytes) -> _Chunk:
    """The chunk in the bytes of a cache entry."""
    with np.load(io.BytesIO(entry), allow_pickle=False) as stored:
        return _Chunk(keys=[key.tobytes() for key in stored["keys"]], vectors=stored["vectors"])
