"""Label models on matrices a reader can count by hand, on planted truth, and against slow oracles."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threadpoolctl import threadpool_limits

from tasks.core.label_models.base import count_joint_votes
from tasks.core.label_models.choice import (
    CANDIDATES,
    Options,
    choose_kind,
    count_class_balance,
    fit_label_model,
    from_json,
)
from tasks.core.label_models.dawid_skene import fit_dawid_skene
from tasks.core.label_models.generative import fit_generative
from tasks.core.label_models.majority import fit_majority_vote, fit_weighted_majority_vote
from tasks.core.label_models.triplets import fit_flyingsquid
from tasks.core.patterns import count_votes_alike, find_patterns
from tasks.core.ties import pick_labels, score_labels
from tasks.core.types import GoldRows

EVEN = np.array([0.5, 0.5])


def make_votes(rows):
    return np.array(rows, dtype=np.int8)


def plant(n, precisions, coverage, k=2, seed=0):
    """Classes drawn evenly, and LFs that vote independently: right with their precision, else evenly wrong."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, k, n)
    right = rng.random((n, len(precisions))) < precisions
    wrong = (classes[:, None] + rng.integers(1, k, right.shape)) % k
    cast = rng.random(right.shape) < coverage
    return np.where(cast, np.where(right, classes[:, None], wrong), -1).astype(np.int8), classes


def make_gold(rows, classes):
    return GoldRows(rows=np.array(rows, dtype=np.intp), classes=np.array(classes, dtype=np.int64))


votes_matrices = hnp.arrays(np.int8, st.tuples(st.integers(1, 40), st.integers(1, 20)), elements=st.integers(-1, 2))


@given(votes_matrices)
def test_patterns_are_the_distinct_rows(votes):
    found = find_patterns(votes)
    assert np.array_equal(found.votes.T[found.inverse], votes)
    expected, counts = np.unique(votes, axis=0, return_counts=True)
    order = np.lexsort(found.votes[::-1])
    assert np.array_equal(found.votes.T[order], expected)
    assert np.array_equal(found.counts[order], counts)


@given(votes_matrices, st.randoms(use_true_random=False))
def test_patterns_do_not_depend_on_the_order_of_rows(votes, random):
    order = list(range(len(votes)))
    random.shuffle(order)
    one, other = find_patterns(votes), find_patterns(votes[order])
    assert np.array_equal(one.votes, other.votes)
    assert np.array_equal(one.inverse[order], other.inverse)


@given(votes_matrices, st.lists(st.integers(0, 40), max_size=6))
def test_rows_counted_part_by_part_are_those_counted_at_once(votes, cuts):
    edges = [0, *sorted(min(cut, len(votes)) for cut in cuts), len(votes)]
    found = count_votes_alike(votes[a:b] for a, b in itertools.pairwise(edges))
    expected = find_patterns(votes)
    assert np.array_equal(found.votes, expected.votes.T)
    assert np.array_equal(found.items, expected.counts)


@pytest.mark.parametrize("coverage", [1.0, 0.02], ids=["dense", "sparse"])
def test_counts_are_those_of_a_loop_over_rows(coverage):
    votes, _ = plant(60, np.full(40, 0.7), coverage, k=3)
    votes = np.concatenate([votes, votes[:20]])
    counts = count_joint_votes(votes, 3)
    for a, (i, c) in enumerate(zip(counts.lf, counts.vote, strict=True)):
        for b, (j, d) in enumerate(zip(counts.lf, counts.vote, strict=True)):
            assert counts.together[a, b] == sum(row[i] == c and row[j] == d for row in votes)


def test_majority_vote_shares_ties_and_falls_back_to_the_class_balance():
    votes = make_votes([[0, 0, 1], [0, 1, -1], [2, 1, 0], [-1, -1, -1]])
    balance = np.array([0.2, 0.3, 0.5])
    expected = [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0.2, 0.3, 0.5]]
    assert np.array_equal(fit_majority_vote(votes, balance).predict_proba(votes), expected)


def test_weighted_majority_vote_weighs_by_precision_on_gold():
    # LF 0 is right on 8 of 8 gold rows, LFs 1 and 2 on 4 of 8, which is a guess.
    classes = [0, 1] * 4
    votes = make_votes([[c, 0, 1] for c in classes])
    model = fit_weighted_majority_vote(votes, EVEN, make_gold(range(8), classes))
    # Smoothed by 10 votes at 3/4, halfway between chance 1/2 and certainty.
    assert model.precision[:, 0].tolist()[:2] == [(8 + 7.5) / 18, (4 + 7.5) / 18]
    assert pick_labels(model.predict_proba(make_votes([[1, 0, -1], [0, -1, 1], [-1, -1, -1]])), EVEN).tolist() == [
        1,
        0,
        0,
    ]


