"""Releases: immutable, content-addressed versions of the labels, made in a step that a reader sees whole or not at all.

    releases/<id>/       the files of a release, with manifest.json; never changed once it is there
    releases/current     a relative symbolic link to the release that consumers read
    releases/log.jsonl   run records (flows/releases/lineage.py)

Whoever writes holds a lock that dies with its process. A release is put together under a hidden name, brought to disk
and renamed; then the log says that it is current, then `current` is replaced. Whoever comes next finishes or removes
what a dead process left. Readers need no lock. Nothing is ordered by time.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from flows.releases.figures import Figures
from flows.releases.files import describe_error, digest_file, is_folder, read_small_file
from flows.releases.lineage import MOVES, Action, Record, read_log
from flows.releases.lock import PART
from flows.releases.manifest import (
    CONTENTS,
    FIGURES,
    FOLDER,
    MANIFEST,
    QUARANTINED,
    ROWS,
    Manifest,
    compute_checksum,
    compute_id,
    encode_json,
)
from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.fast_yaml import load_yaml
from tasks.tables import schemas
from tasks.tables.files import sync_folder
from tasks.tables.parquet import BYTES_AT_ONCE, check_table, read_batches, read_schema, read_table
from tasks.tables.paths import REPORT
from tasks.tables.saved_model import read_model
from tasks.tables.validation import name_first, require_same_items

CURRENT = "current"
LOG = "log.jsonl"

ID = re.compile(r"[0-9a-f]{12}")
"""What ids of releases look like, whole."""

_SHORTEST = 4
"""The fewest characters that name a release, as in Git."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release whose manifest has been checked; its files are checked as they are read."""

    id: str
    path: Path
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class ListedRelease:
    """A line of the list of releases. is_here: its folder is; otherwise `dvc pull` brings it. last: its last record.

    made: the last record by which it followed another release, or was the first; what it brought is counted there.
    """

    id: str
    sequence: int
    is_current: bool
    is_here: bool
    items: int | None
    last: Record | None
    made: Record | None


def list_releases(root: Path) -> tuple[ListedRelease, ...]:
    """All releases that are here or have a .dvc file, oldest first by the sequence of their last release.

    A folder whose manifest is damaged is listed without counts.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        return ()
    current = read_current(folder)
    log = read_log(folder / LOG)
    records = [record for record in log.records if record.action is Action.RELEASE and record.release]
    last = {record.release: record for record in records}
    made = {record.release: record for record in records if record.previous != record.release}
    names = {path.name for path in folder.iterdir() if ID.fullmatch(path.name) and is_folder(path)}
    pointers = {path.stem for path in folder.glob("*.dvc") if ID.fullmatch(path.stem)}
    listed = []
    for name in names | pointers:
        try:
            manifest = read_release(root, name).manifest if name in names else None
        except DataError:
            manifest = None
        record = last.get(name)
        sequence = record.sequence if record else (manifest.sequence if manifest else 0)
        listed.append(
            ListedRelease(
                id=name,
                sequence=sequence,
                is_current=name == current,
                is_here=name in names,
                items=manifest.items if manifest else None,
                last=record,
                made=made.get(name),
            )
        )
    return tuple(sorted(listed, key=lambda release: (release.sequence, release.id)))


def describe_releases(listed: Sequence[ListedRelease]) -> str:
    """A line per release for a terminal: `*` marks the current release. Rows are against the release it followed."""
    if not listed:
        return "no release yet; 'epoxy release' makes one"
    lines = []
    for release in listed:
        items = "?" if release.items is None else f"{release.items:,}"
        what = f"{items} items" if release.is_here else "not here: dvc pull"
        record = release.last
        rows = f": {release.made.rows.describe()}" if release.made and release.made.rows else ""
        who = f"  {record.time[:19]}Z  {record.user}" if record else ""
        why = f"  {' '.join(record.reason.split())}" if record and record.reason else ""
        accepted = f"  accepted: {' '.join(record.accepted.split())}" if record and record.accepted else ""
        lines.append(f"{'*' if release.is_current else ' '} {release.id}  {what}{rows}{who}{why}{accepted}")
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
        current = read_current(folder) if folder.is_dir() else None
        if current is None:
            raise DataError(f"{FOLDER / CURRENT}: there is no release yet. Run 'epoxy release' first.")
        return current
    known = [release.id for release in list_releases(root)]
    found = [release_id for release_id in known if release_id.startswith(name) and len(name) >= _SHORTEST]
    if len(found) == 1:
        return found[0]
    choice = f"known: {', '.join(known)}" if known else "there is none yet"
    problem = f"means {' and '.join(found)}" if found else "is no release"
    raise DataError(f"{FOLDER}: '{name[:64]}' {problem}; {choice}. 'epoxy releases list' shows them.")


def read_release(root: Path, name: str = CURRENT) -> Release:
    """Release `name` (as for `find_release`) with its manifest, which is checked against its checksum and its id.

    Raises
    ------
    DataError
        There is no such release here, or its manifest is damaged.
    """
    release_id = name if ID.fullmatch(name) else find_release(root, name)
    path = root / FOLDER / release_id
    if not is_folder(path):
        raise DataError(f"{FOLDER / release_id} is not here. Run 'dvc pull {FOLDER / release_id}.dvc'.")
    try:
        content = read_small_file(path / MANIFEST)
        manifest = Manifest.model_validate_json(content)
    except (OSError, ValueError) as error:
        raise _damaged(release_id, MANIFEST, describe_error(error)) from None
    if manifest.checksum != compute_checksum(manifest) or content != encode_json(manifest):
        raise _damaged(release_id, MANIFEST, "its checksum does not match")
    if release_id != manifest.id or release_id != compute_id(manifest.files, manifest.inputs):
        raise _damaged(release_id, MANIFEST, "it is of another release")
    if {*manifest.files} - {QUARANTINED} != {*CONTENTS, FIGURES, ROWS}:
        raise _damaged(release_id, MANIFEST, "it names other files")
    return Release(id=release_id, path=path, manifest=manifest)


def read_labels(release: Release) -> pl.DataFrame:
    """The labels of `release`, checked against its manifest and their schema.

    Raises
    ------
    DataError
        They are missing or damaged.
    """
    return read_table(check_file(release, "labels.parquet"), schemas.end_labels(release.manifest.classes))


def read_released_rows(release: Release) -> pl.DataFrame:
    """By which content each row of `release` was labeled (tasks/tables/release_rows.py), checked against its manifest.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    return read_table(check_file(release, ROWS), schemas.ROWS)


