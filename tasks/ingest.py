"""ingest: join raw items and embeddings by id, check them, and write them in one form, sorted by id."""

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from tasks.core.types import ITEM_ID
from tasks.errors import DataError, EpoxyError, ParamsError
from tasks.params import Duplicates, EncoderParams, IngestParams, Split
from tasks.progress import Progress
from tasks.readers import encoder
from tasks.tables import schemas
from tasks.tables.files import expect_scattered_reads, open_scratch
from tasks.tables.parquet import ROW_GROUP, write_shards, write_table
from tasks.tables.paths import EMBEDDINGS, ITEMS, VALID_GOLD, WITHHELD_GOLD

_SHOWN = 5
"""How many ids, values or files an error names."""

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Text that is how a 64-bit integer is written: '7', not '007' or '+7', which would not come back as they were."""

_DEFLATE = 1032
"""How many times smaller than what it unpacks to a deflated file can be, at most."""

_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

UNTYPED = {".csv", ".txt"}
"""Files in which everything is text: their ids are integers where each looks like one."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Vectors as they came: item `ids[i]` has row `rows[i]` of `matrix`, floats of shape (any, d), maybe on disk."""

    ids: pl.Series
    matrix: npt.NDArray[np.floating]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Items:
    """`table`: item_id, split and every other raw column; `gold`: int8 class position or null, row by row of it.

    `remarks`: what the user should know about how they were read.
    """

    table: pl.DataFrame
    gold: pl.Series
    remarks: tuple[str, ...]


def run(
    root: Path,
    classes: tuple[str, ...],
    params: IngestParams,
    load_encoder: encoder.LoadEncoder = encoder.load_encoder,
) -> None:
    """Write items, gold and embeddings of the project at `root`, each sorted by item_id.

    Raises
    ------
    ParamsError
        A file named in `params` leads out of `params.source`.
    DataError
        A file is missing or unreadable, or items and embeddings break a rule; names how many and the first of them.
    """
    source = root / params.source
    with Progress("reading items", total=1) as progress:
        items = read_items(source, classes, params)
        progress.advance()
    ids = items.table[ITEM_ID]
    if params.encoder is not None:
        found = _encode(root, items.table, params.encoder, load_encoder)
    else:
        found = _read_embeddings(root, source, ids.dtype, params)
    with Progress("matching embeddings with items", total=1) as progress:
        rows = _match(ids, found, params)
        progress.advance()
    d = found.matrix.shape[1]
    write_shards(root / EMBEDDINGS, _cut_embeddings(ids, found.matrix, rows), schemas.embeddings(d))
    write_table(root / ITEMS, items.table, schemas.ITEMS)
    gold = items.table.select(ITEM_ID, "split").with_columns(items.gold).drop_nulls("gold")
    for path, is_wanted in (
        (VALID_GOLD, pl.col("split") == Split.VALID),
        (WITHHELD_GOLD, pl.col("split") != Split.VALID),
    ):
        write_table(root / path, gold.filter(is_wanted).drop("split"), schemas.gold(len(classes)))
    print(_summarize(items, d))


