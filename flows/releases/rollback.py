"""Rolling back: an earlier release becomes current again."""

from pathlib import Path

from flows.releases.create import ReleaseResult
from flows.releases.lineage import Action, emit_event, read_log
from flows.releases.lock import lock_releases
from flows.releases.manifest import FOLDER
from flows.releases.records import make_record, write_record
from flows.releases.store import (
    LOG,
    find_release,
    follow_log,
    list_releases,
    point_current,
    read_current,
    verify_release,
)
from tasks.errors import DataError


def roll_back(root: Path, to: str | None = None, *, reason: str = "", run_id: str | None = None) -> ReleaseResult:
    """The release that is current now: `to`, or the release first made before the current release.

    Raises
    ------
    DataError
        There is no such release, or it is damaged; nothing has changed.
    StageError
        Another process is releasing, or the folder cannot be written.
    """
    with lock_releases(root) as folder:
        notes = follow_log(folder)
        previous = read_current(folder)
        target = _find_before(root, previous) if to is None else find_release(root, to)
        release = verify_release(root, target)
        log = read_log(folder / LOG)
        record = make_record(
            root, log, action=Action.ROLLBACK, release=target, previous=previous, reason=reason, run_id=run_id
        )
        event = write_record(folder, record, release.manifest)
        point_current(folder, target)
    problem = emit_event(event)
    return ReleaseResult(
        id=target,
        path=root / FOLDER / target,
        previous=previous,
        is_new=False,
        gates=(),
        notes=(*notes, *([problem] if problem else [])),
    )


def _find_before(root: Path, current: str | None) -> str:
    """The release made before `current`, in the order of their first release."""
    records = read_log(root / FOLDER / LOG).records
    released = [record.release for record in records if record.action is Action.RELEASE and record.release]
    made = list(dict.fromkeys(released))
    known = {listed.id for listed in list_releases(root)}
    before = [release for release in made[: made.index(current)] if release in known] if current in made else []
    if not known:
        raise DataError(f"{FOLDER}: no release yet, so there is none to go back to; 'epoxy release' makes one.")
    if not before:
        raise DataError(
            f"{FOLDER}: there is no release before {current or 'the first'}. Name a release: epoxy rollback ID."
        )
    return before[-1]
