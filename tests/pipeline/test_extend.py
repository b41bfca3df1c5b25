"""Extension is a mask: strictly nearer than the threshold, ties abstain, votes stay, every vote has its provenance."""

import json

import numpy as np
import polars as pl
import pytest
from extension_data import write_neighbors, write_project
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import extend
from tasks.core.extension import (
    Neighbors,
    extend_votes,
    find_abstaining_entries,
    find_abstaining_rows,
    find_nearest_votes,
    to_similarity,
)
from tasks.errors import DataError
from tasks.params import ExtendParams, Metric, Scope
from tasks.tables.files import write_json
from tasks.tables.parquet import ROW_GROUP
from tasks.tables.paths import EXTENDED_VOTES, NEIGHBORS, PROVENANCE, THRESHOLDS

CLASSES = ("no", "yes")
NAN = np.nan


def offers_of(lf, label, similarity, m):
    return find_nearest_votes(Neighbors(lf=np.array(lf), label=np.int8(label), similarity=np.float32(similarity)), m)


def test_the_nearer_class_offers_and_a_tie_offers_nothing():
    offers = offers_of([0, 0, 1], [0, 2, 1], [[0.5, 0.5, NAN], [0.25, 0.5, NAN], [NAN, 0.1, -1]], 2)
    assert offers.vote.tolist() == [[0, -1], [-1, 1], [-1, 1]]
    assert offers.lf_class.tolist() == [[0, -1], [-1, 2], [-1, 2]]
    np.testing.assert_array_equal(offers.similarity, np.float32([[0.5, NAN], [NAN, 0.1], [NAN, -1]]))


def test_a_third_class_nearer_than_a_tie_still_offers():
    assert offers_of([0, 0, 0], [0, 1, 2], [[0.5], [0.5], [0.75]], 1).vote.tolist() == [[2]]


def test_an_lf_without_support_offers_nothing():
    offers = offers_of([1], [0], [[0.5]], 3)
    assert offers.vote.tolist() == [[-1, 0, -1]]


def test_strictly_nearer():
    similarity = np.float32([0.1, 0.5, 1])
    offers = offers_of([0], [1], [similarity], 1)
    cells = np.ones((3, 1), bool)
    for threshold, expected in (
        (0.5, [False, False, True]),
        (float(similarity[0]), [False, True, True]),  # its own similarity, as stored
        (0.1, [True, True, True]),  # float32(0.1) is 0.10000000149
        (1.0, [False, False, False]),
        (NAN, [False, False, False]),
        (-1.0, [True, True, True]),
    ):
        thresholds = to_similarity(np.array([threshold]), "cosine")
        assert extend_votes(offers, cells, thresholds).ravel().tolist() == expected


def test_l2_thresholds_are_distances():
    offers = offers_of([0], [1], [[-0.5, -2, -3]], 1)
    extended = extend_votes(offers, np.ones((3, 1), bool), to_similarity(np.array([2.0]), "l2"))
    assert extended.ravel().tolist() == [True, False, False]


def test_scopes():
    L = np.int8([[-1, -1], [-1, 1], [0, 1]])
    assert find_abstaining_entries(L).tolist() == [[True, True], [True, False], [False, False]]
    assert find_abstaining_rows(L).tolist() == [[True, True], [False, False], [False, False]]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([-1, 0, 0.5, 0.75, 1]))
def test_offers_equal_a_loop(seed, threshold):
    rng = np.random.default_rng(seed)
    n, m, k = 7, 3, 3
    cube = rng.choice([NAN, -1, 0, 0.5, 0.75, 1], (m, k, n)).astype(np.float32)
    pairs = [(lf, label) for lf in range(m) for label in range(k) if rng.random() < 0.7]
    if not pairs:
        return
    similarity = [cube[pair] for pair in pairs]
    offers = offers_of([lf for lf, _ in pairs], [label for _, label in pairs], similarity, m)
    extended = extend_votes(offers, np.ones((n, m), bool), np.full(m, float(threshold)))
    for item in range(n):
        for lf in range(m):
            near = {label: cube[j, label, item] for j, label in pairs if j == lf and not np.isnan(cube[j, label, item])}
            best = max(near.values(), default=None)
            winners = [label for label, value in near.items() if value == best]
            expected = winners[0] if len(winners) == 1 else -1
            assert offers.vote[item, lf] == expected
            assert extended[item, lf] == (expected >= 0 and best > threshold)


# Angles in degrees on the unit circle: item 2 is 10 from item 0 and 35 from item 1; item 3 is 5 from item 1.
ANGLES = np.deg2rad([0, 45, 10, 50])
PROJECT = {
    "vectors": np.column_stack([np.cos(ANGLES), np.sin(ANGLES)]),
    "votes": [[0, -1], [1, 1], [-1, -1], [-1, 0]],
    "splits": ["train", "train", "test", "test"],
    "ids": ["a", "b", "c", "d"],
}


def write_thresholds(root, lf0, lf1, metric="cosine"):
    value = {"metric": metric, "method": "fixed", "objective": None, "chosen_on": "params", "curve_metric": "accuracy"}
    write_json(root / THRESHOLDS, value | {"thresholds": {"lf0": lf0, "lf1": lf1}})


