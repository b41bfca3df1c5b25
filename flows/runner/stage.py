"""One stage, run through DVC: its lines relayed, its time limited, its failure told in the stage's own words."""

import contextlib
import json
import logging
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from flows.runner.dvc_repo import BusyError, Command, Options, Outcome, Spawn, Stage, run_stage
from flows.runner.process import Commands, CommandStoppedError, CommandTimeoutError, Line, Stream, make_environment
from tasks.errors import StageError
from tasks.progress import ENVIRONMENT, MARK

TERMINAL = logging.getLogger("epoxy")
"""What a person at a terminal reads while stages run; silent unless a command line switches it on."""
TERMINAL.propagate = False
TERMINAL.addHandler(logging.NullHandler())

_TAIL = 20
"""Lines of standard error that are kept for the message of a failure: a long error, never a flood."""

_BUSY_PAUSE_SECONDS = 1.0
"""Between two looks at a project that is in use; DVC's own look takes up to three seconds more."""

_BUSY_REMINDER_SECONDS = 30.0
"""How often the log repeats who is being waited for."""

_EX_TEMPFAIL = 75
"""The exit code that sysexits.h gives to a failure that may be gone next time."""

_HEALING_ERRORS = frozenset(
    {
        "BlockingIOError",
        "BrokenPipeError",
        "ConnectionAbortedError",
        "ConnectionError",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "InterruptedError",
        "OSError",
        "TimeoutError",
    }
)
"""Last lines of a traceback that another try may heal. Python names a missing file or permission more exactly."""


_ERRORS = ("error: ", "ERROR: unexpected error - ", "ERROR: ")
"""How a line begins that says what went wrong: a stage's, and DVC's own."""

_DVC_FAREWELL = "Having any troubles?"
"""How DVC ends its complaints; the rest of the line is where to find its makers."""

_UPDATE = Options(retries=3, retry_delay_seconds=10, timeout_seconds=3600)
"""Of an import: three more tries, after 10, 20 and 40 seconds, for a network that is away for a moment; and an hour."""


class StageFailedError(StageError):
    """The command of a stage ended with another exit code than 0; `exit_code` is that code."""

    def __init__(self, message: str, *, exit_code: int, can_heal: bool) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.can_heal = can_heal


class StageTimeoutError(StageError, TimeoutError):
    """The command of a stage ran past its time and was ended; Prefect shows a TimeoutError as TimedOut."""


class StageStoppedError(StageError):
    """Somebody stopped the run."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage is: `done` of `total` units of `what`."""

    what: str
    done: int
    total: int


class Listener(Protocol):
    """Who hears of a stage while it runs, in the thread that runs it."""

    def say(self, text: str) -> None:
        """One line for the log."""

    def show(self, progress: Progress) -> None:
        """How far the stage is; may come often."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a stage, and in how many seconds: an `Outcome`, `Failed`, `TimedOut` or `Stopped`."""

    name: str
    outcome: str
    seconds: float


def execute_stage(stage: Stage, *, root: Path, commands: Commands, listener: Listener) -> Report:
    """What became of `stage`, after waiting for whoever else uses what it needs.

    An import that is to be updated is `dvc update`d; where that fails or is killed, the data of before are brought
    back, by this call or the next one.

    Raises
    ------
    StageFailedError
        Its command failed, or the source of an import does not give what is new.
    StageTimeoutError
        Its command ran past the `timeout_seconds` of its options.
    StageStoppedError
        `commands` was stopped.
    StageError
        DVC met a mistake.
    """
    tail: deque[str] = deque(maxlen=_TAIL)

    def relay(line: Line) -> None:
        progress = _read_progress(line)
        if progress:
            listener.show(progress)
            return
        if line.stream is Stream.ERR:
            tail.append(line.text)
        listener.say(line.text)

    def spawn(command: Command, limit: float | None = stage.options.timeout_seconds) -> None:
        tail.clear()
        listener.say(f"> {command.text}")
        env = make_environment({**command.env, ENVIRONMENT: "marked"})
        try:
            code = commands.run(command.argv, cwd=command.cwd, env=env, timeout_seconds=limit, on_line=relay)
        except CommandTimeoutError:
            raise StageTimeoutError(
                f"stage {stage.name}: ended after {limit:g} seconds; make it faster, or raise timeout_seconds under "
                f"meta.prefect in dvc.yaml"
            ) from None
        if code != 0:
            message = f"stage {stage.name}: {_describe_exit(code)}{quote_complaint(tail)}"
            raise StageFailedError(message, exit_code=code, can_heal=_can_heal(code, tail))

    def update() -> Outcome:
        before = (root / stage.name).read_bytes()
        # DVC removes the old data before it looks for new ones; the mark outlives whatever ends this process.
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        try:
            spawn(_make_dvc_command(root, "update", stage.name))
        except (StageFailedError, StageTimeoutError) as error:
            with contextlib.suppress(StageFailedError, StageTimeoutError):
                restore()
            raise _explain_update(stage, error, is_restored=not mark.exists()) from None
        mark.unlink()
        return Outcome.CACHED if (root / stage.name).read_bytes() == before else Outcome.COMPLETED

    def restore() -> None:
        # From DVC's cache on this machine: no network to wait for, and nothing to do but wait.
        spawn(_make_dvc_command(root, "checkout", "--force", stage.name), limit=None)
        mark.unlink()

    mark = root / ".dvc" / "tmp" / "epoxy-update" / stage.name
    began = time.monotonic()
    try:
        if mark.exists() and not stage.is_to_update:
            restore()
        outcome = update() if stage.is_to_update else _run_when_free(stage, root, spawn, commands, listener)
    except CommandStoppedError:
        raise StageStoppedError(f"stage {stage.name}: stopped") from None
    return Report(name=stage.name, outcome=outcome.value, seconds=time.monotonic() - began)


