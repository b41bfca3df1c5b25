"""Run a command so that its lines arrive as they are written and nothing of it outlives the caller.

Between caller and command stands a guard: this file, run as a script. The guard's standard input is a pipe whose other
end only the caller holds, its life line. When the pipe closes, because the caller stops the command or because
the caller is dead, however it died, the guard ends the command and everything the command started. This needs no
separate process group (a Prefect worker kills the group of the flow it runs) and no polling.
"""

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL: time for a stage to remove its half-written file."""

_REAP_SECONDS = 5.0
"""How long a guard may take beyond the grace period before it is killed itself; all it does is wait and kill."""

_PR_SET_CHILD_SUBREAPER = 36
"""From Linux's prctl.h: orphans of the command become children of the guard, so that it finds them all."""


_LIFE_LINE = 0
"""The guard's standard input."""

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Signals to a guard that end its command: a request to end, and the loss of the terminal."""


class Stream(StrEnum):
    """Where a command wrote a line."""

    OUT = "out"
    ERR = "err"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line that a command wrote, without its line end."""

    stream: Stream
    text: str


class CommandTimeoutError(Exception):
    """The command ran past its time limit; it and all its children have ended."""


class CommandStoppedError(Exception):
    """The command was stopped; it and all its children have ended."""


def make_environment(base: Mapping[str, str]) -> dict[str, str]:
    """A copy of `base` in which `python` is this interpreter's, what it prints arrives line by line, and hashes are fixed.

    The environment's scripts folder comes first on PATH even where nobody activated the environment: under a Prefect
    worker, or when the flow was started by the interpreter's full path.
    """
    from tasks.hash_seed import HASH_SEED  # run as a script, this file finds nothing of the project

    scripts = sysconfig.get_path("scripts")
    path = base.get("PATH", "")
    return {
        **base,
        "PATH": f"{scripts}:{path}" if path else scripts,
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": HASH_SEED,
    }


def start_guarded(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdout: int | IO[bytes] | None = subprocess.PIPE,
    stderr: int | IO[bytes] | None = subprocess.PIPE,
    process_group: int | None = None,
) -> "subprocess.Popen[bytes]":
    """The running guard of `command`; closing its `stdin` ends the command with all its children.

    The guard's exit code is the command's, 128 + n where signal n ended it. `process_group=0` keeps Ctrl-C in a
    terminal from reaching the command.
    """
    guard = [sys.executable, "-I", __file__, *command]
    return subprocess.Popen(
        guard, cwd=cwd, env=dict(env), stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, process_group=process_group
    )


def end_guarded(guard: "subprocess.Popen[bytes]") -> int:
    """The exit code of `guard` after its command and all the command's children have ended, by force if need be."""
    _cut(guard)
    try:
        return guard.wait(GRACE_SECONDS + _REAP_SECONDS)
    except subprocess.TimeoutExpired:
        end_tree(guard.pid, grace_seconds=0.0)
        guard.kill()
        return guard.wait()


def _cut(guard: "subprocess.Popen[bytes]") -> None:
    assert guard.stdin is not None
    with contextlib.suppress(OSError):
        guard.stdin.close()


class Commands:
    """The running commands of a run: started by any thread, stopped together."""

    def __init__(self) -> None:
        self._guards: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every running command soon; each `run` then raises, and so does every later one."""
        with self._lock:
            self._stopped.set()
            for guard in self._guards:
                _cut(guard)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond a stop.

        Raises
        ------
        CommandStoppedError
            The run was stopped.
        """
        if self._stopped.wait(seconds):
            raise CommandStoppedError

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        timeout_seconds: float | None,
        on_line: Callable[[Line], None],
    ) -> int:
        """The exit code of `command` (128 + n where signal n ended it), after `on_line` has seen all its lines.

        `on_line` is called in the caller's thread. Where a line overwrites itself with carriage returns, as progress
        bars do, what the last of them left counts.

        Raises
        ------
        CommandTimeoutError
            `timeout_seconds` have passed.
        CommandStoppedError
            `stop` was called.
        """
        with self._lock:
            if self._stopped.is_set():
                raise CommandStoppedError
            guard = start_guarded(command, cwd=cwd, env=env)
            self._guards.add(guard)
        try:
            is_timely = _relay_lines(guard, timeout_seconds, on_line)
        finally:
            code = end_guarded(guard)
            with self._lock:
                self._guards.discard(guard)
        if not is_timely:
            raise CommandTimeoutError
        if self._stopped.is_set():
            raise CommandStoppedError
        return code


