"""Worth of LFs on votes that a reader can count, and on made-up tasks with known liars."""

import itertools
from math import factorial

import numpy as np
import pytest

from tasks.core.classifiers.lf_worth import (
    LEAST_VOTES,
    MOST_ITEMS,
    LFWorth,
    draw_items,
    find_harmful,
    measure_worth,
    value_votes,
)
from tasks.core.types import GoldRows
from tasks.report.lf_harm import describe_harm


def make_task(n=400, m=6, k=2, right=0.85, coverage=0.4, seed=0):
    """Vectors of k blobs, and votes (n, m) that are right with chance `right` where they are cast."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    vectors = (np.eye(k)[truth] * 3 + rng.normal(size=(n, k))).astype(np.float32)
    said = np.where(rng.random((n, m)) < right, truth[:, None], (truth[:, None] + rng.integers(1, k, (n, m))) % k)
    return vectors, np.where(rng.random((n, m)) < coverage, said, -1).astype(np.int8), truth


def test_of_a_vote_alone_and_of_two_that_differ():
    # Alone: 1 - 1/2 if right, -1/2 if wrong. Of two that differ, the right one adds 1/2 as the first and 1/2 as the second
    # (from a share of 0 to one of 1/2), the other takes 1/2 either way.
    proba = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    counts = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert value_votes(proba, np.array([0, 1, 0, 1]), counts).tolist() == [1 / 2, -1 / 2, 1 / 2, -1 / 2]


@pytest.mark.parametrize("cast", [(0,), (0, 1), (0, 0, 1), (2, 0, 1, 0), (1, 1, 1, 2, 0)])
def test_it_is_the_shapley_value_of_shares(cast):
    k, proba = 3, np.array([0.5, 0.3, 0.2])

    def earn(coalition):
        return float(np.mean([proba[cast[j]] for j in coalition])) if coalition else 1 / k

    counts = np.bincount(cast, minlength=k).astype(float)
    for j in range(len(cast)):
        expected = 0.0
        for order in itertools.permutations(range(len(cast))):
            before = order[: order.index(j)]
            expected += (earn((*before, j)) - earn(before)) / factorial(len(cast))
        found = value_votes(proba[None], np.array([cast[j]]), counts[None])
        assert found[0] == pytest.approx(expected, abs=1e-12)


def test_shares_of_all_add_up_to_what_they_earn_together():
    rng = np.random.default_rng(0)
    cast = rng.integers(0, 4, 7)
    proba, counts = rng.dirichlet(np.ones(4)), np.bincount(cast, minlength=4).astype(float)
    found = value_votes(np.tile(proba, (7, 1)), cast, np.tile(counts, (7, 1)))
    assert found.sum() == pytest.approx(proba @ counts / 7 - 1 / 4, abs=1e-12)


@pytest.mark.parametrize("k", [2, 4])
def test_liars_are_below_zero_and_nobody_else(k):
    vectors, votes, _ = make_task(m=10, k=k)
    for lf in (2, 7):
        votes[:, lf] = np.where(votes[:, lf] < 0, -1, (votes[:, lf] + 1) % k)
    assert np.flatnonzero(measure_worth(vectors, votes, k).values < 0).tolist() == [2, 7]


@pytest.mark.parametrize("lies", [False, True])
def test_silence_elsewhere_does_not_speak_for_a_liar(lies):
    # Nine tenths of the last LF's votes are far from all others, where it is believed; near all others it contradicts them.
    vectors, votes, truth = make_task(n=300, m=5, k=2)
    far = np.concatenate([vectors, vectors[:270] + np.float32(50)])
    cast = np.full((570, 6), -1, np.int8)
    cast[:300, :5] = votes
    cast[:, 5] = np.where(np.arange(570) < 270, -1, np.r_[1 - truth if lies else truth, truth[:270]])
    worth = measure_worth(far, cast, 2)
    assert worth.values[5] > 0 and worth.is_refuted.tolist() == [False] * 5 + [lies]
    assert find_harmful(worth, cast, 2).tolist() == [5] * lies
    assert worth.said_instead.tolist() == [[-1, -1]] * 5 + [[1, 0] if lies else [-1, -1]]
    # Gold has the last word: three right votes of three leave it open whether more than half are right, four of four do not.
    for right, found in ((3, [5] * lies), (4, [])):
        rows = np.arange(270, 270 + right)
        assert (
            find_harmful(worth, cast, 2, GoldRows(rows=rows, classes=cast[rows, 5].astype(np.int64))).tolist() == found
        )


def test_what_others_say_instead_may_be_less_than_half():
    # Of eight classes others say the right one less than half of the time, and still far more often than the liar's.
    vectors, votes, truth = make_task(n=600, k=8, right=0.45)
    liar = np.where(np.random.default_rng(1).random(600) < 0.4, (truth + 1) % 8, -1).astype(np.int8)
    cast = np.column_stack([votes, liar])
    worth = measure_worth(vectors, cast, 8)
    assert find_harmful(worth, cast, 8).tolist() == [6]
    assert worth.said_instead[6].tolist() == [(c - 1) % 8 for c in range(8)]
    assert (worth.said_instead[:6] == -1).all()


@pytest.mark.parametrize(("believes", "found"), [("others", True), ("the liar", False), (None, False)])
def test_a_second_witness_refutes_who_is_outweighed(believes, found):
    # Nine tenths of the liar's votes are far from all others. Near them no class has half of what others say, which is no proof.
    vectors, votes, truth = make_task(n=300, m=5, k=8, right=0.45)
    far = np.concatenate([vectors, vectors[:270] + np.float32(50)])
    cast = np.full((570, 6), -1, np.int8)
    cast[:300, :5] = votes
    cast[:, 5] = np.where(np.arange(570) < 270, -1, np.r_[(truth + 1) % 8, truth[:270]])
    said = {"others": (cast[:, 5] - 1) % 8, "the liar": cast[:, 5] % 8}
    foretold = None if believes is None else np.eye(8)[said[believes]]
    worth = measure_worth(far, cast, 8, foretold=foretold)
    assert worth.values[5] > 0 and worth.is_refuted.tolist() == [False] * 5 + [found]


@pytest.mark.parametrize(("count", "found"), [(4, []), (5, [5])])
def test_a_few_contradictions_may_be_chance(count, found):
    vectors, votes, truth = make_task(n=300, m=5, k=2)
    rare = np.where(np.arange(300) < count, 1 - truth, -1).astype(np.int8)
    cast = np.column_stack([votes, rare])
    worth = measure_worth(vectors, cast, 2)
    assert worth.values[5] < 0 and find_harmful(worth, cast, 2).tolist() == found


def test_a_majority_of_liars_passes_for_the_truth():
    vectors, votes, _ = make_task(m=5)
    votes[:, :3] = np.where(votes[:, :3] < 0, -1, 1 - votes[:, :3])
    assert np.flatnonzero(measure_worth(vectors, votes, 2).values < 0).tolist() == [3, 4]


def test_a_lie_that_is_told_often_is_told_by_one_witness():
    # The liar casts most votes, so that counted vote by vote the others, whose votes are few, would be those that lie.
    vectors, votes, truth = make_task(m=8, coverage=0.08)
    votes[:, 0] = np.where(np.random.default_rng(1).random(len(truth)) < 0.95, 1 - truth, -1)
    votes[:, 1] = np.where(np.random.default_rng(2).random(len(truth)) < 0.05, truth, -1)
    assert np.flatnonzero(measure_worth(vectors, votes, 2).values < 0).tolist() == [0]


def test_the_order_of_lfs_and_of_items_changes_nothing():
    vectors, votes, _ = make_task()
    worth = measure_worth(vectors, votes, 2).values
    rng = np.random.default_rng(1)
    lfs, items = rng.permutation(6), rng.permutation(len(votes))
    assert measure_worth(vectors, votes[:, lfs], 2).values == pytest.approx(worth[lfs], abs=1e-12)
    assert measure_worth(vectors[items], votes[items], 2).values == pytest.approx(worth, abs=1e-6)


def test_copies_share_what_one_of_them_earned_and_do_not_vouch_for_each_other():
    vectors, votes, _ = make_task()
    liar = np.where(votes[:, 0] < 0, -1, 1 - votes[:, 0]).astype(np.int8)
    alone = measure_worth(vectors, np.column_stack([votes[:, 1:], liar]), 2).values
    copied = measure_worth(vectors, np.column_stack([votes[:, 1:], *[liar] * 12]), 2).values
    assert alone[5] < 0 and (copied[5:] < 0).all() and np.ptp(copied[5:]) == 0
    assert alone[5] / 4 < copied[5] < alone[5] / 12  # each of twelve has its part of a little more harm
    # The others earn less beside twelve that err, and still none of them harms.
    assert (copied[:5] > 0).all()


def test_what_nothing_tells_is_unknown():
    vectors, votes, _ = make_task()
    assert np.isnan(measure_worth(vectors, votes[:, :1], 2).values).all()
    assert np.isnan(measure_worth(vectors, np.full_like(votes, -1), 2).values).all()
    assert measure_worth(vectors, votes[:, :0], 2).values.tolist() == []
    silent = np.column_stack([votes, np.full(len(votes), -1, np.int8)])
    worth = measure_worth(vectors, silent, 2).values
    assert np.isnan(worth[6]) and worth[:6] == pytest.approx(measure_worth(vectors, votes, 2).values, abs=1e-12)
    assert np.isnan(measure_worth(vectors[:1], votes[:1], 2).values[votes[0] < 0]).all()


def test_rare_lfs_are_among_the_items_that_are_drawn():
    n = MOST_ITEMS + 500
    votes = np.full((n, 3), -1, np.int8)
    votes[:, 0], votes[:40, 1], votes[-5:, 2] = 0, 1, 1
    rows = draw_items(votes, seed=0)
    assert len(rows) == MOST_ITEMS and (np.diff(rows) > 0).all()
    drawn = (votes[rows] >= 0).sum(axis=0)
    assert drawn[1] >= LEAST_VOTES and drawn[2] == 5
    assert draw_items(votes[:10], seed=0).tolist() == list(range(10))


def test_the_worth_of_all_items_is_estimated_from_those_that_are_drawn(monkeypatch):
    vectors, votes, _ = make_task(n=1200)
    whole = measure_worth(vectors, votes, 2).values
    monkeypatch.setattr("tasks.core.classifiers.lf_worth.MOST_ITEMS", 400)
    assert measure_worth(vectors, votes, 2).values == pytest.approx(whole, rel=0.35)


def test_the_sentence_names_few_and_the_line_all():
    said = describe_harm([f"lf{number}" for number in range(7)], ["muted"])
    assert said is not None and "7 labeling functions" in said and "lf0, lf1, lf2, lf3, lf4 and 2 more" in said
    assert said.endswith("mute: [muted, lf0, lf1, lf2, lf3, lf4, lf5, lf6]")


def test_the_last_lf_of_a_class_is_not_named():
    votes = np.array([[0, 1, 1, 0, 2], [-1, 1, 1, 0, 0], [0, 1, 1, 0, 1]] * 2, dtype=np.int8)
    values = np.array([np.nan, -0.2, -0.1, 0.3, -0.5])
    worth, four = (
        LFWorth(values=values[:m], is_refuted=np.zeros(m, np.bool_), said_instead=np.full((m, 3), -1)) for m in (5, 4)
    )
    # lf4 is the first by harm per vote, and the only one for class 2; beside it, both of class 1 may go.
    assert find_harmful(worth, votes, 3).tolist() == [1, 2]
    assert find_harmful(four, votes[:, :4], 2).tolist() == [1], "lf2 is then the last for class 1"
