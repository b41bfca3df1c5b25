"""Making a release: a candidate that the gates let pass becomes the current release."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.releases.candidate import assemble_candidate
from flows.releases.figures import Figures, compare_labels, measure_new_rows
from flows.releases.files import read_small_file
from flows.releases.freshness import read_newest
from flows.releases.gates import (
    Comparison,
    GateResult,
    GateVerdict,
    check_age,
    check_gates,
    check_new_rows,
    check_quarantine,
    describe_gates,
    has_failed,
)
from flows.releases.lineage import MOVES, Action, Log, emit_event, read_log
from flows.releases.lock import PART, lock_releases
from flows.releases.manifest import FIGURES, FOLDER, QUARANTINED, ROWS, Manifest
from flows.releases.new_rows import NewRows
from flows.releases.policy import GateLimits
from flows.releases.records import make_record, write_record
from flows.releases.store import (
    CURRENT,
    LOG,
    follow_log,
    point_current,
    read_current,
    read_figures,
    read_labels,
    read_release,
    read_released_rows,
    verify_release,
)
from tasks.errors import DataError, GateError, ParamsError, StageError
from tasks.tables import schemas
from tasks.tables.files import sync_folder
from tasks.tables.parquet import count_rows, read_table
from tasks.tables.release_rows import RowChanges, compare_rows


@dataclass(frozen=True, kw_only=True)
class ReleaseResult:
    """What became current. is_new: the content was not released before. notes: what the user should know besides.

    rows: what became of the rows of `previous`; None after a rollback, or where there was no release.
    """

    id: str
    path: Path
    previous: str | None
    is_new: bool
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...]
    rows: RowChanges | None = None


class RefusedError(GateError):
    """Gates failed; `results` has the figures."""

    def __init__(self, message: str, *, results: tuple[GateResult, ...]) -> None:
        super().__init__(message)
        self.results = results


def create_release(
    root: Path,
    limits: GateLimits,
    *,
    new_rows: NewRows | None = None,
    reason: str = "",
    accept: str | None = None,
    run_id: str | None = None,
    carry: Callable[[str], None] | None = None,
) -> ReleaseResult:
    """The release of what data/ holds now, or of the current release with `new_rows`; it is current when this returns.

    Content that is a release already is made current again, not copied. `accept`: why to release even where gates
    fail; it is recorded. `carry` is called with the release's id when its folder is complete and not current yet.

    Raises
    ------
    RefusedError
        A gate failed; nothing but the log has changed.
    DataError, ParamsError
        An artifact is missing, damaged, or not of the last complete run; nothing has changed.
    StageError
        Another process is releasing, or has released since `new_rows` was labeled, or the folder cannot be written.
    """
    if accept is not None and not accept.strip():
        raise ParamsError("accepting failed gates needs a reason; got an empty text")
    with lock_releases(root) as folder:
        notes = follow_log(folder)
        part = Path(tempfile.mkdtemp(prefix=".candidate.", suffix=PART, dir=folder))
        previous = read_current(folder)
        if new_rows and new_rows.labeled.base != previous:
            raise StageError(f"{FOLDER / CURRENT} became {previous} meanwhile. Repeat: epoxy label-new.")
        manifest = assemble_candidate(root, part, new_rows)
        log = read_log(folder / LOG)
        results = _judge(folder, limits, part, manifest, previous, log, new_rows)
        rows = _count_rows(root, part, manifest, previous)
        refused = has_failed(results) and accept is None
        record = make_record(
            root,
            log,
            action=Action.REFUSE if refused else Action.RELEASE,
            release=manifest.id,
            previous=previous,
            reason=reason,
            accepted=accept if has_failed(results) else None,
            gates=results,
            rows=rows,
            run_id=run_id,
        )
        if refused:
            event = write_record(folder, record, manifest)
        else:
            is_new = _publish(folder, part, manifest)
            if carry:
                carry(manifest.id)
                verify_release(root, manifest.id)
            event = write_record(folder, record, manifest)
            point_current(folder, manifest.id)
    problem = emit_event(event)
    if refused:
        kept = f"release {previous} stays current" if previous else "there is no release yet"
        raise RefusedError(
            f"the gates refuse these labels; {kept}.\n{f'rows: {rows.describe()}' if rows else 'no rows to compare with'}\n"
            f"{describe_gates(results)}\n"
            'Look at what changed; limits are in release.yaml. To release them all the same, repeat with --accept "REASON".',
            results=results,
        )
    return ReleaseResult(
        id=manifest.id,
        path=root / FOLDER / manifest.id,
        previous=previous,
        is_new=is_new,
        gates=results,
        rows=rows,
        notes=(*notes, *([problem] if problem else [])),
    )


def _publish(folder: Path, part: Path, manifest: Manifest) -> bool:
    """Whether `part` became a new release; False where the same content is a release already."""
    path = folder / manifest.id
    if path.exists() or path.is_symlink():
        try:
            verify_release(folder.parent, manifest.id)
            return False
        except DataError:
            path.rename(folder / f".{manifest.id}.damaged{PART}")  # the same content, whole, replaces it
    part.rename(path)
    sync_folder(folder)
    return True


def _judge(
    folder: Path,
    limits: GateLimits,
    part: Path,
    manifest: Manifest,
    previous: str | None,
    log: Log,
    new_rows: NewRows | None,
) -> tuple[GateResult, ...]:
    """The results of all gates for the candidate in `part`."""
    figures = Figures.model_validate_json(read_small_file(part / FIGURES))
    if previous is None:
        against = None
    elif previous == manifest.id:
        # Compared with itself, not with its folder: releasing what is current already repairs it.
        against = Comparison(last=figures, flipped=0.0)
    else:
        last = read_release(folder.parent, previous)
        labels = read_table(part / "labels.parquet", schemas.end_labels(manifest.classes))
        flips = compare_labels(read_labels(last), labels)
        against = Comparison(last=read_figures(last), flipped=flips.share)
    results = check_gates(limits, figures, against)
    if new_rows and against:
        results += check_new_rows(limits, measure_new_rows(new_rows.labeled, against.last), against.last)
    quarantined = count_rows(part / QUARANTINED) if QUARANTINED in manifest.files else 0
    if limits.maximum_quarantined is not None or quarantined:
        results = (*results, check_quarantine(limits, quarantined, manifest.items))
    if limits.maximum_age_hours is not None:
        results = (*results, check_age(limits, read_newest(folder.parent, limits.time_column), datetime.now(UTC)))
    return (*results, *([] if previous == manifest.id else [_check_rolled_back(manifest.id, log)]))


def _count_rows(root: Path, part: Path, manifest: Manifest, previous: str | None) -> RowChanges | None:
    """What became of the rows of release `previous` in the candidate; None where there is none."""
    if previous is None:
        return None
    if previous == manifest.id:
        return RowChanges(kept=manifest.items, new=0, changed=0, deleted=0)  # not with its folder, as in `_judge`
    candidate = read_table(part / ROWS, schemas.ROWS)
    return compare_rows(read_released_rows(read_release(root, previous)), candidate)


def _check_rolled_back(release_id: str, log: Log) -> GateResult:
    """The gate that keeps labels which somebody rolled back from coming back by themselves."""
    verdict, note = GateVerdict.PASSED, ""
    for record in log.records:
        if record.action is Action.ROLLBACK and record.previous == release_id:
            verdict, note = GateVerdict.FAILED, f"rolled back by {record.user}: {record.reason or 'no reason given'}"
        elif record.action in MOVES and record.release == release_id:
            verdict, note = GateVerdict.PASSED, ""
    return GateResult(gate="rolled back before", value=None, limit=None, verdict=verdict, note=note)
