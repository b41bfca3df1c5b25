"""`python -m benchmarks search --size full`: exact search against its floor and against one index per LF; recall.

Three parts, each of ratios within one run, by processor time of one thread, best of several:

- exact: seconds over those of the bare matrix products that the cheaper strategy needs (the floor: all of them, in blocks of
  the fastest shape, in the same run, in float32 or in 8-bit integers, whichever is faster), the seconds by products in
  float32 alone, also over a floor of their own, and the reference: one FAISS flat index per LF, as Epoxy's paper
  describes, searched by every item on which the LF abstains, for its nearest support item of any class (ours finds one
  of each class, and re-scores it in float64).
- repeat: the stage after one LF was edited, against the stage without a cache.
- growth: the stages ingest, index, apply and search on more and more items; seconds, peak memory and recall, where
  `index.kind: auto` picks the kind. `--space uniform` is the hard case.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import threadpool_limits

from benchmarks.pipeline import measure_pipeline
from benchmarks.spaces import draw_space, draw_votes
from tasks import index, search
from tasks.cache.store import FOLDER
from tasks.core.search.exact import QUERIES, find_neighbors
from tasks.core.search.plan import Search, plan_per_lf, plan_searches, plan_union
from tasks.core.search.support import build_queries, build_support
from tasks.core.types import Float32, Int8
from tasks.core.unit_vectors import normalize
from tasks.params import IndexParams, SearchParams
from tasks.tables import schemas
from tasks.tables.centers import Centers, write_centers
from tasks.tables.parquet import write_shards, write_table
from tasks.tables.paths import EMBEDDINGS, ITEMS, KEPT_CENTERS, VOTES

_TILE = 1024
"""Rows of the products that are the floor: of 256 to 4,096 the fastest, with `QUERIES` columns."""


_LONG = 50_000
"""Items from which on one repetition lasts long enough to be measured once."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a size of the benchmark measures."""

    exact: tuple[tuple[int, int, Literal[1, 2]], ...]
    """Items, LFs and classes an LF votes for."""
    d: int
    repeat: int
    """Items of the part `repeat`."""
    growth: tuple[int, ...]


