"""Releases: immutable, content-addressed versions of the labels, made in one step that a reader sees whole or not at all.

    releases/<id>/       the files of a release, with manifest.json; never changed once it is there
    releases/current     a relative symbolic link to the release that consumers read
    releases/log.jsonl   run records (flows/releases/lineage.py)

Whoever writes holds a lock that dies with its process. A release is put together under a hidden name, brought to disk
and renamed; then the log says that it is current, then `current` is replaced. Whoever comes next finishes or removes
what a dead process left. Readers need no lock. Nothing is ordered by time.
"""

import fcntl
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Literal

import polars as pl
import pydantic
import yaml

from flows.releases.figures import Figures, Frozen, compare_labels, measure_figures, measure_new_rows
from flows.releases.gates import (
    Comparison,
    GateResult,
    Verdict,
    check_gates,
    check_new_rows,
    describe_gates,
    has_failed,
)
from flows.releases.lineage import (
    MOVES,
    Action,
    Log,
    Record,
    append_event,
    emit_event,
    format_event,
    now,
    read_log,
    record_gates,
)
from flows.releases.policy import GateLimits
from tasks import params
from tasks.core.types import ITEM_ID
from tasks.errors import DataError, GateError, ParamsError, StageError
from tasks.label_new import LabeledRows, label_rows
from tasks.params import read_params
from tasks.tables import paths, schemas
from tasks.tables.parquet import read_table, read_votes, write_table
from tasks.tables.paths import (
    EMBEDDINGS,
    END_MODEL,
    END_MODEL_SUMMARY,
    ITEMS,
    LABEL_MODEL,
    METRICS,
    PROVENANCE,
    REPORT,
    SHIPPED_LABELS,
    THRESHOLDS,
    VALID_GOLD,
    VOTES,
)
from tasks.tables.release_rows import RowChanges, compare_rows, read_rows
from tasks.tables.saved_model import read_model
from tasks.tables.validation import require_same_items

FOLDER = Path("releases")
CURRENT = "current"
LOG = "log.jsonl"
MANIFEST = "manifest.json"
FIGURES = "figures.json"
ROWS = "rows.parquet"

CONTENTS: Mapping[str, Path] = {
    "labels.parquet": SHIPPED_LABELS,
    "model.parquet": END_MODEL,
    "end_model.json": END_MODEL_SUMMARY,
    "label_model.json": LABEL_MODEL,
    "thresholds.json": THRESHOLDS,
    "metrics.json": METRICS,
    "report.html": REPORT,
    "votes.parquet": VOTES,
    "provenance.parquet": PROVENANCE,
    "params.yaml": Path(params.FILE),
}
"""What a release holds, and where it comes from. The votes and where extended ones came from make each label
explainable for as long as the release exists, whatever becomes of the cache; model and thresholds label new rows."""

TABLES = ("labels", "votes", "provenance", "rows")
"""What is another table in a release that labels new rows; all else is its base's."""

NIGHT_STAGES = ("ingest", "apply")
"""The stages that have to be up to date before new rows are labeled."""

LOCK_SECONDS = 60.0
"""How long to wait for another releaser; it holds the lock for seconds."""

_LOCK = ".lock"
_PART = ".part"
_ID = re.compile(r"[0-9a-f]{12}")
_PACKAGES = ("epoxy-flow", "numpy", "polars", "pyarrow", "faiss-cpu", "flyingsquid", "pgmpy", "scikit-learn", "dvc")
"""Whose versions can change a label."""

_CHUNK = 1 << 20
_SMALL = 64 << 20
"""No JSON or YAML file of a release is larger; a larger one is not read into memory."""

_SHORTEST = 4
"""Characters that name a release at least, as Git has it."""


class FileEntry(Frozen):
    """Content of one file."""

    sha256: str
    size: int


class Manifest(Frozen):
    """manifest.json: what a release is made of and from.

    mode: `run`, the pipeline ran on all rows; `label-new`, rows that release `base` did not know were labeled with its
    model, and `rows` counts them. files: by name. inputs: DVC's hash of everything the pipeline read and wrote, by
    path, code included (label-new: the base's, and what tells the new rows). lf_sources: SHA-256 of each file below
    lfs/. sequence: when it was first made, counted, not timed. checksum: of the rest.
    """

    format: Literal[2]
    id: str
    sequence: int
    mode: Literal["run", "label-new"]
    base: str | None
    rows: RowChanges | None
    classes: tuple[str, ...]
    items: int
    labels: dict[str, int]
    files: dict[str, FileEntry]
    inputs: dict[str, str]
    lf_sources: dict[str, str]
    packages: dict[str, str]
    python: str
    commit: str | None
    dirty: bool | None
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release whose manifest has been checked; its files are checked as they are read."""

    id: str
    path: Path
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class Released:
    """What releasing did. is_new: the content was not released before. notes: what did not go as it should.

    rows: what became of the rows of `previous`; None after a rollback, or where there was no release.
    """

    id: str
    path: Path
    previous: str | None
    is_new: bool
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...]
    rows: RowChanges | None = None


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of the list of releases. is_here: its folder is; otherwise `dvc pull` brings it. last: its last record.

    made: the last record by which it followed another release, or was the first; what it brought is counted there.
    """

    id: str
    sequence: int
    is_current: bool
    is_here: bool
    items: int | None
    last: Record | None
    made: Record | None


