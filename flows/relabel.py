"""The Prefect flow over DVC's graph, a task per stage; `python -m flows.relabel` runs it in the current folder."""

import csv
import logging
import queue
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import PrefectException
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed, Failed

from flows.report_links import name_artifact, write_link
from flows.run_form import Reason
from flows.run_head import Head, begin_head
from flows.runner.dvc_graph import Stage
from flows.runner.early_stages import EarlyStages
from flows.runner.failure import StageFailedError, StageTimeoutError
from flows.runner.leftovers import remove_leftovers
from flows.runner.listener import TERMINAL, StageProgress, TerminalListener, show_stages_in_terminal
from flows.runner.pipeline import describe_run, find_outdated_results, read_pipeline
from flows.runner.process import Commands
from flows.runner.project import find_results, in_project
from flows.runner.report import Report, Summary
from flows.runner.stage import ask_for_updates, execute_stage
from flows.runner.terminal import describe_error
from flows.server import find_server, start_temporary_server
from flows.server_access import ServerError, hide_passwords
from flows.server_health import check_server, limit_patience
from tasks.errors import EpoxyError, ParamsError, StageError
from tasks.tables.paths import LF_REPORT, REPORT, REPORT_SUMMARY

LONGEST_SECONDS = 24 * 3600
"""A run of more than a day is stuck, as on a remote that never answers; each stage has its limit as well."""

_INTERRUPTED = 130
"""What a shell expects of a program that Ctrl-C ended: 128 + SIGINT."""

_STAGES: ContextVar[tuple[Stage, ...] | None] = ContextVar("_STAGES", default=None)
"""The stages that `run` has read for the flow it starts."""

_EARLY: ContextVar[EarlyStages | None] = ContextVar("_EARLY", default=None)
"""The stages that ran while the flow's server started."""

_COMMANDS: ContextVar[Commands] = ContextVar("_COMMANDS")
"""The running flow's commands; Prefect copies the context into the threads of its tasks."""


class RunListener(TerminalListener):
    """Passes on to the Prefect run what a stage says: lines to its log, progress to an artifact."""

    _UPDATE_SECONDS = 1.0  # an update is a request to the server

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(name)
        self._logger = get_run_logger()
        self._key = name_artifact(root, "progress-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))
        self._artifact: UUID | None = None
        self._updated = float("-inf")
        self._last: StageProgress | None = None

    def say(self, text: str) -> None:
        """One line, to the run's log and the terminal."""
        super().say(text)
        self._logger.info("%s", text)

    def warn(self, text: str) -> None:
        """One line, to the run's log and the terminal, as a warning."""
        super().warn(text)
        self._logger.warning("%s", text)

    def log(self, level: int, text: str) -> None:
        """One line that the terminal has, to the run's log."""
        self._logger.log(level, "%s", text)

    def record(self, lines: Sequence[str]) -> None:
        """The error that the stage ended with, to the run's log; the terminal has it as the run's last words."""
        for text in lines:
            self._logger.error("%s", text)

    def show(self, progress: StageProgress) -> None:
        """Update the artifact, at most once a second and at the end."""
        now = time.monotonic()
        is_end = progress.done >= progress.total
        if progress == self._last or (now - self._updated < self._UPDATE_SECONDS and not is_end):
            return
        self._updated, self._last = now, progress
        TerminalListener.show(self, progress)
        percent = 100.0 * progress.done / progress.total if progress.total else 100.0
        try:
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self._key, description=progress.what))
            else:
                update_progress_artifact(self._artifact, percent, description=progress.what)
        except (httpx.HTTPError, PrefectException) as error:
            self._logger.warning("no progress in the UI: %s", error)  # no reason to fail a stage


def _is_to_repeat(stage: "Task[..., Any]", _run: TaskRun, state: State[Any]) -> bool:
    """Whether the failure of a stage that has retries left is worth one; if so, the terminal is told of it."""
    is_transient = isinstance(state.data, StageFailedError) and state.data.is_transient
    if is_transient:
        TerminalListener(stage.name).say(f"once more: {state.data}")
    return is_transient


