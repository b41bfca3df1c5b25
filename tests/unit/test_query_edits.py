"""What was edited since the last run, as far as a quick look tells."""

import shutil
from pathlib import Path

import pytest
import yaml

from tasks.queries.edits import describe_edits

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """This project as its committed dvc.lock knows it."""
    for name in ("dvc.lock", "params.yaml"):
        shutil.copy2(REPOSITORY / name, tmp_path)
    for name in ("lfs", "gold"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    return tmp_path


def test_nothing_was_edited_in_a_project_that_is_as_its_lock_says(root: Path) -> None:
    assert describe_edits(root) is None
    (root / "lfs" / "__pycache__").mkdir(exist_ok=True)
    (root / "lfs" / "__pycache__" / "digits.pyc").write_bytes(b"x")
    (root / "lfs" / ".digits.py.swp").write_bytes(b"x")
    assert describe_edits(root) is None


def test_edits_of_labeling_functions_gold_and_params_are_named(root: Path) -> None:
    (root / "lfs" / "more.py").write_text("")
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["search"]["metric"] = "l2"
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert str(describe_edits(root)).startswith("lfs/ and params.yaml (search) changed since the last run")
    (root / "gold" / "decisions.jsonl").write_text("{}\n")
    assert str(describe_edits(root)).startswith("lfs/ and gold/ and params.yaml")


@pytest.mark.parametrize("lock", [None, "stages: 3", "stages: {apply: 7}", "{", "stages: {a: {deps: [{}]}}"])
def test_without_a_run_nothing_is_said(root: Path, lock: str | None) -> None:
    (root / "dvc.lock").unlink()
    if lock is not None:
        (root / "dvc.lock").write_text(lock)
    assert describe_edits(root) is None
