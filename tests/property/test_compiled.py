"""What is compiled gives numbers between which the definition lies, and the same without a place for machine code."""

import importlib.util
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.search import kernels
from tasks.core.search.products import Float32Products, Int8Products, prepare, quantize
from tasks.core.similarity import compute_similarity
from tasks.core.unit_vectors import normalize

ROOT = Path(__file__).resolve().parents[2]
needs_numkong = pytest.mark.skipif(
    importlib.util.find_spec("numkong") is None, reason="numkong is not installed: it has no wheel for this platform"
)


@settings(deadline=None)  # the first call compiles
@given(d=st.integers(1, 400), seed=st.integers(0, 2**32 - 1), is_cosine=st.booleans(), exponent=st.integers(-12, 12))
def test_similarities_lie_between_their_bounds_and_mostly_these_are_one_number(d, seed, is_cosine, exponent):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((50, d)).astype(np.float32) for _ in range(2))
    x *= np.float32(10.0**exponent)
    y[::2] = x[::2] * np.float32(1 + 1e-6)
    norms, others = kernels.measure_norms(x), kernels.measure_norms(y)
    rows = np.arange(50)
    low, high = np.empty(50, np.float32), np.empty(50, np.float32)
    kernels.bound_similarities(x, y, norms, others, is_cosine, rows, rows, low, high)
    exact = compute_similarity(x, y, "cosine" if is_cosine else "l2")
    assert (low <= exact).all() and (exact <= high).all()
    if d >= 8:  # differences of two or three numbers often lie in the middle of two float32 numbers
        assert (low == high).sum() >= 48


def test_the_candidates_are_the_members_that_reach_the_best_so_far_less_the_margin():
    scores = np.float32([[0.5, 0.1], [0.9, 0.2], [0.8, 0.2], [0.7, 0.9]])
    # Row 0 is a member of LF classes 0 and 1, row 1 of 0, row 2 of 0, row 3 of 1.
    starts, lf_classes = np.array([0, 2, 3, 4, 5]), np.array([0, 1, 0, 0, 1])
    margin, floor = np.float32([0.25, 0.0]), np.full((2, 2), -np.inf, np.float32)
    unscaled = None, np.float32([])
    kernels.raise_floor(scores, *unscaled, starts, lf_classes, np.array([True, False]), margin, floor)
    np.testing.assert_array_equal(floor, np.float32([[0.65, 0.2], [-np.inf, -np.inf]]))
    entry, row, position = (np.zeros(10, np.int64) for _ in range(3))
    product = np.zeros(10, np.float32)
    tile = (
        scores,
        *unscaled,
        starts,
        lf_classes,
        np.array([40, 41, 42, 43]),
        np.array([10, 11, 12, 13, 14]),
        margin,
        floor,
    )
    found = entry, row, position, product
    assert kernels.collect(*tile, 0, 0, *found) == (4, 8)
    # LF class 1 begins with nothing, so that whoever comes first counts; its first member is out of reach afterwards.
    assert entry[:8].tolist() == [2, 3, 0, 1, 0, 1, 2, 3]
    assert row[:8].tolist() == [40, 40, 41, 41, 42, 42, 43, 43]
    assert position[:8].tolist() == [11, 11, 12, 12, 13, 13, 14, 14]
    np.testing.assert_array_equal(floor, np.float32([[0.65, 0.2], [0.45, 0.9]]))
    # With room for one row's candidates, it stops where another row may not fit.
    floor[:] = -np.inf
    assert kernels.collect(*tile, 0, 0, *(array[:4] for array in found)) == (1, 4)


def test_candidates_below_the_floor_that_rose_are_dropped():
    floor = np.float32([[0.5, 0.2], [-np.inf, 0.9]])
    entry, row, position = np.array([0, 1, 0, 3, 2, 3]), np.arange(10, 16), np.arange(20, 26)
    product = np.float32([0.4, 0.2, 0.6, 0.8, -1, 1])
    assert kernels.drop_beaten(floor, 5, entry, row, position, product) == 3
    assert entry[:3].tolist() == [1, 0, 2]
    assert (row[:3].tolist(), position[:3].tolist()) == ([11, 12, 14], [21, 22, 24])
    np.testing.assert_array_equal(product[:3], np.float32([0.2, 0.6, -1]))


