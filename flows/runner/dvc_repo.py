"""The only module that touches DVC: its DAG, its verdict on each stage, and how it spawns a command.

DVC decides everything about caching. Two of its private functions are replaced, both behind a context variable that
only `run_stage` sets, so that any other use of DVC in this process is untouched: how a command is spawned
(`dvc.stage.run._run`) and under what name a stage locks its files (`dvc.rwlock.rwlock`). A third,
`dvc.utils.strictyaml.load`, gets a cache of what it parsed. pyproject.toml pins DVC for this reason, and
tests/servers/test_dvc_repo.py would notice a change.

The working directory has to be the project's root, the `root` of every function here.
"""

import contextlib
import difflib
import json
import logging
import pickle
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

import dvc.rwlock
import dvc.stage.run
import dvc.utils.strictyaml
import psutil
import pydantic
from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException, ReproductionError
from dvc.fs import LocalFileSystem
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import Stage as DvcStage

from flows.runner.project import PIPELINE
from flows.runner.site_cache import find_site_cache
from tasks.cache.dependencies import Dependencies, describe_changes, identify, list_changes
from tasks.errors import EpoxyError, ParamsError, StageError

_SHELL = "/bin/sh"

_NO_SHELLS = frozenset({"nologin", "false"})
"""Values of $SHELL, with which DVC starts commands, for users of services, who may not log in."""

_PARTS = ".{name}.*.part"
"""How tasks/tables/files.py names a file that is not complete yet."""


class Outcome(StrEnum):
    """What happened to a stage that ended well."""

    CACHED = "Cached"  # its outputs were there and up to date
    RESTORED = "Restored"  # its outputs came out of DVC's cache
    COMPLETED = "Completed"  # its command ran, or changed data was taken over


class Options(pydantic.BaseModel):
    """What `meta: {prefect: ...}` of a stage in dvc.yaml may say; it never makes a stage run again."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    retries: int = pydantic.Field(default=0, ge=0)
    retry_delay_seconds: float = pydantic.Field(default=0, ge=0)
    timeout_seconds: float | None = pydantic.Field(default=None, gt=0)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One node of DVC's graph: a stage of a dvc.yaml, or a `.dvc` file.

    `name` is what `dvc repro` takes in the project's root; `needs` are the names of the stages right before it;
    `outputs` are absolute. `is_import`: it is a `.dvc` file whose data come from elsewhere; `is_to_update`: it is to be
    asked there what is new.
    """

    name: str
    needs: tuple[str, ...]
    outputs: tuple[Path, ...]
    options: Options
    is_import: bool = False
    is_to_update: bool = False


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as DVC would spawn it."""

    text: str
    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]


Spawn = Callable[[Command], None]
"""Runs a command to its end and raises when it fails; nothing of it runs on afterwards."""


class BusyError(StageError):
    """Another process has locked what this one needs; the message names it."""


class EditedError(StageError):
    """What the stage depends on was edited while it ran; `is_recorded`: DVC has recorded its outputs nonetheless."""

    def __init__(self, message: str, *, is_recorded: bool) -> None:
        super().__init__(message)
        self.is_recorded = is_recorded


@dataclass(kw_only=True)
class _Run:
    """The stage that this context is running, and whether its command was spawned.

    node: DVC's object. before: what the stage depends on, before anything was read.
    """

    name: str
    repo: Repo
    spawn: Spawn
    node: DvcStage
    before: Dependencies
    has_spawned: bool = False


_RUN: ContextVar[_Run | None] = ContextVar("_RUN", default=None)

_BOOKKEEPING = threading.Lock()
"""One thread at a time in DVC; released while a command runs, so that independent stages run side by side."""

_spawn_as_dvc = dvc.stage.run._run
_lock_as_dvc = dvc.rwlock.rwlock
_load_as_dvc = dvc.utils.strictyaml.load

_PARSED: dict[str, tuple[bytes, Any, bytes]] = {}
"""Per path: the file's bytes, the schema they passed, and the pickle of what DVC made of them. Never leaves memory."""


