"""Neighbors equal the brute-force oracle, whatever the strategy, the batches, the threads and the ties."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import polars as pl
import pytest
from extension_data import write_neighbors, write_project
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import METRICS, problems
from threadpoolctl import threadpool_limits

from tasks import index, search
from tasks.cache.code import PROJECT
from tasks.cache.store import FOLDER
from tasks.core.search import ivf
from tasks.core.search.exact import QUERIES, Nearest, find_neighbors, score_pairs
from tasks.core.search.incremental import ReusedNeighbors
from tasks.core.search.plan import plan_per_lf, plan_searches, plan_union
from tasks.core.search.products import Int8Products, prepare
from tasks.core.search.support import build_queries, build_support
from tasks.core.similarity import compute_similarity
from tasks.core.types import NOBODY
from tasks.core.unit_vectors import normalize, to_index_vectors
from tasks.errors import DataError
from tasks.neighbors.run import search_items
from tasks.neighbors.table import NeighborTable
from tasks.params import IndexKind, IndexParams, Metric, SearchParams, Split
from tasks.tables.paths import NEIGHBORS, RECALL, VOTES


def find(vectors, votes, is_reference, metric, plan, block=QUERIES, kind=None, before=None):
    """(similarity, position) of (lf_classes, n) by one strategy, `block` queries at a time; and the LF classes.

    `kind` of products: "float32" or "int8"; by default both take turns. `before`: what was found among others.
    """
    vectors = to_index_vectors(vectors, metric)
    lenders = np.flatnonzero(is_reference & (votes >= 0).any(axis=1))
    support = build_support(votes[lenders], lenders, vectors, metric=metric)
    if kind is not None:
        times = {False: [1.0 + (kind == "int8")] * 2, True: [2.0 - (kind == "int8")] * 2}
        support = replace(support, multiplier=replace(support.multiplier, seconds=times))
    searches = plan(support.lf_classes)
    known = None
    if before is not None:
        rows = dict(zip(before[2], before[0], strict=True))
        nothing = np.full(len(vectors), np.nan, np.float32)
        known = [rows.get((lf_class.lf, lf_class.label), nothing) for lf_class in support.lf_classes]
        known = np.array(known, np.float32).reshape(len(known), len(vectors))
    found = []
    for start in range(0, len(vectors), block):
        part = slice(start, start + block)
        queries = build_queries(support.geometry, vectors[part])
        near = None if known is None else known[:, part]
        found.append(find_neighbors(support, searches, queries, votes[part] < 0, near))
    similarity = np.concatenate([one.similarity for one in found], axis=1)
    position = np.concatenate([one.position for one in found], axis=1)
    return similarity, position, [(lf_class.lf, lf_class.label) for lf_class in support.lf_classes]


def assert_equals_oracle(vectors, votes, is_reference, metric, found):
    similarity, position, lf_classes = found
    expected = oracle.nearest(to_index_vectors(vectors, metric), votes, is_reference, metric)
    got = {
        (item, *lf_classes[place]): (similarity[place, item], position[place, item])
        for place, item in zip(*np.nonzero(position != NOBODY), strict=True)
    }
    assert got == expected
    np.testing.assert_array_equal(np.isnan(similarity), position == NOBODY)


@settings(max_examples=200, deadline=None)
@given(
    problem=problems(),
    metric=st.sampled_from(METRICS),
    block=st.sampled_from([1, 5, 100]),
    kind=st.sampled_from(["float32", "int8"]),
)
def test_both_strategies_and_kinds_of_products_equal_the_oracle(problem, metric, block, kind):
    vectors, votes, is_reference = problem
    for plan in (plan_per_lf, plan_union):
        found = find(vectors, votes, is_reference, metric, plan, block, kind)
        assert_equals_oracle(vectors, votes, is_reference, metric, found)


def find_in_turns(vectors, votes, is_first, metric, plan, block, kind):
    """What is found among some items, improved by what is found, after that, among all others."""
    first = find(vectors, votes, is_first, metric, plan, block, kind)
    second = find(vectors, votes, ~is_first, metric, plan, block, kind, before=first)
    lf_classes = sorted({*first[2], *second[2]})
    table = NeighborTable(lf_classes, len(vectors), Path(tempfile.gettempdir()))
    for similarity, position, of_turn in (first, second):
        found = Nearest(similarity=similarity, position=position)
        table.improve(np.arange(len(vectors)), found, table.index_rows(of_turn))
    return table.similarity, table.position, lf_classes


@given(st.permutations(range(12)), st.integers(0, 2**32))
def test_in_whatever_order_items_have_their_columns_the_table_is_the_same(order, seed):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        tables = [NeighborTable([(0, 0), (0, 1)], 12, Path(folder), of=of) for of in (None, np.array(order))]
        similarity = rng.integers(0, 3, (2, 12)).astype(np.float32)
        position = rng.integers(0, 12, (2, 12)).astype(np.int32)
        known = ReusedNeighbors(
            labels=(0, 1),
            of_label=lambda label: (similarity[label], position[label]),
            is_open=np.zeros(12, bool),
            is_added=np.zeros(12, bool),
        )
        gone, items = rng.random(12) < 0.3, np.flatnonzero(rng.random(12) < 0.5)
        nearest = Nearest(
            similarity=rng.integers(0, 3, (2, len(items))).astype(np.float32),
            position=rng.integers(NOBODY, 12, (2, len(items))).astype(np.int32),
        )
        looked_up = []
        for table in tables:
            table.put(0, known)
            table.forget(0, gone)
            table.improve(items, nearest, np.arange(2))
            looked_up.append(table.look_up(items, np.array([1, 0])))
            table.sort()
        one, other = tables
        assert np.array_equal(one.similarity, other.similarity, equal_nan=True)
        assert np.array_equal(one.position, other.position)
        assert np.array_equal(*looked_up, equal_nan=True)


@settings(max_examples=200, deadline=None)
@given(
    problem=problems(),
    metric=st.sampled_from(METRICS),
    block=st.sampled_from([5, 100]),
    kind=st.sampled_from(["float32", "int8"]),
)
def test_what_is_as_near_as_a_known_neighbor_is_found(problem, metric, block, kind):
    vectors, votes, is_first = problem
    for plan in (plan_per_lf, plan_union):
        found = find_in_turns(vectors, votes, is_first, metric, plan, block, kind)
        assert_equals_oracle(vectors, votes, np.ones(len(vectors), bool), metric, found)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_further_than_a_known_neighbor_is_hardly_looked_at(metric, monkeypatch):
    scored = []
    monkeypatch.setattr(
        "tasks.core.search.exact.score_pairs", lambda *given: scored.append(len(given[2])) or score_pairs(*given)
    )
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 16)).astype(np.float32)
    votes = np.where(rng.random((3000, 3)) < 0.5, 0, -1).astype(np.int8)
    first = find(vectors, votes, np.arange(3000) < 2900, metric, plan_union)
    scored.clear()
    find(vectors, votes, np.arange(3000) >= 2900, metric, plan_union, before=first)
    # 4,500 neighbors are asked for, of which 150 are among the last hundred items.
    assert sum(scored) < 900


def draw_hostile(name, rng):
    """(n, d) embeddings that 8 bits hold badly, or that differ by next to nothing."""
    n, d = 700, 40
    plain = rng.standard_normal((n, d))
    ways = {
        "near_equal": plain[0] + 1e-4 * plain,
        "around_a_mean": 30 + 0.1 * plain,
        "a_component_outweighs_all": plain + 1000 * rng.choice([-1, 1], n)[:, None] * (np.arange(d) == 3),
        "falling_spectrum": plain * 10.0 ** -np.linspace(0, 9, d),
        "one_hot": np.eye(d)[rng.integers(0, d, n)],
        "tiny": 1e-18 * plain,
    }
    return ways[name].astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "name",
    ["near_equal", "around_a_mean", "a_component_outweighs_all", "falling_spectrum", "one_hot", "tiny"],
)
def test_hostile_embeddings_have_the_same_neighbors_by_either_kind_of_products(name, metric):
    rng = np.random.default_rng(5)
    vectors = draw_hostile(name, rng)
    votes = np.where(rng.random((len(vectors), 3)) < 0.4, rng.integers(0, 2, (len(vectors), 3)), -1).astype(np.int8)
    everywhere = np.ones(len(vectors), bool)
    found = [find(vectors, votes, everywhere, metric, plan_union, kind=kind) for kind in ("float32", "int8")]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    for kind in ("float32", "int8"):
        in_turns = find_in_turns(vectors, votes, np.arange(len(vectors)) % 10 > 0, metric, plan_union, QUERIES, kind)
        np.testing.assert_array_equal(found[0][0], in_turns[0])
        np.testing.assert_array_equal(found[0][1], in_turns[1])


@pytest.mark.parametrize("metric", METRICS)
def test_strategies_and_batches_agree_over_many_tiles(metric):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((6000, 8)).astype(np.float32)
    vectors[3000:] = vectors[:3000][rng.permutation(3000)]
    vectors = to_index_vectors(vectors, metric)
    votes = np.where(rng.random((6000, 3)) < 0.6, rng.integers(0, 3, (6000, 3)), -1).astype(np.int8)
    is_reference = np.ones(6000, bool)
    one = find(vectors, votes, is_reference, metric, plan_per_lf)
    for plan, block in ((plan_union, 1024), (plan_union, 6000), (plan_per_lf, 77)):
        other = find(vectors, votes, is_reference, metric, plan, block)
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    for item in (0, 4321):  # and both are right
        row = votes[item : item + 1]
        for place, (lf, label) in enumerate(one[2]):
            if row[0, lf] < 0:
                near = compute_similarity(vectors[[item] * 6000], vectors, metric)
                near[votes[:, lf] != label] = -np.inf
                assert (one[0][place, item], one[1][place, item]) == (near.max(), near.argmax())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("plan", [plan_per_lf, plan_union])
def test_more_ties_than_are_collected_at_once_lose_nothing(metric, plan, monkeypatch):
    monkeypatch.setattr("tasks.core.search.exact.PENDING", 10)
    monkeypatch.setattr("tasks.core.search.plan.TILE", 16)
    vectors = np.linspace(1, 2, 60, dtype=np.float32)[:, None]  # d = 1: every cosine is 1
    votes = np.array([[-1, 0, 1][i % 3] for i in range(60)], np.int8)[:, None]
    found = find(vectors, votes, np.ones(60, bool), metric, plan)
    assert_equals_oracle(vectors, votes, np.ones(60, bool), metric, found)


@pytest.mark.parametrize("d", [1, 2, 30, 384, 4096])
def test_unit_vectors_are_as_similar_as_the_embeddings_are(d):
    rng = np.random.default_rng(d)
    x, y = rng.standard_normal((2, 500, d)).astype(np.float32)
    y = np.float32(rng.uniform(1e-3, 1e3, (500, 1))) * (x + np.float32(rng.choice([0, 1e-6, 0.1, 1, 10], (500, 1))) * y)
    apart = compute_similarity(x, y, "cosine") - compute_similarity(normalize(x), normalize(y), "cosine")
    assert np.abs(apart).max() <= 2.0**-23  # of 1, a unit in the last place


def test_thousands_of_duplicates_lend_the_smallest_id():
    vectors = np.repeat(np.float32([[1, 2], [2, 1]]), 5000, axis=0)
    votes = np.zeros((10000, 1), np.int8)
    votes[[0, 5000]] = -1
    similarity, position, _ = find(vectors, votes, np.ones(10000, bool), "cosine", plan_per_lf)
    assert position[0, [0, 1, 5000]].tolist() == [1, NOBODY, 5001]
    assert similarity[0, [0, 5000]].tolist() == [1, 1]


def test_the_cheaper_strategy_is_chosen():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1600, 64)).astype(np.float32)

    def chosen(votes):
        lenders = np.flatnonzero((votes >= 0).any(axis=1))
        support = build_support(votes[lenders], lenders, normalize(vectors), metric="cosine")
        return plan_searches(support.lf_classes, (votes < 0).sum(axis=0), len(votes), 64)

    disjoint = np.full((1600, 4), -1, np.int8)
    disjoint[np.arange(1600), np.arange(1600) % 4] = 0  # 4 x 1200 x 400 products against 1600 x 1600
    assert len(chosen(disjoint)) == 4
    shared = np.full((1600, 4), -1, np.int8)
    shared[:400] = 0  # 4 x 1200 x 400 products against 1600 x 400
    assert len(chosen(shared)) == 1
    # 4 x 300 x 100 products against 400 x 400, but an item is got ready once, and not for each LF.
    assert len(chosen(disjoint[:400])) == 1


def test_both_ways_to_multiply_take_turns_on_few_queries_and_the_faster_goes_on():
    vectors = normalize(np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32))

    def prepare_anew():
        return prepare(vectors, lambda shape: np.empty(shape, np.float32))

    def go(multiplier, lf_classes, seconds):
        sizes = []
        for part in multiplier.cut(2000, lf_classes):
            sizes.append(part.stop - part.start)
            with multiplier.multiply(vectors, np.zeros(50, np.float32), np.empty(2500, np.float32), 1) as products:
                is_narrow = isinstance(products, Int8Products)
            multiplier.seconds[is_narrow][-1] = seconds[is_narrow]
        return sizes

    assert go(replace(prepare_anew(), quantized=None), 160, [1, 2]) == [2000]
    wide, narrow = prepare_anew(), prepare_anew()
    if wide.quantized is not None:
        assert go(wide, 160, [1, 2]) == [256, 256, 256, 256, 976]
        assert go(wide, 160, [1, 2]) == [2000]
        assert go(narrow, 160, [2, 1]) == [256, 256, 256, 256, 512, 464]  # 160 x 512 cells stay in a core's cache
        assert go(narrow, 20, [2, 1]) == [2000]


VECTORS = [[1, 0], [0, 1], [1, 1], [2, 0.1], [0.1, 3]]
TOY_VOTES = [[0, -1], [1, -1], [-1, -1], [-1, 1], [0, -1]]
SPLITS = ["train", "train", "valid", "train", "test"]


def test_the_table_names_neighbors_by_id(tmp_path):
    ids = ["a", "b", "c", "d", "é"]
    write_project(tmp_path, vectors=VECTORS, votes=TOY_VOTES, splits=SPLITS, ids=ids)
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
    write_project(tmp_path, vectors=VECTORS, votes=TOY_VOTES, splits=SPLITS, ids=[-5, 0, 7, 8, 2**60])
    table = write_neighbors(tmp_path, metric=Metric.L2)
    assert table["lf0/0/neighbor"].to_list() == [None, None, -5, -5, None]
    assert table["lf0/0/similarity"].to_list()[2:3] == [-1.0]
    assert table["lf1/1/neighbor"].to_list() == [8, 8, 8, None, 8]


KINDS = (IndexKind.FLAT, IndexKind.IVF)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_items(tmp_path, n, kind):
    write_project(tmp_path, vectors=np.ones((n, 1)), votes=np.full((n, 1), -1), splits=["train"] * n)
    table = write_neighbors(tmp_path, kind=kind)
    assert table.columns == ["item_id"]
    assert table.height == n


@pytest.mark.parametrize("kind", KINDS)
def test_support_of_one_item_serves_everyone(tmp_path, kind):
    vectors = np.random.default_rng(0).standard_normal((200, 3))
    votes = np.full((200, 1), -1)
    votes[7] = 1
    write_project(tmp_path, vectors=vectors, votes=votes, splits=["train"] * 200)
    table = write_neighbors(tmp_path, kind=kind)
    assert table["lf0/1/neighbor"].to_list() == [None if item == 7 else 7 for item in range(200)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2])
def test_equal_vectors_by_the_thousand_lend_the_smallest_id(tmp_path, kind, metric):
    votes = np.tile([[0], [-1], [1]], (1000, 1))
    write_project(tmp_path, vectors=np.full((3000, 1), 0.3), votes=votes, splits=["train"] * 3000)
    table = write_neighbors(tmp_path, kind=kind, metric=metric)
    abstains = votes[:, 0] < 0
    assert table["lf0/0/neighbor"].to_list() == [0 if one else None for one in abstains]
    assert table["lf0/1/neighbor"].to_list() == [2 if one else None for one in abstains]
    assert set(table["lf0/0/similarity"]) == {None, 1.0 if metric == Metric.COSINE else 0.0}


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
    monkeypatch.setattr("tasks.tables.parquet.ROW_GROUP", 64)
    monkeypatch.setattr("tasks.neighbors.passes.QUERIES", 50)
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
        root = Path(__file__).resolve().parents[2]
        subprocess.run(
            [sys.executable, "-c", _RUN, str(tmp_path)], check=True, cwd=root, env={"PATH": "/usr/bin"} | environment
        )
        assert (tmp_path / NEIGHBORS).read_bytes() == first


def test_tables_of_other_items_are_refused(tmp_path):
    write_project(tmp_path, vectors=VECTORS, votes=TOY_VOTES, splits=SPLITS)
    write_neighbors(tmp_path)
    votes = pl.read_parquet(tmp_path / VOTES)
    votes[:4].write_parquet(tmp_path / VOTES)
    with pytest.raises(DataError, match="missing"):
        write_neighbors(tmp_path)


# One edited LF costs one search.


def search_again(root, *, params=None):
    """The LFs that a run of the stage had to search."""
    params = params or SearchParams()
    found = search_items(root, search.read_inputs(root, 2, params), params)
    return found.searched


def random_project(n=600, m=4, d=6):
    rng = np.random.default_rng(0)
    votes = np.where(rng.random((n, m)) < 0.3, rng.integers(0, 2, (n, m)), -1)
    return {"vectors": rng.standard_normal((n, d)), "votes": votes, "splits": ["train", "train", "valid"] * (n // 3)}


def read_outputs(root):
    return (root / NEIGHBORS).read_bytes(), (root / RECALL).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2])
def test_an_edited_lf_alone_is_searched_again_and_the_bytes_are_those_of_a_full_run(tmp_path, kind, metric):
    project = random_project()
    write_project(tmp_path / "edited", **project)
    write_neighbors(tmp_path / "edited", kind=kind, metric=metric)
    assert search_again(tmp_path / "edited") == ()
    project["votes"][::5, 2] = 1
    for root in ("edited", "fresh"):
        write_project(tmp_path / root, **project)
    assert search_again(tmp_path / "edited") == ("lf2",)
    for root in ("edited", "fresh"):
        write_neighbors(tmp_path / root, kind=kind, metric=metric)
    assert read_outputs(tmp_path / "edited") == read_outputs(tmp_path / "fresh")


def test_a_new_reference_or_new_embeddings_search_everything_again(tmp_path):
    project = random_project()
    write_project(tmp_path, **project)
    write_neighbors(tmp_path)
    assert len(search_again(tmp_path, params=SearchParams(reference=(Split.TRAIN, Split.VALID)))) == 4
    project["vectors"][0] += 1
    write_project(tmp_path, **project)
    index.run(tmp_path, ("no", "yes"), IndexParams())
    assert len(search_again(tmp_path)) == 4


def test_an_edit_in_the_compiled_loops_searches_again(tmp_path):
    """Of two neighbors that are equally near, the edited code takes the later one."""
    shutil.copytree(PROJECT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    votes = np.tile([[0], [0], [-1]], (10, 1))
    vectors = np.where(votes < 0, 1, np.eye(30))  # whoever asks is as near to one as to another
    write_project(tmp_path, vectors=vectors, votes=votes, splits=["train"] * 30)
    index.run(tmp_path, ("no", "yes"), IndexParams())
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}

    def search_apart():
        subprocess.run([sys.executable, "-c", _RUN, str(tmp_path)], check=True, cwd=tmp_path, env=environment)
        return set(pl.read_parquet(tmp_path / NEIGHBORS)["lf0/0/neighbor"].drop_nulls())

    assert search_apart() == {0}
    kernels = tmp_path / "tasks/core/search/kernels.py"
    text = kernels.read_text()
    assert text.count("positions[candidate] < position[entry]") == 1
    kernels.write_text(text.replace("positions[candidate] < position[entry]", "positions[candidate] > position[entry]"))
    assert search_apart() == {28}


def test_without_its_memo_the_stage_writes_the_same_bytes(tmp_path):
    write_project(tmp_path, **random_project())
    write_neighbors(tmp_path)
    before = read_outputs(tmp_path)
    shutil.rmtree(tmp_path / FOLDER)
    write_neighbors(tmp_path)
    assert read_outputs(tmp_path) == before


# Approximate search.


def clustered_project(n=4000, m=3):
    """Forty well-separated clusters; an LF votes at random, one in a single cluster, one on hardly any item."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 40, n)
    vectors = rng.standard_normal((40, 8))[cluster] + 0.1 * rng.standard_normal((n, 8))
    votes = np.full((n, m), -1)
    for lf, share in enumerate([rng.random(n) < 0.2, cluster == 3, rng.random(n) < 0.002]):
        votes[share, lf] = rng.integers(0, 2, n)[share]
    return {"vectors": vectors, "votes": votes, "splits": ["train"] * n}


