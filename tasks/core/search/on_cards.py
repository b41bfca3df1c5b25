"""Exact search on graphics cards; the result is that of tasks/core/search/exact.py, bit for bit.

A card multiplies in half precision, keeps the largest product of every `GROUP` members of an LF class, and scores in float64
all members of the groups whose largest product is within a proven bound of the best. What rounding to float32 makes depend on
the order of summation, it names; the processor decides that as it always does.

Here is what goes around that, without a word of any card's language: members that do not fit a card at once take turns (parts),
queries whose products do not fit are halved, and several cards take queries from whoever asks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import Protocol

import numpy as np

from tasks.core.search.exact import PENDING, Nearest, score_pairs
from tasks.core.search.kernels import keep_nearest
from tasks.core.search.support import LFClass, Queries, Support
from tasks.core.slices import cut_slices
from tasks.core.types import NOBODY, Bool, Float32, Float64, Int64

GROUP = 16
"""Members of which only the largest product is written: of fewer, more is written; of more, more is scored."""

AT_ONCE = 16_384
"""Queries worth giving to a card at a time: fewer keep it waiting for the processor, more need more memory of both."""

LEAST_QUERIES, LEAST_MEMBERS = 128, 4096
"""Where even these do not fit a card, it is left alone."""

_LENT = 0.6
"""The share of a card's free memory that members may take; products and hits need the rest."""

_LAST = np.iinfo(np.int64).max


class NoCard(Exception):
    """There is no card that can be used; the message says why, and goes on after "since"."""


class CardIsFull(Exception):
    """The card has too little memory for what was asked; less may fit."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Members that a card holds at a time, in slots: `GROUP` slots side by side are of the same LF class."""

    rows: Int64
    """(slots,) rows of the support; an LF class's last group is filled up with its last member."""
    positions: Int64
    """(slots,) as in `LFClass`."""
    starts: Int64
    """(c + 1,) the first group of each LF class, and the number of groups."""
    lf_classes: Int64
    """(c,) indices of LF classes of the search."""
    lfs: Int64
    """(c,) their LFs."""


@dataclass(frozen=True, kw_only=True)
class FoundByCard:
    """What a card says about q queries and c LF classes of a part."""

    similarity: Float32
    """(c, q) of the nearest member whose similarity is beyond doubt; anything where there is none."""
    position: Int64
    """(c, q) of that member; NOBODY where there is none."""
    group: Int64
    """(r,) groups of the part that the processor has to look at, since a similarity in doubt may be the largest."""
    query: Int64
    """(r,) the queries that it has to look at them for."""


class Held(Protocol):
    """A part that a card holds."""

    def search(self, vectors: Float32, norms: Float64, asking: Bool) -> FoundByCard:
        """The nearest members of queries with these `vectors` (q, d) and lengths `norms` (q,); `asking` (q, m).

        Raises
        ------
        CardIsFull
            The products of so many queries do not fit.
        """


class Card(Protocol):
    """A graphics card, used by one thread at a time."""

    def measure_free(self) -> int:
        """Bytes of memory that nobody uses."""

    def hold(self, support: Support, part: Part) -> Held:
        """`part` of `support`, copied to the card.

        Raises
        ------
        CardIsFull
            It does not fit.
        """


def cut_into_parts(lf_classes: Sequence[LFClass], most: int) -> tuple[Part, ...]:
    """Parts of at most `most` slots, a multiple of `GROUP`, that together hold all members."""
    parts: list[Part] = []
    pending: list[tuple[int, slice]] = []
    room = most

    def close() -> None:
        nonlocal room
        if pending:
            parts.append(_fill_slots(lf_classes, pending))
        pending.clear()
        room = most

    for index, lf_class in enumerate(lf_classes):
        first, size = 0, len(lf_class.members)
        while first < size:
            last = min(first + room, size)
            pending.append((index, slice(first, last)))
            room -= _round_up(last - first)
            first = last
            if not room:
                close()
    close()
    return tuple(parts)


