"""What `epoxy watch` shows: a page for a person, or one JSON object a line for a program."""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import polars as pl
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from flows.releases.figures import Flips
from flows.watch.session import Result, Score
from tasks.core.types import ABSTAIN, ITEM_ID
from tasks.report.evaluation import name_method, order_methods

SHOWN = 5
"""Ids of flipped items that are shown for each pair of labels."""

_PAIRS = 8
"""Pairs of labels that the page shows, the most frequent; JSON has all."""

_WIDTH = 120
"""Of the page where there is no terminal to say."""


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
    """All that is shown of a result; `flipped` is None where there is nothing to compare with."""

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
class RestView:
    """What one of the stages that take longer found."""

    stage: str
    seconds: float
    """Since the result that it belongs to."""
    scores: tuple[Score, ...]
    flipped: int | None
    """Of the shipped labels; None for another stage, or where there is nothing to compare with."""
    flips: tuple[FlipGroup, ...]


class Page(Protocol):
    """Where results are shown."""

    def say(self, text: str) -> None:
        """What is going on."""

    def fail(self, message: str) -> None:
        """Why there is no new result."""

    def show(self, view: View) -> None:
        """A new result."""

    def show_rest(self, view: RestView) -> None:
        """More about the last result."""


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
        valid_gold=result.data.gold.height,
        lfs=lfs,
        coverage=_measure_coverage(result.votes),
        coverage_extended=_measure_coverage(result.extension.votes),
        scores=result.scores,
        flipped=None if flips is None else flips.flipped.height,
        flips=group_flips(flips),
        failures=result.failures,
        notes=result.labeled.extended.notes,
        follows=tuple(follows),
    )


def view_rest(stage: str, scores: tuple[Score, ...], flips: Flips | None, *, seconds: float) -> RestView:
    """What is shown of what `stage` found."""
    flipped = None if flips is None else flips.flipped.height
    return RestView(stage=stage, seconds=seconds, scores=scores, flipped=flipped, flips=group_flips(flips))


def group_flips(flips: Flips | None) -> tuple[FlipGroup, ...]:
    """Flipped items by the class they left and the one they went to, the most frequent first."""
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


class JsonPage:
    """One JSON object a line, on standard output; `event` says which kind."""

    def say(self, text: str) -> None:
        """{"event": "note"}."""
        _write_json("note", {"text": text})

    def fail(self, message: str) -> None:
        """{"event": "error"}."""
        _write_json("error", {"message": message})

    def show(self, view: View) -> None:
        """{"event": "result"}."""
        _write_json("result", asdict(view))

    def show_rest(self, view: RestView) -> None:
        """{"event": "rest"}."""
        _write_json("rest", asdict(view))


