"""`epoxy explain`: why an item has its label."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.tables import (
    Column,
    lay_out,
    make_printable,
    output_options,
    print_csv,
    print_json,
    print_rich,
    warn_of_edits,
    write_cell,
    write_number,
)
from flows.runner.project import in_project

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tasks.queries.explain import Explanation

_BAR = 16
"""Characters of the longest bar on either side."""


_WEIGHT = (
    "weight: what an LF's vote counts for in these labels, 0 to 1, by the vote head; 'epoxy lfs' shows beside it what the "
    "label model of 'fit' believes of its precision"
)


@click.command("explain")
@click.argument("item")
@click.option("--release", metavar="RELEASE", help="Explain the label of this release, not of the last run.")
@click.option("--all", "show_all", is_flag=True, help="Show every LF, also those that say nothing.")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(min=0), help="Show so many neighbors.")
@click.option("--test-gold", is_flag=True, help="Show gold of test and train, too.")
@output_options
def explain_command(
    item: str, release: str | None, show_all: bool, limit: int, test_gold: bool, as_csv: bool, as_json: bool
) -> None:
    """Show why ITEM, an id, has its label.

    Shows every LF's vote, its source (the item itself or a neighbor) and the next nearest vote, and the parts of the
    label's log-odds against the next class, which add up to it. With --csv, prints these parts.
    """
    with in_project() as root:
        found = explain(root=root, item=item, release=release, test_gold=test_gold)
        if as_json:
            shown: dict[str, Any] = {name: getattr(found, name) for name in found.__dataclass_fields__}
            print_json(**shown)
        elif as_csv:
            print_csv(found.parts)
        else:
            if release is None:
                warn_of_edits(root)
            show_explanation(found, show_all=show_all, limit=limit)


def explain(*, root: Path, item: str, release: str | None = None, test_gold: bool = False) -> "Explanation":
    """Return why `item` has the label of the last run, or of `release`.

    Raises
    ------
    EpoxyError
        There is no such item or release, or its files are missing or damaged.
    """
    from flows.releases.opened import open_release
    from tasks.queries.explain import explain_item
    from tasks.queries.project_data import ProjectData

    opened = None if release is None else open_release(root, release)
    return explain_item(ProjectData(root), item, release=opened, withheld_gold=test_gold)


def show_explanation(found: "Explanation", *, show_all: bool, limit: int) -> None:
    """Print `found` as text and tables."""
    from rich.text import Text

    of = f" in release {found.release}" if found.release else ""
    head = Text(make_printable(f"{found.item_id}{of}: {found.label}"), style="bold")
    chance, other = found.probabilities[found.label], found.probabilities[found.runner_up]
    head.append(f"  p {write_number(chance)}; next {found.runner_up}, p {write_number(other)}", style="not bold")
    if found.gold is not None:
        is_right = found.gold == found.label
        head.append(f"; gold {found.gold}", style="not bold green" if is_right else "not bold red")
    lines = [head]
    for name, value in found.item.items():
        shown = f"{len(value)} values (--json)" if isinstance(value, list | dict) else write_cell(value)
        lines.append(Text(make_printable(f"{name}: {shown}")))
    votes = found.votes.to_dicts()
    said = [row for row in votes if show_all or row["from"] or _speaks(row)]
    parts: list[RenderableType] = [Text("\n").join(lines), Text()]
    if said:
        parts.append(lay_out(_list_votes(said, found), title="Votes"))
        if any(row["vote"] is None and row["nearest_vote"] for row in said):
            parts.append(Text("in parentheses: the vote of its nearest voter, too far away to be lent", style="dim"))
        parts.append(Text(_WEIGHT, style="dim"))
    else:
        parts.append(Text("no LF votes on it, itself or by extension"))
    if (hidden := len(votes) - len(said)) and not show_all:
        parts.append(
            Text(f"{hidden} LF{'s say' if hidden > 1 else ' says'} nothing of it (--all shows them)", style="dim")
        )
    title = f"What makes it {found.label} and not {found.runner_up}: log-odds {found.log_odds:+.3f}"
    parts += [Text(), lay_out(_list_parts(found), title=title)]
    if limit and found.neighbors.height:
        parts += [Text(), lay_out(_list_neighbors(found, limit), title="Neighbors")]
    if found.methods.height:
        parts += [Text(), lay_out(_list_methods(found), title="What each method says")]
    parts += [Text(f"\n{sentence}", style="dim") for sentence in found.lacks]
    print_rich(*parts)


def _speaks(row: dict[str, Any]) -> bool:
    """Whether an LF's neighbors count visibly for either class."""
    return any((row[name] or 0) >= 0.001 for name in ("for_label", "for_runner_up"))


