"""Which texts match which patterns: many patterns on a column at once, by Polars where it agrees with Python.

A single automaton reads every text once, in search of words that the patterns require; each pattern is then tried only
on texts that contain its words.
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
    """Whose reading of a pattern counts, on texts with characters that Polars and Python treat differently."""

    PYTHON = "python"
    POLARS = "polars"


@dataclass(frozen=True, kw_only=True)
class TextPattern:
    """A pattern in the syntax of Polars and of Python (None if it has no equivalent); both match the same plain texts.

    `words`: a matching text contains at least one word of each set, in upper or lower case. Words are lower-case ASCII.
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
        # Python warns about future set operations; `_SHARED_SYNTAX` leaves such patterns to Python's present reading.
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
        # A finite automaton cannot look around, but it can consume the neighboring characters, which is enough here.
        pattern = rf"(?:^|\W)(?:{pattern})(?:\W|$)"
    pieces = [max(re.findall(r"[\x00-\x7F]+", word), key=len, default="").lower() for word in keywords]
    return TextPattern(
        definition=Definition.POLARS,
        polars=f"(?i){pattern}" if case_insensitive else pattern,
        python=None,
        words=_keep_selective([frozenset(pieces)]),
    )


def match_patterns(patterns: Sequence[TextPattern], texts: pl.Series) -> list[Found]:
    """For each of `patterns`, where it is found in `texts` (text or null): bool of shape (n,), False for null."""
    threads = _open_threads()
    odd = threads.submit(_find_odd, patterns, texts)
    candidates = _find_candidates([pattern.words for pattern in patterns], texts)
    return list(threads.map(lambda pattern, rows: _match(pattern, texts, rows, odd.result()), patterns, candidates))


@cache
def _open_threads() -> ThreadPoolExecutor:
    """The thread pool for all batches; a single one, since Polars caches compiled patterns per thread."""
    return ThreadPoolExecutor(pl.thread_pool_size())


def _find_odd(patterns: Sequence[TextPattern], texts: pl.Series) -> Found:
    """Which of `texts` Polars and Python may read differently; all False if no pattern is defined by Python's reading."""
    if all(pattern.definition is Definition.POLARS for pattern in patterns):
        return np.zeros(len(texts), dtype=np.bool_)
    found: Found = ~texts.str.contains(_PLAIN_TEXT).fill_null(True).to_numpy()
    return found


def _match(pattern: TextPattern, texts: pl.Series, rows: Rows | None, odd: Found) -> Found:
    """Where `pattern` is found among `rows` of `texts` (None: all); `odd` texts are searched by its definition."""
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
"""Up to this many texts, Python is done before Polars has compiled the pattern.

The best of 0, 500, 1000, 2000 and 4000, measured on two cores with 73 regular expressions of some 40 characters."""

_LONG = 100
"""Pattern length above which Python's time is assumed to grow with the length, as with many alternatives."""


def _is_left_to_python(pattern: TextPattern, rows: Rows) -> bool:
    """Whether the texts at `rows` are so few that Python searches them alone."""
    return pattern.python is not None and len(rows) * max(len(pattern.python.pattern), _LONG) <= FEW_TEXTS * _LONG


# Candidates: the texts on which a pattern is worth trying.

ASCII_LOOKALIKES = {"\u0130": "i", "\u0131": "i", "\u017f": "s", "\u212a": "k"}
"""The characters beyond ASCII that equal an ASCII letter when case is ignored (all in Python's `re`, the last two in
Polars), with that letter; a test tries every character."""

_SCANNED = 3
"""Length of the shortest word that the automaton looks for: it lists every occurrence, and shorter words occur everywhere."""

_SHORTEST = 2
"""Length of the shortest word that is looked for at all: most texts contain any given letter."""


