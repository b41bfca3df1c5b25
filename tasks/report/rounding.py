"""Numbers as the files of the report hold them: rounded, and undefined where they are NaN."""

import numpy as np
import polars as pl

DECIMALS = 6
"""Decimals of the numbers in metrics and plots: more than any data set can tell, few enough to hide the order of summation."""


def round_number(value: float) -> float | None:
    """`value` rounded for a file, None where undefined."""
    return None if np.isnan(value) else round(float(value), DECIMALS)


def round_table(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with rounded numbers, null where undefined."""
    return table.with_columns(pl.selectors.float().fill_nan(None).round(DECIMALS))
