"""`epoxy show`: where the results of the last run are, whether they are up to date, and their summary."""

import sys
from pathlib import Path

import click

from flows.runner.project import describe_results, find_results, in_project
from flows.runner.terminal import is_terminal
from tasks.errors import EpoxyError
from tasks.tables.paths import REPORT_SUMMARY


@click.command("show")
def show_command() -> None:
    """Show where the results are, and the report's summary.

    Results that are not up to date are marked as such. The summary is Markdown; a terminal shows it laid out, a pipe or file gets it as it is.
    """
    with in_project() as root:
        text = describe_last_run(root=root)
    results, _, summary = text.partition("\n\n")
    if not summary or not is_terminal(sys.stdout):
        click.echo(text)
        return
    click.echo(f"{results}\n")
    _print_markdown(summary)


def _print_markdown(text: str) -> None:
    # Imported here since most commands need neither; Rich follows NO_COLOR itself.
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def describe_last_run(*, root: Path) -> str:
    """Where the results are, which are not up to date, and the report's summary; or what to do to get them."""
    if not find_results(root):
        return "nothing here yet; 'epoxy run' makes labels, metrics and a report"
    from flows.runner.dvc_status import find_outdated

    try:
        results = describe_results(root, find_outdated(root))
    except EpoxyError as error:
        results = f"{describe_results(root)}\nwhether they are up to date is not known: {error}"
    # Imported here because it loads Polars, which nobody waits for who has no results.
    from flows.releases.last_run import describe_origin

    results += f"\nof       {describe_origin(root)}"
    summary = root / REPORT_SUMMARY
    return f"{results}\n\n{summary.read_text(encoding='utf-8').strip()}" if summary.is_file() else results
