"""`epoxy lfs`: coverage and precision of each LF, and what changed since a release."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.tables import (
    Column,
    output_options,
    print_csv,
    print_json,
    print_square,
    print_table,
    warn_of_edits,
    write_number,
)
from flows.runner.project import in_project

if TYPE_CHECKING:
    import polars as pl


@click.command("lfs")
@click.option("--since", metavar="RELEASE", help="Compare with this release; by default with the current one, if any.")
@click.option("--pairs", is_flag=True, help="Pairs of LFs that vote on common items, instead of LFs.")
@click.option(
    "--matrix",
    type=click.Choice(["agreement", "overlap", "both", "same", "conflicts"]),
    help="One figure of all pairs, as a square table.",
)
@click.option("--order", metavar="COLUMN", help="By this column, descending with '-' before it; as in votes otherwise.")
@click.option("--limit", type=click.IntRange(min=0), help="Largest number of rows.")
@output_options
def lfs_command(
    since: str | None,
    pairs: bool,
    matrix: str | None,
    order: str | None,
    limit: int | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what each LF votes for, how often, and how precisely.

    Coverage and conflicts are shares of all items, before and after extension. Precision is measured on valid gold, with
    a 95 % interval and the number of items; `believed` is the label model's estimate of it. `only` counts items on which
    no other LF votes; `decides` those on which majority vote would be different without it, and `adds` is what it adds to
    the accuracy of majority vote on valid gold, in points. `worth` needs no gold: the points of accuracy that it earns,
    shared fairly among LFs that vote on the same items, as other LFs tell; below 0 it harms. Changes since the release are beside the figures.
    """
    if len([asked for asked in (since, pairs, matrix) if asked]) > 1:
        raise click.UsageError("--since, --pairs and --matrix exclude each other")
    with in_project() as root:
        table = tabulate(root=root, since=since, pairs=pairs, matrix=matrix)
        everything = table
        table = _arrange(table, order, limit)
        if not as_json and not as_csv:
            warn_of_edits(root)
        if as_json:
            print_json(lfs=table)
        elif as_csv:
            print_csv(table)
        elif matrix:
            print_square(*_number_columns(table))
        elif pairs:
            print_table([_show_column(table[name]) for name in table.columns])
        else:
            print_table(_choose_columns(table))
            moved = [
                f"{row['lf']}: {row['moved']}"
                for row in table.to_dicts()
                if row.get("moved", "unchanged") != "unchanged"
            ]
            copies = [
                f"{row['lf']} says much the same as {', '.join(row['near_copies'])}"
                for row in table.to_dicts()
                if row["near_copies"]
            ]
            for line in (*moved, *copies, *find_remarks(root), *find_harm(everything)):
                click.echo(line)


def tabulate(*, root: Path, since: str | None = None, pairs: bool = False, matrix: str | None = None) -> "pl.DataFrame":
    """Return the table of LFs, with their figures in release `since` (by default the current release); or that of pairs.

    Raises
    ------
    EpoxyError
        An artifact or a release is missing or damaged.
    """
    from flows.releases.opened import open_current, open_release
    from tasks.queries.lfs import compare_lfs, tabulate_lfs, tabulate_matrix
    from tasks.queries.project_data import ProjectData

    data = ProjectData(root)
    if matrix is not None:
        return tabulate_matrix(data, matrix)
    if pairs:
        return compare_lfs(data)
    return tabulate_lfs(data, before=open_current(root) if since is None else open_release(root, since))


def find_remarks(root: "Path") -> list[str]:
    """Return remarks on the LF that votes by descriptions: where it votes, or why it does not."""
    from tasks.tables.files import read_json
    from tasks.tables.paths import DESCRIPTIONS_SUMMARY

    path = root / DESCRIPTIONS_SUMMARY
    found = read_json(path) if path.is_file() else {"lf": None}
    return [] if found["lf"] is None else [f"{found['lf']} {found['why']}"]


def find_harm(table: "pl.DataFrame") -> list[str]:
    """Return the sentence that names the LFs of `table` that harm, and how to mute them; and those that are muted."""
    from tasks.report.lf_harm import describe_harm

    muted = table.filter("is_muted")["lf"].to_list()
    harm = describe_harm(table.filter("is_harmful")["lf"].to_list(), muted)
    return [*([harm] if harm else []), *([f"muted by apply.mute: {', '.join(muted)}"] if muted else [])]


def _arrange(table: "pl.DataFrame", order: str | None, limit: int | None) -> "pl.DataFrame":
    """`table` in the order of a column, cut after `limit` rows."""
    from tasks.queries.project_data import find_name

    if order is not None:
        name = find_name(order.removeprefix("-"), table.columns, "column")
        table = table.sort(name, descending=order.startswith("-"), nulls_last=True, maintain_order=True)
    return table if limit is None else table.head(limit)


