"""The digest of a labeling function: of its code and of everything in the project that the code can see.

Constants, closures, defaults, attributes and the globals that the code names are followed: functions with their own
globals, numbers, texts, arrays, compiled patterns, and collections of these. What an installed package defines is
identified by its name and the versions of all installed packages; so are those parts of the standard library that
depend on their arguments alone. Anything else (the clock, a loaded model, an object of one of the project's classes)
leaves the LF without a digest, so that it always runs.
"""

import dataclasses
import dis
import functools
import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from tasks.cache.code import PROJECT, find_code, identify_code
from tasks.cache.store import identify, identify_file
from tasks.lf.functions import LabelingFunction, RowwiseLF
from tasks.lf.loading import LFModule
from tasks.lf.observation import PIPELINE, find_lf_files, is_answers_file

_REFLECTIVE = frozenset({"__import__", "eval", "exec", "globals", "__globals__", "import_module", "modules"})
"""Names through which code can reach more of the project than it names."""

_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_CHANGES_GLOBAL = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_CACHED = type(functools.lru_cache(len))

_PACKAGE_FOLDERS = [
    path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")
]  # a user's, the system's

_LIBRARIES = tuple({Path(path).resolve() for path in (*sysconfig.get_paths().values(), *_PACKAGE_FOLDERS) if path})

_CLOSED = frozenset(
    """__future__ _abc _bisect _collections _functools _heapq _json _operator _sre _struct abc array ast base64 binascii
    bisect builtins calendar cmath codecs collections colorsys copy copyreg csv dataclasses decimal difflib enum
    fractions functools hashlib heapq hmac html io ipaddress itertools json keyword math numbers operator pathlib pprint
    re reprlib statistics string stringprep struct textwrap token tokenize types typing unicodedata warnings zlib
    zoneinfo""".split()  # noqa: SIM905  a list of names takes a line each
)
"""Standard modules whose results depend on their arguments alone; files that they open are observed."""

_PLAIN = frozenset({bool, int, float, complex, str, bytes, tuple, list, set, frozenset, dict})
"""Types of values that a library does not change by itself."""


class _UnknownError(Exception):
    """A value whose content cannot be determined."""


class Fingerprints:
    """Digests of the labeling functions of `module` in the project at `root`, for the present state of its files."""

    def __init__(self, root: Path, module: LFModule) -> None:
        contents = {path.relative_to(root).as_posix(): identify_file(path) for path in find_lf_files(root)}
        self._all = identify(contents)
        # Code may read any table or word list beside it. Answers of language models are read by `llm_lf`, into the LF itself: a
        # new one changes no other LF, unless somebody else reads them.
        data = identify(
            {
                name: content
                for name, content in contents.items()
                if not name.endswith(".py") and (module.side_inputs.are_answers_read or not is_answers_file(Path(name)))
            }
        )
        is_code_needed = module.has_effects or module.side_inputs.is_source_read
        self._shared = identify(self._all if is_code_needed else data, module.side_inputs.identify())

    def identify_lf(self, lf: LabelingFunction) -> str | None:
        """The digest of everything that determines the votes of `lf`, except its name; None if that cannot be determined."""
        try:
            kind = [type(lf).__name__, str(lf.on_error)]
            if isinstance(lf, RowwiseLF):
                kind += [str(lf.timeout), str(lf.on_timeout)]
            code = identify_code(*PIPELINE)
            return identify(*kind, self._shared, _read_versions(), code, _Walk(self._all)(lf.function))
        except Exception:  # objects of the user may raise anything when their attributes are read
            return None


@functools.cache
def _read_versions() -> str:
    """A digest of the versions of the interpreter and of all installed packages."""
    # The name of a package's metadata folder has its version; reading the metadata itself would take a quarter second.
    folders = (folder for entry in sys.path if entry for folder in Path(entry).glob("*.dist-info"))
    packages = {folder.name for folder in folders}
    return identify(sys.version, sorted(packages))


@functools.cache
def _list_pipeline() -> frozenset[Path]:
    """The pipeline's files, whose content is part of every digest."""
    return frozenset(find_code(*PIPELINE))


