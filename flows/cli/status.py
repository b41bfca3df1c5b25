"""`epoxy status`: which stages are not up to date, and why."""

from pathlib import Path

import click

from flows.runner.project import in_project


@click.command("status")
def status_command() -> None:
    """List the stages that `epoxy run` would look at again, and what changed.

    A stage that only depends on a changed one is not listed: whether it has to run is known when the other has.
    """
    with in_project() as root:
        click.echo(describe_status(root=root))


def describe_status(*, root: Path) -> str:
    """A line per stage that is not up to date, with what changed.

    Raises
    ------
    EpoxyError
        dvc.yaml cannot be read, or another process uses the project.
    """
    from flows.runner.dvc_repo import find_changes

    changes = find_changes(root)
    if not changes:
        return "everything is up to date"
    return "\n".join(f"{name}: {', '.join(what)}" for name, what in changes.items())
