"""Products of support vectors with queries, in float32 or in 8-bit integers, and what is known of their errors.

8-bit integers are multiplied several times as fast where the processor has instructions for them, and never round. What
errs is putting vectors into 8 bits: x = t p + r, with a number t, integers p of at most 127, and r what is left over. For a
query x = t p + r and a support vector y = c + u, where c is the mean of the support, and u = s o + l likewise,

    x.y = x.c + t s p.o + t p.l + r.u.

The first term is the same for all of the support. The last two are at most (|x| + |r|) |l| + |r| |u|, with lengths that are
measured. So t s p.o, which is exact but for a multiplication, ranks the support within twice that bound; all is divided by
t, which is one number per query. Around the mean, vectors are short, and less is left over.

Which way is faster depends on the processor, and on how many vectors lie within the wider bound: both ways take turns on a few
queries until each has been timed, and the faster one goes on. The neighbors are the same bytes either way.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.core.search.kernels import put_in_8_bits
from tasks.core.slices import cut_slices
from tasks.core.types import Float32, Float64, Int8, Int64

try:
    import numkong
except ImportError:  # there is no wheel for this platform: float32 alone
    numkong = None  # type: ignore[assignment]

_UNIT = 2.0**-24
"""Unit roundoff of float32."""

_TRIALS = 2
"""Timings of each way before one is chosen, by the shorter one: the first may hold compilation."""

_TRIED = 256
"""Queries in a trial: enough that a product takes nearly as long as among many, and few of a night's, which may be thousands."""

_CELLS = 80 * 1024
"""LF classes times queries whose best products stay in a core's cache, 320 KiB. To look at products of 8-bit integers takes longer
than to multiply; those of float32 cost more than that, and are faster among more queries."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Vectors (n, d) in 8 bits: `scale` times `integers`, and what that leaves over."""

    integers: Int8
    """(n, d) -127 to 127."""
    scale: Float32
    """(n,)"""
    left_over: Float32
    """(n,) lengths, rounded up."""
    length: Float32
    """(n,) lengths of the vectors themselves, rounded up."""
    center: Float32
    """(d,) what was subtracted from every vector."""


