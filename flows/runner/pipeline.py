"""The pipeline of a project, with params that its stages can use, and whether a run would find anything to do."""

from collections.abc import Sequence
from pathlib import Path

from flows.runner.dvc_graph import Stage, read_stages
from flows.runner.dvc_locks import BusyError
from flows.runner.dvc_status import plan_run
from flows.runner.leftovers import remove_leftovers
from flows.runner.report import Outcome, Report, Summary
from tasks.__main__ import STAGES
from tasks.cache.stage_code import NOTES
from tasks.params import read_params, read_stage_params


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


def find_nothing_to_do(root: Path, targets: Sequence[str]) -> Summary | None:
    """The summary of a run of `targets`, as for `read_pipeline`, that would find all of it up to date; None if it would not.

    Nothing is run. A project that another process uses is not known to be up to date.

    Raises
    ------
    ParamsError
        As `read_pipeline`.
    """
    stages = read_pipeline(root, targets)
    try:
        if plan_run(root, targets):
            return None
    except BusyError:
        return None
    remove_leftovers(root, stages)
    reports = tuple(Report(name=stage.name, outcome=Outcome.CACHED, seconds=0.0) for stage in stages)
    return Summary(reports=reports, skipped=(), errors=())