def _relay_lines(
    guard: "subprocess.Popen[bytes]", timeout_seconds: float | None, on_line: Callable[[Line], None]
) -> bool:
    """Whether both streams of `guard` ended in time, after `on_line` has seen their lines in this thread."""
    assert guard.stdout is not None and guard.stderr is not None
    lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
    for stream, pipe in ((Stream.OUT, guard.stdout), (Stream.ERR, guard.stderr)):
        threading.Thread(target=_read_lines, args=(pipe, stream, lines), daemon=True).start()
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    is_timely = True
    open_streams = 2
    while open_streams:
        try:
            left = max(0.0, deadline - time.monotonic()) if deadline is not None and is_timely else None
            line = lines.get(timeout=left)
        except queue.Empty:
            is_timely = False
            end_guarded(guard)
            continue
        if line is None:
            open_streams -= 1
        else:
            on_line(line)
    return is_timely


def _read_lines(pipe: IO[bytes], stream: Stream, lines: "queue.SimpleQueue[Line | None]") -> None:
    with pipe:
        for raw in pipe:
            text = raw.decode("utf-8", errors="replace").rstrip("\r\n").rpartition("\r")[2]
            lines.put(Line(stream=stream, text=text))
    lines.put(None)


def end_tree(root: int, *, grace_seconds: float) -> None:
    """End all descendants of process `root`: SIGTERM first, then SIGKILL to those left after the grace period."""
    import psutil  # imported here since most guards never need it, and it takes time

    def find() -> list[psutil.Process]:
        try:
            return list(psutil.Process(root).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def is_alive(process: psutil.Process) -> bool:
        try:
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    descendants = find()
    for process in descendants if grace_seconds > 0 else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(descendants, timeout=grace_seconds)
    while rest := [process for process in find() if is_alive(process)]:
        for process in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(rest, timeout=1.0)


def guard_command(command: Sequence[str]) -> int:
    """The exit code of `command`, run as a child of this process and ended with all its descendants at stdin's end."""
    _adopt_orphans()
    # A signal writes its number into this pipe at once, whatever the main thread is doing. Handlers rather than
    # SIG_IGN, which the command would inherit. Ctrl-C is left to the command: a terminal sends it to everyone.
    signaled, signals = os.pipe()
    os.set_blocking(signals, False)
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    for number in (signal.SIGINT, *_ENDING_SIGNALS):
        signal.signal(number, lambda *_: None)
    is_cut = threading.Event()

    def end_when_cut() -> None:
        while True:
            ready, _, _ = select.select([_LIFE_LINE, signaled], [], [])
            if signaled in ready and set(os.read(signaled, 64)) & set(_ENDING_SIGNALS):
                break
            if _LIFE_LINE in ready and not os.read(_LIFE_LINE, 64):
                break
        is_cut.set()
        end_tree(os.getpid(), grace_seconds=GRACE_SECONDS)

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    watcher = threading.Thread(target=end_when_cut, daemon=True)
    watcher.start()
    code = child.wait()
    if is_cut.is_set():
        watcher.join()
        return 128 + signal.SIGTERM
    if _has_children():
        end_tree(os.getpid(), grace_seconds=GRACE_SECONDS)
    return code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(guard_command(sys.argv[1:]))
