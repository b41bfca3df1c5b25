"""The folder of raw data that tests of readers start from."""

from pathlib import Path

import numpy as np
import pytest
from raw_data import IDS, VECTORS


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with embeddings of a, b and c, and with those of a alone."""
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "e.npz", ids=np.array(IDS), embeddings=VECTORS)
    np.savez(tmp_path / "raw" / "one.npz", ids=np.array(IDS[:1]), embeddings=VECTORS[:1])
    return tmp_path / "raw"