def read_items(source: Path, classes: Sequence[str], params: IngestParams) -> Items:
    """The raw items below `source`, checked, with their gold apart, sorted by item_id.

    Raises
    ------
    ParamsError
        `params.items` leads out of `source`.
    DataError
        No file, no row, or a column that breaks its rule.
    """
    files = _find_files(source, params.items, "items")
    untyped = _suffix(files) == ".csv"
    where = f"{params.source}/{params.items}"
    raw = _concatenate(
        [_read_table(file, (params.item_id, params.split, params.gold)) for file in files], where, params
    )
    if raw.is_empty():
        raise DataError(f"{where}: no items; expected at least one row.")
    for name, raw_name in ((ITEM_ID, params.item_id), ("split", params.split), ("gold", params.gold)):
        if raw_name != name and name in raw.columns:
            raise DataError(
                f"{where}: has a column '{name}', but ingest.{'item_id' if name == ITEM_ID else name} in params.yaml "
                f"names '{raw_name}' as that. Rename or remove one of them."
            )
    ids = _normalize_ids(raw[params.item_id], where, is_untyped=untyped).alias(ITEM_ID)
    counts = _find_last(ids, where, params)
    replaced = len(counts) - counts.sum()
    if replaced:
        raw, ids = raw.filter(counts), ids.filter(counts)
    split = _read_split(raw[params.split], ids, where) if params.split in raw.columns else _all_train(ids)
    gold = (
        _read_gold(raw[params.gold], ids, classes, where, is_untyped=untyped)
        if params.gold in raw.columns
        else pl.Series("gold", [None] * len(ids), dtype=pl.Int8)
    )
    rest = raw.drop(params.item_id, params.split, params.gold, strict=False)
    # The codes of a categorical depend on the order of the rows, and text says the same.
    rest = rest.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    order = ids.arg_sort()
    remarks = [
        f"no column '{column}' in {where}: {meaning}"
        for column, meaning in ((params.split, "every item is in train"), (params.gold, "no item has gold"))
        if column not in raw.columns
    ]
    if replaced:
        remarks.append(f"{replaced:,} rows in {where} are replaced by later ones of the same id")
    return Items(table=pl.DataFrame([ids, split, *rest])[order], gold=gold[order], remarks=tuple(remarks))


# Files.


def _find_files(source: Path, pattern: str, key: str) -> list[Path]:
    """The files below `source` that `pattern` names, in the order of their names."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ParamsError(
            f"params.yaml: 'ingest.{key}': {pattern!r} leads out of ingest.source. Give a path below it: ingest reads "
            "nothing that the stage does not depend on."
        )
    if not source.is_dir():
        raise DataError(f"{source} is not a folder. Correct ingest.source in params.yaml, or run 'dvc repro'.")
    named = source / pattern
    found = named.rglob("*") if named.is_dir() else source.glob(pattern)
    # Hidden files are those of tools, such as Git's.
    several = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    files = [named] if named.is_file() else several
    if not files:
        held = sorted(str(file.relative_to(source)) for file in source.rglob("*") if file.is_file())
        shown = ", ".join(held[:_SHOWN]) + (", ..." if len(held) > _SHOWN else "")
        raise DataError(
            f"{source}: no file is called {pattern!r} (ingest.{key} in params.yaml); the folder holds {shown or 'none'}."
            + (" Embeddings can also be computed from a text column: ingest.encoder." if key == "embeddings" else "")
        )
    for file in files:
        if not file.resolve().is_relative_to(source.resolve()):
            raise DataError(
                f"{file} is a link that leads out of {source}. Put a copy there: ingest reads nothing else."
            )
    return files


def _suffix(files: Sequence[Path]) -> str:
    """The one suffix of `files`, in lower case."""
    suffixes = sorted({file.suffix.lower() for file in files})
    if len(suffixes) > 1:
        raise DataError(
            f"{files[0].parent}: files of several kinds are named at once: {', '.join(suffixes)}. Name one."
        )
    return suffixes[0]


def _read_table(path: Path, text: Sequence[str]) -> pl.DataFrame:
    """A raw table; in CSV, the columns `text` stay the text that they are."""
    with _readable(path):
        match path.suffix.lower():
            case ".parquet":
                return pl.read_parquet(path, memory_map=False)
            case ".csv":
                return pl.read_csv(path, infer_schema_length=None, schema_overrides=dict.fromkeys(text, pl.String))
            case ".jsonl" | ".ndjson":
                return pl.read_ndjson(path, infer_schema_length=None)
    raise DataError(f"{path}: expected a table in .parquet, .csv or .jsonl.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a library makes of foreign bytes into an error that names the file.

    None of them says what it may raise: NumPy's range from zlib.error to TokenError, and Polars' panics are no Exception.
    """
    try:
        yield
    except EpoxyError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read: {reason}") from None


