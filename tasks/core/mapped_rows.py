"""Rows of an array that may be a mapped file larger than memory: the disk is asked for all of them before the first is needed.

Otherwise each page is asked for when it is its turn, and waited for: 4 KiB at a time, or with what lies around it, which pushes
out what is needed.
"""

from __future__ import annotations

import mmap
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tasks.core.types import Int64

ASKED = 32
"""Pages asked for at once, 128 KiB: of more the system may leave some out."""

T = TypeVar("T", bound=np.generic)


def fetch_rows(array: npt.NDArray[T], rows: Int64 | slice) -> npt.NDArray[T]:
    """Return `array[rows]`, of any array of rows."""
    file = find_map(array)
    if file is not None and len(array):
        _ask(file, array, np.arange(*rows.indices(len(array))) if isinstance(rows, slice) else rows)
    return array[rows]


def find_map(array: npt.NDArray[Any]) -> mmap.mmap | None:
    """Return the mapped file that `array` is a view of; None where it is in memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _ask(file: mmap.mmap, array: npt.NDArray[Any], rows: Int64) -> None:
    if not len(rows):
        return
    begin = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
    start = begin + np.sort(rows) * array.strides[0]
    first, last = start // mmap.PAGESIZE, (start + array.strides[0] - 1) // mmap.PAGESIZE
    is_apart = np.r_[True, first[1:] > last[:-1] + 1]
    for page, end in zip(first[is_apart].tolist(), last[np.r_[is_apart[1:], True]].tolist(), strict=True):
        for part in range(page, end + 1, ASKED):
            pages = min(ASKED, end + 1 - part)
            file.madvise(mmap.MADV_WILLNEED, part * mmap.PAGESIZE, pages * mmap.PAGESIZE)
