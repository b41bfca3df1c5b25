"""Probabilities of several methods side by side, as tables of predictions, tabulated and written a part of the items at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from tasks.core.types import ITEM_ID, Float64, Int64
from tasks.tables import schemas
from tasks.tables.parquet import cut_rows, write_batches


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What is written of a few items instead: their rows (g,), ascending, and by method (g, k)."""

    rows: Int64
    probabilities: Mapping[str, Float64]


def write_predictions(
    path: Path, items: pl.DataFrame, methods: Mapping[str, Float64], held_out: HeldOut | None = None
) -> None:
    """Write the probabilities (n, k) of the `methods` for `items` (n rows) to `path`."""
    k = next(iter(methods.values())).shape[1]
    names = [ITEM_ID, *(f"{method}/{c}" for method in methods for c in range(k))]
    write_batches(path, _tabulate(items, methods, held_out), schemas.predictions(k, names))


def _tabulate(items: pl.DataFrame, methods: Mapping[str, Float64], held_out: HeldOut | None) -> Iterator[pl.DataFrame]:
    for part in cut_rows(items.height):
        table = items[part].select(ITEM_ID)
        for method, probabilities in methods.items():
            P = probabilities[part]
            if held_out is not None and method in held_out.probabilities:
                low, high = np.searchsorted(held_out.rows, [part.start, part.stop])
                P = P.copy()
                P[held_out.rows[low:high] - part.start] = held_out.probabilities[method][low:high]
            table = table.with_columns(
                pl.Series(f"{method}/{c}", np.ascontiguousarray(column)) for c, column in enumerate(P.T)
            )
        yield table