def _concatenate(tables: Sequence[pl.DataFrame], where: str, params: IngestParams) -> pl.DataFrame:
    """The rows of all `tables`, which must have the same columns, an id among them."""
    columns = tables[0].columns
    for table in tables:
        if params.item_id not in table.columns:
            raise DataError(
                f"{where}: no column '{params.item_id}' (ingest.item_id in params.yaml); it has "
                f"{', '.join(table.columns) or 'none'}."
            )
        if set(table.columns) != set(columns):
            differing = ", ".join(sorted(set(columns).symmetric_difference(table.columns)))
            raise DataError(f"{where}: not every file has the column {differing}. Give all files the same columns.")
        if table[params.item_id].dtype.is_integer() != tables[0][params.item_id].dtype.is_integer():
            raise DataError(
                f"{where}: '{params.item_id}' is text in one file and integers in another. Write all alike."
            )
    try:
        return pl.concat([table.select(columns) for table in tables], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{where}: its files do not fit together: {str(error).splitlines()[0]}") from None


# Columns of the items.


def _normalize_ids(ids: pl.Series, where: str, *, is_untyped: bool) -> pl.Series:
    """Ids as text or int64, none missing."""
    if ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if is_untyped and ids.dtype == pl.String and ids.str.contains(_INTEGER).all():
        ids = ids.cast(pl.Int64)
    if ids.dtype != pl.String and not ids.dtype.is_integer() and ids.dtype != pl.Null:
        raise DataError(f"{where}: column '{ids.name}' is {ids.dtype}; expected ids that are text or integers.")
    missing = ids.is_null() | (ids == "") if ids.dtype == pl.String else ids.is_null()
    if missing.any():
        raise DataError(
            f"{where}: {missing.sum():,} rows have no id in column '{ids.name}', first row "
            f"{_first(missing.arg_true())} (counted from 0). Every item needs one."
        )
    try:
        return ids if ids.dtype == pl.String else ids.cast(pl.Int64)
    except pl.exceptions.InvalidOperationError:
        raise DataError(
            f"{where}: column '{ids.name}' has ids beyond 64-bit signed integers. Write them as text."
        ) from None


def _find_last(ids: pl.Series, where: str, params: IngestParams) -> pl.Series:
    """Which of the rows with these `ids` count: all, or of those with the same id the last, where params say so."""
    last = ids.is_last_distinct()
    if params.duplicates == Duplicates.ERROR and not last.all():
        twice = ids.filter(~last).unique().sort()
        raise DataError(
            f"{where}: {len(twice):,} ids occur more than once, first {_first(twice)}. Each item needs its own; if later "
            "rows are to replace earlier ones, set ingest.duplicates to last in params.yaml."
        )
    return last


def _read_split(split: pl.Series, ids: pl.Series, where: str) -> pl.Series:
    known = [str(one) for one in Split]
    text = split.cast(pl.String).alias("split")
    wrong = ~text.is_in(known).fill_null(False)
    if wrong.any():
        values = ", ".join("missing" if value is None else repr(value) for value in _some(text.filter(wrong)))
        raise DataError(
            f"{where}: column '{split.name}': {wrong.sum():,} items are in an unknown split: {values}; expected "
            f"{', '.join(known)}. First ids {_first_ids(ids, wrong)}."
        )
    return text


def _all_train(ids: pl.Series) -> pl.Series:
    return pl.repeat(str(Split.TRAIN), len(ids), eager=True).alias("split")


def _read_gold(gold: pl.Series, ids: pl.Series, classes: Sequence[str], where: str, *, is_untyped: bool) -> pl.Series:
    """Gold as int8 class positions, null where it is unknown.

    Text is class names, integers are class positions. In CSV all is text, and numbers that are no class names are
    positions.
    """
    place = f"{where}: column '{gold.name}'"
    if gold.dtype in (pl.Categorical, pl.Enum):
        gold = gold.cast(pl.String)
    if gold.dtype.is_float():
        # What pandas makes of integers with gaps.
        gold = gold.fill_nan(None)
        if (gold == gold.round()).all():
            gold = gold.cast(pl.Int64)
    numeric_names = [name for name in classes if re.fullmatch(_INTEGER, name)]
    if is_untyped and gold.dtype == pl.String and not numeric_names and gold.drop_nulls().str.contains(_INTEGER).all():
        gold = gold.cast(pl.Int64)
    if gold.dtype == pl.Null:
        positions = gold.cast(pl.Int8)
    elif gold.dtype == pl.String:
        positions = gold.replace_strict(classes, range(len(classes)), default=None, return_dtype=pl.Int8)
    elif gold.dtype.is_integer():
        misread = [name for name in numeric_names if int(name) != classes.index(name)]
        if misread:
            raise DataError(
                f"{place} has integers, which are class positions, but class {misread[0]!r} is at position "
                f"{classes.index(misread[0])}: which is meant? Write gold as text (class names)."
            )
        wide = gold.cast(pl.Int64, strict=False)
        positions = wide.set(~wide.is_between(0, len(classes) - 1), None).cast(pl.Int8)
    else:
        raise DataError(f"{place} is {gold.dtype}; expected class names (text) or class positions (integers).")
    wrong = gold.is_not_null() & positions.is_null()
    if wrong.any():
        values = ", ".join(repr(value) for value in _some(gold.filter(wrong)))
        raise DataError(
            f"{place}: {wrong.sum():,} items are of an unknown class: {values}; expected one of {', '.join(classes)}, or a "
            f"position 0..{len(classes) - 1}, and nothing (null) where gold is unknown. First ids {_first_ids(ids, wrong)}."
        )
    return positions.alias("gold")


# Embeddings.


def _encode(root: Path, items: pl.DataFrame, params: EncoderParams, load: encoder.LoadEncoder) -> Embeddings:
    """Embeddings of a text column of the items."""
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
            f"{_first_ids(ids, texts.is_null())}. Give each a text, or leave them out."
        )
    encoded = encoder.encode_texts(root, texts, params, load)
    return Embeddings(ids=ids, matrix=encoded.matrix, rows=encoded.rows)


