"""Clocks and sources of randomness that labeling functions use, found in their code.

A vote that depends on the date is the same when the LF is asked twice, and reading a clock triggers no audit hook. So
the names in an LF's code are followed, through helpers, closures, methods and imports within functions, and compared
with functions known to change between calls. What is reached by `getattr` or inside a library is not seen.
"""

import datetime
import dis
import functools
import importlib
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from tasks.lf.fingerprint import is_library
from tasks.lf.functions import LabelingFunction

_CHANGING = {
    "time": frozenset(
        """ctime gmtime localtime monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns
        strftime thread_time thread_time_ns time time_ns""".split()  # noqa: SIM905  a list of names takes a line each
    ),
    "posix": frozenset({"getpid", "getrandom", "urandom"}),
    "uuid": frozenset({"getnode", "uuid1", "uuid4"}),
    "secrets": frozenset({"randbelow", "token_bytes", "token_hex", "token_urlsafe"}),
}
"""Functions by module; those of `random` and the like are recognized by the object they belong to."""

_TODAY = frozenset({"now", "today", "utcnow"})
"""Methods of datetime.date and its subclasses, which include those of pandas."""

_LOADED = frozenset({"time", "datetime", "random", "os", "uuid", "secrets", "numpy"})
"""Modules that a function may import for their clock or randomness."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))

_CACHED = type(functools.lru_cache(len))

_MISSING = object()


def find_clocks(*values: object) -> tuple[str, ...]:
    """The names of clocks and sources of randomness that the functions in `values` use, such as 'time.time', ascending."""
    search = _Search()
    for value in values:
        search.visit(value)
    return tuple(sorted(search.found))


def uses_hash(lf: LabelingFunction) -> bool:
    """Whether `lf` calls Python's hash(), which differs between processes that were started with other seeds."""
    search = _Search()
    search.visit(lf)
    return search.uses_hash


def find_clocks_at_import(path: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of those that the module at `path`, whose globals are `values`, uses while it is imported, ascending."""
    code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    search = _Search()
    search.read_code(code, values, is_within=False)
    return tuple(sorted(search.found))


class _Search:
    """A walk over everything that functions can reach by name."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.uses_hash = False
        self._met: dict[int, object] = {}

    def visit(self, value: Any) -> None:
        """Record `value` if it is a clock or source of randomness, else follow what it consists of."""
        if isinstance(value, _PLAIN) or id(value) in self._met:
            return
        self._met[id(value)] = value  # kept alive, so that no other object gets its id
        if source := _name_source(value):
            self.found.add(source)
        elif isinstance(value, FunctionType):
            self._visit_function(value)
        elif isinstance(value, functools.partial):
            self._visit_all([value.func, *value.args, *value.keywords.values()])
        elif isinstance(value, MethodType):
            self._visit_all([value.__self__, value.__func__])
        elif isinstance(value, list | tuple | set | frozenset):
            self._visit_all(value)
        elif isinstance(value, dict):
            self._visit_all(value.values())
        elif isinstance(value, type):
            if _is_own(value.__module__):
                self._visit_all(vars(value).values())
        elif isinstance(value, staticmethod | classmethod):
            self.visit(value.__func__)
        elif isinstance(value, property):
            self._visit_all([value.fget])
        elif isinstance(value, LabelingFunction):
            self.visit(value.function)
        elif isinstance(value, _CACHED):
            self.visit(value.__wrapped__)
        elif _is_own(type(value).__module__):
            self._visit_all([type(value), *getattr(value, "__dict__", {}).values()])

    def _visit_all(self, values: Iterable[Any]) -> None:
        for value in list(values):
            self.visit(value)

    def _visit_function(self, function: FunctionType) -> None:
        cells: dict[str, Any] = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                cells[name] = cell.cell_contents
            except ValueError:
                continue  # bound later
        self._visit_all([*cells.values(), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()])
        self._visit_all(vars(function).values())
        module = sys.modules.get(function.__module__ or "")
        if module is None or not is_library(module):
            self.read_code(function.__code__, {**function.__globals__, **cells})

    def read_code(self, code: CodeType, values: Mapping[str, Any], *, is_within: bool = True) -> None:
        """Follow the names in `code`, looked up in `values`; if `is_within`, also those in functions it defines."""
        known = dict(values)
        value: Any = _MISSING
        imported: Any = _MISSING
        names: list[object] = []
        for instruction in dis.get_instructions(code):
            name, operation = instruction.argval, instruction.opname
            if operation in ("PUSH_NULL", "CACHE", "EXTENDED_ARG", "PRECALL"):
                continue
            if operation == "IMPORT_NAME":
                value = imported = _find_module(name, is_whole=bool(names and names[-1]))
            elif operation == "IMPORT_FROM":
                value = _find_attribute(imported, name)
            elif operation.startswith("STORE_") and value is not _MISSING and name is not None:
                stored, *loaded = name if isinstance(name, tuple) else (name,)
                known[stored] = value
                value = known.get(loaded[0], _MISSING) if loaded else _MISSING
            elif operation in ("LOAD_ATTR", "LOAD_METHOD"):
                value = _find_attribute(value, name) if isinstance(value, ModuleType | type) else _MISSING
            elif operation.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")):
                value = known.get(name[-1] if isinstance(name, tuple) else name, _MISSING)
                self.uses_hash |= name == "hash" and value is _MISSING
            else:
                value = _MISSING
            names = [name]
            is_asked = value is not _MISSING and not operation.startswith("IMPORT_")
            if is_asked and not isinstance(value, ModuleType) and (is_within or _name_source(value)):
                self.visit(value)
        if {"now", "today"} & {constant for constant in code.co_consts if isinstance(constant, str)} and (
            "datetime64" in code.co_names
        ):
            self.found.add("numpy.datetime64")
        for constant in code.co_consts if is_within else ():
            if isinstance(constant, CodeType):
                self.read_code(constant, known)


def _name_source(value: Any) -> str | None:
    """The name of `value` if it is a clock or source of randomness, else None."""
    name, owner = _find_attribute(value, "__name__"), _find_attribute(value, "__self__")
    if not isinstance(name, str):
        return None
    if isinstance(owner, type) and issubclass(owner, datetime.date) and name in _TODAY:
        return f"{owner.__name__}.{name}"
    if isinstance(owner, random.SystemRandom):
        return f"secrets.{name}"
    if owner is getattr(random.random, "__self__", None):
        return None if name in ("seed", "getstate", "setstate") else f"random.{name}"
    if owner is getattr(np.random.rand, "__self__", None):
        return f"numpy.random.{name}"
    module = _find_attribute(value, "__module__")
    if isinstance(module, str) and name in _CHANGING.get(module, ()):
        return f"{'os' if module == 'posix' else module}.{name}"
    return None


def _find_attribute(value: Any, name: str) -> Any:
    """Its attribute of this name; where it has none, or does not give it, `_MISSING`."""
    try:
        return getattr(value, name, _MISSING)
    except Exception:  # modules that import their parts when asked raise whatever such an import raises
        return _MISSING


def _find_module(name: str, *, is_whole: bool) -> Any:
    """The module that an import statement binds: `name` itself if `is_whole`, else its top-level package."""
    bound = name if is_whole else name.partition(".")[0]
    if name.partition(".")[0] in _LOADED:
        return importlib.import_module(bound)
    return sys.modules.get(bound, _MISSING)


def _is_own(module: str | None) -> bool:
    """Whether this module belongs to lfs/."""
    return (module or "").partition(".")[0] == "lfs"