def _list_votes(rows: list[dict[str, Any]], found: "Explanation") -> list[Column]:
    def numbers(name: str, column: str, rank: int = 0) -> Column:
        return Column(name=name, cells=[write_number(row[column]) for row in rows], is_number=True, rank=rank)

    agrees = [("green" if row["vote"] == found.label else "red") if row["vote"] else "dim" for row in rows]
    nexts = [f"{row['next_vote']} {write_number(row['next_similarity'])}" if row["next_vote"] else "" for row in rows]
    return [
        Column(name="LF", cells=[row["lf"] for row in rows], is_wide=True),
        Column(name="vote", cells=[row["vote"] or f"({row['nearest_vote'] or ''})" for row in rows], styles=agrees),
        Column(name="from", cells=[row["from"] or "" for row in rows]),
        Column(name="neighbor", cells=[write_cell(row["neighbor"]) for row in rows]),
        numbers("similar", "similarity"),
        numbers("threshold", "threshold"),
        Column(name="next", cells=nexts, rank=3),
        numbers("weight", "reliability", rank=1),
        numbers(f"for {found.label}", "for_label", rank=2),
        numbers(f"for {found.runner_up}", "for_runner_up", rank=2),
    ]


def _list_parts(found: "Explanation") -> list[Column]:
    rows = found.parts.to_dicts()
    largest = max((abs(row["log_odds"]) for row in rows), default=1.0) or 1.0
    bars = ["█" * round(_BAR * abs(row["log_odds"]) / largest) for row in rows]
    names = [row["source"] + (f" of {row['lf']}" if row["lf"] else "") for row in rows]
    return [
        Column(name="source", cells=[*(row["of"].replace("_", " ") for row in rows), "together"]),
        Column(name="", cells=[*names, ""]),
        Column(
            name="log-odds",
            cells=[*(f"{row['log_odds']:+.3f}" for row in rows), f"{found.log_odds:+.3f}"],
            is_number=True,
        ),
        Column(name="", cells=[*bars, ""], styles=[*("green" if row["log_odds"] > 0 else "red" for row in rows), ""]),
    ]


def _list_neighbors(found: "Explanation", limit: int) -> list[Column]:
    import polars as pl

    table = found.neighbors.head(limit)
    columns = [
        Column(name=name, cells=[write_cell(value) for value in table[name]]) for name in ("item_id", "split", "label")
    ]
    for name in table.columns[3:]:
        if not table[name].dtype.is_nested():
            columns.append(
                Column(
                    name=name,
                    cells=[write_cell(value) for value in table[name]],
                    is_wide=table[name].dtype == pl.String,
                )
            )
    return columns


def _list_methods(found: "Explanation") -> list[Column]:
    rows = found.methods.to_dicts()
    return [
        Column(name="method", cells=[row["method"] for row in rows]),
        Column(name="label", cells=[row["label"] or "tie" for row in rows]),
        Column(name=f"p {found.label}", cells=[write_number(row["p_label"]) for row in rows], is_number=True),
        Column(name=f"p {found.runner_up}", cells=[write_number(row["p_runner_up"]) for row in rows], is_number=True),
    ]