# Prefect's cache is off: DVC alone decides what is up to date, and two caches could disagree. Nothing is persisted:
# tasks pass names of stages, and the data are in DVC.
@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=_is_to_repeat)
def run_stage(stage: Stage, root: Path) -> State[Report]:
    """A state that is named after the outcome of `stage`."""
    listener, early = RunListener(root, stage.name), _EARLY.get()
    report = early.take(stage.name, listener.log) if early else None
    if report is None:
        report = execute_stage(stage, root=root, commands=_COMMANDS.get(), listener=listener)
    return Completed(name=report.outcome, message=f"{report.seconds:.1f} s", data=report)


def _submit(stage: Stage, root: Path, needs: "Sequence[PrefectFuture[Any]]") -> "PrefectFuture[Any]":
    options = stage.options
    # Prefect types `submit` for calls without `wait_for`, hence Any.
    named: Any = run_stage.with_options(
        name=stage.name,
        task_run_name=stage.name,
        retries=options.retries,
        retry_delay_seconds=[options.retry_delay_seconds * 2**attempt for attempt in range(options.retries)],
        tags=options.tags,
    )
    future: PrefectFuture[Any] = named.submit(stage, root, wait_for=needs)
    return future


@flow(name="relabel", persist_result=False, timeout_seconds=LONGEST_SECONDS)
def relabel(
    targets: list[str] | None = None, update: bool = False, release: bool = False, reason: Reason = ""
) -> State[Summary]:
    """Bring the pipeline whose root is the working directory, or `targets` and all they need, up to date.

    Args:
        targets: Names of stages, as in dvc.yaml; all of them by default.
        update: First ask the sources of imports (dvc import-url, dvc import) what is new.
        release: Release the labels afterwards, if the gates of release.yaml let them pass. Without targets only.
        reason: Why; it is kept in the run record of the release.
    """
    if release and targets:
        raise ParamsError("a release needs the whole pipeline up to date; leave out targets, or do not release")
    root = Path.cwd()
    stages = _STAGES.get() or read_pipeline(root, targets or ())
    if update:
        stages = ask_for_updates(stages)
    summary = bring_up_to_date(root, stages)
    if summary.errors:
        return Failed(message="\n".join(map(str, summary.errors)), data=summary)
    _create_artifacts(root, summary, find_outdated_results(root, targets or ()))
    if release:
        # Imported here because it loads Polars, .9 s that a run with nothing to do would wait for.
        from flows.release_flow import release_run

        made = release_run(root, reason=reason)
        if made.is_failed():
            return Failed(name=made.name, message=made.message, data=summary)
        return Completed(message=f"{_count(summary.reports)}; {made.message}", data=summary)
    return Completed(message=_count(summary.reports), data=summary)


def bring_up_to_date(root: Path, stages: Sequence[Stage]) -> Summary:
    """What became of `stages` of the project at `root`: a task each, inside a flow, with their lines in its log."""
    logger = get_run_logger()
    early = _EARLY.get()
    for part in early.leftovers if early else remove_leftovers(root, stages):
        logger.info("removed a half-written file of a run that was killed: %s", part.relative_to(root))
    commands = early.commands if early else Commands()
    token = _COMMANDS.set(commands)
    try:
        summary = _run_all(stages, root)
    except BaseException:
        commands.stop()  # before Prefect waits for the tasks' threads
        raise
    finally:
        _COMMANDS.reset(token)
    for line in summary.describe().splitlines():
        logger.info("%s", line)
    return summary


