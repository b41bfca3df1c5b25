"""What goes around search on graphics cards, with cards that are made up: passes, halves, doubts, and what is said without one.

The kernels themselves are tested in tests/property/test_card_search.py."""

import threading

import numpy as np
import pytest
from extension_data import write_neighbors, write_project
from fake_card import FakeCard
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import METRICS, problems

from tasks.compute import device
from tasks.compute.device import ENVIRONMENT
from tasks.core.search import on_cards
from tasks.core.search.blocks import SamePlan
from tasks.core.search.exact import find_neighbors
from tasks.core.search.on_cards import GROUP, CardIsFull, CardSearch, NoCard, cut_into_parts
from tasks.core.search.plan import plan_union
from tasks.core.search.support import LFClass, build_queries, build_support
from tasks.core.unit_vectors import to_index_vectors
from tasks.errors import StageError
from tasks.params import IndexKind, Metric
from tasks.tables.paths import NEIGHBORS, RECALL


def assert_cards_change_nothing(cards, vectors, votes, is_reference, metric):
    vectors = to_index_vectors(vectors, metric)
    lenders = np.flatnonzero(is_reference & (votes >= 0).any(axis=1))
    support = build_support(votes[lenders], lenders, vectors, metric=metric)
    queries = build_queries(support.geometry, vectors)
    expected = find_neighbors(support, plan_union(support.lf_classes), queries, votes < 0)
    search = CardSearch(support, support.lf_classes, cards)
    for _ in range(2):  # what a card holds is used again
        found = search.find_neighbors(queries, votes < 0)
        np.testing.assert_array_equal(found.position, expected.position)
        np.testing.assert_array_equal(found.similarity.view(np.int32), expected.similarity.view(np.int32))


@settings(max_examples=60, deadline=None)
@given(
    problem=problems(),
    metric=st.sampled_from(METRICS),
    slots=st.sampled_from([16, 32, 10**9]),
    queries=st.sampled_from([4, 10**9]),
    in_doubt=st.sampled_from([0, 0.3, 1]),
)
def test_parts_halves_and_doubts_change_nothing(problem, metric, slots, queries, in_doubt):
    card = FakeCard(slots=slots, queries=queries, in_doubt=in_doubt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_cards, "LEAST_MEMBERS", 16)
        patch.setattr(on_cards, "LEAST_QUERIES", 4)
        patch.setattr(on_cards, "AT_ONCE", 16)
        assert_cards_change_nothing([card], *problem, metric)
    assert max(card.held, default=0) <= slots and max(card.searched, default=0) <= queries


def draw_task(n, votes=3):
    """Vectors (n, 4) of items that all lend their votes, and the votes: every `votes`th item abstains."""
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(n) % votes, np.arange(n) % 2, -1)
    return rng.standard_normal((n, 4)).astype(np.float32), labels[:, None].astype(np.int8), np.ones(n, bool)


def test_what_fits_free_memory_is_a_part(monkeypatch):
    monkeypatch.setattr(on_cards, "LEAST_MEMBERS", 16)
    # A slot of 4 dimensions takes 4 * 4 + 2 * 70 + 64 = 220 bytes, and .6 of the memory is for slots: 64 of them.
    card = FakeCard(free=round(64 * 220 / 0.6) + 1)
    assert_cards_change_nothing([card], *draw_task(240), "l2")
    # 80 members for each of two classes: 64; 16 and 48; 32; and all of that again for the second search.
    assert card.held == 2 * [64, 64, 32]


def test_members_beyond_a_card_are_cut_into_whole_groups():
    lf_classes = [
        LFClass(lf=lf, label=0, members=np.arange(size), positions=100 * (lf + 1) + np.arange(size))
        for lf, size in enumerate([3, 0, 40])
    ]
    parts = cut_into_parts(lf_classes, 2 * GROUP)
    assert [part.lfs.tolist() for part in parts] == [[0, 2], [2]]
    assert [part.starts.tolist() for part in parts] == [[0, 1, 2], [0, 2]]
    assert parts[0].rows.tolist() == [0, 1, *[2] * 14, *range(16)]
    assert parts[0].positions.tolist() == [100, 101, *[102] * 14, *range(300, 316)]
    assert parts[1].rows.tolist() == [*range(16, 40), *[39] * 8]
    assert cut_into_parts(lf_classes[1:2], GROUP) == ()


def test_a_card_without_room_for_the_least_says_so():
    with pytest.raises(CardIsFull):
        assert_cards_change_nothing([FakeCard(slots=0)], *draw_task(20), "l2")
    with pytest.raises(CardIsFull):
        assert_cards_change_nothing([FakeCard(queries=0)], *draw_task(20), "l2")


