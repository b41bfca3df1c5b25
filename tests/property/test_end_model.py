"""The end model: class balance, folds, pooling with gold, copies of LFs, and rows that come later."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from classifier_data import end, gold_of, head_of, soften, task
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from scipy.special import entr, softmax

from tasks.core.classifiers.class_balance import estimate_class_balance, update_class_balance
from tasks.core.classifiers.end_model import fit_end_model, fit_gold_baseline, predict_end_model
from tasks.core.classifiers.folds import GOLD_FOLDS, LEAST_GOLD, assign_folds, is_enough_gold
from tasks.core.classifiers.pool import EXPERTS, POOL_SPREAD, PoolPrior, fit_pool_weights, weigh_experts
from tasks.core.classifiers.softmax import fit_softmax_regression, predict_log_proba
from tasks.core.classifiers.spectral import apply_spectral_map, fit_spectral_map
from tasks.core.classifiers.student import (
    STUDENT_FOLDS,
    STUDENT_PENALTIES,
    STUDENT_SHARE,
    choose_student_penalty,
)
from tasks.core.classifiers.vote_head import fit_vote_head
from tasks.core.copies import count_votes, group_copies
from tasks.core.default_lfs import find_default_lfs
from tasks.core.label_models.majority import MajorityVote
from tasks.core.label_models.nearvote import LFColumn, fit_nearvote, pool_votes
from tasks.core.ties import score_labels

ROOT = Path(__file__).resolve().parents[2]

EQUAL = PoolPrior(mean=np.full(3, 1 / 3), spread=POOL_SPREAD)


# The gold baseline.


def test_the_gold_baseline_learns_from_gold_alone():
    features, _, truth = task(k=2)
    found = np.exp(predict_log_proba(fit_gold_baseline(features, gold_of(range(50), truth[:50]), 3), features))
    assert found.sum(axis=1) == pytest.approx(np.ones(200))
    assert (found.argmax(axis=1) == truth)[50:].mean() > 0.8
    assert found[:, 2].max() < 0.2  # no gold of class 2


# Class balance, folds, pooling.


SILENT = np.full((2, 1), -1, np.int8)


def test_the_class_balance_by_hand():
    proba = np.array([[0.9, 0.1], [0.5, 0.5]])
    head = head_of(proba)
    assert estimate_class_balance(head, SILENT, None).tolist() == pytest.approx([0.7, 0.3])
    # Fewer than 20 rows per class are no proof.
    assert estimate_class_balance(head, SILENT, gold_of(range(39), [1] * 39)).tolist() == pytest.approx([0.7, 0.3])
    found = estimate_class_balance(head, SILENT, gold_of(range(40), [1] * 40))
    assert found == pytest.approx(np.array([2 * 0.7, 40 + 2 * 0.3]) / 42)


def test_a_hundred_rows_without_one_of_a_class_say_that_it_is_rare():
    for balance in ([0.5, 0.5], [0.82, 0.18]):
        found = update_class_balance(np.array(balance), np.zeros(100, np.int64))
        assert found[1] < 0.02
        assert found.sum() == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6), rows=st.integers(0, 200))
def test_gold_drawn_from_the_balance_of_the_votes_hardly_ever_refutes_it(seed, k, rows):
    rng = np.random.default_rng(seed)
    balance = rng.dirichlet(np.full(k, 3.0))
    refuted = sum(
        not np.array_equal(update_class_balance(balance, rng.choice(k, rows, p=balance)), balance) for _ in range(40)
    )
    # A likelihood ratio of 20 has a chance of at most 1/20 (Ville), four of them of at most 1/5: 8 of 40, and 3 sd.
    assert refuted <= 15


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6))
def test_an_updated_balance_lies_between_the_votes_and_gold(seed, k):
    rng = np.random.default_rng(seed)
    balance, classes = rng.dirichlet(np.full(k, 3.0)), rng.choice(k, 120, p=rng.dirichlet(np.full(k, 0.5)))
    counted = np.bincount(classes, minlength=k) / 120
    found = update_class_balance(balance, classes)
    assert (found > 0).all() and found.sum() == pytest.approx(1)
    assert (found >= np.minimum(balance, counted) - 1e-12).all()
    assert (found <= np.maximum(balance, counted) + 1e-12).all()


def test_a_default_lf_says_what_is_usual():
    # LF 0 says class 0 wherever LF 1 is silent: on nine of ten items, and nobody contradicts it.
    votes = np.full((20, 2), -1, np.int8)
    votes[:18, 0], votes[18:, 1] = 0, 1
    head = head_of(np.full((20, 2), 0.5))
    assert find_default_lfs(votes).tolist() == [0]
    assert estimate_class_balance(head, votes, None) == pytest.approx(np.array([0.9, 0.1]))
    near = np.tile(votes[:, :1], (1, 12))
    near[np.arange(12), np.arange(12)] = 1  # each contradicts it once, all together on 12 of 18
    assert find_default_lfs(np.hstack([votes, near])).tolist() == [0]
    votes[:2, 1] = 1  # contradicted on 2 of 18
    assert find_default_lfs(votes).tolist() == []
    assert estimate_class_balance(head, votes, None) == pytest.approx(np.array([0.5, 0.5]))


def test_no_class_is_impossible():
    head = head_of(np.array([[1.0, 0.0]]))
    assert estimate_class_balance(head, SILENT, None) == pytest.approx(np.array([1, 0.05]) / 1.05)


@settings(max_examples=50, deadline=None)
@given(classes=st.lists(st.integers(0, 4), max_size=60), folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_every_class_is_spread_over_the_folds(classes, folds, seed):
    classes = np.array(classes, np.int64)
    fold = assign_folds(classes, folds, seed)
    for group in (classes == c for c in range(5)):
        counts = np.bincount(fold[group], minlength=folds)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("classes", "expected"),
    [([0, 1] * 10, True), ([0] * 19, False), ([0, 1] * 9, False), ([1] * 40, False), ([], False)],
)
def test_enough_gold_is_twenty_rows_of_two_classes(classes, expected):
    assert LEAST_GOLD == 20 and GOLD_FOLDS == 5
    assert is_enough_gold(gold_of(range(len(classes)), classes)) is expected


def test_pooling_trusts_the_expert_that_foretells_gold():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 300)
    good = np.log(soften(classes, 3, 0.7))
    noise = np.log(rng.dirichlet(np.ones(3), 300))
    weights = fit_pool_weights(np.stack([good, noise, good], axis=2), classes, EQUAL)
    assert weights[0] == pytest.approx(weights[2], rel=1e-3)
    assert (weights >= 0).all() and weights[0] > 5 * weights[1]


def test_the_pools_weights_are_where_the_stated_objective_has_no_slope():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 50)
    experts = np.log(
        np.stack([rng.dirichlet(np.ones(3), 50) * 0.5 + 0.5 * soften(classes, 3, s) for s in (0.4, 0.6)], 2)
    )

    def objective(w):
        pooled = np.exp(experts @ w)
        pooled /= pooled.sum(axis=1, keepdims=True)
        return -np.log(pooled[np.arange(50), classes]).sum() + ((w - [0.2, 0.8]) ** 2).sum() / (2 * 0.3**2)

    prior = PoolPrior(mean=np.array([0.2, 0.8]), spread=0.3)
    assert np.abs(approx_fprime(fit_pool_weights(experts, classes, prior), objective)).max() < 0.01
    assert np.abs(approx_fprime(prior.mean, objective)).max() > 1


def test_without_rows_experts_have_the_say_of_the_prior():
    prior = PoolPrior(mean=np.array([0.1, 0.2, 0.3, 0.4]), spread=0.4)
    assert fit_pool_weights(np.zeros((0, 2, 4)), np.zeros(0, np.int64), prior) == pytest.approx(prior.mean)


@pytest.mark.parametrize("leader", ["label model", "student"])
def test_gold_earns_its_say_row_by_row(leader):
    say = [weigh_experts(rows, 3, leader) for rows in (0, 20, 100, 10**9)]
    led = [prior.mean[EXPERTS.index(leader)] for prior in say]
    assert led == sorted(led, reverse=True)
    assert led[0] == 3 / 4 and led[-1] == pytest.approx(1 / 4)
    assert [prior.mean.sum() for prior in say] == pytest.approx([1] * 4)
    assert say[0].spread == 0 and say[-1].spread == pytest.approx(POOL_SPREAD)


@pytest.mark.parametrize("seed", range(3))
def test_a_few_gold_rows_hardly_move_what_was_right_without_them(seed):
    features, votes, truth = task(seed, n=400, d=40)
    weak = soften(truth, share=0.9)
    without = end(features, votes, weak).posterior.argmax(axis=1) == truth
    rng = np.random.default_rng(seed)
    for _ in range(4):
        rows = rng.permutation(400)[:20]
        found = end(features, votes, weak, gold_of(rows, truth[rows]), weak).posterior.argmax(axis=1) == truth
        assert found.mean() >= without.mean() - 0.02


# The end model.


def say_as_student(found, features):
    """The student's probabilities."""
    raw = predict_log_proba(found.parameters.student, features)
    return softmax(found.parameters.confidence * raw, axis=1)