def test_approximate_search_meets_its_target_and_says_what_it_reached(tmp_path):
    project = clustered_project()
    write_project(tmp_path, **project)
    exact = write_neighbors(tmp_path)
    found = write_neighbors(tmp_path, kind=IndexKind.IVF)
    recall = json.loads((tmp_path / RECALL).read_text())
    assert recall["kind"] == "ivf" and recall["target_recall"] == 0.99
    # Here every item is in the sample that is checked, so what is reported is the truth.
    right = asked = 0
    for name in found.columns[2::2]:
        right += (found[name] == exact[name]).sum()
        asked += exact[name].count()
        assert found[name].count() == exact[name].count()
    assert recall["checked_neighbors"] == asked
    assert 0.99 <= recall["recall"] == round(right / asked, 6) < 1


def test_a_missed_target_fails_with_the_figures_and_writes_nothing(tmp_path, monkeypatch):
    project = clustered_project()
    project["vectors"] = np.random.default_rng(1).standard_normal((4000, 8))
    write_project(tmp_path, **project)
    monkeypatch.setattr("tasks.neighbors.run.choose_effort", lambda need, target: 1)
    with pytest.raises(DataError, match=r"recall is 0\.\d+ .* at least 0\.99"):
        write_neighbors(tmp_path, kind=IndexKind.IVF)
    assert not (tmp_path / NEIGHBORS).exists() and not (tmp_path / RECALL).exists()


