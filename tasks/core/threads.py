"""Threads: of libraries, which a sum must not depend on, and of our own."""

import contextlib
import ctypes
import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """A block in which the libraries of numbers have a single thread.

    To look for them among all that is loaded takes milliseconds, and a stage comes here hundreds of times: they are looked
    for anew only where something was imported since.
    """
    with _find_libraries(len(sys.modules)).limit(limits=1):
        yield


def map_in_threads(
    function: Callable[[Part], Result], parts: Iterable[Part], threads: int | None = None
) -> Iterator[Result]:
    """What `function` gives for each of `parts`, in their order, several of them computed at a time.

    threads: None stands for as many as BLAS is allowed (OMP_NUM_THREADS and the like). BLAS has a single one in each: a part per
    thread beats many threads per product.
    """
    libraries = _find_libraries(len(sys.modules)).select(user_api="blas")
    count = threads or max((library["num_threads"] for library in libraries.info()), default=1)
    with libraries.limit(limits=1), ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[Result]] = deque()
        for part in parts:
            waiting.append(pool.submit(function, part))
            # As many again are planned ahead, so that no thread waits and few results do.
            while len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    _return_memory()


def _return_memory() -> None:
    """Give the system what the threads have freed: glibc keeps it for threads to come, 180 MiB after two in `train` of a million items."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)


@functools.lru_cache(maxsize=1)
def _find_libraries(modules: int) -> ThreadpoolController:
    """Return the libraries that are loaded with so many `modules`."""
    return ThreadpoolController()
