"""What edits of LFs and thresholds would change in the labels, before anything runs."""

import tempfile
from pathlib import Path

import polars as pl

from flows.releases.figures import Flips, compare_labels
from flows.watch.session import Session
from tasks.errors import EpoxyError
from tasks.tables import schemas
from tasks.tables.parquet import read_table
from tasks.tables.paths import LABEL_MODEL_LABELS

_SHOWN = 3
"""Ids of flipped items that are named for each pair of labels."""


def preview_flips(root: Path) -> Flips:
    """Return which items the label model would label otherwise with LFs and params.yaml as they are now.

    Votes, neighbors, thresholds, extension and label model are computed in memory, as `epoxy watch` does, and compared
    with data/fit/labels.parquet. The end model, which needs its stages, follows in the run.

    Raises
    ------
    EpoxyError
        What the stages would say of LFs and params, or there is no last run to compare with.
    """
    with tempfile.TemporaryDirectory(prefix="epoxy-plan-") as folder:
        session = Session(root, Path(folder))
        session.look()
        result = session.evaluate()
    classes = result.params.classes
    try:
        before = read_table(root / LABEL_MODEL_LABELS, schemas.labels(classes))
    except EpoxyError as error:
        raise type(error)(f"{error} Without a last run there is nothing to compare with.") from None
    return compare_labels(before, result.labels)


def write_flips(flips: Flips, limit: int | None = None) -> str:
    """Return `flips` as a table in Markdown, for a pull request, with at most `limit` pairs of labels."""
    if flips.flipped.is_empty():
        return f"No label of the label model flips, of {flips.common:,}."
    groups = (
        flips.flipped.group_by("before", "after")
        .agg(pl.len().alias("items"), pl.col("item_id").sort().head(_SHOWN).cast(pl.String).alias("first"))
        .sort(["items", "before", "after"], descending=[True, False, False])
    )
    share = flips.share or 0.0
    head = f"{flips.flipped.height:,} of {flips.common:,} labels of the label model flip ({share:.1%}).\n\n"
    lines = [
        f"| {row['before']} | {row['after']} | {row['items']:,} | {', '.join(row['first'])} |"
        for row in (groups if limit is None else groups.head(limit)).to_dicts()
    ]
    return head + "\n".join(["| from | to | items | first |", "| --- | --- | ---: | --- |", *lines])
