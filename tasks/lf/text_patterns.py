"""Which texts match which patterns: many patterns on one column at once, by Polars where it agrees with Python.

One automaton for all patterns reads every text once, for the words that a pattern requires; each pattern is then tried
only on the texts that contain its words.
"""

import importlib
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Found = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]


class Definition(StrEnum):
    """Whose reading of a pattern counts on texts with characters that Polars and Python read differently."""

    PYTHON = "python"
    POLARS = "polars"


@dataclass(frozen=True, kw_only=True)
class TextPattern:
    """A pattern for Polars and for Python; both match the same plain texts, and None stands for one that cannot.

    `words` is what every match requires: a matching text contains at least one word of each set, in any case. Words
    are lower-case ASCII.
    """

    definition: Definition
    polars: str | None
    python: re.Pattern[str] | None
    words: tuple[frozenset[str], ...] = ()


def compile_regex(pattern: str, *, case_insensitive: bool) -> TextPattern:
    """The pattern that finds what Python's `re.search` does.

    Raises
    ------
    re.error
        `pattern` is not a regular expression.
    """
    flags = re.IGNORECASE if case_insensitive else re.NOFLAG
    fast = f"(?i){pattern}" if case_insensitive else pattern
    with warnings.catch_warnings():
        # Python warns of set operations to come; `_SHARED_SYNTAX` leaves such patterns to Python's present reading.
        warnings.simplefilter("ignore", FutureWarning)
        return TextPattern(
            definition=Definition.PYTHON,
            polars=fast if _SHARED_SYNTAX.fullmatch(pattern) and _is_compiled_by_polars(fast) else None,
            python=re.compile(pattern, flags),
            words=_require_words(pattern, flags),
        )


def compile_keywords(keywords: Sequence[str], *, case_insensitive: bool, whole_words: bool) -> TextPattern:
    """The pattern that finds any of `keywords` (at least one, none empty)."""
    pattern = "|".join(pl.escape_regex(word) for word in sorted(set(keywords)))
    if whole_words:
        # Consuming the neighbors instead of looking around is what a finite automaton can do, and enough to find one.
        pattern = rf"(?:^|\W)(?:{pattern})(?:\W|$)"
    pieces = [max(re.findall(r"[\x00-\x7F]+", word), key=len, default="").lower() for word in keywords]
    return TextPattern(
        definition=Definition.POLARS,
        polars=f"(?i){pattern}" if case_insensitive else pattern,
        python=None,
        words=_keep_selective([frozenset(pieces)]),
    )


def match_patterns(patterns: Sequence[TextPattern], texts: pl.Series) -> list[Found]:
    """Where each of `patterns` is found in `texts` (text or null), bool of shape (n,) each; False where null."""
    threads = _open_threads()
    odd = threads.submit(_find_odd, patterns, texts)
    candidates = _find_candidates([pattern.words for pattern in patterns], texts)
    return list(threads.map(lambda pattern, rows: _match(pattern, texts, rows, odd.result()), patterns, candidates))


@cache
def _open_threads() -> ThreadPoolExecutor:
    """One thread pool for all batches: Polars caches compiled patterns per thread."""
    return ThreadPoolExecutor(pl.thread_pool_size())


def _find_odd(patterns: Sequence[TextPattern], texts: pl.Series) -> Found:
    """Which of `texts` Polars and Python may read differently; none where no pattern is defined by Python's reading."""
    if all(pattern.definition is Definition.POLARS for pattern in patterns):
        return np.zeros(len(texts), dtype=np.bool_)
    found: Found = ~texts.str.contains(_PLAIN_TEXT).fill_null(True).to_numpy()
    return found


def _match(pattern: TextPattern, texts: pl.Series, rows: Rows | None, odd: Found) -> Found:
    """Where `pattern` is found, tried on `rows` of `texts` (None: all of them), of which some are `odd`."""
    found = np.zeros(len(texts), dtype=np.bool_)
    rows = np.arange(len(texts)) if rows is None else rows
    if pattern.polars is not None and not _is_left_to_python(pattern, rows):
        tried = texts if len(rows) == len(texts) else texts.gather(rows)
        found[rows] = tried.str.contains(pattern.polars).fill_null(False).to_numpy()
        if pattern.definition is Definition.POLARS:
            return found
        rows = rows[odd[rows]]
    assert pattern.python is not None
    search = pattern.python.search
    answers = (text is not None and search(text) is not None for text in texts.gather(rows))
    found[rows] = np.fromiter(answers, dtype=np.bool_, count=len(rows))
    return found


FEW_TEXTS = 500
"""Number of texts up to which Python has searched them before Polars has compiled the pattern once more.

Measured on two cores with 73 regular expressions of some 40 characters; the best of 0, 500, 1000, 2000 and 4000."""

_LONG = 100
"""Length of a pattern above which Python's time is taken to grow with the length, as with many alternatives."""


def _is_left_to_python(pattern: TextPattern, rows: Rows) -> bool:
    """Whether Python alone searches the texts at `rows`, because they are few."""
    return pattern.python is not None and len(rows) * max(len(pattern.python.pattern), _LONG) <= FEW_TEXTS * _LONG


# Which texts to try.

ASCII_LOOKALIKES = {"\u0130": "i", "\u0131": "i", "\u017f": "s", "\u212a": "k"}
"""Every character beyond ASCII that equals an ASCII letter when case is ignored (in Python's `re`; in Polars the last
two only), with that letter; a test tries every character there is."""

