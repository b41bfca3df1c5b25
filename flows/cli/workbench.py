"""`epoxy workbench`: the project in a browser."""

from pathlib import Path

import click

from flows.runner.project import in_project


@click.command("workbench")
@click.option("--port", type=click.IntRange(1, 65535), help="Where to listen; 4300, or any that is free, by default.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--no-watch", is_flag=True, help="Do not compute what an edit comes to.")
def workbench_command(port: int | None, no_browser: bool, no_watch: bool) -> None:
    """Open the project in a browser: LFs, items, labels, releases.

    Until Ctrl-C, on this machine alone. The address that is printed holds a token, without which nothing is answered.
    """
    with in_project() as root:
        workbench(root=root, port=port, opens_browser=not no_browser, is_live=not no_watch)


def workbench(*, root: Path, port: int | None = None, opens_browser: bool = True, is_live: bool = True) -> None:
    """Serve the workbench until Ctrl-C."""
    from flows.workbench.server import run_workbench

    run_workbench(root=root, port=port, opens_browser=opens_browser, is_live=is_live)
