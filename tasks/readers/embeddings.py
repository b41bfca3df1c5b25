"""Raw embeddings: from .npy, .npz or Parquet files, or computed from a column of texts or images, each with its item's id."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as arrow
import pyarrow.compute as compute
import pyarrow.parquet as parquet

from tasks.core.tfidf import TfidfEncoder, fit_tfidf
from tasks.core.types import ITEM_ID
from tasks.errors import DataError, ParamsError
from tasks.params import PIXELS, TFIDF, EncoderParams, IngestParams, Reads, Split
from tasks.progress import Progress
from tasks.readers import encoder, onnx_encoder, onnx_image_encoder, pixel_encoder, sentence_encoder
from tasks.readers.files import explain_foreign_errors, find_files, require_one_suffix
from tasks.readers.ids import concatenate_ids, ids_from_array, mark_last, normalize_ids, read_embedding_ids
from tasks.readers.images import encode_images, find_images
from tasks.readers.quarantine import Note, Quarantine, Reason, name_rows
from tasks.readers.raw_tables import read_stored_column
from tasks.tables.image_digests import DIGEST
from tasks.tables.parquet import ROW_GROUP
from tasks.tables.paths import EMBEDDINGS
from tasks.tables.saved_encoder import read_encoder
from tasks.tables.scratch import open_scratch
from tasks.tables.validation import SHOWN, name_first, name_first_where

_DEFLATE = 1032
"""DEFLATE's highest possible compression ratio."""

_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Vectors as they were read: item `ids[i]` has row `rows[i]` of `matrix`, floats of shape (any, d), maybe on disk.

    `files`: where the rows are from, in their order, `lengths` of them each; empty if they were computed. `encoder`: the TF-IDF encoder that
    computed them, None for other encoders and for files. `columns`: columns of the items, all of them in their order, that
    replace those of the file or come after them.
    """

    ids: pl.Series
    matrix: npt.NDArray[np.floating]
    rows: npt.NDArray[np.int64]
    files: tuple[Path, ...] = ()
    lengths: tuple[int, ...] = ()
    encoder: TfidfEncoder | None = None
    columns: tuple[pl.Series, ...] = ()


def encode_items(
    root: Path,
    source: Path,
    items: pl.DataFrame,
    params: EncoderParams,
    known: Mapping[Path, pl.Series],
    quarantine: Quarantine,
    load: encoder.LoadEncoder | None = None,
) -> Embeddings:
    """Embeddings of a column of the items, by what `load` loads, else by the extra that the model needs.

    `known`: ids by file of items. Items whose image cannot be read are noted in `quarantine`, if they may fail.

    Raises
    ------
    DataError
        The column is missing, is not text (or of images), or lacks a text or an image.
    """
    if params.reads is Reads.IMAGES:
        return _encode_images(root, source, items, params, known, quarantine, load)
    if params.column not in items.columns or items[params.column].dtype != pl.String:
        others = [name for name, dtype in items.schema.items() if dtype == pl.String and name not in (ITEM_ID, "split")]
        raise DataError(
            f"ingest.encoder.column: '{params.column}' is no text column of the items; text columns are "
            f"{', '.join(others) or 'none'}."
        )
    texts, ids = items[params.column], items[ITEM_ID]
    if texts.has_nulls():
        raise DataError(
            f"ingest.encoder.column: {texts.null_count():,} items have no '{params.column}', first ids "
            f"{name_first_where(ids, texts.is_null())}. Give each a text, or leave them out."
        )
    if params.model == TFIDF or params.model.endswith(".parquet"):
        fitted = _fit_or_read(source, items, params)
        matrix = _encode_in_blocks(root, texts, fitted)
        return Embeddings(ids=ids, matrix=matrix, rows=np.arange(len(ids)), encoder=fitted)
    encoded = encoder.encode_texts(root, texts, params, load or choose_loader(params.model))
    return Embeddings(ids=ids, matrix=encoded.matrix, rows=encoded.rows)


def _encode_images(
    root: Path,
    source: Path,
    items: pl.DataFrame,
    params: EncoderParams,
    known: Mapping[Path, pl.Series],
    quarantine: Quarantine,
    load: encoder.LoadEncoder | None,
) -> Embeddings:
    """Embeddings of a column of images; of paths also the columns that say from the project's folder where and what they are."""
    name, ids = DIGEST.format(params.column), items[ITEM_ID]
    found = find_images(root, source, items, params.column, known)
    if found.contents is None and name in items.columns:
        raise DataError(
            f"{source}: column '{name}' of the items is what ingest writes beside the paths in '{params.column}'. Rename it."
        )
    pixels = params.model == PIXELS
    encoded = encode_images(root, found, params, load or (pixel_encoder if pixels else onnx_image_encoder).load_encoder)
    if encoded.problems:
        failed, reasons = ids.gather(list(encoded.problems)), list(encoded.problems.values())
        if quarantine.is_on:
            quarantine.add_items(failed, Reason.BAD_IMAGE, reasons, known)
        else:
            lines = name_rows(source, failed[:SHOWN], Reason.BAD_IMAGE, reasons[:SHOWN], known)
            shown = "\n".join(f"  {line}" for line in lines)
            raise DataError(
                f"ingest.encoder.column: '{params.column}' of {len(failed):,} items is no image that can be read:\n{shown}\n"
                "Correct the files, leave the items out, or allow some to fail with ingest.quarantine."
            )
    columns: tuple[pl.Series, ...] = ()
    if found.contents is None:
        paths = [None if file is None else os.path.relpath(file, root) for file in found.files]
        digests = [None if digest is None else digest.hex() for digest in found.digests]
        columns = (pl.Series(params.column, paths, pl.String), pl.Series(name, digests, pl.String))
    return Embeddings(ids=ids.gather(encoded.items), matrix=encoded.matrix, rows=encoded.rows, columns=columns)