def test_without_gold_three_quarters_are_the_students_and_one_the_weak_labels():
    features, votes, truth = task()
    found = end(features, votes, soften(truth))
    pooled = say_as_student(found, features) ** 0.75 * soften(truth) ** 0.25
    assert found.posterior == pytest.approx(pooled / pooled.sum(axis=1, keepdims=True))
    assert (found.posterior.argmax(axis=1) == truth).mean() > 0.8
    assert np.isnan(found.pool_weights).all() and len(found.held_out) == 0


def test_confidence_follows_the_votes_and_moves_no_label():
    features, votes, truth = task(n=400)
    contrary = np.where(votes >= 0, np.random.default_rng(1).integers(0, 2, votes.shape), -1).astype(np.int8)
    sure, unsure = (say_as_student(end(features, L, soften(truth)), features) for L in (votes, contrary))
    assert np.array_equal(sure.argmax(axis=1), unsure.argmax(axis=1))
    assert sure.max(axis=1).mean() > unsure.max(axis=1).mean() + 0.1


@pytest.mark.parametrize("noise", [0.0, 0.5, 0.9, 1.0])
def test_penalties_that_cannot_change_the_choice_are_not_needed_for_it(noise):
    features, _, truth = task(n=300, k=3, d=20)
    rng = np.random.default_rng(0)
    weak = soften(np.where(rng.random(len(truth)) < noise, rng.integers(0, 3, len(truth)), truth), k=3)
    fold = np.random.default_rng(0).permutation(len(truth)) % STUDENT_FOLDS
    losses = np.zeros(len(STUDENT_PENALTIES))
    for held in range(STUDENT_FOLDS):
        kept = fold != held
        for number, penalty in enumerate(STUDENT_PENALTIES):
            strength = penalty * len(truth) / kept.sum()
            model = fit_softmax_regression(features[kept], weak[kept], np.ones(kept.sum()), strength)
            losses[number] -= (weak[~kept] * predict_log_proba(model, features[~kept])).sum()
    explained = entr(weak.mean(axis=0)).sum() - losses / len(truth)
    enough = np.flatnonzero(explained >= STUDENT_SHARE * max(explained.max(), 0))
    first = STUDENT_PENALTIES[enough[0] if len(enough) else 0]
    assert choose_student_penalty(features, weak) == first


