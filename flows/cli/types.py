"""`epoxy types`: what to write below `ingest.types` for raw items that come without types."""

from pathlib import Path

import click

from flows.runner.project import in_project


@click.command("types")
def types_command() -> None:
    """Propose `ingest.types` for raw items in CSV, from a sample.

    Prints lines to paste into params.yaml, where a column that is not named is text. What looks like a number and is a
    code, a zip for example, stays text: leave its line out.
    """
    with in_project() as root:
        click.echo(propose_types(root=root))


def propose_types(*, root: Path) -> str:
    """The lines to paste, or why there are none.

    Raises
    ------
    EpoxyError
        params.yaml is not valid, or the raw items cannot be read.
    """
    from tasks.params_file import read_params
    from tasks.readers.items import describe_types

    params = read_params(root).ingest
    return describe_types(root / params.source, params)
