"""The labeling functions of a module below lfs/, read anew at every call and from one project only."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType

from tasks.errors import EpoxyError, LabelingFunctionError
from tasks.lf.functions import LabelingFunction, RowwiseLF, VectorizedLF
from tasks.lf.voting import FAULTS, format_trace


def load_lfs(root: Path, source: str) -> list[LabelingFunction]:
    """The LFs that the module `source` (lfs/NAME.py below `root`) defines, in order of definition.

    Raises
    ------
    LabelingFunctionError
        The module is missing, fails on import, has no LF, or has two of the same name.
    """
    module = _import_module(root, source)
    lfs: dict[int, LabelingFunction] = {}
    for value in vars(module).values():
        for lf in value if isinstance(value, list | tuple) else [value]:
            if isinstance(lf, RowwiseLF | VectorizedLF):
                lfs[id(lf)] = lf
    if not lfs:
        raise LabelingFunctionError(
            f"{source} holds no labeling function. Decorate one with @labeling_function, or bind keyword_lf(...) to a "
            "name; see lfs/digits.py."
        )
    names = [lf.name for lf in lfs.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabelingFunctionError(
            f"{source}: more than one labeling function is called {', '.join(twice)}. Rename all but one."
        )
    return list(lfs.values())


class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles the source every time: cached byte-code is matched by time and size, and could predate an edit."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the package `lfs` and its modules in one project's folder, and nowhere else."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "lfs":
            return None
        base = self._root.joinpath(*fullname.split("."))
        for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
            if file.is_file():
                folders = [str(base)] if file.name == "__init__.py" else None
                loader = _Uncached(fullname, str(file))
                return importlib.util.spec_from_file_location(
                    fullname, file, loader=loader, submodule_search_locations=folders
                )
        if base.is_dir():
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(base)]
            return spec
        raise ModuleNotFoundError(f"no module '{fullname}' in {self._root / 'lfs'}", name=fullname)


@contextmanager
def _project_lfs(root: Path) -> Iterator[None]:
    """Within the block, `lfs` is the package in `root`, freshly read; afterwards it is what it was before."""
    finder = _Finder(root.resolve())
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "lfs"}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "lfs"]:
            del sys.modules[name]
        sys.modules.update(before)


def _import_module(root: Path, source: str) -> ModuleType:
    """The module `source` of the project at `root`, freshly imported."""
    path = root / source
    if not path.is_file():
        found = sorted(file.name for file in (root / "lfs").glob("*.py") if file.name != "__init__.py")
        raise LabelingFunctionError(
            f"{source} not found; lfs/ holds {', '.join(found) or 'no module'}. Correct apply.source in params.yaml."
        )
    if not path.resolve().is_relative_to((root / "lfs").resolve()):
        raise LabelingFunctionError(f"{source} leads out of lfs/, the folder that the apply stage depends on.")
    name = ".".join(Path(source).with_suffix("").parts)
    if not all(part.isidentifier() for part in name.split(".")):
        raise LabelingFunctionError(f"{source} cannot be imported: use letters, digits and '_' in its name.")
    try:
        with _project_lfs(root):
            return importlib.import_module(name)
    except EpoxyError as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path.resolve())), None)
        raise LabelingFunctionError(f"{source}{'' if line is None else f', line {line}'}: {error}") from None
    except FAULTS as error:
        raise LabelingFunctionError(f"{source} cannot be imported:\n{format_trace(error)}") from None
