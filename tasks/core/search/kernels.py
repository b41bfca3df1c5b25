"""The inner loops of exact search, which Numba compiles to machine code.

Each function is plain Python over NumPy arrays, and runs as such, slowly, where the environment sets NUMBA_DISABLE_JIT
to 1, which helps to debug. Compilation happens at the first call, takes some seconds, and is kept in `__pycache__`, or
in the user's cache where that cannot be written. This is the only module that imports Numba.

What they compute: a search multiplies a tile (some rows of support vectors) with all queries, which gives a matrix of
products. A product says roughly how near two vectors are; it is rounded, so two products that differ by less than a
margin may be of vectors in either order. For every LF class and query the loops keep a floor: the best product so far,
less the margin. Vectors whose product is below the floor cannot be the nearest. The others are candidates; their
similarity is computed again in float64, and the best of them is the neighbor.

An entry is the position of an LF class and a query in the flat (LF classes * queries) array of floors or of neighbors.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np

from tasks.core.types import Bool, Float32, Float64, Int8, Int32, Int64, UInt8, UInt32, UInt64

P = ParamSpec("P")
R = TypeVar("R")

_LARGEST = float(np.finfo(np.float32).max)

_UNIT = 2.0**-53
"""Unit roundoff of float64."""


_ONE, _TOP, _NUMBERS = np.uint64(1), np.uint64(56), np.uint64(0x0001020304050607)
"""To number the bytes of a 64-bit word. A word with 1 in byte b alone, times `_NUMBERS`, has b in its topmost byte, which
a shift by `_TOP` brings down: byte i of `_NUMBERS`, counted from the top, is i."""


def compile_loop(function: Callable[P, R], **options: Any) -> Callable[P, R]:
    """`function`, compiled.

    `nogil` lets other threads of Python run meanwhile. `error_model="numpy"` makes a division by zero give inf or NaN, as
    in NumPy; Python's own rule would test each divisor.
    """
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        compiled = numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder for the cache can be written: compiled anew in every process
        compiled = numba.njit(function, **options)
    return cast(Callable[P, R], compiled)


_compile_in_any_order = functools.partial(compile_loop, fastmath={"reassoc", "contract"})
"""As `compile_loop`, for sums in any order: the processor then adds several numbers at once, and the last digits depend on it.

