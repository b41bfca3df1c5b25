"""What modules below lfs/ import to define labeling functions (LFs).

Every LF that such a module binds to a name, or keeps in a list, tuple, set or dictionary bound to a name, votes in the
pipeline, in the order of the LFs' names. A vote is the name of a class in params.yaml, its position, or ABSTAIN (or None).

    from tasks.labeling import ABSTAIN, keyword_lf, labeling_function

    subscribe = keyword_lf("subscribe", column="text", keywords=["subscribe", "sub 4 sub"], label="SPAM")

    @labeling_function
    def short(item):
        return "HAM" if len(item.text) < 10 else ABSTAIN
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.core.types import ABSTAIN
from tasks.errors import LabelingFunctionError
from tasks.lf.builders import compare_lf, examples_lf, lookup_lf, probability_lf, read_entries, worker_lfs
from tasks.lf.functions import (
    DEFAULT_ERROR_BUDGET,
    ColumnOfVotes,
    Item,
    LabelingFunction,
    OnError,
    PatternLF,
    RowwiseLF,
    VectorizedLF,
    Vote,
    can_be_voted,
    require_label,
)
from tasks.lf.language_model import ModelLF, llm_lf
from tasks.lf.preprocess import BatchPreprocessor, batch_preprocessor, with_results
from tasks.lf.series import to_series
from tasks.lf.text_patterns import TextPattern, compile_keywords, compile_regex, match_patterns

Condition = pl.Expr | pl.Series | npt.NDArray[np.bool_] | Sequence[bool | None]

__all__ = [
    "ABSTAIN",
    "ColumnOfVotes",
    "Item",
    "LabelingFunction",
    "ModelLF",
    "OnError",
    "PatternLF",
    "RowwiseLF",
    "VectorizedLF",
    "Vote",
    "batch_preprocessor",
    "compare_lf",
    "examples_lf",
    "keyword_lf",
    "labeling_function",
    "llm_lf",
    "lookup_lf",
    "probability_lf",
    "read_entries",
    "regex_lf",
    "vectorized_labeling_function",
    "vote_where",
    "worker_lfs",
]


@overload
def labeling_function(function: Callable[[Any], Vote]) -> RowwiseLF: ...
@overload
def labeling_function(
    *,
    name: str | None = None,
    on_error: OnError | str = ...,
    error_budget: float = ...,
    timeout: float | None = None,
    on_timeout: OnError | str = ...,
    pre: Sequence[BatchPreprocessor] = (),
) -> Callable[[Callable[[Any], Vote]], RowwiseLF]: ...
def labeling_function(
    function: Callable[[Any], Vote] | None = None,
    *,
    name: str | None = None,
    on_error: OnError | str = OnError.RAISE,
    error_budget: float = DEFAULT_ERROR_BUDGET,
    timeout: float | None = None,
    on_timeout: OnError | str = OnError.RAISE,
    pre: Sequence[BatchPreprocessor] = (),
) -> RowwiseLF | Callable[[Callable[[Any], Vote]], RowwiseLF]:
    """A row-wise LF from a function of one item; a decorator, with or without parentheses.

    Parameters
    ----------
    function
        Takes an `Item`, returns a class name, a class position, or ABSTAIN.
    name
        The LF's name; by default that of the function, or of its variable if the function is nameless (a lambda).
    on_error
        'raise' stops the run when the function raises or returns an unknown class; 'abstain' records the failure in
        data/apply/lf_failures.parquet and goes on, until failures exceed `error_budget`, a share of all items.
    timeout, on_timeout
        Time limit per item in seconds, and what happens beyond it: 'raise' or 'abstain', as for `on_error`. Python code
        and regular expressions are interrupted; a library's compiled code is not, until it returns.
    pre
        What `batch_preprocessor` made: the function finds its result on the item, computed once for all LFs.

    Raises
    ------
    LabelingFunctionError
        The name, policy or budget is invalid.
    """

    def decorate(function: Callable[[Any], Vote]) -> RowwiseLF:
        return RowwiseLF(
            name=name or _name_function(function),
            on_error=_policy(on_error),
            error_budget=error_budget,
            timeout=timeout,
            on_timeout=_policy(on_timeout),
            function=with_results(function, tuple(pre)) if pre else function,
            pre=tuple(pre),
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
        Takes a batch of items, returns one vote per row: a Polars expression over the batch (fastest, since all
        expressions run together), a Series or a NumPy array of class names or class positions; null and ABSTAIN
        abstain. The size of batches may vary, so a vote must depend on its row only: no mean over a column, no rank.
    name, on_error, error_budget
        As for `labeling_function`. A function that raises fails on every item of the batch.

    Raises
    ------
    LabelingFunctionError
        The name, policy or budget is invalid.
    """

    def decorate(function: Callable[[pl.DataFrame], ColumnOfVotes]) -> VectorizedLF:
        return VectorizedLF(
            name=name or _name_function(function),
            on_error=_policy(on_error),
            error_budget=error_budget,
            function=function,
        )

    return decorate if function is None else decorate(function)


