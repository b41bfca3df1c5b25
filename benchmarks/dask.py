"""`python -m benchmarks dask`: apply, encoding and search on one and on two Dask workers of one thread each.

The stages run whole: reading, checking and writing are on this machine and count. The three ways (this machine's own
threads, one worker, two workers) take turns, each from an empty cache; the best of --repeats runs counts, and what each
way wrote is compared. The LFs are ten regular expressions and a fuzzy comparison in Python; the encoder stands in for a
model: it counts hashed pieces of text, in Python, on one core, some .1 ms a text, where a small transformer takes
milliseconds; items and votes of the search are those of benchmarks/spaces.py. On a machine with two cores the two workers
have to share them with this process and with the scheduler.

With --bytes, what the stage exchanges with two workers, and with an object store between them (`EPOXY_SHARDS`), is counted as well.
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.carried import Carried, count_bytes, print_table
from benchmarks.spaces import draw_space, draw_votes
from tasks import apply, index, search
from tasks.cache import store
from tasks.compute.dask_cluster import ENVIRONMENT
from tasks.params import ApplyParams, EncoderParams, IndexKind, IndexParams, SearchParams
from tasks.readers import encoder
from tasks.tables import schemas
from tasks.tables.centers import Centers, write_centers
from tasks.tables.files import write_json
from tasks.tables.parquet import write_shards, write_table
from tasks.tables.paths import EMBEDDINGS, ITEMS, KEPT_CENTERS, NEIGHBORS, VALID_GOLD, VOTES

CLASSES = ("no", "yes")
D = 384

_LFS = """
from difflib import SequenceMatcher
from tasks.labeling import labeling_function, regex_lf

patterns = [regex_lf(f"ends_{end}", column="text", pattern=rf"(?<!x){end}$", label=end % 2) for end in range(10)]

@labeling_function
def resembles(item):
    return "yes" if SequenceMatcher(None, item.text, "the number of the last item").ratio() > 0.55 else None
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table, in seconds."""

    work: str
    items: int
    here: float
    """Without a cluster."""
    one: float
    two: float
    ratio: float
    """One worker's time over that of two."""
    is_equal: bool
    """Whether all three wrote the same bytes."""


