"""Who hears what a stage says while it runs; by default the terminal."""

import json
import logging
import time
from dataclasses import dataclass
from typing import Protocol

from flows.runner.process import Line, Stream
from tasks.progress import MARK

TERMINAL = logging.getLogger("epoxy")
"""What a person at a terminal reads while stages run; silent unless a command line switches it on."""
TERMINAL.propagate = False
TERMINAL.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Progress of a stage: `done` of `total` units of `what`."""

    what: str
    done: int
    total: int


class Listener(Protocol):
    """Who hears of a stage while it runs, in the thread that runs it."""

    def say(self, text: str) -> None:
        """One line for the log."""

    def show(self, progress: StageProgress) -> None:
        """Progress of the stage; may come often."""


def read_progress(line: Line) -> StageProgress | None:
    """The progress that a marked line of a stage tells; None for any other line."""
    if line.stream is not Stream.ERR or not line.text.startswith(MARK):
        return None
    try:
        fields = json.loads(line.text.removeprefix(MARK))
        return StageProgress(what=str(fields["what"]), done=int(fields["done"]), total=int(fields["total"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # an LF may write what it likes


def show_stages_in_terminal() -> None:
    """Let `TERMINAL` write to standard error."""
    if not any(isinstance(handler, _TerminalHandler) for handler in TERMINAL.handlers):
        TERMINAL.addHandler(_TerminalHandler())
        TERMINAL.setLevel(logging.INFO)


class _TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    pass


class TerminalListener:
    """Writes what it hears to `TERMINAL`, each line behind the stage's name."""

    _PAUSE_SECONDS = 5.0  # between two lines of progress: a sign of life, not a flood

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = float("-inf")

    def say(self, text: str) -> None:
        """One line."""
        TERMINAL.info("%s | %s", self._name, text)

    def show(self, progress: StageProgress) -> None:
        """A line every few seconds."""
        now = time.monotonic()
        if now - self._shown >= self._PAUSE_SECONDS:
            self._shown = now
            share = progress.done / progress.total if progress.total else 1.0
            self.say(f"{progress.what}: {share:.0%} ({progress.done:,} of {progress.total:,})")