@dataclass(frozen=True, kw_only=True)
class Night:
    """New rows, labeled and not released yet. inputs: DVC's hashes of what NIGHT_STAGES read and wrote."""

    labeled: LabeledRows
    inputs: Mapping[str, str]


class RefusedError(GateError):
    """Gates failed; `results` has the figures."""

    def __init__(self, message: str, *, results: tuple[GateResult, ...]) -> None:
        super().__init__(message)
        self.results = results


def create_release(
    root: Path,
    limits: GateLimits,
    *,
    night: Night | None = None,
    reason: str = "",
    accept: str | None = None,
    run_id: str | None = None,
    carry: Callable[[str], None] | None = None,
) -> Released:
    """The release of what data/ holds now, or of the current release with `night`; it is current when this returns.

    Content that is a release already is made current again, not copied. `accept`: why to release even where gates
    fail; it is recorded. `carry` is called with the release's id when its folder is complete and not current yet.

    Raises
    ------
    RefusedError
        A gate failed; nothing but the log has changed.
    DataError, ParamsError
        An artifact is missing, damaged, or not the one of the last complete run; nothing has changed.
    StageError
        Another process is releasing, or has released since `night` was labeled, or the folder cannot be written.
    """
    if accept is not None and not accept.strip():
        raise ParamsError("accepting failed gates needs a reason; got an empty one")
    with _locked(root) as folder:
        notes = _finish_last(folder)
        part = Path(tempfile.mkdtemp(prefix=".candidate.", suffix=_PART, dir=folder))
        previous = _read_current(folder)
        if night and night.labeled.base != previous:
            raise StageError(f"{FOLDER / CURRENT} became {previous} meanwhile. Repeat: epoxy label-new.")
        manifest = _stage(root, part, night)
        log = read_log(folder / LOG)
        results = _judge(folder, limits, part, manifest, previous, log, night)
        rows = _count_rows(root, part, manifest, previous)
        refused = has_failed(results) and accept is None
        record = _make_record(
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
            event = _write_record(folder, record, manifest)
        else:
            is_new = _publish(folder, part, manifest)
            if carry:
                carry(manifest.id)
                verify_release(root, manifest.id)
            event = _write_record(folder, record, manifest)
            _point(folder, manifest.id)
    told = emit_event(event)
    if refused:
        kept = f"release {previous} stays current" if previous else "there is no release yet"
        raise RefusedError(
            f"the gates refuse these labels; {kept}.\n{f'rows: {rows.describe()}' if rows else 'no rows to compare with'}\n"
            f"{describe_gates(results)}\n"
            "Look at what changed. To release them all the same, repeat with --accept and a reason.",
            results=results,
        )
    return Released(
        id=manifest.id,
        path=root / FOLDER / manifest.id,
        previous=previous,
        is_new=is_new,
        gates=results,
        rows=rows,
        notes=(*notes, *([told] if told else [])),
    )


def roll_back(root: Path, to: str | None = None, *, reason: str = "", run_id: str | None = None) -> Released:
    """The release that is current now: `to`, or the one first made before the current one.

    Raises
    ------
    DataError
        There is no such release, or it is damaged; nothing has changed.
    StageError
        Another process is releasing, or the folder cannot be written.
    """
    with _locked(root) as folder:
        notes = _finish_last(folder)
        previous = _read_current(folder)
        target = _find_before(root, previous) if to is None else find_release(root, to)
        release = verify_release(root, target)
        log = read_log(folder / LOG)
        record = _make_record(
            root, log, action=Action.ROLLBACK, release=target, previous=previous, reason=reason, run_id=run_id
        )
        event = _write_record(folder, record, release.manifest)
        _point(folder, target)
    told = emit_event(event)
    return Released(
        id=target,
        path=root / FOLDER / target,
        previous=previous,
        is_new=False,
        gates=(),
        notes=(*notes, *([told] if told else [])),
    )


def prune_releases(root: Path, keep: int, *, reason: str = "", run_id: str | None = None) -> tuple[str, ...]:
    """Ids of the releases that were removed: all but the `keep` newest by sequence and the current one.

    A folder that a dead releaser completed but never made current does not count as one to keep.

    Raises
    ------
    ParamsError
        `keep` is less than 1.
    StageError
        Another process is releasing, or the folder cannot be written.
    """
    if keep < 1:
        raise ParamsError(f"keep is {keep}; expected at least 1")
    with _locked(root) as folder:
        _finish_last(folder)
        log = read_log(folder / LOG)
        listed = list_releases(root)
        finished = [one.id for one in listed if not _is_unfinished(one, log)]
        removed = tuple(one.id for one in listed if one.id not in finished[-keep:] and not one.is_current)
        if not removed:
            return ()
        record = _make_record(
            root, log, action=Action.PRUNE, release=None, previous=_read_current(folder), reason=reason,
            run_id=run_id, removed=removed,
        )  # fmt: skip
        append_event(folder / LOG, format_event(record, inputs={}, items=None))
        for one in removed:
            (folder / f"{one}.dvc").unlink(missing_ok=True)
            if (folder / one).exists():
                # Out of sight in one step; whoever finds the rest of it later removes that.
                gone = folder / f".{one}.gone{_PART}"
                (folder / one).rename(gone)
                shutil.rmtree(gone)
    return removed


def _is_unfinished(one: Listed, log: Log) -> bool:
    """Whether the log, had it been there when `one` was made, would say that it was current, and does not."""
    if not log.records or one.sequence <= log.records[0].sequence:
        return False  # older than the log, which may have got lost
    return not any(record.action in MOVES and record.release == one.id for record in log.records)


def list_releases(root: Path) -> tuple[Listed, ...]:
    """All releases that are here or have a .dvc file, oldest first by the sequence of their last release.

    A folder whose manifest is damaged is listed without counts.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        return ()
    current = _read_current(folder)
    records = [one for one in read_log(folder / LOG).records if one.action is Action.RELEASE and one.release]
    last = {one.release: one for one in records}
    made = {one.release: one for one in records if one.previous != one.release}
    names = {path.name for path in folder.iterdir() if _ID.fullmatch(path.name) and _is_folder(path)}
    pointers = {path.stem for path in folder.glob("*.dvc") if _ID.fullmatch(path.stem)}
    listed = []
    for name in names | pointers:
        try:
            manifest = read_release(root, name).manifest if name in names else None
        except DataError:
            manifest = None
        record = last.get(name)
        sequence = record.sequence if record else (manifest.sequence if manifest else 0)
        listed.append(
            Listed(
                id=name,
                sequence=sequence,
                is_current=name == current,
                is_here=name in names,
                items=manifest.items if manifest else None,
                last=record,
                made=made.get(name),
            )
        )
    return tuple(sorted(listed, key=lambda one: (one.sequence, one.id)))


def describe_list(listed: Sequence[Listed]) -> str:
    """A line per release for a terminal: `*` marks the current one. Rows are against the release it followed."""
    if not listed:
        return "no release yet; 'epoxy release' makes one"
    lines = []
    for one in listed:
        items = "?" if one.items is None else f"{one.items:,}"
        what = f"{items} items" if one.is_here else "not here: dvc pull"
        record = one.last
        rows = f": {one.made.rows.describe()}" if one.made and one.made.rows else ""
        who = f"  {record.time[:19]}Z  {record.user}" if record else ""
        why = f"  {record.reason}" if record and record.reason else ""
        accepted = f"  accepted: {record.accepted}" if record and record.accepted else ""
        lines.append(f"{'*' if one.is_current else ' '} {one.id}  {what}{rows}{who}{why}{accepted}")
    return "\n".join(lines)


def find_release(root: Path, name: str) -> str:
    """The id that `name` means: `current`, an id, or its first characters (at least four).

    Raises
    ------
    DataError
        None or several are meant.
    """
    folder = root / FOLDER
    if name == CURRENT:
        current = _read_current(folder) if folder.is_dir() else None
        if current is None:
            raise DataError(f"{FOLDER / CURRENT}: there is no release yet. Make one with 'epoxy release'.")
        return current
    known = [one.id for one in list_releases(root)]
    found = [one for one in known if one.startswith(name) and len(name) >= _SHORTEST]
    if len(found) == 1:
        return found[0]
    told = f"known: {', '.join(known)}" if known else "there is none yet"
    problem = f"means {' and '.join(found)}" if found else "is no release"
    raise DataError(f"{FOLDER}: '{name[:64]}' {problem}; {told}. 'epoxy releases list' shows them.")


def read_release(root: Path, name: str = CURRENT) -> Release:
    """Release `name` (as for `find_release`) with its manifest, which is checked against its checksum and its id.

    Raises
    ------
    DataError
        There is no such release here, or its manifest is damaged.
    """
    identity = name if _ID.fullmatch(name) else find_release(root, name)
    path = root / FOLDER / identity
    if not _is_folder(path):
        raise DataError(f"{FOLDER / identity} is not here. Run 'dvc pull {FOLDER / identity}.dvc'.")
    try:
        content = _read_bytes(path / MANIFEST)
        manifest = Manifest.model_validate_json(content)
    except (OSError, ValueError) as error:
        raise _damaged(identity, MANIFEST, _first_line(error)) from None
    if manifest.checksum != _checksum(manifest) or content != _encode(manifest):
        raise _damaged(identity, MANIFEST, "its checksum does not match")
    if identity != manifest.id or identity != _identify(manifest.files, manifest.inputs):
        raise _damaged(identity, MANIFEST, "it is of another release")
    if set(manifest.files) != {*CONTENTS, FIGURES, ROWS}:
        raise _damaged(identity, MANIFEST, "it names other files")
    return Release(id=identity, path=path, manifest=manifest)


def read_labels(release: Release) -> pl.DataFrame:
    """The labels of `release`, checked against its manifest and their schema.

    Raises
    ------
    DataError
        They are missing or damaged.
    """
    return read_table(_check_file(release, "labels.parquet"), schemas.end_labels(release.manifest.classes))


def read_released_rows(release: Release) -> pl.DataFrame:
    """By which content each row of `release` was labeled (tasks/tables/release_rows.py), checked against its manifest.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    return read_table(_check_file(release, ROWS), schemas.ROWS)


def read_figures(release: Release) -> Figures:
    """What gates and comparisons need of `release`, checked against its manifest.

    Raises
    ------
    DataError
        They are missing or damaged.
    """
    try:
        return Figures.model_validate_json(_read_bytes(_check_file(release, FIGURES)))
    except (OSError, ValueError) as error:
        raise _damaged(release.id, FIGURES, _first_line(error)) from None


def read_document(release: Release, name: str) -> Any:
    """The JSON or YAML value in file `name` of `release`, checked against its manifest.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    path = _check_file(release, name)
    try:
        text = _read_bytes(path).decode()
        return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _damaged(release.id, name, _first_line(error)) from None


def verify_release(root: Path, name: str) -> Release:
    """Release `name` after every byte of it has been compared with its manifest and every table with its schema.

    Raises
    ------
    DataError
        Something is missing, damaged, or does not belong there.
    """
    release = read_release(root, name)
    for file in release.manifest.files:
        _check_file(release, file)
    strangers = {path.name for path in release.path.iterdir()} - {*release.manifest.files, MANIFEST}
    if strangers:
        raise _damaged(release.id, min(strangers), "it does not belong to the release")
    _validate_contents(release.path, release.manifest.classes)
    read_figures(release)
    return release


def verify_all(root: Path) -> tuple[str, ...]:
    """What is wrong with any release that is here, with `current` or with the log; empty where all is well."""
    folder = root / FOLDER
    if not folder.is_dir():
        return ()
    problems = []
    for path in sorted(folder.iterdir()):
        if _ID.fullmatch(path.name):
            try:
                verify_release(root, path.name)
            except DataError as error:
                problems.append(str(error))
    try:
        current = _read_current(folder)
        if current is not None and not _is_folder(folder / current):
            problems.append(f"{FOLDER / CURRENT}: {current} is not here. Run 'dvc pull {FOLDER / current}.dvc'.")
    except DataError as error:
        problems.append(str(error))
    for line in read_log(folder / LOG).damaged:
        problems.append(
            f"{FOLDER / LOG}:{line}: the line is damaged and passed over. Bring it back with 'git checkout' or "
            "remove it."
        )
    return tuple(problems)


@contextmanager
def _locked(root: Path) -> Iterator[Path]:
    """The folder of releases, for this process alone, without leftovers of dead ones."""
    folder = root / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        if not _is_folder(folder):
            raise StageError(f"{FOLDER} is not a plain folder of the project. Move it away and repeat.")
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            _wait_for_lock(descriptor)
            _sign_lock(descriptor)
            _remove_leftovers(folder)
            try:
                yield folder
            finally:
                _remove_leftovers(folder)
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        where = f" ({Path(error.filename).name})" if isinstance(error.filename, str) else ""
        raise StageError(
            f"{FOLDER}{where}: {error.strerror or error}. The last release is in place. Make room there, or let user "
            f"{_user()} write there, and repeat."
        ) from error


def _wait_for_lock(descriptor: int) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 512, 0).decode(errors="replace").strip() or "another process"
                raise StageError(
                    f"{FOLDER} is in use by {holder}; waited {LOCK_SECONDS:.0f} s. Repeat when it is done; the lock "
                    "ends with that process."
                ) from None
            time.sleep(0.05)


def _sign_lock(descriptor: int) -> None:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} ({command})\n".encode(), 0)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f".*{_PART}"):
        if _is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink()


def _finish_last(folder: Path) -> tuple[str, ...]:
    """Let `current` follow the log, which a dead releaser may have written just before; tells what it did."""
    moves = [one.release for one in read_log(folder / LOG).records if one.action in MOVES and one.release]
    current = _read_current(folder)
    if not moves or moves[-1] == current or not _is_folder(folder / moves[-1]):
        return ()
    _point(folder, moves[-1])
    return (f"{FOLDER / CURRENT} was {current or 'missing'} and the log says {moves[-1]}: it is that now",)


def _point(folder: Path, identity: str) -> None:
    """Replace `current` by a link to `identity`, in one step."""
    part = folder / f".{CURRENT}{_PART}"
    part.unlink(missing_ok=True)
    part.symlink_to(identity)
    part.replace(folder / CURRENT)
    _sync(folder)


def _read_current(folder: Path) -> str | None:
    """The id `current` points to, None where there is none."""
    try:
        target = str((folder / CURRENT).readlink())
    except FileNotFoundError:
        return None
    except OSError:
        target = "no symbolic link"
    if not _ID.fullmatch(target):
        raise DataError(
            f"{FOLDER / CURRENT} is {target[:64]!r}; expected a link to a release beside it. Remove it; the next "
            "release or rollback makes it anew."
        )
    return target


def label_night(root: Path) -> Night:
    """The rows below `root` that the current release does not know, labeled with its model.

    Raises
    ------
    DataError
        There is no release, it is damaged, or what labels rows changed since it was made.
    """
    base = verify_release(root, read_base(root).id)
    pipeline = _read_pipeline(root, NIGHT_STAGES)
    _require_same_params(base.path / params.FILE, pipeline)
    labeled = label_rows(root, base.path, base.id, read_params(base.path))
    return Night(labeled=labeled, inputs=pipeline.hashes)


def read_base(root: Path) -> Release:
    """The current release, if the labeling functions below `root` are those that its model knows.

    Raises
    ------
    DataError
        There is no release, it is damaged, or labeling functions or params changed since it was made.
    """
    base = read_release(root)
    sources = _hash_lfs(root)
    known = base.manifest.lf_sources
    changed = sorted(path for path in {*sources, *known} if sources.get(path) != known.get(path))
    mine, its = read_params(root), read_params(base.path)
    changed += [f"params.yaml: {name}" for name in ("classes", "apply") if getattr(mine, name) != getattr(its, name)]
    if changed:
        raise DataError(
            f"{', '.join(changed)} changed since release {base.id}, whose model would not know what the votes mean. Run "
            "'epoxy run', then 'epoxy release'."
        )
    return base


def _stage(root: Path, part: Path, night: Night | None) -> Manifest:
    """The manifest of the candidate, after all its files are in `part`, checked."""
    part.chmod(0o755)  # mkdtemp's are for their maker alone
    base = read_release(root, night.labeled.base) if night else None
    pipeline = _read_pipeline(root, NIGHT_STAGES if night else None)
    files = _copy_base(part, base) if base else _copy_run(root, part, pipeline)
    checked = read_params(part)
    if night:
        _require_unchanged(root, night, pipeline)
        for name, schema in _schemas(checked.classes, night.labeled.votes).items():
            _write_table(part / f"{name}.parquet", getattr(night.labeled, name), schema)
    else:
        _require_same_params(part / params.FILE, pipeline)
        _write_table(part / ROWS, read_rows(root), schemas.ROWS)
    _validate_contents(part, checked.classes)
    figures = measure_figures(root, part, checked)
    _write_file(part / FIGURES, _encode(figures))
    for path in part.iterdir():
        if path.name not in files:
            files[path.name] = _digest(path)
    lf_sources = _hash_lfs(root)
    if _read_pipeline(root, NIGHT_STAGES if night else None).hashes != pipeline.hashes:
        raise DataError("dvc.lock changed while it was being released. Wait for the run to end, then release.")
    commit = _read_commit(root)
    inputs = {**base.manifest.inputs, **pipeline.hashes} if base else pipeline.hashes
    manifest = Manifest(
        format=2,
        id=_identify(files, inputs),
        sequence=_next_sequence(part.parent, read_log(part.parent / LOG)),
        mode="label-new" if night else "run",
        base=base.id if base else None,
        rows=night.labeled.counts if night else None,
        classes=checked.classes,
        items=figures.items,
        labels=figures.labels,
        files=dict(sorted(files.items())),
        inputs=dict(sorted(inputs.items())),
        lf_sources=lf_sources,
        packages=_read_versions(),
        python=".".join(str(number) for number in sys.version_info[:3]),
        commit=commit.id,
        dirty=commit.is_dirty,
        checksum="",
    )
    manifest = manifest.model_copy(update={"checksum": _checksum(manifest)})
    _write_file(part / MANIFEST, _encode(manifest))
    _sync(part)
    return manifest


def _copy_run(root: Path, part: Path, pipeline: "_Pipeline") -> dict[str, FileEntry]:
    """The files of the last run, copied to `part`."""
    files = {}
    for name, source in CONTENTS.items():
        copied = _copy(root / source, part / name)
        files[name] = copied.entry
        known = pipeline.hashes.get(str(source))
        if known is not None and known != copied.md5:
            raise DataError(f"{source} is not the one in dvc.lock. Run 'epoxy run' to the end, then release.")
    return files


def _copy_base(part: Path, base: Release) -> dict[str, FileEntry]:
    """The files of `base` that labeling new rows leaves as they are, copied to `part`."""
    files = {}
    for name in CONTENTS:
        if name.removesuffix(".parquet") not in TABLES:
            files[name] = _copy(_check_file(base, name), part / name).entry
    return files


def _require_unchanged(root: Path, night: Night, pipeline: "_Pipeline") -> None:
    """Check that what `night` was labeled from is still there."""
    paths = (ITEMS, EMBEDDINGS, VOTES, VALID_GOLD)
    for path in paths:
        if pipeline.hashes != night.inputs or pipeline.hashes.get(str(path)) != hash_as_dvc(root / path):
            raise DataError(f"{path} changed while its new rows were labeled. Wait for the run to end, then repeat.")


def hash_as_dvc(path: Path) -> str:
    """What dvc.lock says of the file or folder at `path` where DVC wrote it."""
    if path.is_dir():
        files = [{"md5": hash_as_dvc(file), "relpath": file.name} for file in sorted(path.iterdir())]
        return hashlib.md5(json.dumps(files, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
    with path.open("rb") as stored:
        return hashlib.file_digest(stored, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _schemas(classes: Sequence[str], votes: pl.DataFrame) -> dict[str, schemas.TableSchema]:
    """The schemas of TABLES."""
    k = len(classes)
    return {
        "labels": schemas.end_labels(classes),
        "votes": schemas.votes(k, votes.columns),
        "provenance": schemas.provenance(k, votes.schema[ITEM_ID]),
        "rows": schemas.ROWS,
    }


def _write_table(path: Path, table: pl.DataFrame, schema: schemas.TableSchema) -> None:
    write_table(path, table, schema)
    path.chmod(0o444)


def _publish(folder: Path, part: Path, manifest: Manifest) -> bool:
    """Whether `part` became a new release; False where the same content is one already."""
    path = folder / manifest.id
    if path.exists() or path.is_symlink():
        try:
            verify_release(folder.parent, manifest.id)
            return False
        except DataError:
            path.rename(folder / f".{manifest.id}.damaged{_PART}")  # the same content, whole, takes its place
    part.rename(path)
    _sync(folder)
    return True


def _judge(
    folder: Path,
    limits: GateLimits,
    part: Path,
    manifest: Manifest,
    previous: str | None,
    log: Log,
    night: Night | None,
) -> tuple[GateResult, ...]:
    figures = Figures.model_validate_json(_read_bytes(part / FIGURES))
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
    if night and against:
        results += check_new_rows(limits, measure_new_rows(night.labeled, against.last), against.last)
    return (*results, *([] if previous == manifest.id else [_check_rolled_back(manifest.id, log)]))


def _count_rows(root: Path, part: Path, manifest: Manifest, previous: str | None) -> RowChanges | None:
    """What became of the rows of release `previous` in the candidate; None where there is none."""
    if previous is None:
        return None
    if previous == manifest.id:
        return RowChanges(kept=manifest.items, new=0, changed=0, deleted=0)  # not with its folder, as in `_judge`
    candidate = read_table(part / ROWS, schemas.ROWS)
    return compare_rows(read_released_rows(read_release(root, previous)), candidate)


def _check_rolled_back(identity: str, log: Log) -> GateResult:
    """Labels that somebody went back from do not come back by themselves."""
    verdict, note = Verdict.PASSED, ""
    for one in log.records:
        if one.action is Action.ROLLBACK and one.previous == identity:
            verdict, note = Verdict.FAILED, f"rolled back by {one.user}: {one.reason or 'no reason given'}"
        elif one.action in MOVES and one.release == identity:
            verdict, note = Verdict.PASSED, ""
    return GateResult(gate="rolled back before", value=None, limit=None, verdict=verdict, note=note)


def _find_before(root: Path, current: str | None) -> str:
    """The release made before `current`, in the order of their first release."""
    records = read_log(root / FOLDER / LOG).records
    made = list(dict.fromkeys(one.release for one in records if one.action is Action.RELEASE and one.release))
    here = {one.id for one in list_releases(root)}
    before = [one for one in made[: made.index(current)] if one in here] if current in made else []
    if not before:
        raise DataError(f"{FOLDER}: there is no release before {current or 'the first'}. Name one: epoxy rollback ID.")
    return before[-1]


def _make_record(
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
    commit = _read_commit(root)
    return Record(
        sequence=_next_sequence(root / FOLDER, log),
        action=action,
        time=now(),
        run_id=run_id or str(uuid.uuid4()),
        user=_user(),
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


def _write_record(folder: Path, record: Record, manifest: Manifest) -> dict[str, Any]:
    """The event of `record`, after it is in the log."""
    # What the pipeline made itself is in the manifest; an event names what came from outside.
    inputs = {path: content for path, content in manifest.inputs.items() if not _is_made(path)}
    event = format_event(record, inputs=inputs, items=manifest.items)
    append_event(folder / LOG, event)
    return event


def _is_made(path: str) -> bool:
    known = {str(value) for value in vars(paths).values() if isinstance(value, Path)}
    return path in known or path.endswith(".py")


def _next_sequence(folder: Path, log: Log) -> int:
    """One more than any number given so far; manifests count too, should the log get lost."""
    numbers = [one.sequence for one in log.records]
    for path in folder.iterdir():
        if _ID.fullmatch(path.name):
            try:
                numbers.append(read_release(folder.parent, path.name).manifest.sequence)
            except DataError:
                continue
    return 1 + max(numbers, default=0)


@dataclass(frozen=True, kw_only=True)
class _Pipeline:
    """dvc.lock: the hash of every path it names and the params of stages."""

    hashes: dict[str, str]
    params: dict[str, Any]


def _read_pipeline(root: Path, only: Sequence[str] | None = None) -> _Pipeline:
    """What dvc.lock says of all stages, or of those in `only`."""
    path = root / "dvc.lock"
    try:
        stages = yaml.safe_load(_read_bytes(path))["stages"]
        hashes: dict[str, str] = {}
        values: dict[str, Any] = {}
        for stage in stages.values() if only is None else [stages[name] for name in only]:
            for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
                place, content = str(entry["path"]), str(entry.get("md5") or entry.get("etag") or entry.get("checksum"))
                if hashes.setdefault(place, content) != content:
                    raise DataError(f"{path.name}: stages used different versions of {place}. Run 'epoxy run' first.")
            values |= stage.get("params", {}).get(params.FILE, {})
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing: nothing has run yet. Run 'epoxy run' first.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path.name} cannot be read: {_first_line(error)}. Run 'epoxy run' first.") from None
    return _Pipeline(hashes=dict(sorted(hashes.items())), params=values)


def _require_same_params(path: Path, pipeline: _Pipeline) -> None:
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    stale = sorted(name for name, value in pipeline.params.items() if given.get(name) != value)
    if stale:
        raise DataError(f"{params.FILE}: {', '.join(stale)} changed since the last run. Run 'epoxy run' first.")


def _validate_contents(path: Path, classes: Sequence[str]) -> None:
    """Check that the files in `path` say what files of a release say."""
    k = len(classes)
    labels = read_table(path / "labels.parquet", schemas.end_labels(classes))
    votes = read_votes(path / "votes.parquet", k)
    require_same_items(path / "labels.parquet", labels, path / "votes.parquet", votes)
    read_table(path / "provenance.parquet", schemas.provenance(k, votes.schema[ITEM_ID]))
    rows = read_table(path / ROWS, schemas.ROWS)
    require_same_items(path / "labels.parquet", labels, path / ROWS, rows)
    model = read_model(path / "model.parquet")
    if model.classes != tuple(classes) or [ITEM_ID, *model.lfs] != votes.columns:
        raise DataError(f"{CONTENTS['model.parquet']}: is of other classes or labeling functions. Run 'epoxy run'.")
    for name in ("end_model.json", "label_model.json", "metrics.json", "thresholds.json"):
        try:
            value = json.loads(_read_bytes(path / name))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{CONTENTS[name]}: not JSON: {_first_line(error)}. Run 'epoxy run'.") from None
        if not isinstance(value, dict) or (name == "thresholds.json" and not _are_thresholds(value)):
            raise DataError(f"{CONTENTS[name]}: not what its stage writes. Run 'epoxy run'.")
    with (path / "report.html").open("rb") as report:
        if not report.read(64).lstrip().lower().startswith(b"<!doctype html"):
            raise DataError(f"{REPORT}: not a page of HTML. Run 'epoxy run'.")


def _are_thresholds(value: dict[str, Any]) -> bool:
    found = value.get("thresholds")
    return isinstance(found, dict) and all(one is None or isinstance(one, int | float) for one in found.values())


@dataclass(frozen=True, kw_only=True)
class _Copied:
    """A copied file, by both the hash of releases and DVC's."""

    entry: FileEntry
    md5: str


def _copy(source: Path, target: Path) -> _Copied:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    try:
        opened = source.open("rb")
    except FileNotFoundError:
        raise DataError(f"{source} is missing. Run 'epoxy run' first.") from None
    with opened as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            writer.write(chunk)
            size += len(chunk)
        _settle(writer)
    return _Copied(entry=FileEntry(sha256=sha256.hexdigest(), size=size), md5=md5.hexdigest())


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as writer:
        writer.write(content)
        _settle(writer)


def _settle(writer: IO[bytes]) -> None:
    """Bring a written file to disk, never to be written again."""
    writer.flush()
    os.fchmod(writer.fileno(), 0o444)
    os.fsync(writer.fileno())


def _check_file(release: Release, name: str) -> Path:
    """The path of file `name` after its bytes have been compared with the manifest."""
    path = release.path / name
    entry = release.manifest.files.get(name)
    if entry is None:
        raise DataError(f"{FOLDER / release.id} has no '{name}'; it has {', '.join(release.manifest.files)}.")
    try:
        found = _digest(path)
    except OSError as error:
        raise _damaged(release.id, name, _first_line(error)) from None
    if found.size != entry.size:
        raise _damaged(release.id, name, f"it has {found.size:,} bytes, expected {entry.size:,}")
    if found.sha256 != entry.sha256:
        raise _damaged(release.id, name, "its bytes differ from those released")
    return path


def _digest(path: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with _open_plain(path) as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(sha256=digest.hexdigest(), size=size)


def _read_bytes(path: Path) -> bytes:
    with _open_plain(path) as reader:
        content = reader.read(_SMALL + 1)
    if len(content) > _SMALL:
        raise ValueError(f"larger than {_SMALL:,} bytes")
    return content


def _open_plain(path: Path) -> IO[bytes]:
    """A reader of the file at `path`, which is no link, pipe or device: those would lead out of the releases or hang."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("not a plain file")
    return os.fdopen(descriptor, "rb")


def _is_folder(path: Path) -> bool:
    """Whether there is a folder at `path`, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def _damaged(identity: str, name: str, problem: str) -> DataError:
    path = FOLDER / identity
    return DataError(
        f"{path / name}: {problem}. Bring the release back with 'dvc checkout --force {path}.dvc' (or 'dvc pull --force'), "
        "or go back to another with 'epoxy rollback'."
    )


def _identify(files: Mapping[str, FileEntry], inputs: Mapping[str, str]) -> str:
    """The id of a release: of what is in it and of what went in."""
    # Figures follow from the rest, and their last digit may depend on the processor.
    contents = {name: entry.sha256 for name, entry in files.items() if name != FIGURES}
    return _hash({"files": contents, "inputs": dict(inputs)})[:12]


def _checksum(manifest: Manifest) -> str:
    return _hash(json.loads(manifest.model_dump_json(exclude={"checksum"})))


def _encode(value: Frozen) -> bytes:
    return value.model_dump_json(indent=2).encode() + b"\n"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _hash_lfs(root: Path) -> dict[str, str]:
    folder = root / "lfs"
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix in {".py", ".parquet", ".csv"}]
    return {path.relative_to(root).as_posix(): _digest(path).sha256 for path in sorted(files)}


@dataclass(frozen=True, kw_only=True)
class _Commit:
    """Git's commit and whether anything differed from it; None without Git."""

    id: str | None
    is_dirty: bool | None


def _read_commit(root: Path) -> _Commit:
    def ask(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        commit = ask("rev-parse", "--verify", "HEAD")
        # What releasing itself writes is no change to what the labels were made from.
        changed = ask("status", "--porcelain", "--", ".", f":(exclude){FOLDER}")
    except (OSError, subprocess.SubprocessError):
        return _Commit(id=None, is_dirty=None)
    return _Commit(id=commit, is_dirty=bool(changed))


def _read_versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())  # a container may run as a user without a name


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return text.splitlines()[0] if text else type(error).__name__
