"""The promises the layout makes: every dependency declared, one word per stage, one direction of imports, a clean lock."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from tasks import artifacts
from tasks.__main__ import STAGES
from tasks.params import Params

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PACKAGES = ("tasks", "flows", "lfs")


def module_file(name: str) -> Path | None:
    """The project's file of module `name`, None for a library's."""
    if name.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imported_modules(path: Path) -> set[str]:
    """Names of all modules that the file imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_closure(path: Path) -> set[Path]:
    """The file and every project file it reaches by imports."""
    found, todo = set(), [path]
    while todo:
        current = todo.pop()
        if current in found:
            continue
        found.add(current)
        todo += [file for name in imported_modules(current) if (file := module_file(name)) is not None]
    return {file for file in found if file.name != "__init__.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_deps_list_exactly_the_code_a_stage_imports(stage):
    reached = import_closure(ROOT / "tasks" / f"{stage}.py") | import_closure(ROOT / "tasks" / "__main__.py")
    needed = {str(file.relative_to(ROOT)) for file in reached}
    declared = {dep for dep in PIPELINE[stage]["deps"] if dep.endswith(".py")}
    assert declared == needed


def test_the_demo_lists_the_code_it_imports():
    demo = yaml.safe_load((ROOT / "data/demo/dvc.yaml").read_text())["stages"]["demo"]
    reached = import_closure(ROOT / "tasks/demo.py") | import_closure(ROOT / "tasks/__main__.py")
    assert set(demo["deps"]) == {str(file.relative_to(ROOT)) for file in reached}


def test_one_word_per_stage():
    sections = [
        name
        for name, field in Params.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]
    assert list(PIPELINE) == list(STAGES) == sections
    for stage in STAGES:
        assert PIPELINE[stage]["cmd"] == f"python -m tasks {stage}"
        assert (ROOT / "tasks" / f"{stage}.py").is_file()
        assert (ROOT / "tests" / f"test_{stage}.py").is_file()
        assert stage in PIPELINE[stage]["params"]
        assert set(PIPELINE[stage]["params"]) <= {"classes", stage}


def declared_outputs(stage: str) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in PIPELINE[stage].get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_outputs_of_a_stage_are_in_its_folder_and_known_to_artifacts():
    known = {str(value) for value in vars(artifacts).values() if isinstance(value, Path)}
    declared = {path for stage in STAGES for path in declared_outputs(stage)}
    assert declared == known
    for stage in STAGES:
        assert all(path.startswith(f"data/{stage}/") for path in declared_outputs(stage))


def test_only_evaluate_depends_on_withheld_gold():
    readers = [stage for stage in STAGES if str(artifacts.WITHHELD_GOLD) in PIPELINE[stage]["deps"]]
    assert readers == ["evaluate"]


ALLOWED = {
    "tasks.core": {"tasks.core"},
    "tasks": {"tasks"},
    "lfs": {"tasks.labeling", "lfs"},
    "flows": {"tasks", "flows"},
}


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "tasks.core" if parts[:2] == ("tasks", "core") else parts[0]


SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    layer = layer_of(path)
    for name in imported_modules(path):
        head = name.split(".")[0]
        if head in PACKAGES and module_file(name) is not None:
            assert any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED[layer]), (
                f"{layer} imports {name}"
            )
        if head in {"prefect", "dvc"}:
            assert layer == "flows", f"{path.name} imports {head}; Prefect and DVC live in flows"
        if layer == "tasks.core":
            assert head not in {"polars", "pandera", "pyarrow", "logging"}, f"core imports {head}"
        if head == "faiss":
            assert path.name == "faiss_index.py"
        if head == "numba":
            assert path.name == "compiled.py"
        if head in {"flyingsquid", "pgmpy"}:
            assert path.name == "flyingsquid.py"


def test_no_module_is_a_drawer():
    assert not {path.stem for path in SOURCES} & {"utils", "helpers", "common", "misc"}


def test_the_lock_holds_names_versions_and_hashes_only():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "index" not in lock.replace("zc-lockfile", "")
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==\S+", lock, flags=re.M)
    assert lock.count("\\\n    --hash=sha256:") >= len(pins) > 100
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {re.split(r"[\[<>=!~ ]", item)[0].lower() for item in wanted}
    assert names <= set(pins)


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    for block in re.findall(r"^(?:dependencies|dev|text|dask) = \[(.*?)\]\s*(?:#.*)?$", text, flags=re.S | re.M):
        for line in block.strip().splitlines():
            assert "#" in line or block.count("\n") == 0, line


def test_no_tracked_file_names_a_path_of_one_machine():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".lock", ".jinja", ".csv", ".json", ""} and path.is_file():
            found = re.search(
                r"(?<![A-Za-z0-9_.])/(work|farm|root|home)/[A-Za-z0-9_.]", path.read_text(errors="ignore")
            )
            assert found is None, f"{name}: {found and found.group()}"
