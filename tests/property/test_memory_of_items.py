"""What `fit` and `train` hold of each item: what is not in files without a name, which is little."""

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks import fit
from tasks.core.classifiers.end_model import fit_end_model
from tasks.core.classifiers.known_nearest import recall_nearest_items
from tasks.core.classifiers.nearest_items import NearestItems, Reference, choose_reference, measure_agreement
from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.classifiers.student import Student, fit_student
from tasks.core.classifiers.vote_head import VoteHead, fit_vote_head
from tasks.core.label_models.nearvote import PooledVotes, fit_nearvote
from tasks.core.types import Allocate, Float32, Float64, GoldRows, Int64
from tasks.params import FitParams
from tasks.tables.parquet import cut_rows
from tasks.tables.scratch import open_scratch

N = 400_000
"""Items: blocks of rows are small beside them."""


def measure(call: Callable[[], Any]) -> float:
    """The most bytes an item that `call` allocates at a time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / N
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """What the three functions take, of two classes and 40 gold rows."""
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1], N)
    truth = (proba[:, 0] < 0.5).astype(np.int64)
    rows = np.arange(0, N, N // 40)
    features = np.c_[truth * 2 - 1, rng.normal(size=N)].astype(np.float32)
    votes = rng.integers(-1, 2, (N, 1), dtype=np.int8)
    fit_vote_head(features[:1000], votes[:1000], 2)  # so that modules are not counted that are loaded on demand
    reference = Reference(rows=np.arange(100), hashes=np.arange(100, dtype=np.uint64), cut=1.0)
    return {
        "evidence": PooledVotes(own=proba * rng.random((N, 1)), near=proba.copy(), bandwidth=5.0),
        "head": VoteHead(
            proba=proba,
            reliability=np.ones((1, 2)),
            regression=SoftmaxRegression(coef=np.zeros((2, 2)), intercept=np.zeros(2)),
        ),
        "gold": GoldRows(rows=rows, classes=truth[rows]),
        "similarity": rng.random((N, 2), dtype=np.float32),
        "features": features,
        "votes": votes,
        "log": np.log(proba + 1e-9),
        "student": Student(
            regression=SoftmaxRegression(coef=np.array([[-1.0, 1.0], [0, 0]]), intercept=np.zeros(2)),
            raw=np.log(proba + 1e-9),
            confidence=1.0,
        ),
        "nearest": NearestItems(reference=reference, nearest=rng.integers(0, 100, (N, 10), dtype=np.int32)),
        "truth": truth,
        "weak": proba,
    }


def test_agreement_of_neighbors_is_counted_block_by_block(parts):
    assert measure(lambda: measure_agreement(parts["weak"], parts["nearest"])) < 30


def test_evidence_is_weighed_in_few_arrays(parts):
    balance = np.array([0.5, 0.5])
    args = parts["evidence"], parts["head"], balance, parts["gold"], parts["similarity"]
    assert measure(lambda: fit_nearvote(*args)) < 120


def test_experts_are_pooled_block_by_block(parts):
    gold = parts["gold"]
    args = parts["features"], parts["votes"], parts["weak"], gold, parts["log"], parts["log"][gold.rows]

    def predict_fold(_: int, rows: Int64) -> Float64:
        return parts["log"][rows]

    found = measure(
        lambda: fit_end_model(*args, student=parts["student"], nearest=parts["nearest"], predict_fold=predict_fold)
    )
    assert found < 60


@pytest.fixture
def allocate(tmp_path) -> Allocate:
    """Arrays of all items, in files without a name."""
    return partial(open_scratch, tmp_path)


def test_the_vote_head_holds_nothing_of_an_item(parts, allocate):
    assert measure(lambda: fit_vote_head(parts["features"], parts["votes"], 2, allocate=allocate)) < 55


def test_weighing_evidence_holds_nothing_of_an_item(parts, allocate):
    args = parts["evidence"], parts["head"], np.array([0.5, 0.5]), parts["gold"], parts["similarity"]
    assert measure(lambda: fit_nearvote(*args, allocate=allocate)) < 20


def test_the_student_holds_nothing_of_an_item(parts, allocate):
    assert measure(lambda: fit_student(parts["features"], parts["votes"], parts["weak"], allocate=allocate)) < 35


def test_pooling_experts_holds_nothing_of_an_item(parts, allocate):
    gold = parts["gold"]
    args = parts["features"], parts["votes"], parts["weak"], gold, parts["log"], parts["log"][gold.rows]
    found = measure(
        lambda: fit_end_model(
            *args,
            allocate=allocate,
            student=parts["student"],
            nearest=parts["nearest"],
            predict_fold=lambda _, rows: parts["log"][rows],
        )
    )
    assert found < 15


def test_comparing_items_holds_a_hash_of_each(parts, allocate):
    """The blocks of products, of 32 MiB, are the same for half of the items."""

    def compare(points: Float32) -> None:
        reference = choose_reference(points, pairs=len(points) * 1000)
        recall_nearest_items(points, reference, points[reference.rows], allocate=allocate)

    whole, half = (measure(lambda n=n: compare(parts["features"][:n])) for n in (N, N // 2))
    assert 2 * (whole - half) < 20


def test_label_models_hold_a_split_and_gold_of_each_item(tmp_path):
    """The votes are read a part of the items at a time, and answers written likewise."""
    rng = np.random.default_rng(0)
    votes = open_scratch(tmp_path, (4, N), np.int8).T
    votes[:] = rng.integers(-1, 2, (N, 4))
    gold = np.full(N, -1, np.int8)
    gold[::1000] = 1 - (votes[::1000, 0] == 0)
    items = pl.DataFrame({"item_id": np.arange(N), "split": pl.Series(["train"]).extend_constant("train", N - 1)})
    params = FitParams(label_model="auto")

    def label() -> None:
        inputs = fit.make_inputs(items, gold, ("a", "b", "c", "d"), votes, votes)
        methods = fit.collect_methods(inputs, fit.label_items(inputs, ("no", "yes"), params))
        for rows in cut_rows(N):
            fit.predict_rows(inputs, methods, rows)

    assert measure(label) < 45
