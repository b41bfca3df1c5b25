"""`epoxy items`: the items behind a number."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    import polars as pl

    from tasks.queries.items import ItemPage, ItemQuery


_EDIT = "edit"
"""What stands for the edits since the last run where a release is named."""


class _ExclusiveFlags(click.Command):
    """A command that refuses two flags of the same parameter, of which click would take the last without a word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after a look at the flags."""
        flags: dict[str | None, set[str]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and parameter.is_flag:
                flags.setdefault(parameter.name, set()).update(parameter.opts, parameter.secondary_opts)
        for names in flags.values():
            given = [name for name in dict.fromkeys(args) if name in names]
            if len(given) > 1:
                raise click.UsageError(f"{' and '.join(given)} exclude each other", ctx)
        return super().parse_args(ctx, args)


@click.command("items", cls=_ExclusiveFlags)
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this item. May be repeated.")
@click.option("--split", "splits", multiple=True, help="Only items of this split. May be repeated.")
@click.option("--label", "labels", multiple=True, metavar="CLASS", help="Shipped with this label. May be repeated.")
@click.option("--gold", multiple=True, metavar="CLASS", help="Whose gold is this class. May be repeated.")
@click.option("--with-gold/--without-gold", "has_gold", default=None, help="Whose gold is known, or is not.")
@click.option("--certified/--uncertified", "certified", default=None, help="Whose label is certified, or is not.")
@click.option("--right/--wrong", default=None, help="Labeled right, or wrong, by --method, where gold is known.")
@click.option("--method", default="shipped", show_default=True, help="Whose labels --right and --wrong are about.")
@click.option("--vote", "votes", multiple=True, metavar="LF[=CLASS]", help="On which LF votes, itself or by extension.")
@click.option("--own-vote", "own", multiple=True, metavar="LF[=CLASS]", help="On which LF votes itself.")
@click.option("--extended-vote", "extended", multiple=True, metavar="LF[=CLASS]", help="To which LF is extended.")
@click.option("--wrong-lf", metavar="LF", help="On which LF votes, and not for the gold class.")
@click.option("--conflict", nargs=2, metavar="LF LF", help="On which two LFs vote different classes.")
@click.option("--covered", "covered", flag_value="labeling functions", help="On which some LF votes itself.")
@click.option("--extended-only", "covered", flag_value="extension only", help="With extended votes alone.")
@click.option("--uncovered", "covered", flag_value="nothing", help="Without any vote.")
@click.option("--near-threshold", type=float, metavar="GAP", help="Whose nearest vote is within GAP of a threshold.")
@click.option("--near-lf", metavar="LF", help="Of which LF that threshold is; by default of any.")
@click.option(
    "--flipped-since",
    metavar="RELEASE",
    help="Labeled differently than in this release; `edit`: by the label model, with LFs and params as they are now.",
)
@click.option("--text", help="With this text in some column, in upper or lower case.")
@click.option("--order", metavar="COLUMN", help="By this column, descending with '-' before it; or 'uncertain'.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=0), help="Largest number of items.")
@click.option("--offset", default=0, type=click.IntRange(min=0), help="Number of items to skip.")
@click.option("--columns", metavar="NAME,...", help="Show these columns of the answer, instead of a choice.")
@click.option("--test-gold", is_flag=True, help="Let gold of test and train take part, too.")
@output_options
def items_command(as_csv: bool, as_json: bool, columns: str | None, flipped_since: str | None, **asked: Any) -> None:
    """List the items that fit all conditions.

    Shows each item's label with its probability, gold if known, votes (a ~ marks an extended vote) and text. Gold of
    valid takes part; gold of test and train only with --test-gold, and the answer says so.
    """
    with in_project() as root:
        page = list_items(root=root, query=parse_query(**asked), flipped_since=flipped_since)
        if as_json:
            print_json(total=page.total, of=page.items, gold=page.gold, items=page.rows)
        elif as_csv:
            print_csv(page.rows)
        else:
            warn_of_edits(root)
            show_page(page, offset=asked["offset"], names=columns.split(",") if columns else None)


def parse_query(
    *,
    votes: tuple[str, ...],
    own: tuple[str, ...],
    extended: tuple[str, ...],
    near_lf: str | None,
    test_gold: bool,
    conflict: tuple[str, str] | None,
    **asked: Any,
) -> "ItemQuery":
    """Return the question that the command's options ask."""
    from tasks.queries.items import ItemQuery, VoteFilter, VoteSource

    sources: tuple[tuple[VoteSource, tuple[str, ...]], ...] = (
        ("either", votes),
        ("original", own),
        ("extended", extended),
    )
    filters = tuple(
        VoteFilter(lf=name.partition("=")[0], vote=name.partition("=")[2] if "=" in name else None, source=source)
        for source, names in sources
        for name in names
    )
    return ItemQuery(
        votes=filters, near_threshold_lf=near_lf, withheld_gold=test_gold, conflict=conflict or None, **asked
    )


