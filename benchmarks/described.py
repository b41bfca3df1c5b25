"""`python -m benchmarks described FOLDER --model MODEL`: what a sentence per class is worth, alone and beside other LFs.

Tasks are those of `quality`, the sentences those of `benchmarks.descriptions`; MODEL is the .onnx file of the encoder that made
the tasks' embeddings, which `apply` checks. Accuracy of the shipped labels on test, without gold and with few rows of it.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import polars as pl
import yaml

from benchmarks.descriptions import DESCRIPTIONS
from benchmarks.real_tasks import FILES, lay_out
from tasks.__main__ import STAGES, run_stage
from tasks.core.types import ITEM_ID
from tasks.params_file import read_params
from tasks.tables.files import read_json, write_json
from tasks.tables.paths import DESCRIPTIONS_SUMMARY, ITEMS, SHIPPED_LABELS, WITHHELD_GOLD

WAYS = ("description", "lfs", "both")


def main(arguments: list[str]) -> int:
    """Print a line for each run, then the table; with --json write it, too."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks described", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument("--model", type=Path, required=True, help="the .onnx file, with its tokenizer.json beside it")
    parser.add_argument("--tasks", nargs="+", default=sorted(DESCRIPTIONS), choices=sorted(DESCRIPTIONS))
    parser.add_argument("--gold", nargs="+", type=int, default=[0, 10, 30, 100], help="rows of valid gold")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--seeds", type=int, default=1, help="draws of gold rows, of which the mean is shown")
    parser.add_argument("--json", type=Path, default=None, help="file for the results")
    chosen = parser.parse_args(arguments)
    results: dict[str, dict[str, float]] = {}
    for rows in chosen.gold:
        for task in chosen.tasks:
            for way in chosen.ways:
                seeds = range(chosen.seeds if rows else 1)
                found = [score_task(chosen.folder / task, chosen.model, way, rows, seed) for seed in seeds]
                results.setdefault(f"{task}, {rows} gold", {})[way] = fmean(found)
                print(f"{task}, {rows} gold, {way}: {fmean(found):.4f}", file=sys.stderr, flush=True)
    print(format_table(results, chosen.ways))
    if chosen.json:
        write_json(chosen.json, results)
    return 0


def score_task(task: Path, model: Path, way: str, rows: int, seed: int) -> float:
    """Return the accuracy on test of the labels shipped for `task`, with `rows` of valid gold."""
    if not all((task / file).is_file() for file in FILES):
        raise SystemExit(f"{task}: no task there; a task is a folder with {', '.join(FILES)}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(task, root, gold_rows=rows, seed=seed)
        (root / "models").mkdir()
        (root / "models" / "encoder").symlink_to(model.resolve().parent)
        path = root / "params.yaml"
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
        if way != "lfs":
            named = {"classes": DESCRIPTIONS[task.name], "encoder": f"models/encoder/{model.name}"}
            params["apply"]["describe"] = named
        if way == "description":
            (root / "lfs" / "votes.parquet").unlink()
            (root / "lfs" / "none.py").write_text('"""No labeling function."""\n', encoding="utf-8")
            params["apply"]["source"] = "lfs/none.py"
        path.write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True), encoding="utf-8")
        read_params(root)
        for stage in STAGES[: STAGES.index("evaluate")]:
            run_stage(root, stage)
        if (said := read_json(root / DESCRIPTIONS_SUMMARY))["lf"]:
            print(f"  {task.name}: {said['why']}", file=sys.stderr)
        return score_root(root, params["classes"])


def score_root(root: Path, classes: Sequence[str]) -> float:
    """Return the accuracy on test of the labels shipped in the project at `root`."""
    gold = pl.read_parquet(root / WITHHELD_GOLD)
    tests = pl.read_parquet(root / ITEMS, columns=[ITEM_ID, "split"]).filter(pl.col("split") == "test")
    judged = tests.join(gold, on=ITEM_ID).join(
        pl.read_parquet(root / SHIPPED_LABELS, columns=[ITEM_ID, "label"]), on=ITEM_ID
    )
    right = judged["label"] == judged["gold"].replace_strict(range(len(classes)), classes, return_dtype=pl.String)
    return float(right.sum()) / len(right)


def format_table(results: dict[str, dict[str, float]], ways: Sequence[str]) -> str:
    """Return the table, a row for each task and amount of gold; where all ways ran, with what both win over LFs."""
    is_whole = {"lfs", "both"} <= {*ways}
    head = [*ways, *(["both less LFs"] if is_whole else [])]
    lines = [f"| task | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for name, found in results.items():
        cells = [f"{found[way]:.3f}" for way in ways]
        cells += [f"{found['both'] - found['lfs']:+.3f}"] if is_whole else []
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
