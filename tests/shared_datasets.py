"""Where the real labeling tasks are: beside the checkout, never in it; tests that need them are skipped elsewhere."""

from pathlib import Path

import pytest

DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"
needs_datasets = pytest.mark.skipif(
    not DATASETS.is_dir(), reason="the real labeling tasks are not beside this checkout (../shared/datasets)"
)
