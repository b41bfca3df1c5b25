"""Tables are read and written a part at a time, and what is made of them does not depend on where they were cut."""

from pathlib import Path

import polars as pl
import pytest
from small_project import make_project, write_params

from tasks.__main__ import STAGES, run_stage
from tasks.core.label_models import liger

CUT = ("search", "tune", "extend", "fit", "train", "evaluate")


def run_all(root: Path) -> None:
    for stage in STAGES:
        run_stage(root, stage)


@pytest.mark.parametrize("label_model", ["auto", "flyingsquid"])
def test_where_tables_are_cut_changes_nothing(tmp_path, monkeypatch, label_model):
    roots = [make_project(tmp_path / name, n=150) for name in ("whole", "parts")]
    for root in roots:
        write_params(root, fit={"label_model": label_model}, index={"kind": "ivf"})
    run_all(roots[0])
    for name, rows in (("ROW_GROUP", 16), ("AT_ONCE", 48), ("BYTES_AT_ONCE", 1)):
        monkeypatch.setattr(f"tasks.tables.parquet.{name}", rows)
    monkeypatch.setattr(liger, "_BLOCK", 32)
    run_all(roots[1])
    compared = 0
    for path in sorted(file for stage in CUT for file in (roots[0] / "data" / stage).rglob("*") if file.is_file()):
        other = roots[1] / path.relative_to(roots[0])
        if path.suffix == ".parquet":
            assert pl.read_parquet(path).equals(pl.read_parquet(other)), path
            compared += 1
        elif path.suffix in (".csv", ".json"):
            assert path.read_text() == other.read_text(), path
    assert compared >= 8
