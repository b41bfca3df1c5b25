"""What `epoxy watch` shows: a page for a person, or a JSON object per line for a program."""

import json
import math
import sys
import time
from dataclasses import asdict
from typing import Any, Protocol

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from flows.watch.session import Score
from flows.watch.view import FlipGroup, StageView, View
from tasks.report.evaluation import name_method, order_methods

_PAIRS = 8
"""How many of the most frequent pairs of labels the page shows; JSON has all."""

_WIDTH = 120
"""Page width when standard output is not a terminal."""


class Page(Protocol):
    """Where results are shown."""

    def say(self, text: str) -> None:
        """What is going on."""

    def fail(self, message: str) -> None:
        """Why there is no new result."""

    def show(self, view: View) -> None:
        """A new result."""

    def show_stage(self, view: StageView) -> None:
        """More about the last result."""


class JsonPage:
    """A JSON object per line, on standard output; `event` says which kind."""

    def say(self, text: str) -> None:
        """{"event": "note"}."""
        _write_json("note", {"text": text})

    def fail(self, message: str) -> None:
        """{"event": "error"}."""
        _write_json("error", {"message": message})

    def show(self, view: View) -> None:
        """{"event": "result"}."""
        _write_json("result", asdict(view))

    def show_stage(self, view: StageView) -> None:
        """{"event": "rest"}."""
        _write_json("rest", asdict(view))


def _write_json(event: str, values: dict[str, Any]) -> None:
    print(json.dumps({"event": event, **_without_nan(values)}, ensure_ascii=False, allow_nan=False), flush=True)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class TerminalPage:
    """A page on a terminal, which each result replaces; anywhere else plain lines, each result below the last."""

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

    def show_stage(self, view: StageView) -> None:
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