@pytest.mark.parametrize(("rows", "one_class"), [(19, False), (60, True), (0, False)])
def test_too_little_gold_counts_as_none(rows, one_class):
    features, votes, truth = task()
    gold = gold_of(range(rows), np.zeros(rows, int) if one_class else truth[:rows])
    assert np.array_equal(
        end(features, votes, soften(truth), gold).posterior, end(features, votes, soften(truth)).posterior
    )


def test_gold_needs_the_label_model():
    features, votes, truth = task()
    with pytest.raises(ValueError, match="label_log_proba"):
        fit_end_model(features, votes, soften(truth), gold_of(range(40), truth[:40]), None, None)


def test_gold_mends_weak_labels_that_are_wrong():
    features, votes, truth = task(n=400)
    weak = soften(1 - truth)
    gold = gold_of(range(150), truth[:150])
    without, found = end(features, np.full_like(votes, -1), weak), end(features, np.full_like(votes, -1), weak, gold)
    assert (without.posterior.argmax(axis=1) == truth).mean() < 0.2
    assert (found.posterior.argmax(axis=1) == truth)[150:].mean() > 0.8


def test_gold_has_no_part_in_the_student():
    features, votes, truth = task()
    one, other = (end(features, votes, soften(truth), gold_of(range(60), c)) for c in (truth[:60], 1 - truth[:60]))
    assert np.array_equal(say_as_student(one, features), say_as_student(other, features))
    assert not np.array_equal(one.posterior, other.posterior)


