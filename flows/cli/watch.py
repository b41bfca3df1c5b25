"""`epoxy watch`: show at once what an edit of LFs or params comes to."""

from pathlib import Path

import click

from flows.runner.project import in_project


@click.command("watch")
@click.option("--json", "is_json", is_flag=True, help="Print a JSON object per line instead of a page.")
def watch_command(is_json: bool) -> None:
    """Show at once what an edit of LFs or params.yaml comes to.

    After each edit, until Ctrl-C. Index, and what it needs, are brought up to date first. Then everything stays in memory: each time you save, the
    table of LFs, coverage, metrics on valid gold and the labels that flipped are shown; Liger and the shipped labels
    follow. Nothing below data/ is written but the cache of columns, so that `epoxy run` afterwards has no neighbor left
    to search.
    """
    with in_project() as root:
        watch(root=root, is_json=is_json)


def watch(*, root: Path, is_json: bool = False) -> None:
    """Show results on the terminal, or as JSON lines, until Ctrl-C."""
    from flows.watch.loop import run_loop
    from flows.watch.page import JsonPage, TerminalPage

    run_loop(root=root, page=JsonPage() if is_json else TerminalPage())
