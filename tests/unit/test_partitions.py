"""Partitions: what k-means must find, whoever asks and in whatever order the rows come."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tasks.core.label_models.partitions import Partition, fit_partition, thin_rows

CORNERS = np.array([[0, 0], [0, 10], [10, 0], [10, 10]], dtype=np.float32)


def clusters(rows_each: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(4 * rows_each, 2)).astype(np.float32)
    return np.repeat(CORNERS, rows_each, axis=0) + noise


def test_separate_clusters_are_found():
    found = fit_partition(clusters(50), 4)
    homes = found.assign(CORNERS)
    assert sorted(homes) == [0, 1, 2, 3]
    assert np.allclose(found.centroids[homes], CORNERS, atol=0.1)
    assert (found.assign(clusters(50)) == np.repeat(homes, 50)).all()


def test_an_item_halfway_goes_to_the_first():
    partition = Partition(centroids=np.array([[0.0], [2.0]]))
    assert partition.assign(np.array([[1.0], [0.9], [1.1]], dtype=np.float32)).tolist() == [0, 0, 1]


def test_blocks_do_not_change_the_answer():
    vectors = np.random.default_rng(1).normal(size=(20_000, 3)).astype(np.float32)
    partition = Partition(centroids=vectors[:7].astype(np.float64))
    distances = ((vectors[:, None, :].astype(np.float64) - partition.centroids[None]) ** 2).sum(axis=2)
    assert (partition.assign(vectors) == distances.argmin(axis=1)).mean() == 1


@pytest.mark.parametrize("vectors", [np.ones((30, 2), np.float32), np.ones((1, 2), np.float32)])
def test_fewer_distinct_rows_than_parts_give_fewer_parts(vectors):
    assert fit_partition(vectors, 4).centroids.tolist() == [[1, 1]]


def test_zero_and_minus_zero_are_one_point():
    assert fit_partition(np.array([[0, 1], [-0.0, 1]] * 10, np.float32), 4).centroids.tolist() == [[0, 1]]


def test_no_row_at_all():
    with pytest.raises(ValueError, match="4 parts of 0 rows"):
        fit_partition(np.empty((0, 2), np.float32), 4)
    assert Partition(centroids=np.zeros((1, 2))).assign(np.empty((0, 2), np.float32)).shape == (0,)


def test_a_sample_of_many_rows_finds_the_same_clusters():
    vectors = np.tile(clusters(50), (250, 1))
    kept = thin_rows(np.arange(len(vectors)))
    homes = fit_partition(vectors[kept], 4).assign(CORNERS)
    assert len(vectors) == 50_000 and len(kept) < 20_000 and sorted(homes) == [0, 1, 2, 3]
    assert thin_rows(kept).tolist() == kept.tolist() and thin_rows(kept[:0]).size == 0


def test_the_number_of_threads_changes_no_digit():
    vectors = np.random.default_rng(2).normal(size=(6000, 64)).astype(np.float32)
    with threadpool_limits(limits=3):
        found = fit_partition(vectors, 5).centroids
    assert found.tolist() == fit_partition(vectors, 5).centroids.tolist()
