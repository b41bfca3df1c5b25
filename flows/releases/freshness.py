"""When the newest item is from, by a column of times."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.tables import schemas
from tasks.tables.parquet import read_schema, read_table
from tasks.tables.paths import ITEMS


def read_newest(root: Path, column: str) -> datetime | None:
    """The latest time in `column` of the items, in UTC, None where none has one; a time without a zone is taken for UTC.

    Raises
    ------
    DataError
        There is no such column, or it holds no times.
    """
    if column not in (known := read_schema(root / ITEMS)):
        raise DataError(
            f"{ITEMS}: no column {column!r}, which gates.time_column in release.yaml names; it has {', '.join(known)}."
        )
    times = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, column])[column].drop_nulls()
    if times.dtype == pl.String:
        return max((_parse(column, text) for text in times.unique(maintain_order=True) if text.strip()), default=None)
    newest = times.max()
    if isinstance(newest, datetime):
        return newest.astimezone(UTC) if newest.tzinfo else newest.replace(tzinfo=UTC)
    if isinstance(newest, date):
        return datetime(newest.year, newest.month, newest.day, tzinfo=UTC)
    if newest is None:
        return None
    raise DataError(f"{ITEMS}: column {column!r} is {times.dtype}; expected times. Name another in gates.time_column.")


def _parse(column: str, text: str) -> datetime:
    """The time that a text says."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"{ITEMS}: column {column!r}: {text[:60]!r} is no time. Write times as 2026-11-28T09:30:00Z, or name another column "
            "in gates.time_column."
        ) from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