def list_items(*, root: Path, query: "ItemQuery", flipped_since: str | None = None) -> "ItemPage":
    """Return the page of items that fit `query`, and were labeled differently in release `flipped_since`.

    `edit` stands for LFs and params as they are now: items that the label model would label differently than in the last run.

    Raises
    ------
    EpoxyError
        An artifact or a release is missing or damaged, or the question has an unknown name.
    """
    from dataclasses import replace

    from tasks.core.types import ITEM_ID
    from tasks.queries.items import find_items
    from tasks.queries.project_data import ProjectData

    data, before = ProjectData(root), None
    if flipped_since == _EDIT:
        from flows.flip_preview import preview_flips

        ids = preview_flips(root).flipped[ITEM_ID].to_list()
        kept = [item for item in query.ids if item in {str(known) for known in ids}] if query.ids else ids
        # No id is no condition; that no label differs from itself says that there are none.
        before, query = (
            (None, replace(query, ids=tuple(kept))) if kept else (data.labels(), replace(query, flipped=True))
        )
    elif flipped_since is not None:
        from flows.releases.opened import open_release

        before = open_release(root, flipped_since).labels()
        query = replace(query, flipped=True)
    return find_items(data, query, before=before)


def show_page(page: "ItemPage", *, offset: int, names: list[str] | None) -> None:
    """Print `page` as a table, and below it the number of items that fit."""
    import polars as pl

    rows = page.rows
    if names is not None:
        from tasks.queries.project_data import find_name

        shown = [find_name(name, rows.columns, "column of the answer") for name in names]
        print_table(
            [
                Column(
                    name=name, cells=[write_cell(value) for value in rows[name]], is_wide=rows[name].dtype == pl.String
                )
                for name in shown
            ]
        )
        left: list[str] = []
    else:
        columns, left = _choose_columns(rows)
        print_table(columns)
    first, last = offset + 1, offset + rows.height
    which = f"items {first:,} to {last:,} of {page.total:,} that fit" if rows.height else f"{page.total:,} items fit"
    click.echo(f"\n{which}, of {page.items:,} in all; {page.gold}")
    if left:
        click.echo(f"not shown: {', '.join(left)} (--columns, --csv or --json)")


def _choose_columns(rows: "pl.DataFrame") -> tuple[list[Column], list[str]]:
    """The most informative columns of items, and the names of the raw columns that are left out."""
    import polars as pl

    right = ["green" if value else "" if value is None else "red" for value in rows["right"]]
    columns = [
        Column(name="item_id", cells=[str(value) for value in rows["item_id"]]),
        Column(name="split", cells=rows["split"].to_list(), rank=1),
        Column(name="label", cells=rows["label"].to_list(), styles=right),
        Column(name="p", cells=[write_number(value) for value in rows["confidence"]], is_number=True),
    ]
    if rows["gold"].null_count() < rows.height:
        columns.append(Column(name="gold", cells=[value or "" for value in rows["gold"]]))
    if "label_before" in rows.columns:
        columns.append(Column(name="before", cells=[value or "" for value in rows["label_before"]]))
    if "threshold_gap" in rows.columns:
        columns.append(
            Column(name="gap", cells=[write_number(value, 4) for value in rows["threshold_gap"]], is_number=True)
        )
    votes = [
        " ".join(f"{vote['lf']}{'~' if vote['is_extended'] else '='}{vote['vote']}" for vote in cast)
        for cast in rows["votes"].to_list()
    ]
    columns.append(Column(name="votes", cells=votes, is_wide=True))
    left = []
    for name in rows.columns[rows.columns.index("votes") + 1 :]:
        if name in ("threshold_gap", "label_before"):
            continue
        if rows[name].dtype == pl.String:
            columns.append(Column(name=name, cells=[value or "" for value in rows[name]], is_wide=True))
        elif rows[name].dtype.is_nested():
            left.append(name)
        else:
            columns.append(Column(name=name, cells=[write_cell(value) for value in rows[name]]))
    return columns, left