def read_figures(release: Release) -> Figures:
    """What gates and comparisons need of `release`, checked against its manifest.

    Raises
    ------
    DataError
        They are missing or damaged.
    """
    try:
        return Figures.model_validate_json(read_small_file(check_file(release, FIGURES)))
    except (OSError, ValueError) as error:
        raise _damaged(release.id, FIGURES, describe_error(error)) from None


def read_document(release: Release, name: str) -> Any:
    """The JSON or YAML value in file `name` of `release`, checked against its manifest.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    path = check_file(release, name)
    try:
        text = read_small_file(path).decode()
        return load_yaml(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _damaged(release.id, name, describe_error(error)) from None


def verify_release(root: Path, name: str) -> Release:
    """Release `name` after every byte of it has been compared with its manifest and every table with its schema.

    Raises
    ------
    DataError
        Something is missing, damaged, or does not belong there.
    """
    release = read_release(root, name)
    for file in release.manifest.files:
        check_file(release, file)
    unknown = {path.name for path in release.path.iterdir()} - {*release.manifest.files, MANIFEST}
    if unknown:
        raise _damaged(release.id, min(unknown), "it does not belong to the release")
    validate_contents(release.path, release.manifest.classes)
    read_figures(release)
    return release


def verify_all(root: Path) -> tuple[str, ...]:
    """What is wrong with any release that is here, with `current` or with the log; empty where all is well."""
    folder = root / FOLDER
    if not folder.is_dir():
        return ()
    problems = []
    for path in sorted(folder.iterdir()):
        if ID.fullmatch(path.name):
            try:
                verify_release(root, path.name)
            except DataError as error:
                problems.append(str(error))
    try:
        current = read_current(folder)
        if current is not None and not is_folder(folder / current):
            problems.append(f"{FOLDER / CURRENT}: {current} is not here. Run 'dvc pull {FOLDER / current}.dvc'.")
    except DataError as error:
        problems.append(str(error))
    for line in read_log(folder / LOG).damaged:
        problems.append(
            f"{FOLDER / LOG}:{line}: the line is damaged and passed over. Bring it back with 'git checkout' or "
            "remove it."
        )
    return tuple(problems)


def follow_log(folder: Path) -> tuple[str, ...]:
    """What was done so that `current` follows the log; nothing, unless a process died between writing the two."""
    records = read_log(folder / LOG).records
    moves = [record.release for record in records if record.action in MOVES and record.release]
    current = read_current(folder)
    if not moves or moves[-1] == current or not is_folder(folder / moves[-1]):
        return ()
    point_current(folder, moves[-1])
    return (f"{FOLDER / CURRENT} was {current or 'missing'} and the log says {moves[-1]}: it is that now",)


def point_current(folder: Path, release_id: str) -> None:
    """Replace `current` by a link to `release_id`, atomically."""
    part = folder / f".{CURRENT}{PART}"
    part.unlink(missing_ok=True)
    part.symlink_to(release_id)
    part.replace(folder / CURRENT)
    sync_folder(folder)


def read_current(folder: Path) -> str | None:
    """The id `current` points to, None where there is none."""
    try:
        target = str((folder / CURRENT).readlink())
    except FileNotFoundError:
        return None
    except OSError:
        target = "no symbolic link"
    if not ID.fullmatch(target):
        raise DataError(
            f"{FOLDER / CURRENT} is {target[:64]!r}; expected a link to a release beside it. Remove it; the next "
            "release or rollback makes it anew."
        )
    return target


def validate_contents(path: Path, classes: Sequence[str]) -> None:
    """Check that the files in folder `path` are what the files of a release have to be.

    Raises
    ------
    DataError
        A table breaks its schema, tables hold different items, or a document is not what its stage writes.
    """
    k = len(classes)
    labels = check_table(path / "labels.parquet", schemas.end_labels(classes))
    columns = read_schema(path / "votes.parquet")
    votes = check_table(path / "votes.parquet", schemas.votes(k, columns))
    require_same_items(path / "labels.parquet", labels, path / "votes.parquet", votes)
    lent = schemas.provenance(k, votes.schema[ITEM_ID])
    for batch in read_batches(path / "provenance.parquet", lent, size=BYTES_AT_ONCE):
        _require_items(path / "provenance.parquet", batch[ITEM_ID], labels[ITEM_ID])
    rows = check_table(path / ROWS, schemas.ROWS)
    require_same_items(path / "labels.parquet", labels, path / ROWS, rows)
    if (path / QUARANTINED).exists():
        read_table(path / QUARANTINED, schemas.QUARANTINE)
    model = read_model(path / "model.parquet")
    if model.classes != tuple(classes) or [ITEM_ID, *model.lfs] != columns.names():
        raise DataError(f"{CONTENTS['model.parquet']}: is of other classes or labeling functions. Run 'epoxy run'.")
    for name in ("end_model.json", "label_model.json", "metrics.json", "thresholds.json"):
        try:
            value = json.loads(read_small_file(path / name))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{CONTENTS[name]}: not JSON: {describe_error(error)}. Run 'epoxy run'.") from None
        if not isinstance(value, dict) or (name == "thresholds.json" and not _are_thresholds(value)):
            raise DataError(f"{CONTENTS[name]}: not what its stage writes. Run 'epoxy run'.")
    with (path / "report.html").open("rb") as report:
        if not report.read(64).lstrip().lower().startswith(b"<!doctype html"):
            raise DataError(f"{REPORT}: not a page of HTML. Run 'epoxy run'.")


def _require_items(path: Path, found: pl.Series, ids: pl.Series) -> None:
    """Check that the items `found` in the table at `path` are among `ids`, which ascend.

    Raises
    ------
    DataError
        Some are not.
    """
    different = found.unique()
    at = ids.search_sorted(different).to_numpy()
    is_there = at < len(ids)
    is_there[is_there] = (ids.gather(at[is_there]) == different.filter(is_there)).to_numpy()
    if not is_there.all():
        lost = name_first(different.filter(~is_there))
        raise DataError(f"{path}: holds items that have no label, first {lost}. Run 'epoxy run'.")


def _are_thresholds(document: dict[str, Any]) -> bool:
    found = document.get("thresholds")
    return isinstance(found, dict) and all(value is None or isinstance(value, int | float) for value in found.values())


def check_file(release: Release, name: str) -> Path:
    """The path of file `name` after its bytes have been compared with the manifest.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    path = release.path / name
    entry = release.manifest.files.get(name)
    if entry is None:
        raise DataError(f"{FOLDER / release.id} has no '{name}'; it has {', '.join(release.manifest.files)}.")
    try:
        found = digest_file(path)
    except OSError as error:
        raise _damaged(release.id, name, describe_error(error)) from None
    if found.size != entry.size:
        raise _damaged(release.id, name, f"it has {found.size:,} bytes, expected {entry.size:,}")
    if found.sha256 != entry.sha256:
        raise _damaged(release.id, name, "its bytes differ from those released")
    return path


def _damaged(release_id: str, name: str, problem: str) -> DataError:
    path = FOLDER / release_id
    return DataError(
        f"{path / name}: {problem}. Bring the release back with 'dvc checkout --force {path}.dvc' (or 'dvc pull --force'), "
        "or go back to another with 'epoxy rollback'."
    )
