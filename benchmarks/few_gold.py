"""`python -m benchmarks few_gold FOLDER`: how good the shipped labels are with a few gold rows, against none at all.

Tasks are those of `python -m benchmarks quality`. What gold has no part in (all up to train, and what train learns from votes
and embeddings) is worked out once for a task; then each draw of gold rows fits the labels anew, as train does. Test gold
is read here, to judge.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import polars as pl

from benchmarks.real_tasks import find_tasks, lay_out
from tasks import train
from tasks.__main__ import STAGES, run_stage
from tasks.core.classifiers.softmax import predict_log_proba
from tasks.core.classifiers.student import Student
from tasks.core.ties import score_labels
from tasks.core.types import ITEM_ID, GoldRows, Int64
from tasks.params import TrainParams
from tasks.params_file import read_params
from tasks.tables.files import write_json
from tasks.tables.paths import END_MODEL_SUMMARY, WITHHELD_GOLD

MEAN_LOSS, WORST_LOSS = 0.005, 0.02
"""What few rows may cost against none at most: on average over draws, and in a single draw."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task up to train. inputs: with all gold of valid. tests, test_gold: rows of test that have gold, and their classes."""

    k: int
    params: TrainParams
    inputs: train.Inputs
    evidence: train.Evidence
    tests: Int64
    test_gold: Int64


@dataclass(frozen=True, kw_only=True)
class Result:
    """Test accuracy of the shipped labels, draw by draw."""

    task: str
    gold_rows: int
    accuracy: list[float]


def main(arguments: list[str]) -> int:
    """Print the tables and, with --json, write all accuracies; 1 if few rows are worse than none, 2 without a task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks few_gold", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument(
        "--gold", nargs="+", type=int, default=[5, 10, 20, 30, 50, 75, 100], help="numbers of gold rows"
    )
    parser.add_argument("--draws", type=int, default=8, help="draws of so many gold rows (default 8)")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--json", type=Path, default=None, help="file for all accuracies")
    chosen = parser.parse_args(arguments)
    paths = find_tasks(chosen.folder, chosen.tasks)
    if not paths:
        return 2
    results = []
    for path in paths:
        results += measure_task(path, [0, *chosen.gold], chosen.draws)
        print(f"{path.name}: done", file=sys.stderr, flush=True)
    print(format_table(results))
    if chosen.json:
        write_json(chosen.json, [asdict(result) for result in results])
    return 1 if find_losses(results) else 0


def measure_task(path: Path, amounts: list[int], draws: int) -> list[Result]:
    """Return the accuracies of the task at `path` by number of gold rows; 0 is no gold, and more than there is, all."""
    results = []
    with open_task(path) as task:
        students: dict[bytes, Student] = {}
        gold = task.inputs.gold
        there = 0 if gold is None else len(gold.rows)
        for amount in dict.fromkeys(min(amount, there) for amount in amounts):
            seeds = range(draws if 0 < amount < there else 1)
            accuracy = [judge(task, fit_draw(task, draw_gold(task, amount, seed), students)) for seed in seeds]
            results.append(Result(task=path.name, gold_rows=amount, accuracy=accuracy))
    return results


@contextmanager
def open_task(path: Path, ingest: Mapping[str, object] | None = None) -> Iterator[Task]:
    """The task at `path`, run up to train in a folder of its own that is there as long as the context.

    ingest: that section of params; None for the task's embeddings.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(path, root, gold_rows=None, seed=0, ingest=ingest)
        stages = list(STAGES)
        for stage in stages[: stages.index("search") + 1]:
            run_stage(root, stage)
        params = read_params(root)
        k = len(params.classes)
        (root / END_MODEL_SUMMARY).parent.mkdir(parents=True)
        inputs = train.read_inputs(root, k, params.train)
        evidence = train.gather_evidence(root, inputs, k, params.train)
        withheld = pl.read_parquet(root / WITHHELD_GOLD)
        rows = inputs.items.select(ITEM_ID).with_row_index("row")
        items = pl.read_parquet(path / "items.parquet", columns=[ITEM_ID, "split"]).filter(pl.col("split") == "test")
        tests = rows.join(items, on=ITEM_ID, maintain_order="left").join(withheld, on=ITEM_ID, maintain_order="left")
        yield Task(
            k=k,
            params=params.train,
            inputs=inputs,
            evidence=evidence,
            tests=tests["row"].to_numpy().astype(np.int64),
            test_gold=tests["gold"].to_numpy().astype(np.int64),
        )


def draw_gold(task: Task, amount: int, seed: int) -> GoldRows | None:
    """Return `amount` gold rows of valid, drawn with `seed`; with the same seed, more rows contain the fewer."""
    gold = task.inputs.gold
    if gold is None or amount == 0:
        return None
    drawn = np.sort(np.random.default_rng(seed).permutation(len(gold.rows))[:amount])
    return GoldRows(rows=gold.rows[drawn], classes=gold.classes[drawn])


def fit_draw(task: Task, gold: GoldRows | None, students: dict[bytes, Student]) -> train.FittedLabels:
    """Return the labels that train fits with `gold`; a student is fitted once per class balance and kept in `students`."""
    inputs = replace(task.inputs, gold=gold)
    balance = train.find_balance(task.evidence.head, inputs, task.k, task.params)
    key = balance.tobytes()
    fitted = train.fit_labels(inputs, task.evidence, task.k, task.params, students.get(key))
    if key not in students:
        end = fitted.end.parameters
        raw = predict_log_proba(end.student, task.evidence.features)
        students[key] = Student(regression=end.student, raw=raw, confidence=end.confidence)
    return fitted


def judge(task: Task, fitted: train.FittedLabels) -> float:
    """Return the accuracy of the labels on test."""
    return float(score_labels(fitted.posterior[task.tests], task.test_gold).mean())


def find_losses(results: list[Result]) -> list[Result]:
    """Return the results that are worse than none by more than `MEAN_LOSS` on average or `WORST_LOSS` in a draw."""
    without = {result.task: result.accuracy[0] for result in results if result.gold_rows == 0}
    return [
        result
        for result in results
        if fmean(result.accuracy) < without[result.task] - MEAN_LOSS
        or min(result.accuracy) < without[result.task] - WORST_LOSS
    ]


def format_table(results: list[Result]) -> str:
    """Return the table: a row per task, a column per number of gold rows, the mean over draws and the worst of them."""
    amounts = sorted({result.gold_rows for result in results})
    lines = [f"| task | {' | '.join(map(str, amounts))} |", "|---" * (len(amounts) + 1) + "|"]
    losses = find_losses(results)
    for task in dict.fromkeys(result.task for result in results):
        shown = []
        for amount in amounts:
            found = [result for result in results if result.task == task and result.gold_rows == amount]
            values = "".join(f"{fmean(result.accuracy):.3f}" for result in found)
            worst = "".join(f" ({min(result.accuracy):.3f})" for result in found if len(result.accuracy) > 1)
            shown.append(values + worst + ("!" if found and found[0] in losses else ""))
        lines.append(f"| {task} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
