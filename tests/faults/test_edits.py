"""What is edited while a stage runs is never recorded as what the stage has read, whichever door it came through."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from finished_project import remove_outputs
from small_project import REPOSITORY, hash_outputs, make_environment, run, write_params, write_raw
from stage_processes import finish_stage
from toy_project import Toy

from flows.runner.dvc_patches import Command
from flows.runner.dvc_run import EditedError, run_stage
from flows.runner.report import Outcome
from tasks.__main__ import main, run_identified_stage
from tasks.cache.dependencies import HASHED_SIZE, find_dependencies, identify, list_changes
from tasks.cache.store import FOLDER, Cache
from tasks.errors import EpoxyError, ParamsError, StageError
from tasks.params import ExtendParams, Params, Scope
from tasks.params_file import read_stage_params

# What depends on what.


def changes(root: Path, edit: Callable[[], object]) -> tuple[str, ...]:
    found = find_dependencies(root, "apply")
    assert found is not None
    before = identify(*found)
    edit()
    return list_changes(before, identify(*found), root=root)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A pipeline of one stage, with a dependency of each kind."""
    definition = {"deps": ["lfs", "${apply.folder}/items.bin", "code.py"], "params": ["apply", "train.seed"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"apply": definition}}))
    (tmp_path / "params.yaml").write_text("apply: {folder: raw, limit: 1}\ntrain: {seed: 1, epochs: 2}\n")
    (tmp_path / ".dvcignore").write_text("*.swp\n")
    for folder in ("lfs/words", "raw"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lfs/mine.py").write_text("love")
    (tmp_path / "lfs/words/list.txt").write_text("love")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "raw/items.bin").write_bytes(bytes(HASHED_SIZE + 1))
    return tmp_path


