"""Votes and failures of labeling functions on a batch of items; a vote never depends on the other items."""

import importlib
import re
import reprlib
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.class_names import describe_twin, find_misread_class
from tasks.core.types import ABSTAIN
from tasks.ctrl_c import on_ctrl_c
from tasks.lf.functions import Item, OnError, PatternLF, RowwiseLF, VectorizedLF, Vote
from tasks.lf.monitor import Counter
from tasks.lf.observation import SideInputs, observe, unobserved
from tasks.lf.series import to_series
from tasks.lf.text_patterns import match_patterns
from tasks.lf.timeout import Alarm, TimeOutError

_SHOWN = 5
"""The number of classes that an error lists."""

_LONGEST = 1000
"""The number of characters of an error's message that are kept."""

_PIPELINE = Path(__file__).resolve().parents[1]
"""The pipeline's folder; tracebacks for authors of LFs leave out its frames."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failure of an LF on an item: the item's row in the batch, the error, and the traceback of the LF's first failure."""

    row: int
    error: str
    trace: str = ""
    is_late: bool = False
    """Whether the LF timed out, which it may not do another time."""


@dataclass(frozen=True, kw_only=True)
class ColumnVotes:
    """An LF's votes on a batch, int8 of shape (n,) with abstains where it failed, and its failures in row order."""

    votes: npt.NDArray[np.int8]
    failures: Sequence[Failure] = ()
    is_by_batch: bool = False
    """Whether the LF failed on whole batches, so that the failed items depend on how items were batched."""
    side_inputs: SideInputs = field(default_factory=SideInputs)
    """What the LF read besides the items."""


def apply_rowwise(
    root: Path, lf: RowwiseLF, items: Sequence[Item], classes: Sequence[str], progress: Counter
) -> ColumnVotes:
    """The votes of a row-wise LF on `items`; with on_error 'raise', it is asked about none after its first failure."""
    votes = np.full(len(items), ABSTAIN, dtype=np.int8)
    failures: list[Failure] = []
    with (
        observe(root) as side_inputs,
        restored_streams() as restore,
        interruptions() as is_interrupted,
        Alarm(lf) as alarm,
    ):
        for step in lf.pre:
            step.prepare(items)
        for row, item in enumerate(items):
            on_error = lf.on_error
            try:
                alarm.set()
                vote = lf.function(item)
                alarm.stop()
                votes[row] = to_position(vote, classes)
            except UnknownVoteError as unknown:
                failures.append(Failure(row=row, error=str(unknown)))
            except TimeOutError as late:
                on_error = lf.on_timeout
                failures.append(Failure(row=row, error=str(late), trace=format_trace(late), is_late=True))
            # Not every fault is an Exception: SystemExit, asyncio's CancelledError and Polars' panics are not.
            except BaseException as error:
                alarm.stop()
                if isinstance(error, KeyboardInterrupt) and is_interrupted():
                    raise
                trace = "" if failures and on_error is OnError.ABSTAIN else format_trace(error)
                failures.append(Failure(row=row, error=_shorten(_in_one_line(error)), trace=trace))
            restore()
            progress.advance()
            if failures and failures[-1].row == row and on_error is OnError.RAISE:
                break
    return ColumnVotes(votes=votes, failures=failures, side_inputs=side_inputs)


@dataclass(kw_only=True)
class Fault:
    """What code of an LF raised, in words; false where it raised nothing. The error itself would keep all it saw in memory."""

    error: str = ""
    """Type and message in one line."""
    trace: str = ""
    lacks_column: bool = False

    def __bool__(self) -> bool:
        return bool(self.error)


@contextmanager
def caught_fault(
    is_interrupted: Callable[[], bool] = lambda: True, *, but: tuple[type[BaseException], ...] = ()
) -> Iterator[Fault]:
    """What the block raised, whatever it is, as a fault of an LF; Ctrl-C goes on, and so does what is one of `but`.

    Not every fault is an Exception: SystemExit, asyncio's CancelledError and Polars' panics are not.
    """
    fault = Fault()
    try:
        yield fault
    except but:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and is_interrupted():
            raise
        fault.error, fault.trace = _in_one_line(error), format_trace(error)
        fault.lacks_column = isinstance(error, pl.exceptions.ColumnNotFoundError)


