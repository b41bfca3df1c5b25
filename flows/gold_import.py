"""Decisions in a file from elsewhere, added to a table of gold that only grows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.exchange.contents import require_decisions
from tasks.exchange.formats import ANNOTATIONS
from tasks.gold import require_same_splits
from tasks.params_file import read_params
from tasks.readers.gold_tables import combine_parts, find_near_misses, make_part, read_decisions
from tasks.readers.raw_tables import read_raw_table
from tasks.tables import schemas
from tasks.tables.gold_table import Decision, append_decisions
from tasks.tables.parquet import read_table
from tasks.tables.paths import ITEMS
from tasks.tables.validation import name_first


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the file that hold what a table of gold has. by: who decided, where no column says so."""

    item_id: str
    label: str
    annotator: str | None
    by: str


def import_decisions(root: Path, file: Path, columns: Columns, name: str, form: str | None = None) -> Iterator[str]:
    """Lines on what was done, once the decisions in `file` that are new stand in the table `name` of the project at `root`.

    form: the tool whose export the file is; None: a table with these `columns`.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, or names an unknown class; nothing is added.
    """
    params = read_params(root)
    if "/" in name or name.startswith("."):
        raise DataError(f"--to {name}: expected the name of a table in {params.gold.source}/, such as mine.jsonl.")
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    ids = items[ITEM_ID]
    folder = root / params.gold.source
    if form is None:
        table = read_raw_table(file.parent, file).table
        raw = _name_columns(file, table, columns)
        for column, near in find_near_misses(table.columns):
            if column not in (columns.item_id, columns.label, columns.annotator):
                yield f"note: column {column!r} is not read; call it {near} if it is meant"
    else:
        brought_in = ANNOTATIONS[form](file)
        raw = require_decisions(file, brought_in)
        yield from (f"note: {remark}" for remark in brought_in.remarks)
    part = make_part(file, raw, by=columns.by, id_type=ids.dtype)
    brought = combine_parts([part], ids, params.classes, ())
    known = read_decisions(folder, ids, params.classes).table.with_columns(is_known=True)
    joined = brought.table.join(known, on=[ITEM_ID, "annotator"], how="left", suffix="_known", maintain_order="left")
    is_later = (pl.col("time") > pl.col("time_known")).fill_null(True)
    is_other = pl.col("label").ne_missing(pl.col("label_known"))
    new = joined.filter(pl.when("is_known").then(is_other & is_later).otherwise(pl.col("label").is_not_null()))
    asked = new.select(ITEM_ID, asked="split").join(items, on=ITEM_ID, maintain_order="left")
    require_same_splits(asked, str(file))
    decisions = [
        Decision(
            item_id=row[ITEM_ID],
            label=None if row["label"] is None else params.classes[row["label"]],
            annotator=row["annotator"],
            time=row["time"],
            split=row["split"],
        )
        for row in new.iter_rows(named=True)
    ]
    if note := append_decisions(folder / name, decisions):
        yield f"note: {note}"
    silent = joined["label"].null_count() - new["label"].null_count()
    known_before = brought.table.height - len(decisions) - silent
    yield (
        f"{len(decisions):,} decisions added to {params.gold.source}/{name}, {known_before:,} were known"
        + (f", {silent:,} rows are without a label" if silent else "")
    )
    if len(brought.unknown):
        yield f"{len(brought.unknown):,} are of no item, and left out, first {name_first(brought.unknown)}"


def _name_columns(file: Path, raw: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """The columns of `raw` that matter, called as in a table of gold."""
    named = [name for name in (columns.item_id, columns.label, columns.annotator) if name is not None]
    if len(set(named)) < len(named):
        raise DataError(f"--item-id, --label and --annotator name a column each; got {', '.join(named)}.")
    names = {columns.item_id: ITEM_ID, columns.label: "label"}
    if columns.annotator is not None:
        names[columns.annotator] = "annotator"
    for column in names:
        if column not in raw.columns:
            raise DataError(
                f"{file}: no column '{column}'; it has {', '.join(raw.columns) or 'none'}. Name another: --item-id, --label, "
                "--annotator."
            )
    optional = {"annotator", "time", "split"} - set(names) - set(names.values())
    return raw.select(*names, *sorted(optional & set(raw.columns))).rename(names)
