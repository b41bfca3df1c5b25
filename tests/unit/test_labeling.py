"""tasks.labeling: definitions that cannot be, and regex_lf against Python's re, character by character and by fuzzing."""

import json
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared_datasets import DATASETS, needs_datasets

from tasks.errors import LabelingFunctionError
from tasks.labeling import (
    ABSTAIN,
    compare_lf,
    examples_lf,
    keyword_lf,
    labeling_function,
    lookup_lf,
    probability_lf,
    regex_lf,
    vectorized_labeling_function,
    vote_where,
)
from tasks.lf.functions import Item, OnError, VectorizedLF


def found(lf: VectorizedLF, texts: list[str | None]) -> list[bool]:
    """Where `lf`, of label 1 on column `text`, votes."""
    items = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
    return (items.select(lf(items)).to_series() == 1).fill_null(False).to_list()


def search(pattern: str, texts: list[str], case_insensitive: bool = False) -> list[bool]:
    return found(
        regex_lf("lf", column="text", pattern=pattern, label=1, case_insensitive=case_insensitive), list(texts)
    )


def test_an_lf_stays_a_function_of_its_item() -> None:
    @labeling_function
    def short(item: Item) -> str | int:
        return "HAM" if len(item.text) < 3 else ABSTAIN

    @labeling_function(name="renamed", on_error="abstain", error_budget=0.5)
    def other(item: Item) -> str | int:
        return "SPAM"

    assert short.name == "short" and short.on_error is OnError.RAISE
    assert short(Item({"text": "no"})) == "HAM" and short(Item({"text": "yes"})) == -1
    assert other.name == "renamed" and other.on_error is OnError.ABSTAIN and other.error_budget == 0.5


def test_an_item_names_the_columns_it_has() -> None:
    with pytest.raises(AttributeError, match="no column 'txet'; items have item_id, text"):
        _ = Item({"item_id": 1, "text": "a"}).txet


