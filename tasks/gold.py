"""gold: merge gold from the items' column with people's tables of gold, and set the gold of test and train apart."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.core.agreement import count_decisions, measure_alpha, measure_pairs
from tasks.core.label_models.dawid_skene import fit_dawid_skene
from tasks.core.ties import find_top
from tasks.core.types import ABSTAIN, ITEM_ID, Float64, Int64, Votes
from tasks.errors import DataError
from tasks.params import GoldColumn, GoldOnTrain, GoldParams, Resolution, Split
from tasks.readers.gold_tables import Decisions, read_decisions
from tasks.tables import schemas
from tasks.tables.files import write_json
from tasks.tables.parquet import read_table, write_table
from tasks.tables.paths import COLUMN_GOLD, GOLD_CONFLICTS, GOLD_SUMMARY, ITEMS, VALID_GOLD, WITHHELD_GOLD
from tasks.tables.validation import name_first

COLUMN = "gold column of the items"
"""The name of the gold column among annotators."""


@dataclass(frozen=True, kw_only=True)
class Gold:
    """All gold of a project, rows by item.

    table: item_id, split, gold (int8 class position, null where annotators tie) of each item with a decision.
    conflicts: see `schemas.gold_conflicts`. summary: counts and agreement, for summary.json. remarks: what the user should
    know.
    """

    table: pl.DataFrame
    conflicts: pl.DataFrame
    summary: dict[str, Any]
    remarks: tuple[str, ...]


def run(root: Path, classes: tuple[str, ...], params: GoldParams) -> None:
    """Write gold of valid, gold of the other splits, conflicts and a summary.

    Raises
    ------
    DataError
        A table is unreadable, names an unknown class or moves an item from one split to another.
    """
    gold = gather_gold(root, classes, params)
    known = gold.table.drop_nulls("gold")
    is_valid = pl.col("split") == Split.VALID
    k = len(classes)
    write_table(root / VALID_GOLD, known.filter(is_valid).select(ITEM_ID, "gold"), schemas.gold(k))
    write_table(
        root / WITHHELD_GOLD, known.filter(~is_valid).select(ITEM_ID, "gold", "split"), schemas.withheld_gold(k)
    )
    write_table(root / GOLD_CONFLICTS, gold.conflicts, schemas.gold_conflicts(classes))
    write_json(root / GOLD_SUMMARY, gold.summary)
    for remark in gold.remarks:
        print(f"gold: {remark}.", file=sys.stderr)


def gather_gold(root: Path, classes: Sequence[str], params: GoldParams) -> Gold:
    """The gold of the project at `root`, from the items' column and the tables below `params.source`.

    Raises
    ------
    DataError
        As `run`.
    """
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    column = read_table(root / COLUMN_GOLD, schemas.gold(len(classes)))
    decisions = read_decisions(root / params.source, items[ITEM_ID], classes)
    counted = decisions.table.drop_nulls("label")
    to_deal = [counted.select(ITEM_ID, "split")]
    if params.column == GoldColumn.DEAL:
        to_deal.append(column.select(ITEM_ID, split=pl.lit(None, pl.String)))
    split = _find_splits(items, pl.concat(to_deal), params)
    said = pl.concat(
        [
            counted.select(ITEM_ID, "annotator", "label"),
            column.select(ITEM_ID, annotator=pl.lit(COLUMN), label="gold"),
        ]
    )
    ids = said[ITEM_ID].unique().sort()
    annotators = said["annotator"].unique().sort()
    D = np.full((len(ids), len(annotators)), ABSTAIN, np.int8)
    D[_positions(said[ITEM_ID], ids), _positions(said["annotator"], annotators)] = said["label"].to_numpy()
    table = pl.DataFrame([ids]).join(split, on=ITEM_ID, how="left", maintain_order="left")
    chosen = _resolve(D, table["split"], len(classes), params.resolve)
    table = table.with_columns(gold=pl.Series(chosen, dtype=pl.Int8).replace(ABSTAIN, None))
    counts = count_decisions(D, len(classes))
    disputed = pl.Series((counts > 0).sum(axis=1) > 1, dtype=pl.Boolean)
    conflicts = _list_conflicts(table.filter(disputed), said, classes)
    summary = _summarize(decisions, table, conflicts, D, counts, annotators.to_list())
    return Gold(table=table, conflicts=conflicts, summary=summary, remarks=_remark(decisions, summary, params))


def is_dealt_to_valid(item: str | int, valid_share: float, salt: int = 0) -> bool:
    """Whether gold of a train item goes to valid; of what changes, it depends on the id alone, so that new gold never moves old gold.

    >>> [is_dealt_to_valid(item, 0.5) for item in ("a", "b", "c", 1, "1")]
    [False, True, True, True, True]
    """
    salted = f"{salt}/{item}" if salt else str(item)
    return int.from_bytes(hashlib.sha256(salted.encode()).digest()[:8]) < valid_share * 2**64


def _find_splits(items: pl.DataFrame, said: pl.DataFrame, params: GoldParams) -> pl.DataFrame:
    """item_id and the split of the item's gold: for valid and test items their own split, for train items as dealt."""
    order = pl.Enum([str(Split.TEST), str(Split.VALID), str(Split.TRAIN)])  # test takes precedence
    asked = said.group_by(ITEM_ID).agg(asked=pl.col("split").cast(order).min().cast(pl.String))
    joined = items.join(asked.with_columns(is_asked=True), on=ITEM_ID, how="left", maintain_order="left")
    is_train = pl.col("split") == Split.TRAIN
    require_same_splits(joined, params.source)
    to_deal = joined.filter(is_train & pl.col("is_asked") & pl.col("asked").is_null())[ITEM_ID]
    if len(to_deal) and params.train == GoldOnTrain.REFUSE:
        raise DataError(
            f"{params.source}: {len(to_deal):,} items of the split train have gold, first ids {name_first(to_deal)}. Say "
            "their split in the table, retract the decisions, or set gold.train in params.yaml to deal."
        )
    dealt = [
        str(Split.VALID if is_dealt_to_valid(item, params.valid_share, params.salt) else Split.TEST) for item in to_deal
    ]
    deal = pl.DataFrame([to_deal, pl.Series("dealt", dealt, dtype=pl.String)])
    joined = joined.join(deal, on=ITEM_ID, how="left", maintain_order="left")
    return joined.select(ITEM_ID, split=pl.coalesce("dealt", "asked", "split"))


