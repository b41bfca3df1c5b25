"""The index holds every embedding, is the same each time, and is recognized when it is damaged or out of date."""

import json
from contextlib import nullcontext

import faiss
import numpy as np
import polars as pl
import pytest
from extension_data import write_project

from tasks import index, search
from tasks.core.search.faiss_index import find_centers, is_approximate_worth_it, read_index, write_index
from tasks.core.unit_vectors import normalize, to_index_vectors
from tasks.errors import DataError
from tasks.params import IndexKind, IndexParams, Metric, SearchParams
from tasks.tables import schemas
from tasks.tables.centers import Centers, read_centers, write_centers
from tasks.tables.parquet import write_table
from tasks.tables.paths import CELLS, CENTERS, EMBEDDINGS, INDEX, INDEX_DESCRIPTION, KEPT_CENTERS

CLASSES = ("no", "yes")
VECTORS = [[3, 4], [0, 2], [-1, 0]]


@pytest.fixture
def project(tmp_path):
    write_project(tmp_path, vectors=VECTORS, votes=[[0], [1], [-1]], splits=["train"] * 3)
    return tmp_path


def test_cosine_stores_unit_vectors_in_the_order_of_ids(project):
    index.run(project, CLASSES, IndexParams())
    stored = read_index(project / INDEX)
    assert stored.metric == "cosine"
    np.testing.assert_allclose(stored.vectors, [[3 / 5, 4 / 5], [0, 1], [-1, 0]], rtol=1e-7)


def test_a_unit_vector_is_the_same_whatever_vectors_come_with_it():
    vectors = np.random.default_rng(0).standard_normal((1000, 7)).astype(np.float32)
    alone = np.concatenate([normalize(vectors[row : row + 1]) for row in range(len(vectors))])
    np.testing.assert_array_equal(normalize(vectors), alone)
    vectors[700] = 0
    with pytest.raises(ValueError, match="no direction"):
        normalize(vectors)


def test_l2_stores_the_embeddings_as_they_are(project):
    index.run(project, CLASSES, IndexParams(metric=Metric.L2))
    stored = read_index(project / INDEX)
    assert stored.metric == "l2"
    np.testing.assert_array_equal(stored.vectors, VECTORS)


def test_faiss_itself_can_search_the_file(project):
    index.run(project, CLASSES, IndexParams())
    similarity, position = faiss.read_index(str(project / INDEX)).search(np.float32([[0, 1]]), 1)
    assert position.item() == 1
    assert similarity.item() == 1


def test_description_says_what_the_index_is(project):
    index.run(project, CLASSES, IndexParams(metric=Metric.L2))
    found = json.loads((project / INDEX_DESCRIPTION).read_text())
    assert {key: found[key] for key in ("kind", "metric", "n", "d")} == {"kind": "flat", "metric": "l2", "n": 3, "d": 2}


def test_two_runs_give_the_same_bytes(project):
    index.run(project, CLASSES, IndexParams())
    first = (project / INDEX).read_bytes(), (project / INDEX_DESCRIPTION).read_bytes()
    index.run(project, CLASSES, IndexParams())
    assert ((project / INDEX).read_bytes(), (project / INDEX_DESCRIPTION).read_bytes()) == first


def two_clusters(root, size=64):
    """Two far clusters of 64 items or more; of 64: at most 128 / 32 = 4 cells, none of them with items of both."""
    draws = np.random.default_rng(0).standard_normal((size, 2, 3)) * 0.01
    vectors = np.concatenate([draws[:, 0] + [1, 0, 0], draws[:, 1] + [0, 1, 0]])
    ids = [f"{side}{number:04}" for side in "ab" for number in range(size)]
    write_project(root, vectors=vectors, votes=[[0]] * 2 * size, splits=["train"] * 2 * size, ids=ids)


