"""Arrays on disk for what may not fit memory."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tasks.core.mapped_rows import find_map

T = TypeVar("T", bound=np.generic)


def open_scratch(folder: Path, shape: tuple[int, int], dtype: type[T]) -> npt.NDArray[T]:
    """An array of zeros on disk below `folder`, for what may not fit memory; gone when nobody holds it.

    The file has no name: even a killed process leaves nothing behind.
    """
    if 0 in shape:
        return np.zeros(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # Reserved, since a mapped file on a full disk would end the process where an error could be told.
        os.posix_fallocate(file.fileno(), 0, np.dtype(dtype).itemsize * shape[0] * shape[1])
        return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=shape))


def expect_scattered_reads(array: npt.NDArray[Any]) -> None:
    """Tell the system that rows of `array`, if it is a mapped file, will be read in random order.

    It then reads from disk what is asked for and not the 128 KiB around it, which would push other pages out of memory.
    """
    if (file := find_map(array)) is not None:
        file.madvise(mmap.MADV_RANDOM)
