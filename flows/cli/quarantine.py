"""`epoxy quarantine`: the rows that ingest left out."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.tables import Column, output_options, print_csv, print_json, print_table, write_cell
from flows.runner.project import in_project

if TYPE_CHECKING:
    import polars as pl


@click.command("quarantine")
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=1), help="Largest number of rows shown."
)
@output_options
def quarantine_command(limit: int, as_csv: bool, as_json: bool) -> None:
    """List the rows that ingest left out, and why.

    Rows fail where they cannot be read or have no id, an id of another row, an unknown class or split, or no embedding.
    How many may is said by ingest.quarantine in params.yaml. `first seen` is the first release, of those that are here,
    that was made without the row.
    """
    with in_project() as root:
        rows = list_quarantine(root=root)
        if as_json:
            print_json(rows=rows)
        elif as_csv:
            print_csv(rows)
        else:
            show_quarantine(rows, limit=limit)


def list_quarantine(*, root: Path) -> "pl.DataFrame":
    """Return the rows that the last ingest left out, with the release in which each was left out first.

    Raises
    ------
    EpoxyError
        The table, or a release, is missing or damaged.
    """
    from flows.releases.first_seen import find_first_seen
    from tasks.tables.quarantine import read_quarantine

    return find_first_seen(root, read_quarantine(root))


def show_quarantine(rows: "pl.DataFrame", *, limit: int) -> None:
    """Print the first `limit` of `rows` as a table."""
    from tasks.tables.quarantine import count_reasons

    if rows.is_empty():
        click.echo("no row was left out")
        return
    shown = rows.head(limit)
    seen = [
        "not released yet" if row["first_seen"] is None else " ".join([row["first_seen"], (row["since"] or "")[:10]])
        for row in shown.iter_rows(named=True)
    ]
    print_table(
        [
            Column(name="item_id", cells=["" if value is None else str(value) for value in shown["item_id"]]),
            Column(name="reason", cells=shown["reason"].to_list()),
            Column(name="file", cells=shown["file"].to_list()),
            Column(name="row", cells=[str(value) for value in shown["row"]], is_number=True),
            Column(name="found", cells=[write_cell(value) for value in shown["found"]], is_wide=True),
            Column(name="first seen", cells=seen, rank=1),
        ]
    )
    counts = ", ".join(f"{count:,} {reason}" for reason, count in count_reasons(rows))
    more = f"; {rows.height - limit:,} more with --limit or --csv" if rows.height > limit else ""
    click.echo(f"\n{rows.height:,} rows failed and were left out: {counts}{more}")
