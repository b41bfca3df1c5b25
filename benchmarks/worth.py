"""`python -m benchmarks worth FOLDER`: what comes back of the accuracy that lying LFs cost, and how fast worth is measured.

Tasks are folders as `python -m benchmarks quality` reads them. A fifth of the LFs that vote become liars: each votes on the
same items, for another class than before, a number of places further on in the list that is drawn for the LF. There is no gold
but that of test, which judges. Then the LFs that `train` names are muted; or mended, as who wrote them would who believes
it: they vote for the class that others say there instead, and abstain where there is none. Beside that the liars alone are
muted, which nobody could know.

Then worth is measured on drawn votes and vectors of 384 dimensions, in seconds of processors.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import polars as pl
import yaml

from benchmarks.labels import draw_votes
from benchmarks.real_tasks import find_tasks, lay_out
from tasks.__main__ import run_stage
from tasks.core.classifiers.lf_worth import measure_worth
from tasks.core.types import ABSTAIN, ITEM_ID, Float32
from tasks.params_file import FILE, read_params
from tasks.tables.files import read_json, write_json
from tasks.tables.paths import END_MODEL_SUMMARY, ITEMS, SHIPPED_LABELS, WITHHELD_GOLD

LIARS = 0.2
VOTES = Path("lfs/votes.parquet")


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Accuracies on test of one draw of liars. named_liars, named: shares of the votes of liars, and of others, that are
    of LFs which were named.
    """

    task: str
    liars: int
    lying: float
    muted: float
    mended: float
    liars_muted: float
    named_liars: float
    named: float


@dataclass(frozen=True, kw_only=True)
class Clean:
    """Accuracies on test with the LFs as they are, and with those muted or mended that are named nevertheless."""

    task: str
    accuracy: float
    muted: float
    mended: float
    named: int


def main(arguments: list[str]) -> int:
    """0 after printing both tables and, with --json, writing them; 2 where there is no task."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks worth", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="folder with one folder per task; none: speed alone")
    parser.add_argument("--tasks", nargs="+", default=None, help="names of tasks; all by default")
    parser.add_argument("--draws", type=int, default=3, help="how often liars are drawn (default 3)")
    parser.add_argument("--sizes", nargs="*", default=["100000x300"], help="items x LFs (default 100000x300)")
    parser.add_argument("--json", type=Path, default=None, help="file for the results")
    chosen = parser.parse_args(arguments)
    tasks = [] if chosen.folder is None else find_tasks(chosen.folder, chosen.tasks)
    if chosen.folder is not None and not tasks:
        return 2
    clean: list[Clean] = []
    draws: list[Draw] = []
    for task in tasks:
        found, of_task = measure_task(task, chosen.draws)
        clean.append(found)
        draws += of_task
        print(format_task(found, of_task), file=sys.stderr, flush=True)
    if tasks:
        print(format_table(clean, draws))
    for size in chosen.sizes:
        n, m = map(int, size.split("x"))
        print(f"{n:,} items, {m} LFs: {measure_speed(n, m):.1f} s of processors")
    if chosen.json:
        write_json(chosen.json, {"clean": [asdict(row) for row in clean], "draws": [asdict(row) for row in draws]})
    return 0


def measure_task(task: Path, draws: int) -> tuple[Clean, list[Draw]]:
    """What liars cost `task`, and what comes back."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay_out(task, root, gold_rows=0, seed=0)
        for stage in ("ingest", "gold", "index"):
            run_stage(root, stage)
        votes = pl.read_parquet(root / VOTES)
        accuracy = _run(root, votes)
        named = _name_harmful(root)
        clean = Clean(
            task=task.name,
            accuracy=accuracy,
            mended=_mend(root, votes, named) if named else accuracy,
            muted=_mute(root, votes, tuple(named)) if named else accuracy,
            named=len(named),
        )
        return clean, [_measure_draw(root, task.name, votes, seed) for seed in range(draws)]


def _measure_draw(root: Path, task: str, votes: pl.DataFrame, seed: int) -> Draw:
    liars = make_liars(votes, len(read_params(root).classes), seed)
    lying = _run(root, liars.votes)
    named = _name_harmful(root)
    mended = _mend(root, liars.votes, named) if named else lying
    muted = _mute(root, liars.votes, tuple(named)) if named else lying
    counts = {lf: int((votes[lf] != ABSTAIN).sum()) for lf in votes.columns if lf != ITEM_ID}
    others = [lf for lf in counts if lf not in liars.names]

    def share(lfs: Sequence[str]) -> float:
        return sum(counts[lf] for lf in lfs if lf in named) / sum(counts[lf] for lf in lfs)

    return Draw(
        task=task,
        liars=len(liars.names),
        lying=lying,
        muted=muted,
        mended=mended,
        liars_muted=_mute(root, liars.votes, liars.names),
        named_liars=share(liars.names),
        named=share(others),
    )


@dataclass(frozen=True, kw_only=True)
class Liars:
    """Votes of which those of the LFs `names` are lies."""

    votes: pl.DataFrame
    names: tuple[str, ...]


