"""Raw items: all files as one table, with split and gold checked."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from polars.datatypes import DataTypeClass

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import IngestParams, Reads, Split
from tasks.progress import Progress
from tasks.readers.class_column import show_distinct, to_classes
from tasks.readers.column_types import convert_column, describe_losses, guess_types, propose_types, write_key
from tasks.readers.files import drop_empty, find_files, require_one_suffix
from tasks.readers.ids import mark_last, normalize_ids
from tasks.readers.quarantine import Note, Quarantine, Reason, RowNotes
from tasks.readers.raw_tables import RawTable, is_near_miss, read_raw_table
from tasks.tables.validation import name_first_where

FEWEST_ROWS = 10_000
"""The number of rows from which types are proposed, if there are as many."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """Items as `table` with item_id, split and every other raw column; `gold` of each row: int8 class position or null.

    `remarks`: what the user should know about how they were read. `losses`: what type conversion dropped from values.
    `ids_by_file`: the ids of each file in the file's order.
    """

    table: pl.DataFrame
    gold: pl.Series
    remarks: tuple[str, ...]
    losses: tuple[str, ...]
    ids_by_file: Mapping[Path, pl.Series]

    def replace_columns(self, columns: Sequence[pl.Series]) -> "Items":
        """These items with `columns`, each in place of that of its name, if there is one."""
        return replace(self, table=self.table.with_columns(columns)) if columns else self

    def drop(self, ids: Collection[str | int]) -> "Items":
        """These items without those of `ids`."""
        known = self.table[ITEM_ID]
        kept = ~known.is_in(pl.Series(list(ids), dtype=known.dtype).implode())
        return replace(self, table=self.table.filter(kept), gold=self.gold.filter(kept))


def read_items(source: Path, classes: Sequence[str], params: IngestParams, quarantine: Quarantine) -> Items:
    """The raw items below `source`, checked and sorted by item_id, with gold in a column of its own.

    Rows that fail are noted in `quarantine` and left out, if they may fail.

    Raises
    ------
    ParamsError
        `params.items` leads out of `source`.
    DataError
        There is no file or no row, or a column is invalid.
    """
    found = find_files(source, params.items, "items")
    with Progress("reading items", total=len(found) + _CHECKS) as progress:
        return _read_files(source, found, classes, params, quarantine, progress)


_CHECKS = 3
"""Units of work after the last file is read: types, ids, the rest."""


def _read_files(
    source: Path,
    found: Sequence[Path],
    classes: Sequence[str],
    params: IngestParams,
    quarantine: Quarantine,
    progress: Progress,
) -> Items:
    where = f"{params.source}/{params.items}"
    files = drop_empty(found)
    suffix = require_one_suffix(files)
    progress.advance(len(found) - len(files))
    parts = [read_raw_table(source, file, is_lenient=quarantine.is_on) for file in progress.follow(files)]
    raw = _concatenate(parts, where, params)
    if raw.is_empty():
        raise DataError(f"{where}: no items; expected at least one row.")
    typeless = parts[0].typeless
    _require_headers(raw.columns, where, params)
    _require_known_types(raw.columns, typeless if suffix == ".parquet" else raw.columns, where, params)
    losses = describe_losses((raw[name] for name in params.types), params.types, where)
    notes = RowNotes(quarantine, parts) if quarantine.is_on else None
    note = notes.note if notes else None
    raw = raw.with_columns(convert_column(raw[name], kind, where, note) for name, kind in params.types.items())
    progress.advance()
    ids = normalize_ids(raw[params.item_id], where, note).alias(ITEM_ID)
    ids_by_file = _cut_ids(ids, parts)
    kept = mark_last(ids, where, params, files, note)
    replaced = len(kept) - kept.sum()
    if replaced or notes:
        kept = notes.drop(ids, kept) if notes else kept
        raw, ids = raw.filter(kept), ids.filter(kept)
    progress.advance()
    split = _read_split(raw[params.split], ids, where, note) if params.split in raw.columns else _all_train(ids)
    gold = (
        to_classes(raw[params.gold], ids, classes, where, is_typeless=params.gold in typeless, note=note)
        if params.gold in raw.columns
        else pl.Series("gold", [None] * len(ids), dtype=pl.Int8)
    )
    if notes:
        _note_missing_texts(raw, params, notes)
        kept = notes.drop(ids, pl.repeat(True, len(ids), eager=True))
        raw, ids, split, gold = raw.filter(kept), ids.filter(kept), split.filter(kept), gold.filter(kept)
        quarantine.require_few(len(ids))
        if raw.is_empty():
            raise DataError(f"{where}: every row failed; expected at least one item. Correct the file.")
    rest = raw.drop(params.item_id, params.split, params.gold, strict=False)
    rest = rest.with_columns(_make_storable(column, where) for column in rest)
    order = ids.arg_sort()
    remarks = [
        f"no column '{column}' in {where}: {meaning}"
        for column, meaning in ((params.split, "every item is in train"), (params.gold, "no item has gold"))
        if column not in raw.columns
    ]
    if len(files) < len(found):
        remarks.append(f"{len(found) - len(files):,} files in {where} are empty")
    if replaced:
        remarks.append(f"{replaced:,} rows in {where} are replaced by later ones of the same id")
    if proposal := propose_types(rest, typeless - params.types.keys(), params.types, where):
        remarks.append(proposal)
    progress.advance()
    return Items(
        table=pl.DataFrame([ids, split, *rest])[order],
        gold=gold[order],
        remarks=tuple(remarks),
        losses=tuple(losses),
        ids_by_file=ids_by_file,
    )


def describe_types(source: Path, params: IngestParams) -> str:
    """Lines for `ingest.types` in params.yaml that suit the first raw items below `source`, or why none are needed.

    Files are read until there are `FEWEST_ROWS` rows. Types that `params` already has are kept.

    Raises
    ------
    ParamsError
        `params.items` leads out of `source`.
    DataError
        There is no file, or a file is unreadable.
    """
    where = f"{params.source}/{params.items}"
    parts: list[pl.DataFrame] = []
    for file in drop_empty(find_files(source, params.items, "items")):
        part = read_raw_table(source, file)
        parts.append(part.table.select(name for name in part.table.columns if name in part.typeless))
        if sum(table.height for table in parts) >= FEWEST_ROWS:
            break
    sample = pl.concat(parts, how="diagonal")
    fixed = {params.item_id, params.split, params.gold, *params.types}
    found = guess_types(sample, {*sample.columns} - fixed)
    if not found:
        return f"no column of {where} needs a type: nothing there is read as text that looks like numbers"
    types = {**params.types, **found}
    lines = [f"    {write_key(name)}: {kind}" for name, kind in types.items()]
    return "\n".join(
        [
            f"# what {sample.height:,} rows of {where} look like; leave out what is a code, such as a zip",
            "ingest:",
            "  types:",
            *lines,
        ]
    )


def _concatenate(parts: Sequence[RawTable], where: str, params: IngestParams) -> pl.DataFrame:
    """The rows of all `parts`, which must have the same columns, the id among them."""
    columns = parts[0].table.columns
    for part in parts:
        if params.item_id not in part.table.columns:
            raise DataError(
                f"{where}: no column '{params.item_id}' (ingest.item_id in params.yaml); it has "
                f"{', '.join(part.table.columns) or 'none'}."
            )
        differing = set(columns).symmetric_difference(part.table.columns) or parts[0].typeless ^ part.typeless
        if differing:
            raise DataError(
                f"{where}: not every file has the column {', '.join(sorted(differing))}. Give all files the same columns."
            )
    filled = [part.table.select(columns) for part in parts if part.table.height] or [parts[0].table]
    for name in (params.item_id, params.gold):
        # Joined, they would become text, and 1 would mean the class named "1" rather than the second class.
        kinds = {table.schema[name].is_numeric() for table in filled if table.schema.get(name, pl.Null()) != pl.Null}
        if len(kinds) > 1:
            raise DataError(
                f"{where}: '{name}' is text in one file and {_name_numbers(filled, name)} in another. Write all alike."
            )
    try:
        return pl.concat(filled, how="vertical_relaxed")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{where}: its files do not fit together: {str(error).splitlines()[0]}") from None


def _name_numbers(tables: Sequence[pl.DataFrame], name: str) -> str:
    """The kind of number in column `name`, for an error."""
    return "integers" if any(table.schema[name].is_integer() for table in tables) else "numbers"


def _cut_ids(ids: pl.Series, parts: Sequence[RawTable]) -> dict[Path, pl.Series]:
    """The ids of each file's rows, in their order; null for a row that cannot be read."""
    found: dict[Path, pl.Series] = {}
    start = 0
    for part in parts:
        own = ids[start : start + part.table.height]
        start += part.table.height
        found[part.path] = own
        if part.records:
            is_read = pl.Series([record.problem is None for record in part.records])
            row = pl.select(pl.when(is_read).then(is_read.cast(pl.Int64).cum_sum() - 1)).to_series()
            found[part.path] = own.gather(row)
    return found


