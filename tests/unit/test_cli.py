"""The `epoxy` command: help for everything, one line per answer, exit codes that say what happened."""

import subprocess
import sys
from pathlib import Path

import click
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


@pytest.mark.parametrize("group", ["", "gold", "releases"])
def test_help_lists_commands_in_whole_sentences(group: str) -> None:
    listed = epoxy(*group.split(), "--help").stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) > 2 and all(line.endswith(".") and not line.endswith("...") for line in listed)


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


def test_a_file_that_is_gone_is_to_be_brought_back(toy: Toy) -> None:
    (toy.root / "step.py").unlink()
    result = epoxy("stage", "data/demo/dvc.yaml:demo")
    assert result.exit_code == 5
    assert "step.py'. Bring it back (with 'epoxy run' if a stage writes it, else from Git or by dvc" in result.stderr


def test_status_names_what_changed(toy: Toy) -> None:
    result = epoxy("status")
    assert result.exit_code == 0
    assert any(line.startswith("ingest: ") for line in result.stdout.splitlines())
    toy.run("dvc", "repro")
    assert epoxy("status").stdout == "everything is up to date\n"
    toy.set_params(fit="f2")
    assert epoxy("status").stdout == "fit: params.yaml: fit (modified)\n"
    (toy.root / "data/evaluate/summary.md").unlink()
    (toy.root / "data/evaluate/lf_report.csv").unlink()
    assert epoxy("status").stdout.splitlines()[1] == "evaluate: 2 files in data/ (deleted)"
    assert epoxy("status", "--verbose").stdout.splitlines() == [
        "fit:",
        "    params.yaml: fit (modified)",
        "evaluate:",
        "    data/evaluate/summary.md (deleted)",
        "    data/evaluate/lf_report.csv (deleted)",
    ]


def test_show_points_to_results_and_gives_the_summary(toy: Toy) -> None:
    assert "'epoxy run'" in epoxy("show").stdout
    toy.run("dvc", "repro")
    lines = epoxy("show").stdout.splitlines()
    assert lines[0] == "metrics  data/evaluate/metrics.json"
    assert lines[-1].startswith("evaluate fit f1")


@pytest.mark.parametrize(("command", "goes_on"), [("workbench", False), ("stage", True)])
def test_ctrl_c_speaks_of_the_next_run_where_there_is_work_to_continue(
    command: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(context: click.Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[command], "invoke", interrupt)
    found = CliRunner().invoke(main, [command, *(["ingest"] if goes_on else [])])
    assert found.exit_code == 130 and ("the next run continues" in found.stderr) == goes_on
