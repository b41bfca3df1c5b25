"""`python -m benchmarks queries --n 1000000`: seconds for a page of `epoxy items` and an answer of `epoxy try`, by question.

Items have a text of 12 words and a number; each of 20 LFs votes on 5 % of them, and its nearest neighbors are drawn evenly,
so that a threshold of .8 extends it to a fifth. First answers read and check the tables; later ones find them in memory.
Processor seconds are those of all threads.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from tasks.queries.items import ItemQuery, VoteFilter, find_items
from tasks.queries.project_data import ProjectData
from tasks.queries.try_lf import choose_rows, read_lf, try_lf
from tasks.tables import paths, schemas
from tasks.tables.files import write_json
from tasks.tables.muted import write_muted
from tasks.tables.parquet import write_table

CLASSES = ("a", "b", "c", "d")
LFS = tuple(f"lf{number:02}" for number in range(20))
REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Result:
    """One question: seconds of its first answer, and medians of those after it; total: how many items fit."""

    question: str
    first: float
    seconds: float
    processor_seconds: float
    total: int


QUERIES: dict[str, ItemQuery] = {
    "all items": ItemQuery(),
    "uncertain first": ItemQuery(order="uncertain"),
    "ordered by text": ItemQuery(order="text"),
    "a late page of a label": ItemQuery(labels=("a",), order="-confidence", offset=100_000),
    "wrong labels": ItemQuery(right=False),
    "an LF's extended votes": ItemQuery(votes=(VoteFilter(lf="lf03", source="extended"),)),
    "two LFs in conflict": ItemQuery(conflict=("lf03", "lf04")),
    "extended votes alone": ItemQuery(covered="extension only"),
    "near a threshold": ItemQuery(near_threshold=0.001, order="threshold_gap"),
    "a word in the texts": ItemQuery(text="Word17 "),
}


def main(arguments: list[str]) -> int:
    """Print the seconds of each question."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks queries")
    parser.add_argument("--n", type=int, default=1_000_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="epoxy-queries-") as folder:
        write_project(Path(folder), options.n)
        for result in measure(Path(folder)):
            print(
                f"{result.question:<24} first {result.first:7.3f} s   then {result.seconds:7.3f} s   processor "
                f"{result.processor_seconds:7.3f} s   {result.total:,} items"
            )
    return 0


def measure(root: Path) -> list[Result]:
    """The seconds of every question about the project at `root`."""
    data = ProjectData(root)

    def count(query: ItemQuery) -> int:
        return find_items(data, query).total

    results = [_time(name, partial(count, query)) for name, query in QUERIES.items()]
    lf = read_lf('keyword_lf("x", column="text", keywords=["word17", "word20"], label="a")')

    def try_it() -> int:
        fresh = ProjectData(root)  # as a command has it: nothing in memory yet
        return try_lf(fresh, lf, choose_rows(fresh, seed=1)).votes

    return [*results, _time("an LF tried, anew", try_it)]


def _time(question: str, ask: Callable[[], int]) -> Result:
    began = time.perf_counter()
    total = ask()
    first = time.perf_counter() - began
    seconds, processor = [], []
    for _ in range(REPEATS):
        began, used = time.perf_counter(), time.process_time()
        assert ask() == total
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return Result(
        question=question,
        first=first,
        seconds=statistics.median(seconds),
        processor_seconds=statistics.median(processor),
        total=total,
    )


def write_project(root: Path, n: int, seed: int = 0) -> None:
    """Write what a run over `n` items would leave, as far as these questions read it."""
    chosen, k, m = np.random.default_rng(seed), len(CLASSES), len(LFS)
    params = yaml.safe_load((Path(__file__).resolve().parents[1] / "params.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(params | {"classes": list(CLASSES)}, sort_keys=False)
    (root / "params.yaml").write_text(text, encoding="utf-8")
    ids = pl.Series("item_id", [f"item-{row:08}" for row in range(n)], dtype=pl.String)
    drawn = (chosen.pareto(1.1, size=(n, 12)) * 20).astype(np.int64) % 5000
    words = pl.DataFrame({str(place): pl.Series(drawn[:, place]).cast(pl.String) for place in range(12)})
    texts = words.select(pl.concat_str([pl.lit("word") + pl.col(name) for name in words.columns], separator=" "))
    split = chosen.choice(["train", "valid", "test"], n, p=[0.9, 0.005, 0.095])
    lengths = pl.Series("length", chosen.integers(0, 200, n))
    items = pl.DataFrame([ids, pl.Series("split", split), texts.to_series().alias("text"), lengths])
    write_table(root / paths.ITEMS, items, schemas.ITEMS)
    valid = np.flatnonzero(split == "valid")
    gold = pl.DataFrame([ids.gather(valid), pl.Series("gold", chosen.integers(0, k, len(valid)), dtype=pl.Int8)])
    write_table(root / paths.VALID_GOLD, gold, schemas.gold(k))
    original, extended = np.full((2, n, m), -1, dtype=np.int8)
    neighbors: list[pl.Series] = [ids]
    for j, lf in enumerate(LFS):
        votes, similarity = chosen.random(n) < 0.05, chosen.random(n, dtype=np.float32)
        original[votes, j] = j % k
        extended[:, j] = np.where(votes | (similarity > 0.8), j % k, -1)
        lender = ids.gather(chosen.integers(0, n, n)).set(pl.Series(votes), None)
        neighbors.append(pl.Series(schemas.similarity_column(lf, j % k), similarity).set(pl.Series(votes), None))
        neighbors.append(lender.alias(schemas.neighbor_column(lf, j % k)))
    for path, L in ((paths.VOTES, original), (paths.EXTENDED_VOTES, extended)):
        table = pl.DataFrame([ids, *(pl.Series(lf, np.ascontiguousarray(L[:, j])) for j, lf in enumerate(LFS))])
        write_table(root / path, table, schemas.votes(k, LFS))
    near = pl.DataFrame(neighbors)
    write_table(root / paths.NEIGHBORS, near, schemas.neighbors(near.columns, pl.String))
    P = chosen.dirichlet(np.ones(k), n)
    names = [schemas.probability_column(name) for name in CLASSES]
    label = pl.Series("label", np.array(CLASSES)[P.argmax(axis=1)])
    counts = pl.Series("original_votes", (original >= 0).sum(axis=1), dtype=pl.Int32)
    chances = [pl.Series(name, np.ascontiguousarray(P[:, c])) for c, name in enumerate(names)]
    write_table(root / paths.SHIPPED_LABELS, pl.DataFrame([ids, label, *chances, counts]), schemas.end_labels(CLASSES))
    for path, method in ((paths.LABEL_MODEL_PREDICTIONS, "majority_vote"), (paths.END_MODEL_PREDICTIONS, "end_model")):
        table = pl.DataFrame([ids, *(chance.alias(f"{method}/{c}") for c, chance in enumerate(chances))])
        write_table(root / path, table, schemas.predictions(k, table.columns))
    chosen_on = {"method": "fixed", "objective": None, "chosen_on": "nothing", "curve_metric": "none"}
    write_muted(root, (), LFS)
    write_json(root / paths.THRESHOLDS, {"metric": "cosine", **chosen_on, "thresholds": dict.fromkeys(LFS, 0.8)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