def test_approximate_search_is_the_same_with_more_threads(tmp_path):
    write_project(tmp_path, **clustered_project())
    write_neighbors(tmp_path, kind=IndexKind.IVF)
    before = read_outputs(tmp_path)
    shutil.rmtree(tmp_path / FOLDER)
    for path in (NEIGHBORS, RECALL):
        (tmp_path / path).unlink()
    environment = {"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", _RUN, str(tmp_path)], check=True, cwd=root, env=environment)
    assert read_outputs(tmp_path) == before


def line_of_cells():
    """Six items on a line, two a cell; LF 0 has support at items 1, 3 and 5, LF 1 at item 5 alone."""
    vectors = np.arange(6, dtype=np.float32)[:, None]
    votes = np.array([[-1, -1], [0, -1], [-1, -1], [0, -1], [-1, -1], [0, 0]], np.int8)
    lenders = np.flatnonzero((votes >= 0).any(axis=1))
    centers = np.array([[0.5], [2.5], [4.5]])
    grouped = ivf.group_items(np.array([0, 0, 1, 1, 2, 2]), centers, (range(1), range(1, 2), range(2, 3)), "l2")
    support = build_support(votes[lenders], lenders, vectors, metric="l2", cells=grouped.of_item)
    return grouped, support


def test_cells_are_visited_from_near_to_far_and_empty_ones_do_not_count():
    grouped, support = line_of_cells()
    located = ivf.locate_members(support, support.lf_classes, grouped)
    assert ivf.rank_cells(grouped, 0).tolist() == [0, 1, 2]

    def seen(*effort, own=range(1)):
        orders = [ivf.rank_cells(grouped, cell) for cell in own]
        visited = ivf.find_visited(located.counts > 0, orders, np.array(effort))
        found = ivf.visit(support.lf_classes, located, visited)
        return [support.items[lf_class.members].tolist() for lf_class in found]

    assert seen(1, 1) == [[1], [5]]  # the only support of LF 1 is two cells away
    assert seen(2, 0) == [[1, 3], []]
    assert seen(3, 9) == [[1, 3, 5], [5]]
    assert seen(1, 1, own=range(2)) == [[1, 3], [5]]  # together they visit what one of them does