def _spawn(executable: str | None, cmd: str, **options: Any) -> None:
    run = _RUN.get()
    if run is None:
        _spawn_as_dvc(executable, cmd, **options)
        return
    run.has_spawned = True
    run.before = _identify(run.node)
    # DVC has to get its lock back once the command is done, or the result is lost: wait for it from here on.
    run.repo.lock._wait = True
    argv = dvc.stage.run._make_cmd(_SHELL if Path(executable or _SHELL).name in _NO_SHELLS else executable, cmd)
    command = Command(text=cmd, argv=tuple(argv), cwd=Path(options["cwd"]), env=options["env"])
    _BOOKKEEPING.release()
    try:
        run.spawn(command)
    finally:
        _BOOKKEEPING.acquire()


@contextmanager
def _lock_files(
    tmp_dir: str, fs: Any, cmd: str, read: Sequence[str], write: Sequence[str], hardlink: bool
) -> Iterator[None]:
    # DVC takes two stages with the same process and command line for one: the first to end would release the files
    # that the other still reads. The name also tells whoever waits what is going on.
    run = _RUN.get()
    with _lock_as_dvc(tmp_dir, fs, f"{cmd} (stage {run.name})" if run else cmd, read, write, hardlink):
        yield


_TORN_SECONDS = (0.05, 0.15, 0.3, 0.5)
"""Pauses before a dvc.lock is read again: another process of DVC may be in the middle of writing it, not atomically."""


def _load(path: str, schema: Any = None, fs: Any = None, encoding: str = "utf-8", round_trip: bool = False) -> Any:
    if Path(path).name == "dvc.lock":
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


dvc.stage.run._run = _spawn
dvc.rwlock.rwlock = _lock_files
dvc.utils.strictyaml.load = _load
logging.getLogger("dvc").setLevel(logging.ERROR)  # the flow reports what matters
for name in ("dvc.progress", "dvc_data.callbacks"):
    # DVC shows no bar where its module is silent; a bar would overwrite lines of stages that run at the same time.
    logging.getLogger(name).setLevel(logging.CRITICAL)


def read_stages(root: Path, targets: Sequence[str] = ()) -> tuple[Stage, ...]:
    """The stages of `targets` and all that they need, every stage after those it needs.

    Without targets, those of the root's dvc.yaml. Other dvc.yaml files and `.dvc` files take part when needed.

    Raises
    ------
    ParamsError
        dvc.yaml cannot be read, a target does not exist, or a stage's Prefect options are wrong.
    """
    with _BOOKKEEPING, _open(root) as repo:
        try:
            plan = _plan(repo, root, targets)
            return tuple(_describe(name, node, plan) for name, node in plan.nodes.items())
        except DvcException as error:
            raise ParamsError(f"{PIPELINE}: {_explain(error)}") from error


