"""The code that a result depends on, found by its imports: in dvc.yaml for a stage, in the key of what is cached.

Nobody types such lists: a helper that is edited must never leave an old result in use.
"""

import functools
import re
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tasks.cache.store import identify, identify_file

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages."""

PACKAGES = ("tasks", "flows", "lfs", "epoxy_flow")
"""What belongs to the project; whatever else is imported is a library."""

_LOADED_NS = time.time_ns() - 10_000_000
"""When this process began to load the project's code, in nanoseconds since 1970, less the ticks of a file's clock."""

_IMPORT = re.compile(
    r"(?:^|[:;])[ \t]*"
    r"(?:from[ \t]+([\w.]+)[ \t]+import\b[ \t]*(\((?:#[^\n]*|[^)#])*\)|(?:\\\n|[^\n#;])+)|import[ \t]+([\w., \t]+))",
    flags=re.MULTILINE,
)
"""An import statement, or a line of a text that looks like it. To parse takes a hundred times as long, and stages wait."""

_COMMENT = re.compile(r"#[^\n]*|\\\n")

_REQUIREMENT = re.compile(r"^Requires-Dist:[ ]*([\w.-]+)(.*)$", flags=re.MULTILINE)


def find_code(*modules: str) -> tuple[Path, ...]:
    """The project's files that `modules` need, themselves among them, ascending: what they import, at the top of a file
    or inside a function, what that imports, and data files beside them that they name.

    Packages' empty `__init__.py` are left out.
    """
    return _walk(modules)[0]


def find_libraries(*modules: str) -> tuple[str, ...]:
    """The top-level names of the libraries that the code of `modules` imports, ascending; not those of Python itself."""
    return _walk(modules)[1]


@functools.cache
def identify_code(*modules: str) -> str:
    """A digest of `find_code(*modules)`, of the versions of the libraries it imports and of theirs, and of Python's.

    It stands for the code that this process has loaded: files are read once, and where one of them was edited since the
    process started, no other process has the digest, so that nothing is reused and nothing is left for others.
    """
    files, libraries = _walk(modules)
    code = {path.relative_to(PROJECT).as_posix(): identify_file(path) for path in files}
    is_edited = any(max(status.st_mtime_ns, status.st_ctime_ns) > _LOADED_NS for status in map(Path.stat, files))
    return identify(code, find_versions(*libraries), sys.version, uuid.uuid4().hex if is_edited else None)


def find_versions(*libraries: str) -> dict[str, str]:
    """The versions of the installed packages that `libraries` (top-level names of modules) are in, and of all that these
    require, by package; of everything that is installed, where a library is in no package that pip knows.
    """
    installed = read_installed()
    todo = [find_package(library) for library in libraries]
    found: set[str] = set()
    while todo:
        package = todo.pop()
        if package is None:
            found = set(installed)
            break
        if package in installed and package not in found:
            found.add(package)
            todo += _read_requirements(installed[package])
    return {package: _read_version(installed[package]) for package in sorted(found)}


@functools.cache
def read_installed() -> dict[str, Path]:
    """The folder of metadata of each installed package, by the package's normalized name.

    Such a folder is called by name and version; to read what is in all of them takes a quarter of a second.
    """
    installed: dict[str, Path] = {}
    for entry in filter(None, sys.path):
        for folder in sorted(Path(entry).glob("*.dist-info")):
            # Of several, the first on the path is imported.
            installed.setdefault(normalize(folder.stem.partition("-")[0]), folder)
    return installed


def find_file(module: str) -> Path | None:
    """The project's file of `module`; None for a library's, and for a name inside a module."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    base = PROJECT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def find_imports(path: Path) -> frozenset[str]:
    """The names of all modules that the file imports, and of what it takes from them (which may be modules)."""
    names: set[str] = set()
    for origin, taken, modules in _IMPORT.findall(path.read_text(encoding="utf-8", errors="replace")):
        heads = [part.split()[0] for part in _COMMENT.sub("", taken or modules).strip("()").split(",") if part.strip()]
        names |= {origin, *(f"{origin}.{head}" for head in heads)} if origin else set(heads)
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
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from (file for file in others if file.name in text)


def find_package(library: str) -> str | None:
    """The installed package that the top-level module `library` is in; None where that is not known."""
    installed, name = read_installed(), normalize(library)
    if name in installed:
        return name
    # Most packages that are not called like their module have its name within their own: faiss-cpu, pyyaml.
    for package in sorted(installed, key=lambda package: name not in package):
        record = installed[package] / "RECORD"
        if record.is_file() and re.search(rf"^{library}[/.]", record.read_text(encoding="utf-8"), flags=re.MULTILINE):
            return package
    return None


def _read_requirements(folder: Path) -> list[str]:
    """The packages that the package with this folder of metadata requires, without those of its extras."""
    metadata = folder / "METADATA"
    head = metadata.read_text(encoding="utf-8").partition("\n\n")[0] if metadata.is_file() else ""
    return [normalize(name) for name, condition in _REQUIREMENT.findall(head) if "extra" not in condition]


def _read_version(folder: Path) -> str:
    return folder.stem.partition("-")[2]


def normalize(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