def vote_where(condition: Condition, label: str | int) -> pl.Expr:
    """The expression that votes `label` where `condition` holds, and abstains elsewhere and on null.

    `condition` is a Polars expression, or a Boolean per item: a Polars or pandas Series, an array, or a list.

    Raises
    ------
    TypeError
        `condition` is none of these.
    ValueError
        `label` is no class by name or position, such as None or ABSTAIN: nothing would ever be voted.

    >>> items = pl.DataFrame({"length": [3, 30, None]})
    >>> items.select(vote_where(pl.col("length") < 10, "HAM")).to_series().to_list()
    ['HAM', None, None]
    """
    if not can_be_voted(label):
        raise ValueError(
            f"vote_where got the label {label!r}, so that it would never vote; expected a class, by name or position. It abstains "
            "by itself where the condition does not hold"
        )
    if not isinstance(condition, pl.Expr):
        series = pl.Series(condition) if isinstance(condition, list | tuple) else to_series(condition)
        if series.dtype not in (pl.Boolean, pl.Null):
            raise TypeError(f"vote_where got {series.dtype} values in a {type(condition).__name__}; expected Booleans")
        condition = pl.lit(series.cast(pl.Boolean))
    return pl.when(condition).then(pl.lit(label)).alias("vote")


def keyword_lf(
    name: str,
    *,
    column: str,
    keywords: Sequence[str],
    label: str | int,
    case_insensitive: bool = True,
    whole_words: bool = True,
) -> PatternLF:
    """An LF that votes `label` where the text in `column` contains one of `keywords`, and abstains elsewhere.

    Parameters
    ----------
    whole_words
        Whether letters, digits and '_' may not adjoin a keyword: 'my' then matches 'my song', not 'mystery'.

    Raises
    ------
    LabelingFunctionError
        There is no keyword, a keyword is empty, `keywords` is a string rather than a list, or `label` is no class.
    """
    if isinstance(keywords, str) or not keywords or not all(keywords):
        raise LabelingFunctionError(
            f"labeling function '{name}': keywords is {keywords!r}; expected a list of at least one text, none empty."
        )
    pattern = compile_keywords(keywords, case_insensitive=case_insensitive, whole_words=whole_words)
    return _pattern_lf(name, column, pattern, label)


def regex_lf(name: str, *, column: str, pattern: str, label: str | int, case_insensitive: bool = False) -> PatternLF:
    r"""An LF that votes `label` where Python's `re.search(pattern, text)` finds a match, and abstains elsewhere.

    Polars' regular expressions (finite automata, which are much faster) are used wherever they are certain to agree with
    Python's: for patterns in the common syntax, on texts without the rare characters on which `\w`, `\s`, `$` or case
    differ. Everything else, such as look-around and back-references, runs in Python, row by row.

    Raises
    ------
    LabelingFunctionError
        `pattern` is not a regular expression, or `label` is no class.
    """
    try:
        compiled = compile_regex(pattern, case_insensitive=case_insensitive)
    except re.error as error:
        raise LabelingFunctionError(
            f"labeling function '{name}': {pattern!r} is not a regular expression: {error}."
        ) from None
    return _pattern_lf(name, column, compiled, label)


def _pattern_lf(name: str, column: str, pattern: TextPattern, label: str | int) -> PatternLF:
    """An LF that votes `label` where `column` matches `pattern`."""
    require_label(name, label)

    def vote(items: pl.DataFrame) -> pl.Expr:
        return vote_where(match_patterns([pattern], items[column])[0], label)

    return PatternLF(name=name, function=vote, column=column, pattern=pattern, label=label)


def _name_function(function: Callable[..., object]) -> str:
    """The name of `function`; empty for lambdas, partials and callable objects, which have none."""
    name = getattr(function, "__name__", "")
    return "" if name == "<lambda>" else name


def _policy(on_error: OnError | str) -> OnError:
    """`on_error` as the enum if it names a policy; otherwise unchanged, so that the LF's own check can name the LF."""
    return OnError(on_error) if on_error in tuple(OnError) else on_error  # type: ignore[return-value]