def replace(path: Path, content: bytes) -> None:
    """As an editor writes: a new file in the place of the old one."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


EDITS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "nothing": (lambda root: None, ()),
    "in place, as long": (lambda root: (root / "lfs/mine.py").write_text("hate"), ("lfs/mine.py",)),
    "replaced": (lambda root: replace(root / "lfs/words/list.txt", b"hate"), ("lfs/words/list.txt",)),
    "saved unchanged": (lambda root: replace(root / "lfs/mine.py", b"love"), ("lfs/mine.py",)),
    "added": (lambda root: (root / "lfs/words/more.txt").write_text("x"), ("lfs/words/more.txt",)),
    "removed": (lambda root: (root / "lfs/words/list.txt").unlink(), ("lfs/words/list.txt",)),
    "code": (lambda root: (root / "code.py").write_text("2"), ("code.py",)),
    "large, as long": (
        lambda root: replace(root / "raw/items.bin", b"\1" * (HASHED_SIZE + 1)),
        ("raw/items.bin",),
    ),
    "byte-code and an editor's own": (
        lambda root: [
            (root / "lfs/__pycache__").mkdir(),
            (root / "lfs/__pycache__/mine.pyc").write_text("x"),
            (root / "lfs/.mine.py.swp").write_text("x"),
        ],
        (),
    ),
    "params": (
        lambda root: (root / "params.yaml").write_text("apply: {folder: raw, limit: 2}\ntrain: {seed: 2}\n"),
        ("params.yaml: apply.limit", "params.yaml: train.seed"),
    ),
    "params of another stage": (
        lambda root: (root / "params.yaml").write_text(
            "# a comment\ntrain: {seed: 1, epochs: 9}\napply: {limit: 1, folder: raw}\n"
        ),
        (),
    ),
    "another type": (
        lambda root: (root / "params.yaml").write_text("apply: {folder: raw, limit: 1.0}\ntrain: {seed: 1}\n"),
        ("params.yaml: apply.limit",),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_each_kind_of_edit_is_named_and_nothing_else(name: str, pipeline: Path) -> None:
    edit, expected = EDITS[name]
    assert changes(pipeline, lambda: edit(pipeline)) == expected


def test_a_stage_that_no_pipeline_defines_depends_on_nothing_known(pipeline: Path, tmp_path: Path) -> None:
    assert find_dependencies(pipeline, "fit") is None
    assert find_dependencies(tmp_path / "elsewhere", "apply") is None


def test_a_variable_without_a_value_is_named(pipeline: Path) -> None:
    (pipeline / "params.yaml").write_text("apply: {limit: 1}\n")
    with pytest.raises(ParamsError, match=r"dvc\.yaml: \$\{apply\.folder\} is not in params\.yaml"):
        find_dependencies(pipeline, "apply")


@pytest.mark.parametrize(
    ("content", "words"), [("apply: [\n", "line 2: not valid YAML"), ("apply: 2026-13-01\n", "month")]
)
def test_params_that_cannot_be_read_are_named_and_not_the_variable(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    (pipeline / "params.yaml").write_text(content)
    monkeypatch.chdir(pipeline)
    assert main(["apply"]) == ParamsError.exit_code
    assert re.match(rf"error: params\.yaml.*{words}", capsys.readouterr().err)


def test_a_key_that_is_edited_before_it_is_read_and_back_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy2(REPOSITORY / name, tmp_path / name)
    write_params(tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    read = []

    def edit_and_read(root: Path, stage: str) -> Params:
        if not read:
            (root / "params.yaml").write_text(text.replace("scope: cells", "scope: rows"))
        read.append(read_stage_params(root, stage))
        return read[-1]

    def run_extend(root: Path, _classes: tuple[str, ...], params: ExtendParams) -> None:
        assert params.scope is Scope.ROWS
        (root / "params.yaml").write_text(text)

    monkeypatch.setattr("tasks.params_file.read_stage_params", edit_and_read)
    monkeypatch.setattr("tasks.extend.run", run_extend)
    with pytest.raises(StageError, match=r"extend: params\.yaml: classes or extend changed while the stage ran"):
        run_identified_stage(tmp_path, "extend")


@pytest.mark.parametrize("error", [None, ParamsError("out of luck")])
def test_nothing_that_was_cached_meanwhile_is_kept(
    error: Exception | None, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(pipeline, "votes")
    cache.write("before", b"old")
    old = time.time_ns() - 10**9
    os.utime(pipeline / FOLDER / "votes" / "before", ns=(old, old))

    def run_and_edit(root: Path, _stage: str) -> None:
        cache.write("key-of-love", b"votes of hate")
        if is_edited:
            (root / "lfs/words/list.txt").write_text("hate")
        if error is not None:
            raise error

    monkeypatch.setattr("tasks.__main__.run_stage", run_and_edit)
    for is_edited in (False, True):
        with contextlib.nullcontext() if error is None and not is_edited else pytest.raises(EpoxyError):
            run_identified_stage(pipeline, "apply")
        assert cache.read("key-of-love") == (None if is_edited else b"votes of hate")
    assert cache.read("before") == b"old"


# Between the end of a command, or the start of a restore, and DVC's own hashes.


def test_an_edit_before_dvc_hashes_is_seen_and_replaced(toy: Toy) -> None:
    toy.run("dvc", "repro", "ingest")
    toy.set_params(index="i2")

    def run_then_edit(command: Command) -> None:
        subprocess.run(command.argv, cwd=command.cwd, env=dict(command.env), check=True)
        toy.set_params(index="i3")

    def spawn(command: Command) -> None:
        subprocess.run(command.argv, cwd=command.cwd, env=dict(command.env), check=True)

    with pytest.raises(EditedError, match=r"stage index: params\.yaml: index changed while") as error:
        run_stage(toy.root, "index", run_then_edit)
    assert error.value.is_recorded
    output = toy.root / "data/index/index.txt"
    assert "i2" in output.read_text()
    assert run_stage(toy.root, "index", spawn, force=True) is Outcome.COMPLETED
    assert "i3" in output.read_text()
    toy.set_params(index="i4")
    run_stage(toy.root, "index", spawn)
    toy.set_params(index="i3")
    assert run_stage(toy.root, "index", spawn) is Outcome.RESTORED
    assert "i3" in output.read_text()


# Real stages.

_HOLD = """\
import os, sys, time
# Hold the command `python -m tasks $HOLD` right before it first writes below data/$HOLD, until $GO exists.
if sys.orig_argv[1:] == ["-m", "tasks", os.environ.get("HOLD", "")]:
    folder, go = f"data/{os.environ['HOLD']}/", os.environ["GO"]
    is_held = False

    def hold(event, arguments):
        global is_held
        if event == "open" and not is_held and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            if isinstance(arguments[0], (str, bytes)) and folder in os.fsdecode(arguments[0]):
                is_held = True
                if not os.path.exists(go):
                    open(go + ".held", "w").close()
                while not os.path.exists(go):
                    time.sleep(0.02)

    sys.addaudithook(hold)
