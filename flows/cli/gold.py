"""`epoxy gold`: people's decisions about items, in append-only tables."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.tables import make_printable
from flows.runner.project import in_project
from tasks.errors import DataError
from tasks.tables.paths import DECISIONS

if TYPE_CHECKING:
    from tasks.gold import Gold

SPLIT = click.Choice(["valid", "test"])


@click.group("gold")
def gold_command() -> None:
    """Add people's decisions about items, and list the gold.

    Decisions are rows of the tables in the folder that gold.source in params.yaml names. Nothing there is rewritten: a
    later decision of the same person about an item replaces the earlier one.
    """


@gold_command.command("add")
@click.argument("item")
@click.argument("label", required=False)
@click.option("--annotator", "--by", default=getpass.getuser, show_default="your name here", help="Who decides.")
@click.option("--split", type=SPLIT, help="Of a train item; by default dealt by a hash of the id.")
@click.option("--retract", is_flag=True, help="Take back what the annotator said of ITEM.")
def add_command(item: str, label: str | None, annotator: str, split: str | None, retract: bool) -> None:
    """Add the decision that ITEM is of class LABEL."""
    if retract == (label is not None):
        raise click.UsageError("give either LABEL or --retract")
    with in_project() as root:
        path = add_decision(root=root, item=item, label=label, annotator=annotator, split=split)
        said = f"{item}: {'nothing' if label is None else label}, says {annotator}; added to {path}"
        click.echo(make_printable(said))


@gold_command.command("import")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--format", "form", type=click.Choice(["label-studio", "argilla", "prodigy"]), help="The tool whose export FILE is.")  # fmt: skip
@click.option("--to", "name", help=f"The table in gold/ to add to; by default {DECISIONS}.")
@click.option("--item-id", default="item_id", show_default=True, help="The column with the ids.")
@click.option("--label", default="label", show_default=True, help="The column with class names or positions.")
@click.option("--annotator", help="The column with names of annotators; by default annotator, if there is one.")
@click.option("--by", help="Who decided all of it, where no column says so; by default the name of FILE.")
def import_command(
    file: Path, form: str | None, name: str | None, item_id: str, label: str, annotator: str | None, by: str | None
) -> None:
    """Add the decisions in FILE, a table or another tool's export.

    A table is Parquet, CSV or JSONL; --format names the other tool.
    Decisions that are known already are not added again, so that the same export can be imported whenever it has grown.
    """
    from flows.gold_import import Columns, import_decisions

    columns = Columns(item_id=item_id, label=label, annotator=annotator, by=by or file.name)
    file = file.resolve()
    with in_project() as root:
        for line in import_decisions(root, file, columns, name or DECISIONS, form):
            click.echo(line)


@gold_command.command("list")
def list_command() -> None:
    """List the items with gold, their splits and classes.

    Gold of the test split is shown as well.
    """
    with in_project() as root:
        gold, classes = gather(root=root)
        rows = [
            [str(item), split, classes[label] if label is not None else "-"] for item, split, label in gold.table.rows()
        ]
        print_rows([["item_id", "split", "gold"], *rows])
        show_remarks(gold)


@gold_command.command("conflicts")
def conflicts_command() -> None:
    """List the items on which people disagree.

    Shows what each person said, and how far they agree.
    """
    with in_project() as root:
        gold, _ = gather(root=root)
        rows = [[str(value) if value is not None else "-" for value in row] for row in gold.conflicts.rows()]
        if rows:
            print_rows([list(gold.conflicts.columns), *rows])
        show_remarks(gold)
        for pair in gold.summary["agreement"]["cohen_kappa"]:
            kappa = "undefined" if pair["kappa"] is None else f"{pair['kappa']:.3f}"
            said = f"Cohen's kappa of {' and '.join(pair['annotators'])} on {pair['items']:,} items: {kappa}"
            click.echo(make_printable(said), err=True)


def print_rows(rows: list[list[str]]) -> None:
    """Print a line for each row, with tabs between values, in which ids and names cannot end a line or move a cursor."""
    click.echo("\n".join("\t".join(map(make_printable, row)) for row in rows))


def show_remarks(gold: "Gold") -> None:
    """Print to standard error what the user should know besides the list."""
    for remark in gold.remarks:
        click.echo(f"note: {remark}", err=True)


def gather(*, root: Path) -> "tuple[Gold, tuple[str, ...]]":
    """The current gold of the project at `root`, and its classes.

    Raises
    ------
    DataError
        A table is invalid, or ingest has not run, or ran with other classes.
    """
    from tasks.gold import gather_gold
    from tasks.params_file import read_params
    from tasks.queries.recorded_classes import require_recorded_classes

    params = read_params(root)
    require_recorded_classes(root, params.classes)
    return gather_gold(root, params.classes, params.gold), params.classes


def add_decision(*, root: Path, item: str, label: str | None, annotator: str, split: str | None = None) -> Path:
    """Add a decision; the path, below `root`, of its table.

    Raises
    ------
    DataError
        There is no such item or class; nothing is added.
    """
    import polars as pl

    from tasks.core.types import ITEM_ID
    from tasks.gold import require_same_splits
    from tasks.params_file import read_params
    from tasks.tables import schemas
    from tasks.tables.gold_table import Decision, append_decision
    from tasks.tables.parquet import read_table
    from tasks.tables.paths import ITEMS

    params = read_params(root)
    if label is not None and label not in params.classes:
        raise DataError(f"{label!r} is no class; expected one of {', '.join(params.classes)} (classes in params.yaml).")
    items = read_table(root / ITEMS, schemas.ITEMS, [ITEM_ID, "split"])
    found = items.filter(items[ITEM_ID].cast(str) == item)
    if found.is_empty():
        raise DataError(f"{item!r} is the id of no item in {ITEMS}. Run 'epoxy run ingest' if it is new.")
    require_same_splits(found.with_columns(asked=pl.lit(split, pl.String)), params.gold.source)
    path = Path(params.gold.source) / DECISIONS
    decision = Decision(item_id=found[ITEM_ID][0], label=label, annotator=annotator, split=split)
    if note := append_decision(root / path, decision):
        click.echo(f"note: {note}", err=True)
    return path
