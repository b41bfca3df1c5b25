"""A text is found in upper and lower case alike: as the slow regular expression finds it, whatever letters there are."""

import numpy as np
import polars as pl
import pytest

from tasks.queries.text_search import search_texts

LETTERS = [*"kKsSaA .*\n", "\N{KELVIN SIGN}", "\N{LATIN SMALL LETTER LONG S}", "\u00df", "\u0130", "\u0131"]


@pytest.mark.parametrize("text", ["", "k", "S", "as", "ks", "a.", ".*", "\n", "i", *LETTERS[-5:], "k\u00df"])
def test_texts_are_found_as_an_expression_finds_them(text: str) -> None:
    drawn = np.random.default_rng(0)
    texts = ["".join(drawn.choice(LETTERS, size)) for size in drawn.integers(0, 9, 2000)]
    items = pl.DataFrame({"text": [*texts, None], "other": [None, *texts[::-1]], "split": ["k"] * 2001, "number": 1})
    pattern = f"(?i){pl.escape_regex(text)}"
    expected = items.select(pl.any_horizontal(pl.col("text", "other").str.contains(pattern).fill_null(False)))
    found = search_texts(items, text)
    assert found.tolist() == expected.to_series().to_list()
    assert 0 < found.sum() < len(items) or text == "" or text == "i"


def test_without_texts_nothing_is_found() -> None:
    assert search_texts(pl.DataFrame({"number": [1, 2], "split": ["train", "test"]}), "t").tolist() == [False, False]
