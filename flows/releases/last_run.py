"""What the artifacts of the last run cannot say themselves, or equal runs would differ: project, time, commit, release.

The report names its labels by their content; who shows it adds this.
"""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from tasks.cache.store import hash_as_dvc
from tasks.errors import EpoxyError
from tasks.tables.paths import METRICS, SHIPPED_LABELS

ENGLISH = {"LC_ALL": "C"}
"""The environment in which Git says what `is_foreign` knows."""

_SHOWN = 12
"""Digits of a hash that are shown, as in the report."""


def describe_origin(root: Path) -> str:
    """Return project, time of evaluation, commit and release of the last run of the project at `root`, as a line of text."""
    parts = [root.resolve().name]
    if (root / METRICS).is_file():
        made = datetime.fromtimestamp((root / METRICS).stat().st_mtime, UTC)
        parts.append(f"evaluated {made:%Y-%m-%d %H:%M} UTC")
    parts.append(describe_commit(root))
    if (root / SHIPPED_LABELS).is_file():
        parts.append(_describe_labels(root))
    return ", ".join(parts)


def describe_commit(root: Path) -> str:
    """Return the commit that is checked out, as a phrase."""
    try:
        ended = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=, with edits"],
            capture_output=True, text=True, timeout=10, check=False, env=os.environ | ENGLISH,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "no Git here"
    if is_foreign(ended.stderr):
        return "a folder of another user, which Git refuses"
    return f"now at commit {ended.stdout.strip()}" if ended.returncode == 0 else "no commit yet"


def is_foreign(complaint: str) -> bool:
    """Whether Git complains that the folder belongs to another user."""
    return "dubious ownership" in complaint


def trust_folder(root: Path) -> str:
    """What to do where Git refuses the folder of a project, and the user trusts whoever owns it."""
    return f"run 'git config --global --add safe.directory {root.resolve()}' if you trust its owner"


def _describe_labels(root: Path) -> str:
    """The labels by their content, and whether they are those of the current release."""
    digest = hash_as_dvc(root / SHIPPED_LABELS)
    if not (root / "releases" / "current").is_symlink():
        return f"labels {digest[:_SHOWN]}, not released"
    # Imported here because they load Polars, 1 s that a project without a release would wait for.
    from flows.releases.manifest import CONTENTS, FOLDER
    from flows.releases.store import read_current, read_release

    try:
        current = read_current(root / FOLDER)
        name = next(name for name, path in CONTENTS.items() if path == SHIPPED_LABELS)
        known = hash_as_dvc(read_release(root, current or "").path / name)
    except (EpoxyError, OSError):
        return f"labels {digest[:_SHOWN]}"
    is_same = known == digest
    return f"labels {digest[:_SHOWN]}, {'those' if is_same else 'others than'} of the current release {current}"