def run_stage(root: Path, name: str, spawn: Spawn, *, force: bool = False) -> Outcome:
    """What became of stage `name`, run exactly as `dvc repro --single-item` does, with its command run by `spawn`.

    May be called by several threads for stages that do not depend on each other. `force`: run it even if DVC has its
    outputs.

    Raises
    ------
    BusyError
        Another process uses the project; nothing was changed, and the call can be repeated.
    EditedError
        What the stage depends on was edited meanwhile; it should be run again, with `force` if it was recorded.
    StageError
        DVC reported an error, such as a missing output or input, or a full disk.
    Exception
        Whatever `spawn` raised.
    """
    with _BOOKKEEPING, _open(root) as repo:
        token = None
        try:
            (node,) = repo.stage.collect(name)
            _refuse_outsiders(name, node)
            run = _Run(name=name, repo=repo, spawn=spawn, node=node, before=_identify(node))
            token = _RUN.set(run)
            changed = repo.reproduce([name], single_item=True, force=force)
        except ReproductionError as error:
            cause = error.__cause__
            if run.has_spawned:
                _bring_outputs_back(repo, name)
            if getattr(cause, "exit_code", None) == StageError.exit_code and (edited := _list_edited(run, root)):
                raise EditedError(describe_changes(f"stage {name}", edited), is_recorded=False) from cause
            if isinstance(cause, LockError):
                raise BusyError(_name_blockers(cause)) from None
            if isinstance(cause, DvcException):
                raise StageError(f"stage {name}: {_explain(cause)}") from cause
            if isinstance(cause, OSError) and not isinstance(cause, EpoxyError):
                raise _blame_machine(name, cause) from cause
            raise (cause or error) from None
        except LockError as error:
            raise BusyError(f"the project is in use by {_find_holder(root)}") from error
        except DvcException as error:
            raise StageError(f"stage {name}: {_explain(error)}") from error
        except OSError as error:
            raise _blame_machine(name, error) from error
        finally:
            if token is not None:
                _RUN.reset(token)
        if not changed:
            return Outcome.CACHED
        # DVC hashes after the command, or after it has restored outputs.
        if edited := _list_edited(run, root):
            raise EditedError(describe_changes(f"stage {name}", edited), is_recorded=True)
        is_data = changed[0].cmd is None
        return Outcome.COMPLETED if run.has_spawned or is_data else Outcome.RESTORED


def _identify(node: DvcStage) -> Dependencies:
    """The state of what a stage depends on; of none for data, which have no command that could read too early."""
    if node.cmd is None:
        return Dependencies(files={}, params={})
    local = [dep for dep in node.deps if dep.protocol == "local"]
    params = {Path(dep.fs_path): dep.params for dep in local if isinstance(dep, ParamsDependency)}
    return identify([Path(dep.fs_path) for dep in local if not isinstance(dep, ParamsDependency)], params)


def _bring_outputs_back(repo: Repo, name: str) -> None:
    """Put the recorded outputs of a stage that failed back in place, as far as DVC's cache here has them.

    DVC removes outputs before it runs a stage; after a failure, yesterday's would be gone. The stage stays out of date.
    """
    with contextlib.suppress(DvcException, OSError), lock_repo(repo):
        (node,) = repo.stage.collect(name)
        for out in node.outs:
            if out.use_cache and out.hash_info and not out.changed_cache():
                out.checkout(force=True)


def _list_edited(run: _Run, root: Path) -> tuple[str, ...]:
    return list_changes(run.before, _identify(run.node), root=root)


def find_changes(root: Path) -> dict[str, tuple[str, ...]]:
    """Per stage that is not up to date, what changed, as DVC sees it now.

    Raises
    ------
    BusyError
        Another process uses the project.
    ParamsError
        dvc.yaml cannot be read.
    """
    with _BOOKKEEPING, _open(root) as repo:
        try:
            with lock_repo(repo):
                nodes = _plan(repo, root, ()).nodes
                status = {name: node.status(check_updates=True) for name, node in nodes.items()}
        except LockError as error:
            raise BusyError(f"{_name_blockers(error)}; last used by {_find_holder(root)}") from error
        except DvcException as error:
            raise ParamsError(f"{PIPELINE}: {_explain(error)}") from error
    changes = {name: tuple(_list_changes(chain.from_iterable(found.values()))) for name, found in status.items()}
    return {name: found for name, found in changes.items() if found}