def require_same_splits(decided: pl.DataFrame, source: str) -> None:
    """Check that what decisions ask for keeps gold of valid and test where it is.

    Parameters
    ----------
    decided
        item_id, split (of the item) and asked (the split that a decision about it says, null if none does).

    Raises
    ------
    DataError
        A decision says another split than that of its item.
    """
    moved = decided.filter((pl.col("split") != Split.TRAIN) & (pl.col("asked") != pl.col("split")))
    if moved.height:
        first = moved.row(0, named=True)
        raise DataError(
            f"{source}: {moved.height:,} items are of one split in {ITEMS} and of another in the tables of gold, first "
            f"{first[ITEM_ID]!r}: {first['split']} and {first['asked']}. Gold of valid and test stays where it is: remove "
            "the split from the table, or retract the decision."
        )


def _positions(values: pl.Series, among: pl.Series) -> Int64:
    """The position of each of `values` in `among`, which is ascending and contains all of them."""
    positions: Int64 = among.search_sorted(values).to_numpy().astype(np.int64)
    return positions


def _resolve(D: Votes, split: pl.Series, k: int, how: Resolution) -> Votes:
    """The gold (n,) of the items whose decisions are the rows of `D`, ABSTAIN where they tie."""
    chosen = np.full(len(D), ABSTAIN, np.int8)
    if how == Resolution.MAJORITY:
        return _pick(count_decisions(D, k).astype(np.float64), chosen, np.arange(len(D)))
    # Each split by itself, or decisions about test items would influence whom to believe about valid items.
    for rows in (np.flatnonzero(split == Split.VALID), np.flatnonzero(split != Split.VALID)):
        if len(rows):
            balance = (count_decisions(D[rows], k).sum(axis=0) + 1.0) / (np.count_nonzero(D[rows] != ABSTAIN) + k)
            model = fit_dawid_skene(D[rows], balance)
            _pick(model.predict_proba(D[rows]), chosen, rows)
    return chosen