def main(arguments: list[str]) -> int:
    """Print the table and, with --json, write the results; 1 if results differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks dask", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--apply", type=int, default=100_000, help="items that LFs vote on (default 100,000)")
    parser.add_argument("--encode", type=int, default=40_000, help="texts that are encoded (default 40,000)")
    parser.add_argument("--search", type=int, default=100_000, help="items that look for neighbors (default 100,000)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of which the best counts (default 2)")
    parser.add_argument("--bytes", action="store_true", help="count what is sent, without and with an object store")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("distributed") is None:
        print("Dask is not installed: pip install 'epoxy-flow[dask]'", file=sys.stderr)
        return 2
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    sizes = {"apply": options.apply, "encode": options.encode, "search": options.search}
    results: list[Result] = []
    carried: list[Carried] = []
    with _start([1, 2]) as clusters, ExitStack() as stack:
        for work, prepare in WORKS.items():
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            run = prepare(root, sizes[work])
            results.append(_measure(work, sizes[work], root, run, ["", *clusters], options.repeats))
            carried += count_bytes(work, run, root, clusters[-1]) if options.bytes else []
    print(f"{'work':8} {'items':>9} {'here':>8} {'1 worker':>9} {'2 workers':>10} {'ratio':>6} {'same bytes':>11}")
    for one in results:
        print(
            f"{one.work:8} {one.items:9,} {one.here:8.2f} {one.one:9.2f} {one.two:10.2f} {one.ratio:6.2f} "
            f"{'yes' if one.is_equal else 'NO':>11}"
        )
    if carried:
        print_table(carried)
    if options.json:
        write_json(options.json, [asdict(one) for one in results])
    is_equal = all(one.is_equal for one in results) and all(one.is_equal for one in carried)
    return 0 if is_equal else 1


@contextmanager
def _start(counts: Sequence[int]) -> Iterator[list[str]]:
    """The addresses of clusters of so many workers each."""
    from distributed import LocalCluster

    # Read by workers as they start. One thread in Polars as well (nannies see to BLAS); memory as the README advises.
    settings = {"POLARS_MAX_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
    with patch.dict(os.environ, settings), ExitStack() as stack:
        options = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
        start: Callable[..., Any] = LocalCluster
        yield [stack.enter_context(start(n_workers=count, **options)).scheduler_address for count in counts]


Run = Callable[[], bytes]
"""Does the work and gives back what it wrote."""


def _measure(work: str, n: int, root: Path, run: Run, places: Sequence[str], repeats: int) -> Result:
    seconds: list[list[float]] = [[] for _ in places]
    written: set[bytes] = set()
    # The first round is not timed: workers import what they need.
    for turn in range(repeats + 1):
        for place, found in zip(places, seconds, strict=True):
            os.environ[ENVIRONMENT] = place
            shutil.rmtree(root / store.FOLDER, ignore_errors=True)
            began = time.perf_counter()
            content = run()
            if turn:
                found.append(time.perf_counter() - began)
            written.add(hashlib.sha256(content).digest())
    here, one, two = map(min, seconds)
    return Result(work=work, items=n, here=here, one=one, two=two, ratio=one / two, is_equal=len(written) == 1)


def _prepare_apply(root: Path, n: int) -> Run:
    numbers = pl.int_range(n, eager=True)
    text = ("item number " + numbers.cast(pl.String) + " of the day, and a few words more").alias("text")
    _write_items(root, n, [(text + " " + numbers.cast(pl.String)).alias("text")])
    gold = pl.DataFrame({"item_id": [0], "gold": pl.Series([0], dtype=pl.Int8)})
    write_table(root / VALID_GOLD, gold, schemas.gold(2))
    (root / "lfs").mkdir()
    (root / "lfs" / "mine.py").write_text(_LFS)

    def run() -> bytes:
        apply.run(root, CLASSES, ApplyParams(source="lfs/mine.py"))
        return (root / VOTES).read_bytes()

    return run


def _prepare_encode(root: Path, n: int) -> Run:
    texts = pl.Series([f"item number {number} of the day, and a few words more" for number in range(n)])

    def run() -> bytes:
        found = encoder.encode_texts(root, texts, EncoderParams(model="pieces"), load_pieces)
        return np.ascontiguousarray(found.matrix[found.rows]).tobytes()

    return run


def load_pieces(root: Path, params: encoder.ModelChoice) -> encoder.Encoder:
    """An encoder that needs nothing."""
    return count_pieces


def count_pieces(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """How often each of `D` hashes of pieces of 1 to 8 letters is in each text."""
    counts = np.zeros((len(texts), D), np.float32)
    for row, text in enumerate(texts):
        for length in range(1, 9):
            for start in range(len(text) - length + 1):
                counts[row, zlib.crc32(text[start : start + length].encode()) % D] += 1
    return counts


def _prepare_search(root: Path, n: int) -> Run:
    space = draw_space("clustered", n, D)
    ids = _write_items(root, n, [])
    embeddings = np.concatenate(list(space.draw_batches()))
    column = pl.Series("embedding", embeddings, dtype=pl.Array(pl.Float32, D))
    write_shards(root / EMBEDDINGS, [pl.DataFrame([ids, column])], schemas.embeddings(D))
    write_centers(root / KEPT_CENTERS, Centers.none())
    L = draw_votes(space, 20, 0.05, 2)
    votes = pl.DataFrame([ids, *(pl.Series(f"lf{lf}", L[:, lf]) for lf in range(L.shape[1]))])
    write_table(root / VOTES, votes, schemas.votes(2, votes.columns))
    index.run(root, CLASSES, IndexParams(kind=IndexKind.FLAT))

    def run() -> bytes:
        search.run(root, CLASSES, SearchParams())
        return (root / NEIGHBORS).read_bytes()

    return run


def _write_items(root: Path, n: int, columns: list[pl.Series]) -> pl.Series:
    ids = pl.int_range(n, eager=True).alias("item_id")
    items = pl.DataFrame([ids, pl.repeat("train", n, eager=True).alias("split"), *columns])
    write_table(root / ITEMS, items, schemas.ITEMS)
    return ids


WORKS = {"apply": _prepare_apply, "encode": _prepare_encode, "search": _prepare_search}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
