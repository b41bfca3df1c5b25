"""`python -m benchmarks ask FOLDER`: how many calls to a language model are worth asking about every item.

In place of the model somebody who knows gold answers, and is right so often as stated; else it names one of the other classes,
each as likely. Tasks are those of `quality`, of which items with gold are used alone: some may be asked about, the others are
test. No gold is given to the pipeline. Items to ask about are chosen by `tasks.core.cover`, or at random as a control. Ways: see WAYS.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from benchmarks.real_tasks import find_tasks, lay_out
from tasks import train
from tasks.__main__ import run_stage
from tasks.core.cover import choose_cover
from tasks.core.ties import score_labels
from tasks.core.types import ABSTAIN, ITEM_ID, Bool, Float32, Int8, Int64
from tasks.params_file import read_params
from tasks.tables.files import write_json
from tasks.tables.paths import END_MODEL_SUMMARY

WAYS = ("alone", "estimated", "beside", "balanced")
"""Answers alone with the class balance that they have, or that train estimates; beside the task's LFs, balance likewise estimated,
or that of the answers."""


CHOICES = ("cover", "random", "mixed")

FIRST = 50
"""Items that a mixed choice takes from the cover."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """A task laid out at `root` and indexed: gold (n,), is_test (n,), unit vectors (n, d) and the LFs' votes, all by item."""

    root: Path
    k: int
    items: pl.DataFrame
    gold: Int64
    is_test: Bool
    units: Float32
    votes: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class Result:
    """Accuracy of the shipped labels on test, after `calls` answers about items chosen by `choice`, of `pool` there are."""

    task: str
    way: str
    right: float
    choice: str
    calls: int
    pool: int
    accuracy: float


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write all accuracies; 2 without a task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ask", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder with one folder per task")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--right", nargs="+", type=float, default=[0.9, 0.8, 0.7], help="how often an answer is right")
    parser.add_argument(
        "--calls", nargs="+", type=int, default=[25, 50, 100, 200], help="numbers of calls, besides all"
    )
    parser.add_argument("--ways", nargs="+", default=["alone", "beside"], choices=WAYS)
    parser.add_argument("--choices", nargs="+", default=["cover", "random"], choices=CHOICES)
    parser.add_argument("--pool", type=int, default=600, help="most items to ask about, and most to test on")
    parser.add_argument("--seeds", type=int, default=1, help="draws of answers and of random items")
    parser.add_argument("--json", type=Path, default=None, help="file for all accuracies")
    chosen = parser.parse_args(arguments)
    paths = find_tasks(chosen.folder, chosen.tasks)
    if not paths:
        return 2
    results: list[Result] = []
    for path in paths:
        with open_pool(path, chosen.pool) as pool:
            for way in chosen.ways:
                for right in chosen.right:
                    for result in measure(pool, path.name, way, right, chosen.calls, chosen.choices, chosen.seeds):
                        results.append(result)
                        print(json.dumps(asdict(result)), file=sys.stderr, flush=True)
                        if chosen.json:
                            write_json(chosen.json, [asdict(one) for one in results])
    print(format_table(results))
    return 0