def test_weighted_majority_vote_weighs_by_agreement_without_gold():
    votes, _ = plant(2000, np.array([0.9, 0.9, 0.9, 0.55]), 0.8)
    learned = np.nanmean(fit_weighted_majority_vote(votes, EVEN).precision, axis=1)
    assert learned[3] < learned[:3].min()


def test_flyingsquid_gives_a_row_without_votes_the_class_balance_once():
    votes, _ = plant(500, np.full(5, 0.8), 0.5)
    balance = np.array([0.2, 0.8])
    given = fit_flyingsquid(votes, balance).predict_proba(make_votes([[-1] * 5]))
    assert given[0] == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize("estimate", ["mean", "median"])
@pytest.mark.parametrize("k", [2, 3])
def test_flyingsquid_finds_planted_precisions(estimate, k):
    precisions = np.array([0.9, 0.8, 0.7, 0.6, 0.85, 0.75])
    votes, classes = plant(40_000, precisions, 0.5, k=k)
    model = fit_flyingsquid(votes, np.full(k, 1 / k), estimate=estimate)
    assert np.abs(model.precision - precisions[:, None]).max() < 0.03
    majority = fit_majority_vote(votes, np.full(k, 1 / k))
    better = score_labels(model.predict_proba(votes), classes) - score_labels(majority.predict_proba(votes), classes)
    assert better.mean() > 0


def test_flyingsquid_finds_precisions_of_labeling_functions_that_vote_one_class_only():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 40_000)
    polarity = np.array([0, 0, 0, 1, 1, 1])
    precisions = np.array([0.95, 0.8, 0.65, 0.95, 0.8, 0.65])
    # Votes on 30 % of the items: P(vote | own class) = .6 precision, P(vote | other) = .6 (1 - precision).
    rate = 0.6 * np.where(classes[:, None] == polarity, precisions, 1 - precisions)
    votes = np.where(rng.random(rate.shape) < rate, polarity, -1).astype(np.int8)
    learned = fit_flyingsquid(votes, EVEN).precision[np.arange(6), polarity]
    assert np.abs(learned - precisions).max() < 0.03


def test_flyingsquid_does_not_lose_sparse_labeling_functions():
    # 5 % coverage, 300 rows: two LFs meet on less than one row on average.
    votes, classes = plant(300, np.full(20, 0.8), 0.05)
    model = fit_flyingsquid(votes, EVEN)
    assert np.nanmean(np.abs(model.precision - 0.8)) < 0.1
    gain = score_labels(model.predict_proba(votes), classes).mean() - 0.5
    majority = score_labels(fit_majority_vote(votes, EVEN).predict_proba(votes), classes).mean() - 0.5
    assert gain > 0.95 * majority


def test_flyingsquid_reports_a_labeling_function_worse_than_random_and_a_lone_vote_still_decides():
    votes, _ = plant(20_000, np.array([0.9, 0.8, 0.8, 0.7, 0.2]), 0.5)
    model = fit_flyingsquid(votes, EVEN)
    accused = [finding.lfs for finding in model.findings if "worse than random" in finding.message]
    assert set(accused) == {(4,)}
    assert model.predict_proba(make_votes([[-1, -1, -1, -1, 1]]))[0, 1] > 0.5


def test_only_gold_makes_a_vote_count_against_its_class():
    votes, classes = plant(20_000, np.array([0.9, 0.8, 0.8, 0.7, 0.2]), 0.5)
    model = fit_flyingsquid(votes, EVEN, gold=make_gold(range(300), classes[:300]))
    assert model.predict_proba(make_votes([[-1, -1, -1, -1, 1]]))[0, 1] < 0.5


@pytest.mark.parametrize("kind", ["weighted_majority_vote", "flyingsquid", "dawid_skene"])
def test_three_copies_of_a_labeling_function_count_once_and_are_reported(kind):
    votes, _ = plant(3000, np.array([0.7, 0.8, 0.75, 0.8]), 0.6)
    copied = votes[:, [0, 0, 0, 1, 2, 3]]
    once = fit_label_model(kind, votes, EVEN)
    thrice = fit_label_model(kind, copied, EVEN)
    assert [finding.lfs for finding in thrice.findings if "identical" in finding.message] == [(0, 1, 2)]
    assert thrice.predict_proba(copied) == pytest.approx(once.predict_proba(votes), abs=1e-4)


