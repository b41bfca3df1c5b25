"""Polars Series from the other kinds of column that LFs may return."""

import numpy as np
import polars as pl


def to_series(value: object) -> pl.Series:
    """`value` (a Polars or pandas Series or a 1-d NumPy array) as a Polars Series; missing values become null.

    Raises
    ------
    TypeError
        `value` is something else.
    """
    if isinstance(value, pl.Series):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return pl.Series(value.tolist()) if value.dtype == object else pl.Series(value)
    if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "tolist"):
        # pandas marks missing values as NaN, None or NA, and then stores integers as floats.
        values = [
            None if found is None or type(found).__name__ == "NAType" or found != found else found
            for found in value.tolist()
        ]
        if values and all(
            isinstance(found, float | None) and (found is None or found.is_integer()) for found in values
        ):
            values = [None if found is None else int(found) for found in values]
        return pl.Series(values)
    shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
    raise TypeError(f"got {type(value).__name__}{shape}; expected an expression, a Series or a 1-d array")