@pytest.mark.parametrize("seed", range(3))
def test_gold_at_random_is_not_foretold_where_it_is_held_out(seed):
    features, votes, truth = task(seed, n=400, d=40)
    gold = gold_of(range(300), np.random.default_rng(100 + seed).integers(0, 2, 300))
    found = end(features, votes, soften(truth), gold)
    # Half of 300, with a standard deviation of .03, and four weights that saw all of it.
    assert abs((found.held_out.argmax(axis=1) == gold.classes).mean() - 1 / 2) < 0.12


@pytest.mark.parametrize("gold_rows", [0, 60])
def test_the_order_of_items_hardly_matters(gold_rows):
    features, votes, truth = task()
    rows = np.random.default_rng(1).permutation(200)
    gold = gold_of(range(gold_rows), truth[:gold_rows]) if gold_rows else None
    turned = gold_of(np.argsort(rows)[:gold_rows], truth[:gold_rows]) if gold_rows else None
    one = end(features, votes, soften(truth), gold).posterior
    other = end(features[rows], votes[rows], soften(truth)[rows], turned).posterior
    assert other == pytest.approx(one[rows], abs=0.005)


def test_the_order_of_classes_hardly_matters():
    features, votes, truth = task(k=3)
    order = np.array([2, 0, 1])
    turned = np.where(votes >= 0, np.argsort(order)[votes], -1).astype(np.int8)
    one = end(features, votes, soften(truth, 3)).posterior
    other = end(features, turned, soften(truth, 3)[:, order]).posterior
    assert other == pytest.approx(one[:, order], abs=0.005)


@pytest.mark.parametrize("gold_rows", [0, 60])
def test_copies_of_all_lfs_hardly_matter(gold_rows):
    features, votes, truth = task()
    gold = gold_of(range(gold_rows), truth[:gold_rows]) if gold_rows else None
    one, other = (end(features, L, soften(truth), gold).posterior for L in (votes, np.tile(votes, (1, 3))))
    assert other == pytest.approx(one, abs=0.01)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("gold_rows", [0, 60])
def test_every_item_gets_probabilities(k, gold_rows):
    features, votes, truth = task(k=k)
    gold = gold_of(range(gold_rows), truth[:gold_rows]) if gold_rows else None
    found = end(features, votes, soften(truth, k), gold)
    assert found.posterior.sum(axis=1) == pytest.approx(np.ones(200))
    assert np.isfinite(found.posterior).all()


