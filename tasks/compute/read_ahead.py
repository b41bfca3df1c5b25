"""Work on one batch while the next one is made ready."""

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(batches: Iterable[T]) -> Iterator[T]:
    """The `batches` as they are; while one is in use, a thread makes the next one, and no more than that.

    An error in making one comes when its turn has come.

    >>> list(read_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    remaining = iter(batches)
    with ThreadPoolExecutor(1) as maker:
        upcoming = maker.submit(list, itertools.islice(remaining, 1))
        while batch := upcoming.result():
            upcoming = maker.submit(list, itertools.islice(remaining, 1))
            yield batch.pop()