@pytest.mark.parametrize(
    ("k", "said"),
    [
        (3, "class {2}"),
        (5, "3 classes: {2}, {3}, {4}"),
        (30, f"28 classes: {', '.join(f'{{{c}}}' for c in range(2, 22))} and 8 more"),
    ],
)
def test_classes_without_votes_are_reported_in_a_line(k, said):
    votes, _ = plant(500, np.full(3, 0.8), 0.6)
    model = fit_flyingsquid(votes, np.full(k, 1 / k))
    assert [finding.message for finding in model.findings if "class" in finding.message] == [
        f"no labeling function votes for {said}"
    ]


def test_near_copies_are_reported():
    votes, _ = plant(3000, np.array([0.7, 0.8, 0.75]), 0.6)
    near = np.concatenate([votes, votes[:, :1]], axis=1)
    near[:10, 3] = 1 - np.maximum(near[:10, 3], 0)
    assert (0, 3) in [finding.lfs for finding in fit_flyingsquid(near, EVEN).findings]


@pytest.mark.parametrize("kind", CANDIDATES)
def test_silent_labeling_functions_and_classes_are_reported_and_harmless(kind):
    votes, _ = plant(500, np.full(4, 0.8), 0.6)
    votes[:, 3] = -1
    model = fit_label_model(kind, votes, np.array([0.4, 0.4, 0.2]))
    messages = {finding.message: finding.lfs for finding in model.findings}
    assert messages["never votes on the items the model is fitted on"] == (3,)
    assert "no labeling function votes for class {2}" in messages
    posterior = model.predict_proba(make_votes([[-1, -1, -1, 2], [-1, -1, -1, -1], [0, 0, 0, -1]]))
    assert np.isfinite(posterior).all()
    assert posterior.sum(axis=1) == pytest.approx([1, 1, 1])
    assert np.isnan(model.precision[3]).all()


@pytest.mark.parametrize("kind", CANDIDATES)
@pytest.mark.parametrize("m", [1, 2])
def test_fewer_than_three_labeling_functions(kind, m):
    votes, classes = plant(200, np.full(m, 0.9), 1.0)
    model = fit_label_model(kind, votes, EVEN)
    assert score_labels(model.predict_proba(votes), classes).mean() > 0.8
    if kind == "flyingsquid":
        assert any("fewer than three" in finding.message for finding in model.findings)


@pytest.mark.parametrize("kind", CANDIDATES)
def test_votes_of_nobody_leave_the_class_balance(kind):
    votes = np.full((10, 3), -1, dtype=np.int8)
    posterior = fit_label_model(kind, votes, np.array([0.3, 0.7])).predict_proba(votes)
    assert posterior == pytest.approx(np.tile([0.3, 0.7], (10, 1)))


def test_a_labeling_function_that_always_votes_the_same_says_nothing():
    votes, _ = plant(1000, np.full(4, 0.8), 0.5)
    votes[:, 3] = 1
    posterior = fit_flyingsquid(votes, EVEN).predict_proba(make_votes([[-1, -1, -1, 1]]))
    assert posterior[0] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("kind", ["flyingsquid", "dawid_skene"])
def test_three_hundred_votes_do_not_underflow(kind):
    votes, classes = plant(400, np.full(300, 0.9), 1.0)
    posterior = fit_label_model(kind, votes, EVEN).predict_proba(votes)
    assert np.isfinite(posterior).all()
    assert np.array_equal(pick_labels(posterior, EVEN), classes)


def test_dawid_skene_finds_planted_precisions_and_sides_with_them():
    precisions = np.array([0.95, 0.6, 0.6, 0.6, 0.9])
    votes, classes = plant(5000, precisions, 0.9, k=3)
    balance = np.full(3, 1 / 3)
    model = fit_dawid_skene(votes, balance)
    assert np.abs(model.precision - precisions[:, None]).max() < 0.05
    majority = fit_majority_vote(votes, balance).predict_proba(votes)
    assert score_labels(model.predict_proba(votes), classes).mean() > score_labels(majority, classes).mean() + 0.03