@contextmanager
def open_pool(path: Path, most: int) -> Iterator[Pool]:
    """The task at `path` in a folder of its own, with at most `most` items to ask about and at most as many to test on."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(path, root, gold_rows=None, seed=0)
        raw = root / "data" / "raw"
        items = pl.read_parquet(raw / "items.parquet")
        known = np.random.default_rng(0).permutation(np.flatnonzero(items["gold"].is_not_null().to_numpy()))
        asked = min(most, len(known) * 2 // 3)
        rows = np.sort(known[: asked + most])
        is_test = np.isin(rows, known[asked:])
        kept = items[rows].with_columns(split=pl.Series(np.where(is_test, "test", "train")))
        classes = read_params(root).classes
        gold = [classes.index(one) if isinstance(one, str) else int(one) for one in kept["gold"]]
        kept.drop("gold").write_parquet(raw / "items.parquet")
        vectors = np.load(raw / "embeddings.npy")[rows]
        np.save(raw / "embeddings.npy", vectors)
        votes = pl.read_parquet(root / "lfs" / "votes.parquet")
        for stage in ("ingest", "gold", "index"):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run_stage(root, stage)
        (root / END_MODEL_SUMMARY).parent.mkdir(parents=True, exist_ok=True)
        units = vectors.astype(np.float32)
        units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        yield Pool(
            root=root,
            k=len(classes),
            items=kept.select(ITEM_ID),
            gold=np.array(gold, dtype=np.int64),
            is_test=is_test,
            units=units,
            votes=kept.select(ITEM_ID).join(votes, on=ITEM_ID, how="left", maintain_order="left"),
        )


def measure(
    pool: Pool, task: str, way: str, right: float, amounts: list[int], choices: list[str], seeds: int
) -> Iterator[Result]:
    """Yield the accuracies after `amounts` of calls and after a call for every item; beside LFs also without any."""
    rows = np.flatnonzero(~pool.is_test)
    for seed in range(seeds):
        answers = draw_answers(pool, right, seed)
        plans = [("all", len(rows)), *([("none", 0)] if way == "beside" and right == 0.9 else [])]
        plans += [(choice, amount) for amount in amounts if amount < len(rows) for choice in choices]
        for choice, amount in plans:
            found = choose(pool.units[rows], choice, amount, seed)
            votes = np.full(len(answers), ABSTAIN, np.int8)
            votes[rows[found]] = answers[rows[found]]
            accuracy = score(pool, votes, way)
            yield Result(
                task=task, way=way, right=right, choice=choice, calls=amount, pool=len(rows), accuracy=accuracy
            )


def choose(units: Float32, choice: str, amount: int, seed: int) -> Int64:
    """Return `amount` rows by a cover, at random, or (mixed) the first `FIRST` by a cover and others at random."""
    covered = 0 if choice == "random" else min(amount, FIRST) if choice == "mixed" else amount
    first = choose_cover(units, covered, np.empty(0, np.int64)) if covered else np.empty(0, np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(units))
    return np.concatenate([first, shuffled[~np.isin(shuffled, first)][: amount - covered]])


def draw_answers(pool: Pool, right: float, seed: int) -> Int8:
    """What somebody answers about each item who is right with probability `right`, and else names another class."""
    draws = np.random.default_rng([seed, round(1000 * right)])
    is_right = draws.random(len(pool.gold)) < right
    others = (pool.gold + draws.integers(1, pool.k, len(pool.gold))) % pool.k
    return np.where(is_right, pool.gold, others).astype(np.int8)


def score(pool: Pool, answers: Int8, way: str) -> float:
    """The accuracy on test of the labels that the pipeline ships with these `answers` (n,), -1 where nobody was asked."""
    votes = pool.items.with_columns(pl.Series("model", answers))
    if way in ("beside", "balanced"):
        votes = votes.join(pool.votes, on=ITEM_ID, maintain_order="left")
        votes = votes if (answers != ABSTAIN).any() else votes.drop("model")
    votes.write_parquet(pool.root / "lfs" / "votes.parquet")
    params = yaml.safe_load((pool.root / "params.yaml").read_text(encoding="utf-8"))
    balance = [float(share) for share in _share(answers, pool.k)] if way in ("alone", "balanced") else "estimated"
    params["train"]["class_balance"] = balance
    (pool.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for stage in ("apply", "search"):
            run_stage(pool.root, stage)
        known = read_params(pool.root).train
        inputs = train.read_inputs(pool.root, pool.k, known)
        fitted = train.fit_labels(inputs, train.gather_evidence(pool.root, inputs, pool.k, known), pool.k, known)
    rows = inputs.items.select(ITEM_ID).with_row_index("row")
    at = pool.items.join(rows, on=ITEM_ID, maintain_order="left")["row"].to_numpy().astype(np.int64)[pool.is_test]
    return float(score_labels(fitted.posterior[at], pool.gold[pool.is_test]).mean())


def _share(answers: Int8, k: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The share of each class among answers, one of each added."""
    counts = np.bincount(answers[answers != ABSTAIN], minlength=k) + 1.0
    return np.asarray(counts / counts.sum())


def format_table(results: list[Result]) -> str:
    """Return the table: a row for each task, way and share of right answers; a column for each number of calls."""
    columns = sorted({(one.calls, one.choice) for one in results if one.choice in CHOICES})
    head = ["task", "way", "right", "none", *(f"{calls}, {choice}" for calls, choice in columns), "all"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for task, way, right in dict.fromkeys((one.task, one.way, one.right) for one in results):
        mine = [one for one in results if (one.task, one.way, one.right) == (task, way, right)]
        cells = [_show([one.accuracy for one in mine if one.choice == "none"])]
        cells += [_show([one.accuracy for one in mine if (one.calls, one.choice) == column]) for column in columns]
        everything = [one for one in mine if one.choice == "all"]
        cells += [f"{_show([one.accuracy for one in everything])} ({everything[0].pool})" if everything else ""]
        lines.append(f"| {task} | {way} | {right:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _show(values: list[float]) -> str:
    return f"{np.mean(values):.3f}" if values else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