def choose_loader(model: str) -> encoder.LoadEncoder:
    """What loads the encoder `model`: ONNX Runtime a file that ends in .onnx, sentence-transformers all else."""
    return onnx_encoder.load_encoder if model.endswith(onnx_encoder.SUFFIX) else sentence_encoder.load_encoder


def _fit_or_read(source: Path, items: pl.DataFrame, params: EncoderParams) -> TfidfEncoder:
    """The encoder fitted on the texts of train, or read from the file that `params` names."""
    if params.model != TFIDF:
        (file,) = find_files(source, params.model, "encoder.model")[:1]
        return read_encoder(file)
    learned = items.filter(pl.col("split") == Split.TRAIN)[params.column]
    if learned.is_empty():
        raise DataError("ingest.encoder: tfidf is fitted on the texts of train, but no item is of train. Add some.")
    return fit_tfidf(learned.to_list(), params.dimensions)


def _encode_in_blocks(root: Path, texts: pl.Series, encode: TfidfEncoder) -> npt.NDArray[np.float32]:
    """The vectors of `texts`, a row each, in a memory-mapped file."""
    matrix = open_scratch((root / EMBEDDINGS).parent, (len(texts), len(encode.fallback)), np.float32)
    with Progress("encode", total=len(texts)) as progress:
        for start in range(0, len(texts), ROW_GROUP):
            block = texts[start : start + ROW_GROUP].to_list()
            matrix[start : start + len(block)] = encode(block)
            progress.advance(len(block))
    return matrix


def read_embeddings(
    root: Path,
    source: Path,
    id_type: pl.DataType,
    params: IngestParams,
    known: Mapping[Path, pl.Series],
    quarantine: Quarantine,
) -> Embeddings:
    """Embeddings from files below `source`; .npy and .parquet are read a block at a time.

    Rows that fail are noted in `quarantine` and left out, if they may fail.

    Parameters
    ----------
    id_type
        The type of the items' ids.
    known
        Ids by file, for files that were already read as items.

    Raises
    ------
    ParamsError
        A path leads out of the source, or `params.embedding_ids` is missing or superfluous.
    DataError
        A file is missing, damaged or does not hold embeddings.
    """
    assert params.embeddings is not None, "IngestParams requires a file or an encoder"
    files = find_files(source, params.embeddings, "embeddings")
    where = f"{params.source}/{params.embeddings}"
    suffix = require_one_suffix(files)
    lengths: dict[Path, int]
    if suffix != ".npy" and params.embedding_ids is not None:
        raise ParamsError(
            f"params.yaml: 'ingest.embedding_ids' is only for .npy; {params.embeddings} holds its own ids. Remove it."
        )
    match suffix:
        case ".npy":
            arrays = [_open_array(file) for file in files]
            lengths = {file: len(array) for file, array in zip(files, arrays, strict=True)}
            ids = read_embedding_ids(source, id_type, lengths, params, known, quarantine.note_rows)
            matrix = _stack(root, arrays, where)
        case ".npz":
            with_ids = [_read_npz(file) for file in files]
            lengths = {file: len(part.ids) for file, part in zip(files, with_ids, strict=True)}
            ids = concatenate_ids(
                [
                    normalize_ids(part.ids, where, quarantine.note_rows(file))
                    for file, part in zip(files, with_ids, strict=True)
                ],
                where,
            )
            matrix = _stack(root, [part.matrix for part in with_ids], where)
        case ".parquet":
            with ExitStack() as opened:
                # Ids and vectors from the same open file: between two openings it could be replaced.
                stored = {file: opened.enter_context(_open_parquet(file)) for file in files}
                lengths = {file: table.metadata.num_rows for file, table in stored.items()}
                ids = concatenate_ids(
                    [
                        _read_id_column(file, table, params, where, quarantine.note_rows(file))
                        for file, table in stored.items()
                    ],
                    where,
                )
                matrix = _read_vectors(root, stored, ids, where, is_strict=not quarantine.is_on)
        case _:
            raise DataError(f"{where}: expected embeddings in .npy (with ingest.embedding_ids), .npz or .parquet.")
    if len(ids) != len(matrix):
        raise DataError(
            f"{where}: {len(matrix):,} rows, but {len(ids):,} ids in {params.embedding_ids or 'it'}. Ids and rows must be "
            "of the same items in the same order."
        )
    present = ids.is_not_null()
    return Embeddings(
        ids=ids.filter(present),
        matrix=matrix,
        rows=np.flatnonzero(present.to_numpy()),
        files=tuple(lengths),
        lengths=tuple(lengths.values()),
    )