def _read_embeddings(root: Path, source: Path, id_type: pl.DataType, params: IngestParams) -> Embeddings:
    """Embeddings from files below `source`; of .npy and .parquet, never more than a block in memory."""
    assert params.embeddings is not None, "IngestParams wants a file or an encoder"
    files = _find_files(source, params.embeddings, "embeddings")
    where = f"{params.source}/{params.embeddings}"
    suffix = _suffix(files)
    if suffix != ".npy" and params.embedding_ids is not None:
        raise ParamsError(
            f"params.yaml: 'ingest.embedding_ids' is only for .npy; {params.embeddings} holds its own ids. Remove it."
        )
    match suffix:
        case ".npy":
            arrays = [_open_array(file) for file in files]
            lengths = {file: len(array) for file, array in zip(files, arrays, strict=True)}
            ids = _read_embedding_ids(source, id_type, lengths, params)
            matrix = _stack(root, arrays, where)
        case ".npz":
            with_ids = [_read_npz(file) for file in files]
            ids = _concatenate_ids([one.ids for one in with_ids], where)
            matrix = _stack(root, [one.matrix for one in with_ids], where)
        case ".parquet":
            ids = _concatenate_ids([_read_id_column(file, params.item_id, where) for file in files], where)
            matrix = _read_vectors(root, files, ids, params)
        case _:
            raise DataError(f"{where}: expected embeddings in .npy (with ingest.embedding_ids), .npz or .parquet.")
    if len(ids) != len(matrix):
        raise DataError(
            f"{where}: {len(matrix):,} rows, but {len(ids):,} ids in {params.embedding_ids or 'it'}. Ids and rows must be "
            "of the same items in the same order."
        )
    return Embeddings(ids=ids, matrix=matrix, rows=np.arange(len(ids)))


def _open_array(path: Path) -> npt.NDArray[np.floating]:
    """The matrix in a .npy file, left on disk."""
    with _readable(path):
        return _require_matrix(path, np.load(path, mmap_mode="r", allow_pickle=False))


