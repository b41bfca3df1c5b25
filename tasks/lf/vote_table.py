"""Votes that come as a table below lfs/, from labeling functions that ran elsewhere."""

import re
from pathlib import Path

import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.errors import DataError
from tasks.progress import Progress
from tasks.tables import schemas

_SHOWN = 5
"""How many ids or values an error names."""


def read_vote_table(root: Path, source: str, item_ids: pl.Series, k: int) -> pl.DataFrame:
    """The votes in `source`, checked, in ascending order of item ids: item_id and one int8 column per LF.

    Parameters
    ----------
    source
        A Parquet or CSV file below lfs/ with the column item_id and one column per LF.
    item_ids
        The ids of all items; the table must have each of them once, and no other.
    k
        The number of classes.

    Raises
    ------
    DataError
        The file is missing or damaged, or is not such a table.
    """
    raw = _read_file(root, source, item_ids.dtype)
    lfs = [name for name in raw.columns if name != ITEM_ID]
    if ITEM_ID not in raw.columns or not lfs:
        raise DataError(
            f"{source}: has columns {', '.join(raw.columns) or 'none'}; expected '{ITEM_ID}' and one column per LF."
        )
    bad = [name for name in lfs if not re.fullmatch(schemas.LF_NAME, name)]
    if bad:
        raise DataError(
            f"{source}: {bad[0]!r} cannot name a labeling function. Use letters, digits, '_', '.' and '-', a letter or "
            "'_' first."
        )
    given_ids = raw[ITEM_ID]
    if given_ids.dtype.is_integer() and item_ids.dtype == pl.Int64:
        given_ids = given_ids.cast(pl.Int64)
    _require_ids(source, given_ids, item_ids)
    with Progress("checking votes", total=len(lfs)) as progress:
        checked = [_check_votes(source, raw[lf], given_ids, k) for lf in progress.follow(lfs)]
    return raw.select(given_ids, *checked).sort(ITEM_ID)


def _read_file(root: Path, source: str, id_type: pl.DataType) -> pl.DataFrame:
    """The table as it is in the file."""
    if not (root / source).resolve().is_relative_to((root / "lfs").resolve()):
        raise DataError(f"{source} leads out of lfs/, the folder that the apply stage depends on. Put a copy there.")
    try:
        if Path(source).suffix == ".csv":
            # Unlike Parquet, CSV has no types: its ids are of whatever kind the items' are.
            return pl.read_csv(root / source, schema_overrides={ITEM_ID: id_type}, infer_schema_length=None)
        return pl.read_parquet(root / source, memory_map=False)
    except FileNotFoundError:
        raise DataError(f"{source} not found. Correct apply.source in params.yaml.") from None
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{source} cannot be read: {str(error).strip().splitlines()[0]}") from None


def _require_ids(source: str, given: pl.Series, expected: pl.Series) -> None:
    """Check that a table of votes has each item once and nothing else."""
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
        f"{source}: {len(found):,} {what}, first {_name_first(found)}."
        for what, found in findings.items()
        if len(found)
    ]
    if lines:
        raise DataError(
            "\n".join([*lines, f"It must have one row per item, with the ids that ingest read ({ITEM_ID})."])
        )


def _check_votes(source: str, column: pl.Series, ids: pl.Series, k: int) -> pl.Series:
    """The column as int8, every value checked before it is cast."""
    if not column.dtype.is_numeric():
        raise DataError(
            f"{source}: column '{column.name}' is {column.dtype}; expected whole numbers, -1 (abstain) or 0..{k - 1}."
        )
    # Beyond int64 is beyond every class, too; unsigned types do not compare with -1.
    whole = column.cast(pl.Int64, strict=False)
    wrong = ~(whole.is_between(ABSTAIN, k - 1) & (whole == column)).fill_null(False)
    if wrong.any():
        found = column.filter(wrong).unique(maintain_order=True).head(_SHOWN)
        values = ", ".join("missing" if value is None else f"{value}" for value in found)
        raise DataError(
            f"{source}: column '{column.name}' has {wrong.sum():,} votes that are neither -1 (abstain) nor 0..{k - 1}: "
            f"{values}; first at {ITEM_ID} {_name_first(ids.filter(wrong))}."
        )
    return column.cast(pl.Int8)


def _name_first(values: pl.Series) -> str:
    """The first of `values`, for an error."""
    return ", ".join(repr(value) for value in values.head(_SHOWN))
