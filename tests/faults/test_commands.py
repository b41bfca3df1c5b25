"""The `epoxy` command where its surroundings fail: Ctrl-C, closed streams, full disks, folders that are gone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import is_alive
from toy_project import Toy


def test_interrupted_stage_ends_with_130_and_leaves_no_process(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEP_demo", "600")
    command = [sys.executable, "-m", "flows.cli", "stage", "data/demo/dvc.yaml:demo"]
    process = subprocess.Popen(command, cwd=toy.root, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not toy.read_log("child"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the next run continues" in error
    assert "Traceback" not in error
    assert not any(is_alive(pid) for pid in toy.read_pids())


def run_in_shell(toy: Toy, command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What a shell's `command` gave; `epoxy` in it is this checkout's."""
    python = f"{sys.executable} -m flows.cli"
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        ["sh", "-c", command.replace("epoxy", python)],
        cwd=toy.root,
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
    )


def test_a_folder_that_is_gone_is_told(toy: Toy) -> None:
    done = run_in_shell(toy, "mkdir gone && cd gone && rmdir ../gone && epoxy status")
    assert (done.returncode, done.stderr) == (
        2,
        "error: the current folder no longer exists; go to the project's root\n",
    )


def test_output_that_cannot_be_written_is_told_in_a_line(toy: Toy) -> None:
    done = run_in_shell(toy, "epoxy show > /dev/full")
    assert done.returncode == 5
    assert done.stderr.startswith("error: [Errno 28]") and done.stderr.count("\n") == 1
    assert "Traceback" not in run_in_shell(toy, "epoxy show | true").stderr


def test_closed_streams_do_no_harm(toy: Toy) -> None:
    done = run_in_shell(toy, "epoxy stage data/demo/dvc.yaml:demo <&- 2>&-")
    assert (done.returncode, done.stdout.split()[1:2]) == (0, ["Completed"])
    assert run_in_shell(toy, "epoxy stage data/demo/dvc.yaml:demo >&- 2>&-").returncode == 0
    assert (toy.root / "data/demo/seed.txt").read_text() == "demo"


def test_an_address_that_prefect_cannot_read_is_told_without_its_password(toy: Toy) -> None:
    done = run_in_shell(toy, "epoxy run", PREFECT_API_URL="http://me:s3cret@[::1/api")
    assert done.returncode == 2
    assert "error: Prefect cannot read its settings" in done.stderr and "Invalid IPv6 URL" in done.stderr
    assert "s3cret" not in done.stderr and "Traceback" not in done.stderr


def test_a_home_below_a_file_is_told(toy: Toy) -> None:
    done = run_in_shell(toy, "epoxy status", HOME="/dev/null/home")
    assert done.returncode == 5
    assert done.stderr.startswith("error: DVC cannot read its settings") and done.stderr.count("\n") == 1
