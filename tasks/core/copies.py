"""Copies and near-copies of LFs: how much of a vote each is worth, so that saying a thing twice adds little."""

import numpy as np
from scipy import sparse

from tasks.core.types import Float64, Votes

COPY_POWER = 4
"""Power of the share of common votes: half of the votes in common by chance or merit costs a sixteenth, a copy all."""


def weigh_copies(votes: Votes, n_classes: int) -> Float64:
    """Return the share (m, k) in [0, 1] that LF j has in what it and its near-copies say of class c.

    One over the sum over LFs l of J(j, l, c)^4, where J is the share of the items on which both vote c among those on
    which either does; l = j is one of them. LFs that have little in common count fully. Of LFs whose votes are all the
    same the first speaks for all and the others have 0, so that exact copies change not a digit. NaN where LF j never
    votes c.

    Parameters
    ----------
    votes
        (n, m) int8, -1 abstains. Counts are exact; the sum is over sorted shares, so that no order of LFs matters.

    Examples
    --------
    >>> votes = np.array([[0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0]], dtype=np.int8)
    >>> weigh_copies(votes, 2).round(3).tolist()
    [[0.941, 1.0], [0.0, 0.0], [0.941, nan]]
    """
    m = votes.shape[1]
    seen: set[bytes] = set()
    is_first = np.zeros(m, dtype=np.bool_)
    for lf in range(m):
        content = votes[:, lf].tobytes()
        is_first[lf] = content not in seen
        seen.add(content)
    shares = np.full((m, n_classes), np.nan)
    for c in range(n_classes):
        voting = (votes == c).any(axis=0)
        shares[voting & ~is_first, c] = 0.0
        lfs = np.flatnonzero(voting & is_first)
        cast = sparse.csc_array((votes[:, lfs] == c).astype(np.int64))
        both = (cast.T @ cast).toarray().astype(np.float64)
        each = np.diag(both)
        common = both / (each[:, None] + each[None, :] - both)
        shares[lfs, c] = 1.0 / np.sort(common**COPY_POWER, axis=1).sum(axis=1)
    return shares
