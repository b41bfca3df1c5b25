"""Answers as text: tables that fit the terminal, CSV and JSON; control characters in data never reach a terminal."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flows.runner.terminal import is_terminal

if TYPE_CHECKING:
    import polars as pl
    from rich.console import RenderableType
    from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])

FILE_WIDTH = 120
"""Width of a table that is not written to a terminal, unless COLUMNS is set."""

_GAP, _NARROW_GAP = 3, 2
"""Spaces between columns: where all of them fit with so many, and elsewhere."""

_LEAST, _MOST = 16, 32
"""Fewest characters of a wide column unless it says so itself, and most of any other."""

_SMALLEST = 4
"""Characters of a wide column if even the columns of rank 0 do not fit."""

LONGEST = 400
"""Characters to which a cell is cut before layout, which would be slow for a text of a megabyte."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its cells, their alignment, and whether it takes the width that other columns leave."""

    name: str
    cells: Sequence[str]
    is_number: bool = False
    is_wide: bool = False
    styles: Sequence[str] | None = None
    """The Rich style of each cell; empty for plain."""
    rank: int = 0
    """If the terminal is too narrow, columns of the highest rank are dropped first, and those of rank 0 never."""
    least: int = _LEAST
    """Characters of a wide column below which columns of a higher rank than 0 are dropped."""


def warn_of_edits(root: Path) -> None:
    """Say on standard error, in a line, what was edited since the run that the answer is about."""
    from tasks.queries.edits import describe_edits

    told = describe_edits(root)
    if told is not None:
        click.echo(f"note: {told}", err=True)


def output_options(command: F) -> F:
    """`command` with the options `--csv` and `--json`, its parameters `as_csv` and `as_json`."""

    def refuse_both(context: click.Context, _: click.Parameter, value: bool) -> bool:
        if value and context.params.get("as_csv"):
            raise click.UsageError("--csv and --json exclude each other")
        return value

    as_json = click.option("--json", "as_json", is_flag=True, callback=refuse_both, help="Print everything as JSON.")
    # Eager, so that it is parsed before the other option.
    as_csv = click.option("--csv", "as_csv", is_flag=True, is_eager=True, help="Print all columns as CSV.")
    return as_csv(as_json(command))


def print_csv(table: "pl.DataFrame") -> None:
    """Print all of `table`; lists and structures as JSON."""
    import polars as pl

    nested = [name for name, kind in table.schema.items() if kind.is_nested()]
    plain = table.with_columns(
        pl.Series(name, [None if value is None else dump(value) for value in table[name].to_list()], dtype=pl.String)
        for name in nested
    )
    click.echo(plain.write_csv(), nl=False)


def print_json(**answer: Any) -> None:
    """Print `answer`, in which tables are lists of objects."""
    import polars as pl

    plain = {name: value.to_dicts() if isinstance(value, pl.DataFrame) else value for name, value in answer.items()}
    click.echo(json.dumps(_without_nan(plain), indent=2, ensure_ascii=False, default=str))


def dump(value: Any) -> str:
    """Return `value` as JSON in one line."""
    return json.dumps(_without_nan(value), ensure_ascii=False, default=str)


def print_table(columns: Sequence[Column], *, title: str = "") -> None:
    """Print `columns` side by side within the terminal's width; longer cells end in an ellipsis."""
    print_rich(lay_out(columns, title=title))


def print_square(first: Column, others: Sequence[Column]) -> None:
    """Print `first` and as many of `others` beside it as fit whole; then `first` again with the next ones, and so on."""
    blocks: list[list[Column]] = [[]]
    for column in others:
        if blocks[-1] and _sum_widths([first, *blocks[-1], column], _NARROW_GAP) > find_width():
            blocks.append([])
        blocks[-1].append(column)
    parts: list[RenderableType] = []
    for block in blocks:
        parts += ["", lay_out([first, *block])] if parts else [lay_out([first, *block])]
    print_rich(*parts)


