"""`python -m benchmarks blocks FOLDER`: TF-IDF beside each task's embeddings, by weight, and with the weights that are proposed.

Tasks are those of `python -m benchmarks quality`, with texts. Each runs up to train for every mixture in quarters; then labels are
fitted with no gold, 100 rows (a few draws) and all of it, and weights proposed as `epoxy weigh` does, from the same gold rows or
from votes. Test gold is read here, to judge.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.few_gold import Task, draw_gold, fit_draw, judge, open_task
from benchmarks.real_tasks import find_tasks
from tasks.core.classifiers.folds import is_enough_gold
from tasks.core.classifiers.mixtures import JudgedMixtures, judge_by_gold, judge_by_votes, list_mixtures
from tasks.core.description_scores import to_units
from tasks.core.types import ABSTAIN, Float64, GoldRows
from tasks.queries.weigh import SAMPLE
from tasks.tables.files import write_json

AMOUNTS = {"no gold": 0, "100 gold": 100, "all gold": 10**9}


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write all that was measured; 2 without a task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks blocks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--draws", type=int, default=2, help="draws of 100 gold rows (default 2)")
    parser.add_argument("--json", type=Path, default=None, help="file for all that was measured")
    chosen = parser.parse_args(arguments)
    paths = find_tasks(chosen.folder, chosen.tasks)
    if not paths:
        return 2
    results = {}
    for path in paths:
        results[path.name] = measure_task(path, chosen.draws)
        print(f"{path.name}: done", file=sys.stderr, flush=True)
    print(format_table(results))
    if chosen.json:
        write_json(chosen.json, results)
    return 0


def measure_task(path: Path, draws: int) -> dict[str, list[dict[str, float]]]:
    """Return by amount of gold and draw the test accuracy of each mixture, named by the weight of the task's embeddings, and
    `chosen`, the weight that is proposed.
    """
    found: dict[str, list[dict[str, float]]] = {}
    width = np.load(path / "embeddings.npy", mmap_mode="r").shape[1]
    for weights in list_mixtures(2):
        with open_task(path, ingest=write_ingest(weights)) as task:
            for name, amount in AMOUNTS.items():
                for seed in range(draws if name == "100 gold" else 1):
                    gold = draw_gold(task, amount, seed)
                    cells = found.setdefault(name, [])
                    if seed == len(cells):
                        cells.append({})
                    cells[seed][f"{weights[0]:.2f}"] = judge(task, fit_draw(task, gold, {}))
                    if weights[0] == 0.5:
                        judged = propose(task, gold, width)
                        cells[seed]["chosen"] = 0.5 if judged is None else float(judged.weights[judged.best][0])
    return found


def write_ingest(weights: Float64) -> dict[str, object]:
    """Return the section `ingest` of params with the task's embeddings and TF-IDF by `weights` (2,); a weight of 0 leaves out."""
    own = {"embeddings": "embeddings.npy", "embedding_ids": "items.parquet"}
    blocks = {"own": own, "words": {"encoder": "tfidf"}}
    kept = {name: {**block, "weight": float(w)} for (name, block), w in zip(blocks.items(), weights, strict=True) if w}
    return {"source": "data/raw", "items": "items.parquet", "blocks": kept}


def propose(task: Task, gold: GoldRows | None, width: int) -> JudgedMixtures | None:
    """Return the mixtures as `epoxy weigh` judges them; `task` has two blocks of equal weight, the first of `width` columns."""
    is_by_gold = gold is not None and is_enough_gold(gold)
    L = task.inputs.votes
    may_judge = gold.rows if gold is not None and is_by_gold else np.flatnonzero((L != ABSTAIN).any(axis=1))
    order = np.random.default_rng(0).permutation(len(may_judge))[:SAMPLE]
    rows = may_judge[np.sort(order)]
    points = task.inputs.points.vectors[rows]
    blocks = [to_units(points[:, :width]).astype(np.float32), to_units(points[:, width:]).astype(np.float32)]
    if gold is not None and is_by_gold:
        return judge_by_gold(blocks, gold.classes[np.sort(order)], task.k)
    return judge_by_votes(blocks, L[rows], task.k)


def format_table(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Return the table: a row per task and amount of gold, means over draws; the weight in brackets is the proposed one."""
    lines = ["| task, gold | its embeddings | TF-IDF | both, equal weight | weights as proposed |", "|---" * 5 + "|"]
    for task, amounts in results.items():
        for amount, draws in amounts.items():
            shown = [fmean(draw[weight] for draw in draws) for weight in ("1.00", "0.00", "0.50")]
            chosen = fmean(draw[f"{draw['chosen']:.2f}"] for draw in draws)
            by = ", ".join(f"{draw['chosen']:.2f}" for draw in draws)
            lines.append(
                f"| {task}, {amount} | {' | '.join(f'{value:.3f}' for value in shown)} | {chosen:.3f} ({by}) |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
