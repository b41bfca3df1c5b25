"""DVC's private functions that are replaced while a stage runs: how a command is spawned, how files are locked, what is parsed.

Two are replaced behind a context variable that only `flows/runner/dvc_run.py` sets, so that any other use of DVC in this
process is untouched: how a command is spawned (`dvc.stage.run._run`) and under what name a stage locks its files
(`dvc.rwlock.rwlock`). A third, `dvc.utils.strictyaml.load`, gets a cache of what it parsed, and dvc.lock is read and
written entry by entry (flows/runner/dvc_lock_text.py). pyproject.toml pins DVC for this reason, and
tests/servers/test_dvc_repo.py would notice a change.
"""

import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dvc.dvcfile
import dvc.rwlock
import dvc.stage.run
import dvc.utils.strictyaml
from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc.stage import Stage as DvcStage

from flows.runner import dvc_lock_text
from tasks.cache.dependencies import Dependencies, identify

_SHELL = "/bin/sh"

_NO_SHELLS = frozenset({"nologin", "false"})
"""Values of $SHELL, with which DVC starts commands, for users of services, who may not log in."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as DVC would spawn it."""

    text: str
    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]


Spawn = Callable[[Command], None]
"""Runs a command to its end and raises when it fails; nothing of it runs on afterwards."""


@dataclass(kw_only=True)
class RunningStage:
    """The stage that this context is running, and whether its command was spawned.

    node: DVC's object. before: what the stage depends on, before anything was read.
    """

    name: str
    repo: Repo
    spawn: Spawn
    node: DvcStage
    before: Dependencies
    has_spawned: bool = False


RUNNING: ContextVar[RunningStage | None] = ContextVar("RUNNING", default=None)
"""The stage that `run_stage` is running in this context; None where DVC works for somebody else."""

BOOKKEEPING = threading.Lock()
"""One thread at a time in DVC; released while a command runs, so that independent stages run side by side."""


def identify_dependencies(node: DvcStage) -> Dependencies:
    """The state of what a stage depends on; of none for data, which have no command that could read too early."""
    if node.cmd is None:
        return Dependencies(files={}, params={})
    local = [dep for dep in node.deps if dep.protocol == "local"]
    params = {Path(dep.fs_path): dep.params for dep in local if isinstance(dep, ParamsDependency)}
    return identify([Path(dep.fs_path) for dep in local if not isinstance(dep, ParamsDependency)], params)


_spawn_as_dvc = dvc.stage.run._run
_lock_as_dvc = dvc.rwlock.rwlock
_load_as_dvc = dvc.utils.strictyaml.load
_parse_as_dvc = dvc.utils.strictyaml.parse_yaml
_modify_as_dvc = dvc.dvcfile.modify_yaml


_PARSED: dict[str, tuple[bytes, Any, bytes]] = {}
"""Per path: the file's bytes, the schema they passed, and the pickle of what DVC made of them. Never leaves memory."""


def _spawn(executable: str | None, cmd: str, **options: Any) -> None:
    run = RUNNING.get()
    if run is None:
        _spawn_as_dvc(executable, cmd, **options)
        return
    run.has_spawned = True
    run.before = identify_dependencies(run.node)
    # DVC has to get its lock back once the command is done, or the result is lost: wait for it from here on.
    run.repo.lock._wait = True
    argv = dvc.stage.run._make_cmd(_SHELL if Path(executable or _SHELL).name in _NO_SHELLS else executable, cmd)
    command = Command(text=cmd, argv=tuple(argv), cwd=Path(options["cwd"]), env=options["env"])
    BOOKKEEPING.release()
    try:
        run.spawn(command)
    finally:
        BOOKKEEPING.acquire()


@contextmanager
def _lock_files(
    tmp_dir: str, fs: Any, cmd: str, read: Sequence[str], write: Sequence[str], hardlink: bool
) -> Iterator[None]:
    # DVC takes two stages with equal process and command line for the same: the first to end would release the files
    # that the other still reads. The name also tells whoever waits what is going on.
    run = RUNNING.get()
    with _lock_as_dvc(tmp_dir, fs, f"{cmd} (stage {run.name})" if run else cmd, read, write, hardlink):
        yield


_TORN_SECONDS = (0.05, 0.15, 0.3, 0.5)
"""Pauses before a dvc.lock is read again: another process of DVC may be in the middle of writing it, not atomically."""


def _load(path: str, schema: Any = None, fs: Any = None, encoding: str = "utf-8", round_trip: bool = False) -> Any:
    if Path(path).name == dvc_lock_text.NAME:
        for pause in _TORN_SECONDS:
            try:
                return _load_once(path, schema, fs, encoding, round_trip)
            except DvcException:
                time.sleep(pause)
    return _load_once(path, schema, fs, encoding, round_trip)


def _load_once(path: str, schema: Any, fs: Any, encoding: str, round_trip: bool) -> Any:
    # DVC parses and checks dvc.yaml and dvc.lock again for every stage. Ten stages with nothing to do take .58 s of
    # processor time with this cache and .92 s without it (medians .63 and 1.03 s of five runs, 2026-11-28). Entries are
    # pickles because callers change what they get.
    if round_trip or not isinstance(fs, LocalFileSystem) or not Path(path).is_file():
        return _load_as_dvc(path, schema, fs, encoding, round_trip)
    content = Path(path).read_bytes()
    cached = _PARSED.get(path)
    if cached and cached[0] == content and cached[1] is schema:
        return pickle.loads(cached[2])  # noqa: S301, made below, by this process
    data, text = _load_as_dvc(path, schema, fs, encoding)
    if text.encode(encoding) == content:  # the file did not change between the two reads
        _PARSED[path] = (content, schema, pickle.dumps((data, text), pickle.HIGHEST_PROTOCOL))
    return data, text


def _parse(text: str, path: str, typ: str = "safe") -> Any:
    if typ == "safe" and Path(path).name == dvc_lock_text.NAME:
        found = dvc_lock_text.parse_lock(text, path, _parse_as_dvc)
        if found is not None:
            return found
    return _parse_as_dvc(text, path, typ)


def _modify(path: str, fs: Any = None) -> AbstractContextManager[Any]:
    return dvc_lock_text.modify_lock(path, fs, _parse_as_dvc, _modify_as_dvc)


dvc.stage.run._run = _spawn
dvc.rwlock.rwlock = _lock_files
dvc.utils.strictyaml.load = _load
dvc.utils.strictyaml.parse_yaml = _parse
dvc.dvcfile.modify_yaml = _modify
logging.getLogger("dvc").setLevel(logging.ERROR)  # the flow reports what matters
for name in ("dvc.progress", "dvc_data.callbacks"):
    # DVC shows no bar where its module is silent; a bar would overwrite lines of stages that run at the same time.
    logging.getLogger(name).setLevel(logging.CRITICAL)
