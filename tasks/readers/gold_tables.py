"""Tables of gold: people's decisions about items, in append-only files.

A table has the columns `item_id` and `label`, and may have `annotator` (without it, a file counts as one person), `time`
and `split`. A person's last decision about an item counts: the last by time where times are given, else by the order of
files and rows. A decision without a label retracts those before it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import Split
from tasks.readers.class_column import show_distinct, to_classes
from tasks.readers.files import walk
from tasks.readers.ids import normalize_ids, parse_integers
from tasks.readers.raw_tables import is_near_miss, parse_jsonl, read_raw_table
from tasks.tables.json_lines import is_torn
from tasks.tables.validation import name_first

_SUFFIXES = {".parquet", ".csv", ".jsonl", ".ndjson"}

_PASSED_OVER = {".md", ".txt", ".dvc"}
"""Suffixes of other files that are allowed beside the tables: notes, and DVC's pointer files."""

_TIME = pl.Datetime("us", "UTC")

_SCHEMA = {ITEM_ID: pl.String(), "annotator": pl.String(), "time": _TIME, "label": pl.Int8(), "split": pl.String()}


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The last decision of each person about each item.

    table: item_id, annotator, time (null if not given), label (int8 class position, null if retracted) and split (null
    if not given), sorted by item and annotator, for existing items only.
    rows: the number of rows by file. unknown: ids that belong to no item. remarks: what the user should know.
    """

    table: pl.DataFrame
    rows: dict[str, int]
    unknown: pl.Series
    remarks: tuple[str, ...]


def find_gold_tables(folder: Path) -> list[Path]:
    """The paths of the tables in `folder`, ascending; empty if the folder does not exist.

    Raises
    ------
    DataError
        A file is neither a table nor one of the allowed others, or a folder is a link or cannot be read: gold in it would
        be ignored in silence.
    """
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with tables of gold (gold.source in params.yaml).")
    found = []
    for path in sorted(walk(folder)):
        if path.suffix.lower() in _SUFFIXES:
            found.append(path)
        elif path.suffix.lower() not in _PASSED_OVER:
            raise DataError(
                f"{path}: expected a table of gold in .parquet, .csv or .jsonl. Convert it ('epoxy gold import' reads "
                "other forms), or put it elsewhere."
            )
    return found


def read_decisions(folder: Path, ids: pl.Series, classes: Sequence[str]) -> Decisions:
    """The decisions about the items with these `ids`, from the tables in `folder`.

    Raises
    ------
    DataError
        A table is unreadable or lacks a column, or a decision that counts names an unknown class, split or time.
    """
    remarks: list[str] = []
    parts = []
    for path in find_gold_tables(folder):
        raw = _read_table(folder, path, remarks)
        if raw is not None:
            parts.append(make_part(path, raw, by=str(path.relative_to(folder)), id_type=ids.dtype))
    return combine_parts(parts, ids, classes, remarks)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of the file at `path`, whose file name is `name`: item_id, label as written, annotator, time and split."""

    path: Path
    name: str
    table: pl.DataFrame


def make_part(path: Path, raw: pl.DataFrame, *, by: str, id_type: pl.DataType) -> Part:
    """The rows of `raw`, which was read from `path`; `by` is their annotator if there is no such column.

    Raises
    ------
    DataError
        A column is missing, or an id, time or split is invalid.
    """
    if missing := [name for name in (ITEM_ID, "label") if name not in raw.columns]:
        raise DataError(
            f"{path}: no column '{missing[0]}'; it has {', '.join(raw.columns) or 'none'}. A table of gold has item_id and "
            "label, and may have annotator, time and split; 'epoxy gold import' renames columns."
        )
    for column, name in find_near_misses(raw.columns):
        raise DataError(
            f"{path}: column {column!r} is almost called '{name}'. Rename it if it is meant, or name it otherwise."
        )
    table = pl.DataFrame(
        [
            _convert_ids(normalize_ids(raw[ITEM_ID], str(path)), id_type, path).alias(ITEM_ID),
            raw["label"],
            _read_text(raw, "annotator", path).fill_null(by),
            _read_times(raw, path),
            _read_text(raw, "split", path),
        ]
    )
    return Part(path=path, name=by, table=table)


def find_near_misses(columns: Sequence[str]) -> list[tuple[str, str]]:
    """Of `columns`, those whose names are almost that of a column that a table of gold may have, each with that name.

    >>> find_near_misses(["item_id", "label", "Annotator", "split", "splits"])
    [('Annotator', 'annotator')]
    """
    missing = [name for name in _SCHEMA if name not in columns]
    return [(column, name) for name in missing for column in columns if is_near_miss(column, name)]