def test_dawid_skene_hears_the_silence_of_labeling_functions_that_vote_one_class():
    # Three LFs vote on most items of class 1 and on nothing else, so silence means class 0.
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 2000)
    votes = np.where((classes[:, None] == 1) & (rng.random((2000, 3)) < 0.8), 1, -1).astype(np.int8)
    posterior = fit_dawid_skene(votes, EVEN).predict_proba(make_votes([[-1, -1, -1]]))
    assert posterior[0, 0] > 0.9


def test_gold_rows_anchor_dawid_skene():
    # Every LF is wrong nine times in ten; only gold can know.
    votes, classes = plant(2000, np.full(5, 0.1), 1.0)
    blind = fit_dawid_skene(votes, EVEN).predict_proba(votes)
    anchored = fit_dawid_skene(votes, EVEN, make_gold(range(1000), classes[:1000])).predict_proba(votes)
    assert score_labels(blind, classes)[1000:].mean() < 0.1
    assert score_labels(anchored, classes)[1000:].mean() > 0.9


@pytest.mark.parametrize("kind", CANDIDATES)
@pytest.mark.parametrize("k", [2, 4])
def test_neither_row_order_nor_threads_change_a_model(kind, k):
    votes, classes = plant(700, np.linspace(0.6, 0.9, 12), 0.6, k=k)
    balance = count_class_balance(classes[:100], k)
    gold = make_gold(range(100), classes[:100])
    order = np.random.default_rng(1).permutation(len(votes))
    place = np.argsort(order)
    moved = make_gold(place[:100], classes[:100])
    with threadpool_limits(1):
        one = fit_label_model(kind, votes, balance, gold=gold)
    with threadpool_limits(2):
        other = fit_label_model(kind, votes[order], balance, gold=moved)
    assert one.to_json() == other.to_json()
    assert np.array_equal(one.predict_proba(votes)[order], other.predict_proba(votes[order]))


ALL_OPTIONS = [Options(), Options(estimate="median"), Options(mode="reference"), Options(dependencies=((0, 1),))]


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("known", [0, 30])
def test_label_models_need_to_know_how_often_rows_occur_and_no_more(k, known):
    """Of rows that occur more than once, and of gold rows, which occur once each, whatever votes they have."""
    votes, classes = plant(900, np.linspace(0.6, 0.9, 5), 0.4, k=k)
    balance, gold = count_class_balance(classes[:100], k), make_gold(range(known), classes[:known])
    alike = count_votes_alike([votes[known:]])
    assert len(alike.items) < 700
    counted, items = np.concatenate([alike.votes, votes[:known]]), np.r_[alike.items, np.ones(known, np.int64)]
    moved = make_gold(len(alike.items) + np.arange(known), classes[:known])
    for options in ALL_OPTIONS if k == 2 else ALL_OPTIONS[:3]:
        for kind in CANDIDATES:
            one = fit_label_model(kind, votes, balance, gold=gold, options=options)
            other = fit_label_model(kind, counted, balance, gold=moved, options=options, items=items)
            assert one.to_json() == other.to_json()
        one = choose_kind(votes, None, k, gold=gold, options=options)
        assert one == choose_kind(counted, None, k, gold=moved, options=options, items=items)
    everyone = count_votes_alike([votes])
    one, other = fit_generative(votes, balance), fit_generative(everyone.votes, balance, items=everyone.items)
    assert one.to_json() == other.to_json()


def test_sequences_are_of_single_items():
    votes, _ = plant(60, np.full(4, 0.7), 0.5)
    with pytest.raises(ValueError, match="in the order of time"):
        fit_label_model(
            "flyingsquid", votes, EVEN, options=Options(length=2), items=np.ones(len(votes), dtype=np.int64)
        )


@pytest.mark.parametrize("kind", CANDIDATES)
@pytest.mark.parametrize("mode", ["corrected", "reference"])
@pytest.mark.parametrize("k", [2, 3])
def test_a_model_survives_json_exactly(kind, mode, k):
    votes, _ = plant(300, np.full(5, 0.7), 0.5, k=k)
    votes[:, 4] = np.minimum(votes[:, 4], 0)
    model = fit_label_model(kind, votes, np.full(k, 1 / k), options=Options(mode=mode))
    again = from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
    assert np.array_equal(again.predict_proba(votes), model.predict_proba(votes))
    assert np.array_equal(again.precision, model.precision, equal_nan=True)
    assert again.findings == model.findings


