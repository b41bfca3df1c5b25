"""Raw tables: a Parquet, CSV or JSONL file as it is, plus the columns in the names of its folders."""

import codecs
import csv
from dataclasses import dataclass
from functools import cache
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as arrow
import pyarrow.parquet as parquet

from tasks.errors import DataError
from tasks.readers.bad_lines import (
    Record,
    drop_records,
    find_bad_line,
    find_bad_row,
    find_doubled_key,
    find_lone_surrogate,
    list_records,
)
from tasks.readers.files import explain_foreign_errors, read_hive_columns

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

TEXT = (".csv", ".jsonl", ".ndjson")
"""Suffixes of formats whose rows are text."""

_OTHER_SEPARATORS = ";\t|"
"""Separators other than a comma, as exported by European spreadsheets, databases and Unix programs."""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """The rows of a file; `typeless`: columns that are text only because CSV and names of folders have no types.

    `records`: all rows of the file, among them those that `table` lacks because they cannot be read; empty if it has all.
    """

    path: Path
    table: pl.DataFrame
    typeless: frozenset[str]
    records: tuple[Record, ...] = ()


def read_raw_table(source: Path, path: Path, *, is_lenient: bool = False) -> RawTable:
    """The table in the file at `path`, which is below `source`; `is_lenient`: without rows of text that cannot be read.

    Raises
    ------
    DataError
        The file is not what its suffix says, or has two columns of the same name.
    """
    records: tuple[Record, ...] = ()
    try:
        table = _read_table(path, None)
    except DataError:
        if not is_lenient or path.suffix.lower() not in TEXT or not path.is_file():
            raise
        records = tuple(read_records(path))
        if len({record.problem is None for record in records}) < 2:
            raise  # every row can be read, or none: it is the file that is wrong
        table = _read_table(path, drop_records(path.read_bytes(), path.suffix.lower(), list(records)))
    folders = read_hive_columns(source, path)
    for name in folders:
        if name in table.columns:
            raise DataError(
                f"{path}: column '{name}' is in the file and in the name of its folder. Remove one of them."
            )
    table = table.with_columns(pl.lit(value, pl.String).alias(name) for name, value in folders.items())
    return RawTable(
        path=path,
        table=table,
        typeless=frozenset(table.columns if path.suffix.lower() == ".csv" else folders),
        records=records,
    )


def read_records(path: Path) -> list[Record]:
    """The rows of the CSV or JSONL file at `path`, those among them that cannot be read."""
    with explain_foreign_errors(path):
        return list_records(path.read_bytes(), path.suffix.lower())


def _read_table(path: Path, content: bytes | None) -> pl.DataFrame:
    """The table in the file at `path`, or in `content`, which takes the place of the file's."""
    match path.suffix.lower():
        case ".parquet":
            return _read_parquet(path)
        case ".csv":
            return _read_csv(path, content)
        case ".jsonl" | ".ndjson":
            with explain_foreign_errors(path):
                return parse_jsonl(path, path.read_bytes() if content is None else content)
        case _:
            raise DataError(f"{path}: expected a table in .parquet, .csv or .jsonl.")


def read_column(source: Path, path: Path, name: str) -> pl.Series | None:
    """The column `name` of the table at `path`, None if there is none; from Parquet, only this column is read."""
    if path.suffix.lower() != ".parquet":
        table = read_raw_table(source, path).table
        return table[name] if name in table.columns else None
    with explain_foreign_errors(path), parquet.ParquetFile(path) as stored:
        return read_stored_column(stored, name)


def read_stored_column(stored: parquet.ParquetFile, name: str) -> pl.Series | None:
    """The column `name` of an open Parquet file, None if there is none."""
    if name not in stored.schema_arrow.names:
        return None
    column = stored.read(columns=[name])
    column.validate(full=True)
    table = pl.from_arrow(column)
    assert isinstance(table, pl.DataFrame)
    return table[name]


# Every reader opens the file itself: Polars would treat [, * and ? in a path as a glob.


def _read_parquet(path: Path) -> pl.DataFrame:
    """The table in a Parquet file."""
    with explain_foreign_errors(path), path.open("rb") as file:
        schema = parquet.read_schema(file)
        adapted = {field.name: _adapt_type(path, field.name, field.type) for field in schema}
        file.seek(0)
        if all(adapted[field.name] == field.type for field in schema):
            return pl.read_parquet(file, memory_map=False)
        stored = parquet.read_table(file)
        stored.validate(full=True)
        columns = [_adapt(stored[name], kind) for name, kind in adapted.items()]
        table = pl.from_arrow(arrow.table(columns, names=list(adapted)))
        assert isinstance(table, pl.DataFrame)
        return table