# Columns of the items.


def _note_missing_texts(raw: pl.DataFrame, params: IngestParams, notes: RowNotes) -> None:
    """Take note of rows without the text that is to be encoded."""
    name = params.encoder.column if params.encoder and params.encoder.reads is Reads.TEXT else None
    if name in raw.columns and raw.schema[name] == pl.String:
        notes.note(raw[name].is_null(), Reason.NO_TEXT, raw[name])


def _require_headers(columns: Sequence[str], where: str, params: IngestParams) -> None:
    """Check that no column's name is a near miss of one with a meaning: its split or gold would be ignored."""
    for key, name in ((ITEM_ID, params.item_id), ("split", params.split), ("gold", params.gold)):
        if name != key and key in columns:
            raise DataError(
                f"{where}: has a column '{key}', but ingest.{key} in params.yaml names '{name}' as that. Rename or remove "
                "one of them."
            )
        for column in columns:
            is_exact = column in (params.item_id, params.split, params.gold)
            if key != ITEM_ID and not is_exact and (is_near_miss(column, name) or is_near_miss(column, key)):
                raise DataError(
                    f"{where}: column {column!r} is almost called '{name}' (ingest.{key} in params.yaml). Rename it if it is "
                    "meant, or name it otherwise."
                )


def _require_known_types(
    columns: Sequence[str], convertible: Sequence[str] | frozenset[str], where: str, params: IngestParams
) -> None:
    """Check that `ingest.types` names existing columns only, and none whose file gives it a type."""
    for name in params.types:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1, cutoff=0)
            raise DataError(
                f"{where}: no column '{name}', which ingest.types in params.yaml names." + f" Did you mean '{near[0]}'?"
            )
        if name not in convertible:
            raise DataError(
                f"{where}: Parquet has types of its own; remove '{name}' from ingest.types in params.yaml, or write the file "
                "with the type that you want."
            )


