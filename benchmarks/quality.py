"""`python -m benchmarks.quality FOLDER`: the pipeline's labels on every task below FOLDER, with less and less gold.

Each task is a folder with items.parquet (item_id, split, gold), votes.parquet, embeddings.npy and dataset.json (its
`classes`), and runs through the real stages with the project's own params.yaml: one set of defaults for all tasks.
Three amounts of valid gold: all of it, 100 rows (drawn with several seeds; the mean is shown), none. Test gold is read
by the stage evaluate alone.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
import yaml

from tasks.__main__ import STAGES, run_stage
from tasks.tables.files import read_json, write_json
from tasks.tables.paths import METRICS

ROOT = Path(__file__).resolve().parents[1]
GOLD_ROWS = {"all gold": None, "100 gold": 100, "no gold": 0}
FILES = ("items.parquet", "votes.parquet", "embeddings.npy", "dataset.json")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run of the pipeline: what evaluate wrote about the test split, which method was shipped, seconds by stage."""

    metrics: dict[str, Any]
    seconds: dict[str, float]


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write all that was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument("--seeds", type=int, default=5, help="how many draws of 100 gold rows (default 5)")
    parser.add_argument("--gold", nargs="+", choices=list(GOLD_ROWS), default=list(GOLD_ROWS), help="amounts of gold")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--json", type=Path, default=None, help="file for the full results")
    chosen = parser.parse_args(arguments)
    tasks = [path for path in sorted(chosen.folder.iterdir()) if all((path / file).is_file() for file in FILES)]
    tasks = [path for path in tasks if chosen.tasks is None or path.name in chosen.tasks]
    if not tasks:
        print(f"{chosen.folder}: no task there; a task is a folder with {', '.join(FILES)}", file=sys.stderr)
        return 2
    results: dict[str, dict[str, Any]] = {}
    for amount in chosen.gold:
        for task in tasks:
            seeds = range(chosen.seeds) if _is_sampled(task, GOLD_ROWS[amount]) else range(1)
            outcomes = [run_task(task, gold_rows=GOLD_ROWS[amount], seed=seed) for seed in seeds]
            results.setdefault(amount, {})[task.name] = _summarize(outcomes)
            print(
                f"{amount}, {task.name}: {sum(outcomes[0].seconds.values()):.0f} s a run", file=sys.stderr, flush=True
            )
    print(format_tables(results))
    if chosen.json:
        write_json(chosen.json, results)
    return 0


def run_task(task: Path, *, gold_rows: int | None, seed: int) -> Outcome:
    """The outcome of all stages on `task`, with gold on `gold_rows` of its valid items (None: on all of them)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(task, root, gold_rows=gold_rows, seed=seed)
        seconds = {}
        for stage in STAGES:
            began = time.perf_counter()
            run_stage(root, stage)
            seconds[stage] = time.perf_counter() - began
        return Outcome(metrics=read_json(root / METRICS)["test"], seconds=seconds)


def lay_out(task: Path, root: Path, *, gold_rows: int | None, seed: int) -> None:
    """Put the files of `task` where a user would, beside params.yaml with nothing changed but names and places."""
    raw = root / "data" / "raw"
    raw.mkdir(parents=True)
    (root / "lfs").mkdir()
    _keep_gold(pl.read_parquet(task / "items.parquet"), gold_rows, seed).write_parquet(raw / "items.parquet")
    shutil.copy(task / "embeddings.npy", raw / "embeddings.npy")
    shutil.copy(task / "votes.parquet", root / "lfs" / "votes.parquet")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["classes"] = json.loads((task / "dataset.json").read_text())["classes"]
    params["ingest"]["source"] = "data/raw"
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


def _is_sampled(task: Path, gold_rows: int | None) -> bool:
    """Whether different seeds give different gold rows."""
    items = pl.read_parquet(task / "items.parquet", columns=["split", "gold"])
    valid = items.filter((pl.col("split") == "valid") & pl.col("gold").is_not_null()).height
    return gold_rows is not None and 0 < gold_rows < valid


def _summarize(outcomes: list[Outcome]) -> dict[str, Any]:
    """Means over `outcomes` of every method's test metrics, and seconds by stage."""
    methods = [name for name, value in outcomes[0].metrics.items() if isinstance(value, dict) and "accuracy" in value]
    scores = {
        method: {
            metric: fmean(found) if all(value is not None for value in found) else None
            for metric in outcomes[0].metrics[method]
            for found in [[outcome.metrics[method][metric] for outcome in outcomes if method in outcome.metrics]]
        }
        for method in methods
    }
    seconds = {stage: fmean(outcome.seconds[stage] for outcome in outcomes) for stage in outcomes[0].seconds}
    return {"runs": len(outcomes), "test": scores, "seconds": seconds}


def format_tables(results: dict[str, dict[str, Any]]) -> str:
    """One table per amount of gold: test accuracy, a row per task, a column per method."""
    parts = []
    for amount, tasks in results.items():
        methods = list(dict.fromkeys(method for outcome in tasks.values() for method in outcome["test"]))
        lines = [f"{amount}: test accuracy", f"| task | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
        for task, outcome in tasks.items():
            cells = [f"{outcome['test'][name]['accuracy']:.3f}" if name in outcome["test"] else "" for name in methods]
            lines.append(f"| {task} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
