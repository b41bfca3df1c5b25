"""Exact search with proposals from elsewhere. No GPU takes part: faiss's index on the processor stands in for the one on
a GPU, which has the same two methods. What stays unproven is that faiss's GPU index makes float32 products."""

import faiss
import numpy as np
import pytest
from extension_data import write_neighbors, write_project
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import METRICS, problems

from tasks.compute import device
from tasks.compute.device import ENVIRONMENT
from tasks.core.search import candidates as core
from tasks.core.search.exact import find_neighbors
from tasks.core.search.faiss_index import count_gpus, normalize
from tasks.core.search.plan import plan_union
from tasks.core.search.support import build_queries, build_support
from tasks.errors import StageError
from tasks.params import IndexKind, Metric
from tasks.tables.paths import NEIGHBORS, RECALL


def build_on_processor(vectors):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def assert_proposals_change_nothing(vectors, votes, is_reference, metric, proposed):
    units = normalize(vectors) if metric == "cosine" else vectors
    lenders = np.flatnonzero(is_reference & (votes >= 0).any(axis=1))
    support = build_support(votes[lenders], lenders, vectors, units, metric=metric)
    queries = build_queries(support.geometry, vectors, units)
    expected = find_neighbors(support, plan_union(support.lf_classes), queries, votes < 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "CANDIDATES", proposed)
        proposals = core.CandidateIndexes(support, support.lf_classes, build_on_processor)
        found = core.find_neighbors_among_candidates(proposals, queries, votes < 0)
    np.testing.assert_array_equal(found.position, expected.position)
    np.testing.assert_array_equal(found.similarity.view(np.int32), expected.similarity.view(np.int32))


@settings(max_examples=100, deadline=None)
@given(problem=problems(), metric=st.sampled_from(METRICS), proposed=st.sampled_from([1, 2, 32]))
def test_proposals_change_nothing(problem, metric, proposed):
    assert_proposals_change_nothing(*problem, metric, proposed)


@pytest.mark.parametrize("proposed", [1, 4, 32])
@pytest.mark.parametrize("metric", METRICS)
def test_products_that_cannot_tell_who_is_nearer_change_nothing(metric, proposed):
    vectors = (1000 + 1e-3 * np.random.default_rng(0).integers(-2, 3, (400, 5))).astype(np.float32)
    votes = np.where(np.arange(400) < 100, 0, -1)[:, None].astype(np.int8)
    assert_proposals_change_nothing(vectors, votes, np.ones(400, bool), metric, proposed)


@pytest.fixture(autouse=True)
def forget():
    device.is_gpu_used.cache_clear()
    yield
    device.is_gpu_used.cache_clear()


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.IVF])
def test_the_stage_writes_the_same_bytes(tmp_path, monkeypatch, kind):
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (3000, 5)) + 8
    votes = np.where(rng.random((3000, 3)) < [0.3, 0.02, 0.5], rng.integers(0, 2, (3000, 3)), -1)
    built = []

    def make_builder():
        return lambda vectors: built.append(len(vectors)) or build_on_processor(vectors)

    monkeypatch.setattr(device, "count_gpus", lambda: 1)
    monkeypatch.setattr(device, "make_gpu_builder", make_builder)
    written = []
    for choice in ("cpu", "auto"):
        monkeypatch.setenv(ENVIRONMENT, choice)
        root = tmp_path / choice
        write_project(root, vectors=vectors, votes=votes, splits=["train"] * 3000)
        write_neighbors(root, kind=kind, metric=Metric.L2)
        written.append([(root / path).read_bytes() for path in (NEIGHBORS, RECALL)])
        assert bool(built) == (choice == "auto")
    assert written[0] == written[1]


@pytest.mark.skipif(count_gpus() > 0, reason="faiss sees a GPU")
def test_a_gpu_that_is_not_there_is_an_error(capsys):
    with pytest.raises(StageError, match=r"EPOXY_DEVICE is gpu, but faiss sees no GPU\. Install"):
        device.is_gpu_used("gpu")
    assert not device.is_gpu_used("cpu")
    assert capsys.readouterr().err == ""
    assert not device.is_gpu_used("auto")
    assert capsys.readouterr().err == "search: exact products on the processor, since faiss sees no GPU\n"


def test_another_device_is_an_error():
    with pytest.raises(StageError, match="EPOXY_DEVICE is 'tpu'; expected auto, cpu or gpu"):
        device.is_gpu_used("tpu")


def test_a_gpu_that_fails_is_an_error(tmp_path, monkeypatch):
    def fail(vectors):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(device, "count_gpus", lambda: 1)
    monkeypatch.setattr(device, "make_gpu_builder", lambda: fail)
    monkeypatch.setenv(ENVIRONMENT, "gpu")
    write_project(tmp_path, vectors=np.eye(3), votes=[[0], [1], [-1]], splits=["train"] * 3)
    with pytest.raises(StageError, match=r"the GPU failed: out of memory\. Set EPOXY_DEVICE to cpu"):
        write_neighbors(tmp_path)


@pytest.mark.skipif(count_gpus() == 0, reason="faiss sees no GPU here")
def test_a_gpu_proposes_what_the_processor_does():
    from tasks.core.search.faiss_index import make_gpu_builder

    rng = np.random.default_rng(0)
    vectors = normalize(rng.standard_normal((5000, 384)).astype(np.float32))
    votes = np.where(rng.random((5000, 4)) < 0.3, rng.integers(0, 2, (5000, 4)), -1).astype(np.int8)
    support = build_support(votes, np.arange(5000), vectors, vectors, metric="cosine")
    queries = build_queries(support.geometry, vectors, vectors)
    expected = find_neighbors(support, plan_union(support.lf_classes), queries, votes < 0)
    proposals = core.CandidateIndexes(support, support.lf_classes, make_gpu_builder())
    found = core.find_neighbors_among_candidates(proposals, queries, votes < 0)
    np.testing.assert_array_equal(found.position, expected.position)
    np.testing.assert_array_equal(found.similarity, expected.similarity)
