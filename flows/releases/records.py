"""Run records of what is done to releases: numbered, and written to the log before anything shows."""

import os
import socket
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.releases.gates import GateResult
from flows.releases.last_run import ENGLISH, is_foreign
from flows.releases.lineage import Action, Log, Record, append_event, format_event, now, record_gates
from flows.releases.lock import user_name
from flows.releases.manifest import FOLDER, Manifest
from flows.releases.store import ID, LOG, read_release
from tasks.errors import DataError
from tasks.tables.paths import ARTIFACTS
from tasks.tables.release_rows import RowChanges


def make_record(
    root: Path,
    log: Log,
    *,
    action: Action,
    release: str | None,
    previous: str | None,
    reason: str,
    run_id: str | None,
    accepted: str | None = None,
    rows: RowChanges | None = None,
    gates: tuple[GateResult, ...] = (),
    removed: tuple[str, ...] = (),
) -> Record:
    """The record of an act of this user, here and now, that follows all acts in `log`."""
    commit = read_commit(root)
    return Record(
        sequence=next_sequence(root / FOLDER, log),
        action=action,
        time=now(),
        run_id=run_id or str(uuid.uuid4()),
        user=user_name(),
        host=socket.gethostname(),
        release=release,
        previous=previous,
        reason=reason,
        accepted=accepted,
        gates=record_gates(gates),
        commit=commit.id,
        dirty=commit.is_dirty,
        removed=removed,
        rows=rows,
    )


def write_record(folder: Path, record: Record, manifest: Manifest) -> dict[str, Any]:
    """The event of `record`, after it is in the log."""
    # What the pipeline made itself is in the manifest; an event names what came from outside.
    inputs = {path: content for path, content in manifest.inputs.items() if not _is_made(path)}
    event = format_event(record, inputs=inputs, items=manifest.items)
    append_event(folder / LOG, event)
    return event


def _is_made(path: str) -> bool:
    return Path(path) in ARTIFACTS or path.endswith(".py")


def next_sequence(folder: Path, log: Log) -> int:
    """The number after all given so far; manifests count too, should the log get lost."""
    numbers = [record.sequence for record in log.records]
    for path in folder.iterdir():
        if ID.fullmatch(path.name):
            try:
                numbers.append(read_release(folder.parent, path.name).manifest.sequence)
            except DataError:
                continue
    return 1 + max(numbers, default=0)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Git's commit and whether anything in the project differs from it; None without Git."""

    id: str | None
    is_dirty: bool | None
    is_foreign: bool = False
    """Whether Git does not say it, since the folder is another user's."""


def read_commit(root: Path) -> Commit:
    """The commit that the project at `root` is at."""

    def ask(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        env = os.environ | ENGLISH
        ended = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=True, timeout=60)
        return ended.stdout.strip()

    try:
        commit = ask("rev-parse", "--verify", "HEAD")
        # What releasing itself writes is no change to what the labels were made from.
        changed = ask("status", "--porcelain", "--", ".", f":(exclude){FOLDER}")
    except subprocess.CalledProcessError as error:
        return Commit(id=None, is_dirty=None, is_foreign=is_foreign(error.stderr))
    except (OSError, subprocess.SubprocessError):
        return Commit(id=None, is_dirty=None)
    return Commit(id=commit, is_dirty=bool(changed))
