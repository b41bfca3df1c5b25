"""BLAS and OpenMP on a single thread, so that the order of no sum depends on the machine."""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which the libraries of numbers have a single thread.

    To look for them among all that is loaded takes milliseconds, and a stage comes here hundreds of times: they are looked
    for anew only where something was imported since.
    """
    with _find_libraries(len(sys.modules)).limit(limits=1):
        yield


@functools.lru_cache(maxsize=1)
def _find_libraries(modules: int) -> ThreadpoolController:
    """Return the libraries that are loaded with so many `modules`."""
    return ThreadpoolController()