"""


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    """A project whose stages have run, and can be held."""
    root = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    (root / "sitecustomize.py").write_text(_HOLD)
    return root


def edit_text(path: str, pattern: str) -> Callable[[Path, int], None]:
    """An edit that brings a file's line, which `pattern` formats, into a numbered state."""

    def edit(root: Path, state: int) -> None:
        kept = [line for line in (root / path).read_text().splitlines() if not line.endswith("# edited")]
        (root / path).write_text("\n".join([*kept, f"{pattern.format(state=state)}  # edited", ""]))

    return edit


def edit_threshold(root: Path, state: int) -> None:
    path = root / "data/tune/thresholds.json"
    content = yaml.safe_load(path.read_text())
    content["thresholds"] = dict.fromkeys(content["thresholds"], 0.5 + state / 10)
    path.write_text(json.dumps(content))


@dataclass(frozen=True)
class Kind:
    stage: str
    edit: Callable[[Path, int], object]
    named: str


_WORDS = ("offer", "price", "win", "meeting")
KINDS = {
    "LF": Kind(
        "apply",
        lambda root, state: edit_text(
            "lfs/small.py", f'extra = keyword_lf("extra", column="text", keywords=["{_WORDS[state]}"], label="spam")'
        )(root, state),
        "lfs/small.py",
    ),
    "params": Kind(
        "search",
        lambda root, state: write_params(root, search={"target_recall": 0.95 + state / 100}),
        "params.yaml: search.target_recall",
    ),
    "raw file": Kind(
        "ingest", lambda root, state: write_raw(root / "data/raw", 100, seed=state), "data/raw/items.parquet"
    ),
    "code": Kind("extend", edit_text("tasks/extend.py", "EDITED = {state}"), "tasks/extend.py"),
    "input": Kind("extend", edit_threshold, "data/tune/thresholds.json"),
}


def run_and_edit(root: Path, kind: Kind, *command: str) -> tuple[int, str]:
    """The exit code and the words of `command`, while whose stage the second state took the place of the first."""
    kind.edit(root, 1)
    go = root.parent / "go"
    environment = make_environment(root, HOLD=kind.stage, GO=str(go))
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while not Path(f"{go}.held").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kind.edit(root, 2)
    go.touch()
    words, _ = process.communicate(timeout=120)
    return process.returncode, words


def force(root: Path, stage: str) -> dict[str, str]:
    """What the stage writes when nothing is reused."""
    shutil.rmtree(root / FOLDER, ignore_errors=True)
    code, words = finish_stage(root, stage)
    assert code == 0, words
    return hash_outputs(root, [stage])


def repro(root: Path, stage: str) -> str:
    done = run(root, "dvc", "repro", "-s", stage)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_dvc_repro_records_nothing_and_does_the_stage_anew(name: str, project: Path) -> None:
    kind = KINDS[name]
    lock = (project / "dvc.lock").read_bytes()
    code, words = run_and_edit(project, kind, "dvc", "repro", "-s", kind.stage)
    assert code != 0
    assert f"error: {kind.stage}: " in words and kind.named in words
    assert "Run it again" in words and "Traceback" not in words
    assert (project / "dvc.lock").read_bytes() == lock
    assert "Running stage" in repro(project, kind.stage)
    second = hash_outputs(project, [kind.stage])
    (project / "dvc.lock").write_bytes(lock)
    remove_outputs(project, kind.stage)
    assert "Running stage" not in repro(project, kind.stage)  # from the run cache
    assert hash_outputs(project, [kind.stage]) == second == force(project, kind.stage)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_epoxy_repeats_the_stage_by_itself(name: str, project: Path) -> None:
    kind = KINDS[name]
    code, words = run_and_edit(project, kind, sys.executable, "-m", "flows.cli", "stage", kind.stage)
    assert code == 0, words
    assert words.count("once more: ") == 1 and kind.named in words
    assert words.count(f"> python -m tasks {kind.stage}") == 2
    assert "Running stage" not in repro(project, kind.stage)
    second = hash_outputs(project, [kind.stage])
    assert second == force(project, kind.stage)


@pytest.mark.slow
def test_epoxy_run_ends_with_what_was_edited(project: Path, prefect_server: str) -> None:
    kind = KINDS["LF"]
    os.environ["PREFECT_API_URL"] = prefect_server
    try:
        code, words = run_and_edit(project, kind, sys.executable, "-m", "flows.cli", "run", "apply")
    finally:
        del os.environ["PREFECT_API_URL"]
    assert code == 0, words
    assert words.count("once more: ") == 1
    assert hash_outputs(project, ["apply"]) == force(project, "apply")
