"""Item ids: text or 64-bit integers, none missing, each once or the last of several."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.errors import DataError, ParamsError
from tasks.params import Duplicates, IngestParams
from tasks.readers.files import UNTYPED, explain_foreign_errors, find_files, read_raw_table, require_one_suffix
from tasks.tables.validation import name_first

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Text that is how a 64-bit integer is written: '7', not '007' or '+7', which would not come back as they were."""


def normalize_ids(ids: pl.Series, where: str, *, is_untyped: bool) -> pl.Series:
    """Ids as text or int64, none missing."""
    if ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if is_untyped and ids.dtype == pl.String and ids.str.contains(INTEGER).all():
        ids = ids.cast(pl.Int64)
    if ids.dtype != pl.String and not ids.dtype.is_integer() and ids.dtype != pl.Null:
        raise DataError(f"{where}: column '{ids.name}' is {ids.dtype}; expected ids that are text or integers.")
    missing = ids.is_null() | (ids == "") if ids.dtype == pl.String else ids.is_null()
    if missing.any():
        raise DataError(
            f"{where}: {missing.sum():,} rows have no id in column '{ids.name}', first row "
            f"{name_first(missing.arg_true())} (counted from 0). Every item needs one."
        )
    try:
        return ids if ids.dtype == pl.String else ids.cast(pl.Int64)
    except pl.exceptions.InvalidOperationError:
        raise DataError(
            f"{where}: column '{ids.name}' has ids beyond 64-bit signed integers. Write them as text."
        ) from None


def mark_last(ids: pl.Series, where: str, params: IngestParams) -> pl.Series:
    """(n,) whether each row is kept: all, or with `duplicates: last` the last of those with the same id."""
    last = ids.is_last_distinct()
    if params.duplicates == Duplicates.ERROR and not last.all():
        twice = ids.filter(~last).unique().sort()
        raise DataError(
            f"{where}: {len(twice):,} ids occur more than once, first {name_first(twice)}. Each item needs its own; if later "
            "rows are to replace earlier ones, set ingest.duplicates to last in params.yaml."
        )
    return last


def read_embedding_ids(
    source: Path, id_type: pl.DataType, lengths: Mapping[Path, int], params: IngestParams
) -> pl.Series:
    """The ids of the rows of .npy embeddings, in their order; `lengths` are the files and how many rows each has."""
    if params.embedding_ids is None:
        raise ParamsError(
            f"params.yaml: {params.embeddings} has no ids of its own. Name in 'ingest.embedding_ids' what gives the id of "
            f"each row: a table with a column '{params.item_id}' (such as {params.items}), or a .npy or .txt of ids."
        )
    files = find_files(source, params.embedding_ids, "embedding_ids")
    where = f"{params.source}/{params.embedding_ids}"
    match suffix := require_one_suffix(files):
        case ".npy":
            parts = [_read_id_array(file) for file in files]
        case ".txt":
            parts = [_read_lines(file) for file in files]
        case _:
            parts = [read_id_column(file, params.item_id, where) for file in files]
    if [file.stem for file in files] == [file.stem for file in lengths]:
        # Of files with the same names, a row too few in one and one too many in another would shift ids unnoticed.
        for file, part, (matrix, length) in zip(files, parts, lengths.items(), strict=True):
            if len(part) != length:
                raise DataError(
                    f"{matrix}: {length:,} rows, but {len(part):,} ids in {file}. Ids and rows must be of the same items "
                    "in the same order."
                )
    ids = pl.concat(parts) if suffix in UNTYPED else concatenate_ids(parts, where)
    return normalize_ids(ids, where, is_untyped=suffix in UNTYPED and id_type == pl.Int64)


def _read_id_array(path: Path) -> pl.Series:
    """The ids in a .npy file."""
    with explain_foreign_errors(path):
        # Mapped, so that a size that is declared but not there costs nothing.
        return ids_from_array(path, np.load(path, mmap_mode="r", allow_pickle=False))


def ids_from_array(path: Path, array: npt.NDArray[np.generic]) -> pl.Series:
    """The ids in an array of the file at `path`: text or integers, of shape (n,)."""
    if array.ndim != 1 or array.dtype.kind not in "Uiu":
        raise DataError(f"{path}: ids are {array.dtype} of shape {array.shape}; expected a row of text or integers.")
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
        if codes.max() > sys.maxunicode:  # Polars would take it, and panic later
            raise DataError(f"{path}: ids are no text: a character has the number {codes.max():#x}. Write them again.")
    return pl.Series("ids", array)


def _read_lines(path: Path) -> pl.Series:
    """The ids in a text file, one a line."""
    with explain_foreign_errors(path):
        text = path.read_text(encoding="utf-8")
    return pl.Series("ids", text.removesuffix("\n").split("\n"), dtype=pl.String)


def read_id_column(path: Path, name: str, where: str) -> pl.Series:
    """The column `name` of the table at `path`, as it is there."""
    with explain_foreign_errors(path):
        try:
            match path.suffix.lower():
                case ".parquet":
                    return pl.scan_parquet(path).select(name).collect()[name]
                case ".csv":
                    return pl.read_csv(path, columns=[name], schema_overrides={name: pl.String})[name]
                case _:
                    return read_raw_table(path, [name])[name]
        except pl.exceptions.ColumnNotFoundError:
            raise DataError(f"{where}: no column '{name}' (ingest.item_id in params.yaml) in {path.name}.") from None


def concatenate_ids(parts: Sequence[pl.Series], where: str) -> pl.Series:
    """The ids of several files, which are text in all of them or integers in all."""
    normalized = [normalize_ids(part, where, is_untyped=False).alias("ids") for part in parts]
    if len({part.dtype for part in normalized}) > 1:
        raise DataError(f"{where}: ids are text in one file and integers in another. Write all alike.")
    return pl.concat(normalized)