def _read_npz(path: Path) -> Embeddings:
    with _readable(path), np.load(path, allow_pickle=False) as stored:
        if missing := sorted({"ids", "embeddings"} - set(stored.files)):
            raise DataError(
                f"{path}: no array {' and '.join(missing)}; it has {', '.join(stored.files) or 'none'}. "
                "Write it with numpy.savez(path, ids=..., embeddings=...)."
            )
        _require_plausible(path)
        ids, matrix = _ids_from_array(path, stored["ids"]), _require_matrix(path, stored["embeddings"])
    if len(ids) != len(matrix):
        raise DataError(f"{path}: {len(matrix):,} embeddings, but {len(ids):,} ids.")
    return Embeddings(ids=ids, matrix=matrix, rows=np.arange(len(ids)))


def _require_plausible(path: Path) -> None:
    """Check, before anything is unpacked, that a .npz holds as much as it declares, and no more than fits memory."""
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
    """The size in bytes of an array in NumPy's format, its header included, as that header declares it."""
    version = np.lib.format.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"version {version} of NumPy's format is neither for numbers nor for text")
    shape, _, kind = _READ_HEADER[version](file)
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are never opened")
    return file.tell() + math.prod(shape) * int(kind.itemsize)


def _require_matrix(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
    if array.ndim != 2 or array.shape[1] == 0 or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{path}: embeddings are {array.dtype} of shape {array.shape}; expected float16, float32 or float64 of shape "
            "(items, dimensions)."
        )
    return array


def _stack(root: Path, arrays: Sequence[npt.NDArray[np.floating]], where: str) -> npt.NDArray[np.floating]:
    """One matrix of the rows of all `arrays`, without holding them in memory together."""
    widths = sorted({array.shape[1] for array in arrays})
    if len(widths) > 1:
        raise DataError(f"{where}: files have embeddings of different dimensions: {', '.join(map(str, widths))}.")
    if len(arrays) == 1:
        return arrays[0]
    stacked = open_scratch((root / EMBEDDINGS).parent, (sum(map(len, arrays)), widths[0]))
    at = 0
    with Progress("joining embeddings", total=len(stacked)) as progress:
        for array in arrays:
            for start in range(0, len(array), ROW_GROUP):
                block = array[start : start + ROW_GROUP]
                stacked[at : at + len(block)] = _to_float32(block)
                at += len(block)
                progress.advance(len(block))
    return stacked