def test_a_model_refuses_votes_of_other_labeling_functions():
    votes, _ = plant(50, np.full(4, 0.7), 0.5)
    for kind in CANDIDATES:
        with pytest.raises(ValueError, match="votes of 3 labeling functions for a label model of 4"):
            fit_label_model(kind, votes, EVEN).predict_proba(votes[:, :3])


def test_of_equal_probabilities_the_larger_class_wins_then_the_first():
    ties = np.array([[0.4, 0.4, 0.2], [0.1 + 0.2, 0.4, 0.3], [0.3, 0.1 + 0.2, 0.4 - 1e-16], [0.5, 0.0, 0.5]])
    assert pick_labels(ties, np.array([0.2, 0.3, 0.5])).tolist() == [1, 1, 2, 2]
    assert pick_labels(ties[:1], np.array([0.25, 0.25, 0.5])).tolist() == [0]


def test_a_tie_scores_one_over_the_classes_that_share_it():
    shared = np.array([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])
    assert score_labels(shared, np.array([0, 2, 2, 1])).tolist() == [1 / 2, 1 / 3, 1, 0]


def test_class_balance_counts_gold_and_one_of_each():
    assert count_class_balance(np.array([0, 0, 0, 2]), 3).tolist() == [4 / 7, 1 / 7, 2 / 7]


def test_auto_takes_a_better_model_and_says_how_good_each_was():
    # One LF is always right, four guess: majority vote is outvoted.
    votes, classes = plant(2000, np.array([1.0, 0.5, 0.5, 0.5, 0.5]), 1.0)
    found = choose_kind(votes, None, 2, gold=make_gold(range(200), classes[:200]), options=Options())
    assert found.kind != "majority_vote"
    assert found.accuracy[found.kind] > found.accuracy["majority_vote"] + 0.2


def test_auto_keeps_majority_vote_where_nothing_beats_it():
    votes, classes = plant(500, np.full(3, 1.0), 1.0)
    found = choose_kind(votes, None, 2, gold=make_gold(range(100), classes[:100]), options=Options())
    assert found.kind == "majority_vote"
    assert set(found.accuracy.values()) == {1.0}


def test_auto_says_when_gold_is_too_little_to_check():
    votes, classes = plant(100, np.full(3, 0.8), 1.0)
    found = choose_kind(votes, None, 2, gold=make_gold(range(19), classes[:19]), options=Options())
    assert found.accuracy is None


def test_cross_fitting_learns_nothing_from_the_rows_it_judges():
    # Each gold row has an LF of its own, which always says 1; gold is 0 on every other row. All that could tell right
    # from wrong votes is the very row held out.
    votes = np.full((40, 40), -1, dtype=np.int8)
    np.fill_diagonal(votes, 1)
    classes = np.arange(40) % 2
    gold = make_gold(range(40), classes)
    found = choose_kind(votes, None, 2, gold=gold, options=Options())
    assert max(found.accuracy.values()) <= 0.5


@settings(max_examples=30, deadline=None)
@given(votes_matrices, st.sampled_from(CANDIDATES), st.integers(0, 5))
def test_every_posterior_is_a_distribution(votes, kind, seed):
    rng = np.random.default_rng(seed)
    balance = rng.dirichlet(np.ones(3) * 2) * 0.97 + 0.01
    rows = rng.permutation(len(votes))[: len(votes) // 2]
    gold = make_gold(rows, rng.integers(0, 3, len(rows)))
    for anchors in (None, gold):
        posterior = fit_label_model(kind, votes, balance, gold=anchors).predict_proba(votes)
        assert (posterior >= 0).all()
        assert posterior.sum(axis=1) == pytest.approx(np.ones(len(votes)))


def test_a_model_of_many_classes_is_short_and_says_the_same():
    rng = np.random.default_rng(0)
    k, m = 40, 60
    classes, truth = rng.integers(0, k, m), rng.integers(0, k, 2000)
    votes = np.where((truth[:, None] == classes) & (rng.random((2000, m)) < 0.7), classes, -1).astype(np.int8)
    model = fit_label_model("flyingsquid", votes, np.full(k, 1 / k))
    text = json.dumps(model.to_json(), allow_nan=False)
    assert len(text) < 3 * m * k * k, "three characters a score, which take some twenty"
    again = from_json(json.loads(text))
    assert np.array_equal(again.scores, model.scores) and np.array_equal(
        again.precision, model.precision, equal_nan=True
    )
