"""How the command of a stage failed: its exit code, and the last lines that it wrote."""

import re
import signal
from collections.abc import Iterable, Sequence

from tasks.errors import StageError

TAIL = 20
"""Lines of standard error that are kept for the message of a failure: a long error, never a flood."""

_EX_TEMPFAIL = 75
"""The exit code that sysexits.h gives to a temporary failure."""

_TRANSIENT_ERRORS = frozenset(
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
"""Exceptions that are transient and worth a retry. Python names a missing file or permission more exactly."""

_ERRORS = ("error: ", "ERROR: unexpected error - ", "ERROR: ")
"""How a line begins that says what went wrong: of a stage, and of DVC."""

_DVC_FAREWELL = "Having any troubles?"
"""How DVC ends its complaints; the rest of the line is where to find its makers."""


class StageFailedError(StageError):
    """The command of a stage ended with an exit code other than 0; `exit_code` is that code."""

    def __init__(self, message: str, *, exit_code: int, is_transient: bool) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.is_transient = is_transient


class StageTimeoutError(StageError, TimeoutError):
    """The command of a stage ran past its time and was ended; Prefect shows a TimeoutError as TimedOut."""


class StageStoppedError(StageError):
    """Somebody stopped the run."""

    exit_code = 130


def describe_exit(code: int) -> str:
    """The exit code in words: as a number, or as the signal that it stands for."""
    if code <= 128:
        return f"exit code {code}"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    return f"ended by {name}" + (", possibly out of memory" if name == "SIGKILL" else "")


def is_error(line: str) -> bool:
    """Whether `line` begins what a stage or DVC says went wrong."""
    return line.startswith(_ERRORS)


def quote_complaint(tail: Iterable[str]) -> str:
    """A colon and the command's last error, or else its last lines; empty if it wrote nothing."""
    lines = [line for line in tail if line.strip() and not line.startswith(_DVC_FAREWELL)]
    starts = [i for i, line in enumerate(lines) if is_error(line)]
    if starts:
        return ": " + re.sub(rf"^({'|'.join(_ERRORS)})", "", "\n".join(lines[starts[-1] :]))
    if any(line.startswith("Traceback ") for line in lines):
        return f": {lines[-1]}"
    return ": " + "\n".join(lines[-5:]) if lines else ""


def is_transient(code: int, tail: Sequence[str]) -> bool:
    """Whether a failure with this exit code and these last lines of standard error is worth a retry."""
    lines = [line for line in tail if line.strip()]
    error = lines[-1].partition(":")[0].rpartition(".")[2] if lines else ""
    return code == _EX_TEMPFAIL or error in _TRANSIENT_ERRORS
