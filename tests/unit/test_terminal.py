"""What a terminal gets and a file does not: color, folded lines, laid-out Markdown; and a line per stage and command."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from docs.pages.commands import list_commands
from flows.cli.main import main
from flows.runner.changes import summarize_changes
from flows.runner.listener import (
    TERMINAL,
    StageProgress,
    TerminalListener,
    read_progress,
    show_stages_in_terminal,
)
from flows.runner.process import Line, Stream
from flows.runner.report import Report, describe_reports
from flows.runner.terminal import Color, fold, paint

ROOT = Path(__file__).resolve().parents[2]


class Screen(io.StringIO):
    """A stream that a person reads."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def on_screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """Standard error as a terminal of 40 columns with colors; stages' lines arrive there."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    before = TERMINAL.level
    show_stages_in_terminal()
    yield screen
    TERMINAL.setLevel(before)


GROUPS = ["", *(name for name, command in sorted(main.commands.items()) if isinstance(command, click.Group))]


@pytest.mark.parametrize("group", GROUPS)
def test_help_lists_every_command_in_a_whole_sentence_that_fits_80_columns(group: str) -> None:
    words = group.split()
    result = CliRunner().invoke(main, [*words, "--help"], terminal_width=80)
    lines = result.output.partition("Commands:\n")[2].splitlines()
    command = main.commands[group] if group else main
    assert isinstance(command, click.Group)
    assert len(lines) == len(command.commands)
    assert [line for line in lines if len(line) > 80 or not line.endswith(".") or line.endswith("...")] == []


def test_the_first_line_of_every_help_is_the_sentence_of_the_list() -> None:
    for name, command in list_commands(main):
        assert command.help
        first, _, rest = command.help.partition("\n")
        assert first.endswith(".") and (not rest or rest.startswith("\n")), name


def test_color_is_for_terminals_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("Failed", Color.RED, Screen()) == "\x1b[31mFailed\x1b[0m"
    assert paint("Failed", Color.RED, io.StringIO()) == paint("Failed", Color.RED, None) == "Failed"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("Failed", Color.RED, Screen()) == "Failed"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("Failed", Color.RED, Screen()) == "Failed"


def test_a_closed_stream_is_no_terminal() -> None:
    closed = Screen()
    closed.close()
    assert paint("Failed", Color.RED, closed) == "Failed"


def test_outcomes_line_up_with_and_without_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    reports = [Report(name="fit", outcome="Completed", seconds=1), Report(name="train", outcome="Failed", seconds=12)]
    plain = "fit    Completed      1.0 s\ntrain  Failed        12.0 s"
    assert describe_reports(reports) == plain
    colored = describe_reports(reports, Screen())
    assert "\x1b[32mCompleted\x1b[0m" in colored and "\x1b[31mFailed   \x1b[0m" in colored
    assert re.sub(r"\x1b\[\d*m", "", colored) == plain


def test_long_lines_break_between_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    text = "15 of 15 labeling functions searched"
    assert fold(text, Screen(), indent=9) == "15 of 15 labeling\n         functions searched"
    assert fold(text, io.StringIO(), indent=9) == text
    assert fold("short", Screen(), indent=9) == "short"


def test_a_stage_is_named_once_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with on_screen(monkeypatch) as screen:
        TerminalListener("tune").say("tune: nothing is extended")
        TerminalListener("tune").say("reading neighbors")
    assert re.sub(r"\x1b\[\d*m", "", screen.getvalue()) == "tune | nothing is extended\ntune | reading neighbors\n"
    assert "\x1b[36mtune | \x1b[0m" in screen.getvalue()


def test_progress_tells_about_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = StageProgress(what="apply", done=400, total=1000, seconds_left=90)
    with on_screen(monkeypatch) as screen:
        TerminalListener("apply").show(progress)
    assert re.sub(r"\x1b\[\d*m", "", screen.getvalue()) == ("apply |  40% (400 of 1,000), about 2 min\n        left\n")


@pytest.mark.parametrize("left", ["-1", "1e300", "NaN", "Infinity", "null"])
def test_an_estimate_that_cannot_be_is_none(left: str) -> None:
    line = Line(stream=Stream.ERR, text=f'@progress {{"what": "x", "done": 1, "total": 2, "seconds_left": {left}}}')
    assert read_progress(line) == StageProgress(what="x", done=1, total=2)


def test_changes_of_a_stage_are_a_short_line() -> None:
    changes = [
        "data/ingest/items.parquet (deleted)",
        "lfs (modified)",
        *(f"tasks/core/{name}.py (modified)" for name in ("ties", "types", "metrics")),
        "tasks/core/new.py (new)",
        "params.yaml: tune (modified)",
    ]
    assert summarize_changes(changes) == (
        "lfs (modified), params.yaml: tune (modified), data/ingest/items.parquet (deleted), "
        "3 files in tasks/ (modified), tasks/core/new.py (new)"
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has a summary and labels, and no more."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages: {other: {cmd: 'true'}}\n")
    (tmp_path / "data" / "evaluate").mkdir(parents=True)
    (tmp_path / "data" / "evaluate" / "metrics.json").write_text("{}")
    (tmp_path / "data" / "evaluate" / "summary.md").write_text(SUMMARY)
    return tmp_path


SUMMARY = "# Labels\n\nThey are **good**.\n\n| method | accuracy |\n|---|---|\n| majority | 0.9 |\n"


def show(project: Path, **environment: str) -> str:
    """What `epoxy show` writes to a terminal of 80 columns."""
    ours, its = pty.openpty()
    variables = {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "TERM": "xterm", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "show"],
        cwd=project,
        env={name: value for name, value in os.environ.items() if name != "NO_COLOR"} | variables,
        stdout=its,
        stderr=its,
        stdin=its,
    )
    os.close(its)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # how a pseudo-terminal ends on Linux
    finally:
        os.close(ours)
    assert process.wait() == 0
    return shown.decode().replace("\r\n", "\n")


def test_show_lays_out_its_markdown_on_a_terminal_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = show(project)
    assert shown.startswith("metrics  data/evaluate/metrics.json\n")
    assert "\x1b[1mgood\x1b[0m" in shown and "**" not in shown and "|---|" not in shown
    assert re.search(r"majority +0\.9", re.sub(r"\x1b\[[\d;]*m", "", shown))
    monkeypatch.chdir(project)
    piped = CliRunner().invoke(main, ["show"]).output
    assert piped.startswith("metrics  data/evaluate/metrics.json\n") and piped.endswith(f"\n\n{SUMMARY}")


def test_show_has_no_color_where_none_is_wanted(project: Path) -> None:
    assert re.search(r"\x1b\[[\d;]*3\d", show(project, NO_COLOR="1")) is None
