"""Certified labels: what counts can be checked by hand, and how often a certificate is wrong."""

import numpy as np
import pytest
from scipy.stats import binom

from tasks.core.certificate import certify, count_fewest_rows, find_certified


@pytest.mark.parametrize(("error_rate", "confidence", "rows"), [(0.05, 0.9, 45), (0.1, 0.9, 22), (0.05, 0.95, 59)])
def test_the_fewest_rows_are_those_of_the_exact_test(error_rate, confidence, rows):
    assert count_fewest_rows(error_rate, confidence) == rows
    assert binom.cdf(0, rows, error_rate) <= 1 - confidence < binom.cdf(0, rows - 1, error_rate)


def test_too_few_gold_rows_say_how_many_are_missing():
    found = certify(np.full(44, 0.9), np.zeros(44, bool), np.full(100, 0.9), 0.05, 0.9)
    assert (found.threshold, found.judges, found.errors, found.missing) == (None, 0, 0, 1)
    assert certify(np.empty(0), np.empty(0, bool), np.full(100, 0.9), 0.05, 0.9).missing == 45


def test_errors_at_the_bottom_cut_the_set_there():
    scores = np.linspace(0.5, 1, 200)
    found = certify(scores, scores < 0.6, scores, 0.05, 0.9)
    # 40 of 200 are wrong. Of the top 164 rows 4 are, which is what 5 % would give with a chance of 9.0 %; of 168, 8 are.
    assert (found.judges, found.errors, found.missing) == (164, 4, 0)
    assert binom.cdf(4, 164, 0.05) <= 0.1 < binom.cdf(8, 168, 0.05)
    certified = find_certified(np.stack([scores, 1 - scores], axis=1), found.threshold)
    assert certified.sum() == 164 and scores[certified].min() == found.threshold


def test_labels_that_err_everywhere_are_told_to_be_hopeless():
    wrong = np.arange(200) % 4 == 0
    found = certify(np.linspace(0.5, 1, 200), wrong, np.linspace(0.5, 1, 1000), 0.05, 0.9)
    assert found.threshold is None and found.missing is None
    assert not find_certified(np.full((3, 2), 0.5), None).any()


def test_an_error_at_the_top_asks_for_more_rows_and_with_them_is_forgiven():
    def ask(g):
        wrong = np.zeros(g, bool)
        wrong[-1] = True
        return certify(np.linspace(0.5, 1, g), wrong, np.linspace(0.5, 1, 1000), 0.05, 0.9)

    few, many = ask(60), ask(400)
    assert few.threshold is None and few.missing is not None and few.missing % 10 == 0 and few.missing > 0
    assert many.threshold == 0.5 and many.errors == 1


@pytest.mark.parametrize("g", [60, 800])
@pytest.mark.parametrize("slope", [0.0, 0.12])
def test_a_certificate_is_wrong_no_more_often_than_it_says(g, slope):
    """Labels err at a rate of 5.5 % everywhere, or from 2 % at the top to 14 %: any set of the first kind is wrong."""
    rng = np.random.default_rng(g)
    share = np.linspace(1, 0, 5001)
    everywhere = 1 - share / 2
    wrong_sets = 0
    draws = 150
    for _ in range(draws):
        depth = rng.random(g)
        rate = 0.055 + 0 * depth if slope == 0 else 0.02 + slope * depth
        found = certify(1 - depth / 2, rng.random(g) < rate, everywhere, 0.05, 0.9)
        if found.threshold is not None:
            reached = 2 * (1 - found.threshold)
            wrong_sets += slope == 0 or 0.02 + slope * reached / 2 > 0.05
    # 10 %, and three standard errors of 150 draws.
    assert wrong_sets / draws <= 0.1 + 3 * np.sqrt(0.09 / draws)
