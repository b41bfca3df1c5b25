"""Agreement of neighbors counted by hand, and an embedding that says nothing recognized as one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.fitness import Carries, Fitness, find_majority, judge_fitness, measure_fitness, suggest_range

METRICS = ("cosine", "l2")


def clusters(n, *, spread, seed=0):
    """Points around two centers, and the center of each."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, n)
    points = np.array([[3.0, 0, 0], [0, 3.0, 0]])[truth] + spread * rng.normal(size=(n, 3))
    return points.astype(np.float32), truth.astype(np.int8)


def test_four_points_on_a_line():
    # 0 and 1 are each other's nearest, and so are 5 and 5.5; second nearest of 0 is 5, of 5 is 1, of 1 and 5.5 others.
    found = measure_fitness(np.float32([[0], [1], [5], [5.5]]), np.int8([0, 0, 0, 1]), "l2")
    assert found.n == 4
    assert found.chance == (3 * 2) / (4 * 3)
    assert found.rank.tolist() == [1, 2]
    # Nearest: 0-1 agree, 1-0 agree, 5-5.5 not, 5.5-5 not. Second: 0-5 and 1-5 and 5-1 agree, 5.5-1 does not.
    assert found.rank_agreement.tolist() == [2 / 4, 3 / 4]
    assert found.rank_similarity == pytest.approx([-(0.5 + 1) / 2, -(4 + 4.5) / 2])
    # Nearest pair first: 5-5.5 both ways, wrong; then 0-1 both ways, right.
    assert found.similarity == pytest.approx([-0.5, -0.5, -1, -1, -4, -4, -4.5, -4.5, -5, -5, -5.5, -5.5])
    assert found.agreement[:4].tolist() == [0, 0, 1, 1]


def test_cosine_ignores_length():
    points, labels = clusters(80, spread=1.0)
    scale = np.random.default_rng(1).uniform(0.5, 2, (80, 1)).astype(np.float32)
    one, other = (measure_fitness(vectors, labels, "cosine") for vectors in (points, points * scale))
    assert one.rank_agreement.tolist() == other.rank_agreement.tolist()
    assert one.rank_similarity == pytest.approx(other.rank_similarity, abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_clusters_carry_labels_and_suggest_a_range_within_them(metric):
    found = measure_fitness(*clusters(300, spread=0.3), metric)
    assert judge_fitness(found) is Carries.YES
    assert found.rank_agreement[0] == 1
    span = suggest_range(found)
    assert span is not None and span.low < span.high == found.rank_similarity[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_random_embeddings_carry_nothing(metric, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(1000) < 0.2).astype(np.int8)
    found = measure_fitness(rng.normal(size=(1000, 16)).astype(np.float32), labels, metric)
    assert judge_fitness(found) is Carries.NO
    assert suggest_range(found) is None


@pytest.mark.parametrize(
    ("agreement", "n", "expected"),
    [
        # A standard error at chance is sqrt(.25 / 2000) = .011, and a tenth of the way from chance to 1 is .05.
        (0.53, 4000, Carries.NO),
        (0.54, 4000, Carries.HARDLY),
        (0.56, 4000, Carries.YES),
        (0.56, 400, Carries.NO),
        # Of 200 items three errors are .15, more than a quarter of the way to 1: too few to say no, not to say yes.
        (0.6, 200, Carries.UNKNOWN),
        (0.7, 200, Carries.YES),
    ],
)
def test_the_verdict_is_chance_by_three_errors_then_by_size(agreement, n, expected):
    nothing = np.empty(0)
    fitness = Fitness(
        n=n,
        chance=0.5,
        rank=np.array([1]),
        rank_similarity=np.array([0.5]),
        rank_agreement=np.array([agreement]),
        similarity=nothing,
        agreement=nothing,
    )
    assert judge_fitness(fitness) is expected


@pytest.mark.parametrize("n", [0, 1, 2, 10])
def test_few_items_tell_nothing(n):
    found = measure_fitness(*clusters(n, spread=0.1), "cosine")
    assert judge_fitness(found) is Carries.UNKNOWN
    assert suggest_range(found) is None


def test_one_class_tells_nothing():
    points, labels = clusters(100, spread=0.1)
    found = measure_fitness(points, np.zeros_like(labels), "cosine")
    assert found.chance == 1
    assert judge_fitness(found) is Carries.UNKNOWN


def test_equal_points_do_not_divide_by_zero():
    found = measure_fitness(np.ones((600, 2), np.float32), (np.arange(600) % 2).astype(np.int8), "l2")
    assert found.rank_similarity.tolist() == [0] * len(found.rank)
    assert judge_fitness(found) is Carries.NO


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), metric=st.sampled_from(METRICS))
def test_the_order_of_items_does_not_matter(seed, metric):
    rng = np.random.default_rng(seed)
    points, labels = clusters(70, spread=0.8, seed=seed)
    order = rng.permutation(70)
    one, other = measure_fitness(points, labels, metric), measure_fitness(points[order], labels[order], metric)
    assert one.chance == other.chance
    assert one.rank_agreement == pytest.approx(other.rank_agreement)
    assert one.similarity == pytest.approx(other.similarity)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), values=st.integers(1, 40), metric=st.sampled_from(METRICS))
def test_neighbors_are_those_of_a_stable_sort(seed, values, metric):
    # Few values make many ties, of which the items that come first are nearer.
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 150))
    points = rng.integers(1, values + 1, (n, 2)).astype(np.float32)
    labels = rng.integers(0, 3, n).astype(np.int8)
    found = measure_fitness(points, labels, metric)
    exact = points.astype(np.float64) - (0 if metric == "cosine" else points.mean(axis=0, dtype=np.float64))
    squares = (exact**2).sum(axis=1)
    if metric == "cosine":
        scores = exact @ exact.T / (np.sqrt(squares)[:, None] * np.sqrt(squares))
    else:
        scores = -np.sqrt(np.maximum(squares[:, None] + squares - 2 * (exact @ exact.T), 0))
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")
    agrees = labels[nearest[:, found.rank - 1]] == labels[:, None]
    assert found.rank_agreement.tolist() == agrees.mean(axis=0).tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_all_ranks_together_agree_by_chance(seed):
    # With every other item among the neighbors, the mean agreement is that of two items drawn at random.
    points, labels = clusters(40, spread=0.5, seed=seed)
    found = measure_fitness(points, labels, "l2")
    cuts = np.arange(1, 21) * (40 * 39) // 20
    assert np.average(found.agreement, weights=np.diff(np.r_[0, cuts])) == pytest.approx(found.chance)


def test_the_majority_needs_one_class_ahead():
    L = np.int8([[0, 1, 1], [2, -1, -1], [0, 1, 2], [-1, -1, -1]])
    assert find_majority(L, 3).tolist() == [1, 2, -1, -1]


def test_a_vector_of_length_0_is_near_nothing():
    points, labels = clusters(40, spread=0.1)
    points[0] = 0
    found = measure_fitness(points, labels, "cosine")
    assert np.isfinite(found.similarity).all()
