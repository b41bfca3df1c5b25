"""Stages in processes that have everything imported: what takes seconds to start takes a fraction of one here.

Imports next to nothing: each process imports this module anew.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import tasks.__main__ as command
from tasks.__main__ import STAGES

REPOSITORY = Path(__file__).resolve().parents[1]

_MORE = (
    # What LF modules import, too: in two whole runs of the tests such a process did not find it, for reasons unknown.
    *("tasks.labeling", "tasks.__main__", "flows.releases.create"),
    # What stages import where they compute; 3 s for all of them.
    *("scipy.linalg", "scipy.optimize", "scipy.sparse.csgraph", "scipy.special", "sklearn.cluster", "sklearn.metrics"),
    *("numba.np.linalg", "numpy.ma"),
)


def start(function: Callable[..., None], *arguments: Any) -> multiprocessing.Process:
    """A process of its own that runs `function` and has the stages and the making of releases imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*(f"tasks.{stage}" for stage in STAGES), *_MORE])
    process = context.Process(target=function, args=arguments)
    # The server of these processes imports from the folder in which it is first started, for as long as it lives; the
    # folder of the test at hand may hold a part of this code only.
    with contextlib.chdir(REPOSITORY):
        process.start()
    return process


def finish_stage(root: Path, stage: str, limits: Mapping[int, int] | None = None) -> tuple[int, str]:
    """The exit code and the words of `stage`, within `limits` by resource.RLIMIT_*."""
    return finish_stages(root, [stage], limits)


def finish_stages(
    root: Path,
    stages: Sequence[str],
    limits: Mapping[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """The exit code of the last of `stages` that ran, one after another while all is well, and the words of all."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = start(run_stages, str(root), stages, theirs, limits, environment)
    theirs.close()
    said = b""
    while part := os.read(ours.fileno(), 65_536):
        said += part
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode, said.decode(errors="replace")


def run_stages(
    root: str,
    stages: Sequence[str],
    words: Connection,
    limits: Mapping[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `stages` as their commands do, to the end of this process."""
    os.dup2(words.fileno(), 1)
    os.dup2(words.fileno(), 2)
    words.close()
    os.chdir(root)
    os.environ.update(environment or {})
    for kind, limit in (limits or {}).items():
        resource.setrlimit(kind, (limit, limit))
    code = 0
    for stage in stages:
        code = code or command.main([stage])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def die_at(root: str, stage: str, words: Connection, step: int) -> None:
    """Run `stage` and die of SIGKILL right before the step-th thing it does to the file system below data/."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        changes = event in {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.utime"}
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (changes or writes) and "data/" in str(arguments[0]):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with contextlib.suppress(SystemExit):
        run_stages(root, [stage], words)


def kill_stage(root: Path, stage: str, step: int) -> int | None:
    """The exit code of `stage`, killed right before its step-th change of a file below data/."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = start(die_at, str(root), stage, theirs, step)
    theirs.close()
    while os.read(ours.fileno(), 65_536):
        pass
    process.join(60)
    return process.exitcode
