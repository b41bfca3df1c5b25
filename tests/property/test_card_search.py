"""Exact search as a graphics card does it, run by Triton's interpreter on the processor, against the search of the processor
and against brute force. `make kernels` runs it; where PyTorch is not installed, as in `make test`, it is skipped.

What an interpreter cannot show is said in tasks/core/search/card_kernels.py. That the kernels compile for cards is tested here
as well: Triton needs none for that."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: 'make kernels' has it")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET is not 1: 'make kernels' sets it", allow_module_level=True)

from extension_data import write_neighbors, write_project  # noqa: E402

from benchmarks import gpu  # noqa: E402
from tasks.core.search import on_cards  # noqa: E402
from tasks.core.search.card import TILES, TILES_TO_INTERPRET, TorchCard  # noqa: E402
from tasks.core.search.exact import find_neighbors  # noqa: E402
from tasks.core.search.on_cards import CardIsFull, CardSearch  # noqa: E402
from tasks.core.search.plan import plan_per_lf  # noqa: E402
from tasks.core.search.support import build_queries, build_support  # noqa: E402
from tasks.core.types import NOBODY  # noqa: E402
from tasks.core.unit_vectors import to_index_vectors  # noqa: E402
from tasks.tables.paths import NEIGHBORS  # noqa: E402

METRICS = ("cosine", "l2")


def draw_normal(rng, n, d):
    return rng.standard_normal((n, d))


def draw_equal(rng, n, d):
    return rng.standard_normal((3, d))[rng.integers(0, 3, n)]


def draw_nearly_equal(rng, n, d):
    """Closer together than half precision, and float32, can tell apart."""
    return rng.standard_normal(d) + 1e-6 * rng.integers(-2, 3, (n, d))


def draw_multiples(rng, n, d):
    """Equal directions of many lengths: cosines that are 1 but for rounding."""
    return rng.standard_normal((4, d))[rng.integers(0, 4, n)] * (1 + rng.integers(0, 50, (n, 1)) / 7)


def draw_one_hot(rng, n, d):
    return np.eye(d)[rng.integers(0, d, n)]


def draw_signed_one_hot(rng, n, d):
    return draw_one_hot(rng, n, d) * rng.choice([-1.0, 1.0], (n, 1))


def draw_binary(rng, n, d):
    return (rng.random((n, d)) < 0.2) + np.eye(1, d)


def draw_outweighed(rng, n, d):
    """One component that outweighs all."""
    return rng.standard_normal((n, d)) + 1e4 * np.eye(1, d)


def draw_spectrum(rng, n, d):
    """Components down to 1e-9 of the largest."""
    return rng.standard_normal((n, d)) * np.geomspace(1, 1e-9, d)


def draw_tiny_and_huge(rng, n, d):
    return rng.standard_normal((n, d)) * 10.0 ** rng.integers(-15, 15, (n, 1))


KINDS = (
    draw_normal,
    draw_equal,
    draw_nearly_equal,
    draw_multiples,
    draw_one_hot,
    draw_signed_one_hot,
    draw_binary,
    draw_outweighed,
    draw_spectrum,
    draw_tiny_and_huge,
)


class CountingCard(TorchCard):
    held = 0

    def hold(self, support, part):
        self.held += 1
        return super().hold(support, part)


def search_both_ways(vectors, votes, metric, **options):
    """What card and processor find, and the card."""
    vectors = to_index_vectors(np.ascontiguousarray(vectors, np.float32), metric)
    lenders = np.flatnonzero((votes >= 0).any(axis=1))
    support = build_support(votes[lenders], lenders, vectors, metric=metric)
    queries = build_queries(support.geometry, vectors)
    expected = find_neighbors(support, plan_per_lf(support.lf_classes), queries, votes < 0)
    card = CountingCard("cpu", TILES_TO_INTERPRET, **options)
    card.watch()
    found = CardSearch(support, support.lf_classes, [card]).find_neighbors(queries, votes < 0)
    return found, expected, card


def assert_same(found, expected):
    np.testing.assert_array_equal(found.position, expected.position)
    np.testing.assert_array_equal(found.similarity.view(np.int32), expected.similarity.view(np.int32))


def draw_votes(rng, n, share=(0.5, 0.03, 0.9)):
    """Three LFs; the second votes for one class, rarely, the last on nearly all."""
    votes = np.where(rng.random((n, len(share))) < share, rng.integers(0, 2, (n, len(share))), -1)
    votes[:, 1] = np.where(votes[:, 1] >= 0, 1, -1)
    return votes.astype(np.int8)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("draw", KINDS)
def test_a_card_finds_what_the_processor_finds(draw, metric):
    rng = np.random.default_rng(0)
    found, expected, card = search_both_ways(draw(rng, 200, 37), draw_votes(rng, 200), metric)
    assert_same(found, expected)
    assert card.asked == (found.position != NOBODY).sum() > 100


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("draw", [draw_normal, draw_nearly_equal, draw_one_hot])
def test_a_card_finds_what_brute_force_finds(draw, metric):
    rng = np.random.default_rng(1)
    vectors, votes = draw(rng, 40, 70).astype(np.float32), draw_votes(rng, 40)
    found, _, _ = search_both_ways(vectors, votes, metric)
    keys = [(lf, label) for lf in range(3) for label in np.unique(votes[:, lf][votes[:, lf] >= 0])]
    got = {
        (item, lf, label): (found.similarity[row, item], found.position[row, item])
        for row, (lf, label) in enumerate(keys)
        for item in np.flatnonzero(found.position[row] != NOBODY)
    }
    assert got == oracle.nearest(to_index_vectors(vectors, metric), votes, np.ones(40, bool), metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_list_of_hits_that_overflows_is_made_again_in_halves(metric):
    rng = np.random.default_rng(2)
    # Vectors so near that every group is a hit of every query, and for L2 one so far that half precision sees no others.
    vectors = draw_nearly_equal(rng, 400, 24)
    vectors[1] += 1000
    votes = np.zeros((400, 1), np.int8)
    votes[::80] = -1
    # 395 members are 25 groups; 5 queries times 24 or 25 groups, and room for 60.
    found, expected, card = search_both_ways(vectors, votes, metric, room=60)
    assert_same(found, expected)
    assert card.looked_at >= 5 * 24


STEP = 2.0**-13
"""Of float16 between 1/8 and 1/4."""


def spread_over(first, components, d=40):
    """A unit vector with these `components` from position `first` on, and what is left of its length in the last one."""
    vector = np.zeros(d)
    vector[first : first + len(components)] = components
    vector[-1] = np.sqrt(1 - (vector**2).sum())
    return vector


@pytest.mark.parametrize("is_query_exact", [True, False])
def test_what_half_precision_turns_round_is_found(is_query_exact):
    """Each component of the nearest is rounded down, and most of another's are rounded up, so that the other seems nearer."""
    start = 1229 * STEP  # some .15
    down, up = 16 * [start + 0.49 * STEP], 8 * [start + 0.51 * STEP] + 8 * [start + 0.3 * STEP]
    if is_query_exact:
        query, nearest, other = spread_over(0, 16 * [0.25]), spread_over(0, down), spread_over(0, up)
    else:
        query, nearest, other = spread_over(0, down + up), spread_over(0, 16 * [0.25]), spread_over(16, 16 * [0.25])
    far = -np.eye(40)[:20]
    vectors = np.concatenate([[query, nearest], far, [other]])
    votes = np.zeros((len(vectors), 1), np.int8)
    votes[0] = -1
    found, expected, _ = search_both_ways(vectors, votes, "cosine")
    assert_same(found, expected)
    assert found.position[0, 0] == 1