_SCANNED = 3
"""Shortest word that the automaton looks for: it lists every occurrence, and shorter words occur everywhere."""

_SHORTEST = 2
"""Shortest word that is looked for at all: single letters are in most texts."""


def _find_candidates(words: Sequence[tuple[frozenset[str], ...]], texts: pl.Series) -> list[Rows | None]:
    """For each of `words`, the ascending rows of `texts` with at least one word of each set; None: any may do."""
    wanted = sorted({word for sets in words for choice in sets for word in choice})
    if not wanted:
        return [None] * len(words)
    holders = _find_words(wanted, _fold(texts))
    scratch = np.zeros(len(texts), dtype=np.uint8)

    def find(sets: tuple[frozenset[str], ...]) -> Rows | None:
        if not sets:
            return None
        scratch[:] = 0
        # Each set raises the rows that all sets before it have raised.
        for step, choice in enumerate(sets):
            for word in choice:
                rows = holders[word]
                scratch[rows[scratch[rows] == step]] = step + 1
        return np.flatnonzero(scratch == len(sets))

    return [find(sets) for sets in words]


def _find_words(words: Sequence[str], folded: pl.Series) -> dict[str, Rows]:
    """The rows of `folded` that contain each word; a row may occur more than once."""
    scanned = [word for word in words if len(word) >= _SCANNED]
    holders = {
        word: folded.str.contains(word, literal=True).fill_null(False).arg_true().to_numpy().astype(np.intp)
        for word in words
        if len(word) < _SCANNED
    }
    if scanned:
        places = folded.str.extract_many(scanned, overlapping=True)
        counts = places.list.len().fill_null(0).to_numpy()
        rows = np.repeat(np.arange(len(folded)), counts)
        found = places.filter(pl.Series(counts > 0)).explode().cast(pl.Enum(scanned)).to_physical().to_numpy()
        order = np.argsort(found, kind="stable")
        ends = np.cumsum(np.bincount(found, minlength=len(scanned)))
        holders |= dict(zip(scanned, np.split(rows[order], ends[:-1]), strict=True))
    return holders


def _fold(texts: pl.Series) -> pl.Series:
    """`texts` in lower case, with every character that equals an ASCII letter when case is ignored replaced by it."""
    if (texts.str.len_bytes() != texts.str.len_chars()).any():
        texts = texts.str.replace_many(ASCII_LOOKALIKES)
    return texts.str.to_lowercase()


def _require_words(pattern: str, flags: re.RegexFlag) -> tuple[frozenset[str], ...]:
    """Sets of words such that every text that matches `pattern` contains one of each; none where that is unclear."""
    try:
        # Python's parser has no public name; without it the result is the same, only slower.
        sets = _walk(importlib.import_module("re._parser").parse(pattern, flags))
    except (ImportError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return ()
    return _keep_selective(sets)


def _walk(sequence: Any) -> list[frozenset[str]]:
    """Sets of words of which a match of `sequence` (from re's parser) contains at least one each."""
    sets: list[frozenset[str]] = []
    run = ""
    for operation, value in sequence:
        name = str(operation)
        if name == "LITERAL" and value < 128:
            run += chr(value).lower()
            continue
        sets.append(frozenset([run]))
        run = ""
        if name == "SUBPATTERN":
            sets += _walk(value[-1])
        elif name == "ATOMIC_GROUP":
            sets += _walk(value)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and value[0] > 0:
            sets += _walk(value[2])
        elif name == "BRANCH":
            # A match contains the words of one branch.
            best = [max(_walk(branch), key=_measure_selectivity, default=frozenset([""])) for branch in value[1]]
            sets.append(frozenset().union(*best))
    return [*sets, frozenset([run])]


def _measure_selectivity(words: frozenset[str]) -> int:
    """How much it says that a text contains one of `words`: the length of the shortest."""
    return min(map(len, words))


def _keep_selective(sets: Sequence[frozenset[str]]) -> tuple[frozenset[str], ...]:
    """The `sets` that are worth looking for, in an order that does not depend on hashes."""
    return tuple(sorted({words for words in sets if _measure_selectivity(words) >= _SHORTEST}, key=sorted))


# Where Polars reads as Python does.

_PLAIN = (
    # ASCII without \x1c-\x1f, which only Python counts as space.
    r"[[\t\n\x0B\x0C\r\x20-\x7E"
    # Letters, digits, punctuation, symbols and spaces on whose nature both agree: not marks and joiners (letters to
    # Polars alone), not numbers like a superscript two (to Python alone), nothing that Python 3.11 is too old to know.
    r"[\p{Age=13.0}&&[\p{L}\p{Nd}[[\p{P}\p{S}\p{Z}]--[\p{Alphabetic}\p{Pc}]]]]"
    # Dotted I, dotless i, long s and the Kelvin sign fold onto ASCII letters, in Polars not all of them.
    r"]--[\x{130}\x{131}\x{17F}\x{212A}]]"
)
"""Characters on which Polars reads patterns of `_SHARED_SYNTAX` as Python does; a test tries every character."""

_PLAIN_TEXT = rf"\A{_PLAIN}*[{_PLAIN}--\n]\z"
r"""Texts in which both find the same: not empty (\B differs), no newline at the end (Python's $ matches before it)."""

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
"""Patterns, known to be valid in Python, that Polars reads in the same way."""


def _is_compiled_by_polars(pattern: str) -> bool:
    """Whether Polars accepts the pattern, which may be too large or use syntax of Python only."""
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError:
        return False
    return True
