"""What a stage depends on, identified before the stage reads anything and compared after it has written.

DVC hashes dependencies after a stage's command has ended. What was edited while the command ran would be recorded as
what it has read, in dvc.lock and in the run cache, and the stage would count as up to date for ever. A command that
compares, and fails if anything has changed, records nothing. (An edit in the moment between that comparison and DVC's
hashes is found by flows/runner alone; under `dvc repro` it goes unnoticed.)

A file that was written meanwhile counts as changed even where its content is the same again: the stage may have read
other content in between.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import ParamsError
from tasks.fast_yaml import load_yaml

PIPELINES = {"demo": Path("data/demo/dvc.yaml")}
"""The files, below the project's root, of stages that are not in the root's dvc.yaml."""

HASHED_SIZE = 2**20
"""Bytes up to which a file's content is hashed: two edits within a tick of the kernel's clock may leave size and time as
they were. Larger files, which would take seconds to read, are not written so fast."""

HASHED_FILES = 1_000
"""Files of one dependency that are hashed at most; a folder may hold a file per item."""

_SHOWN = 3
"""Changes that a message names."""

_IGNORED = frozenset({"__pycache__", ".git", ".dvc"})
"""Folders that are never a stage's input: .dvcignore or DVC itself leaves them out."""

_VARIABLE = re.compile(r"\$\{\s*([\w.-]+)\s*\}")


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """Equal for two states of a file if nobody wrote it in between."""

    size: int
    mtime_ns: int
    inode: int
    digest: str | None


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """The state of what a stage depends on. files: by path. params: values by file and key."""

    files: Mapping[Path, FileIdentity]
    params: Mapping[tuple[Path, str], Any]


def find_dependencies(root: Path, stage: str) -> tuple[tuple[Path, ...], Mapping[Path, Sequence[str]]] | None:
    """The files and folders that `stage` depends on, and its keys by file of params; None if no pipeline defines it.

    Raises
    ------
    ParamsError
        The pipeline names a variable that params.yaml does not have.
    """
    pipeline = root / PIPELINES.get(stage, Path("dvc.yaml"))
    definition = _read_yaml(pipeline).get("stages", {}).get(stage)
    if not isinstance(definition, dict):
        return None
    folder = pipeline.parent / str(definition.get("wdir", "."))
    variables = _read_yaml(folder / "params.yaml")
    paths = [
        folder / _resolve(entry if isinstance(entry, str) else next(iter(entry)), variables, pipeline)
        for entry in definition.get("deps", [])
    ]
    params: dict[Path, list[str]] = {}
    for entry in definition.get("params", []):
        named = {"params.yaml": [entry]} if isinstance(entry, str) else entry
        for name, keys in named.items():
            params.setdefault(folder / name, []).extend(keys or [])
    return tuple(paths), params


def identify(paths: Sequence[Path], params: Mapping[Path, Sequence[str]]) -> Dependencies:
    """The state of `paths` (files, and folders with all they hold) and of the keys in `params` as of now.

    What is missing has no entry, and an error that the stage itself will explain is left to it.
    """
    files = {file: identity for path in paths for file, identity in _identify_path(path)}
    values = {
        (path, key): _find_value(content, key)
        for path, keys in params.items()
        for content in [_read_yaml(path)]
        for key in keys or sorted(content)
    }
    return Dependencies(files=files, params=values)


def list_changes(before: Dependencies, after: Dependencies, *, root: Path) -> tuple[str, ...]:
    """Files and keys that differ, with paths relative to `root`, in alphabetical order; empty if nothing changed."""
    files = [path for path in {*before.files, *after.files} if before.files.get(path) != after.files.get(path)]
    ignored = _find_ignored(root, files) if files else set()
    keys = [
        f"{_relative(path, root)}: {name}"
        for path, key in {*before.params, *after.params}
        for name in _find_changed_keys(key, before.params.get((path, key)), after.params.get((path, key)))
    ]
    return tuple(sorted([_relative(path, root) for path in files if path not in ignored] + keys))


def describe_changes(stage: str, changes: Sequence[str]) -> str:
    """The message of a stage whose dependencies have changed while it ran."""
    more = len(changes) - _SHOWN
    what = ", ".join(changes[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return f"{stage}: {what} changed while the stage ran, which may have read either state. Run it again."


def _identify_path(path: Path) -> Iterator[tuple[Path, FileIdentity]]:
    hashed = 0
    for file in _list_files(path):
        try:
            status = file.stat()
            digest = None
            if status.st_size <= HASHED_SIZE and hashed < HASHED_FILES:
                hashed += 1
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError:
            continue
        yield (
            file,
            FileIdentity(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino, digest=digest),
        )


def _list_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in _IGNORED)
        for name in sorted(names):
            yield Path(folder, name)


def _find_ignored(root: Path, files: Sequence[Path]) -> set[Path]:
    """Those of `files` that .dvcignore leaves out, such as an editor's own; DVC does not hash them either."""
    import pathspec  # a change is rare, and the import takes time

    try:
        lines = (root / ".dvcignore").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return set()
    spec = pathspec.PathSpec.from_lines("gitwildmatch", lines)
    return {file for file in files if spec.match_file(_relative(file, root))}


def _find_changed_keys(key: str, before: object, after: object) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {*before, *after}:
            yield from _find_changed_keys(f"{key}.{name}", before.get(name), after.get(name))
    elif repr(before) != repr(after):  # 1, 1.0 and True are equal, and .nan differs from itself
        yield key


def _find_value(content: object, key: str) -> object:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _resolve(text: str, variables: Mapping[str, Any], pipeline: Path) -> str:
    def look_up(match: re.Match[str]) -> str:
        value = _find_value(variables, match[1])
        if value is None:
            raise ParamsError(f"{pipeline}: {match[0]} is not in params.yaml. Add '{match[1]}' there.")
        return str(value)

    return _VARIABLE.sub(look_up, text)


def _read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty if there is none, which whoever needs it will explain."""
    try:
        content = load_yaml(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _relative(path: Path, root: Path) -> str:
    return os.path.relpath(path, root)