def draw_many_classes(k, n, share, *, seed=0):
    """Features, votes of one LF that is right four times in five on `share` of n items of k classes, and the truth."""
    rng = np.random.default_rng(seed)
    sizes = 1 / np.arange(1, k + 1)
    truth = rng.choice(k, n, p=sizes / sizes.sum())
    points = rng.normal(size=(k, 32))[truth] + 1.6 * rng.normal(size=(n, 32))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    votes = np.where(rng.random(n) < 0.8, truth, rng.choice(k, n, p=sizes / sizes.sum()))
    votes = np.where(rng.random(n) < share, votes, -1).astype(np.int8)[:, None]
    return apply_spectral_map(fit_spectral_map(points), points), votes, truth


def label_without_gold(features, votes, k, gold=None):
    """The end model's posterior where neighbors say nothing; `gold` counts in the class balance alone."""
    head = fit_vote_head(features, votes, k)
    silent = np.full((len(votes), k), np.nan, np.float32)
    columns = [LFColumn(votes=votes[:, lf], similarity=silent) for lf in range(votes.shape[1])]
    labels = fit_nearvote(
        pool_votes(columns, head.reliability, 5.0), head, estimate_class_balance(head, votes, gold), None, None
    )
    return fit_end_model(features, votes, labels.weak, None, None, None).posterior


@pytest.mark.parametrize("seed", range(3))
def test_a_class_of_one_percent_is_found_rare_from_gold_without_it(seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random(2000) < 0.01).astype(int)
    points = (np.eye(8)[truth] + 0.25 * rng.normal(size=(2000, 8))).astype(np.float32)
    right = np.where(rng.random((2000, 4)) < 0.9, truth[:, None], 1 - truth[:, None])
    votes = np.where(rng.random((2000, 4)) < 0.5, right, -1).astype(np.int8)
    features = apply_spectral_map(fit_spectral_map(points), points)
    gold = gold_of(np.flatnonzero(truth == 0)[:100], np.zeros(100, int))
    majority = score_labels(MajorityVote(class_balance=np.full(2, 0.5), lfs=4).predict_proba(votes), truth).mean()
    found = label_without_gold(features, votes, 2, gold).argmax(axis=1)
    assert (found == truth).mean() > majority  # .99 against .90; .50 with the votes' own balance


@pytest.mark.parametrize(("k", "n", "share"), [(20, 2000, 1.0), (40, 2500, 0.5)])
def test_one_lf_of_many_classes_is_no_worse_than_a_classifier_of_its_votes(k, n, share):
    features, votes, truth = draw_many_classes(k, n, share)
    posterior = label_without_gold(features, votes, k)
    voted = np.flatnonzero(votes[:, 0] >= 0)
    plain = fit_softmax_regression(features[voted], np.eye(k)[votes[voted, 0]], np.ones(len(voted)), 1.0)
    accuracy = (posterior.argmax(axis=1) == truth).mean()
    assert accuracy >= (predict_log_proba(plain, features).argmax(axis=1) == truth).mean() - 0.01
    assert accuracy > (votes[:, 0] == truth).mean() + 0.03


def test_exact_copies_of_an_lf_change_no_label():
    features, votes, _ = task(n=400)
    alone = label_without_gold(features, votes, 2)
    copied = np.hstack([votes, *[votes[:, :1]] * 11])
    assert np.array_equal(label_without_gold(features, copied, 2), alone)


def test_copies_are_grouped_with_what_they_count_for():
    rng = np.random.default_rng(0)
    votes = rng.integers(-1, 2, (400, 4)).astype(np.int8)
    near = votes[:, 0].copy()
    near[:20] = -1
    groups = group_copies(np.column_stack([votes, votes[:, 2], near]), 2)
    assert [group.lfs for group in groups] == [(0, 5), (2, 4)]
    assert 1 < groups[0].worth < 1.2 and 0.95 < groups[1].worth <= 1


