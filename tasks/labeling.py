"""What a module below lfs/ imports to define labeling functions (LFs).

Every LF that such a module binds to a name, or keeps in a list or tuple bound to a name, votes in the pipeline, in the
order of definition. A vote is a class name of params.yaml, the position of one, or ABSTAIN (None means the same).

    from tasks.labeling import ABSTAIN, keyword_lf, labeling_function

    subscribe = keyword_lf("subscribe", column="text", keywords=["subscribe", "sub 4 sub"], label="SPAM")

    @labeling_function
    def short(item):
        return "HAM" if len(item.text) < 10 else ABSTAIN
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks import schemas
from tasks.errors import LabelingFunctionError

ABSTAIN = schemas.ABSTAIN
"""The vote of an LF that does not vote."""

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
    """What an LF's failure on an item does: stop the run, or count as an abstain within the LF's error budget."""

    RAISE = "raise"
    ABSTAIN = "abstain"


DEFAULT_ERROR_BUDGET = 0.01
"""One item in a hundred: enough for odd rows, too little for an LF that is broken."""


@dataclass(frozen=True, kw_only=True)
class _Named:
    name: str
    on_error: OnError = OnError.RAISE
    error_budget: float = DEFAULT_ERROR_BUDGET

    def __post_init__(self) -> None:
        if not re.fullmatch(schemas.LF_NAME, self.name) or self.name == schemas.ITEM_ID:
            raise LabelingFunctionError(
                f"{self.name!r} cannot name a labeling function. Use letters, digits, '_', '.' and '-', "
                f"a letter or '_' first, and not '{schemas.ITEM_ID}'."
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


LabelingFunction = RowwiseLF | VectorizedLF


@overload
def labeling_function(function: Callable[[Any], Vote]) -> RowwiseLF: ...
@overload
def labeling_function(
    *, name: str | None = None, on_error: OnError | str = ..., error_budget: float = ...
) -> Callable[[Callable[[Any], Vote]], RowwiseLF]: ...
def labeling_function(
    function: Callable[[Any], Vote] | None = None,
    *,
    name: str | None = None,
    on_error: OnError | str = OnError.RAISE,
    error_budget: float = DEFAULT_ERROR_BUDGET,
) -> RowwiseLF | Callable[[Callable[[Any], Vote]], RowwiseLF]:
    """A row-wise LF from a function of one item; a decorator, with or without parentheses.

    Parameters
    ----------
    function
        Takes an `Item`, returns a class name, a class position, or ABSTAIN.
    name
        The function's own name unless given.
    on_error
        'raise' stops the run when the function raises or returns an unknown class; 'abstain' records the failure in
        data/apply/lf_failures.parquet and goes on, until failures exceed `error_budget`, a share of all items.

    Raises
    ------
    LabelingFunctionError
        A name, policy or budget that cannot be.
    """

    def decorate(function: Callable[[Any], Vote]) -> RowwiseLF:
        return RowwiseLF(
            name=name or function.__name__, on_error=_policy(on_error), error_budget=error_budget, function=function
        )

    return decorate if function is None else decorate(function)


@overload
def vectorized_labeling_function(function: Callable[[pl.DataFrame], ColumnOfVotes]) -> VectorizedLF: ...
@overload
def vectorized_labeling_function(
    *, name: str | None = None, on_error: OnError | str = ..., error_budget: float = ...
) -> Callable[[Callable[[pl.DataFrame], ColumnOfVotes]], VectorizedLF]: ...
def vectorized_labeling_function(
    function: Callable[[pl.DataFrame], ColumnOfVotes] | None = None,
    *,
    name: str | None = None,
    on_error: OnError | str = OnError.RAISE,
    error_budget: float = DEFAULT_ERROR_BUDGET,
) -> VectorizedLF | Callable[[Callable[[pl.DataFrame], ColumnOfVotes]], VectorizedLF]:
    """A vectorized LF from a function of a table of items; a decorator, with or without parentheses.

    Parameters
    ----------
    function
        Takes a batch of items, returns one vote a row: a Polars expression over the batch (fastest: all of them run
        together), a Series or a NumPy array, of class names or class positions; null or ABSTAIN abstains. Items come
        in batches of no particular size, so a vote must depend on its own row alone: no mean over a column, no rank.
    name, on_error, error_budget
        As for `labeling_function`. A function that raises fails on every item of the batch.

    Raises
    ------
    LabelingFunctionError
        A name, policy or budget that cannot be.
    """

    def decorate(function: Callable[[pl.DataFrame], ColumnOfVotes]) -> VectorizedLF:
        return VectorizedLF(
            name=name or function.__name__, on_error=_policy(on_error), error_budget=error_budget, function=function
        )

    return decorate if function is None else decorate(function)


def vote_where(condition: pl.Expr | pl.Series | npt.NDArray[np.bool_], label: str | int) -> pl.Expr:
    """Votes for a vectorized LF: `label` where `condition` holds, abstain elsewhere and where it is null.

    >>> items = pl.DataFrame({"length": [3, 30, None]})
    >>> items.select(vote_where(pl.col("length") < 10, "HAM")).to_series().to_list()
    ['HAM', None, None]
    """
    if isinstance(condition, np.ndarray):
        condition = pl.Series(condition)
    if isinstance(condition, pl.Series):
        condition = pl.lit(condition)
    return pl.when(condition).then(pl.lit(label)).alias("vote")


def keyword_lf(
    name: str,
    *,
    column: str,
    keywords: Sequence[str],
    label: str | int,
    case_insensitive: bool = True,
    whole_words: bool = True,
) -> VectorizedLF:
    """An LF that votes `label` where the text in `column` holds one of `keywords`, and abstains elsewhere.

    Parameters
    ----------
    whole_words
        A keyword must stand free of letters, digits and '_' on both sides ('my' is in 'my song', not in 'mystery').

    Raises
    ------
    LabelingFunctionError
        No keyword, an empty one, or one string where a list of them belongs.
    """
    if isinstance(keywords, str) or not keywords or not all(keywords):
        raise LabelingFunctionError(
            f"labeling function '{name}': keywords is {keywords!r}; expected a list of at least one text, none empty."
        )
    pattern = "|".join(pl.escape_regex(word) for word in sorted(set(keywords)))
    if whole_words:
        # Consuming the neighbors instead of looking around is what a finite automaton can do, and enough to find one.
        pattern = rf"(?:^|\W)(?:{pattern})(?:\W|$)"
    if case_insensitive:
        pattern = f"(?i){pattern}"

    def vote(items: pl.DataFrame) -> pl.Expr:
        return vote_where(pl.col(column).str.contains(pattern), label)

    return VectorizedLF(name=name, function=vote)


def regex_lf(name: str, *, column: str, pattern: str, label: str | int, case_insensitive: bool = False) -> VectorizedLF:
    r"""An LF that votes `label` where Python's `re.search(pattern, text)` finds a match, and abstains elsewhere.

    Polars' regular expressions (a finite automaton, much faster) do the work wherever they are certain to agree with
    Python's: on patterns of common syntax and on texts without the rare characters on which `\w`, `\s`, `$` or case
    differ. Everything else, look-around and back-references among it, runs in Python, row by row.

    Raises
    ------
    LabelingFunctionError
        `pattern` is not a regular expression.
    """
    python = _compile(name, pattern, re.IGNORECASE if case_insensitive else re.NOFLAG)
    fast = f"(?i){pattern}" if case_insensitive else pattern

    def search(texts: pl.Series) -> pl.Series:
        given = texts.drop_nulls()
        if given.is_empty():
            return pl.repeat(None, len(texts), dtype=pl.Boolean, eager=True)
        found = (None if text is None else python.search(text) is not None for text in texts)
        return pl.Series(texts.name, found, dtype=pl.Boolean)

    def vote(items: pl.DataFrame) -> pl.Expr:
        text = pl.col(column)
        if not agrees:
            return vote_where(text.map_batches(search, return_dtype=pl.Boolean), label)
        odd = pl.when(~text.str.contains(_PLAIN_TEXT)).then(text).map_batches(search, return_dtype=pl.Boolean)
        return vote_where(pl.coalesce(odd, text.str.contains(fast)), label)

    agrees = _SHARED_SYNTAX.fullmatch(pattern) is not None and _is_compiled_by_polars(fast)
    return VectorizedLF(name=name, function=vote)


_PLAIN = (
    # ASCII without \x1c-\x1f, which only Python counts as space.
    r"[[\t\n\x0B\x0C\r\x20-\x7E"
    # Letters, digits, punctuation, symbols and spaces on whose nature both agree: not marks and joiners (letters to
    # Polars alone), not numbers like a superscript two (to Python alone), nothing that Python 3.11 is too old to know.
    r"[\p{Age=13.0}&&[\p{L}\p{Nd}[[\p{P}\p{S}\p{Z}]--[\p{Alphabetic}\p{Pc}]]]]"
    # Dotted I, dotless i, long s and the Kelvin sign fold onto ASCII letters, differently.
    r"]--[\x{130}\x{131}\x{17F}\x{212A}]]"
)
"""Characters that a pattern of `_SHARED_SYNTAX` reads as Python does; a test asks for every one that exists."""

_PLAIN_TEXT = rf"\A{_PLAIN}*[{_PLAIN}--\n]\z"
r"""Texts in which both find the same: not empty, where \B differs, no newline at the end, before which Python's $ is."""

