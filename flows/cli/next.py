"""`epoxy next`: which items to label by hand."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.tables import (
    Column,
    output_options,
    print_csv,
    print_json,
    print_table,
    warn_of_edits,
    write_cell,
    write_number,
)
from flows.runner.project import in_project

if TYPE_CHECKING:
    from tasks.queries.next_items import NextItems, Strategy


@click.command("next")
@click.option(
    "--by",
    "strategy",
    type=click.Choice(["random", "mixed"]),
    default="random",
    show_default=True,
    help="mixed: by reasons in turn, a quarter at random.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="Largest number of items.")
@output_options
def next_command(strategy: "Strategy", seed: int, limit: int, as_csv: bool, as_json: bool) -> None:
    """Propose items to label by hand, each with a reason.

    Proposes items without gold outside test, no two of them near copies of each other. With --by mixed, these reasons take
    turns: labeling functions disagree, the label is uncertain or not certified, many similar items have no votes, a
    threshold is near, the class has little gold; and a quarter is drawn at random as a control. What mixed items teach
    labels is not reliably more, and gold that was chosen cannot judge them, so random is the default.
    """
    with in_project() as root:
        found = propose(root=root, strategy=strategy, seed=seed, count=limit)
        if as_json:
            print_json(pool=found.pool, items=found.rows)
        elif as_csv:
            print_csv(found.rows)
        else:
            warn_of_edits(root)
            show_next(found)


def propose(*, root: Path, strategy: "Strategy" = "random", seed: int = 0, count: int = 20) -> "NextItems":
    """Return items to label next.

    Raises
    ------
    EpoxyError
        An artifact is missing or damaged.
    """
    from tasks.queries.next_items import choose_next
    from tasks.queries.project_data import ProjectData

    return choose_next(ProjectData(root), count=count, strategy=strategy, seed=seed)


def show_next(found: "NextItems") -> None:
    """Print `found` as a table."""
    import polars as pl

    rows = found.rows
    columns = [
        Column(name="item_id", cells=[str(value) for value in rows["item_id"]]),
        Column(name="reason", cells=rows["reason"].to_list(), rank=1),
        Column(name="label", cells=rows["label"].to_list()),
        Column(name="p", cells=[write_number(value) for value in rows["confidence"]], is_number=True),
    ]
    for name in rows.columns[rows.columns.index("votes") + 1 :]:
        if rows[name].dtype == pl.String:
            columns.append(Column(name=name, cells=[write_cell(value) for value in rows[name]], is_wide=True))
    print_table(columns)
    click.echo(f"\n{rows.height:,} of {found.pool:,} items without gold that were considered")
