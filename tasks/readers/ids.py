"""Item ids: text or 64-bit integers, never missing, and unique once duplicates are resolved."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.errors import DataError, ParamsError
from tasks.params import Duplicates, IngestParams
from tasks.readers.files import (
    UNTYPED,
    drop_empty,
    explain_foreign_errors,
    find_files,
    name_in_pattern,
    require_one_order,
    require_one_suffix,
)
from tasks.readers.quarantine import Note, Reason
from tasks.readers.raw_tables import read_column
from tasks.tables.validation import SHOWN, name_first


def normalize_ids(ids: pl.Series, where: str, note: Note | None = None) -> pl.Series:
    """The ids as text or int64, without nulls; with `note`, null where one is missing.

    Raises
    ------
    DataError
        An id is missing, or they are neither text nor 64-bit integers.
    """
    if ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if ids.dtype != pl.String and not ids.dtype.is_integer() and ids.dtype != pl.Null:
        raise DataError(f"{where}: column '{ids.name}' is {ids.dtype}; expected ids that are text or integers.")
    missing = ids.is_null() | (ids == "") if ids.dtype == pl.String else ids.is_null()
    if missing.any() and note:
        note(missing, Reason.NO_ID, ids)
        ids = ids.to_frame().select(pl.when(~missing).then(pl.first())).to_series()
    elif missing.any():
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


def parse_integers(text: pl.Series) -> pl.Series | None:
    """`text` as int64; None unless every value is an integer as Python prints it: '7', not '007' or '+7'."""
    numbers = text.cast(pl.Int64, strict=False)
    return numbers if text.equals(numbers.cast(pl.String).alias(text.name)) else None


def mark_last(
    ids: pl.Series, where: str, params: IngestParams, files: Sequence[Path], note: Note | None = None
) -> pl.Series:
    """Whether each row is kept, bool of shape (n,): all, or with `duplicates: last` the last of those with the same id.

    `files`: the files of the rows, in their order. With `note`, all rows of an id that occurs more than once though it may
    not are noted, and kept; missing ids (null) are not the same.

    Raises
    ------
    DataError
        An id occurs more than once though it may not, or the order of files does not say which row is last.
    """
    last = ids.is_last_distinct() | ids.is_null()
    if last.all():
        return last
    if params.duplicates == Duplicates.ERROR and note:
        note(ids.is_duplicated() & ids.is_not_null(), Reason.DOUBLED_ID, pl.repeat("", len(ids), eager=True))
        return pl.repeat(True, len(ids), eager=True)
    if params.duplicates == Duplicates.ERROR:
        twice = ids.filter(~last).unique().sort()
        raise DataError(
            f"{where}: {len(twice):,} ids occur more than once, first {name_first(twice)}. Each item needs its own; if later "
            "rows are to replace earlier ones, set ingest.duplicates to last in params.yaml."
        )
    require_one_order(files, "of rows with the same id that of the last file is kept")
    return last


def read_embedding_ids(
    source: Path,
    id_type: pl.DataType,
    lengths: Mapping[Path, int],
    params: IngestParams,
    known: Mapping[Path, pl.Series],
    note: Callable[[Path], Note | None],
) -> pl.Series:
    """The ids of the rows of .npy embeddings, in their order; null for rows that failed as items.

    Parameters
    ----------
    id_type
        The type of the items' ids, and so of ids from files without types.
    lengths
        The number of rows of each .npy file, in the files' order.
    known
        Ids by file, for files that were already read as items: read again, they could have changed.
    note
        By file, what takes note of missing ids; None where they are an error.

    Raises
    ------
    ParamsError
        `params.embedding_ids` is missing or leads out of the source.
    DataError
        A file is missing or damaged, or which ids belong to which rows is ambiguous.
    """
    if params.embedding_ids is None:
        raise ParamsError(
            f"params.yaml: {params.embeddings} has no ids of its own. Name in 'ingest.embedding_ids' what gives the id of "
            f"each row: a table with a column '{params.item_id}' (such as {params.items}), or a .npy or .txt of ids."
        )
    where = f"{params.source}/{params.embedding_ids}"
    files = drop_empty(find_files(source, params.embedding_ids, "embedding_ids"))
    is_typed = require_one_suffix(files) not in UNTYPED
    parts = {
        file: known[file]
        if file in known
        else _normalize(_read_ids(source, file, params, where), where, id_type, is_typed, note(file))
        for file in files
    }
    if len(files) > 1 and len(lengths) > 1:
        parts = _pair(source, list(lengths), parts, params)
        for (matrix, length), (file, part) in zip(lengths.items(), parts.items(), strict=True):
            if len(part) != length:
                raise DataError(
                    f"{matrix}: {length:,} rows, but {len(part):,} ids in {file}. Ids and rows must be of the same items "
                    "in the same order."
                )
    else:
        for several in (list(lengths), files):
            require_one_order(several, "rows of embeddings have their ids by the order of files")
    return concatenate_ids(list(parts.values()), where)


def _pair(
    source: Path, matrices: Sequence[Path], parts: Mapping[Path, pl.Series], params: IngestParams
) -> dict[Path, pl.Series]:
    """The ids of each of the `matrices`, in their order, from the file with the same name."""
    assert params.embeddings is not None and params.embedding_ids is not None, "there are matrices and ids"
    matrix_names = [name_in_pattern(source, params.embeddings, file) for file in matrices]
    id_files = {name_in_pattern(source, params.embedding_ids, file): file for file in parts}
    lonely = sorted(set(matrix_names) ^ set(id_files))
    if lonely or len(id_files) < len(parts) or len(set(matrix_names)) < len(matrices):
        shown = ", ".join((lonely or matrix_names)[:SHOWN])
        raise DataError(
            f"{params.source}: {len(matrices):,} files of embeddings and {len(parts):,} of ids cannot be paired by their "
            f"names, first {shown}. Give the ids of part-1.npy a name such as part-1.parquet, and so on."
        )
    return {id_files[name]: parts[id_files[name]] for name in matrix_names}


def _read_ids(source: Path, path: Path, params: IngestParams, where: str) -> pl.Series:
    """The ids in a .npy file, in a text file (an id per line) or in a table."""
    match path.suffix.lower():
        case ".npy":
            with explain_foreign_errors(path):
                # Memory-mapped, so that a header which declares too large a size allocates nothing.
                return ids_from_array(path, np.lib.format.open_memmap(path, mode="r"))
        case ".txt":
            with explain_foreign_errors(path):
                text = path.read_text(encoding="utf-8-sig")
            return pl.Series("ids", text.removesuffix("\n").split("\n"), dtype=pl.String)
        case _:
            return read_id_column(source, path, params.item_id, where)


def _normalize(ids: pl.Series, where: str, id_type: pl.DataType, is_typed: bool, note: Note | None) -> pl.Series:
    """The ids, normalized; in a file without types they are integers if the items' ids are."""
    normalized = normalize_ids(ids, where, note)
    numbers = parse_integers(normalized) if not is_typed and id_type == pl.Int64 else None
    return normalized if numbers is None else numbers