_SHARED_SYNTAX = re.compile(
    r"""(?:
      [\x20-\x7E\t\n](?<![\\\[\](){}*+?])                               # a literal, an anchor, a dot or a bar
    | \\[AbBdDsSwWfnrtv](?!\{)                                          # \b{start} is a word boundary to Polars
    | \\[!-/:;=?@\[-`{-~]                                               # escaped punctuation, but not \< and \>
    | \[\^?(?!\])                                                       # a class; a leading ] differs,
      (?:(?!&&|--|~~|\|\|)(?:[\x20-\x7E\t\n](?<![\\\[\]])|\\[dDsSwWfnrtv]|\\[!-/:;=?@\[-`{-~]))+
      \]                                                                # and so do nested classes and set operations
    | \((?:\?:|\?P<[A-Za-z_]\w*>|\?[ims]+\))?                           # a group, or flags
    | \)
    | (?:[*+?]|\{\d+(?:,\d*)?\})\??(?![*+?{])                           # a++ is possessive in Python
    )*""",
    re.VERBOSE | re.ASCII,
)
"""Patterns, already valid in Python, that Polars reads in the same way."""


def _compile(name: str, pattern: str, flags: re.RegexFlag) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            # Python warns of set operations to come; `_SHARED_SYNTAX` leaves such patterns to Python's present reading.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(pattern, flags)
    except re.error as error:
        raise LabelingFunctionError(
            f"labeling function '{name}': {pattern!r} is not a regular expression: {error}."
        ) from None


def _is_compiled_by_polars(pattern: str) -> bool:
    """Whether Polars takes the pattern; it may be too large for it, or use what only Python knows."""
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError:
        return False
    return True


def _policy(on_error: OnError | str) -> OnError:
    """`on_error` as the enum where it names a policy; as it is otherwise, for the LF to refuse with its name."""
    return OnError(on_error) if on_error in tuple(OnError) else on_error  # type: ignore[return-value]
