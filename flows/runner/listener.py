"""Who hears what a stage says while it runs; by default the terminal."""

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from flows.runner.process import Line, Stream
from flows.runner.terminal import Color, fold, paint
from tasks.progress import MARK, describe_progress

TERMINAL = logging.getLogger("epoxy")
"""What a person at a terminal reads while stages run; silent unless a command line switches it on."""
TERMINAL.propagate = False
TERMINAL.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Progress of a stage: `done` of `total` units of `what`; None where nobody knows how long the rest takes."""

    what: str
    done: int
    total: int
    seconds_left: float | None = None


_LONGEST_SECONDS = 1e7
"""Four months: a stage that tells of more is guessing."""


class Listener(Protocol):
    """Who hears of a stage while it runs, in the thread that runs it."""

    def say(self, text: str) -> None:
        """One line for the log."""

    def warn(self, text: str) -> None:
        """One line for the log that nobody should miss."""

    def record(self, lines: Sequence[str]) -> None:
        """The error that the stage ended with, which whoever runs the stage is told besides."""

    def show(self, progress: StageProgress) -> None:
        """Progress of the stage; may come often."""


def read_progress(line: Line) -> StageProgress | None:
    """The progress that a marked line of a stage tells; None for any other line."""
    if line.stream is not Stream.ERR or not line.text.startswith(MARK):
        return None
    try:
        fields = json.loads(line.text.removeprefix(MARK))
        left = fields.get("seconds_left")
        return StageProgress(
            what=str(fields["what"]),
            done=int(fields["done"]),
            total=int(fields["total"]),
            seconds_left=float(left) if left is not None and 0 <= float(left) < _LONGEST_SECONDS else None,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # an LF may write what it likes


def show_stages_in_terminal(*, least: int = logging.INFO) -> None:
    """Let `TERMINAL` write lines of level `least` and above to standard error."""
    if not any(isinstance(handler, _TerminalHandler) for handler in TERMINAL.handlers):
        TERMINAL.addHandler(_TerminalHandler())
    TERMINAL.setLevel(least)


class _TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error as it is when a line comes, which may have been exchanged since the handler was made."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


class TerminalListener:
    """Writes what it hears to `TERMINAL`, each line behind the stage's name."""

    _PAUSE_SECONDS = 5.0  # between two lines of progress: a sign of life, not a flood

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = float("-inf")

    def say(self, text: str) -> None:
        """One line; a stage that begins it with its name need not be named twice."""
        text = text.removeprefix(f"{self._name}: ")
        before = f"{self._name} | "
        folded = fold(text, sys.stderr, indent=len(before))
        if text.startswith("> "):
            folded = paint(folded, Color.DIM, sys.stderr)
        TERMINAL.info("%s%s", paint(before, Color.CYAN, sys.stderr), folded)

    def warn(self, text: str) -> None:
        """One line, also where other lines are not shown."""
        TERMINAL.warning("%s | %s", self._name, text)

    def record(self, lines: Sequence[str]) -> None:
        """Nothing here: the run ends with it, which is where a person looks."""

    def show(self, progress: StageProgress) -> None:
        """A line every few seconds."""
        now = time.monotonic()
        if now - self._shown >= self._PAUSE_SECONDS:
            self._shown = now
            self.say(describe_progress(progress.what, progress.done, progress.total, progress.seconds_left))