def remove_leftovers(root: Path, stages: Sequence[Stage]) -> tuple[Path, ...]:
    """The half-written files of killed runs beside outputs of `stages` below data/, which this call has removed.

    Outputs that a living process has locked are left alone.
    """
    outputs = [output for stage in stages for output in stage.outputs if output.is_relative_to(root / "data")]
    parts = {part: output for output in outputs for part in output.parent.glob(_PARTS.format(name=output.name))}
    if not parts:
        return ()  # the usual case, without the cost of opening the project
    with _BOOKKEEPING, _open(root) as repo:
        try:
            with lock_repo(repo):
                locks = _read_locks(Path(repo.tmp_dir) / dvc.rwlock.RWLOCK_FILE) or {"write": {}}
                busy = {Path(path) for path, holder in locks["write"].items() if psutil.pid_exists(holder["pid"])}
                removed = tuple(sorted(part for part, output in parts.items() if output not in busy))
                for part in removed:
                    if part.is_dir():
                        shutil.rmtree(part)
                    else:
                        part.unlink(missing_ok=True)
                return removed
        except LockError:
            return ()  # another process is at work; the next run removes them


@contextmanager
def _open(root: Path) -> Iterator[Repo]:
    if Path.cwd() != root.resolve():
        # DVC's run cache resolves names against the working directory, whatever root it was given.
        raise ParamsError(f"{Path.cwd()}: not the project's root; go to {root}")
    try:
        repo = Repo(str(root), config={"core": {"site_cache_dir": str(find_site_cache(root))}})
    except DvcException as error:
        text = _explain(error)
        raise ParamsError(text if str(root) in text else f"{root}: {text}") from error
    except OSError as error:
        raise StageError(f"DVC cannot read its settings: {error}. Check HOME and the permissions there") from error
    try:
        with repo:
            _repair_locks(repo)
            yield repo
    except ImportError as error:
        # DVC loads its plugin for S3, GCS or SSH when it meets such an address, even in a file that is not needed now.
        raise ParamsError(f"an address in a .dvc file or .dvc/config: {error}{_name_plugin(str(error))}") from None


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """DVC's nodes by name, each after those it needs, and the graph they are in."""

    nodes: Mapping[str, DvcStage]
    graph: Any
    names: Mapping[DvcStage, str]


def _plan(repo: Repo, root: Path, targets: Sequence[str]) -> _Plan:
    graph = get_active_graph(repo.index.graph)
    names = {node: _name(node, root) for node in graph}
    wanted = [node for node in graph if _is_wanted(node, root, targets, names[node])]
    if unknown := sorted({*targets} - {PIPELINE} - {names[node] for node in wanted}):
        raise ParamsError(_describe_unknown(unknown[0], list(names.values())))
    nodes = {names[node]: node for node in plan_repro(graph, wanted)}
    for name, node in nodes.items():
        _refuse_outsiders(name, node)
    return _Plan(nodes=nodes, graph=graph, names=names)


def _refuse_outsiders(name: str, node: DvcStage) -> None:
    """Return if the stage depends on files of the project alone; DVC would hash all of a folder elsewhere first.

    Raises
    ------
    ParamsError
        It does not.
    """
    for dep in node.deps if node.cmd else ():
        if dep.protocol == "local" and not dep.is_in_repo:
            raise ParamsError(
                f"{PIPELINE}: stage {name} depends on {dep.fs_path}, which is outside of the project. If ingest.source in "
                "params.yaml names it, bring the data below data/, by a copy or with 'dvc import-url', and name that"
            )


def _name(node: DvcStage, root: Path) -> str:
    path = Path(node.path).relative_to(root).as_posix()
    name = getattr(node, "name", None)
    if name is None:
        return path
    return str(name) if path == PIPELINE else f"{path}:{name}"


def _is_wanted(node: DvcStage, root: Path, targets: Sequence[str], name: str) -> bool:
    if not targets or PIPELINE in targets:
        return Path(node.path) == root / PIPELINE
    return name in targets


def _describe(name: str, node: DvcStage, plan: _Plan) -> Stage:
    return Stage(
        name=name,
        needs=tuple(sorted(plan.names[need] for need in plan.graph.successors(node))),
        outputs=tuple(Path(output.fs_path) for output in node.outs if output.is_in_repo),
        options=_read_options(name, node.meta),
        is_import=bool(node.is_import),
    )


