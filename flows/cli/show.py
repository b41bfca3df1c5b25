"""`epoxy show`: where the results of the last run are, and its summary."""

from pathlib import Path

import click

from flows.runner.project import describe_results, in_project
from tasks.tables.paths import REPORT_SUMMARY


@click.command("show")
def show_command() -> None:
    """Show where labels, metrics and report are, and the report's summary."""
    with in_project() as root:
        click.echo(describe_last_run(root=root))


def describe_last_run(*, root: Path) -> str:
    """Where the results are and what the report's summary says, or what to do to get them."""
    results = describe_results(root)
    if not results:
        return "nothing here yet; 'epoxy run' makes labels, metrics and a report"
    summary = root / REPORT_SUMMARY
    return f"{results}\n\n{summary.read_text(encoding='utf-8').strip()}" if summary.is_file() else results
