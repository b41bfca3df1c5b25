"""`epoxy label-new`: label new rows with the current release's model, and release them with the rest."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.release import ACCEPT, REASON, show_released
from flows.runner.project import in_project

if TYPE_CHECKING:
    from flows.releases.create import ReleaseResult


@click.command("label-new")
@click.option("--update", is_flag=True, help="First ask the sources of imports what is new.")
@REASON
@ACCEPT
def label_new_command(update: bool, reason: str, accept: str | None) -> None:
    """Label new rows with the current release's model.

    Rows that the current release does not know are labeled with its model and support, and released with the rest.
    Nothing is fitted, and rows that the release knows keep their labels. Ingest and apply are brought up to date first;
    the next `epoxy run` learns from the new rows.
    """
    with in_project() as root:
        released = label_new(root=root, update=update, reason=reason, accept=accept)
        if released is None:
            click.echo("nothing to do: no new, changed or deleted rows")
        else:
            show_released(released, root=root)


def label_new(
    *, root: Path, update: bool = False, reason: str = "", accept: str | None = None
) -> "ReleaseResult | None":
    """The release of all rows, the new ones labeled; None where no row is new, changed or deleted.

    Raises
    ------
    EpoxyError
        There is no release to start from, a stage failed, or gates refused.
    """
    from flows.releases.new_rows import read_base
    from flows.releases.publish import publish_new_rows
    from flows.runner.dvc_graph import read_stages
    from flows.runner.stage import ask_for_updates, run_stages

    read_base(root)  # an error that is certain is told before anything runs
    stages = read_stages(root, ["apply"])
    run_stages(root, ask_for_updates(stages) if update else stages)
    return publish_new_rows(root, reason=reason, accept=accept)
