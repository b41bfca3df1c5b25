"""Commands of DVC and Git that may ask the network: their time is limited, and they end with this process."""

import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.runner.failure import quote_complaint
from flows.runner.process import Commands, CommandTimeoutError, Line, Stream, make_environment
from flows.runner.site_cache import ENVIRONMENT, find_site_cache
from tasks.errors import StageError


class CarryError(StageError):
    """The release is made and current here, but DVC or Git could not take it further."""


def run_dvc(root: Path, *arguments: str, timeout_seconds: float) -> tuple[str, ...]:
    """The last lines that `dvc ARGUMENTS` wrote to standard error; another DVC command is waited for.

    Raises
    ------
    CarryError
        It failed or took too long.
    """
    # Without --quiet, which hides why a command failed.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    site_cache = {ENVIRONMENT: str(find_site_cache(root))}
    return run_command(root, command, timeout_seconds=timeout_seconds, environment=site_cache)


def run_command(
    root: Path, command: Sequence[str], *, timeout_seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The last lines that `command`, which sees `environment` beside this one's, wrote to standard error.

    Raises
    ------
    CarryError
        It failed or took too long.
    """
    complaints: deque[str] = deque(maxlen=20)

    def hear(line: Line) -> None:
        if line.stream is Stream.ERR:
            complaints.append(line.text)

    # Nobody is there to type a password.
    env = make_environment(os.environ) | {"GIT_TERMINAL_PROMPT": "0", **(environment or {})}
    name = " ".join(command[2:] if command[0] == sys.executable else command)
    try:
        code = Commands().run(list(command), cwd=root, env=env, timeout_seconds=timeout_seconds, on_line=hear)
    except CommandTimeoutError:
        raise CarryError(f"'{name}' took longer than {timeout_seconds:g} s and was ended.") from None
    if code:
        raise CarryError(f"'{name}' failed with exit code {code}{quote_complaint(complaints) or ': no message'}")
    return tuple(complaints)
