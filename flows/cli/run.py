"""`epoxy run`: bring the pipeline up to date, through Prefect."""

import gc
import sys
from collections.abc import Sequence

import click
from pydantic import ValidationError

from flows.runner.listener import TERMINAL, show_stages_in_terminal
from flows.runner.terminal import is_terminal
from tasks.errors import ParamsError


@click.command("run")
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--update", is_flag=True, help="First ask the sources of DVC imports what is new.")
@click.option("-q", "--quiet", is_flag=True, help="Of the stages' own lines, show warnings alone.")
def run_command(stages: tuple[str, ...], update: bool, quiet: bool) -> None:
    """Bring the pipeline up to date, through Prefect.

    With STAGEs, only those and all that they need. The run appears in the Prefect server that PREFECT_API_URL or your
    Prefect profile names, or that `epoxy server` started; without one, a temporary server is used, or none if there
    is nothing to do.

    The exit code is that of the first stage that failed, 130 after Ctrl-C.
    """
    sys.exit(run(stages=stages, update=update, quiet=quiet))


def run(*, stages: Sequence[str] = (), update: bool = False, quiet: bool = False) -> int:
    """The exit code of a run of the flow in the project that the current folder lies in; its summary is printed."""
    if not quiet and is_terminal(sys.stderr):
        show_stages_in_terminal()
        TERMINAL.info("reading the pipeline")  # with Prefect and DVC imported; a second where the machine is idle
    gc.disable()  # collecting garbage while Prefect is imported finds none and takes .3 s
    try:
        # Without a server, nobody would read the record of a run that does nothing; to start a server for it takes 8 s.
        if not update and (summary := _find_nothing_to_do(stages)):
            click.echo(summary)
            return 0
        from flows import relabel
    except ValidationError as error:
        # Without the values: an address may hold a password.
        found = "; ".join(mistake["msg"] for mistake in error.errors())
        raise ParamsError(
            f"Prefect cannot read its settings: {found}. Correct PREFECT_API_URL and other variables that begin with "
            "PREFECT_, or the Prefect profile"
        ) from None

    gc.freeze()
    gc.enable()
    return relabel.main(stages, update=update, quiet=quiet)


def _find_nothing_to_do(stages: Sequence[str]) -> str | None:
    """What a run of `stages` that finds all of them up to date prints; None if it would not, or a Prefect server runs."""
    from flows.runner.pipeline import describe_run, find_nothing_to_do
    from flows.runner.project import in_project

    with in_project() as root:
        summary = find_nothing_to_do(root, stages)
        if summary is None:
            return None
        from flows.server_signs import has_signs_of_server

        if has_signs_of_server(root):
            from flows.server import find_server

            if find_server():
                return None
        return describe_run(root, stages, summary, sys.stdout)
