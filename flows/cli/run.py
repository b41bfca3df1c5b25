"""`epoxy run`: bring the pipeline up to date, through Prefect."""

import gc
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from flows.runner.listener import TERMINAL, show_stages_in_terminal
from flows.runner.terminal import is_terminal
from tasks.errors import ParamsError

if TYPE_CHECKING:
    from flows.runner.dvc_graph import Stage


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
    with ExitStack() as stack:
        try:
            from flows.run_head import begin_head
            from flows.runner.project import in_project

            root = stack.enter_context(in_project())
            # Without a server, nobody would read the record of a run that does nothing; to start a server for it takes 8 s.
            ahead = None if update else _look_ahead(root, stages)
            if isinstance(ahead, str):
                click.echo(ahead)
                return 0
            head = None
            if ahead and not ahead.has_server:
                head = stack.enter_context(begin_head(root, ahead.stages, quiet=quiet))
            from flows import relabel
        except ValidationError as error:
            # Without the values: an address may hold a password.
            said = "; ".join(mistake["msg"] for mistake in error.errors())
            raise ParamsError(
                f"Prefect cannot read its settings: {said}. Correct PREFECT_API_URL and other variables that begin with "
                "PREFECT_, or the Prefect profile"
            ) from None

        gc.freeze()
        gc.enable()
        return relabel.main(stages, update=update, quiet=quiet, known=ahead.stages if ahead else None, head=head)


@dataclass(frozen=True, kw_only=True)
class _Ahead:
    """The stages of a run that has something to do or to record; `has_server`: perhaps on a Prefect server that is there."""

    stages: "tuple[Stage, ...]"
    has_server: bool


def _look_ahead(root: Path, targets: Sequence[str]) -> str | _Ahead:
    """What a run of `targets` prints that finds all of them up to date and has no server to record it, or what is ahead of it."""
    from flows.runner.pipeline import describe_run, find_nothing_to_do, read_pipeline
    from flows.server_signs import has_signs_of_server

    stages = read_pipeline(root, targets)
    summary = find_nothing_to_do(root, targets, stages)
    if has_signs_of_server(root):
        from flows.server import find_server

        if summary is None or find_server():
            return _Ahead(stages=stages, has_server=True)
    if summary is None:
        return _Ahead(stages=stages, has_server=False)
    return describe_run(root, targets, summary, sys.stdout)
