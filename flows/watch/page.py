"""What `epoxy watch` shows: a page for a person, or a JSON object per line for a program."""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from flows.watch.session import Score
from flows.watch.view import FlipGroup, LFRow, StageView, View
from tasks.report.evaluation import name_method, order_methods

_PAIRS = 5
"""How many of the most frequent pairs of labels the page shows; JSON has all."""

_LEAST = 3
"""LFs that are shown however low the terminal is."""

_NARROW = 24
"""Characters that names of LFs and what they vote for are given at least."""

_SPARE = ("overlaps", "on", "conflicts", "extended")
"""Columns that go, in this order, where the terminal is too narrow for all."""

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
    """A page on a terminal, which each result replaces; anywhere else plain lines, each result below the last.

    What changed since the last result is bold, with the difference, in green where more is better and in red where less
    is worse. What follows a result, and an error, are drawn into the page. A page that is longer than the terminal leaves
    out pairs of flipped labels, then LFs that did not change, and says how many.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
        self._before: View | None = None
        self._shown: View | None = None
        self._title = Text()
        self._stages: list[StageView] = []
        self._scores: dict[str, Score] = {}
        """Of the result that is shown."""
        self._old_scores: dict[str, Score] = {}
        """The last ones of each method before those."""

    def say(self, text: str) -> None:
        """A faint line."""
        self._console.print(Text(text, style="dim"))

    def fail(self, message: str) -> None:
        """The message; what is above it still holds."""
        error = [Text(f"error: {message}", style="bold red")]
        if self._shown is not None:
            error.append(Text("the last result above stands until this is corrected", style="dim"))
        if self._shown is not None and self._console.is_terminal:
            self._draw(self._shown, error)
        else:
            self._console.print(Group(*error))

    def show(self, view: View) -> None:
        """The whole page."""
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in view.steps.items()) or "nothing to compute"
        self._title = Text(f"{time.strftime('%H:%M:%S')}  {view.seconds:.2f} s ({steps})", style="bold")
        self._before, self._shown, self._stages = self._shown, view, []
        self._old_scores |= self._scores
        self._scores = {score.method: score for score in view.scores}
        self._draw(view)

    def show_stage(self, view: StageView) -> None:
        """What `view` adds to the page: on a terminal the page with it, elsewhere a few lines below the page."""
        self._stages.append(view)
        self._scores |= {score.method: score for score in view.scores}
        if self._shown is not None and self._console.is_terminal:
            self._draw(self._shown)
        elif view.scores or view.flipped is not None:
            gold = self._shown.valid_gold if self._shown else 0
            title = Text(f"after {view.seconds:.0f} s: {view.stage}", style="bold")
            scores = self._tabulate_scores([score.method for score in view.scores], gold)
            self._console.print(Group(title, *scores, *_describe_stage(view, _PAIRS)))

    def _draw(self, view: View, error: Sequence[Text] = ()) -> None:
        if not self._console.is_terminal:
            self._console.print(
                Group(self._title, *self._tabulate_lfs(view, len(view.lfs)), *self._list_below(view, _PAIRS))
            )
            return
        for pairs in range(_PAIRS, -1, -1):
            below = [*self._list_below(view, pairs), *error]
            # A line for the title, one for the table's head, one for LFs left out, one for the cursor.
            room = self._console.height - self._count_lines(below) - 4
            if room >= min(_LEAST, len(view.lfs)):
                break
        self._console.clear()
        self._console.print(Group(self._title, *self._tabulate_lfs(view, max(room, _LEAST)), *below))

    def _list_below(self, view: View, pairs: int) -> list[Table | Text]:
        """What stands below the LFs, with at most so many `pairs` of flipped labels."""
        below = [
            self._describe_coverage(view),
            *self._tabulate_scores(list(self._scores), view.valid_gold),
            *_describe_flips("labels of the label model", "since the last result", view.flipped, view.flips, pairs),
        ]
        for stage in self._stages:
            below += _describe_stage(stage, pairs)
        below += [Text(f"note: {note}", style="yellow") for note in view.notes]
        if view.failures:
            below.append(Text(f"note: {view.failures:,} failures of LFs counted as abstains", style="yellow"))
        ended = self._stages[-1].stage if self._stages else None
        follows = view.follows[view.follows.index(ended) + 1 :] if ended in view.follows else view.follows
        if follows:
            below.append(Text(f"follows, unless there is an edit first: {', '.join(follows)}", style="dim"))
        return below

    def _count_lines(self, parts: Sequence[Table | Text]) -> int:
        return len(self._console.render_lines(Group(*parts), pad=False))

    def _tabulate_lfs(self, view: View, room: int) -> list[Table | Text]:
        """The LFs in at most `room` lines, those that changed first."""
        before = {row.lf: row for row in self._before.lfs} if self._before else {}
        changed = {row.lf for row in view.lfs if before and before.get(row.lf) != row}
        by_need = sorted(view.lfs, key=lambda row: row.lf not in changed)
        count = min(len(view.lfs), room)
        while True:
            kept = {row.lf for row in by_need[:count]}
            table = self._lay_out([row for row in view.lfs if row.lf in kept], before)
            if count <= _LEAST or not self._console.is_terminal or self._count_lines([table]) <= room + 1:
                break
            count -= 1
        found: list[Table | Text] = [table]
        if rest := len(view.lfs) - count:
            found.append(Text(f"{rest:,} other LFs{', not changed' if changed <= kept else ''}", style="dim"))
        if gone := sorted(set(before) - {row.lf for row in view.lfs}):
            found.append(Text(f"gone: {', '.join(gone)}", style="bold"))
        return found

    def _lay_out(self, shown: list[LFRow], before: dict[str, LFRow]) -> Table:
        """The table of these LFs, without columns that the terminal is too narrow for; long names are wrapped, not cut."""
        names = ["LF", "votes for", "coverage", "overlaps", "conflicts", "precision", "on", "threshold", "extended"]
        rows = [_list_cells(row, before.get(row.lf), is_new=row.lf not in before and bool(before)) for row in shown]
        for spare in _SPARE:
            widths = [max([len(name), *(len(row[at]) for row in rows)]) for at, name in enumerate(names)]
            if sum(widths[2:]) + 2 * len(names) + _NARROW <= self._console.width:
                break
            at = names.index(spare)
            names, rows = names[:at] + names[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in names:
            is_text = name in names[:2]
            table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
        for row in rows:
            table.add_row(*row)
        return table

    def _describe_coverage(self, view: View) -> Text:
        last = self._before
        return Text.assemble(
            f"of {view.items:,} items have a vote ",
            _share(view.coverage, None if last is None else last.coverage),
            ", with extended votes ",
            _share(view.coverage_extended, None if last is None else last.coverage_extended),
        )

    def _tabulate_scores(self, methods: Sequence[str], gold: int) -> list[Table | Text]:
        """The scores of these `methods` of the result that is shown."""
        if not methods:
            return []
        if not gold:
            return [Text("no valid gold to score methods on", style="dim")]
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(f"on {gold:,} valid items with gold")
        for name in ("accuracy", "macro F1"):
            table.add_column(name, justify="right", no_wrap=True)
        for method in order_methods(list(methods)):
            score, old = self._scores[method], self._old_scores.get(method)
            table.add_row(
                name_method(method),
                _number(score.accuracy, None if old is None else old.accuracy),
                _number(score.macro_f1, None if old is None else old.macro_f1),
            )
        return [table]


def _list_cells(row: LFRow, old: LFRow | None, *, is_new: bool) -> list[Text]:
    """The cells of an LF; what differs from `old` is bold."""

    def plain(text: str, before: str | None) -> Text:
        return Text(text, style="bold" if is_new or before not in (None, text) else "")

    def threshold(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    return [
        plain(row.lf, None),
        plain(row.polarity.replace("|", ", "), None if old is None else old.polarity.replace("|", ", ")),
        _share(row.coverage, None if old is None else old.coverage),
        _share(row.overlaps, None if old is None else old.overlaps, is_good=None),
        _share(row.conflicts, None if old is None else old.conflicts, is_good=False),
        Text("-") if row.precision is None else _number(row.precision, None if old is None else old.precision),
        plain(f"{row.n_valid:,}", None if old is None else f"{old.n_valid:,}"),
        plain(threshold(row.threshold), None if old is None else threshold(old.threshold)),
        _share(row.extended, None if old is None else old.extended),
    ]


def _describe_stage(view: StageView, pairs: int) -> list[Text]:
    against = "since those of the last result that got so far"
    return _describe_flips("shipped labels", against, view.flipped, view.flips, pairs)


def _describe_flips(
    what: str, against: str, flipped: int | None, flips: tuple[FlipGroup, ...], pairs: int
) -> list[Text]:
    """How many labels flipped, and the most frequent `pairs` of classes."""
    if flipped is None:
        return []
    lines = [Text(f"{flipped:,} {what} flipped {against}", style="bold" if flipped else "")]
    for group in flips[:pairs]:
        first = ", ".join(str(item) for item in group.first) + (", ..." if group.count > len(group.first) else "")
        lines.append(Text(f"  {group.before} -> {group.after}: {group.count:,} ({first})"))
    if len(flips) > pairs > 0:
        rest = sum(group.count for group in flips[pairs:])
        lines.append(Text(f"  {len(flips) - pairs:,} other pair{'s' if len(flips) > pairs + 1 else ''}: {rest:,}"))
    return lines


def _share(value: float, old: float | None = None, *, is_good: bool | None = True) -> Text:
    """A share in percent, and how many points it moved."""
    change = "" if old is None or f"{value:.1%}" == f"{old:.1%}" else f"{100 * (value - old):+.1f}"
    return _join(f"{value:.1%}", change, is_good)


def _number(value: float, old: float | None = None) -> Text:
    """A number, and by how much it moved; more is better."""
    change = "" if old is None or f"{value:.3f}" == f"{old:.3f}" else f"{value - old:+.3f}"
    return _join(f"{value:.3f}", change, True)


def _join(value: str, change: str, is_good: bool | None) -> Text:
    """`value`, and the `change` in color; is_good: whether more is better, None where neither is."""
    if not change:
        return Text(value)
    color = "" if is_good is None else "green" if change.startswith("+") == is_good else "red"
    return Text.assemble((value, "bold"), " ", (change, f"bold {color}".strip()))
