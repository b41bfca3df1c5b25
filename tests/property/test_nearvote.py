"""Nearvote: evidence counted by hand, balances met, copies of an LF harmless, and gold that does not vouch for itself."""

import numpy as np
import pytest
from classifier_data import compare_with_gold
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.classifiers.vote_head import VoteHead, fit_vote_head
from tasks.core.label_models.balancing import BALANCE_FACTOR, apply_balance, fit_balance
from tasks.core.label_models.gold_similarity import measure_similarity_to_gold
from tasks.core.label_models.nearvote import (
    NEAR_FLOOR,
    OFFSET_SPREAD,
    OWN_FLOOR,
    PRIOR_WEIGHTS,
    WEIGHT_SPREAD,
    LFColumn,
    PooledVotes,
    choose_bandwidth,
    find_largest_similarity,
    fit_nearvote,
    pool_votes,
    predict_nearvote,
    weigh_similarity,
)
from tasks.core.types import GoldRows

NAN = float("nan")


def match_class_balance(evidence, class_balance):
    return apply_balance(evidence, fit_balance(evidence, class_balance), class_balance)


def cut_columns(votes, similarity):
    return [LFColumn(votes=votes[:, lf], similarity=similarity[:, lf]) for lf in range(votes.shape[1])]


def column(votes, similarity):
    return LFColumn(votes=np.int8(votes), similarity=np.float32(similarity))


def gold_of(rows, classes):
    return GoldRows(rows=np.array(rows, np.int64), classes=np.array(classes, np.int64))


def head_of(proba, reliability):
    """A vote head that says `proba`; its regression, which nothing here asks, is of no features."""
    nothing = SoftmaxRegression(coef=np.zeros((0, proba.shape[1])), intercept=np.zeros(proba.shape[1]))
    return VoteHead(proba=proba, reliability=reliability, regression=nothing)


def random_evidence(seed, n=60, k=3, zero=0.0):
    """Pooled evidence and a vote head; a share `zero` of the cells is empty."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 3, (n, k)).astype(float)
    near = np.where(rng.random((n, k)) < zero, 0.0, rng.random((n, k)))
    proba = rng.dirichlet(np.ones(k), n)
    return PooledVotes(own=own, near=near, bandwidth=5.0), head_of(proba=proba, reliability=np.ones((4, k)))


def task(seed=0, n=120, k=2, m=5, d=6):
    """Clusters, one per class, with an array of votes, similarities to the nearest vote of each LF and class, truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    points = np.eye(d)[truth] + 0.5 * rng.normal(size=(n, d))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    right = np.where(rng.random((n, m)) < 0.85, truth[:, None], rng.integers(0, k, (n, m)))
    votes = np.where(rng.random((n, m)) < 0.35, right, -1).astype(np.int8)
    cosine = points @ points.T
    np.fill_diagonal(cosine, -np.inf)
    similarity = np.full((n, m, k), np.nan, np.float32)
    for j in range(m):
        for c in range(k):
            if (votes[:, j] == c).any():
                similarity[:, j, c] = cosine[:, votes[:, j] == c].max(axis=1)
    return points.astype(np.float32), votes, similarity, truth


def label(points, votes, similarity, k=2, gold=None, seed=0):
    """Nearvote from start to end, with a uniform class balance."""
    head = fit_vote_head(points, votes, k)
    columns = cut_columns(votes, similarity)
    pooled = pool_votes(columns, head.reliability, choose_bandwidth(find_largest_similarity(columns)))
    near_gold = None if gold is None else compare_with_gold(points, gold, k)
    return fit_nearvote(pooled, head, np.full(k, 1 / k), gold, near_gold, seed)


# Two LFs, three items, two classes. LF 0 votes 0 on item 0, LF 1 votes 1 on items 0 and 1.
COLUMNS = [
    column([0, -1, -1], [[NAN, NAN], [0.5, NAN], [1.0, NAN]]),
    column([1, 1, -1], [[NAN, NAN], [NAN, NAN], [NAN, 0.0]]),
]


