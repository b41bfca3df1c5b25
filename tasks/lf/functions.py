"""The kinds of labeling function: row-wise (one item at a time), vectorized (a batch at once), and patterns."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy.typing as npt
import polars as pl

from tasks.core.types import ITEM_ID
from tasks.errors import LabelingFunctionError
from tasks.lf.text_patterns import TextPattern
from tasks.tables import schemas

Vote = str | int | None
ColumnOfVotes = pl.Expr | pl.Series | npt.NDArray[Any]


class Item:
    """One item as a row-wise LF sees it: `item.text` (or `item["text"]`) is its value in column `text`."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, column: str) -> Any:
        try:
            return self._values[column]
        except KeyError:
            raise AttributeError(f"no column '{column}'; items have {', '.join(self._values)}") from None

    def __getitem__(self, column: str) -> Any:
        return getattr(self, column)


class OnError(StrEnum):
    """The effect of an LF's failure on an item: stop the run, or abstain within the LF's error budget."""

    RAISE = "raise"
    ABSTAIN = "abstain"


DEFAULT_ERROR_BUDGET = 0.01
"""One item in a hundred: enough for unusual rows, too few for a broken LF."""


@dataclass(frozen=True, kw_only=True)
class _Named:
    """Name and error policy, which all kinds have."""

    name: str
    on_error: OnError = OnError.RAISE
    error_budget: float = DEFAULT_ERROR_BUDGET

    def __post_init__(self) -> None:
        if not re.fullmatch(schemas.LF_NAME, self.name) or self.name == ITEM_ID:
            raise LabelingFunctionError(
                f"{self.name!r} cannot name a labeling function. Use letters, digits, '_', '.' and '-', "
                f"a letter or '_' first, and not '{ITEM_ID}'."
            )
        if self.on_error not in tuple(OnError):
            raise LabelingFunctionError(
                f"labeling function '{self.name}': on_error is {self.on_error!r}; expected 'raise' or 'abstain'."
            )
        if not 0 <= self.error_budget <= 1:
            raise LabelingFunctionError(
                f"labeling function '{self.name}': error_budget is {self.error_budget}; expected a share of all items, "
                "0 to 1."
            )


@dataclass(frozen=True, kw_only=True)
class RowwiseLF(_Named):
    """An LF that is asked about one item at a time."""

    function: Callable[[Any], Vote] = field(repr=False)

    def __call__(self, item: Any) -> Vote:
        """The vote on `item` (anything with the attributes that the function reads)."""
        return self.function(item)


@dataclass(frozen=True, kw_only=True)
class VectorizedLF(_Named):
    """An LF that votes on a batch of items at once, on each item by that item's own row alone."""

    function: Callable[[pl.DataFrame], ColumnOfVotes] = field(repr=False)

    def __call__(self, items: pl.DataFrame) -> ColumnOfVotes:
        """The votes on the rows of `items`, as a Polars expression over them, a Series or a NumPy array."""
        return self.function(items)


@dataclass(frozen=True, kw_only=True)
class PatternLF(VectorizedLF):
    """A vectorized LF that votes `label` where `column` matches `pattern`; all patterns are searched for together."""

    column: str
    pattern: TextPattern = field(repr=False)
    label: str | int


LabelingFunction = RowwiseLF | VectorizedLF
