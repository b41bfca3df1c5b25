"""Imports pandera for Polars alone.

pandera also imports pandas, and Hypothesis beside it, wherever they are installed, which takes longer than all else that a
stage imports, and which nothing here needs. It is told that there is neither; who asks pandera for what needs pandas, as an
LF module may, gets it then.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

_LEFT_OUT = ("pandas", "hypothesis")


class _WithoutPandas:
    """Finds no pandas for one thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Return nothing, so that the next finder is asked, unless this thread asks for what is left out."""
        if name in _LEFT_OUT and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextlib.contextmanager
def pandas_left_out() -> Iterator[None]:
    """A block that imports pandera without pandas, unless one of them is there already.

    Checks that are made after it are those for Polars.
    """
    if "pandas" in sys.modules or "pandera" in sys.modules:
        yield
        _find_backends()
        return
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
        _find_backends()
    finally:
        sys.meta_path.remove(finder)
    complete = [sys.modules[name] for name in ("pandera.backends.register_checks", "pandera.typing", "pandera")]
    for module in complete[1:]:
        vars(module)["__getattr__"] = _complete_when_asked(module, complete)


def _find_backends() -> None:
    """Let pandera look for Polars and pandas as it does at the first check, once; it remembers what it found.

    No table is checked: that would start the threads of Polars, which a process that is forked from this would miss.
    """
    import pandera.polars as pa
    import polars as pl

    pa.Check.get_backend(pl.LazyFrame())


def _complete_when_asked(module: ModuleType, modules: list[ModuleType]) -> Callable[[str], Any]:
    """The `__getattr__` of `module` that imports `modules` once more, now with pandas, for a name that is missing."""

    def find(name: str) -> Any:
        if not name.startswith("__"):
            for one in modules:
                vars(one).pop("__getattr__", None)
            for one in modules:
                importlib.reload(one)
            if name in vars(module):
                return vars(module)[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}", name=name, obj=module)

    return find