def test_an_approximate_index_puts_near_items_in_one_cell(tmp_path):
    two_clusters(tmp_path)
    index.run(tmp_path, CLASSES, IndexParams(kind=IndexKind.IVF))
    first = (tmp_path / CELLS).read_bytes(), (tmp_path / INDEX_DESCRIPTION).read_bytes()
    cells = pl.read_parquet(tmp_path / CELLS)["cell"].to_list()
    assert json.loads(first[1])["cells"] == 4
    assert not set(cells[:64]) & set(cells[64:])
    index.run(tmp_path, CLASSES, IndexParams(kind=IndexKind.IVF))
    assert ((tmp_path / CELLS).read_bytes(), (tmp_path / INDEX_DESCRIPTION).read_bytes()) == first


def test_auto_is_exact_until_a_year_of_nights_costs_less_with_approximate_search(project):
    index.run(project, CLASSES, IndexParams(kind=IndexKind.AUTO))
    description = json.loads((project / INDEX_DESCRIPTION).read_text())
    assert description["kind"] == "flat" and description["chosen_because"].startswith("auto")
    # All with all once, and on 364 nights a hundredth of that twice: 8.28 n * n; of cells, 365 * 45,388 n.
    assert not is_approximate_worth_it(0) and not is_approximate_worth_it(1_990_000)
    assert is_approximate_worth_it(2_010_000) and is_approximate_worth_it(10_000_000)


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.IVF])
def test_damaged_cells_are_refused(project, kind):
    index.run(project, CLASSES, IndexParams(kind=kind))
    (project / CELLS).write_bytes((project / CELLS).read_bytes()[:-5])
    with pytest.raises(DataError, match=r"cells\.parquet"):
        search.run(project, CLASSES, SearchParams())


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.IVF])
def test_damaged_centers_are_refused_where_they_are_needed(tmp_path, kind):
    two_clusters(tmp_path)
    index.run(tmp_path, CLASSES, IndexParams(kind=kind))
    (tmp_path / CENTERS).write_bytes((tmp_path / CENTERS).read_bytes()[:-5])
    with pytest.raises(DataError, match=r"centers\.parquet") if kind is IndexKind.IVF else nullcontext():
        search.run(tmp_path, CLASSES, SearchParams())


@pytest.mark.parametrize("metric", Metric)
def test_centers_that_are_kept_give_the_same_cells(tmp_path, metric, capsys):
    params = IndexParams(kind=IndexKind.IVF, metric=metric)
    two_clusters(tmp_path)
    index.run(tmp_path, CLASSES, params)
    cells, centers = (tmp_path / CELLS).read_bytes(), (tmp_path / CENTERS).read_bytes()
    (tmp_path / KEPT_CENTERS).write_bytes(centers)
    index.run(tmp_path, CLASSES, params)
    assert ((tmp_path / CELLS).read_bytes(), (tmp_path / CENTERS).read_bytes()) == (cells, centers)
    assert json.loads((tmp_path / INDEX_DESCRIPTION).read_text())["are_centers_kept"]
    assert "4 kept cells" in (said := capsys.readouterr().err) and "warning" not in said


def test_rows_that_come_leave_those_that_were_there_in_their_cells(tmp_path):
    two_clusters(tmp_path)
    index.run(tmp_path, CLASSES, IndexParams(kind=IndexKind.IVF))
    before = pl.read_parquet(tmp_path / CELLS)
    kept = (tmp_path / CENTERS).read_bytes()
    two_clusters(tmp_path, 80)
    (tmp_path / KEPT_CENTERS).write_bytes(kept)
    index.run(tmp_path, CLASSES, IndexParams(kind=IndexKind.IVF))
    after = pl.read_parquet(tmp_path / CELLS)
    assert (
        after.height == 160
        and after.join(before, on="item_id").select((pl.col("cell") == pl.col("cell_right")).all()).item()
    )