_PAIR_RANKS = {"same": 3, "overlap": 2, "agreement": 1, "near_copy": 1}
"""Ranks of the columns of pairs that a narrow terminal may lack."""


def _show_column(values: "pl.Series") -> Column:
    """The column unchanged, except that shares have two decimals, and what is true is called so."""
    cells = [
        write_number(value, 2)
        if isinstance(value, float)
        else ("yes" if value else "")
        if isinstance(value, bool)
        else ""
        if value is None
        else str(value)
        for value in values
    ]
    return Column(
        name=values.name,
        cells=cells,
        is_number=values.dtype.is_numeric(),
        is_wide=values.name in ("lf", "other"),
        rank=_PAIR_RANKS.get(values.name, 0),
    )


def _number_columns(table: "pl.DataFrame") -> tuple[Column, list[Column]]:
    """The names of the rows of the square `table`, and its columns, which have the rows' numbers for names."""
    position = {lf: str(number) for number, lf in enumerate(table.columns[1:], start=1)}
    names = [f"{position[lf]} {lf}" for lf in table["lf"]]
    shown = [_show_column(table[lf].alias(number)) for lf, number in position.items()]
    return Column(name="LF", cells=names, is_wide=True), shown


def _choose_columns(table: "pl.DataFrame") -> list[Column]:
    """The most informative columns of LFs."""
    rows = table.to_dicts()
    intervals = [
        "" if row["all_low"] is None else f"{write_number(row['all_low'], 2)}-{write_number(row['all_high'], 2)}"
        for row in rows
    ]
    thresholds = ["-" if row["threshold"] is None else write_number(row["threshold"]) for row in rows]
    believed = [write_number(row["believed"], 2) for row in rows]
    columns = [
        Column(name="LF", cells=[row["lf"] + (" (muted)" if row["is_muted"] else "") for row in rows], is_wide=True),
        Column(name="votes", cells=[row["polarity"] for row in rows]),
        _compare(rows, "cov.", "coverage"),
        _compare(rows, "extended", "coverage_extended"),
        _compare(rows, "confl.", "conflicts", rank=3),
        Column(name="only", cells=[f"{row['only_extended']:,}" for row in rows], is_number=True, rank=4),
        _compare(rows, "prec.", "original_precision"),
        Column(name="of", cells=[f"{row['original_n']:,}" for row in rows], is_number=True, rank=1),
        _compare(rows, "extended", "all_precision", styles=[_judge(row) for row in rows]),
        Column(name="of", cells=[f"{row['all_n']:,}" for row in rows], is_number=True, rank=1),
        Column(name="95 %", cells=intervals, rank=2),
        Column(name="adds", cells=[write_points(row["adds"]) for row in rows], is_number=True, rank=4),
        Column(name="worth", cells=[write_points(row["worth"], 2) for row in rows], is_number=True, rank=4),
        Column(name="decides", cells=[f"{row['decides']:,}" for row in rows], is_number=True, rank=5),
        Column(name="believed", cells=believed, is_number=True, rank=5),
        Column(name="thresh.", cells=thresholds, is_number=True, rank=3),
    ]
    if any(row["failures"] for row in rows):
        columns.append(Column(name="failed", cells=[f"{row['failures']:,}" for row in rows], is_number=True))
    return columns


def write_points(share: float | None, digits: int = 1) -> str:
    """Return a difference of shares in points, with its sign; nothing if it is unknown.

    >>> write_points(0.0125), write_points(-0.01), write_points(0.0)
    ('+1.2', '-1.0', '0.0')
    """
    if share is None:
        return ""
    points = round(100 * share, digits)
    return f"{points:+.{digits}f}" if points else f"{0:.{digits}f}"


def _judge(row: dict[str, Any]) -> str:
    """Red if extension has certainly reduced precision: the interval of all votes is below that of original votes."""
    low, high = row["original_low"], row["all_high"]
    return "red" if low is not None and high is not None and high < low else ""


def _compare(
    rows: list[dict[str, Any]], name: str, column: str, *, rank: int = 0, styles: list[str] | None = None
) -> Column:
    """A share, followed by its change since the release if that is visible in two decimals."""
    cells = []
    for row in rows:
        value, before = row[column], row.get(f"{column}_before")
        text = write_number(value, 2)
        if value is not None and before is not None and abs(change := round(value, 2) - round(before, 2)) > 0.005:
            text += f" {'+' if change > 0 else '-'}{write_number(abs(change), 2)}"
        cells.append(text)
    return Column(name=name, cells=cells, is_number=True, styles=styles, rank=rank)
