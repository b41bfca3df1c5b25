"""`python -m benchmarks classes`: made-up tasks of many classes, and of a rare one, without gold that would tell.

*Many classes.* Sizes fall like 1 / rank; items lie around class centers in 64 dimensions, with noise, and have unit length. Each
labeling function (LF) votes for any class: as often as it says for the right one, otherwise for one that is drawn by size. Beside the shipped
labels are those of majority vote, and of logistic regression on the embeddings that learns from the votes.

*A rare class.* One item in a hundred is of the second class; four LFs vote on half of the items each, right nine times in ten. The
gold of valid, a hundred rows, is all of the first class. With the folder of the task `sms`, the same is made of it, by thinning
its second class.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import polars as pl

from benchmarks.copies import label_items, score, write_task
from tasks.core.classifiers.softmax import fit_softmax_regression, predict_log_proba
from tasks.core.label_models.majority import MajorityVote
from tasks.core.ties import score_labels
from tasks.core.types import ABSTAIN, ITEM_ID, Float32, Int64, Votes
from tasks.tables.files import write_json

RARE = 0.01
GOLD_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Many:
    """A made-up task: k classes, n items, and `lfs` LFs that vote on the share `covers` and are right in the share `right` of it."""

    k: int
    n: int
    covers: float = 1.0
    lfs: int = 1
    right: float = 0.8


MANY = (
    Many(k=10, n=4_000),
    Many(k=20, n=4_000),
    Many(k=40, n=6_000),
    Many(k=77, n=8_000),
    Many(k=40, n=4_000, covers=0.5),
    Many(k=77, n=8_000, covers=0.5),
    Many(k=77, n=8_000, covers=0.5, lfs=5, right=0.75),
    Many(k=4, n=3_000, lfs=3),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Accuracies on all items that are not gold of valid; regression: None where it was not asked."""

    task: str
    majority: float
    regression: float | None
    shipped: float


def main(arguments: list[str]) -> int:
    """0 after printing the table and, with --json, writing it; 1 if shipped labels are below one of the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks classes", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("sms", type=Path, nargs="?", help="folder of the task sms, to be thinned")
    parser.add_argument("--items", type=int, default=None, help="items of each made-up task, instead of its own number")
    parser.add_argument("--draws", type=int, default=3, help="draws of tasks with a rare class (default 3)")
    parser.add_argument("--json", type=Path, default=None, help="file for the results")
    chosen = parser.parse_args(arguments)
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, size in enumerate(MANY):
            found.append(measure_many(Path(folder) / f"many_{number}", size, chosen.items or size.n))
            print(found[-1], file=sys.stderr, flush=True)
        for seed in range(chosen.draws):
            found.append(measure_rare(draw_rare(Path(folder) / f"made-up {seed}", chosen.items or 2_000, seed)))
            if chosen.sms is not None:
                found.append(measure_rare(thin(chosen.sms, Path(folder) / f"sms {seed}", seed)))
            print(found[-1], file=sys.stderr, flush=True)
    print(format_table(found))
    if chosen.json:
        write_json(chosen.json, [asdict(row) for row in found])
    return int(any(row.shipped < max(row.majority, row.regression or 0.0) for row in found))


def measure_many(folder: Path, size: Many, n: int) -> Found:
    """What becomes of the drawn task, written to `folder`."""
    rng = np.random.default_rng(0)
    sizes = 1 / np.arange(1, size.k + 1)
    sizes /= sizes.sum()
    truth = rng.choice(size.k, n, p=sizes)
    points = rng.normal(size=(size.k, 64))[truth] + 1.6 * rng.normal(size=(n, 64))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    shape = (n, size.lfs)
    said = np.where(rng.random(shape) < size.right, truth[:, None], rng.choice(size.k, shape, p=sizes))
    votes = np.where(rng.random(shape) < size.covers, said, ABSTAIN).astype(np.int8)
    task = write_task(folder, points, votes, truth, [f"class_{c:02}" for c in range(size.k)])
    voted = np.flatnonzero((votes >= 0).any(axis=1))
    shares = np.stack([(votes[voted] == c).sum(axis=1) for c in range(size.k)], axis=1).astype(np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    plain = fit_softmax_regression(points[voted], shares, np.ones(len(voted)), 1.0)
    return Found(
        task=f"{size.k} classes, {n:,} items, {size.lfs} LF{'s' * (size.lfs > 1)} on {size.covers:.0%}, right {size.right:.0%}",
        majority=_score_majority(votes, truth, size.k),
        regression=float(score_labels(np.exp(predict_log_proba(plain, points)), truth).mean()),
        shipped=score(task, label_items(task)),
    )


def _score_majority(votes: Votes, truth: Int64, k: int) -> float:
    model = MajorityVote(class_balance=np.full(k, 1 / k), lfs=votes.shape[1])
    return float(score_labels(model.predict_proba(votes), truth).mean())


def draw_rare(folder: Path, n: int, seed: int) -> Path:
    """The folder of a made-up task with a rare class, after writing it."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(n) < RARE).astype(np.int64)
    points: Float32 = (np.eye(8)[truth] + 0.25 * rng.normal(size=(n, 8))).astype(np.float32)
    right = np.where(rng.random((n, 4)) < 0.9, truth[:, None], 1 - truth[:, None])
    votes = np.where(rng.random((n, 4)) < 0.5, right, ABSTAIN).astype(np.int8)
    task = write_task(folder, points, votes, truth, ["usual", "rare"])
    _set_gold(task, pl.read_parquet(task / "items.parquet"), "usual", seed)
    return task