def _to_float32(block: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    # What is too large for float32 becomes infinite, and is reported as that.
    with np.errstate(over="ignore"):
        return np.asarray(block, dtype=np.float32)


def _read_embedding_ids(
    source: Path, id_type: pl.DataType, lengths: Mapping[Path, int], params: IngestParams
) -> pl.Series:
    """The ids of the rows of .npy embeddings, in their order; `lengths` are the files and how many rows each has."""
    if params.embedding_ids is None:
        raise ParamsError(
            f"params.yaml: {params.embeddings} has no ids of its own. Name in 'ingest.embedding_ids' what gives the id of "
            f"each row: a table with a column '{params.item_id}' (such as {params.items}), or a .npy or .txt of ids."
        )
    files = _find_files(source, params.embedding_ids, "embedding_ids")
    where = f"{params.source}/{params.embedding_ids}"
    match suffix := _suffix(files):
        case ".npy":
            parts = [_read_id_array(file) for file in files]
        case ".txt":
            parts = [_read_lines(file) for file in files]
        case _:
            parts = [_read_id_column(file, params.item_id, where) for file in files]
    if [file.stem for file in files] == [file.stem for file in lengths]:
        # Of files with the same names, a row too few in one and one too many in another would shift ids unnoticed.
        for file, part, (matrix, length) in zip(files, parts, lengths.items(), strict=True):
            if len(part) != length:
                raise DataError(
                    f"{matrix}: {length:,} rows, but {len(part):,} ids in {file}. Ids and rows must be of the same items "
                    "in the same order."
                )
    ids = pl.concat(parts) if suffix in UNTYPED else _concatenate_ids(parts, where)
    return _normalize_ids(ids, where, is_untyped=suffix in UNTYPED and id_type == pl.Int64)


def _read_id_array(path: Path) -> pl.Series:
    with _readable(path):
        # Mapped, so that a size that is declared but not there costs nothing.
        return _ids_from_array(path, np.load(path, mmap_mode="r", allow_pickle=False))


def _ids_from_array(path: Path, array: npt.NDArray[np.generic]) -> pl.Series:
    if array.ndim != 1 or array.dtype.kind not in "Uiu":
        raise DataError(f"{path}: ids are {array.dtype} of shape {array.shape}; expected a row of text or integers.")
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
        if codes.max() > sys.maxunicode:  # Polars would take it, and panic later
            raise DataError(f"{path}: ids are no text: a character has the number {codes.max():#x}. Write them again.")
    return pl.Series("ids", array)


def _read_lines(path: Path) -> pl.Series:
    with _readable(path):
        text = path.read_text(encoding="utf-8")
    return pl.Series("ids", text.removesuffix("\n").split("\n"), dtype=pl.String)


def _read_id_column(path: Path, name: str, where: str) -> pl.Series:
    with _readable(path):
        try:
            match path.suffix.lower():
                case ".parquet":
                    return pl.scan_parquet(path).select(name).collect()[name]
                case ".csv":
                    return pl.read_csv(path, columns=[name], schema_overrides={name: pl.String})[name]
                case _:
                    return _read_table(path, [name])[name]
        except pl.exceptions.ColumnNotFoundError:
            raise DataError(f"{where}: no column '{name}' (ingest.item_id in params.yaml) in {path.name}.") from None


def _concatenate_ids(parts: Sequence[pl.Series], where: str) -> pl.Series:
    normalized = [_normalize_ids(part, where, is_untyped=False).alias("ids") for part in parts]
    if len({part.dtype for part in normalized}) > 1:
        raise DataError(f"{where}: ids are text in one file and integers in another. Write all alike.")
    return pl.concat(normalized)


def _read_vectors(root: Path, files: Sequence[Path], ids: pl.Series, params: IngestParams) -> npt.NDArray[np.floating]:
    """The matrix in a column of lists of Parquet files, on disk, row for row of `ids`."""
    where = f"{params.source}/{params.embeddings}"
    matrix: npt.NDArray[np.float32] | None = None
    wrong: list[int] = []
    at = 0
    for file in files:
        for column in _read_lists(file, where):
            lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
            if matrix is None:
                matrix = open_scratch((root / EMBEDDINGS).parent, (len(ids), _width(lengths, where)))
            fits = lengths == matrix.shape[1]
            wrong.extend((at + np.flatnonzero(~fits)).tolist())
            if fits.all():
                # A missing number becomes NaN here, and is reported as that.
                flat = column.flatten().to_numpy(zero_copy_only=False)
                matrix[at : at + len(column)] = _to_float32(flat.reshape(len(column), -1))
            at += len(column)
    if matrix is None:
        raise DataError(f"{where}: no embeddings; expected at least one row.")
    if wrong:
        raise DataError(
            f"{where}: {len(wrong):,} embeddings are missing or of a dimension other than {matrix.shape[1]}, first ids "
            f"{_first(ids.gather(wrong))}."
        )
    return matrix


def _read_lists(path: Path, where: str) -> Iterator[arrow.Array]:
    """The column of lists of a Parquet file, in pieces."""
    with _readable(path):
        # Buffering ahead would read every row group at once.
        stored = parquet.ParquetFile(path, pre_buffer=False)
    with stored:
        with _readable(path):
            name = _find_vectors(stored.schema_arrow, where)
            batches = stored.iter_batches(batch_size=ROW_GROUP, columns=[name])
        while True:
            with _readable(path):
                batch = next(batches, None)
                if batch is not None:
                    batch.validate(full=True)  # or a damaged length would reach beyond the memory of the column
            if batch is None:
                return
            yield batch.column(0)


def _find_vectors(schema: arrow.Schema, where: str) -> str:
    """The column of a Parquet table that holds lists of floats: `embedding` if several do."""
    found: list[str] = [field.name for field in schema if _is_list_of_floats(field.type)]
    if "embedding" in found:
        return "embedding"
    if len(found) != 1:
        raise DataError(
            f"{where}: {len(found)} columns hold lists of float16, float32 or float64 ({', '.join(found) or 'none'}); "
            "expected one, or one called 'embedding'."
        )
    return found[0]


def _is_list_of_floats(kind: arrow.DataType) -> bool:
    types = arrow.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_floating(kind.value_type))