@contextmanager
def restored_streams() -> Iterator[Callable[[], None]]:
    """A function that restores sys.stdout and sys.stderr as they were; leaving the block calls it, too."""
    out, err = sys.stdout, sys.stderr

    def restore() -> None:
        if sys.stdout is not out or sys.stderr is not err:
            sys.stdout, sys.stderr = out, err

    try:
        yield restore
    finally:
        restore()


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C was pressed, as opposed to an LF raising KeyboardInterrupt."""
    is_pressed = False

    def interrupt() -> None:
        nonlocal is_pressed
        is_pressed = True
        raise KeyboardInterrupt

    with on_ctrl_c(interrupt) as is_told:
        yield lambda: is_pressed or not is_told


def apply_vectorized(
    root: Path,
    lfs: Sequence[VectorizedLF],
    items: pl.DataFrame,
    classes: Sequence[str],
    *,
    begin: Callable[[str], object] | None = None,
) -> dict[str, ColumnVotes]:
    """The votes of vectorized LFs on `items`, by LF; patterns on the same column run together, and so do expressions.

    `begin` is called with the name of each LF before it is asked.
    """
    results = _match_together(lfs, items, classes)
    columns: dict[str, pl.Series] = {}
    expressions: dict[str, pl.Expr] = {}
    read: dict[str, SideInputs] = {}
    with restored_streams(), interruptions() as is_interrupted:
        for lf in lfs:
            if lf.name in results:
                continue
            if begin is not None:
                begin(lf.name)
            with observe(root) as read[lf.name]:
                with caught_fault(is_interrupted) as fault:
                    # Each LF gets its own table, so that it cannot change what others see.
                    value = lf.function(items.clone())
                    if isinstance(value, pl.Expr):
                        expressions[lf.name] = value
                    else:
                        columns[lf.name] = _to_votes(value, items.height)
                if fault:
                    results[lf.name] = _fail_everywhere(items, _name_columns(fault, items), fault.trace)
        with observe(root) as together:
            if begin is not None and expressions:
                begin("' or '".join(expressions))
            with caught_fault() as fault:
                columns.update(_evaluate(items, expressions))
            # Evaluated one by one, to find out which is at fault.
            for name, expression in expressions.items() if fault else ():
                with caught_fault() as its_own:
                    columns.update(_evaluate(items, {name: expression}))
                if its_own:
                    results[name] = _fail_everywhere(items, _name_columns(its_own, items))
    for name, column in columns.items():
        try:
            results[name] = _to_positions(column, classes)
        except UnknownVoteError as unknown:
            results[name] = _fail_everywhere(items, str(unknown))
    for name in expressions:
        read[name].add(together)
    return results | {name: replace(results[name], side_inputs=found) for name, found in read.items() if found}


def _match_together(lfs: Sequence[VectorizedLF], items: pl.DataFrame, classes: Sequence[str]) -> dict[str, ColumnVotes]:
    """The votes of the LFs that search a text column for a pattern; LFs with an error are left to the caller."""
    by_column: dict[str, list[tuple[PatternLF, int]]] = defaultdict(list)
    for lf in lfs:
        if isinstance(lf, PatternLF) and items.schema.get(lf.column) == pl.String:
            with suppress(UnknownVoteError):
                by_column[lf.column].append((lf, to_position(lf.label, classes)))
    votes: dict[str, ColumnVotes] = {}
    for column, group in by_column.items():
        found = match_patterns([lf.pattern for lf, _ in group], items[column])
        for (lf, position), where in zip(group, found, strict=True):
            votes[lf.name] = ColumnVotes(votes=np.where(where, np.int8(position), np.int8(ABSTAIN)))
    return votes


class UnknownVoteError(Exception):
    """An LF returned something other than a class name, a class position or ABSTAIN."""

    def __init__(self, vote: object, classes: Sequence[str], *, what: str = "") -> None:
        shown = ", ".join(classes[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
        given, misread = what or _BRIEFLY.repr(vote), find_misread_class(classes)
        if misread is None:
            super().__init__(
                _remove_addresses(
                    f"voted {given}; expected a class ({shown}), a position 0..{len(classes) - 1}, or ABSTAIN"
                )
                + describe_twin(vote, classes)
            )
        else:
            super().__init__(
                _remove_addresses(f"voted {given}; expected a class by its name ({shown}) or ABSTAIN")
                + f": class {misread!r} is at position {classes.index(misread)}, so a number could mean either"
            )


_BRIEFLY = reprlib.Repr()
"""Writes any value briefly, and sets in a fixed order."""
_BRIEFLY.maxstring = _BRIEFLY.maxother = 80


def to_position(vote: Vote, classes: Sequence[str]) -> int:
    """The class position that an LF's vote on an item stands for, ABSTAIN for None.

    Raises
    ------
    UnknownVoteError
        The vote is no class, or is a number that could be a name or a position.
    """
    if vote is None:
        return ABSTAIN
    if isinstance(vote, str) and vote in classes:
        return classes.index(vote)
    if isinstance(vote, int | np.integer) and not isinstance(vote, bool):
        if vote == ABSTAIN:
            return ABSTAIN
        if 0 <= vote < len(classes) and find_misread_class(classes) is None:
            return int(vote)
    raise UnknownVoteError(vote, classes)


def _to_positions(column: pl.Series, classes: Sequence[str]) -> ColumnVotes:
    """The class positions that a vectorized LF's column stands for, and failures where a value is no class.

    Raises
    ------
    UnknownVoteError
        The column's type cannot hold votes.
    """
    if column.dtype == pl.Null:
        return ColumnVotes(votes=np.full(len(column), ABSTAIN, dtype=np.int8))
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        names = column.cast(pl.String)
        positions = names.replace_strict(classes, range(len(classes)), default=None, return_dtype=pl.Int8)
        unknown = names.is_not_null() & positions.is_null()
    elif column.dtype.is_integer():
        # What int64 cannot hold is no class either; unsigned types do not compare with -1.
        wide = column.cast(pl.Int64, strict=False)
        highest = len(classes) - 1 if find_misread_class(classes) is None else ABSTAIN
        positions = wide.set(~wide.is_between(ABSTAIN, highest), None).cast(pl.Int8)
        unknown = column.is_not_null() & positions.is_null()
    else:
        raise UnknownVoteError(column, classes, what=f"with a column of type {column.dtype}")
    rows = unknown.arg_true().to_list()
    return ColumnVotes(
        votes=positions.fill_null(ABSTAIN).to_numpy(),
        failures=[Failure(row=row, error=str(UnknownVoteError(column[row], classes))) for row in rows],
    )


def _to_votes(value: object, height: int) -> pl.Series:
    """A vectorized LF's Series or array as a Series of `height` votes."""
    try:
        series = to_series(value)
    except TypeError as error:
        raise TypeError(str(error).replace("got", "returned", 1)) from None
    if len(series) != height:
        raise ValueError(f"returned {len(series)} votes for {height} items")
    return series