@pytest.mark.parametrize("q", [1, 7, 8, 19])
def test_whoever_reaches_the_floor_is_found_in_every_place(q):
    scores = np.random.default_rng(q).permutation(4 * q).astype(np.float32).reshape(4, q)
    floor = np.full((1, q), 2.0 * q, np.float32)
    entry, row, position, product = (
        np.zeros(4 * q, int),
        np.zeros(4 * q, int),
        np.zeros(4 * q, int),
        np.float32([0] * 4 * q),
    )
    members = np.arange(5), np.zeros(4, int), np.arange(4), np.arange(4)
    wide = np.full(q, 5.0 * q, np.float32)  # with so wide a margin the floor never rises
    done, count = kernels.collect(
        scores, None, np.float32([]), *members, wide, floor, 0, 0, entry, row, position, product
    )
    assert done == 4
    expected = [(int(r), int(at)) for r, at in np.argwhere(scores >= 2 * q)]
    assert list(zip(row[:count].tolist(), entry[:count].tolist(), strict=True)) == expected


def test_hashes_are_sums_modulo_2_to_the_64():
    rows, weights = np.array([[1, 2], [2**32 - 1, 3]], np.uint32), np.array([2**63 + 5, 7], np.uint64)
    expected = [sum(int(a) * int(b) for a, b in zip(row, weights, strict=True)) % 2**64 for row in rows]
    assert kernels.hash_rows(rows, weights).tolist() == expected


def test_the_nearest_is_kept_and_among_equals_the_earliest():
    similarity, position = np.full(2, -np.inf, np.float32), np.full(2, 99)
    entries, positions = np.array([0, 0, 0, 1]), np.array([5, 3, 4, 8])
    kernels.keep_nearest(entries, positions, np.float32([0.5, 0.5, 0.4, -1]), similarity, position)
    assert (similarity.tolist(), position.tolist()) == ([0.5, -1.0], [3, 8])


def test_without_a_place_for_machine_code_it_is_made_in_memory(monkeypatch):
    real = numba.njit

    def njit(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(function, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert kernels.compile_loop(lambda x: x + 1)(2) == 3


@pytest.mark.slow
def test_machine_code_is_made_once(tmp_path):
    """Another process finds it, also where the code's own folder is not the place for it."""
    code = (
        "import numpy as np; from tasks.core.search import kernels;"
        "kernels.keep_nearest(np.zeros(1, int), np.zeros(1, int), np.ones(1, np.float32), np.zeros(1, np.float32), np.zeros(1, int));"
        "print(sum(kernels.keep_nearest.stats.cache_hits.values()))"
    )
    environment = {"PATH": "/usr/bin", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    hits = [
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert hits == ["0\n", "1\n"]


@needs_numkong
@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 40), q=st.integers(1, 40), d=st.integers(1, 700), seed=st.integers(0, 10**6))
def test_products_of_8_bit_integers_err_by_no_more_than_their_bound(n, q, d, seed):
    rng = np.random.default_rng(seed)
    width = 10.0 ** rng.uniform(-3, 0, d)
    support, queries = (
        normalize((rng.standard_normal((rows, d)) * width + width).astype(np.float32)) for rows in (n, q)
    )
    multiplier = prepare(support, lambda shape: np.empty(shape, np.float32))
    scratch = np.empty(n * q, np.float32)
    products = Int8Products(multiplier.quantized, queries, np.zeros(q, np.float32), scratch)
    scores, scale = products.multiply(np.arange(n))
    queries_in_8_bits = quantize(queries, np.zeros(d, np.float32), np.empty((q, d), np.int8))
    expected = multiplier.quantized.integers.astype(np.int64) @ queries_in_8_bits.integers.T.astype(np.int64)
    np.testing.assert_array_equal(scores, expected)
    upper = (scores.astype(np.float32) * scale[:, None] + products.half) * queries_in_8_bits.scale.astype(np.float64)
    lower = upper - products.margin * queries_in_8_bits.scale.astype(np.float64)
    center = support.sum(axis=0, dtype=np.float64) / n
    truth = (support.astype(np.float64) - center.astype(np.float32)) @ queries.T.astype(np.float64)
    slack = 1e-6 * np.abs(truth).max() + 1e-7  # of this test's own rounding
    assert (lower <= truth + slack).all() and (truth <= upper + slack).all()


@needs_numkong
def test_what_is_faster_multiplies_once_both_were_timed():
    support = normalize(np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32))
    multiplier = prepare(support, lambda shape: np.empty(shape, np.float32))
    queries, margin, scratch = support[:4], np.zeros(4, np.float32), np.empty(120, np.float32)

    def multiply(seconds):
        with multiplier.multiply(queries, margin, scratch, 120) as products:
            until = time.thread_time() + seconds
            while time.thread_time() < until:
                pass
        return type(products)

    assert [multiply(0.02), multiply(0.01), multiply(0.02), multiply(0.01)] == [Float32Products, Int8Products] * 2
    assert multiply(0) is Int8Products
    without = replace(multiplier, quantized=None)
    with without.multiply(queries, margin, scratch, 120) as products:
        assert isinstance(products, Float32Products)