class _Walk:
    """A walk over what a function can see; a value met again is identified by the position of its first occurrence."""

    def __init__(self, lfs: str) -> None:
        self._lfs = lfs
        self._met: dict[int, int] = {}
        self._kept: list[object] = []

    def __call__(self, value: object) -> str:
        """The digest of `value`."""
        return hashlib.sha256("\0".join(self._describe(value)).encode("utf-8", "surrogatepass")).hexdigest()

    def _describe(self, value: Any) -> Iterable[str]:
        kind = type(value)
        if value is None or value is Ellipsis or kind in (bool, int, float, complex, str, bytes):
            return [kind.__name__, repr(value)]
        if id(value) in self._met:
            return ["met", str(self._met[id(value)])]
        self._met[id(value)] = len(self._met)
        self._kept.append(value)  # kept alive: the id of a deleted object could be reused
        if kind in (tuple, list):
            return [kind.__name__, *map(self, value)]
        if kind in (set, frozenset):
            return [kind.__name__, *sorted(_Walk(self._lfs)(member) for member in value)]
        if kind is dict:
            return ["dict", *(self(part) for pair in value.items() for part in pair)]
        if kind is re.Pattern:
            return ["pattern", self(value.pattern), str(value.flags)]
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.hasobject:
                return ["array", self(value.tolist())]
            return ["array", str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if kind is functools.partial:
            return ["partial", self(value.func), self(value.args), self(value.keywords)]
        if kind is MethodType:
            return ["method", self(value.__self__), self(value.__func__)]
        if isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, ModuleType | None):
            return ["method", self(value.__self__), value.__name__]
        if kind is CodeType:
            return self._describe_code(value)
        if kind is ModuleType:
            return self._describe_module(value)
        if isinstance(value, Enum) and _is_foreign(kind):
            return ["enum", kind.__module__, kind.__qualname__, value.name]
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and _is_foreign(kind):
            fields = [self(getattr(value, field.name)) for field in dataclasses.fields(value)]
            return [kind.__module__, kind.__qualname__, *fields]
        if _is_foreign(value) and _has_name(value):
            return ["name", value.__module__, value.__qualname__]
        if kind is FunctionType:
            return self._describe_function(value)
        if kind is _CACHED:
            return ["cached", self(value.__wrapped__)]
        if isinstance(value, type) and _is_own(value.__module__):
            return ["class", value.__qualname__, self._lfs]
        raise _UnknownError

    def _describe_function(self, function: FunctionType) -> list[str]:
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # the name is bound later
                raise _UnknownError from None
        parts = [function.__defaults__, function.__kwdefaults__, cells, function.__code__, function.__dict__]
        return ["function", *map(self, parts), *self._describe_globals(function.__code__, function.__globals__)]

    def _describe_globals(self, code: CodeType, known: dict[str, Any]) -> Iterable[str]:
        """Descriptions of the globals that `code`, or code nested in it, names."""
        levels: list[object] = []
        for instruction in dis.get_instructions(code):
            name = instruction.argval
            if instruction.opname in _CHANGES_GLOBAL:
                raise _UnknownError
            if instruction.opname == "IMPORT_NAME":
                # The import's level is on the stack below the names; only at level 0 is the name that of a module.
                is_absolute = len(levels) > 1 and levels[-2] == 0
                yield self._describe_import(name) if is_absolute else self._lfs
            elif instruction.opname in _GLOBAL and name in known:
                yield f"{name}={self(known[name])}"
                if type(known[name]) is ModuleType and is_library(known[name]):
                    yield from self._describe_attributes(known[name], code.co_names)
            if name in _REFLECTIVE:
                yield self._lfs
            levels = [*levels[-1:], name]
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from self._describe_globals(constant, known)

    def _describe_attributes(self, module: ModuleType, names: Iterable[str]) -> Iterable[str]:
        """Descriptions of what others may have assigned in a library's module: plain values, and the project's functions."""
        for name in names:
            value = vars(module).get(name)
            is_function_of_ours = isinstance(value, FunctionType) and not _is_foreign(value)
            is_module_of_ours = type(value) is ModuleType and not is_library(value)
            if type(value) in _PLAIN or is_function_of_ours or is_module_of_ours:
                yield f"{name}={self(value)}"

    def _describe_code(self, code: CodeType) -> list[str]:
        # Neither name nor line numbers: renaming or moving a function changes no vote.
        plain = [code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
        counts = [code.co_flags, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount]
        return ["code", *map(self, [*plain, *counts, code.co_exceptiontable, *code.co_consts])]

    def _describe_module(self, module: ModuleType) -> list[str]:
        if is_library(module):
            if not _is_closed(module.__name__):
                raise _UnknownError
            return ["module", module.__name__]
        if _is_own(module.__name__):
            return ["module", module.__name__, self._lfs]
        raise _UnknownError

    def _describe_import(self, name: str) -> str:
        top = name.partition(".")[0]
        if _is_own(name) or not top:
            return self._lfs
        found = sys.modules.get(top) or importlib.util.find_spec(top)
        if found is None or not is_library(found) or not _is_closed(name):
            raise _UnknownError
        return name


def _is_own(module: str) -> bool:
    """Whether this module belongs to lfs/."""
    return module.partition(".")[0] == "lfs"


def _is_foreign(value: Any) -> bool:
    """Whether `value` is defined by a library or the pipeline, and so is covered by versions or the pipeline's code."""
    name = getattr(value, "__module__", None) or ""
    module = sys.modules.get(name)
    return module is not None and is_library(module) and _is_closed(name)


def _is_closed(module: str) -> bool:
    """Whether the results of this library module depend only on arguments and its version."""
    top = module.partition(".")[0]
    return top not in sys.stdlib_module_names or top in _CLOSED


def _has_name(value: Any) -> bool:
    """Whether looking up the name of `value` in its module gives `value`."""
    found: Any = sys.modules[value.__module__]
    for part in getattr(value, "__qualname__", "<unnamed>").split("."):
        found = getattr(found, part, None)
    return found is value


def is_library(module: Any) -> bool:
    """Whether a module (or its spec) belongs to the interpreter, an installed package or the pipeline."""
    file = getattr(module, "__file__", None) or getattr(module, "origin", None)
    if file in (None, "built-in", "frozen"):
        name = str(getattr(module, "__name__", None) or getattr(module, "name", ""))
        return name.partition(".")[0] in sys.stdlib_module_names
    return _is_library_file(Path(file).absolute())


@functools.cache
def _is_library_file(file: Path) -> bool:
    """Whether the file at an absolute path does; kept, since links are followed for hundreds of values of each module."""
    path = file.resolve()
    is_ours = path in _list_pipeline() or (path.parent == PROJECT / "tasks" and path.name == "__init__.py")
    return is_ours or any(path.is_relative_to(library) for library in _LIBRARIES)