def test_evidence_by_hand():
    found = pool_votes(COLUMNS, np.array([[0.5, NAN], [NAN, 0.25]]), 2.0)
    assert found.own.tolist() == [[0.5, 0.25], [0, 0.25], [0, 0]]
    assert found.near == pytest.approx(np.array([[0, 0], [0.5 * np.exp(-1), 0], [0.5, 0.25 * np.exp(-2)]]))


def test_similarities_where_the_lf_votes_are_not_read():
    one = pool_votes([column([0, -1], [[NAN, NAN], [0.5, 0.25]])], np.ones((1, 2)), 1.0)
    other = pool_votes([column([0, -1], [[0.9, 0.9], [0.5, 0.25]])], np.ones((1, 2)), 1.0)
    assert np.array_equal(one.near, other.near)


def test_a_kernel_is_one_at_the_item_itself_and_nothing_without_a_neighbor():
    # Rounding can put a cosine above 1; that must not count more than the item itself.
    found = weigh_similarity(np.float32([1.0000001, 1, 0, -1, NAN]), 3.0)
    assert found == pytest.approx([1, 1, np.exp(-3), np.exp(-6), 0])


def test_the_bandwidth_gives_the_median_item_the_fifth_power():
    # The nearest neighbors are .5 for item 1 and 1 for item 2; item 0 is voted on by both LFs. Median distance 1/4.
    assert choose_bandwidth(find_largest_similarity(COLUMNS)) == pytest.approx(5 / ((0.5 + 0) / 2))


def test_the_bandwidth_without_neighbors_or_among_copies():
    assert choose_bandwidth(find_largest_similarity([column([0, 1], np.ones((2, 2)))])) == 5
    assert choose_bandwidth(find_largest_similarity([column([-1, -1], np.ones((2, 2)))])) == 5 / 0.01


