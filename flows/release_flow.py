"""Releasing and rolling back as Prefect flows, so that a schedule or a click in the UI can do both."""

from collections.abc import Callable
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.released_asset import announce_labels
from flows.releases.create import RefusedError, ReleaseResult
from flows.releases.diff import compare_releases, describe_difference
from flows.releases.gates import QUARANTINE_GATE, GateResult, describe_gates
from flows.releases.publish import publish_release, publish_rollback
from flows.releases.store import find_release
from flows.report_links import name_artifact, write_link
from flows.run_form import Accept, Reason, Target

REFUSED = "Refused"
"""The name of the state (of type FAILED) of a run that gates stopped, for automations that distinguish it from a failure."""

NOTHING_NEW = "NothingNew"
"""The name of the state (of type COMPLETED) of a run that found nothing to label."""


@flow(name="release", persist_result=False)
def release(reason: Reason = "", accept: Accept = None) -> State[ReleaseResult | None]:
    """Release what the pipeline in the working directory made, if the gates of release.yaml let it pass.

    Args:
        reason: Why; it is kept in the run record of the release, with how the run was started if it is not scheduled.
        accept: Why to release even if gates fail. Leave it empty unless you looked at the figures.
    """
    return release_run(Path.cwd(), reason=reason, accept=accept or None)


def release_run(root: Path, *, reason: str, accept: str | None = None) -> State[ReleaseResult | None]:
    """The state of releasing what the last run made, inside a flow; named `REFUSED` where gates failed."""
    return show_release(
        root, lambda: publish_release(root, reason=explain_start(reason), accept=accept, run_id=flow_run.get_id())
    )


def show_release(root: Path, publish: Callable[[], ReleaseResult | None]) -> State[ReleaseResult | None]:
    """The state of a release that `publish` makes, inside a flow, with its gates and changes as artifacts.

    Named `REFUSED` where gates failed, `NOTHING_NEW` where there was nothing to release.
    """
    logger = get_run_logger()
    try:
        made = publish()
    except RefusedError as error:
        _show_gates(root, error.results)
        return Failed(name=REFUSED, message=str(error))
    if made is None:
        return Completed(name=NOTHING_NEW, message="no new, changed or deleted rows", data=None)
    _show_gates(root, made.gates)
    for line in describe_gates(made.gates).splitlines():
        logger.info("%s", line)
    for note in made.notes:
        logger.warning("%s", note)
    _show_changes(root, made)
    _announce(root, made)
    rows = f"; rows: {made.rows.describe()}" if made.rows else ""
    failed = next((f"; {gate.note}" for gate in made.gates if gate.gate == QUARANTINE_GATE and gate.note), "")
    return Completed(message=f"release {made.id} is current{rows}{failed}", data=made)


@flow(name="rollback", persist_result=False)
def rollback(to: Target = None, reason: Reason = "") -> State[ReleaseResult]:
    """Make an earlier release of the project in the working directory current again.

    The labels that were current until now are not released again unless somebody accepts them.

    Args:
        to: The release's id or its first characters; by default the release made before the current release.
        reason: Why; it is kept in the run record.
    """
    root = Path.cwd()
    made = publish_rollback(root, find_release(root, to) if to else None, reason=reason, run_id=flow_run.get_id())
    for note in made.notes:
        get_run_logger().warning("%s", note)
    _show_changes(root, made)
    _announce(root, made)
    return Completed(message=f"release {made.id} is current again, not {made.previous}", data=made)


def explain_start(reason: str) -> str:
    """Return why the running flow runs, for the record: `reason`, which a deployment has ready, and whether a person started it."""
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is None or run.auto_scheduled:
        return reason or "scheduled"
    if run.deployment_id is None:
        return reason
    return f"{reason}, started by hand" if reason and reason != _BY_HAND else _BY_HAND


_BY_HAND = "by hand"
"""The reason of a run that somebody started and said no more."""


def _announce(root: Path, made: ReleaseResult) -> None:
    """Announce the labels where they are not those of before."""
    if made.id != made.previous:
        rows = made.rows.describe() if made.rows else None
        announce_labels(root, {"release": made.id, "previous": made.previous, "rows": rows, "path": str(made.path)})


def _show_gates(root: Path, results: tuple[GateResult, ...]) -> None:
    rows = [
        {
            "gate": result.gate,
            "value": result.value,
            "limit": result.limit,
            "verdict": str(result.verdict),
            "note": result.note,
        }
        for result in results
    ]
    create_table_artifact(rows, key=name_artifact(root, "gates"), description="Gates that a release has to pass")


def _show_changes(root: Path, made: ReleaseResult) -> None:
    if made.previous is None or made.previous == made.id:
        text = "the first release" if made.previous is None else "nothing changed"
    else:
        text = describe_difference(compare_releases(root, made.previous, made.id))
    rows = f": {made.rows.describe()}" if made.rows else ""
    report = made.path / "report.html"
    text = f"```\n{text}\n```\n\nReport: {write_link(root, report)}"
    create_markdown_artifact(text, key=name_artifact(root, "release-changes"), description=f"Release {made.id}{rows}")
