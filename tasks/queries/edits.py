"""Whether what the last run made is still that of the files that people edit: a quick look, which DVC's status is not."""

import hashlib
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tasks.cache.store import hash_as_dvc
from tasks.params_file import FILE as PARAMS
from tasks.queries.recorded_classes import read_lock, read_recorded_params
from tasks.strict_yaml import parse_yaml

_FOLDERS = ("lfs", "gold")
"""Folders of what people write; data are not looked at, since they may be large."""

_IGNORED = ("__pycache__", "*.pyc", ".*.part", ".cache", ".*.sw?", ".#*", "#*#", "*~")
"""What .dvcignore leaves out."""


def describe_edits(root: Path) -> str | None:
    """Return a sentence on what was edited since the last run of the project at `root`; None if nothing, as far as this looks.

    Compared with dvc.lock are params.yaml, labeling functions and gold tables, in some 50 ms.
    """
    stages = read_lock(root)
    try:
        changed = [f"{folder}/" for folder in _FOLDERS if _is_changed(root, folder, stages)]
        params = parse_yaml((root / PARAMS).read_text(encoding="utf-8"))
        recorded = read_recorded_params(stages).values()
        sections = {name for known in recorded for name, value in known.items() if params.get(name) != value}
    except Exception:
        return None  # a file that cannot be read is told by whoever needs it
    if sections:
        changed.append(f"params.yaml ({', '.join(sorted(sections))})")
    if not changed:
        return None
    names = " and ".join(changed)
    return f"{names} changed since the last run, of which this tells; 'epoxy run' brings it up to date"


def _is_changed(root: Path, folder: str, stages: dict[str, dict[str, Any]]) -> bool:
    """Whether `folder` has other files than those with which a stage ran; false where none read it."""
    noted = [
        dep["md5"]
        for stage in stages.values()
        for dep in stage.get("deps", ())
        if dep["path"] == folder and "md5" in dep
    ]
    if not noted:
        return False
    files = [{"md5": hash_as_dvc(root / folder / path), "relpath": path} for path in sorted(_list(root / folder))]
    text = json.dumps(files, sort_keys=True).encode()
    return any(md5 != hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir" for md5 in noted)


def _list(folder: Path, below: str = "") -> Iterator[str]:
    """The paths of the files in `folder` that DVC looks at, relative to it."""
    for path in folder.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in _IGNORED):
            continue
        if path.is_dir():
            yield from _list(path, f"{below}{path.name}/")
        else:
            yield f"{below}{path.name}"
