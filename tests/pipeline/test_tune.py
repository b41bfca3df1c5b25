"""Thresholds are chosen on valid gold alone, extend only where that helps, and say how they came about."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from extension_data import write_neighbors, write_project
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_datasets import DATASETS, needs_datasets

from tasks import extend as extend_stage
from tasks import tune
from tasks.core import thresholds as thresholds_module
from tasks.core.offers import ClassPoll, JudgedItems, TopPoll, count_votes, rank_offers
from tasks.core.thresholds import (
    choose_thresholds,
    draw_hidden,
    extend,
    fit_global,
    fit_per_lf,
    hide_votes,
    propose_thresholds,
    score_votes,
    trace_curve,
)
from tasks.errors import DataError, ParamsError
from tasks.params import ExtendParams, Metric, TuneMethod, TuneMetric, TuneParams
from tasks.tables import schemas
from tasks.tables.parquet import write_table
from tasks.tables.paths import (
    EMBEDDING_FITNESS,
    EMBEDDING_FITNESS_CURVES,
    EMBEDDINGS,
    EXTENDED_VOTES,
    NEIGHBORS,
    THRESHOLD_CURVES,
    THRESHOLDS,
    VALID_GOLD,
)

CLASSES = ("no", "yes")
INF = np.inf


def evidence_of(L, vote, similarity, gold, k=2, objective="accuracy", weight=None):
    return JudgedItems(
        L=np.int8(L),
        vote=np.int8(vote),
        similarity=np.float32(similarity),
        gold=np.int8(gold),
        weight=np.ones(len(gold)) if weight is None else np.array(weight),
        k=k,
        objective=objective,
    )


def random_evidence(seed, objective, n=40, m=3, k=3):
    rng = np.random.default_rng(seed)
    L = rng.integers(-1, k, (n, m))
    offered = (L < 0) & (rng.random((n, m)) < 0.8)
    return evidence_of(
        L,
        np.where(offered, rng.integers(0, k, (n, m)), -1),
        np.where(offered, np.round(rng.random((n, m)), 1), np.nan),
        rng.integers(0, k, n),
        k,
        objective,
        rng.uniform(0.5, 2, n),
    )


def score(L, gold, k=2, objective="accuracy", weight=None):
    """The score of votes that nothing is offered to extend."""
    judged = evidence_of(L, np.full(np.shape(L), -1), np.full(np.shape(L), np.nan), gold, k, objective, weight)
    return score_votes(judged, judged.L)


def test_ties_and_empty_rows_count_in_equal_parts():
    L = np.int8([[0, 1, -1], [-1, -1, -1], [1, 1, 0], [0, -1, -1]])
    assert score(L, [0, 0, 1, 1]) == (1 / 2 + 1 / 2 + 1 + 0) / 4


def test_macro_f1_averages_the_classes_in_gold():
    L = np.int8([[0], [0], [1], [2]])
    # class 0: 1 of 2 predicted, 1 of 1 found: 2/3; class 1: 1 of 1 predicted, 1 of 3 found: 1/2; class 2: not in gold.
    assert score(L, [0, 1, 1, 1], 3, "macro_f1") == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_weights_are_numbers_of_items():
    L, gold = [[0], [0], [1]], [0, 1, 1]
    for objective in ("accuracy", "macro_f1"):
        once = score([*L, L[2], L[2]], [*gold, gold[2], gold[2]], 2, objective)
        assert score(L, gold, 2, objective, [1.0, 1.0, 3.0]) == pytest.approx(once)


def test_candidates_start_with_do_not_extend_and_end_with_everything():
    similarity = np.float32([0.5, 0.25, np.nan, 0.75])
    found = propose_thresholds(similarity, 20)
    assert found[0] == INF
    assert (np.diff(found) < 0).all()
    assert [(similarity > one).sum() for one in found] == [0, 1, 2, 3]


def test_candidates_without_neighbors():
    assert propose_thresholds(np.float32([np.nan]), 20).tolist() == [INF]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["accuracy", "macro_f1"]))
def test_the_curve_equals_scoring_each_threshold_anew(seed, objective):
    judged = random_evidence(seed, objective)
    thresholds = np.array([0.5, INF, 0.2])
    candidates = np.array([INF, 0.8, 0.5, 0.1, -1])
    for lf in range(3):
        curve = trace_curve(judged, thresholds, lf, candidates)
        for one, score in zip(candidates, curve, strict=True):
            L = extend(judged, np.where(np.arange(3) == lf, one, thresholds))
            assert score == pytest.approx(score_votes(judged, L), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["accuracy", "macro_f1"]))
def test_a_fit_never_loses_on_what_it_saw(seed, objective):
    judged = random_evidence(seed, objective)
    candidates = [propose_thresholds(judged.similarity[:, lf], 5) for lf in range(3)]
    start, free = np.full(3, INF), np.array([True, False, True])
    before = score_votes(judged, judged.L)
    for fit in (fit_per_lf, fit_global):
        tried = [candidates[0]] * 3 if fit is fit_global else candidates
        (thresholds,) = fit(judged, np.ones((1, len(judged.gold)), bool), tried, start, free)
        assert thresholds[1] == INF
        assert score_votes(judged, extend(judged, thresholds)) >= before - 1e-9


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), together=st.integers(1, 4))
def test_votes_are_counted_as_if_extended_anew_for_each_threshold(seed, together):
    judged = random_evidence(seed, "accuracy")
    seen = judged.similarity[~np.isnan(judged.similarity)].astype(np.float64)  # an equal threshold lets nothing pass
    candidates = np.array([INF, *np.unique([0.8, 0.5, 0.1, -1.0, *seen[:2]])[::-1]])
    start, free = np.array([INF, 0.4, INF]), np.array([True, False, True])
    entries = together * judged.k * len(judged.gold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thresholds_module, "ENTRIES", entries)
        found = np.concatenate(list(thresholds_module.count_at_each(judged, candidates, start, free)))
    for one, counts in zip(candidates, found, strict=True):
        votes = extend(judged, np.where(free, one, start))
        np.testing.assert_array_equal(counts, [(votes == label).sum(axis=1) for label in range(judged.k)])


# An LF that votes on nothing; its neighbors are right above .5 and wrong below.
RIGHT_ABOVE = evidence_of(
    np.full((40, 1), -1), [[i % 2] for i in range(40)], np.linspace(0.99, 0.01, 40)[:, None],
    [i % 2 if i < 20 else 1 - i % 2 for i in range(40)],
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(2, 6), parts=st.integers(1, 3))
def test_what_an_offer_changes_needs_no_look_at_every_class(seed, k, parts):
    rng = np.random.default_rng(seed)
    n, m = 20, 6
    L, vote = (rng.integers(-1, k, (n, m)).astype(np.int8) for _ in range(2))
    similarity = np.where(vote < 0, np.nan, rng.integers(0, 9, (n, m)) / 10).astype(np.float32)
    gold = rng.integers(0, k, n).astype(np.int8)
    judged = JudgedItems(L=L, vote=vote, similarity=similarity, gold=gold, weight=np.ones(n), k=k, objective="accuracy")
    thresholds = rng.choice([0.25, 0.45, 0.65, INF], (parts, m))
    counts = np.stack([count_votes(extend(judged, row), k) for row in thresholds])
    every, few = ClassPoll(judged, counts.copy()), TopPoll(judged, counts.copy())
    for lf in rng.integers(0, m, 12):
        ranked = rank_offers(judged, lf)
        changes = [poll.try_offers(ranked, thresholds[:, lf]) for poll in (every, few)]
        np.testing.assert_array_equal(*changes)
        thresholds[:, lf] = rng.choice([0.25, 0.45, 0.65, INF], parts)
        for poll in (every, few):
            poll.take_offers(ranked, thresholds[:, lf])


@pytest.mark.parametrize("fit", [fit_per_lf, fit_global])
def test_the_threshold_between_right_and_wrong_is_found(fit):
    candidates = [propose_thresholds(RIGHT_ABOVE.similarity[:, 0], 20)]
    choice = choose_thresholds(RIGHT_ABOVE, fit, candidates, np.array([INF]), np.array([True]))
    assert RIGHT_ABOVE.similarity[20, 0] < choice.thresholds[0] < RIGHT_ABOVE.similarity[19, 0]
    assert (choice.before, choice.after) == (1 / 2, (20 + 20 / 2) / 40)


def test_useless_neighbors_are_not_extended():
    rng = np.random.default_rng(0)
    n, m = 100, 10
    judged = evidence_of(
        np.full((n, m), -1), rng.integers(0, 2, (n, m)), rng.random((n, m)), np.where(np.arange(n) % 2, 0, 1)
    )
    candidates = [propose_thresholds(judged.similarity[:, lf], 20) for lf in range(m)]
    (seen,) = fit_per_lf(judged, np.ones((1, n), bool), candidates, np.full(m, INF), np.ones(m, bool))
    assert score_votes(judged, extend(judged, seen)) > 0.6  # noise can be fitted ...
    choice = choose_thresholds(judged, fit_per_lf, candidates, np.full(m, INF), np.ones(m, bool))
    assert choice.after < 0.6  # ... but the left-out items are not fooled


def test_equal_scores_prefer_less_extension():
    # Both thresholds below .9 add one right vote; the lower one adds a vote that changes nothing.
    judged = evidence_of([[-1, -1], [-1, 0]], [[0, -1], [0, -1]], [[0.9, np.nan], [0.5, np.nan]], [0, 0])
    tried = [np.array([INF, 0.7, 0.1]), np.array([INF])]
    found = fit_per_lf(judged, np.ones((1, 2), bool), tried, np.full(2, INF), np.ones(2, bool))
    assert found.tolist() == [[0.7, INF]]


def test_one_vote_of_each_item_is_hidden():
    L = np.int8([[-1, 1], [-1, -1], [0, 1], [0, -1]])
    hidden = draw_hidden(L)
    assert hidden.rows.tolist() == [0, 2, 3]
    assert (hidden.lf[0], hidden.lf[2]) == (1, 0)


def test_every_vote_of_an_item_is_equally_likely_to_be_hidden():
    L = np.tile(np.int8([1, -1, 0, 0]), (4000, 1))
    counts = np.bincount(draw_hidden(L).lf, minlength=4)
    assert counts[1] == 0
    # A third of 4,000, with a standard deviation of 30.
    assert np.abs(counts[[0, 2, 3]] - 4000 / 3).max() < 120


def test_what_a_hidden_votes_own_lf_says_is_gone():
    judged = evidence_of(
        [[0, 1, -1], [1, -1, 0]], [[-1, -1, 1], [-1, 0, -1]], [[np.nan, np.nan, 0.5], [np.nan, 0.25, np.nan]], [-1, -1]
    )
    found = hide_votes(judged, np.array([1, 0]))
    assert found.gold.tolist() == [1, 1]
    assert found.L.tolist() == [[0, -1, -1], [-1, -1, 0]]
    assert found.vote.tolist() == judged.vote.tolist()
    assert found.weight.tolist() == [1, 1]
    # An offer by the hidden LF itself, which only a broken search would make, is gone as well.
    offered = hide_votes(evidence_of([[1, 0]], [[0, -1]], [[0.5, np.nan]], [-1]), np.array([0]))
    assert offered.vote.tolist() == [[-1, -1]] and np.isnan(offered.similarity).all()


def test_hidden_votes_of_each_class_weigh_the_same():
    nothing = np.full((4, 1), -1)
    judged = evidence_of([[0], [2], [0], [0]], nothing, np.full((4, 1), np.nan), [-1] * 4, k=3)
    assert hide_votes(judged, np.zeros(4, np.int64)).weight == pytest.approx([4 / 2 / 3, 4 / 2, 4 / 2 / 3, 4 / 2 / 3])


def test_the_most_frequent_class_for_everything_is_no_gain():
    # Three of four items are of class 0; an LF that is always near enough to offer 0 foretells nothing.
    truth = np.where(np.arange(400) % 4, 0, 1)
    offered = np.stack([np.full(400, -1), np.zeros(400, int)], axis=1)
    similarity = np.where(offered < 0, np.nan, 0.5)
    judged = evidence_of(np.stack([truth, np.full(400, -1)], axis=1), offered, similarity, np.full(400, -1))
    hidden = hide_votes(judged, np.zeros(400, np.int64))
    candidates = [propose_thresholds(hidden.similarity[:, lf], 20) for lf in range(2)]
    for weight, extended in ((np.ones(400), True), (hidden.weight, False)):
        judged = replace(hidden, weight=weight)
        choice = choose_thresholds(judged, fit_per_lf, candidates, np.full(2, INF), np.ones(2, bool))
        assert np.isfinite(choice.thresholds).tolist() == [False, extended]


def test_agreement_extends_what_foretells_other_votes_and_not_what_contradicts_them():
    # LF 0 votes on everything, rightly; LF 1 is offered rightly and LF 2 wrongly, so that one foretells LF 0's votes.
    n = 200
    truth = np.arange(n) % 2
    judged = evidence_of(
        np.stack([truth, np.full(n, -1), np.full(n, -1)], axis=1),
        np.stack([np.full(n, -1), truth, 1 - truth], axis=1),
        np.stack([np.full(n, np.nan), np.full(n, 0.5), np.full(n, 0.5)], axis=1),
        np.full(n, -1),
    )
    hidden = hide_votes(judged, np.zeros(n, np.int64))
    candidates = [propose_thresholds(hidden.similarity[:, lf], 5) for lf in range(3)]
    choice = choose_thresholds(hidden, fit_per_lf, candidates, np.full(3, INF), np.ones(3, bool))
    assert np.isfinite(choice.thresholds).tolist() == [False, True, False]
    assert (choice.before, choice.after) == (1 / 2, 1)


# Items 0 to 3 lend votes; valid items lie near a lender of their class, except the far ones.
GOLD = [0, 1] * 10


def write_valid(root, metric=Metric.COSINE, gold=True):
    near = [[1, 0.01 * i] if label == 0 else [0.01 * i, 1] for i, label in enumerate(GOLD)]
    write_project(
        root,
        vectors=[[1, 0], [0, 1], [1, 0.3], [0.3, 1], *near],
        votes=[[0, -1], [1, -1], [-1, 1], [-1, 0], *[[-1, -1]] * 20],
        splits=["train"] * 4 + ["valid"] * 20,
        gold=dict(enumerate(GOLD, start=4)) if gold else None,
    )
    write_neighbors(root, metric=metric)


def run(root, **params):
    tune.run(root, CLASSES, TuneParams(**params))
    return json.loads((root / THRESHOLDS).read_text())


@pytest.mark.parametrize("metric", list(Metric))
def test_good_neighbors_are_extended_and_contrary_ones_are_not(tmp_path, metric, capsys):
    write_valid(tmp_path, metric)
    found = run(tmp_path)
    assert found["metric"] == metric.value
    assert found["chosen_on"] == "valid gold (20 rows)"
    assert found["thresholds"]["lf0"] is not None
    assert found["thresholds"]["lf1"] is None  # its support votes against the neighborhood
    message = capsys.readouterr().err
    assert "1 of 2 LFs" in message
    # 19.5 of 20: while the farthest item is left out, the highest threshold that serves the others just excludes it.
    assert "0.500 before, 0.975 after" in message


def test_curves(tmp_path):
    write_valid(tmp_path)
    run(tmp_path)
    curves = pl.read_csv(tmp_path / THRESHOLD_CURVES).filter(pl.col("lf") == "lf0")
    assert curves.columns == ["lf", "threshold", "coverage", "valid_coverage", "metric"]
    assert curves.row(0) == ("lf0", None, 2 / 24, 0.0, 0.5)
    assert curves["threshold"].drop_nulls().is_sorted(descending=True)
    # All valid items, and items 2 and 3 if they are near enough: the lowest threshold is that of valid items.
    assert curves.row(-1)[3:] == (1.0, 1.0)
    assert curves["coverage"].is_sorted()


def test_neighbors_are_read_once_and_cuts_do_not_matter(tmp_path, monkeypatch):
    write_valid(tmp_path)
    run(tmp_path)
    expected = (tmp_path / THRESHOLD_CURVES).read_bytes()
    monkeypatch.setattr("tasks.tables.parquet.ROW_GROUP", 5)
    write_valid(tmp_path)
    read, whole = [], tune.read_batches
    monkeypatch.setattr(tune, "read_batches", lambda path, *rest: read.append(path) or whole(path, *rest))
    run(tmp_path)
    assert read == [tmp_path / NEIGHBORS]
    assert (tmp_path / THRESHOLD_CURVES).read_bytes() == expected


def test_one_global_threshold(tmp_path):
    write_valid(tmp_path)
    thresholds = run(tmp_path, method=TuneMethod.GLOBAL, thresholds={"lf1": None})["thresholds"]
    assert thresholds["lf1"] is None
    assert 0 < thresholds["lf0"] < 1


def test_fixed_thresholds_are_taken_as_they_are(tmp_path, capsys):
    write_valid(tmp_path)
    found = run(tmp_path, method=TuneMethod.FIXED, default=0.75, thresholds={"lf1": None})
    assert found["thresholds"] == {"lf0": 0.75, "lf1": None}
    assert found["chosen_on"] == "params"
    assert "1 of 2 LFs" in capsys.readouterr().err


def test_a_given_threshold_survives_every_method(tmp_path):
    write_valid(tmp_path, Metric.L2)
    assert run(tmp_path, thresholds={"lf0": 0.125})["thresholds"]["lf0"] == 0.125


def test_without_gold_a_given_default_is_used_and_said(tmp_path, capsys):
    write_valid(tmp_path, gold=False)
    found = run(tmp_path, default=0.5)
    assert found["thresholds"] == {"lf0": 0.5, "lf1": 0.5}
    assert (found["method"], found["chosen_on"]) == ("per_lf", "default: no valid gold")
    assert "tune.default is 0.5" in capsys.readouterr().err


def write_voters(root, *, gold=None):
    """Two clusters of 60 items: lf0 votes on each even item, lf1 on each third one, both rightly; lf2 votes at random
    on each fifth one, in a place of its own choosing."""
    rng = np.random.default_rng(3)
    n = 120
    truth = np.arange(n) // 60
    angle = np.where(truth == 0, 0.1, 1.4) + rng.uniform(-0.3, 0.3, n)
    votes = np.full((n, 3), -1)
    votes[::2, 0], votes[::3, 1] = truth[::2], truth[::3]
    votes[::5, 2] = rng.integers(0, 2, len(votes[::5]))
    write_project(
        root,
        vectors=np.stack([np.cos(angle), np.sin(angle)], axis=1),
        votes=votes,
        splits=["valid" if row % 4 == 1 else "train" for row in range(n)],
        gold=gold,
    )
    write_neighbors(root)


def test_without_gold_rare_lfs_do_not_break_the_majority_of_a_default_lf(tmp_path):
    """Of 400 items 360 have no vote but that of lf0; each of four rare classes has two LFs, on 7 of its 10 items."""
    rng = np.random.default_rng(0)
    classes = ("usual", "a", "b", "c", "d")
    truth = np.r_[np.zeros(360, int), np.repeat([1, 2, 3, 4], 10)]
    votes = np.full((400, 9), -1)
    votes[:360, 0] = 0
    for rare in range(1, 5):
        rows = np.flatnonzero(truth == rare)
        votes[rows[:7], 2 * rare - 1] = votes[rows[3:], 2 * rare] = rare
    vectors = np.eye(5)[truth] * (truth[:, None] > 0) + 0.5 * rng.normal(size=(400, 5))
    write_project(tmp_path, vectors=vectors, votes=votes, splits=["train"] * 400, k=5)
    write_neighbors(tmp_path, classes=classes)
    tune.run(tmp_path, classes, TuneParams())
    found = json.loads((tmp_path / THRESHOLDS).read_text())
    assert found["curve_metric"] == "accuracy of the majority vote on held-out votes"
    extend_stage.run(tmp_path, classes, ExtendParams())
    extended = pl.read_parquet(tmp_path / EXTENDED_VOTES).sort("item_id").drop("item_id").to_numpy()[:360]
    assert ((extended > 0).sum(axis=1) > 0).mean() < 0.05


def test_without_gold_agreement_chooses_and_says_so(tmp_path, capsys):
    write_voters(tmp_path)
    found = run(tmp_path)
    assert found["method"] == "agreement"
    assert found["chosen_on"].endswith("since there is no valid gold")
    assert found["curve_metric"] == "accuracy of the majority vote on held-out votes, classes weighing the same"
    assert found["thresholds"]["lf0"] is not None and found["thresholds"]["lf2"] is None
    message = capsys.readouterr().err
    assert "tune: agreement, held-out votes (88 items), since there is no valid gold" in message
    curves = pl.read_csv(tmp_path / THRESHOLD_CURVES)
    assert curves["metric"].null_count() == 0 and curves["valid_coverage"].null_count() == curves.height > 3


@pytest.mark.parametrize("method", [TuneMethod.PER_LF, TuneMethod.GLOBAL])
def test_every_method_can_choose_by_agreement(tmp_path, method):
    write_voters(tmp_path)
    found = run(tmp_path, method=method, thresholds={"lf2": None})
    assert found["chosen_on"].startswith("held-out votes")
    assert found["thresholds"]["lf0"] is not None and found["thresholds"]["lf2"] is None


def test_agreement_asked_for_reads_no_gold(tmp_path):
    write_voters(tmp_path)
    without = run(tmp_path)["thresholds"]
    ids = pl.Series("item_id", [1, 5, 9, 13])
    for classes in ([0, 0, 0, 0], [1, 1, 1, 1]):
        gold = pl.DataFrame([ids, pl.Series("gold", classes, dtype=pl.Int8)])
        write_table(tmp_path / VALID_GOLD, gold, schemas.gold(2))
        found = run(tmp_path, method=TuneMethod.AGREEMENT, default=0.5)
        assert found["thresholds"] == without
        assert found["chosen_on"] == "held-out votes (88 items)"


def test_lfs_that_never_meet_cannot_foretell_each_other(tmp_path):
    # Each LF votes in a cluster of its own and is near nothing else: extending it foretells no other vote.
    write_project(
        tmp_path,
        vectors=np.repeat(np.eye(2), 20, axis=0),
        votes=[[row % 2, -1] if row < 20 else [-1, row % 2] for row in range(40)],
        splits=["train"] * 40,
    )
    write_neighbors(tmp_path)
    assert run(tmp_path)["thresholds"] == {"lf0": None, "lf1": None}


def test_no_votes_and_no_gold_leave_everything_as_it_is(tmp_path):
    write_project(tmp_path, vectors=np.eye(3), votes=np.full((3, 2), -1), splits=["train"] * 3)
    write_neighbors(tmp_path)
    found = run(tmp_path)
    assert found["thresholds"] == {"lf0": None, "lf1": None}
    assert found["chosen_on"].startswith("held-out votes (0 items)")


def test_a_second_run_writes_the_same_bytes(tmp_path):
    write_voters(tmp_path)
    files = (THRESHOLDS, THRESHOLD_CURVES, EMBEDDING_FITNESS, EMBEDDING_FITNESS_CURVES)
    written = []
    for _ in range(2):
        run(tmp_path)
        written.append([(tmp_path / file).read_bytes() for file in files])
    assert written[0] == written[1]


def test_neighbors_that_tell_votes_are_said_to(tmp_path, capsys):
    write_voters(tmp_path, gold={1: 0, 61: 1})
    run(tmp_path)
    fitness = json.loads((tmp_path / EMBEDDING_FITNESS).read_text())
    assert fitness["carries"] == {"majority vote": "yes", "valid gold": "unknown"}
    low, high = fitness["suggested_thresholds"]
    assert 0 < low <= high < 1
    message = capsys.readouterr().err
    assert "WARNING" not in message
    assert f"between a similarity of {low:.2f} and {high:.2f}" in message
    assert "Whether neighbors share the valid gold cannot be told from 2 items, too few of some class." in message
    curves = pl.read_csv(tmp_path / EMBEDDING_FITNESS_CURVES)
    assert curves.columns == ["labels", "threshold", "agreement", "chance"]
    assert curves.filter(labels="majority vote")["threshold"].is_sorted(descending=True)


def test_l2_ranges_are_distances(tmp_path):
    write_voters(tmp_path)
    write_neighbors(tmp_path, metric=Metric.L2)
    run(tmp_path)
    low, high = json.loads((tmp_path / EMBEDDING_FITNESS).read_text())["suggested_thresholds"]
    assert 0 < low <= high < 2


def test_a_random_embedding_is_warned_of(tmp_path, capsys):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 800)
    write_project(
        tmp_path,
        vectors=rng.normal(size=(800, 8)),
        votes=np.where(rng.random((800, 3)) < 0.5, truth[:, None], -1),
        splits=["valid" if row % 2 else "train" for row in range(800)],
        gold={row: truth[row] for row in range(1, 800, 2)},
    )
    write_neighbors(tmp_path)
    run(tmp_path)
    fitness = json.loads((tmp_path / EMBEDDING_FITNESS).read_text())
    assert fitness["carries"] == {"majority vote": "no", "valid gold": "no"}
    assert fitness["suggested_thresholds"] is None
    message = capsys.readouterr().err
    assert "WARNING: neighbors do not share the majority vote" in message
    assert "WARNING: neighbors do not share the valid gold" in message


def test_embeddings_of_other_items_are_refused(tmp_path):
    write_voters(tmp_path)
    table = pl.read_parquet(tmp_path / EMBEDDINGS).with_columns(item_id=pl.col("item_id") + 1)
    write_table(tmp_path / EMBEDDINGS, table, schemas.embeddings(2))
    with pytest.raises(DataError, match="data/ingest/embeddings"):
        run(tmp_path)


def test_macro_f1_is_named(tmp_path):
    write_valid(tmp_path)
    assert run(tmp_path, metric=TuneMetric.MACRO_F1)["objective"] == "macro_f1 of the majority vote"


def test_a_threshold_for_an_unknown_lf_is_refused(tmp_path):
    write_valid(tmp_path)
    with pytest.raises(ParamsError, match="Did you mean 'lf0'"):
        run(tmp_path, thresholds={"lf_0": 0.5})


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_items(tmp_path, n):
    gold = {0: 1} if n else None
    write_project(tmp_path, vectors=np.ones((n, 1)), votes=np.full((n, 1), -1), splits=["valid"] * n, gold=gold)
    write_neighbors(tmp_path)
    assert run(tmp_path)["thresholds"] == {"lf0": None}


@needs_datasets
def test_extension_helps_a_real_task_and_its_embedding_is_found_fit(tmp_path, capsys):
    raw, votes = (pl.read_parquet(DATASETS / "spam" / f"{name}.parquet") for name in ("items", "votes"))
    assert raw["item_id"].equals(votes["item_id"])
    order = raw["item_id"].arg_sort()
    items, L = raw[order], votes[order].drop("item_id").to_numpy()
    gold = {row: one for row, one in enumerate(items["gold"]) if one is not None and items["split"][row] == "valid"}
    write_project(
        tmp_path,
        vectors=np.load(DATASETS / "spam" / "embeddings.npy")[order.to_numpy()],
        votes=L,
        splits=items["split"],
        ids=items["item_id"],
        gold=gold,
    )
    neighbors = write_neighbors(tmp_path)
    assert neighbors.height == 1936
    thresholds = run(tmp_path)["thresholds"]
    assert sum(one is not None for one in thresholds.values()) >= 3
    fitness = json.loads((tmp_path / EMBEDDING_FITNESS).read_text())
    assert fitness["carries"] == {"majority vote": "yes", "valid gold": "yes"}
    assert "WARNING" not in capsys.readouterr().err
