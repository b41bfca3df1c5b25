"""`epoxy status`: which stages are not up to date, and why."""

from pathlib import Path

import click

from flows.runner.project import in_project


@click.command("status")
@click.option("-v", "--verbose", is_flag=True, help="Name each file that changed, in a line of its own.")
def status_command(verbose: bool) -> None:
    """List the stages that a run would look at again, and why.

    A stage that only depends on a changed one is not listed: whether it has to run is known when the other has.
    """
    with in_project() as root:
        click.echo(describe_status(root=root, is_verbose=verbose))


def describe_status(*, root: Path, is_verbose: bool = False) -> str:
    """A line per stage that is not up to date, with what changed; `is_verbose`: and a line for each change.

    Raises
    ------
    EpoxyError
        dvc.yaml cannot be read, or another process uses the project.
    """
    from flows.runner.changes import summarize_changes
    from flows.runner.dvc_status import find_changes

    changes = find_changes(root)
    if not changes:
        return "everything is up to date"
    if is_verbose:
        return "\n".join("\n    ".join([f"{name}:", *what]) for name, what in changes.items())
    return "\n".join(f"{name}: {summarize_changes(what)}" for name, what in changes.items())
