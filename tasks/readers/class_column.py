"""Class positions from a column that holds class names or class positions."""

from collections.abc import Sequence

import polars as pl

from tasks.core.class_names import describe_twin, find_misread_class
from tasks.errors import DataError
from tasks.readers.ids import parse_integers
from tasks.readers.quarantine import Note, Reason
from tasks.tables.validation import SHOWN, name_first_where


def to_classes(
    gold: pl.Series,
    ids: pl.Series,
    classes: Sequence[str],
    where: str,
    *,
    is_typeless: bool,
    note: Note | None = None,
) -> pl.Series:
    """Return gold as int8 class positions, null where it is unknown or blank; with `note`, also where it is no class.

    Text holds class names, and integers are class positions. In a file without types (CSV), integers count as positions
    only if no class has one of them as its name.

    Raises
    ------
    DataError
        A value is no class, could be a name or a position, or the column holds neither text nor integers.
    """
    subject = f"{where}: column '{gold.name}'"
    if gold.dtype in (pl.Categorical, pl.Enum):
        gold = gold.cast(pl.String)
    if gold.dtype == pl.String:  # many programs write "" where nothing is known
        gold = gold.set(gold.str.strip_chars() == "", None)
    if gold.dtype.is_float():
        gold = gold.fill_nan(None)  # pandas turns integers with missing values into floats with NaN
    misread = find_misread_class(classes)
    if is_typeless and gold.dtype == pl.String and misread is None and not gold.is_in(list(classes)).any():
        numbers = parse_integers(gold)
        gold = gold if numbers is None else numbers
    if gold.dtype == pl.Null:
        positions = gold.cast(pl.Int8)
    elif gold.dtype == pl.String:
        positions = gold.replace_strict(classes, range(len(classes)), default=None, return_dtype=pl.Int8)
    elif gold.dtype.is_integer() or (gold.dtype.is_float() and (gold == gold.round()).all()):
        if misread is not None:
            raise DataError(
                f"{subject} has numbers, which are class positions, but class {misread!r} is at position "
                f"{classes.index(misread)}: which is meant? Write gold as text (class names)."
            )
        is_position = gold.is_between(0, len(classes) - 1).fill_null(False)
        positions = pl.select(pl.when(is_position).then(gold)).to_series().cast(pl.Int8)
    else:
        raise DataError(f"{subject} is {gold.dtype}; expected class names (text) or class positions (integers).")
    wrong = gold.is_not_null() & positions.is_null()
    if wrong.any() and note:
        note(wrong, Reason.BAD_GOLD, gold)
    elif wrong.any():
        distinct = show_distinct(gold.filter(wrong))
        values = ", ".join(repr(value) for value in distinct)
        twin = next(filter(None, (describe_twin(value, classes) for value in distinct)), "")
        raise DataError(
            f"{subject}: {wrong.sum():,} items are of an unknown class: {values}; expected one of {', '.join(classes)}, or a "
            f"position 0..{len(classes) - 1}, and nothing (null) where gold is unknown{twin}. First ids {name_first_where(ids, wrong)}."
        )
    return positions.alias("gold")


def show_distinct(values: pl.Series) -> pl.Series:
    """The lowest few of the distinct `values`, the same whatever the order of the rows."""
    return values.unique().sort().head(SHOWN)
