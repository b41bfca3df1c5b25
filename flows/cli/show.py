"""`epoxy show`: where the results of the last run are, and its summary."""

import sys
from pathlib import Path

import click

from flows.runner.project import describe_results, in_project
from flows.runner.terminal import is_terminal
from tasks.tables.paths import REPORT_SUMMARY


@click.command("show")
def show_command() -> None:
    """Show where the results are, and the report's summary.

    The summary is Markdown; a terminal shows it laid out, a pipe or file gets it as it is.
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
    """Where the results are and what the report's summary says, or what to do to get them."""
    results = describe_results(root)
    if not results:
        return "nothing here yet; 'epoxy run' makes labels, metrics and a report"
    summary = root / REPORT_SUMMARY
    return f"{results}\n\n{summary.read_text(encoding='utf-8').strip()}" if summary.is_file() else results