def _adapt_type(path: Path, name: str, kind: arrow.DataType) -> arrow.DataType:
    """A type that Polars accepts for the column; times in a zone unknown to it, such as +05:30, become UTC."""
    types = arrow.types
    if types.is_decimal256(kind):
        raise DataError(f"{path}: column '{name}' is {kind}, wider than 38 digits. Write it as text or as float64.")
    if isinstance(kind, arrow.ExtensionType):
        return _adapt_type(path, name, kind.storage_type)
    if types.is_timestamp(kind) and kind.tz is not None and not _is_known_zone(kind.tz):
        return arrow.timestamp(kind.unit, "UTC")
    if types.is_struct(kind):
        return arrow.struct([field.with_type(_adapt_type(path, name, field.type)) for field in kind])
    if types.is_map(kind):
        return arrow.map_(kind.key_field, kind.item_field.with_type(_adapt_type(path, name, kind.item_type)))
    if types.is_fixed_size_list(kind):
        return arrow.list_(kind.value_field.with_type(_adapt_type(path, name, kind.value_type)), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind.value_field.with_type(_adapt_type(path, name, kind.value_type))
        return arrow.list_(inner) if types.is_list(kind) else arrow.large_list(inner)
    return kind


@cache
def _is_known_zone(zone: str) -> bool:
    """Whether Polars knows this time zone; it has its own list."""
    try:
        pl.Series([], dtype=pl.Datetime("us", zone))
    except pl.exceptions.PolarsError:
        return False
    return True


def _adapt(column: arrow.ChunkedArray, kind: arrow.DataType) -> arrow.ChunkedArray:
    """The same values as `kind`."""
    if isinstance(column.type, arrow.ExtensionType):
        column = arrow.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    return column if column.type == kind else column.cast(kind)


def _read_csv(path: Path, content: bytes | None) -> pl.DataFrame:
    """The table in a CSV file, or in `content`, which takes the place of the file's; all of it text."""
    with explain_foreign_errors(path), _open(path, content) as file:
        if file.read(2) in _UTF16:
            raise DataError(f"{path} is UTF-16; expected UTF-8. Save it as that.")
        file.seek(0)
        _require_commas(path, file)
        try:
            table = pl.read_csv(file, infer_schema=False)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise DataError(f"{path} cannot be read: {find_bad_row(path) or str(error).splitlines()[0]}") from None
    # Polars fills a row that ends too early with empty values.
    if content is None and table.width > 1 and table[:, -1].null_count() and (problem := find_bad_row(path)):
        raise DataError(f"{path} cannot be read: {problem}")
    with explain_foreign_errors(path), TextIOWrapper(_open(path, content), encoding="utf-8-sig", newline="") as text:
        header = next(csv.reader(text))
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: more than one column is called {', '.join(map(repr, twice))}. Rename or remove the others."
        )
    return table


def _require_commas(path: Path, file: IO[bytes]) -> None:
    """Check that the first line of `file`, which is at its begin afterwards, has commas if it has separators at all."""
    first = file.readline()
    line = first.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    file.seek(0)
    if not first.endswith(b"\n") and "\r" in line:
        raise DataError(f"{path}: its lines end in a carriage return alone, as on old Macs. Save it with line feeds.")
    if separator := find_separator(line):
        raise DataError(
            f"{path}: its first line is {line!r}, which has no comma but {separator!r}. Write the file with commas between "
            "columns."
        )


def find_separator(line: str) -> str | None:
    """What separates the columns in the first line of a CSV that has no comma: ';', a tab or '|'; None for a single column.

    >>> [find_separator(line) for line in ("id;text", "id,text", "text")]
    [';', None, None]
    """
    return None if "," in line else next((separator for separator in _OTHER_SEPARATORS if separator in line), None)


def _open(path: Path, content: bytes | None) -> IO[bytes]:
    """The file at `path`, or `content`, which takes the place of the file's, to be read."""
    return path.open("rb") if content is None else BytesIO(content)


def parse_jsonl(path: Path, content: bytes) -> pl.DataFrame:
    """The table in `content`, the bytes of the JSONL file at `path`.

    Raises
    ------
    DataError
        It is not JSONL; the message names the line.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    with explain_foreign_errors(path):
        if half := find_lone_surrogate(content):
            raise DataError(f"{path} cannot be read: {half}")
        try:
            table = pl.read_ndjson(content, infer_schema_length=None)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            reason = find_bad_line(content) or find_doubled_key(content) or str(error).splitlines()[0]
            raise DataError(f"{path} cannot be read: {reason}") from None
    if doubled := find_doubled_key(content):
        raise DataError(f"{path} cannot be read: {doubled}")
    return table


def is_near_miss(column: str, name: str) -> bool:
    """Whether the names differ only in case, blanks, punctuation, a plural s or two swapped letters.

    >>> [is_near_miss(column, "split") for column in (" split", "Split", "splits", "spilt", "spit", "split_date")]
    [True, True, True, True, False, False]
    """
    letters, wanted = ("".join(filter(str.isalnum, text.casefold())) for text in (column, name))
    return bool(wanted) and (letters.removesuffix("s") == wanted or sorted(letters) == sorted(wanted))