def ask_for_updates(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """`stages`, the imports among them to be updated, with a time limit and tries in reserve where they name none."""
    return tuple(
        replace(
            stage, is_to_update=True, options=_UPDATE.model_copy(update=stage.options.model_dump(exclude_unset=True))
        )
        if stage.is_import
        else stage
        for stage in stages
    )


def _make_dvc_command(root: Path, *words: str) -> Command:
    argv = (sys.executable, "-m", "dvc", "--wait-for-lock", *words)
    return Command(text=" ".join(["dvc", *words]), argv=argv, cwd=root, env=os.environ)


def _explain_update(stage: Stage, error: StageError, *, is_restored: bool) -> StageError:
    """An error that says what to do about a source that does not give its data."""
    advice = (
        "The data of the last update are in place again: without the update, a run uses them. "
        if is_restored
        else f"The data of before are not in DVC's cache here: bring them back with 'dvc pull {stage.name}'. "
    ) + (
        f"If the source has moved, correct its address in {stage.name}; if it refuses, look at the credentials in "
        f".dvc/config.local or the environment. 'dvc update {stage.name}' tries it by hand."
    )
    if isinstance(error, StageTimeoutError):
        limit = f"{stage.options.timeout_seconds:g} seconds (timeout_seconds under meta.prefect in {stage.name})"
        return StageTimeoutError(f"import {stage.name}: its source did not give its data in {limit}. {advice}")
    message = str(error).removeprefix(f"stage {stage.name}: ")
    return StageFailedError(f"import {stage.name}: {message}. {advice}", exit_code=StageError.exit_code, can_heal=True)


def _run_when_free(stage: Stage, root: Path, spawn: Spawn, commands: Commands, listener: Listener) -> Outcome:
    reminded = float("-inf")
    while True:
        commands.pause(0)
        try:
            return run_stage(root, stage.name, spawn)
        except BusyError as error:
            now = time.monotonic()
            if now - reminded >= _BUSY_REMINDER_SECONDS:
                reminded = now
                listener.say(f"waiting: {error}")
            commands.pause(_BUSY_PAUSE_SECONDS)


def _read_progress(line: Line) -> Progress | None:
    if line.stream is not Stream.ERR or not line.text.startswith(MARK):
        return None
    try:
        fields = json.loads(line.text.removeprefix(MARK))
        return Progress(what=str(fields["what"]), done=int(fields["done"]), total=int(fields["total"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # an LF may write what it likes


def _describe_exit(code: int) -> str:
    if code <= 128:
        return f"exit code {code}"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    return f"ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")


def quote_complaint(tail: "deque[str]") -> str:
    """A command's own words after a colon: its last error if it names one, else its last lines; empty without any."""
    lines = [line for line in tail if line.strip() and not line.startswith(_DVC_FAREWELL)]
    starts = [i for i, line in enumerate(lines) if line.startswith(_ERRORS)]
    if starts:
        return ": " + re.sub(rf"^({'|'.join(_ERRORS)})", "", "\n".join(lines[starts[-1] :]))
    if any(line.startswith("Traceback ") for line in lines):
        return f": {lines[-1]}"
    return ": " + "\n".join(lines[-5:]) if lines else ""


def _can_heal(code: int, tail: "deque[str]") -> bool:
    lines = [line for line in tail if line.strip()]
    error = lines[-1].partition(":")[0].rpartition(".")[2] if lines else ""
    return code == _EX_TEMPFAIL or error in _HEALING_ERRORS


def show_stages_in_terminal() -> None:
    """Let `TERMINAL` write to standard error."""
    if not any(isinstance(handler, _TerminalHandler) for handler in TERMINAL.handlers):
        TERMINAL.addHandler(_TerminalHandler())
        TERMINAL.setLevel(logging.INFO)


class _TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    pass


def describe_reports(reports: Sequence[Report]) -> str:
    """A line per report: name, outcome, seconds."""
    width = max((len(report.name) for report in reports), default=0)
    return "\n".join(f"{report.name:<{width}}  {report.outcome:<9}  {report.seconds:7.1f} s" for report in reports)


class TerminalListener:
    """Writes what it hears to `TERMINAL`, each line behind the stage's name."""

    _PAUSE_SECONDS = 5.0  # between two lines of progress: a sign of life, not a flood

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = float("-inf")

    def say(self, text: str) -> None:
        """One line."""
        TERMINAL.info("%s | %s", self._name, text)

    def show(self, progress: Progress) -> None:
        """A line every few seconds."""
        now = time.monotonic()
        if now - self._shown >= self._PAUSE_SECONDS:
            self._shown = now
            share = progress.done / progress.total if progress.total else 1.0
            self.say(f"{progress.what}: {share:.0%} ({progress.done:,} of {progress.total:,})")
