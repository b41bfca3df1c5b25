"""The `epoxy` command: the group of all commands, and how errors end it.

Each command is a module here, named like the command, with two functions: `X_command` parses, and calls a function
that can be imported and called just as well. What a command needs is imported when it runs: Prefect and DVC take a
second, and help should come at once.
"""

import gc
import os
import sys
from typing import Any

import click

from flows.cli.ask import ask_command
from flows.cli.describe import describe_command
from flows.cli.explain import explain_command
from flows.cli.export import export_command
from flows.cli.gold import gold_command
from flows.cli.import_data import import_command
from flows.cli.init import init_command
from flows.cli.items import items_command
from flows.cli.label_new import label_new_command
from flows.cli.lfs import lfs_command
from flows.cli.next import next_command
from flows.cli.notify import notify_command
from flows.cli.plan import plan_command
from flows.cli.quarantine import quarantine_command
from flows.cli.release import release_command
from flows.cli.releases import releases_command
from flows.cli.rollback import rollback_command
from flows.cli.run import run_command
from flows.cli.server import server_command
from flows.cli.show import show_command
from flows.cli.stage import stage_command
from flows.cli.status import status_command
from flows.cli.suggest import suggest_command
from flows.cli.try_lf import try_command
from flows.cli.types import types_command
from flows.cli.upgrade import upgrade_command
from flows.cli.watch import watch_command
from flows.cli.weigh import weigh_command
from flows.cli.workbench import workbench_command
from flows.runner.terminal import describe_error
from tasks.__main__ import fix_hash_seed
from tasks.errors import EpoxyError, StageError, blame_machine

_CONTINUED = ("run", "stage", "label-new")
"""Commands whose work an interruption leaves half done."""

_ASKING = ("describe", "plan", "try", "watch", "workbench")
"""Commands that ask labeling functions."""


class _Group(click.Group):
    def main(self, *arguments: Any, **options: Any) -> Any:
        # With arguments of its own, the call is from a program.
        if not arguments and options.get("args") is None:
            gc.set_threshold(20_000)  # looking for garbage in what is imported takes .15 s of 1.3, and finds none
            if sys.argv[1:] and sys.argv[1] in _ASKING:
                fix_hash_seed()
        _open_missing_streams()
        return super().main(*arguments, **options)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            raise  # click ends quietly where a reader such as `head` has gone
        except OSError as error:
            # Of the machine: output to a full disk, a folder that may not be written.
            _give_up_output()
            blamed = StageError(blame_machine(error))
            click.echo(describe_error(blamed, sys.stderr), err=True)
            return context.exit(blamed.exit_code)
        except EpoxyError as error:
            click.echo(describe_error(error, sys.stderr), err=True)
            return context.exit(error.exit_code)
        except KeyboardInterrupt:
            if context.invoked_subcommand in _CONTINUED:
                click.echo("interrupted; the next run continues where this run stopped", err=True)
            return context.exit(130)


def _open_missing_streams() -> None:
    """Give this process and its children all of standard input, output and error; a service may close some.

    The next file to be opened would take a missing one's number, and receive what a child writes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _give_up_output() -> None:
    """Drop what could not be written to standard output, or Python tries again when it ends, and complains."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="epoxy-flow", prog_name="epoxy")
def main() -> None:
    """Weak supervision as a pipeline: from items and embeddings to labels, metrics and a report.

    Every command works on the project that the current folder lies in. Nothing that is up to date is computed again.
    """


for command in (
    init_command,
    run_command,
    stage_command,
    watch_command,
    workbench_command,
    status_command,
    plan_command,
    show_command,
    types_command,
    weigh_command,
    items_command,
    lfs_command,
    explain_command,
    try_command,
    suggest_command,
    describe_command,
    ask_command,
    next_command,
    quarantine_command,
    server_command,
    notify_command,
    gold_command,
    import_command,
    export_command,
    label_new_command,
    release_command,
    releases_command,
    rollback_command,
    upgrade_command,
):
    main.add_command(command)