def _write_json(event: str, values: dict[str, Any]) -> None:
    print(json.dumps({"event": event, **_without_nan(values)}, ensure_ascii=False, allow_nan=False), flush=True)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class TerminalPage:
    """A page on a terminal, which each result replaces; plain lines, one result below the other, anywhere else."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
        self._last: View | None = None
        self._scores: dict[str, Score] = {}

    def say(self, text: str) -> None:
        """A faint line."""
        self._console.print(Text(text, style="dim"))

    def fail(self, message: str) -> None:
        """The message; what is above it still holds."""
        self._console.print(Text(f"error: {message}", style="bold red"))
        if self._last is not None:
            self.say("the last result above stands until this is corrected")

    def show(self, view: View) -> None:
        """The whole page."""
        if self._console.is_terminal:
            self._console.clear()
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in view.steps.items()) or "nothing to compute"
        lines = [
            Text(f"{time.strftime('%H:%M:%S')}  {view.seconds:.2f} s ({steps})", style="bold"),
            self._tabulate_lfs(view),
            Text(self._describe_coverage(view)),
            *self._tabulate_scores(view.scores, view.valid_gold),
            *_describe_flips("labels", view.flipped, view.flips),
            *(Text(f"note: {note}", style="yellow") for note in view.notes),
        ]
        if view.failures:
            lines.append(Text(f"note: {view.failures:,} failures of LFs counted as abstains", style="yellow"))
        if view.follows:
            lines.append(Text(f"follows, unless there is an edit first: {', '.join(view.follows)}", style="dim"))
        self._console.print(Group(*lines))
        self._last = view

    def show_rest(self, view: RestView) -> None:
        """A few lines below the page."""
        if view.scores or view.flipped is not None:
            self._console.print(Text(f"after {view.seconds:.0f} s: {view.stage}", style="bold"))
            gold = self._last.valid_gold if self._last else 0
            self._console.print(
                Group(
                    *self._tabulate_scores(view.scores, gold),
                    *_describe_flips("shipped labels", view.flipped, view.flips),
                )
            )

    def _tabulate_lfs(self, view: View) -> Table:
        before = {row.lf: row for row in self._last.lfs} if self._last else {}
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("LF", "votes for"):
            table.add_column(name, overflow="ellipsis", no_wrap=True)
        for name in ("coverage", "overlaps", "conflicts", "precision", "on", "threshold", "extended"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in view.lfs:
            old = before.get(row.lf)
            table.add_row(
                row.lf,
                row.polarity,
                _share(row.coverage, None if old is None else old.coverage),
                _share(row.overlaps),
                _share(row.conflicts),
                "-" if row.precision is None else f"{row.precision:.3f}",
                f"{row.n_valid:,}",
                "-" if row.threshold is None else f"{row.threshold:.4g}",
                _share(row.extended, None if old is None else old.extended),
                style=None if old == row or not before else "bold",
            )
        return table

    def _describe_coverage(self, view: View) -> str:
        last = self._last
        return (
            f"of {view.items:,} items have a vote {_share(view.coverage, None if last is None else last.coverage)}, with extended votes "
            f"{_share(view.coverage_extended, None if last is None else last.coverage_extended)}"
        )

    def _tabulate_scores(self, scores: tuple[Score, ...], gold: int) -> list[Table | Text]:
        if not scores:
            return []
        if not gold:
            return [Text("no valid gold to score methods on", style="dim")]
        by_name = {score.method: score for score in scores}
        before, self._scores = self._scores, self._scores | by_name
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(f"on {gold:,} valid items with gold")
        for name in ("accuracy", "macro F1"):
            table.add_column(name, justify="right", no_wrap=True)
        for method in order_methods(list(by_name)):
            score, old = by_name[method], before.get(method)
            table.add_row(
                name_method(method),
                _number(score.accuracy, None if old is None else old.accuracy),
                _number(score.macro_f1, None if old is None else old.macro_f1),
            )
        return [table]


def _describe_flips(what: str, flipped: int | None, flips: tuple[FlipGroup, ...]) -> list[Text]:
    if flipped is None:
        return []
    lines = [Text(f"{flipped:,} {what} flipped", style="bold")]
    for group in flips[:_PAIRS]:
        first = ", ".join(str(item) for item in group.first) + (", ..." if group.count > len(group.first) else "")
        lines.append(Text(f"  {group.before} -> {group.after}: {group.count:,} ({first})"))
    if len(flips) > _PAIRS:
        rest = sum(group.count for group in flips[_PAIRS:])
        lines.append(Text(f"  {len(flips) - _PAIRS:,} other pairs: {rest:,}"))
    return lines


def _share(value: float, old: float | None = None) -> str:
    change = "" if old is None or f"{value:.1%}" == f"{old:.1%}" else f" ({value - old:+.1%})"
    return f"{value:.1%}{change}"


def _number(value: float, old: float | None = None) -> str:
    change = "" if old is None or f"{value:.3f}" == f"{old:.3f}" else f" ({value - old:+.3f})"
    return f"{value:.3f}{change}"
