"""Progress of a long computation, in hundredths of a unit of work, as told to a callback that it knows nothing about."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Takes the hundredths of a unit of work that were done since the last call; 0 is a sign of life."""

WHOLE = 100
"""Hundredths of a unit of work."""


def ignore_progress(done: int) -> None:
    """Do nothing: the no-op callback."""


@contextmanager
def count_steps(advance: Advance, most: int) -> Iterator[Advance]:
    """Yield a callback that takes the steps, at most `most`, of one unit of work; at its end it is whole, however few came.

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