def test_several_cards_take_queries_at_the_same_time():
    barrier = threading.Barrier(2, timeout=60)

    class WaitingCard(FakeCard):
        def hold(self, support, part):
            barrier.wait()
            return super().hold(support, part)

    vectors, votes, _ = draw_task(30)
    support = build_support(votes, np.arange(30), vectors, metric="l2")
    queries = build_queries(support.geometry, vectors)
    cards = [WaitingCard(), WaitingCard()]
    search = CardSearch(support, support.lf_classes, cards)
    callers = [threading.Thread(target=search.find_neighbors, args=(queries, votes < 0)) for _ in cards]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert [card.searched for card in cards] == [[30], [30]]


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    device.forget()
    yield
    device.forget()


def use(monkeypatch, *cards):
    """Have these cards, and every search long enough for them."""
    monkeypatch.setattr(device, "find_cards", lambda: cards)
    monkeypatch.setattr(device, "WORTH", 0)


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.IVF])
def test_the_stage_writes_the_same_bytes(tmp_path, monkeypatch, capsys, kind):
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (800, 5)) + 8
    votes = np.where(rng.random((800, 3)) < [0.3, 0.02, 0.5], rng.integers(0, 2, (800, 3)), -1)
    card = FakeCard(in_doubt=0.1)
    use(monkeypatch, card)
    written = []
    for choice in ("cpu", "auto"):
        monkeypatch.setenv(ENVIRONMENT, choice)
        root = tmp_path / choice
        write_project(root, vectors=vectors, votes=votes, splits=["train"] * 800)
        write_neighbors(root, kind=kind, metric=Metric.L2)
        written.append([(root / path).read_bytes() for path in (NEIGHBORS, RECALL)])
        assert bool(card.searched) == (choice == "auto")
    assert written[0] == written[1]
    assert "exact search: on a GPU\n" in capsys.readouterr().err


def test_a_card_that_is_full_leaves_the_rest_to_the_processor(tmp_path, monkeypatch, capsys):
    use(monkeypatch, FakeCard(queries=0))
    write_project(tmp_path, vectors=np.eye(3), votes=[[0], [1], [-1]], splits=["train"] * 3)
    write_neighbors(tmp_path)
    assert "exact search: some items on the processor, since the memory of the GPU is full\n" in capsys.readouterr().err


def plan(multiply_adds):
    return SamePlan(lf_classes=(), searches=(), multiply_adds=multiply_adds)


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch, capsys):
    def find_none():
        raise NoCard("PyTorch sees no GPU")

    monkeypatch.setattr(device, "find_cards", find_none)
    monkeypatch.setenv(ENVIRONMENT, "gpu")
    with pytest.raises(StageError, match=r"EPOXY_DEVICE is gpu, but PyTorch sees no GPU\. Check the driver, install"):
        device.choose_cards(plan(1))
    monkeypatch.setenv(ENVIRONMENT, "cpu")
    assert not device.choose_cards(plan(10**15))
    monkeypatch.setenv(ENVIRONMENT, "auto")
    assert not device.choose_cards(plan(1))
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert not device.choose_cards(plan(10**15))
    assert capsys.readouterr().err == "exact search: on the processor, since PyTorch sees no GPU\n"


def test_without_driver_or_pytorch_the_reason_is_told(monkeypatch):
    def load(name):
        raise OSError(name)

    monkeypatch.setattr(device.ctypes, "CDLL", load)
    with pytest.raises(NoCard, match="there is no driver of an NVIDIA GPU"):
        device.find_cards()
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(NoCard, match="PyTorch with Triton, the extra gpu, is not installed"):
        device.find_cards()


def test_a_short_search_and_a_cluster_take_small_blocks(monkeypatch):
    use(monkeypatch, FakeCard())
    monkeypatch.setattr(device, "WORTH", 10)
    assert [device.choose_block_size(plan(work)) for work in (9, 10)] == [2048, 16384]
    monkeypatch.setenv("EPOXY_DASK", "tcp://somewhere:8786")
    assert device.choose_block_size(plan(10)) == 2048


def test_another_device_is_an_error(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "tpu")
    with pytest.raises(StageError, match="EPOXY_DEVICE is 'tpu'; expected auto, cpu or gpu"):
        device.choose_cards(plan(1))


def test_a_gpu_that_fails_is_an_error(tmp_path, monkeypatch):
    class Broken(FakeCard):
        def hold(self, support, part):
            raise RuntimeError("an illegal memory access")

    use(monkeypatch, Broken())
    monkeypatch.setenv(ENVIRONMENT, "gpu")
    write_project(tmp_path, vectors=np.eye(3), votes=[[0], [1], [-1]], splits=["train"] * 3)
    with pytest.raises(StageError, match=r"the GPU failed: an illegal memory access\. Set EPOXY_DEVICE to cpu"):
        write_neighbors(tmp_path)
