"""Votes from a table below lfs/, for labeling functions that ran elsewhere."""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from tasks.core.class_names import find_misread_class
from tasks.core.types import ABSTAIN, ITEM_ID, LF_NAME
from tasks.errors import DataError
from tasks.progress import Progress
from tasks.readers.ids import parse_integers
from tasks.readers.raw_tables import RawTable, read_raw_table
from tasks.tables.validation import SHOWN, name_first

_NO_LFS = {"gold", "label", "split"}
"""Columns that other tools export beside votes; if one were read as an LF, gold would decide labels."""


def read_vote_table(root: Path, source: str, item_ids: pl.Series, classes: Sequence[str]) -> pl.DataFrame:
    """The checked votes in `source`, in ascending order of item ids: item_id, then an int8 column per LF, by name.

    Parameters
    ----------
    source
        A Parquet or CSV file below lfs/ with item_id and a column per LF.
    item_ids
        The ids of all items; the table must have each of them exactly once, and no others.
    classes
        Class names; a vote is a position in this list.

    Raises
    ------
    DataError
        The file is missing or damaged, or is not such a table.
    """
    file = read_table_below_lfs(root, source, "apply.source")
    raw = file.table
    # By name, as for the LFs of a module: labels must not depend on the order of columns.
    lfs = sorted(name for name in raw.columns if name != ITEM_ID)
    if ITEM_ID not in raw.columns or not lfs:
        raise DataError(
            f"{source}: has columns {', '.join(raw.columns) or 'none'}; expected '{ITEM_ID}' and one column per LF."
        )
    bad = [name for name in lfs if not re.fullmatch(LF_NAME, name)]
    if bad:
        raise DataError(
            f"{source}: {bad[0]!r} cannot name a labeling function. Use letters, digits, '_', '.' and '-', a letter or "
            "'_' first."
        )
    if leaks := [name for name in lfs if name.casefold() in _NO_LFS]:
        raise DataError(
            f"{source}: column {leaks[0]!r} would be taken for the votes of a labeling function. Remove it, or rename it if "
            "it is one."
        )
    if misread := find_misread_class(classes):
        raise DataError(
            f"{source}: votes are class positions, but class {misread!r} is at position {classes.index(misread)}: a number "
            "could mean either. Give the classes names that are not numbers (in params.yaml)."
        )
    given_ids = _adapt_ids(raw[ITEM_ID], item_ids.dtype, is_typeless=ITEM_ID in file.typeless)
    _require_ids(source, given_ids, item_ids)
    with Progress("checking votes", total=len(lfs)) as progress:
        checked = [
            _check_votes(source, _parse_votes(raw[lf], lf in file.typeless), given_ids, len(classes))
            for lf in progress.follow(lfs)
        ]
    return raw.select(given_ids, *checked).sort(ITEM_ID)


def read_table_below_lfs(root: Path, source: str, key: str) -> RawTable:
    """The unchanged table in the file `source`, which `key` of params names.

    Raises
    ------
    DataError
        The file is missing or damaged, or leads out of lfs/.
    """
    path = root / source
    if not path.resolve().is_relative_to((root / "lfs").resolve()):
        raise DataError(f"{source} leads out of lfs/, the folder that the apply stage depends on. Put a copy there.")
    if not path.is_file():
        raise DataError(f"{source} not found. Correct {key} in params.yaml.")
    return read_raw_table(path.parent, path)


def _adapt_ids(ids: pl.Series, wanted: pl.DataType, *, is_typeless: bool) -> pl.Series:
    """The same ids in the type of the items' ids, if that changes no id."""
    if ids.dtype in (pl.Categorical, pl.Enum):
        return ids.cast(pl.String)
    if ids.dtype.is_integer() and wanted == pl.Int64:
        numbers = ids.cast(pl.Int64, strict=False)
        return ids if numbers.null_count() > ids.null_count() else numbers
    parsed = parse_integers(ids) if is_typeless and wanted == pl.Int64 else None
    return ids if parsed is None else parsed


def _parse_votes(column: pl.Series, is_typeless: bool) -> pl.Series:
    """The votes of a CSV file as numbers, if all of them are numbers."""
    for kind in (pl.Int64, pl.Float64) if is_typeless else ():
        numbers = column.cast(kind, strict=False)
        if numbers.null_count() == column.null_count():
            return numbers
    return column


def _require_ids(source: str, given: pl.Series, expected: pl.Series) -> None:
    """Check that a table of votes has each item exactly once, and no other row."""
    if given.dtype != expected.dtype:
        raise DataError(f"{source}: {ITEM_ID} is {given.dtype}, but {expected.dtype} in the items. Write both alike.")
    findings = {
        "rows have no item_id": pl.int_range(len(given), eager=True).filter(given.is_null()),
        "ids occur more than once": given.filter(given.is_duplicated() & given.is_not_null()).unique(
            maintain_order=True
        ),
        "items have no votes": expected.filter(~expected.is_in(given.drop_nulls().implode())),
        "ids are no items": given.filter(~given.is_in(expected.implode())).drop_nulls(),
    }
    lines = [
        f"{source}: {len(found):,} {what}, first {name_first(found)}." for what, found in findings.items() if len(found)
    ]
    if lines:
        raise DataError(
            "\n".join([*lines, f"It must have one row per item, with the ids that ingest read ({ITEM_ID})."])
        )


def _check_votes(source: str, column: pl.Series, ids: pl.Series, k: int) -> pl.Series:
    """The column as int8, with every value checked."""
    if not column.dtype.is_numeric():
        text = column if column.dtype == pl.String else column.head(0)
        odd = text.filter(text.is_not_null() & text.cast(pl.Float64, strict=False).is_null())
        raise DataError(
            f"{source}: column '{column.name}' is {column.dtype}{f', such as {odd[0]!r}' if len(odd) else ''}; expected whole "
            f"numbers, -1 (abstain) or 0..{k - 1}."
        )
    # What int64 cannot hold is no class either; unsigned types do not compare with -1.
    whole = column.cast(pl.Int64, strict=False)
    wrong = ~(whole.is_between(ABSTAIN, k - 1) & (whole == column)).fill_null(False)
    if wrong.any():
        found = column.filter(wrong).unique(maintain_order=True).head(SHOWN)
        values = ", ".join("missing" if value is None else f"{value}" for value in found)
        raise DataError(
            f"{source}: column '{column.name}' has {wrong.sum():,} votes that are neither -1 (abstain) nor 0..{k - 1}: "
            f"{values}; first at {ITEM_ID} {name_first(ids.filter(wrong))}."
        )
    return column.cast(pl.Int8)
