"""`epoxy suggest`: labeling functions to write next."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.tables import Column, make_printable, output_options, print_csv, print_json, print_table, write_number
from flows.runner.project import in_project
from tasks.errors import QueryError

if TYPE_CHECKING:
    from tasks.queries.suggest import Suggestions


@click.command("suggest")
@click.option("--label", metavar="CLASS", help="Only for this class.")
@click.option(
    "--least-precision", default=0.8, show_default=True, type=click.FloatRange(0, 1), help="Lower bound of it."
)
@click.option(
    "--limit", default=10, show_default=True, type=click.IntRange(min=1), help="Largest number of suggestions."
)
@click.option("--append", metavar="N", type=click.IntRange(min=1), help="Append number N to the LF module, as source.")
@output_options
def suggest_command(
    label: str | None, least_precision: float, limit: int, append: int | None, as_csv: bool, as_json: bool
) -> None:
    """Suggest labeling functions to write next.

    Suggests words, pairs of words, and rules on a column that would vote precisely, first those that help the most items
    without a vote or with an uncertain label. Precision is a lower bound, on valid gold if enough of it fits the rule,
    else of the agreement with shipped labels. With --append, the source is added to the module of apply.source.
    """
    with in_project() as root:
        count = max(limit, append or 0)
        found = suggest(root=root, label=label, least_precision=least_precision, count=count)
        if append is not None:
            click.echo(append_suggestion(root=root, found=found, number=append))
        elif as_json:
            print_json(sampled=found.sampled, of=found.items, in_need=found.in_need, suggestions=found.rows)
        elif as_csv:
            print_csv(found.rows)
        else:
            show_suggestions(found)


def suggest(*, root: Path, label: str | None = None, least_precision: float = 0.8, count: int = 10) -> "Suggestions":
    """Return up to `count` suggested labeling functions.

    Raises
    ------
    EpoxyError
        There is no such class, or artifacts are missing or damaged.
    """
    from tasks.queries.project_data import ProjectData
    from tasks.queries.suggest import suggest_lfs

    return suggest_lfs(ProjectData(root), count=count, least_precision=least_precision, label=label)


def append_suggestion(*, root: Path, found: "Suggestions", number: int) -> str:
    """Append suggestion `number`, from 1, to the LF module, and return what was appended, as text for a person.

    Raises
    ------
    EpoxyError
        There is no suggestion of this number, or the module cannot be changed.
    """
    from tasks.params_file import read_params
    from tasks.queries.suggest import append_lf

    if number > found.rows.height:
        raise QueryError(f"there are {found.rows.height} suggestions, no number {number}. 'epoxy suggest' lists them.")
    source = read_params(root).apply.source
    code = append_lf(root, source, found.rows.row(number - 1, named=True))
    return f"appended to {source}:\n\n{code}"


def show_suggestions(found: "Suggestions") -> None:
    """Print `found` as a table, and the source of the first."""
    rows = found.rows.to_dicts()
    if not rows:
        click.echo(f"{found.describe_need()}; {found.describe_lack()}")
        return

    def column(name: str, cells: list[str], rank: int = 0) -> Column:
        return Column(name=name, cells=cells, is_number=True, rank=rank)

    print_table(
        [
            column("", [str(number) for number in range(1, len(rows) + 1)]),
            Column(name="rule", cells=[row["rule"] for row in rows], is_wide=True, least=32),
            Column(name="votes", cells=[row["label"] for row in rows]),
            column("new", [f"{row['new_items']:,}" for row in rows]),
            column("items", [f"{row['items']:,}" for row in rows], rank=1),
            column("precision", [write_number(row["precision"], 2) for row in rows], rank=3),
            column("at least", [write_number(row["low"], 2) for row in rows]),
            Column(name="judged on", cells=[f"{row['n']:,} {row['judged_on']}" for row in rows], rank=2),
        ]
    )
    click.echo(f"\n{found.describe_need()}; number 1 would be (--append 1):\n")
    for line in rows[0]["source"].split("\n"):
        click.echo(f"    {make_printable(line)}".rstrip())