def _run_all(stages: Sequence[Stage], root: Path) -> Summary:
    """What became of `stages`, each submitted when all that it needs has ended well."""
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    futures: dict[str, PrefectFuture[Any]] = {}
    began: dict[str, float] = {}
    reports: dict[str, Report] = {}
    good: set[str] = set()
    errors: list[Exception] = []

    def submit(stage: Stage) -> None:
        began[stage.name] = time.monotonic()
        future = futures[stage.name] = _submit(stage, root, [futures[need] for need in stage.needs])
        future.add_done_callback(lambda _: ended.put(stage.name))

    while True:
        for stage in stages:
            if stage.name not in futures and good.issuperset(stage.needs):
                submit(stage)
        if len(reports) == len(futures):
            break
        name = ended.get()
        result = futures[name].result(raise_on_failure=False)
        if isinstance(result, Report):
            reports[name] = result
            good.add(name)
            continue
        failure = result if isinstance(result, Exception) else StageError(f"stage {name}: {result}")
        errors.append(failure)
        outcome = "TimedOut" if isinstance(failure, StageTimeoutError) else "Failed"
        seconds, early = time.monotonic() - began[name], _EARLY.get()
        seconds += early.seconds.get(name, 0.0) if early else 0.0
        reports[name] = Report(name=name, outcome=outcome, seconds=seconds)
    skipped = tuple(stage.name for stage in stages if stage.name not in futures)
    return Summary(reports=tuple(reports.values()), skipped=skipped, errors=tuple(errors))


def _count(reports: Sequence[Report]) -> str:
    outcomes = [report.outcome for report in reports]
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))


_LF_COLUMNS = {
    "lf": "lf",
    "polarity": "votes for",
    "coverage": "coverage",
    "coverage_extended": "extended",
    "conflicts": "conflicts",
    "threshold": "threshold",
    "valid_all_precision": "precision",
    "valid_all_n": "on",
}
"""Of the table of LFs those columns that fit Prefect's page, and their heads; precision is on valid gold."""


def _create_artifacts(root: Path, summary: Summary, outdated: Collection[Path]) -> None:
    """Show in the UI what the run did and its results; of those in `outdated`, only that they are not up to date."""

    def name(what: str) -> str:
        return name_artifact(root, what)

    def describe(path: Path) -> str:
        if root / path in outdated:
            return f"`{path}`, not up to date: 'epoxy run' renews it"
        return write_link(root, root / path) if path == REPORT else f"`{path}`"

    if (root / REPORT_SUMMARY).is_file() and root / REPORT_SUMMARY not in outdated:
        text = (root / REPORT_SUMMARY).read_text(encoding="utf-8")
        create_markdown_artifact(text, key=name("report-summary"), description="How good the labels are")
    if (root / LF_REPORT).is_file() and root / LF_REPORT not in outdated:
        with (root / LF_REPORT).open(newline="", encoding="utf-8") as file:
            rows = [shorten_lf_row(row) for row in csv.DictReader(file)]
        create_table_artifact(rows, key=name("labeling-functions"), description="Each labeling function")
    results = [f"- {what}: {describe(path)}" for what, path in find_results(root).items()]
    ran = [f"| {report.name} | {report.outcome} | {report.seconds:.1f} s |" for report in summary.reports]
    table = ["| stage | outcome | time |", "|---|---|---|", *ran]
    text = "\n".join([*table, "", *results])
    create_markdown_artifact(text, key=name("results"), description="What the run did and where the results are")


def shorten_lf_row(row: Mapping[str, str]) -> dict[str, str]:
    """Return a row of lf_report.csv as Prefect's page shows it: eight columns at most, numbers with three decimals.

    >>> shorten_lf_row({"lf": "song", "coverage": "0.123456", "valid_all_n": "12", "votes": "7"})
    {'lf': 'song', 'coverage': '0.123', 'on': '12'}
    """
    found = {head: row[column] for column, head in _LF_COLUMNS.items() if column in row}
    return {
        head: f"{float(text):.3f}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", text) else text
        for head, text in found.items()
    }


