"""The project that tests of releases start from, and the folder of raw data that tests of readers do."""

from pathlib import Path

import numpy as np
import pytest
from raw_data import IDS, VECTORS
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


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with embeddings of a, b and c, and with those of a alone."""
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "e.npz", ids=np.array(IDS), embeddings=VECTORS)
    np.savez(tmp_path / "raw" / "one.npz", ids=np.array(IDS[:1]), embeddings=VECTORS[:1])
    return tmp_path / "raw"