def test_kept_centers_that_no_longer_fit_are_told(tmp_path, capsys):
    two_clusters(tmp_path)
    params = IndexParams(kind=IndexKind.IVF)
    index.run(tmp_path, CLASSES, params)
    kept = read_centers(tmp_path / CENTERS)
    # All items in one place, where there were two.
    write_project(tmp_path, vectors=[[1, 0, 0]] * 128, votes=[[0]] * 128, splits=["train"] * 128, centers=kept.vectors)
    write_centers(tmp_path / KEPT_CENTERS, kept)
    index.run(tmp_path, CLASSES, params)
    assert "no longer fit: their imbalance is 4.00, where it was 1." in capsys.readouterr().err
    # Sixteen times the items: two more cells would do for each, of those that suit the old number.
    two_clusters(tmp_path, 1024)
    write_centers(tmp_path / KEPT_CENTERS, kept)
    index.run(tmp_path, CLASSES, params)
    said = capsys.readouterr().err
    assert (
        "no longer fit: 2,048 items are in 4 cells, found for 128; 64 suit them" in said
        and "remove ingest.centers" in said
    )


def test_centers_that_a_flat_index_does_without_are_told(tmp_path, capsys):
    write_project(tmp_path, vectors=VECTORS, votes=[[0]] * 3, splits=["train"] * 3, centers=[[1, 0]])
    index.run(tmp_path, CLASSES, IndexParams())
    assert "which a flat index does without" in capsys.readouterr().err
    assert not json.loads((tmp_path / INDEX_DESCRIPTION).read_text())["are_centers_kept"]
    assert pl.read_parquet(tmp_path / CENTERS).is_empty()


def test_centers_of_another_metric_are_refused(tmp_path):
    two_clusters(tmp_path)
    write_centers(
        tmp_path / KEPT_CENTERS, Centers(vectors=np.float32([[3, 0, 4], [0, 1, 0]]), items=np.array([64, 64]))
    )
    with pytest.raises(DataError, match="a center has length 5, expected 1"):
        index.run(tmp_path, CLASSES, IndexParams(kind=IndexKind.IVF))
    assert not (tmp_path / INDEX).exists()


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("vectors", [[[1, 0], [-1, 0]] * 20, [[1, 0], [-1, 0], [0, 1], [0, -1]] * 40, [[3, 4]] * 200])
def test_items_that_are_opposite_or_equal_have_cells(tmp_path, metric, vectors):
    votes = np.where(np.arange(len(vectors)) % 3, -1, np.arange(len(vectors)) % 2)[:, None]
    write_project(tmp_path, vectors=vectors, votes=votes, splits=["train"] * len(vectors))
    index.run(tmp_path, CLASSES, IndexParams(kind=IndexKind.IVF, metric=metric))
    search.run(tmp_path, CLASSES, SearchParams())
    cells = pl.read_parquet(tmp_path / CELLS)["cell"].to_numpy()
    for vector in np.unique(vectors, axis=0):
        assert len(set(cells[(np.array(vectors) == vector).all(axis=1)])) == 1
    centers = pl.read_parquet(tmp_path / CENTERS)["center"].to_numpy()
    assert metric is Metric.L2 or np.abs(np.linalg.norm(centers, axis=1) - 1).max() < 1e-6


def test_an_approximate_index_of_nothing_is_empty(tmp_path):
    write_project(tmp_path, vectors=np.empty((0, 3)), votes=np.empty((0, 1)), splits=[])
    index.run(tmp_path, CLASSES, IndexParams(kind=IndexKind.IVF))
    search.run(tmp_path, CLASSES, SearchParams())
    assert pl.read_parquet(tmp_path / CELLS).is_empty()


