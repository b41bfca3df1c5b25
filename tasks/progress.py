"""Progress of long work, on standard error: a bar for a person, plain lines for a log, marked lines for the flow."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

MARK = "@progress "
"""Starts a line meant for the flow, which turns it into a progress artifact in the Prefect UI."""

ENVIRONMENT = "EPOXY_PROGRESS"
"""Set to `marked` by the flow; an environment variable because it must never change a cache key."""


class Progress:
    """Progress of `total` units of work; silent until two seconds have passed.

    >>> with Progress("voting", total=2) as progress:
    ...     progress.advance()
    ...     progress.advance()
    """

    def __init__(self, what: str, *, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = self._shown = time.monotonic()
        self._marked = os.environ.get(ENVIRONMENT) == "marked"
        self._terminal = sys.stderr.isatty()
        self._wrote = False

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
        pause = 0.2 if self._terminal else 2.0
        if now - self._began >= 2.0 and now - self._shown >= pause:
            self._shown = now
            self._show()

    def follow(self, units: Iterable[T]) -> Iterator[T]:
        """The `units` as they are, each counted as done when the next one is asked for."""
        for unit in units:
            yield unit
            self.advance()

    def _show(self) -> None:
        self._wrote = True
        if self._marked:
            line = MARK + json.dumps({"what": self._what, "done": self._done, "total": self._total}) + "\n"
        else:
            share = self._done / self._total if self._total else 1.0
            line = f"{self._what}: {share:4.0%} ({self._done:,} of {self._total:,})"
            line = f"\r{line}" if self._terminal else f"{line}\n"
        sys.stderr.write(line)
        sys.stderr.flush()
