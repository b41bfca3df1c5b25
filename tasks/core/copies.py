"""Copies and near-copies of LFs: how much of a vote each is worth, so that saying a thing twice adds little."""

from dataclasses import dataclass

import numpy as np
import scipy

from tasks.core.slices import WIDE, cut_slices
from tasks.core.types import Bool, Float64, Int64, Votes

COPY_POWER = 4
"""Power of the share of common votes: half of the votes in common by chance or merit costs a sixteenth, a copy all."""


NEAR_COPY = 0.8
"""Share of common votes from which LFs are named as near-copies: together two of them count as 1.4 at most."""


ROWS = 4096, 1 << 15
"""The fewest and the most rows whose votes are listed at a time; however many, the counts are the same. A vote takes some 80 bytes."""

CELLS = 1 << 20
"""Votes and abstentions among them, where the rows are neither the fewest nor the most."""


@dataclass(frozen=True, kw_only=True)
class CopyGroup:
    """LFs that say much the same, and for how many LFs they count together."""

    lfs: tuple[int, ...]
    worth: float


def find_originals(votes: Votes) -> Int64:
    """Return for each LF the first one whose votes are all the same, itself where none before it has them, (m,).

    >>> find_originals(np.array([[0, 1, 0], [-1, 1, -1]], dtype=np.int8)).tolist()
    [0, 1, 0]
    """
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(votes[:, lf].tobytes(), lf) for lf in range(votes.shape[1])], dtype=np.int64)


def count_votes(votes: Votes, n_classes: int) -> Int64:
    """Return how often LF j votes for class c, (m, k).

    >>> count_votes(np.array([[0, 1], [-1, 1]], dtype=np.int8), 2).tolist()
    [[1, 0], [0, 2]]
    """
    counts = np.zeros((votes.shape[1], n_classes), np.int64)
    for rows in cut_slices(len(votes), WIDE):
        for lf, cast in enumerate(votes[rows].T):
            counts[lf] += np.bincount(cast.astype(np.int64) + 1, minlength=n_classes + 1)[1:]
    return counts


def weigh_copies(votes: Votes, n_classes: int) -> Float64:
    """Return the share (m, k) in [0, 1] that LF j has in what it and its near-copies say of class c.

    One over the sum over LFs l of J^4, l = j being one of them. J is the larger of two shares: of the items on which both vote c
    among those on which either does, and of the items on which both vote alike among those on which either votes. By the
    second, what a near-copy says where it is none counts no more than what it copies. LFs that have little in common count
    fully. Of LFs whose votes are all the same the first speaks for all and the others have 0, so that exact copies change not a
    digit. NaN where LF j never votes c.

    Parameters
    ----------
    votes
        (n, m) int8, -1 abstains. Counts are exact; the sum is over sorted shares, so that no order of LFs matters.

    Examples
    --------
    >>> votes = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0]], dtype=np.int8)
    >>> weigh_copies(votes, 2).round(3).tolist()
    [[0.941, 0.941], [0.0, 0.0], [0.941, nan]]
    """
    m = votes.shape[1]
    is_first = find_originals(votes) == np.arange(m)
    firsts = np.flatnonzero(is_first)
    common = _count_common(votes[:, firsts], n_classes)
    alike = common.same / np.maximum(common.either, 1)
    counts = count_votes(votes, n_classes)
    shares = np.full((m, n_classes), np.nan)
    for c in range(n_classes):
        voting = counts[:, c] > 0
        shares[voting & ~is_first, c] = 0.0
        lfs = np.flatnonzero(voting[firsts])
        both = _count_both(votes[:, firsts[lfs]] == c)
        each = np.diag(both)
        found = alike[lfs]
        found[:, lfs] = np.maximum(found[:, lfs], both / (each[:, None] + each[None, :] - both))
        shares[firsts[lfs], c] = 1.0 / np.sort(found**COPY_POWER, axis=1).sum(axis=1)
    return shares


def _count_both(cast: Bool) -> Float64:
    """Return on how many items each two of the columns of `cast` (n, m) are true, (m, m)."""
    both = np.zeros((cast.shape[1], cast.shape[1]), np.int64)
    for rows in _cut(cast):
        block = scipy.sparse.csr_array(cast[rows].astype(np.int64))
        both += (block.T @ block).toarray()
    return both.astype(np.float64)


def _cut(matrix: Votes | Bool) -> list[slice]:
    """Return slices of the rows of `matrix` (n, m)."""
    n, m = matrix.shape
    fewest, most = ROWS
    return cut_slices(n, min(max(CELLS // max(m, 1), fewest), most))


@dataclass(frozen=True, kw_only=True)
class _Common:
    """On how many items two LFs vote for the same class, and on how many at least one of them votes, (m, m) each."""

    same: Int64
    either: Int64


def _count_common(votes: Votes, n_classes: int) -> _Common:
    m = votes.shape[1]
    same, both = np.zeros((m, m), np.int64), np.zeros((m, m), np.int64)
    for rows in _cut(votes):
        item, lf = np.nonzero(votes[rows] >= 0)
        said = item * n_classes + votes[rows][item, lf]
        for total, row, width in ((same, said, n_classes), (both, item, 1)):
            height = (rows.stop - rows.start) * width
            cast = scipy.sparse.csr_array((np.ones(len(lf), np.int64), (row, lf)), shape=(height, m))
            total += (cast.T @ cast).toarray()
    each = np.diag(both)
    return _Common(same=same, either=each[:, None] + each[None, :] - both)


def group_copies(votes: Votes, n_classes: int) -> tuple[CopyGroup, ...]:
    """Return the groups of LFs that are linked by `NEAR_COPY` of common votes, in the order of their first LFs.

    Worth is the sum over a group's LFs of the mean share (`weigh_copies`) of their votes.

    Examples
    --------
    >>> group_copies(np.array([[0, 0, -1], [1, 1, 0]], dtype=np.int8), 2)
    (CopyGroup(lfs=(0, 1), worth=1.0),)
    """
    common = _count_common(votes, n_classes)
    is_near = (common.same >= NEAR_COPY * common.either) & (common.same > 0)
    _, group = scipy.sparse.csgraph.connected_components(is_near, directed=False)
    counts = count_votes(votes, n_classes)
    totals = np.maximum(counts.sum(axis=1), 1)
    worth = (counts * np.nan_to_num(weigh_copies(votes, n_classes))).sum(axis=1) / totals
    groups = [np.flatnonzero(group == number) for number in dict.fromkeys(group.tolist())]
    return tuple(CopyGroup(lfs=tuple(lfs.tolist()), worth=float(worth[lfs].sum())) for lfs in groups if len(lfs) > 1)