def _evaluate(items: pl.DataFrame, expressions: dict[str, pl.Expr]) -> dict[str, pl.Series]:
    named = [expression.alias(name) for name, expression in expressions.items()]
    # with_columns, so that an expression without columns, such as a literal, votes on every item.
    table = items.lazy().with_columns(named).select(list(expressions)).collect()
    return {column.name: column for column in table}


def _fail_everywhere(items: pl.DataFrame, error: str, trace: str = "") -> ColumnVotes:
    """The result of a vectorized LF that failed on a whole batch: abstains, and a failure per item."""
    return ColumnVotes(
        votes=np.full(items.height, ABSTAIN, dtype=np.int8),
        failures=[Failure(row=row, error=error, trace="" if row else trace) for row in range(items.height)],
        is_by_batch=True,
    )


def _in_one_line(error: BaseException) -> str:
    """Type and message of `error`, without memory addresses."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines() or [type(error).__name__]
    return _remove_addresses(lines[0])


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _name_columns(fault: Fault, items: pl.DataFrame) -> str:
    """What a fault says, shortened; a missing column is told with those of `items`."""
    return _shorten(fault.error + (f"; items have {', '.join(items.columns)}" if fault.lacks_column else ""))


def _remove_addresses(text: str) -> str:
    """`text` without memory addresses, which differ from run to run."""
    return re.sub(r"\b0x[0-9a-fA-F]+\b", "0x...", text)


def format_trace(error: BaseException) -> str:
    """The traceback of `error` without the frames of the pipeline and of Python's import machinery."""
    with unobserved():  # formatting reads the lines of code from their files
        kept = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not Path(frame.filename).resolve().is_relative_to(_PIPELINE)
            and not frame.filename.startswith("<frozen importlib")
            and frame.filename != importlib.__file__
        ]
        head = ["Traceback (most recent call last):\n", *traceback.format_list(kept)] if kept else []
    text = "".join([*head, *traceback.format_exception_only(error)]).rstrip()
    return text if len(text) <= 8 * _LONGEST else f"{text[: 8 * _LONGEST]}..."
