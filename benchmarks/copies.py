"""`python -m benchmarks copies FOLDER`: whether copies of a labeling function (LF) change labels that have no gold.

Tasks are folders as `python -m benchmarks quality` reads them, and made-up ones, drawn here: two classes in 16 dimensions, one
of which tells them apart, three LFs that are right 85 % of the time on 60 % of the items, and further ones, good or bad. Of
each task, the LF with the most votes and others, drawn at random, are copied a dozen times, one LF after the other: exactly, and with
5 % of each copy's votes redrawn among all classes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.real_tasks import find_tasks, lay_out
from tasks.__main__ import STAGES, run_stage
from tasks.core.types import ABSTAIN, ITEM_ID, Float32, Int64, Votes
from tasks.tables.files import write_json
from tasks.tables.paths import SHIPPED_LABELS

COPIES = 12
REDRAWN = 0.05
GOOD = (0.85, 0.6)
"""How often a good LF is right, and the share of items on which it votes."""

MADE_UP: dict[str, tuple[tuple[float, float], ...]] = {
    "three good, one weak": (GOOD, GOOD, GOOD, (0.55, 0.9)),
    "three good, one middling": (GOOD, GOOD, GOOD, (0.65, 0.5)),
    "three good, two liars": (GOOD, GOOD, GOOD, (0.3, 0.6), (0.3, 0.6)),
}
"""The made-up tasks: how often each LF is right, and where it votes."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """Accuracies with the LFs as they are and with a dozen near-copies of one; changed: labels that exact copies change."""

    task: str
    lf: str
    alone: float
    near: float
    changed: int


def main(arguments: list[str]) -> int:
    """0 after printing the table and, with --json, writing it; 2 where there is no task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks copies", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", help="folder with one folder per task; none: made-up ones alone"
    )
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--lfs", type=int, default=4, help="LFs that are copied, one after the other (default 4)")
    parser.add_argument("--items", type=int, default=1500, help="items of a made-up task (default 1,500)")
    parser.add_argument("--json", type=Path, default=None, help="file for the results")
    chosen = parser.parse_args(arguments)
    found: list[Copied] = []
    with tempfile.TemporaryDirectory() as folder:
        tasks = [draw_task(Path(folder) / name, lfs, chosen.items) for name, lfs in MADE_UP.items()]
        if chosen.folder is not None:
            shared = find_tasks(chosen.folder, chosen.tasks)
            if not shared:
                return 2
            tasks += shared
        for task in tasks:
            found += measure_task(task, chosen.lfs)
            print(f"{task.name}: done", file=sys.stderr, flush=True)
            if chosen.json:
                write_json(chosen.json, [asdict(row) for row in found])
    print(format_table(found))
    return 0


def draw_task(folder: Path, lfs: Sequence[tuple[float, float]], n: int) -> Path:
    """The folder of a made-up task of `n` items, after writing it."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, n)
    points = rng.normal(size=(n, 16))
    points[:, 0] += np.where(truth == 1, 1.0, -1.0)
    votes = np.full((n, len(lfs)), ABSTAIN, np.int8)
    for lf, (right, covers) in enumerate(lfs):
        said = np.where(rng.random(n) < right, truth, 1 - truth)
        votes[:, lf] = np.where(rng.random(n) < covers, said, ABSTAIN)
    return write_task(folder, points.astype(np.float32), votes, truth, ["first", "second"])


def write_task(folder: Path, points: Float32, votes: Votes, truth: Int64, classes: list[str]) -> Path:
    """`folder`, after writing a task into it whose items are all of train and have gold to judge by."""
    folder.mkdir(parents=True)
    ids = [f"{row:06}" for row in range(len(truth))]
    items = pl.DataFrame({ITEM_ID: ids, "split": "train", "gold": pl.Series([classes[c] for c in truth.tolist()])})
    items.write_parquet(folder / "items.parquet")
    columns = {f"lf_{lf}": votes[:, lf] for lf in range(votes.shape[1])}
    pl.DataFrame({ITEM_ID: ids, **columns}).write_parquet(folder / "votes.parquet")
    np.save(folder / "embeddings.npy", points)
    (folder / "dataset.json").write_text(json.dumps({"classes": classes}), encoding="utf-8")
    return folder


def measure_task(task: Path, count: int) -> list[Copied]:
    """What a dozen copies of each of `count` LFs do to the labels of the task."""
    votes = pl.read_parquet(task / "votes.parquet")
    lfs = [name for name in votes.columns if name != ITEM_ID]
    sizes = {lf: int((votes[lf] != ABSTAIN).sum()) for lf in lfs}
    rng = np.random.default_rng(0)
    most = max(lfs, key=sizes.__getitem__)
    others = [lf for lf in lfs if sizes[lf] and lf != most]
    drawn = sorted(rng.choice(others, min(count - 1, len(others)), replace=False).tolist())
    k = len(json.loads((task / "dataset.json").read_text(encoding="utf-8"))["classes"])
    alone = label_items(task)
    rows = []
    for lf in [most, *drawn]:
        said = votes[lf].to_numpy()
        exact = [pl.Series(f"{lf}_copy_{number:02}", said) for number in range(COPIES)]
        near = [pl.Series(series.name, _redraw(said, k, rng)) for series in exact]
        same = label_items(task, votes.with_columns(exact))
        rows.append(
            Copied(
                task=task.name,
                lf=lf,
                alone=score(task, alone),
                near=score(task, label_items(task, votes.with_columns(near))),
                changed=int((alone["label"] != same["label"]).sum()),
            )
        )
    return rows


def _redraw(said: npt.NDArray[np.int8], k: int, rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """Return votes (n,) of which a share is drawn anew among `k` classes."""
    drawn = (said != ABSTAIN) & (rng.random(len(said)) < REDRAWN)
    return np.where(drawn, rng.integers(0, k, len(said)), said).astype(np.int8)


def label_items(task: Path, votes: pl.DataFrame | None = None, gold_rows: int = 0) -> pl.DataFrame:
    """Return the shipped labels of the items of `task`, with its votes or others, by the real stages with default params."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(task, root, gold_rows=gold_rows, seed=0)
        if votes is not None:
            votes.write_parquet(root / "lfs" / "votes.parquet")
        for stage in STAGES:
            if stage not in {"tune", "extend", "fit", "evaluate"}:  # of which the shipped labels take nothing
                run_stage(root, stage)
        return pl.read_parquet(root / SHIPPED_LABELS, columns=[ITEM_ID, "label"]).sort(ITEM_ID)


def score(task: Path, labels: pl.DataFrame) -> float:
    """Return the accuracy of `labels` on the items of `task` that have gold and are not valid."""
    items = pl.read_parquet(task / "items.parquet", columns=[ITEM_ID, "split", "gold"])
    judged = items.filter(pl.col("gold").is_not_null() & (pl.col("split") != "valid")).join(labels, on=ITEM_ID)
    classes = json.loads((task / "dataset.json").read_text(encoding="utf-8"))["classes"]
    return fmean(
        label == (gold if isinstance(gold, str) else classes[gold])
        for label, gold in judged.select("label", "gold").iter_rows()
    )


def format_table(found: Sequence[Copied]) -> str:
    """Return the table: a row for each LF that was copied."""
    lines = [
        "| task | LF | as it is | a dozen near-copies | difference | labels that exact copies change |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {row.task} | {row.lf} | {row.alone:.3f} | {row.near:.3f} | {row.near - row.alone:+.3f} | {row.changed} |"
        for row in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
