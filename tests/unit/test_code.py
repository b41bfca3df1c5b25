"""tasks.cache.code: an edit of anything that a result depends on gives its cache other keys, and no other edit does."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cache.code import PROJECT, find_code, find_imports, find_libraries, find_versions

KEYS = {
    "votes": ("tasks.lf.ask_all", "tasks.labeling"),
    "search": ("tasks.neighbors.run",),
    "encode": ("tasks.readers.encoder", "tasks.readers.sentence_encoder"),
    "onnx": ("tasks.readers.encoder", "tasks.readers.onnx_encoder"),
}
"""What the key of each kind of entry is made of, as `identify_code` wants it."""

CODE = {
    "tasks/core/search/kernels.py": {"search"},
    "tasks/core/search/card.py": {"search"},
    "tasks/tables/parquet.py": {"votes", "search"},
    "tasks/lf/functions.py": {"votes"},
    "tasks/lf/fingerprint.py": {"votes"},
    "tasks/readers/encoder.py": {"encode", "onnx"},
    "tasks/readers/onnx_encoder.py": {"onnx"},
    "tasks/cache/store.py": {"votes", "search", "encode", "onnx"},
    "tasks/params.py": {"votes", "search"},
    "tasks/params_file.py": set(),
    "tasks/evaluate.py": set(),
}
"""What an edit of a file makes stale."""

PACKAGES = {
    "numba": {"search"},
    "llvmlite": {"search"},
    "faiss_cpu": {"search"},
    "numpy": {"votes", "search", "encode", "onnx"},
    "PyYAML": {"votes", "search", "encode", "onnx"},
    "pydantic": {"votes", "search"},
    "sentence_transformers": {"encode"},
    "onnxruntime": {"onnx"},
    "ruff": set(),
}
"""What another version of a package makes stale."""

PRINT = f"""
import sys
from tasks.cache.code import identify_code
if sys.argv[1:]:
    with open(sys.argv[1], "a") as file:
        file.write("# edited")
for modules in {list(KEYS.values())}:
    print(identify_code(*modules))
"""


def identify_all(root: Path, *arguments: str) -> dict[str, str]:
    """The digests of `KEYS` in a process that imports the packages in the folder `root`."""
    run = [sys.executable, "-c", PRINT, *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(run, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return dict(zip(KEYS, found.stdout.split(), strict=True))


def find_changes(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {kind for kind in KEYS if before[kind] != after[kind]}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of tasks/, and a version of sentence-transformers whether it is installed or not."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(PROJECT / "tasks", root / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "sentence_transformers-3.0.dist-info").mkdir()
    return root


@pytest.mark.parametrize("name", CODE)
def test_an_edit_changes_the_keys_of_what_the_file_makes(checkout: Path, name: str) -> None:
    path = checkout / name
    before, content = identify_all(checkout), path.read_bytes()
    path.write_bytes(content + b"# edited\n")
    assert find_changes(before, identify_all(checkout)) == CODE[name]
    path.write_bytes(content)
    assert identify_all(checkout) == before


@pytest.mark.parametrize("package", PACKAGES)
def test_another_version_changes_the_keys_of_what_it_computes(checkout: Path, package: str) -> None:
    before = identify_all(checkout)
    folder = checkout / "first"
    (folder / f"{package}-99.0.dist-info").mkdir(parents=True)
    found = subprocess.run(
        [sys.executable, "-c", PRINT],
        cwd=checkout,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder}:{checkout}"},
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.rmtree(folder)
    assert find_changes(before, dict(zip(KEYS, found.stdout.split(), strict=True))) == PACKAGES[package]


def test_code_that_was_edited_since_it_was_loaded_shares_no_key(checkout: Path) -> None:
    """Else a result of the old code would stand under the key of the new one."""
    path = checkout / "tasks/core/search/exact.py"
    content = path.read_bytes()
    during, again = identify_all(checkout, str(path)), identify_all(checkout)
    assert find_changes(during, again) == {"search"}
    path.write_bytes(content)


SOURCES = [
    path for folder in ("tasks", "flows", "lfs", "epoxy_flow") for path in sorted((PROJECT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_no_import_is_missed(path: Path) -> None:
    expected: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            expected |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports within the project are absolute"
            expected |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    assert find_imports(path) >= expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import a", {"a"}),
        ("import a.b as c, d", {"a.b", "d"}),
        ("    from a.b import c as d, e  # why", {"a.b", "a.b.c", "a.b.e"}),
        ("from a import (\n    b,  # one (of two)\n    c as d,\n)", {"a", "a.b", "a.c"}),
        ("from a import (  # why\n    b\n)", {"a", "a.b"}),
        ("from a import b; import c", {"a", "a.b", "c"}),
        ("from a import b, \\\n    c", {"a", "a.b", "a.c"}),
        ("if True: import a", {"a"}),
        ("try: from a import b\nexcept ImportError: pass", {"a", "a.b"}),
        ("imports = important", set()),
    ],
)
def test_imports_are_found_however_they_are_written(tmp_path: Path, line: str, expected: set[str]) -> None:
    (tmp_path / "module.py").write_text(f'"""A module."""\n\n{line}\n\nvalue = 1\n')
    assert find_imports(tmp_path / "module.py") == expected


def test_every_library_is_in_a_package_whose_version_is_known() -> None:
    libraries = find_libraries(*[f"tasks.{path.stem}" for path in (PROJECT / "tasks").glob("[a-z]*.py")])
    versions = find_versions(*(name for name in libraries if name != "sentence_transformers"))
    assert {"numpy", "faiss-cpu", "pyyaml", "scikit-learn", "llvmlite"} <= set(versions)
    assert "ruff" not in versions, "nothing stands for all that is installed"
    assert all(re.match(r"\d", version) for version in versions.values())


def test_unknown_modules_are_refused() -> None:
    with pytest.raises(ValueError, match="got modules"):
        find_code("tasks.nothing")
