"""Disks fill up and folders cannot be written: it is told in a line, nothing is half-written, and room heals it."""

import contextlib
import gc
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from finished_project import LONG, remove_outputs, require_whole, spawn
from small_project import hash_outputs, write_params
from stage_processes import finish_stage

from flows.runner.dvc_repo import open_repo
from flows.runner.dvc_run import run_stage
from flows.runner.report import Outcome
from tasks.__main__ import STAGES
from tasks.errors import StageError

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def mounted(folder: Path, *how: str) -> Iterator[None]:
    """Within the block, something else is mounted on `folder`; skips where this user may not do that."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or subprocess.run(["mount", *how, str(folder)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within the block, nobody writes below `folder`, root included."""
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


def require_told(code: int, said: str, stage: str, why: str) -> None:
    assert code == StageError.exit_code, said
    last = said.rpartition("error: ")[2]
    assert last.startswith(f"{stage}: ") and why in last and "Check free space and permissions" in last, said


@pytest.mark.parametrize("stage", STAGES)
def test_a_write_that_fails_midway(project: Path, stage: str) -> None:
    """By a limit on the size of files, which needs no root: the first write fails, then the one of the largest file."""
    expected = hash_outputs(project)
    largest = max(path.stat().st_size for path in (project / "data" / stage).rglob("*") if path.is_file())
    for limit in (0, largest - 1):
        remove_outputs(project, stage)
        code, said = finish_stage(project, stage, {resource.RLIMIT_FSIZE: limit})
        require_told(code, said, stage, "too large")
        require_whole(project, expected)
        assert not list((project / "data").rglob("*.part"))
    assert finish_stage(project, stage) == (0, ANY)
    assert hash_outputs(project) == expected


def test_a_full_disk_under_each_stage(project: Path) -> None:
    expected = hash_outputs(project)
    for stage in STAGES if LONG else ("ingest", "search", "evaluate"):
        remove_outputs(project, stage)
        with mounted(project / "data" / stage, "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
            code, said = finish_stage(project, stage)
            require_told(code, said, stage, "No space left")
            require_whole(project, expected)
        assert finish_stage(project, stage) == (0, ANY)
    assert hash_outputs(project) == expected


def test_a_full_disk_under_the_memo_costs_time_only(project: Path) -> None:
    expected = hash_outputs(project)
    shutil.rmtree(project / "data/.cache")
    with mounted(project / "data/.cache", "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        (project / "data/.cache/filler").write_bytes(bytes(4096))
        for stage in ("apply", "search"):
            remove_outputs(project, stage)
            assert finish_stage(project, stage) == (0, ANY)
    assert hash_outputs(project) == expected


def test_a_full_disk_under_dvcs_cache(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    remove_outputs(project, "extend")
    shutil.rmtree(project / ".dvc/cache")
    with mounted(project / ".dvc/cache", "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        with pytest.raises(StageError, match=r"stage extend: .*[Nn]o space left"):
            run_stage(project, "extend", spawn)
        require_whole(project, expected)
    assert run_stage(project, "extend", spawn) is Outcome.COMPLETED
    assert hash_outputs(project) == expected


def test_a_full_disk_under_dvcs_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that only look ask DVC, too, which opens its databases for it."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\n")
    monkeypatch.chdir(tmp_path)

    def ask() -> str:
        try:
            with open_repo(tmp_path):
                return ""
        except StageError as error:
            return str(error)

    with mounted(tmp_path / ".dvc" / "tmp", "-t", "tmpfs", "-o", "size=32k", "tmpfs"):
        said = ask()
        gc.collect()  # half a database is open as long as the error's frames are there
    assert re.search(r"DVC cannot write its notes below .*: d.*\. Make room on that disk", said), said
    assert ask() == ""


def test_a_folder_that_nobody_may_write(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    with read_only(project / "data"):
        for stage in STAGES:
            code, said = finish_stage(project, stage)
            require_told(code, said, stage, "Read-only file system")
        write_params(project, extend={"scope": "rows"})
        with pytest.raises(StageError, match=r"stage extend: .*Read-only file system"):
            run_stage(project, "extend", spawn)
        assert hash_outputs(project) == expected
        require_whole(project, expected)
    write_params(project)
    assert run_stage(project, "extend", spawn) in (Outcome.CACHED, Outcome.RESTORED)
    assert hash_outputs(project) == expected