def make_liars(votes: pl.DataFrame, k: int, seed: int) -> Liars:
    """Return `votes` with `LIARS` of the LFs that vote, at least one, voting for another of `k` classes."""
    rng = np.random.default_rng(seed)
    voting = [lf for lf in votes.columns if lf != ITEM_ID and (votes[lf] != ABSTAIN).any()]
    names = sorted(rng.choice(voting, max(1, round(LIARS * len(voting))), replace=False).tolist())
    lies = []
    for lf in names:
        said, shift = votes[lf].to_numpy().astype(np.int64), rng.integers(1, k)
        lies.append(pl.Series(lf, np.where(said == ABSTAIN, ABSTAIN, (said + shift) % k).astype(np.int8)))
    return Liars(votes=votes.with_columns(lies), names=tuple(names))


def _run(root: Path, votes: pl.DataFrame) -> float:
    """The accuracy of the shipped labels with `votes`, nobody muted."""
    votes.write_parquet(root / VOTES)
    _write_mute(root, ())
    for stage in ("apply", "search", "train"):
        run_stage(root, stage)
    return _score(root)


def _mute(root: Path, votes: pl.DataFrame, lfs: Sequence[str]) -> float:
    """The accuracy with `lfs` muted."""
    votes.write_parquet(root / VOTES)
    _write_mute(root, lfs)
    for stage in ("apply", "search", "train"):
        run_stage(root, stage)
    return _score(root)


def _mend(root: Path, votes: pl.DataFrame, instead: Mapping[str, Mapping[str, str]]) -> float:
    """The accuracy where each LF in `instead` votes for what others say, and abstains where they say nothing else."""
    classes = list(read_params(root).classes)
    mended = []
    for lf, said in instead.items():
        changes = {c: classes.index(said[name]) if name in said else ABSTAIN for c, name in enumerate(classes)}
        mended.append(votes[lf].replace_strict(changes | {ABSTAIN: ABSTAIN}, return_dtype=pl.Int8))
    return _run(root, votes.with_columns(mended))


def _write_mute(root: Path, lfs: Sequence[str]) -> None:
    params = yaml.safe_load((root / FILE).read_text(encoding="utf-8"))
    params["apply"]["mute"] = list(lfs)
    (root / FILE).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def _name_harmful(root: Path) -> dict[str, dict[str, str]]:
    """By name of a harmful LF, and class that it votes for, what others say there instead."""
    found: dict[str, dict[str, str]] = read_json(root / END_MODEL_SUMMARY)["said_instead"]
    return found


def _score(root: Path) -> float:
    """The accuracy of the shipped labels on test."""
    classes = read_params(root).classes
    tests = pl.read_parquet(root / ITEMS, columns=[ITEM_ID, "split"]).filter(pl.col("split") == "test")
    judged = tests.join(pl.read_parquet(root / WITHHELD_GOLD, columns=[ITEM_ID, "gold"]), on=ITEM_ID)
    labels = judged.join(pl.read_parquet(root / SHIPPED_LABELS, columns=[ITEM_ID, "label"]), on=ITEM_ID)
    return fmean(label == classes[gold] for label, gold in labels.select("label", "gold").iter_rows())


def measure_speed(n: int, m: int, d: int = 384) -> float:
    """Seconds of processors in which the worth of `m` LFs on `n` items in `d` dimensions is measured."""
    vectors: Float32 = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    votes = draw_votes(n, m, coverage=0.05)
    began = time.process_time()
    measure_worth(vectors, votes, 2)
    return time.process_time() - began


def format_task(clean: Clean, draws: Sequence[Draw]) -> str:
    """Return a row of the table: means over draws."""
    lying, muted, mended, liars_muted, named_liars, named = (
        fmean(getattr(draw, name) for draw in draws)
        for name in ("lying", "muted", "mended", "liars_muted", "named_liars", "named")
    )
    return (
        f"| {clean.task} | {clean.accuracy:.3f} | {clean.muted:.3f}, {clean.mended:.3f} ({clean.named}) | {draws[0].liars} "
        f"| {lying:.3f} | {muted:.3f} | {mended:.3f} | {liars_muted:.3f} | {named_liars:.2f} | {named:.2f} |"
    )


def format_table(clean: Sequence[Clean], draws: Sequence[Draw]) -> str:
    """Return the table, a row per task, and a line on how much comes back of all that liars cost."""
    lines = [
        "| task | as it is | named muted, mended (LFs) | liars | lying | named muted | named mended | liars muted "
        "| liars' votes named | others' |",
        "|---" * 10 + "|",
    ]
    lines += [format_task(row, [draw for draw in draws if draw.task == row.task]) for row in clean]
    as_it_is = {row.task: row.accuracy for row in clean}
    back = sum(draw.muted - draw.lying for draw in draws)
    mended = sum(draw.mended - draw.lying for draw in draws)
    lost = sum(as_it_is[draw.task] - draw.lying for draw in draws)
    possible = sum(draw.liars_muted - draw.lying for draw in draws)
    count = len(draws)
    return "\n".join(
        [
            *lines,
            f"mean of {count} draws: lying costs {lost / count:.3f}, of which muting the named brings back {back / count:.3f} "
            f"({back / lost:.0%}), mending them {mended / count:.3f} ({mended / lost:.0%}), and muting the liars {possible / count:.3f} ({possible / lost:.0%})",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
