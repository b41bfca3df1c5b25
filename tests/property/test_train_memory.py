"""What `train` holds of each item while it weighs evidence: few arrays of all items at a time."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tasks.core.classifiers.nearest_items import NearestItems, Reference, measure_agreement
from tasks.core.classifiers.softmax import SoftmaxRegression
from tasks.core.classifiers.vote_head import VoteHead
from tasks.core.label_models.nearvote import PooledVotes, fit_nearvote
from tasks.core.types import GoldRows

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
    """What both functions take, of two classes and 40 gold rows."""
    rng = np.random.default_rng(0)
    proba = rng.dirichlet([1, 1], N)
    truth = (proba[:, 0] < 0.5).astype(np.int64)
    rows = np.arange(0, N, N // 40)
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
        "nearest": NearestItems(reference=reference, nearest=rng.integers(0, 100, (N, 10), dtype=np.int32)),
        "truth": truth,
    }


def test_agreement_of_neighbors_is_counted_block_by_block(parts):
    assert measure(lambda: measure_agreement(parts["truth"], parts["nearest"], 2)) < 30


def test_evidence_is_weighed_in_few_arrays(parts):
    balance = np.array([0.5, 0.5])
    args = parts["evidence"], parts["head"], balance, parts["gold"], parts["similarity"]
    assert measure(lambda: fit_nearvote(*args)) < 120
