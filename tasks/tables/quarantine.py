"""The table of rows that ingest left out, in words."""

from pathlib import Path

import polars as pl

from tasks.tables import schemas
from tasks.tables.parquet import read_table
from tasks.tables.paths import QUARANTINE


def read_quarantine(root: Path) -> pl.DataFrame:
    """The rows that ingest of the project at `root` left out, as `schemas.QUARANTINE` has them.

    Raises
    ------
    DataError
        The table is missing or damaged.
    """
    return read_table(root / QUARANTINE, schemas.QUARANTINE)


def count_reasons(table: pl.DataFrame) -> list[tuple[str, int]]:
    """Each reason in a table of quarantined rows with its number of rows, most frequent first.

    >>> count_reasons(pl.DataFrame({"reason": ["no id", "no text", "no text"]}))
    [('no text', 2), ('no id', 1)]
    """
    counts = table.group_by("reason").len().sort(["len", "reason"], descending=[True, False])
    return [(reason, count) for reason, count in counts.iter_rows()]


def describe_quarantine(table: pl.DataFrame) -> str | None:
    """A sentence on quarantined rows, None if there are none.

    >>> describe_quarantine(pl.DataFrame({"reason": ["no id", "no text", "no text"]}))
    "3 rows failed and were left out (2 no text, 1 no id); 'epoxy quarantine' lists them."
    """
    if table.is_empty():
        return None
    counts = ", ".join(f"{count:,} {reason}" for reason, count in count_reasons(table))
    return f"{table.height:,} rows failed and were left out ({counts}); 'epoxy quarantine' lists them."
