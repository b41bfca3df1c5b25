"""Answers as text: tables that fit the terminal, CSV and JSON; whatever the data hold, a terminal gets letters alone."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flows.runner.terminal import is_terminal

if TYPE_CHECKING:
    import polars as pl
    from rich.console import RenderableType
    from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])

FILE_WIDTH = 120
"""Columns of a table that no terminal shows, unless COLUMNS says otherwise."""

_GAP = 3
"""Spaces between columns."""

_LEAST, _MOST = 16, 32
"""Characters that a wide column has at least, and another at most."""

_SMALLEST = 4
"""Characters that a wide column has where even columns of rank 0 do not fit."""

LONGEST = 400
"""Characters of a cell that can be seen at all; a text of a megabyte is cut before it is laid out."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its cells, on which side they stand, and whether it takes what width the others leave."""

    name: str
    cells: Sequence[str]
    is_number: bool = False
    is_wide: bool = False
    styles: Sequence[str] | None = None
    """Of each cell, as Rich names them; empty for plain."""
    rank: int = 0
    """Where the terminal is too narrow, columns of the highest rank go first; those of rank 0 stay."""


def output_options(command: F) -> F:
    """`command` with the options `--csv` and `--json`, its parameters `as_csv` and `as_json`."""

    def refuse_both(context: click.Context, _: click.Parameter, value: bool) -> bool:
        if value and context.params.get("as_csv"):
            raise click.UsageError("--csv and --json exclude each other")
        return value

    as_json = click.option("--json", "as_json", is_flag=True, callback=refuse_both, help="Print everything as JSON.")
    # Eager, so that it is known when the other is looked at.
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
    """Print `columns` side by side in the width of the terminal; what does not fit ends in an ellipsis."""
    print_rich(lay_out(columns, title=title))


def lay_out(columns: Sequence[Column], *, title: str = "") -> "Table":
    """Return the table of `columns`, without those that the terminal is too narrow for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, expand=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), show_edge=False)
    if title:
        table.title, table.title_justify, table.title_style = Text(make_printable(title)), "left", "bold"
    shown = _fit(columns, find_width())
    for column, width in zip(shown, _share_width(shown, find_width()), strict=True):
        table.add_column(
            Text(make_printable(column.name), style="bold"),
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=width,
        )
    for row in range(len(shown[0].cells) if shown else 0):
        table.add_row(
            *(
                Text(make_printable(column.cells[row]), style=column.styles[row] if column.styles else "")
                for column in shown
            )
        )
    return table


def _share_width(columns: Sequence[Column], width: int) -> list[int]:
    """The width of each column: wide ones share what the others leave, those that need less than their share first."""
    widths = [_measure(column) for column in columns]
    left = width - sum(size + _GAP for size, column in zip(widths, columns, strict=True) if not column.is_wide)
    wide = sorted((_measure_whole(column), place) for place, column in enumerate(columns) if column.is_wide)
    for number, (whole, place) in enumerate(wide):
        share = max(left // (len(wide) - number) - _GAP, _SMALLEST)
        widths[place] = min(whole, share)
        left -= widths[place] + _GAP
    return widths


def _measure_whole(column: Column) -> int:
    """How many characters wide `column` is."""
    return max((len(make_printable(cell)) for cell in (column.name, *column.cells)), default=1)


def _fit(columns: Sequence[Column], width: int) -> list[Column]:
    """The `columns` that fit `width`, those of the lowest ranks."""
    shown = list(columns)
    while sum(_measure(column) + _GAP for column in shown) > width:
        last = max(shown, key=lambda column: column.rank)
        if not last.rank:
            break
        shown.remove(last)
    return shown


def _measure(column: Column) -> int:
    """How many characters wide `column` is, or has to be at least."""
    return min(_measure_whole(column), _LEAST if column.is_wide else _MOST)


def find_width() -> int:
    """Return how many characters a line has: of the terminal, of COLUMNS, or a page's."""
    if is_terminal(sys.stdout) or "COLUMNS" in os.environ:
        return shutil.get_terminal_size().columns
    return FILE_WIDTH


def print_rich(*parts: "RenderableType") -> None:
    """Print `parts`, in color where a terminal has it; a reader that has gone, such as `head`, ends it quietly."""
    from rich.console import Console

    console = Console(width=find_width(), highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    lines = (line.rstrip() for line in capture.get().rstrip("\n").split("\n"))
    click.echo("\n".join(lines))


def make_printable(text: str) -> str:
    r"""Return `text` in one line without what a terminal would obey: control characters and marks of direction are told.

    >>> make_printable("two\nlines, \x1b[31mred")
    'two lines, \\x1b[31mred'
    """
    cut = text[:LONGEST] + ("…" if len(text) > LONGEST else "")
    return "".join(
        sign if sign.isprintable() else " " if sign in "\n\r\t" else sign.encode("unicode_escape").decode()
        for sign in cut
    )


def write_number(value: float | None, digits: int = 3) -> str:
    """Return `value` with so many decimals, without the zero of 0.5; empty for None.

    >>> write_number(0.5), write_number(-1.25, 2), write_number(None)
    ('.500', '-1.25', '')
    """
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and text.lstrip("-").startswith("0.") else text


def write_cell(value: Any) -> str:
    """Return any value of a table as a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else dump(value) if isinstance(value, list | dict) else str(value)


def _without_nan(value: Any) -> Any:
    """`value` with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return value
