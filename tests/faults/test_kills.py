"""Whatever is killed, and whenever: nothing visible is half-written, and the next run goes on by itself, to the same bytes.

EPOXY_KILLS asks for that many kills of stages at chosen steps, and of whole runs at random moments that EPOXY_SEED chooses.
Kills of releases are in test_release_faults.py, of both doors amid edits in test_any_moment.py, of what needs a server in
tests/servers.
"""

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import polars as pl
import psutil
import pytest
import yaml
from finished_project import KILLS, LONG, SEED, WHOLE_RUNS, remove_outputs, require_whole
from small_project import hash_outputs, make_environment, run
from stage_processes import finish_stage, kill_stage

from flows.runner.dvc_graph import read_stages
from flows.runner.leftovers import remove_leftovers
from tasks.__main__ import STAGES
from tasks.errors import LabelingFunctionError
from tasks.tables import schemas
from tasks.tables.parquet import read_table

pytestmark = pytest.mark.slow


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


# A folder of shards.

SHARDED = schemas.embeddings(2)


def make_shards(begin: int) -> pl.DataFrame:
    """A table of 300 rows from id `begin` on."""
    vectors = np.array([[number, 1] for number in range(begin, begin + 300)], np.float32)
    column = pl.Series("embedding", vectors.tolist(), dtype=pl.Array(pl.Float32, 2))
    return pl.DataFrame([pl.Series("item_id", range(begin, begin + 300)), column])


_KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
import test_kills as here
from tasks.tables import parquet
parquet.SHARD = 16
old, new = here.make_shards(0), here.make_shards(1)
print("go", flush=True)
while True:
    for table in (new, old):
        parquet.write_shards(Path(sys.argv[1]), [table], here.SHARDED)
"""


def test_a_kill_leaves_all_shards_of_one_write_or_none(tmp_path: Path) -> None:
    folder, here = tmp_path / "rows", Path(__file__).resolve()
    tables = [make_shards(0), make_shards(1)]
    rng = np.random.default_rng(SEED)
    for _ in range(3):
        command = [sys.executable, "-c", _KILLED, str(folder), str(here.parents[1]), str(here.parent)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(float(rng.uniform(0.05, 0.6)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if folder.exists():  # a kill between two renames leaves none: DVC then makes it again
            found = read_table(folder, SHARDED)
            assert any(found.equals(table) for table in tables)


# A labeling function that brings its stage down.

DEADLY = {
    "os._exit(9)": (LabelingFunctionError.exit_code, "labeling function 'deadly' (lfs/small.py) failed on"),
    "sys.exit('enough')": (LabelingFunctionError.exit_code, "labeling function 'deadly' (lfs/small.py) failed on"),
    "deadly(item)": (LabelingFunctionError.exit_code, "labeling function 'deadly' (lfs/small.py) failed on"),
    "bytearray(2**45)": (LabelingFunctionError.exit_code, "MemoryError"),
    "[bytes(2**26) for _ in range(10**6)]": (LabelingFunctionError.exit_code, "MemoryError"),
    "ctypes.string_at(0)": (
        -signal.SIGSEGV,
        "\nerror: labeling function 'deadly' (lfs/small.py) ended the Python interpreter at item_id 'i00000' (Segmentation fault)",
    ),
    "os.kill(os.getpid(), signal.SIGKILL)": (
        -signal.SIGKILL,
        "\nwarning: the process ended while labeling function 'deadly' (lfs/small.py) was at item_id 'i00000'",
    ),
    "signal.alarm(1), signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), 15)), time.sleep(600)": (
        -signal.SIGTERM,
        "\nwarning: the process ended while labeling function 'deadly' (lfs/small.py) was at item_id 'i00000'",
    ),
}


@pytest.mark.parametrize("body", DEADLY)
def test_an_lf_that_brings_its_stage_down(project: Path, body: str) -> None:
    """It is named, and the item too if the interpreter does not live; a corrected one goes on."""
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