def run(root, scope=Scope.CELLS):
    extend.run(root, CLASSES, ExtendParams(scope=scope))
    votes, provenance = pl.read_parquet(root / EXTENDED_VOTES), pl.read_parquet(root / PROVENANCE)
    return votes.drop("item_id").rows(), provenance.drop("similarity").rows()


@pytest.fixture
def project(tmp_path):
    write_project(tmp_path, **PROJECT)
    write_neighbors(tmp_path)
    return tmp_path


def test_votes_and_provenance(project):
    write_thresholds(project, 0.9, None)  # cos 25.8 degrees
    votes, provenance = run(project)
    assert votes == [(0, -1), (1, 1), (0, -1), (1, 0)]
    assert provenance == [("c", "lf0", 0, "a"), ("d", "lf0", 1, "b")]
    similarity = pl.read_parquet(project / PROVENANCE)["similarity"].to_list()
    np.testing.assert_allclose(similarity, np.cos(np.deg2rad([10, 5])), rtol=1e-6)


def test_provenance_is_sorted_by_item_then_lf(project):
    write_thresholds(project, -1, -1)
    votes, provenance = run(project)
    assert votes == [(0, 1), (1, 1), (0, 1), (1, 0)]  # one hop: d's vote by lf1 is test's and is not lent
    assert [row[:2] for row in provenance] == [("a", "lf1"), ("c", "lf0"), ("c", "lf1"), ("d", "lf0")]


def test_scope_rows_touches_only_rows_without_votes(project):
    write_thresholds(project, -1, -1)
    votes, provenance = run(project, Scope.ROWS)
    assert votes == [(0, -1), (1, 1), (0, 1), (-1, 0)]
    assert [row[0] for row in provenance] == ["c", "c"]


def test_null_extends_nothing_and_writes_an_empty_provenance(project):
    write_thresholds(project, None, None)
    votes, provenance = run(project)
    assert votes == PROJECT_VOTES
    assert provenance == []
    assert pl.read_parquet_schema(project / PROVENANCE)["neighbor"] == pl.String


PROJECT_VOTES = [tuple(row) for row in PROJECT["votes"]]


def test_cosine_one_never_extends_even_to_a_duplicate(tmp_path):
    write_project(tmp_path, vectors=[[1, 2, 3]] * 2, votes=[[0, 0], [-1, -1]], splits=["train"] * 2)
    write_neighbors(tmp_path)
    write_thresholds(tmp_path, 1.0, 0.9999999)
    assert run(tmp_path)[0] == [(0, 0), (-1, 0)]


def test_l2_in_the_stage(tmp_path):
    write_project(tmp_path, **(PROJECT | {"vectors": [[0], [10], [3], [8]]}))
    write_neighbors(tmp_path, metric=Metric.L2)
    write_thresholds(tmp_path, 3, 7.5, "l2")  # c is exactly 3 from a: not strictly smaller
    assert run(tmp_path)[0] == [(0, -1), (1, 1), (-1, 1), (1, 0)]


def test_equal_distance_to_two_classes_abstains(tmp_path):
    write_project(tmp_path, vectors=[[0], [2], [1]], votes=[[0], [1], [-1]], splits=["train"] * 3)
    write_neighbors(tmp_path, metric=Metric.L2)
    thresholds = {
        "metric": "l2",
        "method": "fixed",
        "objective": None,
        "chosen_on": "params",
        "curve_metric": "accuracy",
    }
    write_json(tmp_path / THRESHOLDS, thresholds | {"thresholds": {"lf0": 100}})
    assert run(tmp_path)[0] == [(0,), (1,), (-1,)]


def test_row_groups_change_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    votes = np.where(rng.random((200, 2)) < 0.3, rng.integers(0, 2, (200, 2)), -1)
    project = {"vectors": rng.standard_normal((200, 3)), "votes": votes, "splits": ["train"] * 200}
    results = []
    for rows in (ROW_GROUP, 64):
        monkeypatch.setattr("tasks.tables.parquet.ROW_GROUP", rows)
        root = tmp_path / str(rows)
        write_project(root, **project)
        write_neighbors(root)
        write_thresholds(root, 0.5, 0.9)
        results.append(run(root))
    assert results[0] == results[1]
    assert 0 < len(results[0][1]) < 400


def test_thresholds_of_other_lfs_are_refused(project):
    write_thresholds(project, 0.5, 0.5)
    found = json.loads((project / THRESHOLDS).read_text())
    found["thresholds"]["lf2"] = found["thresholds"].pop("lf1")
    write_json(project / THRESHOLDS, found)
    with pytest.raises(DataError, match="lf2"):
        run(project)


def test_neighbors_of_other_items_are_refused(project):
    write_thresholds(project, 0.5, 0.5)
    neighbors = pl.read_parquet(project / NEIGHBORS)
    neighbors[:2].write_parquet(project / NEIGHBORS)
    with pytest.raises(DataError, match="missing"):
        run(project)


def test_neighbors_are_read_of_lfs_alone_that_have_a_threshold(project):
    write_thresholds(project, 0.9, None)
    expected = run(project)
    neighbors = pl.read_parquet(project / NEIGHBORS)
    neighbors.with_columns(pl.col("^lf1/./similarity$") + 2).write_parquet(project / NEIGHBORS)
    assert run(project) == expected
    write_thresholds(project, 0.9, 0.9)
    with pytest.raises(DataError, match=r"lf1/./similarity.*less_than_or_equal_to"):
        run(project)
