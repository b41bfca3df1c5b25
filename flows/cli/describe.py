"""`epoxy describe`: try a sentence for a class before it is saved."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.tables import Column, output_options, print_csv, print_json, print_table, write_cell, write_number
from flows.runner.project import in_project

if TYPE_CHECKING:
    import polars as pl

    from tasks.queries.describe import TriedSentence

_SOURCES = {
    "gold": "with gold",
    "votes": "with other LFs",
    "neighbors": "among near items",
    "none": "unknown",
}
"""What agreement is with, by the kind of evidence."""

_CHANGED = 10
"""Votes that would change are shown, those with the widest margin; --csv and --json give all."""


@click.command("describe")
@click.argument("label", metavar="CLASS")
@click.option("--try", "sentence", required=True, metavar="SENTENCE", help="What the class means.")
@output_options
def describe_command(label: str, sentence: str, as_csv: bool, as_json: bool) -> None:
    """Try a sentence for a class before it is saved.

    Shows the items that are nearest to the sentence, those where the labeling function would just still vote for CLASS, on
    how many it would, how far what is known agrees by tenth of these items, those with the widest margin first, with a | where
    it stops, and which of its votes would change (--csv: all of them). The other classes mean what apply.describe says. Nothing is
    stored.
    """
    with in_project() as root:
        found = describe(root=root, label=label, sentence=sentence)
        if as_json:
            print_json(
                label=found.label, votes=found.votes, of=found.of, why=found.why, share=found.share, evidence=found.evidence,
                agreement=list(found.agreement), notes=list(found.notes),
                nearest=found.nearest, at_cut=found.at_cut, changed=found.changed,
            )  # fmt: skip
        elif as_csv:
            print_csv(found.changed)
        else:
            _show(found)


def describe(*, root: Path, label: str, sentence: str) -> "TriedSentence":
    """Return what `sentence` would do as what class `label` means.

    Raises
    ------
    EpoxyError
        There is no such class, or artifacts or the encoder are missing or damaged.
    """
    from tasks.queries.describe import try_sentence
    from tasks.queries.project_data import ProjectData

    return try_sentence(ProjectData(root), label, sentence)


def _show(found: "TriedSentence") -> None:
    for note in found.notes:
        click.echo(note)
    click.echo(f"{found.label}: {found.votes:,} of {found.of:,} items; the labeling function {found.why}.")
    tenths = ["?" if value is None else write_number(value, 2) for value in found.agreement]
    tenths.insert(round(found.share * len(tenths)), "|")
    click.echo(f"agreement by tenth, {_SOURCES[found.evidence]}: {' '.join(tenths)}")
    _show_items(found.nearest, "nearest")
    _show_items(found.at_cut, "at the cut")
    _show_items(found.changed.head(_CHANGED), "changed", ("before", "vote"))
    click.echo(f"{found.changed.height:,} votes would be others than in the last run.")


def _show_items(items: "pl.DataFrame", title: str, votes: tuple[str, ...] = ("vote",)) -> None:
    if items.is_empty():
        return
    raw = items.columns[5:6]
    columns = [Column(name="item", cells=[str(item) for item in items["item_id"]])]
    columns += [Column(name="margin", cells=[write_number(value, 3) for value in items["margin"]], is_number=True)]
    columns += [Column(name=name, cells=[value or "-" for value in items[name]]) for name in votes]
    columns += [Column(name=name, cells=[write_cell(value) for value in items[name]], is_wide=True) for name in raw]
    print_table(columns, title=title)
