"""Probabilities of several methods side by side, as tables of predictions, tabulated and written a part of the items at a time."""

from collections.abc import Callable, Mapping, Sequence
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
    path: Path,
    items: pl.DataFrame,
    k: int,
    methods: Sequence[str],
    predict: Callable[[slice], Mapping[str, Float64]],
    held_out: HeldOut | None = None,
) -> None:
    """Write the probabilities of the `methods` for `items` to `path`; `predict` returns those (b, k) of some rows by method."""
    names = [ITEM_ID, *(f"{method}/{c}" for method in methods for c in range(k))]
    tables = (_tabulate(items[rows], rows, predict(rows), held_out) for rows in cut_rows(items.height))
    write_batches(path, (table.select(names) for table in tables), schemas.predictions(k, names))


def _tabulate(items: pl.DataFrame, rows: slice, found: Mapping[str, Float64], held_out: HeldOut | None) -> pl.DataFrame:
    columns = []
    for method, P in found.items():
        if held_out is not None and method in held_out.probabilities:
            low, high = np.searchsorted(held_out.rows, [rows.start, rows.stop])
            P = P.copy()
            P[held_out.rows[low:high] - rows.start] = held_out.probabilities[method][low:high]
        columns += [pl.Series(f"{method}/{c}", np.ascontiguousarray(column)) for c, column in enumerate(P.T)]
    return items.select(ITEM_ID).with_columns(columns)
