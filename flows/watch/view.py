"""What `epoxy watch` shows of a result, as data: the tables of LFs, scores and flipped labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from flows.releases.figures import Flips
from flows.watch.session import Result, Score
from tasks.core.types import ABSTAIN, ITEM_ID

SHOWN = 5
"""Ids of flipped items that are shown for each pair of labels."""


@dataclass(frozen=True, kw_only=True)
class LFRow:
    """One LF; shares are of all items, precision is on valid gold."""

    lf: str
    polarity: str
    coverage: float
    overlaps: float
    conflicts: float
    precision: float | None
    n_valid: int
    threshold: float | None
    """None: it is not extended."""
    extended: float
    """Share of items on which it has an extended vote."""


@dataclass(frozen=True, kw_only=True)
class FlipGroup:
    """The items whose label went from one class to another."""

    before: str
    after: str
    count: int
    first: tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """Everything shown of a result; `flipped` is None where there is nothing to compare with."""

    seconds: float
    """From the moment a change was noticed."""
    steps: dict[str, float]
    """Seconds of the steps that were computed."""
    items: int
    valid_gold: int
    lfs: tuple[LFRow, ...]
    coverage: float
    """Share of items with a vote."""
    coverage_extended: float
    scores: tuple[Score, ...]
    flipped: int | None
    flips: tuple[FlipGroup, ...]
    failures: int
    notes: tuple[str, ...]
    follows: tuple[str, ...]
    """Stages that still run for this result."""


@dataclass(frozen=True, kw_only=True)
class StageView:
    """The result of a stage that takes longer than the loop itself."""

    stage: str
    seconds: float
    """Since the result that it belongs to."""
    scores: tuple[Score, ...]
    flipped: int | None
    """Of the shipped labels; None for another stage, or where there is nothing to compare with."""
    flips: tuple[FlipGroup, ...]


def view_result(result: Result, flips: Flips | None, *, seconds: float, follows: Sequence[str]) -> View:
    """What is shown of `result`."""
    n = max(result.votes.height, 1)
    thresholds = result.chosen.thresholds.thresholds
    extended = result.extension.extended.sum(axis=0)
    rows = zip(result.lf_summary.iter_rows(named=True), extended, strict=True)
    lfs = tuple(
        LFRow(
            **{
                name: row[name]
                for name in ("lf", "polarity", "coverage", "overlaps", "conflicts", "precision", "n_valid")
            },
            threshold=thresholds[row["lf"]],
            extended=float(count) / n,
        )
        for row, count in rows
    )
    return View(
        seconds=seconds,
        steps=dict(result.seconds),
        items=result.votes.height,
        valid_gold=int((result.data.labels != ABSTAIN).sum()),
        lfs=lfs,
        coverage=_measure_coverage(result.counted),
        coverage_extended=_measure_coverage(result.extension.votes),
        scores=result.scores,
        flipped=None if flips is None else flips.flipped.height,
        flips=group_flips(flips),
        failures=result.failures,
        notes=result.labeled.extended.notes,
        follows=tuple(follows),
    )


def view_stage(stage: str, scores: tuple[Score, ...], flips: Flips | None, *, seconds: float) -> StageView:
    """What is shown of what `stage` found."""
    flipped = None if flips is None else flips.flipped.height
    return StageView(stage=stage, seconds=seconds, scores=scores, flipped=flipped, flips=group_flips(flips))


def group_flips(flips: Flips | None) -> tuple[FlipGroup, ...]:
    """Flipped items grouped by their class before and after, the most frequent pair first."""
    if flips is None:
        return ()
    groups = flips.flipped.group_by("before", "after").agg(
        pl.len().alias("count"), pl.col(ITEM_ID).sort().head(SHOWN).alias("first")
    )
    ordered = groups.sort(["count", "before", "after"], descending=[True, False, False])
    return tuple(
        FlipGroup(before=row["before"], after=row["after"], count=row["count"], first=tuple(row["first"]))
        for row in ordered.iter_rows(named=True)
    )


def _measure_coverage(votes: pl.DataFrame) -> float:
    voted = votes.select(pl.any_horizontal(pl.exclude(ITEM_ID) != ABSTAIN)).to_series()
    return float(voted.sum()) / max(votes.height, 1)