def combine_parts(parts: Sequence[Part], ids: pl.Series, classes: Sequence[str], remarks: Sequence[str]) -> Decisions:
    """The decisions in `parts` about the items with these `ids`: the last of each person about each item.

    Raises
    ------
    DataError
        A decision that counts names an unknown class or split.
    """
    tables = [pl.DataFrame(schema=_SCHEMA | {ITEM_ID: ids.dtype})]
    said = [
        part.table.select(ITEM_ID, "annotator", "time", file=pl.lit(number), row=pl.int_range(part.table.height))
        for number, part in enumerate(parts)
    ]
    last = pl.concat(said).sort("time", "file", "row", nulls_last=False).unique([ITEM_ID, "annotator"], keep="last", maintain_order=True) if said else None  # fmt: skip
    for number, part in enumerate(parts):
        assert last is not None, "there are parts"
        kept = part.table[last.filter(pl.col("file") == number)["row"].sort()]
        is_typeless = part.path.suffix.lower() == ".csv"
        label = to_classes(kept["label"], kept[ITEM_ID], classes, str(part.path), is_typeless=is_typeless)
        _require_splits(kept, part.path)
        tables.append(kept.with_columns(label.alias("label")).select(list(_SCHEMA)))
    table = pl.concat(tables).sort(ITEM_ID, "annotator")
    by_letters: dict[str, list[str]] = {}
    for name in table["annotator"].unique().sort():
        by_letters.setdefault(" ".join(name.split()).casefold(), []).append(name)
    alike = [
        f"annotators {', '.join(map(repr, names))} count as {len(names)} people, though only case or blanks tell them apart"
        for names in by_letters.values()
        if len(names) > 1
    ]
    is_known = table[ITEM_ID].is_in(ids.implode())
    return Decisions(
        table=table.filter(is_known),
        rows={part.name: part.table.height for part in parts},
        unknown=table.filter(~is_known & table["label"].is_not_null())[ITEM_ID].unique().sort(),
        remarks=(*remarks, *alike),
    )


def _read_table(folder: Path, path: Path, remarks: list[str]) -> pl.DataFrame | None:
    """The unchanged rows of the file at `path`; None if it has none."""
    if path.stat().st_size == 0:
        return None
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return read_raw_table(folder, path).table
    content = path.read_bytes()
    tail = content[content.rfind(b"\n") + 1 :]
    if tail and is_torn(tail):
        remarks.append(
            f"{path}: half a line at the end, from a process that was stopped, is passed over; the next decision that is "
            "added removes it"
        )
        content = content.removesuffix(tail)
    return parse_jsonl(path, content) if content.strip() else None


def _convert_ids(ids: pl.Series, id_type: pl.DataType, path: Path) -> pl.Series:
    """The same ids, in the type of the items' ids."""
    if id_type == pl.String:
        return ids.cast(pl.String)
    if ids.dtype == id_type:
        return ids
    numbers = parse_integers(ids)
    if numbers is None:
        raise DataError(f"{path}: item_id is text, but ids of items are integers. Write them alike.")
    return numbers


def _read_text(raw: pl.DataFrame, name: str, path: Path) -> pl.Series:
    """An optional column as text, null where it is blank."""
    if name not in raw.columns:
        return pl.Series(name, [None] * raw.height, dtype=pl.String)
    if raw[name].dtype.is_nested():
        raise DataError(f"{path}: column '{name}' is {raw[name].dtype}; expected single values.")
    text = raw[name].cast(pl.String)
    return text.set(text.str.strip_chars() == "", None)


def _read_times(raw: pl.DataFrame, path: Path) -> pl.Series:
    """The time of each decision, null if not given; a time without a zone counts as UTC."""
    kind = raw.schema.get("time")
    if isinstance(kind, pl.Datetime):
        return raw["time"].cast(_TIME) if kind.time_zone else raw["time"].dt.replace_time_zone("UTC").cast(_TIME)
    found: list[datetime | None] = []
    for row, text in enumerate(_read_text(raw, "time", path)):
        try:
            time = datetime.fromisoformat(text) if text else None
            found.append(time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC) if time else None)
        except (ValueError, OverflowError):
            raise DataError(
                f"{path}: column 'time', row {row:,} (counted from 0): {text!r} is no time. Write it as "
                "2026-11-28T09:30:00Z, or leave it empty."
            ) from None
    return pl.Series("time", found, dtype=_TIME)


def _require_splits(table: pl.DataFrame, path: Path) -> None:
    """Check that every split that is given exists."""
    known = [str(split) for split in Split]
    wrong = ~table["split"].is_in(known).fill_null(True)
    if wrong.any():
        values = ", ".join(map(repr, show_distinct(table["split"].filter(wrong))))
        raise DataError(
            f"{path}: column 'split': {values}; expected {', '.join(known)}, or nothing. First ids "
            f"{name_first(table[ITEM_ID].filter(wrong).sort())}."
        )
