"""Columns that LFs give in other forms than Polars', as Polars Series."""

import numpy as np
import polars as pl


def to_series(value: object) -> pl.Series:
    """A Polars Series, a 1-d NumPy array or a pandas Series as a Polars Series; its missing values are null.

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
        # pandas writes missing values as NaN, None or NA, and with them integers as floats.
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