def _find_candidates(words: Sequence[tuple[frozenset[str], ...]], texts: pl.Series) -> list[Rows | None]:
    """For each of `words`, the rows of `texts` with at least one word of each set, ascending; None if any row may match."""
    wanted = sorted({word for sets in words for choice in sets for word in choice})
    if not wanted:
        return [None] * len(words)
    holders = _find_words(wanted, _fold(texts))
    scratch = np.zeros(len(texts), dtype=np.uint8)

    def find(sets: tuple[frozenset[str], ...]) -> Rows | None:
        if not sets:
            return None
        scratch[:] = 0
        # A row counts as having the first i sets only if it had the first i - 1 before.
        for step, choice in enumerate(sets):
            for word in choice:
                rows = holders[word]
                scratch[rows[scratch[rows] == step]] = step + 1
        return np.flatnonzero(scratch == len(sets))

    return [find(sets) for sets in words]


def _find_words(words: Sequence[str], folded: pl.Series) -> dict[str, Rows]:
    """By word, the rows of `folded` that contain it; a row may occur more than once."""
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
    """`texts` in lower case, with characters that equal an ASCII letter when case is ignored replaced by that letter."""
    if (texts.str.len_bytes() != texts.str.len_chars()).any():
        texts = texts.str.replace_many(ASCII_LOOKALIKES)
    return texts.str.to_lowercase()


def _require_words(pattern: str, flags: re.RegexFlag) -> tuple[frozenset[str], ...]:
    """Sets of words such that every match of `pattern` contains a word of each; empty where that is unclear."""
    try:
        # Python's parser is not public; without it the result would be the same, but slower.
        sets = _walk(importlib.import_module("re._parser").parse(pattern, flags))
    except (ImportError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return ()
    return _keep_selective(sets)


def _walk(sequence: Any) -> list[frozenset[str]]:
    """Sets of words such that a match of `sequence` (from re's parser) contains at least one word of each."""
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
            # A match contains the words of some branch.
            best = [max(_walk(branch), key=_measure_selectivity, default=frozenset([""])) for branch in value[1]]
            sets.append(frozenset().union(*best))
    return [*sets, frozenset([run])]


def _measure_selectivity(words: frozenset[str]) -> int:
    """The length of the shortest of `words`: the longer, the fewer texts contain one of them."""
    return min(map(len, words))


def _keep_selective(sets: Sequence[frozenset[str]]) -> tuple[frozenset[str], ...]:
    """The `sets` that are selective enough to look for, in an order that does not depend on hashes."""
    return tuple(sorted({words for words in sets if _measure_selectivity(words) >= _SHORTEST}, key=sorted))


# Where Polars and Python agree.

_PLAIN = (
    # ASCII without \x1c-\x1f, which only Python counts as space.
    r"[[\t\n\x0B\x0C\r\x20-\x7E"
    # Letters, digits, punctuation, symbols and spaces that both classify alike: no marks and joiners (letters in Polars
    # only), no numerals like a superscript two (word characters in Python only), nothing newer than Python 3.11.
    r"[\p{Age=13.0}&&[\p{L}\p{Nd}[[\p{P}\p{S}\p{Z}]--[\p{Alphabetic}\p{Pc}]]]]"
    # Dotted I, dotless i, long s and the Kelvin sign fold onto ASCII letters; Polars folds only some of them.
    r"]--[\x{130}\x{131}\x{17F}\x{212A}]]"
)
"""Characters on which Polars and Python agree, for patterns of `_SHARED_SYNTAX`; a test tries every character."""

_PLAIN_TEXT = rf"\A{_PLAIN}*[{_PLAIN}--\n]\z"
r"""Texts on which both agree: not empty (\B differs), and no newline at the end (Python's $ matches before it)."""

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
"""Patterns that Polars reads as Python does, among those valid in Python."""


def _is_compiled_by_polars(pattern: str) -> bool:
    """Whether Polars accepts the pattern; it may be too large, or use syntax that only Python has."""
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError:
        return False
    return True
