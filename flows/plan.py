"""What a run would do now, and what edits of LFs and thresholds would change, before anything runs."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flows.releases.figures import Flips, compare_labels
from flows.runner.changes import summarize_changes
from flows.runner.dvc_status import plan_run
from flows.runner.timings import read_seconds
from flows.watch.session import Session
from tasks.errors import EpoxyError
from tasks.params import read_params
from tasks.queries.pending import find_pending_lfs
from tasks.tables import schemas
from tasks.tables.parquet import read_table
from tasks.tables.paths import ITEMS, LABEL_MODEL_LABELS

_SHOWN = 3
"""Ids of flipped items that are named for each pair of labels."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    stages: name, reason, is_certain (false: only if a stage before it changes what it reads), seconds (of its last run
    here, null where unknown). lfs: lf, items, of; the votes that `apply` would ask for, none where that cannot be known
    before ingest has run.
    """

    stages: pl.DataFrame
    lfs: pl.DataFrame

    @property
    def seconds(self) -> float:
        """How long the stages took when they last ran, those of which it is known."""
        return float(self.stages["seconds"].sum() or 0.0)


def plan(root: Path) -> Plan:
    """Return what `epoxy run` would do in the project at `root`, the working directory.

    Raises
    ------
    EpoxyError
        Another process uses the project, or dvc.yaml or params.yaml cannot be read.
    """
    rows, names = [], set[str]()
    for stage in plan_run(root):
        after = f"if {' or '.join(stage.after)} changes what it reads"
        reason = summarize_changes(stage.changes) or after
        rows.append((stage.name, reason, bool(stage.changes), read_seconds(root, stage.name)))
        names.add(stage.name)
    kinds = {"stage": pl.String, "reason": pl.String, "is_certain": pl.Boolean, "seconds": pl.Float64}
    lfs = pl.DataFrame(schema={"lf": pl.String, "items": pl.Int64, "of": pl.Int64})
    if "apply" in names and (root / ITEMS).is_file():
        lfs = find_pending_lfs(root, read_params(root))
    return Plan(stages=pl.DataFrame(rows, schema=kinds, orient="row"), lfs=lfs)


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


def write_flips(flips: Flips) -> str:
    """Return `flips` as a table in Markdown, for a pull request."""
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
        for row in groups.to_dicts()
    ]
    return head + "\n".join(["| from | to | items | first |", "| --- | --- | ---: | --- |", *lines])