def _read_options(name: str, meta: Any) -> Options:
    options = meta.get("prefect", {}) if isinstance(meta, Mapping) else {}
    try:
        return Options.model_validate(options)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        near = difflib.get_close_matches(key, Options.model_fields, n=1)
        known = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(Options.model_fields)}"
        raise ParamsError(
            f"{PIPELINE}: stage {name}, meta.prefect, '{key}': {first['msg']}, got {first['input']!r}; {known}"
        ) from None


def _name_plugin(text: str) -> str:
    """What to do if DVC's message `text` says that a plugin is missing; empty for other messages."""
    found = re.search(r"'dvc-(\w+)'", text)
    return f". Run 'python -m pip install \"dvc[{found[1]}]\"' in the environment of the project" if found else ""


def _blame_machine(name: str, error: OSError) -> StageError:
    """An error of the machine, such as a full disk or a folder that may not be written, as a stage's error."""
    return StageError(f"stage {name}: {error}. Check free space and permissions, then run it again.")


def _describe_unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(known))}"
    return f"{PIPELINE}: no stage '{name}'; {hint}"


def _explain(error: BaseException) -> str:
    """The message of `error` and of its causes, joined."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).strip()
        if text and not any(text in part for part in parts):
            parts.append(text)
        cause = cause.__cause__
    text = ": ".join(parts) or type(error).__name__
    if "is not a git repository" in text:
        text += (
            "; run 'git init' there, or 'dvc config --local core.no_scm true' to work without Git, where releases do not "
            "name the commit that they were made from"
        )
    if "missing data" in text:
        text += "; bring it back with 'dvc checkout' or 'dvc pull'"
    if "dvc.lock' validation failed" in text:
        text += "; delete it or bring it back from git: DVC's cache still has what it names"
    return text


def _list_changes(entries: Iterable[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
            continue
        for kind, items in entry.items():
            if isinstance(items, Mapping):
                for item, verdict in items.items():
                    yield from _list_params(item, verdict) if isinstance(verdict, Mapping) else [f"{item} ({verdict})"]
            else:
                yield f"{kind} ({items})" if items else str(kind)


def _list_params(path: str, verdicts: Mapping[str, Any]) -> Iterator[str]:
    for key, verdict in verdicts.items():
        yield f"{path}: {key} ({verdict})"


def _repair_locks(repo: Repo) -> None:
    """Remove DVC's list of locks if a process was killed, or the disk was full, while the list was written.

    Only the holder of the project's lock writes the list, so a torn list under that lock has nobody who will mend it.
    DVC itself would refuse to work with it, for ever.
    """
    path = Path(repo.tmp_dir) / dvc.rwlock.RWLOCK_FILE
    if _read_locks(path) is None:
        with contextlib.suppress(LockError), lock_repo(repo):  # whoever has the lock may be writing
            if _read_locks(path) is None:
                path.unlink(missing_ok=True)


def _read_locks(path: Path) -> Mapping[str, Any] | None:
    """DVC's list of locks: by "read" and "write", by path, who has it; None where DVC could not read it."""
    try:
        return dict(dvc.rwlock.SCHEMA(json.loads(path.read_bytes())))
    except FileNotFoundError:
        return dict(dvc.rwlock.SCHEMA({}))
    except (ValueError, dvc.rwlock.Invalid, RecursionError):
        return None


def _name_blockers(error: LockError) -> str:
    """The first paragraph of DVC's message as one line; the rest asks the user to remove a lock, which DVC does itself."""
    return " ".join(str(error).partition("\n\n")[0].split())


def _find_holder(root: Path) -> str:
    """The process that has DVC's lock, with its command line, as far as the lock's file names it."""
    try:
        process = psutil.Process(int((root / ".dvc" / "tmp" / "lock").read_text(encoding="utf-8")))
        return f"process {process.pid} ({' '.join(process.cmdline())})"
    except (OSError, ValueError, psutil.Error):
        return "another DVC process"
