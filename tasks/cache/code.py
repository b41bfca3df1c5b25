"""The code that a result depends on, found by its imports: in dvc.yaml for a stage, in the key of what is cached.

Nobody types such lists: a helper that is edited must never leave an old result in use.
"""

import ast
import functools
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.cache.store import identify, identify_file

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages."""

PACKAGES = ("tasks", "flows", "lfs")
"""What belongs to the project; whatever else is imported is a library."""


def find_code(*modules: str) -> tuple[Path, ...]:
    """The project's files that `modules` need, themselves among them, ascending: what they import, at the top of a file
    or inside a function, what that imports, and data files beside them that they name.

    Packages' empty `__init__.py` are left out.
    """
    return _walk(modules)[0]


def find_libraries(*modules: str) -> tuple[str, ...]:
    """The top-level names of the installed packages that the code of `modules` imports, ascending; not Python's own."""
    return _walk(modules)[1]


@functools.cache
def identify_code(*modules: str) -> str:
    """A digest of `find_code(*modules)`, of the versions of the libraries it imports, and of Python's.

    It is the code of this process: files are read once, since code once loaded does not follow later edits.
    """
    files, libraries = _walk(modules)
    code = {path.relative_to(PROJECT).as_posix(): identify_file(path) for path in files}
    return identify(code, {name: _read_version(name) for name in libraries}, sys.version)


def find_file(module: str) -> Path | None:
    """The project's file of `module`; None for a library's, and for a name inside a module."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    base = PROJECT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def find_imports(path: Path) -> frozenset[str]:
    """The names of all modules that the file imports, and of what it takes from them (which may be modules)."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@functools.cache
def _walk(modules: tuple[str, ...]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    found: set[Path] = set()
    libraries: set[str] = set()
    todo = [path for module in modules if (path := find_file(module)) is not None]
    if len(todo) < len(modules):
        raise ValueError(f"got modules {modules}; expected modules of {', '.join(PACKAGES)}")
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found |= {path, *_find_named_files(path)}
        for name in find_imports(path):
            file = find_file(name)
            if file is not None:
                todo.append(file)
            elif (top := name.partition(".")[0]) not in {*PACKAGES, *sys.stdlib_module_names}:
                libraries.add(top)
    files = sorted(path for path in found if path.stat().st_size or path.name != "__init__.py")
    return tuple(files), tuple(sorted(libraries))


def _find_named_files(path: Path) -> Iterator[Path]:
    """The files beside the module at `path` that are no modules, and whose names stand in it."""
    others = [file for file in path.parent.iterdir() if file.is_file() and file.suffix not in (".py", ".pyc")]
    if others:
        text = path.read_text(encoding="utf-8")
        yield from (file for file in others if file.name in text)


@functools.cache
def _read_version(library: str) -> str:
    """The version of the installed distributions that provide the top-level module `library`; empty where none does."""
    distributions = _read_distributions().get(library, [])
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(distributions)))


@functools.cache
def _read_distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
