"""How a long computation says that it gets on, without knowing to whom: `advance` is told of hundredths, one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Is told how many more hundredths of a piece of work are done; also 0, as a sign of life."""

WHOLE = 100
"""Hundredths of a piece of work."""


def ignore_progress(done: int) -> None:
    """Nothing: the `advance` of work that nobody watches."""


@contextmanager
def count_steps(advance: Advance, most: int) -> Iterator[Advance]:
    """Takes the steps, of which there are at most `most`, of one piece of work; at its end it is whole, however few came.

    >>> told = []
    >>> with count_steps(told.append, 3) as step:
    ...     step(1)
    ...     step(1)
    >>> told
    [33, 33, 34]
    """
    taken = told = 0

    def step(by: int) -> None:
        nonlocal taken, told
        taken += by
        now = min(WHOLE * taken // max(most, 1), WHOLE)
        advance(now - told)
        told = now

    yield step
    advance(WHOLE - told)
