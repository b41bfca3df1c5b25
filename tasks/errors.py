"""Errors that users see, each with the exit code of the command that raises it."""

import os
from pathlib import Path


class EpoxyError(Exception):
    """A mistake in input, params or set-up, shown without a traceback.

    The message says what is wrong, where, what was found against what was expected, and what to do.
    """

    exit_code = 1


class ParamsError(EpoxyError):
    """params.yaml, or a file that it names, is not valid."""

    exit_code = 2


class DataError(EpoxyError):
    """A table, array or index is missing, damaged or violates its schema."""

    exit_code = 3


class LabelingFunctionError(EpoxyError):
    """A labeling function raised, returned an unknown class, or cannot be loaded."""

    exit_code = 4


class StageError(EpoxyError):
    """A stage failed or timed out, or the repository is in use."""

    exit_code = 5


class GateError(EpoxyError):
    """The policy of releases refuses a candidate; the last release stays in place."""

    exit_code = 6


class QueryError(EpoxyError):
    """A question names an unknown item, labeling function, class, method or column."""

    exit_code = 2


def blame_machine(error: OSError) -> str:
    """What is at fault, not the program, and what to do: a full disk, a folder that may not be written, a file that is gone.

    >>> blame_machine(FileNotFoundError(2, "No such file or directory", "lfs"))
    "[Errno 2] No such file or directory: 'lfs'. Bring it back (with 'epoxy run' if a stage writes it, else from Git or by dvc checkout), then run it again."
    """
    if isinstance(error, FileNotFoundError):
        return f"{error}. Bring it back (with 'epoxy run' if a stage writes it, else from Git or by dvc checkout), then run it again."
    return f"{error}. Check free space and permissions, then run it again."


def require_sound_environment() -> None:
    """Check settings on which libraries would fail with obscure messages: the locale, and Numba's number of threads.

    Raises
    ------
    ParamsError
        An environment variable or the locale must be corrected; the message says which.
    """
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (threads.isascii() and threads.isdecimal() and int(threads)):
        raise ParamsError(
            f"NUMBA_NUM_THREADS is {threads!r} in the environment; expected a whole number from 1. Correct it, or unset it."
        )
    folder = str(Path.cwd())
    try:
        folder.encode("utf-8")
    except UnicodeEncodeError:
        raise ParamsError(
            f"the locale (LC_ALL, LANG) has no letters for the name of this folder, {os.fsencode(folder)!r}. Set PYTHONUTF8=1, "
            "or LC_ALL=C.UTF-8."
        ) from None
