"""Batches made ready in a thread while the batch before them is in use."""

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(batches: Iterable[T]) -> Iterator[T]:
    """The `batches` unchanged; while a batch is in use, a thread makes the next, and no more than that.

    An error in making a batch is raised when that batch is asked for.

    >>> list(read_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    remaining = iter(batches)
    with ThreadPoolExecutor(1) as maker:
        upcoming = maker.submit(list, itertools.islice(remaining, 1))
        while batch := upcoming.result():
            upcoming = maker.submit(list, itertools.islice(remaining, 1))
            yield batch.pop()
