"""tasks.core.descriptions: means, margins, cuts and agreement on numbers that can be counted by hand."""

import numpy as np
import pytest

from tasks.core.description_scores import DescriptionScores, fit_scores
from tasks.core.descriptions import (
    ENOUGH,
    Evidence,
    choose_cut,
    compare_neighbors,
    guess,
    measure_agreement,
    vote,
)

AXES = np.eye(3, dtype=np.float32)


def make_scores(vectors: np.ndarray, classes: list[int], offsets: list[float] | None = None) -> DescriptionScores:
    return DescriptionScores(
        vectors=vectors, offsets=np.array(offsets or [0.0] * len(vectors)), classes=np.array(classes)
    )


def make_evidence(agreement: list[float], kind: str = "votes", label: int = 0) -> Evidence:
    """Ten items a tenth of 100 with margins 100 down to 1; the tenth's agreement is that of `agreement`."""
    return Evidence(
        kind=kind,
        classes=np.full(100, label, np.int8),
        margins=np.arange(100, 0, -1, dtype=float),
        agreement=np.repeat(np.array(agreement, float), 10),
        chance=np.array([0.5, 0.5]),
    )


MARGINS = np.arange(1, 101, dtype=float)


def test_of_several_descriptions_the_nearest_counts() -> None:
    scores = make_scores(AXES, [0, 0, 2]).score_classes(AXES, 4)
    assert scores.tolist() == [[1, -np.inf, 0, -np.inf], [1, -np.inf, 0, -np.inf], [0, -np.inf, 1, -np.inf]]


def test_a_description_that_is_near_to_everything_wins_nothing() -> None:
    X = np.array([[3, 1, 0], [3, 0, 1]], np.float32)
    found = guess(X, fit_scores(X, AXES, np.array([0, 1, 2])), 3)
    assert found.classes.tolist() == [1, 2]
    assert found.margins == pytest.approx([0.5 / 10**0.5] * 2)


def test_descriptions_in_another_order_score_alike() -> None:
    rng = np.random.default_rng(1)
    X, V = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(6, 8)).astype(np.float32)
    classes, order = np.array([0, 0, 1, 1, 2, 2]), np.array([5, 3, 0, 2, 1, 4])
    one, other = fit_scores(X, V, classes), fit_scores(X, V[order], classes[order])
    assert np.array_equal(one.score_classes(X, 3), other.score_classes(X, 3))


def test_a_row_is_scored_alike_to_the_last_bit_whatever_stands_beside_it() -> None:
    X = np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32)
    V, of = X[:7] + 1, np.arange(7) % 5
    scores = fit_scores(X, V, of)
    whole = scores.score_classes(X, 5)
    assert np.array_equal(np.concatenate([scores.score_classes(X[i : i + 1], 5) for i in range(300)]), whole)
    assert np.array_equal(scores.score_classes(X[100:], 5), whole[100:])


def test_a_single_described_class_is_compared_with_its_mean() -> None:
    found = guess(AXES, make_scores(AXES[:1], [1], [0.25]), 2)
    assert (found.classes.tolist(), found.margins.tolist()) == ([1, 1, 1], [0.75, -0.25, -0.25])


def test_no_class_is_best_where_two_are_as_near() -> None:
    X = np.array([[1, 1, 0], [2, 1, 0], [1, 1 + 1e-7, 0], [0, 0, 1]], np.float32)
    for order in ([0, 1], [1, 0]):
        found = guess(X, make_scores(AXES[:2], order), 2)
        assert found.classes.tolist() == [-1, order[0], -1, -1]
        assert vote(found, np.zeros(2), False, np.zeros(4, bool)).tolist() == [-1, order[0], -1, -1]
        assert compare_neighbors(X, found, 2).chance.tolist() == [[0.25, 0], [0, 0.25]][order[0]]


@pytest.mark.parametrize(
    ("agreement", "share"),
    [
        ([0.9] * 10, 1.0),
        ([0.9, 0.9, 0.9, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], 0.3),
        ([0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 0.1),
        ([0.3] * 10, 0.1),  # below chance everywhere: the least there is, and muting is another's matter
        ([0.85, 0.95, 0.9, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], 0.3),  # what rises by accident is made level
    ],
)
def test_a_class_votes_as_far_down_as_agreement_lasts(agreement: list[float], share: float) -> None:
    cut = choose_cut(0, MARGINS, [make_evidence(agreement)])
    assert (cut.share, cut.evidence) == (share, "votes")
    assert cut.margin == 101 - 100 * share
    assert (np.diff(cut.curve) <= 1e-12).all()


def test_the_best_evidence_that_has_enough_items_counts() -> None:
    few = make_evidence([0.9] * 10, "gold")
    few = Evidence(
        kind="gold",
        classes=few.classes[: ENOUGH - 1],
        margins=few.margins[: ENOUGH - 1],
        agreement=few.agreement[: ENOUGH - 1],
        chance=few.chance,
    )
    other = make_evidence([0.9] * 10, label=1)
    neighbors = make_evidence([0.9] * 5 + [0.5] * 5, "neighbors")
    cut = choose_cut(0, MARGINS, [few, other, neighbors])
    assert (cut.evidence, cut.share) == ("neighbors", 0.5)
    assert choose_cut(0, MARGINS, [few, other]).share == 0.1
    assert choose_cut(0, MARGINS[:0], [neighbors]).margin == np.inf
    assert choose_cut(0, MARGINS[:1], []).margin == 1


def test_votes_stop_at_the_cut_and_fill_what_others_leave() -> None:
    found = guess(AXES, make_scores(AXES[:2], [0, 1]), 2)
    assert found.classes.tolist() == [0, 1, -1]
    cuts, others = np.array([0.5, 1.0]), np.array([True, False, False])
    assert vote(found, cuts, False, others).tolist() == [0, 1, -1]
    assert vote(found, cuts, True, others).tolist() == [-1, 1, -1]
    assert vote(found, np.full(2, np.inf), False, others).tolist() == [-1, -1, -1]


def test_neighbors_of_the_same_class_are_counted() -> None:
    X = np.repeat(AXES[:2], 6, axis=0)
    found = compare_neighbors(X, guess(X, make_scores(AXES[:2], [0, 1]), 2), 2)
    assert found.agreement.tolist() == [1.0] * 12
    assert found.chance.tolist() == [0.5, 0.5]
    alone = compare_neighbors(AXES[:1], guess(AXES[:1], make_scores(AXES[:2], [0, 1]), 2), 2)
    assert alone.agreement.tolist() == [1.0]


def test_agreement_is_that_above_chance() -> None:
    classes = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], np.int8)
    right = np.array([1.0] * 9 + [0.0])
    found = measure_agreement(right, classes, np.array([0.9, 0.1]))
    by_chance = 0.8 * 0.9 + 0.2 * 0.1
    assert found.kappa == pytest.approx((0.9 - by_chance) / (1 - by_chance))
    assert found.error == pytest.approx((0.9 * 0.1 / 10) ** 0.5 / (1 - by_chance))
    assert np.isnan(measure_agreement(right[:3], classes[:3], np.array([0.9, 0.1])).kappa)
