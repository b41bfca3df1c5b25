"""`epoxy import`: items, votes and decisions from another tool."""

from pathlib import Path

import click

FORMS = ("wrench", "snorkel", "hugging-face", "label-studio", "argilla", "prodigy")


@click.command("import")
@click.argument("form", metavar="FORMAT", type=click.Choice(FORMS))
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path("imported"), show_default=True, help="The folder to write to.")  # fmt: skip
@click.option("--classes", help="snorkel: names of classes in their order, with commas between them.")
@click.option("--ids", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="snorkel: a table with item_id, in the order of the rows.")  # fmt: skip
@click.option("--label", help="hugging-face: the feature that is gold; argilla: the question.")
@click.option("--replace", is_flag=True, help="Replace what was imported there.")
def import_command(
    form: str, path: Path, folder: Path, classes: str | None, ids: Path | None, label: str | None, replace: bool
) -> None:
    """Read PATH in FORMAT, and write it in the form of a project.

    Items become items.parquet, votes become votes.parquet, and people's decisions a table for gold/. Reports what became of
    each field, and what to do next. To add decisions to a project, see epoxy gold import --format.
    """
    from flows.import_data import Hints, import_data

    given = tuple(name.strip() for name in classes.split(",")) if classes else ()
    for line in import_data(form, path, folder, Hints(classes=given, ids=ids, label=label), replace=replace):
        click.echo(line)