@pytest.mark.parametrize("block", [7, 4096])
def test_votes_are_counted_block_by_block_as_all_at_once(block, monkeypatch):
    rng = np.random.default_rng(0)
    votes = np.where(rng.random((50, 6)) < 0.1, 0, rng.integers(-1, 2, (50, 1))).astype(np.int8)
    either = [[((votes[:, [a, b]] >= 0).any(axis=1)).sum() for b in range(6)] for a in range(6)]
    same = [[((votes[:, a] == votes[:, b]) & (votes[:, a] >= 0)).sum() for b in range(6)] for a in range(6)]
    expected = [(a, b) for a in range(6) for b in range(a) if same[a][b] >= 0.8 * either[a][b]]
    monkeypatch.setattr("tasks.core.copies.ROWS", (block, block))
    linked = {lf for group in group_copies(votes, 2) for lf in group.lfs}
    assert linked == {lf for pair in expected for lf in pair} and len(linked) > 0
    assert count_votes(votes, 2).tolist() == [[(votes[:, lf] == c).sum() for c in range(2)] for lf in range(6)]


@pytest.mark.parametrize("lf", [0, 3])
def test_near_copies_of_an_lf_hardly_count(lf):
    rng = np.random.default_rng(0)
    n = 1500
    truth = rng.integers(0, 2, n)
    points = rng.normal(size=(n, 16)).astype(np.float32)
    points[:, 0] += np.where(truth, 1, -1)
    features = apply_spectral_map(fit_spectral_map(points), points)
    votes = np.full((n, 4), -1, np.int8)
    for j, (right, covers) in enumerate([(0.85, 0.6)] * 3 + [(0.55, 0.9)]):
        said = np.where(rng.random(n) < right, truth, 1 - truth)
        votes[:, j] = np.where(rng.random(n) < covers, said, -1)
    copies = np.tile(votes[:, [lf]], (1, 11))
    redrawn = (copies >= 0) & (rng.random(copies.shape) < 0.05)
    copies[redrawn] = rng.integers(0, 2, redrawn.sum())
    alone = (label_without_gold(features, votes, 2).argmax(axis=1) == truth).mean()
    among = (label_without_gold(features, np.hstack([votes, copies]), 2).argmax(axis=1) == truth).mean()
    assert among >= alone - 0.03


@pytest.mark.parametrize("with_gold", [True, False])
def test_how_many_rows_are_added_up_at_a_time_hardly_matters(with_gold, monkeypatch):
    """Of more than `WIDE` items, sums differ in their last digits, and nothing else."""
    features, votes, truth = task(n=500, k=3, m=6)
    gold = gold_of(range(60), truth[:60]) if with_gold else None
    weak = soften(truth, 3)
    whole = label_without_gold(features, votes, 3, gold), end(features, votes, weak, gold).posterior
    wide = [
        module for name, module in sys.modules.items() if name.startswith("tasks.core.") and hasattr(module, "WIDE")
    ]
    assert len(wide) >= 5
    for module in wide:
        monkeypatch.setattr(module, "WIDE", 64)
    for one, other in zip(
        whole, (label_without_gold(features, votes, 3, gold), end(features, votes, weak, gold).posterior), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-5) and (one.argmax(axis=1) == other.argmax(axis=1)).all()


