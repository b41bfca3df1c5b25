"""tasks.core.lf_analysis against matrices that a reader can count, and against counting pair by pair."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tasks.core import lf_analysis
from tasks.core.lf_analysis import GoldCounts

#              lf 0  1  2  3
L = np.array([[0, 0, -1, -1],
              [0, 1, -1, -1],
              [1, -1, -1, -1],
              [2, 2, 1, -1],
              [-1, -1, -1, -1]], dtype=np.int8)  # fmt: skip

matrices = arrays.arrays(np.int8, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.integers(-1, 2))


def test_counted_by_hand() -> None:
    assert lf_analysis.count_votes(L).tolist() == [4, 3, 1, 0]
    assert lf_analysis.measure_coverage(L).tolist() == [4 / 5, 3 / 5, 1 / 5, 0]
    assert lf_analysis.count_overlaps(L).tolist() == [3, 3, 1, 0]
    assert lf_analysis.count_conflicts(L).tolist() == [2, 2, 1, 0]
    assert lf_analysis.find_polarity(L, k=3).tolist() == [
        [True, True, True],
        [True, True, True],
        [False, True, False],
        [False, False, False],
    ]


def test_precision_counts_only_votes_on_items_with_gold() -> None:
    counts = lf_analysis.count_correct(L, np.array([0, 0, -1, 1, 2]))
    assert counts.votes.tolist() == [3, 3, 1, 0]
    assert counts.correct.tolist() == [2, 1, 1, 0]
    precision = lf_analysis.measure_precision(counts)
    assert precision[:3].tolist() == [2 / 3, 1 / 3, 1]
    assert math.isnan(precision[3])


def test_no_items_leave_shares_undefined() -> None:
    empty = np.zeros((0, 2), dtype=np.int8)
    counts = lf_analysis.count_all(empty, np.zeros(0, dtype=np.int8), k=2)
    for counted in (counts.votes, counts.overlaps, counts.conflicts):
        assert np.isnan(counts.share(counted)).all()
    assert np.isnan(lf_analysis.measure_coverage(empty)).all()


@given(matrices)
def test_overlaps_and_conflicts_equal_pairwise_counting(votes: npt.NDArray[np.int8]) -> None:
    n, m = votes.shape
    overlaps, conflicts = np.zeros(m), np.zeros(m)
    for i in range(n):
        for j in range(m):
            others = [votes[i, other] for other in range(m) if other != j and votes[i, other] != -1]
            if votes[i, j] != -1:
                overlaps[j] += bool(others)
                conflicts[j] += any(other != votes[i, j] for other in others)
    assert lf_analysis.count_overlaps(votes).tolist() == overlaps.tolist()
    assert lf_analysis.count_conflicts(votes).tolist() == conflicts.tolist()


def test_wilson_interval_of_a_known_case() -> None:
    # 8 of 10 at 95 %: solve (p - .8)^2 = z^2 p (1 - p) / 10 with z = 1.959964 by the quadratic formula.
    z2 = 1.959963984540054**2
    a, b, c = 1 + z2 / 10, -(2 * 0.8 + z2 / 10), 0.8**2
    root = math.sqrt(b * b - 4 * a * c)
    low, high = lf_analysis.wilson_interval(GoldCounts(votes=np.array([10]), correct=np.array([8])))
    assert low[0] == pytest.approx((-b - root) / (2 * a), abs=1e-12)
    assert high[0] == pytest.approx((-b + root) / (2 * a), abs=1e-12)


def test_wilson_interval_is_undefined_without_votes_and_stays_within_bounds() -> None:
    low, high = lf_analysis.wilson_interval(GoldCounts(votes=np.array([0, 5, 5]), correct=np.array([0, 0, 5])))
    assert math.isnan(low[0]) and math.isnan(high[0])
    assert low[1] == pytest.approx(0, abs=1e-12) and 0.3 < high[1] < 0.5
    assert high[2] == pytest.approx(1, abs=1e-12) and 0.5 < low[2] < 0.7
