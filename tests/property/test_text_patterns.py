"""tasks.lf.text_patterns: the words that decide where a pattern is tried never hide a match, and every path agrees."""

import re
import string
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.lf import text_patterns
from tasks.lf.text_patterns import compile_keywords, compile_regex, match_patterns


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("( |^)(call|ringtone)[^\\w]* ([^\\s]+ )*(free|free)( |$)", [{"call", "ringtone"}, {"free"}]),
        ("Call", [{"call"}]),
        ("call|calls", [{"call"}]),
        ("(call)?free", [{"free"}]),
        ("(?:call){2,}", [{"call"}]),
        ("call|x", []),
        ("call|", []),
        ("caf\u00e9s", [{"caf"}]),
        ("(?!call)free(?=money)(?<!x)", [{"free"}]),
        ("[call]+", []),
        ("a.b", []),
        ("(a)(?(1)call|free)", []),
        ("", []),
    ],
)
def test_the_words_of_a_pattern(pattern: str, words: list[set[str]]) -> None:
    found = compile_regex(pattern, case_insensitive=False).words
    assert sorted(map(sorted, found)) == sorted(map(sorted, words))


def test_keywords_are_words_of_their_own() -> None:
    keywords = compile_keywords(["Free", "c++", "größe"], case_insensitive=True, whole_words=True)
    assert keywords.words == (frozenset({"free", "c++", "gr"}),)
    assert compile_keywords(["free", "ß"], case_insensitive=True, whole_words=True).words == ()


def test_every_character_that_passes_for_an_ascii_letter_is_known() -> None:
    characters = [chr(code) for code in range(128, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    letters = re.compile(f"[{string.ascii_letters}]", re.IGNORECASE)
    by_python = {character for character in characters if letters.search(character)}
    by_polars = set(pl.Series(characters).filter(pl.Series(characters).str.contains("(?i)[a-z]")))
    assert by_python | by_polars == set(text_patterns.ASCII_LOOKALIKES)
    for character, letter in text_patterns.ASCII_LOOKALIKES.items():
        assert re.search(letter, character, re.IGNORECASE)


pieces = st.sampled_from(["free", "call", "ok", "ski", "is", "s", "k", " ", "|", "(", ")", "?", "*", "+", "\\b", "\\w", ".", "[^a]", "(?i)", "{2}", "^", "$", "é"])  # fmt: skip
texts = st.lists(
    st.lists(st.sampled_from(["free", "FREE", "call", "ok", "s\u212ai", "\u017fki", "\u0130S", "\u0131s", " ", "ski", "k", "é", "x", "\n", "e\u0301"]), max_size=6).map("".join) | st.none(),
    min_size=1,
    max_size=12,
)  # fmt: skip


@given(st.lists(st.lists(pieces, min_size=1, max_size=7).map("".join), min_size=1, max_size=4), texts, st.booleans(), st.sampled_from([0, 3, 500]))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_patterns_together_find_what_python_finds(
    patterns: list[str], given_texts: list[str | None], case_insensitive: bool, few: int
) -> None:
    flags = re.IGNORECASE if case_insensitive else re.NOFLAG
    try:
        python = [re.compile(pattern, flags) for pattern in patterns]
    except re.error:
        assume(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.lf.text_patterns.FEW_TEXTS", few)
        compiled = [compile_regex(pattern, case_insensitive=case_insensitive) for pattern in patterns]
        found = match_patterns(compiled, pl.Series("text", given_texts, dtype=pl.String))
    expected = [[text is not None and regex.search(text) is not None for text in given_texts] for regex in python]
    assert [column.tolist() for column in found] == expected


@given(
    st.lists(st.sampled_from(["free", "ok", "i", "c++", "größe", "ski", "日本"]), min_size=1, max_size=3),
    texts,
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 500]),
)
@settings(max_examples=200, deadline=None)
def test_keywords_are_found_where_polars_finds_them(
    keywords: list[str], given_texts: list[str | None], case_insensitive: bool, whole_words: bool, few: int
) -> None:
    column = pl.Series("text", given_texts, dtype=pl.String)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.lf.text_patterns.FEW_TEXTS", few)
        pattern = compile_keywords(keywords, case_insensitive=case_insensitive, whole_words=whole_words)
        (found,) = match_patterns([pattern], column)
    assert pattern.polars is not None
    assert found.tolist() == column.str.contains(pattern.polars).fill_null(False).to_list()


def test_no_texts_and_texts_without_any() -> None:
    patterns = [compile_regex("free", case_insensitive=True), compile_regex("(?=a)", case_insensitive=True)]
    for column in (pl.Series("text", [], dtype=pl.String), pl.Series("text", [None, None], dtype=pl.String)):
        assert [found.tolist() for found in match_patterns(patterns, column)] == [[False] * len(column)] * 2
    assert match_patterns([], pl.Series(["a"])) == []


def test_many_texts_are_searched_like_few() -> None:
    """More candidates than Python is asked about, some of them odd."""
    column = pl.Series([f"{number} call e\u0301 free" if number % 2 else f"free {number}" for number in range(3000)])
    pattern = compile_regex(r"\bcall\W+e.*free", case_insensitive=True)
    assert np.flatnonzero(match_patterns([pattern], column)[0]).tolist() == list(range(1, 3000, 2))