def _pick(weights: Float64, chosen: Votes, rows: Int64) -> Votes:
    """`chosen`, with the class of the largest weight filled in at `rows`, unless classes tie."""
    top = find_top(weights)
    alone = top.sum(axis=1) == 1
    chosen[rows[alone]] = top[alone].argmax(axis=1)
    return chosen


def _list_conflicts(disputed: pl.DataFrame, said: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    """The table of `schemas.gold_conflicts` of these items."""
    named = pl.col("label").replace_strict(range(len(classes)), classes, return_dtype=pl.String)
    words = (
        said.filter(said[ITEM_ID].is_in(disputed[ITEM_ID].implode()))
        .sort(ITEM_ID, "annotator")
        .group_by(ITEM_ID, maintain_order=True)
        .agg(decisions=pl.concat_str("annotator", pl.lit(": "), named).str.join("; "))
    )
    gold = pl.col("gold").replace_strict(range(len(classes)), classes, return_dtype=pl.String)
    joined = disputed.join(words, on=ITEM_ID, how="left", maintain_order="left")
    return joined.select(ITEM_ID, "split", gold.alias("gold"), "decisions")


def _summarize(
    decisions: Decisions, table: pl.DataFrame, conflicts: pl.DataFrame, D: Votes, counts: Int64, annotators: list[str]
) -> dict[str, Any]:
    """Counts and agreement, in the form of summary.json."""
    known = table.drop_nulls("gold")
    alpha = measure_alpha(counts)
    return {
        "tables": decisions.rows,
        "decisions": dict(zip(annotators, np.count_nonzero(D != ABSTAIN, axis=0).tolist(), strict=True)),
        "gold": {str(split): int((known["split"] == split).sum()) for split in Split},
        "unknown_items": len(decisions.unknown),
        "conflicts": conflicts.height,
        "unresolved": table.height - known.height,
        "agreement": {
            "items": int((counts.sum(axis=1) > 1).sum()),
            "krippendorff_alpha": None if alpha is None else round(alpha, 6),
            "cohen_kappa": [
                {
                    "annotators": [annotators[pair.first], annotators[pair.second]],
                    "items": pair.items,
                    "kappa": None if pair.kappa is None else round(pair.kappa, 6),
                }
                for pair in measure_pairs(D)
            ],
        },
    }


def _remark(decisions: Decisions, summary: dict[str, Any], params: GoldParams) -> tuple[str, ...]:
    """What the user should know."""
    counts = ", ".join(f"{split} {count:,}" for split, count in summary["gold"].items())
    remarks = [f"items with gold: {counts}", *decisions.remarks]
    if len(decisions.unknown):
        remarks.append(
            f"{len(decisions.unknown):,} ids in {params.source} are of no item and say nothing, first "
            f"{name_first(decisions.unknown)}"
        )
    if summary["conflicts"]:
        remarks.append(
            f"people disagree on {summary['conflicts']:,} items, of which {summary['unresolved']:,} have no gold until one "
            "more decides; 'epoxy gold conflicts' lists them"
        )
    if (alpha := summary["agreement"]["krippendorff_alpha"]) is not None:
        remarks.append(f"Krippendorff's alpha on {summary['agreement']['items']:,} items is {alpha:.3f}")
    return tuple(remarks)
