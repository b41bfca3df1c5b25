"""The `epoxy` command: each command here only parses, and calls a function that can be imported just as well."""

import contextlib
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from flows.cli.releases import label_new_command, release_command, releases_command, rollback_command
from flows.runner.project import REPORT_SUMMARY, describe_results, find_root
from tasks.errors import EpoxyError, ParamsError

# What a command needs is imported when it runs: Prefect and DVC take a second, and help should come at once.


class _Group(click.Group):
    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except EpoxyError as error:
            click.echo(f"error: {error}", err=True)
            return context.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; the next run continues where this one stopped", err=True)
            return context.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="epoxy-flow", prog_name="epoxy")
def main() -> None:
    """Weak supervision as a pipeline: from items and embeddings to labels, metrics and a report.

    Every command works on the project that the current folder lies in. Nothing that is up to date is computed again.
    """


@main.command("run")
@click.argument("stages", nargs=-1, metavar="[STAGE]...")
@click.option("--update", is_flag=True, help="First ask the sources of DVC imports what is new.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show the stages' own lines.")
def run_command(stages: tuple[str, ...], update: bool, quiet: bool) -> None:
    """Bring the pipeline up to date, through Prefect.

    With STAGEs, only those and all that they need. The run appears in the Prefect server that PREFECT_API_URL or your
    Prefect profile names, or that `epoxy server` started; without one, a temporary server is used.

    The exit code is that of the first stage that failed, 130 after Ctrl-C.
    """
    gc.disable()  # collecting garbage while Prefect is imported finds none and takes .3 s
    from flows import relabel

    gc.freeze()
    gc.enable()
    with _in_project():
        sys.exit(relabel.main(stages, update=update, quiet=quiet))


@main.command("stage")
@click.argument("name")
def stage_command(name: str) -> None:
    """Run the stage NAME alone, without Prefect and without what it needs.

    The same as `dvc repro --single-item NAME`: if nothing changed, nothing runs.
    """
    with _in_project():
        click.echo(run_one(root=Path.cwd(), name=name))


@main.command("watch")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line instead of a page.")
def watch_command(is_json: bool) -> None:
    """Show what labeling functions and params.yaml come to, at once after each edit, until Ctrl-C.

    Index, and what it needs, are brought up to date first. Then everything stays in memory: each time you save, the
    table of LFs, coverage, metrics on valid gold and the labels that flipped are shown; Liger and the shipped labels
    follow. Nothing below data/ is written but the memo, so that `epoxy run` afterwards has no neighbor left to search.
    """
    with _in_project():
        from flows.watch.loop import watch
        from flows.watch.page import JsonPage, TerminalPage

        watch(root=Path.cwd(), page=JsonPage() if is_json else TerminalPage())


@main.command("status")
def status_command() -> None:
    """List the stages that `epoxy run` would look at again, and what changed.

    A stage that only depends on a changed one is not listed: whether it has to run is known when the other has.
    """
    with _in_project():
        click.echo(describe_status(root=Path.cwd()))


@main.command("show")
def show_command() -> None:
    """Show where labels, metrics and report are, and the report's summary."""
    with _in_project():
        click.echo(describe_last_run(root=Path.cwd()))


@main.command("server")
@click.option("--port", default=4200, show_default=True, help="Port on this machine; nobody else can reach it.")
def server_command(port: int) -> None:
    """Run a Prefect server, a worker and the deployments of prefect.yaml, until Ctrl-C.

    A server that already answers on the port is used and left running.
    """
    from flows.server import serve

    with _in_project():
        serve(root=Path.cwd(), port=port)


@main.command("notify")
def notify_command() -> None:
    """Have the Prefect server post how runs end to the webhook that EPOXY_NOTIFY_URL names.

    The server is the one that PREFECT_API_URL or your Prefect profile names, or that `epoxy server` started, which does
    the same by itself. Repeat after the address changed.
    """
    from flows.server import ServerError, find_api_url, notify

    api_url = find_api_url()
    if api_url is None:
        raise ServerError("no Prefect server answers; start one with 'epoxy server', or set PREFECT_API_URL")
    if not notify(api_url=api_url):
        raise ParamsError("EPOXY_NOTIFY_URL is not set; expected the address of a webhook")


def run_one(*, root: Path, name: str) -> str:
    """A line that tells what became of stage `name`, run alone; its output goes to standard error as it comes.

    Raises
    ------
    EpoxyError
        There is no such stage, or it failed.
    """
    from flows.runner.dvc_repo import read_stages, remove_leftovers
    from flows.runner.process import Commands
    from flows.runner.stage import TerminalListener, describe_reports, execute_stage, show_stages_in_terminal

    (stage,) = [stage for stage in read_stages(root, [name]) if stage.name == name]
    remove_leftovers(root, [stage])
    show_stages_in_terminal()
    report = execute_stage(stage, root=root, commands=Commands(), listener=TerminalListener(name))
    return describe_reports([report])


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


def describe_last_run(*, root: Path) -> str:
    """Where the results are and what the report's summary says, or what to do to get them."""
    places = describe_results(root)
    if not places:
        return "nothing here yet; 'epoxy run' makes labels, metrics and a report"
    summary = root / REPORT_SUMMARY
    return f"{places}\n\n{summary.read_text().strip()}" if summary.is_file() else places


@contextmanager
def _in_project() -> Iterator[None]:
    """Work in the root of the project that the current folder lies in."""
    with contextlib.chdir(find_root(Path.cwd())):
        yield


for command in (label_new_command, release_command, releases_command, rollback_command):
    main.add_command(command)
