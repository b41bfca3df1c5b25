"""Machines die, disks fill up, people start two things at once: the last release stays, nothing is half-written, and the
next run goes on by itself, to the same bytes as if nothing had happened.

EPOXY_KILLS asks for the long versions: that many kills of stages at chosen steps, and of whole runs at random moments
that EPOXY_SEED chooses; each problem with two classes and with four.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import polars as pl
import psutil
import pytest
import yaml
from small_project import CLASSES, hash_outputs, make_environment, make_project, run, write_params
from stage_processes import finish_stage, finish_stages, kill_stage

from flows.releases.create import create_release
from flows.releases.policy import GateLimits
from flows.releases.store import read_labels, read_release, verify_all
from flows.runner.dvc_graph import read_stages
from flows.runner.dvc_patches import Command
from flows.runner.dvc_run import Outcome, run_stage
from flows.runner.leftovers import remove_leftovers
from tasks.__main__ import STAGES
from tasks.errors import DataError, LabelingFunctionError, StageError
from tasks.tables.paths import SHIPPED_LABELS, VOTES

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
LONG = "EPOXY_KILLS" in os.environ
KILLS = int(os.environ.get("EPOXY_KILLS", "18"))
WHOLE_RUNS = KILLS if LONG else 1
SEED = int(os.environ.get("EPOXY_SEED", "0"))

pytestmark = pytest.mark.slow


def remove_outputs(root: Path, stage: str) -> None:
    """As DVC does before it runs a stage."""
    shutil.rmtree(root / "data" / stage, ignore_errors=True)  # killed early, it made none


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project on which all stages have run, known to DVC, with a release of the result. Only to be copied."""
    root = make_project(tmp_path_factory.mktemp("finished") / "project")
    for stage in STAGES:
        assert finish_stage(root, stage) == (0, ANY)
    done = run(root, "dvc", "commit", "--force", "--quiet")
    assert done.returncode == 0, done.stderr
    with contextlib.chdir(root):
        create_release(root, GateLimits.model_validate({}))
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    shutil.copytree(finished, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def require_whole(root: Path, expected: dict[str, str]) -> None:
    """The last release is intact, and every visible output is the one of an undisturbed run."""
    assert verify_all(root) == ()
    assert read_labels(read_release(root)).height == 100
    for path, content in hash_outputs(root).items():
        if not Path(path).name.startswith("."):
            assert content == expected[path], path


# Killed.


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_any_step_leaves_whole_files_and_runs_again(
    project: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    expected = hash_outputs(project)
    chosen = random.Random(SEED)
    last, killed = 200, 0
    for number in range(-(-KILLS // len(STAGES))):
        remove_outputs(project, stage)
        step = 1 + chosen.randrange(last) if number else 3
        code = kill_stage(project, stage, step)
        if code == 0:  # beyond its last step
            last = min(last, step - 1)
        else:
            assert code == -signal.SIGKILL
            killed += 1
        require_whole(project, expected)
    assert killed
    remove_leftovers(project, read_stages(project))
    assert finish_stage(project, stage)[0] == 0
    assert hash_outputs(project) == expected


def find_stages(candidates: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of `candidates` that run a stage of the pipeline."""
    found = []
    for process in candidates:
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:3] == ["-m", "tasks"]:
                found.append(process)
    return found


def find_orphans(root: Path) -> list[psutil.Process]:
    """The processes of anybody that run a stage of the project at `root`."""
    here = []
    for process in find_stages(psutil.process_iter()):
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(root):
                here.append(process)
    return here


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


DOORS = {
    "dvc repro": ["dvc", "repro", "--quiet"],
    "epoxy run": ["epoxy", "run", "--quiet"],
    "epoxy stage": ["epoxy", "stage"],
}


@pytest.mark.timeout(400 * WHOLE_RUNS)
def test_runs_killed_at_random_moments_end_as_if_nothing_had_happened(
    finished: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A run is started again after each kill, through any door, until one comes to its end; then all begins anew."""
    # A server and dozens of new interpreters are for the long version; tests/test_flow.py kills flows of a toy pipeline.
    doors = list(DOORS) if LONG else ["dvc repro", "epoxy stage"]
    undone = STAGES if LONG else ("extend",)
    server = {"PREFECT_API_URL": request.getfixturevalue("prefect_server")} if LONG else {}
    expected, lock = hash_outputs(finished), yaml.safe_load((finished / "dvc.lock").read_text())
    chosen = random.Random(SEED)
    kills: Counter[tuple[str, str]] = Counter()
    root = tmp_path / "project"
    shutil.copytree(finished, root, symlinks=True)
    began = time.monotonic()
    assert run(root, "python", "-m", "tasks", "extend").returncode == 0
    # Long enough for a run to get on between two kills, short enough for most kills to hit something.
    patience = 3 * (time.monotonic() - began)
    while kills.total() < WHOLE_RUNS:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(finished, root, symlinks=True)
        for name in (*(f"data/{stage}" for stage in undone), "data/.cache", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(root / name, ignore_errors=True)
        if LONG:
            (root / "dvc.lock").unlink()
        while True:
            door = chosen.choice(doors)
            missing = [stage for stage in undone if not hash_outputs(root, [stage])]
            what = [*DOORS[door], *([(missing or undone)[0]] if door == "epoxy stage" else [])]
            victim = chosen.choice(["the stage", "the run"])
            process = subprocess.Popen(
                what,
                cwd=root,
                env=make_environment(root, **server),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            is_last = kills.total() >= WHOLE_RUNS
            if not is_last:
                running = psutil.Process(process.pid)
                while process.poll() is None and not find_stages(running.children(recursive=True)):
                    time.sleep(0.2)
                time.sleep(chosen.uniform(0, patience))
                with contextlib.suppress(psutil.NoSuchProcess):
                    stages = find_stages(running.children(recursive=True))
                    if victim == "the run" and process.poll() is None:
                        running.kill()
                        kills[door, victim] += 1
                    elif stages:
                        chosen.choice(stages).kill()
                        kills[door, victim] += 1
            said, _ = process.communicate(timeout=280)
            wait_for(lambda: not find_orphans(root), 20)
            require_whole(root, expected)
            print(f"{kills.total()}: {door}, {victim}, exit code {process.returncode}, missing: {missing}", flush=True)
            if process.returncode == 0 and door != "epoxy stage":
                break
            if is_last and door != "epoxy stage":
                raise AssertionError(said)
        assert hash_outputs(root) == expected
        assert yaml.safe_load((root / "dvc.lock").read_text()) == lock  # stages in the order in which they ended
        assert "up to date" in run(root, "dvc", "status").stdout
    print(f"seed {SEED}: {kills.total()} kills {dict(kills)}")


# Disks.


def spawn(told: Command) -> None:
    """Run a stage for DVC."""
    stage = told.text.removeprefix("python -m tasks ")
    code, said = finish_stage(told.cwd, stage)
    if code:
        raise StageError(f"exit code {code}: {said}")


@contextlib.contextmanager
def mounted(folder: Path, *how: str) -> Iterator[None]:
    """Within the block, something else is mounted on `folder`; skips where this user may not do that."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or subprocess.run(["mount", *how, str(folder)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Within the block, nobody writes below `folder`, root included."""
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


def require_told(code: int, said: str, stage: str, why: str) -> None:
    assert code == StageError.exit_code, said
    last = said.rpartition("error: ")[2]
    assert last.startswith(f"{stage}: ") and why in last and "Check free space and permissions" in last, said


@pytest.mark.parametrize("stage", STAGES)
def test_a_write_that_fails_midway(project: Path, stage: str) -> None:
    """By a limit on the size of files, which needs no root: the first write fails, then the one of the largest file."""
    expected = hash_outputs(project)
    largest = max(path.stat().st_size for path in (project / "data" / stage).rglob("*"))
    for limit in (0, largest - 1):
        remove_outputs(project, stage)
        code, said = finish_stage(project, stage, {resource.RLIMIT_FSIZE: limit})
        require_told(code, said, stage, "too large")
        require_whole(project, expected)
        assert not list((project / "data").rglob("*.part"))
    assert finish_stage(project, stage) == (0, ANY)
    assert hash_outputs(project) == expected


def test_a_full_disk_under_each_stage(project: Path) -> None:
    expected = hash_outputs(project)
    for stage in STAGES if LONG else ("ingest", "search", "evaluate"):
        remove_outputs(project, stage)
        with mounted(project / "data" / stage, "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
            code, said = finish_stage(project, stage)
            require_told(code, said, stage, "No space left")
            require_whole(project, expected)
        assert finish_stage(project, stage) == (0, ANY)
    assert hash_outputs(project) == expected


def test_a_full_disk_under_the_memo_costs_time_only(project: Path) -> None:
    expected = hash_outputs(project)
    shutil.rmtree(project / "data/.cache")
    with mounted(project / "data/.cache", "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        (project / "data/.cache/filler").write_bytes(bytes(4096))
        for stage in ("apply", "search"):
            remove_outputs(project, stage)
            assert finish_stage(project, stage) == (0, ANY)
    assert hash_outputs(project) == expected


def test_a_full_disk_under_dvcs_cache(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    remove_outputs(project, "extend")
    shutil.rmtree(project / ".dvc/cache")
    with mounted(project / ".dvc/cache", "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        with pytest.raises(StageError, match=r"stage extend: .*[Nn]o space left"):
            run_stage(project, "extend", spawn)
        require_whole(project, expected)
    assert run_stage(project, "extend", spawn) is Outcome.COMPLETED
    assert hash_outputs(project) == expected


def test_a_folder_that_nobody_may_write(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    with read_only(project / "data"):
        for stage in STAGES:
            code, said = finish_stage(project, stage)
            require_told(code, said, stage, "Read-only file system")
        write_params(project, extend={"scope": "rows"})
        with pytest.raises(StageError, match=r"stage extend: .*Read-only file system"):
            run_stage(project, "extend", spawn)
        assert hash_outputs(project) == expected
        require_whole(project, expected)
    write_params(project)
    assert run_stage(project, "extend", spawn) in (Outcome.CACHED, Outcome.RESTORED)
    assert hash_outputs(project) == expected


# Damage that DVC sees.


def run_all(root: Path) -> set[Outcome]:
    """What became of the stages, as under `dvc repro` and `epoxy run`."""
    return {run_stage(root, stage.name, spawn) for stage in read_stages(root)}


def test_damaged_outputs_of_all_stages_are_restored(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flipped, truncated, removed and replaced by a folder, in turn."""
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    for number, name in enumerate(name for name in expected if not name.endswith("metrics.json")):
        path = Path(name)
        content = path.read_bytes()
        path.unlink()
        match number % 4:
            case 0:
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            case 1:
                path.write_bytes(content[: len(content) // 2])
            case 2:
                path.mkdir()
    assert run_all(project) == {Outcome.RESTORED}
    assert hash_outputs(project) == expected
    assert run_all(project) == {Outcome.CACHED}


def test_damage_of_the_cache_too_is_computed_away(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC compares what its cache holds with the name that it has there."""
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    for path in [VOTES, *(project / ".dvc/cache/files/md5").rglob("*")]:
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert Outcome.COMPLETED in run_all(project)
    assert hash_outputs(project) == expected
    assert run_all(project) == {Outcome.CACHED}


def test_files_of_the_future_are_compared_by_content(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a clock that jumped back: every file is younger than now, some written since, some of the same size."""
    expected = hash_outputs(project)
    monkeypatch.chdir(project)
    future = time.time() + 365 * 24 * 3600
    for path in [*Path("data").rglob("*"), *Path("lfs").rglob("*"), Path("params.yaml"), Path("dvc.lock")]:
        os.utime(path, (future, future))
    assert run_all(project) == {Outcome.CACHED}
    lfs = Path("lfs/small.py").read_text(encoding="utf-8")
    Path("lfs/small.py").write_text(lfs.replace("> 30", "> 31"), encoding="utf-8")
    assert Outcome.COMPLETED in run_all(project)
    Path("lfs/small.py").write_text(lfs, encoding="utf-8")
    os.utime("lfs/small.py", (future, future))
    assert Outcome.COMPLETED not in run_all(project)
    assert hash_outputs(project) == expected


# Labeling functions that do not behave.

DEADLY = {
    "os._exit(9)": (LabelingFunctionError.exit_code, "labeling function 'deadly' (lfs/small.py) failed on"),
    "sys.exit('enough')": (LabelingFunctionError.exit_code, "labeling function 'deadly' (lfs/small.py) failed on"),
    "deadly(item)": (LabelingFunctionError.exit_code, "labeling function 'deadly' (lfs/small.py) failed on"),
    "bytearray(2**45)": (LabelingFunctionError.exit_code, "MemoryError"),
    "[bytes(2**26) for _ in range(10**6)]": (LabelingFunctionError.exit_code, "MemoryError"),
    "ctypes.string_at(0)": (-signal.SIGSEGV, 'lfs/small.py", line '),
    "os.kill(os.getpid(), signal.SIGKILL)": (-signal.SIGKILL, ""),
    "signal.alarm(1), signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), 15)), time.sleep(600)": (
        -signal.SIGTERM,
        'lfs/small.py", line ',
    ),
}


@pytest.mark.parametrize("body", DEADLY)
def test_an_lf_that_brings_its_stage_down(project: Path, body: str) -> None:
    """It is named, or at least its line is, where the interpreter lives long enough; a corrected one goes on."""
    expected = hash_outputs(project)
    module = project / "lfs" / "small.py"
    whole = module.read_text()
    lines = "import ctypes, os, signal, sys, time\n\n@labeling_function\ndef deadly(item):\n    return "
    module.write_text(f"{whole}\n\n{lines}{body}\n")
    remove_outputs(project, "apply")
    code, said = finish_stage(project, "apply", {resource.RLIMIT_AS: 8 << 30})
    assert code == DEADLY[body][0], said
    assert DEADLY[body][1] in said
    require_whole(project, expected)
    module.write_text(whole)
    assert finish_stage(project, "apply") == (0, ANY)
    assert hash_outputs(project) == expected


def test_a_stage_without_memory_says_so(project: Path) -> None:
    """Not one that multiplies matrices: OpenBLAS asks again and again for memory that a limit withholds, until the stage
    is ended at its time limit."""
    expected = hash_outputs(project)
    remove_outputs(project, "ingest")
    code, said = finish_stage(project, "ingest", {resource.RLIMIT_DATA: 1 << 20})
    assert code != 0 and said
    require_whole(project, expected)
    assert finish_stage(project, "ingest") == (0, ANY)
    assert hash_outputs(project) == expected


# Problems that are hardly any.


def write_problem(root: Path, vectors: Any, *, votes: dict[str, list[int]], gold: list[str | None]) -> None:
    """Raw data with these embeddings (n, d), votes from a table, and gold of valid items (others are train)."""
    raw = root / "data" / "raw"
    shutil.rmtree(raw)
    raw.mkdir()
    n = len(vectors)
    items = {"item_id": range(n), "split": ["valid" if one else "train" for one in gold], "gold": gold}
    pl.DataFrame(items, schema_overrides={"gold": pl.String, "item_id": pl.Int64, "split": pl.String}).write_parquet(
        raw / "items.parquet"
    )
    np.save(raw / "embeddings.npy", np.asarray(vectors, dtype=np.float32))
    table = {"item_id": range(n), **{lf: pl.Series(column, dtype=pl.Int8) for lf, column in votes.items()}}
    pl.DataFrame(table, schema_overrides={"item_id": pl.Int64}).write_parquet(root / "lfs" / "votes.parquet")


def spread(n: int, d: int = 3) -> Any:
    return np.random.default_rng(0).normal(size=(n, d)) + 0.1


LABELED = 30
MANY = 2000
PROBLEMS: dict[str, tuple[Any, dict[str, list[int]], list[str | None], str]] = {
    "no item": (np.empty((0, 3)), {"a": []}, [], "no items"),
    "one item": (spread(1), {"a": [1]}, [None], ""),
    "one item, no vote": (spread(1), {"a": [-1]}, [None], "so there is nothing to learn from"),
    "two items, each its class": (spread(2), {"a": [0, 1]}, [None, None], ""),
    "one item, and it is valid": (spread(1), {"a": [1]}, ["spam"], ""),
    "one dimension": (spread(LABELED, 1), {"a": [0, 1, -1] * 10, "b": [-1, 1, 0] * 10}, [None] * LABELED, ""),
    "one LF": (spread(LABELED), {"a": [0, 1, -1] * 10}, [None] * LABELED, ""),
    "one LF, support of one": (spread(LABELED), {"a": [1] + [-1] * 29}, [None] * LABELED, ""),
    "gold of one class": (spread(LABELED), {"a": [0, 1, -1] * 10}, ["ham"] * 10 + [None] * 20, ""),
    "all vectors equal": (np.ones((LABELED, 3)), {"a": [0, 1, -1] * 10, "b": [1] * 30}, ["spam"] * 5 + [None] * 25, ""),
    "duplicates by the thousand": (
        np.repeat(np.eye(2), MANY // 2, axis=0),
        {"a": [0, *[-1] * (MANY // 2 - 1), *[-1] * (MANY // 2)], "b": [-1] * (MANY - 1) + [1], "c": [-1] * MANY},
        [None] * MANY,
        "",
    ),
}


CASES = [(name, k) for place, name in enumerate(PROBLEMS) for k in (2, 4) if LONG or k == (2, 4)[place % 2]]


@pytest.mark.parametrize(("name", "k"), CASES)
def test_hardly_a_problem(project: Path, name: str, k: int) -> None:
    """A clear error, or labels: of every item, the unanimous vote where there is one."""
    vectors, votes, gold, complaint = PROBLEMS[name]
    classes = (*CLASSES, "eggs", "toast")[:k]
    write_problem(project, vectors, votes=votes, gold=gold)
    write_params(project, apply={"source": "lfs/votes.parquet"})
    params = project / "params.yaml"
    params.write_text(yaml.safe_dump(yaml.safe_load(params.read_text()) | {"classes": list(classes)}))
    code, said = finish_stages(project, STAGES)
    assert code == (DataError.exit_code if complaint else 0), said
    assert complaint in said and "Traceback" not in said
    if complaint:
        return
    labels = pl.read_parquet(project / SHIPPED_LABELS)
    assert labels["item_id"].to_list() == list(range(len(vectors)))
    P = labels.select(f"p_{one}" for one in classes).to_numpy()
    assert np.allclose(P.sum(axis=1), 1) and np.isfinite(P).all()
    L = np.array(list(votes.values()))
    if name in {"one item", "two items, each its class", "duplicates by the thousand"}:
        own = [next((vote for vote in column if vote != -1), None) for column in L.T]
        for label, vote in zip(labels["label"], own, strict=True):
            assert vote is None or label == classes[vote]
    if name == "duplicates by the thousand":
        assert labels["label"].to_list() == ["ham"] * (MANY // 2) + ["spam"] * (MANY // 2)
