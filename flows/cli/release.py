"""`epoxy release`: release the labels of the last run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.runner.project import in_project

if TYPE_CHECKING:
    from flows.releases.create import ReleaseResult

REASON = click.option("--reason", default="", help="Why; kept in the run record.")
ACCEPT = click.option(
    "--accept", metavar="REASON", help="Release even if gates fail; the reason is recorded with the figures."
)


@click.command("release")
@REASON
@ACCEPT
def release_command(reason: str, accept: str | None) -> None:
    """Release the labels of the last run, if they pass the gates.

    The gates are in release.yaml. Consumers read releases/current, which changes in one step, last of all. A failed gate leaves it alone, shows the
    figures and ends with exit code 6.
    """
    from flows.releases.publish import publish_release

    with in_project() as root:
        show_released(publish_release(root, reason=reason, accept=accept), root=root)


def show_released(released: "ReleaseResult", *, root: Path) -> None:
    """Print what a release came to, its gates first; notes go to standard error."""
    from flows.releases.gates import describe_gates

    if released.gates:
        click.echo(describe_gates(released.gates))
    for note in released.notes:
        click.echo(f"note: {note}", err=True)
    if released.rows:
        click.echo(f"rows: {released.rows.describe()}")
    is_other = released.previous and released.previous != released.id
    before = f" (before: {released.previous})" if is_other else ""
    click.echo(f"release {released.id} is current{before}: {released.path.relative_to(root)}")