def read_id_column(source: Path, path: Path, name: str, where: str) -> pl.Series:
    """The column `name` of the table at `path`, unchanged."""
    column = read_column(source, path, name)
    if column is None:
        raise DataError(f"{where}: no column '{name}' (ingest.item_id in params.yaml) in {path.name}.")
    return column


def ids_from_array(path: Path, array: npt.NDArray[np.generic]) -> pl.Series:
    """The ids in an array of the file at `path`: text or integers, of shape (n,)."""
    if array.ndim != 1 or array.dtype.kind not in "Uiu":
        raise DataError(f"{path}: ids are {array.dtype} of shape {array.shape}; expected a row of text or integers.")
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
        if codes.max() > sys.maxunicode:  # Polars would accept it, and panic later
            raise DataError(f"{path}: ids are no text: a character has the number {codes.max():#x}. Write them again.")
    return pl.Series("ids", array)


def concatenate_ids(parts: Sequence[pl.Series], where: str) -> pl.Series:
    """The ids of several files, joined; they must be text in all files or integers in all."""
    filled = [part.alias("ids") for part in parts if len(part)] or [part.alias("ids") for part in parts[:1]]
    if len({part.dtype for part in filled}) > 1:
        raise DataError(f"{where}: ids are text in one file and integers in another. Write all alike.")
    return pl.concat(filled)