def run(
    *,
    targets: Sequence[str] = (),
    update: bool = False,
    quiet: bool = False,
    known: tuple[Stage, ...] | None = None,
    head: Head | None = None,
) -> Summary:
    """What the flow did in the project that the current folder lies in.

    It runs on the Prefect server that is configured or answers on this machine, or else on a temporary server.

    Parameters
    ----------
    targets
        Names of stages to bring up to date with all they need; all stages by default.
    update
        First ask the sources of imports what is new.
    quiet
        Relay no lines of the stages to standard error but warnings.
    known
        The stages of `targets` with all they need, where they have been read.
    head
        What was begun of the run, which no other server is for.

    Raises
    ------
    EpoxyError
        The flow could not start: dvc.yaml is wrong, a target unknown, or no server can be had.
    """
    with in_project() as root, ExitStack() as stack:
        # An error in dvc.yaml or params.yaml is told before anything is started. The flow need not read the stages again, which takes .3 s.
        stages = known or read_pipeline(root, targets)
        _STAGES.set(stages)
        stack.callback(_STAGES.set, None)
        show_stages_in_terminal(least=logging.WARNING if quiet else logging.INFO)
        _hush_prefect()
        server = None if head else find_server()
        if server:
            check_server(server)
        elif update:  # stages are to wait for what it brings
            TERMINAL.info("starting a Prefect server for this run, which takes some seconds")
            server = start_temporary_server()
        else:
            head = head or stack.enter_context(begin_head(root, stages, quiet=quiet))
            _EARLY.set(head.early)
            stack.callback(_EARLY.set, None)
            server = head.server.wait()
        # Prefect's heartbeats tell a server's automations that a run is alive; ending them costs up to a second, which
        # a person at a terminal would notice. Runs of deployments do not come this way and keep them.
        settings = {**server.settings(), PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        try:
            with temporary_settings(settings), limit_patience(server):
                state = relabel(list(targets), update, return_state=True)
        except (httpx.HTTPError, PrefectException) as error:
            verb = "does not answer" if isinstance(error, httpx.TransportError) else "answers with an error"
            what = hide_passwords(str(error).partition("\n")[0]) or type(error).__name__
            raise ServerError(
                f"the Prefect server {verb} ({what}). What stages have done is kept: start the server (or unset "
                "PREFECT_API_URL, or switch the Prefect profile), and run again"
            ) from None
    result = state.result(raise_on_failure=False)
    if isinstance(result, Summary):
        return result
    raise result if isinstance(result, EpoxyError) else StageError(f"the flow ended as {state.name}: {state.message}")


def _hush_prefect() -> None:
    """Keep Prefect's messages about runs out of the terminal, which shows the same in fewer words."""

    def is_wanted(record: logging.LogRecord) -> bool:
        record.msg, record.args = hide_passwords(record.getMessage()), ()
        return record.levelno >= logging.WARNING and not record.name.startswith(("prefect.flow_runs", "prefect.task_"))

    for handler in logging.getLogger().handlers:
        handler.addFilter(is_wanted)


def main(
    targets: Sequence[str],
    *,
    update: bool = False,
    quiet: bool = False,
    known: tuple[Stage, ...] | None = None,
    head: Head | None = None,
) -> int:
    """The exit code of a run, as for `run`, whose summary has been printed: that of the first stage that failed."""
    try:
        summary = run(targets=targets, update=update, quiet=quiet, known=known, head=head)
    except EpoxyError as error:
        print(describe_error(error, sys.stderr), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the next run continues where this run stopped", file=sys.stderr)
        return _INTERRUPTED
    if summary.error:
        print(summary.describe(sys.stdout))
        for failure in summary.errors:
            print(describe_error(failure, sys.stderr), file=sys.stderr)
        return getattr(summary.error, "exit_code", EpoxyError.exit_code)
    with in_project() as root:
        print(describe_run(root, targets, summary, sys.stdout))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