@pytest.mark.parametrize(
    ("columns", "reliability", "bandwidth", "message"),
    [
        ([], np.ones((0, 2)), 1.0, "got no LF"),
        (COLUMNS, np.ones((1, 2)), 1.0, "one per LF"),
        (COLUMNS, np.ones((3, 2)), 1.0, "one per LF"),
        (COLUMNS, np.ones((2, 3)), 1.0, "similarity of LF 0"),
        ([column([2], [[NAN, NAN]])], np.ones((1, 2)), 1.0, "votes of LF 0: got 2"),
        ([column([-2], [[NAN, NAN]])], np.ones((1, 2)), 1.0, "votes of LF 0: got -2"),
        (COLUMNS, np.ones((2, 2)), 0.0, "bandwidth: got 0.0"),
    ],
)
def test_bad_columns_are_named(columns, reliability, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        pool_votes(columns, reliability, bandwidth)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6))
def test_the_class_balance_is_met(seed, k):
    rng = np.random.default_rng(seed)
    evidence, balance = 0.01 + rng.random((50, k)), rng.dirichlet(np.full(k, 3.0))
    found = match_class_balance(evidence, balance)
    assert found.sum(axis=1) == pytest.approx(np.ones(50))
    assert found.mean(axis=0) == pytest.approx(balance, abs=1e-8)
    # Each class has one weight: odds between two items are those of the evidence.
    odds = found[0] / found[1] / (evidence[0] / evidence[1])
    assert odds == pytest.approx(np.full(k, odds[0]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_balance_does_not_care_about_order_or_scale(seed):
    rng = np.random.default_rng(seed)
    evidence, balance = random_evidence(seed)[0].near, rng.dirichlet(np.full(3, 3.0))
    rows, classes = rng.permutation(60), rng.permutation(3)
    found = match_class_balance(evidence, balance)
    turned = match_class_balance(evidence[rows][:, classes], balance[classes])
    assert turned == pytest.approx(found[rows][:, classes], abs=1e-9)
    scaled = match_class_balance(evidence * rng.uniform(0.5, 9, (60, 1)), balance)
    assert scaled == pytest.approx(found, abs=1e-9)


def test_items_without_evidence_get_the_balance():
    found = match_class_balance(np.array([[0.0, 0.0], [1, 3], [3, 1]]), np.array([0.2, 0.8]))
    assert found[0].tolist() == [0.2, 0.8]
    assert found[1:].mean(axis=0) == pytest.approx([0.2, 0.8])
    assert match_class_balance(np.zeros((2, 2)), np.array([0.2, 0.8])).tolist() == [[0.2, 0.8]] * 2


def test_a_class_without_evidence_leaves_its_part_to_the_others():
    found = match_class_balance(np.array([[1.0, 3, 0], [3, 1, 0]]), np.array([0.3, 0.3, 0.4]))
    assert found[:, 2].tolist() == [0, 0]
    assert found[:, :2].mean(axis=0) == pytest.approx([0.5, 0.5])


def test_a_balance_that_nothing_can_meet_still_ends_in_probabilities():
    found = match_class_balance(np.eye(2)[[0, 0, 0, 1]], np.array([0.5, 0.5]))
    assert found.tolist() == np.eye(2)[[0, 0, 0, 1]].tolist()


def test_a_balance_that_cannot_be_met_silences_no_row():
    # Nine of ten rows have evidence of class 0 alone, and class 0 is to have a thousandth.
    evidence = np.eye(2)[[0] * 9 + [1]]
    weights = fit_balance(evidence, np.array([0.001, 0.999]))
    assert weights[1] / weights[0] == pytest.approx(BALANCE_FACTOR**2)
    assert apply_balance(evidence, weights, np.array([0.001, 0.999])).tolist() == evidence.tolist()


@pytest.mark.parametrize("balance", [[0.5, 0.6], [1.5, -0.5], [0.2, 0.2]])
def test_a_class_balance_must_sum_to_one(balance):
    with pytest.raises(ValueError, match="sum to 1"):
        match_class_balance(np.ones((2, 2)), np.array(balance))


# Four unit vectors at 0, 60, 90 and 180 degrees.
CIRCLE = np.float32([[1, 0], [0.5, np.sqrt(0.75)], [0, 1], [-1, 0]])


def test_the_nearest_other_gold_row():
    found = compare_with_gold(CIRCLE, gold_of([0, 2, 3], [0, 0, 1]), 3)
    # Item 0 is gold of class 0: its nearest other is item 2, at 90 degrees. Item 3 has no other row of class 1.
    expected = [[0, -1, NAN], [np.sqrt(0.75), -0.5, NAN], [0, 0, NAN], [0, NAN, NAN]]
    assert found == pytest.approx(np.array(expected), abs=1e-6, nan_ok=True)


def test_similarity_to_gold_of_any_points_is_that_of_their_distance():
    points = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    found = compare_with_gold(points, gold_of([3], [1]), 2)
    expected = 1 - ((points - points[3]) ** 2).sum(axis=1) / 2
    others = np.arange(30) != 3
    assert found[others, 1] == pytest.approx(expected[others], abs=1e-4)
    assert np.isnan(found[3]).all() and np.isnan(found[:, 0]).all()


def test_a_gold_rows_own_class_does_not_move_its_similarities():
    points = task()[0]
    classes = np.arange(20) % 2
    turned = np.where(np.arange(20) == 7, 1 - classes, classes)
    one, other = (compare_with_gold(points, gold_of(range(20), c), 2) for c in (classes, turned))
    assert np.array_equal(one[7], other[7])
    assert not np.array_equal(one, other)


def test_without_gold_neighbors_and_head_have_equal_say():
    evidence, head = random_evidence(0)
    balance = np.array([0.5, 0.3, 0.2])
    found = fit_nearvote(evidence, head, balance, None, None)
    assert found.posterior is found.weak
    neighbors_only = match_class_balance(evidence.own + evidence.near, balance)
    assert found.weak.mean(axis=0) == pytest.approx(balance, abs=1e-8)
    share = found.weak / np.sqrt(neighbors_only * head.proba)
    share /= share[:, :1]
    assert share == pytest.approx(np.tile(share[0], (60, 1)))
    assert len(found.held_out) == 0 and np.isnan(found.weights).all()


@pytest.mark.parametrize(
    ("rows", "classes"), [(range(19), [0, 1] * 9 + [0]), (range(40), [1] * 40)], ids=["nineteen rows", "one class"]
)
def test_too_little_gold_counts_as_none(rows, classes):
    evidence, head = random_evidence(0)
    balance, gold = np.full(3, 1 / 3), gold_of(rows, classes)
    without = fit_nearvote(evidence, head, balance, None, None)
    found = fit_nearvote(evidence, head, balance, gold, np.zeros((60, 3), np.float32))
    assert np.array_equal(found.posterior, without.posterior)
    assert len(found.held_out) == 0


def test_gold_needs_similarities_to_gold():
    evidence, head = random_evidence(0)
    with pytest.raises(ValueError, match="gold_similarity"):
        fit_nearvote(evidence, head, np.full(3, 1 / 3), gold_of(range(20), np.arange(20) % 2), None)


def test_the_fitted_weights_are_where_the_stated_objective_has_no_slope():
    evidence, head = random_evidence(1)
    gold = gold_of(range(40), np.random.default_rng(2).integers(0, 3, 40))
    similarity = np.random.default_rng(3).uniform(-1, 1, (60, 3)).astype(np.float32)
    found = fit_nearvote(evidence, head, np.full(3, 1 / 3), gold, similarity)
    kernel = weigh_similarity(similarity, evidence.bandwidth)
    sources = [
        np.log(evidence.own / evidence.own.mean() + OWN_FLOOR),
        np.log(evidence.near / evidence.near.mean() + NEAR_FLOOR),
        np.log(head.proba + 1e-4),
        np.log(kernel / kernel.mean() + NEAR_FLOOR),
    ]

    def objective(v):
        scores = sum(w * source[:40] for w, source in zip(v[:4], sources, strict=True)) + v[4:]
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        loss = -np.log(probabilities[np.arange(40), gold.classes]).sum()
        loss += ((v[:4] - PRIOR_WEIGHTS) ** 2).sum() / (2 * WEIGHT_SPREAD**2)
        return loss + (v[4:] ** 2).sum() / (2 * OFFSET_SPREAD**2)

    fitted = np.r_[found.weights, found.offsets]
    assert np.abs(approx_fprime(fitted, objective)).max() < 0.01
    assert np.abs(approx_fprime(np.r_[PRIOR_WEIGHTS, np.zeros(3)], objective)).max() > 0.1


def test_a_held_out_posterior_does_not_know_its_own_class():
    # Classes along the folds' own shuffle, so that turning the row on the border leaves every fold as it is.
    evidence, head = random_evidence(0, k=2)
    similarity = np.random.default_rng(1).uniform(-1, 1, (60, 2)).astype(np.float32)
    order = np.random.default_rng(0).permutation(40)
    found = []
    for border in (20, 19):
        classes = np.ones(40, np.int64)
        classes[order[:border]] = 0
        gold = gold_of(range(40), classes)
        found.append(fit_nearvote(evidence, head, np.array([0.5, 0.5]), gold, similarity))
    turned = order[19]
    assert np.array_equal(found[0].held_out[turned], found[1].held_out[turned])
    assert not np.array_equal(found[0].held_out, found[1].held_out)
    assert np.array_equal(found[0].weak, found[1].weak)


@pytest.mark.parametrize("seed", range(3))
def test_gold_at_random_is_not_foretold(seed):
    points, votes, similarity, _ = task(seed, n=400)
    gold = gold_of(range(300), np.random.default_rng(100 + seed).integers(0, 2, 300))
    found = label(points, votes, similarity, gold=gold)
    # Half of 300, with a standard deviation of .03.
    assert abs((found.held_out.argmax(axis=1) == gold.classes).mean() - 1 / 2) < 0.12


def test_gold_teaches_which_sources_to_trust():
    # Votes are right or, in a contrary world, wrong; their weight must follow.
    evidence, head = random_evidence(0, n=200, k=2)
    head = head_of(proba=np.full((200, 2), 0.5), reliability=head.reliability)
    truth = (evidence.own[:, 1] > evidence.own[:, 0]).astype(np.int64)
    weights = [
        fit_nearvote(
            evidence, head, np.array([0.5, 0.5]), gold_of(range(100), classes[:100]), np.zeros((200, 2), np.float32)
        ).weights[0]
        for classes in (truth, 1 - truth)
    ]
    assert weights[1] < 0 < PRIOR_WEIGHTS[0] < weights[0]


@pytest.mark.parametrize("with_gold", [False, True])
def test_copies_of_all_lfs_turn_nothing(with_gold):
    # Independent LFs would multiply the odds: three copies, the third power. Here only shares count.
    points, votes, similarity, truth = task()
    gold = gold_of(range(50), truth[:50]) if with_gold else None
    one = label(points, votes, similarity, gold=gold)
    three = label(points, np.tile(votes, (1, 3)), np.tile(similarity, (1, 3, 1)), gold=gold)
    assert three.posterior == pytest.approx(one.posterior, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(2, 6))
def test_copies_of_one_lf_scale_its_share_at_most(seed, copies):
    _, votes, similarity, _ = task(seed, n=30)
    which = np.r_[np.arange(5), np.zeros(copies - 1, int)]
    one = pool_votes(cut_columns(votes, similarity), np.ones((5, 2)), 5.0)
    more = pool_votes(cut_columns(votes[:, which], similarity[:, which]), np.ones((len(which), 2)), 5.0)
    before, after = one.own + one.near, more.own + more.near
    assert (after >= before - 1e-12).all() and (after <= copies * before + 1e-12).all()


@pytest.mark.parametrize("with_gold", [False, True])
def test_the_order_of_items_and_lfs_does_not_matter(with_gold):
    points, votes, similarity, truth = task()
    rng = np.random.default_rng(5)
    rows, lfs = rng.permutation(120), rng.permutation(5)
    gold = gold_of(range(50), truth[:50]) if with_gold else None
    turned_gold = gold_of(np.argsort(rows)[:50], truth[:50]) if with_gold else None
    head = fit_vote_head(points, votes, 2)
    columns = cut_columns(votes, similarity)
    b = choose_bandwidth(find_largest_similarity(columns))
    balance = np.array([0.4, 0.6])
    near = compare_with_gold(points, gold, 2) if with_gold else None
    one = fit_nearvote(pool_votes(columns, head.reliability, b), head, balance, gold, near)
    columns = cut_columns(votes[rows][:, lfs], similarity[rows][:, lfs])
    assert choose_bandwidth(find_largest_similarity(columns)) == b
    turned_head = head_of(proba=head.proba[rows], reliability=head.reliability[lfs])
    turned = fit_nearvote(
        pool_votes(columns, turned_head.reliability, b),
        turned_head,
        balance,
        turned_gold,
        None if near is None else near[rows],
    )
    assert turned.posterior == pytest.approx(one.posterior[rows], abs=1e-6)


def test_the_order_of_classes_does_not_matter():
    evidence, head = random_evidence(3)
    balance, order = np.array([0.5, 0.3, 0.2]), [2, 0, 1]
    one = fit_nearvote(evidence, head, balance, None, None)
    turned = fit_nearvote(
        PooledVotes(own=evidence.own[:, order], near=evidence.near[:, order], bandwidth=5.0),
        head_of(proba=head.proba[:, order], reliability=head.reliability[:, order]),
        balance[order],
        None,
        None,
    )
    assert turned.posterior == pytest.approx(one.posterior[:, order], abs=1e-9)


def test_equal_input_gives_equal_bytes():
    points, votes, similarity, truth = task()
    gold = gold_of(range(50), truth[:50])
    one, two = (label(points, votes, similarity, gold=gold) for _ in range(2))
    assert one.posterior.tobytes() == two.posterior.tobytes()
    assert one.held_out.tobytes() == two.held_out.tobytes()


def test_clusters_are_labeled():
    points, votes, similarity, truth = task(n=300)
    assert (label(points, votes, similarity).posterior.argmax(axis=1) == truth).mean() > 0.9


# Rows that come later.


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), with_gold=st.booleans(), zero=st.sampled_from([0.0, 0.5, 1.0]))
def test_what_was_fitted_says_of_the_same_rows_what_the_fit_said(seed, with_gold, zero):
    evidence, head = random_evidence(seed, zero=zero)
    rng = np.random.default_rng(seed)
    balance = rng.dirichlet(np.ones(3))
    gold = gold_of(range(30), np.arange(30) % 3) if with_gold else None
    near = np.where(rng.random((60, 3)) < 0.2, NAN, rng.random((60, 3))).astype(np.float32) if with_gold else None
    fitted = fit_nearvote(evidence, head, balance, gold, near)
    some = np.sort(rng.permutation(60)[:7])
    part = PooledVotes(own=evidence.own[some], near=evidence.near[some], bandwidth=evidence.bandwidth)
    found = predict_nearvote(fitted.parameters, part, head.proba[some], None if near is None else near[some])
    assert found == pytest.approx(fitted.posterior[some], abs=1e-12)