def lay_out(columns: Sequence[Column], *, title: str = "") -> "Table":
    """Return the table of `columns`, without those for which the terminal is too narrow."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    width = find_width()
    gap = _GAP if _sum_widths(columns, _GAP) <= width else _NARROW_GAP
    table = Table(box=box.SIMPLE_HEAD, expand=False, pad_edge=False, padding=(0, gap - 1, 0, 0), show_edge=False)
    if title:
        table.title, table.title_justify, table.title_style = Text(make_printable(title)), "left", "bold"
    shown = _fit(columns, width, gap)
    for column, share in zip(shown, _share_width(shown, width, gap), strict=True):
        table.add_column(
            Text(make_printable(column.name), style="bold"),
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=share,
        )
    for row in range(len(shown[0].cells) if shown else 0):
        table.add_row(
            *(
                Text(make_printable(column.cells[row]), style=column.styles[row] if column.styles else "")
                for column in shown
            )
        )
    return table


def _share_width(columns: Sequence[Column], width: int, gap: int) -> list[int]:
    """The width of each column: wide columns share what the others leave, and none gets more than it needs."""
    widths = [_measure(column) for column in columns]
    left = width - sum(size + gap for size, column in zip(widths, columns, strict=True) if not column.is_wide)
    wide = sorted((_measure_whole(column), place) for place, column in enumerate(columns) if column.is_wide)
    for number, (whole, place) in enumerate(wide):
        share = max(left // (len(wide) - number) - gap, _SMALLEST)
        widths[place] = min(whole, share)
        left -= widths[place] + gap
    return widths


def _measure_whole(column: Column) -> int:
    """The full width of `column` in characters."""
    return max((len(make_printable(cell)) for cell in (column.name, *column.cells)), default=1)


def _sum_widths(columns: Sequence[Column], gap: int) -> int:
    return sum(_measure(column) + gap for column in columns)


def _fit(columns: Sequence[Column], width: int, gap: int) -> list[Column]:
    """The `columns` that fit `width`, those of the lowest ranks."""
    shown = list(columns)
    while _sum_widths(shown, gap) > width:
        last = max(shown, key=lambda column: column.rank)
        if not last.rank:
            break
        shown.remove(last)
    return shown


def _measure(column: Column) -> int:
    """The width of `column` in characters, or the least width of a wide column."""
    return min(_measure_whole(column), column.least if column.is_wide else _MOST)


def find_width() -> int:
    """Return the number of characters in a line: that of COLUMNS or the terminal, else `FILE_WIDTH`."""
    if is_terminal(sys.stdout) or "COLUMNS" in os.environ:
        return shutil.get_terminal_size().columns
    return FILE_WIDTH


def print_rich(*parts: "RenderableType") -> None:
    """Print `parts`, in color if the terminal has colors; end quietly if the reader, such as `head`, is gone."""
    from rich.console import Console

    console = Console(width=find_width(), highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    lines = (line.rstrip() for line in capture.get().rstrip("\n").split("\n"))
    click.echo("\n".join(lines))


def make_printable(text: str) -> str:
    r"""Return `text` as a single line with control and direction characters escaped, which a terminal would obey.

    >>> make_printable("two\nlines, \x1b[31mred")
    'two lines, \\x1b[31mred'
    """
    cut = text[:LONGEST] + ("…" if len(text) > LONGEST else "")
    return "".join(
        sign if sign.isprintable() else " " if sign in "\n\r\t" else sign.encode("unicode_escape").decode()
        for sign in cut
    )


def write_number(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` decimals and without a leading zero; empty for None.

    >>> write_number(0.5), write_number(-1.25, 2), write_number(None)
    ('.500', '-1.25', '')
    """
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("-").startswith("0.") else text


def write_cell(value: Any) -> str:
    """Return a value of a table as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else dump(value) if isinstance(value, list | dict) else str(value)


def _without_nan(value: Any) -> Any:
    """`value` with None for numbers that JSON cannot represent."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return value
