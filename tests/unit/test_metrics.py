"""Scores by hand on a few rows, undefined statistics, calibration bins, and the bootstrap against a plain loop."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.core import metrics
from tasks.core.ties import pick_labels, score_labels, share_labels


def one_hot(labels, k):
    return np.eye(k)[labels]


@st.composite
def graded(draw):
    """Probabilities and gold: up to 60 rows, 2 to 5 classes, with ties and missing classes."""
    k, n = draw(st.integers(2, 5)), draw(st.integers(1, 60))
    weights = draw(hnp.arrays(np.int64, (n, k), elements=st.integers(0, 3)))
    weights[weights.sum(axis=1) == 0] = 1
    gold = draw(hnp.arrays(np.int64, n, elements=st.integers(0, k - 1)))
    return weights / weights.sum(axis=1, keepdims=True), gold


def test_scores_of_five_rows_counted_by_hand():
    P = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.5, 0.5], [0.1, 0.9]])
    found = metrics.score(P, np.array([0, 1, 1, 1, 1]))
    # Labels: 0, 0, 1, a tie, 1. The tie is half right.
    assert found.n == 5
    assert found.confusion.tolist() == [[1, 0], [1.5, 2.5]]
    assert found.accuracy == pytest.approx(3.5 / 5)
    assert found.support.tolist() == [1, 4]
    assert found.precision == pytest.approx([1 / 2.5, 2.5 / 2.5])
    assert found.recall == pytest.approx([1 / 1, 2.5 / 4])
    assert found.f1 == pytest.approx([2 * 1 / (2.5 + 1), 2 * 2.5 / (2.5 + 4)])
    assert found.macro_f1 == pytest.approx((2 / 3.5 + 5 / 6.5) / 2)
    assert found.log_loss == pytest.approx(-math.log(0.8 * 0.4 * 0.7 * 0.5 * 0.9) / 5)
    assert found.brier == pytest.approx(2 * (0.2**2 + 0.6**2 + 0.3**2 + 0.5**2 + 0.1**2) / 5)


def test_a_class_without_gold_or_without_labels_is_undefined_not_zero():
    # Class 2 has no gold but is a label once; class 1 has gold but is never a label; class 3 is neither.
    found = metrics.score(one_hot([0, 2], 4), np.array([0, 1]))
    assert found.precision[:3].tolist()[0] == 1 and found.precision[2] == 0
    assert np.isnan(found.precision).tolist() == [False, True, False, True]
    assert np.isnan(found.recall).tolist() == [False, False, True, True]
    assert np.isnan(found.f1).tolist() == [False, False, True, True]
    assert found.macro_f1 == pytest.approx((1 + 0) / 2)


@pytest.mark.parametrize("apart", [0, 1e-13, 2e-11, 1e-10, 2e-9, 1e-3])
@pytest.mark.parametrize("gold", [0, 1])
def test_a_label_and_its_score_see_the_same_ties(apart, gold):
    # Where the classes tie, the score is a half; where they do not, it is that of the hard label.
    P = np.array([[0.5 + apart, 0.5 - apart], [0.5 - apart, 0.5 + apart]])
    hard = [pick_labels(P, np.array(balance)).tolist() for balance in ([0.6, 0.4], [0.4, 0.6])]
    is_tied = hard[0] != hard[1]
    assert score_labels(P, np.array([gold, gold])).tolist() == share_labels(P)[:, gold].tolist()
    assert score_labels(P, np.array([gold, gold]))[gold] == (0.5 if is_tied else 1)


def test_no_rows_give_nan_everywhere():
    found = metrics.score(np.zeros((0, 3)), np.zeros(0, np.int8))
    values = [found.accuracy, found.macro_f1, found.log_loss, found.brier, found.calibration_error]
    assert found.n == 0 and np.isnan(values).all()
    assert np.isnan([*found.precision, *found.recall, *found.f1]).all()


def test_one_impossible_answer_costs_the_floor_not_infinity():
    found = metrics.score(one_hot([0], 2), np.array([1]))
    assert found.log_loss == pytest.approx(-math.log(1e-15))
    assert found.brier == pytest.approx(1 + 1)


def test_rounding_noise_does_not_break_a_tie():
    P = np.array([[0.5 - 1e-13, 0.5 + 1e-13], [0.5 - 1e-6, 0.5 + 1e-6]])
    assert share_labels(P).tolist() == [[0.5, 0.5], [0, 1]]


def test_calibration_of_two_confident_and_two_doubtful_groups():
    # 10 rows at .9 of which 8 are right, 10 rows at .6 of which 7 are right.
    P = np.repeat([[0.9, 0.1], [0.6, 0.4]], 10, axis=0)
    gold = np.array([0] * 8 + [1] * 2 + [0] * 7 + [1] * 3)
    curve = metrics.reliability(P, gold)
    assert curve.confidence == pytest.approx([0.6, 0.9])
    assert curve.accuracy == pytest.approx([7 / 10, 8 / 10])
    assert curve.count.tolist() == [10, 10]
    assert metrics.calibration_error(curve) == pytest.approx((10 * 0.1 + 10 * 0.1) / 20)


def test_rows_of_equal_confidence_share_a_bin():
    P = np.repeat([[0.7, 0.3]], 1000, axis=0)
    curve = metrics.reliability(P, np.arange(1000) % 2)
    assert curve.count.tolist() == [1000]
    assert curve.accuracy.tolist() == [500 / 1000]


@given(graded(), st.randoms(use_true_random=False))
def test_row_order_changes_nothing(data, random):
    P, gold = data
    order = random.sample(range(len(P)), len(P))
    one, two = metrics.score(P, gold), metrics.score(P[order], gold[order])
    np.testing.assert_allclose(one.confusion, two.confusion, atol=1e-12)
    assert one.calibration_error == pytest.approx(two.calibration_error)
    assert one.log_loss == pytest.approx(two.log_loss)


@given(graded())
def test_classes_may_be_renamed(data):
    P, gold = data
    k = P.shape[1]
    one, two = metrics.score(P, gold), metrics.score(P[:, ::-1], k - 1 - gold)
    assert one.accuracy == pytest.approx(two.accuracy)
    assert one.macro_f1 == pytest.approx(two.macro_f1, nan_ok=True)
    assert one.brier == pytest.approx(two.brier)
    np.testing.assert_allclose(one.confusion, two.confusion[::-1, ::-1])


@given(graded())
def test_identities(data):
    P, gold = data
    found = metrics.score(P, gold)
    assert found.confusion.sum() == pytest.approx(len(gold))
    assert found.support.tolist() == np.bincount(gold, minlength=P.shape[1]).tolist()
    assert found.accuracy == pytest.approx(np.nansum(found.recall * found.support) / len(gold))
    assert 0 <= found.calibration_error <= 1 and 0 <= found.brier <= 2
    assert metrics.reliability(P, gold).count.sum() == len(gold)


@given(graded(), st.integers(0, 5))
def test_the_bootstrap_equals_scoring_each_resample(data, seed):
    P, gold = data
    other = np.roll(P, 1, axis=1)
    found = metrics.resample([P, other], gold, resamples=7, seed=seed)
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(gold), size=(7, len(gold)))
    for resample, rows in enumerate(draws):
        for method, probabilities in enumerate((P, other)):
            expected = metrics.score(probabilities[rows], gold[rows])
            assert found.accuracy[method, resample] == pytest.approx(expected.accuracy)
            assert found.macro_f1[method, resample] == pytest.approx(expected.macro_f1)
            assert found.log_loss[method, resample] == pytest.approx(expected.log_loss)
            assert found.brier[method, resample] == pytest.approx(expected.brier)


def test_the_block_size_does_not_change_the_samples(monkeypatch):
    P, gold = np.random.default_rng(0).dirichlet([1, 1, 1], 50), np.arange(50) % 3
    whole = metrics.resample([P], gold, resamples=20, seed=3)
    monkeypatch.setattr(metrics, "ENTRIES", 150)
    blocks = metrics.resample([P], gold, resamples=20, seed=3)
    np.testing.assert_allclose(whole.accuracy, blocks.accuracy)
    np.testing.assert_allclose(whole.log_loss, blocks.log_loss)


def test_the_interval_of_an_accuracy_is_about_the_binomial_one():
    n = 400
    P = one_hot(np.where(np.arange(n) < 300, 0, 1), 2)
    found = metrics.resample([P], np.zeros(n, np.int64), resamples=4000, seed=1)
    low, high = metrics.percentile_interval(found.accuracy, 0.95)[0]
    half = 1.96 * math.sqrt(0.75 * 0.25 / n)
    assert low == pytest.approx(0.75 - half, abs=0.006) and high == pytest.approx(0.75 + half, abs=0.006)


def test_equal_methods_differ_by_exactly_nothing_on_every_resample():
    P, gold = np.random.default_rng(0).dirichlet([1, 1], 30), np.arange(30) % 2
    found = metrics.resample([P, P.copy()], gold, resamples=50, seed=0)
    assert (found.accuracy[0] == found.accuracy[1]).all()


def test_percentiles():
    samples = np.arange(101.0)[None]
    assert metrics.percentile_interval(samples, 0.9).tolist() == [pytest.approx([5, 95])]
    assert np.isnan(metrics.percentile_interval(np.zeros((2, 0)), 0.9)).all()
