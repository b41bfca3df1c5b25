"""Raw items: one table of all files, with split and gold checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.params import IngestParams, Split
from tasks.readers.files import find_files, read_raw_table, require_one_suffix
from tasks.readers.ids import INTEGER, mark_last, normalize_ids
from tasks.tables.validation import SHOWN, name_first_where


@dataclass(frozen=True, kw_only=True)
class Items:
    """Items as `table` with item_id, split and every other raw column; `gold` of each row: int8 class position or null.

    `remarks`: what the user should know about how they were read.
    """

    table: pl.DataFrame
    gold: pl.Series
    remarks: tuple[str, ...]


def read_items(source: Path, classes: Sequence[str], params: IngestParams) -> Items:
    """The raw items below `source`, checked, with their gold apart, sorted by item_id.

    Raises
    ------
    ParamsError
        `params.items` leads out of `source`.
    DataError
        No file, no row, or a column that breaks its rule.
    """
    files = find_files(source, params.items, "items")
    untyped = require_one_suffix(files) == ".csv"
    where = f"{params.source}/{params.items}"
    raw = _concatenate(
        [read_raw_table(file, (params.item_id, params.split, params.gold)) for file in files], where, params
    )
    if raw.is_empty():
        raise DataError(f"{where}: no items; expected at least one row.")
    for name, raw_name in ((ITEM_ID, params.item_id), ("split", params.split), ("gold", params.gold)):
        if raw_name != name and name in raw.columns:
            raise DataError(
                f"{where}: has a column '{name}', but ingest.{'item_id' if name == ITEM_ID else name} in params.yaml "
                f"names '{raw_name}' as that. Rename or remove one of them."
            )
    ids = normalize_ids(raw[params.item_id], where, is_untyped=untyped).alias(ITEM_ID)
    kept = mark_last(ids, where, params)
    replaced = len(kept) - kept.sum()
    if replaced:
        raw, ids = raw.filter(kept), ids.filter(kept)
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


def _concatenate(tables: Sequence[pl.DataFrame], where: str, params: IngestParams) -> pl.DataFrame:
    """The rows of all `tables`, which must have the same columns, with an id among them."""
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


def _read_split(split: pl.Series, ids: pl.Series, where: str) -> pl.Series:
    """The split of each row as text, checked."""
    known = [str(name) for name in Split]
    text = split.cast(pl.String).alias("split")
    wrong = ~text.is_in(known).fill_null(False)
    if wrong.any():
        values = ", ".join("missing" if value is None else repr(value) for value in _show_distinct(text.filter(wrong)))
        raise DataError(
            f"{where}: column '{split.name}': {wrong.sum():,} items are in an unknown split: {values}; expected "
            f"{', '.join(known)}. First ids {name_first_where(ids, wrong)}."
        )
    return text


def _all_train(ids: pl.Series) -> pl.Series:
    """The split of each row where there is no such column."""
    return pl.repeat(str(Split.TRAIN), len(ids), eager=True).alias("split")


def _read_gold(gold: pl.Series, ids: pl.Series, classes: Sequence[str], where: str, *, is_untyped: bool) -> pl.Series:
    """Gold as int8 class positions, null where it is unknown.

    Text is class names, integers are class positions. In CSV all is text, and numbers that are no class names are
    positions.
    """
    subject = f"{where}: column '{gold.name}'"
    if gold.dtype in (pl.Categorical, pl.Enum):
        gold = gold.cast(pl.String)
    if gold.dtype.is_float():
        # What pandas makes of integers with gaps.
        gold = gold.fill_nan(None)
        if (gold == gold.round()).all():
            gold = gold.cast(pl.Int64)
    numeric_names = [name for name in classes if re.fullmatch(INTEGER, name)]
    if is_untyped and gold.dtype == pl.String and not numeric_names and gold.drop_nulls().str.contains(INTEGER).all():
        gold = gold.cast(pl.Int64)
    if gold.dtype == pl.Null:
        positions = gold.cast(pl.Int8)
    elif gold.dtype == pl.String:
        positions = gold.replace_strict(classes, range(len(classes)), default=None, return_dtype=pl.Int8)
    elif gold.dtype.is_integer():
        misread = [name for name in numeric_names if int(name) != classes.index(name)]
        if misread:
            raise DataError(
                f"{subject} has integers, which are class positions, but class {misread[0]!r} is at position "
                f"{classes.index(misread[0])}: which is meant? Write gold as text (class names)."
            )
        wide = gold.cast(pl.Int64, strict=False)
        positions = wide.set(~wide.is_between(0, len(classes) - 1), None).cast(pl.Int8)
    else:
        raise DataError(f"{subject} is {gold.dtype}; expected class names (text) or class positions (integers).")
    wrong = gold.is_not_null() & positions.is_null()
    if wrong.any():
        values = ", ".join(repr(value) for value in _show_distinct(gold.filter(wrong)))
        raise DataError(
            f"{subject}: {wrong.sum():,} items are of an unknown class: {values}; expected one of {', '.join(classes)}, or a "
            f"position 0..{len(classes) - 1}, and nothing (null) where gold is unknown. First ids {name_first_where(ids, wrong)}."
        )
    return positions.alias("gold")


def _show_distinct(values: pl.Series) -> pl.Series:
    """The lowest of the distinct `values`, which do not depend on the order of rows."""
    return values.unique().sort().head(SHOWN)
