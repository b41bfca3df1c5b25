"""`python -m benchmarks next FOLDER`: whether gold on the items that `epoxy next` chooses is worth more than on random ones.

Tasks are those of `python -m benchmarks quality`. The items that may be chosen are those of valid; the choice is made without
any gold, in a batch, and the labels are then fitted with the gold of the first so many, as train does. Test gold is read here,
to judge.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import get_args

import numpy as np
import polars as pl

from benchmarks.few_gold import Task, fit_draw, open_task
from benchmarks.real_tasks import find_tasks, lay_out
from tasks.__main__ import STAGES, run_stage
from tasks.core.classifiers.student import Student
from tasks.core.ties import score_labels
from tasks.core.types import GoldRows, Int64
from tasks.queries.next_items import Strategy, choose_next
from tasks.queries.project_data import ProjectData
from tasks.tables.files import write_json

MOST_LOSS = 0.005
"""What a default strategy may lose against random on average over draws, on any task with any number of items."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Test accuracy of the shipped labels, seed by seed."""

    task: str
    items: int
    strategy: str
    accuracy: list[float]


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write all accuracies; 2 without a task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks next", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument("--items", nargs="+", type=int, default=[50, 100, 200], help="numbers of chosen items")
    parser.add_argument("--seeds", type=int, default=20, help="choices of so many items (default 20)")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--json", type=Path, default=None, help="file for all accuracies")
    chosen = parser.parse_args(arguments)
    paths = find_tasks(chosen.folder, chosen.tasks)
    if not paths:
        return 2
    results = []
    for path in paths:
        results += measure_task(path, chosen.items, chosen.seeds)
        if chosen.json:
            write_json(chosen.json, [asdict(result) for result in results])
        print(f"{path.name}: done", file=sys.stderr, flush=True)
    print(format_table(results))
    return 0


def measure_task(path: Path, amounts: list[int], seeds: int) -> list[Result]:
    """Return the accuracies of the task at `path` by strategy and number of items, those with fewer than valid has."""
    results = []
    with tempfile.TemporaryDirectory() as folder, open_task(path) as task:
        root = Path(folder)
        lay_out(path, root, gold_rows=0, seed=0)
        stages = list(STAGES)
        for stage in stages[: stages.index("train") + 1]:
            run_stage(root, stage)
        data = ProjectData(root)
        there = 0 if task.inputs.gold is None else len(task.inputs.gold.rows)
        kept = [amount for amount in amounts if amount < there]
        students: dict[bytes, Student] = {}
        for strategy in get_args(Strategy):
            orders = [_choose(data, task, max(kept, default=0), strategy, seed) for seed in range(seeds)]
            for amount in kept:
                accuracy = [_judge(task, order[:amount], students) for order in orders]
                results.append(Result(task=path.name, items=amount, strategy=strategy, accuracy=accuracy))
    return results


def _choose(data: ProjectData, task: Task, count: int, strategy: Strategy, seed: int) -> Int64:
    """Return the rows of the items of valid with gold that `strategy` chooses, in that order."""
    assert task.inputs.gold is not None
    ids = data.ids()
    may = np.zeros(len(ids), dtype=np.bool_)
    may[task.inputs.gold.rows] = True
    others = frozenset(ids.cast(pl.String).filter(~may).to_list())
    return data.find_rows(choose_next(data, count=count, strategy=strategy, seed=seed, exclude=others).rows["item_id"])


def _judge(task: Task, rows: Int64, students: dict[bytes, Student]) -> float:
    gold = task.inputs.gold
    assert gold is not None
    rows = np.sort(rows)
    taught = GoldRows(rows=rows, classes=gold.classes[np.searchsorted(gold.rows, rows)])
    fitted = fit_draw(task, taught, students)
    return float(score_labels(fitted.posterior[task.tests], task.test_gold).mean())


def format_table(results: list[Result]) -> str:
    """Return a row per task and number of items: random; of each other strategy the gain, and that of half as many items,
    with their standard errors.
    """
    others = [strategy for strategy in get_args(Strategy) if strategy != "random"]
    heads = [head for strategy in others for head in (strategy, f"half as many {strategy}")]
    lines = [f"| task | items | random | {' | '.join(heads)} |", "|---" * (3 + len(heads)) + "|"]
    found = {(result.task, result.items, result.strategy): result.accuracy for result in results}
    for random in results:
        if random.strategy != "random":
            continue
        shown = []
        for strategy in others:
            gains = _subtract(found[random.task, random.items, strategy], random.accuracy)
            shown.append(_format_gains(gains) + ("!" if fmean(gains) < -MOST_LOSS else ""))
            half = found.get((random.task, random.items // 2, strategy))
            shown.append("" if half is None else _format_gains(_subtract(half, random.accuracy)))
        lines.append(f"| {random.task} | {random.items} | {fmean(random.accuracy):.3f} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _subtract(accuracy: list[float], other: list[float]) -> list[float]:
    return [a - b for a, b in zip(accuracy, other, strict=True)]


def _format_gains(gains: list[float]) -> str:
    error = f" ± {stdev(gains) / len(gains) ** 0.5:.3f}" if len(gains) > 1 else ""
    return f"{fmean(gains):+.3f}{error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
