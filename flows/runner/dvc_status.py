"""Which stages are not up to date, and what changed for each, as DVC sees it now."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo

from flows.runner.dvc_graph import Plan, make_plan
from flows.runner.dvc_locks import BusyError, find_holder, name_blockers
from flows.runner.dvc_repo import open_repo
from flows.runner.refusal import describe_refusal
from tasks.errors import ParamsError


def find_changes(root: Path) -> dict[str, tuple[str, ...]]:
    """Per stage that is not up to date, what changed, as DVC sees it now.

    Raises
    ------
    BusyError
        Another process uses the project.
    ParamsError
        dvc.yaml cannot be read.
    """
    with open_repo(root) as repo:
        return _compare(repo, root).changes


def find_outdated(root: Path) -> frozenset[Path]:
    """The outputs, absolute, of stages that are not up to date or need a stage that is not.

    Raises
    ------
    BusyError, ParamsError
        As for `find_changes`.
    """
    with open_repo(root) as repo:
        status = _compare(repo, root)
        plan, outdated = status.plan, set[str]()
        for name, node in plan.nodes.items():
            if name in status.changes or outdated.intersection(
                plan.names[need] for need in plan.graph.successors(node)
            ):
                outdated.add(name)
        return frozenset(Path(output.fs_path) for name in outdated for output in plan.nodes[name].outs)


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage that a run would look at: what changed for it, and the stages before it that may change its inputs."""

    name: str
    changes: tuple[str, ...]
    after: tuple[str, ...]


def plan_run(root: Path, targets: Sequence[str] = ()) -> tuple[PlannedStage, ...]:
    """The stages that are not up to date, or need one that is not, in the order of a run of `targets`, or of all.

    As in a run, sources of imports are not asked what is new.

    Raises
    ------
    BusyError, ParamsError
        As for `find_changes`.
    """
    with open_repo(root) as repo:
        status = _compare(repo, root, targets, asks_sources=False)
        plan, planned = status.plan, dict[str, PlannedStage]()
        for name, node in plan.nodes.items():
            needs = [plan.names[need] for need in plan.graph.successors(node)]
            after = tuple(need for need in plan.nodes if need in needs and need in planned)
            if name in status.changes or after:
                planned[name] = PlannedStage(name=name, changes=status.changes.get(name, ()), after=after)
        return tuple(planned.values())


@dataclass(frozen=True, kw_only=True)
class _Status:
    """What a run would look at, and what changed for each stage that is not up to date."""

    plan: Plan
    changes: dict[str, tuple[str, ...]]


def _compare(repo: Repo, root: Path, targets: Sequence[str] = (), *, asks_sources: bool = True) -> _Status:
    try:
        with lock_repo(repo):
            plan = make_plan(repo, root, targets)
            found = {name: node.status(check_updates=asks_sources) for name, node in plan.nodes.items()}
    except LockError as error:
        raise BusyError(f"{name_blockers(error)}; last used by {find_holder(root)}") from error
    except (DvcException, ValueError) as error:  # a date such as 2026-13-01
        raise ParamsError(describe_refusal(root, error)) from error
    changes = {name: tuple(_list_changes(chain.from_iterable(kinds.values()))) for name, kinds in found.items()}
    return _Status(plan=plan, changes={name: changed for name, changed in changes.items() if changed})


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
