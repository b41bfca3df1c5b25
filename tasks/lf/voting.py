"""Votes and failures of labeling functions on a batch of items; a vote never depends on the other items."""

import re
import traceback
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ABSTAIN
from tasks.lf.functions import Item, OnError, PatternLF, RowwiseLF, VectorizedLF, Vote
from tasks.lf.text_patterns import match_patterns

_SHOWN = 5
"""How many classes an error names."""

_PIPELINE = Path(__file__).resolve().parents[1]
"""The pipeline's folder; its frames are left out of tracebacks shown to authors of LFs."""

FAULTS = (Exception, SystemExit, pl.exceptions.PanicException)
"""What an LF's code may raise: SystemExit and Polars' panics are no Exceptions."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One item on which an LF failed: its row in the batch, the error, and for an LF's first failure the traceback."""

    row: int
    error: str
    trace: str = ""


@dataclass(frozen=True, kw_only=True)
class ColumnVotes:
    """One LF's votes on a batch, int8 of shape (n,), abstain where it failed, and its failures in row order."""

    votes: npt.NDArray[np.int8]
    failures: Sequence[Failure] = ()
    is_by_batch: bool = False
    """Whether the LF failed on a batch as a whole, so that which items failed depends on the batch."""


class Counter(Protocol):
    """Counts the items that an LF has voted on."""

    def advance(self, by: int = 1) -> None:
        """Count `by` more items."""


def apply_rowwise(lf: RowwiseLF, items: Sequence[Item], classes: Sequence[str], progress: Counter) -> ColumnVotes:
    """The votes of one row-wise LF on `items`; under on_error 'raise', no item after the first failure is asked."""
    votes = np.full(len(items), ABSTAIN, dtype=np.int8)
    failures: list[Failure] = []
    for row, item in enumerate(items):
        try:
            votes[row] = _to_position(lf(item), classes)
        except _UnknownVoteError as unknown:
            failures.append(Failure(row=row, error=str(unknown)))
        except FAULTS as error:
            failures.append(Failure(row=row, error=_in_one_line(error), trace="" if failures else format_trace(error)))
        progress.advance()
        if failures and lf.on_error is OnError.RAISE:
            break
    return ColumnVotes(votes=votes, failures=failures)


def apply_vectorized(
    lfs: Sequence[VectorizedLF], items: pl.DataFrame, classes: Sequence[str]
) -> dict[str, ColumnVotes]:
    """The votes of vectorized LFs on `items`, by LF; patterns on one column run together, as do expressions."""
    results = _match_together(lfs, items, classes)
    columns: dict[str, pl.Series] = {}
    expressions: dict[str, pl.Expr] = {}
    for lf in lfs:
        if lf.name in results:
            continue
        try:
            value = lf(items)
            if isinstance(value, pl.Expr):
                expressions[lf.name] = value
            else:
                columns[lf.name] = _to_series(value, items.height)
        except FAULTS as error:
            results[lf.name] = _fail_everywhere(items, _in_one_line(error), format_trace(error))
    try:
        columns.update(_evaluate(items, expressions))
    except FAULTS:
        # Evaluated one by one, to find out which of them is at fault.
        for name, expression in expressions.items():
            try:
                columns.update(_evaluate(items, {name: expression}))
            except FAULTS as error:
                results[name] = _fail_everywhere(items, _in_one_line(error))
    for name, column in columns.items():
        try:
            results[name] = _to_positions(column, classes)
        except _UnknownVoteError as unknown:
            results[name] = _fail_everywhere(items, str(unknown))
    return results


def _match_together(lfs: Sequence[VectorizedLF], items: pl.DataFrame, classes: Sequence[str]) -> dict[str, ColumnVotes]:
    """The votes of the LFs that look for a pattern in a text column; LFs with an error are left to the caller."""
    by_column: dict[str, list[tuple[PatternLF, int]]] = defaultdict(list)
    for lf in lfs:
        if isinstance(lf, PatternLF) and items.schema.get(lf.column) == pl.String:
            with suppress(_UnknownVoteError):
                by_column[lf.column].append((lf, _to_position(lf.label, classes)))
    votes: dict[str, ColumnVotes] = {}
    for column, group in by_column.items():
        found = match_patterns([lf.pattern for lf, _ in group], items[column])
        for (lf, position), where in zip(group, found, strict=True):
            votes[lf.name] = ColumnVotes(votes=np.where(where, np.int8(position), np.int8(ABSTAIN)))
    return votes


