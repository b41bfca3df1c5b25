"""tasks.lf.workers: the same votes and errors from workers as from one process, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from processes import is_alive, wait_until_dead

from tasks import apply
from tasks.errors import LabelingFunctionError, StageError
from tasks.params import ApplyParams
from tasks.tables import schemas
from tasks.tables.parquet import read_table, read_votes, write_table
from tasks.tables.paths import ITEMS, LF_FAILURES, VALID_GOLD, VOTES

CLASSES = ("HAM", "SPAM")
N = 300
REPOSITORY = Path(__file__).resolve().parents[2]


def make_project(root: Path, lfs: str) -> Path:
    items = pl.DataFrame({"item_id": list(range(N)), "split": ["train"] * N, "value": [i % 7 for i in range(N)]})
    write_table(root / ITEMS, items, schemas.ITEMS)
    gold = pl.DataFrame({"item_id": [0], "gold": pl.Series([1], dtype=pl.Int8)})
    write_table(root / VALID_GOLD, gold, schemas.gold(2))
    (root / "lfs").mkdir()
    header = "import os, signal, time\nfrom tasks.labeling import ABSTAIN, labeling_function\n"
    (root / "lfs" / "mine.py").write_text(header + lfs)
    return root


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers from the second chunk on, chunks of 16 items."""
    monkeypatch.setattr("tasks.lf.workers.PAYS", -1.0)
    monkeypatch.setattr("tasks.lf.workers.FIRST_CHUNK", 16)
    monkeypatch.setattr("tasks.lf.workers.LARGEST_CHUNK", 16)
    monkeypatch.setattr("tasks.lf.workers.count_cores", lambda: 2)


def run(root: Path) -> None:
    apply.run(root, CLASSES, ApplyParams(source="lfs/mine.py"))


LFS = """
PID = os.getpid()

@labeling_function
def small(item):
    return "HAM" if item.value < 3 else ABSTAIN

@labeling_function(on_error="abstain", error_budget=0.2)
def inverse(item):
    return 1 if 6 / item.value > 2 else None

@labeling_function
def big(item):
    return "SPAM" if item.value > 4 else ABSTAIN
"""


def test_workers_write_the_same_bytes(tmp_path: Path, spread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for name, cores in (("two", 2), ("one", 1)):
        monkeypatch.setattr("tasks.lf.workers.count_cores", lambda cores=cores: cores)
        root = make_project(tmp_path / name, LFS)
        run(root)
        outputs.append([(root / path).read_bytes() for path in (VOTES, LF_FAILURES)])
    assert outputs[0] == outputs[1]
    votes = read_votes(tmp_path / "two" / VOTES, k=2)
    assert votes["inverse"].to_list() == [{1: 1, 2: 1}.get(i % 7, -1) for i in range(N)]
    failures = read_table(tmp_path / "two" / LF_FAILURES, schemas.FAILURES)
    assert failures["item_id"].to_list() == list(range(0, N, 7))


def test_the_votes_come_from_other_processes(tmp_path: Path, spread: None) -> None:
    lf = "@labeling_function\ndef mine(item):\n    open('pids', 'a').write(f'{os.getpid()} ')\n"
    run(make_project(tmp_path, lf.replace("'pids'", repr(str(tmp_path / "pids")))))
    pids = set((tmp_path / "pids").read_text().split())
    assert str(os.getpid()) in pids and 2 <= len(pids) <= 3
    assert not any(is_alive(int(pid)) for pid in pids - {str(os.getpid())})


def test_an_error_in_a_worker_names_lf_item_and_line(tmp_path: Path, spread: None) -> None:
    lf = "@labeling_function\ndef broken(item):\n    assert item.item_id != 200, 'two hundred'\n"
    with pytest.raises(LabelingFunctionError) as error:
        run(make_project(tmp_path, LFS + lf))
    text = str(error.value)
    assert "'broken' (lfs/mine.py) failed on item_id 200: AssertionError: two hundred" in text
    assert "in broken\n    assert item.item_id != 200" in text
    assert "workers.py" not in text and "voting.py" not in text


def test_an_lf_that_ends_the_interpreter_is_named(tmp_path: Path, spread: None) -> None:
    lf = "@labeling_function\ndef deadly(item):\n    if item.item_id == 200:\n        os.kill(os.getpid(), signal.SIGSEGV)\n"
    with pytest.raises(LabelingFunctionError, match=r"'deadly' .* ended the Python interpreter \(SIGSEGV\) on item_id 200"):  # fmt: skip
        run(make_project(tmp_path, LFS + lf))
    lf = lf.replace("os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(3)")
    with pytest.raises(LabelingFunctionError, match=r"'deadly' .* \(exit code 3\) on item_id 200"):
        run(make_project(tmp_path / "exit", LFS + lf))


def test_a_killed_worker_is_told_from_a_broken_lf(tmp_path: Path, spread: None) -> None:
    lf = "@labeling_function\ndef big(item):\n    if item.item_id == 200:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
    with pytest.raises(StageError, match="SIGKILL, perhaps for want of memory"):
        run(make_project(tmp_path, lf))


def test_a_module_that_fails_in_a_worker_says_so(tmp_path: Path, spread: None) -> None:
    guard = f"assert os.getpid() == {os.getpid()}, 'only here'\n"
    with pytest.raises(LabelingFunctionError, match=r"lfs/mine.py cannot be imported:[\s\S]*only here"):
        run(make_project(tmp_path, guard + LFS))


SLOW = """
@labeling_function
def slow(item):
    open("pids", "a").write(f"{os.getpid()} ")
    time.sleep(0.05 if item.item_id < 16 else 60)
"""

STAGE = """
from pathlib import Path
from tasks import apply
from tasks.lf import workers
from tasks.params import ApplyParams
workers.PAYS, workers.FIRST_CHUNK, workers.LARGEST_CHUNK, workers.count_cores = -1, 16, 16, lambda: 2
import tasks.__main__ as command
command.run_identified_stage = lambda *_: apply.run(Path(), ("HAM", "SPAM"), ApplyParams(source="lfs/mine.py"))
raise SystemExit(command.main(["apply"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stage_that_is_ended_leaves_nobody_behind(tmp_path: Path, number: signal.Signals) -> None:
    make_project(tmp_path, SLOW)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    log = (tmp_path / "log").open("w")
    stage = subprocess.Popen([sys.executable, "-c", STAGE], cwd=tmp_path, env=environment, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while len(pids := set((tmp_path / "pids").read_text().split()) if (tmp_path / "pids").exists() else set()) < 3:
            assert stage.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        stage.send_signal(number)
        stage.wait(timeout=20)
        assert stage.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
        wait_until_dead(map(int, pids))
    finally:
        stage.kill()
        stage.wait()
        log.close()
    if number is signal.SIGINT:
        assert (tmp_path / "log").read_text().splitlines()[-1:] == ["apply: interrupted"]
        assert "Traceback" not in (tmp_path / "log").read_text()
    assert not (tmp_path / VOTES).exists()
    assert not list((tmp_path / "data").rglob("*.part"))
