"""Whether labeling functions replaced what everybody computes with: the functions of Python, NumPy and Polars."""

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl

from tasks.errors import LabelingFunctionError

_LIBRARIES = (builtins, np, np.linalg, np.random, pl)
"""What the pipeline computes with in the process in which LFs are imported and asked."""

_SHOWN = 3
"""The number of replaced functions that an error names."""


@contextmanager
def unchanged_libraries(subject: str) -> Iterator[None]:
    """The block, after which libraries are as they were before; `subject` is whose code runs in it.

    New names, such as an alias that an old program misses, are no change. What was replaced is told instead of an error of the
    block, which may come from it.

    Raises
    ------
    LabelingFunctionError
        The block replaced a function, a class or a method.
    """
    before = _list_names()
    replaced = []
    try:
        yield
    except Exception:
        if not (replaced := _restore(before)):
            raise
    else:
        replaced = _restore(before)
    if replaced:
        shown = ", ".join(replaced[:_SHOWN]) + (", ..." if len(replaced) > _SHOWN else "")
        raise LabelingFunctionError(
            f"{subject} replaces {shown}, with which everything here is computed, too. Leave libraries as they are: call "
            "a function of your own instead."
        )


def _list_names() -> list[tuple[Any, str, Any]]:
    """Each module or class with the names in it and what these stand for."""
    found: list[tuple[Any, str, Any]] = []
    for module in _LIBRARIES:
        for name, value in vars(module).items():
            found.append((module, name, value))
            if isinstance(value, type):
                found += [(value, inner, part) for inner, part in vars(value).items()]
    return found


def _restore(before: list[tuple[Any, str, Any]]) -> list[str]:
    """The names that no longer stand for what they did `before`, which they do again now."""
    replaced: dict[str, None] = {}
    for owner, name, value in before:
        if vars(owner).get(name) is not value:
            setattr(owner, name, value)
            library = f"{owner.__module__.partition('.')[0]}." if isinstance(owner, type) else ""
            replaced[f"{library}{owner.__name__}.{name}"] = None
    return list(replaced)
