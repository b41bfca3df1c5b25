"""DVC's graph: the stages of dvc.yaml and what they need, in the order in which they can run."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import Stage as DvcStage

from flows.runner.dvc_repo import open_repo
from flows.runner.project import PIPELINE
from flows.runner.refusal import describe_refusal
from tasks.__main__ import STAGES
from tasks.cache.stage_code import CHECK, require_noted_code
from tasks.errors import ParamsError


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


def read_stages(root: Path, targets: Sequence[str] = ()) -> tuple[Stage, ...]:
    """The stages of `targets` and all that they need, every stage after those it needs.

    Without targets, those of the root's dvc.yaml. Other dvc.yaml files and `.dvc` files take part when needed.

    Raises
    ------
    ParamsError
        dvc.yaml cannot be read, a target does not exist, or a stage's Prefect options are wrong.
    StageError
        The project knows other code of the stages than is installed.
    """
    with open_repo(root) as repo:
        try:
            plan = make_plan(repo, root, targets)
            return tuple(_describe(name, node, plan) for name, node in plan.nodes.items())
        except (DvcException, ValueError) as error:  # a date such as 2026-13-01
            raise ParamsError(describe_refusal(root, error)) from error


CODE_STAGE = f".epoxy/dvc.yaml:{CHECK}"
"""The stage of a project without the tool's code that stops `dvc repro` where other code is installed than it knows."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """DVC's nodes by name, each after those it needs, and the graph they are in."""

    nodes: Mapping[str, DvcStage]
    graph: Any
    names: Mapping[DvcStage, str]


def make_plan(repo: Repo, root: Path, targets: Sequence[str]) -> Plan:
    """What a run of `targets`, as for `read_stages`, would look at; the code that is installed is compared here.

    Raises
    ------
    ParamsError
        A target does not exist, or a stage depends on files outside of the project.
    StageError
        The project knows other code of the stages than is installed.
    DvcException
        dvc.yaml cannot be read.
    """
    require_noted_code(root, *STAGES)
    graph = get_active_graph(repo.index.graph)
    names = {node: _name(node, root) for node in graph}
    for node in [node for node, name in names.items() if name == CODE_STAGE]:
        graph.remove_node(node)  # what it would do is done
        del names[node]
    wanted = [node for node in graph if _is_wanted(node, root, targets, names[node])]
    if unknown := sorted({*targets} - {PIPELINE} - {names[node] for node in wanted}):
        raise ParamsError(_describe_unknown(unknown[0], list(names.values())))
    if not wanted:
        raise ParamsError(f"{PIPELINE} has no stages. Bring it back, as with 'git checkout {PIPELINE}'.")
    nodes = {names[node]: node for node in plan_repro(graph, wanted)}
    for name, node in nodes.items():
        refuse_outsiders(name, node)
    return Plan(nodes=nodes, graph=graph, names=names)


def refuse_outsiders(name: str, node: DvcStage) -> None:
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


def _describe(name: str, node: DvcStage, plan: Plan) -> Stage:
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


def _describe_unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(known))}"
    return f"{PIPELINE}: no stage '{name}'; {hint}"
