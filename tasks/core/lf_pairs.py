"""What pairs of labeling functions have to do with each other: common votes, and the correlation of their votes."""

import numpy as np

from tasks.core.slices import cut_slices
from tasks.core.types import ABSTAIN, Float64, Int64, Votes

_BLOCK = 1 << 16
"""Rows whose products are summed in float32, in which integers are exact up to 2^24."""


def count_pairs(votes: Votes, k: int, lfs: Int64 | None = None) -> tuple[Int64, Int64]:
    """Return for each pair of LFs the number of items on which both vote, and on which they agree, (m, m) int64 each.

    lfs: the columns of `votes` (n, m') that are compared, None: all.

    >>> both, same = count_pairs(np.array([[0, 0], [0, 1], [-1, 1]], dtype=np.int8), 2)
    >>> both.tolist(), same.tolist()
    ([[2, 2], [2, 3]], [[2, 1], [1, 3]])
    """
    m = votes.shape[1] if lfs is None else len(lfs)
    both, same = np.zeros((m, m)), np.zeros((m, m))
    for part in cut_slices(len(votes), _BLOCK):
        block = votes[part]
        block = np.ascontiguousarray(block if lfs is None else block[:, lfs])
        voted = (block != ABSTAIN).astype(np.float32)
        both += voted.T @ voted
        for c in range(k):
            cast = (block == c).astype(np.float32)
            same += cast.T @ cast
    return both.astype(np.int64), same.astype(np.int64)


def correlate_votes(same: Int64, n: int, k: int) -> Float64:
    """Return the correlation of each two LFs over the n k answers "this item is of this class", (m, m); NaN without a vote.

    1: they cast the same votes; near 0: what happens by chance; below 0: they avoid each other, or contradict. `same` is
    that of `count_pairs`.

    >>> correlate_votes(np.array([[2, 0], [0, 2]]), n=2, k=2).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    share = np.diag(same) / (n * k)
    spread = np.sqrt(share * (1 - share))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Float64 = (same / (n * k) - np.outer(share, share)) / np.outer(spread, spread)
    return np.where(np.isfinite(found), found, np.nan)
