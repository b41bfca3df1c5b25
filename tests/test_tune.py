"""Thresholds are chosen on valid gold alone, extend only where that helps, and say how they came about."""

import json

import numpy as np
import polars as pl
import pytest
from extension_data import DATASETS, write_neighbors, write_project
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import tune
from tasks.artifacts import THRESHOLD_CURVES, THRESHOLDS
from tasks.core.thresholds import (
    Evidence,
    choose_thresholds,
    extend,
    fit_global,
    fit_per_lf,
    propose_thresholds,
    score_votes,
    trace_curve,
)
from tasks.errors import ParamsError
from tasks.params import Metric, TuneMethod, TuneMetric, TuneParams

CLASSES = ("no", "yes")
INF = np.inf


def evidence_of(L, vote, similarity, gold, k=2, objective="accuracy"):
    return Evidence(
        L=np.int8(L),
        vote=np.int8(vote),
        similarity=np.float32(similarity),
        gold=np.int8(gold),
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
    )


def test_ties_and_empty_rows_count_in_equal_parts():
    L = np.int8([[0, 1, -1], [-1, -1, -1], [1, 1, 0], [0, -1, -1]])
    assert score_votes(L, np.int8([0, 0, 1, 1]), 2, "accuracy") == (1 / 2 + 1 / 2 + 1 + 0) / 4


def test_macro_f1_averages_the_classes_in_gold():
    L = np.int8([[0], [0], [1], [2]])
    # class 0: 1 of 2 predicted, 1 of 1 found: 2/3; class 1: 1 of 1 predicted, 1 of 3 found: 1/2; class 2: not in gold.
    assert score_votes(L, np.int8([0, 1, 1, 1]), 3, "macro_f1") == pytest.approx((2 / 3 + 1 / 2) / 2)


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
    evidence = random_evidence(seed, objective)
    thresholds = np.array([0.5, INF, 0.2])
    candidates = np.array([INF, 0.8, 0.5, 0.1, -1])
    for lf in range(3):
        curve = trace_curve(evidence, thresholds, lf, candidates)
        for one, score in zip(candidates, curve, strict=True):
            L = extend(evidence, np.where(np.arange(3) == lf, one, thresholds))
            assert score == pytest.approx(score_votes(L, evidence.gold, 3, objective), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["accuracy", "macro_f1"]))
def test_a_fit_never_loses_on_what_it_saw(seed, objective):
    evidence = random_evidence(seed, objective)
    candidates = [propose_thresholds(evidence.similarity[:, lf], 5) for lf in range(3)]
    start, free = np.full(3, INF), np.array([True, False, True])
    before = score_votes(evidence.L, evidence.gold, 3, objective)
    for fit in (fit_per_lf, fit_global):
        thresholds = fit(evidence, [candidates[0]] * 3 if fit is fit_global else candidates, start, free)
        assert thresholds[1] == INF
        assert score_votes(extend(evidence, thresholds), evidence.gold, 3, objective) >= before - 1e-9


# An LF that votes on nothing; its neighbors are right above .5 and wrong below.
RIGHT_ABOVE = evidence_of(
    np.full((40, 1), -1), [[i % 2] for i in range(40)], np.linspace(0.99, 0.01, 40)[:, None],
    [i % 2 if i < 20 else 1 - i % 2 for i in range(40)],
)  # fmt: skip


@pytest.mark.parametrize("fit", [fit_per_lf, fit_global])
def test_the_threshold_between_right_and_wrong_is_found(fit):
    candidates = [propose_thresholds(RIGHT_ABOVE.similarity[:, 0], 20)]
    choice = choose_thresholds(RIGHT_ABOVE, fit, candidates, np.array([INF]), np.array([True]))
    assert RIGHT_ABOVE.similarity[20, 0] < choice.thresholds[0] < RIGHT_ABOVE.similarity[19, 0]
    assert (choice.before, choice.after) == (1 / 2, (20 + 20 / 2) / 40)


def test_useless_neighbors_are_not_extended():
    rng = np.random.default_rng(0)
    n, m = 100, 10
    evidence = evidence_of(
        np.full((n, m), -1), rng.integers(0, 2, (n, m)), rng.random((n, m)), np.where(np.arange(n) % 2, 0, 1)
    )
    candidates = [propose_thresholds(evidence.similarity[:, lf], 20) for lf in range(m)]
    seen = fit_per_lf(evidence, candidates, np.full(m, INF), np.ones(m, bool))
    assert score_votes(extend(evidence, seen), evidence.gold, 2, "accuracy") > 0.6  # noise can be fitted ...
    choice = choose_thresholds(evidence, fit_per_lf, candidates, np.full(m, INF), np.ones(m, bool))
    assert choice.after < 0.6  # ... but the left-out items are not fooled


def test_equal_scores_prefer_less_extension():
    # Both thresholds below .9 add one right vote; the lower one adds a vote that changes nothing.
    evidence = evidence_of([[-1, -1], [-1, 0]], [[0, -1], [0, -1]], [[0.9, np.nan], [0.5, np.nan]], [0, 0])
    found = fit_per_lf(evidence, [np.array([INF, 0.7, 0.1]), np.array([INF])], np.full(2, INF), np.ones(2, bool))
    assert found.tolist() == [0.7, INF]


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


def test_without_gold_the_default_is_used_and_said(tmp_path, capsys):
    write_valid(tmp_path, gold=False)
    found = run(tmp_path, default=0.5)
    assert found["thresholds"] == {"lf0": 0.5, "lf1": 0.5}
    assert found["chosen_on"] == "default: no valid gold"
    assert "tune.default (0.5)" in capsys.readouterr().err
    curves = pl.read_csv(tmp_path / THRESHOLD_CURVES)
    assert curves["metric"].null_count() == curves.height > 2


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


@pytest.mark.skipif(not DATASETS.is_dir(), reason="../shared/datasets is not here")
def test_extension_helps_a_real_task(tmp_path):
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
