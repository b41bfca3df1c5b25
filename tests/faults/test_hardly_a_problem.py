"""No item, one item, one class, equal vectors: labels, or a clear error.

EPOXY_KILLS asks for each problem with two classes and with four.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from finished_project import LONG
from small_project import CLASSES, write_params
from stage_processes import finish_stages

from tasks.__main__ import STAGES
from tasks.errors import DataError
from tasks.tables.paths import SHIPPED_LABELS

pytestmark = pytest.mark.slow


def write_problem(root: Path, vectors: Any, *, votes: dict[str, list[int]], gold: list[str | None]) -> None:
    """Raw data with these embeddings (n, d), votes from a table, and gold of valid items (others are train)."""
    raw = root / "data" / "raw"
    shutil.rmtree(raw)
    raw.mkdir()
    n = len(vectors)
    items = {"item_id": range(n), "split": ["valid" if one else "train" for one in gold], "gold": gold}
    pl.DataFrame(items, schema_overrides={"gold": pl.String, "item_id": pl.Int64, "split": pl.String}).write_parquet(
        raw / "items.parquet"
    )
    np.save(raw / "embeddings.npy", np.asarray(vectors, dtype=np.float32))
    table = {"item_id": range(n), **{lf: pl.Series(column, dtype=pl.Int8) for lf, column in votes.items()}}
    pl.DataFrame(table, schema_overrides={"item_id": pl.Int64}).write_parquet(root / "lfs" / "votes.parquet")


def spread(n: int, d: int = 3) -> Any:
    return np.random.default_rng(0).normal(size=(n, d)) + 0.1


LABELED = 30
MANY = 2000
PROBLEMS: dict[str, tuple[Any, dict[str, list[int]], list[str | None], str]] = {
    "no item": (np.empty((0, 3)), {"a": []}, [], "no items"),
    "one item": (spread(1), {"a": [1]}, [None], ""),
    "one item, no vote": (spread(1), {"a": [-1]}, [None], "so there is nothing to learn from"),
    "two items, each its class": (spread(2), {"a": [0, 1]}, [None, None], ""),
    "one item, and it is valid": (spread(1), {"a": [1]}, ["spam"], ""),
    "one dimension": (spread(LABELED, 1), {"a": [0, 1, -1] * 10, "b": [-1, 1, 0] * 10}, [None] * LABELED, ""),
    "one LF": (spread(LABELED), {"a": [0, 1, -1] * 10}, [None] * LABELED, ""),
    "one LF, support of one": (spread(LABELED), {"a": [1] + [-1] * 29}, [None] * LABELED, ""),
    "gold of one class": (spread(LABELED), {"a": [0, 1, -1] * 10}, ["ham"] * 10 + [None] * 20, ""),
    "all vectors equal": (np.ones((LABELED, 3)), {"a": [0, 1, -1] * 10, "b": [1] * 30}, ["spam"] * 5 + [None] * 25, ""),
    "duplicates by the thousand": (
        np.repeat(np.eye(2), MANY // 2, axis=0),
        {"a": [0, *[-1] * (MANY // 2 - 1), *[-1] * (MANY // 2)], "b": [-1] * (MANY - 1) + [1], "c": [-1] * MANY},
        [None] * MANY,
        "",
    ),
}


CASES = [(name, k) for place, name in enumerate(PROBLEMS) for k in (2, 4) if LONG or k == (2, 4)[place % 2]]


@pytest.mark.parametrize(("name", "k"), CASES)
def test_hardly_a_problem(project: Path, name: str, k: int) -> None:
    """A clear error, or labels: of every item, the unanimous vote where there is one."""
    vectors, votes, gold, complaint = PROBLEMS[name]
    classes = (*CLASSES, "eggs", "toast")[:k]
    write_problem(project, vectors, votes=votes, gold=gold)
    write_params(project, apply={"source": "lfs/votes.parquet"})
    params = project / "params.yaml"
    params.write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | {"classes": list(classes)}))
    code, said = finish_stages(project, STAGES)
    assert code == (DataError.exit_code if complaint else 0), said
    assert complaint in said and "Traceback" not in said
    if complaint:
        return
    labels = pl.read_parquet(project / SHIPPED_LABELS)
    assert labels["item_id"].to_list() == list(range(len(vectors)))
    P = labels.select(f"p_{one}" for one in classes).to_numpy()
    assert np.allclose(P.sum(axis=1), 1) and np.isfinite(P).all()
    L = np.array(list(votes.values()))
    if name in {"one item", "two items, each its class", "duplicates by the thousand"}:
        own = [next((vote for vote in column if vote != -1), None) for column in L.T]
        for label, vote in zip(labels["label"], own, strict=True):
            assert vote is None or label == classes[vote]
    if name == "duplicates by the thousand":
        assert labels["label"].to_list() == ["ham"] * (MANY // 2) + ["spam"] * (MANY // 2)
