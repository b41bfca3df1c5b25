"""Progress of long work on standard error: a bar in a terminal, plain lines in a log, marked lines for the flow."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import ClassVar, TypeVar

T = TypeVar("T")

MARK = "@progress "
"""The prefix of a line for the flow, which turns it into a progress artifact in the Prefect UI."""

WARNING = "warning: "
"""The prefix of a stage's line that even `epoxy run --quiet` shows."""

ENVIRONMENT = "EPOXY_PROGRESS"
"""The flow sets this environment variable to `marked`; not a param, since it must not be part of a cache key."""


class Progress:
    """Progress of a stage in `total` units of work; shown once two seconds have passed without a line.

    >>> with Progress("voting", total=2) as progress:
    ...     progress.advance()
    ...     progress.advance()
    """

    last_line_at: ClassVar[float | None] = None
    """When this stage last showed a line, or began; None outside a stage, where each `Progress` has its own clock."""

    def __init__(self, what: str, *, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = self._shown = time.monotonic()
        self._marked = os.environ.get(ENVIRONMENT) == "marked"
        self._terminal = sys.stderr.isatty()
        self._wrote = False

    @classmethod
    def begin_stage(cls) -> None:
        """From now on, share a clock: the two seconds count from the last line of any `Progress` of this process."""
        cls.last_line_at = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wrote and kind is None:
            self._show()
            if self._terminal and not self._marked:
                sys.stderr.write("\n")

    def advance(self, by: int = 1) -> None:
        """Count `by` more units as done."""
        self._done += by
        now = time.monotonic()
        since = self._shown if self._wrote or Progress.last_line_at is None else Progress.last_line_at
        if now - since >= (0.2 if self._terminal and self._wrote else 2.0):
            self._show()

    def follow(self, units: Iterable[T]) -> Iterator[T]:
        """The same `units`, each counted as done when the next is asked for."""
        for unit in units:
            yield unit
            self.advance()

    def _show(self) -> None:
        self._wrote, self._shown = True, time.monotonic()
        if Progress.last_line_at is not None:
            Progress.last_line_at = self._shown
        left = self._estimate_seconds_left()
        if self._marked:
            fields = {"what": self._what, "done": self._done, "total": self._total, "seconds_left": left}
            line = MARK + json.dumps(fields) + "\n"
        else:
            line = describe_progress(self._what, self._done, self._total, left)
            line = f"\r{line}\x1b[K" if self._terminal else f"{line}\n"  # K: the last line may have been longer
        sys.stderr.write(line)
        sys.stderr.flush()

    def _estimate_seconds_left(self) -> float | None:
        """The seconds left at the average speed so far; None before any work is done, and when all of it is."""
        if not 0 < self._done < self._total:
            return None
        return (self._shown - self._began) / self._done * (self._total - self._done)


def describe_progress(what: str, done: int, total: int, seconds_left: float | None) -> str:
    """A line on how much of `what` is done and, if known, how long the rest will take.

    >>> describe_progress("voting", 400, 1000, 90)
    'voting:  40% (400 of 1,000), about 2 min left'
    """
    share = done / total if total else 1.0
    left = "" if seconds_left is None else f", about {_round_seconds(seconds_left)} left"
    return f"{what}: {share:4.0%} ({done:,} of {total:,}){left}"


def _round_seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