_SCRIPT = """
import hashlib, sys
import numpy as np
from tasks.core.classifiers.class_balance import estimate_class_balance
from tasks.core.classifiers.end_model import fit_end_model, fit_gold_baseline
from tasks.core.classifiers.spectral import apply_spectral_map, fit_spectral_map
from tasks.core.classifiers.vote_head import fit_vote_head
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold
from tasks.core.label_models.nearvote import (
    LFColumn, choose_bandwidth, find_largest_similarity, fit_nearvote, pool_votes
)
from tasks.core.types import GoldRows
rng = np.random.default_rng(0)
n, d, m = 3000, 64, 6
truth = rng.integers(0, 3, n)
points = (np.eye(d)[truth] + 0.4 * rng.normal(size=(n, d))).astype(np.float32)
points /= np.linalg.norm(points, axis=1, keepdims=True)
votes = np.where(rng.random((n, m)) < 0.3, truth[:, None], -1).astype(np.int8)
similarity = rng.uniform(0, 1, (n, m, 3)).astype(np.float32)
gold = GoldRows(rows=np.arange(200), classes=truth[:200])
features = apply_spectral_map(fit_spectral_map(points), points)
head = fit_vote_head(features, votes, 3)
columns = [LFColumn(votes=votes[:, lf], similarity=similarity[:, lf]) for lf in range(m)]
pooled = pool_votes(columns, head.reliability, choose_bandwidth(find_largest_similarity(columns)))
near = measure_similarity_to_gold(points, points[:200], gold.classes, 3, "cosine", np.r_[:200, [-1] * 2800])
balance = estimate_class_balance(head, votes, gold)
label = fit_nearvote(pooled, head, balance, gold, near)
end = fit_end_model(features, votes, label.weak, gold, np.log(label.posterior), np.log(label.held_out))
only = fit_gold_baseline(points, gold, 3).coef
print(hashlib.sha256(b"".join(x.tobytes() for x in (features, label.posterior, end.posterior, only))).hexdigest())
"""


def test_a_class_without_gold_keeps_its_weak_probability():
    features, votes, truth = task(k=3)
    rows = np.flatnonzero(truth < 2)[:60]
    weak = soften(truth, 3)
    found = end(features, votes, weak, gold_of(rows, truth[rows]))
    assert found.posterior[:, 2].tolist() == weak[:, 2].tolist()
    assert found.posterior.sum(axis=1) == pytest.approx(np.ones(200))
    assert found.held_out[:, 2].tolist() == weak[rows, 2].tolist()


def test_threads_change_no_byte():
    found = []
    for threads in ("1", "2", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", _SCRIPT]
        found.append(
            subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        )
    assert len(found[0]) == 65
    assert found[0] == found[1] == found[2]


# Rows that come later.


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 4), gold_rows=st.sampled_from([0, 5, 60]))
def test_what_was_fitted_says_of_the_same_rows_what_the_fit_said(seed, k, gold_rows):
    features, votes, truth = task(seed, k=k)
    weak, label = soften(truth, k, 0.7), soften((truth + 1) % k, k, 0.6)
    gold = gold_of(range(gold_rows), truth[:gold_rows]) if gold_rows else None
    fitted = end(features, votes, weak, gold, label)
    some = np.sort(np.random.default_rng(seed).permutation(200)[:9])
    found = predict_end_model(fitted.parameters, features[some], votes[some], np.log(label[some]), weak[some])
    assert found == pytest.approx(fitted.posterior[some], abs=1e-5)


@pytest.mark.parametrize("k", [2, 3])
def test_the_heads_regression_says_what_the_head_says_where_nothing_votes(k):
    features, votes, _ = task(k=k)
    votes[votes == k - 1] = -1  # nobody votes for the last class
    head = fit_vote_head(features, votes, k)
    silent = (votes < 0).all(axis=1)
    assert 20 < silent.sum() < 180
    found = np.exp(predict_log_proba(head.regression, features))
    assert found[silent] == pytest.approx(head.proba[silent], abs=1e-6)
    assert (found[:, k - 1] == 0).all()
    # Where LFs vote, the head was held out; the regression was not, and agrees on all but a few.
    assert (found[~silent].argmax(axis=1) == head.proba[~silent].argmax(axis=1)).mean() > 0.9


def test_a_model_that_learned_from_gold_asks_for_the_label_model():
    features, votes, truth = task()
    fitted = end(features, votes, soften(truth), gold_of(range(50), truth[:50]))
    with pytest.raises(ValueError, match="label_log_proba"):
        predict_end_model(fitted.parameters, features, votes, None, None)
