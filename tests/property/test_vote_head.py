"""The vote head: reliability and skill counted by hand, and honest predictions of votes."""

import numpy as np
import pytest
from classifier_data import task

from tasks.core.classifiers.vote_head import LEAST_SKILL, fit_vote_head, measure_reliability, measure_skill


def test_reliability_by_hand():
    votes = np.int8([[0, 1], [0, -1], [-1, 1], [1, -1]])
    proba = np.array([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [1.0, 0.0]])
    found = measure_reliability(votes, proba)
    # LF 0 votes 0 where the head says .9 and .7; two votes at chance (1/2) join: 2.6 / 4, above chance .15 of .5.
    assert found[0, 0] == pytest.approx((2.6 / 4 - 0.5) / 0.5)
    # It votes 1 where the head says 0: below chance, so the floor.
    assert found[0, 1] == pytest.approx(0.02 / 0.5)
    assert np.isnan(found[1, 0])
    assert found[1, 1] == pytest.approx(0.02 / 0.5)  # .1 and .5, with 1 of two votes: 1.6 / 4 < .5


def test_votes_on_too_few_items_say_which_classes_there_are():
    votes = np.full((20, 2), -1, np.int8)
    votes[:7, 0], votes[3, 1] = 0, 2
    found = fit_vote_head(np.zeros((20, 2), np.float32), votes, 3)
    assert found.proba.tolist() == [[0.5, 0, 0.5]] * 20


@pytest.mark.parametrize(("vote", "expected"), [(-1, [1 / 3] * 3), (1, [0, 1, 0])], ids=["no vote", "one class"])
def test_votes_that_tell_nothing_apart(vote, expected):
    found = fit_vote_head(np.zeros((20, 2), np.float32), np.full((20, 3), vote, np.int8), 3)
    assert found.proba.tolist() == [expected] * 20


def test_a_class_without_votes_gets_nothing():
    features, votes, _ = task(k=2)
    found = fit_vote_head(features, votes, 3)
    assert found.proba[:, 2].tolist() == [0] * 200
    assert found.proba.sum(axis=1) == pytest.approx(np.ones(200))
    assert np.isnan(found.reliability[:, 2]).all()


def test_a_random_lf_is_less_reliable_than_a_good_one():
    features, votes, _ = task(n=400)
    rng = np.random.default_rng(9)
    votes[:, 3] = np.where(rng.random(400) < 0.3, rng.integers(0, 2, 400), -1)
    reliability = fit_vote_head(features, votes, 2).reliability
    assert reliability[:3].min() > 2 * reliability[3].max()


def test_votes_at_random_are_not_foretold():
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 2, (400, 1)).astype(np.int8)
    found = fit_vote_head(rng.normal(size=(400, 20)).astype(np.float32), votes, 2)
    # Half of 400, with a standard deviation of .025: an item's own vote has no part in its prediction.
    assert abs((found.proba.argmax(axis=1) == votes[:, 0]).mean() - 1 / 2) < 0.1


def test_skill_by_hand():
    votes = np.int8([[0, -1], [1, 1], [-1, 0]])
    proba = np.array([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5]])
    # Votes for class 0 where it has .8 and .5, for class 1 twice where it has .6; both classes weigh the same.
    loss = -(np.log(0.8 * 0.5) / 2 + np.log(0.6)) / 2
    assert measure_skill(votes, proba) == pytest.approx(1 - loss / np.log(2))
    assert measure_skill(votes, np.full((3, 2), 0.5)) == pytest.approx(0)
    assert measure_skill(votes[:1], proba[:1]) != measure_skill(votes[:1], proba[:1])  # one class: NaN


def test_embeddings_that_carry_votes_have_skill_and_random_ones_have_none():
    features, votes, _ = task(n=400)
    random = np.random.default_rng(5).normal(size=features.shape).astype(np.float32)
    good, none = (measure_skill(votes, fit_vote_head(x, votes, 2).proba) for x in (features, random))
    assert none < LEAST_SKILL / 2 < LEAST_SKILL * 2 < good
