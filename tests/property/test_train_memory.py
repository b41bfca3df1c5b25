"""What `train` holds of each item while it weighs evidence and pools experts: few arrays of all items at a time."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tasks.core.classifiers.end_model import fit_end_model
from tasks.core.classifiers.nearest_items import NearestItems, Reference, measure_agreement
from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.classifiers.student import Student
from tasks.core.classifiers.vote_head import VoteHead
from tasks.core.label_models.nearvote import PooledVotes, fit_nearvote
from tasks.core.types import Float64, GoldRows, Int64

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
        "votes": rng.integers(-1, 2, (N, 1), dtype=np.int8),
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