@pytest.mark.parametrize(("metric", "kind"), [("cosine", faiss.IndexFlatIP), ("l2", faiss.IndexFlatL2)])
@pytest.mark.parametrize("cuts", [[50], [7, 0, 43], []])
def test_batches_give_the_bytes_that_faiss_writes_of_all_vectors(tmp_path, metric, kind, cuts):
    vectors = np.random.default_rng(0).standard_normal((sum(cuts), 3)).astype(np.float32)
    index = kind(3)
    index.add(to_index_vectors(vectors, metric))
    faiss.write_index(index, str(tmp_path / "whole"))
    write_index(np.split(vectors, np.cumsum(cuts)), tmp_path / "parts", d=3, metric=metric)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_k_means_may_pause_between_rounds():
    vectors = np.random.default_rng(0).standard_normal((600, 4)).astype(np.float32)
    vectors[:300] = vectors[0]  # centers without items are moved: that, too, must not depend on pauses
    whole = faiss.Clustering(4, 20)
    whole.seed, whole.niter, whole.max_points_per_centroid = 0, 10, 1000
    whole.train(vectors, faiss.IndexFlatL2(4))
    centers = find_centers(vectors, cells=20, metric="l2", rounds=range(10))
    assert np.array_equal(centers.ravel(), faiss.vector_to_array(whole.centroids))


@pytest.mark.parametrize("exponent", [-120, -40, 40, 120])
def test_cells_do_not_depend_on_the_unit_of_the_embeddings(tmp_path, exponent):
    """Squares of the largest float32 numbers are infinite, those of the smallest are 0."""
    vectors = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    found = []
    for unit in (0, exponent):
        root = tmp_path / str(unit)
        write_project(root, vectors=vectors * 2.0**unit, votes=[[0]] * 300, splits=["train"] * 300)
        index.run(root, CLASSES, IndexParams(metric=Metric.L2, kind=IndexKind.IVF))
        found.append((root / CELLS).read_bytes())
    assert found[0] == found[1]


def test_a_zero_vector_has_no_cosine(tmp_path):
    write_project(tmp_path, vectors=[[1, 0], [0, 0]], votes=[[0], [1]], splits=["train"] * 2)
    with pytest.raises(DataError, match="zero"):
        index.run(tmp_path, CLASSES, IndexParams())
    assert not (tmp_path / INDEX).exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:-1] + b"\xff", lambda data: b""])
def test_a_damaged_index_is_refused(project, damage):
    index.run(project, CLASSES, IndexParams())
    (project / INDEX).write_bytes(damage((project / INDEX).read_bytes()))
    with pytest.raises(DataError, match=r"index\.faiss"):
        search.run(project, CLASSES, SearchParams())


def test_a_truncated_index_is_not_read(project):
    index.run(project, CLASSES, IndexParams())
    (project / INDEX).write_bytes((project / INDEX).read_bytes()[:-5])
    with pytest.raises(ValueError, match="faiss cannot read"):
        read_index(project / INDEX)


def test_an_index_of_other_items_is_refused(project):
    index.run(project, CLASSES, IndexParams())
    write_project(project, vectors=VECTORS, votes=[[0], [1], [-1]], splits=["train"] * 3, ids=[0, 1, 7])
    with pytest.raises(DataError, match=r"cells\.parquet"):
        search.run(project, CLASSES, SearchParams())


@pytest.mark.parametrize("text", ["{}", "[1]", '{"kind": "flat"'])
def test_a_damaged_description_is_refused(project, text):
    index.run(project, CLASSES, IndexParams())
    (project / INDEX_DESCRIPTION).write_text(text)
    with pytest.raises(DataError, match=r"index\.json"):
        search.run(project, CLASSES, SearchParams())


def test_embeddings_of_the_wrong_type_are_named(project):
    (project / EMBEDDINGS).unlink()
    wrong = pl.DataFrame({"item_id": [0], "p_a": [0.5], "p_b": [0.5]})
    write_table(project / EMBEDDINGS, wrong.select("item_id"), schemas.votes(2, []))
    with pytest.raises(DataError, match="embedding"):
        index.run(project, CLASSES, IndexParams())
