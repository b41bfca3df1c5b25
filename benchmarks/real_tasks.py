"""Real labeling tasks as benchmarks read them: folders with items, votes and embeddings, laid out as a user's project."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = ("items.parquet", "votes.parquet", "embeddings.npy", "dataset.json")


def find_tasks(folder: Path, names: Sequence[str] | None) -> list[Path]:
    """The folders of tasks in `folder`, ascending, of those called `names` if given; that there is none is said."""
    tasks = [path for path in sorted(folder.iterdir()) if all((path / file).is_file() for file in FILES)]
    tasks = [path for path in tasks if names is None or path.name in names]
    if not tasks:
        print(f"{folder}: no task there; a task is a folder with {', '.join(FILES)}", file=sys.stderr)
    return tasks


def lay_out(
    task: Path,
    root: Path,
    *,
    gold_rows: int | None,
    seed: int,
    is_tfidf: bool = False,
    ingest: Mapping[str, object] | None = None,
) -> None:
    """Put the files of `task` where a user would, beside params.yaml with nothing changed but names, places and `ingest`."""
    raw = root / "data" / "raw"
    raw.mkdir(parents=True)
    (root / "lfs").mkdir()
    _keep_gold(pl.read_parquet(task / "items.parquet"), gold_rows, seed).write_parquet(raw / "items.parquet")
    shutil.copy(task / "embeddings.npy", raw / "embeddings.npy")
    shutil.copy(task / "votes.parquet", root / "lfs" / "votes.parquet")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["classes"] = json.loads((task / "dataset.json").read_text())["classes"]
    params["ingest"]["source"] = "data/raw"
    if is_tfidf:
        params["ingest"] = {"source": "data/raw", "encoder": "tfidf"}
    if ingest is not None:
        params["ingest"] = dict(ingest)
    params["apply"]["source"] = "lfs/votes.parquet"
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def _keep_gold(items: pl.DataFrame, gold_rows: int | None, seed: int) -> pl.DataFrame:
    """`items` with gold on `gold_rows` valid items alone, drawn with `seed`, besides what the test split has."""
    if gold_rows is None:
        return items
    valid = np.flatnonzero((items["split"] == "valid").to_numpy() & items["gold"].is_not_null().to_numpy())
    kept = np.random.default_rng(seed).permutation(valid)[:gold_rows]
    is_kept = np.isin(np.arange(items.height), kept) | (items["split"] == "test").to_numpy()
    return items.with_columns(pl.when(pl.Series(is_kept)).then(pl.col("gold")).otherwise(None).alias("gold"))
