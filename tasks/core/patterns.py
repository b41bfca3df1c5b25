"""Rows of votes grouped by what they say: items that got the same votes get the same label, so work once per pattern.

How often each pattern occurs is all that a label model needs of the rows that it is fitted on, and can be counted a part of them at
a time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd: multiplying by it is a bijection that spreads low bits over high ones."""

_SHIFT = np.uint64(29)
"""Brings the well-mixed high bits back down; a xor-shift is a bijection as well."""

_WORD = 8
"""Votes (bytes) hashed at once."""


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """The distinct rows of a label matrix."""

    votes: npt.NDArray[np.int8]
    """(m, u): one column per pattern, so that the votes of one LF lie side by side."""
    counts: npt.NDArray[np.int64]
    """(u,): how many items show it."""
    inverse: npt.NDArray[np.intp]
    """(n,): the pattern of each row."""


@dataclass(frozen=True, kw_only=True)
class CountedVotes:
    """Rows of votes, each of which stands for one item or for many with the same votes."""

    votes: npt.NDArray[np.int8]
    """(u, m)"""
    items: npt.NDArray[np.int64]
    """(u,): how many items each row stands for."""


def find_patterns(votes: npt.NDArray[np.int8], items: npt.NDArray[np.int64] | None = None) -> Patterns:
    """Return the distinct rows of `votes` (n, m) in an order that depends on their content alone, not on the order of rows.

    Sorts one 64-bit hash per row and then proves on the rows themselves that no two patterns share a hash, so the
    result is exact; the cost is linear in the votes, and one sort of n numbers. `items` (n,) says how many items a row stands for;
    None: one each.

    >>> find_patterns(np.array([[0, -1], [1, 1], [0, -1]], dtype=np.int8)).counts.tolist()
    [2, 1]
    """
    n, m = votes.shape
    padded = np.zeros((n, -(-m // _WORD) * _WORD), dtype=np.int8)
    padded[:, :m] = votes
    words = padded.view(np.uint64)
    for seed in count():
        found = _group(words, seed)
        if found is not None:
            first, inverse = found
            break
    return Patterns(
        votes=np.ascontiguousarray(votes[first].T),
        counts=np.bincount(inverse, items, len(first)).astype(np.int64),  # of fewer than 2^53 items, exact
        inverse=inverse,
    )


def count_votes_alike(parts: Iterable[npt.NDArray[np.int8]]) -> CountedVotes:
    """Return the distinct rows of all `parts` (at least one, (b, m) each), and how many rows show each.

    They are those of `find_patterns` on all parts at once, in the same order; in memory are distinct rows and one part.

    >>> count_votes_alike([np.array([[0, -1], [1, 1]], dtype=np.int8), np.array([[0, -1]], dtype=np.int8)]).items.tolist()
    [2, 1]
    """
    held: list[CountedVotes] = []
    for part in parts:
        held.append(_count(part, None))
        # What is held is counted together when it has doubled, so that a row is hashed a few times at most.
        while len(held) > 1 and 2 * len(held[-1].items) > len(held[-2].items):
            held[-2:] = [_join(held[-2:])]
    return held[0] if len(held) == 1 else _join(held)


def _join(held: list[CountedVotes]) -> CountedVotes:
    votes, items = (np.concatenate(arrays) for arrays in zip(*((one.votes, one.items) for one in held), strict=True))
    return _count(votes, items)


def _count(votes: npt.NDArray[np.int8], items: npt.NDArray[np.int64] | None) -> CountedVotes:
    patterns = find_patterns(votes, items)
    return CountedVotes(votes=patterns.votes.T, items=patterns.counts)


def _group(words: npt.NDArray[np.uint64], seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None:
    """Return a row of each pattern, and the pattern of each row; None if two patterns share a hash under this seed."""
    n = len(words)
    hashes = np.full(n, seed, dtype=np.uint64)
    for column in words.T:
        hashes ^= column
        hashes *= _MULTIPLIER
        hashes ^= hashes >> _SHIFT
    order = np.argsort(hashes)
    ordered = hashes[order]
    starts = np.ones(n, dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    del hashes, ordered  # what is here together takes 80 bytes a row
    inverse = np.empty(n, dtype=np.intp)
    inverse[order] = np.cumsum(starts) - 1
    first = order[starts]
    for column in words.T:
        if not np.array_equal(column, column[first][inverse]):
            return None
    return first, inverse