def test_learned_weights_ask_for_the_nearest_gold():
    evidence, head = random_evidence(1)
    gold = gold_of(range(30), np.arange(30) % 3)
    fitted = fit_nearvote(evidence, head, np.full(3, 1 / 3), gold, np.zeros((60, 3), np.float32))
    with pytest.raises(ValueError, match="gold_similarity"):
        predict_nearvote(fitted.parameters, evidence, head.proba, None)


def test_similarity_to_gold_is_the_same_for_a_row_that_was_not_there():
    points, _, _, truth = task()
    gold = gold_of(range(50), truth[:50])
    whole = compare_with_gold(points, gold, 2)
    later = measure_similarity_to_gold(points[50:], points[:50], gold.classes, 2, "l2")
    assert later == pytest.approx(whole[50:], abs=1e-6)
    # A gold row, asked as if it were another item, finds itself.
    assert measure_similarity_to_gold(points[:1], points[:50], gold.classes, 2, "l2")[0, truth[0]] == pytest.approx(1)


def test_classes_that_an_lf_never_votes_need_no_column():
    _, votes, similarity, _ = task(k=3)
    votes, similarity = np.where(votes == 1, -1, votes).astype(np.int8), similarity[:, :, [0, 2]]
    full = np.full((*votes.shape, 3), np.nan, np.float32)
    full[:, :, [0, 2]] = similarity
    reliability = np.linspace(0.1, 1, 15).reshape(5, 3)
    short = [LFColumn(votes=votes[:, lf], similarity=similarity[:, lf], classes=np.array([0, 2])) for lf in range(5)]
    bandwidth = choose_bandwidth(find_largest_similarity(short))
    assert bandwidth == choose_bandwidth(find_largest_similarity(cut_columns(votes, full)))
    found, expected = (pool_votes(columns, reliability, bandwidth) for columns in (short, cut_columns(votes, full)))
    np.testing.assert_array_equal(found.own, expected.own)
    np.testing.assert_array_equal(found.near, expected.near)
