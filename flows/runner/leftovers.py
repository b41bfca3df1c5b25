"""Half-written files that killed runs left beside the outputs of stages."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import dvc.rwlock
import psutil
from dvc.lock import LockError
from dvc.repo import lock_repo

from flows.runner.dvc_graph import Stage
from flows.runner.dvc_locks import read_locks
from flows.runner.dvc_repo import open_repo

_PARTS = ".{name}.*.part"
"""How tasks/tables/files.py names a file that is not complete yet."""


def remove_leftovers(root: Path, stages: Sequence[Stage]) -> tuple[Path, ...]:
    """The half-written files of killed runs beside outputs of `stages` below data/, which this call has removed.

    Outputs that a living process has locked are left alone.
    """
    outputs = [output for stage in stages for output in stage.outputs if output.is_relative_to(root / "data")]
    parts = {part: output for output in outputs for part in output.parent.glob(_PARTS.format(name=output.name))}
    if not parts:
        return ()  # the usual case, without the cost of opening the project
    with open_repo(root) as repo:
        try:
            with lock_repo(repo):
                locks = read_locks(Path(repo.tmp_dir) / dvc.rwlock.RWLOCK_FILE) or {"write": {}}
                busy = {Path(path) for path, holder in locks["write"].items() if psutil.pid_exists(holder["pid"])}
                removed = tuple(sorted(part for part, output in parts.items() if output not in busy))
                for part in removed:
                    if part.is_dir():
                        shutil.rmtree(part)
                    else:
                        part.unlink(missing_ok=True)
                return removed
        except LockError:
            return ()  # another process is at work; the next run removes them