def _open_array(path: Path) -> npt.NDArray[np.floating]:
    """The matrix in a .npy file, left on disk."""
    with explain_foreign_errors(path):
        return _require_matrix(path, np.lib.format.open_memmap(path, mode="r"))


def _read_npz(path: Path) -> Embeddings:
    """The ids and embeddings in a .npz file."""
    with explain_foreign_errors(path), np.load(path, allow_pickle=False) as stored:
        if missing := sorted({"ids", "embeddings"} - set(stored.files)):
            raise DataError(
                f"{path}: no array {' and '.join(missing)}; it has {', '.join(stored.files) or 'none'}. "
                "Write it with numpy.savez(path, ids=..., embeddings=...)."
            )
        _require_plausible(path)
        ids, matrix = ids_from_array(path, stored["ids"]), _require_matrix(path, stored["embeddings"])
    if len(ids) != len(matrix):
        raise DataError(f"{path}: {len(matrix):,} embeddings, but {len(ids):,} ids.")
    return Embeddings(ids=ids, matrix=matrix, rows=np.arange(len(ids)))


def _require_plausible(path: Path) -> None:
    """Check, before unpacking, that a .npz holds as many bytes as it declares, and no more than fit in memory."""
    total = 0
    with ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                declared = _measure_array(file)
            if declared != member.file_size or declared > _DEFLATE * max(member.compress_size, 1):
                raise DataError(
                    f"{path}: array '{member.filename}' declares {declared:,} bytes, but the file holds "
                    f"{member.compress_size:,} bytes of it that unpack to {member.file_size:,}. Write it again."
                )
            total += declared
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if total > memory:
        raise DataError(
            f"{path}: {total:,} bytes unpacked, but this machine has {memory:,} bytes of memory. Write the embeddings "
            "as .npy, which is read from disk."
        )


def _measure_array(file: IO[bytes]) -> int:
    """The size in bytes that the header of an array in NumPy's format declares, the header included."""
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"version {version} of NumPy's format is neither for numbers nor for text")
    shape, _, kind = _READ_HEADER[version](file)
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are never opened")
    return file.tell() + math.prod(shape) * int(kind.itemsize)


def _require_matrix(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
    """`array` itself, once checked to be a matrix of floats."""
    if array.ndim != 2 or array.shape[1] == 0 or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{path}: embeddings are {array.dtype} of shape {array.shape}; expected float16, float32 or float64 of shape "
            "(items, dimensions)."
        )
    return array


def _stack(root: Path, arrays: Sequence[npt.NDArray[np.floating]], where: str) -> npt.NDArray[np.floating]:
    """The rows of all `arrays` as one matrix, never all in memory at once."""
    widths = sorted({array.shape[1] for array in arrays})
    if len(widths) > 1:
        raise DataError(f"{where}: files have embeddings of different dimensions: {', '.join(map(str, widths))}.")
    if len(arrays) == 1:
        return arrays[0]
    stacked = open_scratch((root / EMBEDDINGS).parent, (sum(map(len, arrays)), widths[0]), np.float32)
    at = 0
    with Progress("joining embeddings", total=len(stacked)) as progress:
        for array in arrays:
            for start in range(0, len(array), ROW_GROUP):
                block = array[start : start + ROW_GROUP]
                stacked[at : at + len(block)] = to_float32(block)
                at += len(block)
                progress.advance(len(block))
    return stacked


