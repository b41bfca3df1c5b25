"""`epoxy init`: a project of your own, without the tool's code."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.tables import make_printable

if TYPE_CHECKING:
    from flows.init.sample import Sample


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--items", type=click.Path(dir_okay=False, path_type=Path), help="CSV, JSONL or Parquet with a text an item."
)
@click.option("--id", "item_id", help="The column with ids; without one, ids are made from the texts.")
@click.option("--text", help="The column of text that is encoded.")
@click.option("--split", help="The column with train, valid or test, if there is one.")
@click.option("--gold", help="The column with the class of items that somebody has labeled.")
@click.option("--classes", help="Names of classes, with commas between them; by default those in the gold column.")
@click.option(
    "--describe",
    "described",
    multiple=True,
    metavar="CLASS=SENTENCE",
    help="What a class means. May be repeated, also for a class.",
)
def init_command(
    folder: Path,
    items: Path | None,
    item_id: str | None,
    text: str | None,
    split: str | None,
    gold: str | None,
    classes: str | None,
    described: tuple[str, ...],
) -> None:
    """Make a project in FOLDER around a table of items.

    FOLDER is new or empty.

    Whatever is not given is guessed from the table and reported; on a terminal, you are asked. The project holds params,
    pipeline, labeling functions and data; the tool stays where it is installed, and serves any number of projects.
    """
    from flows.init.create import create_project
    from flows.init.sample import Columns, read_sample

    if items is None:
        if not sys.stdin.isatty():
            raise click.UsageError("name a table of items with --items")
        items = click.prompt("Table of items (CSV, JSONL or Parquet)", type=click.Path(dir_okay=False, path_type=Path))
    named = Columns(item_id=item_id, text=text, split=split, gold=gold)
    meanings = read_meanings(described)
    given = tuple(name.strip() for name in classes.split(",")) if classes else ()
    if not given and gold is None and len(meanings) > 1:
        given = tuple(meanings)
    sample = read_sample(items, named, given)
    if sys.stdin.isatty():
        sample = ask(items, sample, given)
        meanings = meanings or ask_meanings(sample.classes)
    for line in create_project(folder, sample, meanings):
        click.echo(make_printable(line))


def read_meanings(described: tuple[str, ...]) -> dict[str, list[str]]:
    """What each class means, from texts such as 'spam=an advertisement'; of a class there may be several."""
    meanings: dict[str, list[str]] = {}
    for text in described:
        name, sign, meaning = (part.strip() for part in text.partition("="))
        if not (name and sign and meaning):
            raise click.UsageError(f"--describe {text!r}: expected a class, '=' and a sentence that says what it means")
        meanings.setdefault(name, []).append(meaning)
    return meanings


def ask_meanings(classes: tuple[str, ...]) -> dict[str, list[str]]:
    """What somebody at the terminal says that each class means; Enter leaves a class out, and what was said before is asked again."""
    said: dict[str, str] = {}
    meanings = {}
    for name in classes:
        prompt = f"What does {name!r} mean, in a sentence (Enter leaves it out)"
        while (answer := " ".join(click.prompt(prompt, default="", show_default=False).split())).casefold() in said:
            click.echo(f"That is what {said[answer.casefold()]!r} means; say how they differ.")
        if answer:
            said[answer.casefold()] = name
            meanings[name] = [answer]
    return meanings


def ask(items: Path, sample: "Sample", classes: tuple[str, ...]) -> "Sample":
    """The sample with columns and classes as the user confirms or corrects them; Enter accepts a guess."""
    from flows.init.sample import Columns, read_sample

    guessed = sample.columns
    named = Columns(
        item_id=_ask_column("ids", guessed.item_id),
        text=_ask_column("text", guessed.text),
        split=_ask_column("train, valid or test", guessed.split),
        gold=_ask_column("gold", guessed.gold),
    )
    sample = read_sample(items, named, classes)
    shown = ",".join(sample.classes)
    answer = click.prompt("Classes, with commas between them", default=shown or None)
    return read_sample(items, named, tuple(name.strip() for name in answer.split(",")))


def _ask_column(what: str, guessed: str | None) -> str | None:
    answer = click.prompt(f"Column with {what} (- for none)", default=guessed or "-")
    return None if answer == "-" else str(answer)