@pytest.mark.parametrize("metric", METRICS)
def test_cells_are_ranked_alike_with_more_threads(metric):
    centers = np.random.default_rng(0).standard_normal((1549, 384)).astype(np.float32)

    def rank(threads):
        with threadpool_limits(threads):
            found = [ivf.measure_distances(centers.astype(np.float64), cell, metric) for cell in range(20)]
            return np.stack(found), ivf.walk_centers(centers.astype(np.float64), metric)

    for one, other in zip(rank(1), rank(2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cells_join_until_they_have_so_many_items(monkeypatch):
    sizes = np.array([2, 2, 2])
    assert ivf.join_cells(sizes, 5) == (range(2), range(2, 3))
    assert ivf.join_cells(sizes, 6) == (range(3),)
    assert ivf.join_cells(sizes, 1) == (range(1), range(1, 2), range(2, 3))
    assert ivf.join_cells(sizes[:0], 6) == ()
    monkeypatch.setattr("tasks.core.search.ivf.TOGETHER", 2)
    assert ivf.join_cells(sizes, 6) == (range(2), range(2, 3))


def test_items_that_ask_are_searched_with_their_cells():
    grouped = replace(line_of_cells()[0], together=(range(2), range(2, 3)))
    everybody = [(own, items.tolist()) for own, items in ivf.iterate_queries(grouped, np.ones(6, bool), 3)]
    assert everybody == [(range(2), [0, 1, 2]), (range(2), [3]), (range(2, 3), [4, 5])]
    some = np.array([False, True, False, True, False, False])
    assert [(own, items.tolist()) for own, items in ivf.iterate_queries(grouped, some, 3)] == [(range(2), [1, 3])]


def test_the_effort_is_what_the_sample_needs():
    grouped, support = line_of_cells()
    occupied = ivf.locate_members(support, support.lf_classes, grouped).counts > 0
    # Items 0, 2, 4, whose neighbors are said to be 1, 1, 5 (LF 0) and 5, nobody, 5 (LF 1).
    position = np.array([[1, 1, 5], [5, NOBODY, 5]], np.int32)
    need = ivf.measure_need(occupied, grouped, np.array([0, 2, 4]), position)
    # From cell 1, cell 0 is as near as cell 2 and comes first: it is the second.
    assert need.tolist() == [[1, 2, 1], [1, 0, 1]]
    # Together with cell 0, it is there from the start.
    grouped = replace(grouped, together=(range(2), range(2, 3)))
    need = ivf.measure_need(occupied, grouped, np.array([0, 2, 4]), position)
    assert need.tolist() == [[1, 1, 1], [1, 0, 1]]
    assert ivf.choose_effort(np.array([1, 5, 9, 0]), 0.3) == 5  # .65 of three is two
    assert ivf.choose_effort(np.array([0, 0]), 0.9) == 1
    # Between a number and its double there are four to choose from.
    assert [ivf.choose_effort(np.array([least]), 0.9) for least in (9, 16, 17, 21, 24, 28)] == [10, 16, 20, 23, 27, 32]


def test_a_neighbor_is_lost_where_nobody_looks():
    grouped = line_of_cells()[0]
    position = np.array([1, 3, 1, 5, NOBODY, 3], np.int32)

    def lost(occupied, effort):
        found = ivf.find_lost(np.array([occupied], bool), np.array([effort]), grouped, [position])
        return [item for items, is_lost in found for item in items[is_lost[0]].tolist()]

    assert lost([1, 1, 1], 3) == []
    assert lost([1, 1, 1], 1) == [1, 2, 3, 5]  # all but item 0 have a neighbor in another cell
    assert lost([1, 1, 1], 2) == [3]  # from cell 1, cell 0 is as near as cell 2, and comes first
    assert lost([1, 0, 1], 2) == [1, 5]  # whose neighbor is in a cell that is said to be empty
    assert not list(ivf.find_lost(np.ones((0, 3), bool), np.ones(0, np.int64), grouped, []))


@settings(max_examples=60, deadline=None)
@given(problem=problems(), metric=st.sampled_from(METRICS), seed=st.integers(0, 99))
def test_with_all_effort_cells_change_nothing(problem, metric, seed):
    embeddings, votes, is_reference = problem
    vectors = to_index_vectors(embeddings, metric)
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((4, vectors.shape[1]))
    grouped = ivf.group_items(rng.integers(0, 4, len(vectors)), centers, (range(3), range(3, 4)), metric)
    lenders = np.flatnonzero(is_reference & (votes >= 0).any(axis=1))
    support = build_support(votes[lenders], lenders, vectors, metric=metric, cells=grouped.of_item)
    located = ivf.locate_members(support, support.lf_classes, grouped)
    similarity = np.full((len(support.lf_classes), len(vectors)), np.nan, np.float32)
    position = np.full(similarity.shape, NOBODY)
    for own, items in ivf.iterate_queries(grouped, np.ones(len(vectors), bool), 5):
        orders = [ivf.rank_cells(grouped, cell) for cell in own]
        visited = ivf.find_visited(located.counts > 0, orders, np.full(len(support.lf_classes), 10**6))
        lf_classes = ivf.visit(support.lf_classes, located, visited)
        queries = build_queries(support.geometry, vectors[items])
        searches = plan_searches(lf_classes, (votes[items] < 0).sum(axis=0), len(items), support.factors.shape[1])
        nearest = find_neighbors(support, searches, queries, votes[items] < 0)
        similarity[:, items], position[:, items] = nearest.similarity, nearest.position
    lf_classes = [(lf_class.lf, lf_class.label) for lf_class in support.lf_classes]
    assert_equals_oracle(embeddings, votes, is_reference, metric, (similarity, position, lf_classes))


# The disk.


@pytest.mark.parametrize("left", [50_000, 500_000])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, left):
    """A small file system of its own, on which `left` bytes are free when the search begins."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        project = random_project(n=3000, m=4, d=30)  # embeddings of 360,000 bytes, neighbors of more than 80,000
        write_project(disk, **project)
        index.run(disk, ("no", "yes"), IndexParams())
        before = {path for path in disk.rglob("*") if path.is_file()}
        with (disk / "filler").open("wb") as filler:
            filler.write(bytes(shutil.disk_usage(disk).free - left))
        with pytest.raises(OSError, match="No space left"):
            search.run(disk, ("no", "yes"), SearchParams())
        after = {path for path in disk.rglob("*") if path.is_file() and FOLDER.name not in path.parts}
        assert after - {disk / "filler"} == before
        (disk / "filler").unlink()
        search.run(disk, ("no", "yes"), SearchParams())
    finally:
        subprocess.run(["umount", disk], check=True)
