"""The inner loops of exact search, compiled by Numba when they are first called: some seconds, once on a machine.

The machine code is kept in `__pycache__`, or in the user's cache where that cannot be written. This is the only module
that imports Numba.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np

from tasks.core.types import Bool, Float32, Float64, Int64, UInt32, UInt64

P = ParamSpec("P")
R = TypeVar("R")

_LARGEST = float(np.finfo(np.float32).max)

_UNIT = 2.0**-53
"""Unit roundoff of float64."""


_ONE, _TOP, _NUMBERS = np.uint64(1), np.uint64(56), np.uint64(0x0001020304050607)
"""A 1 in the lowest byte, or in another one, times the numbers of the bytes has the number of its own in the topmost byte."""


def _compile(function: Callable[P, R], **options: Any) -> Callable[P, R]:
    """`function`, compiled; other threads run while it does."""
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        compiled = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no place for the cache: compiled anew in every process
        compiled = numba.njit(function, **options)
    return cast(Callable[P, R], compiled)


_compile_in_any_order = functools.partial(_compile, fastmath={"reassoc", "contract"})
"""As `_compile`; sums are in the order that is fastest on this processor."""


@_compile
def raise_floor(scores: Float32, starts: Int64, pairs: Int64, is_new: Bool, margin: Float32, floor: Float32) -> None:
    """Raise the floors of new pairs to what the best product of a tile asks for.

    Parameters
    ----------
    scores
        (r, q) products of the tile's vectors and the queries.
    starts
        (r + 1,) where in `pairs` each row's memberships begin, and their number s.
    pairs
        (s,) whose member the row is.
    is_new
        (pairs,) the others are passed over.
    margin
        (q,) how far below the best one a product may matter.
    floor
        (pairs, q) the least product that matters, changed in place.
    """
    for row in range(len(scores)):
        own = scores[row]
        for slot in range(starts[row], starts[row + 1]):
            if is_new[pairs[slot]]:
                need = floor[pairs[slot]]
                for query in range(len(own)):
                    least = own[query] - margin[query]
                    need[query] = least if least > need[query] else need[query]


@_compile
def collect(
    scores: Float32,
    starts: Int64,
    pairs: Int64,
    rows: Int64,
    positions: Int64,
    margin: Float32,
    floor: Float32,
    row: int,
    count: int,
    cell_of: Int64,
    row_of: Int64,
    position_of: Int64,
    product_of: Float32,
) -> tuple[int, int]:
    """Add to the candidates, from `row` on, the members of a tile whose product reaches the floor, which it may raise.

    Parameters
    ----------
    scores, starts, pairs, margin, floor
        As for `raise_floor`.
    rows, positions
        (r,) and (s,) what is noted of a candidate.
    row, count
        Where to begin, and how many candidates there are before.
    cell_of, row_of, position_of, product_of
        The candidates, changed in place: pair * q + query, and what they are called. Room for pairs * q of them or more.

    Returns
    -------
    The row to go on with once there is room (r: none is left), and the number of candidates.
    """
    q = scores.shape[1]
    reaches = np.zeros((q + 7) // 8 * 8, np.uint8)
    eights = reaches.view(np.uint64)
    hits = np.empty(len(eights), np.int64)
    while row < len(scores) and count + (starts[row + 1] - starts[row]) * q <= len(cell_of):
        own = scores[row]
        for slot in range(starts[row], starts[row + 1]):
            pair = pairs[slot]
            need = floor[pair]
            for query in range(q):
                reaches[query] = own[query] >= need[query]
            # Few reach it. Where they are is found without a branch, eight at a time.
            found = 0
            for eight in range(len(eights)):
                hits[found] = eight
                found += eights[eight] != 0
            for eight in hits[:found]:
                left = eights[eight]
                while left:
                    lowest = left & (~left + _ONE)
                    query = 8 * eight + np.int64((lowest * _NUMBERS) >> _TOP)
                    cell_of[count], row_of[count] = pair * q + query, rows[row]
                    position_of[count], product_of[count] = positions[slot], own[query]
                    count += 1
                    need[query] = max(need[query], own[query] - margin[query])
                    left ^= lowest
        row += 1
    return row, count


@_compile
def drop_beaten(
    floor: Float32, count: int, cell_of: Int64, row_of: Int64, position_of: Int64, product_of: Float32
) -> int:
    """Keep of the first `count` candidates those that still reach the floor, in their order; gives back how many.

    All as for `collect`.
    """
    floors = floor.reshape(-1)
    kept = 0
    for place in range(count):
        cell, product = cell_of[place], product_of[place]
        row, position = row_of[place], position_of[place]
        cell_of[kept], row_of[kept], position_of[kept], product_of[kept] = cell, row, position, product
        kept += product >= floors[cell]
    return kept


@_compile_in_any_order
def _sum_products(x: Float32, y: Float32) -> float:
    total = 0.0
    for i in range(len(x)):
        total += np.float64(x[i]) * np.float64(y[i])
    return total


@_compile_in_any_order
def _sum_squares(x: Float32, y: Float32) -> float:
    total = 0.0
    for i in range(len(x)):
        difference = np.float64(x[i]) - np.float64(y[i])
        total += difference * difference
    return total


@_compile
def hash_rows(rows: UInt32, weights: UInt64) -> UInt64:
    """The sums (n,) of each of `rows` (n, d) times `weights` (d,), modulo 2^64."""
    hashes = np.zeros(len(rows), np.uint64)
    for row in range(len(rows)):
        for i in range(len(weights)):
            hashes[row] += np.uint64(rows[row, i]) * weights[i]
    return hashes


@_compile
def measure_norms(vectors: Float32) -> Float64:
    """The lengths (n,) of `vectors` (n, d), as `bound_similarities` wants them: summed in any order."""
    norms = np.empty(len(vectors))
    for row in range(len(vectors)):
        norms[row] = np.sqrt(_sum_products(vectors[row], vectors[row]))
    return norms


@_compile
def bound_similarities(
    x: Float32,
    y: Float32,
    norms: Float64,
    other_norms: Float64,
    is_cosine: bool,
    queries: Int64,
    rows: Int64,
    low: Float32,
    high: Float32,
) -> None:
    """Between which numbers the similarities of some pairs of vectors are; mostly both are the same.

    A sum of d terms, in any order, errs by at most g = d u / (1 - d u) of the sum of their absolute values, which for
    products is at most |x| |y|. Of a cosine the product and both squared norms are such sums, here and where it is
    defined: 2 g for the products, 2 g for the roots of the squared norms, and a few operations follow: 4 (d + 8) u,
    doubled. Terms of a squared distance are positive, so that 2 g is its relative error, and less than that its root's.

    Source: N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.

    Parameters
    ----------
    x, y
        Vectors (any, d).
    norms, other_norms
        By `measure_norms`: of each vector of `x`, and (c,) of the second vector of each pair. Not used for distances.
    is_cosine
        False: the similarity is minus the Euclidean distance.
    queries, rows
        (c,) the pairs: rows of `x` and of `y`.
    low, high
        (c,) changed in place.
    """
    error = 8 * (x.shape[1] + 8) * _UNIT
    for place in range(len(queries)):
        query, row = queries[place], rows[place]
        if is_cosine:
            cosine = _sum_products(x[query], y[row]) / (norms[query] * other_norms[place])
            low[place] = min(max(cosine - error, -1.0), 1.0)
            high[place] = min(max(cosine + error, -1.0), 1.0)
        else:
            distance = np.sqrt(_sum_squares(x[query], y[row]))
            low[place] = 0.0 - min(distance * (1 + error), _LARGEST)
            high[place] = 0.0 - min(distance * (1 - error), _LARGEST)


@_compile
def keep_nearest(cells: Int64, positions: Int64, similarities: Float32, similarity: Float32, position: Int64) -> None:
    """Let candidates be neighbors where they are nearer, or as near and earlier.

    Parameters
    ----------
    cells, positions, similarities
        (c,) candidates: for which place of `similarity` and `position`, which item, how near.
    similarity, position
        (cells,) the neighbors, changed in place.
    """
    for place in range(len(cells)):
        cell = cells[place]
        if similarities[place] > similarity[cell]:
            similarity[cell], position[cell] = similarities[place], positions[place]
        elif similarities[place] == similarity[cell] and positions[place] < position[cell]:
            position[cell] = positions[place]
