"""Rows a part at a time: what is made of a part then needs no memory for all, and adds up in the same order whatever their number."""

BLOCK = 4096
"""Rows per block of a float64 reduction, so that the order of summation is fixed for every n."""

WIDE = 1 << 17
"""Rows per block where whole columns are added up or looked at: few blocks, as each is a handful of NumPy's calls."""


def cut_slices(count: int, size: int = BLOCK) -> list[slice]:
    """Slices of `size` rows, the last perhaps of fewer, that cover `count` rows in order.

    >>> cut_slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