@pytest.mark.parametrize("name", ["1st", "a b", "item_id", "é", "a/b"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(LabelingFunctionError, match="cannot name a labeling function"):
        keyword_lf(name, column="text", keywords=["a"], label=1)


def test_impossible_policies_and_patterns_are_refused() -> None:
    with pytest.raises(LabelingFunctionError, match="'skip'; expected 'raise' or 'abstain'"):
        labeling_function(name="lf", on_error="skip")(lambda item: None)
    with pytest.raises(LabelingFunctionError, match="error_budget is 2"):
        vectorized_labeling_function(name="lf", error_budget=2)(lambda items: pl.lit(1))
    with pytest.raises(LabelingFunctionError, match="not a regular expression"):
        regex_lf("lf", column="text", pattern="(", label=1)
    for keywords in ("free", [], ["free", ""]):
        with pytest.raises(LabelingFunctionError, match="expected a list of at least one text"):
            keyword_lf("lf", column="text", keywords=keywords, label=1)


@pytest.mark.parametrize("label", [None, ABSTAIN, True, 0.0])
def test_a_label_that_is_no_class_is_refused_since_it_would_never_vote(label: Any) -> None:
    makers: list[Callable[[Any], object]] = [
        lambda label: keyword_lf("a", column="text", keywords=["x"], label=label),
        lambda label: regex_lf("a", column="text", pattern="x", label=label),
        lambda label: compare_lf("a", column="n", above=1, label=label),
        lambda label: lookup_lf("a", column="text", entries=["x"], label=label),
        lambda label: examples_lf("a", ids=["x"], label=label),
        lambda label: probability_lf("a", column="p", at_least=0.9, label=label),
    ]
    for make in makers:
        with pytest.raises(LabelingFunctionError, match=rf"'a': label is {label!r}, so that it would never vote"):
            make(label)
        make("SPAM"), make(1), make(np.int64(0))


@pytest.mark.parametrize("label", [None, ABSTAIN, True, float("nan")])
def test_vote_where_takes_no_label_that_never_votes(label) -> None:
    with pytest.raises(ValueError, match=rf"the label {label!r}, so that it would never vote; expected a class"):
        vote_where(pl.col("text") == "a", label)


def test_vote_where_takes_arrays_and_series() -> None:
    items = pl.DataFrame({"text": ["a", "b", "c"]})
    for condition in (np.array([True, False, True]), pl.Series([True, False, None]), pl.col("text") == "a"):
        votes = items.with_columns(vote_where(condition, "X").alias("votes"))["votes"].to_list()
        assert votes[:2] == ["X", None]


def test_keywords_are_whole_words_in_any_case() -> None:
    lf = keyword_lf("lf", column="text", keywords=["my", "c++", "ärger"], label=1)
    texts = ["My song", "mystery", "oh my", "I like C++!", "c++x", "ÄRGER", "verärgert", None, ""]
    assert found(lf, texts) == [True, False, True, True, False, True, False, False, False]


def test_keywords_as_parts_and_in_exact_case() -> None:
    parts = keyword_lf("lf", column="text", keywords=["http", "a.b"], label=1, whole_words=False)
    assert found(parts, ["see https://x", "a.b", "axb"]) == [True, True, False]
    exact = keyword_lf("lf", column="text", keywords=["US"], label=1, case_insensitive=False)
    assert found(exact, ["the US", "with us"]) == [True, False]


ODD_TEXTS = [
    "²",
    "e\u0301",
    "a\x1cb",
    "ok\n",
    "ok",
    "",
    "İ",
    "K",
    "x\u200dy",
    "Ⓐ",
    "größe",
    "日本",
    "ok \n",
    "a\nb",
    "aa",
]


PATTERNS = [
    "\\w",
    "\\W",
    "\\s",
    "\\d",
    "ok$",
    "\\Bk",
    "\\B",
    "a(?=\\s)",
    "(a)\\1",
    "a++a",
    "[a&&b]",
    "[[a]",
    "\\<",
    "x{",
    "(?<!a)b",
    "^\\S+$",
    "(?i)k",
    "(?m)a$",
    "[^\\w\\s]",
    "\\Aok\\Z",
    "größe",
    "(?s)a.b",
    "[]a]",
    "a{,2}b",
]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case_insensitive", [False, True])
def test_a_regex_finds_what_python_finds(pattern: str, case_insensitive: bool) -> None:
    flags = re.IGNORECASE if case_insensitive else re.NOFLAG
    expected = [re.search(pattern, text, flags) is not None for text in ODD_TEXTS]
    assert search(pattern, ODD_TEXTS, case_insensitive=case_insensitive) == expected


@pytest.mark.parametrize(
    "pattern", [r"\w", r"\W", r"\s", r"\d", r"\b", ".", "(?i)[a-z]", "(?i)[^h-l]", "(?i)k", "(?i)s"]
)
def test_every_character_is_read_as_python_reads_it(pattern: str) -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    python = re.compile(pattern)
    expected = [python.search(character) is not None for character in characters]
    assert search(pattern, characters) == expected


classes = [
    r"\w",
    r"\s",
    r"\b",
    r"\B",
    r"\d",
    r"\W",
    r"[^a]",
    r"[a-k]",
    r"(?:",
    r"(?i)",
    r"{1,2}",
    r"[\w-]",
    r"(?=a)",
    r"++",
    r"&&",
    r"--",
    r"[[",
    r"\.",
    r"\-",
    r"\n",
    r"(?P<x>",
    r"\1",
]
pieces = st.sampled_from([*r"abkIé .,-_^$|()[]{}*+?\<>&~#", *classes])


@given(
    st.lists(pieces, min_size=1, max_size=6).map("".join),
    st.lists(st.text("abkI_é1² .-\n\x1cİ&[", max_size=5), min_size=1, max_size=8),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_fuzzed_regexes_find_what_python_finds(pattern: str, texts: list[str], case_insensitive: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            python = re.compile(pattern, re.IGNORECASE if case_insensitive else re.NOFLAG)
    except re.error:
        assume(False)
    assert search(pattern, texts, case_insensitive=case_insensitive) == [
        python.search(text) is not None for text in texts
    ]


@needs_datasets
def test_the_sms_rules_reproduce_their_votes() -> None:
    texts = pl.read_parquet(DATASETS / "sms" / "items.parquet")["text"].str.to_lowercase()
    votes = pl.read_parquet(DATASETS / "sms" / "votes.parquet")
    items = pl.DataFrame({"text": texts})
    rules = json.loads((DATASETS / "sms" / "rules.json").read_text())
    lfs = [
        regex_lf(rule["name"], column="text", pattern=rule["regex"], label=rule["label"], case_insensitive=True)
        for rule in rules
    ]
    found_votes = items.select(lf(items).fill_null(ABSTAIN).cast(pl.Int8).alias(lf.name) for lf in lfs)
    assert len(lfs) == 73
    assert found_votes.equals(votes.drop("item_id"))