Only what is bounded by `bound_similarities` may use it."""


@compile_loop
def _scale_row(products: Int32, scale: np.float32, half: Float32, scaled: Float32) -> None:
    for query in range(len(products)):
        scaled[query] = np.float32(products[query]) * scale + half[query]


@compile_loop
def raise_floor(
    scores: Float32 | Int32,
    scale: Float32 | None,
    half: Float32,
    starts: Int64,
    lf_classes: Int64,
    is_new: Bool,
    margin: Float32,
    floor: Float32,
) -> None:
    """Raise the floors of new LF classes to the best product of a tile, less the margin.

    The products of an LF class's first members are looked at twice, here and in `collect`: with a floor from the start,
    few of them become candidates.

    Parameters
    ----------
    scores
        (r, q) products of the tile's vectors and the queries.
    scale, half
        By what (r,) a row of products is to be multiplied, and what (q,) is then added. Without a scale, None, neither is done.
    starts
        (r + 1,) where in `lf_classes` those of each row begin, and their number s.
    lf_classes
        (s,) the LF classes that have the row as a member: a vector lends its vote to several.
    is_new
        (LF classes,) of which few members were seen; the others are passed over, since their floor is good enough.
    margin
        (q,) how far below the best product a product may be without being out of question.
    floor
        (LF classes, q) the least product of a candidate, changed in place.
    """
    scaled = np.empty(scores.shape[1], np.float32)
    for row in range(len(scores)):
        slots = lf_classes[starts[row] : starts[row + 1]]
        if scale is None:
            _raise_floor_of_row(scores[row], slots, is_new, margin, floor)
        else:
            _scale_row(scores[row], scale[row], half, scaled)
            _raise_floor_of_row(scaled, slots, is_new, margin, floor)


@compile_loop
def _raise_floor_of_row(products: Float32, lf_classes: Int64, is_new: Bool, margin: Float32, floor: Float32) -> None:
    for lf_class in lf_classes:
        if is_new[lf_class]:
            floors = floor[lf_class]
            for query in range(len(products)):
                least = products[query] - margin[query]
                floors[query] = least if least > floors[query] else floors[query]


@compile_loop
def collect(
    scores: Float32 | Int32,
    scale: Float32 | None,
    half: Float32,
    starts: Int64,
    lf_classes: Int64,
    rows: Int64,
    positions: Int64,
    margin: Float32,
    floor: Float32,
    row: int,
    count: int,
    entry_of: Int64,
    row_of: Int64,
    position_of: Int64,
    product_of: Float32,
) -> tuple[int, int]:
    """Add to the candidates, from `row` on, the members of a tile whose product reaches the floor, and raise the floor.

    Parameters
    ----------
    scores, scale, half, starts, lf_classes, margin, floor
        As for `raise_floor`.
    rows
        (r,) the row of the support that each row of the tile is.
    positions
        (s,) the position of the item that lends its vote, for each slot of `lf_classes`.
    row, count
        The row to begin with, and the number of candidates before.
    entry_of, row_of, position_of, product_of
        (room,) the candidates, changed in place: entry, row of the support, position of the item, product. There is room
        for at least one candidate per entry, so that a row always fits once all others are scored.

    Returns
    -------
    The row to go on with once there is room (r: none is left), and the number of candidates.
    """
    q = scores.shape[1]
    # A byte per query that is 1 where the product reaches the floor.
    reaches = np.zeros((q + 7) // 8 * 8, np.uint8)
    hits = np.empty(len(reaches) // 8, np.int64)
    scaled = np.empty(q, np.float32)
    # Stop before a row that may not fit.
    while row < len(scores) and count + (starts[row + 1] - starts[row]) * q <= len(entry_of):
        first, room = count, slice(starts[row], starts[row + 1])
        out = entry_of, position_of, product_of
        if scale is None:
            count = _collect_row(
                scores[row], lf_classes[room], positions[room], margin, floor, reaches, hits, count, *out
            )
        else:
            _scale_row(scores[row], scale[row], half, scaled)
            count = _collect_row(scaled, lf_classes[room], positions[room], margin, floor, reaches, hits, count, *out)
        row_of[first:count] = rows[row]
        row += 1
    return row, count


@compile_loop
def _collect_row(
    products: Float32,
    lf_classes: Int64,
    positions: Int64,
    margin: Float32,
    floor: Float32,
    reaches: UInt8,
    hits: Int64,
    count: int,
    entry_of: Int64,
    position_of: Int64,
    product_of: Float32,
) -> int:
    """Add to the candidates the memberships of a single vector, as `collect` does; `reaches` and `hits` are room to work in."""
    q = len(products)
    words = reaches.view(np.uint64)  # the same bytes eight at a time
    for slot in range(len(lf_classes)):
        lf_class = lf_classes[slot]
        floors = floor[lf_class]
        for query in range(q):
            reaches[query] = products[query] >= floors[query]
        # Few products reach the floor, and where is found without an `if`, whose outcome the processor would guess and
        # often guess wrong: the number of each word is written behind the last hit, and stays if the word is not 0.
        found = 0
        for word in range(len(words)):
            hits[found] = word
            found += words[word] != 0
        for word in hits[:found]:
            left = words[word]
            # Each turn takes the lowest 1 out of the word: in two's complement, x & -x is its lowest bit.
            while left:
                lowest = left & (~left + _ONE)
                query = 8 * word + np.int64((lowest * _NUMBERS) >> _TOP)
                entry_of[count] = lf_class * q + query
                position_of[count], product_of[count] = positions[slot], products[query]
                count += 1
                floors[query] = max(floors[query], products[query] - margin[query])
                left ^= lowest
    return count


@compile_loop
def drop_beaten(
    floor: Float32, count: int, entry_of: Int64, row_of: Int64, position_of: Int64, product_of: Float32
) -> int:
    """The number of those of the first `count` candidates that still reach the floor; they move to the front, in order.

    All parameters as for `collect`.
    """
    floors = floor.reshape(-1)
    kept = 0
    for candidate in range(count):
        entry, product = entry_of[candidate], product_of[candidate]
        row, position = row_of[candidate], position_of[candidate]
        # Written in any case; the next candidate overwrites it unless it is kept.
        entry_of[kept], row_of[kept], position_of[kept], product_of[kept] = entry, row, position, product
        kept += product >= floors[entry]
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


@compile_loop
def hash_rows(rows: UInt32, weights: UInt64) -> UInt64:
    """The sums (n,) of each of `rows` (n, d) times `weights` (d,), modulo 2^64: equal rows have equal sums."""
    hashes = np.zeros(len(rows), np.uint64)
    for row in range(len(rows)):
        for i in range(len(weights)):
            hashes[row] += np.uint64(rows[row, i]) * weights[i]
    return hashes


@compile_loop
def put_in_8_bits(
    vectors: Float32, center: Float32, integers: Int8, scale: Float32, left_over: Float32, length: Float32
) -> None:
    """Write `vectors` (n, d), less `center` (d,), as integers of 8 bits.

    Parameters
    ----------
    integers
        (n, d) -127 to 127, changed in place.
    scale
        (n,) by what each row of integers is to be multiplied, changed in place.
    left_over, length
        (n,) the lengths of what integers and scale leave over of each vector, and of the vector, in float64, one millionth
        up, which is more than their rounding; changed in place.
    """
    up = 1 + 1e-6
    for row in range(len(vectors)):
        largest = 0.0
        for i in range(len(center)):
            largest = max(largest, abs(np.float64(vectors[row, i]) - np.float64(center[i])))
        # So small a vector becomes zeros, and all of it is left over.
        scale[row] = np.float32(largest / 127) if largest > 1e-30 else np.float32(1)
        inverse = 1 / np.float64(scale[row])
        left, total = 0.0, 0.0
        for i in range(len(center)):
            value = np.float64(vectors[row, i]) - np.float64(center[i])
            integer = min(max(np.rint(value * inverse), -127.0), 127.0)
            integers[row, i] = np.int8(integer)
            difference = value - integer * np.float64(scale[row])
            left += difference * difference
            total += value * value
        left_over[row], length[row] = np.float32(np.sqrt(left) * up), np.float32(np.sqrt(total) * up)


@compile_loop
def measure_norms(vectors: Float32) -> Float64:
    """The lengths (n,) of `vectors` (n, d), summed in any order, as `bound_similarities` expects them."""
    norms = np.empty(len(vectors))
    for row in range(len(vectors)):
        norms[row] = np.sqrt(_sum_products(vectors[row], vectors[row]))
    return norms


@compile_loop
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
    """Write two float32 numbers between which the similarity of each pair of vectors is; mostly both are the same.

    Where they are the same, that number is the similarity, whatever the order of summation. The proof: a sum of d terms,
    in any order, errs by at most g = d u / (1 - d u) of the sum of their absolute values, where u is the unit roundoff of
    float64. For a product of two vectors the latter is at most |x| |y|. The definition and this function compute a cosine
    from three such sums: 2 g for the products, 2 g for the roots of the squared norms, and a few operations follow, in
    total 4 (d + 8) u, doubled to be safe. The terms of a squared distance are positive, so that its relative error is 2 g,
    and its root's is less.

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
    for pair in range(len(queries)):
        query, row = queries[pair], rows[pair]
        if is_cosine:
            cosine = _sum_products(x[query], y[row]) / (norms[query] * other_norms[pair])
            low[pair] = min(max(cosine - error, -1.0), 1.0)
            high[pair] = min(max(cosine + error, -1.0), 1.0)
        else:
            distance = np.sqrt(_sum_squares(x[query], y[row]))
            # 0.0 - x, since -x would give a negative zero for equal vectors.
            low[pair] = 0.0 - min(distance * (1 + error), _LARGEST)
            high[pair] = 0.0 - min(distance * (1 - error), _LARGEST)


@compile_loop
def keep_nearest(entries: Int64, positions: Int64, similarities: Float32, similarity: Float32, position: Int64) -> None:
    """Make candidates neighbors where they are nearer, or as near and of a smaller position.

    Parameters
    ----------
    entries, positions, similarities
        (c,) candidates: entry of `similarity` and `position`, position of the item, similarity.
    similarity, position
        (entries,) the neighbors, changed in place.
    """
    for candidate in range(len(entries)):
        entry = entries[candidate]
        if similarities[candidate] > similarity[entry]:
            similarity[entry], position[entry] = similarities[candidate], positions[candidate]
        elif similarities[candidate] == similarity[entry] and positions[candidate] < position[entry]:
            position[entry] = positions[candidate]
