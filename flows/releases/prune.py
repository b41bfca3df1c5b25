"""Pruning: old releases are removed."""

import shutil
from pathlib import Path

from flows.releases.lineage import MOVES, Action, Log, append_event, format_event, read_log
from flows.releases.lock import PART, lock_releases
from flows.releases.records import make_record
from flows.releases.store import LOG, ListedRelease, follow_log, list_releases, read_current
from tasks.errors import ParamsError


def prune_releases(root: Path, keep: int, *, reason: str = "", run_id: str | None = None) -> tuple[str, ...]:
    """Ids of the releases that were removed: all but the `keep` newest by sequence and the current release.

    A complete folder whose process died before making it current does not count among those kept.

    Raises
    ------
    ParamsError
        `keep` is less than 1.
    StageError
        Another process is releasing, or the folder cannot be written.
    """
    if keep < 1:
        raise ParamsError(f"keep is {keep}; expected at least 1")
    with lock_releases(root) as folder:
        follow_log(folder)
        log = read_log(folder / LOG)
        releases = list_releases(root)
        finished = [release.id for release in releases if not _is_unfinished(release, log)]
        kept = finished[-keep:]
        removed = tuple(release.id for release in releases if release.id not in kept and not release.is_current)
        if not removed:
            return ()
        record = make_record(
            root, log, action=Action.PRUNE, release=None, previous=read_current(folder), reason=reason,
            run_id=run_id, removed=removed,
        )  # fmt: skip
        append_event(folder / LOG, format_event(record, inputs={}, items=None))
        for name in removed:
            (folder / f"{name}.dvc").unlink(missing_ok=True)
            if (folder / name).exists():
                # The rename hides it at once; whoever takes the lock next removes what is left of it.
                gone = folder / f".{name}.gone{PART}"
                (folder / name).rename(gone)
                shutil.rmtree(gone)
    return removed


def _is_unfinished(release: ListedRelease, log: Log) -> bool:
    """Whether the log, had it been there when `release` was made, would say that it was current, and does not."""
    if not log.records or release.sequence <= log.records[0].sequence:
        return False  # older than the log, which may have got lost
    return not any(record.action in MOVES and record.release == release.id for record in log.records)