@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """The factors of a support, and which way to multiply them is faster."""

    factors: Float32
    """(v, d)"""
    quantized: Quantized | None
    """The factors less their mean, in 8 bits; None where they cannot be multiplied."""
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """Processor time per product, by whether products were of 8-bit integers, in this process."""

    def cut(self, queries: int, lf_classes: int) -> Iterator[slice]:
        """Slices of so many `queries` of a search of so many LF classes, each to be multiplied before the next is asked for.

        Few while both ways take turns; then the rest, or as many as have the best of each LF class in cache.
        """
        start = 0
        while start < queries:
            size = queries
            if self._is_trying():
                size = _TRIED
            elif self.prefers_8_bits():
                size = max(_CELLS // lf_classes, _TRIED)
            yield slice(start, min(start + size, queries))
            start += size

    def _is_trying(self) -> bool:
        return self.quantized is not None and min(map(len, self.seconds.values())) < _TRIALS

    def prefers_8_bits(self) -> bool:
        """Whether the next products should be of 8-bit integers."""
        if self.quantized is None:
            return False
        wide, narrow = self.seconds[False], self.seconds[True]
        if self._is_trying():
            return len(narrow) < len(wide)
        return min(narrow) < min(wide)

    @contextmanager
    def multiply(self, queries: Float32, margin: Float32, scratch: Float32, count: int) -> "Iterator[Products]":
        """`count` products with `queries` (q, d), whose `margin` (q,) is that of float32; what the block does is timed.

        `scratch` has room for the products of the tallest tile.
        """
        began, is_narrow = time.thread_time(), self.prefers_8_bits()
        if is_narrow and self.quantized is not None:
            yield Int8Products(self.quantized, queries, margin, scratch)
        else:
            yield Float32Products(self.factors, queries, margin, scratch)
        if count:
            self.seconds[is_narrow] = [*self.seconds[is_narrow], (time.thread_time() - began) / count][:_TRIALS]


class Float32Products:
    """Products of float32 numbers with some queries."""

    half: Float32 = np.empty(0, np.float32)
    """Nothing is added to a product: the margin bounds the error of both that are compared."""

    def __init__(self, factors: Float32, queries: Float32, margin: Float32, scratch: Float32) -> None:
        self._factors, self._queries, self._scratch = factors, queries, scratch
        self.margin = margin
        """(q,) how far below the best product one may be without being out of question."""

    def find_floor(self, bound: Float64) -> Float32:
        """The floor (c, q) of products that follows from `bound_products` (c, q), whose margin is for their rounding."""
        return _round_down(bound)

    def multiply(self, rows: Int64) -> tuple[Float32, None]:
        """(r, q) products of `rows` of the support, and no scale."""
        scores = self._scratch[: len(rows) * len(self._queries)].reshape(len(rows), len(self._queries))
        np.matmul(take_rows(self._factors, rows), self._queries.T, out=scores)
        return scores, None


class Int8Products:
    """Products of 8-bit integers with some queries."""

    def __init__(self, support: Quantized, queries: Float32, margin: Float32, scratch: Float32) -> None:
        own = quantize(queries, np.zeros(queries.shape[1], np.float32), np.empty(queries.shape, np.int8))
        self._support, self._queries, self._count = support, queries, len(queries)
        self._scratch = scratch.view(np.int32)
        self._packed: Any = numkong.dots_pack(own.integers, dtype="int8")
        self._scale = scale = own.scale.astype(np.float64)
        self._reach = (own.length.astype(np.float64) + own.left_over) / scale
        self._rest = own.left_over / scale
        self._least = margin.astype(np.float64) / 2 / scale
        self.half = np.empty(self._count, np.float32)
        """(q,) by how much a product of the tile that was multiplied last may err, in units of the query's scale."""
        self.margin = np.empty(self._count, np.float32)
        """(q,) twice that."""

    def find_floor(self, bound: Float64) -> Float32:
        """The floor (c, q) of products plus `half`: `bound_products` (c, q), less what all of the support has, in the query's scale."""
        same = self._queries.astype(np.float64) @ self._support.center.astype(np.float64)
        return _round_down((bound - same) / self._scale)

    def multiply(self, rows: Int64) -> tuple[Any, Float32]:
        """(r, q) int32 products of `rows` of the support, and by what (r,) each row is to be multiplied."""
        left_over = float(self._support.left_over[rows].max())
        length = float(self._support.length[rows].max())
        error = self._reach * left_over + self._rest * length + self._least
        # A product is rounded when it becomes float32, is multiplied by the scale, and has the bound added or taken off.
        error += 8 * _UNIT * (self._reach * (length + left_over) + error)
        self.half[:] = error * (1 + 4 * _UNIT)
        self.margin[:] = 2 * self.half
        scores = self._scratch[: len(rows) * self._count].reshape(len(rows), self._count)
        numkong.dots_packed(
            np.ascontiguousarray(take_rows(self._support.integers, rows)), self._packed, out=numkong.from_dlpack(scores)
        )
        return scores, self._support.scale[rows]


Products = Float32Products | Int8Products


def prepare(factors: Float32, allocate: Callable[[tuple[int, int]], Float32]) -> Multiplier:
    """How to multiply `factors` (v, d) of a support; `allocate` makes room as for `build_support`."""
    v, d = factors.shape
    if numkong is None or not v:
        return Multiplier(factors=factors, quantized=None)
    center = np.zeros(d)
    for part in cut_slices(v):
        center += factors[part].sum(axis=0, dtype=np.float64)
    room = allocate((v, -(-d // 4))).view(np.int8)[:, :d]
    return Multiplier(factors=factors, quantized=quantize(factors, (center / v).astype(np.float32), room))


def quantize(vectors: Float32, center: Float32, room: Int8) -> Quantized:
    """`vectors` (n, d), less `center` (d,), in 8 bits, written to `room` (n, d)."""
    n = len(vectors)
    found = Quantized(
        integers=room,
        scale=np.empty(n, np.float32),
        left_over=np.empty(n, np.float32),
        length=np.empty(n, np.float32),
        center=center,
    )
    put_in_8_bits(vectors, center, found.integers, found.scale, found.left_over, found.length)
    return found


def _round_down(values: Float64) -> Float32:
    """`values` in float32, or the next smaller numbers."""
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))


def take_rows(matrix: Any, rows: Int64) -> Any:
    """The rows of `matrix`, in place where they are consecutive."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return matrix[rows[0] : rows[-1] + 1]
    return matrix.take(rows, axis=0)