def to_float32(block: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """`block` as float32; values beyond its range become infinite, which is reported when embeddings are written."""
    with np.errstate(over="ignore"):
        return np.asarray(block, dtype=np.float32)


def _open_parquet(path: Path) -> parquet.ParquetFile:
    """The Parquet file at `path`, open for reading one row group at a time."""
    with explain_foreign_errors(path):
        # Pre-buffering would read all row groups at once.
        return parquet.ParquetFile(path, pre_buffer=False)


def _read_id_column(
    path: Path, stored: parquet.ParquetFile, params: IngestParams, where: str, note: Note | None
) -> pl.Series:
    """The ids in an open Parquet file."""
    with explain_foreign_errors(path):
        ids = read_stored_column(stored, params.item_id)
    if ids is None:
        raise DataError(f"{where}: no column '{params.item_id}' (ingest.item_id in params.yaml) in {path.name}.")
    return normalize_ids(ids, where, note)


def _read_vectors(
    root: Path, stored: Mapping[Path, parquet.ParquetFile], ids: pl.Series, where: str, *, is_strict: bool
) -> npt.NDArray[np.floating]:
    """The vectors in the list columns of open Parquet files as a matrix on disk, with a row for each of `ids`.

    A vector of another dimension is an error, or a row of NaN unless `is_strict`.
    """
    matrix: npt.NDArray[np.float32] | None = None
    wrong: list[int] = []
    at = 0
    for file, table in stored.items():
        for column in _read_lists(file, table, where):
            lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
            if matrix is None:
                matrix = open_scratch((root / EMBEDDINGS).parent, (len(ids), _find_width(lengths, where)), np.float32)
            fits = lengths == matrix.shape[1]
            wrong.extend((at + np.flatnonzero(~fits)).tolist())
            if fits.all() or not is_strict:
                # A missing number becomes NaN here, and is reported as NaN.
                flat = column.filter(arrow.array(fits)).flatten().to_numpy(zero_copy_only=False)
                block = matrix[at : at + len(column)]
                block[~fits] = np.nan
                block[fits] = to_float32(flat.reshape(-1, matrix.shape[1]))
            at += len(column)
    if matrix is None:
        raise DataError(f"{where}: no embeddings; expected at least one row.")
    if wrong and is_strict:
        raise DataError(
            f"{where}: {len(wrong):,} embeddings are missing or of a dimension other than {matrix.shape[1]}, first ids "
            f"{name_first(ids.gather(wrong))}."
        )
    return matrix


def _read_lists(path: Path, stored: parquet.ParquetFile, where: str) -> Iterator[arrow.Array]:
    """The list column of an open Parquet file, in non-empty pieces."""
    with explain_foreign_errors(path):
        name = _find_vectors(stored.schema_arrow, where)
        batches = stored.iter_batches(batch_size=ROW_GROUP, columns=[name])
    while True:
        with explain_foreign_errors(path):
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)  # a damaged length would otherwise read beyond the column's memory
        if batch is None:
            return
        if len(batch):
            column = batch.column(0)
            yield column.storage if isinstance(column, arrow.ExtensionArray) else column


def _find_vectors(schema: arrow.Schema, where: str) -> str:
    """The name of the column that holds lists of floats: `embedding` if several columns do."""
    found: list[str] = [field.name for field in schema if _is_list_of_floats(field.type)]
    if "embedding" in found:
        return "embedding"
    if len(found) != 1:
        held = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(
            f"{where}: {len(found)} columns hold lists of float16, float32 or float64"
            + (
                f": {', '.join(found)}; expected one, or one called 'embedding'."
                if found
                else f"; it has {held or 'none'}."
            )
        )
    return found[0]


def _is_list_of_floats(kind: arrow.DataType) -> bool:
    """Whether a column of this type can hold embeddings."""
    types = arrow.types
    if isinstance(kind, arrow.FixedShapeTensorType) and len(kind.shape) == 1:
        kind = kind.storage_type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_floating(kind.value_type))


