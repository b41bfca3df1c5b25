"""The pipeline of a project, with params that its stages can use, and whether a run would find anything to do."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from flows.runner.dvc_graph import Stage, read_stages
from flows.runner.dvc_locks import BusyError
from flows.runner.dvc_status import find_outdated, plan_run
from flows.runner.leftovers import remove_leftovers
from flows.runner.project import describe_end, find_results
from flows.runner.report import Outcome, Report, Summary
from tasks.__main__ import STAGES
from tasks.cache.stage_code import NOTES
from tasks.params_file import read_params, read_stage_params
from tasks.tables.paths import LF_REPORT, REPORT_SUMMARY


def read_pipeline(root: Path, targets: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of `targets` and all that they need, whose params are valid; without targets all of params.yaml is.

    Raises
    ------
    ParamsError
        dvc.yaml or params.yaml is wrong, or a target unknown. A stage would find the mistake only after those before it.
    """
    stages = read_stages(root, targets)
    if not (root / "tasks" / "params.py").is_file() and not (root / NOTES).is_dir():
        return stages  # another pipeline, with params of its own
    if not targets:
        read_params(root)
    for name in {stage.name for stage in stages}.intersection(STAGES):
        read_stage_params(root, name)
    return stages


def find_nothing_to_do(root: Path, targets: Sequence[str], stages: Sequence[Stage]) -> Summary | None:
    """The summary of a run of `targets` that would find all their `stages` up to date; None if it would not.

    Nothing is run. A project that another process uses is not known to be up to date.

    Raises
    ------
    ParamsError
        As for `read_stages`.
    """
    try:
        if plan_run(root, targets):
            return None
    except BusyError:
        return None
    remove_leftovers(root, stages)
    reports = tuple(Report(name=stage.name, outcome=Outcome.CACHED, seconds=0.0) for stage in stages)
    return Summary(reports=reports, skipped=(), errors=())


def describe_run(root: Path, targets: Sequence[str], summary: Summary, stream: TextIO) -> str:
    """The text that ends a run of `targets` that went well, for `stream`: its stages, and where the results are.

    Results that `find_outdated_results` gives are said not to be up to date.
    """
    return f"{summary.describe(stream)}\n\n{describe_end(root, find_outdated_results(root, targets))}"


def find_outdated_results(root: Path, targets: Sequence[str]) -> frozenset[Path]:
    """The outputs that a run of `targets`, all stages if empty, left behind, and that other stages would renew.

    All results where another process is at work, so that none is called up to date that may not be.
    """
    try:
        return find_outdated(root) if targets else frozenset()
    except BusyError:
        return frozenset(root / path for path in (*find_results(root).values(), REPORT_SUMMARY, LF_REPORT))
