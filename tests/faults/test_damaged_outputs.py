"""Outputs that are flipped, truncated, removed or from the future: DVC brings them back, or they are computed again."""

import os
import time
from pathlib import Path

import pytest
from finished_project import spawn
from small_project import hash_outputs

from flows.runner.dvc_graph import read_stages
from flows.runner.dvc_run import run_stage
from flows.runner.report import Outcome
from tasks.tables.paths import VOTES

pytestmark = pytest.mark.slow


def run_all(root: Path) -> set[Outcome]:
    """What became of the stages, as under `dvc repro` and `epoxy run`."""
    return {run_stage(root, stage.name, spawn) for stage in read_stages(root)}


def test_damaged_outputs_of_all_stages_are_restored(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flipped, truncated, removed and replaced by a folder, in turn."""
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    for number, name in enumerate(name for name in expected if not name.endswith("metrics.json")):
        path = Path(name)
        content = path.read_bytes()
        path.unlink()
        match number % 4:
            case 0:
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            case 1:
                path.write_bytes(content[: len(content) // 2])
            case 2:
                path.mkdir()
    assert run_all(project) == {Outcome.RESTORED}
    assert hash_outputs(project) == expected
    assert run_all(project) == {Outcome.CACHED}


def test_damage_of_the_cache_too_is_computed_away(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC compares what its cache holds with the name that it has there."""
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    for path in [VOTES, *(project / ".dvc/cache/files/md5").rglob("*")]:
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert Outcome.COMPLETED in run_all(project)
    assert hash_outputs(project) == expected
    assert run_all(project) == {Outcome.CACHED}


def test_files_of_the_future_are_compared_by_content(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a clock that jumped back: every file is younger than now, some written since, some of the same size."""
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    future = time.time() + 365 * 24 * 3600
    for path in [*Path("data").rglob("*"), *Path("lfs").rglob("*"), Path("params.yaml"), Path("dvc.lock")]:
        os.utime(path, (future, future))
    assert run_all(project) == {Outcome.CACHED}
    lfs = Path("lfs/small.py").read_text(encoding="utf-8")
    Path("lfs/small.py").write_text(lfs.replace("> 30", "> 31"), encoding="utf-8")
    assert Outcome.COMPLETED in run_all(project)
    Path("lfs/small.py").write_text(lfs, encoding="utf-8")
    os.utime("lfs/small.py", (future, future))
    assert Outcome.COMPLETED not in run_all(project)
    assert hash_outputs(project) == expected
