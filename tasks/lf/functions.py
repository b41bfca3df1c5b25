"""The kinds of labeling function: row-wise (one item at a time), vectorized (a batch at once), and patterns."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ABSTAIN, ITEM_ID, LF_NAME
from tasks.errors import LabelingFunctionError
from tasks.lf.series import to_series
from tasks.lf.text_patterns import TextPattern

T = TypeVar("T")

Vote = str | int | None
ColumnOfVotes = pl.Expr | pl.Series | npt.NDArray[Any]


class Item:
    """One item as a row-wise LF sees it: `item.text` (or `item["text"]`) is its value in column `text`.

    Items are read-only, since all LFs see the same ones. `"text" in item`, `len(item)`, iteration and `dict(item)` work
    as for a dictionary of its columns.

    >>> item = Item({"item_id": 7, "text": "hello"})
    >>> item.text, "split" in item, dict(item)
    ('hello', False, {'item_id': 7, 'text': 'hello'})
    """

    __slots__ = ("_shared", "_values")
    _values: Mapping[str, Any]

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, column: str) -> Any:
        # Python looks up special methods, and copy looks up `_values`, before `_values` is set.
        if column.startswith("__") or column == "_values":
            raise AttributeError(column)
        if column in self._values:
            return self._values[column]
        if column == "keys":  # dict() takes an object with `keys` for a mapping
            return self._values.keys
        raise AttributeError(f"no column '{column}'; items have {', '.join(self._values)}")

    def __getitem__(self, column: str) -> Any:
        try:
            return self._values[column]
        except KeyError:
            raise KeyError(f"no column {column!r}; items have {', '.join(self._values)}") from None

    def __contains__(self, column: object) -> bool:
        return column in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Item({dict(self._values)!r})"

    def __reduce__(self) -> tuple[type["Item"], tuple[dict[str, Any]]]:
        return Item, (dict(self._values),)

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(
            "items are read-only, since all labeling functions see the same ones; change a copy: dict(item)"
        )

    __setattr__ = __delattr__ = __setitem__ = __delitem__ = _refuse


def share(item: Item, key: object, make: Callable[[], T]) -> T:
    """The result of `make`, computed once for `item`, whichever LF asks first, and kept as long as the item is.

    >>> item = Item({})
    >>> share(item, "parsed", lambda: 1), share(item, "parsed", lambda: 2)
    (1, 1)
    """
    try:
        shared = object.__getattribute__(item, "_shared")
    except AttributeError:
        shared = {}
        object.__setattr__(item, "_shared", shared)
    if key not in shared:
        shared[key] = make()
    return cast(T, shared[key])


def read_items(table: pl.DataFrame) -> list[Item]:
    """The rows of `table` as items; lists and structs in them are read-only as well."""
    nested = {column.name: _freeze for column in table if column.dtype.is_nested()}
    nested |= {name: _freeze_flat for name in nested if _is_flat(table.schema[name])}
    items = []
    for values in table.iter_rows(named=True):
        for column, freeze in nested.items():
            values[column] = freeze(values[column])
        items.append(Item(values))
    return items


def _is_flat(dtype: pl.DataType) -> bool:
    """Whether a column of this type holds lists of scalars."""
    return isinstance(dtype, pl.List | pl.Array) and not (pl.Series([], dtype=dtype.inner).dtype.is_nested())


def _refuse_change(self: object, *_: object, **__: object) -> NoReturn:
    raise TypeError("items are read-only, since all labeling functions see the same ones; change a copy")


class _FrozenList(list[Any]):
    """A list that cannot be changed."""

    __slots__ = ()
    append = extend = insert = remove = pop = clear = sort = reverse = _refuse_change
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse_change

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, (list(self),)


class _FrozenDict(dict[str, Any]):
    """A dictionary that cannot be changed."""

    __slots__ = ()
    update = pop = popitem = clear = setdefault = _refuse_change
    __setitem__ = __delitem__ = __ior__ = _refuse_change

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


def _freeze(value: Any) -> Any:
    """`value` with every list and dictionary in it read-only."""
    if isinstance(value, list):
        return _FrozenList(map(_freeze, value))
    if isinstance(value, dict):
        return _FrozenDict({key: _freeze(part) for key, part in value.items()})
    return value


def _freeze_flat(value: list[Any] | None) -> list[Any] | None:
    """`_freeze` for lists of scalars, which is much faster."""
    return None if value is None else _FrozenList(value)


class OnError(StrEnum):
    """What an LF's failure on an item does: stop the run, or count as an abstain within the LF's error budget."""

    RAISE = "raise"
    ABSTAIN = "abstain"


DEFAULT_ERROR_BUDGET = 0.01
"""A hundredth of the items: enough for unusual rows, too few for a broken LF."""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """An LF, and the file and line that defined it."""

    lf: "LabelingFunction"
    file: str
    line: int


definitions: ContextVar[list[Definition] | None] = ContextVar("definitions", default=None)
"""Collects every LF that is defined while an LF module is loaded, so that lost ones can be named."""


def can_be_voted(label: object) -> bool:
    """Whether `label` has the form of a class, a name or a position: None, ABSTAIN, Booleans and fractions have not."""
    return isinstance(label, str | int | np.integer) and not isinstance(label, bool) and label != ABSTAIN


def require_label(name: str, label: object) -> None:
    """Check that the LF called `name`, which can vote for `label` alone, can vote.

    Raises
    ------
    LabelingFunctionError
        `label` is no class by name or position, such as ABSTAIN.
    """
    if not can_be_voted(label):
        raise LabelingFunctionError(
            f"labeling function '{name}': label is {label!r}, so that it would never vote; expected a class, by name or position."
        )


@dataclass(frozen=True, kw_only=True)
class _Named:
    """The name and error policy that all kinds share."""

    name: str
    """Empty for a nameless function, such as a lambda, until loading names it after its variable."""
    on_error: OnError = OnError.RAISE
    error_budget: float = DEFAULT_ERROR_BUDGET

    def __post_init__(self) -> None:
        collected = definitions.get()
        if collected is not None:
            frame: FrameType | None = sys._getframe()
            while frame is not None and frame.f_code.co_name != "<module>":
                frame = frame.f_back
            if frame is not None:
                lf: Any = self
                collected.append(Definition(lf=lf, file=frame.f_code.co_filename, line=frame.f_lineno))
        if self.name and (not re.fullmatch(LF_NAME, self.name) or self.name == ITEM_ID):
            raise LabelingFunctionError(
                f"{self.name!r} cannot name a labeling function. Use letters, digits, '_', '.' and '-', "
                f"a letter or '_' first, and not '{ITEM_ID}'."
            )
        if self.on_error not in tuple(OnError):
            raise LabelingFunctionError(
                f"labeling function '{self.name}': on_error is {self.on_error!r}; expected 'raise' or 'abstain'."
            )
        if not isinstance(self.error_budget, int | float) or not 0 <= self.error_budget <= 1:
            raise LabelingFunctionError(
                f"labeling function '{self.name}': error_budget is {self.error_budget!r}; expected a share of all items, "
                "0 to 1."
            )


@dataclass(frozen=True, kw_only=True)
class RowwiseLF(_Named):
    """An LF that is asked about one item at a time."""

    function: Callable[[Any], Vote] = field(repr=False)
    timeout: float | None = None
    """Time limit per item in seconds."""
    pre: tuple[Any, ...] = field(default=(), repr=False)
    """Batch preprocessors, whose results `function` reads."""
    on_timeout: OnError = OnError.RAISE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and 0 < self.timeout < float("inf")):
            raise LabelingFunctionError(
                f"labeling function '{self.name}': timeout is {self.timeout!r}; expected seconds, more than 0, or None."
            )
        if self.on_timeout not in tuple(OnError):
            raise LabelingFunctionError(
                f"labeling function '{self.name}': on_timeout is {self.on_timeout!r}; expected 'raise' or 'abstain'."
            )

    def __call__(self, items: Any) -> Any:
        """The vote on one item: an `Item`, a dictionary, or anything with the attributes that the function reads.

        Given a Polars or pandas frame, the votes on its rows as a Series, null where the LF abstains.
        """
        if (frame := to_frame(items)) is not None:
            votes = [self.function(item) for item in read_items(frame)]
            kind = None if any(vote not in (None, ABSTAIN) for vote in votes) else pl.String
            return pl.Series(self.name, [None if vote == ABSTAIN else vote for vote in votes], dtype=kind)
        return self.function(Item(items) if isinstance(items, Mapping) else items)


@dataclass(frozen=True, kw_only=True)
class VectorizedLF(_Named):
    """An LF that votes on a batch of items at once, on each item by that item's own row alone."""

    function: Callable[[pl.DataFrame], ColumnOfVotes] = field(repr=False)

    def __call__(self, items: Any) -> Any:
        """The votes on the rows of a Polars or pandas frame as a Series, null where the LF abstains.

        Given a single item (an `Item` or a dictionary), the vote on it, or ABSTAIN.
        """
        frame = to_frame(items)
        rows = pl.DataFrame([dict(items)]) if frame is None else frame
        found = self.function(rows)
        if isinstance(found, pl.Expr):
            # with_columns, so that an expression without columns, such as a literal, votes on every row.
            found = rows.with_columns(found.alias(_VOTE))[_VOTE]
        votes = to_series(found).alias(self.name)
        if votes.dtype.is_integer():
            votes = votes.set(votes == ABSTAIN, None)
        return votes if frame is not None else ABSTAIN if votes[0] is None else votes[0]


@dataclass(frozen=True, kw_only=True)
class PatternLF(VectorizedLF):
    """A vectorized LF that votes `label` where `column` matches `pattern`; all patterns are searched for together."""

    column: str
    pattern: TextPattern = field(repr=False)
    label: str | int


LabelingFunction = RowwiseLF | VectorizedLF

_VOTE = "vote of the labeling function"
"""A column name that no table of items has."""


def to_frame(value: object) -> pl.DataFrame | None:
    """`value` as a Polars frame if it is a frame of Polars or pandas, else None."""
    if isinstance(value, pl.DataFrame):
        return value
    if type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "columns"):
        return pl.from_pandas(value)
    return None
