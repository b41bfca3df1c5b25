"""`python -m benchmarks.quality FOLDER`: the pipeline's labels on every task below FOLDER, with less and less gold.

Each task is a folder with items.parquet (item_id, split, gold), votes.parquet, embeddings.npy and dataset.json (its
`classes`), and runs through the real stages with the project's own params.yaml: one set of defaults for all tasks.
Three amounts of valid gold: all of it, 100 rows (drawn with several seeds; the mean is shown), none. Among the stages
evaluate alone reads test gold; after it, standard errors and paired differences are worked out here from the same rows.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl

from benchmarks.real_tasks import find_tasks, lay_out
from tasks.__main__ import STAGES, run_stage
from tasks.core.ties import score_labels
from tasks.core.types import ITEM_ID, Float64
from tasks.report.evaluation import BASELINE
from tasks.tables.files import read_json, write_json
from tasks.tables.paths import END_MODEL_PREDICTIONS, ITEMS, LABEL_MODEL_PREDICTIONS, METRICS, WITHHELD_GOLD

GOLD_ROWS = {"all gold": None, "100 gold": 100, "no gold": 0}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run of the pipeline: what evaluate wrote about the test split, hits by method and test item, seconds by stage."""

    metrics: dict[str, Any]
    hits: dict[str, Float64]
    seconds: dict[str, float]


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write all that was measured."""
    if arguments[:2] == ["--only", "described"]:
        from benchmarks import described  # only where it is asked for: it loads an encoder

        return described.main(arguments[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument("--seeds", type=int, default=5, help="how many draws of 100 gold rows (default 5)")
    parser.add_argument("--gold", nargs="+", choices=list(GOLD_ROWS), default=list(GOLD_ROWS), help="amounts of gold")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--tfidf", action="store_true", help="with `encoder: tfidf` instead of the task's embeddings")
    parser.add_argument("--json", type=Path, default=None, help="file for the full results")
    chosen = parser.parse_args(arguments)
    tasks = find_tasks(chosen.folder, chosen.tasks)
    if not tasks:
        return 2
    results: dict[str, dict[str, Any]] = {}
    for amount in chosen.gold:
        for task in tasks:
            seeds = range(chosen.seeds) if _is_sampled(task, GOLD_ROWS[amount]) else range(1)
            outcomes = [run_task(task, gold_rows=GOLD_ROWS[amount], seed=seed, is_tfidf=chosen.tfidf) for seed in seeds]
            results.setdefault(amount, {})[task.name] = _summarize(outcomes)
            print(
                f"{amount}, {task.name}: {sum(outcomes[0].seconds.values()):.0f} s a run", file=sys.stderr, flush=True
            )
    print(format_tables(results))
    if chosen.json:
        write_json(chosen.json, results)
    return 0


def run_task(task: Path, *, gold_rows: int | None, seed: int, is_tfidf: bool = False) -> Outcome:
    """The outcome of all stages on `task`, with gold on `gold_rows` of its valid items (None: on all of them)."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(task, root, gold_rows=gold_rows, seed=seed, is_tfidf=is_tfidf)
        seconds = {}
        for stage in STAGES:
            began = time.perf_counter()
            run_stage(root, stage)
            seconds[stage] = time.perf_counter() - began
        return Outcome(metrics=read_json(root / METRICS)["test"], hits=_score_items(root), seconds=seconds)


def _score_items(root: Path) -> dict[str, Float64]:
    """Return by method, for each test item with gold, whether its label is right, ties split evenly."""
    gold = pl.read_parquet(root / WITHHELD_GOLD)
    tests = pl.read_parquet(root / ITEMS, columns=[ITEM_ID, "split"]).filter(pl.col("split") == "test")
    judged = tests.join(gold, on=ITEM_ID, how="inner", maintain_order="left")
    hits = {}
    for path in (LABEL_MODEL_PREDICTIONS, END_MODEL_PREDICTIONS):
        table = judged.join(pl.read_parquet(root / path), on=ITEM_ID, how="left", maintain_order="left")
        for method in dict.fromkeys(name.rpartition("/")[0] for name in table.columns if "/" in name):
            probabilities = table.select(pl.col(f"^{method}/.*$")).to_numpy()
            hits[method] = score_labels(probabilities, judged["gold"].to_numpy().astype(np.int64))
    return hits


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
    hits = {
        method: np.mean([outcome.hits[method] for outcome in outcomes if method in outcome.hits], axis=0)
        for method in outcomes[0].hits
    }
    best = max(hits, key=lambda method: float(hits[method].mean()))
    for method, found in hits.items():
        scores.setdefault(method, {})["standard_error"] = _find_error(found)
        for name, other in (("majority_vote", hits[BASELINE]), ("best", hits[best])):
            difference = found - other
            scores[method][f"to_{name}"] = float(difference.mean())
            scores[method][f"to_{name}_error"] = _find_error(difference)
    return {"runs": len(outcomes), "best": best, "test": scores, "seconds": seconds}


def _find_error(values: Float64) -> float:
    """Return the standard error of the mean of values per item."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def format_tables(results: dict[str, dict[str, Any]]) -> str:
    """Return tables per amount of gold, a row per task and one of means, a column per method.

    Accuracy with its standard error, macro F1, and the paired differences in accuracy from majority vote and from the
    best method of the task, with their standard errors; the means are over tasks that have the method.
    """
    parts = []
    for amount, tasks in results.items():
        methods = list(dict.fromkeys(method for found in tasks.values() for method in found["test"]))
        for title, value, error in (
            ("test accuracy", "accuracy", "standard_error"),
            ("macro F1", "macro_f1", None),
            ("accuracy less that of majority vote", "to_majority_vote", "to_majority_vote_error"),
            ("accuracy less that of the best", "to_best", "to_best_error"),
        ):
            lines = [f"{amount}: {title}", f"| task | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
            for task, found in tasks.items():
                scores = [found["test"].get(method, {}) for method in methods]
                lines.append(f"| {task} | {' | '.join(_show(shown, value, error) for shown in scores)} |")
            columns = [
                [found["test"][method][value] for found in tasks.values() if value in found["test"].get(method, {})]
                for method in methods
            ]
            means = [f"{fmean(column):.3f}" if column and None not in column else "" for column in columns]
            lines.append(f"| mean | {' | '.join(means)} |")
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _show(scores: dict[str, float | None], value: str, error: str | None) -> str:
    """Return a score with its standard error; nothing where it is not known."""
    shown = scores.get(value)
    if shown is None:
        return ""
    return f"{shown:.3f}" if error is None or error not in scores else f"{shown:.3f} ± {scores[error]:.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
