"""`python -m benchmarks gpu`: exact search on graphics cards: seconds, part by part, against bare products; bytes.

All in one run, on items with clusters, of which each LF votes on 5 % for two classes:

- seconds: copying the support to the card, all queries there, the search, and all results back, as the stage does it (the
  first search, which compiles, is left out);
- copies, products, collecting, scoring: of a second run that waits for each, on all cards together;
- TFLOP/s: of the multiply-adds that the task has, in the seconds of products, and of bare products in float16 of the same
  vectors, written to memory as nobody needs them;
- groups: of 16 members scored, per item, LF and class; unsure: items and LF classes that the processor decided;
- bytes: whether the neighbors of `--compared` items are those that the processor finds.

Without a GPU one line says why, and the exit code is 1. With TRITON_INTERPRET=1 the processor plays the card, and only small
numbers of items are worth waiting for.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.spaces import draw_space, draw_votes
from tasks.compute.device import THREADS_PER_CARD, find_cards
from tasks.core.search.exact import find_neighbors
from tasks.core.search.on_cards import AT_ONCE, CardSearch, NoCard
from tasks.core.search.plan import plan_per_lf
from tasks.core.search.support import Queries, Support, build_queries, build_support
from tasks.core.types import Bool, Float32, MetricName
from tasks.core.unit_vectors import to_index_vectors


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of the table."""

    card: str
    cards: int
    items: int
    lfs: int
    d: int
    metric: MetricName
    seconds: float
    copies: float
    products: float
    collecting: float
    scoring: float
    teraflops: float
    bare_teraflops: float
    groups: float
    unsure: int
    asked: int
    """Items and LF classes, in all."""
    compared: int
    """Similarities and positions of the sample."""
    differ: int
    """Of these, other bytes than the processor's."""
    tiles: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """A search."""

    support: Support
    vectors: Float32
    asking: Bool

    def cut(self, rows: slice) -> tuple[Queries, Bool]:
        """The queries of these items."""
        queries = build_queries(self.support.geometry, self.vectors[rows])
        return queries, self.asking[rows]


def main(arguments: list[str]) -> int:
    """0 after printing a table and, if asked, writing JSON; 1 where there is no GPU or bytes differ."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    items, d = ([300], 64) if is_interpreted else ([100_000, 1_000_000], 384)
    parser.add_argument("--items", type=int, nargs="+", default=items)
    parser.add_argument("--lfs", type=int, nargs="+", default=[20])
    parser.add_argument("--d", type=int, nargs="+", default=[d])
    parser.add_argument("--metric", choices=["cosine", "l2"], default="cosine")
    parser.add_argument("--compared", type=int, default=500, help="items that the processor searches as well")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    try:
        cards = find_cards()
    except NoCard as reason:
        print(f"nothing is measured, since {reason}", file=sys.stderr)
        return 1
    rows = []
    for n in options.items:
        for m in options.lfs:
            for d in options.d:
                rows.append(measure(cards, n, m, d, options.metric, options.compared))
                print("\n".join(describe(rows[-1])), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    return int(any(row.differ for row in rows))


def describe(row: Measured) -> list[str]:
    """The lines about one task."""
    return [
        f"{row.cards} x {row.card}, tiles {row.tiles}: {row.items:,} items x {row.d}, {row.lfs} LFs, {row.metric}",
        f"  {row.seconds:.3f} s; one after the other: copies {row.copies:.3f}, products {row.products:.3f}, "
        f"collecting {row.collecting:.3f}, scoring {row.scoring:.3f}",
        f"  products {row.teraflops:.3g} TFLOP/s, bare products {row.bare_teraflops:.3g} TFLOP/s",
        f"  {row.groups:.3f} groups per LF class and item; {row.unsure:,} unsure of {row.asked:,}",
        f"  bytes {'equal to' if not row.differ else f'{row.differ:,} of {row.compared:,} other than'} the processor's "
        f"({row.compared:,} compared)",
    ]


def draw_task(n: int, m: int, d: int, metric: MetricName) -> Task:
    """Items with clusters, and their support."""
    space = draw_space("clustered", n, d)
    vectors = np.empty((n, d), np.float32)
    done = 0
    for batch in space.draw_batches():
        vectors[done : done + len(batch)] = batch
        done += len(batch)
    L = draw_votes(space, m, 0.05, 2)
    vectors = to_index_vectors(vectors, metric)
    lenders = np.flatnonzero((L >= 0).any(axis=1))
    support = build_support(np.ascontiguousarray(L[lenders]), lenders, vectors, metric=metric)
    return Task(support=support, vectors=vectors, asking=L < 0)


def measure(cards: Sequence[Any], n: int, m: int, d: int, metric: MetricName, compared: int) -> Measured:
    """A search of `n` items on `cards`."""
    task = draw_task(n, m, d, metric)
    CardSearch(task.support, task.support.lf_classes, cards).find_neighbors(*task.cut(slice(0, min(n, 256))))
    for card in cards:
        card.seconds = None
        card.wait()
    began = time.perf_counter()
    search_all(cards, task)
    seconds = time.perf_counter() - began
    for card in cards:
        card.watch()
    search_all(cards, task)
    spent = {phase: sum(card.seconds[phase] for card in cards) for phase in cards[0].seconds}
    asked, groups, unsure = (sum(getattr(card, name) for card in cards) for name in ("asked", "looked_at", "doubted"))
    for card in cards:
        card.seconds = None
    members = sum(len(lf_class.members) for lf_class in task.support.lf_classes)
    rows = slice(0, n, max(n // compared, 1))
    queries, asking = task.cut(rows)
    found = CardSearch(task.support, task.support.lf_classes, cards).find_neighbors(queries, asking)
    expected = find_neighbors(task.support, plan_per_lf(task.support.lf_classes), queries, asking)
    differ = (found.position != expected.position) | (
        found.similarity.view(np.int32) != expected.similarity.view(np.int32)
    )
    tiles = cards[0].tiles
    return Measured(
        card=cards[0].describe(),
        cards=len(cards),
        items=n,
        lfs=m,
        d=d,
        metric=metric,
        seconds=seconds,
        teraflops=2 * d * n * members / spent["products"] / 1e12,
        bare_teraflops=cards[0].time_bare_products(min(n, AT_ONCE), d),
        groups=groups / max(asked, 1),
        unsure=unsure,
        asked=asked,
        compared=found.position.size,
        differ=int(differ.sum()),
        tiles=f"{tiles.tall}x{tiles.wide}x{tiles.deep}{' by descriptors' if tiles.has_descriptors else ''}",
        **spent,
    )


def search_all(cards: Sequence[Any], task: Task) -> None:
    """Search all items, as the stage does."""
    search = CardSearch(task.support, task.support.lf_classes, cards)

    def find(start: int) -> None:
        search.find_neighbors(*task.cut(slice(start, start + AT_ONCE)))

    with ThreadPoolExecutor(THREADS_PER_CARD * len(cards)) as pool:
        list(pool.map(find, range(0, len(task.vectors), AT_ONCE)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
