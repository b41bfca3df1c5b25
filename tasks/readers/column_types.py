"""Types of columns from files without types: text, unless `ingest.types` in params.yaml says otherwise.

A type guessed from the values would change with them: a column of zip codes looks numeric until the first K1A.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping

import polars as pl
import yaml

from tasks.errors import DataError
from tasks.params import ColumnType
from tasks.readers.quarantine import Note, Reason
from tasks.tables.validation import SHOWN

_SAMPLE = 10_000
"""The number of values from which a column's type is proposed."""

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Text that an integer reproduces exactly: '7', but neither '007' (a code) nor '+7'."""

_PADDED = r"^[-+]?0[0-9]"
"""A number with leading zeros."""

_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$"

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def convert_column(column: pl.Series, kind: ColumnType, where: str, note: Note | None = None) -> pl.Series:
    """The `column` converted to the type that `ingest.types` gives it; with `note`, null where a value is of another.

    Raises
    ------
    DataError
        Some values are not of that type; the message has their number and the first few.
    """
    try:
        text = column.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise DataError(
            f"{where}: column '{column.name}' is {column.dtype}; ingest.types in params.yaml is for single values."
        ) from None
    match kind:
        case ColumnType.TEXT:
            converted = text
        case ColumnType.INTEGER:
            converted = text.cast(pl.Int64, strict=False)
        case ColumnType.NUMBER:
            converted = text.cast(pl.Float64, strict=False)
        case ColumnType.BOOLEAN:
            converted = text.replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)
    wrong = text.is_not_null() & converted.is_null()
    if wrong.any() and note:
        note(wrong, Reason.BAD_VALUE, text)
    elif wrong.any():
        values = ", ".join(map(repr, text.filter(wrong).unique().sort().head(SHOWN)))
        raise DataError(
            f"{where}: column '{column.name}' has {wrong.sum():,} values that are not of type {kind} (ingest.types in "
            f"params.yaml): {values}, first row {wrong.arg_true()[0]} (counted from 0)."
        )
    return converted


def describe_losses(columns: Iterable[pl.Series], types: Mapping[str, ColumnType], where: str) -> list[str]:
    """One sentence per column in which `convert_column` drops leading zeros, as of 00501: how many values, and an example."""
    lines = []
    for column in columns:
        if types[column.name] in (ColumnType.INTEGER, ColumnType.NUMBER) and column.dtype == pl.String:
            padded = column.filter(column.str.contains(_PADDED).fill_null(False))
            if len(padded):
                lines.append(
                    f"{len(padded):,} values of column '{column.name}' in {where} lose leading zeros to type "
                    f"{types[column.name]}, such as {padded[0]!r}; if they are codes, write type text (ingest.types in "
                    "params.yaml)"
                )
    return lines


def propose_types(
    table: pl.DataFrame, names: Collection[str], types: Mapping[str, ColumnType], where: str
) -> str | None:
    """What to add to params.yaml if the text columns `names` are meant as numbers; None if none looks numeric."""
    found = guess_types(table, names)
    if not found:
        return None
    line = ", ".join(f"{write_key(name)}: {kind}" for name, kind in {**types, **found}.items())
    return (
        f"{', '.join(found)} in {where} {'is' if len(found) == 1 else 'are'} read as text. If other types are meant, write "
        f"below ingest in params.yaml 'types: {{{line}}}'; type text ends this remark"
    )


def guess_types(table: pl.DataFrame, names: Collection[str]) -> dict[str, ColumnType]:
    """By column, the type that a sample of its values suggests; of the columns `names` of `table`, without those of text."""
    return {name: kind for name in table.columns if name in names and (kind := _guess(table[name]))}


def write_key(name: str) -> str:
    """A column's `name` as a YAML key, quoted where YAML needs it."""
    is_plain = re.fullmatch(r"[A-Za-z_]([A-Za-z0-9_ ]*[A-Za-z0-9_])?", name) and yaml.safe_load(name) == name
    return name if is_plain else json.dumps(name, ensure_ascii=False)


def _guess(column: pl.Series) -> ColumnType | None:
    """The type that a sample of the values suggests, None for text."""
    sample = column.drop_nulls().head(_SAMPLE)
    if sample.is_empty():
        return None
    if sample.is_in(list(_BOOLEANS)).all():
        return ColumnType.BOOLEAN
    if sample.str.contains(_INTEGER).all():
        return ColumnType.INTEGER
    return ColumnType.NUMBER if sample.str.contains(_NUMBER).all() else None
