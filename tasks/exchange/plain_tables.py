"""Labels joined with the items' columns as Parquet, CSV (RFC 4180) or JSON lines."""

from pathlib import Path

import polars as pl

from tasks.exchange.contents import Labeled, to_json
from tasks.tables.files import open_atomic

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a cell for a formula by, when it is the first character."""


def write_parquet(path: Path, labeled: Labeled) -> None:
    """Write the table with its types."""
    with open_atomic(path) as part:
        labeled.table.write_parquet(part)


def write_csv(path: Path, labeled: Labeled, *, is_for_spreadsheet: bool = False) -> None:
    """Write the table as CSV; lists and structures are JSON in a cell.

    is_for_spreadsheet: text that a spreadsheet would take for a formula, also as a column's name, gets an apostrophe before it,
    which spreadsheets hide. The bytes are then no longer those of the items.
    """
    table = labeled.table.with_columns(
        pl.Series(
            name, [None if value is None else to_json(value) for value in labeled.table[name].to_list()], pl.String
        )
        for name, kind in labeled.table.schema.items()
        if kind.is_nested() or kind == pl.Object
    )
    if is_for_spreadsheet:
        table = defuse_formulas(table)
    with open_atomic(path) as part:
        table.write_csv(part)


def defuse_formulas(table: pl.DataFrame) -> pl.DataFrame:
    """`table` in which no text begins as a formula does.

    >>> defuse_formulas(pl.DataFrame({"=a": ["=1+1", "fine", None]})).to_dict(as_series=False)
    {"'=a": ["'=1+1", 'fine', None]}
    """
    texts = [name for name, kind in table.schema.items() if kind in (pl.String, pl.Categorical, pl.Enum)]
    escaped = table.with_columns(
        pl.when(pl.col(name).cast(pl.String).str.contains(r"^[=+\-@\t\r]"))
        .then(pl.lit("'") + pl.col(name).cast(pl.String))
        .otherwise(pl.col(name).cast(pl.String))
        .alias(name)
        for name in texts
    )
    return escaped.rename({name: f"'{name}" for name in escaped.columns if name.startswith(_FORMULA)})


def write_jsonl(path: Path, labeled: Labeled) -> None:
    """Write an object per item; dates and times as text."""
    with open_atomic(path) as part, part.open("w", encoding="utf-8") as file:
        for row in labeled.table.iter_rows(named=True):
            file.write(f"{to_json(row)}\n")
