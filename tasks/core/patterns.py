"""Rows of votes grouped by what they say: items that got the same votes get the same label, so work once per pattern."""

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
    """(u,): how many rows show it."""
    inverse: npt.NDArray[np.intp]
    """(n,): the pattern of each row."""


def find_patterns(votes: npt.NDArray[np.int8]) -> Patterns:
    """Return the distinct rows of `votes` (n, m) in an order that depends on their content alone, not on the order of rows.

    Sorts one 64-bit hash per row and then proves on the rows themselves that no two patterns share a hash, so the
    result is exact; the cost is linear in the votes, and one sort of n numbers.

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
        counts=np.bincount(inverse, minlength=len(first)),
        inverse=inverse,
    )


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
