"""tasks.compute.read_ahead: the same batches in the same order, one made ahead, and errors when their turn has come."""

import threading
from collections.abc import Iterator

import pytest

from tasks.compute.read_ahead import read_ahead


def test_one_batch_and_no_more_is_made_ahead() -> None:
    made: list[int] = []
    is_made = threading.Semaphore(0)

    def make() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            is_made.release()
            yield number

    for used, number in enumerate(read_ahead(make())):
        assert number == used
        for _ in range(2 if used == 0 else 1 if used < 4 else 0):
            assert is_made.acquire(timeout=10)
        assert made == list(range(min(used + 2, 5)))


def test_an_error_comes_after_the_batches_before_it() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("no second one")

    batches = read_ahead(make())
    assert next(batches) == 1
    with pytest.raises(ValueError, match="no second one"):
        next(batches)


def test_batches_may_be_false_and_none() -> None:
    assert list(read_ahead([0, None, ""])) == [0, None, ""]
    assert list(read_ahead([])) == []
