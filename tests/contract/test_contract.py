"""The promises the layout makes: every dependency declared, one word per stage, one direction of imports, a clean lock."""

import re
import subprocess
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from flows.runner.code_deps import PIPELINES, write_code_deps
from tasks.__main__ import STAGES
from tasks.cache.code import PACKAGES, find_file, find_imports
from tasks.params import Params
from tasks.tables.paths import ARTIFACTS, WITHHELD_GOLD

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", PIPELINES)
def test_stages_depend_on_exactly_the_code_they_run(name):
    text = (ROOT / name).read_text()
    assert write_code_deps(text) == text, "run 'make deps'"


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
        assert (ROOT / "tests" / "pipeline" / f"test_{stage}.py").is_file()
        assert stage in PIPELINE[stage]["params"]
        assert set(PIPELINE[stage]["params"]) <= {"classes", stage}


def declared_outputs(stage: str) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in PIPELINE[stage].get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_outputs_of_a_stage_are_in_its_folder_and_known_to_artifacts():
    declared = {path for stage in STAGES for path in declared_outputs(stage)}
    assert declared == set(map(str, ARTIFACTS))
    for stage in STAGES:
        assert all(path.startswith(f"data/{stage}/") for path in declared_outputs(stage))


def test_only_evaluate_depends_on_withheld_gold():
    readers = [stage for stage in STAGES if str(WITHHELD_GOLD) in PIPELINE[stage]["deps"]]
    assert readers == ["evaluate"]


FLOORS = (
    ("tasks.ctrl_c", "tasks.errors", "tasks.fast_yaml", "tasks.hash_seed", "tasks.strict_yaml", "tasks.core"),
    ("tasks.params", "tasks.progress", "tasks.cache.store"),
    ("tasks.params_file", "tasks.cache", "tasks.compute"),
    ("tasks.tables",),
    ("tasks.readers",),
    ("tasks.lf", "tasks.neighbors", "tasks.report", "tasks.exchange"),
    ("tasks",),
    ("tasks.queries", "tasks.ask"),
    ("lfs",),
    ("flows.runner",),
    ("flows.releases",),
    ("flows.watch", "flows.workbench", "flows.init"),
    ("flows",),
    ("epoxy_flow",),
)
"""Rooms, from the ground up: a module imports from its own room and from floors below."""


def room_of(module: str) -> tuple[int, str]:
    """The floor and the name of the room that `module` is in: the longest name that it begins with."""
    rooms = [(floor, room) for floor, names in enumerate(FLOORS) for room in names]
    fitting = [(floor, room) for floor, room in rooms if f"{module}.".startswith(f"{room}.")]
    return max(fitting, key=lambda found: len(found[1]))


def name_module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=name_module)
def test_imports_point_down(path):
    module = name_module(path)
    floor, room = room_of(module)
    for name in find_imports(path):
        head = name.partition(".")[0]
        if find_file(name) is not None and find_file(name).stat().st_size:
            its_floor, its_room = room_of(name)
            assert its_floor < floor or its_room == room, f"{module} imports {name}"
            if room == "lfs":
                assert name == "tasks.labeling" or its_room == "lfs"
        if head in {"prefect", "dvc"}:
            assert module.startswith("flows"), f"{module} imports {head}; Prefect and DVC live in flows"
        if room == "tasks.core":
            assert head not in {"polars", "pandera", "pyarrow", "logging"}, f"core imports {head}"
        if head == "faiss":
            assert path.name == "faiss_index.py"
        if head == "numba":
            assert path.name == "kernels.py"
        if head in {"flyingsquid", "pgmpy"}:
            assert path.name == "flyingsquid.py"


def test_no_circle_among_modules():
    graph = {name_module(path): {name for name in find_imports(path) if find_file(name)} for path in SOURCES}
    circle: list[str] = []
    try:
        TopologicalSorter({module: names & graph.keys() - {module} for module, names in graph.items()}).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert circle == []


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


def test_a_wheel_holds_every_file_of_the_packages():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packages = ("flows", "tasks", "lfs", "epoxy_flow")
    folders = {"*": [f"{package}/**" for package in packages]}  # below these alone: environments are large
    shipped = {
        path
        for package, globs in patterns.items()
        for folder in folders.get(package, [package.replace(".", "/")])
        for glob in globs
        for path in ROOT.glob(f"{folder}/{glob}")
    }
    tracked = subprocess.run(["git", "ls-files", "-z", *packages], cwd=ROOT, capture_output=True, text=True, check=True)
    others = {ROOT / name for name in tracked.stdout.split("\0") if name and not name.endswith(".py")}
    assert others - shipped == set()


def test_modules_of_tests_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []  # pytest imports them by their plain names


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    for block in re.findall(
        r"^(?:dependencies|dev|text|onnx|dask|ray) = \[(.*?)\]\s*(?:#.*)?$", text, flags=re.S | re.M
    ):
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
