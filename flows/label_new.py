"""The flow for new rows: those that the current release does not know are labeled with its model, and released."""

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.relabel import LONGEST_SECONDS, bring_up_to_date
from flows.release_flow import explain_start, show_release
from flows.releases.create import ReleaseResult
from flows.releases.new_rows import read_base
from flows.releases.publish import publish_new_rows
from flows.run_form import Accept, Reason
from flows.runner.dvc_graph import read_stages
from flows.runner.stage import ask_for_updates


@flow(name="label-new", persist_result=False, timeout_seconds=LONGEST_SECONDS)
def label_new(update: bool = False, reason: Reason = "", accept: Accept = None) -> State[ReleaseResult | None]:
    """Label rows that the current release does not know with its model and support, and release them with the rest.

    Nothing is fitted; rows that the release knows keep their labels. Ingest and apply are brought up to date first.

    Args:
        update: First ask the sources of imports (dvc import-url, dvc import) what is new.
        reason: Why; it is kept in the run record of the release.
        accept: Why to release even if gates fail. Leave it empty unless you looked at the figures.
    """
    root = Path.cwd()
    read_base(root)  # an error that is certain is told before anything runs
    stages = read_stages(root, ["apply"])
    summary = bring_up_to_date(root, ask_for_updates(stages) if update else stages)
    if summary.errors:
        return Failed(message="\n".join(map(str, summary.errors)), data=None)
    return show_release(
        root,
        lambda: publish_new_rows(root, reason=explain_start(reason), accept=accept or None, run_id=flow_run.get_id()),
    )