SIZES = {
    "small": Size(exact=((400, 3, 2),), d=16, repeat=300, growth=()),
    "full": Size(
        exact=tuple(
            (n, m, polarity)
            for n in (20_000, 100_000)
            for m in (10, 20, 80)
            for polarity in (1, 2)
            if n * m < 4_000_000
        ),
        d=384,
        repeat=20_000,
        growth=(100_000, 200_000, 400_000),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Exact:
    """One row of the part `exact`."""

    n: int
    m: int
    polarity: int
    strategy: str
    seconds: float
    floor: float
    reference: float
    over_floor: float
    float32_alone: float
    float32_floor: float
    times_faster: float


def main(arguments: list[str]) -> int:
    """0 after printing tables and, if asked, writing JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks search", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument(
        "--parts", nargs="+", choices=["exact", "repeat", "growth"], default=["exact", "repeat", "growth"]
    )
    parser.add_argument("--n", type=int, nargs="+", help="numbers of items of the part growth")
    parser.add_argument("--space", choices=["clustered", "uniform"], default="clustered")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    size = SIZES[options.size]
    results: dict[str, object] = {}
    if "exact" in options.parts:
        rows = []
        print(
            f"{'n':>8} {'LFs':>4} {'classes':>7} {'strategy':>8} {'seconds':>8} {'/ floor':>8} {'float32 alone / ours':>21} "
            f"{'/ its floor':>12} {'reference / ours':>17}"
        )
        for n, m, polarity in size.exact:
            one = measure_exact(n, m, polarity, size.d)
            rows.append(asdict(one))
            print(
                f"{n:8,} {m:4} {polarity:7} {one.strategy:>8} {one.seconds:8.2f} {one.over_floor:8.2f} "
                f"{one.float32_alone / one.seconds:21.2f} "
                f"{one.float32_alone / one.float32_floor:12.2f} {one.times_faster:17.2f}",
                flush=True,
            )
        results["exact"] = rows
    if "repeat" in options.parts:
        results["repeat"] = repeat = measure_repeat(size.repeat, 20, size.d)
        print(f"the stage, {size.repeat:,} items, 20 LFs: " + ", ".join(f"{k} {v:.2f} s" for k, v in repeat.items()))
    if "growth" in options.parts:
        results["growth"] = [measure_pipeline(n, size.d, 20, options.space, "search") for n in options.n or size.growth]
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def measure_exact(n: int, m: int, polarity: Literal[1, 2], d: int) -> Exact:
    """Exact search of items without structure by LFs that vote at random, the worst case: hardly any share a pattern."""
    repetitions = 3 if n < _LONG else 1
    rng = np.random.default_rng(0)
    vectors = normalize(rng.standard_normal((n, d), dtype=np.float32))
    L = np.full((n, m), -1, np.int8)
    for lf in range(m):
        votes = rng.random(n) < 0.05
        L[votes, lf] = rng.integers(0, 2, votes.sum()) if polarity == 2 else lf % 2
    abstaining = (L < 0).sum(axis=0)
    lenders = np.flatnonzero((L >= 0).any(axis=1))

    def ours(is_float32_alone: bool = False) -> None:
        support = build_support(L[lenders], lenders, vectors, metric="cosine")
        if is_float32_alone:
            support = replace(support, multiplier=replace(support.multiplier, quantized=None))
        searches = plan_searches(support.lf_classes, abstaining, n, d)
        for start in range(0, n, QUERIES):
            part = slice(start, start + QUERIES)
            queries = build_queries(support.geometry, vectors[part])
            find_neighbors(support, searches, queries, L[part] < 0)

    def reference() -> None:
        for lf in range(m):
            flat = faiss.IndexFlatIP(d)
            flat.add(vectors[L[:, lf] >= 0])
            flat.search(vectors[L[:, lf] < 0], 1)

    with threadpool_limits(1):
        support = build_support(L[lenders], lenders, vectors, metric="cosine")
        plan = plan_searches(support.lf_classes, abstaining, n, d)
        plans = plan_per_lf(support.lf_classes), plan_union(support.lf_classes)
        shapes = min((_list_products(one, abstaining, n) for one in plans), key=_count_products)
        integers = support.multiplier.quantized
        floors = [lambda: _multiply(vectors, shapes)]
        if integers is not None:
            floors.append(lambda: _multiply_8_bits(integers.integers, shapes))
        bare = [_time(multiply, repetitions) for multiply in floors]
        seconds = _time(ours, repetitions)
        alone = _time(lambda: ours(is_float32_alone=True), repetitions)
        reference_seconds = _time(reference, repetitions)
        bare = [min(before, _time(multiply, repetitions)) for before, multiply in zip(bare, floors, strict=True)]
    return Exact(
        n=n,
        m=m,
        polarity=polarity,
        strategy="union" if plan[0].lf is None else "per LF",
        seconds=seconds,
        floor=min(bare),
        reference=reference_seconds,
        over_floor=seconds / min(bare),
        float32_alone=alone,
        float32_floor=bare[0],
        times_faster=reference_seconds / seconds,
    )


Shapes = list[tuple[int, int]]
"""Of each search: the support's vectors and the queries."""


def _list_products(searches: tuple[Search, ...], abstaining: npt.NDArray[np.int64], n: int) -> Shapes:
    return [
        (sum(len(tile.rows) for tile in one.tiles), int(n if one.lf is None else abstaining[one.lf]))
        for one in searches
    ]


def _count_products(shapes: Shapes) -> int:
    """Pairs of vectors that are multiplied."""
    return sum(rows * queries for rows, queries in shapes)


def _multiply(vectors: Float32, shapes: Shapes) -> None:
    """The bare products of as many vectors as `shapes` say, block by block."""
    out = np.empty((_TILE, QUERIES), np.float32)
    for rows, queries in shapes:
        for start in range(0, queries, QUERIES):
            block = vectors[start : min(start + QUERIES, queries)]
            for first in range(0, rows, _TILE):
                tile = vectors[first : min(first + _TILE, rows)]
                np.matmul(tile, block.T, out=out[: len(tile), : len(block)])


def _multiply_8_bits(integers: Int8, shapes: Shapes) -> None:
    """As `_multiply`, with rows of `integers` (v, d) over and over."""
    import numkong

    packed = numkong.dots_pack(np.resize(integers, (QUERIES, integers.shape[1])), dtype="int8")
    tile = np.resize(integers, (_TILE, integers.shape[1]))
    out = numkong.empty((_TILE, QUERIES), dtype="int32")
    products = _count_products(shapes)
    for _ in range(-(-products // (_TILE * QUERIES))):
        numkong.dots_packed(tile, packed, out=out)


def _time(function: Callable[[], object], repetitions: int) -> float:
    """The least processor seconds of several calls."""
    best = float("inf")
    for _ in range(repetitions):
        began = time.process_time()
        function()
        best = min(best, time.process_time() - began)
    return best


def measure_repeat(n: int, m: int, d: int) -> dict[str, float]:
    """Seconds of the search stage: without a cache, with one LF edited, and with none."""
    space = draw_space("clustered", n, d)
    L = draw_votes(space, m, 0.05, 2)
    ids = pl.Series("item_id", np.arange(n))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_table(root / ITEMS, pl.DataFrame([ids, pl.Series("split", ["train"] * n)]), schemas.ITEMS)
        starts = iter(range(0, n, 16_384))
        batches = (
            pl.DataFrame([ids[a : a + len(batch)], pl.Series("embedding", batch, dtype=pl.Array(pl.Float32, d))])
            for a, batch in zip(starts, space.draw_batches(), strict=True)
        )
        write_shards(root / EMBEDDINGS, batches, schemas.embeddings(d))
        write_centers(root / KEPT_CENTERS, Centers.none())

        def run() -> float:
            votes = pl.DataFrame([ids, *(pl.Series(f"lf{lf}", np.ascontiguousarray(L[:, lf])) for lf in range(m))])
            write_table(root / VOTES, votes, schemas.votes(2, votes.columns))
            began = time.perf_counter()
            search.run(root, ("no", "yes"), SearchParams())
            return time.perf_counter() - began

        index.run(root, ("no", "yes"), IndexParams())
        found = {"all": run()}
        L[::7, 0] = 1
        found |= {"one LF edited": run(), "none edited": run()}
        shutil.rmtree(root / FOLDER)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