class _UnknownVoteError(Exception):
    """An LF returned something other than a class name, a class position or ABSTAIN."""

    def __init__(self, given: str, classes: Sequence[str]) -> None:
        shown = ", ".join(classes[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
        super().__init__(f"voted {given}; expected a class ({shown}), a position 0..{len(classes) - 1}, or ABSTAIN")


def _to_position(vote: Vote, classes: Sequence[str]) -> int:
    """The class position that a row-wise LF's return value means."""
    if vote is None:
        return ABSTAIN
    if isinstance(vote, str) and vote in classes:
        return classes.index(vote)
    if isinstance(vote, int | np.integer) and not isinstance(vote, bool) and ABSTAIN <= vote < len(classes):
        return int(vote)
    raise _UnknownVoteError(repr(vote), classes)


def _to_positions(column: pl.Series, classes: Sequence[str]) -> ColumnVotes:
    """The class positions that a vectorized LF's column means.

    Raises
    ------
    _UnknownVoteError
        The column's type cannot hold votes.
    """
    if column.dtype == pl.Null:
        return ColumnVotes(votes=np.full(len(column), ABSTAIN, dtype=np.int8))
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        names = column.cast(pl.String)
        positions = names.replace_strict(classes, range(len(classes)), default=None, return_dtype=pl.Int8)
        unknown = names.is_not_null() & positions.is_null()
    elif column.dtype.is_integer():
        # Beyond int64 is beyond every class, too; unsigned types do not compare with -1.
        wide = column.cast(pl.Int64, strict=False)
        positions = wide.set(~wide.is_between(ABSTAIN, len(classes) - 1), None).cast(pl.Int8)
        unknown = column.is_not_null() & positions.is_null()
    else:
        raise _UnknownVoteError(f"with a column of type {column.dtype}", classes)
    rows = unknown.arg_true().to_list()
    return ColumnVotes(
        votes=positions.fill_null(ABSTAIN).to_numpy(),
        failures=[Failure(row=row, error=str(_UnknownVoteError(repr(column[row]), classes))) for row in rows],
    )


def _to_series(value: object, height: int) -> pl.Series:
    """A vectorized LF's Series or array as a Series of `height` votes."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = pl.Series(value.tolist()) if value.dtype == object else pl.Series(value)
    if not isinstance(value, pl.Series):
        shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
        raise TypeError(f"returned {type(value).__name__}{shape}; expected an expression, a Series or a 1-d array")
    if len(value) != height:
        raise ValueError(f"returned {len(value)} votes for {height} items")
    return value


def _evaluate(items: pl.DataFrame, expressions: dict[str, pl.Expr]) -> dict[str, pl.Series]:
    named = [expression.alias(name) for name, expression in expressions.items()]
    # with_columns, so that an expression without a column, such as a literal, still votes on every item.
    table = items.lazy().with_columns(named).select(list(expressions)).collect()
    return {column.name: column for column in table}


def _fail_everywhere(items: pl.DataFrame, error: str, trace: str = "") -> ColumnVotes:
    """The result of a vectorized LF that failed on the whole batch."""
    return ColumnVotes(
        votes=np.full(items.height, ABSTAIN, dtype=np.int8),
        failures=[Failure(row=row, error=error, trace="" if row else trace) for row in range(items.height)],
        is_by_batch=True,
    )


def _in_one_line(error: BaseException) -> str:
    """Type and message of `error`, without memory addresses, which differ from run to run."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    return re.sub(r"\b0x[0-9a-fA-F]+\b", "0x...", text)


def format_trace(error: BaseException) -> str:
    """The traceback of `error` without the frames of this pipeline and of Python's import machinery."""
    kept = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).resolve().is_relative_to(_PIPELINE)
        and not frame.filename.startswith("<frozen importlib")
    ]
    head = ["Traceback (most recent call last):\n", *traceback.format_list(kept)] if kept else []
    return "".join([*head, *traceback.format_exception_only(error)]).rstrip()