@pytest.mark.parametrize("tiles", TILES, ids=lambda tiles: f"{tiles.tall}x{tiles.wide}{'d' * tiles.has_descriptors}")
def test_tiles_of_every_shape_give_the_same_products(tiles):
    rng = np.random.default_rng(6)
    # Small integers, whose sums are exact; more tiles of members than one band has.
    x, y = (torch.from_numpy(rng.integers(-4, 5, (rows, 64))).half() for rows in (2 * tiles.tall, 9 * tiles.wide))
    maxima = torch.empty((len(y) // 16, len(x)), dtype=torch.float32)
    TorchCard("cpu", tiles).multiply(tiles, x, y, maxima)
    products = x.double().numpy() @ y.double().numpy().T
    np.testing.assert_array_equal(maxima.numpy().T, products.reshape(len(x), -1, 16).max(axis=2))


def test_one_member_and_a_class_without_any():
    vectors = np.eye(5, dtype=np.float32)
    votes = np.array([[0, -1], [-1, -1], [-1, -1], [-1, -1], [-1, -1]], np.int8)
    found, expected, _ = search_both_ways(vectors, votes, "cosine")
    assert_same(found, expected)
    assert found.position.tolist() == [[NOBODY, 0, 0, 0, 0]]
    assert found.similarity[0, 1:].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_members_that_do_not_fit_take_turns(metric, monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(on_cards, "LEAST_MEMBERS", 64)
    found, expected, card = search_both_ways(draw_normal(rng, 200, 8), draw_votes(rng, 200), metric, lent=1)
    assert_same(found, expected)
    assert card.held >= 5  # parts of 64 members, of some 100, 6 and 180


def test_a_card_out_of_memory_is_told_so(monkeypatch):
    def fail(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    rng = np.random.default_rng(4)
    monkeypatch.setattr(torch, "full", fail)
    with pytest.raises(CardIsFull, match="cpu"):
        search_both_ways(draw_normal(rng, 30, 5), draw_votes(rng, 30), "cosine")


def test_the_processor_decides_what_rounding_leaves_in_doubt():
    """Cosines of exactly 0 whose terms cancel: every order of summation gives 0, but no bound of errors knows that."""
    rng = np.random.default_rng(5)
    vectors = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 1], [0, 0, 1, -1]])[rng.integers(0, 4, 60)]
    votes = np.where(vectors[:, 0] != 0, np.where(vectors[:, 1] < 0, -1, 0), -1)[:, None].astype(np.int8)
    found, expected, card = search_both_ways(vectors, votes, "cosine")
    assert_same(found, expected)
    assert card.doubted == (vectors[:, 1] < 0).sum() > 0


def test_the_benchmark_measures_and_compares(tmp_path, capsys):
    out = tmp_path / "out.json"
    size = ["--items", "60", "--lfs", "2", "--d", "16", "--compared", "20"]
    assert gpu.main([*size, "--metric", "l2", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert (row["differ"], row["compared"]) == (0, 20 * 3)  # one of the LFs has votes for one class alone
    assert row["asked"] > 0 and row["groups"] >= 1 and row["teraflops"] > 0 and row["bare_teraflops"] > 0
    assert "bytes equal to the processor's (60 compared)" in capsys.readouterr().out


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_cards(capability):
    """In a process of its own, since Triton compiles nothing in one that interprets."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, str(Path(__file__).parents[1] / "compile_kernels.py"), str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shared, used = map(json.loads, done.stdout.splitlines())
    # What a block of threads may have: 163 KiB on an A100, 227 KiB on an H100.
    assert max(shared) <= {80: 163, 90: 227}[capability] * 1024
    assert used  # tensor cores, by every shape of tiles


def test_the_stage_writes_the_same_bytes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(7)
    vectors, votes = draw_normal(rng, 150, 6), draw_votes(rng, 150)
    written = []
    for choice in ("cpu", "gpu"):
        monkeypatch.setenv("EPOXY_DEVICE", choice)
        write_project(tmp_path / choice, vectors=vectors, votes=votes, splits=["train"] * 150)
        write_neighbors(tmp_path / choice)
        written.append((tmp_path / choice / NEIGHBORS).read_bytes())
    assert written[0] == written[1]
    assert "exact search: on a GPU\n" in capsys.readouterr().err
