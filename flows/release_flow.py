"""Releasing and rolling back as Prefect flows, so that a schedule or a click in the UI can do both."""

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.gates import GateResult, describe_gates
from flows.publish import publish_release, publish_rollback
from flows.release_diff import compare_releases, describe_difference
from flows.releases import RefusedError, Released, find_release

REFUSED = "Refused"
"""The name of the state (of type FAILED) of a run that gates stopped, for automations that tell it from a breakdown."""


@flow(name="release", persist_result=False)
def release(reason: str = "scheduled", accept: str | None = None) -> State[Released]:
    """Release what the pipeline in the working directory made, if the gates of release.yaml let it pass.

    Parameters
    ----------
    reason
        Why; it is in the release's run record.
    accept
        Why to release even if gates fail; leave it empty unless you looked at the figures.
    """
    root, logger = Path.cwd(), get_run_logger()
    try:
        made = publish_release(root, reason=reason, accept=accept or None, run_id=flow_run.get_id())
    except RefusedError as error:
        _show_gates(error.results)
        return Failed(name=REFUSED, message=str(error))
    _show_gates(made.gates)
    for line in describe_gates(made.gates).splitlines():
        logger.info("%s", line)
    for note in made.notes:
        logger.warning("%s", note)
    _show_changes(root, made)
    return Completed(message=f"release {made.id} is current", data=made)


@flow(name="rollback", persist_result=False)
def rollback(to: str | None = None, reason: str = "") -> State[Released]:
    """Make an earlier release of the project in the working directory current again.

    Parameters
    ----------
    to
        The release's id or its first characters; by default the one made before the current one.
    reason
        Why; the same labels are not released again without somebody accepting them.
    """
    root = Path.cwd()
    made = publish_rollback(root, find_release(root, to) if to else None, reason=reason, run_id=flow_run.get_id())
    for note in made.notes:
        get_run_logger().warning("%s", note)
    _show_changes(root, made)
    return Completed(message=f"release {made.id} is current again, not {made.previous}", data=made)


def _show_gates(results: tuple[GateResult, ...]) -> None:
    rows = [
        {"gate": one.gate, "value": one.value, "limit": one.limit, "verdict": str(one.verdict), "note": one.note}
        for one in results
    ]
    create_table_artifact(rows, key="gates", description="What a release has to pass")


def _show_changes(root: Path, made: Released) -> None:
    if made.previous is None or made.previous == made.id:
        text = "the first release" if made.previous is None else "nothing changed"
    else:
        text = describe_difference(compare_releases(root, made.previous, made.id))
    create_markdown_artifact(f"```\n{text}\n```", key="release-changes", description=f"Release {made.id}")
