"""The `epoxy` command: help for everything, one line per answer, exit codes that say what happened."""

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import psutil
import pytest
from click.testing import CliRunner
from toy_project import Toy

from flows.cli.main import main


def epoxy(*arguments: str) -> "click.testing.Result":
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("name", ["", *sorted(main.commands)])
def test_everything_has_help(name: str) -> None:
    result = epoxy(*name.split(), "--help")
    assert result.exit_code == 0
    command = main.commands[name] if name else main
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_help_comes_without_prefect_and_dvc() -> None:
    code = "import sys, flows.cli.main; print(sorted({'prefect', 'dvc', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_outside_a_project_every_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["status"], ["show"], ["stage", "fit"], ["run"]):
        result = epoxy(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {tmp_path}: not inside a DVC project")


def test_stage_runs_one_stage_from_any_folder_of_the_project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.root / "data")
    result = epoxy("stage", "data/demo/dvc.yaml:demo")
    assert (result.exit_code, result.stdout.split()[:2]) == (0, ["data/demo/dvc.yaml:demo", "Completed"])
    assert epoxy("stage", "data/demo/dvc.yaml:demo").stdout.split()[1] == "Cached"
    assert toy.read_log() == ["demo"]
    assert Path.cwd() == toy.root / "data"


def test_stage_gives_the_stages_exit_code_and_words(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL_demo", "4")
    result = epoxy("stage", "data/demo/dvc.yaml:demo")
    assert result.exit_code == 4
    assert result.stderr.endswith("error: stage data/demo/dvc.yaml:demo: exit code 4: demo cannot go on\n")
    result = epoxy("stage", "deom")
    assert result.exit_code == 2
    assert "no stage 'deom'" in result.stderr


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
    assert not any(psutil.pid_exists(pid) for pid in toy.read_pids())


def test_status_names_what_changed(toy: Toy) -> None:
    result = epoxy("status")
    assert result.exit_code == 0
    assert any(line.startswith("ingest: ") for line in result.stdout.splitlines())
    toy.run("dvc", "repro")
    assert epoxy("status").stdout == "everything is up to date\n"
    toy.set_params(fit="f2")
    assert epoxy("status").stdout == "fit: params.yaml: fit (modified)\n"


def test_show_points_to_results_and_gives_the_summary(toy: Toy) -> None:
    assert "'epoxy run'" in epoxy("show").stdout
    toy.run("dvc", "repro")
    lines = epoxy("show").stdout.splitlines()
    assert lines[0] == "metrics  data/evaluate/metrics.json"
    assert lines[-1].startswith("evaluate fit f1")


@pytest.mark.slow
def test_run_ends_with_where_the_results_are(toy: Toy, prefect_server: str) -> None:
    result = epoxy("run", "--quiet")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "metrics  data/evaluate/metrics.json"
    assert epoxy("run", "fit").stdout.count("Cached") == 6


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