def thin(source: Path, folder: Path, seed: int) -> Path:
    """The folder of the task `source` with a hundredth of its second class, after writing it; gold of valid is of the first."""
    items = pl.read_parquet(source / "items.parquet").with_row_index("row")
    votes = pl.read_parquet(source / "votes.parquet")
    rng = np.random.default_rng(seed)
    # Train has no gold: a rare class is made among the items that have it, and train keeps what most LFs do not call rare.
    counts = votes.drop(ITEM_ID).to_numpy()
    seems_rare = (counts == 1).sum(axis=1) > (counts == 0).sum(axis=1)
    gold = items["gold"].fill_null(-1).to_numpy()
    is_rare = (gold == 1) | ((gold < 0) & seems_rare)
    usual = np.flatnonzero(~is_rare)
    few = np.concatenate(
        [
            rng.permutation(np.flatnonzero(is_rare & of))[: max(round(RARE * (of & ~is_rare).sum()), 1)]
            for of in (gold < 0, gold >= 0)
        ]
    )
    rows = np.sort(np.concatenate([usual, few]))
    folder.mkdir(parents=True)
    votes.join(items[rows].select(ITEM_ID), on=ITEM_ID, maintain_order="right").write_parquet(folder / "votes.parquet")
    np.save(folder / "embeddings.npy", np.load(source / "embeddings.npy")[rows])
    (folder / "dataset.json").write_bytes((source / "dataset.json").read_bytes())
    _set_gold(folder, items[rows].drop("row"), 0, seed)
    return folder


def _set_gold(task: Path, items: pl.DataFrame, usual: str | int, seed: int) -> None:
    """Write `items` with a hundred of the class `usual` in valid, and no other there."""
    shown = np.flatnonzero((items["gold"] == usual).fill_null(False).to_numpy())
    drawn = np.random.default_rng(seed).permutation(shown)[:GOLD_ROWS]
    is_drawn = pl.Series(np.isin(np.arange(items.height), drawn))
    other = pl.when(pl.col("gold").is_null()).then(pl.lit("train")).otherwise(pl.lit("test"))
    items.with_columns(split=pl.when(is_drawn).then(pl.lit("valid")).otherwise(other)).write_parquet(
        task / "items.parquet"
    )


def measure_rare(task: Path) -> Found:
    """What becomes of a task with a rare class."""
    items = pl.read_parquet(task / "items.parquet")
    table = pl.read_parquet(task / "votes.parquet").join(items, on=ITEM_ID, maintain_order="left")
    tests = table.filter(pl.col("split") == "test")
    gold = tests["gold"]
    truth = (
        (gold == "rare").to_numpy().astype(np.int64) if gold.dtype == pl.String else gold.to_numpy().astype(np.int64)
    )
    votes = tests.drop(items.columns).to_numpy().astype(np.int8)
    share = fmean(truth.tolist())
    return Found(
        task=f"{task.name}, second class {share:.1%} of {len(truth):,}",
        majority=_score_majority(votes, truth, 2),
        regression=None,
        shipped=score(task, label_items(task, gold_rows=GOLD_ROWS)),
    )


def format_table(found: Sequence[Found]) -> str:
    """Return the table: a row for each task."""
    lines = ["| task | majority vote | logistic regression on the votes | shipped |", "|---" * 4 + "|"]
    for row in found:
        regression = "" if row.regression is None else f"{row.regression:.3f}"
        lines.append(f"| {row.task} | {row.majority:.3f} | {regression} | {row.shipped:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
