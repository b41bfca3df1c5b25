"""Rounding of the numbers in the report's files; NaN becomes null."""

import numpy as np
import polars as pl

DECIMALS = 6
"""Decimals in metrics and plots: more than any data set justifies, few enough to hide the order of summation."""


def round_number(value: float) -> float | None:
    """`value`, rounded; None if it is undefined."""
    return None if np.isnan(value) else round(float(value), DECIMALS)


def round_table(table: pl.DataFrame) -> pl.DataFrame:
    """`table` with its numbers rounded, null where undefined."""
    return table.with_columns(pl.selectors.float().fill_nan(None).round(DECIMALS))
