"""`epoxy try`: ask one labeling function about some items."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from flows.cli.tables import Column, output_options, print_csv, print_json, print_table, write_cell, write_number
from flows.runner.project import in_project

if TYPE_CHECKING:
    from tasks.queries.try_lf import Trial


@click.command("try")
@click.argument("lf", default="")
@click.option("--code", help="Python that makes the LF, such as keyword_lf(...), instead of one in the module.")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file with such Python.")
@click.option(
    "--items", "count", default=1000, show_default=True, type=click.IntRange(min=1), help="Ask so many items."
)
@click.option("--random", "seed", type=int, metavar="SEED", help="Ask items drawn at random, not the first ones.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Ask this item. May be repeated.")
@click.option("--all", "show_all", is_flag=True, help="Show the items, too, on which it abstains.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=0), help="Show at most so many items.")
@click.option("--test-gold", is_flag=True, help="Let gold of test and train take part, too.")
@output_options
def try_command(
    lf: str,
    code: str | None,
    file: Path | None,
    count: int,
    seed: int | None,
    ids: tuple[str, ...],
    show_all: bool,
    limit: int,
    test_gold: bool,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Ask the labeling function LF about some items.

    The LF is asked as it is now on disk; nothing is stored. Its votes are shown with the matched text of a keyword or
    pattern, gold if known, and its vote in the last run if that differs. The items on which it failed follow, and a
    traceback.
    """
    if (code is not None and (lf or file)) or not (lf or code or file):
        raise click.UsageError("name an LF of the module, or give --code or --file")
    if ids and seed is not None:
        raise click.UsageError("ask about items either by --id or by --random")
    path = file.resolve() if file else None
    with in_project() as root:
        found = try_one(root=root, lf=lf, code=code, file=path, count=count, seed=seed, ids=ids, test_gold=test_gold)
        if as_json:
            print_json(
                lf=found.lf, votes=found.votes, with_gold=found.with_gold, right=found.right, low=found.low,
                high=found.high, items=found.rows, failures=found.failures,
            )  # fmt: skip
        elif as_csv:
            print_csv(found.rows)
        else:
            show_trial(found, show_all=show_all or bool(ids), limit=limit)


def try_one(
    *,
    root: Path,
    lf: str = "",
    code: str | None = None,
    file: Path | None = None,
    count: int = 1000,
    seed: int | None = None,
    ids: Sequence[str | int] = (),
    test_gold: bool = False,
) -> "Trial":
    """Return the result of asking an LF about some items: `lf` of the project's module, or that made by `code` or `file`.

    Raises
    ------
    EpoxyError
        There is no such LF or item, or the code makes none.
    """
    from tasks.queries.project_data import ProjectData
    from tasks.queries.try_lf import choose_rows, read_lf, saved_lf, try_lf

    data = ProjectData(root)
    rows = choose_rows(data, ids=ids, count=count, seed=seed)
    with _refusing_to_end():
        if code is None and file is None:
            source = data.params().apply.source
            with saved_lf(root, source, lf) as saved:
                return try_lf(data, saved, rows, source=source, withheld_gold=test_gold)
        text = code if file is None else file.read_text(encoding="utf-8")
        made = read_lf(text or "", name=lf, **({} if file is None else {"file": str(file)}))
        return try_lf(data, made, rows, withheld_gold=test_gold)


@contextlib.contextmanager
def _refusing_to_end() -> Iterator[None]:
    """Within the block, `os._exit`, with which an LF would end this process before it has said anything, raises."""
    from tasks.errors import LabelingFunctionError

    def refuse(status: int) -> NoReturn:
        raise LabelingFunctionError(f"calls os._exit({status}), which would end the whole process without a word")

    kept, os._exit = os._exit, refuse
    try:
        yield
    finally:
        os._exit = kept


def show_trial(found: "Trial", *, show_all: bool, limit: int) -> None:
    """Print the votes of `found`, what they come to, and its failures."""
    import polars as pl

    rows = found.rows if show_all else found.rows.filter(pl.col("vote").is_not_null())
    shown = rows.head(limit)
    if shown.height:
        styles = ["" if value is None else "green" if value else "red" for value in shown["right"]]
        columns = [
            Column(name="item_id", cells=[str(value) for value in shown["item_id"]]),
            Column(name="vote", cells=[value or "" for value in shown["vote"]], styles=styles),
        ]
        if "before" in shown.columns and not shown["before"].equals(shown["vote"], check_names=False):
            columns.append(Column(name="before", cells=[value or "" for value in shown["before"]]))
        for name in ("matched", "gold"):
            if shown[name].null_count() < shown.height:
                columns.append(Column(name=name, cells=[value or "" for value in shown[name]]))
        for name in shown.columns[shown.columns.index("right") + 1 :]:
            if not shown[name].dtype.is_nested():
                is_text = shown[name].dtype == pl.String
                columns.append(Column(name=name, cells=[write_cell(value) for value in shown[name]], is_wide=is_text))
        print_table(columns)
        click.echo()
    click.echo(describe_trial(found))
    if found.failures.height:
        first = found.failures.row(0, named=True)
        click.echo(f"failed on {found.failures.height:,} items, first on {first['item_id']!r}: {first['error']}")
        if first["trace"]:
            click.echo(first["trace"])


def describe_trial(found: "Trial") -> str:
    """Return what the votes come to, as a sentence."""
    asked = found.rows.height
    text = f"{found.lf} votes on {found.votes:,} of {asked:,} items"
    if not found.with_gold:
        return f"{text}; none of these has gold"
    interval = f"95 % {write_number(found.low, 2)}-{write_number(found.high, 2)}"
    precision = write_number(found.right / found.with_gold, 2)
    return f"{text}; right on {found.right:,} of {found.with_gold:,} with gold (precision {precision}, {interval})"
