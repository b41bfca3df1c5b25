"""`epoxy export`: labels in the format of another tool."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.runner.project import in_project

if TYPE_CHECKING:
    from tasks.queries.next_items import Strategy

FORMS = ("parquet", "csv", "jsonl", "hugging-face", "wrench", "label-studio", "argilla")


@click.command("export")
@click.argument("form", metavar="FORMAT", type=click.Choice(FORMS))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--release", help="Labels of this release (current, or an id) instead of the last run.")
@click.option(
    "--next", "next_count", type=click.IntRange(min=1), help="Only so many items, as epoxy next proposes them."
)
@click.option("--by", "strategy", type=click.Choice(["random", "mixed"]), default="random", show_default=True, help="With --next: how they are chosen.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="With --next: of what is drawn.")
@click.option("--text", help="The column that people read; by default the one that is encoded, or text.")
@click.option("--test-gold", is_flag=True, help="Write gold of train and test, too.")
@click.option(
    "--spreadsheet", is_flag=True, help="In CSV, put an apostrophe before what a spreadsheet takes for a formula."
)
@click.option("--replace", is_flag=True, help="Replace what is at PATH.")
def export_command(
    form: str,
    path: Path,
    release: str | None,
    next_count: int | None,
    strategy: "Strategy",
    seed: int,
    text: str | None,
    test_gold: bool,
    spreadsheet: bool,
    replace: bool,
) -> None:
    """Write labels and the items' columns to PATH as FORMAT.

    parquet, csv and jsonl are files with a row per item. hugging-face, wrench, label-studio (tasks with predictions) and
    argilla (records with suggestions) are folders. Gold of valid is written where it is known.
    """
    from flows.export import Choice, export_labels

    choice = Choice(
        release=release,
        text=text,
        next_count=next_count,
        strategy=strategy,
        seed=seed,
        withheld_gold=test_gold,
        is_for_spreadsheet=spreadsheet,
    )
    path = path.resolve()
    with in_project() as root:
        for line in export_labels(root, form, path, choice, replace=replace):
            click.echo(line)
        if release is None and (doubt := find_doubt(root=root)):
            click.echo(f"note: {doubt}", err=True)


def find_doubt(*, root: Path) -> str | None:
    """Why the labels of the last run may not be those that a run would make now; None where they are."""
    from flows.runner.dvc_status import find_outdated
    from tasks.errors import EpoxyError
    from tasks.tables.paths import SHIPPED_LABELS

    try:
        is_outdated = root / SHIPPED_LABELS in find_outdated(root)
    except EpoxyError as error:
        return f"whether the labels are up to date is not known: {error}"
    return "the labels are not up to date: 'epoxy run' makes them anew" if is_outdated else None
