"""Stages that run while a Prefect server starts, which takes longer than most of them: the flow, once it is there, takes over.

They run one after another, as the flow would run them, and what they say goes to the terminal at once. The flow asks for each
stage by name: it gets what became of a stage that was begun, waits for the one that is under way, and runs the rest itself.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from flows.runner.dvc_graph import Stage
from flows.runner.leftovers import remove_leftovers
from flows.runner.listener import TerminalListener
from flows.runner.process import Commands
from flows.runner.report import Report
from flows.runner.stage import execute_stage

Relay = Callable[[int, str], None]
"""Takes a line for a log, and its level."""


class _Listener(TerminalListener):
    """Shows in the terminal what it hears, and keeps the lines for a log."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lines: list[tuple[int, str]] = []

    def say(self, text: str) -> None:
        """One line."""
        super().say(text)
        self.lines.append((logging.INFO, text))

    def warn(self, text: str) -> None:
        """One line, as a warning."""
        super().warn(text)
        self.lines.append((logging.WARNING, text))

    def record(self, lines: Sequence[str]) -> None:
        """The error that the stage ended with."""
        self.lines += [(logging.ERROR, text) for text in lines]


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """A stage that was begun, and what becomes of it."""

    listener: _Listener
    report: "Future[Report]" = field(default_factory=Future)


class EarlyStages:
    """The `stages` of the project at `root`, in the order in which they can run, run until the flow asks for the first.

    They begin with the `with` block, and have ended with it.

    Attributes
    ----------
    commands
        The running commands, those of the flow as well.
    leftovers
        The half-written files of killed runs that were removed; later, those of running stages would be among them.
    seconds
        How long each stage took, whatever became of it.
    """

    def __init__(self, root: Path, stages: Sequence[Stage]) -> None:
        self.commands = Commands()
        self.leftovers = tuple(remove_leftovers(root, stages))
        self.seconds: dict[str, float] = {}
        self._root, self._stages = root, stages
        self._begun: dict[str, _Begun] = {}
        self._is_over = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="early stages", daemon=True)

    def __enter__(self) -> "EarlyStages":
        """Begin the first stage, in another thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the stage that is under way, if one is, and return when it has ended."""
        with self._lock:
            self._is_over = True
        if self._thread.is_alive():
            self.commands.stop()
            self._thread.join()

    def take(self, name: str, relay: Relay) -> Report | None:
        """What became of the stage `name`, once; None if it was not begun or was taken, and is then for the caller to run.

        `relay` gets what the stage said.

        Raises
        ------
        EpoxyError
            As for `execute_stage`.
        """
        with self._lock:
            self._is_over = True
            begun = self._begun.pop(name, None)
        if begun is None:
            return None
        try:
            return begun.report.result()
        finally:
            for level, text in begun.listener.lines:
                relay(level, text)

    def _run(self) -> None:
        for stage in self._stages:
            with self._lock:
                if self._is_over:
                    return
                begun = self._begun[stage.name] = _Begun(listener=_Listener(stage.name))
            began = time.monotonic()
            try:
                report = execute_stage(stage, root=self._root, commands=self.commands, listener=begun.listener)
            except BaseException as error:
                self.seconds[stage.name] = time.monotonic() - began
                begun.report.set_exception(error)
                return
            self.seconds[stage.name] = report.seconds
            begun.report.set_result(report)
