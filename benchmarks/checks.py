"""`python -m benchmarks checks`: milliseconds of a processor to check a table, against pandera asked column by column.

Tables of a hundred rows, as a short run reads them by the hundred, and of a row group, the most that is checked at a time where a
table is read part by part. Each check is repeated for half a second, the two by turns, three times; the fastest counts.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from tasks.tables import schemas
from tasks.tables.parquet import ROW_GROUP
from tasks.tables.validation import validate_table

_SECONDS = 0.5
_TURNS = 3


def main(arguments: list[str]) -> int:
    """0 after printing a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks checks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="for each check and turn")
    parser.add_argument("--rows", type=int, nargs="+", default=[100, ROW_GROUP])
    options = parser.parse_args(arguments)
    print(f"{'table':24} {'rows':>6} {'all at once':>12} {'pandera':>8} {'ratio':>6}")
    for rows in options.rows:
        for name, (table, schema) in _make_tables(rows).items():
            one, other = _compare(
                functools.partial(validate_table, Path(), table, schema),
                functools.partial(schema.validate, table),
                options.seconds,
            )
            print(f"{name:24} {rows:6,} {one:12.2f} {other:8.2f} {other / one:6.1f}")
    return 0


def _make_tables(n: int) -> dict[str, tuple[pl.DataFrame, schemas.TableSchema]]:
    """Tables of `n` rows that fit their schemas."""
    chance = np.random.default_rng(0)
    ids = pl.Series("item_id", [f"{row:08}" for row in range(n)])
    lfs = {m: [f"lf{j}" for j in range(m)] for m in (6, 300)}
    votes = {
        m: pl.DataFrame([ids, *(pl.Series(lf, chance.integers(-1, 2, n), dtype=pl.Int8) for lf in names)])
        for m, names in lfs.items()
    }
    vectors = chance.normal(size=(n, 384)).astype(np.float32)
    labels = pl.DataFrame(
        [
            ids,
            pl.Series("label", chance.choice(["a", "b"], n)),
            pl.Series("p_a", share := chance.random(n)),
            pl.Series("p_b", 1 - share),
            pl.Series("original_votes", chance.integers(0, 3, n), dtype=pl.Int32),
        ]
    )
    return {
        **{f"votes of {m} LFs": (votes[m], schemas.votes(2, names)) for m, names in lfs.items()},
        "embeddings, 384": (
            pl.DataFrame([ids, pl.Series("embedding", vectors, dtype=pl.Array(pl.Float32, 384))]),
            schemas.embeddings(384),
        ),
        "labels": (labels, schemas.end_labels(["a", "b"])),
    }


def _compare(one: Callable[[], object], other: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Milliseconds of a processor that each takes."""
    times: dict[Callable[[], object], list[float]] = {one: [], other: []}
    for _ in range(_TURNS):
        for check, found in times.items():
            check()
            began, rounds = time.process_time(), 0
            while not rounds or time.process_time() - began < seconds:
                check()
                rounds += 1
            found.append((time.process_time() - began) / rounds * 1e3)
    return min(times[one]), min(times[other])


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
