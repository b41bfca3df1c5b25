"""A command's lines arrive, and nothing of it outlives its caller."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import wait_until_dead

from flows.runner.process import Commands, CommandStoppedError, CommandTimeoutError, Line, Stream, make_environment

# A shell that starts a child, which starts a grandchild that ignores SIGTERM's default politeness by having a parent
# that is gone; each writes its process id, in one piece: `print` writes the end of the line by itself if PYTHONUNBUFFERED
# is set, and all three write to the same pipe.
TREE = """
import os, subprocess, sys, time
own_id = "import os; os.write(1, f'{os.getpid()}{os.linesep}'.encode())"
child = subprocess.Popen([sys.executable, "-c", own_id + "; import time; time.sleep(600)"])
orphan = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!"])
orphan.wait()
exec(own_id)
time.sleep(600)
"""


def run(code: str, tmp_path: Path, timeout_seconds: float | None = None) -> tuple[int, list[Line]]:
    lines: list[Line] = []
    code_ = Commands().run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ,
        timeout_seconds=timeout_seconds,
        on_line=lines.append,
    )
    return code_, lines


def test_run_gives_every_line_with_its_stream(tmp_path: Path) -> None:
    code, lines = run("import sys; print('one'); print('two', file=sys.stderr); print('end', end='')", tmp_path)
    assert code == 0
    assert sorted((line.stream, line.text) for line in lines) == [
        (Stream.ERR, "two"),
        (Stream.OUT, "end"),
        (Stream.OUT, "one"),
    ]


def test_run_keeps_what_a_progress_bar_left_and_survives_bytes_that_are_no_text(tmp_path: Path) -> None:
    _, lines = run(r"import sys; sys.stdout.buffer.write(b'10%\r100%\r\n\xff\n')", tmp_path)
    assert [line.text for line in lines] == ["100%", "\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_run_gives_the_exit_code(code: str, expected: int, tmp_path: Path) -> None:
    assert run(code, tmp_path)[0] == expected


def test_run_uses_folder_and_environment_and_gives_no_input(tmp_path: Path) -> None:
    lines: list[Line] = []
    Commands().run(
        ["sh", "-c", 'pwd; echo "$COLOR"; cat'],
        cwd=tmp_path,
        env={**os.environ, "COLOR": "blue"},
        timeout_seconds=60,
        on_line=lines.append,
    )
    assert [line.text for line in lines] == [str(tmp_path), "blue"]


def test_timeout_ends_the_whole_tree(tmp_path: Path) -> None:
    lines: list[Line] = []
    with pytest.raises(CommandTimeoutError):
        Commands().run(
            [sys.executable, "-c", TREE], cwd=tmp_path, env=os.environ, timeout_seconds=1.5, on_line=lines.append
        )
    pids = [int(line.text) for line in lines]
    assert len(pids) == 3
    wait_until_dead(pids)


def test_stop_ends_the_whole_tree_and_refuses_later_commands(tmp_path: Path) -> None:
    commands = Commands()
    pids: list[int] = []

    def see(line: Line) -> None:
        pids.append(int(line.text))
        if len(pids) == 3:
            threading.Thread(target=commands.stop).start()

    with pytest.raises(CommandStoppedError):
        commands.run([sys.executable, "-c", TREE], cwd=tmp_path, env=os.environ, timeout_seconds=60, on_line=see)
    wait_until_dead(pids)
    with pytest.raises(CommandStoppedError):
        commands.run(["true"], cwd=tmp_path, env=os.environ, timeout_seconds=60, on_line=see)
    with pytest.raises(CommandStoppedError):
        commands.pause(60)


def test_command_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
    )
    lines: list[Line] = []
    with pytest.raises(CommandTimeoutError):
        Commands().run(
            [sys.executable, "-c", stubborn], cwd=tmp_path, env=os.environ, timeout_seconds=1, on_line=lines.append
        )
    wait_until_dead([int(lines[0].text)])


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_command_dies_with_its_caller(end: signal.Signals, tmp_path: Path) -> None:
    caller = f"""
import os
from pathlib import Path
from flows.runner.process import Commands
def see(line): print(line.text, flush=True)
Commands().run([{sys.executable!r}, "-c", {TREE!r}], cwd=Path("."), env=os.environ, timeout_seconds=None, on_line=see)
"""
    process = subprocess.Popen([sys.executable, "-c", caller], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(3)]
    process.send_signal(end)
    process.wait()
    process.stdout.close()
    wait_until_dead(pids)


def test_a_child_left_behind_ends_with_its_command(tmp_path: Path) -> None:
    code, lines = run("import subprocess; print(subprocess.Popen(['sleep', '600']).pid)", tmp_path, timeout_seconds=60)
    assert code == 0
    wait_until_dead([int(lines[0].text)])


def test_python_is_this_environments_and_writes_line_by_line(tmp_path: Path) -> None:
    lines: list[Line] = []
    Commands().run(
        ["sh", "-c", "python -c 'import sys; print(sys.prefix)'"],
        cwd=tmp_path,
        env=make_environment({"PATH": "/usr/bin:/bin"}),
        timeout_seconds=60,
        on_line=lines.append,
    )
    assert [line.text for line in lines] == [sys.prefix]
    assert make_environment({})["PYTHONUNBUFFERED"] == "1"
