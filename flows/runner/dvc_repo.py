"""The project as DVC's repository: opened, and DVC's errors as errors that say what to do.

The working directory has to be the project's root, the `root` of every function of the modules `dvc_*` here. DVC decides
everything about caching.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.runner.dvc_locks import repair_locks
from flows.runner.dvc_patches import BOOKKEEPING
from flows.runner.site_cache import find_site_cache
from tasks.errors import ParamsError, StageError


@contextmanager
def open_repo(root: Path) -> Iterator[Repo]:
    """DVC's repository at `root`, for this thread alone until a command is spawned; its torn lock list is repaired.

    Raises
    ------
    ParamsError
        `root` is not the working directory, no repository of DVC or Git, or an address needs a plugin that is missing.
    StageError
        DVC's settings cannot be read, or its notes not be written.
    """
    with BOOKKEEPING, _open(root) as repo:
        yield repo


@contextmanager
def _open(root: Path) -> Iterator[Repo]:
    if Path.cwd() != root.resolve():
        # DVC's run cache resolves names against the working directory, whatever root it was given.
        raise ParamsError(f"{Path.cwd()}: not the project's root; go to {root}")
    try:
        repo = Repo(str(root), config={"core": {"site_cache_dir": str(find_site_cache(root))}})
    except DvcException as error:
        text = explain_error(error)
        raise ParamsError(text if str(root) in text else f"{root}: {text}") from error
    except OSError as error:
        raise StageError(f"DVC cannot read its settings: {error}. Check HOME and the permissions there") from error
    except sqlite3.OperationalError as error:
        raise _tell_notes(root, error) from error
    try:
        with repo:
            repair_locks(repo)
            yield repo
    except ImportError as error:
        # DVC loads its plugin for S3, GCS or SSH when it meets such an address, even in a file that is not needed now.
        raise ParamsError(f"an address in a .dvc file or .dvc/config: {error}{_name_plugin(str(error))}") from None
    except sqlite3.OperationalError as error:
        raise _tell_notes(root, error) from error


def _tell_notes(root: Path, error: sqlite3.OperationalError) -> StageError:
    """The error that a database of DVC's is in the way of; mostly the disk is full."""
    return StageError(f"DVC cannot write its notes below {root.resolve() / '.dvc'}: {error}. Make room on that disk")


def explain_error(error: BaseException) -> str:
    """The messages of `error` and of its causes, joined, with what to do where that is known."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).strip()
        if text and not any(text in part for part in parts):
            parts.append(text)
        cause = cause.__cause__
    text = ": ".join(parts) or type(error).__name__
    if "is not a git repository" in text:
        text += (
            "; run 'git init' there, or 'dvc config --local core.no_scm true' to work without Git, where releases do not "
            "name the commit that they were made from"
        )
    if "missing data" in text:
        text += "; bring it back with 'dvc checkout' or 'dvc pull'"
    if "without a confirmation" in text:
        text = (
            f"{text.partition(' without a confirmation')[0]}: it is neither what DVC recorded nor in its cache here. Move it "
            "away and run again; users who share a project need write permission for each other's files (umask 002)"
        )
    if "config file error" in text:
        text = f"{' '.join(parts[0].split())} Correct .dvc/config, .dvc/config.local or DVC's settings of your own."
    return text


def _name_plugin(text: str) -> str:
    """What to do if DVC's message `text` says that a plugin is missing; empty for other messages."""
    found = re.search(r"'dvc-(\w+)'", text)
    return f". Run 'python -m pip install \"dvc[{found[1]}]\"' in the environment of the project" if found else ""
