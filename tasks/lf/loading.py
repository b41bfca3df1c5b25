"""The labeling functions of a module below lfs/, read afresh at every call and from a single project."""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tasks.errors import EpoxyError, LabelingFunctionError
from tasks.lf.functions import Definition, LabelingFunction, RowwiseLF, VectorizedLF, definitions
from tasks.lf.libraries import unchanged_libraries
from tasks.lf.observation import SideInputs, is_edited_by_user, observe, unobserved
from tasks.lf.snorkel import adapt_snorkel_lf, is_snorkel_lf
from tasks.lf.voting import caught_fault, restored_streams


@dataclass(frozen=True, kw_only=True)
class LFModule:
    """The LFs of a module, ascending by name, and what the module read while it was imported."""

    lfs: list[LabelingFunction]
    side_inputs: SideInputs
    has_effects: bool
    """Whether a module of lfs/ does more at import than define things, and so may change what other LFs see."""


def load_lfs(root: Path, source: str) -> list[LabelingFunction]:
    """The LFs that the module `source` (lfs/NAME.py below `root`) defines, ascending by name.

    Raises
    ------
    LabelingFunctionError
        As for `load_module`.
    """
    with project_lfs(root):
        return load_module(root, source).lfs


def load_module(root: Path, source: str, *, may_be_empty: bool = False) -> LFModule:
    """The LFs that the module `source` (lfs/NAME.py below `root`) defines, with what it read; within `project_lfs`.

    Raises
    ------
    LabelingFunctionError
        The module is missing, fails on import, reads what no stage depends on, has no LF or two of the same name, or
        defines an LF whose name is bound again.
    """
    defined: list[Definition] = []
    token = definitions.set(defined)
    try:
        with observe(root) as side_inputs, restored_streams(), unchanged_libraries(source):
            module = _import_module(root, source)
    finally:
        definitions.reset(token)
    side_inputs.require_declared(root, source)
    has_effects = any(map(_has_effects, list_imported(root)))
    order = {id(definition.lf): number for number, definition in enumerate(defined)}
    found: dict[int, LabelingFunction] = {}
    for variable, value in vars(module).items():
        for lf in _find_lfs(value, order, set()):
            if id(lf) not in found:
                ours = adapt_snorkel_lf(lf) if is_snorkel_lf(lf) else lf
                found[id(lf)] = _name_lf(ours, variable if lf is value else "", source)
    lfs = list(found.values())
    if not lfs and not may_be_empty:
        raise LabelingFunctionError(
            f"{source} holds no labeling function. Decorate one with @labeling_function, or bind one to a name, as in "
            "offer = keyword_lf('offer', column='text', keywords=['offer'], label='spam')."
        )
    names = [lf.name for lf in lfs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabelingFunctionError(
            f"{source}: more than one labeling function is called {', '.join(twice)}. Rename all but one."
        )
    _require_none_lost(root, source, [definition for definition in defined if id(definition.lf) not in found], lfs)
    # By name, so that neither thresholds nor labels depend on the order of definition.
    lfs.sort(key=lambda lf: lf.name)
    return LFModule(lfs=lfs, side_inputs=side_inputs, has_effects=has_effects)


def _find_lfs(value: object, order: dict[int, int], seen: set[int]) -> Iterator[Any]:
    """The LFs, ours or Snorkel's, that `value` is or contains; those in a set, which has no order, sorted by `order`."""
    if isinstance(value, RowwiseLF | VectorizedLF) or is_snorkel_lf(value):
        yield value
    elif isinstance(value, list | tuple | set | frozenset | dict) and id(value) not in seen:
        seen.add(id(value))
        parts = list(value.values() if isinstance(value, dict) else value)
        if isinstance(value, set | frozenset):
            parts.sort(key=lambda part: order.get(id(part), -1))
        for part in parts:
            yield from _find_lfs(part, order, seen)


def _name_lf(lf: LabelingFunction, variable: str, source: str) -> LabelingFunction:
    """`lf`, named after its variable if it has no name of its own."""
    if lf.name:
        return lf
    if not variable:
        raise LabelingFunctionError(
            f"{source}: a labeling function made of a lambda, a partial or an object has no name. Bind it to a variable, "
            "or give it one: labeling_function(name=...)."
        )
    return replace(lf, name=variable)


def _require_none_lost(root: Path, source: str, lost: list[Definition], lfs: list[LabelingFunction]) -> None:
    """Check that no LF was lost because its name was bound again, except to an LF that uses it."""
    used = {id(cell.cell_contents) for lf in lfs for cell in getattr(lf.function, "__closure__", None) or ()}
    file = (root / source).resolve()
    statements = ast.parse(file.read_bytes()).body
    for definition in lost:
        if id(definition.lf) in used or Path(definition.file) != file:
            continue
        # A function begins at its first decorator; the node's own line is that of `def`.
        here = next((node for node in statements if definition.line <= (node.end_lineno or 0)), None)
        again = [node for node in statements if here is not None and node.lineno > here.lineno]
        name = next((name for name in _bind_one(here) if any(name in _bind_one(node) for node in again)), None)
        if name is not None:
            raise LabelingFunctionError(
                f"{source}, line {definition.line}: labeling function '{definition.lf.name}' would not vote, since "
                f"'{name}' is defined again further down. Rename one of them."
            )


def _bind_one(node: ast.stmt | None) -> set[str]:
    """The names that a module's statement binds to a function or to the result of a call."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()


def _has_effects(file: Path) -> bool:
    """Whether the module in `file` does more at import than import and bind names, which no digest would cover."""
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Assign) and all(map(_is_plain_target, node.targets)):
            continue
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            continue
        return True
    return False


def _is_plain_target(target: ast.expr) -> bool:
    """Whether an assignment to `target` only binds names."""
    if isinstance(target, ast.Tuple | ast.List):
        return all(map(_is_plain_target, target.elts))
    return isinstance(target, ast.Name)


def list_imported(root: Path) -> dict[Path, dict[str, Any]]:
    """The globals of the modules of lfs/ that are imported at present, by file."""
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "lfs"]
    files = {Path(module.__file__): vars(module) for module in modules if module.__file__ is not None}
    return {file: values for file, values in files.items() if file.is_relative_to(root.resolve())}


class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles the source every time: cached byte-code is matched by time and size alone, and could be out of date."""

    def get_code(self, fullname: str) -> CodeType:
        with unobserved():
            return self.source_to_code(self.get_data(self.path), self.path)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the package `lfs` and its modules in one project's folder only."""

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
def project_lfs(root: Path) -> Iterator[None]:
    """Within the block, `lfs` is the package in `root`, read afresh; afterwards it is what it was before."""
    finder = _Finder(root.resolve())
    others = {*sys.modules}
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "lfs"}
    sys.meta_path.insert(0, finder)
    writes_byte_code, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes_byte_code
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            # A helper imported by its plain name must be read afresh, too.
            is_helper = name not in others and is_edited_by_user(root, getattr(module, "__file__", None))
            if name.partition(".")[0] == "lfs" or is_helper:
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
        with caught_fault(but=(EpoxyError,)) as fault:
            return importlib.import_module(name)
    except EpoxyError as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path.resolve())), None)
        raise LabelingFunctionError(f"{source}{'' if line is None else f', line {line}'}: {error}") from None
    raise LabelingFunctionError(f"{source} cannot be imported:\n{fault.trace}")