def _width(lengths: npt.NDArray[np.number], where: str) -> int:
    """The dimension of the first embedding that there is; `lengths` has NaN for one that is missing."""
    present = lengths[lengths > 0]
    if not present.size:
        raise DataError(f"{where}: the first {len(lengths):,} embeddings are missing or empty.")
    return int(present[0])


def _match(ids: pl.Series, found: Embeddings, params: IngestParams) -> npt.NDArray[np.int64]:
    """The row of `found.matrix` of each of `ids`, which must be the same ids."""
    where = f"{params.source}/{params.embeddings}"
    if found.ids.dtype != ids.dtype:
        raise DataError(f"{where}: ids are {found.ids.dtype}, but {ids.dtype} in {params.items}. Write both alike.")
    counts = _find_last(found.ids, where, params)
    own, place = found.ids.filter(counts), found.rows[counts.to_numpy()]
    order = own.arg_sort()
    if not own.gather(order).equals(ids):
        lines = []
        for lonely, what in (
            (ids.filter(~ids.is_in(own.implode())), f"items of {params.items} have no embedding"),
            (own.filter(~own.is_in(ids.implode())).sort(), f"embeddings are of no item of {params.items}"),
        ):
            if len(lonely):
                lines.append(f"{where}: {len(lonely):,} {what}, first ids {_first(lonely)}.")
        raise DataError("\n".join([*lines, "Each item needs one embedding, and each embedding an item."]))
    rows: npt.NDArray[np.int64] = place[order.to_numpy()]
    return rows


def _cut_embeddings(
    ids: pl.Series, matrix: npt.NDArray[np.floating], rows: npt.NDArray[np.int64]
) -> Iterator[pl.DataFrame]:
    """The table of embeddings in blocks; every row is looked at, so that all bad ones are counted.

    Raises
    ------
    DataError
        An embedding is not finite or has no direction.
    """
    kind = pl.Array(pl.Float32, matrix.shape[1])
    infinite: list[pl.Series] = []
    zero: list[pl.Series] = []
    if (np.diff(rows) < 0).any():
        expect_scattered_reads(matrix)
    with Progress("writing embeddings", total=len(ids)) as progress:
        for start in range(0, len(ids), ROW_GROUP):
            part = ids[start : start + ROW_GROUP]
            block = _to_float32(matrix[rows[start : start + ROW_GROUP]])
            infinite.append(part.filter(pl.Series(~np.isfinite(block).all(axis=1))))
            zero.append(part.filter(pl.Series(~block.any(axis=1))))
            if not len(infinite[-1]) and not len(zero[-1]):
                yield pl.DataFrame([part, pl.Series("embedding", block, dtype=kind)])
            progress.advance(len(part))
    for parts, what, remedy in (
        (infinite, "have NaN or infinity (in float32)", "Compute them again, or leave the items out."),
        (zero, "are zero vectors", "They have no direction: compute them again, or leave the items out."),
    ):
        bad = pl.concat(parts)
        if len(bad):
            raise DataError(f"{len(bad):,} embeddings {what}, first ids {_first(bad)}. {remedy}")


def _summarize(items: Items, d: int) -> str:
    """What was read, in a line, and below it what is remarkable."""
    splits = items.table["split"]
    parts = []
    for split in Split:
        is_in = splits == split
        parts.append(f"{split} {is_in.sum():,} ({items.gold.filter(is_in).count():,} with gold)")
    head = f"{len(splits):,} items: {', '.join(parts)}; embeddings of dimension {d}"
    return "\n".join(f"ingest: {line}." for line in (head, *items.remarks))


def _first(values: pl.Series) -> str:
    return ", ".join(repr(value) for value in values.head(_SHOWN))


def _first_ids(ids: pl.Series, mask: pl.Series) -> str:
    return _first(ids.filter(mask).sort())


def _some(values: pl.Series) -> pl.Series:
    """Distinct values to show, in an order that does not depend on that of the rows."""
    return values.unique().sort().head(_SHOWN)