def _round_up(size: int) -> int:
    return -(-size // GROUP) * GROUP


def _fill_slots(lf_classes: Sequence[LFClass], chosen: list[tuple[int, slice]]) -> Part:
    rows, positions = [], []
    for index, of_class in chosen:
        size = of_class.stop - of_class.start
        padding = (0, _round_up(size) - size)
        rows.append(np.pad(lf_classes[index].members[of_class], padding, mode="edge"))
        positions.append(np.pad(lf_classes[index].positions[of_class], padding, mode="edge"))
    groups = [len(slots) // GROUP for slots in rows]
    return Part(
        rows=np.concatenate(rows),
        positions=np.concatenate(positions),
        starts=np.concatenate([[0], np.cumsum(groups)]),
        lf_classes=np.array([index for index, _ in chosen], np.int64),
        lfs=np.array([lf_classes[index].lf for index, _ in chosen], np.int64),
    )


class CardSearch:
    """The search of `lf_classes` of a support on some cards, of which each takes the queries of one caller at a time."""

    def __init__(self, support: Support, lf_classes: Sequence[LFClass], cards: Sequence[Card]) -> None:
        self._support = support
        self._free: Queue[_Seat] = Queue()
        for card in cards:
            self._free.put(_Seat(support, lf_classes, card))

    def find_neighbors(self, queries: Queries, asking: Bool) -> Nearest:
        """The neighbors of `queries`, as `find_neighbors` gives them; `asking` (q, m): which LF for which of them.

        Raises
        ------
        CardIsFull
            A card has no memory left for the least there is to do.
        """
        seat = self._free.get()
        try:
            pieces = seat.search(queries, asking)
        finally:
            self._free.put(seat)
        # The card works for others meanwhile.
        shape = len(self._support.lf_classes), len(queries.vectors)
        found = Nearest(similarity=np.full(shape, -np.inf, np.float32), position=np.full(shape, _LAST, np.int64))
        for piece in pieces:
            _improve(piece, found)
            _settle(self._support, piece, queries, found)
        nobody = found.position == _LAST
        return Nearest(
            similarity=np.where(nobody, np.float32(np.nan), found.similarity),
            position=np.where(nobody, NOBODY, found.position),
        )


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """What a card says about a part and some queries."""

    part: Part
    start: int
    """The first of the queries."""
    found: FoundByCard


class _Seat:
    """A card, and what it holds."""

    def __init__(self, support: Support, lf_classes: Sequence[LFClass], card: Card) -> None:
        self._support, self._lf_classes, self._card = support, lf_classes, card
        d = support.vectors.shape[1]
        # Per slot its vector in float32, shared or not, its half, filled up with zeros, and what is known of it.
        self._most = _floor(int(_LENT * card.measure_free() / (4 * d + 2 * (d + 66) + 64)))
        self._parts = cut_into_parts(lf_classes, self._most)
        self._at_once = AT_ONCE
        self._held: Held | None = None
        """The part, where there is a single one."""

    def search(self, queries: Queries, asking: Bool) -> list[_Piece]:
        """What the card says about all parts and all of `queries`; arguments and errors are those of `CardSearch`."""
        while True:
            try:
                return list(self._try(queries, asking))
            except CardIsFull:
                self._held = None
                if self._most <= LEAST_MEMBERS:
                    raise
            self._most = _floor(min(self._most, max(len(part.rows) for part in self._parts)) // 2)
            self._parts = cut_into_parts(self._lf_classes, self._most)
            self._at_once = AT_ONCE

    def _try(self, queries: Queries, asking: Bool) -> Iterator[_Piece]:
        for part in self._parts:
            held = self._held or self._card.hold(self._support, part)
            if len(self._parts) == 1:
                self._held = held
            yield from self._search_part(part, held, queries, asking)
            del held  # before the next part needs its memory

    def _search_part(self, part: Part, held: Held, queries: Queries, asking: Bool) -> Iterator[_Piece]:
        start = 0
        while start < len(queries.vectors):
            block = slice(start, start + self._at_once)
            try:
                found = held.search(queries.vectors[block], queries.norms[block], asking[block])
            except CardIsFull:
                if self._at_once <= LEAST_QUERIES:
                    raise
                self._at_once = max(self._at_once // 2, LEAST_QUERIES)
                continue
            yield _Piece(part=part, start=start, found=found)
            start += self._at_once


def _floor(slots: int) -> int:
    return max(slots // GROUP * GROUP, LEAST_MEMBERS)


def _improve(piece: _Piece, found: Nearest) -> None:
    """Take over what is nearer, or as near and of a smaller position."""
    new = piece.found
    columns = slice(piece.start, piece.start + new.position.shape[1])
    for lf_class, similarity, position in zip(piece.part.lf_classes, new.similarity, new.position, strict=True):
        best, first = found.similarity[lf_class, columns], found.position[lf_class, columns]
        wins = (position != NOBODY) & ((similarity > best) | ((similarity == best) & (position < first)))
        np.copyto(best, similarity, where=wins)
        np.copyto(first, position, where=wins)


def _settle(support: Support, piece: _Piece, queries: Queries, found: Nearest) -> None:
    """Score what the card is in doubt about, as the processor does."""
    part, new = piece.part, piece.found
    lf_class_of = np.repeat(part.lf_classes, np.diff(part.starts))
    for some in cut_slices(len(new.group), PENDING // GROUP):
        slots = (GROUP * new.group[some, None] + np.arange(GROUP)).reshape(-1)
        query = np.repeat(piece.start + new.query[some], GROUP)
        entry = np.repeat(lf_class_of[new.group[some]], GROUP) * len(queries.vectors) + query
        similarity = score_pairs(support, queries, query, part.rows[slots])
        keep_nearest(entry, part.positions[slots], similarity, found.similarity.reshape(-1), found.position.reshape(-1))
