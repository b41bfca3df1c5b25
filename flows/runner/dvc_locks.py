"""DVC's locks: who holds them, in words, and their list, repaired where a dead process left it torn."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dvc.rwlock
import psutil
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo

from tasks.errors import StageError


class BusyError(StageError):
    """Another process has locked what this process needs; the message names it."""


def repair_locks(repo: Repo) -> None:
    """Remove DVC's list of locks if a process was killed, or the disk was full, while the list was written.

    Only the holder of the project's lock writes the list, so a torn list under that lock has nobody who will mend it.
    DVC itself would refuse to work with it, for ever.
    """
    path = Path(repo.tmp_dir) / dvc.rwlock.RWLOCK_FILE
    if read_locks(path) is None:
        with contextlib.suppress(LockError), lock_repo(repo):  # whoever has the lock may be writing
            if read_locks(path) is None:
                path.unlink(missing_ok=True)


def read_locks(path: Path) -> Mapping[str, Any] | None:
    """DVC's list of locks: by "read" and "write", by path, who has it; None where DVC could not read it."""
    try:
        return dict(dvc.rwlock.SCHEMA(json.loads(path.read_bytes())))
    except FileNotFoundError:
        return dict(dvc.rwlock.SCHEMA({}))
    except (ValueError, dvc.rwlock.Invalid, RecursionError):
        return None


def name_blockers(error: LockError) -> str:
    """The first paragraph of DVC's message in a line; the rest asks the user to remove a lock, which DVC does itself."""
    return " ".join(str(error).partition("\n\n")[0].split())


def find_holder(root: Path) -> str:
    """The process that has DVC's lock, with its command line, as far as the lock's file names it."""
    try:
        process = psutil.Process(int((root / ".dvc" / "tmp" / "lock").read_text(encoding="utf-8")))
        return f"process {process.pid} ({' '.join(process.cmdline())})"
    except (OSError, ValueError, psutil.Error):
        return "another DVC process"