def _find_width(lengths: npt.NDArray[np.number], where: str) -> int:
    """The most frequent of the first embeddings' dimensions; `lengths` is NaN where an embedding is missing."""
    widths, counts = np.unique(lengths[lengths > 0], return_counts=True)
    if not widths.size:
        raise DataError(f"{where}: the first {len(lengths):,} embeddings are missing or empty.")
    return int(widths[counts.argmax()])


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Items with an embedding: `ids`, ascending, and the row of each in the matrix, int64 of shape (n,)."""

    ids: pl.Series
    rows: npt.NDArray[np.int64]


def match_rows(
    ids: pl.Series, found: Embeddings, params: IngestParams, known: Mapping[Path, pl.Series], quarantine: Quarantine
) -> Matched:
    """The row in `found.matrix` of each of `ids`, ascending; `known`: ids by file of items.

    Items and embeddings without each other are noted in `quarantine` and left out, if they may fail.

    Raises
    ------
    DataError
        The ids are not the same as those of the embeddings.
    """
    with Progress("matching embeddings with items", total=_MATCHING) as progress:
        return _match(ids, found, params, known, quarantine, progress)


_MATCHING = 3
"""Units of work: doubled ids, items and embeddings without each other, the order of ids."""


def _match(
    ids: pl.Series,
    found: Embeddings,
    params: IngestParams,
    known: Mapping[Path, pl.Series],
    quarantine: Quarantine,
    progress: Progress,
) -> Matched:
    where = f"{params.source}/{params.embeddings}"
    if found.ids.dtype != ids.dtype:
        cure = (
            f"CSV has no types: add 'types: {{{params.item_id}: integer}}' below ingest in params.yaml."
            if ids.dtype == pl.String and params.items.lower().endswith(".csv")
            else "Write both alike."
        )
        raise DataError(f"{where}: ids are {found.ids.dtype}, but {ids.dtype} in {params.items}. {cure}")
    bad: list[pl.Series] = []
    kept = mark_last(
        found.ids, where, params, found.files, (lambda mask, *_: bad.append(mask)) if quarantine.is_on else None
    )
    if bad:
        _note_embeddings(found, bad[0], Reason.DOUBLED_ID, quarantine)
        kept = ~bad[0]
    progress.advance()
    found_ids, found_rows = found.ids.filter(kept), found.rows[kept.to_numpy()]
    if quarantine.is_on:
        lonely = ids.filter(~ids.is_in(found_ids.implode()))
        quarantine.add_items(lonely, Reason.NO_EMBEDDING, [None] * len(lonely), known)
        ids = ids.filter(ids.is_in(found_ids.implode()))
        is_of_item = found_ids.is_in(ids.implode())
        _note_embeddings(found, kept & ~found.ids.is_in(ids.implode()), Reason.NO_ITEM, quarantine)
        found_ids, found_rows = found_ids.filter(is_of_item), found_rows[is_of_item.to_numpy()]
    progress.advance()
    order = found_ids.arg_sort()
    if not found_ids.gather(order).equals(ids):
        lines = []
        for lonely, what in (
            (ids.filter(~ids.is_in(found_ids.implode())), f"items of {params.items} have no embedding"),
            (found_ids.filter(~found_ids.is_in(ids.implode())).sort(), f"embeddings are of no item of {params.items}"),
        ):
            if len(lonely):
                lines.append(f"{where}: {len(lonely):,} {what}, first ids {name_first(lonely)}.")
        raise DataError("\n".join([*lines, "Each item needs one embedding, and each embedding an item."]))
    progress.advance()
    return Matched(ids=ids, rows=found_rows[order.to_numpy()])


def _note_embeddings(found: Embeddings, bad: pl.Series, reason: Reason, quarantine: Quarantine) -> None:
    """Take note of the embeddings at which `bad` is true, but for those of items that have failed."""
    new = bad & ~found.ids.is_in(pl.Series(list(quarantine.ids), dtype=found.ids.dtype).implode())
    rows, ids = found.rows[new.to_numpy()], found.ids.filter(new)
    note_vectors(found, rows, ids, reason, [None] * len(ids), quarantine)


def note_vectors(
    found: Embeddings,
    rows: npt.NDArray[np.int64],
    ids: pl.Series,
    reason: Reason,
    values: Sequence[object],
    quarantine: Quarantine,
) -> None:
    """Take note in `quarantine` of `rows` of the matrix, which are of the items `ids`, where they are in files."""
    ends = np.cumsum(found.lengths)
    for row, item, value in zip(rows.tolist(), ids.to_list(), values, strict=True):
        file = int(np.searchsorted(ends, row, side="right"))
        quarantine.add(found.files[file], [row - int(ends[file]) + found.lengths[file]], [item], reason, [value])
