"""The project that tests of releases start from."""

from pathlib import Path

import pytest
from release_project import A, write_run

from flows.releases.lineage import URL_VARIABLE


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with run A finished, not under Git; run records are posted nowhere."""
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    write_run(folder, A)
    return folder
