"""`python -m benchmarks many`: processor seconds of every stage where classes, LFs or dimensions are many and items few.

Items of k classes, their sizes falling like 1 / sqrt(rank), lie around class centers with noise. Each LF votes for a
class of its turn, on a third of that class's items and, once in five of its votes, on others. 60 % of the items are
train, 20 % valid, 20 % test; `--gold` gives valid its gold to the pipeline, else only test has any.

`--part` names what is measured: `classes` (77 classes, 335 LFs, 13,083 items), `lfs` (1,000 LFs of two classes on 600
items), `dimensions` (60 items of 3,072 and of 8,000), or `growth`, which doubles classes and LFs of a smaller task one
after the other. Seconds are those of the processor, user and system, which other work on the machine moves less than
seconds on the clock; labels that each stage leaves are hashed, so that two versions of the code can be compared.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from tasks.__main__ import STAGES
from tasks.core.types import ITEM_ID
from tasks.tables.paths import LABEL_MODEL_LABELS, SHIPPED_LABELS

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Task:
    """The size of a drawn task: k classes, m LFs, n items of d dimensions."""

    k: int
    m: int
    n: int
    d: int


PARTS = {
    "classes": (Task(k=77, m=335, n=13_083, d=384),),
    "lfs": (Task(k=2, m=1_000, n=600, d=384),),
    "dimensions": (Task(k=2, m=10, n=60, d=3_072), Task(k=2, m=10, n=60, d=8_000)),
    "growth": (
        Task(k=10, m=80, n=4_000, d=64),
        Task(k=20, m=80, n=4_000, d=64),
        Task(k=40, m=80, n=4_000, d=64),
        Task(k=80, m=80, n=4_000, d=64),
        Task(k=10, m=160, n=4_000, d=64),
        Task(k=10, m=320, n=4_000, d=64),
    ),
}


def main(arguments: list[str]) -> int:
    """0 after printing a table and writing JSON; 1 if a stage failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks many", description=__doc__)
    parser.add_argument("--part", choices=list(PARTS), nargs="+", default=["classes", "lfs", "dimensions"])
    parser.add_argument("--items", type=int, help="items of each task, instead of the part's")
    parser.add_argument("--gold", action="store_true", help="valid has gold")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to run")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    tasks = [task for part in options.part for task in PARTS[part]]
    results = []
    for task in tasks:
        task = task if options.items is None else replace(task, n=options.items)
        with tempfile.TemporaryDirectory() as folder:
            draw_task(Path(folder), task, has_gold=options.gold)
            results.append(measure_task(Path(folder), task, STAGES[: STAGES.index(options.until) + 1]))
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(tabulate(results))
    return int(any(result["exit_code"] for result in results))


def draw_task(root: Path, task: Task, *, has_gold: bool) -> None:
    """Write raw items, embeddings and votes of `task`, and params, to the folder `root`."""
    rng = np.random.default_rng(0)
    weights = 1 / np.sqrt(np.arange(1, task.k + 1))
    label = rng.choice(task.k, task.n, p=weights / weights.sum())
    # Noise of the same length whatever the dimensions, so that classes are as far apart.
    centers = rng.standard_normal((task.k, task.d)) / np.sqrt(task.d)
    embeddings = centers[label] + 1.6 * rng.standard_normal((task.n, task.d)) / np.sqrt(task.d)
    votes = np.full((task.n, task.m), -1, np.int8)
    for lf in range(task.m):
        voted = lf % task.k
        of_class = label == voted
        share = of_class.mean()
        # A fifth of its votes is wrong.
        errors = min(0.25 * share / (3 * max(1 - share, 1e-9)), 1)
        votes[rng.random(task.n) < np.where(of_class, 1 / 3, errors), lf] = voted
    split = rng.choice(["train", "valid", "test"], task.n, p=[0.6, 0.2, 0.2])
    names = [f"class_{number:02}" for number in range(task.k)]
    shown = ["test", "valid"] if has_gold else ["test"]
    items = pl.DataFrame({ITEM_ID: np.arange(task.n), "split": split, "gold": np.array(names)[label]})
    raw = root / "data/raw"
    raw.mkdir(parents=True)
    items.with_columns(gold=pl.when(pl.col("split").is_in(shown)).then("gold")).write_parquet(raw / "items.parquet")
    np.save(raw / "embeddings.npy", embeddings.astype(np.float32))
    (root / "lfs").mkdir()
    columns = {f"lf_{lf:04}": votes[:, lf] for lf in range(task.m)}
    pl.DataFrame({ITEM_ID: np.arange(task.n), **columns}).write_parquet(root / "lfs/votes.parquet")
    params = yaml.safe_load((_ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["classes"] = names
    params["ingest"] |= {"source": "data/raw", "embeddings": "embeddings.npy", "embedding_ids": "items.parquet"}
    params["apply"]["source"] = "lfs/votes.parquet"
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def measure_task(root: Path, task: Task, stages: tuple[str, ...]) -> dict[str, Any]:
    """Processor seconds by stage, the exit code, and digests of the labels of fit and of train."""
    seconds: dict[str, float] = {}
    code = 0
    for stage in stages:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks", stage],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = process.stderr.read()
        # wait4 tells of this process alone; RUSAGE_CHILDREN would add up all so far.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        seconds[stage] = round(usage.ru_utime + usage.ru_stime, 2)
        print(f"{task}: {stage} {seconds[stage]} s", file=sys.stderr, flush=True)
        if code:
            print(said, file=sys.stderr)
            break
    labels = {
        path.parent.name: hashlib.sha256("\n".join(pl.read_parquet(root / path)["label"]).encode()).hexdigest()[:16]
        for path in (LABEL_MODEL_LABELS, SHIPPED_LABELS)
        if (root / path).is_file()
    }
    return {**asdict(task), "cores": os.cpu_count(), "seconds": seconds, "exit_code": code, "labels": labels}


def tabulate(results: list[dict[str, Any]]) -> str:
    """Processor seconds as a table in Markdown, a row per task."""
    stages = list(dict.fromkeys(stage for result in results for stage in result["seconds"]))
    head = ["classes", "LFs", "items", "dimensions", *stages, "all"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for result in results:
        sizes = [f"{result[name]:,}" for name in ("k", "m", "n", "d")]
        cells = [f"{result['seconds'][stage]:.1f}" if stage in result["seconds"] else "" for stage in stages]
        total = f"{sum(result['seconds'].values()):.1f}"
        lines.append(f"| {' | '.join([*sizes, *cells, total])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
