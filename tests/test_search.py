"""Neighbors equal the brute-force oracle, whatever the strategy, the batches, the threads and the ties."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import polars as pl
import pytest
from extension_data import write_neighbors, write_project
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import artifacts
from tasks.artifacts import NEIGHBORS
from tasks.core import neighbors as core
from tasks.core.faiss_index import normalize
from tasks.errors import DataError
from tasks.params import Metric

METRICS = ("cosine", "l2")


def find(vectors, votes, is_reference, metric, plan, block=core.QUERIES):
    """(similarity, position) of (pairs, n) by one strategy, `block` queries at a time; and the pairs."""
    proposals = normalize(vectors) if metric == "cosine" else vectors
    lenders = np.flatnonzero(is_reference & (votes >= 0).any(axis=1))
    support = core.build_support(votes[lenders], lenders, vectors[lenders], proposals[lenders], metric=metric)
    searches = plan(support)
    found = []
    for start in range(0, len(vectors), block):
        part = slice(start, start + block)
        queries = core.build_queries(support.geometry, vectors[part], proposals[part])
        found.append(core.find_neighbors(support, searches, queries, votes[part] < 0))
    similarity = np.concatenate([one.similarity for one in found], axis=1)
    position = np.concatenate([one.position for one in found], axis=1)
    return similarity, position, [(pair.lf, pair.label) for pair in support.pairs]


def assert_equals_oracle(vectors, votes, is_reference, metric, found):
    similarity, position, pairs = found
    expected = oracle.nearest(vectors, votes, is_reference, metric)
    got = {
        (item, *pairs[place]): (similarity[place, item], position[place, item])
        for place, item in zip(*np.nonzero(position != core.NOBODY), strict=True)
    }
    assert got == expected
    np.testing.assert_array_equal(np.isnan(similarity), position == core.NOBODY)


@st.composite
def problems(draw):
    """Few distinct vectors (so many duplicates and ties), any votes, any reference."""
    n, m, d = draw(st.integers(1, 24)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["grid", "normal", "near", "one"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "grid":
        vectors = rng.integers(-2, 3, (n, d)).astype(np.float32)
    elif kind == "normal":
        vectors = (rng.standard_normal((n, d)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    elif kind == "near":  # closer together than float32 products can tell apart, and far from the origin
        vectors = (1000 + 1e-3 * rng.integers(-2, 3, (n, d))).astype(np.float32)
    else:
        vectors = np.ones((n, d), np.float32)
    vectors[~vectors.any(axis=1)] = 1
    votes = rng.integers(-1, draw(st.integers(1, 3)), (n, m)).astype(np.int8)
    votes[rng.random((n, m)) < draw(st.sampled_from([0, 0.5, 0.9]))] = -1
    return vectors, votes, rng.random(n) < draw(st.sampled_from([0, 0.5, 1]))


@settings(max_examples=150, deadline=None)
@given(problem=problems(), metric=st.sampled_from(METRICS), block=st.sampled_from([1, 5, 100]))
def test_both_strategies_equal_the_oracle(problem, metric, block):
    vectors, votes, is_reference = problem
    for plan in (core.plan_per_lf, core.plan_union):
        found = find(vectors, votes, is_reference, metric, plan, block)
        assert_equals_oracle(vectors, votes, is_reference, metric, found)


@pytest.mark.parametrize("metric", METRICS)
def test_strategies_and_batches_agree_over_many_tiles(metric):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6000, 8)).astype(np.float32)
    vectors[3000:] = vectors[:3000][rng.permutation(3000)]
    votes = np.where(rng.random((6000, 3)) < 0.6, rng.integers(0, 3, (6000, 3)), -1).astype(np.int8)
    is_reference = np.ones(6000, bool)
    one = find(vectors, votes, is_reference, metric, core.plan_per_lf)
    for plan, block in ((core.plan_union, 1024), (core.plan_union, 6000), (core.plan_per_lf, 77)):
        other = find(vectors, votes, is_reference, metric, plan, block)
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    for item in (0, 4321):  # and both are right
        row = votes[item : item + 1]
        for place, (lf, label) in enumerate(one[2]):
            if row[0, lf] < 0:
                near = core.compute_similarity(vectors[[item] * 6000], vectors, metric)
                near[votes[:, lf] != label] = -np.inf
                assert (one[0][place, item], one[1][place, item]) == (near.max(), near.argmax())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("plan", [core.plan_per_lf, core.plan_union])
def test_more_ties_than_are_collected_at_once_lose_nothing(metric, plan, monkeypatch):
    monkeypatch.setattr(core, "_PENDING", 10)
    monkeypatch.setattr(core, "_TILE", 16)
    vectors = np.linspace(1, 2, 60, dtype=np.float32)[:, None]  # d = 1: every cosine is 1
    votes = np.array([[-1, 0, 1][i % 3] for i in range(60)], np.int8)[:, None]
    found = find(vectors, votes, np.ones(60, bool), metric, plan)
    assert_equals_oracle(vectors, votes, np.ones(60, bool), metric, found)


def test_thousands_of_duplicates_lend_the_smallest_id():
    vectors = np.repeat(np.float32([[1, 2], [2, 1]]), 5000, axis=0)
    votes = np.zeros((10000, 1), np.int8)
    votes[[0, 5000]] = -1
    similarity, position, _ = find(vectors, votes, np.ones(10000, bool), "cosine", core.plan_per_lf)
    assert position[0, [0, 1, 5000]].tolist() == [1, core.NOBODY, 5001]
    assert similarity[0, [0, 5000]].tolist() == [1, 1]


def test_the_cheaper_strategy_is_chosen():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, 64)).astype(np.float32)

    def chosen(votes):
        lenders = np.flatnonzero((votes >= 0).any(axis=1))
        support = core.build_support(
            votes[lenders], lenders, vectors[lenders], normalize(vectors[lenders]), metric="cosine"
        )
        return core.plan_searches(support, (votes < 0).sum(axis=0), 400)

    disjoint = np.full((400, 4), -1, np.int8)
    disjoint[np.arange(400), np.arange(400) % 4] = 0  # 4 x 300 x 100 products against 400 x 400
    assert len(chosen(disjoint)) == 4
    shared = np.full((400, 4), -1, np.int8)
    shared[:100] = 0  # 4 x 300 x 100 products against 400 x 100
    assert len(chosen(shared)) == 1


VECTORS = [[1, 0], [0, 1], [1, 1], [2, 0.1], [0.1, 3]]
VOTES = [[0, -1], [1, -1], [-1, -1], [-1, 1], [0, -1]]
SPLITS = ["train", "train", "valid", "train", "test"]


def test_the_table_names_neighbors_by_id(tmp_path):
    ids = ["a", "b", "c", "d", "é"]
    write_project(tmp_path, vectors=VECTORS, votes=VOTES, splits=SPLITS, ids=ids)
    table = write_neighbors(tmp_path)
    assert table.columns == [
        "item_id",
        *("lf0/0/neighbor", "lf0/0/similarity", "lf0/1/neighbor", "lf0/1/similarity"),
        *("lf1/1/neighbor", "lf1/1/similarity"),
    ]
    assert table["lf0/0/neighbor"].to_list() == [None, None, "a", "a", None]  # é votes in test: it lends nothing
    assert table["lf0/1/neighbor"].to_list() == [None, None, "b", "b", None]
    assert table["lf1/1/neighbor"].to_list() == ["d", "d", "d", None, "d"]
    np.testing.assert_allclose(table["lf0/0/similarity"][2], 1 / np.sqrt(2), rtol=1e-7)


def test_integer_ids_and_l2(tmp_path):
    write_project(tmp_path, vectors=VECTORS, votes=VOTES, splits=SPLITS, ids=[-5, 0, 7, 8, 2**60])
    table = write_neighbors(tmp_path, metric=Metric.L2)
    assert table["lf0/0/neighbor"].to_list() == [None, None, -5, -5, None]
    assert table["lf0/0/similarity"].to_list()[2:3] == [-1.0]
    assert table["lf1/1/neighbor"].to_list() == [8, 8, 8, None, 8]


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_items(tmp_path, n):
    write_project(tmp_path, vectors=np.ones((n, 1)), votes=np.full((n, 1), -1), splits=["train"] * n)
    table = write_neighbors(tmp_path)
    assert table.columns == ["item_id"]
    assert table.height == n


def test_an_lf_without_support_has_no_columns(tmp_path):
    votes = [[0, -1], [-1, -1], [-1, 1]]
    write_project(tmp_path, vectors=[[1, 0], [1, 1], [0, 1]], votes=votes, splits=["train", "train", "test"])
    table = write_neighbors(tmp_path)
    assert table.columns == ["item_id", "lf0/0/neighbor", "lf0/0/similarity"]
    assert table["lf0/0/neighbor"].to_list() == [None, 0, 0]


def test_row_groups_change_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    votes = np.where(rng.random((300, 3)) < 0.3, rng.integers(0, 2, (300, 3)), -1)
    project = {"vectors": rng.standard_normal((300, 4)), "votes": votes, "splits": ["train"] * 300}
    write_project(tmp_path / "one", **project)
    whole = write_neighbors(tmp_path / "one")
    monkeypatch.setattr(artifacts, "ROW_GROUP", 64)
    monkeypatch.setattr("tasks.search.QUERIES", 50)
    write_project(tmp_path / "many", **project)
    assert write_neighbors(tmp_path / "many").equals(whole)


_RUN = """
import sys
from pathlib import Path
from tasks import search
from tasks.params import SearchParams
search.run(Path(sys.argv[1]), ("no", "yes"), SearchParams())
"""


def test_threads_and_the_unit_of_arithmetic_change_no_byte(tmp_path):
    rng = np.random.default_rng(0)
    votes = np.where(rng.random((3000, 5)) < 0.2, rng.integers(0, 2, (3000, 5)), -1)
    vectors = np.round(rng.standard_normal((3000, 30)), 1)
    write_project(tmp_path, vectors=vectors, votes=votes, splits=["train"] * 3000)
    write_neighbors(tmp_path)
    first = (tmp_path / NEIGHBORS).read_bytes()
    # OpenBLAS sums in another order on another core type; Haswell has AVX2 only.
    for environment in ({"OPENBLAS_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell"}):
        (tmp_path / NEIGHBORS).unlink()
        root = Path(__file__).resolve().parents[1]
        subprocess.run(
            [sys.executable, "-c", _RUN, str(tmp_path)], check=True, cwd=root, env={"PATH": "/usr/bin"} | environment
        )
        assert (tmp_path / NEIGHBORS).read_bytes() == first


def test_tables_of_other_items_are_refused(tmp_path):
    write_project(tmp_path, vectors=VECTORS, votes=VOTES, splits=SPLITS)
    write_neighbors(tmp_path)
    votes = pl.read_parquet(tmp_path / artifacts.VOTES)
    votes[:4].write_parquet(tmp_path / artifacts.VOTES)
    with pytest.raises(DataError, match="missing"):
        write_neighbors(tmp_path)