def _make_storable(column: pl.Series, where: str) -> pl.Series:
    """The same values in a type that can be stored, and whose bytes do not depend on the order of the rows."""
    if column.dtype in (pl.Int128, pl.UInt128):
        # Polars makes this of uint64 in one file with int64 in another, and of long numbers in JSON.
        try:
            return column.cast(pl.Int64)
        except pl.exceptions.PolarsError:
            raise DataError(
                f"{where}: column '{column.name}' has integers beyond 64 bits, such as {column.abs().max()!r}. Write them as text."
            ) from None
    try:
        kind = _find_storable(column.dtype)
        return column if kind == column.dtype else column.cast(kind)
    except ValueError as error:
        raise DataError(f"{where}: column '{column.name}' is {column.dtype}, {error}.") from None
    except RecursionError:
        raise DataError(f"{where}: column '{column.name}' has lists in lists without end. Write it as text.") from None


def _find_storable(kind: pl.DataType | DataTypeClass) -> pl.DataType | DataTypeClass:
    """The type in which values of type `kind` are stored.

    Raises
    ------
    ValueError
        They cannot be stored; the message says why, and what to do.
    """
    if isinstance(kind, pl.Categorical | pl.Enum):
        return pl.String()  # the codes of a categorical depend on the order of the rows, and text says the same
    if isinstance(kind, pl.Int128 | pl.UInt128):
        raise ValueError("with integers beyond 64 bits. Write them as text")
    if isinstance(kind, pl.List):
        return pl.List(_find_storable(kind.inner))
    if isinstance(kind, pl.Array):
        return pl.Array(_find_storable(kind.inner), kind.size)
    if isinstance(kind, pl.Struct):
        if not kind.fields:
            raise ValueError("objects without any key. Leave it out")
        return pl.Struct({field.name: _find_storable(field.dtype) for field in kind.fields})
    return kind


def _read_split(split: pl.Series, ids: pl.Series, where: str, note: Note | None) -> pl.Series:
    """The checked split of each row, as text; with `note`, also those that are none."""
    known = [str(name) for name in Split]
    if split.dtype.is_nested():
        raise DataError(f"{where}: column '{split.name}' is {split.dtype}; expected text, one of {', '.join(known)}.")
    text = split.cast(pl.String).alias("split")
    wrong = ~text.is_in(known).fill_null(False)
    if wrong.any() and note:
        note(wrong, Reason.BAD_SPLIT, text)
    elif wrong.any():
        values = ", ".join("missing" if value is None else repr(value) for value in show_distinct(text.filter(wrong)))
        raise DataError(
            f"{where}: column '{split.name}': {wrong.sum():,} items are in an unknown split: {values}; expected "
            f"{', '.join(known)}. First ids {name_first_where(ids, wrong)}."
        )
    return text


def _all_train(ids: pl.Series) -> pl.Series:
    """The split of each row if there is no such column: train."""
    return pl.repeat(str(Split.TRAIN), len(ids), eager=True).alias("split")
