"""Raw tables: a Parquet, CSV or JSONL file as it is, plus the columns in the names of its folders."""

import codecs
import csv
import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as arrow
import pyarrow.parquet as parquet

from tasks.errors import DataError
from tasks.readers.files import explain_foreign_errors, read_hive_columns

_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..)"
)
"""Half a surrogate pair in JSON, which Polars would read as a different character."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

_OTHER_SEPARATORS = ";\t|"
"""Separators other than a comma, as exported by European spreadsheets, databases and Unix programs."""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """The rows of a file; `typeless`: columns that are text only because CSV and names of folders have no types."""

    path: Path
    table: pl.DataFrame
    typeless: frozenset[str]


def read_raw_table(source: Path, path: Path) -> RawTable:
    """The table in the file at `path`, which is below `source`.

    Raises
    ------
    DataError
        The file is not what its suffix says, or has two columns of the same name.
    """
    match path.suffix.lower():
        case ".parquet":
            table = _read_parquet(path)
        case ".csv":
            table = _read_csv(path)
        case ".jsonl" | ".ndjson":
            table = _read_jsonl(path)
        case _:
            raise DataError(f"{path}: expected a table in .parquet, .csv or .jsonl.")
    folders = read_hive_columns(source, path)
    for name in folders:
        if name in table.columns:
            raise DataError(
                f"{path}: column '{name}' is in the file and in the name of its folder. Remove one of them."
            )
    table = table.with_columns(pl.lit(value, pl.String).alias(name) for name, value in folders.items())
    return RawTable(
        path=path, table=table, typeless=frozenset(table.columns if path.suffix.lower() == ".csv" else folders)
    )


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


def _read_csv(path: Path) -> pl.DataFrame:
    """The table in a CSV file, all of it text."""
    with explain_foreign_errors(path), path.open("rb") as file:
        if file.read(2) in _UTF16:
            raise DataError(f"{path} is UTF-16; expected UTF-8. Save it as that.")
        file.seek(0)
        try:
            table = pl.read_csv(file, infer_schema=False)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise DataError(f"{path} cannot be read: {_find_bad_row(path) or str(error).splitlines()[0]}") from None
    # Polars fills a row that ends too early with empty values.
    if table.width > 1 and table[:, -1].null_count() and (problem := _find_bad_row(path)):
        raise DataError(f"{path} cannot be read: {problem}")
    with explain_foreign_errors(path), path.open(encoding="utf-8-sig", newline="") as text:
        header = next(csv.reader(text))
    for separator in _OTHER_SEPARATORS if len(header) == 1 else "":
        if separator in header[0]:
            raise DataError(
                f"{path}: its first line is {header[0]!r}, which has no comma but {separator!r}. Write the file with commas "
                "between columns."
            )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: more than one column is called {', '.join(map(repr, twice))}. Rename or remove the others."
        )
    return table


def _find_bad_row(path: Path) -> str | None:
    """What is wrong with the first row that is not UTF-8 or has more or fewer columns than the header, else None."""
    usual = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text)
            width = len(next(rows, []))
            for row in rows:
                if row and len(row) != width:
                    return f"line {rows.line_num:,} ends a row of {len(row)} columns; the header has {width}. Correct the file."
    except UnicodeDecodeError:
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number:,} is not UTF-8 ({line[error.start : error.end]!r}). Save the file as UTF-8."
    except csv.Error:
        pass  # Python's reader refuses more than Polars does, and Polars decides
    finally:
        csv.field_size_limit(usual)
    return None


def _read_jsonl(path: Path) -> pl.DataFrame:
    """The table in a JSONL file."""
    with explain_foreign_errors(path):
        return parse_jsonl(path, path.read_bytes())


def parse_jsonl(path: Path, content: bytes) -> pl.DataFrame:
    """The table in `content`, the bytes of the JSONL file at `path`.

    Raises
    ------
    DataError
        It is not JSONL; the message names the line.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    with explain_foreign_errors(path):
        if half := _LONE_SURROGATE.search(content):
            line = content.count(b"\n", 0, half.start()) + 1
            raise DataError(
                f"{path} cannot be read: line {line:,} has half a character (a surrogate without the other). Remove it, or "
                "write the text again as UTF-8."
            )
        try:
            table = pl.read_ndjson(content, infer_schema_length=None)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            reason = _find_bad_line(content) or _find_doubled_key(content) or str(error).splitlines()[0]
            raise DataError(f"{path} cannot be read: {reason}") from None
    if doubled := _find_doubled_key(content):
        raise DataError(f"{path} cannot be read: {doubled}")
    return table


class _DoubledKeyError(Exception):
    """A JSON object has the key `args[0]` more than once."""


def _find_doubled_key(content: bytes) -> str | None:
    """What is wrong with the first line in which an object has a key twice (Polars would ignore one of them), else None.

    This takes one and a half times as long as Polars takes to read the lines.
    """

    def refuse(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len({*names}) < len(names):
            raise _DoubledKeyError(next(name for name in names if names.count(name) > 1))

    decoder = json.JSONDecoder(object_pairs_hook=refuse)
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            decoder.decode(line.decode("utf-8"))
        except _DoubledKeyError as error:
            return f"line {number:,} has the key {error.args[0]!r} more than once. Remove or rename the others."
        except (ValueError, RecursionError):
            continue  # blank, or left to Polars to accept or refuse
    return None


def _find_bad_line(content: bytes) -> str | None:
    """What is wrong with the first line that is not a JSON object, else None."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"has {constant}, which is not JSON; write null instead")

    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            try:
                if not isinstance(json.loads(line, parse_constant=refuse), dict):
                    return f"line {number:,} is not a JSON object, which begins with {{"
            except (ValueError, RecursionError) as error:
                reason = str(error)
                return f"line {number:,} {reason if reason.startswith('has') else f'is not JSON: {reason}'}"
    return None


def is_near_miss(column: str, name: str) -> bool:
    """Whether the names differ only in case, blanks, punctuation, a plural s or two swapped letters.

    >>> [is_near_miss(column, "split") for column in (" split", "Split", "splits", "spilt", "spit", "split_date")]
    [True, True, True, True, False, False]
    """
    letters, wanted = ("".join(filter(str.isalnum, text.casefold())) for text in (column, name))
    return bool(wanted) and (letters.removesuffix("s") == wanted or sorted(letters) == sorted(wanted))
