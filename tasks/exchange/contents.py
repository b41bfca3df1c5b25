"""What goes out, what came in, and the words in which a bad file is refused."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import DataError
from tasks.tables.files import explain_read_errors
from tasks.tables.paths import ITEMS
from tasks.tables.schemas import probability_column


@dataclass(frozen=True, kw_only=True)
class Labeled:
    """Labeled items, and where the labels are from.

    table: item_id, split, the items' columns, gold (a class name, null where it is unknown or not to be shown), label,
    p_<class>, original_votes, and what else labels have. columns: those of the items. text: the one among them that people
    read, None where none is text.
    votes: item_id and an int8 column per labeling function, of the same items. name: of the project.
    source: `last run`, or the release. metrics: method and figures by split, as in metrics.json. lineage: what is known
    of where the labels come from, by name.
    """

    table: pl.DataFrame
    columns: tuple[str, ...]
    text: str | None
    classes: tuple[str, ...]
    votes: pl.DataFrame
    name: str
    source: str
    metrics: Mapping[str, Any]
    lineage: Mapping[str, str]

    @property
    def probabilities(self) -> tuple[str, ...]:
        """The columns with the probability of each class."""
        return tuple(probability_column(name) for name in self.classes)

    def require_text(self) -> str:
        """The column that people read.

        Raises
        ------
        DataError
            There is none.
        """
        if self.text is None:
            raise DataError(f"{ITEMS}: items have no column of text that people could read, which this format needs.")
        return self.text


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a file that was read, and what became of it."""

    name: str
    became: str


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What a file or folder from elsewhere holds.

    items: item_id and other columns, `split` and `gold` (class names) among them where they are known; None: no items.
    decisions: a table of gold (item_id, label, annotator, time); None: no decisions of people.
    votes: item_id and an int8 column per labeling function; None: no votes. classes: their names, where the files say it.
    fields: what became of each field. remarks: what else the user should know.
    """

    items: pl.DataFrame | None = None
    decisions: pl.DataFrame | None = None
    votes: pl.DataFrame | None = None
    classes: tuple[str, ...] | None = None
    fields: tuple[Field, ...]
    remarks: tuple[str, ...] = ()


DECISIONS = {ITEM_ID: pl.String, "label": pl.String, "annotator": pl.String, "time": pl.String}
"""The columns of `Brought.decisions`."""

_SHOWN = 60
"""Characters of a bad value that an error shows."""


def refuse(path: Path, where: str, field: str, *, got: object, expected: str, remedy: str) -> DataError:
    """The error that names file, row, field and remedy.

    >>> print(refuse(Path("a.json"), "task 3", "data", got=[1], expected="an object", remedy="Export it again."))
    a.json: task 3, field 'data': [1]; expected an object. Export it again.
    """
    shown = repr(got)
    cut = f"{shown[:_SHOWN]}..." if len(shown) > _SHOWN else shown
    return DataError(f"{path}: {where}, field '{field}': {cut}; expected {expected}. {remedy}")


def read_json_file(path: Path, remedy: str) -> Any:
    """The value in the JSON file at `path`.

    Raises
    ------
    DataError
        The file is missing or no JSON.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing. {remedy}")
    with explain_read_errors(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}. {remedy}") from None


def read_json_lines(path: Path, remedy: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects in a file of JSON lines, each with the number of its line.

    Raises
    ------
    DataError
        The file is missing, or a line is no JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing. {remedy}")
    with explain_read_errors(path):
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}: line {number:,} is not JSON: {error}. {remedy}") from None
            if not isinstance(value, dict):
                raise DataError(f"{path}: line {number:,} is no JSON object, which begins with {{. {remedy}")
            found.append((number, value))
    return found


def require_object(path: Path, where: str, field: str, value: object, remedy: str) -> dict[str, Any]:
    """`value`, which has to be a JSON object.

    Raises
    ------
    DataError
        It is none.
    """
    if not isinstance(value, dict):
        raise refuse(path, where, field, got=value, expected="an object", remedy=remedy)
    return value


def require_decisions(path: Path, brought: Brought) -> pl.DataFrame:
    """The decisions in what was read at `path`.

    Raises
    ------
    DataError
        There are none.
    """
    if brought.decisions is None or brought.decisions.is_empty():
        raise DataError(f"{path}: nobody decided anything in it. Export it again once somebody has.")
    return brought.decisions


def tabulate(rows: Sequence[Mapping[str, Any]]) -> tuple[pl.DataFrame, list[str]]:
    """A table of `rows`, null where one lacks a column; and the columns of mixed kinds, which become JSON in text.

    >>> tabulate([{"a": 1, "b": [1]}, {"a": 2, "b": "x"}])[1]
    ['b']
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns, mixed = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            column = pl.Series(name, values, strict=True)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            column = None
        if column is None or column.dtype in (pl.Object, pl.Null) or _has_struct(column.dtype):
            mixed += [name] if column is None or column.dtype != pl.Null else []
            texts = [value if value is None or isinstance(value, str) else to_json(value) for value in values]
            column = pl.Series(name, texts, dtype=pl.String)
        columns.append(column)
    return pl.DataFrame(columns), mixed


def _has_struct(kind: pl.DataType) -> bool:
    """Whether objects are in it, which may have other keys in each row."""
    inner = getattr(kind, "inner", None)
    return isinstance(kind, pl.Struct) or (inner is not None and _has_struct(inner))


def to_json(value: object) -> str:
    """`value` as JSON in a line."""
    return json.dumps(to_plain(value), ensure_ascii=False)


def to_plain(value: Any) -> Any:
    """`value` as JSON has it: None for NaN and infinities, text for times and whatever else it does not know.

    >>> to_plain({"a": [1.5, float("nan")]})
    {'a': [1.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): to_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return value if value is None or isinstance(value, str | int) else str(value)
