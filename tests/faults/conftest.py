"""A finished project for all tests of faults; a file of theirs may have its own."""

import contextlib
import shutil
from pathlib import Path
from unittest.mock import ANY

import pytest
from small_project import make_project, run
from stage_processes import finish_stage

from flows.releases.create import create_release
from flows.releases.policy import GateLimits
from tasks.__main__ import STAGES


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project on which all stages have run, known to DVC, with a release of the result. Only to be copied."""
    root = make_project(tmp_path_factory.mktemp("finished") / "project")
    for stage in STAGES:
        assert finish_stage(root, stage) == (0, ANY)
    done = run(root, "dvc", "commit", "--force", "--quiet")
    assert done.returncode == 0, done.stderr
    with contextlib.chdir(root):
        create_release(root, GateLimits.model_validate({}))
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    shutil.copytree(finished, tmp_path / "project", symlinks=True)
    return tmp_path / "project"
