"""A small project on which all stages have run, and what must be true of it whatever failed; tests/faults/conftest.py makes it."""

import os
import shutil
from pathlib import Path

from small_project import hash_outputs
from stage_processes import finish_stage

from flows.releases.store import read_labels, read_release, verify_all
from flows.runner.dvc_patches import Command
from tasks.errors import StageError

LONG = "EPOXY_KILLS" in os.environ
"""Whether the long versions are asked for: that many kills, each problem with two classes and with four."""

KILLS = int(os.environ.get("EPOXY_KILLS", "18"))
WHOLE_RUNS = KILLS if LONG else 1
SEED = int(os.environ.get("EPOXY_SEED", "0"))


def remove_outputs(root: Path, stage: str) -> None:
    """As DVC does before it runs a stage."""
    shutil.rmtree(root / "data" / stage, ignore_errors=True)  # killed early, it made none


def require_whole(root: Path, expected: dict[str, str]) -> None:
    """The last release is intact, and every visible output is the one of an undisturbed run."""
    assert verify_all(root) == ()
    assert read_labels(read_release(root)).height == 100
    for path, content in hash_outputs(root).items():
        if not Path(path).name.startswith("."):
            assert content == expected[path], path


def spawn(told: Command) -> None:
    """Run a stage for DVC."""
    stage = told.text.removeprefix("python -m tasks ")
    code, said = finish_stage(told.cwd, stage)
    if code:
        raise StageError(f"exit code {code}: {said}")
